"""Where a run stands: one pure fold of its records, shared by the live view, plain lines and replay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..events import (
    CallFinished,
    CallRetried,
    CallStarted,
    CodeWritten,
    ItemsDone,
    LimitReached,
    Output,
    Record,
    RunFinished,
    RunStarted,
    SandboxReady,
    StepFinished,
    StepStarted,
    Totals,
)

Phase = Literal["starting", "asking", "running", "ending", "over"]


@dataclass(frozen=True)
class Burst:
    """The sub-calls of one step, children's calls included. `usd` is the known part; times are Unix seconds."""

    started: int = 0
    done: int = 0
    failed: int = 0
    cached: int = 0
    retries: int = 0
    tokens: int = 0
    usd: float = 0.0
    priced: bool = True
    began: float = 0.0
    ended: float = 0.0
    items: int = 0
    """Done, of a `map_query`'s `items_total` (None: not known)."""
    items_total: int | None = None

    @property
    def in_flight(self) -> int:
        return max(self.started - self.done, 0)

    @property
    def ok(self) -> int:
        return self.done - self.failed


@dataclass(frozen=True)
class Progress:
    """`now` is the latest record's time. `wait` is a pending retry's notice, true until `wait_until`. Of the sub-calls
    that began at most `concurrency` are in flight: the others wait for their turn."""

    began: float = 0.0
    now: float = 0.0
    phase: Phase = "starting"
    step: int = 0
    code_lines: int = 0
    output_bytes: int = 0
    burst: Burst = Burst()
    totals: Totals = Totals()
    root_call: str = ""
    wait: CallRetried | None = None
    wait_until: float = 0.0
    concurrency: float | None = None
    direct: bool = False
    """No code is written: a step's reply is the answer, which is shown as such."""

    def after(self, record: Record) -> Progress:
        """The progress once `record` has happened."""
        now = replace(self, now=record.ts)
        match record.event:
            case CallStarted() | CallFinished() | CallRetried() as event:
                return _call(now, event, child=record.span.depth > 0)
            case _ if record.span.depth:
                return now
            case RunStarted(limits=limits, mode=mode):
                totals = Totals(max_usd=limits.get("cost"))
                concurrency = limits.get("concurrency")
                return replace(now, began=record.ts, totals=totals, concurrency=concurrency, direct=mode == "direct")
            case SandboxReady():
                return replace(now, phase="asking", direct=False)
            case StepStarted(step=step):
                return replace(now, phase="asking", step=step, code_lines=0, output_bytes=0, burst=Burst(), wait=None)
            case CodeWritten(code="") if now.direct:
                return now
            case CodeWritten(code=code):
                return replace(now, phase="running", code_lines=len(code.splitlines()))
            case ItemsDone(done=done, total=of):
                return replace(now, burst=replace(now.burst, items=done, items_total=of))
            case Output(total=total):
                return replace(now, output_bytes=now.output_bytes + total)
            case StepFinished():
                return replace(now, phase="asking", wait=None)
            case LimitReached():
                return replace(now, phase="ending")
            case RunFinished(result=result):
                totals = Totals(result.calls, result.usage, result.cost, now.totals.max_usd)
                return replace(now, phase="over", totals=totals, wait=None)
        return now


def _call(progress: Progress, event: CallStarted | CallFinished | CallRetried, *, child: bool) -> Progress:
    burst = progress.burst
    if isinstance(event, CallRetried):
        sub = event.call != progress.root_call
        burst = replace(burst, retries=burst.retries + 1) if sub else burst
        return replace(progress, burst=burst, wait=event, wait_until=progress.now + event.wait_s)
    sub = child or event.role == "sub"
    if isinstance(event, CallStarted):
        if not sub:
            return replace(progress, root_call=event.call)
        return replace(
            progress,
            burst=replace(burst, started=burst.started + 1, began=burst.began if burst.started else progress.now),
        )
    if sub:
        burst = _finished(burst, event, progress.now)
    waited = progress.wait is not None and progress.wait.call == event.call
    return replace(progress, burst=burst, totals=event.totals, wait=None if waited else progress.wait)


def _finished(burst: Burst, event: CallFinished, now: float) -> Burst:
    return replace(
        burst,
        done=burst.done + 1,
        failed=burst.failed + (event.error is not None),
        cached=burst.cached + event.cached,
        tokens=burst.tokens + event.usage.total,
        usd=burst.usd + (event.cost_usd or 0.0),
        priced=burst.priced and event.cost_usd is not None,
        ended=now,
    )
