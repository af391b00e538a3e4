"""The offline model: its policy is run for real, code and all, on the sample and on inputs it was not made for."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.events import Role
from rlm_cli.models import Completion, Message, Request
from rlm_cli.models.offline import OFFLINE_NOTE, OfflineModel
from rlm_cli.models.offline.extract import NOT_FOUND, extract, split_prompt
from rlm_cli.models.offline.question import read_question
from rlm_cli.models.offline.root import INTRODUCTION, NOTHING, ROUNDS, TURNS, question_in
from rlm_cli.prompts import BlockCutter, InputFacts, Remaining, opening, parse_reply
from rlm_cli.sandbox import ContextFacts
from rlm_cli.sandbox.kernel.search import grep, grep_count

SAMPLE = Path(__file__).parent.parent / "sample_data"
Context = str | Mapping[str, str]
LEXICAL: list[dict[str, Any]] = [
    question
    for question in map(json.loads, (SAMPLE / "questions.jsonl").read_text("utf-8").splitlines())
    if question["kind"] == "lexical"
]


# -- a kernel for one process: enough to run the policy's code ------------------------------------------------------


class _Submitted(BaseException):
    def __init__(self, value: object) -> None:
        self.value = value


class _Failed:
    """An item of a batch that failed: falsy, as in the real kernel."""

    error = "refused"

    def __bool__(self) -> bool:
        return False


class Session:
    """Runs code blocks in one namespace; sub-calls go to the offline model itself."""

    def __init__(self, context: Context, *, fail: int = 0) -> None:
        self.context = context
        self.prompts: list[str] = []
        self.fail = fail
        self.namespace = {
            "context": context,
            "FINAL": self.final,
            "llm_query_batched": self.batched,
            "grep": lambda pattern, **options: grep(pattern, context, **options),
            "grep_count": lambda pattern: grep_count(pattern, context),
        }

    def final(self, value: object, evidence: Sequence[object] = ()) -> None:
        """Evidence is matches of grep, or quotes: each is in the input."""
        texts = [self.context] if isinstance(self.context, str) else list(self.context.values())
        for one in evidence:
            assert any((one if isinstance(one, str) else one.text) in text for text in texts)  # type: ignore[attr-defined]
        raise _Submitted(value)

    def batched(self, prompts: list[str]) -> list[object]:
        self.prompts += prompts
        replies: list[object] = [complete(prompt, role="sub").text for prompt in prompts]
        return [_Failed() if n < self.fail else reply for n, reply in enumerate(replies)]

    def run(self, code: str) -> str:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(code, self.namespace)
        return output.getvalue()


def complete(prompt: str, *, role: Role) -> Completion:
    request = Request("c1", role, "offline", (Message("user", prompt),))
    return asyncio.run(OfflineModel().complete(request))


def first_messages(question: str) -> tuple[Message, ...]:
    """What the engine really sends first."""
    facts = InputFacts(1, 10, samples=(("start of the input", "Question:\nnot this one"),))
    context = ContextFacts("str", 1, 10, 10, 1, lines_exact=True)
    system, user = opening(question, facts=facts, context=context, payload=60_000, remaining=Remaining(30))
    return Message("system", system), Message("user", user)


def ask(question: str, context: Context, *, session: Session | None = None) -> str:
    """The whole policy: reply, code, observation, until it submits."""
    session = session or Session(context)
    messages = first_messages(question)
    for _ in range(TURNS * ROUNDS + 1):
        reply = asyncio.run(OfflineModel().complete(Request("c1", "root", "offline", messages))).text
        code = parse_reply(reply).code
        assert code and BlockCutter()(reply) is None
        try:
            observation = session.run(code)
        except _Submitted as done:
            return str(done.value)
        messages = (*messages, Message("assistant", reply), Message("user", f"stdout:\n~~~~\n{observation}\n~~~~"))
    raise AssertionError("no answer after all turns")


def sample(sources: list[str]) -> Context:
    path = SAMPLE / sources[0]
    if path.is_file():
        return path.read_text("utf-8")
    return MappingProxyType({file.name: file.read_text("utf-8") for file in sorted(path.iterdir())})


# -- the sample ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", LEXICAL, ids=lambda q: q["id"])
def test_answers_every_lexical_question_of_the_sample(question: dict[str, Any]) -> None:
    """The answer is the true one; for a document, its file name without the suffix."""
    answer = ask(question["question"], sample(question["sources"]))
    assert answer.removesuffix(".md") == question["answer"]


@pytest.mark.parametrize("question", LEXICAL, ids=lambda q: q["id"])
def test_knows_nothing_of_the_sample(question: dict[str, Any]) -> None:
    """With every letter and digit of names and phrases exchanged one to one, the answer is exchanged the same way."""
    text, context = question["question"], sample(question["sources"])
    names = {*re.findall(r"'([^']+)'", text), *re.findall(r"\b[A-Z]-\d+\b", text), question["answer"]}
    swap = {name: _disguise(name) for name in names if not name.isdigit()}

    def told(words: str) -> str:
        return re.sub("|".join(map(re.escape, sorted(swap, key=len, reverse=True))), lambda m: swap[m[0]], words)

    disguised: Context
    if swap:
        text = told(text)
        disguised = (
            told(context) if isinstance(context, str) else {told(name): told(body) for name, body in context.items()}
        )
        assert ask(text, disguised).removesuffix(".md") == told(question["answer"])


def _disguise(name: str) -> str:
    """Every letter but the v of a version, and every digit, for the next one."""
    return name.translate(str.maketrans("abcdefghijklmnopqrstu0123456789", "bcdefghijklmnopqrstua1234567890"))


@pytest.mark.docker
@pytest.mark.parametrize("question", LEXICAL, ids=lambda q: q["id"])
def test_the_command_answers_them_in_the_container(question: dict[str, Any], tmp_path: Path) -> None:
    """The same through `rlm ask`, container, kernel and sub-calls: stdout is the answer, the header says what it is."""
    sources = [str(SAMPLE / source) for source in question["sources"]]
    result = subprocess.run(
        [sys.executable, "-m", "rlm_cli", "ask", *sources, "-Q", question["question"], "-m", "offline"],
        env={**os.environ, "RLM_HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout.strip().removesuffix(".md")) == (0, question["answer"]), result.stderr
    assert OFFLINE_NOTE in result.stderr


# -- other inputs --------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_finds_one_needle_among_near_ones(data: st.DataObject) -> None:
    """In lines of key and number, the exact key's number is found wherever it stands; a missing key is not invented."""
    keys = data.draw(
        st.lists(st.from_regex(r"[a-z]{4}-[0-9]{3}", fullmatch=True), min_size=3, max_size=40, unique=True)
    )
    wanted, *others = keys
    lines = [f"The special number for {key} is {n + 5_000_000}." for n, key in enumerate(others)]
    question = f"What is the special number for {wanted}?"
    assert ask(question, "\n".join(lines)) == NOTHING
    lines.insert(data.draw(st.integers(0, len(lines))), f"The special number for {wanted} is 7654321.")
    assert "7654321" in ask(question, "\n".join(lines))


