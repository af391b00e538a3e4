"""The one sanitizer: no untrusted string reaches a terminal without it.

Model text, code, output, file names, model names and error messages may hold escape sequences that move the cursor,
set the clipboard or hide text. Nothing is removed: each dangerous character becomes a visible escape such as `\\x1b`,
so what is shown is what was there. Both functions are idempotent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rich.cells import cell_len, set_cell_size

# Control characters but \n and \t (C0, DEL, C1), and everything that is invisible, reorders text or ends lines:
# soft hyphen, joiners and marks, bidi embeddings, overrides and isolates, separators, fillers, annotations, tags,
# variation selectors that carry no look, format characters of music, shorthand and hieroglyphs, lone surrogates,
# non-characters. Signs that Unicode counts as formats but that are seen (such as the Arabic end of ayah) stay.
_DANGEROUS = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad"
    r"\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    r"\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U0001fffe\U0001ffff\U000e0000-\U000e0fff"
)
_COMBINING = r"\u0300-\u034e\u0350-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"

_ESCAPE = re.compile(f"[{_DANGEROUS}]")
# Real scripts stack two or three marks; more is text that climbs over its neighbours.
_PILE = re.compile(f"(?<=[{_COMBINING}]{{4}})[{_COMBINING}]+")
_LAST_MARKS = re.compile(f"[{_COMBINING}]*\\Z")
_NEWLINE = "⏎"
_MARKS_A_CELL = 6


def clean(text: str) -> str:
    """`text` for a block: line feeds and tabs stay, CR LF becomes LF, everything dangerous is shown escaped."""
    text = _ESCAPE.sub(_visible, text.replace("\r\n", "\n"))
    return _PILE.sub(_visible, text)


def clean_pieces(texts: Iterable[str]) -> Iterator[str]:
    """`clean` of a text that comes in pieces, wherever it was cut."""
    held = marks = ""
    for piece in texts:
        text = held + piece
        held = "\r" if text.endswith("\r") else ""  # it may be half of a line end
        text = text[: len(text) - len(held)]
        yield clean(marks + text)[len(marks) :]
        last = _LAST_MARKS.search((marks + text)[-4:])  # as many as it takes to make a pile
        marks = last[0] if last else ""
    if held:
        yield clean(held)


def clean_line(text: str, width: int | None = None) -> str:
    """`text` on one line of at most `width` terminal cells: line ends shown as ⏎, the cut as …; no width, no cut."""
    if width is not None:
        # At most five characters share a cell once piles are cut, so a megabyte line costs what it shows.
        text = text[: (width + 1) * _MARKS_A_CELL + len(text) - len(text.lstrip())]
    text = clean(text.strip()).replace("\n", _NEWLINE).replace("\t", " ")
    if width is None or cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


def _visible(match: re.Match[str]) -> str:
    return "".join(_escape(ord(char)) for char in match.group())


def _escape(code: int) -> str:
    if code == 0x0D:
        return "\\r"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
