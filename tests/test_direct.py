"""One plain call, by its events and by what the model is asked; scripted model, scripted sandbox."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.cli.result import exit_code_of
from rlm_cli.direct import ask_directly
from rlm_cli.engine import answer_text
from rlm_cli.errors import InputError, LimitError, ProviderError, RlmError, SandboxError, SchemaError
from rlm_cli.events import PromptSet, Usage, Warned
from rlm_cli.models import Completion, Message, OnText, Request
from rlm_cli.models.facts import was_cut
from rlm_cli.prompts import InputFacts, direct_prompt, reply_text, reply_values
from rlm_cli.sandbox import Answer
from rlm_cli.sandbox.decoded import Decoded, read_texts
from rlm_cli.task import UNCHECKED, Check, Deps, Found, LedgerView, Limits, Outcome, Task, nothing_wrong

from .fakes import Events, ScriptedModel, ScriptedSandbox, each, fence, final, no_totals, printed

OVERFLOW = ProviderError("the prompt is too long", code="context_overflow")


@dataclass(frozen=True)
class File:
    """A document on disk."""

    name: str
    path: Path
    size: int
    encoding: str = "auto"


def document(folder: Path, name: str, data: bytes, encoding: str = "auto") -> File:
    path = folder / name
    path.write_bytes(data)
    return File(name, path, len(data), encoding)


@pytest.fixture
def one(tmp_path: Path) -> tuple[File, ...]:
    return (document(tmp_path, "cat.txt", b"The cat sat on the mat.\n"),)


def play(
    documents: tuple[File, ...],
    model: ScriptedModel,
    sandbox: ScriptedSandbox | None = None,
    events: Events | None = None,
    limits: Limits | None = None,
    check: Callable[[Answer], str] | None = None,
    deps: Deps | None = None,
) -> Outcome:
    task = Task(
        question="Where did it sit?",
        documents=documents,
        facts=InputFacts(files=1, bytes=10),
        root="m/root",
        sub="m/sub",
        limits=limits or Limits(),
        check=each(check) if check else nothing_wrong,
        schema='{"type": "object"}' if check else "",
    )
    deps = deps or Deps(model, sandbox or ScriptedSandbox([]), events or Events(), LedgerView(no_totals))
    return asyncio.run(asyncio.wait_for(ask_directly(task, deps), 20))


def test_one_call_holds_everything_and_its_reply_is_the_answer(one: tuple[File, ...]) -> None:
    """Text and question in one prompt, one step in the record, which does not copy the input."""
    model, events = ScriptedModel(["On the mat.\n"]), Events()
    assert play(one, model, events=events) == Outcome("ok", Answer("text", b"On the mat."), 1)
    assert [request.role for request in model.requests] == ["root"]
    prompt = model.requests[0].messages[1].content
    assert "The cat sat on the mat." in prompt
    assert prompt.index("cat.txt") < prompt.index("Where did it sit?")
    assert events.types == ["prompt.set", "step.started", "model.text", "code.written", "step.finished"]
    kept = next(event for event in events.seen if isinstance(event, PromptSet))
    assert "The cat sat" not in kept.user
    assert "(24 characters)" in kept.user


@given(st.lists(st.tuples(st.text(), st.text()), max_size=4), st.text())
def test_nothing_closes_its_frame(documents: list[tuple[str, str]], question: str) -> None:
    """Whatever names and texts hold, the frames of the prompt are ours: one for each document and one more."""
    system, user = direct_prompt(question, [Decoded(name, text, False) for name, text in documents])
    rest, frames = user, 0
    while opened := re.search(r"(?m)^(~{4,})\n", rest):
        closed = re.search(rf"\n{opened[1]}(?=\n|\Z)", rest[opened.end() - 1 :])
        assert closed is not None
        rest, frames = rest[opened.end() - 1 + closed.end() :], frames + 1
    assert frames == len(documents) + 1
    assert "data" in system


@pytest.mark.parametrize(
    ("data", "encoding", "text", "lossy"),
    [
        (b"\xef\xbb\xbfna\xc3\xafve", "auto", "naïve", False),
        ("naïve".encode("utf-16"), "auto", "naïve", False),
        (b"na\xefve", "auto", "naïve", True),
        (b"\x8e\xb7", "shift_jis", "執", False),
        (b"a\r\nb\n", "auto", "a\r\nb\n", False),
    ],
)
def test_text_is_read_as_the_kernel_reads_it(
    tmp_path: Path, data: bytes, encoding: str, text: str, lossy: bool
) -> None:
    """Mark, then UTF-8, then Latin-1; no newline is translated."""
    assert read_texts([document(tmp_path, "a", data, encoding)])[0] == [Decoded("a", text, lossy)]


def test_what_was_read_is_what_was_listed(tmp_path: Path) -> None:
    """A file that grew is read as far as it was listed; one that shrank or went away is an input error."""
    grown = document(tmp_path, "a.log", b"one\n")
    grown.path.write_bytes(b"one\ntwo\n")
    texts, changes = read_texts([grown])
    assert texts[0].text == "one\n"
    assert "a.log; the answer is about what was there at the start" in changes.sentences()[0]
    grown.path.write_bytes(b"on")
    with pytest.raises(InputError, match="shrank"):
        read_texts([grown])
    grown.path.unlink()
    with pytest.raises(InputError, match="cannot read"):
        read_texts([grown])


@pytest.mark.parametrize(
    ("reply", "text", "value"),
    [
        ("<think>hm {}</think>\n[1]", "[1]", [1]),
        ('Here:\n```json\n{"n": 6}\n```\nDone.', None, {"n": 6}),
        ("```\nno\n```\n~~~json\n[2]\n~~~", None, [2]),
        ('"six"', None, "six"),
        ('I counted: {"n": 6}. Not {"n": 5', None, {"n": 6}),
    ],
)
def test_replies_are_taken_for_what_they_say(reply: str, text: str | None, value: object) -> None:
    """Hidden thinking is no answer, and JSON may come in a fence or among prose."""
    assert reply_text(reply) == (reply if text is None else text)
    assert json.loads(next(reply_values(reply))) == value


@pytest.mark.parametrize("reply", ["six", "", "NaN", "[" * 100_000, "```json\n{]\n```", "<think>[1]", "1e999"])
def test_what_is_no_json_is_none(reply: str) -> None:
    assert [*reply_values(reply)] == []


@pytest.mark.parametrize("reply", ["", "  \n", "<think>I could say it"])
def test_an_empty_reply_is_no_answer(one: tuple[File, ...], reply: str) -> None:
    assert play(one, ScriptedModel([reply])) == Outcome("no_answer", None, 1)


@pytest.mark.parametrize(
    ("reply", "answer", "quotes"),
    [
        ("On the mat.\n\nEvidence:\n> sat on the mat", "On the mat.", ["sat on the mat"]),
        ('A.\n**Evidence:**\n\n> "one"\n\n>  “two”\n', "A.", ["one", "two"]),
        ("<think>\nEvidence:\n> x</think>A.\nEvidence:\n>it's", "A.", ["it's"]),
        ("The Evidence:\n> is quoted, and more follows.\nSo it is.", None, []),
        ("Evidence:\n> nothing but", None, []),
        ("A.\nEvidence: none", None, []),
        ("A.\n> a quotation", None, []),
    ],
)
def test_evidence_below_an_answer(one: tuple[File, ...], reply: str, answer: str | None, quotes: list[str]) -> None:
    """Taken off where it stands as it was asked for; anything else is the answer's own."""
    outcome = play(one, ScriptedModel([reply]))
    assert outcome.answer is not None
    assert (answer_text(outcome.answer), [one.quote for one in outcome.answer.evidence]) == (answer or reply, quotes)


