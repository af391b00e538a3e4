"""The corpus as the host streams it in, where the engine cannot mount it: blobs in sealed memory, or files of a volume.

Sealed memory cannot be changed by anybody, not even by the process that holds it; a volume is filled by a container of
its own (this same supervisor, which then never starts a worker) and mounted read-only where model code runs.
"""

from __future__ import annotations

import fcntl
import os

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

F_ADD_SEALS = 1033
SEALS = 0x1 | 0x2 | 0x4 | 0x8  # against more sealing, shrinking, growing, writing


class Blobs:
    """Takes `D` frames. `place` is "" (none will come), `wire.IN_MEMORY`, or the folder that files are written to.

    Blobs come one after the other, each whole before the next begins; the k-th in memory is `wire.blob_path(k)`, for
    this process and all that it forks.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._file = -1
        self._name = ""
        self._left = 0
        self._count = 0
        self._received = 0
        self.complete = not place

    @property
    def starts_worker(self) -> bool:
        """Whether code will run here: not where a volume is filled."""
        return self._place in ("", wire.IN_MEMORY)

    def take(self, body: bytes) -> dict[str, Any]:
        """One `D` frame's payload; the fields of the `r` frame that answers it. Raises `wire.Violation`."""
        header, piece = wire.split(body)
        fields = wire.parse_json(header.decode("ascii"))
        if self.complete:
            raise wire.Violation("a piece of a blob, and none is awaited")
        try:
            if fields["op"] == "end":
                self._end()
            else:
                self._write(fields["file"], fields["size"], piece)
        except OSError as error:
            return {"received": self._received, "error": error.strerror or str(error)}
        return {"received": self._received, "error": ""}

    def _write(self, name: str, size: int, piece: bytes) -> None:
        if self._file < 0:
            if "/" in name or name in ("", ".", ".."):
                raise wire.Violation(f"a blob cannot be named {name!r}")
            self._file, self._name, self._left = self._create(name), name, size
        if name != self._name or len(piece) > self._left:
            raise wire.Violation(f"a piece of {name!r} that does not belong there")
        view = memoryview(piece)
        while view:
            view = view[os.write(self._file, view) :]
        self._left -= len(piece)
        self._received += len(piece)
        if not self._left:
            self._finish()

    def _create(self, name: str) -> int:
        if self._place != wire.IN_MEMORY:
            return os.open(os.path.join(self._place, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        made = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # A number that a worker keeps, when it closes everything that is the supervisor's.
            return fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, wire.BLOB_FD + self._count)
        finally:
            os.close(made)

    def _finish(self) -> None:
        if self._place == wire.IN_MEMORY:
            fcntl.fcntl(self._file, F_ADD_SEALS, SEALS)  # stays open: it is what the worker inherits
        else:
            os.close(self._file)
        self._file = -1
        self._count += 1

    def _end(self) -> None:
        if self._file >= 0:
            raise wire.Violation(f"the end comes {self._left} bytes too early")
        self.complete = True
