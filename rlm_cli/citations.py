"""Quotes that the model's code gave as evidence -> citations: each looked up in the documents' own files, by us.

A document is decoded here as the kernel decodes it (`kernel.decoding`, `kernel.encoded`), so that characters and lines
are the same; a few megabytes at a time, whatever its size. Before that, one pass over its bytes looks for one word of
each quote: a quote that is made up costs no more than that.
"""

from __future__ import annotations

import codecs
import heapq
import os
import re
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from .errors import RlmError
from .events import Citation
from .sandbox import Quote
from .sandbox.kernel.context import SAMPLE_BYTES, SAMPLES
from .sandbox.kernel.decoding import BOMS, decode
from .sandbox.kernel.encoded import Encoded, is_single_byte
from .sandbox.staging import index_name, opened
from .sources import Document

CHECK_S = 60.0
"""Seconds that looking for all quotes of an answer may take."""
WINDOW = 1 << 20
"""Bytes that are decoded at a time."""
SLACK = 1 << 14
"""Characters that white space in the document may add to a quote."""
WORDS = 16
HEAD = 1 << 16
"""Words of a quote of which the rarest in so many first bytes of a document is looked for in all of them."""

Pass = Literal["verbatim", "approximate"]
OnProgress = Callable[[int, int], None]
"""Called with the bytes that were searched, and the bytes that may have to be."""


REPLACEMENT = "\ufffd"
"""Stands for bytes that could not be decoded."""
_ASCII_WORD = re.compile("[!-~]+")
_WORD = re.compile(r"\S+")


class OutOfTime(Exception):  # noqa: N818 - no error: what is left stays unchecked
    """The time is up, or somebody wants to stop."""


@dataclass
class Watch:
    """Ends a search that takes too long, and says how far it is."""

    ends: float
    cancelled: Callable[[], bool]
    on_progress: OnProgress
    clock: Callable[[], float]
    total: int = 0
    done: int = 0

    def passed(self, size: int) -> None:
        """`size` more bytes are searched."""
        self.done += size
        if self.clock() > self.ends or self.cancelled():
            raise OutOfTime
        self.on_progress(self.done, max(self.total, self.done))


class Passage:
    """Text that quotes are looked for in.

    Whatever the quotes are, in time that grows with its length alone: they and the input may have been made for it, and
    while a regular expression tries everything no other thread runs, not even the one that Ctrl-C wakes.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def squeezed(self) -> str:
        """Its words, with one blank between them."""
        return " ".join(self.text.split())

    @cached_property
    def starts(self) -> array[int]:
        """Where each word begins in the text."""
        return array("Q", (word.start() for word in _WORD.finditer(self.text)))

    def find(self, wanted: str, how: Pass) -> tuple[int, int] | None:
        """Where it is."""
        if how == "verbatim":
            at = self.text.find(wanted)
            return None if at < 0 else (at, at + len(wanted))
        wanted = " ".join(wanted.split())
        at = self.squeezed.find(wanted)
        return None if at < 0 else (self._place(at), self._place(at + len(wanted) - 1) + 1)

    def _place(self, at: int) -> int:
        """Where in the text the character is that is at `at` among the squeezed words."""
        word = self.squeezed.count(" ", 0, at)
        return self.starts[word] + at - (self.squeezed.rfind(" ", 0, at) + 1)


@dataclass
class Sought:
    """One quote on its way to a citation."""

    quote: Quote
    document: Document | None
    """The one it is said to be from."""
    citation: Citation | None = None
    unread: bool = False
    """Whether a document that may hold it could not be searched."""

    def reach(self, how: Pass) -> int:
        """Characters that an occurrence has at most."""
        return len(self.quote.quote) + (SLACK if how == "approximate" else 0)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What every occurrence holds as it is, whatever white space is around it: those in ASCII, which have the same
        bytes in nearly every encoding; where there are none, the others. The longest, and none twice."""
        wanted = self.quote.quote
        words = _ASCII_WORD.findall(wanted) or [word for word in wanted.split() if REPLACEMENT not in word]
        return tuple(heapq.nlargest(WORDS, dict.fromkeys(words), key=len))

    def outcome(self) -> Citation:
        """What is known in the end."""
        if self.citation is not None:
            return self.citation
        document = index_name(self.document.name) if self.document else self.quote.document
        return Citation(self.quote.quote, "unchecked" if self.unread else "not_found", document)


