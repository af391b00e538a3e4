"""Two threads between a blocking `Channel` and the event loop: one reads frames, one writes bytes.

Two threads, because two sides that both block on writing would wait for each other for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence

from ..errors import SandboxError
from . import Channel
from .kernel import wire

AHEAD = 1024 * 1024
"""Bytes of frames that may wait for the loop. Then the reader stops reading, and the flood waits in the container."""
FRAME_COST = 256
"""Bytes that a frame takes beside its payload, about: thousands of empty ones are a flood, too."""
BATCH = 256
"""Frames of one batch: a megabyte of the smallest would hold up the loop, and its deadlines, for half a second."""
TEXT_MAX = 64 * 1024
LAST_WORDS = 1.0
"""Seconds that a failed write waits for the reader, which may learn why the other side is gone."""

Frames = Sequence[tuple[bytes, bytes]]


def cost(frames: Frames) -> int:
    """Bytes of memory that they take, about."""
    return sum(len(payload) + FRAME_COST for _, payload in frames)


class Outbox:
    """What waits to be written, from the loop to the writer's thread. The condition guards all of it."""

    def __init__(self) -> None:
        self._waiting: deque[bytes | None] = deque()
        self._bytes = 0
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Bytes of it."""
        return self._bytes

    def put(self, data: bytes | None, *, alone: bool = False) -> None:
        """Append; `alone`: in the place of all that waits, but for the end (None), which stays the end."""
        with self._changed:
            if alone and None not in self._waiting:
                self._waiting.clear()
                self._bytes = 0
            self._waiting.append(data)
            self._bytes += len(data or b"")
            self._changed.notify()

    def get(self, seconds: float) -> bytes | None:
        """The oldest, or b"" when there is none for so long."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, seconds):
                return b""
            data = self._waiting.popleft()
            self._bytes -= len(data or b"")
            return data


class Backlog:
    """Counts what was read and waits for the loop. The condition guards the count."""

    def __init__(self) -> None:
        self._bytes = 0
        self._over = False
        self._changed = threading.Condition()

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes more may wait. What is larger than all the room may do so alone."""
        return self._over or not self._bytes or self._bytes + size <= AHEAD

    def enter(self, size: int) -> None:
        """Count `size` bytes more, as soon as there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self.has_room(size))
            self._bytes += size

    def leave(self, size: int) -> None:
        """The loop took them."""
        with self._changed:
            self._bytes -= size
            self._changed.notify()

    def end(self) -> None:
        """Nobody waits for room any more."""
        with self._changed:
            self._over = True
            self._changed.notify()


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
        self._backlog = Backlog()
        self._out = Outbox()
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

    @property
    def unsent(self) -> int:
        """Bytes that are queued."""
        return self._out.waiting

    def send(self, data: bytes, *, alone: bool = False) -> None:
        """Queue bytes for the other side, from the loop; `alone`: what is queued is not sent any more."""
        self._out.put(data, alone=alone)

    async def close(self, *, patience: float) -> None:
        """Write what is queued, then close the channel and end both threads. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._out.put(None)
        reader, writer = self._threads
        await asyncio.to_thread(writer.join, patience)
        self._backlog.end()
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
        data = self._out.get(self._rest)
        return wire.frame(b"P") if data == b"" else data

    def _read(self) -> None:
        splitter = wire.Splitter(wire.FROM_SUPERVISOR, limit=wire.WORKER_MAX)
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
        except wire.Violation as error:
            self._end(SandboxError(f"the sandbox broke the protocol: {error}", code="sandbox_protocol"))
        except (SandboxError, OSError) as error:
            self._end(error)

    def _starts(self, data: bytes) -> bool:
        """Whether the stream begins with the boot frame: type `b`, and a length that no text would spell."""
        start = bytes(self.text) + data[: wire.HEAD]
        return start[:1] == b"b" and len(start) >= wire.HEAD and int.from_bytes(start[1:5], "big") <= wire.HEADER_MAX

    def _pass_on(self, splitter: wire.Splitter, data: bytes) -> None:
        frames = list(splitter.feed(data))
        for at in range(0, len(frames), BATCH):
            if self._closed:
                return
            batch = frames[at : at + BATCH]
            self._backlog.enter(cost(batch))
            self._post(self._deliver, batch)

    def _deliver(self, frames: Frames) -> None:
        self._backlog.leave(cost(frames))
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
