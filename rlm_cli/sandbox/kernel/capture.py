"""What a cell writes to one stream: the head goes out live, the tail is kept, the middle is only counted."""

from __future__ import annotations

from .wire import KEEP


class End:
    """What is left of a stream when its cell ends. `head` and `tail`: bytes not sent yet; `total`: bytes in all;
    `dropped`: bytes that nobody kept."""

    __slots__ = ("dropped", "head", "tail", "total")

    def __init__(self, head: bytes, tail: bytes, total: int, dropped: int) -> None:
        self.head = head
        self.tail = tail
        self.total = total
        self.dropped = dropped


def whole_characters(data: bytes | bytearray) -> int:
    """How many bytes of `data` come before an incomplete UTF-8 sequence at its end. Invalid bytes are complete."""
    size = len(data)
    for back in range(1, min(3, size) + 1):
        byte = data[size - back]
        if byte >= 0xC0:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return size - back if need > back else size
        if byte < 0x80:
            return size
    return size


class Capture:
    """One stream of one cell, in constant memory. Pieces of the head never end inside a character."""

    def __init__(self, keep: int = KEEP) -> None:
        self.total = 0
        self._keep = keep
        self._room = keep
        self._sent = 0
        self._pending = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes | memoryview) -> None:
        """Take what was written."""
        self.total += len(data)
        if self._room:
            taken = min(self._room, len(data))
            self._pending += data[:taken]
            self._room -= taken
            data = data[taken:]
            if not self._room:
                self._close_head()
        if len(data) >= self._keep:
            self._tail[:] = data[len(data) - self._keep :]
        elif data:
            self._tail += data
            if len(self._tail) > self._keep:
                del self._tail[: len(self._tail) - self._keep]

    def _close_head(self) -> None:
        """A character cut by the end of the head goes to the tail, whole."""
        cut = whole_characters(self._pending)
        self._tail += self._pending[cut:]
        del self._pending[cut:]

    @property
    def pending(self) -> int:
        """Bytes of the head that could be sent now."""
        return whole_characters(self._pending)

    def take(self) -> bytes:
        """The next piece of the head, b"" when there is none."""
        cut = whole_characters(self._pending)
        piece = bytes(self._pending[:cut])
        del self._pending[:cut]
        self._sent += cut
        return piece

    def finish(self) -> End:
        """Everything that was not sent yet, at the end of the cell."""
        piece = bytes(self._pending)
        tail = bytes(self._tail)
        if self.total > self._sent + len(piece) + len(tail):
            start = 0
            while start < min(3, len(tail)) and 0x80 <= tail[start] < 0xC0:
                start += 1
            tail = tail[start:]
        return End(piece, tail, self.total, self.total - self._sent - len(piece) - len(tail))
