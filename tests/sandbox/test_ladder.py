"""The kill ladder (SANDBOX.md 6), rung by rung: SIGINT to the worker, SIGKILL of it, another container, removal by
force, and the end of the run when the engine is gone. Real containers; fakes at the seams for what cannot be provoked.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rlm_cli.errors import SandboxError
from rlm_cli.sandbox import SandboxOptions, StepResult
from rlm_cli.sandbox.client import Patience
from rlm_cli.sandbox.container import Engine
from rlm_cli.sandbox.docker_sandbox import REPLACEMENTS, DockerSandbox
from rlm_cli.sandbox.image import Image
from rlm_cli.sandbox.kernel import supervisor
from rlm_cli.sandbox.owner import Owner
from rlm_cli.sandbox.stream import DockerChannel

from .proxy import tcp_engine
from .test_container import ROOT, Doc, NoModels, printed, run, write

pytestmark = pytest.mark.docker

MIB = 1024**2
QUICK = Patience(interrupt=0.4, pong=3.0, ping=0.2, silence=3.0)
STEADY = Patience(interrupt=0.4, pong=3.0)
"""Pings that notice nothing by themselves: only the cell's own clock does."""


@pytest.fixture
def doc(tmp_path: Path, image: Image) -> Doc:
    return write(tmp_path, "doc.txt", b"hello\n")


@asynccontextmanager
async def opened(
    doc: Doc, *, patience: Patience = STEADY, engine: Engine | None = None, options: SandboxOptions | None = None
) -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(options or SandboxOptions(), engine=engine, patience=patience)
    try:
        await sandbox.open([doc], NoModels())
        yield sandbox
    finally:
        await sandbox.close()


async def running(sandbox: DockerSandbox, code: str, *, timeout: float) -> asyncio.Task[StepResult]:
    """A cell that has printed something."""
    started = asyncio.Event()
    cell = asyncio.create_task(
        sandbox.execute(f"print('on', flush=True)\n{code}", timeout=timeout, on_output=lambda *_: started.set())
    )
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait((cell, waiting), return_when=asyncio.FIRST_COMPLETED)
    assert started.is_set()
    return cell


def pid_of(engine: Engine, name: str) -> int:
    """The container's PID 1, as this machine knows it."""
    found = engine.inspect(name)
    assert found is not None
    return int(found["State"]["Pid"])


def mine(engine: Engine) -> list[str]:
    """This process's containers."""
    return [container.name for container in engine.containers() if container.owner == str(Owner.here())]


# -- the first rung: SIGINT, and everything is kept

STOPPABLE = {
    "loop": "while True: pass",
    "sleep": "import time; time.sleep(60)",
    "regex": "import re; re.match(r'(a+)+$', 'a' * 40 + 'b')",
    "pow": "pow(7, 10**9) and None",
    "sort": "import itertools\nwhile True: sorted(range(10**6), key=lambda n: -n)",
}


def test_c11_what_a_signal_stops_keeps_its_variables(doc: Doc) -> None:
    """Past the deadline the cell is interrupted; the variables made before are there in the next one."""

    async def test() -> None:
        async with opened(doc, patience=Patience(interrupt=20.0)) as sandbox:  # on a busy machine, too
            await printed(sandbox, "kept = 7")
            found = {name: await sandbox.execute(code, timeout=0.2) for name, code in STOPPABLE.items()}
            assert {name: (result.status, result.restarted) for name, result in found.items()} == dict.fromkeys(
                STOPPABLE, ("timeout", "")
            )
            assert await printed(sandbox, "kept") == "7"

    run(test())


# -- the second rung: SIGKILL of the worker, and another one

STUBBORN = {
    "c12 C code that holds the lock": "sum(range(10**12))",
    "c12 a key derivation": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "c13 an interrupt that is swallowed": "import time\nwhile True:\n    try: time.sleep(0.01)\n"
    "    except BaseException: pass",
    "c13 a signal that is ignored": "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
}


