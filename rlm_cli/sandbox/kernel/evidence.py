"""Evidence for an answer: everything that `cite` and `FINAL(evidence=...)` take, as quotes that the host can check.

A quote is (text, name of its document or "", where it begins in characters or None). The place is a hint for the host,
which finds every quote in the input by itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice

from .text import Text
from .wire import EVIDENCE_MAX, NAME_CHARS, QUOTE_CHARS, QUOTES_MAX

FARTHEST = 1 << 53
"""No document has so many characters."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Quote = tuple[str, str, "int | None"]

_encode = json.JSONEncoder(ensure_ascii=False).encode

TAKES = (
    "a quote (str), a match of grep, a piece of chunks, a line of draw_sample, (document, quote), "
    "(document, start, end) or {'document': ..., 'quote': ...}"
)


def quotes(evidence: Any, context: Any, alone: str) -> list[Quote]:
    """Of one item, or of many; `alone` is the name of the document that `context` is, "" where it is many. Raises
    `TypeError` for what is no evidence."""
    if evidence is None:
        return []
    single = isinstance(evidence, (str, Mapping, Text)) or hasattr(evidence, "start") or is_tuple_item(evidence)
    items = [evidence] if single else list(islice(evidence, QUOTES_MAX + 1))
    return [
        quote(item, None, None, context, alone, f"evidence[{number}]")
        for number, item in enumerate(items)
        if item is not None  # what `cite` gives back: it has noted its quote already
    ]


def is_tuple_item(item: Any) -> bool:
    """Whether it is (document, start, end); two texts may as well be two quotes."""
    return isinstance(item, tuple) and len(item) == 3 and is_place(item[1]) and is_place(item[2])


def is_place(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def quote(item: Any, start: int | None, end: int | None, context: Any, alone: str, name: str) -> Quote:
    """What one item quotes; `start` and `end` cut it out of a text or a document."""
    if start is not None or end is not None:
        return part(item, start or 0, end, context, alone, name)
    if isinstance(item, Mapping):
        text = item.get("quote", item.get("text"))
        at = item.get("start")
        return made(text, item.get("document"), at if is_place(at) else None, name)
    if is_tuple_item(item):
        return part(item[0], item[1], item[2], context, alone, name)
    if isinstance(item, tuple) and len(item) == 2:
        return made(item[1], item[0], None, name)
    place = getattr(item, "start", None)
    if callable(place) and hasattr(item, "group"):  # a match of re
        return made(item.group(), "", place(), name)
    text = item if isinstance(item, str) else getattr(item, "text", None)
    return made(text, getattr(item, "document", ""), place if is_place(place) else None, name)


def part(item: Any, start: int, end: int | None, context: Any, alone: str, name: str) -> Quote:
    """[start, end) of the document of this name, or of a text."""
    document, text, base = getattr(item, "document", ""), item, getattr(item, "start", 0)
    if isinstance(context, Mapping) and isinstance(item, str) and not document and item in context:
        document, text = item, context[item]
    elif (item is None or (isinstance(item, str) and item in ("", alone))) and not isinstance(context, Mapping):
        text = context
    if not isinstance(text, (str, Text)) or not is_place(start) or not (end is None or is_place(end)):
        raise TypeError(f"{name}: start and end are offsets in a text or in a document of `context`")
    if start < 0 or end is None or end < 0:
        start, end, _ = slice(start, end).indices(len(text))
    last = max(start, min(end, start + QUOTE_CHARS + 1))
    return made(text[start:last], document, base + start if is_place(base) else None, name)


def made(text: Any, document: Any, start: int | None, name: str) -> Quote:
    if isinstance(text, Text):
        text = text[: QUOTE_CHARS + 1]
    if not isinstance(text, str) or not (document is None or isinstance(document, str)):
        raise TypeError(f"{name} is not evidence: it takes {TAKES}")
    if start is not None and not 0 <= start < FARTHEST:
        start = None
    # A str of its own: a piece would keep its whole text alive, and says how long it is in its own way.
    return str(text[: QUOTE_CHARS + 1]), str(document or "")[:NAME_CHARS], start


def packed(evidence: list[Quote]) -> bytes:
    """As it is sent: JSON lines `[quote, document, start]`, each quote once. What is beyond the limits is left out,
    and the cell is told."""
    lines: list[bytes] = []
    size, left_out, cut = 0, False, False
    for text, document, start in dict.fromkeys(evidence):
        cut = cut or len(text) > QUOTE_CHARS
        row = _encode([text[:QUOTE_CHARS], document, start]).encode("utf-8", "replace")
        if not text.strip() or len(lines) >= QUOTES_MAX or size + len(row) + 1 > EVIDENCE_MAX:
            left_out = True
            continue
        lines.append(row + b"\n")
        size += len(row) + 1
    if left_out:
        tell(f"evidence that is empty, or beyond {QUOTES_MAX:,} quotes ({EVIDENCE_MAX:,} bytes), is left out")
    if cut:
        tell(f"quotes are cut to {QUOTE_CHARS:,} characters")
    return b"".join(lines)


def tell(what: str) -> None:
    with suppress(Exception):  # a cell may have closed or replaced it
        sys.stderr.write(f"[kernel] FINAL: {what}\n")
