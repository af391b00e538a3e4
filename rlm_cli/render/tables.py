"""Small tables for lists: aligned text, whole in a pipe, fitted to the window on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TextIO

from rich.cells import cell_len
from rich.text import Text

from .look import Look, console_for, width_of
from .sanitize import clean_line

_GAP = 2
_NARROWEST = 8


@dataclass(frozen=True)
class Column:
    """A heading; numbers align "right"; `style` is a rich style for the cells on a colour terminal; what somebody will
    copy is to `keep`: it is never cut."""

    name: str
    align: Literal["left", "right"] = "left"
    style: str = ""
    keep: bool = False


def print_table(
    stream: TextIO, columns: Sequence[str | Column], rows: Sequence[Sequence[str]], *, look: Look | None = None
) -> None:
    """Print `rows` under `columns` (names, or `Column` for more). Cells are untrusted text; newlines become ⏎.

    Without a `look`, or off a terminal: nothing is cut, columns are padded with spaces, no escape bytes.
    """
    look = look or Look()
    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    heads = [replace(head, name=clean_line(head.name)) for head in heads]
    console = console_for(stream, look)
    for line in table_lines(heads, rows, width=width_of(stream, look) if look.tty else None):
        console.print(line, soft_wrap=True)


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int | None) -> list[Text]:
    """The heading and one line per row, none wider than `width` cells when it is given."""
    cells = [[clean_line(cell) for cell in row] for row in rows]
    wanted = [
        max(cell_len(column.name), *(cell_len(row[i]) for row in cells)) if cells else cell_len(column.name)
        for i, column in enumerate(columns)
    ]
    widths = _fit(wanted, width, [column.keep for column in columns])
    heading = _line([column.name for column in columns], columns, widths, heading=True)
    return [heading, *(_line(row, columns, widths) for row in cells)]


def _fit(wanted: list[int], width: int | None, keep: list[bool]) -> list[int]:
    """Take cells from the widest column that may be cut, again and again, until the line fits or all are at their
    least."""
    widths = list(wanted)
    if width is None:
        return widths
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    while excess > 0:
        size, widest = max(((size, at) for at, size in enumerate(widths) if not keep[at]), default=(0, 0))
        if size <= _NARROWEST:
            break
        widths[widest] -= 1
        excess -= 1
    return widths


def _line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], *, heading: bool = False) -> Text:
    line = Text()
    for number, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
        shown = clean_line(cell, width)
        pad = " " * (width - cell_len(shown))
        style = "dim" if heading else column.style
        line.append(" " * _GAP if number else "")
        line.append(pad if column.align == "right" else "")
        line.append(shown, style)
        line.append(pad if column.align == "left" else "")
    line.rstrip()
    return line
