"""Disk space: what rlm has to store (stdin, URLs, what is unpacked or converted, answers) never fills a disk up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import InputError
from .units import human_bytes

LEFT = 1 << 30
LEFT_SHARE = 0.05
MOST_LEFT = 16 << 30
"""So much stays free: 1 GiB or 5 % of the disk, but no more than 16 GiB of a large one."""
UNCHECKED = 64 << 20
"""Bytes that may always be stored: a small input works on a nearly full disk too."""
LOOK_EVERY = 16 << 20

SPACE_HINT = "free some space there, or use another disk: RLM_HOME=/path rlm ..."


def disk_of(folder: Path) -> tuple[int, int]:
    """Bytes in all and free for us on the folder's disk."""
    usage = shutil.disk_usage(folder)
    return usage.total, usage.free


Disk = Callable[[Path], tuple[int, int]]


def left_alone(total: int) -> int:
    """Bytes that stay free on a disk of `total` bytes."""
    return min(max(LEFT, int(total * LEFT_SHARE)), MOST_LEFT)


def most_for(folder: Path, disk: Disk = disk_of) -> int:
    """Bytes that one more file in `folder` may have. Raises `OSError` when there is no such folder."""
    total, free = disk(folder)
    return max(free - left_alone(total), min(free, UNCHECKED), 0)


def write_all(target: int, data: bytes) -> None:
    """All of `data` to the descriptor, however often the system cuts it. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


@dataclass
class Room:
    """Watches the disk of `folder` while files grow in it; one for each command."""

    folder: Path
    disk: Disk = disk_of
    stored: int = 0
    """Bytes so far."""
    look_at: int = UNCHECKED

    def take(self, count: int, what: str) -> None:
        """`count` more bytes of `what` are stored. Raises `InputError` when too few are left on the disk."""
        self.stored += count
        if self.stored >= self.look_at:
            self.look_at = self.stored + LOOK_EVERY
            self._check(0, what)

    def need(self, size: int, what: str) -> None:
        """As `take`, for a size that is known beforehand."""
        if size >= UNCHECKED:
            self._check(size, what)

    def _check(self, size: int, what: str) -> None:
        total, free = self.disk(self.folder)
        left = left_alone(total)
        if free - size < left:
            raise InputError(
                f"{what} does not fit in {self.folder}: {human_bytes(free)} are free there, "
                f"and rlm leaves {human_bytes(left)} alone",
                hint=SPACE_HINT,
                code="disk",
            )


def disk_error(error: OSError, folder: Path, what: str) -> InputError:
    """A file could not be made or written."""
    return InputError(f"{what} could not be kept in {folder}: {error.strerror}", hint=SPACE_HINT, code="disk")
