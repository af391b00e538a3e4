"""The evidence for an answer, as lines for a person: `path:line` and the quote, or that it was not found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TextIO

from rich.text import Text

from ..events import Citation
from ..units import human_count
from .look import Look, print_lines
from .sanitize import clean_line

MOST = 20
_QUOTE = 120
_ORDER = {"not_found": 0, "unchecked": 0}
_REMARKS = {
    "approximate": "but for white space",
    "not_found": "not found in the input",
    "unchecked": "not checked",
}


def print_citations(stream: TextIO, citations: Sequence[Citation], *, look: Look, here: str = "") -> None:
    """Below the answer, after an empty line; `here`: the working folder. Nothing where there are none."""
    if citations:
        print_lines(stream, [Text(), *citation_lines(citations, here=here)], look=look)


def citation_lines(citations: Sequence[Citation], *, here: str = "", most: int = MOST) -> list[Text]:
    """A heading and a line each; of more than `most`, those that were not found come first. Paths below the folder
    `here` are shown from there, so that an editor or a terminal opens `path:line`."""
    if not citations:
        return []
    shown = list(citations)
    if len(shown) > most:
        shown = sorted(shown, key=lambda one: _ORDER.get(one.status, 1))[:most]
    lines = [Text("Evidence:"), *(_line(one, here) for one in shown)]
    if left := len(citations) - len(shown):
        lines.append(Text(f"  and {human_count(left)} more, in --json and in rlm runs show", "dim"))
    return lines


def _line(one: Citation, here: str) -> Text:
    quote = f'"{clean_line(one.quote, _QUOTE)}"'
    remark = _REMARKS.get(one.status, "")
    if one.line is None:
        said = f" (said to be in {clean_line(one.document, _QUOTE)})" if one.document else ""
        return Text.assemble("  ", (f"✗ {remark}: ", "yellow"), quote, (said, "dim"))
    return Text.assemble("  ", (place_of(one, here), "cyan"), "  ", quote, (f" ({remark})" if remark else "", "yellow"))


def place_of(one: Citation, here: str = "") -> str:
    """`path:line`; of what is no file as it is, the document's name and the line of its text."""
    if one.path is None:
        return f"{clean_line(one.document, None) or 'input'}, line {one.line}"
    path = PurePath(one.path)
    shown = path.relative_to(here) if here and path.is_relative_to(here) else path
    return f"{clean_line(str(shown), None)}:{one.line}"