def test_evidence_is_asked_for_or_not_mentioned() -> None:
    """--no-cite: not a word of it; what it costs is little."""
    asked, plain = (direct_prompt("Q", [], cite=cite)[0] for cite in (True, False))
    assert "Evidence" in asked
    assert "vidence" not in plain
    assert len(asked) - len(plain) < 250


def is_object(answer: Answer) -> str:
    return "" if answer.kind == "json" and answer_text(answer).startswith("{") else "the value is no object"


def test_of_several_values_the_one_that_fits_is_the_answer(one: tuple[File, ...]) -> None:
    """The kernel reads a sub-model's reply in the same way."""
    model = ScriptedModel(['So {"place": "mat"}, as one of ["mat", "cat"].'])
    outcome = play(one, model, check=is_object)
    assert (outcome.status, outcome.answer and json.loads(answer_text(outcome.answer))) == ("ok", {"place": "mat"})


def test_a_reply_that_does_not_fit_the_schema_goes_back(one: tuple[File, ...]) -> None:
    """With the problem, after the reply; the schema itself is in the first message."""
    model = ScriptedModel(["On the mat.", '{"place": "mat"}'])
    outcome = play(one, model, check=is_object)
    assert outcome == Outcome("ok", Answer("json", b'{\n  "place": "mat"\n}'), 2)
    first, second = (request.messages for request in model.requests)
    assert second[:2] == first
    assert '{"type": "object"}' in first[1].content
    assert second[2] == Message("assistant", "On the mat.")
    assert "The value is no object" in second[3].content


