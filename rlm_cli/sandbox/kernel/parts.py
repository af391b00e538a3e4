"""The lines, words, pieces or chunks of a `Text` as lazy sequences."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from operator import index
from threading import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .text import Text

    Cut = Callable[[str, bool], tuple[list[str], int]]
    """(text, is it the end) -> (the whole pieces it begins with, the characters they took)."""
    Ending = Callable[[Text, int, int], tuple[int, int] | None]
    """(text, offset, another) -> where the piece that begins at the first and goes on at the other ends, and where the
    next one begins. None: it is the last."""

LISTED = 100_000
"""Items of a slice of `Parts` that is a list; a longer one is a view."""


class Parts(Sequence["str | Text"]):
    """The lines, words, pieces or chunks of a Text, in order, read when they are used: `len`, `[i]`, slices, `for`.

    An item is a str; one that is too long for that is a Text, if `ending` is given, which finds its end. `keepends`:
    whether what lies between two items belongs to the first.
    """

    def __init__(self, text: Text, cut: Cut, what: str, ending: Ending | None = None, keepends: bool = False) -> None:
        self._text = text
        self._cut = cut
        self._what = what
        self._ending = ending
        self._keepends = keepends
        self._lock = Lock()  # guards the marks: of each batch, its first piece's number and offset
        self._marks = [(0, 0)]
        self._count: int | None = None
        self._kept: tuple[int, list[str | Text]] = (-1, [])

    def _batch(self, number: int) -> list[str | Text]:
        """The pieces of a batch that has a mark; marks the following one."""
        kept, items = self._kept
        if kept == number:
            return items
        first, offset = self._marks[number]
        items, following = self._read(offset)
        with self._lock:
            if number + 1 == len(self._marks) and self._count is None:
                if following is None:
                    self._count = first + len(items)
                else:
                    self._marks.append((first + len(items), following))
        self._kept = (number, items)  # last: a batch that is kept has been followed by its mark
        return items

    def _read(self, offset: int) -> tuple[list[str | Text], int | None]:
        """The pieces from one offset on, and the offset where the next ones begin (None: there are none)."""
        size = self._text._window
        while True:
            text = self._text.piece(offset, offset + size)
            final = len(text) < size
            items, used = self._cut(text, final)
            if final:
                return [*items], None
            if used:
                return [*items], offset + used
            if size > self._text.most and self._ending is not None:
                return self._long(offset, offset + size, self._ending)
            size = self._text.larger(size, offset)

    def _long(self, offset: int, upto: int, ending: Ending) -> tuple[list[str | Text], int | None]:
        """The one piece that begins at `offset` and does not end before `upto`, as a Text."""
        found = ending(self._text, offset, upto)
        if found is None:
            return [self._text[offset:]], None
        end, following = found
        return [self._text[offset : following if self._keepends else end]], following

    def _batches(self, first: int = 0) -> Iterator[list[str | Text]]:
        number = first
        while True:
            yield self._batch(number)
            number += 1
            if number >= len(self._marks):
                return

    def _holding(self, item: int) -> int:
        """The batch with an item, or the last batch."""
        while self._count is None and item >= self._marks[-1][0]:
            last = len(self._marks) - 1
            if item < self._marks[last][0] + len(self._batch(last)):
                return last
        return bisect_right(self._marks, (item, sys.maxsize)) - 1

    def _from(self, item: int) -> Iterator[str | Text]:
        first = self._holding(item)
        skipped = item - self._marks[first][0]
        for items in self._batches(first):
            yield from items[skipped:] if skipped else items
            skipped = 0

    def __iter__(self) -> Iterator[str | Text]:
        return self._from(0)

    def __len__(self) -> int:
        while self._count is None:
            self._batch(len(self._marks) - 1)
        return self._count

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            part = View(self, key)
            return list(part) if part.is_short() else part
        number = index(key)
        if number < 0:
            number += len(self)
        batch = self._holding(number)
        items = self._batch(batch)
        place = number - self._marks[batch][0]
        if number < 0 or place >= len(items):
            raise IndexError(f"there are only {len(self):,} {self._what}")
        return items[place]

    def __repr__(self) -> str:
        return f"<{self._what} of a Text; len(), [i], slices and for work>"


class View(Sequence["str | Text"]):
    """A long slice of `Parts`."""

    def __init__(self, parts: Parts, key: slice) -> None:
        self._parts = parts
        self._key = key
        self._known: range | None = None

    def _places(self) -> range:
        if self._known is None:
            self._known = range(*self._key.indices(len(self._parts)))
        return self._known

    def _ahead(self) -> tuple[int, int | None] | None:
        """(start, stop) of a slice that can be taken without knowing how many pieces there are."""
        start, stop, step = self._key.start, self._key.stop, self._key.step
        forward = step in (None, 1) and (start is None or start >= 0) and (stop is None or stop >= 0)
        return (start or 0, stop) if forward else None

    def is_short(self) -> bool:
        ahead = self._ahead()
        if ahead is not None and ahead[1] is not None and ahead[1] - ahead[0] <= LISTED:
            return True
        if ahead is None:
            return len(self._places()) <= LISTED
        return self._parts._count is not None and self._parts._count <= LISTED

    def __len__(self) -> int:
        return len(self._places())

    def __iter__(self) -> Iterator[str | Text]:
        ahead = self._ahead()
        if ahead is None:
            return (self._parts[place] for place in self._places())
        start, stop = ahead
        return islice(self._parts._from(start), None if stop is None else max(0, stop - start))

    def __getitem__(self, key: Any) -> Any:
        places = self._places()[key]
        if isinstance(places, int):
            return self._parts[places]
        stop = places.stop if places.stop >= 0 else None
        return self._parts[places.start : stop : places.step] if places else []

    def __repr__(self) -> str:
        return f"<a slice of {self._parts!r}>"


def line_cut(keepends: bool) -> Cut:
    def cut(text: str, final: bool) -> tuple[list[str], int]:
        lines = text.splitlines(True)
        if not final:  # the last one may go on, if only by "\n" after "\r"
            last = lines.pop()
            used = len(text) - len(last)
            return (lines if keepends else text[:used].splitlines()), used
        return (lines if keepends else text.splitlines()), len(text)

    return cut


def line_end(text: Text, offset: int, upto: int) -> tuple[int, int] | None:
    end = text.forward(max(offset, upto - 1), first_line)  # the last character may be a "\r", whose "\n" follows
    return None if end < 0 else (end, end + (2 if text.piece(end, end + 2) == "\r\n" else 1))


def first_line(piece: str) -> int:
    """Where the first line ends; -1: not in this piece."""
    size = len(piece.splitlines()[0]) if piece else 0
    return size if size < len(piece) else -1


def word_end(text: Text, offset: int, upto: int) -> tuple[int, int] | None:
    end = text.forward(max(offset, upto), first_word)
    return None if end < 0 else (end, end + 1)


def first_word(piece: str) -> int:
    """Where the word ends that a piece begins with; -1: not in this piece."""
    size = 0 if piece[:1].isspace() else len(piece.split(None, 1)[0]) if piece else 0
    return size if size < len(piece) else -1


def separator_end(sep: str) -> Ending:
    def ending(text: Text, offset: int, upto: int) -> tuple[int, int] | None:
        end = text.find(sep, max(offset, upto - len(sep)))
        return None if end < 0 else (end, end + len(sep))

    return ending


def separator_cut(sep: str) -> Cut:
    def cut(text: str, final: bool) -> tuple[list[str], int]:
        pieces = text.split(sep)
        if final:
            return pieces, len(text)
        last = pieces.pop()
        return pieces, len(text) - len(last)

    return cut


def word_cut(text: str, final: bool) -> tuple[list[str], int]:
    words = text.split()
    if final or not words or text[-1].isspace():
        return words, len(text)
    last = words.pop()
    return words, len(text) - len(last)
