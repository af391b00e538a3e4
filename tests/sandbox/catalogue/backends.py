"""How a session is opened on each back-end: the only thing that the catalogue must know about one.

A new back-end is a class with these members and an entry in `BACKENDS`; what it cannot hold is said in the rows (`on`).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rlm_cli.sandbox import Host, Sandbox, SandboxOptions, Slice
from rlm_cli.sandbox.container import ContainerSpec, Engine
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from rlm_cli.sandbox.process_sandbox import ProcessSandbox
from tests.unprivileged import unprivileged

from .canaries import Canaries

MIB = 1024**2
MEMORY = 512 * MIB
"""Bytes: little, so that a bomb is quick, and more than all temporary file systems together."""


OUTSIDE = [
    ("metadata", "169.254.169.254", 80),
    ("internet", "198.51.100.1", 80),
    ("IPv6", "2001:db8::1", 80),
    ("IPv6 loopback", "::1", 80),
]
"""Addresses that a cell tries as well; a control tries none of them, for nothing leaves this machine."""


class Session(Protocol):
    """One open sandbox over the canaries' corpus, in which many cells run."""

    @property
    def sandbox(self) -> Sandbox: ...

    @property
    def places(self) -> Mapping[str, object]:
        """The canaries' places (`Canaries.places`), and CORPUS, as a cell sees them."""
        ...

    async def open(self, host: Host) -> None: ...

    def seen_from_outside(self) -> str:
        """What other people of the machine can see of it: arguments, environment, labels."""
        ...

    def disk_bytes(self) -> int:
        """Bytes that its cells have put on a disk of the host."""
        ...

    async def close(self) -> None:
        """Close it, and raise `AssertionError` when anything of it is left."""
        ...


class Mounting(Engine):
    """An engine that mounts one more folder into every container, as if the input had been mounted with its tree.
    `seccomp`: its own filter; "unconfined" is none."""

    def __init__(self, folder: Path, target: str, seccomp: str) -> None:
        super().__init__()
        self._bind = (str(folder), target)
        self._seccomp = seccomp

    def create(self, spec: ContainerSpec) -> str:
        profile = replace(spec.profile, seccomp=self._seccomp)
        return super().create(replace(spec, binds=(*spec.binds, self._bind), profile=profile))


class DockerSession:
    """A container. The canaries' folder is mounted at /in/canaries, read-only as an input is."""

    def __init__(self, canaries: Canaries, folder: Path, seccomp: str = "") -> None:
        self._engine = Mounting(canaries.mounted, "/in/canaries", seccomp)
        self._canaries = canaries
        self._folder = folder
        self.sandbox = DockerSandbox(
            SandboxOptions(memory=MEMORY, run_id="catalogue"), engine=self._engine, folder=folder
        )

    @property
    def places(self) -> Mapping[str, object]:
        return self._canaries.places() | {
            "CORPUS": "/in/0",
            "SCRATCH": "/tmp",
            "FOLDER": "/in/canaries",
            "UNIX": "/in/canaries/socket",
            "FIFO": "/in/canaries/fifo",
            "OUTSIDE": OUTSIDE,
        }

    async def open(self, host: Host) -> None:
        corpus = self._canaries.corpus
        await self.sandbox.open([Slice("corpus", corpus, corpus.stat().st_size)], host)

    def seen_from_outside(self) -> str:
        return str(self._engine.inspect(self.sandbox.name))

    def disk_bytes(self) -> int:
        """The container's writable layer; its temporary file systems are memory."""
        api: Any = self._engine.api()
        (found,) = api.containers(size=True, filters={"name": self.sandbox.name})
        return int(found.get("SizeRw", 0))

    async def close(self) -> None:
        try:
            await self.sandbox.close()
            assert self._engine.inspect(self.sandbox.name) is None
            assert [*self._folder.iterdir()] == []
        finally:
            self._engine.close()


class ProcessSession:
    """A confined process of this machine. The canaries are where they are, among the files of everybody."""

    def __init__(self, canaries: Canaries, folder: Path) -> None:
        self._canaries = canaries
        self._folder = folder
        folder.chmod(0o777)  # CI is root; the process is another user's
        python = os.path.realpath(sys.executable)
        self.sandbox = ProcessSandbox(SandboxOptions(memory=MEMORY), folder=folder, command=(*unprivileged(), python))

    @property
    def _scratch(self) -> Path:
        (found,) = self._folder.glob("rlm-kernel-*")
        return found

    @property
    def places(self) -> Mapping[str, object]:
        return self._canaries.places() | {
            "CORPUS": str(self._canaries.corpus),
            "SCRATCH": str(self._scratch),
            "OUTSIDE": OUTSIDE,
        }

    async def open(self, host: Host) -> None:
        corpus = self._canaries.corpus
        await self.sandbox.open([Slice("corpus", corpus, corpus.stat().st_size)], host)

    def seen_from_outside(self) -> str:
        folders = (path for path in Path("/proc").iterdir() if path.name.isdigit())
        lines = [(folder / "cmdline").read_bytes() for folder in folders if (folder / "cmdline").exists()]
        return b"".join(line for line in lines if b"BOOT" in line or b"kernel" in line).decode()

    def disk_bytes(self) -> int:
        """What is left in its scratch folder."""
        return sum(path.lstat().st_size for path in self._scratch.rglob("*"))

    async def close(self) -> None:
        await self.sandbox.close()
        assert [*self._folder.iterdir()] == []


Open = Callable[[Canaries, Path], Session]
"""(canaries, private folder) -> a session that is not open yet."""

BACKENDS: Mapping[str, Open] = {"docker": DockerSession, "process": ProcessSession}

UNFILTERED: Open = functools.partial(DockerSession, seccomp="unconfined")
"""An engine whose own filter of system calls is off: what holds there is ours."""
