"""The worker's two pipes to the supervisor: commands in, frames out."""

from __future__ import annotations

import os
import select
from threading import Lock

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .interrupts import Interrupts
    from .memory import Guard

_read = os.read
_write = os.write
_getpid = os.getpid
_exit = os._exit


class Link:
    """Frames of one worker process; a forked child of it has no link."""

    def __init__(self, commands: int, frames: int, interrupts: Interrupts, guard: Guard) -> None:
        self._guard = guard  # frames come and go also when the cell has no memory left
        self._commands = commands
        self._frames = frames
        self._interrupts = interrupts
        self._lock = Lock()  # frames of several threads must not mix
        self._pid = _getpid()

    def is_ours(self) -> bool:
        """False in a process that a cell forked."""
        return _getpid() == self._pid

    def received(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """(header, payload) of every command, forever. The process ends when the pipe does."""
        splitter = wire.Splitter(b"W")
        waiting = select.poll()
        waiting.register(self._commands, select.POLLIN)
        while True:
            waiting.poll()  # apart from the read, whose buffer is memory, and which has none of it before it waits
            with self._guard:
                try:
                    data = _read(self._commands, wire.PART_MAX)
                except OSError:
                    data = b""
                if not data:
                    _exit(wire.LOST_PIPES)
                for _, body in splitter.feed(data):
                    head, payload = wire.split(body)
                    yield wire.parse_json(head.decode("utf-8")), payload

    def send(self, fields: dict[str, Any], payload: bytes | memoryview = b"", *, kind: bytes = b"w") -> None:
        """One frame, whole, from any thread."""
        start = wire.header(fields)
        start = wire.head(kind, len(start) + len(payload)) + start
        with self._interrupts, self._lock, self._guard:
            if len(payload) <= 4096:
                self._write_all(start + bytes(payload))
            else:
                self._write_all(start)
                self._write_all(payload)

    def _write_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[_write(self._frames, view) :]
        except OSError:
            _exit(wire.LOST_PIPES)
