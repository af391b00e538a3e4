"""The engine frozen, killed, stopped and restarted in the middle of a cell (H02, H03), the host killed at any moment
(H04). A second engine of the tests' own takes the blows; where it cannot start these tests fail.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_cli.errors import SandboxError
from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.container import ContainerFacts, ContainerSpec, Engine
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from rlm_cli.sandbox.image import Image
from rlm_cli.sandbox.owner import Owner
from rlm_cli.sandbox.profile import Profile
from rlm_cli.sandbox.stream import DockerChannel

from .dockerd import OwnEngine, image_by_id
from .proxy import tcp_engine
from .test_container import ROOT, Doc, NoModels, printed, run, write
from .test_ladder import Impatient, Tampered, pid_of, running

pytestmark = pytest.mark.docker

MIB = 1024**2


@pytest.fixture(autouse=True)
def connections_of_a_dead_engine() -> Iterator[None]:
    """What docker's client had open to an engine that was killed is closed by nobody: it goes here, and not as a
    warning in some later test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def image() -> Image:
    return image_by_id()


@pytest.fixture(scope="module")
def second(image: Image) -> Iterator[OwnEngine]:
    """The engine that takes the blows, with the image."""
    own = OwnEngine()
    try:
        own.start()
        own.take(image)
        yield own
    finally:
        own.stop()


@pytest.fixture
def own(second: OwnEngine, monkeypatch: pytest.MonkeyPatch) -> OwnEngine:
    """It, running, and where DOCKER_HOST points."""
    monkeypatch.setenv("DOCKER_HOST", second.address)
    second.start()
    return second


@pytest.fixture
def engine(own: OwnEngine) -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture
def doc(tmp_path: Path) -> Doc:
    return write(tmp_path, "doc.txt", b"hello\n")


def alive(pid: int) -> bool:
    """Whether that process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(true: object, *, seconds: float = 30.0) -> None:
    """Poll a fact that another process brings about."""
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


SLEEPS = "import time; time.sleep(600)"


# -- H02


def ask(folder: Path, image: Image) -> subprocess.Popen[bytes]:
    """The real command with its real clocks, in the middle of a cell."""
    (folder / "a.txt").write_text("hello\n")
    reply = ["```repl", "print('on', flush=True)", SLEEPS, "```"]
    (folder / "script.jsonl").write_text(json.dumps({"reply": reply}))
    return subprocess.Popen(
        [sys.executable, "-m", "rlm_cli", "ask", "a.txt", "Q", "-m", "scripted:script.jsonl", "--mode", "rlm", "--json",
         "--image", image.id],
        cwd=folder,
        env={**os.environ, "RLM_HOME": str(folder / "rlm"), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def of(engine: Engine, pid: int) -> list[ContainerFacts]:
    return [found for found in engine.containers() if f":{pid}:" in found.owner]


def test_h02_an_engine_that_freezes(own: OwnEngine, engine: Engine, tmp_path: Path, image: Image) -> None:
    """SIGSTOP of the daemon in the middle of a cell: the command ends within 30 s with its message, exit 5 and the
    container's name; once the daemon goes on, the container is gone by itself."""
    process = ask(tmp_path, image)
    try:
        until(lambda: [found for found in of(engine, process.pid) if found.state == "running"])
        name = of(engine, process.pid)[0].name
        record = tmp_path / "rlm" / "runs"
        until(lambda: any("code.written" in path.read_text() for path in record.glob("*/events.jsonl")))
        own.send(signal.SIGSTOP)
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        took = time.monotonic() - began
    finally:
        process.kill()
        own.send(signal.SIGCONT)
    result = json.loads(out)
    assert (process.returncode, result["error"]["code"]) == (5, "engine_gone"), err.decode()
    assert f"docker rm -f {name}" in result["error"]["hint"]
    assert (took < 30, b"Traceback" in err) == (True, False), took
    until(lambda: of(engine, process.pid) == [])


# -- H03, and a daemon that is stopped