def check(
    quotes: Sequence[Quote],
    documents: Sequence[Document],
    *,
    text_limit: int,
    seconds: float = CHECK_S,
    window: int = WINDOW,
    cancelled: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = lambda _done, _total: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Citation, ...]:
    """One citation for each quote, in order; none is left out. Where a quote occurs more often, it is the place that it
    was said to be from, else the first. `text_limit`: bytes up to which the kernel decodes a document as a whole.

    It is looked for in its document word for word, then but for white space, and then so in all documents. Blocking:
    for a thread. Raises nothing for what is wrong with the quotes or the documents.
    """
    if not quotes:
        return ()
    names = {index_name(document.name): document for document in documents} if len(documents) > 1 else {}
    alone = documents[0] if len(documents) == 1 else None
    sought = [Sought(quote, alone or names.get(quote.document)) for quote in quotes]
    watch = Watch(clock() + seconds, cancelled, on_progress, clock)
    search = Search(watch, text_limit, window)
    try:
        search.in_their_own(sought)
        if alone is None:
            search.in_all(sought, documents)
    except OutOfTime:
        for one in sought:
            one.unread = True
    return tuple(one.outcome() for one in sought)


@dataclass
class Search:
    """Goes through documents, `window` bytes at a time."""

    watch: Watch
    text_limit: int
    window: int

    def in_their_own(self, sought: Sequence[Sought]) -> None:
        """Each quote in the document that it is said to be from."""
        groups: dict[int, tuple[Document, list[Sought]]] = {}
        for one in sought:
            if one.document is not None:
                groups.setdefault(id(one.document), (one.document, []))[1].append(one)
        self.watch.total += sum(document.size for document, _ in groups.values())
        for document, group in groups.values():
            possible = self.possible(document, group)
            self.look(document, possible, "verbatim")
            self.look(document, possible, "approximate")

    def in_all(self, sought: Sequence[Sought], documents: Sequence[Document]) -> None:
        """What was not found yet, in all documents, in order."""
        if all(one.citation for one in sought):
            return
        self.watch.total += sum(document.size for document in documents)
        # Only those that may hold one are remembered: there may be a million documents.
        found: list[tuple[Document, list[Sought]]] = []
        for document in documents:
            group = self.possible(document, [one for one in sought if one.document is not document])
            if group:
                found.append((document, group))
                self.look(document, group, "verbatim")
        for document, group in found:
            self.look(document, group, "approximate")

    def possible(self, document: Document, sought: Iterable[Sought]) -> list[Sought]:
        """Those of the quotes without a citation that the document may hold: one of their words is in its bytes."""
        wanted = [one for one in sought if one.citation is None]
        if not wanted:
            return []
        try:
            with opened(document) as fd:
                return self.sift(fd, document, wanted)
        except (OSError, RlmError, LookupError):
            for one in wanted:
                one.unread = True
            return []

    def sift(self, fd: int, document: Document, wanted: list[Sought]) -> list[Sought]:
        """The quotes of which a word was seen, and those of which none can be looked for in bytes."""
        spell = spelling(document.encoding, os.pread(fd, 4, 0))
        needles: dict[int, tuple[bytes, ...]] = {}
        tail, at, seen = b"", 0, set[int]()
        while at < document.size:
            data = os.pread(fd, min(self.window, document.size - at), at)
            if not data:
                raise OSError("the file has shrunk")
            if not at:
                head = data[:HEAD]
                needles = {number: made for number, one in enumerate(wanted) if (made := rarest(one, spell, head))}
                seen = set(range(len(wanted))) - needles.keys()
            at += len(data)
            self.watch.passed(len(data))
            data = tail + data
            found = [number for number, made in needles.items() if any(needle in data for needle in made)]
            seen.update(found)
            for number in found:
                del needles[number]
            if not needles:
                break
            longest = max(len(needle) for made in needles.values() for needle in made)
            tail = data[max(0, len(data) - longest + 1) :]
        return [one for number, one in enumerate(wanted) if number in seen]

    def look(self, document: Document, sought: Iterable[Sought], how: Pass) -> None:
        """Cite the document for all quotes that are in it and have no citation yet."""
        wanted = [one for one in sought if one.citation is None]
        if not wanted:
            return
        self.watch.total += document.size
        try:
            found = self.scan(document, wanted, how)
        except (OSError, RlmError, LookupError):
            for one in wanted:
                one.unread = True
            return
        path = document.file if document.origin == "file" else None
        for number, place in found.items():
            one = wanted[number]
            one.citation = Citation(one.quote.quote, how, index_name(document.name), path, *place)

    def scan(self, document: Document, wanted: Sequence[Sought], how: Pass) -> dict[int, Place]:
        """Number of a quote -> (line, start, end) of the place to cite."""
        with opened(document) as fd:

            def read(start: int, size: int) -> bytes:
                return os.pread(fd, size, start)

            reading = reading_of(read, document, self.text_limit, self.window)
            while True:
                try:
                    return self.scan_text(reading, wanted, how)
                except UnicodeDecodeError:  # only now is it known how the kernel reads it
                    reading = reading.instead()

    def scan_text(self, reading: Reading, wanted: Sequence[Sought], how: Pass) -> dict[int, Place]:
        scan = Scan(wanted, how)
        for size, text in reading.pieces():
            self.watch.passed(size)
            scan.add(text)
            if not scan.missing and not reading.uncertain:
                break
        scan.end()
        return scan.found


