"""`Sandbox` over Docker: one locked-down container from staging to removal."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .. import __version__
from ..errors import SandboxError
from ..events import SandboxInfo
from . import ContextFacts, Document, Host, OnOutput, SandboxOptions, StepResult
from .client import KernelClient
from .container import HURRY, OWNER_LABEL, ContainerSpec, Engine
from .guard import Guard
from .image import Image, OnImageProgress, resolve_image, silent
from .owner import Owner
from .profile import MIN_MEMORY, Profile, wrong_facts
from .spool import Spool
from .staging import OnStageProgress, Proof, Staged, ignore, stage
from .stream import DockerChannel

T = TypeVar("T")


class DockerSandbox:
    """A kernel in a locked-down container: the `Sandbox` protocol over Docker.

    `folder` is a private directory (0700) for a packed copy of the input, where one is needed, and for a large answer;
    None: the system's temporary one. An `engine` that was given stays open. Use it from one event loop; `kill_now`
    alone may be called from any thread, at any moment.
    """

    def __init__(
        self,
        options: SandboxOptions,
        *,
        folder: Path | None = None,
        engine: Engine | None = None,
        text_limit: int = 64 * 1024**2,
        on_image: OnImageProgress = silent,
        on_stage: OnStageProgress = ignore,
    ) -> None:
        self._options = options
        self._folder = folder
        self._engine = engine or Engine()
        self._owns_engine = engine is None
        self._text_limit = text_limit
        self._on_image = on_image
        self._on_stage = on_stage
        self._name = f"rlm-{secrets.token_hex(6)}"
        self._image = options.image
        self._staged: Staged | None = None
        self._channel: DockerChannel | None = None
        self._client: KernelClient | None = None
        self._threads: list[asyncio.Future[Any]] = []
        self._closing: asyncio.Future[None] | None = None
        self._doomed = False
        self._may_exist = False
        self._launching = threading.Lock()  # held while the container comes into being: its remover waits

    @property
    def info(self) -> SandboxInfo:
        """What `rlm` reports about where the code runs."""
        return SandboxInfo(kind="docker", image=self._image, network=False)

    @property
    def name(self) -> str:
        """The container's name."""
        return self._name

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        """Stage the corpus, start the container, check its boot facts, attach, and prove that it sees our bytes.

        Raises `SandboxError` (an engine's code, boot_facts, handshake) or `InputError` (from staging).
        """
        if self._options.memory < MIN_MEMORY:
            raise too_little_memory(self._options.memory)
        atexit.register(self.kill_now)
        (image, profile), staged = await asyncio.gather(
            self._in_thread(self._prepare), self._in_thread(self._stage, documents)
        )
        channel = await self._in_thread(self._launch, image, profile, staged)
        self._client = KernelClient(channel, new_spool=lambda: Spool(self._folder))
        await boot(self._client, channel, profile)
        context, proof = await self._client.attach(
            index=staged.index, index_file=staged.index_file, text_limit=self._text_limit, host=host
        )
        check_proof(proof, staged.proof)
        return context

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
        """Remove the container and the copy of the input, whatever state they are in. Idempotent; once begun it goes
        on even if the waiter is cancelled. Raises `SandboxError` when the engine does not remove the container."""
        if self._closing is None:
            self._doomed = True
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    def kill_now(self) -> None:
        """The same at once and without an event loop, as far as it can be done in two seconds: for a second Ctrl-C
        and for the interpreter's exit. Never raises for the engine's failures: the kernel also dies by end-of-file."""
        self._doomed = True
        if self._channel is not None:
            self._channel.close()
        locked = self._launching.acquire(timeout=HURRY)
        try:
            if self._may_exist:
                with contextlib.suppress(SandboxError):
                    self._engine.remove(self._name, patience=HURRY)
        finally:
            if locked:
                self._launching.release()
        if self._staged is not None:
            self._staged.remove()
        atexit.unregister(self.kill_now)

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run blocking work; it is waited for in `close` if nobody else does."""
        work = asyncio.ensure_future(asyncio.to_thread(function, *args))
        self._threads.append(work)
        return await asyncio.shield(work)

    def _prepare(self) -> tuple[Image, Profile]:
        """What is needed of the engine before the container can be described; and the last crash's leftovers go."""
        image = resolve_image(self._engine, self._options, on_progress=self._on_image)
        self._image = image.name
        with contextlib.suppress(SandboxError):
            self._engine.prune()
        cpus = self._engine.probe().cpus or self._options.cpus
        return image, Profile(
            memory=self._options.memory, cpus=min(self._options.cpus, cpus), masked=tuple(sorted(image.volumes))
        )

    def _stage(self, documents: Sequence[Document]) -> Staged:
        self._staged = stage(documents, self._folder, on_progress=self._on_stage, cancelled=lambda: self._doomed)
        return self._staged

    def _launch(self, image: Image, profile: Profile, staged: Staged) -> DockerChannel:
        """Create, attach, start: in this order, or the first bytes are lost."""
        spec = ContainerSpec(
            name=self._name,
            image=image,
            profile=profile,
            binds=tuple((bind.source, f"/in/{bind.file}") for bind in staged.binds),
            labels={
                **self._options.labels,
                OWNER_LABEL: str(Owner.here()),
                "rlm.run": self._options.run_id,
                "rlm.version": __version__,
            },
        )
        path = self._engine.socket_path
        with self._launching:
            if self._doomed:
                raise SandboxError("the sandbox was closed while it started", code="sandbox_lost")
            guard = Guard(path, self._name) if path else None
            try:
                self._may_exist = True
                container = self._engine.create(spec)
                self._channel = self._engine.attach(container)
                self._engine.start(container)
            finally:
                if guard:
                    guard.release()
        return self._channel

    async def _close(self) -> None:
        await asyncio.gather(*self._threads, return_exceptions=True)
        try:
            # At once, so that neither waits for the other: a killed kernel ends the client's threads, too.
            await asyncio.gather(self._close_stream(), self._remove_container())
        finally:
            if self._staged is not None:
                await asyncio.to_thread(self._staged.remove)
            if self._owns_engine:
                await asyncio.to_thread(self._engine.close)
            atexit.unregister(self.kill_now)

    async def _close_stream(self) -> None:
        if self._client is not None:
            await self._client.close()
        if self._channel is not None:
            self._channel.close()

    async def _remove_container(self) -> None:
        if self._may_exist:
            await asyncio.to_thread(self._engine.remove, self._name)


