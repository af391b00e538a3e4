"""`Text`: a document too large to be a `str`, which stays where it is and is read where it is looked at."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from operator import index
from threading import Lock

from . import regex
from .encoded import Encoded

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from .search import Hits

    Cut = Callable[[str, bool], tuple[list[str], int]]
    """(text, is it the end) -> (the whole pieces it begins with, the characters they took)."""

WINDOW = 1 << 20
FIRST = 1 << 12
LISTED = 100_000
"""Items of a slice of `Parts` that is a list; a longer one is a view."""


class TextTooLarge(MemoryError):  # noqa: N818
    """The code asked for more of a Text at once than memory allows."""


class Text:
    """A document too large to be a str. It works like one, but is read piece by piece; a slice is a real str.

    len, indexing and slices, `in`, find, rfind, index, rindex, count, startswith, endswith, ==, iteration;
    splitlines(), split(sep) and chunks(size, overlap=0) give lazy sequences; grep(pattern); the functions of re, and
    patterns that a cell compiles, take it. Whatever would make one string of more than `most` characters raises
    TextTooLarge. grep_count(pattern) counts lines or matches, on every core. Of a regular expression that can run over
    lines without bounds, a match that is longer than 250,000 characters may be missed.
    """

    __slots__ = ("_source", "_window", "most", "windows")

    def __init__(
        self,
        source: Encoded,
        most: int,
        window: int = WINDOW,
        windows: tuple[int, int, int] = (regex.WINDOW, regex.REACH, regex.BACK),
    ) -> None:
        self._source = source
        self._window = window
        self.most = most
        self.windows = windows

    # -- sizes

    def __len__(self) -> int:
        return len(self._source)

    def __bool__(self) -> bool:
        return self._source.size > 0

    def fits(self, size: int, what: str) -> int:
        """`size`, when so many characters may be one str; else `TextTooLarge`."""
        if size > self.most:
            raise TextTooLarge(
                f"{what} would be a str of {size:,} characters; at most {self.most:,} fit in memory. Stream it: "
                "for line in context.splitlines(), for piece in context.chunks(100_000), grep(pattern), "
                "re.finditer(pattern, context), or a slice context[a:b]"
            )
        return size

    def larger(self, size: int, at: int) -> int:
        """A larger size for a window of `size`, in which what begins at `at` does not end. Raises `TextTooLarge`."""
        if size >= self.most:
            self.fits(size + 1, f"the line, piece or match that begins at character {at:,}")
        return min(2 * size, self.most)

    def piece(self, start: int, stop: int) -> str:
        """Characters [start, stop), 0 <= start, unchecked."""
        return self._source.text(start, stop)

    def __str__(self) -> str:
        if self._source.size > 4 * self.most:  # no need to count
            self.fits(self._source.size, "the whole text")
        return self.piece(0, self.fits(len(self), "the whole text"))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        return f"<Text of {self._source.size:,} bytes; context[a:b] is a str>"

    # -- looking at a place

    def __getitem__(self, key: Any) -> str:
        if not isinstance(key, slice):
            return self._character(index(key))
        start, stop = key.start, key.stop
        if key.step in (None, 1) and stop is not None and index(stop) >= 0 and (start is None or index(start) >= 0):
            start, stop = index(start or 0), index(stop)
            if stop - start <= self.most:
                return self.piece(start, max(stop, start))
        places = range(*key.indices(len(self)))
        self.fits(len(places), "this slice")
        return "".join(self._stepping(places))

    def _character(self, number: int) -> str:
        number = number if number >= 0 else number + len(self)
        found = self.piece(number, number + 1) if number >= 0 else ""
        if not found:
            raise IndexError("string index out of range")
        return found

    def _stepping(self, places: range) -> Iterator[str]:
        step = abs(places.step)
        most = self.most if step == 1 else max(1, self._window // step)
        for at in range(0, len(places), most):
            part = places[at : at + most]
            yield self.piece(min(part[0], part[-1]), max(part[0], part[-1]) + 1)[:: places.step]

    def __iter__(self) -> Iterator[str]:
        at = 0
        while True:
            piece = self.piece(at, at + self._window)
            yield from piece
            at += len(piece)
            if len(piece) < self._window:
                return

    # -- comparing

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        if not isinstance(other, (str, Text)):
            return NotImplemented
        if isinstance(other, str) and not len(other) <= self._source.size <= 4 * len(other):
            return False  # no need to count
        if len(other) != len(self):
            return False
        step = self._window
        return all(self.piece(at, at + step) == other[at : at + step] for at in range(0, len(self), step))

    def __hash__(self) -> int:
        if self._source.size <= 4 * self.most and len(self) <= self.most:
            return hash(str(self))
        return hash((self._source.size, self.piece(0, 1000)))

    # -- finding

    def _span(self, start: Any, end: Any) -> tuple[int, int | None]:
        """Arguments as str methods take them -> offsets; None: the end of the text, not yet looked for."""
        first = 0 if start is None else index(start)
        last = None if end is None else index(end)
        if first < 0:
            first = max(0, first + len(self))
        if last is not None:
            last = max(0, last + len(self)) if last < 0 else min(last, len(self))
        return first, last

    def _haystack(self, sub: str, start: Any, end: Any) -> Haystack | None:
        """Where to look for a str that is not empty; None: it cannot be there."""
        first, last = self._span(start, end)
        source = self._source
        needle = source.needle(sub)
        if needle is None:
            return Haystack(source.text, sub, first, len(self) if last is None else last, self._window, int)
        if not needle:
            return None
        stop = source.size if last is None else source.byte_at(last)
        return Haystack(source.read, needle, source.byte_at(first), stop, self._window, source.char_at)

    def find(self, sub: str, start: Any = None, end: Any = None) -> int:
        if not checked(sub):
            first, last = self._span(start, end)
            return first if first <= (len(self) if last is None else last) else -1
        hay = self._haystack(sub, start, end)
        return -1 if hay is None else hay.find()

    def rfind(self, sub: str, start: Any = None, end: Any = None) -> int:
        if not checked(sub):
            first, last = self._span(start, end)
            last = len(self) if last is None else last
            return last if first <= last else -1
        hay = self._haystack(sub, start, end)
        return -1 if hay is None else hay.rfind()

    def index(self, sub: str, start: Any = None, end: Any = None) -> int:
        return found(self.find(sub, start, end))

    def rindex(self, sub: str, start: Any = None, end: Any = None) -> int:
        return found(self.rfind(sub, start, end))

    def count(self, sub: str, start: Any = None, end: Any = None) -> int:
        if not checked(sub):
            first, last = self._span(start, end)
            return max(0, (len(self) if last is None else last) - first + 1)
        hay = self._haystack(sub, start, end)
        if hay is None:
            return 0
        if isinstance(hay.needle, bytes) and not overlaps_itself(hay.needle):
            from .scanning import count_bytes

            counted = count_bytes(self, hay.needle, hay.start, hay.stop)
            if counted is not None:
                return counted
        return hay.count()

    def __contains__(self, sub: object) -> bool:
        if not isinstance(sub, str):
            raise TypeError(f"'in <string>' requires string as left operand, not {type(sub).__name__}")
        return self.find(sub) >= 0

    def startswith(self, prefix: Any, start: Any = None, end: Any = None) -> bool:
        if isinstance(prefix, tuple):
            return any(self.startswith(one, start, end) for one in prefix)
        size = len(checked(prefix))
        first, last = self._span(start, end)
        if not size:
            return first <= (len(self) if last is None else last)
        stop = first + size if last is None else min(last, first + size)
        return bool(self.piece(first, max(first, stop)) == prefix)

    def endswith(self, suffix: Any, start: Any = None, end: Any = None) -> bool:
        if isinstance(suffix, tuple):
            return any(self.endswith(one, start, end) for one in suffix)
        size = len(checked(suffix))
        first, last = self._span(start, end)
        last = len(self) if last is None else last
        return bool(last - size >= first and self.piece(last - size, last) == suffix)

    # -- going through it

    def splitlines(self, keepends: bool = False) -> Parts:
        """The lines, as str.splitlines has them: a sequence that reads them when they are used."""
        return Parts(self, line_cut(keepends), "lines")

    lines = splitlines

    def split(self, sep: str | None = None, maxsplit: int = -1) -> Any:
        """As str.split: without `maxsplit`, a sequence that reads the pieces when they are used."""
        if maxsplit >= 0:
            return str(self).split(sep, maxsplit)
        if sep is None:
            return Parts(self, word_cut, "words")
        if not checked(sep):
            raise ValueError("empty separator")
        return Parts(self, separator_cut(sep), "pieces")

    def chunks(self, size: int | None = None, overlap: int = 0, by: Any = None, count: int | None = None) -> Any:
        """`chunks(text, ...)`: pieces of at most `size` characters, cut at line ends or between records; lazy."""
        from .pieces import chunks

        return chunks(self, size, overlap, by, count)

    def grep(self, pattern: Any, **options: Any) -> Hits:
        """`grep(pattern, text, **options)`: the lines that match."""
        from .search import grep

        return grep(pattern, self, **options)

    def grep_count(self, pattern: Any, **options: Any) -> Any:
        """`grep_count(pattern, text, **options)`: how many lines match."""
        from .search import grep_count

        return grep_count(pattern, self, **options)

    def finditer(self, pattern: Any, flags: int = 0) -> Iterator[regex.Match]:
        """re.finditer(pattern, text, flags)."""
        return regex.finditer(compiled(pattern, flags), self)

    def findall(self, pattern: Any, flags: int = 0) -> list[Any]:
        """re.findall(pattern, text, flags)."""
        return regex.findall(compiled(pattern, flags), self)

    def search(self, pattern: Any, flags: int = 0) -> regex.Match | None:
        """re.search(pattern, text, flags)."""
        return regex.search(compiled(pattern, flags), self)

    # -- whatever else a str can do, as long as it fits

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(str, name):
            raise AttributeError(f"'Text' object has no attribute {name!r}; a slice of it is a str")

        def method(*args: Any, **named: Any) -> Any:
            self.fits(len(self), f"context.{name}()")
            return getattr(str(self), name)(*args, **named)

        return method

    def __add__(self, other: Any) -> str:
        return str(self) + str(other) if isinstance(other, (str, Text)) else NotImplemented

    def __radd__(self, other: Any) -> str:
        return other + str(self) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: int) -> str:
        self.fits(len(self) * max(0, index(times)), "the repeated text")
        return str(self) * times

    __rmul__ = __mul__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Text cannot be pickled; a forked process already has it, so pass offsets and not the text")


class Haystack:
    """A range to search, of bytes or of characters: `cut(a, b)` reads it, `offset` turns a place into a character."""

    def __init__(self, cut: Any, needle: Any, start: int, stop: int, window: int, offset: Callable[[int], int]) -> None:
        self.cut, self.needle, self.start, self.stop, self.window, self.offset = (
            cut,
            needle,
            start,
            stop,
            window,
            offset,
        )
        self.overlap = len(needle) - 1

    def find(self) -> int:
        at, size = self.start, min(FIRST, self.window)
        while at < self.stop:
            place = self.cut(at, min(at + size + self.overlap, self.stop)).find(self.needle)
            if place >= 0:
                return self.offset(at + place)
            at += size
            size = min(2 * size, self.window)
        return -1

    def rfind(self) -> int:
        end, size = self.stop, min(FIRST, self.window)
        while end > self.start:
            at = max(self.start, end - size)
            place = self.cut(at, min(end + self.overlap, self.stop)).rfind(self.needle)
            if place >= 0:
                return self.offset(at + place)
            end = at
            size = min(2 * size, self.window)
        return -1

    def count(self) -> int:
        if overlaps_itself(self.needle):
            return self._count_one_by_one()
        steps = range(self.start, self.stop, self.window)
        ends = (min(at + self.window + self.overlap, self.stop) for at in steps)
        return sum(self.cut(at, end).count(self.needle) for at, end in zip(steps, ends))  # noqa: B905 - Python 3.9

    def _count_one_by_one(self) -> int:
        """Where a match ends decides which of two that overlap is counted."""
        count, at = 0, self.start
        while at < self.stop:
            data = self.cut(at, min(at + self.window + self.overlap, self.stop))
            place = data.find(self.needle)
            following = self.window
            while place >= 0:
                count += 1
                following = max(self.window, place + len(self.needle))
                place = data.find(self.needle, place + len(self.needle))
            at += following
        return count


def overlaps_itself(needle: Any) -> bool:
    return any(needle[:size] == needle[-size:] for size in range(1, len(needle)))


def checked(sub: object) -> str:
    if not isinstance(sub, str):
        raise TypeError(f"must be str, not {type(sub).__name__}")
    return sub


def found(place: int) -> int:
    if place < 0:
        raise ValueError("substring not found")
    return place


def compiled(pattern: Any, flags: int) -> re.Pattern[str]:
    import re

    made: re.Pattern[str] = regex.real_pattern(re.compile(pattern, flags))
    return made


# -- lazy sequences of pieces


class Parts(Sequence[str]):
    """The lines, words, pieces or chunks of a Text, in order, read when they are used: `len`, `[i]`, slices, `for`."""

    def __init__(self, text: Text, cut: Cut, what: str) -> None:
        self._text = text
        self._cut = cut
        self._what = what
        self._lock = Lock()  # guards the marks: of each batch, its first piece's number and offset
        self._marks = [(0, 0)]
        self._count: int | None = None
        self._kept: tuple[int, list[str]] = (-1, [])

    def _batch(self, number: int) -> list[str]:
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

    def _read(self, offset: int) -> tuple[list[str], int | None]:
        """The pieces from one offset on, and the offset where the next ones begin (None: there are none)."""
        size = self._text._window
        while True:
            text = self._text.piece(offset, offset + size)
            final = len(text) < size
            items, used = self._cut(text, final)
            if final:
                return items, None
            if used:
                return items, offset + used
            size = self._text.larger(size, offset)

    def _batches(self, first: int = 0) -> Iterator[list[str]]:
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

    def _from(self, item: int) -> Iterator[str]:
        first = self._holding(item)
        skipped = item - self._marks[first][0]
        for items in self._batches(first):
            yield from items[skipped:] if skipped else items
            skipped = 0

    def __iter__(self) -> Iterator[str]:
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


class View(Sequence[str]):
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

    def __iter__(self) -> Iterator[str]:
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
