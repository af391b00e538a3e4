"""A regular expression over a document's bytes, cut where no match can be: exact, in small pieces, on every core.

What nothing in a pattern can match (mostly the newline) is a barrier (`patterns.Traits`). Behind one the bytes can be
cut: each piece is decoded with the barrier before it and searched by itself. A piece that lacks what every match holds
is not even decoded. Blocks of pieces are dealt out to forked processes, and their results come back in order, with the
characters and lines of each block counted on the way, so that no table of offsets is needed.
"""

from __future__ import annotations

import re
from functools import lru_cache

from . import forked
from .encoded import is_single_byte
from .patterns import traits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .encoded import Encoded
    from .patterns import Traits
    from .text import Text

    Take = Callable[["Scan", "Piece"], Any]
    """What to make of a piece: something `marshal` takes, false when there is nothing in it."""

BLOCK = 16
"""Pieces of one job."""
LONG = 64
"""Pieces without a barrier after which it is not worth waiting for one."""
LEAD = 8
"""Blocks that are searched before anybody is forked for the rest: most searches are over by then, or as fast."""
PROBE = 4096


class Unbroken(Exception):  # noqa: N818
    """There is no barrier for too long. `place`, `line`: the character from which on somebody else must search, and the
    newlines before it."""

    def __init__(self, place: int = 0, line: int = 0) -> None:
        super().__init__(place)
        self.place = place
        self.line = line


class Unsettled(Exception):  # noqa: N818
    """A byte beyond ASCII, before it is known how those are to be read."""


class Reader:
    """Bytes [0, stop) of a source and the text that they are. A forked child reads a mapping and takes no lock."""

    def __init__(self, source: Encoded, stop: int | None) -> None:
        self.source = source
        self.stop = source.size if stop is None else stop
        self.codec = source.codec
        self.errors = "strict" if source.auto else "replace"
        self._mapped: tuple[Any, int] | None = None
        self._view = memoryview(b"")

    def prepare_fork(self) -> bool:
        """Map the file, so that children need nothing of ours. False: they cannot read it."""
        if self._mapped is None and self.source.mapped is not None:
            try:
                self._mapped = self.source.mapped()
            except (OSError, ValueError):
                return False
            self._view = memoryview(self._mapped[0])[self._mapped[1] + self.source.start :]
        return True

    @property
    def view(self) -> memoryview | None:
        """All bytes, in a forked child."""
        return self._view if forked.in_child and self._mapped is not None else None

    def read(self, start: int, stop: int) -> bytes:
        if forked.in_child and self._mapped is not None:
            return bytes(self._view[start:stop])
        return self.source.read(start, stop)

    def text(self, start: int, stop: int) -> str:
        """Raises `UnicodeDecodeError` while it is not settled that it is UTF-8."""
        if forked.in_child and self._mapped is not None:
            return str(self._view[start:stop], self.codec, self.errors)
        return str(self.source.read(start, stop), self.codec, self.errors)

    def chars(self, data: bytes) -> int:
        """How many characters these bytes are. Raises `Unsettled`."""
        if data.isascii():
            return len(data)
        if self.source.auto:
            raise Unsettled
        return len(str(data, self.codec, self.errors))


class Piece:
    """Some text between two barriers, or bytes that need no search (`text` is None).

    Matches begin at `lead` or behind it, and before `limit`; `final`: the document ends with it. `start`, `end`: its
    bytes; `chars`, `lines`: its characters and newlines, 0 when nobody asked.
    """

    __slots__ = ("chars", "end", "final", "lead", "limit", "lines", "pattern", "start", "text")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.text: str | None = None
        self.lead = self.limit = self.chars = self.lines = 0
        self.final = False
        self.pattern: Any = None


