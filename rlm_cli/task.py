"""What a run is given, what it works with, and how it ended. Values only: `engine.run` does the work."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .children import Children
from .errors import RlmError
from .events import Emit, Status, Totals
from .models import Model
from .prompts import InputFacts
from .sandbox import Answer, Document, Sandbox
from .timecap import LAST_SHARE, LAST_TURN_S, OVERRUN_S, TimeCap

# Said of an answer whose check was not waited for.
UNCHECKED = "this answer was not checked against the schema to the end"
# Said of an answer that nobody submitted.
LAST_OUTPUT = "nobody submitted an answer: this is the last output of the model's code"


Check = Callable[[Sequence[Answer]], Awaitable[list[str]]]
"""What is wrong with each of some answers, in order, up to the first with nothing (""). It may take any time and can be
cancelled. Raises `RlmError` when it cannot be said."""


async def nothing_wrong(_answers: Sequence[Answer]) -> list[str]:
    """A check that is passed."""
    return [""]


@dataclass(frozen=True)
class Limits:
    """Caps of one run. Money, tokens and sub-calls are the ledger's; these are the loop's. Seconds."""

    iterations: int = 30
    time_s: float | None = 900.0
    step_s: float = 120.0
    on_limit: Literal["answer", "fail"] = "answer"
    overrun_s: float = OVERRUN_S
    """What it may take after `time_s` to stop what hangs."""

    @property
    def kept_s(self) -> float:
        """What of `time_s` is kept for the last turn."""
        return min(LAST_TURN_S, (self.time_s or 0.0) * LAST_SHARE) if self.on_limit == "answer" else 0.0

    def cap(self, began: float) -> TimeCap:
        """For a run that began then, by the event loop's clock."""
        if self.time_s is None:
            return TimeCap()
        return TimeCap(began + self.time_s - self.kept_s, began + self.time_s + self.overrun_s)


@dataclass(frozen=True)
class Task:
    """One question on one input. `aliases` are the only model names that the kernel may use ("" is the sub-model)."""

    question: str
    documents: Sequence[Document]
    facts: InputFacts
    root: str
    sub: str
    windows: Mapping[str, int | None] = field(default_factory=dict)
    """Tokens that each model takes, by its id; None, or no entry: not known."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    """Aliases that there are and that the kernel may not use, with the reason."""
    limits: Limits = Limits()
    check: Check = nothing_wrong
    """Says what is wrong with a submitted answer (--schema)."""
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
    """What a run has found so far, for whoever has to end it: the last output of its code, or an answer submitted by
    code that was stopped. `note` says what it is."""

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
