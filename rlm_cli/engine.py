"""The loop: ask the root, find its code, run it, tell it what came of it; until it submits an answer.

Knows the seams, the prompts and the events; knows no vendor and no terminal. `run` is the whole recursion: a child is
`run` again with a child span.

Always an answer (DESIGN.md 6): what was submitted; else, at a limit, one last "answer with what you have" turn, paid
from a reserve; else, also when model or sandbox is lost or a person stops the run, the last output of the code.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from .children import Children, in_words
from .errors import AuthError, LimitError, ProviderError, RlmError, SandboxError, SchemaError
from .events import (
    ROOT,
    ChildFinished,
    ChildStarted,
    CodeWritten,
    Compacted,
    Emit,
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
    Status,
    StepFinished,
    StepStarted,
    StepStatus,
    Stream,
    Totals,
    Warned,
)
from .models import Completion, Message, Model, Request
from .prompts import (
    KEEP,
    LISTING,
    BlockCutter,
    History,
    InputFacts,
    Remaining,
    Reply,
    TurnNote,
    account,
    context_line,
    estimated_tokens,
    last_turn_text,
    must_shorten,
    no_code_text,
    observation_text,
    opening,
    parse_reply,
    payload_chars,
    turn_note,
)
from .sandbox import Answer, Captured, Document, Passed, Sandbox, StepResult, SubCall, SubReply

# A root that writes no code this often in a row is not going to.
CODELESS_TURNS = 3
# How often a submitted answer that is empty or does not satisfy the schema goes back to the root.
REPAIRS = 3
# What the last turn may take when the run's own time is up: no longer than the run itself, but at least the second.
LAST_TURN_S = 60.0
LEAST_LAST_TURN_S = 10.0
# How long an interrupted cell may take to hand over what it did: it may have to be killed, and its worker replaced.
STOP_S = 30.0
# A cell that goes on asking after a cap has been reached is stopped after this many refusals.
REFUSALS = 1_000


# Caps of the whole tree: one that is reached in a child is reached for its parent.
SHARED = frozenset({"cost", "tokens", "subcalls"})
# Of the time that a parent has left, what its child may take: the rest is for making something of its answer.
CHILD_TIME = 0.9
# Characters of a child's partial answer that its parent is told, and of an answer that is logged with its end.
TOLD = 2_000


# Said to code that asks a model at depth 0.
NO_SUBCALLS = "this run has no sub-calls: do it by code, or print the passages and read them"
# Said of an answer that nobody submitted.
LAST_OUTPUT = "nobody submitted an answer: this is the last output of the model's code"

# Provider errors after which no further call of the run can succeed.
HOPELESS = frozenset({"unknown_model", "quota_exhausted"})


@dataclass(frozen=True)
class Limits:
    """Caps of one run. Money, tokens and sub-calls are the ledger's; these are the loop's. Seconds."""

    iterations: int = 30
    time_s: float | None = 900.0
    step_s: float = 120.0
    on_limit: Literal["answer", "fail"] = "answer"


@dataclass(frozen=True)
class Task:
    """One question on one input. `aliases` are the only model names that the kernel may use ("" is the sub-model)."""

    question: str
    documents: Sequence[Document]
    facts: InputFacts
    root: str
    sub: str
    sub_window: int | None = None
    """The sub-model's window in tokens, None when unknown."""
    root_window: int | None = None
    """The root's: the conversation is shortened before it passes it."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    check: Callable[[Answer], str] = lambda _answer: ""
    """What is wrong with a submitted answer (--schema), "" when nothing is."""
    cite: bool = True
    """Whether the root is asked for evidence."""
    schema: str = ""
    """The JSON Schema that `check` checks, "" for none."""
    depth: int = 1
    """How deep sub-calls may recurse: 0: there are none, and the model is not told of them; 1: plain calls; above, a
    sub-call may be a run of its own, which has one less."""


@dataclass(frozen=True)
class LedgerView:
    """The ledger, as the loop may see it: totals so far, and the caps on calls and tokens (None: none)."""

    totals: Callable[[], Totals]
    max_subcalls: int | None = None
    max_tokens: int | None = None


@dataclass
class Found:
    """What a run has found so far, for whoever has to end it: the last output of its code. `note` says what it is."""

    answer: Answer | None = None
    iterations: int = 0
    note: str = LAST_OUTPUT


@dataclass(frozen=True)
class Deps:
    """What the loop works with. `found` is written by it, and read when a run was cancelled."""

    model: Model
    sandbox: Sandbox
    emit: Emit
    ledger: LedgerView
    clock: Callable[[], float] = time.monotonic
    found: Found = field(default_factory=Found)
    children: Children | None = None
    """None: `rlm_query` is always a plain sub-call."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `limit` names the cap that ended it, `error` says why it is no more than partial; `iterations`
    are the turns taken."""

    status: Status
    answer: Answer | None
    iterations: int
    limit: str | None = None
    error: RlmError | None = None


async def run(task: Task, deps: Deps, span: Span = ROOT, *, taken: int = 0) -> Outcome:
    """Answer one question. The caller closes the sandbox. `taken`: turns that this run has already had.

    Raises `RlmError` for what ends a run without any answer: no key, bad input, provider or sandbox lost before
    anything was found.
    """
    loop = _Loop(task, deps, span, taken)
    history = await loop.open()
    try:
        async with asyncio.timeout(task.limits.time_s) as loop.timer:
            return await loop.turns(history)
    except TimeoutError:
        if not loop.timer.expired():
            raise
        limit = loop.time_is_up()
    except LimitError as reached:
        limit = reached
    except (ProviderError, SandboxError) as lost:
        if (found := loop.what_was_found()) is None:
            raise
        return Outcome("partial", found, loop.step, None, lost)
    return await loop.last_turn(limit)


class _Loop:
    """One run's state: the history so far, the turn number, the sub-call desk."""

    def __init__(self, task: Task, deps: Deps, span: Span, taken: int) -> None:
        self.task, self.deps, self.span = task, deps, span
        self.started = deps.clock()
        self.step = taken
        self.history = History(())
        self.notes: list[TurnNote] = []
        self.variables: tuple[str, ...] = ()
        self.measured = (0, 0)
        """Tokens that the provider counted for the last prompt, and how many messages that had."""
        self.payload = payload_chars(task.sub_window)
        self.codeless = 0
        self.repairs = 0
        self.desk = SubCallDesk(self)
        self.timer: asyncio.Timeout
        """Cancels what waits for a model when the run's time is up."""

    def emit(self, event: Event) -> None:
        self.deps.emit(event, self.span)

    @property
    def recursive(self) -> bool:
        """Whether `rlm_query` starts child runs."""
        return self.deps.children is not None and self.task.depth > 1

    @cached_property
    def documents(self) -> Sequence[Document]:
        """The input where it is on the host, once the sandbox is open: what children are given parts of."""
        if self.deps.children is None or self.span.depth:
            return self.task.documents
        return self.deps.children.placed(self.task.documents)

    def child_task(self, question: str, documents: Sequence[Document]) -> Task:
        """The same models and limits, but no more time than is left, and an answer of whatever kind."""
        size = sum(document.size for document in documents)
        listing = tuple((document.name, document.size) for document in documents[:LISTING])
        left = self.remaining().seconds
        return replace(
            self.task,
            question=question,
            documents=documents,
            facts=InputFacts(len(documents), size, listing=listing),
            limits=replace(self.task.limits, time_s=left and left * CHILD_TIME),
            check=lambda _answer: "",
            schema="",
            cite=False,
            depth=self.task.depth - 1,
        )

    async def open(self) -> History:
        began = self.deps.clock()
        context = await self.deps.sandbox.open(self.task.documents, self.desk)
        self.emit(SandboxReady(self.deps.sandbox.info, self.deps.clock() - began, context_line(context)))
        system, user = opening(
            self.task.question,
            facts=self.task.facts,
            context=context,
            payload=self.payload,
            remaining=self.remaining(),
            cite=self.task.cite,
            schema=self.task.schema,
            depth=self.task.depth if self.recursive else min(self.task.depth, 1),
        )
        self.emit(PromptSet(system, user))
        return History.start(system=system, user=user)

    async def turns(self, history: History) -> Outcome:
        """Turn after turn, until one ends the run."""
        self.history = history
        while self.step < self.task.limits.iterations:
            self.step += 1
            outcome = await self.turn()
            if outcome is not None:
                return outcome
        raise LimitError("iterations", f"the limit of {self.task.limits.iterations} turns was reached")

    async def turn(self) -> Outcome | None:
        """Ask, parse, run, observe. An outcome ends the run."""
        began = self.deps.clock()
        self.emit(StepStarted(self.step))
        reply = await self.ask()
        if reply.final is None and not reply.code:
            return self.without_code(reply, began)
        self.codeless = 0
        result = await self.execute(reply.code) if reply.code else _said(reply.final or "")
        self.desk.raise_if_fatal()
        problem = self.problem_with(result.answer) if result.answer else ""
        if result.answer and (not problem or self.repairs > REPAIRS):
            self.finish_step(result, began)
            return self.submitted(result.answer, problem)
        self.observe(reply, began, observation_text(result, remaining=self.remaining(), note=problem), result=result)
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

    def problem_with(self, answer: Answer) -> str:
        """Why a submitted answer goes back to the root; "" when it stands."""
        if is_empty(answer):
            problem = "FINAL got an empty value; submit an answer, in words if there is none."
        else:
            problem = self.task.check(answer)
        self.repairs += bool(problem)
        return problem

    async def ask(self) -> Reply:
        step = self.step
        completion = await self.ask_root("root", f"r{step}", cut=True)
        reply = parse_reply(completion.text, truncated=completion.finish == "length")
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
                self.measured = (completion.usage.input, len(messages))
                return completion

    def is_too_long(self, messages: tuple[Message, ...]) -> bool:
        return must_shorten(estimated_tokens(messages, *self.measured), self.task.root_window)

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
            call=self.call_id(name),
            role=role,
            model=self.task.root,
            messages=messages,
            span=self.span,
            step=self.step,
            cut=BlockCutter() if cut else None,
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
        for stream, captured in (("stdout", result.stdout), ("stderr", result.stderr)):
            if captured.total:
                gap = f"\n[... {captured.dropped:,} bytes not kept ...]\n" if captured.dropped else ""
                text = captured.head + gap + captured.tail
                self.emit(Output(step, "stdout" if stream == "stdout" else "stderr", text, captured.total))
        if result.restarted:
            self.emit(KernelRestarted(result.restarted, step))
        return result

    async def watch(self, cell: asyncio.Future[StepResult]) -> StepResult:
        """The running cell's result. When the run's time is up it is interrupted, and what it did until then counts:
        so the timer, which would throw it away, stands meanwhile."""
        deadline = self.timer.when()
        self.timer.reschedule(None)
        try:
            left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
            if not (await asyncio.wait({cell}, timeout=left))[0]:
                self.desk.limit = self.desk.limit or self.time_is_up()
                self.deps.sandbox.interrupt()
                await asyncio.wait({cell}, timeout=STOP_S)
        finally:
            if not cell.done():  # a person's decision, or a sandbox that does not obey
                cell.cancel()
                await asyncio.gather(cell, return_exceptions=True)
        if cell.cancelled() and self.desk.limit is not None:
            raise self.desk.limit
        if self.desk.limit is None:
            self.timer.reschedule(deadline)
        return await cell

    def time_is_up(self) -> LimitError:
        return LimitError(
            "time", f"the time limit of {self.task.limits.time_s:g} s was reached", hint="Raise --max-time."
        )

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
        text = (
            stdout.head + (f"\n[... {stdout.dropped:,} bytes not kept ...]\n" if stdout.dropped else "") + stdout.tail
        )
        self.deps.found.iterations = self.step
        if text.strip():
            self.deps.found.note = LAST_OUTPUT
            self.deps.found.answer = Answer("text", text.encode("utf-8", "replace"))

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
        if problem:
            return Outcome("error", answer, self.step, None, never_fitted(problem))
        if self.desk.limit is not None:
            self.emit(LimitReached(self.desk.limit.limit, self.desk.limit.message))
            return Outcome("partial", answer, self.step, self.desk.limit.limit, self.desk.limit)
        return Outcome("ok", answer, self.step)

    def gave_up(self, reply: Reply) -> Outcome:
        """The root stopped writing code: its last words are kept, but they are not a submitted answer."""
        words = reply.text.strip()
        return Outcome("no_answer", Answer("text", words.encode("utf-8", "replace")) if words else None, self.step)

    async def last_turn(self, limit: LimitError) -> Outcome:
        """One paid "answer with what you have" turn; without money or words for it, no answer."""
        self.emit(LimitReached(limit.limit, limit.message))
        self.desk.limit = limit  # no more sub-calls
        answer: Answer | None = None
        if self.task.limits.on_limit == "answer" and len(self.history.messages) > 2:
            try:
                async with asyncio.timeout(self.last_turn_s) as self.timer:
                    answer = await self.answer_with_what_there_is(limit)
            except (LimitError, ProviderError, TimeoutError) as error:
                self.emit(Warned(f"the last turn failed: {str(error) or 'no reply in time'}"))
        if answer is None or is_empty(answer):
            answer = self.what_was_found()
        if answer is None:
            return Outcome("no_answer", None, self.step, limit.limit, limit)
        return Outcome("partial", answer, self.step, limit.limit, limit)

    @property
    def last_turn_s(self) -> float:
        own = self.task.limits.time_s
        return LAST_TURN_S if own is None else min(LAST_TURN_S, max(own, LEAST_LAST_TURN_S))

    async def answer_with_what_there_is(self, limit: LimitError) -> Answer | None:
        completion = await self.ask_root("final", "final", Message("user", last_turn_text(limit.message)))
        reply = parse_reply(completion.text, truncated=False)
        if "FINAL" in reply.code:  # a root of habit: its variables are still there
            result = await self.execute(reply.code, timeout=min(10.0, self.task.limits.step_s))
            if result.answer is not None:
                return result.answer
        text = reply.final if reply.final is not None else completion.text.strip()
        return Answer("text", text.encode("utf-8", "replace"))

    def call_id(self, name: str) -> str:
        return f"{self.span}/{name}" if self.span.path else name

    def remaining(self) -> Remaining:
        totals, ledger, limits = self.deps.ledger.totals(), self.deps.ledger, self.task.limits
        usd = None if totals.max_usd is None else max(totals.max_usd - totals.cost.usd, 0.0)
        tokens = ledger.max_tokens and max(ledger.max_tokens - totals.usage.total.total, 0)
        most = ledger.max_subcalls if self.task.depth else None  # what there is not is not mentioned
        subcalls = None if most is None else max(most - totals.calls.sub, 0)
        seconds = limits.time_s and max(limits.time_s - (self.deps.clock() - self.started), 0.0)
        return Remaining(limits.iterations - self.step, subcalls, seconds, usd, tokens)


