"""The loop: ask the root, find its code, run it, tell it what came of it; until it submits an answer.

Knows the seams, the prompts and the events; knows no vendor and no terminal. `run` is the whole recursion: a child is
`run` again with a child span, started by the desk at which the code asks.

Always an answer (DESIGN.md 6): what was submitted; else, at a limit, one last "answer with what you have" turn, paid
from a reserve; else, also when model or sandbox is lost or a person stops the run, the last output of the code.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from .desk import SubCallDesk
from .errors import LimitError, ProviderError, RlmError, SchemaError
from .events import (
    ROOT,
    CodeWritten,
    Compacted,
    Event,
    KernelRestarted,
    LimitReached,
    ModelText,
    Output,
    OutputText,
    PromptSet,
    Role,
    SandboxReady,
    Span,
    StepFinished,
    StepStarted,
    StepStatus,
    Stream,
    Warned,
)
from .models import Completion, Message, Request
from .prompts import (
    KEEP,
    BlockCutter,
    History,
    Remaining,
    Reply,
    TurnNote,
    account,
    context_line,
    cut_short,
    estimated_tokens,
    last_turn_text,
    must_shorten,
    no_code_text,
    observation_text,
    opening,
    parse_reply,
    turn_note,
    words_of,
)
from .sandbox import Answer, Captured, StepResult
from .task import LAST_OUTPUT, UNCHECKED, Deps, Outcome, Task
from .timecap import DROP_S, GRACE_S, STOP_S, TimeCap

# A root that writes no code this often in a row is not going to.
CODELESS_TURNS = 3
# How often a submitted answer that is empty or does not satisfy the schema goes back to the root.
REPAIRS = 3
# Levels of a JSON answer that is given as data, too: whoever writes and reads it goes into it step by step.
DEEPEST = 200
# How long an interrupted cell may take to hand over what it did when somebody stops the run: a person waits.
LEAVE_S = 5.0
# Said of one that was submitted by code which was then stopped.
SUBMITTED = "the run was stopped before the code that submitted this answer had ended"
# Said of one that was submitted by code to which the models were lost.
FAILED = "this answer was submitted by code whose calls to a model failed"


async def run(task: Task, deps: Deps, span: Span = ROOT, *, taken: int = 0) -> Outcome:
    """Answer one question. The caller closes the sandbox. `taken`: the last turn of what was tried before in this run;
    the limit is for those after it.

    Raises `RlmError` for what ends a run without any answer: no key, bad input, provider or sandbox lost before
    anything was found.
    """
    loop = _Loop(task, deps, span, taken)
    history = await loop.open()
    try:
        async with asyncio.timeout_at(loop.cap.work) as loop.timer:
            return await loop.turns(history)
    except TimeoutError:
        if not loop.timer.expired():
            raise
        limit = loop.time_is_up()
    except LimitError as reached:
        limit = reached
    except RlmError as lost:
        if (found := loop.what_was_found()) is None:
            raise
        return Outcome("partial", found, loop.step, None, lost)
    return await loop.last_turn(limit)


class _Loop:
    """One run's state: the history so far, the turn number, the sub-call desk."""

    def __init__(self, task: Task, deps: Deps, span: Span, taken: int) -> None:
        self.task, self.deps, self.span = task, deps, span
        self.started = deps.clock()
        self.step = self.taken = taken
        self.history = History(())
        self.notes: list[TurnNote] = []
        self.variables: tuple[str, ...] = ()
        self.measured = (0, 0)
        """Tokens that the provider counted for the last prompt, and how many messages that had."""
        self.thinks: bool | None = None
        """Whether the root's replies have thinking that they do not open, as far as is known."""
        self.codeless = 0
        self.repairs = 0
        self.refused: tuple[Answer, str] | None = None
        """The last submitted value that did not satisfy, and why."""
        self.desk = SubCallDesk(self, run)
        self.timer: asyncio.Timeout
        """Cancels what waits for a model when the run's time is up."""
        self.cap = TimeCap()

    def emit(self, event: Event) -> None:
        self.deps.emit(event, self.span)

    async def open(self) -> History:
        began = self.deps.clock()
        context = await self.deps.sandbox.open(self.task.documents, self.desk)
        self.emit(SandboxReady(self.deps.sandbox.info, self.deps.clock() - began, context_line(context)))
        if not self.span.depth:  # a slow start takes nothing of the run's time; a child's is its parent's
            self.started = self.deps.clock()
        used = self.deps.clock() - self.started
        self.cap = self.task.limits.cap(asyncio.get_running_loop().time() - used)
        system, user = opening(
            self.task.question,
            facts=self.task.facts,
            context=context,
            payload=self.desk.payload(self.task.sub),
            remaining=self.remaining(),
            cite=self.task.cite,
            schema=self.task.schema,
            depth=self.task.depth if self.desk.recursive else min(self.task.depth, 1),
        )
        self.emit(PromptSet(system, user))
        return History.start(system=system, user=user)

    async def turns(self, history: History) -> Outcome:
        """Turn after turn, until one ends the run."""
        self.history = history
        most = self.task.limits.iterations
        while self.step < self.taken + most:
            self.step += 1
            outcome = await self.turn()
            if outcome is not None:
                return outcome
        raise LimitError("iterations", f"the limit of {most} turn{'' if most == 1 else 's'} was reached")

    async def turn(self) -> Outcome | None:
        """Ask, parse, run, observe. An outcome ends the run."""
        began = self.deps.clock()
        self.emit(StepStarted(self.step))
        reply = await self.ask()
        if reply.final is None and not reply.code:
            return self.without_code(reply, began)
        self.codeless = 0
        result = await self.execute(reply.code) if reply.code else _said(reply.final or "")
        if self.desk.fatal is not None:
            self.keep(result, FAILED)
            self.finish_step(result, began)
            raise self.desk.fatal
        answer, problem = await self.judged(result.answer) if result.answer else (None, "")
        cut, self.desk.cut_short = cut_short(self.desk.cut_short), 0
        too_often = self.repairs > REPAIRS and self.desk.limit is None  # else the limit is why it ends
        if answer and (not problem or too_often):
            if cut:  # the root is not told any more
                self.emit(Warned(cut))
            self.finish_step(result, began)
            return self.submitted(answer, problem)
        note = "\n\n".join(filter(None, (cut and f"{cut}: ask for less at a time.", problem)))
        self.observe(reply, began, observation_text(result, remaining=self.remaining(), note=note), result=result)
        self.desk.raise_if_limited()
        return None

    def without_code(self, reply: Reply, began: float) -> Outcome | None:
        """A nudge, or, after several replies without code in a row, the end."""
        self.codeless += 1
        if self.codeless == CODELESS_TURNS:
            self.finish_step(None, began)
            return self.gave_up(reply)
        self.observe(reply, began, no_code_text(reply.problem, remaining=self.remaining()))
        return None

    async def judged(self, answer: Answer) -> tuple[Answer, str]:
        """A submitted answer, and why it goes back to the root; "" when it stands."""
        if is_empty(answer):
            problem = "FINAL got an empty value; submit an answer, in words if there is none."
        else:
            answer, problem = await self.checked(answer)
            self.refused = (answer, problem) if problem else None
        self.repairs += bool(problem)
        return answer, problem

    async def checked(self, answer: Answer) -> tuple[Answer, str]:
        """The answer as what satisfies, and what the check says. When the run's time is up first the answer stands as
        it is, as a partial one; and it is what was found when the check is stopped, or fails."""
        deadline = self.cap.end if self.is_late else self.cap.work
        meant = meanings(answer) if self.task.schema and not self.span.depth else [answer]
        self.timer.reschedule(None)
        try:
            async with asyncio.timeout_at(deadline):
                problems = await self.task.check(meant)
            return (answer, problems[0]) if problems[-1] else (meant[len(problems) - 1], "")
        except TimeoutError:
            self.desk.limit = self.desk.limit or self.time_is_up()
            self.emit(Warned(UNCHECKED))
            return answer, ""
        except (asyncio.CancelledError, RlmError):
            found = self.deps.found
            found.answer, found.note, found.iterations = answer, UNCHECKED, self.step
            raise
        finally:
            if not self.is_late:
                self.timer.reschedule(deadline)

    async def ask(self) -> Reply:
        step = self.step
        completion = await self.ask_root("root", f"r{step}", cut=True)
        reply = parse_reply(completion.text, truncated=completion.finish == "length", thinks=self.thinks)
        if reply.thought or (self.thinks is None and completion.text.strip() and completion.finish != "length"):
            self.thinks = reply.thought
        self.emit(CodeWritten(step, reply.text, reply.code))
        return reply

    async def ask_root(self, role: Role, name: str, *more: Message, cut: bool = False) -> Completion:
        """The root's reply to the conversation and `more`, which is shortened when it nears or passes the window."""
        while True:
            messages = (*self.history.messages, *more)
            if self.is_too_long(messages) and self.shorten():
                continue
            try:
                completion = await self.complete(role, messages, name, cut=cut)
            except ProviderError as error:
                if error.code != "context_overflow" or not self.shorten():
                    raise
                name += "'"
            else:
                if completion.attempts == 1 or not completion.usage.estimated:  # else the broken attempts are in it
                    self.measured = (completion.usage.input, len(messages))
                return completion

    def is_too_long(self, messages: tuple[Message, ...]) -> bool:
        return must_shorten(estimated_tokens(messages, *self.measured), self.task.windows.get(self.task.root))

    def shorten(self) -> bool:
        """Replace old turns by an account of them; False when there is nothing left to shorten."""
        keep = next((keep for keep in KEEP if keep < self.history.turns), None)
        if keep is None:
            return False
        self.history = self.history.shortened(keep, account(self.notes[: len(self.notes) - keep], self.variables))
        self.measured = (0, 0)
        self.emit(Compacted(self.step, self.history.shortened_turns, keep, self.history.messages[3].content))
        return True

    async def complete(self, role: Role, messages: tuple[Message, ...], name: str, *, cut: bool = False) -> Completion:
        request = Request(
            call=self.span.call(name),
            role=role,
            model=self.task.root,
            messages=messages,
            span=self.span,
            step=self.step,
            cut=partial(BlockCutter, self.thinks) if cut else None,
            deadline=self.cap.work,
        )
        return await self.deps.model.complete(request, lambda text: self.emit(ModelText(self.step, text)))

    async def execute(self, code: str, *, timeout: float | None = None) -> StepResult:
        step = self.step

        def on_output(stream: Stream, text: str) -> None:
            self.emit(OutputText(step, stream, text))

        cell = asyncio.ensure_future(
            self.deps.sandbox.execute(code, timeout=timeout or self.task.limits.step_s, on_output=on_output)
        )
        result = await self.watch(cell)
        streams: dict[Stream, Captured] = {"stdout": result.stdout, "stderr": result.stderr}
        for stream, captured in streams.items():
            if captured.total:
                self.emit(Output(step, stream, captured.text, captured.total))
        if result.restarted:
            self.emit(KernelRestarted(result.restarted, step))
        return result

    async def watch(self, cell: asyncio.Future[StepResult]) -> StepResult:
        """The running cell's result. When the run's time is up it is interrupted, and what it did until then counts:
        so the timer, which would throw it away, stands meanwhile."""
        deadline = self.cap.work
        self.timer.reschedule(None)
        try:
            left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
            if not (await asyncio.wait({cell}, timeout=left))[0]:
                self.desk.limit = self.desk.limit or self.time_is_up()
                await self.stop(cell)
        except asyncio.CancelledError:  # a person's decision, or the parent's time is up
            self.deps.sandbox.interrupt()
            await asyncio.wait({cell}, timeout=LEAVE_S)
            if cell.done() and not cell.cancelled() and cell.exception() is None:
                self.keep(cell.result(), SUBMITTED)
            raise
        finally:
            if not cell.done():  # a sandbox that does not obey
                cell.cancel()
                await asyncio.wait({cell}, timeout=DROP_S)
                cell.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody else will look
        if (not cell.done() or cell.cancelled()) and self.desk.limit is not None:
            raise self.desk.limit
        if not self.is_late:
            self.timer.reschedule(deadline)
        return await cell

    async def stop(self, cell: asyncio.Future[StepResult]) -> None:
        """The time is up: calls fail first, which the cell has a moment to make something of; then it is interrupted.
        None of these steps takes from the last turn what is its own."""
        now = asyncio.get_running_loop().time
        share = self.cap.share(now())
        if await self.desk.give_up(min(STOP_S, share)):
            await asyncio.wait({cell}, timeout=min(GRACE_S, share))
        if not cell.done():
            self.deps.sandbox.interrupt()
            left = share if self.cap.end is None else max(0.0, self.cap.end - share - now())
            await asyncio.wait({cell}, timeout=min(STOP_S, left))

    @property
    def is_late(self) -> bool:
        """Whether the run's time is up: no timer runs any more."""
        return self.desk.limit is not None and self.desk.limit.limit == "time"

    def time_is_up(self) -> LimitError:
        limits = self.task.limits
        kept = f" ({limits.kept_s:g} s of it are kept for the end)" if limits.kept_s else ""
        return LimitError("time", f"the time limit of {limits.time_s:g} s was reached{kept}", hint="Raise --max-time.")

    def observe(self, reply: Reply, began: float, observation: str, *, result: StepResult | None = None) -> None:
        """Tell the root what came of its reply; the history grows by two messages."""
        self.history = self.history.turn(reply=reply.text, observation=observation)
        self.notes.append(turn_note(self.step, reply, observation))
        if result is not None:
            self.variables = result.variables
            self.remember(result.stdout)
        self.finish_step(result, began, observation)

    def remember(self, stdout: Captured) -> None:
        """Keep what the code printed last: should nothing better come, it is what was found."""
        self.deps.found.iterations = self.step
        if stdout.text.strip():
            self.deps.found.note = LAST_OUTPUT
            self.deps.found.answer = Answer("text", stdout.text.encode("utf-8", "replace"))

    def keep(self, result: StepResult, note: str) -> None:
        """What a cell did until it was stopped belongs to what was found: its output comes below that of the cell
        before, which may be a word about how far it is; the answer that it submitted, with `note`, is above all."""
        before = self.deps.found.answer
        self.remember(result.stdout)
        now = self.deps.found.answer
        if before is not None and now is not None and now is not before:
            self.deps.found.answer = Answer("text", before.whole().rstrip(b"\n") + b"\n" + now.whole())
        if result.answer is not None and not is_empty(result.answer):
            self.deps.found.answer, self.deps.found.note = result.answer, note

    def what_was_found(self) -> Answer | None:
        """The last rung; None when there is nothing, or a partial answer is not wanted."""
        if self.task.limits.on_limit == "fail" or self.deps.found.answer is None:
            return None
        self.emit(Warned(self.deps.found.note))
        return self.deps.found.answer

    def finish_step(self, result: StepResult | None, began: float, observation: str = "") -> None:
        status: StepStatus = result.status if result else "no_code"
        cell_s = result.seconds if result else 0.0
        self.emit(StepFinished(self.step, status, self.deps.clock() - began, cell_s, observation))

    def submitted(self, answer: Answer, problem: str) -> Outcome:
        """An answer is complete unless it never satisfied, or a cap refused some of the calls it was built on."""
        if is_empty(answer):
            return Outcome("no_answer", None, self.step)
        if not answer.evidence and self.desk.evidence:  # it was made of the children's answers
            answer = replace(answer, evidence=tuple(self.desk.evidence))
        if problem:
            return Outcome("error", answer, self.step, None, never_fitted(problem))
        if self.desk.limit is not None:
            self.emit(LimitReached(self.desk.limit.limit, self.desk.limit.message))
            return Outcome("partial", answer, self.step, self.desk.limit.limit, self.desk.limit)
        return Outcome("ok", answer, self.step)

    def gave_up(self, reply: Reply) -> Outcome:
        """The root stopped writing code: its last words are kept, but they are not a submitted answer. One that was
        submitted and did not satisfy is worth more."""
        if self.refused is not None:
            return Outcome("error", self.refused[0], self.step, None, never_fitted(self.refused[1], self.repairs))
        words = words_of(reply.text) or reply.text.strip()
        return Outcome("no_answer", Answer("text", words.encode("utf-8", "replace")) if words else None, self.step)

    async def last_turn(self, limit: LimitError) -> Outcome:
        """One paid "answer with what you have" turn; without money or words for it, no answer."""
        self.emit(LimitReached(limit.limit, limit.message))
        self.desk.limit = limit  # no more sub-calls
        answer: Answer | None = None
        if self.task.limits.on_limit == "answer" and len(self.history.messages) > 2:
            try:
                self.cap = TimeCap.of_last_turn(self.cap, asyncio.get_running_loop().time())
                async with asyncio.timeout_at(self.cap.work) as self.timer:
                    answer = await self.answer_with_what_there_is(limit)
            except (RlmError, TimeoutError) as error:
                self.emit(Warned(f"the last turn failed: {str(error) or 'no reply in time'}"))
        if answer is None or is_empty(answer):
            answer = self.what_was_found()
        if answer is None:
            return Outcome("no_answer", None, self.step, limit.limit, limit)
        return Outcome("partial", answer, self.step, limit.limit, limit)

    async def answer_with_what_there_is(self, limit: LimitError) -> Answer | None:
        completion = await self.ask_root("final", "final", Message("user", last_turn_text(limit.message)))
        reply = parse_reply(completion.text, truncated=False, thinks=self.thinks)
        if "FINAL" in reply.code:  # a root of habit: its variables are still there
            result = await self.execute(reply.code, timeout=min(10.0, self.task.limits.step_s))
            if result.answer is not None:
                return result.answer
        text = words_of(completion.text) if reply.final is None else reply.final
        if not text and self.deps.found.answer is None:  # better than nothing
            text = completion.text.strip()
        return Answer("text", text.encode("utf-8", "replace"))

    def remaining(self) -> Remaining:
        totals, ledger, limits = self.deps.ledger.totals(), self.deps.ledger, self.task.limits
        usd = None if totals.max_usd is None else max(totals.max_usd - totals.cost.usd, 0.0)
        tokens = ledger.max_tokens and max(ledger.max_tokens - totals.usage.total.total, 0)
        most = ledger.max_subcalls if self.task.depth else None  # what there is not is not mentioned
        subcalls = None if most is None else max(most - totals.calls.below, 0)
        seconds = limits.time_s and max(limits.time_s - limits.kept_s - (self.deps.clock() - self.started), 0.0)
        return Remaining(self.taken + limits.iterations - self.step, subcalls, seconds, usd, tokens)


