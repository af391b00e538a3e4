"""Where the answer goes: the guarded stdout, or a file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import json
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import UsageError
from ..events import Record, Result, is_streaming, record_to_json, to_json


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
    replaced keeps its mode. A device or a pipe is written to directly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        special = path.exists() and not path.is_file()
        self._scratch = None if special else path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            if path.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            super().__init__((self._scratch or path).open("wb"))
        except OSError as error:
            raise UsageError(
                f"cannot write the answer to {str(path)!r}: {error.strerror}",
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
    """A listener for `--events`: one JSON line a record, flushed; the last is `run.finished`."""

    name = "event stream"

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __call__(self, record: Record) -> None:
        if not is_streaming(record.event):
            self._sink.write(json.dumps(record_to_json(record)).encode() + b"\n")


def result_line(result: Result) -> bytes:
    """The one object of `--json`, ASCII only: no byte of it can reach a terminal as a control sequence."""
    return json.dumps(to_json(result)).encode() + b"\n"
