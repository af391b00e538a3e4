"""Try again what may pass. The only place that retries: the client libraries' own retries are off."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from ..errors import TransientError
from ..events import CallRetried, Emit, Usage
from . import Completion, Model, OnText, Request, Spent, note_spent, spent_by

MayRetry = Callable[[str, Usage], bool]
"""Asked after a failed attempt that may be billed, with the call's id and that attempt's tokens."""


LONGEST_ASKED_S = 90.0
"""A longer Retry-After is not worth waiting for."""


def would_wait(request: Request, seconds: float, now: float) -> bool:
    """Whether a call waits when its provider asks for so long; else it fails at once."""
    return seconds <= LONGEST_ASKED_S and is_in_time(request, now + seconds)


def is_in_time(request: Request, at: float) -> bool:
    """Whether whoever asks still waits then."""
    return request.deadline is None or at < request.deadline


@dataclass(frozen=True)
class Patience:
    """How long to go on. Waits double from `base_s` up to `longest_s`, with jitter; a provider's Retry-After is a
    lower bound."""

    attempts: int = 5
    base_s: float = 0.5
    longest_s: float = 30.0

    def wait(self, attempt: int, asked: float | None, jitter: float) -> float | None:
        """Seconds before the attempt after number `attempt` (from 1), `jitter` in 0..1; None: give up."""
        if attempt >= self.attempts:
            return None
        own = min(self.longest_s, self.base_s * 2.0 ** (attempt - 1)) * (0.5 + jitter / 2)
        # Many calls told the same Retry-After must not come back in the same instant.
        return own if asked is None else max(own, asked * (1 + jitter / 10))


def always(_call: str, _usage: Usage) -> bool:
    """No cap to ask."""
    return True


class Retrying:
    """`Model` that repeats after `TransientError`, visibly (`CallRetried`) and never past the request's deadline.

    A streamed reply that broke off is retried too: its text starts over, and the `CallRetried` in between tells
    whoever draws it to drop what was shown. What failed attempts may have cost is added to the usage of the call
    (`estimated`), or to the `Spent` of the error; `may_retry` lets the ledger refuse to pay for another.
    """

    def __init__(
        self,
        inner: Model,
        emit: Emit,
        *,
        patience: Patience = Patience(),
        may_retry: MayRetry = always,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._inner, self._emit, self._patience, self._may_retry = inner, emit, patience, may_retry
        self._clock, self._sleep, self._jitter = clock, sleep, jitter

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """As the inner model; `attempts` counts all requests sent. Raises the last attempt's error."""
        lost = Spent()
        for attempt in range(1, self._patience.attempts + 1):
            try:
                completion = await self._inner.complete(request, on_text)
            except TransientError as error:
                spent = spent_by(error)
                lost = Spent(lost.attempts + spent.attempts, lost.usage + spent.usage)
                note_spent(error, lost)
                await self._pause(request, error, spent, attempt, lost)
            except BaseException as error:
                spent = spent_by(error)
                note_spent(error, Spent(lost.attempts + spent.attempts, lost.usage + spent.usage))
                raise
            else:
                total = completion.attempts + lost.attempts
                return replace(completion, usage=completion.usage + lost.usage, attempts=total)
        raise AssertionError("Patience.wait ends the loop")

    async def _pause(self, request: Request, error: TransientError, spent: Spent, attempt: int, lost: Spent) -> None:
        """Wait before the next attempt, or raise `error` when there is to be none."""
        wait, now = self._patience.wait(attempt, error.retry_after, self._jitter()), self._clock()
        if (
            wait is None
            or not would_wait(request, error.retry_after or 0.0, now)
            or not is_in_time(request, now + wait)
        ):
            raise error
        if spent.usage.total and not self._may_retry(request.call, spent.usage):
            raise error
        event = CallRetried(request.call, attempt, self._patience.attempts, wait, error.message)
        self._emit(event, request.span)
        try:
            await self._sleep(wait)
        except asyncio.CancelledError as stop:
            note_spent(stop, lost)
            raise
