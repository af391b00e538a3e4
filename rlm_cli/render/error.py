"""An error as a person reads it: what happened, and the one thing to do."""

from __future__ import annotations

from typing import TextIO

from rich.text import Text

from ..events import ErrorInfo
from .format import fold
from .look import Look, console_for
from .sanitize import clean

_LINES, _CHARS = (30, 10), 4000


def error_lines(error: ErrorInfo) -> list[Text]:
    """`rlm: error: <message> [<code>]` and `  fix: <hint>`; further lines of either are indented below.

    A flood is folded: a message may quote what an engine or a server said. The hint is whole, it may be a command.
    """
    first, *rest = fold(error.message, *_LINES, chars=_CHARS) or [""]
    head = Text("rlm: ").append("error: ", "bold red").append(first)
    lines = [head, *(Text(f"  {line}") for line in rest)]
    lines[-1].append(f" [{clean(error.code)}]", "dim")
    if error.hint:
        first, *rest = clean(error.hint).split("\n")
        lines += [Text("  fix: ", "green").append(first), *(Text(f"       {line}") for line in rest)]
    return lines


def print_error(stream: TextIO, error: ErrorInfo, *, look: Look | None = None) -> None:
    """Print `error`, unwrapped: its hint may be a command to paste."""
    console = console_for(stream, look or Look())
    for line in error_lines(error):
        console.print(line, soft_wrap=True)
