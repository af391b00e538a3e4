"""The loop, by its events and by what the root is told; scripted model, scripted sandbox."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest

from rlm_cli.cli.answer_schema import load
from rlm_cli.cli.result import exit_code_of
from rlm_cli.engine import DEEPEST, FAILED, SUBMITTED, answer_data, run
from rlm_cli.errors import AuthError, LimitError, ProviderError, RlmError, SandboxError, SchemaError
from rlm_cli.events import CodeWritten, Compacted, StepFinished, Usage, Warned, to_json
from rlm_cli.models import Completion, Finish, OnText, Request
from rlm_cli.prompts import InputFacts, payload_chars
from rlm_cli.sandbox import Answer, Captured, StepResult, SubReply
from rlm_cli.task import (
    LAST_OUTPUT,
    UNCHECKED,
    Check,
    Deps,
    Found,
    LedgerView,
    Limits,
    Outcome,
    Task,
    nothing_wrong,
)

from .fakes import Cell, Events, ScriptedModel, ScriptedSandbox, each, fence, final, no_totals, printed
from .models.virtual import now, run_virtually


def play(
    model: ScriptedModel,
    sandbox: ScriptedSandbox,
    events: Events | None = None,
    limits: Limits | None = None,
    check: Check = nothing_wrong,
    root_window: int | None = None,
    schema: str = "",
) -> Outcome:
    task = Task(
        question="How many?",
        documents=(),
        facts=InputFacts(files=1, bytes=10),
        root="m/root",
        sub="m/sub",
        aliases={"cheap": "m/cheap"},
        limits=limits or Limits(),
        check=check,
        schema=schema,
        windows={"m/root": root_window},
    )
    deps = Deps(model, sandbox, events or Events(), LedgerView(no_totals))
    return asyncio.run(asyncio.wait_for(run(task, deps), 20))


def text_of(outcome: Outcome) -> str:
    return outcome.answer.whole().decode() if outcome.answer else ""


def test_a_run_from_probe_to_answer() -> None:
    """Two turns: the code runs, its output reaches the root, the submitted answer ends the run."""
    model = ScriptedModel([fence("print(len(context))"), fence("FINAL('42')")])
    sandbox = ScriptedSandbox([printed("1234\n"), final("42")])
    events = Events()
    outcome = play(model, sandbox, events)
    assert outcome == Outcome("ok", Answer("text", b"42"), 2)
    assert sandbox.cells == ["print(len(context))\n", "FINAL('42')\n"]
    assert "1234" in model.requests[1].messages[-1].content
    assert [t for t in events.types if t not in ("model.text", "output.text")] == [
        "sandbox.ready",
        "prompt.set",
        "step.started",
        "code.written",
        "output",
        "step.finished",
        "step.started",
        "code.written",
        "step.finished",
    ]


def test_prompts_grow_by_appending_only() -> None:
    """Every prompt is a prefix of the next one, message by message, so provider caches hit."""
    model = ScriptedModel([fence("1"), fence("2"), fence("3"), fence("FINAL(1)")])
    play(model, ScriptedSandbox([printed("a"), printed("b"), printed("c"), final("x")]))
    prompts = [request.messages for request in model.requests]
    assert all(later[: len(earlier)] == earlier for earlier, later in itertools.pairwise(prompts))


def test_only_the_first_block_is_run_or_believed() -> None:
    """What a model invents after its first block (output, a second block, an answer) is cut off and never sent back."""
    invented = fence("print(1)") + "Output: 7\n```repl\nFINAL('7')\n```"
    model = ScriptedModel([invented, fence("FINAL('1')")])
    sandbox = ScriptedSandbox([printed("1\n"), final("1")])
    assert text_of(play(model, sandbox)) == "1"
    assert sandbox.cells[0] == "print(1)\n"
    assert "7" not in model.requests[1].messages[-2].content


def test_the_root_is_told_what_is_left() -> None:
    """At the end of every message: one turn less each time."""
    model = ScriptedModel([fence("1"), fence("2"), fence("FINAL(1)")])
    play(model, ScriptedSandbox([printed("a"), printed("b"), final("x")]), limits=Limits(iterations=5))
    lefts = [request.messages[-1].content.rpartition("[left: ")[2].partition(" turns")[0] for request in model.requests]
    assert lefts == ["5", "4", "3"]


def test_an_error_is_an_observation_and_the_run_goes_on() -> None:
    """A traceback is data: the root reads it and continues."""
    model = ScriptedModel([fence("1/0"), fence("FINAL('ok')")])
    sandbox = ScriptedSandbox([StepResult("error", error="ZeroDivisionError: division by zero"), final("ok")])
    assert text_of(play(model, sandbox)) == "ok"
    assert "ZeroDivisionError" in model.requests[1].messages[-1].content


def test_a_reply_without_code_is_nudged_and_then_given_up() -> None:
    """Three codeless replies in a row end the run without an answer; the last words are kept."""
    model = ScriptedModel(["I think.", "It is 42.", "Really, 42."])
    outcome = play(model, ScriptedSandbox([]))
    assert (outcome.status, text_of(outcome), outcome.iterations) == ("no_answer", "Really, 42.", 3)
    assert "no code block" in model.requests[1].messages[-1].content


def test_thinking_is_no_part_of_the_last_words() -> None:
    """Neither of a root that gave up nor of one that a limit ended, unless there is nothing else."""
    for said, kept in (
        ("hm</think>It is 42.", "It is 42."),
        ("<think>hm</think>\n42", "42"),
        ("<think>42?", "<think>42?"),
    ):
        assert text_of(play(ScriptedModel(["I think.", "I do.", said]), ScriptedSandbox([]))) == kept
        model = ScriptedModel([fence("print(1)"), said])
        limited = play(model, ScriptedSandbox([StepResult("ok")]), limits=Limits(iterations=1))
        assert (limited.status, text_of(limited)) == ("partial", kept)


def test_a_draft_is_not_run_once_the_root_was_seen_to_think_unopened() -> None:
    """The first reply shows it, though its thinking ends late; after that no draft is run, however long it thinks. Of a
    root that was not seen to do so, the first block counts, whatever it says later."""
    draft = fence("FINAL('guess')") + "\nbut no. "
    first = draft + "</think>" + fence("print(1)")
    later = draft * 2_000 + "</think>" + fence("print(2)") + "\nOutput: 2"
    sandbox = ScriptedSandbox([StepResult("ok"), StepResult("ok"), final("done")])
    play(ScriptedModel([first, later, fence("FINAL('done')")]), sandbox)
    assert sandbox.cells == ["print(1)\n", "print(2)\n", "FINAL('done')\n"]
    sandbox = ScriptedSandbox([StepResult("ok"), final("guess")])
    play(ScriptedModel([fence("print(1)"), later]), sandbox)
    assert sandbox.cells == ["print(1)\n", "FINAL('guess')\n"]


def test_each_attempt_at_a_reply_is_cut_by_itself() -> None:
    """A block of an attempt that broke off says nothing about the next one."""
    model = ScriptedModel([fence("FINAL('ok')")])
    play(model, ScriptedSandbox([final("ok")]))
    assert model.requests[0].cut is not None
    first, second = model.requests[0].cut(), model.requests[0].cut()
    assert first(fence("x")) is None
    assert second("I look at it from the other side, which takes some words. " * 200) is None


def test_empty_replies_end_without_an_answer() -> None:
    """A provider that returns nothing never makes an empty answer look like success."""
    assert play(ScriptedModel(["", " ", ""]), ScriptedSandbox([])) == Outcome("no_answer", None, 3)


def test_prose_final_is_accepted_when_there_is_no_code() -> None:
    """The paper's own prompt taught FINAL(...) as a line of prose."""
    assert text_of(play(ScriptedModel(["Done.\nFINAL(forty two)"]), ScriptedSandbox([]))) == "forty two"