def test_h03_an_engine_that_is_killed(own: OwnEngine, engine: Engine, doc: Doc, image: Image) -> None:
    """SIGKILL of the daemon: the run ends at once and by name. The container, which nobody can reach any more, ends by
    its own dead-man switch (2 s here, a minute in earnest), and the daemon that is started again has nothing left."""

    async def test() -> int:
        impatient = Tampered(Impatient)
        sandbox = DockerSandbox(SandboxOptions(image=image.id), engine=impatient)
        try:
            await sandbox.open([doc], NoModels())
            cell = await running(sandbox, SLEEPS, timeout=600)
            pid = pid_of(engine, sandbox.name)
            own.send(signal.SIGKILL)
            began = time.monotonic()
            with pytest.raises(SandboxError) as caught:
                await cell
            assert time.monotonic() - began < 5
            assert (caught.value.code, sandbox.name in caught.value.hint) == ("engine_gone", True)
            assert alive(pid)
            return pid
        finally:
            with pytest.raises(SandboxError):  # what cannot be removed is told about
                await sandbox.close()
            impatient.close()

    found: list[int] = []

    async def keep() -> None:
        found.append(await test())

    run(keep())
    until(lambda: not alive(found[0]), seconds=20)
    own.wait()
    own.start()
    until(lambda: engine.containers() == [])


def test_h03_an_engine_that_is_stopped_and_started_again(
    own: OwnEngine, engine: Engine, doc: Doc, image: Image
) -> None:
    """SIGTERM, as an upgrade does it: an error soon, nothing left, and the next run works."""

    async def lost() -> None:
        sandbox = DockerSandbox(SandboxOptions(image=image.id))
        await sandbox.open([doc], NoModels())
        cell = await running(sandbox, SLEEPS, timeout=600)
        own.send(signal.SIGTERM)
        with pytest.raises(SandboxError) as caught:
            await cell
        assert caught.value.code in {"engine_gone", "sandbox_lost"}
        with pytest.raises(SandboxError) as closing:
            await asyncio.to_thread(own.wait)
            await sandbox.close()
        assert closing.value.code == "docker_daemon_down"

    async def again() -> None:
        sandbox = DockerSandbox(SandboxOptions(image=image.id))
        await sandbox.open([doc], NoModels())
        assert await printed(sandbox, "context") == "'hello\\n'"
        await sandbox.close()

    run(lost())
    own.start()
    run(again())
    assert engine.containers() == []


# -- C10


class Gated(DockerChannel):
    """A stream that the host reads only while `gate` is open."""

    gate = threading.Event()

    def read(self) -> bytes:
        self.gate.wait()
        return super().read()


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_c10_a_host_that_does_not_read(own: OwnEngine, engine: Engine, doc: Doc, image: Image) -> None:
    """While nobody reads, a flood waits in the container and not in the engine's memory; then it goes on to the last
    byte."""
    Gated.gate.set()

    async def test() -> None:
        flood = Tampered(Gated)
        sandbox = DockerSandbox(SandboxOptions(image=image.id), engine=flood)
        await sandbox.open([doc], NoModels())
        before = resident(own.pid)
        code = "import os\nprint('on', flush=True)\nfor _ in range(200): FINAL('x' * 2**20)\nprint('end')"
        cell = asyncio.create_task(sandbox.execute(code, timeout=60))
        Gated.gate.clear()
        pid = pid_of(engine, sandbox.name)
        sent = -1
        while sent != (sent := written(pid)):  # until nothing moves any more
            await asyncio.sleep(0.5)
        during = resident(own.pid)
        assert not cell.done()
        Gated.gate.set()
        result = await cell
        assert (result.status, result.stdout.head) == ("ok", "on\nend\n")
        assert (written(pid) > 200 * MIB, sent < 64 * MIB, during - before < 64 * MIB) == (True, True, True)
        await sandbox.close()
        flood.close()

    run(test())


def written(pid: int) -> int:
    """Bytes that the supervisor has written so far."""
    found = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(found["wchar"])


# -- H04

VICTIM = """
import asyncio, sys
from pathlib import Path
from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from tests.sandbox.test_container import Doc, NoModels

async def main():
    path = Path(sys.argv[1])
    sandbox = DockerSandbox(SandboxOptions(image=sys.argv[2], memory=64 * 2**20), folder=path.parent)
    print("begins", flush=True)
    await sandbox.open([Doc("doc", path, path.stat().st_size)], NoModels())
    print("opened", flush=True)
    await sandbox.execute("while True: pass", timeout=600)

asyncio.run(main())
"""


