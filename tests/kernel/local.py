"""The kernel as an ordinary subprocess over pipes: the real BOOT command, no container."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rlm_cli.errors import SandboxError
from rlm_cli.events import SandboxInfo
from rlm_cli.sandbox import ContextFacts, Document, Host, OnOutput, StepResult, SubCall, SubReply
from rlm_cli.sandbox.client import BOOT, KernelClient, Patience

T = TypeVar("T")

COMMAND = (sys.executable, "-I", "-S", "-u", "-c", BOOT)


class PipeChannel:
    """A `Channel` to a subprocess."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in = self.process.stdin
        self._out = self.process.stdout

    def read(self) -> bytes:
        try:
            return os.read(self._out.fileno(), 1 << 20)
        except (OSError, ValueError):  # closed by the other thread
            return b""

    def write(self, data: bytes) -> None:
        try:
            self._in.write(data)
            self._in.flush()
        except (OSError, ValueError) as error:
            raise SandboxError(f"the kernel is gone: {error}") from error

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
            self.process.kill()
        self.process.wait()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):
                pipe.close()


class FakeHost:
    """Answers each prompt with `reply(prompt)`; an exception's text becomes a failed item. Records every call.

    Nobody is answered before `gather` calls have come, so that a test can see them wait side by side.
    """

    def __init__(self, reply: Callable[[str], str] = str.upper, *, gather: int = 1) -> None:
        self.reply = reply
        self._gather = gather
        self._gathered = asyncio.Event()
        self.calls: list[SubCall] = []
        self.schema = ""
        self.progressed: list[tuple[int, int | None]] = []
        self.most_at_once = 0
        self._now = 0

    async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
        self.calls.append(call)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        if len(self.calls) >= self._gather:
            self._gathered.set()
        await self._gathered.wait()
        await asyncio.sleep(0)
        for index in reversed(range(len(call.prompts))):
            try:
                deliver(index, SubReply(True, self.reply(call.prompts[index])))
            except ValueError as error:
                deliver(index, SubReply(False, str(error)))
        self._now -= 1

    def progress(self, done: int, total: int | None) -> None:
        self.progressed.append((done, total))

    def budget(self) -> Mapping[str, float | int | None]:
        return {"cost_usd": 0.5, "calls": 7, "seconds": None}


def write_index(folder: Path, documents: Mapping[str, bytes], encoding: str = "auto") -> bytes:
    """Documents packed into one file of `folder`; the index that describes them."""
    pack = folder / "pack"
    lines = []
    with pack.open("wb") as out:
        for name, data in documents.items():
            lines.append(json.dumps([name, str(pack), out.tell(), len(data), encoding]))
            out.write(data)
    return "\n".join(lines).encode()


class Kernel:
    """A started and attached kernel."""

    def __init__(self, client: KernelClient, channel: PipeChannel, facts: ContextFacts) -> None:
        self.client = client
        self.channel = channel
        self.facts = facts

    async def run(self, code: str, timeout: float = 60.0, **options: Any) -> StepResult:
        return await self.client.execute(code, timeout=timeout, **options)

    async def out(self, code: str) -> str:
        """The output of a cell that must succeed."""
        result = await self.run(code)
        assert (result.status, result.error, result.restarted) == ("ok", "", "")
        return str(result.stdout.head + result.stdout.tail)


@contextlib.asynccontextmanager
async def kernel(
    documents: Mapping[str, bytes] | None = None,
    *,
    host: FakeHost | None = None,
    text_limit: int = 1 << 26,
    encoding: str = "auto",
    patience: Patience | None = None,
) -> AsyncIterator[Kernel]:
    """Start a kernel over `documents` (by default one, "line one" and "line two")."""
    channel = PipeChannel()
    client = KernelClient(channel, patience=patience or Patience())
    with tempfile.TemporaryDirectory() as folder:
        index = write_index(Path(folder), documents or {"doc": b"line one\nline two\n"}, encoding)
        try:
            await client.start()
            facts, _ = await client.attach(index, None, text_limit, host or FakeHost())
            yield Kernel(client, channel, facts)
        finally:
            await client.close()


class LocalSandbox:
    """`Sandbox` over a kernel that is no more than a subprocess: the engine and the kernel together, without Docker."""

    def __init__(self) -> None:
        self.info = SandboxInfo("local")
        self._client = KernelClient(PipeChannel())

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        index = "\n".join(json.dumps([d.name, str(d.path), 0, d.size, d.encoding]) for d in documents)
        await self._client.start()
        facts, _ = await self._client.attach(index.encode(), None, 1 << 26, host)
        return facts

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        return await self._client.execute(code, timeout=timeout, on_output=on_output)

    def interrupt(self) -> None:
        self._client.interrupt()

    async def close(self) -> None:
        await self._client.close()

    def kill_now(self) -> None:
        """The process ends with its pipes."""


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """One test's event loop, bounded in time."""

    async def bounded() -> T:
        return await asyncio.wait_for(main(), 60)

    return asyncio.run(bounded())
