"""Mode direct: the documents and the question in one plain call; the reply is the answer. No container.

What one call cannot do is not cut and not an error: the same run goes on by code, with a warning. That is an input
which the provider finds too long, or silently cut; one that is not text; and a reply that hit the output limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

from .engine import REPAIRS, is_empty, meanings, never_fitted, run
from .errors import LimitError, ProviderError, RlmError
from .events import (
    ROOT,
    CodeWritten,
    Event,
    LimitReached,
    ModelText,
    PromptSet,
    Span,
    StepFinished,
    StepStarted,
    StepStatus,
    Warned,
)
from .models import Completion, Request
from .models.facts import was_cut
from .prompts import History, direct_prompt, direct_repair, reply_text, reply_values, split_evidence
from .sandbox import Answer, Quote
from .sandbox.decoded import Decoded, read_texts
from .sandbox.kernel.wire import QUOTE_CHARS
from .task import UNCHECKED, Deps, Outcome, Task

UNFINISHED = "the reply was not finished: this is what had arrived"


class NotDirectError(Exception):
    """One call cannot answer this; the message says why."""


async def ask_directly(task: Task, deps: Deps, span: Span = ROOT) -> Outcome:
    """Answer one question in one call, or as `engine.run` does where that is not possible. Raises as it does, and
    `InputError` for a document that cannot be read."""
    call = _Direct(task, deps, span)
    try:
        async with asyncio.timeout(task.limits.time_s) as timer:
            call.deadline = timer.when()
            return await call.run()
    except NotDirectError as reason:
        call.emit(Warned(f"{reason}: going on by code, in the sandbox"))
    except TimeoutError:
        if not timer.expired():
            raise
        message = f"the time limit of {task.limits.time_s:g} s was reached"
        return call.limited(LimitError("time", message, hint="Raise --max-time."))
    except LimitError as reached:
        return call.limited(reached)
    except RlmError as lost:
        return call.partial(lost)
    try:
        return await run(call.rest(), deps, span, taken=call.step)
    except RlmError as lost:
        return call.partial(lost)


class _Direct:
    """One call, and the repairs that a schema may need. `heard`: the reply so far."""

    def __init__(self, task: Task, deps: Deps, span: Span) -> None:
        self.task, self.deps, self.span = task, deps, span
        self.began = deps.clock()
        self.step = 0
        self.heard = ""
        self.deadline: float | None = None

    def emit(self, event: Event) -> None:
        self.deps.emit(event, self.span)

    async def run(self) -> Outcome:
        history = await self.open()
        while True:
            self.step += 1
            began = self.deps.clock()
            self.emit(StepStarted(self.step))
            completion = await self.ask(history)
            self.emit(CodeWritten(self.step, completion.text, ""))
            try:
                answer, problem = await self.answer_in(completion.text)
            except BaseException as error:
                self.finish(began, "error" if isinstance(error, Exception) else "interrupted")
                raise
            again = bool(problem) and self.step <= min(REPAIRS, self.task.limits.iterations - 1)
            note = direct_repair(problem) if again else ""
            self.finish(began, "error" if problem else "ok", note)
            if is_empty(answer):
                return Outcome("no_answer", None, self.step)
            if not problem:
                return Outcome("ok", answer, self.step)
            if not again:
                return Outcome("error", answer, self.step, None, never_fitted(problem, self.step - 1))
            history = history.turn(reply=completion.text, observation=note)

    async def open(self) -> History:
        """The prompt. Raises `NotDirectError` for an input that is not text."""
        documents, changes = await asyncio.to_thread(read_texts, self.task.documents)
        for change in changes.sentences():
            self.emit(Warned(change))
        if binary := [document.name for document in documents if "\0" in document.text]:
            raise NotDirectError(f"{binary[0]} is not text")
        system, user = direct_prompt(self.task.question, documents, schema=self.task.schema, cite=self.cite)
        outline = [Decoded(name, f"({len(text):,} characters)", lossy) for name, text, lossy in documents]
        self.emit(PromptSet(system, direct_prompt(self.task.question, outline, schema=self.task.schema)[1]))
        return History.start(system=system, user=user)

    async def ask(self, history: History) -> Completion:
        """The reply, whole. Raises `NotDirectError` when the prompt did not fit, or the reply."""
        request = Request(
            call=self.span.call(f"r{self.step}"),
            role="root",
            model=self.task.root,
            messages=history.messages,
            span=self.span,
            step=self.step,
            cut=lambda: self.hear,
            deadline=self.deadline,
        )
        began = self.deps.clock()
        try:
            completion = await self.deps.model.complete(request, lambda text: self.emit(ModelText(self.step, text)))
            self.heard = "" if was_cut(request.chars, completion.usage) else completion.text
            check_whole(request, completion)
        except BaseException as error:
            self.keep()
            self.finish(began, "error" if isinstance(error, Exception) else "interrupted")
            if isinstance(error, ProviderError) and error.code == "context_overflow":
                raise NotDirectError(f"the input does not fit into one call ({error.message})") from error
            raise
        return completion

    def hear(self, text: str) -> None:
        """Of `Request.cut`: shown the reply so far, whichever attempt it is; cuts nothing."""
        self.heard = text

    def keep(self) -> None:
        """Leave what was heard to whoever ends the run."""
        found, text = self.deps.found, reply_text(self.heard)
        found.iterations = self.step
        if text:
            found.answer, found.note = Answer("text", text.encode("utf-8", "replace")), UNFINISHED

    async def answer_in(self, reply: str) -> tuple[Answer, str]:
        """The answer that a reply is, and what is wrong with it: with a schema the JSON in it that satisfies it, else
        whatever JSON it has. It is what was found when the check is stopped, or fails."""
        values = [Answer("json", value.encode("utf-8", "replace")) for value in self.values_in(reply)]
        said = values[0] if values else self.words_in(reply)
        if not values:
            values = meanings(said) if self.task.schema else [said]
        if is_empty(said):
            return said, ""
        try:
            problems = await self.task.check(values)
        except (asyncio.CancelledError, RlmError):
            found = self.deps.found
            found.answer, found.note, found.iterations = said, UNCHECKED, self.step
            raise
        return (said, problems[0]) if problems[-1] else (values[len(problems) - 1], "")

    def words_in(self, reply: str) -> Answer:
        """A reply as text, with the quotes that it gives for it."""
        text, quotes = split_evidence(reply) if self.cite else (reply_text(reply), [])
        evidence = tuple(Quote(quote[:QUOTE_CHARS]) for quote in quotes)
        return Answer("text", text.encode("utf-8", "replace"), evidence)

    def values_in(self, reply: str) -> Iterator[str]:
        """The JSON in a reply, where a form is demanded."""
        return reply_values(reply) if self.task.schema else iter(())

    @property
    def cite(self) -> bool:
        """Whether evidence is asked for: where a form is demanded, the reply has no room for it."""
        return self.task.cite and not self.task.schema

    def finish(self, began: float, status: StepStatus, observation: str = "") -> None:
        self.emit(StepFinished(self.step, status, self.deps.clock() - began, 0.0, observation))

    def limited(self, limit: LimitError) -> Outcome:
        """A cap ended it: what has arrived is a partial answer."""
        self.emit(LimitReached(limit.limit, limit.message))
        answer = self.what_was_found()
        return Outcome("partial" if answer else "no_answer", answer, self.step, limit.limit, limit)

    def partial(self, lost: RlmError) -> Outcome:
        """Provider, key or sandbox are gone: the same. Raises `lost` when nothing has arrived."""
        if (answer := self.what_was_found()) is None:
            raise lost
        return Outcome("partial", answer, self.step, None, lost)

    def what_was_found(self) -> Answer | None:
        found = self.deps.found
        if self.task.limits.on_limit == "fail" or found.answer is None:
            return None
        self.emit(Warned(found.note))
        return found.answer

    def rest(self) -> Task:
        """The same task, in the time that is left."""
        limits = self.task.limits
        if limits.time_s is None:
            return self.task
        left = max(limits.time_s - (self.deps.clock() - self.began), 1.0)
        return replace(self.task, limits=replace(limits, time_s=left))


def check_whole(request: Request, completion: Completion) -> None:
    """Raises `NotDirectError` unless the model has read all of its prompt and written all of its reply, `ProviderError`
    when the provider's filter ended it."""
    if completion.finish == "length":
        raise NotDirectError("the reply was longer than the model may write at once")
    if completion.finish == "filter":
        raise ProviderError(f"{request.model} broke off its reply (content filter)", code="content_filter")
    if was_cut(request.chars, completion.usage):
        read, sent = completion.usage.input, request.chars
        raise NotDirectError(f"the provider read only {read:,} tokens of a prompt of {sent:,} characters")