PROSE = """\
The island has one road. In the autumn the clock of the
lighthouse was repaired by Ada Fenwick, who had never climbed
it before. The ferry came twice a week.
"""


@pytest.mark.parametrize(
    ("question", "context", "answer"),
    [
        (
            "Who repaired the lighthouse clock?",
            PROSE,
            "Ada Fenwick",
        ),
        (
            "Which host reported 'disk full' last?",
            '{"host": "alpha", "msg": "disk full"}\n{"host": "beta", "msg": "disk full"}\n{"host": "gamma"}',
            "beta",
        ),
        (
            "When was the lease signed?",
            "Lease\n\nThe lease was signed on 14 March 2019 by both.\nRent is due.",
            "14 March 2019",
        ),
        ("How much is the monthly rent?", "Term: two years\nThe monthly rent is €1,250.00, due early.", "€1,250.00"),
        ("What is the timeout of max_retries?", "alpha timeout=3s\nmax_retries timeout=90s\n", "90s"),
        ("How many lines mention ERROR?", "ERROR a\nok\nan error\nERRORS\nwarn\n", "3"),
        ("What is the carrier of the vase?", "order,carrier,item\n1,Swift,lamp\n2,North,vase\n", "North"),
        ("Which file mentions the heron?", {"a.txt": "a stork", "b/c.txt": "one grey heron\n"}, "b/c.txt"),
        ("Which files mention herons?", {"a.txt": "herons", "b.txt": "grey herons\n", "c.txt": "x"}, "a.txt, b.txt"),
        ("How many ERROR lines are there?", "ERROR a\nok\nan error\nwarn\n", "2"),
        ("How many tickets mention 'refund'?", {"a": "refund\nrefund", "b": "no", "c": "a refund"}, "2"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith("?") else "",
)
def test_answers_plain_lookups_in_other_inputs(question: str, context: Context, answer: str) -> None:
    """Prose, JSON lines, settings, folders: values, times, amounts, counts and document names."""
    assert ask(question, context) == answer


@pytest.mark.parametrize("context", ["", "\n", {"a": ""}, {}, "one two three"], ids=repr)
@pytest.mark.parametrize("question", ["Which zebra crossed?", "Why?", "???", "How many zebras cross?", "```\n{x}"])
def test_says_so_when_nothing_matches(question: str, context: Context) -> None:
    """No word in common: the answer is that sentence, whatever the input, and never an exception."""
    assert ask(question, context) == NOTHING


@settings(max_examples=40, deadline=None)
@given(
    st.text(max_size=80), st.text(max_size=300) | st.dictionaries(st.text(max_size=8), st.text(max_size=90), max_size=3)
)
def test_never_fails_on_any_question_and_input(question: str, context: Context) -> None:
    """The policy's code is valid and ends with an answer for any text, fences and quotes in the question included."""
    assert ask(question, context)


def test_finds_words_in_one_very_long_line() -> None:
    """A line of megabytes is searched in pieces and asked about in a window, not whole."""
    session = Session("ab " * 400_000 + "the vault code is 4417-X. " + "cd " * 400_000)
    assert "4417-X" in ask("What is the vault code?", "", session=session)
    assert max(map(len, session.prompts)) < 10_000


# -- the path it takes ---------------------------------------------------------------------------------------------


def test_fans_out_and_survives_failed_items() -> None:
    """It really asks sub-models, with the question in every prompt, and a failed item does not lose the others."""
    context = {f"{n}.txt": f"note {n}\nThe walrus number {n} sleeps.\n" for n in range(6)}
    session = Session(context, fail=2)
    assert ask("Which files mention the walrus?", context, session=session) == "2.txt, 3.txt, 4.txt, 5.txt"
    assert len(session.prompts) == 6 and all("mention the walrus" in prompt for prompt in session.prompts)


def test_without_sub_calls_it_answers_with_the_best_line() -> None:
    """When no sub-model may be asked (a cap, a refusal), the best line itself is the answer."""
    context = "the owl hoots\nthe stoat sleeps in the barn\n"
    assert (
        ask("Where does the stoat sleep?", context, session=Session(context, fail=99)) == "the stoat sleeps in the barn"
    )


def test_starts_over_once_when_the_session_was_lost() -> None:
    """After a restart the variables are gone: the policy begins again and ends with the answer."""
    context = "alpha req=17aa started\nbeta req=99bb failed\n"
    messages = list(first_messages("Which request id failed?"))
    for _ in range(TURNS):
        messages += [Message("assistant", "..."), Message("user", "The session was restarted: out of memory")]
    session, answers = Session(context), list[object]()
    while not answers:
        reply = asyncio.run(OfflineModel().complete(Request("c", "root", "offline", tuple(messages)))).text
        try:
            observation = session.run(parse_reply(reply).code)
        except _Submitted as done:
            answers.append(done.value)
        messages += [Message("assistant", reply), Message("user", observation)]
    assert answers == ["99bb"]


def test_gives_up_when_the_session_is_lost_again_and_again() -> None:
    """After its two rounds it writes no more code, which ends the run without an answer: nothing was searched, so that
    nothing was found would be a lie."""
    lost = (Message("assistant", "..."), Message("user", "The session was restarted: out of memory"))
    messages = (*first_messages("Which request id failed?"), *lost * TURNS * ROUNDS)
    reply = asyncio.run(OfflineModel().complete(Request("c", "root", "offline", messages))).text
    assert (parse_reply(reply).code, parse_reply(reply).final, "failed" in reply) == ("", None, True)


@pytest.mark.parametrize(
    ("question", "count"), [("How many lines have 'GET'?", 120_001), ("How many lines have 'GET' and 'rare'?", 2)]
)
def test_counts_more_lines_than_it_holds(question: str, count: int) -> None:
    """A word on every line of a huge input is counted where it is, exactly, alone and together with others."""
    context = "GET /x\n" * 70_000 + "GET rare\n" + "GET /y\n" * 49_999 + "rare GET\n" + "POST rare\n"
    assert ask(question, context).startswith(str(count))


def test_is_honest_about_what_it_is() -> None:
    """The first words of a run and the note in its header say that it is not a language model."""
    first = asyncio.run(OfflineModel().complete(Request("c", "root", "offline", first_messages("Which?")))).text
    assert first.startswith(INTRODUCTION) and "not a language model" in first and "not a language model" in OFFLINE_NOTE


def test_streams_the_text_it_returns_and_stops_where_it_is_cut() -> None:
    """The pieces are the text; a cut ends both, and says so; cost is known and nil, tokens are marked as estimated."""
    request = Request("c", "root", "offline", first_messages("Which walrus?"))
    pieces = list[str]()
    whole = asyncio.run(OfflineModel().complete(request, pieces.append))
    cut = Request("c", "root", "offline", request.messages, cut=lambda: lambda text: 60 if len(text) > 60 else None)
    short = asyncio.run(OfflineModel().complete(cut))
    assert len(pieces) > 3 and "".join(pieces) == whole.text
    assert (short.text, short.finish) == (whole.text[:60], "cut")
    assert (whole.cost_usd, whole.finish, whole.usage.estimated) == (0.0, "stop", True)
    assert whole.usage.input >= request.chars // 4 and whole.usage.output >= len(whole.text) // 4


def test_the_last_turn_gives_the_best_candidate() -> None:
    """When a limit ended the run, what had been found is the answer; else it says that nothing was."""
    seen = Message("user", "stdout:\n~~~~\n2 passages, 1 replies\ncandidate: 99bb\n~~~~")
    ending = Message("user", "The run ends here: the time limit was reached.")

    def last(*messages: Message) -> str:
        request = Request("c", "final", "offline", (*first_messages("Which?"), *messages, ending))
        return asyncio.run(OfflineModel().complete(request)).text

    assert (last(seen), last()) == ("99bb", NOTHING)


@given(st.text(min_size=1).filter(lambda text: text.strip() == text))
def test_reads_the_question_from_the_engines_own_first_message(question: str) -> None:
    """Whatever the user asks, in whatever characters, is what the policy searches for."""
    assert question_in(first_messages(question)) == question


# -- the sub-model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        "Question: Which colour is the barn?\n\nPassage (a.txt):\nThe barn is red.\nThe sky is blue.",
        "Context:\nThe barn is red.\nThe sky is blue.\n\nQuestion: Which colour is the barn?",
        "Which colour is the barn?\nThe barn is red.\nThe sky is blue.",
        "The barn is red.\nThe sky is blue.\nWhich colour is the barn?",
        "Answer from the text only.\nQuestion: Which colour is the barn?\nText:\nThe sky is blue.\nThe barn is red.",
    ],
)
def test_finds_question_and_passage_in_any_layout(prompt: str) -> None:
    """Prompts that a user's own code could send get the line that answers them."""
    assert extract(prompt) == "The barn is red."