def test_prose_final_var_is_run_as_code() -> None:
    """FINAL_VAR(name) outside code reads the variable in the kernel."""
    sandbox = ScriptedSandbox([final("from the variable")])
    assert text_of(play(ScriptedModel(["FINAL_VAR(result)"]), sandbox)) == "from the variable"
    assert sandbox.cells == ["FINAL_VAR('result')"]


def test_an_empty_final_is_sent_back_once() -> None:
    """FINAL("") does not end the run as a success."""
    model = ScriptedModel([fence("FINAL('')"), fence("FINAL('x')")])
    assert text_of(play(model, ScriptedSandbox([final(""), final("x")]))) == "x"
    assert "empty value" in model.requests[1].messages[-1].content


def test_an_empty_list_is_an_answer() -> None:
    """ "None of them" is what [] says."""
    result = StepResult("ok", answer=Answer("json", b"[]"))
    assert play(ScriptedModel([fence("FINAL([])")]), ScriptedSandbox([result])).status == "ok"


def test_iteration_limit_asks_once_more_and_is_partial() -> None:
    """On a cap the root gets one last turn, and its words are a partial answer, never a success."""
    model = ScriptedModel([fence("1"), fence("2"), "About 40, not all was read."])
    events = Events()
    outcome = play(model, ScriptedSandbox([printed("a"), printed("b")]), events, Limits(iterations=2))
    assert (outcome.status, outcome.limit, text_of(outcome)) == (
        "partial",
        "iterations",
        "About 40, not all was read.",
    )
    assert model.requests[-1].role == "final"
    assert events.types.count("limit.reached") == 1


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>what have I?</think>\n```repl\nfor part in parts: print(part)\n```", "a"),
        ("About 40.\n```repl\nprint(len(parts))\n```", "About 40."),
        ("<think>hm</think>They are:\n```\n{'n': 40}\n```", "They are:\n```\n{'n': 40}\n```"),
        ("| month | n |\n|---|---|\n| May | 40 |", "| month | n |\n|---|---|\n| May | 40 |"),
        ("```\nMay: 40 of 41\n```", "```\nMay: 40 of 41\n```"),
    ],
)
def test_the_last_turn_answers_in_words(reply: str, answer: str) -> None:
    """Neither thinking nor a program that nobody runs any more is an answer; without words it is what was printed."""
    outcome = play(ScriptedModel([fence("1"), reply]), ScriptedSandbox([printed("a")]), limits=Limits(iterations=1))
    assert (outcome.status, text_of(outcome)) == ("partial", answer)


