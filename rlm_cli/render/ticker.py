"""One changing line on a terminal, for what takes longer than a second before a run has anything to show."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TextIO

from rich.text import Text

from .live import Region
from .look import Look
from .sanitize import clean_line

PATIENCE_S = 0.7
INTERVAL_S = 0.125


class Ticker:
    """`show` draws the newest text, at most eight times a second and only after the first moments; silent where
    nothing may be redrawn. `say` leaves a line behind anywhere. `quiet`: neither. Close it before anything else draws.
    """

    def __init__(
        self, stream: TextIO, look: Look, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._quiet = quiet
        self._region = Region(stream, look) if look.live else None
        self._clock = clock
        self._next = clock() + PATIENCE_S

    def show(self, text: str) -> None:
        """Replace the line."""
        now = self._clock()
        if self._quiet:
            return
        if self._region is not None and now >= self._next:
            self._next = now + INTERVAL_S
            self._region.draw([], [Text(clean_line(text, self._region.width - 1), "dim")])

    def say(self, text: str) -> None:
        """Print a line that stays."""
        line = clean_line(text, 10_000)
        if self._quiet:
            return
        if self._region is not None:
            self._region.draw([Text(line)], [])
        else:
            print(f"rlm: {line}", file=self._stream, flush=True)

    def close(self) -> None:
        """Take the line away."""
        if self._region is not None:
            with contextlib.suppress(OSError):  # a terminal that was closed
                self._region.draw([], [])