def never_fitted(problem: str, repairs: int = REPAIRS) -> SchemaError:
    """The end of the repairs."""
    tried = f"after {repairs} repair{'' if repairs == 1 else 's'} "
    return SchemaError(tried + problem, hint="Ask for less in --schema, or see what was tried: rlm runs show")


def _said(text: str) -> StepResult:
    """An answer given in prose, as the result of a cell that submitted it."""
    return StepResult("ok", answer=Answer("text", text.encode("utf-8", "replace")))


def is_empty(answer: Answer) -> bool:
    """Nothing at all. An empty list or object is an answer: "none"."""
    if answer.kind == "json" and answer.data in (b"null", b'""'):
        return True
    return not any(piece.strip() for piece in answer.pieces())


def meanings(answer: Answer) -> list[Answer]:
    """The values that a text may stand for where a schema asks for one: the JSON that it is, else a string."""
    if answer.kind != "text":
        return [answer]
    meant = [replace(answer, kind="json")]
    if isinstance(answer.data, bytes):
        string = json.dumps(answer.data.decode("utf-8", "replace"), ensure_ascii=False)
        meant.append(replace(meant[0], data=string.encode()))
    return meant


def answer_text(answer: Answer) -> str:
    """An answer as text, for the screen and for JSON; bytes that are not UTF-8 are shown escaped."""
    return answer.whole().decode("utf-8", "backslashreplace")


def answer_data(answer: Answer) -> Any:
    """The value of a JSON answer, in memory however large it is; None for text and bytes, and for what nests deeper
    than its readers go."""
    if answer.kind != "json":
        return None
    try:
        value = json.loads(answer.whole())
    except (ValueError, RecursionError):
        return None
    return value if nests_within(DEEPEST, value) else None


def nests_within(most: int, value: Any) -> bool:
    """Whether no list or object in it is below more than `most` others."""
    level = [value]
    for _ in range(most + 1):
        level = [part for each in level if isinstance(each, list | dict) for part in children_of(each)]
        if not level:
            return True
    return False


def children_of(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
