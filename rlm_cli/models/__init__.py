"""Ask a language model: the `Model` seam and the values that cross it.

The chain is `Reported(Cached(Budgeted(Retrying(Limited(Breaker(Provider()))))))` (DESIGN.md 5): each link implements
`Model`, wraps the next, and has one concern. `provider.py` is the only importer of litellm; `offline.py` and
`scripted.py` are real providers that need no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ..events import ROOT, Role, Span, Usage

Finish = Literal["stop", "length", "cut", "filter"]
OnText = Callable[[str], None]
Cut = Callable[[str], int | None]


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Request:
    """One logical call. `call` is its id in the event stream, unique in the run; `model` a resolved id.

    `cut`, when set, is called for each attempt, and what it gives is asked after each streamed piece with the text of
    that attempt so far; a number means: end the text there and close the stream. `max_output` is in tokens, None for
    the model's default. `deadline` is when whoever asks stops waiting, by the event loop's clock, None: never. It
    cancels the call then; nothing is begun that would take longer.
    """

    call: str
    role: Role
    model: str
    messages: tuple[Message, ...]
    span: Span = ROOT
    step: int = 0
    cut: Callable[[], Cut] | None = None
    max_output: int | None = None
    deadline: float | None = None

    @property
    def chars(self) -> int:
        return sum(len(message.content) for message in self.messages)


@dataclass(frozen=True)
class Completion:
    """What came back. `cost_usd` None: price unknown. `attempts`: requests sent to the provider for this call; none
    when it was `cached`."""

    text: str
    usage: Usage
    model: str
    finish: Finish = "stop"
    cost_usd: float | None = None
    seconds: float = 0.0
    attempts: int = 1
    cached: bool = False


class Model(Protocol):
    """One request in, one completion out."""

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """Ask once. `on_text` receives pieces as they stream (not called when the provider cannot stream).

        Raises `AuthError`, `ProviderError` (final) or `TransientError` (may be retried), `LimitError` when a cap
        forbids the call. Cancelling the task closes the connection; the callee cleans up its own resources.
        An exception raised after requests were sent carries their number and tokens in a `Spent` (see `spent_by`).
        """
        ...


@dataclass(frozen=True)
class Spent:
    """What a failed call used up anyway: requests sent, and tokens that may have been billed (estimated). `cost_usd` is
    what the ledger booked for them; None: not known, or not booked yet."""

    attempts: int = 0
    usage: Usage = Usage()
    cost_usd: float | None = None


def note_spent(error: BaseException, spent: Spent) -> None:
    """Attach what a failed call used up to its exception, for the ledger."""
    error.__dict__["rlm_spent"] = spent


def spent_by(error: BaseException) -> Spent:
    """What `error` says was used up; nothing when it says nothing."""
    spent = error.__dict__.get("rlm_spent")
    return spent if isinstance(spent, Spent) else Spent()