def test_last_turn_may_still_submit_a_variable() -> None:
    """A root of habit that calls FINAL(var) in its last turn is understood."""
    model = ScriptedModel([fence("x = 1"), fence("FINAL(x)")])
    sandbox = ScriptedSandbox([printed("a"), final("1")])
    outcome = play(model, sandbox, limits=Limits(iterations=1))
    assert (outcome.status, text_of(outcome)) == ("partial", "1")


def test_on_limit_fail_takes_no_last_turn() -> None:
    """--on-limit fail spends nothing more."""
    model = ScriptedModel([fence("1")])
    outcome = play(model, ScriptedSandbox([printed("a")]), limits=Limits(iterations=1, on_limit="fail"))
    assert (outcome.status, outcome.limit, len(model.requests)) == ("no_answer", "iterations", 1)


def test_a_last_turn_that_fails_leaves_what_was_printed_and_still_the_limit() -> None:
    """The provider failing in the last turn does not hide which cap was reached, nor what the code had found."""
    model = ScriptedModel([fence("1"), ProviderError("down")])
    events = Events()
    outcome = play(model, ScriptedSandbox([printed("a")]), events, Limits(iterations=1))
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "iterations", "a")
    assert "warning" in events.types


def test_a_sandbox_that_dies_in_the_last_turn_leaves_what_was_printed_and_still_the_limit() -> None:
    """So does one that was being replaced when the time was up."""

    async def dies(_: ScriptedSandbox) -> StepResult:
        raise SandboxError("the sandbox is not open")

    events = Events()
    model = ScriptedModel([fence("1"), fence("FINAL(x)")])
    outcome = play(model, ScriptedSandbox([printed("a"), dies]), events, Limits(iterations=1))
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "iterations", "a")
    assert any("the sandbox is not open" in event.message for event in events.seen if isinstance(event, Warned))


def test_time_limit_stops_a_hanging_cell() -> None:
    """The run's clock bounds everything inside it."""

    async def hang(sandbox: ScriptedSandbox) -> StepResult:
        await asyncio.Event().wait()
        raise AssertionError

    model = ScriptedModel([fence("1"), fence("hang"), "partial"])
    outcome = play(model, ScriptedSandbox([printed("a"), hang]), limits=Limits(time_s=0.05))
    assert (outcome.status, outcome.limit) == ("partial", "time")


async def endless(sandbox: ScriptedSandbox) -> StepResult:
    """A cell that only an interrupt ends."""
    await asyncio.Event().wait()
    raise AssertionError


def test_what_a_cell_did_before_the_time_was_up_is_not_lost() -> None:
    """Even in the first turn: the root is told what its code printed, and gets its last turn."""
    model = ScriptedModel([fence("hang"), "17, as far as I read"])
    sandbox = ScriptedSandbox([endless], unfinished=StepResult("interrupted", stdout=Captured("found 17\n", "", 9)))
    events = Events()
    outcome = play(model, sandbox, events, Limits(time_s=0.05))
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "time", "17, as far as I read")
    assert "found 17" in model.requests[-1].messages[-2].content
    assert [e.status for e in events.seen if isinstance(e, StepFinished)] == ["interrupted"]


def test_an_answer_submitted_before_the_time_was_up_counts() -> None:
    """FINAL, then an endless loop: the answer stands, as a partial one, and nothing more is spent."""
    model = ScriptedModel([fence("FINAL('42')")])
    sandbox = ScriptedSandbox([endless], unfinished=StepResult("interrupted", answer=Answer("text", b"42")))
    outcome = play(model, sandbox, limits=Limits(time_s=0.05))
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "time", "42")
    assert len(model.requests) == 1


def test_a_cell_leaves_the_run_the_time_it_had() -> None:
    """The timer stands while a cell runs and goes on afterwards: a root that hangs later is still stopped."""

    class Hanging(ScriptedModel):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            if len(self.requests) == 1:
                self.requests.append(request)
                await asyncio.Event().wait()
            return await super().complete(request, on_text)

    outcome = play(Hanging([fence("1"), "partial"]), ScriptedSandbox([printed("a")]), limits=Limits(time_s=0.1))
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "time", "partial")


def test_cancelling_a_run_cancels_its_cell() -> None:
    """A person's Ctrl-C is no limit: no last turn, and the cell is over before the run is. What it did until then is
    left to whoever ends the run."""
    assert stopped(StepResult("interrupted")) == Found(None, 1)
    assert stopped(printed("17 so far")) == Found(Answer("text", b"17 so far"), 1)
    both = replace(printed("17 so far"), answer=Answer("text", b"42"))
    assert stopped(both) == Found(Answer("text", b"42"), 1, SUBMITTED)


def stopped(unfinished: StepResult) -> Found:
    """What is found in a run that is cancelled in its first cell, which has done that much."""
    model, sandbox = ScriptedModel([fence("hang")]), ScriptedSandbox([endless], unfinished=unfinished)
    found = Found()

    async def main() -> None:
        task = Task("How many?", (), InputFacts(files=1, bytes=10), root="m/root", sub="m/sub")
        deps = Deps(model, sandbox, Events(), LedgerView(no_totals), found=found)
        running = asyncio.ensure_future(run(task, deps))
        while sandbox.running is None:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(asyncio.wait_for(main(), 20))
    assert (sandbox.running is not None and sandbox.running.cancelled(), len(model.requests)) == (True, 1)
    return found


