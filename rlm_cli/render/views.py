"""Which view a run gets."""

from __future__ import annotations

from typing import Literal, Protocol, TextIO

from ..events import Record
from .live import LiveView
from .look import Look
from .plain import PlainLines

ProgressChoice = Literal["auto", "rich", "plain", "none"]


class View(Protocol):
    """A listener that draws. `close` before anything else writes to the same stream; idempotent."""

    name: str

    def __call__(self, record: Record) -> None: ...
    def close(self) -> None: ...


class NoView:
    """Draws nothing (`-q`, `--progress none`)."""

    name = "no view"

    def __call__(self, record: Record) -> None:
        """Nothing to show."""

    def close(self) -> None:
        """Nothing is held."""


def view_for(stream: TextIO, look: Look, *, progress: ProgressChoice = "auto", quiet: bool = False) -> View:
    """The view for `stream`: live on a terminal that may be redrawn, plain lines elsewhere; "rich" insists."""
    if quiet or progress == "none":
        return NoView()
    if progress == "rich" or (progress == "auto" and look.live):
        return LiveView(stream, look)
    return PlainLines(stream, look)
