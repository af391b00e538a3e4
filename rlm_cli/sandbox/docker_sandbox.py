"""`Sandbox` over Docker: one locked-down container from staging to removal.

The corpus gets in by the first way that works: the files themselves, mounted; else, on an engine that is elsewhere or
does not see them, streamed into sealed memory, or into a volume that a container of its own fills. Each way ends with
the same proof that the kernel sees the host's bytes.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .. import __version__
from ..errors import SandboxError
from ..events import SandboxInfo
from . import ContextFacts, Document, Host, OnOutput, SandboxOptions, StepResult
from .box import Box, Volume
from .changes import changes_since
from .client import KernelClient
from .container import OWNER_LABEL, ContainerSpec, Engine, VolumeMount
from .image import Image, OnImageProgress, resolve_image, silent
from .kernel import wire
from .owner import Owner
from .profile import MIN_MEMORY, Profile, wrong_facts
from .spool import Spool
from .staging import OnStageProgress, Proof, Staged, ignore, packed, stage
from .stream import DockerChannel
from .upload import Upload

T = TypeVar("T")

UNSEEN = ("mount_failed", "handshake", "unreadable")
"""Failures that mean: the engine, or the kernel's user there, does not see our files."""
FILLING = "/var/tmp"  # noqa: S108 - in the container
"""Where a volume is mounted to be filled: an engine gives a new volume the mode of the folder that it is put over, and
into this one every user may write, in any image."""


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
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._options = options
        self._folder = folder
        self._engine = engine or Engine()
        self._owns_engine = engine is None
        self._text_limit = text_limit
        self._on_image = on_image
        self._on_stage = on_stage
        self._on_note = on_note
        self._name = f"rlm-{secrets.token_hex(6)}"
        self._image = options.image
        self._input = ""
        self._streams = False
        self._made: tuple[Image, Profile] | None = None
        self._staged: Staged | None = None
        self._upload: Upload | None = None
        self._boxes: list[Box] = []
        self._volume: Volume | None = None
        self._clients: list[KernelClient] = []
        self._client: KernelClient | None = None
        self._threads: list[asyncio.Future[Any]] = []
        self._closing: asyncio.Future[None] | None = None
        self._doomed = False

    @property
    def info(self) -> SandboxInfo:
        """What `rlm` reports about where the code runs."""
        return SandboxInfo(kind="docker", image=self._image, network=False, input=self._input)

    @property
    def name(self) -> str:
        """The container's name."""
        return self._name

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        """Get the corpus into a container, check its boot facts, attach, and prove that it sees our bytes.

        Raises `SandboxError` (an engine's code, boot_facts, handshake) or `InputError` (from staging).
        """
        if self._options.memory < MIN_MEMORY:
            raise too_little_memory(self._options.memory)
        atexit.register(self.kill_now)
        if not self._streams and await self._in_thread(self._engine.is_local):
            try:
                return await self._open_mounted(documents, host)
            except SandboxError as error:
                if error.code not in UNSEEN or self._doomed:
                    raise
            await self._discard()
        self._on_note("the engine does not see these files: copying them in")
        return await self._open_streamed(documents, host)

    def child(self) -> DockerSandbox:
        """Another one on the same engine and image, for a child run; not opened, and not closed with this one."""
        made = DockerSandbox(self._options, folder=self._folder, engine=self._engine, text_limit=self._text_limit)
        made._made = self._made
        made._image = self._image
        made._streams = self._input in ("memory", "volume")
        return made

    def placed(self, documents: Sequence[Document]) -> Sequence[Document]:
        """Where the documents that it was opened with are on the host: a child that is given them, or parts of them,
        mounts the same files."""
        return documents if self._staged is None else packed(self._staged, documents)

    async def changes(self) -> tuple[str, ...]:
        """Sentences about documents that changed while they were being read; after the last cell."""
        if self._upload is not None:
            return self._upload.changes.sentences()
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
        for box in tuple(self._boxes):
            box.kill()
        if self._volume is not None:
            self._volume.kill()
        if self._staged is not None:
            self._staged.remove()
        atexit.unregister(self.kill_now)

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Run blocking work; it is waited for in `close` if nobody else does."""
        work = asyncio.ensure_future(asyncio.to_thread(function, *args))
        self._threads.append(work)
        return await asyncio.shield(work)

    # -- the ways in

    async def _open_mounted(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        made, staged = await asyncio.gather(self._in_thread(self._prepare), self._in_thread(self._stage, documents))
        self._made = image, profile = made
        binds = tuple((bind.source, f"/in/{bind.file}") for bind in staged.binds)
        client = await self._start(self._name, image, replace(profile, user=staged.user), binds=binds)
        context = await self._attach(client, staged.index, staged.index_file, staged.proof, host)
        self._input = "mounted"
        return context

    async def _open_streamed(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        if self._made is None:
            self._made = await self._in_thread(self._prepare)
        image, profile = self._made
        upload = self._upload = await self._in_thread(self._make_upload, documents)
        if upload.in_memory:
            client = await self._start(self._name, image, profile, place=wire.IN_MEMORY)
            await client.fill(upload)
        else:
            volume = await self._fill_volume(image, profile, upload)
            client = await self._start(self._name, image, profile, volume=volume.mounted("/in", read_only=True))
        context = await self._attach(client, upload.index, upload.index_file, upload.proof, host)
        self._input = upload.place
        return context

    async def _fill_volume(self, image: Image, profile: Profile, upload: Upload) -> Volume:
        """A volume with the corpus, put there by a container in which nothing but our supervisor ever runs."""
        self._volume = Volume(self._engine, self._name, self._labels())
        await self._in_thread(self._volume.create)
        masked = tuple(path for path in profile.masked if path != FILLING)
        client = await self._start(
            f"{self._name}-loader",
            image,
            replace(profile, masked=masked),
            volume=self._volume.mounted(FILLING, read_only=False),
            place=FILLING,
        )
        await client.fill(upload)
        await client.close()
        await self._in_thread(self._boxes[-1].remove)
        return self._volume

    async def _start(
        self,
        name: str,
        image: Image,
        profile: Profile,
        *,
        binds: tuple[tuple[str, str], ...] = (),
        volume: VolumeMount | None = None,
        place: str = "",
    ) -> KernelClient:
        """A container whose supervisor answers and is locked down as asked."""
        box = Box(self._engine, name)
        self._boxes.append(box)
        if self._doomed:
            box.doom()
        channel = await self._in_thread(
            box.launch, ContainerSpec(name, image, profile, binds=binds, volume=volume, labels=self._labels())
        )
        client = KernelClient(channel, place=place, new_spool=lambda: Spool(self._folder))
        self._clients.append(client)
        await boot(client, channel, profile)
        return client

    async def _attach(
        self, client: KernelClient, index: bytes | None, index_file: str | None, proof: Proof, host: Host
    ) -> ContextFacts:
        context, seen = await client.attach(index=index, index_file=index_file, text_limit=self._text_limit, host=host)
        check_proof(seen, proof)
        self._client = client
        return context

    def _labels(self) -> dict[str, str]:
        return {
            **self._options.labels,
            OWNER_LABEL: str(Owner.here()),
            "rlm.run": self._options.run_id,
            "rlm.version": __version__,
        }

    def _prepare(self) -> tuple[Image, Profile]:
        """What is needed of the engine before the container can be described; and the last crash's leftovers go."""
        if self._made is not None:  # by the parent
            return self._made
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

    def _make_upload(self, documents: Sequence[Document]) -> Upload:
        return Upload(documents, self._options.memory, on_progress=self._on_stage, cancelled=lambda: self._doomed)

    # -- the way out

    async def _discard(self) -> None:
        """Remove what the first way in left."""
        await self._close_streams()
        await self._remove_boxes()
        if self._staged is not None:
            await self._in_thread(self._staged.remove)
            self._staged = None
        self._boxes.clear()
        self._clients.clear()

    async def _close(self) -> None:
        for box in self._boxes:
            box.doom()
        await asyncio.gather(*self._threads, return_exceptions=True)
        try:
            # At once, so that neither waits for the other: a killed kernel ends the client's threads, too.
            await asyncio.gather(self._close_streams(), self._remove_boxes())
            if self._volume is not None:
                await asyncio.to_thread(self._volume.remove)
        finally:
            if self._staged is not None:
                await asyncio.to_thread(self._staged.remove)
            if self._owns_engine:
                await asyncio.to_thread(self._engine.close)
            atexit.unregister(self.kill_now)

    async def _close_streams(self) -> None:
        await asyncio.gather(*(client.close() for client in self._clients))

    async def _remove_boxes(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(box.remove) for box in self._boxes))


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
            "the sandbox does not see the bytes that were read here; nothing was run",
            hint="run it again; if it happens again:  rlm doctor",
            code="handshake",
        )


def too_little_memory(memory: int) -> SandboxError:
    """A kernel needs room for Python itself."""
    return SandboxError(
        f"{memory} bytes of memory are too few for a Python kernel (at least {MIN_MEMORY})",
        hint="--set sandbox.memory=64MiB or more",
        code="limit_refused",
    )
