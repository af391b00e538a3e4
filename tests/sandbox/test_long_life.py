"""Case C18: a session that goes on and on takes no more than one that has just begun, on either side.

`RLM_E2E=full` runs ten times as many cells.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from pathlib import Path

import pytest

from .test_container import Doc, doc, opened, printed

__all__ = ["doc"]

pytestmark = pytest.mark.docker

CELLS = 10_000 if os.environ.get("RLM_E2E") == "full" else 1_000
WARM = 300
"""Cells after which what is kept for a bounded number of them has all been made."""
SLACK = 1024**2
LONGEST_S = 900

INSIDE = """
import os
def pages(name):
    with open(f'/proc/{name}/statm') as file:
        return int(file.read().split()[1])
print(len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task')), pages('self') * 4096,
      len([name for name in os.listdir('/proc') if name.isdigit()]), sorted(os.listdir('/tmp')))
"""


def host() -> tuple[int, int, int]:
    """Open files, threads and bytes of memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len([*Path("/proc/self/fd").iterdir()]), threading.active_count(), pages * os.sysconf("SC_PAGE_SIZE")


def test_c18_ten_thousand_cells_leave_nothing_behind(doc: Doc) -> None:
    """No file, thread, process or temporary file more after them, and less than a megabyte of memory in the host and in
    the worker. Positive control: the same meters see one open file and two megabytes that a cell keeps."""

    async def test() -> None:
        async with asyncio.timeout(LONGEST_S), opened([doc]) as sandbox:
            for _ in range(WARM):
                await sandbox.execute("", timeout=30)
            outside, inside = host(), (await printed(sandbox, INSIDE)).split(" ", 4)
            for number in range(CELLS):
                result = await sandbox.execute(f"x = {number}", timeout=30)
                assert (result.status, result.restarted) == ("ok", "")
            after, within = host(), (await printed(sandbox, INSIDE)).split(" ", 4)
            assert (after[:2], within[:2], within[3:]) == (outside[:2], inside[:2], inside[3:])
            assert after[2] - outside[2] < SLACK
            assert int(within[2]) - int(inside[2]) < SLACK
            await sandbox.execute("kept = open('/proc/self/statm'), bytearray(b'x') * (2 << 20)", timeout=30)
            leaking = (await printed(sandbox, INSIDE)).split(" ", 4)
            assert (int(leaking[0]) - int(within[0]), int(leaking[2]) - int(within[2]) >= 2 << 20) == (1, True)

    asyncio.run(test())