def test_c12_c13_what_no_signal_stops_is_killed(doc: Doc, engine: Engine) -> None:
    """The worker is killed a moment after the interrupt and replaced in the same container; the model is told that its
    variables are gone and why, and what was printed is kept."""

    async def test() -> None:
        async with opened(doc) as sandbox:
            name = sandbox.name
            for code in STUBBORN.values():
                await printed(sandbox, "kept = 7")
                result = await sandbox.execute(f"print('so far', flush=True)\n{code}", timeout=0.2)
                assert (result.status, result.stdout.head) == ("timeout", "so far\n")
                assert "ran longer than 0.2 s" in result.restarted
                assert "every variable is gone" in result.restarted
                assert await printed(sandbox, "'kept' in globals(), context") == "(False, 'hello\\n')"
            assert (sandbox.name, mine(engine)) == (name, [name])

    run(test())


def test_c12_the_clocks_are_the_documented_ones() -> None:
    """Two seconds from SIGINT to SIGKILL, three without a pong to another container; and a supervisor's minute."""
    clocks = Patience()
    assert (clocks.interrupt, clocks.pong, supervisor.SILENCE) == (2.0, 3.0, 60)


def test_c13_a_signal_that_is_blocked(doc: Doc) -> None:
    """Another thread of the worker may take it, which keeps everything; if not, the worker is killed."""

    async def test() -> None:
        async with opened(doc) as sandbox:
            blocked = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nwhile True: pass"
            assert (await sandbox.execute(blocked, timeout=0.2)).status == "timeout"
            assert await printed(sandbox, "context") == "'hello\\n'"

    run(test())


def test_c13_an_exit_function_that_never_ends(doc: Doc) -> None:
    """It would run when the worker exits, which it never does by itself; a killed container asks nobody."""

    async def test() -> None:
        async with opened(doc) as sandbox:
            await printed(sandbox, "import atexit\ndef stay():\n    while True: pass\natexit.register(stay); None")
            result = await sandbox.execute("raise SystemExit", timeout=30)
            assert (result.status, result.restarted) == ("ok", "")

    run(test())


# -- the third rung: another container


def freeze(engine: Engine, name: str) -> None:
    """SIGSTOP to PID 1, which nothing inside can do."""
    os.kill(pid_of(engine, name), signal.SIGSTOP)


def pause(engine: Engine, name: str) -> None:
    """`docker pause`: all of its processes."""
    engine.api().pause(name)


@pytest.mark.parametrize("how", [freeze, pause])
def test_c14_a_supervisor_that_is_frozen_is_replaced(
    doc: Doc, engine: Engine, how: Callable[[Engine, str], None]
) -> None:
    """Neither SIGINT nor SIGKILL can be asked for any more: the container is killed, and the run goes on in a new one
    with the same input. What had been printed is kept, and the model is told."""

    async def test() -> None:
        async with opened(doc) as sandbox:
            before = sandbox.name
            cell = await running(sandbox, "while True: pass", timeout=0.5)
            await asyncio.to_thread(how, engine, before)
            result = await cell
            assert (result.status, result.stdout.head) == ("timeout", "on\n")
            assert "lost with its container: the sandbox did not stop a cell" in result.restarted
            assert sandbox.name != before
            assert mine(engine) == [sandbox.name]
            assert await printed(sandbox, "context") == "'hello\\n'"

    run(test())


def test_c14_silence_is_noticed_before_the_deadline(doc: Doc, engine: Engine) -> None:
    """Pings that nobody answers are enough; so they are between two cells, and then the next result says it."""

    async def test() -> None:
        async with opened(doc, patience=QUICK) as sandbox:
            cell = await running(sandbox, "import time; time.sleep(600)", timeout=600)
            freeze(engine, sandbox.name)
            result = await cell
            assert (result.status, "the sandbox stopped answering" in result.restarted) == ("died", True)
            await printed(sandbox, "kept = 7")
            freeze(engine, sandbox.name)
            client = sandbox._client
            assert client is not None
            while client.failure is None:
                await asyncio.sleep(0.05)
            result = await sandbox.execute("print(context)", timeout=30)
            assert (result.status, result.stdout.head) == ("ok", "hello\n\n")
            assert result.restarted.startswith("Before this cell, the container was lost: the sandbox stopped")
            assert mine(engine) == [sandbox.name]

    run(test())