@pytest.mark.parametrize(("most", "asked"), [(30, 4), (2, 2)])
def test_repairs_are_bounded_and_the_value_is_kept(one: tuple[File, ...], most: int, asked: int) -> None:
    model = ScriptedModel(["[1]"] * 10)
    outcome = play(one, model, check=is_object, limits=Limits(iterations=most))
    assert (outcome.status, outcome.answer, len(model.requests)) == ("error", Answer("json", b"[\n  1\n]"), asked)
    assert isinstance(outcome.error, SchemaError)


def goes_on(model: ScriptedModel, documents: tuple[File, ...], said: str, limits: Limits | None = None) -> Outcome:
    """The run goes on by code; the warning says why; no call and no step has the name of another."""
    events = Events()
    sandbox = ScriptedSandbox([printed("24"), final("mat")])
    outcome = play(documents, model, sandbox, events, limits)
    assert sandbox.cells == ["print(len(context))\n", "FINAL('mat')\n"]
    warned = [event.message for event in events.seen if isinstance(event, Warned)]
    assert len(warned) == 1
    assert said in warned[0]
    assert "going on by code" in warned[0]
    calls = [request.call for request in model.requests]
    assert len(set(calls)) == len(calls)
    assert events.types.index("warning") < events.types.index("sandbox.ready")
    return outcome


CODE = (fence("print(len(context))"), fence("FINAL('mat')"))


def test_an_input_that_does_not_fit_is_answered_by_code(one: tuple[File, ...]) -> None:
    """The provider has the last word on its window: no error, and nothing is cut."""
    outcome = goes_on(ScriptedModel([OVERFLOW, *CODE]), one, "does not fit into one call")
    assert outcome == Outcome("ok", Answer("text", b"mat"), 3)


def test_the_turns_are_for_what_goes_on_by_code(one: tuple[File, ...]) -> None:
    """The call that could not answer takes none of them: the code has all that are allowed, and no more."""
    outcome = goes_on(ScriptedModel([OVERFLOW, *CODE]), one, "does not fit", Limits(iterations=2))
    assert outcome == Outcome("ok", Answer("text", b"mat"), 3)
    model = ScriptedModel([OVERFLOW, CODE[0], "Perhaps the mat."])
    short = play(one, model, ScriptedSandbox([printed("24")]), limits=Limits(iterations=1))
    assert (short.status, short.limit, short.answer) == ("partial", "iterations", Answer("text", b"Perhaps the mat."))
    assert short.error is not None
    assert short.error.message == "the limit of 1 turn was reached"
    assert ["[left: 1 turn" in request.messages[-1].content for request in model.requests] == [False, True, False]


