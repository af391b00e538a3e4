"""What a scan by hand costs: count a pattern in a file by plain `re` over `mmap`, in one process or several.

    python mmap_scan.py PROCESSES PATTERN PATH

Prints the number of matches. The pattern is one of bytes, and a match does not contain a newline: that is where the
file is cut. A program of its own, with nothing of ours in it.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
from itertools import pairwise


def count(path: str, pattern: re.Pattern[bytes], start: int, stop: int) -> int:
    """Matches in bytes [start, stop)."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:  # noqa: PTH123
        return sum(1 for _ in pattern.finditer(data, start, stop))


def cuts(path: str, parts: int) -> list[int]:
    """`parts` + 1 offsets, from 0 to the end, each behind a newline."""
    size = os.path.getsize(path)  # noqa: PTH202
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:  # noqa: PTH123
        inner = [data.find(b"\n", size * part // parts) + 1 for part in range(1, parts)]
    return [0, *inner, size]


def main(processes: int, pattern: re.Pattern[bytes], path: str) -> int:
    first, *others = pairwise(cuts(path, processes))
    pipes = []
    for part in others:
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                os.write(writing, b"%d" % count(path, pattern, *part))
            finally:
                os._exit(0)
        os.close(writing)  # else a child that died would leave us reading forever
        pipes.append(reading)
    return count(path, pattern, *first) + sum(int(os.read(pipe, 100)) for pipe in pipes)


if __name__ == "__main__":
    print(main(int(sys.argv[1]), re.compile(sys.argv[2].encode()), sys.argv[3]))