class Scan:
    """One pattern over the bytes of a reader from `start` on, which is where character `first` begins. `piece`,
    `longest`: bytes of a piece, and the most it may have."""

    def __init__(
        self, pattern: re.Pattern[str], reader: Reader, first: int, start: int, piece: int, longest: int
    ) -> None:
        self.pattern = pattern
        self.known = known = traits(pattern)
        self.first = first
        self.reader = reader
        self.start = start
        self._low = 0  # a cut at or before `start`, for what looks back
        self.piece = piece
        self.longest = longest
        self.exact = False
        """Whether offsets matter: then the characters in between are counted, and must be settled."""
        self.line_numbers = False
        """Whether lines are counted too."""
        self._barrier = re.compile(b"[" + re.escape(known.barriers) + b"]")
        self._lines = known.barriers == b"\n"
        self._cuts = (0, 0)
        self._needles = self._encoded_needles()
        self._folded = self._encoded_folded()
        self._tries = self._misses = 0

    def _encoded_needles(self) -> list[bytes]:
        texts, reader = self.known.needles, self.reader
        if self.known.ignore_case:
            return [text.lower().encode() for text in texts]
        plain = all(text.isascii() for text in texts)
        if plain or (reader.codec.startswith("utf") and not reader.source.auto and "\ufffd" not in "".join(texts)):
            return [text.encode() for text in texts]
        return []

    def _encoded_folded(self) -> list[bytes]:
        """An encoding that lacks such a character has no text with it."""
        encoded = (char.encode(self.reader.codec, "ignore") for char in self.known.folded)
        return [data for data in encoded if data]

    def settle(self) -> None:
        """Have the source decide how its bytes are read, and read them so."""
        self.reader.source.settle()
        self.reader = Reader(self.reader.source, self.reader.stop)
        self._needles = self._encoded_needles()
        self._folded = self._encoded_folded()

    # -- where to cut

    def cut(self, at: int) -> int:
        """The first cut that is not before `at`: right behind a barrier, or at the end."""
        asked, found = self._cuts
        if asked <= at <= found:
            return found
        place, size, stop = at - 1, PROBE, self.reader.stop
        found = stop
        while place < stop:
            data = self.reader.read(place, min(place + size, stop))
            match = self._barrier.search(data)
            if match:
                found = place + match.end()
                break
            place, size = place + len(data), min(4 * size, 1 << 20)
        self._cuts = (at, found)
        return found

    def _last(self, data: bytes) -> int:
        """Behind the last barrier in `data`; 0: there is none."""
        return max(data.rfind(bytes([barrier])) for barrier in self.known.barriers) + 1

    def _piece_end(self, at: int, stop: int) -> int:
        end = at + self.piece
        if end >= stop:
            return stop
        for first in (max(at, end - PROBE), at):
            place = self._last(self.reader.read(first, end))
            if place:
                return first + place
        end = min(self.cut(end), stop)
        if end - at > self.longest:
            raise Unbroken
        return end

    def jobs(self) -> list[tuple[int, int]]:
        size = BLOCK * self.piece
        starts = range(self.start, max(self.reader.stop, self.start + 1), size)
        return [(at, min(at + size, self.reader.stop)) for at in starts]

    # -- the pieces

    def pieces(self, job: tuple[int, int], at: int | None) -> Iterator[Piece]:
        """Of a job, from `at` on."""
        first, stop = job
        if at is None:
            at = first if first == self.start else self.cut(first)
        stop = self.cut(stop) if stop < self.reader.stop else stop
        while at < stop or self.start == self.reader.stop:
            end = self._piece_end(at, stop)
            yield from self._narrowed(at, end)
            at = end
            if at >= stop:
                return

    def _narrowed(self, at: int, end: int) -> Iterator[Piece]:
        """A piece, or only the lines from the first needle in it to the last."""
        if not self._wanted():
            yield self._searched(at, end)
            return
        data = self.reader.read(at, end)
        hay = data.lower() if self.known.ignore_case else data
        if self.known.folded and not data.isascii() and any(char in data for char in self._folded):
            yield self._searched(at, end)
            return
        firsts = [place for place in map(hay.find, self._needles) if place >= 0]
        self._tries += 1
        self._misses += not firsts
        if not firsts:
            yield self._passed(at, end, data)
            return
        if not self._lines:
            yield self._searched(at, end)
            return
        first = data.rfind(b"\n", 0, min(firsts)) + 1
        last = data.find(b"\n", max(map(hay.rfind, self._needles))) + 1 or len(data)
        if first:
            yield self._passed(at, at + first, data[:first])
        yield self._searched(at + first, at + last)
        if last < len(data):
            yield self._passed(at + last, end, data[last:])

    def _wanted(self) -> bool:
        """Whether to look for needles first: not where nearly every piece has one, but for a look now and then."""
        if not self._needles:
            return False
        if self._tries < 2 * BLOCK or 4 * self._misses >= self._tries:
            return True
        self._tries += 1
        return self._tries % BLOCK == 0

    def _passed(self, at: int, end: int, data: bytes) -> Piece:
        piece = Piece(at, end)
        if self.exact:
            piece.chars = self.reader.chars(data)
            piece.lines = data.count(b"\n") if self.line_numbers else 0
        return piece

    def _searched(self, at: int, end: int) -> Piece:
        piece = Piece(at, end)
        low = self._low if at == self.start else at - 1
        text = self.reader.text(low, end)
        if self.exact and self.reader.source.auto and not text.isascii():
            raise Unsettled
        piece.lead = 1 if low == at - 1 else len(self.reader.text(low, at)) if low < at else 0
        piece.final = end == self.reader.stop
        piece.limit = len(text) + piece.final
        piece.chars = len(text) - piece.lead
        piece.lines = text.count("\n", piece.lead) if self.line_numbers else 0
        piece.pattern = self.known.suited(self.pattern, text)
        piece.text = text + "x" if self.known.ends and not piece.final else text
        return piece

    def lines_before(self, at: int, count: int) -> str:
        """At least so many whole lines before a cut behind a newline, fewer where the document begins."""
        size = PROBE if count else 0
        while True:
            data = self.reader.read(max(0, at - size), at)
            if size >= at or data.count(b"\n") > count or not count:
                break
            size = self._wider(size)
        start = 0 if size >= at else data.find(b"\n") + 1
        return self.reader.text(at - len(data) + start, at)

    def lines_after(self, at: int, count: int) -> str:
        """At least so many whole lines behind a cut behind a newline, fewer where the document ends."""
        size, stop = PROBE if count else 0, self.reader.stop
        while True:
            data = self.reader.read(at, min(at + size, stop))
            if at + size >= stop or data.count(b"\n") >= count:
                break
            size = self._wider(size)
        return self.reader.text(at, stop if at + size >= stop else at + data.rfind(b"\n") + 1)

    def _wider(self, size: int) -> int:
        if size > self.longest:
            raise Unbroken
        return 4 * size

    # -- the work of one job

    def work(self, take: Take) -> forked.Work:
        """The results of a job: (following byte, characters and lines passed, lead, characters, lines, what `take`
        made), one for each piece in which it made something."""

        def results(job: tuple[int, int], at: int | None) -> Iterator[tuple[Any, ...]]:
            chars = lines = 0
            end = at
            for piece in self.pieces(job, at):
                made = None if piece.text is None else take(self, piece)
                end = piece.end
                if made:
                    yield end, chars, lines, piece.lead, piece.chars, piece.lines, made
                    chars = lines = 0
                else:
                    chars += piece.chars
                    lines += piece.lines
            if chars:
                yield end, chars, lines, 0, 0, 0, None

        return results

    def totals(self, take: Take) -> forked.Work:
        """The result of a job: (following byte, the sum of what `take` made)."""

        def results(job: tuple[int, int], at: int | None) -> Iterator[tuple[Any, ...]]:
            if take is count_matches and self.known.raw is not None:
                yield job[1], self._count_raw(self.known.raw, job)
                return
            made = [take(self, piece) for piece in self.pieces(job, at) if piece.text is not None]
            yield job[1], sum(made)

        return results

    def _count_raw(self, raw: re.Pattern[bytes], job: tuple[int, int]) -> int:
        """Matches in the bytes of a job, which nobody decodes."""
        at = job[0] if job[0] == self.start else self.cut(job[0])
        stop = self.cut(job[1]) if job[1] < self.reader.stop else job[1]
        view = self.reader.view
        if view is not None:
            return sum(1 for _ in raw.finditer(view, at, stop))
        count = 0
        while at < stop:
            end = self._piece_end(at, stop)
            count += sum(1 for _ in raw.finditer(self.reader.read(at, end)))
            at = end
        return count


