"""An error as a person reads it: what happened, and the one thing to do."""

from __future__ import annotations

from typing import TextIO

from rich.text import Text

from ..events import ErrorInfo
from .look import Look, console_for
from .sanitize import clean


def error_lines(error: ErrorInfo) -> list[Text]:
    """`rlm: error: <message> [<code>]` and `  fix: <hint>`; further lines of either are indented below."""
    first, *rest = clean(error.message).split("\n")
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
