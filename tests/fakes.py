"""Fakes at the seams: they implement the Protocols and record what was asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from rlm_cli.errors import RlmError
from rlm_cli.events import ROOT, Event, SandboxInfo, Span, Totals, Usage
from rlm_cli.models import Completion, OnText, Request
from rlm_cli.sandbox import (
    Answer,
    Captured,
    ContextFacts,
    Document,
    Host,
    OnOutput,
    StepResult,
    SubCall,
    SubReply,
)
from rlm_cli.task import Check

FACTS = ContextFacts(kind="str", documents=1, bytes=10, chars=10, lines=2, lines_exact=True)


@dataclass
class ScriptedModel:
    """Replies in order to root and final requests (an exception is raised), and by function to sub requests."""

    roots: list[str | RlmError]
    sub: Callable[[str], str | RlmError] = lambda prompt: f"reply to {prompt}"
    requests: list[Request] = field(default_factory=list)

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        self.requests.append(request)
        reply = self.sub(request.messages[-1].content) if request.role == "sub" else self.roots.pop(0)
        if isinstance(reply, RlmError):
            raise reply
        end = request.cut()(reply) if request.cut else None
        text = reply if end is None else reply[:end]
        if on_text:
            on_text(text)
        return Completion(text, Usage(1, 1), request.model, "stop" if end is None else "cut")


Cell = Callable[["ScriptedSandbox"], Awaitable[StepResult]]


@dataclass
class ScriptedSandbox:
    """Results in order, one a cell; a cell may be a coroutine function, to call back to the host."""

    results: list[StepResult | Cell]
    cells: list[str] = field(default_factory=list)
    host: Host | None = None
    info: SandboxInfo = field(default_factory=lambda: SandboxInfo("scripted"))
    facts: ContextFacts = FACTS
    unfinished: StepResult = field(default_factory=lambda: StepResult("interrupted"))
    """What a cell that is interrupted has done so far."""
    interrupts: int = 0
    running: asyncio.Future[StepResult] | None = None
    closed: bool = False

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        self.host = host
        return self.facts

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        self.cells.append(code)
        result = self.results.pop(0)
        if not isinstance(result, StepResult):
            result = await self._run(result)
        if on_output and result.stdout.head:
            on_output("stdout", result.stdout.head)
        return result

    async def _run(self, cell: Cell) -> StepResult:
        before = self.interrupts
        self.running = asyncio.ensure_future(cell(self))
        try:
            return await self.running
        except asyncio.CancelledError:
            if self.interrupts == before:
                raise
            return self.unfinished

    def interrupt(self) -> None:
        self.interrupts += 1
        if self.running is not None:
            self.running.cancel()

    async def close(self) -> None:
        self.closed = True

    def kill_now(self) -> None:
        self.closed = True

    async def ask(self, *prompts: str, model: str = "") -> list[SubReply]:
        """What a cell's llm_query_batched does."""
        assert self.host is not None
        replies: dict[int, SubReply] = {}
        await self.host.answer(SubCall("llm", prompts, model), replies.__setitem__)
        return [replies[index] for index in range(len(prompts))]


@dataclass
class Events:
    """An `emit` that remembers."""

    seen: list[Event] = field(default_factory=list)

    def __call__(self, event: Event, span: Span = ROOT) -> None:
        self.seen.append(event)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.seen]


def each(problem: Callable[[Answer], str]) -> Check:
    """A check that says of each answer what `problem` does."""

    async def check(answers: Sequence[Answer]) -> list[str]:
        problems = [problem(answer) for answer in answers]
        return problems[: problems.index("") + 1] if "" in problems else problems

    return check


def printed(text: str, *, status: str = "ok") -> StepResult:
    assert status in ("ok", "error")
    return StepResult("ok" if status == "ok" else "error", stdout=Captured(text, "", len(text.encode())))


def final(text: str) -> StepResult:
    return StepResult("ok", answer=Answer("text", text.encode()))


def no_totals() -> Totals:
    return Totals()


def fence(code: str) -> str:
    return f"Thinking.\n```repl\n{code}\n```\n"
