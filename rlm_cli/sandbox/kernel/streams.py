"""sys.stdout and sys.stderr of the worker: text to a file descriptor, at once and in slices.

Nothing is held back (a crash loses no output) and printing a gigabyte needs no second gigabyte.
"""

from __future__ import annotations

import fcntl
import io
import os
import sys

_write = os.write
_fstat = os.fstat
_dup2 = os.dup2

SLICE = 256 * 1024
"""Characters encoded at a time: at most 1 MiB."""


class Binary(io.FileIO):
    """`sys.stdout.buffer`: unbuffered, but every write is whole."""

    def write(self, data: object, /) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        size = len(view)
        fd = self.fileno()
        while view:
            view = view[_write(fd, view) :]
        return size

    def close(self) -> None:
        """A cell that closes stdout does not mean it."""


class Text(io.TextIOBase):
    """A text stream without a buffer. Characters that UTF-8 cannot carry are written as escapes."""

    def __init__(self, fd: int, name: str) -> None:
        super().__init__()
        self._fd = fd
        self.name = name
        self.mode = "w"
        self.buffer = Binary(fd, "w", closefd=False)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        for start in range(0, len(text), SLICE):
            piece = text if len(text) <= SLICE else text[start : start + SLICE]
            view = memoryview(piece.encode("utf-8", "backslashreplace"))
            while view:
                view = view[_write(self._fd, view) :]
        return len(text)

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing is ever held back."""

    def close(self) -> None:
        """A cell that closes stdout does not mean it."""

    def reconfigure(self, **_: object) -> None:
        """Accepted, as of a TextIOWrapper; nothing to change."""


class Streams:
    """The standard streams as they were at the start, put back before each cell."""

    def __init__(self) -> None:
        # /dev/null: input() raises EOFError at once.
        self._stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)), encoding="utf-8")
        self._stdout = Text(1, "<stdout>")
        self._stderr = Text(2, "<stderr>")
        self._spare = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 210) for fd in (0, 1, 2)}
        self._displayhook = sys.displayhook
        self._excepthook = sys.excepthook

    def restore(self) -> None:
        """Undo what a cell did to sys.stdout, sys.stderr, sys.stdin and to file descriptors 0 to 2."""
        for fd, spare in self._spare.items():
            if not _same(fd, spare):
                _dup2(spare, fd)
        sys.stdin, sys.stdout, sys.stderr = self._stdin, self._stdout, self._stderr
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = self._stdin, self._stdout, self._stderr  # type: ignore[misc,assignment]
        sys.displayhook, sys.excepthook = self._displayhook, self._excepthook

    def flush(self) -> None:
        """What a cell put in the place of our streams may hold something back."""
        for ours, now in ((self._stdout, sys.stdout), (self._stderr, sys.stderr)):
            if now is not ours:
                try:
                    now.flush()
                except Exception:  # a cell's own object, or None
                    pass


def _same(fd: int, spare: int) -> bool:
    try:
        now, then = _fstat(fd), _fstat(spare)
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)
