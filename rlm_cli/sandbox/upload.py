"""Documents -> `D` frames, for an engine that cannot mount them: a remote one, or one that does not see the path.

What is streamed is what a pack on disk would be (`staging.py`): all documents one after the other, and the index where
it is large. It is never on the host's disk, and never more of it in memory than the window that is under way.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

from ..errors import RlmError, SandboxError
from . import Document
from .changes import Changes
from .frames import Received
from .kernel import wire
from .staging import (
    INDEX_FILE,
    INLINE_INDEX,
    PACK_FILE,
    Meter,
    OnStageProgress,
    Proof,
    ignore,
    index_line,
    opened,
    shrank,
    unique_names,
    unreadable,
)

IN_MEMORY_MAX = 256 * 1024**2
WINDOW = 8 * 1024**2
"""Bytes under way that the other side has not yet confirmed."""
BATCH = 4
"""Frames that are read at a time."""


class Upload:
    """The corpus as a stream. `proof` and `changes` are known when `frames` has ended.

    `memory` is the container's limit in bytes: a corpus that is small beside it goes into sealed memory, which counts
    against it; a larger one into a volume. Raises `InputError` as `stage` does.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        memory: int,
        *,
        on_progress: OnStageProgress = ignore,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._documents = documents
        self._names = unique_names(documents)
        self._meter = Meter("copying into the sandbox", documents, on_progress, cancelled)
        self._size = sum(document.size for document in documents)
        self.in_memory = self._size <= min(IN_MEMORY_MAX, memory // 4)
        pack = wire.blob_path(0) if self.in_memory else PACK_FILE
        offsets = itertools.accumulate((document.size for document in documents), initial=0)
        index = b"".join(
            index_line(name, pack, offset, document)
            for document, name, offset in zip(documents, self._names, offsets, strict=False)
        )
        small = len(index) < INLINE_INDEX
        self.index = index if small else None
        """The index itself, where it travels in the attach frame."""
        self.index_file = None if small else (wire.blob_path(1) if self.in_memory else f"/in/{INDEX_FILE}")
        self._large_index = b"" if small else index
        self._pack = pack
        self.proof: Proof = ()
        self.changes = Changes()

    @property
    def place(self) -> str:
        """ "memory" or "volume"."""
        return wire.IN_MEMORY if self.in_memory else "volume"

    def frames(self) -> Iterator[tuple[bytes, int]]:
        """(frame, bytes of the corpus in it), in order, the end included. Blocks on the disk."""
        sampler = Sampler(self._size)
        sent = False
        for piece in self._pieces():
            sampler.feed(piece)
            yield data_frame(PACK_FILE, self._size, piece), len(piece)
            self._meter.add(len(piece))
            sent = True
        if not sent:  # nothing but empty documents
            yield data_frame(PACK_FILE, 0, b""), 0
        self.proof = ((self._pack, self._size, sampler.digest()),)
        for start in range(0, len(self._large_index), wire.PIECE):
            piece = self._large_index[start : start + wire.PIECE]
            yield data_frame(INDEX_FILE, len(self._large_index), piece), len(piece)
        yield wire.frame(b"D", wire.message({"op": "end"})), 0

    def _pieces(self) -> Iterator[bytes]:
        """Every document's bytes, in frames' sizes; never an empty one."""
        for document, name in zip(self._documents, self._names, strict=True):
            with opened(document) as fd:
                before = os.fstat(fd)
                left = document.size
                while left:
                    try:
                        piece = os.read(fd, min(left, wire.PIECE))
                    except OSError as error:
                        raise unreadable(document, error) from error
                    if not piece:
                        raise shrank(document, document.size - left)
                    left -= len(piece)
                    yield piece
                self.changes = self.changes.during_copy(name, before, os.fstat(fd), document.size)


def data_frame(file: str, size: int, piece: bytes) -> bytes:
    """One `D` frame: a piece of the blob `file`, which has `size` bytes in all."""
    return wire.frame(b"D", wire.message({"op": "piece", "file": file, "size": size}, piece))


class Sampler:
    """`wire.proof` of `size` bytes that come as a stream, in pieces of any length."""

    def __init__(self, size: int) -> None:
        from hashlib import blake2b

        self._digest = blake2b(digest_size=16)
        self._wanted = [(start, min(start + wire.SAMPLE, size)) for start in wire.sample_starts(size)]
        self._next = 0
        self._at = 0

    def feed(self, piece: bytes) -> None:
        end = self._at + len(piece)
        while self._next < len(self._wanted):
            first, last = self._wanted[self._next]
            # Samples do not overlap and come in order: what is before `_at` of this one is digested already.
            start, stop = max(first, self._at), min(last, end)
            if start < stop:
                self._digest.update(memoryview(piece)[start - self._at : stop - self._at])
            if last > end:
                break
            self._next += 1
        self._at = end

    def digest(self) -> str:
        return self._digest.hexdigest()


class Sending:
    """One upload under way: reads ahead in a thread, and waits for confirmations so that memory stays flat."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._sent = 0
        self._received = 0
        self._failure: RlmError | None = None
        self._moved = asyncio.Event()

    async def run(self, frames: Iterator[tuple[bytes, int]]) -> None:
        """Until everything has arrived. Raises what `frames` raises, and `SandboxError`."""
        while batch := await asyncio.to_thread(lambda: list(itertools.islice(frames, BATCH))):
            for frame, count in batch:
                self._send(frame)
                self._sent += count
            await self._until(WINDOW)
        await self._until(0)

    async def _until(self, under_way: int) -> None:
        while self._failure is None and self._sent - self._received > under_way:
            self._moved.clear()
            await self._moved.wait()
        if self._failure is not None:
            raise self._failure

    def on_received(self, received: Received) -> None:
        """An `r` frame: how much has been written, or why it could not be."""
        self._received = received.received
        if received.error:
            self.fail(
                SandboxError(
                    f"the sandbox cannot keep a copy of the input: {received.error}",
                    hint="free some space where the engine keeps its volumes:  docker system df",
                    code="engine_disk_full",
                )
            )
        self._moved.set()

    def fail(self, error: RlmError) -> None:
        """Nothing will be confirmed any more. The first reason is the true one."""
        self._failure = self._failure or error
        self._moved.set()
