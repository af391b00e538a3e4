"""Trees of runs without a network or containers: scripted replies for each run, scripted sandboxes for each child."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlm_cli.children import Children
from rlm_cli.engine import run
from rlm_cli.errors import RlmError
from rlm_cli.events import ROOT, Event, Span
from rlm_cli.models import Completion, OnText, Request
from rlm_cli.prompts import InputFacts
from rlm_cli.sandbox import Answer, Document, Passed, StepResult, SubCall, SubReply
from rlm_cli.task import Deps, LedgerView, Limits, Outcome, Task

from .fakes import ScriptedModel, ScriptedSandbox, fence, final, no_totals, printed
from .models.virtual import now, run_virtually

QUICK_S = 20


@dataclass
class Tree:
    """A root whose children play `scripts`: (question, cells) in the order in which they start."""

    model: ScriptedModel
    root: ScriptedSandbox
    children: list[ScriptedSandbox] = field(default_factory=list)
    max_depth: int = 2
    limits: Limits = Limits()
    seen: list[tuple[str, Event]] = field(default_factory=list)
    made: list[ScriptedSandbox] = field(default_factory=list)

    virtual: bool = False
    """Whether waiting takes no time; `seconds` is then how long it would have taken."""
    seconds: float = 0.0

    def sandbox(self) -> ScriptedSandbox:
        self.made.append(self.children.pop(0))
        return self.made[-1]

    def emit(self, event: Event, span: Span = ROOT) -> None:
        self.seen.append((str(span), event))

    def play(self, documents: Sequence[Document] = ()) -> Outcome:
        task = Task("Q", documents, InputFacts(1, 10), "m/root", "m/sub", limits=self.limits, depth=self.max_depth)
        children = Children(self.sandbox)
        clock = now if self.virtual else time.monotonic
        deps = Deps(self.model, self.root, self.emit, LedgerView(no_totals), clock, children=children)

        async def closed() -> Outcome:
            try:
                return await run(task, deps)
            finally:
                await children.close()
                assert children.live == []
                await self.root.close()

        if not self.virtual:
            return asyncio.run(asyncio.wait_for(closed(), QUICK_S))
        outcome, self.seconds = run_virtually(closed())
        return outcome


HANGS = "no reply ever comes"


class BySpan(ScriptedModel):
    """Root replies by the run that asks: its own list for each span. For `HANGS`, and a sub-call's prompt that holds
    it, none comes."""

    def __init__(self, replies: dict[str, list[str | RlmError]]) -> None:
        super().__init__([])
        self._replies = replies

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        self.roots = [] if request.role == "sub" else [self._replies[str(request.span)].pop(0)]
        if HANGS in (request.messages[-1].content, *self.roots):
            self.requests.append(request)
            await asyncio.Event().wait()
        return await super().complete(request, on_text)


async def rlm(
    sandbox: ScriptedSandbox, *prompts: str, contexts: tuple[Passed, ...] = (), schema: str = ""
) -> list[SubReply]:
    """What a cell's rlm_query_batched does."""
    assert sandbox.host is not None
    replies: dict[int, SubReply] = {}
    call = SubCall("rlm", prompts, "", contexts or (None,) * len(prompts), schema)
    await sandbox.host.answer(call, replies.__setitem__)
    return [replies[index] for index in range(len(prompts))]


def asks(got: list[list[SubReply]], *prompts: str, contexts: tuple[Passed, ...] = ()) -> ScriptedSandbox:
    """A sandbox whose first cell asks, and whose second submits."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        got.append(await rlm(sandbox, *prompts, contexts=contexts))
        return printed("asked\n")

    return ScriptedSandbox([cell, final("done")])


ASKS: list[str | RlmError] = [fence("ask"), fence("FINAL('done')")]
SUBMITS = fence("FINAL(1)")


def json_answer(text: bytes) -> StepResult:
    return StepResult("ok", answer=Answer("json", text))
