"""Where the answer goes: the guarded stdout, or a file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import UsageError
from ..events import Record, Result, is_streaming, record_to_json, to_json

STDOUT_NAMES = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
OPEN_FILES = ("/dev/", "/proc/")


def writes_to(stream: BinaryIO) -> bool:
    """Whether the stream was opened for writing; a closed stdout was not (`boundary.prepare_streams`)."""
    return fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


class Sink:
    """Bytes for stdout."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    @property
    def stream(self) -> BinaryIO:
        return self._stream

    def write(self, data: bytes) -> None:
        """All of it, at once visible."""
        self._stream.write(data)
        self._stream.flush()

    def commit(self) -> None:
        """What was written stays."""


class FileSink(Sink):
    """A file written beside its place and renamed there by `commit`; without it nothing is left. A file that is
    replaced keeps its mode, a link stays one and its target is replaced. A device or a pipe is written to directly."""

    def __init__(self, name: str) -> None:
        # Not Path: what is below /proc or /dev is a name for something open, and the name itself must stay.
        self.path = Path(os.path.realpath(name))
        special = name.startswith(OPEN_FILES) or (self.path.exists() and not self.path.is_file())
        self._scratch = None if special else self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        try:
            if Path(name).is_dir():
                raise IsADirectoryError(21, "it is a folder" if name else "it has no name")
            # Beside its place only as a new file: somebody else may write to that folder, too.
            super().__init__((self._scratch or Path(name)).open("xb" if self._scratch else "ab"))
        except OSError as error:
            raise UsageError(
                f"cannot write the answer to {name!r}: {error.strerror}",
                hint="-o FILE in a folder you can write",
                code="output_unwritable",
            ) from error

    def __enter__(self) -> FileSink:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()
        if self._scratch is not None:
            self._scratch.unlink(missing_ok=True)

    def commit(self) -> None:
        """Make it appear."""
        self._stream.close()
        if self._scratch is None:
            return
        with contextlib.suppress(OSError):
            self._scratch.chmod(stat.S_IMODE(self.path.stat().st_mode))
        self._scratch.replace(self.path)
        self._scratch = None


class EventLines:
    """A listener for `--events`: one JSON line a record, flushed; the last is `run.finished`. What it cannot write ends
    the stream and not the run: `failure` says so afterwards."""

    name = "event stream"

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.failure: OSError | None = None

    def __call__(self, record: Record) -> None:
        if is_streaming(record.event) or self.failure is not None:
            return
        try:
            self._sink.write(json.dumps(record_to_json(record)).encode() + b"\n")
        except OSError as error:
            self.failure = error


def result_line(result: Result) -> bytes:
    """The one object of `--json`, ASCII only: no byte of it can reach a terminal as a control sequence."""
    return json.dumps(to_json(result)).encode() + b"\n"
