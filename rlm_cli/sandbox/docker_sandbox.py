"""`Sandbox` over Docker: one locked-down container from staging to removal.

The corpus gets in by the first way that works: the files themselves, mounted; else, on an engine that is elsewhere or
does not see them, streamed into sealed memory, or into a volume that a container of its own fills. Each way ends with
the same proof that the kernel sees the host's bytes.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from .. import __version__
from ..errors import SandboxError
from ..events import SandboxInfo
from . import ContextFacts, Document, Host, OnOutput, SandboxOptions, StepResult
from .base import KernelSandbox
from .box import Box, Volume
from .client import KernelClient, Patience
from .container import HURRY, OWNER_LABEL, REMOVAL_TIMEOUT, ContainerSpec, Engine, VolumeMount
from .engine_errors import engine_gone, recognized, removed_outside
from .frames import BootFacts
from .image import Image, OnImageProgress, resolve_image, silent
from .kernel import wire
from .owner import Owner
from .profile import PODMAN_WRITABLE, Profile, wrong_facts, wrong_worker
from .staging import OnStageProgress, Proof, Staged, ignore, stage
from .stream import DockerChannel
from .upload import Upload

UNSEEN = ("mount_failed", "handshake", "unreadable")
"""Failures that mean: the engine, or the kernel's user there, does not see our files."""
REPLACED = ("sandbox_silent", "sandbox_protocol", "deserted")
"""Failures of a container after which another one is started in its place."""
REPLACEMENTS = 3
"""How often in one run: one that fails again and again is not going to work."""
LOST = ("sandbox_lost", "sandbox_stream")
"""Failures that only say that the stream is over."""
FILLING = "/var/tmp"  # noqa: S108 - in the container
"""Where a volume is mounted to be filled: an engine gives a new volume the mode of the folder that it is put over, and
into this one every user may write, in any image."""


