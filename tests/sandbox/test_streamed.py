"""Where a mount is impossible or wrong: the right bytes get in all the same, and nothing is left anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_cli.errors import SandboxError
from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.container import ContainerSpec, Engine, is_forwarded
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from rlm_cli.sandbox.image import Image
from rlm_cli.sandbox.owner import Owner
from tests.sandbox.proxy import forwarded_engine, tcp_engine
from tests.sandbox.test_container import MIB, ROOT, Doc, NoModels, opened, printed, run, write

pytestmark = pytest.mark.docker

SMALL = SandboxOptions(memory=64 * MIB)
"""In which 16 MiB are the most that goes into memory."""
NOTE = "the engine does not see these files: copying them in"


class Remote(Engine):
    """An engine that is reached as one on another machine is."""

    def is_local(self) -> bool:
        super().is_local()
        return False


class Elsewhere(Engine):
    """A local engine for which other files lie at our paths, or none."""

    def __init__(self, source: Path) -> None:
        super().__init__()
        self._source = str(source)

    def create(self, spec: ContainerSpec) -> str:
        return super().create(replace(spec, binds=tuple((self._source, target) for _, target in spec.binds)))


@pytest.fixture
def engines() -> Iterator[Callable[[Engine], Engine]]:
    """Closes the engines that it was called with."""
    with contextlib.ExitStack() as stack:

        def add(engine: Engine) -> Engine:
            stack.callback(engine.close)
            return engine

        yield add


@pytest.fixture(autouse=True)
def nothing_is_left(engine: Engine, image: Image) -> Iterator[None]:
    """After every test: no container and no volume of this process."""
    yield
    mine = str(Owner.here())
    assert [box.name for box in engine.containers() if box.owner == mine] == []
    assert [volume.name for volume in engine.volumes() if volume.owner == mine] == []


@contextlib.asynccontextmanager
async def streamed(
    docs: list[Doc], engine: Engine, options: SandboxOptions | None = None
) -> AsyncIterator[tuple[DockerSandbox, list[str]]]:
    """An opened sandbox, and what was noted on the way."""
    notes: list[str] = []
    sandbox = DockerSandbox(options or SandboxOptions(), engine=engine, on_note=notes.append)
    try:
        await sandbox.open(docs, NoModels())
        yield sandbox, notes
    finally:
        await sandbox.close()


def latin(folder: Path, size: int) -> Doc:
    """A document of random bytes that every one of is a character."""
    return replace(write(folder, "data", os.urandom(size)), encoding="latin-1")


async def digest(sandbox: DockerSandbox) -> str:
    """Of all of `context`, as the kernel reads it."""
    code = (
        "import hashlib\nd = hashlib.sha256()\n"
        "for at in range(0, len(context), 1 << 20): d.update(context[at:at + (1 << 20)].encode('latin-1'))\n"
        "print(d.hexdigest())"
    )
    return await printed(sandbox, code)


# -- the ways in


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who listens at a socket")
def test_a_socket_that_ssh_forwards_is_a_remote_engines(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hint of `engine_ssh` has it: the path of a mount would be one of another machine. The same relay under
    another name is a local engine."""
    doc = latin(tmp_path, 100)
    engine.api()
    with forwarded_engine(engine.socket_path, tmp_path) as near:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{near}")

        async def test() -> None:
            async with streamed([doc], Engine(), SMALL) as (sandbox, notes):
                assert (sandbox.info.input, notes) == ("memory", [NOTE])
                assert await digest(sandbox) == hashlib.sha256(doc.path.read_bytes()).hexdigest()

        run(test())
    with forwarded_engine(engine.socket_path, tmp_path, "relay") as near:
        assert (is_forwarded(near), is_forwarded(engine.socket_path), is_forwarded("/nowhere")) == (False, False, False)


@pytest.mark.parametrize(("size", "place"), [(3 * MIB, "memory"), (20 * MIB, "volume")])
def test_a_remote_engine_gets_a_copy(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, size: int, place: str
) -> None:
    """DOCKER_HOST=tcp://...: a small input goes into memory, a large one into a volume, each byte for byte; no mount
    of a path is ever asked for."""
    doc = latin(tmp_path, size)
    engine.api()

    async def test() -> None:
        remote = Engine()
        async with streamed([doc], remote, SMALL) as (sandbox, notes):
            found = engine.inspect(sandbox.name)
            assert found is not None
            assert [mount["Type"] for mount in found["HostConfig"].get("Mounts") or ()] == ["volume"] * (
                place != "memory"
            )
            assert (sandbox.info.input, notes) == (place, [NOTE])
            assert await digest(sandbox) == hashlib.sha256(doc.path.read_bytes()).hexdigest()
            assert await sandbox.changes() == ()
        remote.close()

    with tcp_engine(engine.socket_path) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        run(test())


def test_a_path_the_engine_does_not_have(tmp_path: Path, engines: Callable[[Engine], Engine]) -> None:
    """A folder that Docker Desktop does not share: the engine refuses, and the files are copied in. Nothing is made
    at that path."""
    doc, absent = write(tmp_path, "doc", b"hello\n"), tmp_path / "absent"

    async def test() -> None:
        async with streamed([doc], engines(Elsewhere(absent))) as (sandbox, notes):
            assert (await printed(sandbox, "print(context)"), notes, absent.exists()) == ("hello", [NOTE], False)

    run(test())


