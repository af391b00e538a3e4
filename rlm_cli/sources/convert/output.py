"""What a worker writes: the text of all parts into one file, and at the end a report of where each of them is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

PIECE = 1 << 20
MOST_PARTS = 20_000


class RefusedError(Exception):
    """The file is not converted; the text says why, in words for people."""


@dataclass
class Output:
    """Parts of text, one after the other. A document that is one text has one part, named ""."""

    descriptor: int
    parts: list[tuple[str, int]] = field(default_factory=list)
    words: bool = False
    """Whether there was anything besides marks."""
    _pending: bytearray = field(default_factory=bytearray)

    def part(self, name: str) -> None:
        """What is written from now on belongs to the part `name`."""
        if len(self.parts) >= MOST_PARTS:
            raise RefusedError(f"it has more than {MOST_PARTS:,} parts")
        self.parts.append((name, 0))

    def mark(self, text: str) -> None:
        """A line that says where in the source the following is."""
        self._text(f"--- {' '.join(text.split())} ---\n")

    def line(self, text: str) -> None:
        """Text, with a line end."""
        self.words = self.words or bool(text.strip())
        self._text(text if text.endswith("\n") else text + "\n")

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Bytes as they are, so that it is a file for whoever wants one."""
        data = bytes(data)
        self.words = self.words or bool(data)
        self._bytes(data)
        return len(data)

    def flush(self) -> None:
        """Everything is in the file."""
        view = memoryview(bytes(self._pending))
        self._pending.clear()
        while view:
            view = view[os.write(self.descriptor, view) :]

    def _text(self, text: str) -> None:
        self._bytes(text.encode("utf-8", "replace"))

    def _bytes(self, data: bytes) -> None:
        if not self.parts:
            self.part("")
        name, size = self.parts[-1]
        self.parts[-1] = (name, size + len(data))
        self._pending += data
        if len(self._pending) >= PIECE:
            self.flush()


def report(parts: list[tuple[str, int]], refused: str = "") -> bytes:
    """The report of a worker. `refused`: why there is no text; the same for every try."""
    return json.dumps({"parts": parts, "refused": refused}).encode()