def test_the_last_turn_makes_no_sub_calls() -> None:
    """Code in the last turn may submit what there is, and spends nothing more."""
    got: list[SubReply] = []

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        got.extend(await sandbox.ask("a"))
        return final("1")

    model = ScriptedModel([fence("x = 1"), fence("FINAL(llm_query('a'))")])
    outcome = play(model, ScriptedSandbox([printed("a"), cell]), limits=Limits(iterations=1))
    assert (outcome.status, [reply.ok for reply in got], len(model.requests)) == ("partial", [False], 2)


def test_sub_calls_keep_order_and_one_failure_loses_nothing() -> None:
    """Replies come back by index; a failed item says why and the others arrive."""
    got: list[SubReply] = []

    async def batch(sandbox: ScriptedSandbox) -> StepResult:
        got.extend(await sandbox.ask("a", "bad", "c"))
        return final("done")

    def sub(prompt: str) -> str | RlmError:
        return ProviderError("refused") if prompt == "bad" else prompt.upper()

    play(ScriptedModel([fence("x")], sub), ScriptedSandbox([batch]))
    assert got == [SubReply(True, "A"), SubReply(False, "refused"), SubReply(True, "C")]


@pytest.mark.parametrize(("finish", "told"), [("length", True), ("filter", True), ("stop", False)])
def test_sub_replies_that_were_cut_off_are_told(finish: Finish, told: bool) -> None:
    """Their text does not say so. The root hears it with its output, a person when there is no further turn."""

    class Cutting(ScriptedModel):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            done = await super().complete(request, on_text)
            return replace(done, finish=finish) if request.role == "sub" else done

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        return printed(str([reply.ok for reply in await sandbox.ask("a", "b")]))

    async def last(sandbox: ScriptedSandbox) -> StepResult:
        await sandbox.ask("c")
        return final("made of it")

    events, model = Events(), Cutting([fence("1"), fence("2"), fence("3")])
    assert play(model, ScriptedSandbox([cell, printed("quiet"), last]), events).status == "ok"
    first, second = (
        request.messages[-1].content for request in model.requests if request.role == "root" and request.step > 1
    )
    assert ["cut off" in text for text in (first, second)] == [told, False]
    assert ("2 replies of sub-models were cut off" in first) is told
    warned = [event.message for event in events.seen if isinstance(event, Warned)]
    assert ["1 reply of a sub-model was cut off" in message for message in warned] == [True] * told


def test_sub_calls_may_only_name_roles_and_aliases() -> None:
    """The kernel can never choose a provider's model id: the call is refused before it is made."""
    got: list[SubReply] = []

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        for name in ("openai/evil", "cheap", "root", ""):
            got.extend(await sandbox.ask("q", model=name))
        return final("done")

    model = ScriptedModel([fence("x")])
    play(model, ScriptedSandbox([cell]))
    assert [reply.ok for reply in got] == [False, True, True, True]
    assert [request.model for request in model.requests if request.role == "sub"] == ["m/cheap", "m/root", "m/sub"]


def test_a_cap_reached_by_sub_calls_ends_the_run_after_the_cell() -> None:
    """Denied calls are told to the root's code, no further call is made, and the last turn follows."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        return printed(str([reply.ok for reply in await sandbox.ask("a", "b")]))

    model = ScriptedModel([fence("x"), "what I have"], lambda prompt: LimitError("cost", "the cap was reached"))
    outcome = play(model, ScriptedSandbox([cell]))
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "cost", "what I have")
    assert model.requests[-1].role == "final"


def test_an_answer_built_on_refused_calls_is_partial() -> None:
    """FINAL after a cap has refused calls in the same cell cannot be a complete answer."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        await sandbox.ask("a")
        return final("half")

    model = ScriptedModel([fence("x")], lambda prompt: LimitError("subcalls", "no more"))
    outcome = play(model, ScriptedSandbox([cell]))
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "subcalls", "half")


def test_a_cell_that_ignores_every_refusal_is_stopped() -> None:
    """Code that swallows the budget error and loops cannot keep the run alive."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        while True:
            await sandbox.ask("a")
            await asyncio.sleep(0)

    model = ScriptedModel([fence("x"), "done"], lambda prompt: LimitError("subcalls", "no more"))
    sandbox = ScriptedSandbox([cell])
    outcome = play(model, sandbox)
    assert (outcome.status, outcome.limit, text_of(outcome), sandbox.interrupts) == ("partial", "subcalls", "done", 1)


def test_a_batch_that_meets_the_cap_keeps_the_replies_that_are_paid_for() -> None:
    """However many of its items are refused: those that got through are waited for, and so is a second batch's end."""
    got: list[int] = []
    places = itertools.count()

    class Slow(ScriptedModel):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            if request.role == "sub":
                if next(places) >= 500:
                    raise LimitError("subcalls", "no more")
                await asyncio.sleep(0)
            return await super().complete(request, on_text)

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        for _ in range(2):
            got.append(sum(reply.ok for reply in await sandbox.ask(*map(str, range(2_000)))))
            await asyncio.sleep(0)
        return final("half")

    sandbox = ScriptedSandbox([cell])
    outcome = play(Slow([fence("x")]), sandbox)
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "subcalls", "half")
    assert (got, sandbox.interrupts) == ([500, 0], 0)


