"""stdin: what is behind it (CLI.md C19), and its bytes to a file (C20-C22)."""

from __future__ import annotations

import array
import fcntl
import hashlib
import os
import select
import stat
import termios
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Literal

from ..errors import InputError, Interrupted
from ..units import human_bytes
from . import Document

StdinKind = Literal["pipe", "file", "socket", "terminal", "nothing"]

CHUNK = 1024 * 1024
TICK_S = 0.1


def stdin_kind(fd: int = 0) -> StdinKind:
    """By fstat, never by reading. "nothing": /dev/null and other devices, a folder, or closed."""
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISCHR(mode) and os.isatty(fd):
            return "terminal"
    except OSError:
        return "nothing"
    if stat.S_ISFIFO(mode):
        return "pipe"
    if stat.S_ISSOCK(mode):
        return "socket"
    return "file" if stat.S_ISREG(mode) else "nothing"


def carries_data(kind: StdinKind) -> bool:
    """Whether stdin is a source when none is named."""
    return kind in ("pipe", "file", "socket")


def unread_bytes_waiting(fd: int = 0) -> int:
    """Bytes that could be read now without waiting, 0 when there are none or nobody can tell. Reads nothing."""
    kind = stdin_kind(fd)
    try:
        if kind == "file":
            return max(0, os.fstat(fd).st_size - os.lseek(fd, 0, os.SEEK_CUR))
        if kind in ("pipe", "socket"):
            waiting = array.array("i", [0])
            fcntl.ioctl(fd, termios.FIONREAD, waiting)
            return max(0, waiting[0])
    except OSError:
        pass
    return 0


def _ignore(_: object = None) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Watch:
    """Who is told while stdin is read: `received` bytes so far, `waiting` once when none came in `patience` seconds.
    `stop` ends the reading from another thread."""

    received: Callable[[int], None] = _ignore
    waiting: Callable[[], None] = _ignore
    patience: float = 3.0
    stop: Event | None = None


def spool_stdin(fd: int, directory: Path, *, max_input: int | None = None, watch: Watch = Watch()) -> Document:
    """Read `fd` to its end into `directory`/stdin (0600), hashing on the way. Blocks; memory stays at one chunk.

    Raises `InputError` (stdin_empty, over_max_input, unreadable, disk) or `Interrupted` when `watch.stop` is set; then,
    and on KeyboardInterrupt, the file is removed: part of an input is never taken for the whole.
    """
    path = directory / "stdin"
    try:
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _disk_error(error, directory, 0) from error
    try:
        try:
            size, digest = _copy(fd, out, max_input, watch, directory)
        finally:
            os.close(out)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Document("stdin", path.resolve(), size, origin="stdin", sha256=digest)


def _copy(fd: int, out: int, max_input: int | None, watch: Watch, directory: Path) -> tuple[int, str]:
    total, digest = 0, hashlib.sha256()
    while chunk := _read(fd, watch, first=total == 0):
        total += len(chunk)
        if max_input is not None and total > max_input:
            raise InputError(
                f"stdin holds more than the {human_bytes(max_input)} that --max-input allows",
                hint="raise it: --max-input 16g, or lift it: --max-input none",
                code="over_max_input",
            )
        digest.update(chunk)
        try:
            _write(out, chunk)
        except OSError as error:
            raise _disk_error(error, directory, total) from error
        watch.received(total)
    if not total:
        raise InputError("stdin is empty", hint="check the command before the pipe, or name a file", code="stdin_empty")
    return total, digest.hexdigest()


def _read(fd: int, watch: Watch, *, first: bool) -> bytes:
    """The next piece, b"" at the end."""
    try:
        _wait(fd, watch, first)
        return os.read(fd, CHUNK)
    except OSError as error:
        raise InputError(
            f"stdin cannot be read: {error.strerror}", hint="name a file instead", code="unreadable"
        ) from error


def _wait(fd: int, watch: Watch, first: bool) -> None:
    """Until there is something to read, in ticks so that `stop` is seen."""
    told, waited = not first, 0.0
    while True:
        if watch.stop is not None and watch.stop.is_set():
            raise Interrupted("interrupted while reading stdin")
        tick = TICK_S if told else min(TICK_S, watch.patience)
        if select.select([fd], [], [], tick)[0]:
            return
        waited += tick
        if not told and waited >= watch.patience - 1e-9:
            told = True
            watch.waiting()


def _write(out: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(out, view) :]


def _disk_error(error: OSError, directory: Path, size: int) -> InputError:
    return InputError(
        f"stdin could not be kept in {directory} ({human_bytes(size)} read): {error.strerror}",
        hint="free some space there, or keep runs elsewhere: RLM_HOME=/path rlm ...",
        code="disk",
    )
