"""What every back-end does the same way: stage the input, prove it, run cells on one kernel, end in good order."""

from __future__ import annotations

import asyncio
import atexit
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..errors import SandboxError
from . import ContextFacts, Document, Host, OnOutput, SandboxOptions, StepResult
from .changes import changes_since
from .client import KernelClient
from .frames import BootFacts, WorkerFacts
from .spool import Spool
from .staging import OnStageProgress, Proof, Staged, check_proof, ignore, packed

T = TypeVar("T")


class KernelSandbox(ABC):
    """The half of `Sandbox` that does not depend on where the kernel is. A back-end gives `open`, `child`, `_close` and
    `kill_now`, and attaches each kernel that it starts with `_attach`.

    `folder` is a private directory (0700) for a packed copy of the input, where one is needed, and for a large answer;
    None: the system's temporary one. Use it from one event loop; `kill_now` alone may be called from any thread, at any
    moment.
    """

    def __init__(
        self,
        options: SandboxOptions,
        *,
        folder: Path | None = None,
        text_limit: int = 64 * 1024**2,
        on_stage: OnStageProgress = ignore,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._folder = folder
        self._text_limit = text_limit
        self._on_stage = on_stage
        self._on_note = on_note
        self._boot: BootFacts
        self._worker: WorkerFacts
        self._staged: Staged | None = None
        self._clients: list[KernelClient] = []
        self._client: KernelClient | None = None
        self._threads: list[asyncio.Future[Any]] = []
        self._closing: asyncio.Future[None] | None = None
        self._doomed = False

    @property
    def facts(self) -> tuple[BootFacts, WorkerFacts]:
        """What the kernel and its worker said about themselves, once it is open."""
        return self._boot, self._worker

    @abstractmethod
    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        """See `Sandbox.open`."""

    def placed(self, documents: Sequence[Document]) -> Sequence[Document]:
        """Where the documents that it was opened with are on the host: a child that is given them, or parts of them,
        is given the same files."""
        return documents if self._staged is None else packed(self._staged, documents)

    async def changes(self) -> tuple[str, ...]:
        """Sentences about documents that changed while they were being read; after the last cell."""
        if self._staged is None:
            return ()
        since = await asyncio.to_thread(changes_since, self._staged.seen)
        return (self._staged.changes + since).sentences()

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        """Run one cell (see `Sandbox.execute`)."""
        if self._client is None or self._doomed:
            raise SandboxError("the sandbox is not open", code="sandbox_lost")
        return await self._client.execute(code, timeout=timeout, on_output=on_output)

    def interrupt(self) -> None:
        """Stop the running cell (see `Sandbox.interrupt`)."""
        if self._client is not None:
            self._client.interrupt()

    async def close(self) -> None:
        """Remove what it made, whatever state that is in. Idempotent; once begun it goes on even if the waiter is
        cancelled. Raises `SandboxError` when something cannot be removed."""
        if self._closing is None:
            self._doomed = True
            self._closing = asyncio.ensure_future(self._end())
        await asyncio.shield(self._closing)

    @abstractmethod
    def kill_now(self) -> None:
        """The same at once and without an event loop, as far as it can be done in two seconds: for a second Ctrl-C
        and for the interpreter's exit. Never raises; the kernel also dies by end-of-file."""

    @abstractmethod
    async def _close(self) -> None:
        """End kernels and streams. No thread of `_in_thread` is at work any more, and none may start."""

    async def _end(self) -> None:
        try:
            await self._close()
        finally:
            if self._staged is not None:
                await asyncio.to_thread(self._staged.remove)
            atexit.unregister(self.kill_now)

    async def _close_streams(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run blocking work; it is waited for in `close` if nobody else does."""
        work = asyncio.ensure_future(asyncio.to_thread(function, *args))
        self._threads.append(work)
        return await asyncio.shield(work)

    async def _threads_ended(self) -> None:
        await asyncio.gather(*self._threads, return_exceptions=True)

    def _new_spool(self) -> Spool:
        return Spool(self._folder)

    async def _attach(
        self, client: KernelClient, index: bytes | None, index_file: str | None, proof: Proof, host: Host
    ) -> ContextFacts:
        context, seen = await client.attach(index=index, index_file=index_file, text_limit=self._text_limit, host=host)
        check_proof(seen, proof)
        self._client = client
        return context
