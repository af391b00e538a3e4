"""How many sub-calls are in flight at a time, over the whole tree of runs: as many as pay, never more than allowed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ..errors import TransientError
from . import Completion, Model, OnText, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START = 16
PAYS = 0.25
"""A wider window stays when it brings at least this part of what it would bring if calls did not slow each other."""
REST_ROUNDS = 8
"""Rounds at the old width after a wider one that did not pay."""
PAUSE_MOST_S = 90.0
RATE_LIMITED = "rate_limited"


class Window:
    """How many calls may be in flight, like TCP's congestion window.

    It begins at `START`, doubles round after round (a round is as many replies as the window is wide, with calls
    waiting all the while) as long as the rate of replies grows with it, and goes back when it does not: a server that
    works on one request at a time gains nothing from a queue. A 429 halves it, once for all the calls that were in
    flight then, holds every start until the server's Retry-After is over, and from then on it grows by an eighth.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self.width = min(START, most)
        self.in_flight = 0
        self._doubling = True
        self._rest = 0
        self._narrower: tuple[int, float] | None = None
        """The width before the last growth, and its rate; None: nothing to compare."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._open_at = 0.0
        self._cut_at = 0.0
        self._wake: asyncio.TimerHandle | None = None
        self._replies, self._round_began = 0, 0.0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold one place, first come first served."""
        await self._enter()
        try:
            yield
        finally:
            self.in_flight -= 1
            self._admit()

    async def _enter(self) -> None:
        if not self.in_flight:
            self._new_round()
        if not self._waiting and self._free():
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted in the same instant
                self.in_flight -= 1
                self._admit()
            else:
                self._waiting.remove(turn)
            raise

    def _free(self) -> bool:
        return self.in_flight < self.width and self._clock() >= self._open_at

    def _admit(self) -> None:
        while self._waiting and self._free():
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
        late = self._open_at - self._clock()
        if self._waiting and late > 0 and self._wake is None:
            self._wake = asyncio.get_running_loop().call_later(late, self._reopen)

    def _reopen(self) -> None:
        self._wake = None
        self._admit()

    # -- what the replies say

    def replied(self) -> None:
        """A call succeeded."""
        self._replies += 1
        if not self._waiting:  # nothing wanted to go out: the rate says nothing about the width
            self._new_round()
        elif self._replies >= self.width:
            self._end_of_round()

    def refused(self, began: float, wait: float | None) -> None:
        """A call that began then was told to slow down, for `wait` seconds if it was told how long."""
        now = self._clock()
        if wait:
            self._open_at = max(self._open_at, now + min(wait, PAUSE_MOST_S))
        if began < self._cut_at:
            return  # sent before the last cut, which was meant for it too
        self._cut_at = now
        self.width = max(1, min(self.width, self.in_flight) // 2)
        self._doubling, self._narrower = False, None
        self._new_round()

    def _new_round(self) -> None:
        self._replies = 0
        self._round_began = self._clock()

    def _end_of_round(self) -> None:
        seconds = self._clock() - self._round_began
        rate = self._replies / seconds if seconds > 0 else float("inf")
        narrower, self._narrower = self._narrower, None
        if narrower is not None and rate < narrower[1] * (1 + PAYS * (self.width / narrower[0] - 1)):
            self.width, self._rest = narrower[0], REST_ROUNDS
        elif self._rest:
            self._rest -= 1
        elif self.width < self._most:
            self._narrower = (self.width, rate)
            self.width = min(self._most, self.width + (self.width if self._doubling else max(1, self.width // 8)))
        self._new_round()
        self._admit()


class Limited:
    """`Model` whose sub-calls share one `Window`. Root calls take no place: a parent's sub-calls must not be able to
    keep its child's root waiting. Retrying sits outside, so that nobody holds a place while sleeping."""

    def __init__(self, inner: Model, concurrency: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner, self._clock = inner, clock
        self.window = Window(concurrency, clock=clock)

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        if request.role != "sub":
            return await self._inner.complete(request, on_text)
        async with self.window.slot():
            began = self._clock()
            try:
                completion = await self._inner.complete(request, on_text)
            except TransientError as error:
                if error.code == RATE_LIMITED:
                    self.window.refused(began, error.retry_after)
                raise
            self.window.replied()
            return completion