Spelling = Callable[[str], tuple[bytes, ...]]
"""The bytes that a word may be; none: that cannot be said."""


def spelling(encoding: str, head: bytes) -> Spelling:
    """How words are spelled in a document with these first bytes. Raises `LookupError` for an unknown encoding."""
    name = codecs.lookup("utf-8" if encoding == "auto" else encoding).name
    if encoding == "auto" and any(head.startswith(mark) for mark, codec in BOMS if not codec.startswith("utf-8")):
        return lambda _word: ()
    if name in ("utf-8", "utf-8-sig"):
        # "auto" may turn out to be Latin-1.
        return lambda word: tuple({encoded for codec in ("utf-8", "latin-1") if (encoded := spelled(word, codec))})
    if is_single_byte(name):
        return lambda word: (word.encode("ascii"),) if word.isascii() else ()
    return lambda _word: ()


def spelled(word: str, codec: str) -> bytes:
    """The word's bytes; none where the codec has no such characters."""
    try:
        return word.encode(codec)
    except UnicodeEncodeError:
        return b""


def rarest(one: Sought, spell: Spelling, sample: bytes) -> tuple[bytes, ...]:
    """The spellings of that word of a quote which is rarest in a sample, and then the longest; () when there is none
    that can be looked for."""
    ways = [made for word in one.words if (made := spell(word))]
    return min(ways, key=lambda made: (sum(map(sample.count, made)), -len(made[0])), default=())


Place = tuple[int, int, int]