def test_a_document_that_is_no_text_is_left_to_code(tmp_path: Path) -> None:
    """Before anything is sent."""
    picture = (document(tmp_path, "a.png", b"\x89PNG\0\0"),)
    assert goes_on(ScriptedModel([*CODE]), picture, "a.png is not text").status == "ok"


@dataclass
class Counting(ScriptedModel):
    """Its first reply has this `usage` and `finish`."""

    first: Completion = Completion("", Usage(), "m")

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        if not self.requests:
            self.requests.append(request)
            return self.first
        return await super().complete(request, on_text)


def test_a_prompt_that_the_provider_cut_silently_is_noticed(tmp_path: Path) -> None:
    """A local server reads the end of what it got and says nothing: its own count gives it away."""
    long = (document(tmp_path, "a.txt", b"all is well " * 5_000),)
    model = Counting([*CODE], first=Completion("It is well.", Usage(2_048, 5), "m"))
    assert goes_on(model, long, "read only 2,048 tokens").status == "ok"
    alone = Counting([ProviderError("gone")], first=model.first)
    with pytest.raises(ProviderError):  # an answer from half of the input is none
        play(long, alone)


def test_a_reply_at_the_output_limit_is_not_passed_off_as_whole(one: tuple[File, ...]) -> None:
    """Code can build an answer of any length."""
    model = Counting([*CODE], first=Completion("It begins", Usage(40, 5), "m", "length"))
    assert goes_on(model, one, "longer than the model may write").answer == Answer("text", b"mat")


def test_a_reply_that_the_filter_broke_off_is_not_passed_off_as_whole(one: tuple[File, ...]) -> None:
    """What had come is a partial answer, exit 7; where nothing had, the filter is the error."""
    outcome = play(one, Counting([], first=Completion("It begins", Usage(40, 5), "m", "filter")))
    assert (outcome.status, outcome.answer) == ("partial", Answer("text", b"It begins"))
    assert outcome.error is not None
    assert (outcome.error.code, exit_code_of(outcome)) == ("content_filter", 7)
    with pytest.raises(ProviderError, match="content filter"):
        play(one, Counting([], first=Completion("", Usage(40, 0), "m", "filter")))


def test_half_an_answer_is_kept_when_no_sandbox_can_go_on(one: tuple[File, ...]) -> None:
    """Partial, with the sandbox's own error."""

    class Broken(ScriptedSandbox):
        async def open(self, documents: object, host: object) -> object:  # type: ignore[override]
            raise SandboxError("no engine", code="docker_daemon_down")

    model = Counting([], first=Completion("It begins", Usage(40, 5), "m", "length"))
    outcome = play(one, model, Broken([]))
    assert (outcome.status, outcome.answer) == ("partial", Answer("text", b"It begins"))
    assert isinstance(outcome.error, SandboxError)
    with pytest.raises(SandboxError):
        play(one, ScriptedModel([OVERFLOW]), Broken([]))


@dataclass
class Breaking(ScriptedModel):
    """Streams half a reply and then raises."""

    error: BaseException = ProviderError("gone")

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        assert request.cut is not None
        assert request.cut()("On the") is None
        raise self.error


