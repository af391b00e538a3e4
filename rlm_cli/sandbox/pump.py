"""Two threads between a blocking `Channel` and the event loop: one reads frames, one writes bytes.

Two threads, because two sides that both block on writing would wait for each other for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from ..errors import SandboxError
from . import Channel
from .kernel import wire

AHEAD = 16
"""Reads that may wait for the loop. Then the reader stops reading, and the flood waits in the container."""
TEXT_MAX = 64 * 1024
LAST_WORDS = 1.0
"""Seconds that a failed write waits for the reader, which may learn why the other side is gone."""

Frames = Sequence[tuple[bytes, bytes]]


class Pump:
    """Carries frames of one `Channel`. `on_frames` and `on_end` are called in the loop, in order; `on_end` once, with
    the error, or None when the other side is simply gone.

    After `rest` seconds without anything to write, an empty ping is written: the supervisor takes a silent host for
    dead, and a loop that is held up (by a pager on stdout that nobody scrolls) is not dead.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        on_frames: Callable[[Frames], None],
        on_end: Callable[[SandboxError | None], None],
        rest: float = 15.0,
    ) -> None:
        self._channel = channel
        self._on_frames = on_frames
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(AHEAD)
        self._out: SimpleQueue[bytes | None] = SimpleQueue()
        self._rest = rest
        self._closed = False
        self._over = False
        self._threads = [
            threading.Thread(target=self._read, name="rlm-kernel-reader", daemon=True),
            threading.Thread(target=self._write, name="rlm-kernel-writer", daemon=True),
        ]
        self.text = bytearray()
        """What came before the first frame: an engine or an interpreter that failed says why as plain text."""

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def send(self, data: bytes) -> None:
        """Queue bytes for the other side, from the loop."""
        self._out.put(data)

    async def close(self, *, patience: float) -> None:
        """Write what is queued, then close the channel and end both threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._out.put(None)
        reader, writer = self._threads
        await asyncio.to_thread(writer.join, patience)
        self._room.release()
        await asyncio.to_thread(self._channel.close)
        await asyncio.to_thread(reader.join, patience)

    # -- the two threads

    def _write(self) -> None:
        try:
            while (data := self._next()) is not None:
                self._channel.write(data)
        except (SandboxError, OSError) as error:
            self._threads[0].join(LAST_WORDS)
            self._end(error)

    def _next(self) -> bytes | None:
        try:
            return self._out.get(timeout=self._rest)
        except Empty:
            return wire.frame(b"P")

    def _read(self) -> None:
        splitter = wire.Splitter(wire.FROM_SUPERVISOR)
        started = False
        try:
            while data := self._channel.read():
                started = started or self._starts(data)
                if started:
                    self._pass_on(splitter, bytes(self.text) + data)
                    self.text.clear()
                else:
                    self.text += data[: TEXT_MAX - len(self.text)]
            self._end(None)
        except (SandboxError, OSError, wire.Violation) as error:
            self._end(error)

    def _starts(self, data: bytes) -> bool:
        """Whether the stream begins with the boot frame: type `b`, and a length that no text would spell."""
        start = bytes(self.text) + data[: wire.HEAD]
        return start[:1] == b"b" and len(start) >= wire.HEAD and int.from_bytes(start[1:5], "big") <= wire.HEADER_MAX

    def _pass_on(self, splitter: wire.Splitter, data: bytes) -> None:
        frames = list(splitter.feed(data))
        if frames and not self._closed:
            self._room.acquire()
            self._post(self._deliver, frames)

    def _deliver(self, frames: Frames) -> None:
        self._room.release()
        self._on_frames(frames)

    def _end(self, error: Exception | None) -> None:
        if error is not None and not isinstance(error, SandboxError):
            error = SandboxError(f"the stream to the sandbox broke: {error}", code="sandbox_stream")
        self._post(self._finish, error)

    def _finish(self, error: SandboxError | None) -> None:
        if not self._over:
            self._over = True
            self._on_end(error)

    def _post(self, call: Callable[..., None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(call, value)