class SubCallDesk:
    """Answers the kernel's requests (`sandbox.Host`). What the model did wrong comes back to it as a failed item.

    A cap that is reached here is remembered: further calls are refused unpaid and the run ends after the cell.
    """

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._numbers = itertools.count(1)
        self._children = itertools.count(1)
        self._refusals = 0
        self.limit: LimitError | None = None
        self.fatal: RlmError | None = None

    async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
        model = self._resolve(call.model)
        if model is None:
            names = ", ".join(sorted({"root", "sub", *self._loop.task.aliases}))
            reply = SubReply(False, f"unknown model {call.model!r}: only these names can be used: {names}")
            for index in range(len(call.prompts)):
                deliver(index, reply)
            return
        async with asyncio.TaskGroup() as group:
            for index in range(len(call.prompts)):
                group.create_task(self._one(index, call, model, deliver))

    def _resolve(self, name: str) -> str | None:
        task = self._loop.task
        return {"": task.sub, "sub": task.sub, "root": task.root, **task.aliases}.get(name)

    async def _one(self, index: int, call: SubCall, model: str, deliver: Callable[[int, SubReply], None]) -> None:
        prompt, passed = call.prompts[index], call.contexts[index] if call.contexts else None
        if call.kind == "rlm" and self._loop.recursive:
            deliver(index, await self._child(prompt, passed))
        else:
            deliver(index, await self._plain(prompt, passed, model))

    async def _plain(self, prompt: str, passed: Passed, model: str) -> SubReply:
        """One call to the sub-model, which sees the prompt and, below it, the text that was passed."""
        loop = self._loop
        if passed is not None:
            try:
                prompt = in_words(prompt, passed, loop.documents, loop.payload * 4)
            except RlmError as error:
                return SubReply(False, error.message)
        return await self._reply(prompt, model)

    async def _child(self, prompt: str, passed: Passed) -> SubReply:
        """A run of its own. However it ends, it is one failed item to its parent, unless nobody can go on."""
        loop = self._loop
        if loop.deps.children is None:
            raise RuntimeError("there are no child runs here")
        span = loop.span.child(next(self._children))
        try:
            async with loop.deps.children.place(span.depth, loop.documents, passed) as (sandbox, documents):
                if refusal := self._refusal(prompt):
                    return SubReply(False, refusal)
                outcome = await self._run_child(loop.child_task(prompt, documents), sandbox, span)
        except RlmError as error:
            return SubReply(False, error.message)
        if outcome.limit in SHARED and isinstance(outcome.error, LimitError):
            self.limit = self.limit or outcome.error
        if outcome.error is not None and is_hopeless(outcome.error):
            self._end_with(outcome.error)
        return reply_of(outcome)

    async def _run_child(self, task: Task, sandbox: Sandbox, span: Span) -> Outcome:
        deps, began = self._loop.deps, self._loop.deps.clock()
        deps.emit(ChildStarted(task.question, len(task.documents), task.facts.bytes, self._loop.step), span)
        outcome = None
        try:
            outcome = await run(task, replace(deps, sandbox=sandbox, found=Found()), span)
        except RlmError as error:
            outcome = Outcome("error", None, 0, None, error)
        finally:
            seconds = deps.clock() - began
            if outcome is None:
                deps.emit(ChildFinished("interrupted", seconds), span)
            else:
                deps.emit(ChildFinished(outcome.status, seconds, said_of(outcome)), span)
        return outcome

    async def _reply(self, prompt: str, model: str) -> SubReply:
        if refusal := self._refusal(prompt):
            return SubReply(False, refusal)
        loop = self._loop
        name = loop.call_id(f"s{next(self._numbers)}")
        request = Request(name, "sub", model, (Message("user", prompt),), loop.span, loop.step)
        try:
            completion = await loop.deps.model.complete(request)
        except LimitError as reached:
            self.limit = self.limit or reached
            return SubReply(False, reached.message)
        except RlmError as error:
            if is_hopeless(error):
                self._end_with(error)
            return SubReply(False, error.message)
        return SubReply(True, completion.text)

    def _end_with(self, error: RlmError) -> None:
        """Nothing can be had from this provider: the cell and its other calls, most of them not sent yet, are over."""
        if self.fatal is None:
            self.fatal = error
            self._loop.deps.sandbox.interrupt()

    def _refusal(self, prompt: str) -> str:
        if not self._loop.task.depth:
            return NO_SUBCALLS
        if self.fatal is not None:
            return self.fatal.message
        if self.limit is not None:
            self._refusals += 1
            if self._refusals == REFUSALS:
                self._loop.deps.sandbox.interrupt()
            return self.limit.message
        if not prompt.strip():
            return "the prompt is empty"
        window = self._loop.task.sub_window
        if window and len(prompt) > window * 6:  # no text packs six characters into every token
            limit = self._loop.payload
            return f"the prompt has {len(prompt):,} characters and the sub-model takes about {limit:,}: split it"
        return ""

    def budget(self) -> Mapping[str, float | int | str | None]:
        left = self._loop.remaining()
        return {
            "turns": left.turns,
            "subcalls": left.subcalls if self._loop.task.depth else 0,
            "seconds": None if left.seconds is None else round(left.seconds, 1),
            "usd": None if left.usd is None else round(left.usd, 6),
            "tokens": left.tokens,
            "subcall_chars": self._loop.payload,
            "limit": None if self.limit is None else self.limit.limit,
        }

    def raise_if_fatal(self) -> None:
        if self.fatal is not None:
            raise self.fatal

    def raise_if_limited(self) -> None:
        if self.limit is not None:
            raise self.limit