def test_another_file_at_the_path(tmp_path: Path, engines: Callable[[Engine], Engine]) -> None:
    """Same path, same size, one byte in the middle differs: the proof tells, and the right bytes are copied in."""
    data = bytearray(os.urandom(3 * MIB))
    doc = replace(write(tmp_path, "doc", bytes(data)), encoding="latin-1")
    data[(len(data) - 65536) * 4 // 9 + 1000] ^= 1
    other = write(tmp_path, "other", bytes(data))

    async def test() -> None:
        async with streamed([doc], engines(Elsewhere(other.path))) as (sandbox, notes):
            assert (await digest(sandbox), notes) == (hashlib.sha256(doc.path.read_bytes()).hexdigest(), [NOTE])

    run(test())


def test_a_path_its_user_may_not_read(tmp_path: Path, engines: Callable[[Engine], Engine]) -> None:
    """An engine that maps users otherwise (rootless): the kernel cannot open the mount, so the bytes are copied."""
    doc = write(tmp_path, "doc", b"hello\n")
    other = write(tmp_path, "other", b"hello\n", 0o600)
    if not os.geteuid():
        os.chown(other.path, 12345, 12345)

    async def test() -> None:
        async with streamed([doc], engines(Elsewhere(other.path))) as (sandbox, notes):
            assert (await printed(sandbox, "print(context)"), notes) == ("hello", [NOTE])

    run(test())


@pytest.mark.parametrize("remote", [False, True])
def test_thousands_of_documents_with_long_names(
    tmp_path: Path, engines: Callable[[Engine], Engine], remote: bool
) -> None:
    """An index of more than a megabyte is a file of its own, in the pack's folder or in the stream."""
    one = write(tmp_path, "x", b"0123456789")
    docs = [replace(one, name=f"{'n' * 250}{number}") for number in range(5000)]

    async def test() -> None:
        async with streamed(docs, engines(Remote() if remote else Engine())) as (sandbox, _):
            said = await printed(sandbox, "print(len(context), set(context.values()), list(context)[-1][-5:])")
            assert said == "5000 {'0123456789'} n4999"

    run(test())


def test_the_volume_cannot_be_written(tmp_path: Path, engines: Callable[[Engine], Engine]) -> None:
    """Model code has it read-only, and the boot facts say so."""
    doc = latin(tmp_path, 17 * MIB)
    code = """
for path in ("/in/pack", "/in/new"):
    try:
        open(path, "r+b" if path == "/in/pack" else "wb")
        print("worked")
    except OSError as error:
        print(error.strerror)
"""

    async def test() -> None:
        async with streamed([doc], engines(Remote()), SMALL) as (sandbox, _):
            said = (await printed(sandbox, code)).splitlines()
            assert (len(said), "worked" in said, said[1]) == (2, False, "Read-only file system")

    run(test())


# -- who may read


def test_a_private_file_is_mounted_for_its_owner(tmp_path: Path, engine: Engine) -> None:
    """Mode 0600: nothing is copied however large it is; the kernel runs as the owner, never as root."""
    secret = write(tmp_path, "mine.txt", b"for my eyes\n", 0o600)
    if not os.geteuid():
        os.chown(secret.path, 1000, 1000)
    owner = secret.path.stat().st_uid

    async def test() -> None:
        async with opened([secret]) as sandbox:
            found = engine.inspect(sandbox.name)
            assert found is not None
            assert found["HostConfig"]["Mounts"][0]["Source"] == str(secret.path.resolve())
            assert await printed(sandbox, "import os; print(context, os.getuid(), os.getgid())") == (
                f"for my eyes\n {owner} 65534"
            )

    run(test())
    assert secret.path.stat().st_mode & 0o777 == 0o600


def test_what_is_lent_is_private_again(tmp_path: Path) -> None:
    """A spooled pipe is mounted without a copy, and nothing but it is in the folder at the end."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    spooled = write(folder, "stdin", b"piped\n", 0o600)

    async def test() -> None:
        async with opened([spooled], folder=folder) as sandbox:
            assert await printed(sandbox, "import os; print(context, os.getuid())") == "piped\n 65534"
            assert [path.name for path in folder.iterdir()] == ["stdin"]

    run(test())
    assert spooled.path.stat().st_mode & 0o777 == 0o600


# -- what changes meanwhile


def test_a_log_that_grows_is_no_reason_to_fail(tmp_path: Path) -> None:
    """Before it is opened, while it is read, and after the worker was replaced: the text stays as long as listed."""
    doc = write(tmp_path, "app.log", b"one\n")

    def grow() -> None:
        with doc.path.open("ab") as file:
            file.write(b"more\n")

    async def test() -> None:
        grow()
        async with opened([doc]) as sandbox:
            grow()
            await sandbox.execute("import os; os._exit(1)", timeout=30)
            grow()
            assert await printed(sandbox, "print(len(context), context)") == "4 one"
            assert await sandbox.changes() == (
                "grew while it was being read: app.log; the answer is about what was there at the start",
            )

    run(test())


def test_a_file_that_is_changed_in_place_is_reported(tmp_path: Path) -> None:
    """The answer may mix old and new; a person must know."""
    doc = write(tmp_path, "app.log", b"one\n")

    async def test() -> None:
        async with opened([doc]) as sandbox:
            with doc.path.open("r+b") as file:
                file.write(b"ONE")
            assert await sandbox.changes() == (
                "changed while it was being read: app.log; the answer may mix old and new",
            )

    run(test())


# -- nothing stays behind


class Moved:
    """Set when a copy reports how far it is, which it does once it has taken a second."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.event = asyncio.Event()

    def tell(self, what: str, copied: int, total: int) -> None:
        assert what == "copying into the sandbox"
        assert 0 < copied <= total
        self._loop.call_soon_threadsafe(self.event.set)


def test_cancelled_while_streaming(tmp_path: Path, engine: Engine, engines: Callable[[Engine], Engine]) -> None:
    """Ctrl-C in the middle of a copy into a volume: the loader and the volume go."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2000 * MIB)
    doc = Doc("sparse", path, 2000 * MIB)

    async def test() -> None:
        moved = Moved()
        sandbox = DockerSandbox(SMALL, engine=engines(Remote()), on_stage=moved.tell)
        opening = asyncio.create_task(sandbox.open([doc], NoModels()))
        await moved.event.wait()
        during = [volume.name for volume in engine.volumes() if volume.name == sandbox.name]
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await sandbox.close()
        assert during == [sandbox.name]

    run(test())


def test_kill_now_while_streaming(tmp_path: Path, engines: Callable[[Engine], Engine]) -> None:
    """The second Ctrl-C needs no event loop; whoever waits is told."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2000 * MIB)

    async def test() -> None:
        moved = Moved()
        sandbox = DockerSandbox(SMALL, engine=engines(Remote()), on_stage=moved.tell)
        opening = asyncio.create_task(sandbox.open([Doc("sparse", path, 2000 * MIB)], NoModels()))
        await moved.event.wait()
        sandbox.kill_now()
        with pytest.raises(Exception, match=r"sandbox|interrupted|container"):
            await opening
        await sandbox.close()

    run(test())


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.sandbox.test_streamed import SMALL, Doc, DockerSandbox, NoModels, Remote

async def main():
    path, when = Path(sys.argv[1]), sys.argv[2]
    tell = lambda *_: when == "filling" and print(sandbox.name, flush=True)
    sandbox = DockerSandbox(SMALL, engine=Remote(), on_stage=tell)
    await sandbox.open([Doc("doc", path, path.stat().st_size)], NoModels())
    print(sandbox.name, flush=True)
    await sandbox.execute("import time; time.sleep(600)", timeout=600)

asyncio.run(main())
"""


@pytest.mark.parametrize(("when", "size"), [("filling", 2000 * MIB), ("running", 20 * MIB)])
def test_a_killed_host_leaves_no_volume(tmp_path: Path, engine: Engine, when: str, size: int) -> None:
    """SIGKILL while the volume is filled, and while a cell runs over it: the guard removes it after the container."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(size)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), when], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        before = [volume.name for volume in engine.volumes() if volume.name == name]
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert before == [name]
    deadline = time.monotonic() + 10
    while left(engine, name) and time.monotonic() < deadline:
        pass
    assert left(engine, name) == []


def left(engine: Engine, name: str) -> list[str]:
    """Containers and volumes of one sandbox."""
    found = [box.name for box in engine.containers()] + [volume.name for volume in engine.volumes()]
    return [each for each in found if each.startswith(name)]


def test_prune_removes_the_volumes_of_the_dead(engine: Engine) -> None:
    """A dead owner's volume goes; a live one's, and another machine's, stay."""
    here = Owner.here()
    owners = {"dead": replace(here, started="1"), "alive": here, "foreign": replace(here, machine="elsewhere")}
    names = {kind: f"rlm-test-volume-{kind}-{os.getpid()}" for kind in owners}
    try:
        for kind, owner in owners.items():
            engine.create_volume(names[kind], {"rlm.owner": str(owner)})
        would = [found.name for found in engine.prune(dry_run=True) if found.name in names.values()]
        engine.prune()
        stay = {found.name for found in engine.volumes() if found.name in names.values()}
        assert (would, stay) == ([names["dead"]], {names["alive"], names["foreign"]})
    finally:
        for name in names.values():
            engine.remove_volume(name)


def test_a_volume_that_cannot_be_made_is_explained(tmp_path: Path, engines: Callable[[Engine], Engine]) -> None:
    """An engine without volumes: one clear error, and no container."""

    class NoVolumes(Remote):
        def create_volume(self, name: str, labels: object) -> None:
            raise SandboxError("no volumes here", code="engine_error")

    async def test() -> None:
        with pytest.raises(SandboxError, match="no volumes here"):
            async with streamed([latin(tmp_path, 17 * MIB)], engines(NoVolumes()), SMALL):
                raise AssertionError("it was opened")

    run(test())