@pytest.mark.parametrize(
    ("error", "limit"), [(ProviderError("gone"), None), (LimitError("cost", "the cap is reached"), "cost")]
)
def test_what_had_arrived_is_a_partial_answer(one: tuple[File, ...], error: RlmError, limit: str | None) -> None:
    """It says so, and --on-limit fail wants none."""
    events = Events()
    outcome = play(one, Breaking([], error=error), events=events)
    assert (outcome.status, outcome.answer, outcome.limit) == ("partial", Answer("text", b"On the"), limit)
    assert any("was not finished" in event.message for event in events.seen if isinstance(event, Warned))
    strict = Limits(on_limit="fail")
    if limit:
        refused = play(one, Breaking([], error=error), limits=strict)
        assert (refused.status, refused.answer, refused.limit) == ("no_answer", None, limit)
    else:
        with pytest.raises(ProviderError):
            play(one, Breaking([], error=error), limits=strict)


def test_the_time_limit_is_kept(one: tuple[File, ...]) -> None:
    """A provider that never answers costs no more than the time allowed."""

    class Silent(ScriptedModel):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            await asyncio.Event().wait()
            raise AssertionError

    outcome = play(one, Silent([]), limits=Limits(time_s=0.05))
    assert (outcome.status, outcome.limit) == ("no_answer", "time")


def test_ctrl_c_leaves_what_had_arrived(one: tuple[File, ...]) -> None:
    """For the session to hand over."""
    deps = Deps(Breaking([], error=asyncio.CancelledError()), ScriptedSandbox([]), Events(), LedgerView(no_totals))
    with pytest.raises(asyncio.CancelledError):
        play(one, ScriptedModel([]), deps=deps)
    assert deps.found.answer == Answer("text", b"On the")
    assert "not finished" in deps.found.note


def test_an_answer_whose_check_does_not_end_is_kept(one: tuple[File, ...]) -> None:
    """The likeliest of its values: for the session when a person stops it, as a partial answer when it fails."""
    kept = Answer("json", b"[\n  2\n]")

    def deps_for(check: Check, events: Events) -> tuple[Task, Deps]:
        task = Task("Q", one, InputFacts(1, 24), "m/root", "m/sub", check=check, schema="{}")
        return task, Deps(ScriptedModel(["[1] or [2]"]), ScriptedSandbox([]), events, LedgerView(no_totals))

    async def stops() -> Found:
        checking = asyncio.Event()

        async def check(_answers: Sequence[Answer]) -> list[str]:
            checking.set()
            await asyncio.Event().wait()
            raise AssertionError

        task, deps = deps_for(check, Events())
        running = asyncio.ensure_future(ask_directly(task, deps))
        await checking.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return deps.found

    async def fails(_answers: Sequence[Answer]) -> list[str]:
        raise SchemaError("no memory left", code="schema_unchecked")

    assert asyncio.run(asyncio.wait_for(stops(), 20)) == Found(kept, 1, UNCHECKED)
    events = Events()
    outcome = asyncio.run(asyncio.wait_for(ask_directly(*deps_for(fails, events)), 20))
    assert (outcome.status, outcome.answer, exit_code_of(outcome)) == ("partial", kept, 9)
    assert [event.message for event in events.seen if isinstance(event, Warned)] == [UNCHECKED]
    assert events.types.count("step.finished") == 1


@given(st.text(), st.integers(0, 100_000))
def test_an_ordinary_count_is_never_taken_for_a_cut(text: str, tokens: int) -> None:
    """Eight characters a token are more than any text has; short prompts and estimates are never doubted."""
    chars = len(text * 50)
    cut = was_cut(chars, Usage(tokens, 1))
    assert cut == (tokens > 0 and chars > 8_000 and chars > tokens * 8)
    assert not was_cut(chars, Usage(tokens, 1, estimated=True))


def test_words_are_a_string_where_the_schema_takes_one(one: tuple[File, ...]) -> None:
    """A reply without JSON in it is not asked for again when its words satisfy."""
    model = ScriptedModel(["yes"])
    outcome = play(one, model, check=lambda answer: "" if answer.data == b'"yes"' else "wrong")
    assert outcome.answer == Answer("json", b'"yes"')
    assert (outcome.status, len(model.requests)) == ("ok", 1)
