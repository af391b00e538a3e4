"""`chunks`: a text in pieces that know where they came from, cut between lines, paragraphs or records."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from .parts import Parts
from .regex import real_pattern
from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIZE = 100_000
LOOK = 1 << 12
"""Characters at a piece's end that are searched first for the last record that begins there."""
REACH = 1 << 12
"""A match that marks the beginning of a record and is longer may be missed."""
BATCH = 1 << 20
"""Characters of small documents that are cut at a time."""
SPAN = 1 << 48
"""More characters than a document has: a place in a corpus is document * SPAN + offset."""

BLANK_LINES = re.compile(r"(?:(?<=\n\n)|(?<=\n\r\n))(?![\r\n])")


class Piece(str):
    """A part of a text. It is an ordinary str which also knows where it came from.

    `start`, `end`: `text[piece.start:piece.end] == piece`, in characters; `document`: the name of the document it is
    from, "" when the text was no mapping.
    """

    __slots__ = ("document", "start")
    document: str
    start: int

    def __new__(cls, text: str = "", start: int = 0, document: str = "") -> Piece:
        self = super().__new__(cls, text)
        self.start = start
        self.document = document
        return self

    @property
    def end(self) -> int:
        return self.start + len(self)

    def __getnewargs__(self) -> tuple[str, int, str]:  # type: ignore[override]
        return str(self), self.start, self.document


class Lines:
    """Records are lines. Places are where a record begins, which is where the one before it ends."""

    reach = 0

    def next(self, text: str, first: int, last: int) -> int:
        """The first place in [first, last], 1 <= first; -1: there is none."""
        return text.find("\n", first - 1, last) + 1 or -1

    def last(self, text: str, first: int, last: int) -> int:
        """The last place in [first, last]."""
        return text.rfind("\n", first - 1, last) + 1 or -1


class Matches:
    """Records begin wherever a pattern matches, also within another match: so it does not depend on where the search
    began."""

    def __init__(self, pattern: re.Pattern[str], look: int = LOOK, reach: int = REACH) -> None:
        self.pattern = pattern
        self._look = look
        self.reach = reach

    def next(self, text: str, first: int, last: int) -> int:
        match = self.pattern.search(text, first, last + self.reach)
        return match.start() if match is not None and match.start() <= last else -1

    def last(self, text: str, first: int, last: int) -> int:
        """The text's end is searched first: most pieces need no more."""
        size, stop = self._look, last
        while stop >= first:
            low = max(first, stop - size + 1)
            found = -1
            place = self.next(text, low, stop)
            while place >= 0:
                found = place
                place = self.next(text, place + 1, stop) if place < stop else -1
            if found >= 0:
                return found
            stop, size = low - 1, stop  # records are long here
        return -1


def records(by: Any) -> Lines | Matches:
    """What `by` says of where records begin."""
    if by in (None, "line", "lines"):
        return Lines()
    if by in ("paragraph", "paragraphs"):
        return Matches(BLANK_LINES)
    pattern = re.compile(by, re.MULTILINE) if isinstance(by, str) else real_pattern(by)
    if not isinstance(pattern, re.Pattern) or not isinstance(pattern.pattern, str):
        raise TypeError(f'by is "lines", "paragraphs" or a regular expression for text, not {type(by).__name__}')
    return Matches(pattern)


