"""A huge document's bytes seen as characters: decoded in pieces, with a sparse table of where characters begin.

The table has one entry for a run of bytes that are one character each (all of an ASCII file is one entry) and one
for every `stride` bytes of anything else. It is built in one pass, only as far as it is needed, and the same pass
decides whether a document without a byte order mark is UTF-8. Up to the first byte beyond ASCII, UTF-8 and Latin-1
agree, so that offsets given out before the pass is complete stay true.
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


class Encoded:
    """Characters of `size` bytes that `read` gives, read as `decoding.decode` does. Offsets count characters.

    Raises `LookupError` for a codec that does not exist or cannot be read in pieces, `OSError` from `read`.
    """

    def __init__(self, read: Read, size: int, encoding: str = "auto", stride: int = STRIDE, run: int = RUN) -> None:
        self._read = read
        self.mapped: Callable[[], tuple[Any, int]] | None = None
        """Maps the file that the bytes are in: (mapping, place of the first byte), where that is possible."""
        self._stride = max(stride, LONGEST)
        self._run = max(run, 2 * LONGEST)
        self._start, self.codec, self.errors = self._choose(encoding, size)
        self.size = size - self._start
        """Bytes without the byte order mark."""
        self.auto = self.errors == "strict"
        """Whether it may still turn out to be Latin-1."""
        self._lock = RLock()  # guards the table while it grows
        self._bytes = array("Q", [0])
        self._chars = array("Q", [0])
        self._done = 0
        self._count = 0
        self._beyond_ascii = False
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
    def lossy(self) -> bool:
        """Whether it is known to be read as Latin-1 for want of valid UTF-8."""
        return self.errors == "lossy"

    def look_ahead(self) -> None:
        """Read a first piece: what is not UTF-8 mostly shows at once, and then there is no table to build."""
        if self.auto:
            head = self.read(0, min(self._run, self.size))
            try:
                self._decode(head, final=len(head) == self.size)
            except UnicodeDecodeError:
                self._become_latin()

    def settle(self) -> None:
        """Decide how bytes beyond ASCII are read."""
        self._cover_byte(self.size if self.auto else 0)

    def _cover(self, char: int) -> None:
        """Extend the table over the character `char`, if there is one."""
        with self._lock:
            while (self._count <= char or self._unsettled()) and self._done < self.size:
                self._grow()

    def _cover_byte(self, position: int) -> None:
        with self._lock:
            while (self._done < position or self._unsettled()) and self._done < self.size:
                self._grow()

    def _unsettled(self) -> bool:
        """Whether bytes beyond ASCII were seen, and not yet all of what decides how to read them."""
        return self.auto and self._beyond_ascii

    def _grow(self) -> None:
        """One read further. An interrupt may come at any call: the table is whole after each of them."""
        try:
            self._grow_by_run()
        except UnicodeDecodeError:
            self._become_latin()
        self.auto = self.auto and self._done < self.size

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
        self._beyond_ascii = True
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
        return self._read(self._start + start, stop - start)

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
            self._cover_byte(self.size)  # which bytes these are depends on the codec
        searchable = self._plain() or self.codec in LATIN
        if not searchable or (self.errors == "replace" and "\ufffd" in text):
            return None
        try:
            return text.encode(self.codec)
        except UnicodeEncodeError:
            return b""


def is_single_byte(codec: str) -> bool:
    """Whether every byte is one character of its own."""
    if codec.startswith(("utf", "UTF")):
        return False
    every = bytes(range(256))
    return len(str(every, codec, "replace")) == len(str(every[::-1], codec, "replace")) == 256
