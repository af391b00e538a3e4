"""FINAL and its other spellings: a value -> the bytes of the answer, sent in parts."""

from __future__ import annotations

from threading import Lock, get_ident

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .answer_pieces import Pieces
    from .evidence import Quote
    from .link import Link

_ident = get_ident


def parts(pieces: Pieces) -> Iterator[tuple[str, bytes | memoryview]]:
    """Pieces joined or cut to parts of at most `PART_MAX`, each as large as it can be without a copy of what is large
    already. (kind, bytes); at least one."""
    kind, size = "text", 0
    small: list[bytes | memoryview] = []
    for kind, piece in pieces:
        if small and size + len(piece) > wire.PART_MAX:
            yield kind, b"".join(small)
            small, size = [], 0
        for at in range(0, len(piece) - wire.PART_MAX, wire.PART_MAX):
            yield kind, piece[at : at + wire.PART_MAX]
        piece = piece[-(len(piece) % wire.PART_MAX or wire.PART_MAX) :]
        small.append(piece)
        size += len(piece)
    yield kind, small[0] if len(small) == 1 else b"".join(small)


def as_sent(value: Any) -> Iterator[tuple[str, bytes | memoryview, bool]]:
    """(kind, bytes, whether it is the last) of each part of an answer.

    What has no JSON form is text, as long as that shows before the first part is gone; afterwards it is an error.
    """
    from .answer_pieces import can_be_json, pieces, text_pieces

    try:
        found = parts(pieces(value))
        part = next(found)
        following = next(found, None)
    except (TypeError, ValueError, RecursionError):  # keys that are no str, NaN, a cycle
        if not can_be_json(value):
            raise
        found = parts(text_pieces(str(value)))
        part, following = next(found), next(found, None)
    while following is not None:
        yield (*part, False)
        part, following = following, next(found, None)
    yield (*part, True)


class Answers:
    """Sends answers. The host keeps the last one that is whole."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = Lock()  # the parts of two answers must not mix
        self._sender = 0
        self.cell = 0
        self.schema = ""
        """What every answer is checked by, as JSON; the host is told what is wrong, and decides."""
        self._noted: dict[Quote, None] = {}

    def note(self, quotes: Iterable[Quote]) -> None:
        """Evidence for the answer that is still to come. What nobody will take is not kept."""
        for quote in quotes:
            if len(self._noted) <= wire.QUOTES_MAX:
                self._noted[quote] = None

    def submit(self, value: Any, evidence: Iterable[Quote] = ()) -> None:
        """Send `value` as the answer of this run, with its evidence. When reading or writing it fails, nothing of it
        counts."""
        if not self._link.is_ours():
            raise RuntimeError("FINAL does not work in other processes; return the value and submit it in the cell")
        if self._sender == _ident():
            raise RuntimeError("FINAL was called by what is being submitted")
        with self._lock:
            self._sender = _ident()
            try:
                before = self._packed(evidence)
                problem = self._problem(value)
                for number, (kind, part, last) in enumerate(as_sent(value)):
                    fields = {"op": "answer", "cell": self.cell, "kind": kind, "part": number, "last": last}
                    if last and problem:
                        fields["problem"] = problem
                    if before:
                        fields, part, before = {**fields, "evidence": len(before)}, before + bytes(part), b""
                    self._link.send(fields, part)
            finally:
                self._sender = 0

    def _problem(self, value: Any) -> str:
        """Why it does not satisfy the schema. What is not at hand as a value (a file, a generator) is not looked at."""
        if not self.schema:
            return ""
        from .json_replies import checked
        from .schemas import Schema

        if not isinstance(value, (str, int, float, list, tuple, dict, type(None))):
            return ""
        wrong = checked(value, Schema(wire.parse_json(self.schema)))[1]
        return f"the value does not satisfy the schema: {wrong}"[: wire.PROBLEM_CHARS] if wrong else ""

    def _packed(self, evidence: Iterable[Quote]) -> bytes:
        quotes = [*self._noted, *evidence]
        if not quotes:
            return b""
        from .evidence import packed

        return packed(quotes)


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