def victim(doc: Doc, image: Image) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(doc.path), image.id],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def first_line(child: subprocess.Popen[bytes]) -> bytes:
    assert child.stdout is not None
    return child.stdout.readline()


def test_h04_a_host_that_is_killed_at_any_moment(own: OwnEngine, engine: Engine, doc: Doc, image: Image) -> None:
    """SIGKILL at twenty moments of a start, from before the container is created until a cell runs in it: soon there is
    no container, whatever state it was in."""
    with victim(doc, image) as child:  # how long a start takes here and now
        first_line(child)
        began = time.monotonic()
        assert first_line(child) == b"opened\n"
        took = time.monotonic() - began
        child.kill()
    moments = random.Random(4)
    states: set[str] = set()
    for _ in range(20):
        with victim(doc, image) as child:
            first_line(child)
            time.sleep(moments.uniform(0, 1.2 * took))
            states |= {found.state for found in of(engine, child.pid)} or {"none"}
            child.kill()
        until(lambda pid=child.pid: of(engine, pid) == [], seconds=10)
    assert "running" in states


def test_h04_a_volume_is_reaped_at_the_next_start(
    own: OwnEngine, engine: Engine, tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an engine that is elsewhere nobody watches over a volume: the next run removes it, and only it."""
    doc = write(tmp_path, "doc.txt", b"x" * 20 * MIB)
    stays = f"rlm-test-{os.getpid()}"
    engine.create_volume(stays, {"rlm.owner": str(Owner.here())})
    with tcp_engine(engine.socket_path) as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        with victim(doc, image) as child:
            first_line(child)
            assert first_line(child) == b"opened\n"
            child.kill()
        until(lambda: of(engine, child.pid) == [])
        left = [volume.name for volume in engine.volumes() if volume.orphan]
        with victim(write(tmp_path, "small.txt", b"x"), image) as child:
            first_line(child)
            assert first_line(child) == b"opened\n"
            child.kill()
    assert (len(left), [volume.name for volume in engine.volumes()]) == (1, [stays])
    engine.remove_volume(stays)


# -- H07, H08


def test_h07_h08_many_reapers_and_what_is_not_ours(own: OwnEngine, engine: Engine, image: Image) -> None:
    """Reapers that run at once, while the owner of a container lives: together they remove what is provably dead, each
    of it once, none fails; what other machines own, what has no readable owner and what only looks like ours stays."""
    here = Owner.here()
    labels = {
        "rlm-test-live": {"rlm.owner": str(here)},
        "rlm-test-dead-1": {"rlm.owner": str(replace(here, started="1"))},
        "rlm-test-dead-2": {"rlm.owner": str(replace(here, pid=2**22 + 1))},
        "rlm-test-rebooted": {"rlm.owner": str(replace(here, boot="another"))},
        "rlm-test-elsewhere": {"rlm.owner": str(replace(here, machine="another", started="1"))},
        "rlm-test-unreadable": {"rlm.owner": "me"},
        "rlm-test-unlabelled": {},
        "rlm-test-similar": {"rlm.owner.pid": str(replace(here, started="1")), "rlm.run": "x"},
    }
    for name, own_labels in labels.items():
        engine.create(ContainerSpec(name, image, Profile(), labels=own_labels))
    volumes = {name: label for name, label in labels.items() if "rlm.owner" in label}
    for name, own_labels in volumes.items():
        engine.create_volume(name, own_labels)
    dead = {"rlm-test-dead-1", "rlm-test-dead-2", "rlm-test-rebooted"}
    would = [thing.name for thing in engine.prune(dry_run=True)]
    assert sorted(would) == sorted([*dead, *dead])

    failures: list[BaseException] = []

    def reap() -> None:
        reaper = Engine()
        try:
            reaper.prune()
        except SandboxError as error:
            failures.append(error)
        finally:
            reaper.close()

    reapers = [threading.Thread(target=reap) for _ in range(4)]
    for thread in reapers:
        thread.start()
    for thread in reapers:
        thread.join()
    left = {name.lstrip("/") for found in engine.api().containers(all=True) for name in found["Names"]}
    assert (failures, left, {volume.name for volume in engine.volumes()}) == (
        [],
        set(labels) - dead,
        set(volumes) - dead,
    )
    for name in left:
        engine.remove(name)
    for volume in engine.volumes():
        engine.remove_volume(volume.name)
