"""Line numbers of offsets: newlines are counted once, block by block, as far as they are asked for."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from operator import index
from threading import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BLOCK = 1 << 20
KEPT = 8
"""Texts whose counts are kept."""


class LineNumbers:
    """Those of one text (str or Text), from 1; lines end at "\\n", as in editors and in `grep`."""

    def __init__(self, text: Any, block: int = BLOCK) -> None:
        self.text = text
        self._block = block
        self._before = array("Q", [0])
        self._lock = Lock()  # guards the counts while they grow

    def of(self, offset: int) -> int:
        text, block = self.text, self._block
        if offset < 0 or offset > block:
            size = len(text)
            offset = min(max(0, offset + size) if offset < 0 else offset, size)
        number = offset // block
        with self._lock:
            while len(self._before) <= number:
                start = (len(self._before) - 1) * block
                self._before.append(self._before[-1] + text.count("\n", start, start + block))
        return self._before[number] + int(text.count("\n", number * block, offset)) + 1


class LineNumbering:
    """`LineNumbers` of the texts used last. Of strings, which may be large, only the last one is held."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, LineNumbers] = OrderedDict()

    def line_of(self, place: Any, text: Any) -> int:
        """See Helpers.line_of; `text` is the one that `place` is in."""
        start = getattr(place, "start", place)
        offset = index(start() if callable(start) else start)  # a match's `start` is a method
        numbers = self._kept.get(id(text))
        if numbers is None:
            numbers = LineNumbers(text)
            if isinstance(text, str):
                for key in [key for key, kept in self._kept.items() if isinstance(kept.text, str)]:
                    del self._kept[key]
            elif len(self._kept) >= KEPT:
                self._kept.popitem(last=False)
            self._kept[id(text)] = numbers
        return numbers.of(offset)
