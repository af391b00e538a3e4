"""The inputs: log-like texts of any size, the same bytes every time, written by a process of its own.

    python inputs.py ascii 5000000000 PATH

writes the text and prints its length in characters. A process of its own, because a child's peak memory as Linux
counts it begins with what its parent has: the benchmark itself has to stay small. No imports of ours for the same
reason: it is started as a file.

A block of numbered lines of one length is repeated; its number stands in every line, so no two lines are the same.
Some lines are needles: what the patterns of script.py find.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Literal

Writing = Literal["ascii", "emoji"]
"""Which characters: one byte each, or also ones of two and four bytes in every line."""

LINES = 600_000
"""Lines of a block: about 64 MB."""
PIECE = 1 << 20
RARE = "ERROR service-%02d pool exhausted after %03d tries"
REQUESTS: dict[Writing, str] = {
    "ascii": "INFO  service-%02d request handled in %5d us, status %d, nothing to see",
    "emoji": "INFO  service-%02d \N{ROCKET} request g\u00e9r\u00e9e \N{WHITE HEAVY CHECK MARK} %5d us, status %d, none",
}


def message(number: int, writing: Writing) -> str:
    """What line `number` of a block says: one in 10,000 is a needle, one in 100 of the rest has status 500."""
    if number % 10_000 == 7_919:
        return RARE % (number % 17, number % 1000)
    return REQUESTS[writing] % (number % 17, number * 7919 % 100_000, 500 if number % 100 == 31 else 200)


def line(number: int, writing: Writing) -> bytes:
    """A line of a block, with room for the block's number: as many bytes as any other."""
    text = f"0000-{number:06d} 2026-01-01T00:00:00Z {message(number, writing)}"
    return text.encode().ljust(107) + b"\n"


def blocks(size: int, writing: Writing, lines: int = LINES) -> Iterator[bytes | bytearray]:
    """`size` bytes of text: blocks of `lines` lines, then full stops up to the size."""
    length = len(line(0, writing))
    whole, rest = divmod(size, length)
    block = bytearray().join(line(number, writing) for number in range(min(whole, lines)))
    for number in range(-(-whole // lines)):
        for column, digit in enumerate(b"%04d" % (number % 10_000)):
            block[column::length] = bytes([digit]) * (len(block) // length)
        yield block[: (whole - number * lines) * length]
    yield b"." * rest


def main(writing: Writing, size: int, path: str) -> None:
    chars = 0
    with open(path, "wb") as file:  # noqa: PTH123 - pathlib would be one more import to pay
        for block in blocks(size, writing):
            file.write(block)
            chars += len(block) if block.isascii() else sum(count_chars(block))
    print(chars)


def count_chars(block: bytes | bytearray) -> Iterator[int]:
    """Characters of UTF-8, piece by piece: every byte but those that continue one."""
    continuing = bytes(range(0x80, 0xC0))
    for start in range(0, len(block), PIECE):
        yield len(block[start : start + PIECE].translate(None, continuing))


if __name__ == "__main__":
    main("emoji" if sys.argv[1] == "emoji" else "ascii", int(sys.argv[2]), sys.argv[3])
