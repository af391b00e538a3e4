"""FINAL and its other spellings: a value -> the bytes of the answer, sent in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .link import Link

_encoder = json.JSONEncoder(ensure_ascii=False, indent=2, allow_nan=False, default=lambda value: plain(value))
TEXT_SLICE = wire.PART_MAX // 4
"""Characters whose UTF-8 fits in one piece."""


def plain(value: Any) -> Any:
    """Sets, generators, sequences and the like as lists; what has no JSON form as text."""
    if isinstance(value, (set, frozenset)):
        try:
            return sorted(value)
        except TypeError:
            return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Iterator, Sequence, type({}.keys()), type({}.values()), type({}.items()))):
        return list(value)
    return str(value)


def serialise(value: Any) -> tuple[str, str | bytes]:
    """(kind, content): "text" for str, "bytes" for bytes, "json" for what JSON can hold; else str() as text."""
    if isinstance(value, str):
        return "text", value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "bytes", bytes(value)
    if not isinstance(value, (int, float, list, tuple, dict, type(None))):
        value = plain(value)
        if isinstance(value, str):
            return "text", value
    try:
        return "json", _encoder.encode(value)
    except (TypeError, ValueError, RecursionError):  # keys that are no str, NaN, a cycle
        return "text", str(value)


def parts(content: str | bytes) -> Iterator[bytes]:
    """The content's bytes in pieces of at most 1 MiB; one empty piece when there is nothing."""
    step = TEXT_SLICE if isinstance(content, str) else wire.PART_MAX
    for start in range(0, len(content) or 1, step):
        piece = content[start : start + step]
        yield piece.encode("utf-8", "replace") if isinstance(piece, str) else piece


class Answers:
    """Sends answers. The host keeps the last one that is whole."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = Lock()  # the pieces of two answers must not mix
        self.cell = 0

    def submit(self, value: Any) -> None:
        """Send `value` as the answer of this run."""
        if not self._link.is_ours():
            raise RuntimeError("FINAL does not work in other processes; return the value and submit it in the cell")
        kind, content = serialise(value)
        with self._lock:
            pieces = parts(content)
            piece = next(pieces)
            for number in range(len(content) + 1):
                following = next(pieces, None)
                fields = {"op": "answer", "cell": self.cell, "kind": kind, "part": number, "last": following is None}
                self._link.send(fields, piece)
                if following is None:
                    return
                piece = following


class Answer(dict):  # type: ignore[type-arg]  # what the paper's prompt calls `answer`
    """`answer["content"] = value; answer["ready"] = True` submits the value, as FINAL(value) does."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(content="", ready=False)
        self._answers = answers

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if self.get("ready") and key in ("content", "ready"):
            self._answers.submit(self.get("content"))

    def update(self, *args: Any, **fields: Any) -> None:
        for key, value in dict(*args, **fields).items():
            self[key] = value