def is_hopeless(error: RlmError) -> bool:
    """Whether no further call of the tree can succeed."""
    return isinstance(error, AuthError) or error.code in HOPELESS


def reply_of(outcome: Outcome) -> SubReply:
    """A child's outcome, to its parent's code: a value, or why there is none, with what was found until then."""
    if outcome.status == "ok" and outcome.answer is not None:
        return SubReply(True, "", outcome.answer)
    return SubReply(False, said_of(outcome))


def said_of(outcome: Outcome) -> str:
    """The answer's beginning, or how the run ended without one."""
    answer = outcome.answer
    text = next(iter(answer.pieces()), b"")[: 4 * TOLD].decode("utf-8", "replace")[:TOLD] if answer else ""
    if outcome.status == "ok":
        return text
    why = outcome.error.message if outcome.error else "it stopped without submitting an answer"
    return f"the child run did not finish: {why}" + (f"; what it had so far: {text}" if text else "")


def never_fitted(problem: str, repairs: int = REPAIRS) -> SchemaError:
    """The end of the repairs."""
    return SchemaError(f"after {repairs} repairs {problem}")


def _said(text: str) -> StepResult:
    """An answer given in prose, as the result of a cell that submitted it."""
    return StepResult("ok", answer=Answer("text", text.encode("utf-8", "replace")))


def is_empty(answer: Answer) -> bool:
    """Nothing at all. An empty list or object is an answer: "none"."""
    if answer.kind == "json" and answer.data in (b"null", b'""'):
        return True
    return not any(piece.strip() for piece in answer.pieces())


def answer_text(answer: Answer) -> str:
    """An answer as text, for the screen and for JSON; bytes that are not UTF-8 are shown escaped."""
    return answer.whole().decode("utf-8", "backslashreplace")


def answer_data(answer: Answer) -> Any:
    """The value of a JSON answer, in memory however large it is; None for text and bytes."""
    if answer.kind != "json":
        return None
    try:
        return json.loads(answer.whole())
    except (ValueError, RecursionError):
        return None
