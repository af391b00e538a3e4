"""What the loopback root says, turn by turn, and what a right run of it answers.

A script's name is the part of the model id behind `root/`: `<kind>-<n>/<dialect>`.

    len-45/final      45 turns: 44 cells that look at len(context), then the answer
    batch-200/final   one batch of 200 sub-calls, then the answer: how many replies came back in their place
    seq-200/answer    200 sub-calls one after another, then the same answer
    storm-3000/final  3,000 sub-calls in four batches, every thirtieth of which is refused once, then the same
    search-0/final    a look, one cell for each of the patterns SEARCHES[0], then the answer: how often each was found
    answer-100/final  one cell that makes 100 lines of text, then the answer: that text

The dialect is how a harness wants its answer: `final` (ours: FINAL(value)) or `answer` (rlms: an `answer` dict).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["len", "batch", "storm", "seq", "search", "answer"]
Dialect = Literal["final", "answer"]

LOOK = "print(len(context))"
SEARCHES = (
    # A literal that is rare; one in front of something variable; a prefix of every line, which rarely goes on.
    ("pool exhausted", "ERROR service-[0-9]+ pool", "status 5[0-9][0-9]"),
    # Nothing that a plain scan could look for by memchr(3).
    ("(timeout|refused|exhausted) after [0-9]+", r"\b[Ee]xhausted\b"),
)
"""Patterns that mean the same to `re`, on str and bytes, and to `grep -E`; at most one match a line."""
REFUSED_EVERY = 30
"""In a storm the sub-model says 429 to an item with such a number, the first time that it is asked."""
COUNT = {"final": "grep_count({pattern!r})", "answer": "len(re.findall({pattern!r}, context))"}
"""How a model counts matches: as our system prompt teaches it, and as it would anywhere."""
CELLS = {
    "batch": "replies = llm_query_batched([f'item {{i}}' for i in range({n})])\nprint(len(replies))",
    "storm": (
        "replies = []\nfor k in range(4):\n"
        "    prompts = [f'item {{i}}' for i in range(k * {n} // 4, (k + 1) * {n} // 4)]\n"
        "    replies += llm_query_batched(prompts)\nprint(len(replies))"
    ),
    "seq": "replies = [llm_query(f'item {{i}}') for i in range({n})]\nprint(len(replies))",
    "answer": "text = '\\n'.join(f'{{i:099d}}' for i in range({n}))\nprint(len(text))",
}
IN_PLACE = "str(sum(str(reply) == f'seen item {i}' for i, reply in enumerate(replies)))"
VALUES = {"len": "str(len(context))", "search": "str(counts)", "answer": "text"} | dict.fromkeys(
    ("batch", "storm", "seq"), IN_PLACE
)
SUBMIT = {
    "final": "FINAL({value})",
    "answer": "answer['content'] = {value}\nanswer['ready'] = True",
}


@dataclass(frozen=True)
class Script:
    """A fixed trajectory. `n`: turns (`len`), an index (`search`), lines (`answer`), or sub-calls (the others)."""

    kind: Kind
    n: int
    dialect: Dialect

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.n}/{self.dialect}"

    @property
    def patterns(self) -> Sequence[str]:
        return SEARCHES[self.n] if self.kind == "search" else ()

    @property
    def turns(self) -> int:
        """Root requests of a run that goes right."""
        return self.n if self.kind == "len" else 2 + len(self.patterns)

    @property
    def subcalls(self) -> int:
        return self.n if self.kind in ("batch", "storm", "seq") else 0

    @property
    def refusals(self) -> int:
        """How many of them the sub-model refuses once."""
        return -(-self.n // REFUSED_EVERY) if self.kind == "storm" else 0

    def answer(self, chars: int, counts: Sequence[int] = ()) -> Iterator[str]:
        """What a run over `chars` characters must print, in pieces. `counts`: how often each pattern matches."""
        if self.kind == "answer":
            return answer_pieces(self.n)
        return iter([str({"len": chars, "search": list(counts)}.get(self.kind, self.n))])

    def reply(self, turn: int) -> str:
        """The root's reply in `turn` (from 0)."""
        if turn + 1 == self.turns:
            code = SUBMIT[self.dialect].format(value=VALUES[self.kind])
        elif self.kind == "len" or (self.kind == "search" and not turn):
            code = LOOK
        elif self.kind == "search":
            start = "import re\ncounts = []\n" if turn == 1 else ""
            code = f"{start}counts.append({COUNT[self.dialect].format(pattern=self.patterns[turn - 1])})\nprint(counts)"
        else:
            code = CELLS[self.kind].format(n=self.n)
        return f"Next I run this.\n```repl\n{code}\n```\n"


def answer_pieces(lines: int) -> Iterator[str]:
    """The text that `CELLS["answer"]` makes, in pieces: 100 characters a line, the last without its newline."""
    for first in range(0, lines, 1000):
        part = range(first, min(first + 1000, lines))
        yield "\n" * bool(first) + "\n".join(f"{number:099d}" for number in part)


def parse(name: str) -> Script:
    """The script of that name. Raises `ValueError`."""
    head, _, dialect = name.partition("/")
    kind, _, number = head.partition("-")
    if kind not in get_args(Kind) or dialect not in SUBMIT:
        raise ValueError(f"{name!r} is not a script: write kind-n/dialect")
    return Script(kind, int(number), dialect)  # type: ignore[arg-type]  # checked above


def is_refused(prompt: str) -> bool:
    """Whether this item is one that is told 429 at first."""
    return int(prompt.rpartition(" ")[2]) % REFUSED_EVERY == 0


def sub_reply(prompt: str) -> str:
    """A sub-model's reply: it proves which prompt it answers."""
    return f"seen {prompt}"