@pytest.mark.parametrize(("place", "size"), [("memory", 6), ("volume", 20 * MIB)])
def test_c14_a_streamed_input_is_there_again(
    tmp_path: Path, engine: Engine, image: Image, monkeypatch: pytest.MonkeyPatch, place: str, size: int
) -> None:
    """On an engine that is elsewhere the input is streamed once more, or its volume is mounted once more."""
    doc = write(tmp_path, "doc.txt", b"x" * size)
    engine.is_local()

    async def test() -> None:
        with tcp_engine(engine.socket_path) as address:
            monkeypatch.setenv("DOCKER_HOST", address)
            options = SandboxOptions(memory=64 * MIB)
            async with opened(doc, patience=QUICK, options=options) as sandbox:
                assert sandbox.info.input == place
                cell = await running(sandbox, "import time; time.sleep(600)", timeout=600)
                freeze(engine, sandbox.name)
                assert "every variable is gone" in (await cell).restarted
                assert await printed(sandbox, "len(context)") == str(size)
                assert [each for each in mine(engine) if "loader" not in each] == [sandbox.name]

    run(test())


class Tampered(Engine):
    """An engine whose streams go through `channel`."""

    def __init__(self, channel: Callable[[Any], DockerChannel]) -> None:
        super().__init__()
        self._channel = channel

    def attach(self, container: str) -> DockerChannel:
        return self._channel(super().attach(container)._attached)


class Garbled(DockerChannel):
    """A stream that a cell's word turns into garbage."""

    def read(self) -> bytes:
        data = super().read()
        return b"?\xff\xff\xff\xff" if b"GARBLE" in data else data


def test_c14_a_garbled_stream_costs_a_container_and_not_the_run(doc: Doc, engine: Engine) -> None:
    """The outer frames cannot be trusted any more: another container; but one that fails again and again ends it."""

    async def test() -> None:
        own = Tampered(Garbled)
        async with opened(doc, engine=own) as sandbox:
            for _ in range(REPLACEMENTS):
                result = await sandbox.execute("print('GARBLE')", timeout=30)
                assert (result.status, "broke the protocol" in result.restarted) == ("died", True)
                assert await printed(sandbox, "1") == "1"
            with pytest.raises(SandboxError, match="broke the protocol"):
                await sandbox.execute("print('GARBLE')", timeout=30)
        own.close()
        assert mine(engine) == []

    run(test())


def test_g11_an_input_that_changed_before_another_container_came(doc: Doc, engine: Engine) -> None:
    """It is not run on other bytes than the run began with, and the message does not say that nothing was run."""

    async def test() -> None:
        own = Tampered(Garbled)
        async with opened(doc, engine=own) as sandbox:
            result = await sandbox.execute("print('GARBLE')", timeout=30)
            assert (result.status, await printed(sandbox, "context")) == ("died", "'hello\\n'")
            doc.path.write_bytes(b"HELLO\n")
            with pytest.raises(SandboxError) as caught:
                await sandbox.execute("print('GARBLE')", timeout=30)
            assert (caught.value.code, "input changed" in caught.value.message) == ("input_changed", True)
        own.close()
        assert mine(engine) == []

    run(test())


# -- the fourth rung: removal by force; and the last


class Unwilling(Engine):
    """An engine that does not kill, for the reason given."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self._code = code
        self.removed: list[str] = []

    def kill(self, container: str, *, patience: float) -> None:
        raise SandboxError("no", hint="none", code=self._code)

    def remove(self, container: str, *, patience: float = 10.0) -> None:
        self.removed.append(container)
        super().remove(container, patience=patience)


def test_what_cannot_be_killed_is_removed_by_force(doc: Doc, engine: Engine) -> None:
    """`docker kill` fails or its container does not end: `docker rm -f`, and the run goes on."""

    async def test() -> None:
        own = Unwilling("container_stuck")
        async with opened(doc, engine=own) as sandbox:
            before = sandbox.name
            cell = await running(sandbox, "while True: pass", timeout=0.3)
            freeze(engine, before)
            await cell
            assert own.removed == [before]
            assert await printed(sandbox, "1") == "1"
        own.close()
        assert mine(engine) == []

    run(test())


def test_an_engine_that_is_gone_ends_the_run_by_name(doc: Doc, engine: Engine) -> None:
    """Nobody can kill or remove it: the error has the container's name, what becomes of it, and the command."""

    async def test() -> None:
        own = Unwilling("engine_timeout")
        async with opened(doc, engine=own) as sandbox:
            cell = await running(sandbox, "while True: pass", timeout=0.3)
            freeze(engine, sandbox.name)
            with pytest.raises(SandboxError) as caught:
                await cell
            assert caught.value.code == "engine_gone"
            assert f"docker rm -f {sandbox.name}" in caught.value.hint
            with pytest.raises(SandboxError):
                await sandbox.execute("1", timeout=1)
        own.close()
        assert mine(engine) == []

    run(test())


