"""stdin and pipes: what is behind them (CLI.md C19), and their bytes to a file (C20-C22)."""

from __future__ import annotations

import array
import contextlib
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

from ..disk import Room, disk_error, write_all
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


def spool_stdin(
    fd: int, directory: Path, *, max_input: int | None = None, watch: Watch = Watch(), room: Room | None = None
) -> Document:
    """Read `fd` to its end into `directory`/stdin (0600), hashing on the way. Blocks; memory stays at one chunk.

    Raises `InputError` (stdin_empty, over_max_input, unreadable, disk) or `Interrupted` when `watch.stop` is set; then,
    and on KeyboardInterrupt, the file is removed: part of an input is never taken for the whole.
    """
    stream = Stream(fd, "stdin", max_input, watch, room or Room(directory))
    size, digest = stream.spool(directory / "stdin")
    if not size:
        (directory / "stdin").unlink()
        raise InputError("stdin is empty", hint="check the command before the pipe, or name a file", code="stdin_empty")
    return Document("stdin", str((directory / "stdin").resolve()), size, origin="stdin", sha256=digest)


def is_pipe(path: str) -> bool:
    """Whether the path is a FIFO, or stands for a pipe (`<(command)` in a shell is one)."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH116 - Path.stat is the same, slower
    except (OSError, ValueError):
        return False


def spool_pipe(
    path: str, target: Path, *, max_input: int | None = None, watch: Watch = Watch(), room: Room | None = None
) -> Document:
    """Read a pipe that was named on the command line to its end into the new file `target`, as `spool_stdin` does.

    Waits for somebody to write to it (`watch.waiting`), and does not hold up the process while nobody does.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint=f"ls -l {path}", code="unreadable") from error
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise InputError(f"{path} is no pipe any more", hint=f"ls -l {path}", code="special_file")
        size, digest = Stream(fd, path, max_input, watch, room or Room(target.parent)).spool(target)
    finally:
        os.close(fd)
    return Document(path, str(target.resolve()), size, origin="pipe", sha256=digest, written=path)


@dataclass(frozen=True)
class Stream:
    """An open stream that is read to its end; `title`: what errors call it."""

    fd: int
    title: str
    max_input: int | None
    watch: Watch
    room: Room

    def spool(self, path: Path) -> tuple[int, str]:
        """Into the new file `path`: bytes, and their hash. After an error there is no file."""
        try:
            out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise disk_error(error, path.parent, self.title) from error
        try:
            try:
                return self._copy(out, path.parent)
            finally:
                os.close(out)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _copy(self, out: int, directory: Path) -> tuple[int, str]:
        total, digest = 0, hashlib.sha256()
        while chunk := self._read(first=total == 0):
            total += len(chunk)
            if self.max_input is not None and total > self.max_input:
                raise InputError(
                    f"{self.title} holds more than the {human_bytes(self.max_input)} that --max-input allows",
                    hint="raise it: --max-input 16g, or lift it: --max-input none",
                    code="over_max_input",
                )
            self.room.take(len(chunk), self.title)
            digest.update(chunk)
            try:
                write_all(out, chunk)
            except OSError as error:
                raise disk_error(error, directory, f"{self.title} ({human_bytes(total)} read)") from error
            self.watch.received(total)
        return total, digest.hexdigest()

    def _read(self, *, first: bool) -> bytes:
        """The next piece, b"" at the end."""
        try:
            while True:
                self._wait(first)
                # Another reader of the same pipe may have been faster.
                with contextlib.suppress(BlockingIOError):
                    return os.read(self.fd, CHUNK)
        except OSError as error:
            hint = "name a file instead"
            raise InputError(f"{self.title} cannot be read: {error.strerror}", hint=hint, code="unreadable") from error

    def _wait(self, first: bool) -> None:
        """Until there is something to read, in ticks so that `stop` is seen."""
        watch, told, waited = self.watch, not first, 0.0
        while True:
            if watch.stop is not None and watch.stop.is_set():
                raise Interrupted(f"interrupted while reading {self.title}")
            tick = TICK_S if told else min(TICK_S, watch.patience)
            if select.select([self.fd], [], [], tick)[0]:
                return
            waited += tick
            if not told and waited >= watch.patience - 1e-9:
                told = True
                watch.waiting()
