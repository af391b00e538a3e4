"""How many calls are in flight at a time, over the whole tree of runs: as many as pay, never more than allowed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from ..errors import TransientError
from . import Completion, Model, OnText, Request
from .retrying import would_wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START = 16
PAYS = 0.25
"""A wider window stays when it brings at least this part of what it would bring if calls did not slow each other."""
REST_ROUNDS = 8
"""Rounds at the old width after a wider one that did not pay."""
CALM_ROUNDS = 4
"""Rounds after a 429 before the width grows again."""
RATE_LIMITED = "rate_limited"


class _Waiting(NamedTuple):
    """A call that waits for a place. What comes first in this order goes first; no two have the same ticket."""

    later: bool
    ticket: int
    turn: asyncio.Future[None]


class Window:
    """How many calls of one model may be in flight, like TCP's congestion window.

    It begins at `START`, doubles round after round (a round is as many replies as the window is wide, with calls
    waiting for it all the while) as long as the rate of replies grows with it, and goes back when it does not: a server
    that works on one request at a time gains nothing from a queue. A 429 takes one place away: so a batch of which
    a provider lets ten in goes on with ten, and one that refuses now and then, whoever asks, costs little. It also
    holds every start until the server's Retry-After is over; from then on the window grows by an eighth every few
    rounds.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most, self._clock = most, clock
        self.width = min(START, most)
        self.in_flight = 0
        self._doubling = True
        self._rest = 0
        self._narrower: tuple[int, float] | None = None
        """The width before the last growth, and its rate; None: nothing to compare."""
        self._open_at = 0.0
        self._replies, self._round_began = 0, 0.0
        self._queues: tuple[deque[_Waiting], deque[_Waiting]] = (deque(), deque())
        """Those who go first, and the others."""

    # -- who waits for it

    def queue(self, waiting: _Waiting) -> None:
        if not self.in_flight:
            self._new_round()
        self._queues[waiting.later].append(waiting)

    @property
    def next(self) -> _Waiting | None:
        """Whose turn it is. Who gave up meanwhile is passed over."""
        for queue in self._queues:
            while queue and queue[0].turn.done():
                queue.popleft()
            if queue:
                return queue[0]
        return None

    @property
    def late(self) -> float:
        """Seconds until it opens again."""
        return max(0.0, self._open_at - self._clock())

    @property
    def is_free(self) -> bool:
        return self.in_flight < self.width and not self.late

    # -- what the replies say

    def replied(self) -> None:
        """A call succeeded."""
        self._replies += 1
        if self.next is None or self.in_flight < self.width:
            # Nothing wanted to go out, or something else held it back: the rate says nothing about the width.
            self._new_round()
        elif self._replies >= self.width:
            self._end_of_round()

    def refused(self, wait: float) -> None:
        """A call was told to slow down; nothing starts for `wait` seconds."""
        self._doubling, self._narrower = False, None
        self.width, self._rest = max(1, self.width - 1), max(self._rest, CALM_ROUNDS)
        if wait:
            self._open_at = max(self._open_at, self._clock() + wait)
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


class Limited:
    """`Model` whose sub-calls and child runs' turns share the places of the tree: never more than `concurrency` are
    taken, by whichever models, and of each model's calls as many as its `Window` lets through. One that is told to slow
    down holds up no other.

    First come first served, but a child's turn goes before the sub-calls that wait: thousands of its parent's must not
    keep it waiting. The outermost run's turns take no place: while it thinks, no code of its own runs that could ask.
    Retrying sits outside, so that nobody holds a place while sleeping.
    """

    def __init__(self, inner: Model, concurrency: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner, self._most, self._clock = inner, concurrency, clock
        self.in_flight = 0
        self.windows: dict[str, Window] = {}
        """By model."""
        self._tickets = itertools.count()
        self._wake: asyncio.TimerHandle | None = None

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        if request.role != "sub" and not request.span.depth:
            return await self._inner.complete(request, on_text)
        window = self.windows.get(request.model)
        if window is None:
            window = self.windows[request.model] = Window(self._most, self._clock)
        async with self._place(window, later=request.role == "sub"):
            try:
                completion = await self._inner.complete(request, on_text)
            except TransientError as error:
                if error.code == RATE_LIMITED:
                    asked = error.retry_after or 0.0
                    window.refused(asked if would_wait(request, asked, self._clock()) else 0.0)
                raise
            window.replied()
            return completion

    @asynccontextmanager
    async def _place(self, window: Window, *, later: bool) -> AsyncIterator[None]:
        turn = asyncio.get_running_loop().create_future()
        window.queue(_Waiting(later, next(self._tickets), turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # admitted in the same instant
                self._leave(window)
            raise
        try:
            yield
        finally:
            self._leave(window)

    def _leave(self, window: Window) -> None:
        window.in_flight -= 1
        self.in_flight -= 1
        self._admit()

    def _admit(self) -> None:
        """Let in whose turn it is, and come back when a window that is waited for opens again."""
        while self.in_flight < self._most:
            ready = [(first, window) for window in self.windows.values() if window.is_free and (first := window.next)]
            if not ready:
                break
            first, window = min(ready, key=lambda pair: pair[0][:2])
            self.in_flight += 1
            window.in_flight += 1
            first.turn.set_result(None)
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        if closed := [window.late for window in self.windows.values() if window.late and window.next]:
            self._wake = asyncio.get_running_loop().call_later(min(closed), self._admit)