class Scan:
    """One document's text, as it comes: what of it is needed again is kept for the next piece."""

    def __init__(self, wanted: Sequence[Sought], how: Pass) -> None:
        self.wanted, self.how = wanted, how
        self.found: dict[int, Place] = {}
        self.missing = list(range(len(wanted)))
        self._keep = 2 * max(one.reach(how) for one in wanted)
        self._text, self._base, self._lines = "", 0, 0

    def add(self, text: str) -> None:
        """The next piece."""
        self._search(text, last=False)

    def end(self) -> None:
        """There is no more."""
        self._search("", last=True)

    def _search(self, text: str, *, last: bool) -> None:
        self._text += text
        if self.missing:
            passage = Passage(self._text)
            self.missing = [number for number in self.missing if not self._settled(number, passage, last=last)]
        drop = max(0, len(self._text) - self._keep)
        self._lines += self._text.count("\n", 0, drop)
        self._base += drop
        self._text = self._text[drop:]

    def _settled(self, number: int, passage: Passage, *, last: bool) -> bool:
        """Whether the place to cite is known."""
        one, text = self.wanted[number], passage.text
        if number not in self.found and (span := passage.find(one.quote.quote, self.how)):
            self._cite(number, *span)
        if one.quote.start is None:
            return number in self.found
        near, reach = one.quote.start - self._base, one.reach(self.how)
        if near + reach > len(text) and not last:
            return False
        for first in (max(0, near), max(0, near - reach)):
            there = Passage(text[first : max(0, near + reach)])
            if span := there.find(one.quote.quote, self.how):
                self._cite(number, first + span[0], first + span[1])
                return True
        return number in self.found

    def _cite(self, number: int, first: int, last: int) -> None:
        line = self._lines + self._text.count("\n", 0, first) + 1
        self.found[number] = (line, self._base + first, self._base + last)


# -- bytes to text, as the kernel does it -------------------------------------------------------------------------


@dataclass
class Reading:
    """How a document's bytes are read as text: `skip` bytes first, then `codec`.

    With "strict" errors it is not known yet, and a byte that is no UTF-8 decides (`UnicodeDecodeError`): a document
    that the kernel decodes as a whole is Latin-1 then. One that it reads in pieces (`lazy`) was taken for UTF-8 by its
    first bytes beyond ASCII, if they were.
    """

    read: Callable[[int, int], bytes]
    size: int
    skip: int
    codec: str
    errors: str
    window: int
    lazy: bool = False
    whole: str | None = None
    """The text, where that is all known."""
    beyond_ascii: bool = field(default=False, init=False)

    @property
    def uncertain(self) -> bool:
        """Whether what is still to come may change what was read."""
        return self.errors == "strict" and self.beyond_ascii and not self.lazy

    def pieces(self) -> Iterator[tuple[int, str]]:
        """(bytes, text) of one piece after the other. Raises `UnicodeDecodeError`."""
        if self.whole is not None:
            yield self.size, self.whole
            return
        decoder = codecs.getincrementaldecoder(self.codec)(self.errors)
        at = self.skip
        while at < self.size:
            data = self.read(at, min(self.window, self.size - at))
            if not data:
                raise OSError("the file has shrunk")
            at += len(data)
            text = decoder.decode(data, at >= self.size)
            self.beyond_ascii = self.beyond_ascii or not data.isascii()
            yield len(data), text

    def instead(self) -> Reading:
        """The other way, after a byte that is no UTF-8."""
        if self.lazy and self.beyond_ascii:
            return replace(self, errors="replace")
        return replace(self, codec="latin-1", errors="replace")


def reading_of(read: Callable[[int, int], bytes], document: Document, text_limit: int, window: int) -> Reading:
    """How the kernel reads the document. Raises `LookupError`, `OSError`."""
    size, encoding = document.size, document.encoding
    made = Reading(read, size, 0, encoding, "replace", window)
    if size <= window:
        return replace(made, whole=decode(read(0, size), encoding)[0])
    if size > text_limit:
        source = Encoded(read, size, encoding)
        source.survey(SAMPLES, SAMPLE_BYTES)
        errors = "strict" if source.auto else "replace"
        return replace(made, skip=size - source.size, codec=source.codec, errors=errors, lazy=True)
    if encoding != "auto":
        return made
    head = read(0, 4)
    for mark, codec in BOMS:
        if head.startswith(mark):
            return replace(made, skip=len(mark), codec=codec)
    return replace(made, codec="utf-8", errors="strict")
