"""`Text`: a document too large to be a `str`, which stays where it is and is read where it is looked at."""

from __future__ import annotations

from operator import index

from . import regex
from .encoded import Encoded, Span
from .parts import Parts, first_word, line_cut, line_end, separator_cut, separator_end, word_cut, word_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from .search import Hits

WINDOW = 1 << 20
FIRST = 1 << 12
EVERY = frozenset({"isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isnumeric", "isprintable", "isspace"})
"""Questions that a str answers yes to when all its pieces do."""
ADVICE = {
    "encode": "digest = hashlib.sha256(); for piece in context.chunks(1_000_000): digest.update(piece.encode())",
    "lower": "grep(pattern, ignore_case=True), re.finditer('(?i)...', context), or lower() of each line",
    "upper": "upper() of each line of context.splitlines()",
    "casefold": "grep(pattern, ignore_case=True), re.finditer('(?i)...', context), or casefold() of each line",
    "replace": "replace() in each line of context.splitlines(), or in each piece of context.chunks(100_000)",
    "translate": "translate() each piece of context.chunks(100_000)",
}
"""How to do in pieces what a method of str would do to a whole Text."""


class TextTooLarge(MemoryError):  # noqa: N818
    """The code asked for more of a Text at once than memory allows."""


class Text:
    """A document too large to be a str. It works like one, but is read piece by piece; a slice is a real str.

    Indexing and slices, `in`, find, count and the like, comparing, startswith, strip, partition, iteration work as
    ever; splitlines(), split(sep) and chunks(size, overlap=0) give lazy sequences; the functions of re, grep,
    io.StringIO and JSONDecoder.raw_decode take it. A part of more than `most` characters (a slice, a line) is a Text
    again. Whatever would make one such str raises TextTooLarge, and says what to do instead. grep_count(pattern)
    counts lines or matches, on every core. Of a regular expression that can run over lines without bounds, a match
    that is longer than 250,000 characters may be missed.
    """

    __slots__ = ("_source", "_window", "most", "windows")

    def __init__(
        self,
        source: Encoded | Span,
        most: int,
        window: int = WINDOW,
        windows: tuple[int, int, int] = (regex.WINDOW, regex.REACH, regex.BACK),
    ) -> None:
        self._source = source
        self._window = window
        self.most = most
        self.windows = windows

    @property
    def source(self) -> Encoded | Span:
        """The characters that it shows."""
        return self._source

    # -- sizes

    def __len__(self) -> int:
        return len(self._source)

    def __bool__(self) -> bool:
        return self.piece(0, 1) != ""

    def fits(self, size: int, what: str, advice: str = "") -> int:
        """`size`, when so many characters may be one str; else `TextTooLarge`."""
        if size > self.most:
            advice = advice or (
                "for line in context.splitlines(), for piece in context.chunks(100_000), grep(pattern), "
                "re.finditer(pattern, context), or a slice context[a:b]"
            )
            too_large = f"{what} would be a str of {size:,} characters; at most {self.most:,} fit in memory"
            raise TextTooLarge(f"{too_large}. Stream it: {advice}")
        return size

    def larger(self, size: int, at: int) -> int:
        """A larger size for a window of `size`, in which what begins at `at` does not end. Raises `TextTooLarge`."""
        if size > self.most:
            self.fits(size, f"the line, piece or match that begins at character {at:,}", f"context[{at}:{at + 100_000}]"
                      " and so on, context.chunks(100_000), find() and count() work in it")  # fmt: skip
        return min(2 * size, self.most + 1)

    def whole(self, what: str, advice: str = "") -> str:
        """All of it, when it fits. Raises `TextTooLarge`, which has this advice."""
        fewest = self._source.fewest  # no need to count
        return self.piece(0, self.fits(fewest if fewest > self.most else len(self), what, advice))

    def piece(self, start: int, stop: int) -> str:
        """Characters [start, stop), 0 <= start, unchecked."""
        return self._source.text(start, stop)

    def part(self, start: int, stop: int | None = None) -> str | Text:
        """Characters [start, stop), 0 <= start: a str when they fit, else a Text."""
        if stop is None and self._source.fewest - start <= self.most:
            stop = len(self)
        if stop is not None and stop - start <= self.most:
            return self.piece(start, max(start, stop))
        return Text(Span(self._source, start, stop), self.most, self._window, self.windows)

    def __str__(self) -> str:
        return self.whole("the whole text")

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        return f"<Text of {self._source.what}; a slice [a:b] is a str>"

    # -- looking at a place

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            return self._character(index(key))
        start, stop = key.start, key.stop
        start = 0 if start is None else index(start)
        stop = None if stop is None else index(stop)
        if key.step in (None, 1) and start >= 0:
            if stop is None:
                return self.part(start)
            if stop >= 0:
                return self.part(start, stop if stop - start <= self.most else min(stop, len(self)))
        places = range(*key.indices(len(self)))
        if places.step == 1:
            return self.part(places.start, places.stop)
        self.fits(len(places), "this slice", "reversed(context), reversed(context.splitlines())" * (places.step < 0))
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

    def pieces(self) -> Iterator[str]:
        """All of it, in windows; at least one."""
        at, piece = 0, self.piece(0, self._window)
        yield piece
        while len(piece) == self._window:
            at += self._window
            piece = self.piece(at, at + self._window)
            if piece:
                yield piece

    def __iter__(self) -> Iterator[str]:
        for piece in self.pieces():
            yield from piece

    def __reversed__(self) -> Iterator[str]:
        for end in range(len(self), 0, -self._window):
            yield from reversed(self.piece(max(0, end - self._window), end))

    # -- comparing

    def __eq__(self, other: object) -> bool:
        if other is self:
            return True
        if not isinstance(other, (str, Text)):
            return NotImplemented
        if isinstance(other, str) and not self._source.fewest <= len(other) <= self._source.size:
            return False  # no need to count
        return len(other) == len(self) and self._order(other) == 0

    def _order(self, other: str | Text) -> int:
        """Below 0, 0 or above 0: whether it comes before `other`, is equal or comes after it."""
        at = 0
        while True:
            mine, its = self.piece(at, at + self._window), other[at : at + self._window]
            if mine != its or not mine:
                return (mine > its) - (mine < its)
            at += self._window

    def __lt__(self, other: object) -> bool:
        return self._order(other) < 0 if isinstance(other, (str, Text)) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self._order(other) <= 0 if isinstance(other, (str, Text)) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return self._order(other) > 0 if isinstance(other, (str, Text)) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return self._order(other) >= 0 if isinstance(other, (str, Text)) else NotImplemented

    def __hash__(self) -> int:
        if self._source.fewest <= self.most and len(self) <= self.most:
            return hash(str(self))
        return hash(("Text", self.piece(0, 1000)))

    # -- finding

    def _span(self, start: Any, end: Any) -> tuple[int, int | None]:
        """Arguments as str methods take them -> offsets; None: the end of the text, not yet looked for."""
        first = 0 if start is None else index(start)
        last = None if end is None else index(end)
        if first < 0:
            first = max(0, first + len(self))
        if last is not None:
            last = max(0, last + len(self)) if last < 0 else last
            if last > self._source.fewest and not self.piece(last - 1, last):
                last = len(self)
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
        stop = source.end if last is None else source.byte_at(last)
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
        return Parts(self, line_cut(keepends), "lines", line_end, keepends)

    lines = splitlines

    def split(self, sep: str | None = None, maxsplit: int = -1) -> Any:
        """As str.split: without `maxsplit`, a sequence that reads the pieces when they are used."""
        if sep is not None and not checked(sep):
            raise ValueError("empty separator")
        if maxsplit >= 0:
            return list(self._first_pieces(sep, maxsplit))
        if sep is None:
            return Parts(self, word_cut, "words", word_end)
        return Parts(self, separator_cut(sep), "pieces", separator_end(sep))

    def rsplit(self, sep: str | None = None, maxsplit: int = -1) -> Any:
        """As str.rsplit: without `maxsplit`, what `split` gives."""
        if maxsplit >= 0:
            if sep is not None and not checked(sep):
                raise ValueError("empty separator")
            return [*self._last_pieces(sep, maxsplit)][::-1]
        if sep is not None and overlaps_itself(checked(sep)):
            return self.whole("context.rsplit()", "context.split(sep)").rsplit(sep)
        return self.split(sep)

    def _first_pieces(self, sep: str | None, most: int) -> Iterator[str | Text]:
        at = 0 if sep else self._left(None)
        while most > 0:
            end = self.find(sep, at) if sep else self.forward(at, first_word)
            if end < 0:
                break
            yield self.part(at, end)
            at = end + len(sep) if sep else self._left(None, end)
            most -= 1
        rest = self.part(at)
        if sep or rest:
            yield rest

    def _last_pieces(self, sep: str | None, most: int) -> Iterator[str | Text]:
        end = len(self) if sep else self._right(None, len(self))
        while most > 0:
            at = self.rfind(sep, 0, end) if sep else self._backward(end, behind_space_in)
            if at < 0:
                break
            yield self.part(at + len(sep) if sep else at, end)
            end = at if sep else self._right(None, at)
            most -= 1
        if sep or end:
            yield self.part(0, end)

    def partition(self, sep: str) -> tuple[str | Text, str, str | Text]:
        """As str.partition; what does not fit in a str is a Text."""
        if not checked(sep):
            raise ValueError("empty separator")
        at = self.find(sep)
        return (self.part(0), "", "") if at < 0 else (self.part(0, at), sep, self.part(at + len(sep)))

    def rpartition(self, sep: str) -> tuple[str | Text, str, str | Text]:
        """As str.rpartition; what does not fit in a str is a Text."""
        if not checked(sep):
            raise ValueError("empty separator")
        at = self.rfind(sep)
        return ("", "", self.part(0)) if at < 0 else (self.part(0, at), sep, self.part(at + len(sep)))

    def removeprefix(self, prefix: str) -> str | Text:
        return self.part(len(prefix) if self.startswith(checked(prefix)) else 0)

    def removesuffix(self, suffix: str) -> str | Text:
        return self.part(0, len(self) - len(suffix) if self.endswith(checked(suffix)) else None)

    def strip(self, chars: str | None = None) -> str | Text:
        """As str.strip; what does not fit in a str is a Text."""
        first = self._left(chars)
        return self.part(first, max(first, self._right(chars, len(self))))

    def lstrip(self, chars: str | None = None) -> str | Text:
        return self.part(self._left(chars))

    def rstrip(self, chars: str | None = None) -> str | Text:
        return self.part(0, self._right(chars, len(self)))

    def _left(self, chars: str | None, at: int = 0) -> int:
        """Where what `lstrip` leaves begins."""
        "".strip(chars)  # raises what a str would
        place = self.forward(at, lambda piece: len(piece) - len(left) if (left := piece.lstrip(chars)) else -1)
        return len(self) if place < 0 else place

    def _right(self, chars: str | None, end: int) -> int:
        """Where what `rstrip` leaves ends."""
        "".strip(chars)
        return max(0, self._backward(end, lambda piece: len(piece.rstrip(chars)) or -1))

    def forward(self, at: int, place: Callable[[str], int]) -> int:
        """The first offset that `place` finds in a piece of the text from `at` on; -1: none."""
        size = min(FIRST, self._window)
        while True:
            piece = self.piece(at, at + size)
            found = place(piece)
            if found >= 0:
                return at + found
            if len(piece) < size:
                return -1
            at, size = at + size, min(2 * size, self._window)

    def _backward(self, end: int, place: Callable[[str], int]) -> int:
        """The last offset that `place` finds in a piece of the text before `end`; -1: none."""
        size = min(FIRST, self._window)
        while end > 0:
            at = max(0, end - size)
            found = place(self.piece(at, end))
            if found >= 0:
                return at + found
            end, size = at, min(2 * size, self._window)
        return -1

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
        if name in EVERY:
            return lambda: all(map(getattr(str, name), self.pieces()))

        def method(*args: Any, **named: Any) -> Any:
            return getattr(self.whole(f"context.{name}()", ADVICE.get(name, "")), name)(*args, **named)

        return method

    def __copy__(self) -> Text:
        return self

    def __deepcopy__(self, memo: object) -> Text:
        return self

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


def behind_space_in(piece: str) -> int:
    """Where the word begins that ends with this piece, or behind it; -1: it began before."""
    if piece[-1].isspace():
        return len(piece)
    words = piece.rsplit(None, 1)
    return len(piece) - len(words[-1]) if len(words) == 2 or piece[0].isspace() else -1


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
