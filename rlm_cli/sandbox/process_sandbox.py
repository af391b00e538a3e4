"""`Sandbox` without a container, for Linux machines that cannot have one: the same kernel as a process of this machine.

Never chosen by itself. Its worker sees the standard library, the input and a scratch folder (Landlock), has none of the
system calls that reach anything else (seccomp), cannot start a process, and so cannot have more memory than one process
may. What is missing beside a container is in `MISSING`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SandboxError
from ..events import SandboxInfo
from . import ContextFacts, Document, Host, OnOutput, SandboxOptions, StepResult
from .base import KernelSandbox
from .client import BOOT, KernelClient
from .frames import BootFacts, WorkerFacts
from .guard import Guard
from .kernel import landlock, seccomp, wire
from .profile import DEFAULT_PATH, not_limited, within
from .staging import OnStageProgress, Staged, ignore, stage

MISSING = (
    "--sandbox process: model-written code runs as you, on this machine, behind file and system call filters. "
    "Beside a container it lacks: a file system of its own (names and sizes of your files can be seen), "
    "limits on disk and processors, and a second wall"
)
"""What a person is told at the start of every run."""

SAID = 8 * 1024
"""Bytes of what a kernel says beside the protocol that are kept."""
LEAVE = 0.5
"""Seconds that a kernel has to end by itself once it was told to."""


LANDLOCK = 1
"""The version that is needed; what later ones add, the system call filter has."""


@dataclass(frozen=True)
class Machine:
    """What decides whether a process can be confined. `landlock`: the version of its interface, 0 when there is none;
    `filters`: whether there is a system call filter for the architecture."""

    system: str
    uid: int
    architecture: str
    filters: bool
    landlock: int

    @classmethod
    def here(cls) -> Machine:
        """This one, and this user."""
        if sys.platform != "linux":
            return cls(sys.platform, -1, "", filters=False, landlock=0)
        return cls(sys.platform, os.geteuid(), os.uname().machine, seccomp.supported(), landlock.version())


def refusal(machine: Machine | None = None) -> SandboxError | None:
    """Why there (None: here) no process can be confined; None when it can. Nothing is started for that: what the
    process itself then says is checked again before anything runs in it."""
    machine = machine or Machine.here()
    if machine.system != "linux":
        return refused("it stands on Linux's own filters, and this is not Linux", "process_not_linux")
    if machine.uid == 0:
        why = "not for root, whose rights no filter takes away whole"
        return refused(why, "process_root", "run rlm as an ordinary user, or in a container: --sandbox docker")
    if not machine.filters:
        return refused(f"there is no system call filter for {machine.architecture}", "process_no_seccomp")
    if machine.landlock < LANDLOCK:
        why = "this kernel has no Landlock (Linux 5.13 and later, unless switched off: the boot option lsm=)"
        return refused(why, "process_no_landlock")
    return None


def refused(why: str, code: str, hint: str = "--sandbox docker   (rlm doctor says what that needs)") -> SandboxError:
    """`--sandbox process` is not possible here."""
    return SandboxError(f"--sandbox process: {why}", hint=hint, code=code)


def wrong_facts(boot: BootFacts, worker: WorkerFacts, memory: int) -> tuple[str, ...]:
    """What the process says about itself that is not as it must be, one phrase each; () when it is confined."""
    said = f" ({'; '.join(worker.failures)})" if worker.failures else ""
    checks = (
        (boot.uid != 0, "its user is root (uid 0)"),
        (boot.cap_eff == 0, f"it has capabilities (CapEff {boot.cap_eff:#x})"),
        (not boot.dumpable, "its supervisor can be looked into by the code that it runs"),
        (within(boot.memory_limit, memory), not_limited("memory", boot.memory_limit, memory)),
        (worker.no_new_privs, "its worker may gain privileges (NoNewPrivs is off)"),
        (worker.filtered and worker.seccomp == 2, f"no system call filter is active{said}"),
        (worker.landlock >= LANDLOCK, f"files are not restricted by Landlock{said}"),
    )
    return tuple(phrase for right, phrase in checks if not right)


class ProcessChannel:
    """A kernel's pipes as a `Channel`. `read` and `write` from one thread each; `close` from any."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self._process = process
        self._in, self._out, self._err = process.stdin, process.stdout, process.stderr
        self._said = b""
        self._closing = threading.Lock()
        os.set_blocking(self._err.fileno(), False)

    @property
    def stderr(self) -> str:
        """What the kernel said beside the protocol, as far as it is there: Python's complaint, or its last words."""
        with contextlib.suppress(OSError, ValueError):  # nothing is there; closed
            self._said += os.read(self._err.fileno(), SAID - len(self._said))
        return self._said.decode("utf-8", "replace").strip()

    def read(self) -> bytes:
        """Some bytes of the kernel's, or b"" when it has ended."""
        try:
            return os.read(self._out.fileno(), 1 << 18)
        except (OSError, ValueError):  # closed by another thread
            return b""

    def write(self, data: bytes) -> None:
        """All of `data`. Raises `SandboxError` when the kernel has ended."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._in.fileno(), view) :]
        except (OSError, ValueError) as error:
            raise SandboxError("the sandbox's process has ended", code="sandbox_lost") from error

    def close(self) -> None:
        """See the process dead, by itself or by SIGKILL, which ends a blocked `read` and `write`. Idempotent."""
        with self._closing:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVE)
            self._process.kill()
            self._process.wait()
            _ = self.stderr  # kept, for whoever asks why
            for pipe in (self._in, self._out, self._err):
                with contextlib.suppress(OSError):
                    pipe.close()


class KernelProcess:
    """One process that runs the kernel, and its scratch folder, from before they exist until they are gone.

    `kill` may be called from any thread at any moment.
    """

    def __init__(self, folder: Path | None) -> None:
        self.scratch = (folder or Path(tempfile.gettempdir())).resolve() / f"rlm-kernel-{secrets.token_hex(6)}"
        self._guard = Guard.of_scratch(self.scratch)
        self._process: subprocess.Popen[bytes] | None = None
        self._doomed = False

    def launch(self, command: Sequence[str], sources: Sequence[str]) -> tuple[ProcessChannel, list[int]]:
        """Start it with the files `sources` open for reading; returns under which numbers it has them. From the main
        thread: the kernel dies with the thread that started it."""
        files: list[int] = []
        try:
            files.extend(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) for source in sources)
            if self._doomed:
                raise SandboxError("the sandbox was closed while it started", code="sandbox_lost")
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [*command, "-I", "-S", "-u", "-c", BOOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env={"PATH": DEFAULT_PATH, "HOME": str(self.scratch), "LANG": "C.UTF-8"},
                pass_fds=files,
                start_new_session=True,
            )
        except OSError as error:
            raise SandboxError(f"the sandbox's process cannot be started: {error}", code="process_start") from error
        finally:
            for file in files:
                os.close(file)
        return ProcessChannel(self._process), files

    def remove(self) -> None:
        """Kill it, and remove its folder. Idempotent."""
        self.kill()
        if self._process is not None:
            self._process.wait()
        self._guard.release()

    def kill(self) -> None:
        """At once: its worker dies with it, and its folder is removed without being waited for."""
        self._doomed = True
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVE)  # its worker must not be at work in the folder any more
        self._guard.release(wait=False)


class ProcessSandbox(KernelSandbox):
    """A kernel in a confined process of this machine: the `Sandbox` protocol without an engine.

    `command` starts Python, as a user who is not root (tests have it run as another one). Whoever makes one has asked
    `refusal` first.
    """

    def __init__(
        self,
        options: SandboxOptions,
        *,
        folder: Path | None = None,
        text_limit: int = 64 * 1024**2,
        on_stage: OnStageProgress = ignore,
        on_note: Callable[[str], None] = lambda _: None,
        command: Sequence[str] = (),
    ) -> None:
        super().__init__(options, folder=folder, text_limit=text_limit, on_stage=on_stage, on_note=on_note)
        # Not the environment's link to it: that is in a folder of the user's, which the kernel need not see.
        self._command = tuple(command) or (os.path.realpath(sys.executable),)
        self._process: KernelProcess | None = None
        self._channel: ProcessChannel | None = None

    @property
    def info(self) -> SandboxInfo:
        """What `rlm` reports about where the code runs."""
        return SandboxInfo(kind="process", network=False, input="opened" if self._client else "")

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        """Start the kernel, check what it says about its confinement, attach, and prove that it sees our bytes.

        Raises `SandboxError` (process_start, boot_facts, handshake) or `InputError` (from staging).
        """
        atexit.register(self.kill_now)
        self._on_note(MISSING)
        staged = await self._in_thread(self._stage, documents)
        client = await self._start(staged)
        return await self._attach(client, staged.index, staged.index_file, staged.proof, host)

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        """See `KernelSandbox.execute`. Nothing replaces a process that is lost."""
        try:
            return await super().execute(code, timeout=timeout, on_output=on_output)
        except SandboxError as error:
            if self._channel is None or wire.DESERTED not in self._channel.stderr:
                raise
            raise SandboxError(
                "the sandbox's process had no word from here for a minute (was this computer asleep?), and ended",
                hint="Run it again; a container (--sandbox docker) would have been replaced.",
                code="deserted",
            ) from error

    def child(self) -> ProcessSandbox:
        """Another one for a child run; not opened, and not closed with this one."""
        return ProcessSandbox(self._options, folder=self._folder, text_limit=self._text_limit, command=self._command)

    def kill_now(self) -> None:
        """See `KernelSandbox.kill_now`."""
        self._doomed = True
        if self._process is not None:
            self._process.kill()
        if self._staged is not None:
            self._staged.remove()
        atexit.unregister(self.kill_now)

    def _stage(self, documents: Sequence[Document]) -> Staged:
        self._staged = stage(
            documents, self._folder, held=True, on_progress=self._on_stage, cancelled=lambda: self._doomed
        )
        return self._staged

    async def _start(self, staged: Staged) -> KernelClient:
        """A kernel that is confined as asked."""
        if self._doomed:
            raise SandboxError("the sandbox was closed while it started", code="sandbox_lost")
        self._process = KernelProcess(self._folder)
        channel, files = self._process.launch(self._command, [bind.source for bind in staged.binds])
        self._channel = channel
        alone = {
            "host": os.getpid(),
            "scratch": str(self._process.scratch),
            "memory": self._options.memory,
            "files": files,
        }
        client = KernelClient(channel, alone=alone, new_spool=self._new_spool)
        self._clients.append(client)
        try:
            self._boot, self._worker = await client.start(), await client.worker()
        except SandboxError as error:
            said = channel.stderr  # no model code has run yet: the system's complaint, or Python's
            message = f"{error.message}; it said: {said}" if said else error.message
            raise SandboxError(message, hint=error.hint, code=error.code) from error
        wrong = wrong_facts(self._boot, self._worker, self._options.memory)
        if wrong:
            raise SandboxError(
                f"the process is not confined, so nothing was run: {'; '.join(wrong)}",
                hint="rlm doctor   (a container is the safer place: --sandbox docker)",
                code="boot_facts",
            )
        return client

    async def _close(self) -> None:
        await self._threads_ended()
        await self._close_streams()
        if self._process is not None:
            await asyncio.to_thread(self._process.remove)
