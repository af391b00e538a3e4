"""The desk at which a run's code asks models, and has child runs started.

It belongs to one run, of which it sees no more than `Asking`; whoever makes it says how a child is run, so that nothing
here knows the loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Protocol

from .children import handed_up, in_words
from .errors import AuthError, LimitError, RlmError
from .events import ChildFinished, ChildStarted, ItemsDone, Span, Status
from .models import Message, Request
from .prompts import LISTING, InputFacts, Remaining, payload_chars
from .sandbox import Answer, Document, Passed, Quote, Sandbox, SubCall, SubReply
from .sandbox.kernel.json_values import form_of
from .task import Deps, Found, Outcome, Task
from .timecap import TimeCap

# A cell that goes on asking after a cap has been reached is stopped after so many questions that were refused whole.
REFUSALS = 1_000
# Prompts with passed text below them that are held at once: each may have megabytes, and one call ask for 10,000 of
# them by naming the same document.
TEXTS_AT_ONCE = 64
# Items that begin before the event loop sees to anything else.
BEGUN_AT_ONCE = 4
# Caps of the whole tree: one that is reached in a child is reached for its parent.
SHARED = frozenset({"cost", "tokens", "subcalls"})
# Of the time that a parent has left, what its child may take, and what it may overrun: the rest is for making something
# of its answer, and of those of the other children.
CHILD_TIME = 0.9
CHILD_OVERRUN = 0.05
# Characters of a child's partial answer that its parent is told, and of an answer that is logged with its end.
TOLD = 2_000
# Quotes that are handed up from a run's children, for an answer that has none of its own.
HANDED_MAX = 100
# Said to code that asks a model at depth 0.
NO_SUBCALLS = "this run has no sub-calls: do it by code, or print the passages and read them"
# Provider errors after which no further call of the run can succeed.
HOPELESS = frozenset({"unknown_model", "quota_exhausted"})


class Asking(Protocol):
    """The run whose code asks, as far as its desk may see it. `step` is its turn."""

    @property
    def task(self) -> Task: ...
    @property
    def deps(self) -> Deps: ...
    @property
    def span(self) -> Span: ...
    @property
    def step(self) -> int: ...
    @property
    def cap(self) -> TimeCap: ...

    def remaining(self) -> Remaining:
        """What is left of turns, calls, seconds and money."""
        ...


StartChild = Callable[[Task, Deps, Span], Awaitable[Outcome]]
"""`engine.run`: answers one question, and raises as it does."""


class SubCallDesk:
    """Answers the kernel's requests (`sandbox.Host`). What the model did wrong comes back to it as a failed item.

    A cap that is reached here is remembered: further calls are refused unpaid and the run ends after the cell.
    """

    def __init__(self, asking: Asking, start: StartChild) -> None:
        self._asking, self._start = asking, start
        self._numbers = itertools.count(1)
        self._children = itertools.count(1)
        self._refusals = 0
        """Questions since the limit that came while nothing was pending: what a batch has paid for is waited for."""
        self._texts = asyncio.Semaphore(TEXTS_AT_ONCE)
        self._beginning = asyncio.Lock()
        """One batch comes in several requests. Their items begin in its order, so that a cap cuts off its end."""
        self._pending: set[asyncio.Task[None]] = set()
        """One for each item that has no reply yet."""
        self._given_up = False
        self.schema = asking.task.schema if asking.span.depth else ""
        """A person's schema is checked by the host, and one that model code gave its children by their kernels."""
        self.evidence: dict[Quote, None] = {}
        """What children that answered gave for their answers."""
        self.cut_short = 0
        """Replies in this cell that the provider cut off."""
        self.limit: LimitError | None = None
        self.fatal: RlmError | None = None

    @property
    def recursive(self) -> bool:
        """Whether `rlm_query` starts child runs."""
        return self._asking.deps.children is not None and self._asking.task.depth > 1

    @cached_property
    def documents(self) -> Sequence[Document]:
        """The input where it is on the host, once the sandbox is open: what children are given parts of."""
        if self._asking.deps.children is None or self._asking.span.depth:
            return self._asking.task.documents
        return self._asking.deps.children.placed(self._asking.task.documents)

    async def give_up(self, seconds: float) -> bool:
        """Fail every item that has no reply yet, so that the cell can go on with those that have one; children are
        stopped, with what they found until then. Waits until that is done, at most so long. False: there was none."""
        if not self._pending:
            return False
        self._given_up = True
        for task in self._pending:
            task.cancel()
        await asyncio.wait(self._pending, timeout=seconds)
        return True

    async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
        model = self._resolve(call.model)
        if model is None:
            reply = SubReply(False, self._unusable(call.model))
            for index in range(len(call.prompts)):
                deliver(index, reply)
            return
        if self.limit is not None and not self._pending:
            self._refusals += 1
            if self._refusals == REFUSALS:
                self._asking.deps.sandbox.interrupt()
        async with asyncio.TaskGroup() as group, self._beginning:
            for index in range(len(call.prompts)):
                group.create_task(self._one(index, call, model, deliver))
                if index % BEGUN_AT_ONCE == BEGUN_AT_ONCE - 1:
                    await asyncio.sleep(0)  # the first are on their way while thousands are still being lined up

    def _resolve(self, name: str) -> str | None:
        task = self._asking.task
        return {"": task.sub, "sub": task.sub, "root": task.root, **task.aliases}.get(name)

    def _unusable(self, name: str) -> str:
        """Why code cannot ask the model of this name."""
        task = self._asking.task
        names = f"only these names can be used: {', '.join(sorted({'root', 'sub', *task.aliases}))}"
        if name in task.refused:
            return f"model {name!r} cannot be asked: {task.refused[name]}; {names}"
        return f"unknown model {name!r}: {names}"

    async def _one(self, index: int, call: SubCall, model: str, deliver: Callable[[int, SubReply], None]) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("not in a task")
        self._pending.add(task)
        prompt, passed = call.prompts[index], call.contexts[index] if call.contexts else None
        try:
            if call.kind == "rlm" and self.recursive:
                reply = await self._child(prompt, passed, call.schema)
            else:
                reply = await self._plain(prompt, passed, model, call.schema)
        except asyncio.CancelledError:
            if self._given_up and self.limit is not None:
                reply = SubReply(False, self.limit.message)
            else:
                raise
        finally:
            self._pending.discard(task)
        deliver(index, reply)

    async def _plain(self, prompt: str, passed: Passed, model: str, schema: str) -> SubReply:
        """One call to a model, which sees the prompt and, below it, the text that was passed, and what form the reply
        must have."""
        async with self._texts if passed is not None else nullcontext():
            if passed is not None:
                if refusal := self._over():
                    return SubReply(False, refusal)
                try:
                    prompt = in_words(prompt, passed, self.documents, self.payload(model) * 4)
                except RlmError as error:
                    return SubReply(False, error.message)
            if schema and prompt.strip():
                prompt += form_of(schema)
            return await self._reply(prompt, model)

    async def _child(self, prompt: str, passed: Passed, schema: str) -> SubReply:
        """A run of its own. However it ends, it is one failed item to its parent, unless nobody can go on."""
        asking = self._asking
        if asking.deps.children is None:
            raise RuntimeError("there are no child runs here")
        span = asking.span.child(next(self._children))
        try:
            async with asking.deps.children.place(span.depth, self.documents, passed) as (sandbox, documents):
                if refusal := self._refusal(prompt, asking.task.root):
                    return SubReply(False, refusal)
                outcome = await self._run_child(self._child_task(prompt, documents, schema), sandbox, span)
        except RlmError as error:
            return SubReply(False, error.message)
        if outcome.limit in SHARED and isinstance(outcome.error, LimitError):
            if self._is_at_fault(prompt, asking.task.root, outcome.error):
                return SubReply(False, f"{outcome.error.message}; {self._too_long(prompt, asking.task.root)}")
            self.limit = self.limit or outcome.error
        if outcome.error is not None and is_hopeless(outcome.error):
            self._end_with(outcome.error)
        if outcome.status == "ok" and outcome.answer is not None and len(self.evidence) < HANDED_MAX:
            quotes = handed_up(outcome.answer.evidence, documents, self.documents)
            self.evidence.update(dict.fromkeys(quotes[: HANDED_MAX - len(self.evidence)]))
        return reply_of(outcome)

    def _child_task(self, question: str, documents: Sequence[Document], schema: str) -> Task:
        """The same models and limits, but no more time than is left, and an answer of whatever kind."""
        size = sum(document.size for document in documents)
        listing = tuple((document.name, document.size) for document in documents[:LISTING])
        limits, left = self._asking.task.limits, self._asking.remaining().seconds
        if left is not None:
            overrun = min(limits.overrun_s, left * CHILD_OVERRUN)
            limits = replace(limits, time_s=left * CHILD_TIME, overrun_s=overrun)
        return replace(
            self._asking.task,
            question=question,
            documents=documents,
            facts=InputFacts(len(documents), size, listing=listing),
            limits=limits,
            check=by_kernel,
            schema=schema,
            depth=self._asking.task.depth - 1,
        )

    async def _run_child(self, task: Task, sandbox: Sandbox, span: Span) -> Outcome:
        found = Found()
        deps, began = replace(self._asking.deps, sandbox=sandbox, found=found), self._asking.deps.clock()
        deps.emit(ChildStarted(task.question, len(task.documents), task.facts.bytes, self._asking.step), span)
        outcome = None
        try:
            outcome = await self._start(task, deps, span)
        except RlmError as error:
            outcome = Outcome("error", None, 0, None, error)
        except asyncio.CancelledError:
            if not self._given_up or self.limit is None:
                raise
            status: Status = "partial" if found.answer else "no_answer"
            outcome = Outcome(status, found.answer, found.iterations, self.limit.limit, self.limit)
        finally:
            seconds = deps.clock() - began
            if outcome is None:
                deps.emit(ChildFinished("interrupted", seconds), span)
            else:
                deps.emit(ChildFinished(outcome.status, seconds, said_of(outcome)), span)
        return outcome

    async def _reply(self, prompt: str, model: str) -> SubReply:
        if refusal := self._refusal(prompt, model):
            return SubReply(False, refusal)
        asking = self._asking
        call = asking.span.call(f"s{next(self._numbers)}")
        messages, deadline = (Message("user", prompt),), asking.cap.work
        request = Request(call, "sub", model, messages, asking.span, asking.step, deadline=deadline)
        try:
            completion = await asking.deps.model.complete(request)
        except LimitError as reached:
            if self._is_at_fault(prompt, model, reached):
                return SubReply(False, f"{reached.message}; {self._too_long(prompt, model)}")
            self.limit = self.limit or reached
            return SubReply(False, reached.message)
        except RlmError as error:
            if is_hopeless(error) and model in (asking.task.root, asking.task.sub):  # an alias may be asked elsewhere
                self._end_with(error)
            return SubReply(False, error.message)
        self.cut_short += completion.finish in ("length", "filter")
        return SubReply(True, completion.text)

    def _end_with(self, error: RlmError) -> None:
        """Nothing can be had from this provider: the cell and its other calls, most of them not sent yet, are over."""
        if self.fatal is None:
            self.fatal = error
            self._asking.deps.sandbox.interrupt()

    def _refusal(self, prompt: str, model: str) -> str:
        return self._over() or self._unfit(prompt, model)

    def _over(self) -> str:
        """Why no call is made any more, whatever is asked."""
        if not self._asking.task.depth:
            return NO_SUBCALLS
        if self.fatal is not None:
            return self.fatal.message
        if self.limit is not None:
            return self.limit.message
        return ""

    def _unfit(self, prompt: str, model: str) -> str:
        if not prompt.strip():
            return "the prompt is empty"
        window = self._asking.task.windows.get(model)
        if window and len(prompt) > window * 6:  # no text packs six characters into every token
            return self._too_long(prompt, model)
        return ""

    def _is_at_fault(self, prompt: str, model: str, reached: LimitError) -> bool:
        """Whether only this prompt is too much for a cap, and longer than what a call was said to take."""
        return reached.alone and len(prompt) > self.payload(model)

    def _too_long(self, prompt: str, model: str) -> str:
        return f"the prompt has {len(prompt):,} characters and this model takes about {self.payload(model):,}: split it"

    def payload(self, model: str) -> int:
        """Characters that one call to the model may hold."""
        return payload_chars(self._asking.task.windows.get(model))

    def budget(self) -> Mapping[str, float | int | str | None]:
        left = self._asking.remaining()
        return {
            "turns": left.turns,
            "subcalls": left.subcalls if self._asking.task.depth else 0,
            "seconds": None if left.seconds is None else round(left.seconds, 1),
            "usd": None if left.usd is None else round(left.usd, 6),
            "tokens": left.tokens,
            "subcall_chars": self.payload(self._asking.task.sub),
            "limit": self.limit.limit if self.limit else None if self._asking.task.depth else "depth",
        }

    def progress(self, done: int, total: int | None) -> None:
        self._asking.deps.emit(ItemsDone(self._asking.step, done, total), self._asking.span)

    def raise_if_limited(self) -> None:
        if self.limit is not None:
            raise self.limit


async def by_kernel(answers: Sequence[Answer]) -> list[str]:
    """A `Check` of answers that the kernel has checked."""
    return [answer.problem for answer in answers]


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