class DockerSandbox(KernelSandbox):
    """A kernel in a locked-down container: the `Sandbox` protocol over Docker.

    An `engine` that was given stays open.
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
        patience: Patience | None = None,
    ) -> None:
        super().__init__(options, folder=folder, text_limit=text_limit, on_stage=on_stage, on_note=on_note)
        self._engine = engine or Engine()
        self._owns_engine = engine is None
        self._on_image = on_image
        self._patience = patience or Patience()
        self._name = new_name()
        self._image = options.image
        self._input = ""
        self._streams = False
        self._made: tuple[Image, Profile] | None = None
        self._upload: Upload | None = None
        self._boxes: list[Box] = []
        self._volume: Volume | None = None
        self._box: Box | None = None
        self._attach_again: Callable[[], Awaitable[ContextFacts]]
        self._replacements = 0
        self._removal = REMOVAL_TIMEOUT

    @property
    def info(self) -> SandboxInfo:
        """What `rlm` reports about where the code runs."""
        return SandboxInfo(kind=self._engine.flavor.lower(), image=self._image, network=False, input=self._input)

    @property
    def name(self) -> str:
        """The container's name."""
        return self._name

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        """Get the corpus into a container, check its boot facts, attach, and prove that it sees our bytes.

        Raises `SandboxError` (an engine's code, boot_facts, handshake) or `InputError` (from staging).
        """
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

    async def changes(self) -> tuple[str, ...]:
        """Sentences about documents that changed while they were being read; after the last cell."""
        return await super().changes() if self._upload is None else self._upload.changes.sentences()

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        """Run one cell (see `Sandbox.execute`). A container that stops answering or breaks the protocol is replaced by
        another, and the cell's result says so: the third rung of the ladder, after SIGINT and SIGKILL of the worker."""
        client = await self._living()
        try:
            return await client.execute(code, timeout=timeout, on_output=on_output)
        except SandboxError as error:
            reason = await self._replaceable(error)
            remains = client.remains(reason.message)
            await self._replace(client)
            return remains

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

    # -- when the container fails

    async def _living(self) -> KernelClient:
        """The client of a container that works, as far as is known: one that failed between two cells is replaced."""
        client = self._client
        if client is None or self._doomed:
            raise SandboxError("the sandbox is not open", code="sandbox_lost")
        if client.failure is None:
            return client
        reason = await self._replaceable(client.failure)
        await self._replace(client)
        return self._client_that_lost(f"the container was lost: {reason.message}")

    def _client_that_lost(self, why: str) -> KernelClient:
        assert self._client is not None  # noqa: S101 - it was replaced just now
        self._client.lost = why
        return self._client

    async def _replaceable(self, error: SandboxError) -> SandboxError:
        """What is wrong with the container, where another one may do better. Raises it where not."""
        reason = await self._diagnosed(error)
        if reason.code not in REPLACED or self._doomed or self._replacements == REPLACEMENTS:
            raise reason from error
        return reason

    async def _diagnosed(self, error: SandboxError) -> SandboxError:
        """Why the stream ended: the engine is gone, or only the container is."""
        if error.code not in LOST or self._doomed or self._box is None:
            return error
        box = self._box
        try:
            await self._in_thread(box.is_there)
        except SandboxError as failure:
            self._removal = HURRY
            return engine_gone(box.name, failure, self._engine.flavor)
        if wire.DESERTED in box.said:
            return SandboxError("it had no word from here for a minute (was this computer asleep?)", code="deserted")
        return removed_outside(box.name, box.said)

    async def _replace(self, client: KernelClient) -> None:
        """Put the container down and start another with the same input. Raises `SandboxError`."""
        self._replacements += 1
        self._client = None
        assert self._box is not None  # noqa: S101 - a cell ran in it
        try:
            await self._in_thread(self._box.put_down)
        except SandboxError:
            self._removal = HURRY  # whoever closes us need not wait for it again
            raise
        finally:
            await client.close()
        self._name = new_name()
        try:
            await self._attach_again()
        except SandboxError as error:
            if error.code != "handshake":
                raise
            raise input_changed() from error  # the first container saw what was read here

    # -- the ways in

    async def _open_mounted(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        made, staged = await asyncio.gather(self._in_thread(self._prepare), self._in_thread(self._stage, documents))
        self._made = image, profile = made
        binds = tuple((bind.source, f"/in/{bind.file}") for bind in staged.binds)

        async def attach() -> ContextFacts:
            client = await self._start(image, replace(profile, user=staged.user), binds=binds)
            return await self._attach(client, staged.index, staged.index_file, staged.proof, host)

        context = await self._first(attach)
        self._input = "mounted"
        return context

    async def _first(self, attach: Callable[[], Awaitable[ContextFacts]]) -> ContextFacts:
        """Attach, and remember how."""
        self._attach_again = attach
        return await attach()

    async def _open_streamed(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        if self._made is None:
            self._made = await self._in_thread(self._prepare)
        image, profile = self._made
        upload = self._upload = await self._in_thread(self._make_upload, documents)
        volume = None if upload.in_memory else await self._fill_volume(image, profile, upload)

        async def attach() -> ContextFacts:
            if volume is not None:
                client = await self._start(image, profile, volume=volume.mounted("/in", read_only=True))
            else:
                client = await self._start(image, profile, place=wire.IN_MEMORY)
                before = upload.proof
                await client.fill(upload)
                check_unchanged(before, upload.proof)
            return await self._attach(client, upload.index, upload.index_file, upload.proof, host)

        context = await self._first(attach)
        self._input = upload.place
        return context

    async def _fill_volume(self, image: Image, profile: Profile, upload: Upload) -> Volume:
        """A volume with the corpus, put there by a container in which nothing but our supervisor ever runs."""
        self._volume = Volume(self._engine, self._name, self._labels())
        await self._in_thread(self._volume.create)
        masked = tuple(path for path in profile.masked if path != FILLING)
        client = await self._start(
            image,
            replace(profile, masked=masked),
            volume=self._volume.mounted(FILLING, read_only=False),
            place=FILLING,
            role="-loader",
        )
        await client.fill(upload)
        await client.close()
        await self._in_thread(self._boxes[-1].remove)
        return self._volume

    async def _start(
        self,
        image: Image,
        profile: Profile,
        *,
        binds: tuple[tuple[str, str], ...] = (),
        volume: VolumeMount | None = None,
        place: str = "",
        role: str = "",
    ) -> KernelClient:
        """A container whose supervisor answers and is locked down as asked."""
        labels = self._labels()
        channel = await self._launch(
            lambda name: ContainerSpec(name + role, image, profile, binds=binds, volume=volume, labels=labels)
        )
        client = KernelClient(channel, place=place, patience=self._patience, new_spool=self._new_spool)
        self._clients.append(client)
        self._boot = await boot(client, channel, profile)
        return client

    async def _launch(self, spec: Callable[[str], ContainerSpec]) -> DockerChannel:
        """Start a container, by another name where the engine has one of that name."""
        for last in (False, True):
            if last:
                self._name = new_name()
            wanted = spec(self._name)
            box = Box(self._engine, wanted.name)
            self._boxes.append(box)
            if self._doomed:
                box.doom()
            try:
                channel = await self._in_thread(box.launch, wanted)
            except SandboxError as error:
                if error.code != "name_clash" or last:
                    raise
                continue
            self._box = box
            return channel
        raise AssertionError("unreachable")

    async def _attach(
        self, client: KernelClient, index: bytes | None, index_file: str | None, proof: Proof, host: Host
    ) -> ContextFacts:
        self._worker = await client.worker()
        refuse_if(wrong_worker(self._worker, self._boot.machine))
        return await super()._attach(client, index, index_file, proof, host)

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
            self._engine.prune(patience=HURRY)
        cpus = self._engine.probe().cpus or self._options.cpus
        masked = {*image.volumes, *(PODMAN_WRITABLE if self._engine.flavor == "Podman" else ())}
        return image, Profile(
            memory=self._options.memory, cpus=min(self._options.cpus, cpus), masked=tuple(sorted(masked))
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
        self._box = None

    async def _close(self) -> None:
        for box in self._boxes:
            box.doom()
        await self._threads_ended()
        try:
            # At once, so that neither waits for the other: a killed kernel ends the client's threads, too.
            await asyncio.gather(self._close_streams(), self._remove_boxes())
            if self._volume is not None:
                await asyncio.to_thread(functools.partial(self._volume.remove, patience=self._removal))
        finally:
            if self._owns_engine:
                await asyncio.to_thread(self._engine.close)

    async def _remove_boxes(self) -> None:
        removing = (functools.partial(box.remove, patience=self._removal) for box in self._boxes)
        await asyncio.gather(*map(asyncio.to_thread, removing))


async def boot(client: KernelClient, channel: DockerChannel, profile: Profile) -> BootFacts:
    """Start the kernel and refuse the container unless it is what was asked for."""
    try:
        facts = await client.start()
    except SandboxError as error:
        said = channel.stderr  # no model code has run yet: this is python3's own complaint
        if not said:
            raise
        message = f"{error.message}; the container said: {said}"
        known = recognized(said, message)
        raise known or SandboxError(message, hint=error.hint, code=error.code) from error
    refuse_if(wrong_facts(facts, profile))
    return facts


def refuse_if(wrong: Sequence[str]) -> None:
    """Raises `SandboxError` (boot_facts) that names all that is wrong with a container, if anything is."""
    if wrong:
        raise SandboxError(
            f"the container is not locked down, so nothing was run: {'; '.join(wrong)}",
            hint="rlm doctor   (an engine that drops limits needs cgroup v2, or a newer version)",
            code="boot_facts",
        )


def new_name() -> str:
    """A name that no other container has."""
    return f"rlm-{secrets.token_hex(6)}"


def check_unchanged(before: Proof, now: Proof) -> None:
    """Raises `SandboxError` when the input is streamed a second time and is not what it was."""
    if before and before != now:
        raise input_changed()


def input_changed() -> SandboxError:
    """What is read now is not what was read at the start."""
    return SandboxError("the input changed while it was being read", code="input_changed")
