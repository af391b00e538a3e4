"""Jupyter notebooks, which are JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from .output import Output, RefusedError
from .package import whole

ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def notebook(source: int, ready: Callable[[], None], output: Output) -> None:
    """Its cells, each below a mark, with the text that they printed; no pictures."""
    ready()
    book = json.loads(whole(source))
    if not isinstance(book, dict):
        raise RefusedError("it is no notebook")
    # Before version 4 the cells were on sheets.
    cells = book.get("cells") or [cell for sheet in book.get("worksheets", ()) for cell in sheet.get("cells", ())]
    if not isinstance(book.get("cells"), list) and not cells:
        raise RefusedError("it is no notebook")
    for number, cell in enumerate(cells, 1):
        output.mark(f"cell {number} ({cell.get('cell_type', 'unknown')})")
        output.line(joined(cell.get("source", cell.get("input", ""))))
        said = "\n".join(filter(None, (output_text(item) for item in cell.get("outputs", ()))))
        if said:
            output.mark(f"output of cell {number}")
            output.line(said)


def output_text(item: dict[str, Any]) -> str:
    """What a cell's output says in plain text."""
    if item.get("output_type") in ("error", "pyerr"):
        return ESCAPES.sub("", "\n".join(item.get("traceback", ())))
    data = item.get("data", item)
    for kind in ("text/markdown", "text/plain", "text", "text/html"):
        if data.get(kind):
            return ESCAPES.sub("", joined(data[kind])).rstrip("\n")
    return ""


def joined(lines: str | Iterable[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)