@pytest.mark.parametrize("how", ["kill", "remove"])
def test_h06_a_container_that_a_third_party_ends(doc: Doc, engine: Engine, how: str) -> None:
    """`docker kill` and `docker rm -f` by somebody else are a decision: one clear error, no new container."""

    async def test() -> None:
        async with opened(doc) as sandbox:
            cell = await running(sandbox, "import time; time.sleep(600)", timeout=600)
            end = engine.remove if how == "remove" else engine.api().kill
            await asyncio.to_thread(end, sandbox.name)
            with pytest.raises(SandboxError, match="stopped or removed from outside") as caught:
                await cell
            assert (caught.value.code, sandbox.name in caught.value.message) == ("sandbox_lost", True)
            while mine(engine):  # the engine is removing it
                await asyncio.sleep(0.05)

    run(test())


# -- H09: the host sleeps


class Impatient(DockerChannel):
    """A stream to a kernel whose supervisor takes a host for dead after 2 s, and not after a minute."""

    def write(self, data: bytes) -> None:
        said = f"SILENCE = {supervisor.SILENCE}".encode()
        super().write(data.replace(said, b"SILENCE = 2".ljust(len(said))))


SLEEPER = """
import asyncio, sys
from pathlib import Path
from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from tests.sandbox.test_container import Doc, NoModels
from tests.sandbox.test_ladder import Impatient, Tampered

async def main():
    path = Path(sys.argv[1])
    sandbox = DockerSandbox(SandboxOptions(), engine=Tampered(Impatient))
    await sandbox.open([Doc("doc", path, path.stat().st_size)], NoModels())
    told = lambda *_: print(sandbox.name, flush=True)
    code = "print('on', flush=True)\\nimport time; time.sleep(600)"
    result = await sandbox.execute(code, timeout=600, on_output=told)
    print(result.status, result.restarted, flush=True)
    print((await sandbox.execute("print(context)", timeout=30)).stdout.head, flush=True)
    await sandbox.close()

asyncio.run(main())
"""


def test_h09_a_host_that_was_stopped_goes_on_in_a_new_container(doc: Doc, engine: Engine) -> None:
    """SIGSTOP of rlm for longer than the supervisor waits: the container ends by itself, busy as it is (the dead-man
    switch). After SIGCONT the cell's result says so, and the next cell works; no container is left."""
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(doc.path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        try:
            assert child.stdout is not None
            name = child.stdout.readline().strip()
            assert pid_of(engine, name)
            child.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 40
            while engine.inspect(name) is not None and time.monotonic() < deadline:
                time.sleep(0.1)
            assert engine.inspect(name) is None
            child.send_signal(signal.SIGCONT)
            said = child.stdout.read()
        finally:
            child.kill()
    assert said.startswith("died The cell was lost with its container: it had no word from here for a minute"), said
    assert said.endswith("hello\n\n\n")
    assert [each for each in engine.containers() if f":{child.pid}:" in each.owner] == []


def test_h09_a_short_stop_changes_nothing(doc: Doc, engine: Engine) -> None:
    """The host's clock jumps on: it does not take that for the container's silence, and state is kept."""

    async def test() -> None:
        async with opened(doc, patience=Patience(ping=0.05, silence=2.0)) as sandbox:
            name = sandbox.name
            await printed(sandbox, "kept = 7")
            held = threading.Event()
            held.wait(3.0)  # on purpose: this holds up the loop for longer than the silence that is allowed
            await asyncio.sleep(0.2)
            assert (await printed(sandbox, "kept"), sandbox.name) == ("7", name)

    run(test())
