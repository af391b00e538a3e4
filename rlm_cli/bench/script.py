"""What the loopback root says, turn by turn, and what a right run of it answers.

A script's name is the part of the model id behind `root/`: `<kind>-<n>/<dialect>`.

    len-45/final     45 turns: 44 cells that look at len(context), then the answer
    batch-200/final  one batch of 200 sub-calls, then the answer: how many replies came back in their place
    seq-200/answer   200 sub-calls one after another, then the same answer

The dialect is how a harness wants its answer: `final` (ours: FINAL(value)) or `answer` (rlms: an `answer` dict).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["len", "batch", "seq"]
Dialect = Literal["final", "answer"]

LOOK = "print(len(context))"
CELLS = {
    "batch": "replies = llm_query_batched([f'item {{i}}' for i in range({n})])\nprint(len(replies))",
    "seq": "replies = [llm_query(f'item {{i}}') for i in range({n})]\nprint(len(replies))",
}
VALUES = {
    "len": "str(len(context))",
    "batch": "str(sum(str(reply) == f'seen item {i}' for i, reply in enumerate(replies)))",
    "seq": "str(sum(str(reply) == f'seen item {i}' for i, reply in enumerate(replies)))",
}
SUBMIT = {
    "final": "FINAL({value})",
    "answer": "answer['content'] = {value}\nanswer['ready'] = True",
}


@dataclass(frozen=True)
class Script:
    """A fixed trajectory. `n`: turns (kind `len`) or sub-calls (the others)."""

    kind: Kind
    n: int
    dialect: Dialect

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.n}/{self.dialect}"

    @property
    def turns(self) -> int:
        """Root requests of a run that goes right."""
        return self.n if self.kind == "len" else 2

    @property
    def subcalls(self) -> int:
        return 0 if self.kind == "len" else self.n

    def answer(self, chars: int) -> str:
        """What a run over a context of `chars` characters must print."""
        return str(chars if self.kind == "len" else self.n)

    def reply(self, turn: int) -> str:
        """The root's reply in `turn` (from 0)."""
        if turn + 1 < self.turns:
            code = LOOK if self.kind == "len" else CELLS[self.kind].format(n=self.n)
        else:
            code = SUBMIT[self.dialect].format(value=VALUES[self.kind])
        return f"Next I run this.\n```repl\n{code}\n```\n"


def parse(name: str) -> Script:
    """The script of that name. Raises `ValueError`."""
    head, _, dialect = name.partition("/")
    kind, _, number = head.partition("-")
    if kind not in VALUES or dialect not in SUBMIT:
        raise ValueError(f"{name!r} is not a script: write kind-n/dialect")
    return Script(kind, int(number), dialect)  # type: ignore[arg-type]  # checked above


def sub_reply(prompt: str) -> str:
    """A sub-model's reply: it proves which prompt it answers."""
    return f"seen {prompt}"
