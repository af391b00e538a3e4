"""A huge document's bytes seen as characters: decoded in pieces, with a sparse table of where characters begin.

The table has one entry for a run of bytes that are one character each (all of an ASCII file is one entry) and one
for every `stride` bytes of anything else. It is built in one pass, only as far as it is needed.

A document without a byte order mark is UTF-8 when a piece with bytes beyond ASCII is valid UTF-8, which other
encodings hardly ever are, and Latin-1 when no such piece is. It is decided by samples or, where they are all ASCII, by
the first megabyte that is not: until there, UTF-8 and Latin-1 agree, so that offsets given out before stay true.
"""

from __future__ import annotations

import codecs
from array import array
from bisect import bisect_right
from threading import RLock

from .decoding import BOMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Read = Callable[[int, int], bytes]
    """(start, size) -> that many bytes."""

STRIDE = 1 << 16
RUN = 1 << 20
"""Bytes of one read."""
STATEFUL = ("iso2022", "utf_7", "utf7", "hz", "idna", "punycode", "unicode_escape", "raw_unicode_escape")
LATIN = ("latin-1", "iso8859_1")
LONGEST = 8
"""More bytes than any character has."""
CHARACTER = 4
"""The most bytes that a character has."""


class Encoded:
    """Characters of `size` bytes that `read` gives, read as `decoding.decode` does. Offsets count characters.
    `on_lossy` is called with the place of the first byte that is met and is not UTF-8, and the codec in use.

    Raises `LookupError` for a codec that does not exist or cannot be read in pieces, `OSError` from `read`.
    """

    def __init__(
        self,
        read: Read,
        size: int,
        encoding: str = "auto",
        stride: int = STRIDE,
        run: int = RUN,
        on_lossy: Callable[[int, str], object] | None = None,
    ) -> None:
        self._read = read
        self.mapped: Callable[[], tuple[Any, int]] | None = None
        """Maps the file that the bytes are in: (mapping, place of the first byte), where that is possible."""
        self.number = 0
        """Which document of the corpus it is."""
        self._on_lossy = on_lossy
        self._stride = max(stride, LONGEST)
        self._run = max(run, 2 * LONGEST)
        self.start, self.codec, self.errors = self._choose(encoding, size)
        """`start`: bytes of the byte order mark."""
        self.size = size - self.start
        """Bytes without the byte order mark."""
        self.auto = self.errors == "strict"
        """Whether nothing beyond ASCII was seen yet, so that it may still be Latin-1."""
        self._damaged = False
        self._lock = RLock()  # guards the table while it grows
        self._bytes = array("Q", [0])
        self._chars = array("Q", [0])
        self._done = 0
        self._count = 0
        self._kept: tuple[int, str] = (-1, "")
        if is_single_byte(self.codec):
            self._done = self._count = self.size

    def _choose(self, encoding: str, size: int) -> tuple[int, str, str]:
        """(bytes to skip, codec, what to do about errors)."""
        head = self._read(0, min(4, size))
        name = "" if encoding == "auto" else codecs.lookup(encoding).name.replace("-", "_")
        if name.startswith(STATEFUL):
            raise LookupError(f"a document this large cannot be read as {encoding}; convert it to UTF-8 first")
        if name in ("", "utf_8_sig", "utf_16", "utf_32"):
            wanted = name.replace("_sig", "").replace("_", "-")
            for mark, codec in BOMS:
                if head.startswith(mark) and codec.startswith(wanted):
                    return len(mark), codec, "replace"
        native = {"utf_8_sig": "utf_8", "utf_16": "utf_16_le", "utf_32": "utf_32_le"}
        return (0, native.get(name, name), "replace") if name else (0, "utf-8", "strict")

    # -- the table

    def __len__(self) -> int:
        self._cover_byte(self.size)
        return self._count

    @property
    def fewest(self) -> int:
        """At least so many characters it has; known without reading any further. `size`: at most so many."""
        return self._count + -(-(self.size - self._done) // CHARACTER)

    @property
    def end(self) -> int:
        """Where the last character's bytes end."""
        return self.size

    @property
    def what(self) -> str:
        return f"{self.size:,} bytes"

    @property
    def lossy(self) -> bool | None:
        """Whether its bytes are not valid in their encoding. None: none such was met, and not all of it was read."""
        if self.errors == "lossy" or self._damaged:
            return True
        return False if self.codec in LATIN or (self.errors == "strict" and self._done == self.size) else None

    def survey(self, places: int, size: int) -> tuple[int, int]:
        """Decide on the encoding, if a first piece and `places` of `size` bytes spread over all of it show it.
        Returns newlines and bytes in the latter."""
        head = self.read(0, min(self._run, self.size))
        valid = self._is_utf8(head, final=len(head) == self.size)
        size = min(self.size, size)
        starts = range(0, self.size - size + 1, max(1, (self.size - size) // max(1, places - 1)))
        newlines = 0
        for start in starts:
            piece = self.read(start, start + size)
            newlines += piece.count(b"\n")
            if self.auto:
                cut = next((at for at, byte in enumerate(piece[:3]) if byte & 0xC0 != 0x80), 3) if start else 0
                valid = self._is_utf8(piece[cut:]) and valid
        if self.auto and not valid:
            self._become_latin()
        self._damaged = not valid
        return newlines, len(starts) * size

    def _is_utf8(self, piece: bytes, *, final: bool = False) -> bool:
        """Whether a piece that begins with a character may be UTF-8."""
        if self.errors == "strict" and not piece.isascii():
            try:
                self._heed(piece, final=final)
            except UnicodeDecodeError:
                return False
        return True

    def _heed(self, data: bytes, *, final: bool) -> None:
        """Settles that it is UTF-8, when there is a character beyond ASCII. One that is cut off may still be none."""
        if not self._decode(data, final=final)[0].isascii():
            self.auto = False

    def settle(self) -> None:
        """Decide how bytes beyond ASCII are read, if there are any."""
        with self._lock:
            while self.auto and self._done < self.size:
                self._grow()

    def look_further(self) -> bool:
        """Extend the table by one read. False: it is whole."""
        with self._lock:
            if self._done < self.size:
                self._grow()
            return self._done < self.size

    def _cover(self, char: int) -> None:
        """Extend the table over the character `char`, if there is one."""
        with self._lock:
            while self._count <= char and self._done < self.size:
                self._grow()

    def _cover_byte(self, position: int) -> None:
        with self._lock:
            while self._done < position and self._done < self.size:
                self._grow()

    def _grow(self) -> None:
        """One read further. An interrupt may come at any call: the table is whole after each of them."""
        try:
            self._grow_by_run()
        except UnicodeDecodeError as error:
            place = self.start + self._done + error.start
            if self.auto:
                self._become_latin()
            else:
                self.errors = "replace"
            self._damaged = True
            if self._on_lossy is not None:
                self._on_lossy(place, self.codec)

    def _become_latin(self) -> None:
        firsts, counts = array("Q", [0]), array("Q", [0])
        self._bytes, self._chars, self._kept = firsts, counts, (-1, "")
        self.codec, self.errors, self.auto = "latin-1", "lossy", False
        self._done = self._count = self.size

    def _grow_by_run(self) -> None:
        data = self.read(self._done, min(self._done + self._run, self.size))
        if data.isascii() and self._plain():
            self._add(len(data), len(data))
            return
        if self.auto:
            self._heed(data, final=self._done + len(data) == self.size)
        at = 0
        while at < len(data):
            piece = data[at : at + self._stride]
            text, used = self._decode(piece, final=self._done + len(piece) == self.size)
            if not used:  # the rest of the read is the start of a character
                return
            self._add(used, len(text))
            at += used

    def _plain(self) -> bool:
        return self.codec.startswith(("utf-8", "utf_8"))

    def _add(self, size: int, count: int) -> None:
        """Count `size` more bytes, in the last entry if it and they are one byte a character, else in a new one."""
        del self._bytes[len(self._chars) :]  # an interrupt came between the two of an entry
        last = self._bytes[-1]
        one_each = size == count and self._done - last == self._count - self._chars[-1]
        if self._done > last and not one_each:
            self._bytes.append(self._done)
            self._chars.append(self._count)
        self._done += size
        self._count += count

    def _decode(self, data: bytes, *, final: bool) -> tuple[str, int]:
        """The text of whole characters, and how many bytes they took."""
        decoder = codecs.getincrementaldecoder(self.codec)("strict" if self.errors == "strict" else "replace")
        text = decoder.decode(data, final)
        return text, len(data) - len(decoder.getstate()[0])

    def _entry(self, number: int) -> tuple[int, int, int, int]:
        """An entry's first byte and character, and where both end."""
        if number + 1 < len(self._chars):
            return self._bytes[number], self._chars[number], self._bytes[number + 1], self._chars[number + 1]
        return self._bytes[number], self._chars[number], self._done, self._count

    def _block(self, number: int) -> str:
        """The text of an entry that is not one byte a character; the last one used is kept."""
        kept, text = self._kept
        if kept != number:
            first, _, end, _ = self._entry(number)
            text = self._text(self.read(first, end))
            self._kept = (number, text)
        return text

    def _text(self, data: bytes) -> str:
        return str(data, self.codec, "replace")

    # -- bytes

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) behind the byte order mark."""
        return self._read(self.start + start, stop - start)

    def byte_at(self, char: int) -> int:
        """Where a character begins. Only for UTF-8 and single-byte codecs."""
        if not char:
            return 0  # whatever the codec turns out to be
        self._cover(char)
        if char >= self._count:
            return self._done
        number = bisect_right(self._chars, char) - 1
        first, counted, end, last = self._entry(number)
        if end - first == last - counted:
            return first + char - counted
        block = self._block(number)
        if "\ufffd" not in block:
            return first + len(block[: char - counted].encode("utf-8"))
        return first + self._byte_in(self.read(first, end), char - counted)

    def _byte_in(self, data: bytes, char: int) -> int:
        """As byte_at, where replaced bytes have no length of their own: the last prefix that has `char` characters."""
        low, high = 0, len(data)
        while low < high:
            middle = (low + high + 1) // 2
            if len(self._text(data[:middle])) <= char:
                low = middle
            else:
                high = middle - 1
        return low

    def char_at(self, position: int) -> int:
        """The number of the character that begins at a byte."""
        self._cover_byte(position + 1)
        number = bisect_right(self._bytes, position) - 1
        first, counted, end, last = self._entry(number)
        if end - first == last - counted:
            return counted + position - first
        return counted + len(self._text(self.read(first, position)))

    # -- characters

    def text(self, start: int, stop: int) -> str:
        """Characters [start, stop); fewer where the document ends."""
        self._cover(max(stop - 1, start))
        stop = min(stop, self._count)
        parts = []
        while start < stop:
            number = bisect_right(self._chars, start) - 1
            first, counted, end, last = self._entry(number)
            upto = min(stop, last)
            if end - first == last - counted:
                parts.append(self._text(self.read(first + start - counted, first + upto - counted)))
            else:
                parts.append(self._block(number)[start - counted : upto - counted])
            start = upto
        return parts[0] if len(parts) == 1 else "".join(parts)

    def needle(self, text: str) -> bytes | None:
        """The bytes that stand for `text` and for nothing else, b"" when it cannot occur; None when only decoded text
        can be searched."""
        if not text.isascii():
            self.settle()  # which bytes these are depends on the codec
        searchable = self._plain() or self.codec in LATIN
        if not searchable or ("\ufffd" in text and self.codec not in LATIN):
            return None
        try:
            return text.encode(self.codec)
        except UnicodeEncodeError:
            return b""


class Span:
    """Characters [first, last) of an `Encoded`, with the same face; `last` None: up to its end, wherever that is."""

    def __init__(self, source: Encoded | Span, first: int, last: int | None) -> None:
        self.source: Encoded
        self.first: int
        self.last: int | None
        if isinstance(source, Span):
            ends = [end for end in (source.last, None if last is None else source.first + last) if end is not None]
            self.source, self.first, self.last = source.source, source.first + first, min(ends, default=None)
        else:
            self.source, self.first, self.last = source, first, last

    def __len__(self) -> int:
        count = len(self.source)
        return max(0, (count if self.last is None else min(count, self.last)) - self.first)

    @property
    def fewest(self) -> int:
        fewest = self.source.fewest
        return max(0, (fewest if self.last is None else min(fewest, self.last)) - self.first)

    @property
    def size(self) -> int:
        size = self.source.size
        return max(0, (size if self.last is None else min(size, self.last)) - self.first)

    @property
    def number(self) -> int:
        return self.source.number

    @property
    def end(self) -> int:
        return self.source.end if self.last is None else self.source.byte_at(self.last)

    @property
    def what(self) -> str:
        return f"part of a document of {self.source.what}"

    def read(self, start: int, stop: int) -> bytes:
        return self.source.read(start, stop)

    def byte_at(self, char: int) -> int:
        number = self.first + char
        return self.source.byte_at(number if self.last is None else min(number, self.last))

    def char_at(self, position: int) -> int:
        return self.source.char_at(position) - self.first

    def text(self, start: int, stop: int) -> str:
        stop += self.first
        stop = stop if self.last is None else min(stop, self.last)
        return self.source.text(min(self.first + start, stop), stop)

    def needle(self, text: str) -> bytes | None:
        return self.source.needle(text)


def is_single_byte(codec: str) -> bool:
    """Whether every byte is one character of its own."""
    if codec.startswith(("utf", "UTF")):
        return False
    every = bytes(range(256))
    return len(str(every, codec, "replace")) == len(str(every[::-1], codec, "replace")) == 256