def test_a_cap_cuts_off_the_end_of_a_batch() -> None:
    """Which comes in several requests, side by side: what was paid for is its beginning, and has no holes."""
    got: list[SubReply] = []
    places = itertools.count()

    class Capped(ScriptedModel):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            if request.role == "sub" and next(places) >= 20:
                raise LimitError("cost", "no more")
            return await super().complete(request, on_text)

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        parts = await asyncio.gather(*(sandbox.ask(*(f"{part}.{i}" for i in range(14))) for part in range(3)))
        got.extend(itertools.chain(*parts))
        return final("half")

    play(Capped([fence("x")]), ScriptedSandbox([cell]))
    assert [reply.ok for reply in got] == [True] * 20 + [False] * 22


def test_a_rejected_key_stops_the_cell_at_once() -> None:
    """The other calls of a batch, most of them not sent yet, must not all be rejected one by one; nor may code that
    swallows the error keep the run busy until its time is up."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        while True:
            await sandbox.ask("a")
            await asyncio.sleep(0)

    model, sandbox = ScriptedModel([fence("x")], lambda prompt: AuthError("key rejected")), ScriptedSandbox([cell])
    with pytest.raises(AuthError, match="key rejected"):
        play(model, sandbox)
    assert (sandbox.interrupts, sum(request.role == "sub" for request in model.requests)) == (1, 1)


@pytest.mark.parametrize("answer", [None, Answer("text", b"5 of 7")])
@pytest.mark.parametrize("before", ["", "3 files\n"])
def test_what_a_cell_printed_before_its_key_was_rejected_is_kept(before: str, answer: Answer | None) -> None:
    """As that of earlier cells is, below which it stands; the step has an end, and the exit code is the error's."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        await sandbox.ask("a")
        raise AssertionError

    refused = AuthError("key rejected")
    model = ScriptedModel([fence("look()"), fence("ask()")], lambda prompt: refused)
    seen = StepResult("interrupted", stdout=Captured("17 so far\n", "", 10), answer=answer)
    events = Events()
    outcome = play(model, ScriptedSandbox([printed(before), cell], unfinished=seen), events)
    kept = answer or Answer("text", f"{before}17 so far\n".encode())
    assert outcome == Outcome("partial", kept, 2, None, refused)
    assert exit_code_of(outcome) == refused.exit_code
    assert [(e.step, e.status) for e in events.seen if isinstance(e, StepFinished)] == [(1, "ok"), (2, "interrupted")]
    warned = [event.message for event in events.seen if isinstance(event, Warned)]
    assert warned == [FAILED if answer else LAST_OUTPUT]


@pytest.mark.parametrize(
    "error",
    [
        AuthError("no use"),
        ProviderError("no use", code="unknown_model"),
        ProviderError("no use", code="quota_exhausted"),
    ],
    ids=lambda error: error.code,
)
def test_what_no_retry_can_mend_in_a_sub_call_ends_the_run(error: RlmError) -> None:
    """A rejected key, an unknown model, an empty account are not left to the model to loop on."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        await sandbox.ask("a", "b")
        return printed("")

    model = ScriptedModel([fence("x")], lambda prompt: error)
    with pytest.raises(type(error), match="no use"):
        play(model, ScriptedSandbox([cell]))


def test_a_name_that_cannot_be_asked_is_told_why() -> None:
    """One that the user gave is not unknown; either way the code hears which names it can use."""
    got: list[str] = []

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        for name in ("new", "none"):
            got.extend(reply.text for reply in await sandbox.ask("a", model=name) if not reply.ok)
        return final("done")

    task = Task("Q", (), InputFacts(1, 1), "m/root", "m/sub", aliases={"cheap": "m/cheap"}, refused={"new": "no price"})
    model = ScriptedModel([fence("x")])
    asyncio.run(asyncio.wait_for(run(task, Deps(model, ScriptedSandbox([cell]), Events(), LedgerView(no_totals))), 20))
    names = "only these names can be used: cheap, root, sub"
    assert got == [f"model 'new' cannot be asked: no price; {names}", f"unknown model 'none': {names}"]
    assert len(model.requests) == 1


def test_a_prompt_is_measured_against_the_window_of_the_model_that_is_asked() -> None:
    """Not the sub-model's, when the code asks another; of an unknown window only the provider can say."""
    got: dict[str, SubReply] = {}

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        for name in ("", "sub", "root", "cheap", "new"):
            got[name] = (await sandbox.ask("x" * 60_001, model=name))[0]
        return final("done")

    task = Task(
        "Q",
        (),
        InputFacts(files=1, bytes=10),
        root="m/root",
        sub="m/sub",
        aliases={"cheap": "m/cheap", "new": "m/new"},
        windows={"m/root": 100_000, "m/sub": 10_000, "m/cheap": 4_000, "m/new": None},
    )
    deps = Deps(ScriptedModel([fence("x")]), ScriptedSandbox([cell]), Events(), LedgerView(no_totals))
    assert asyncio.run(asyncio.wait_for(run(task, deps), 20)).status == "ok"
    assert {name: reply.ok for name, reply in got.items()} == {
        "": False,
        "sub": False,
        "root": True,
        "cheap": False,
        "new": True,
    }
    takes = [f"this model takes about {payload_chars(window):,}: split it" for window in (10_000, 4_000)]
    assert [takes[0] in got["sub"].text, takes[1] in got["cheap"].text] == [True, True]