@pytest.mark.parametrize(
    "prompt", ["", "?", "What is 2 + 2?", "Question: Who sang?\n\nPassage (x):\nIt rained.", "\n\n"]
)
def test_says_not_found_rather_than_guess(prompt: str) -> None:
    """Nothing to find it in, or no word in common."""
    assert extract(prompt) == NOT_FOUND


@given(st.text(max_size=400))
def test_any_prompt_gets_a_short_reply_and_the_same_one_again(prompt: str) -> None:
    """Deterministic, never empty, never an exception, never longer than an extract."""
    reply = complete(prompt, role="sub").text
    assert reply == complete(prompt, role="sub").text
    assert 0 < len(reply) <= max(len(prompt), len(NOT_FOUND))


def test_prompt_parts_keep_the_passage_whole() -> None:
    """Words like 'Text:' inside the passage do not cut it."""
    prompt = "Question: Who wrote it?\n\nPassage (m.eml):\nText: hello\nQuestion: none\nWritten by Ida Brandt."
    assert split_prompt(prompt) == ("Who wrote it?", "Text: hello\nQuestion: none\nWritten by Ida Brandt.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Which request id first failed with 'Pool Exhausted'?", ("value", "first", ("pool exhausted",))),
        ("How many lines report ERROR?", ("count", "best", ("error",))),
        ("How many WARN?", ("count", "best", ("warn",))),
        ("How many warnings?", ("count", "best", ())),
        ("Which contracts mention a penalty?", ("document", "best", ("contract", "penalt"))),
        ("Why did the build of setup.py fail?", ("passage", "best", ("setup.py", "build", "fail"))),
    ],
)
def test_understands_what_is_asked(text: str, expected: tuple[str, str, tuple[str, ...]]) -> None:
    """Kind of answer, which end of the input, and what to look for."""
    question = read_question(text)
    assert (question.kind, question.pick, question.terms) == expected