async def boot(client: KernelClient, channel: DockerChannel, profile: Profile) -> None:
    """Start the kernel and refuse the container unless it is what was asked for."""
    try:
        facts = await client.start()
    except SandboxError as error:
        said = channel.stderr  # no model code has run yet: this is python3's own complaint
        if not said:
            raise
        raise SandboxError(f"{error.message}; the container said: {said}", hint=error.hint, code=error.code) from error
    wrong = wrong_facts(facts, profile)
    if wrong:
        raise SandboxError(
            f"the container is not locked down, so nothing was run: {'; '.join(wrong)}",
            hint="rlm doctor   (an engine that drops limits needs cgroup v2, or a newer version)",
            code="boot_facts",
        )


def check_proof(seen: Sequence[tuple[str, int, str]], read: Proof) -> None:
    """Raises `SandboxError` (handshake) unless the kernel sees the bytes that the host read."""
    if sorted(seen) != sorted(read):
        raise SandboxError(
            "the engine does not see the same files: a remote engine, a path it does not share, "
            "or a file that changed while it was being read",
            hint="use a local engine (unset DOCKER_HOST), or pipe the input:  rlm ask - ... < FILE",
            code="handshake",
        )


def too_little_memory(memory: int) -> SandboxError:
    """A kernel needs room for Python itself."""
    return SandboxError(
        f"{memory} bytes of memory are too few for a Python kernel (at least {MIN_MEMORY})",
        hint="--set sandbox.memory=64MiB or more",
        code="limit_refused",
    )