@pytest.mark.parametrize(
    ("chars", "alone", "status"),
    [(1_000_000, True, "ok"), (1_000_000, False, "partial"), (1_000, True, "partial"), (1_000, False, "partial")],
)
def test_one_prompt_that_no_cap_would_pay_for_is_not_the_end(chars: int, alone: bool, status: str) -> None:
    """The whole input in one call, to a model whose window is not known: that is the code's mistake, to be told, and
    costs nothing. Whatever else a cap refuses makes the answer partial, and small calls that it never pays for, too."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        replies = await sandbox.ask("x" * chars) + await sandbox.ask("small")
        return final("; ".join(reply.text for reply in replies))

    def sub(prompt: str) -> str | RlmError:
        return "fine" if prompt == "small" else LimitError("cost", "the cap of $1.00", alone=alone)

    outcome = play(ScriptedModel([fence("x")], sub), ScriptedSandbox([cell]))
    assert outcome.status == status
    if status == "ok":
        assert text_of(outcome) == (
            f"the cap of $1.00; the prompt has 1,000,000 characters and this model takes about {payload_chars(None):,}:"
            " split it; fine"
        )


@pytest.mark.parametrize("name", ["cheap", "sub"])
def test_an_alias_that_cannot_be_asked_costs_only_its_own_calls(name: str) -> None:
    """The provider of an alias may be another one, without a key; root and sub-model are what a run needs."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        (reply,) = await sandbox.ask("a", model=name)
        return final(f"{reply.ok}, {reply.text}")

    model = ScriptedModel([fence("x")], lambda prompt: AuthError("no key"))
    if name == "sub":
        with pytest.raises(AuthError):
            play(model, ScriptedSandbox([cell]))
    else:
        outcome = play(model, ScriptedSandbox([cell]))
        assert (outcome.status, text_of(outcome)) == ("ok", "False, no key")


def test_observations_in_the_log_are_what_the_root_read() -> None:
    """StepFinished carries the next user message byte for byte: a run can be rebuilt from its events."""
    model = ScriptedModel([fence("1"), fence("FINAL(1)")])
    events = Events()
    play(model, ScriptedSandbox([printed("a"), final("x")]), events)
    finished = next(event for event in events.seen if isinstance(event, StepFinished))
    written = next(event for event in events.seen if isinstance(event, CodeWritten))
    assert [message.content for message in model.requests[1].messages[-2:]] == [written.reply, finished.observation]


def test_a_restart_is_told() -> None:
    """When the worker died the root reads that its variables are gone."""
    result = StepResult("died", restarted="out of memory (limit 64 MB); all variables are gone.")
    model = ScriptedModel([fence("1"), fence("FINAL(1)")])
    events = Events()
    play(model, ScriptedSandbox([result, final("x")]), events)
    assert "all variables are gone" in model.requests[1].messages[-1].content
    assert "kernel.restarted" in events.types


def test_an_answer_that_fails_its_check_is_repaired() -> None:
    """What the schema forbids goes back as an observation; the repaired answer stands."""
    model = ScriptedModel([fence("FINAL('a')"), fence("FINAL('b')")])
    check = each(lambda answer: "not b" if answer.data != b"b" else "")
    outcome = play(model, ScriptedSandbox([final("a"), final("b")]), check=check)
    assert (outcome.status, text_of(outcome)) == ("ok", "b")
    assert "not b" in model.requests[1].messages[-1].content


@pytest.mark.parametrize(
    ("schema", "submitted", "kind", "data"),
    [
        ('{"type": "object"}', b'{"a": 1}', "json", b'{"a": 1}'),
        ('{"enum": ["yes", "no"]}', b"yes", "json", b'"yes"'),
        ('{"type": "integer"}', b"42", "json", b"42"),
        ('{"type": "string"}', b"42", "json", b'"42"'),
        ('{"type": "string"}', "caf\u00e9".encode(), "json", '"caf\u00e9"'.encode()),
        ('{"type": "object"}', b"It is 4.", "text", b"It is 4."),
        ("", b"42", "text", b"42"),
    ],
)
def test_a_text_is_the_value_that_the_schema_asks_for(schema: str, submitted: bytes, kind: str, data: bytes) -> None:
    """The JSON that it is, else a string: `FINAL('yes')` where one of "yes" and "no" is asked for. Without a schema,
    and where neither satisfies, it is a text."""
    check = load(schema).check if schema else nothing_wrong
    model = ScriptedModel([fence("FINAL(it)")] * 4)
    outcome = play(model, ScriptedSandbox([final(submitted.decode())] * 4), check=check, schema=schema)
    assert outcome.answer is not None
    assert (outcome.answer.kind, outcome.answer.whole()) == (kind, data)
    assert outcome.status == ("error" if schema and kind == "text" else "ok")


