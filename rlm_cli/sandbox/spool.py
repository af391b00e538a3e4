"""A large answer on its way through the host: into a private file as it comes, hashed, never held in memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path

from ..disk import most_for
from ..errors import RlmError

PIECE = 1024 * 1024
IN_MEMORY = 1024 * 1024
"""Bytes up to which an answer is held in memory."""
MOST = 64 * 1024**3


class SpoolFull(Exception):  # noqa: N818 - it is told to the model, not raised at a person
    """The answer is larger than may be kept; the message says why."""


class Spooled:
    """Bytes in a private file: `path`, `size`, and `sha256` in hex. The file lives as long as this value, unless `keep`
    gives it a place of its own."""

    def __init__(self, path: Path, size: int, sha256: str) -> None:
        self.path, self.size, self.sha256 = path, size, sha256
        self._finalizer = weakref.finalize(self, path.unlink, missing_ok=True)

    @property
    def kept(self) -> bool:
        """Whether it has a place of its own."""
        return not self._finalizer.alive

    def pieces(self) -> Iterator[bytes]:
        """All of it, in order. Raises `OSError`."""
        with self.path.open("rb", buffering=0) as file:
            while data := file.read(PIECE):
                yield data

    def keep(self, path: Path) -> None:
        """Move the file to where it stays; a rename, unless that is another disk. Raises `OSError`."""
        shutil.move(self.path, path)
        self._finalizer.detach()
        self.path = path


class Spool:
    """Takes bytes: the first `IN_MEMORY` stay there, more go to a new file (0600) in `folder` (None: the system's
    temporary one). Ended by `content` or `discard`.

    `write` raises `SpoolFull` for more than `most` bytes, or more than the disk has to spare; `OSError` when it fails.
    """

    def __init__(self, folder: Path | None = None, *, most: int = MOST) -> None:
        self._folder = folder
        self._most = most
        self._why = f"an answer may have at most {most:,} bytes"
        self._held = bytearray()
        self._size = 0
        self._hash = hashlib.sha256()
        self._file: BufferedWriter | None = None
        self._spooled: Spooled | None = None

    def write(self, data: bytes) -> None:
        """Add `data`."""
        self._size += len(data)
        if self._file is None and self._size > IN_MEMORY:
            self._file = self._open()
            self._pass_on(self._held)
            self._held.clear()
        if self._size > self._most:
            raise SpoolFull(self._why)
        if self._file is None:
            self._held += data
        else:
            self._pass_on(data)

    def content(self) -> bytes | Spooled:
        """What was written, whole."""
        if self._file is None or self._spooled is None:
            return bytes(self._held)
        self._file.close()
        self._spooled.size, self._spooled.sha256 = self._size, self._hash.hexdigest()
        return self._spooled

    def discard(self) -> None:
        """Nothing of it is wanted."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what it could not write at first, it cannot write now
                self._file.close()
        self._spooled = None  # and with it the file

    def _open(self) -> BufferedWriter:
        descriptor, name = tempfile.mkstemp(prefix=".answer-", dir=self._folder)
        self._spooled = Spooled(Path(name), 0, "")
        room = most_for(Path(name).parent)
        if room < self._most:
            self._most = room
            self._why = f"the disk of {Path(name).parent} has room for an answer of {room:,} bytes"
        return os.fdopen(descriptor, "wb")

    def _pass_on(self, data: bytes | bytearray) -> None:
        if self._file is not None:
            self._hash.update(data)
            self._file.write(data)


def unkept(error: OSError) -> RlmError:
    """The answer is there, and this machine cannot take it."""
    where = f" in {Path(error.filename).parent}" if error.filename else ""
    return RlmError(
        f"the model's answer could not be kept{where}: {error.strerror or error}",
        hint="make room, or set RLM_HOME to a folder on another disk",
        code="answer_unkept",
    )
