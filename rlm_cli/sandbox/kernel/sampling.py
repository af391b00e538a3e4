"""`draw_sample`: records drawn at random from a huge text, by looking at few places of it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

from .encoded import Encoded
from .pieces import Lines, Piece, of_str, records
from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random
    from typing import Any

    from .pieces import Matches

TRIES = 8
"""Windows looked at for each record drawn from a Text."""
WINDOW = 1 << 13
AROUND = 1 << 9
NEWLINE = re.compile(b"\n")
LONGEST = 1 << 15
"""Characters of a record that are shown to either side of the place that was drawn."""


class ByteLine(Piece):
    """A line drawn by its bytes. In which character it begins is found out when it is asked for: in text that is not
    ASCII, that takes a pass over what is before it."""

    __slots__ = ("_byte", "_source")
    _source: Encoded
    _byte: int

    @property
    def start(self) -> int:
        return self._source.char_at(self._byte)

    @start.setter
    def start(self, _: int) -> None:
        pass


def draw_sample(text: Any, n: int = 20, *, seed: int = 0, by: Any = None) -> list[Piece]:
    """See Helpers.draw_sample."""
    from random import Random

    rng = Random(seed)  # noqa: S311 - not a secret
    rule = records(by)
    if isinstance(text, Mapping):
        return list(from_documents(text, n, rng, rule))
    return list(from_text(text, n, rng, rule, ""))


def strata(size: int, n: int, rng: Random) -> Iterator[int]:
    """A random place in each of `n` equal parts of `size`, in order."""
    n = min(n, size)
    for number in range(n):
        low, high = number * size // n, (number + 1) * size // n
        yield low + rng.randrange(high - low)


def from_documents(documents: Mapping[str, Any], n: int, rng: Random, rule: Lines | Matches) -> Iterator[Piece]:
    """Each document gives its share by size; its bytes are known without reading it."""
    names = list(documents)
    size_of = getattr(documents, "size", None) or (lambda name: len(documents[name]))
    ends = list(accumulate(map(size_of, names)))
    wanted: dict[int, int] = {}
    for place in strata(ends[-1] if ends else 0, n, rng):
        number = bisect_right(ends, place)
        wanted[number] = wanted.get(number, 0) + 1
    for number, count in wanted.items():
        yield from from_text(documents[names[number]], count, rng, rule, names[number])


def from_text(text: Any, n: int, rng: Random, rule: Lines | Matches, document: str) -> list[Piece]:
    """Among the records that begin in a few random windows, one is drawn: however long they are, each has the same
    chance to begin there. Where none begins, it is the one that goes on there."""
    if not isinstance(text, Text):
        return list(from_str(of_str(text), n, rng, rule, document))
    whole = text._source if isinstance(text._source, Encoded) else None
    source = whole if whole is not None and type(rule) is Lines and whole.needle("\n") == b"\n" else None
    size = len(text) if source is None else source.size  # in bytes where lines can be found in them
    window = max(1, min(WINDOW, size // max(1, n * TRIES)))
    places = [place - window + 1 for place in strata(size + window - 1, n * TRIES, rng)]
    spans = set()
    for at in range(0, len(places), TRIES):
        group = places[at : at + TRIES]
        ranges = [(max(0, place), min(place + window, size)) for place in group]
        starts = [
            start
            for a, b in ranges
            for start in (lines_in(source, a, b) if source is not None else records_in(text, a, b, rule))
        ]
        place = rng.choice(starts or [ranges[0][0]])
        spans.add(span_of_bytes(source, place) if source is not None else span_of(text, place, rule))
    if source is not None:
        return [line_of_bytes(source, start, end, document) for start, end in sorted(spans)]
    return [piece_of(text, start, end, document) for start, end in sorted(spans)]


def lines_in(source: Encoded, start: int, stop: int) -> list[int]:
    """The bytes in [start, stop) at which lines begin."""
    before = max(0, start - 1)
    found = [before + match.end() for match in NEWLINE.finditer(source.read(before, stop - 1))] if stop > 1 else []
    return found if start else [0, *found]


def records_in(text: Text, start: int, stop: int, rule: Lines | Matches) -> list[int]:
    """The characters in [start, stop) at which records begin."""
    base = max(0, start - AROUND)
    window = text.piece(base, stop + rule.reach)
    found, place, last = [] if start else [0], max(start, 1) - base, stop - 1 - base
    while place <= last:
        place = rule.next(window, place, last)
        if place < 0:
            break
        found.append(base + place)
        place += 1
    return found


def from_str(text: str, n: int, rng: Random, rule: Lines | Matches, document: str) -> Iterator[Piece]:
    """All records are counted, then some of them drawn."""
    total, place = 0, 0
    while 0 <= place < len(text):
        total += 1
        place = rule.next(text, place + 1, len(text))
    wanted = strata(total, n, rng)
    number, start, target = 0, 0, next(wanted, None)
    while target is not None:
        end = rule.next(text, start + 1, len(text))
        end = end if end >= 0 else len(text)
        if number == target:
            yield piece_of(text, start, end, document)
            target = next(wanted, None)
        number, start = number + 1, end


def piece_of(text: Any, start: int, end: int, document: str) -> Piece:
    return Piece(text[start:end].rstrip("\r\n"), start, document)


def span_of(text: Text, place: int, rule: Lines | Matches) -> tuple[int, int]:
    """The record that a character is in: from where to where, in characters."""
    size = AROUND
    while True:
        base = max(0, place - size)
        stop = place + size + rule.reach
        window = text.piece(base, stop)
        known = len(window) if base + len(window) < stop else len(window) - rule.reach
        at = place - base
        start = rule.last(window, 1, at) if at else 0
        end = rule.next(window, at + 1, known) if at < known else -1
        found = (start >= 0 or base == 0) and (end >= 0 or known == len(window))
        if found or size >= LONGEST:
            return base + max(start, 0), base + (end if end >= 0 else known)
        size *= 4


def span_of_bytes(source: Encoded, place: int) -> tuple[int, int]:
    """The line that a byte is in: from where to where, in bytes. Of a longer one, only whole characters of UTF-8."""
    size = AROUND
    while True:
        base, stop = max(0, place - size), min(place + size, source.size)
        data = source.read(base, stop)
        start = data.rfind(b"\n", 0, place - base) + 1
        end = data.find(b"\n", place - base) + 1
        if (start or not base) and (end or stop == source.size):
            return base + start, base + end if end else stop
        if size >= LONGEST:
            start = start or next((at for at in range(8) if data[at] & 0xC0 != 0x80), 0)
            end = end or next((at for at in range(len(data) - 1, len(data) - 8, -1) if data[at] & 0xC0 != 0x80), 0)
            return base + start, base + end
        size *= 4


def line_of_bytes(source: Encoded, start: int, end: int, document: str) -> Piece:
    data = source.read(start, end).rstrip(b"\r\n")
    try:
        line = str(data, source.codec, "strict" if source.auto else "replace")
    except UnicodeDecodeError:
        len(source)  # which decides how it is read
        line = str(data, source.codec, "replace")
    found = ByteLine(line, 0, document)
    found._source, found._byte = source, start
    return found