def test_repairs_are_bounded_and_the_value_is_kept() -> None:
    """After three repairs the run ends in a schema error that still carries the value."""
    model = ScriptedModel([fence("FINAL('a')")] * 4)
    outcome = play(model, ScriptedSandbox([final("a")] * 4), check=each(lambda a: "wrong"))
    assert (outcome.status, outcome.error and outcome.error.code, text_of(outcome)) == ("error", "schema", "a")


def test_a_value_that_did_not_fit_is_kept_when_the_root_only_talks_from_then_on() -> None:
    """A schema error with the value, not words in its place."""
    model = ScriptedModel([fence("FINAL('a')"), *["I am sure."] * 3])
    outcome = play(model, ScriptedSandbox([final("a")]), check=each(lambda a: "wrong"))
    assert (outcome.status, outcome.error and outcome.error.code, text_of(outcome)) == ("error", "schema", "a")
    assert str(outcome.error) == "after 1 repair wrong"


async def endless_check(_answers: Sequence[Answer]) -> list[str]:
    """A pattern that never ends."""
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("cell_s", [0, None])
def test_a_check_that_takes_too_long_leaves_a_partial_answer(cell_s: float | None) -> None:
    """The answer stands unchecked when the time is up meanwhile, or was already: a few more seconds are given."""
    cell: StepResult | Cell = final("[1]") if cell_s == 0 else endless
    sandbox = ScriptedSandbox([cell], unfinished=replace(final("[1]"), status="interrupted"))
    events, model = Events(), ScriptedModel([fence("FINAL([1])")])
    task = Task("Q", (), InputFacts(files=1, bytes=10), root="m/root", sub="m/sub", check=endless_check)
    outcome, _ = run_virtually(run(task, Deps(model, sandbox, events, LedgerView(no_totals), now)))
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "time", "[1]")
    assert [event.message for event in events.seen if isinstance(event, Warned)] == [UNCHECKED]
    assert (len(model.requests), events.types.count("step.finished")) == (1, 1)


def test_an_answer_whose_check_is_stopped_is_what_was_found() -> None:
    """By a person, while it runs."""
    found, checking = Found(), asyncio.Event()

    async def check(answers: Sequence[Answer]) -> list[str]:
        checking.set()
        return await endless_check(answers)

    async def main() -> None:
        task = Task("Q", (), InputFacts(files=1, bytes=10), root="m/root", sub="m/sub", check=check)
        model, sandbox = ScriptedModel([fence("FINAL([1])")]), ScriptedSandbox([final("[1]")])
        running = asyncio.ensure_future(run(task, Deps(model, sandbox, Events(), LedgerView(no_totals), found=found)))
        await checking.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(asyncio.wait_for(main(), 20))
    assert found == Found(Answer("text", b"[1]"), 1, UNCHECKED)


def test_an_answer_that_cannot_be_checked_is_partial() -> None:
    """With the reason, and the exit code of an answer that does not satisfy."""
    lost = SchemaError("no memory left", code="schema_unchecked")

    async def check(_answers: Sequence[Answer]) -> list[str]:
        raise lost

    outcome = play(ScriptedModel([fence("FINAL('a')")]), ScriptedSandbox([final("a")]), check=check)
    assert outcome == Outcome("partial", Answer("text", b"a"), 1, None, lost)
    assert exit_code_of(outcome) == 9


