"""Which view a run gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol, TextIO

from ..events import Record
from .live import LiveView
from .look import Look
from .plain import PlainLines
from .sanitize import clean_line

ProgressChoice = Literal["auto", "rich", "plain", "none"]


class View(Protocol):
    """A listener that draws. `close` before anything else writes to the same stream; idempotent. `say` prints a line
    that is no record, also after that."""

    name: str

    def __call__(self, record: Record) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class NoView:
    """Draws nothing of a run (`-q`, `--progress none`)."""

    name = "no view"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, record: Record) -> None:
        """Nothing to show."""

    def say(self, text: str) -> None:
        """What is said to somebody who just pressed Ctrl-C is no part of the run's drawing."""
        print(f"rlm: {clean_line(text)}", file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing is held."""


def view_for(
    stream: TextIO,
    look: Look,
    *,
    progress: ProgressChoice = "auto",
    quiet: bool = False,
    clock: Callable[[], float] | None = time.time,
) -> View:
    """The view for `stream`: live on a terminal that may be redrawn, plain lines elsewhere; "rich" insists.

    `clock` None: elapsed time is the records' own, as a replay needs it.
    """
    if quiet or progress == "none":
        return NoView(stream)
    if progress == "rich" or (progress == "auto" and look.live):
        return LiveView(stream, look, clock=clock)
    return PlainLines(stream, look)
