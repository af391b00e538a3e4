"""What `rlm_query` hands to a child run: parts of `context` by reference, any other text by value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from . import wire
from .context import Documents
from .encoded import Encoded, Span, is_single_byte
from .pieces import Piece
from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .context import Index

    Part = list[Any]
    """`[name, text]`, or `[name, document's number, first byte, bytes or None, encoding or ""]`."""

SMALL = 1 << 16
"""Characters up to which a text goes by value without a look at where it may be from."""
VALUES_MAX = wire.PROMPTS_MAX // 8
"""Characters that go by value with one question: whatever they are, they fit in one frame."""
HEAD = 1 << 14
"""Characters of a long text that are looked for first."""
NAME = 1000
"""Characters up to which a str in a list is taken for a name, so that a wrong one is told."""
UNNAMED = "text"
"""The name of a text that is of no document."""
UTF8 = ("auto", "utf-8", "utf8", "utf_8", "utf-8-sig", "utf_8_sig")
MARK = 3
"""Bytes of UTF-8's byte order mark."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Passing:
    """Tells what of the corpus a value is."""

    def __init__(self, context: Any, index: Index | None) -> None:
        self._context = context
        self._index = index

    def describe(self, value: Any, *, name: str) -> str:
        """JSON for the host: null (all of the context), or a list of parts. Raises `TypeError`, `ValueError`."""
        if value is None or value is self._context or isinstance(value, Documents):
            return "null"
        parts = self._parts(value, name)
        size = sum(len(part[1]) for part in parts if len(part) == 2)
        if size > VALUES_MAX:
            raise ValueError(
                f"{name}: {size:,} characters of text would have to be copied, at most {VALUES_MAX:,} can be; pass a "
                "slice of a document of `context`, or a list of document names: these are passed without copying"
            )
        return _encode(parts)

    def _parts(self, value: Any, name: str) -> list[Part]:
        if isinstance(value, (str, Text)):
            return [self._whole(value) or self._part(self._own_name(value), value)]
        if isinstance(value, Mapping):
            return [self._named(str(key), text, name) for key, text in value.items()]
        if isinstance(value, (bytes, bytearray)) or not isinstance(value, Iterable):
            raise TypeError(
                f"{name}: context is a text, a list of document names or a dict of texts, not {type(value).__name__}"
            )
        return [self._listed(number, item, name) for number, item in enumerate(value, 1)]

    def _whole(self, value: str | Text) -> Part | None:
        """The document that a str names, where there are many."""
        if type(value) is str and isinstance(self._context, Documents) and value in self._context:
            return self._document(value)
        return None

    def _document(self, name: str) -> Part:
        return [name, self._number(name), 0, None, ""]

    def _number(self, name: str) -> int:
        number = self._index.names.number(name) if self._index is not None else None
        if number is None:
            raise KeyError(name)
        return number

    def _named(self, key: str, text: Any, name: str) -> Part:
        """An item of a dict: most often a document under its own name."""
        if not isinstance(text, (str, Text)):
            raise TypeError(f"{name}: the values of a dict are texts, not {type(text).__name__}")
        context = self._context
        if isinstance(text, str) and isinstance(context, Documents) and key in context:
            same = len(text) <= context.size(key) and context[key] == text
            return self._document(key) if same else self._part(key, text)
        return self._part(key, text)

    def _listed(self, number: int, item: Any, name: str) -> Part:
        """An item of a list: a name, or a text."""
        if not isinstance(item, (str, Text)):
            raise TypeError(f"{name}: a list holds document names or texts, not {type(item).__name__}")
        context = self._context
        if type(item) is str and isinstance(context, Documents) and (item in context or len(item) < NAME):
            context.size(item)  # raises for what is no name, with those that are near
            return self._document(item)
        return self._part(f"{number:03} {self._own_name(item)}", item)

    def _own_name(self, text: str | Text) -> str:
        if isinstance(text, Piece):
            return text.document or UNNAMED
        if isinstance(text, Text) and self._index is not None:
            return str(self._index.names[source_of(text)[0].number])
        return UNNAMED

    # -- by reference

    def _part(self, name: str, text: str | Text) -> Part:
        if isinstance(text, Text):
            return self._part_of_text(name, text)
        found = self._place(text) if len(text) > SMALL else None
        if found is None:
            return [name, str(text)]
        return [self._index.names[found[0]] if name == UNNAMED and self._index else name, *found]

    def _part_of_text(self, name: str, text: Text) -> Part:
        source, first, last = source_of(text)
        if not first and last is None:
            return [name, source.number, 0, None, ""]
        if not (source.codec.startswith(("utf-8", "utf_8")) or is_single_byte(source.codec)):
            return [name, text.whole("a part of a document in this encoding", "pass its name, or shorter slices")]
        start = source.byte_at(first)
        end = source.size if last is None else source.byte_at(last)
        encoding = "" if source.auto and last is None else source.codec
        return [name, source.number, source.start + start, max(0, end - start), encoding]

    def _place(self, text: str) -> list[Any] | None:
        """Where a long str is in the document that it is from; None: nowhere that is known."""
        for number, document in self._candidates(text):
            first = place_in(document, text, text.start if isinstance(text, Piece) else 0)
            if first >= 0:
                last = first + len(text)
                if isinstance(document, str):
                    return bytes_of(document, self._entry(number), number, first, last)
                found = self._part_of_text("", Text(Span(document.source, first, last), document.most))
                return found[1:] if len(found) > 2 else None
        return None

    def _candidates(self, text: str) -> list[tuple[int, str | Text]]:
        """Documents that it may be from, by number."""
        if self._index is None:
            return []
        if not isinstance(self._context, Documents):
            return [(0, self._context)]
        if isinstance(text, Piece) and text.document in self._context:
            return [(self._number(text.document), self._context[text.document])]
        return self._context.cached()

    def _entry(self, number: int) -> Any:
        return self._index[number] if self._index is not None else None


def place_in(document: str | Text, text: str, guess: int) -> int:
    """The character of the document at which `text` begins; -1: it is not there, or looking for it would take longer
    than copying it."""
    if document[guess : guess + len(text)] == text:
        return guess
    if isinstance(document, str):
        return document.find(text)
    if len(text) <= VALUES_MAX:
        return -1
    at = document.find(text[:HEAD])
    while at >= 0 and document[at : at + len(text)] != text:
        at = document.find(text[:HEAD], at + 1)
    return at


def source_of(text: Text) -> tuple[Encoded, int, int | None]:
    """(document, first character, where it ends or None: at the document's end)."""
    source = text.source
    if isinstance(source, Span):
        return source.source, source.first, source.last
    return source, 0, None


def bytes_of(document: str, entry: Any, number: int, first: int, last: int) -> list[Any] | None:
    """`[number, start, size, encoding]` of characters [first, last) of a document that was decoded as a whole; None
    when its length does not tell how."""
    if "\ufffd" in document:
        return None
    if len(document) == entry.size:  # a byte for each character
        encoding = "latin-1" if entry.encoding == "auto" and not document.isascii() else entry.encoding
        return [number, first, last - first, encoding]
    before, inside = len(document[:first].encode("utf-8")), len(document[first:last].encode("utf-8"))
    mark = entry.size - before - inside - len(document[last:].encode("utf-8"))
    if mark not in (0, MARK) or entry.encoding.lower() not in UTF8:
        return None
    return [number, mark + before, inside, "utf-8"]