def cuttable(codec: str) -> bool:
    """Whether an ASCII byte is that character wherever it is, so that bytes can be cut behind it."""
    return codec.startswith(("utf-8", "utf_8")) or single_byte(codec)


@lru_cache(maxsize=8)
def single_byte(codec: str) -> bool:
    every = bytes(range(128))
    return is_single_byte(codec) and str(every, codec, "replace") == every.decode()


def prepare(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> Scan | None:
    """How to search characters [pos, endpos) of a Text; None: it cannot be cut for this pattern."""
    source: Any = text._source
    if isinstance(pattern.pattern, bytes) or not cuttable(getattr(source, "codec", "")):
        return None
    if not traits(pattern).barriers:
        return None
    stop = None if endpos is None else source.byte_at(endpos)
    reader = Reader(source, stop)
    piece = max(1, text.windows[0] >> 3)
    start = source.byte_at(pos) if pos else 0
    scan = Scan(pattern, reader, pos, start, piece, min(LONG * piece, text.most))
    if start:
        most = scan.longest
        before = scan._last(source.read(max(0, start - most), start))
        if not before and start > most:
            return None
        scan._low = max(0, max(0, start - most) + before - 1) if before else 0
    return scan


def total(scan: Scan, take: Take) -> int:
    """The sum of what `take` makes of all pieces. Raises `Unbroken`, `OSError`."""
    while True:
        jobs = scan.jobs()
        count = forked.processes() if len(jobs) >= LEAD and scan.reader.prepare_fork() else 1
        try:
            return sum(made for _, (_, made) in forked.results(scan.totals(take), jobs, count))
        except UnicodeDecodeError:  # it is Latin-1: from the start
            scan.settle()


def run(scan: Scan, take: Take) -> Iterator[tuple[int, int, Any]]:
    """(character that the piece's text begins with, lines before the piece, what `take` made), in order. Raises
    `Unbroken`, `OSError`."""
    scan.exact = True
    jobs = scan.jobs()
    number, done, base, line = 0, None, scan.first, 0
    while number < len(jobs):
        count, ahead = 1, jobs[number : number + LEAD]
        if number >= LEAD and len(jobs) - number >= LEAD and scan.reader.prepare_fork():
            count, ahead = forked.processes(), jobs[number:]
        try:
            first = number
            for offset, result in forked.results(scan.work(take), ahead, count, done):
                number = first + offset
                done, passed, passed_lines, lead, chars, lines, made = result
                base += passed
                line += passed_lines
                if made:
                    yield base - lead, line, made
                base += chars
                line += lines
            number, done = first + len(ahead), None
        except Unbroken:
            raise Unbroken(base, line) from None
        except (Unsettled, UnicodeDecodeError):
            scan.settle()


def count_bytes(text: Text, needle: bytes, start: int, stop: int) -> int | None:
    """How often a needle that does not overlap itself is in bytes [start, stop) of a Text, with both cores; None: it
    does not pay."""
    source: Any = text._source
    step = max(1, text.windows[0] >> 3)
    if not hasattr(source, "codec") or stop - start < LEAD * BLOCK * step or forked.processes() < 2:
        return None
    reader = Reader(source, stop)
    if not reader.prepare_fork():
        return None
    jobs = [(at, min(at + BLOCK * step, stop)) for at in range(start, stop, BLOCK * step)]
    count = 0

    def work(job: tuple[int, int], _: Any) -> Iterator[tuple[int, int]]:
        ends = [(at, min(at + step, job[1]) + len(needle) - 1) for at in range(*job, step)]
        yield job[1], sum(reader.read(at, min(end, stop)).count(needle) for at, end in ends)

    for _, (_, made) in forked.results(work, jobs, forked.processes()):
        count += made
    return count


# -- what to make of a piece


def matches_in(scan: Scan, piece: Piece) -> Iterator[re.Match[str]]:
    for start, stop in scan.known.spans(piece.text or "", piece.lead):
        for match in piece.pattern.finditer(piece.text, start, stop):
            if match.start() >= piece.limit:
                return
            yield match


def count_lines(scan: Scan, piece: Piece) -> int:
    return sum(1 for _ in lines_in(scan.known, piece.pattern, piece.text or "", piece.lead, piece.limit))


def lines_in(
    known: Traits, pattern: re.Pattern[str], text: str, at: int, limit: int
) -> Iterator[tuple[re.Match[str], int, int]]:
    """(the first match in it, start, end) of each line of a text that matches from `at` on and before `limit`. A match
    over several lines is one of them all."""
    for first, stop in known.spans(text, at):
        at = first
        while at < min(limit, stop + 1):
            match = pattern.search(text, at, stop)
            if match is None:
                break
            if match.start() >= limit:
                return
            start = text.rfind("\n", 0, match.start()) + 1
            end = text.find("\n", max(match.start(), match.end() - 1))
            end = len(text) if end < 0 else end
            if start == len(text):
                return  # an empty match behind the last newline is no line
            yield match, start, end
            at = end + 1


def count_matches(scan: Scan, piece: Piece) -> int:
    if scan.known.solid and scan.pattern.groups <= 1:
        spans = scan.known.spans(piece.text or "", piece.lead)
        return sum(len(piece.pattern.findall(piece.text, start, stop)) for start, stop in spans)
    return sum(1 for _ in matches_in(scan, piece))


def rows(scan: Scan, piece: Piece) -> list[tuple[Any, ...]]:
    """Of each match: its spans in the piece's text, its groups and `lastindex`."""
    return [(match.regs, (match[0], *match.groups()), match.lastindex) for match in matches_in(scan, piece)]


def strings(scan: Scan, piece: Piece) -> list[Any]:
    """What `findall` finds."""
    if scan.known.solid:
        spans = scan.known.spans(piece.text or "", piece.lead)
        return [found for start, stop in spans for found in piece.pattern.findall(piece.text, start, stop)]
    one = scan.pattern.groups == 1
    if scan.pattern.groups == 0:
        return [match[0] for match in matches_in(scan, piece)]
    return [(match[1] or "") if one else match.groups("") for match in matches_in(scan, piece)]