class Cutter:
    """Cuts a text into pieces, one after the other: each is as long as `size` and `count` allow."""

    def __init__(self, size: int | None, overlap: int, by: Lines | Matches, count: int | None) -> None:
        self.size = size if size is not None else SIZE if count is None else sys.maxsize
        if self.size < 1 or not 0 <= overlap < self.size or (count is not None and count < 1):
            raise ValueError(
                f"chunks needs size >= 1, 0 <= overlap < size and count >= 1, got size={size}, overlap={overlap}, "
                f"count={count}"
            )
        self.overlap = overlap
        self.by = by
        self.count = count

    def pieces(self, text: str, base: int, done: int, document: str, *, final: bool) -> tuple[list[Piece], int | None]:
        """The pieces of `text`, which begins at character `base` of a document, of which `done` characters have been
        cut; and how many are `done` now (None: all). `final`: the document ends here."""
        found: list[Piece] = []
        while not final or done < base + len(text):
            at = max(0, done - self.overlap)
            new = done if at or self.count is not None else self.overlap  # the first piece is not all overlap
            end = self._end(text, at - base, new - base, final)
            if end is None:
                return found, done
            found.append(Piece(text[at - base : end], at, document))
            done = base + end
        return found, None

    def _end(self, text: str, at: int, new: int, final: bool) -> int | None:
        """Where the piece that begins at `at` ends, behind `new`. None: that needs more text."""
        known = len(text) if final else len(text) - self.by.reach  # up to here, places are certain
        stop = at + self.size
        if final and self.count is None and stop >= len(text):
            return len(text)
        if self.count is not None:
            place = self._after(text, new, min(stop, known))
            if place >= 0:
                return place
            if final and stop >= len(text):
                return len(text)
        if stop >= known and not final:
            return None
        place = self.by.last(text, new + 1, stop)
        return place if place >= 0 else cut_record(text, new, stop)

    def _after(self, text: str, place: int, last: int) -> int:
        """Where the next `count` records end; -1: not before `last`."""
        for _ in range(self.count or 0):
            place = self.by.next(text, place + 1, last) if place < last else -1
            if place < 0:
                return -1
        return place


def cut_record(text: str, new: int, stop: int) -> int:
    """Where to end a piece of a record that is longer than a piece: at a line, else in its second half at a space."""
    line = text.rfind("\n", new, stop) + 1
    space = text.rfind(" ", (new + stop) // 2, stop) + 1
    return line or (space if new < space else 0) or stop


class Pieces(Parts):
    """The pieces of a `Text`, or of all documents of a mapping, in order: a sequence that cuts them when they are
    used."""

    def __init__(self, text: Text | Mapping[str, Any], cutter: Cutter) -> None:
        mapping = isinstance(text, Mapping)
        super().__init__(text, None, "chunks")  # type: ignore[arg-type]  # _read is our own
        self._names = list(text) if mapping else [""]
        self._open = text.__getitem__ if mapping else lambda _: text
        self._cutter = cutter

    def _read(self, offset: int) -> tuple[list[str | Text], int | None]:
        number, done = divmod(offset, SPAN)
        found: list[Any] = []
        size = 0
        while number < len(self._names) and size < BATCH:
            name = self._names[number]
            body = self._open(name)
            if isinstance(body, Text):
                pieces, following = self._window(body, done, name)
            else:
                pieces, following = self._cutter.pieces(of_str(body), 0, 0, name, final=True)
            found += pieces
            if following is not None:
                return found, number * SPAN + following
            number, done, size = number + 1, 0, size + sum(map(len, pieces))
        return found, number * SPAN if number < len(self._names) else None

    def _window(self, text: Text, done: int, name: str) -> tuple[list[Piece], int | None]:
        """The pieces of a part of a Text."""
        own, _, back = text.windows
        cutter = self._cutter
        most = min(cutter.size, text.most)
        if most < cutter.size:
            cutter = Cutter(most, min(cutter.overlap, most - 1), cutter.by, cutter.count)
        at = max(0, done - cutter.overlap)
        base = max(0, at - back)
        size = min(max(own, 2 * SIZE), 2 * most)
        while True:
            end = at + size + cutter.by.reach
            window = text.piece(base, end)
            final = base + len(window) < end
            pieces, following = cutter.pieces(window, base, done, name, final=final)
            if pieces or final:
                return pieces, following
            size *= 2  # in the end, it holds more than a piece

    def __repr__(self) -> str:
        return "<chunks; len(), [i], slices and for work>"


def of_str(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, a Text or a mapping of name to such, not {type(text).__name__}")
    return text


def chunks(text: Any, size: int | None = None, overlap: int = 0, by: Any = None, count: int | None = None) -> Any:
    """See Helpers.chunks."""
    cutter = Cutter(size, overlap, records(by), count)
    if isinstance(text, (Text, Mapping)):
        if isinstance(text, Text) and size is not None:
            text.fits(size, "a chunk")
        return Pieces(text, cutter)
    return cutter.pieces(of_str(text), 0, 0, "", final=True)[0]