@pytest.mark.parametrize("capped", [True, False])
@pytest.mark.parametrize("answer", ["", "a"])
def test_a_cap_that_is_reached_with_the_last_repair_is_why_the_run_ends(answer: str, capped: bool) -> None:
    """Its code is the limit's, whether the fourth answer was empty or wrong, and the root gets its last turn."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        await sandbox.ask("a")
        return final(answer)

    reached = LimitError("cost", "no money")
    model = ScriptedModel([*[fence("FINAL(x)")] * 4, "About 40."], lambda prompt: reached if capped else "b")
    outcome = play(model, ScriptedSandbox([final(answer)] * 3 + [cell]), check=each(lambda a: "wrong"))
    if capped:
        assert outcome == Outcome("partial", Answer("text", b"About 40."), 4, "cost", reached)
    else:
        assert (outcome.limit, exit_code_of(outcome)) == (None, 9 if answer else 3)


# -- the conversation is shortened ---------------------------------------------------------------------------------


def talk(turns: int, chars: int) -> tuple[ScriptedModel, ScriptedSandbox]:
    """A run of so many turns that print so much each, before the one that answers."""
    roots: list[str | RlmError] = [fence(f"step_{i} = look({i})") for i in range(turns)]
    cells = [
        StepResult("ok", stdout=Captured(f"out {i} " + "x" * chars, "", chars), variables=(f"step_{i}: int",))
        for i in range(turns)
    ]
    return ScriptedModel([*roots, fence("FINAL('done')")]), ScriptedSandbox([*cells, final("done")])


def test_a_long_conversation_is_shortened_before_it_passes_the_window() -> None:
    """Every prompt fits; the account tells what old turns did, the newest stay whole, variables are listed."""
    model, sandbox = talk(40, 3000)
    events = Events()
    outcome = play(model, sandbox, events, Limits(iterations=50), root_window=16_000)
    assert (outcome.status, outcome.iterations) == ("ok", 41)
    assert max(request.chars for request in model.requests) < 16_000 * 3
    shortened = [event for event in events.seen if isinstance(event, Compacted)]
    assert 2 <= len(shortened) < 20
    last = model.requests[-1].messages
    assert last[:2] == model.requests[0].messages
    assert "step_0 = look(0)" in last[3].content
    assert f"step_{shortened[-1].step - 2}: int" in last[3].content
    assert last[3].content == shortened[-1].account
    assert [message.role for message in last[1:]] == ["user", *["assistant", "user"] * ((len(last) - 2) // 2)]


def test_between_two_shortenings_prompts_only_grow() -> None:
    """The cache of the provider is lost once for each shortening and not in between."""
    model, sandbox = talk(40, 3000)
    events = Events()
    play(model, sandbox, events, Limits(iterations=50), root_window=16_000)
    prompts = [request.messages for request in model.requests]
    broken = sum(later[: len(earlier)] != earlier for earlier, later in itertools.pairwise(prompts))
    assert broken == events.types.count("history.compacted")


@pytest.mark.parametrize(("attempts", "shortened"), [(2, 0), (1, 1)])
def test_a_prompt_that_was_sent_twice_is_not_twice_as_long(attempts: int, shortened: int) -> None:
    """The usage of a call has its broken attempts in it; what one attempt counted is believed."""

    class Counting(ScriptedModel):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            done = await super().complete(request, on_text)
            tokens = sum(len(message.content) for message in request.messages) // 3
            usage = Usage(2 * tokens, 1, estimated=attempts > 1)
            return replace(done, usage=usage, attempts=attempts)

    model, sandbox = talk(3, 5000)
    events = Events()
    play(Counting(model.roots), sandbox, events, root_window=12_000)
    assert min(events.types.count("history.compacted"), 1) == shortened


def test_an_overflow_that_the_provider_reports_is_survived() -> None:
    """The window is unknown, or smaller than believed: shorten more and more, and ask the same again."""
    model, sandbox = talk(6, 100)
    overflow = ProviderError("too long", code="context_overflow")
    model.roots[5:5] = [overflow, overflow]
    events = Events()
    outcome = play(model, sandbox, events)
    assert (outcome.status, text_of(outcome)) == ("ok", "done")
    assert [event.kept for event in events.seen if isinstance(event, Compacted)] == [4, 2]
    calls = [request.call for request in model.requests]
    assert len(set(calls)) == len(calls)


def test_an_opening_that_is_too_long_ends_the_run() -> None:
    """There is nothing to shorten: the provider's own words end the run."""
    with pytest.raises(ProviderError, match="too long"):
        play(ScriptedModel([ProviderError("too long", code="context_overflow")]), ScriptedSandbox([]))


# -- always an answer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lost",
    [
        ProviderError("down", code="provider_down"),
        AuthError("the key has expired"),
        SandboxError("gone"),
        RlmError("the answer could not be kept", code="answer_unkept"),
    ],
    ids=lambda lost: lost.code,
)
def test_what_was_found_survives_a_lost_model_or_sandbox(lost: RlmError) -> None:
    """The last output that said something, marked partial, with the error; and it is said that nobody submitted it."""
    events = Events()

    async def broken(_: ScriptedSandbox) -> StepResult:
        raise lost

    roots: list[str | RlmError] = [fence("look()"), fence("quiet()")]
    cells: list[StepResult | Cell] = [printed("3 refunds so far\n"), printed("")]
    if isinstance(lost, ProviderError | AuthError):
        roots.append(lost)
    else:
        roots.append(fence("dies()"))
        cells.append(broken)
    outcome = play(ScriptedModel(roots), ScriptedSandbox(cells), events)
    assert outcome == Outcome("partial", Answer("text", b"3 refunds so far\n"), 3, None, lost)
    assert "warning" in events.types


@pytest.mark.parametrize("on_limit", ["answer", "fail"])
def test_nothing_found_or_nothing_wanted_is_the_error_itself(on_limit: Literal["answer", "fail"]) -> None:
    """Before the first output, and with --on-limit fail, a lost provider is just that."""
    roots: list[str | RlmError] = [fence("look()")] if on_limit == "fail" else []
    model = ScriptedModel([*roots, ProviderError("down")])
    with pytest.raises(ProviderError, match="down"):
        play(model, ScriptedSandbox([printed("found")]), limits=Limits(on_limit=on_limit))


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_data_that_nests_too_deeply_is_text_only(opens: str, closes: str) -> None:
    """Python reads hundreds of levels more than it writes: such an answer ended a run that had been paid for."""
    times = DEEPEST // len(closes)
    for levels, kept in ((times, True), (times + 1, False), (450, False), (100_000, False)):
        answer = Answer("json", (opens * levels + "1" + closes * levels).encode())
        data = answer_data(answer)
        assert (data is not None) is kept
        assert to_json(data) == data
