"""The container for real: locked as asked, refused when it is not, sees our bytes, and never stays behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rlm_cli.errors import SandboxError
from rlm_cli.sandbox import SandboxOptions, StepResult, SubCall, SubReply
from rlm_cli.sandbox.container import ContainerSpec, Engine
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from rlm_cli.sandbox.image import Image
from rlm_cli.sandbox.owner import Owner
from rlm_cli.sandbox.profile import Profile

pytestmark = pytest.mark.docker

MIB = 1024**2
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Doc:
    name: str
    path: Path
    size: int
    encoding: str = "auto"


class NoModels:
    """A `Host` for cells that call nobody."""

    async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
        raise AssertionError("no sub-call was expected")

    schema = ""

    def progress(self, done: int, total: int | None) -> None:
        pass

    def budget(self) -> Mapping[str, float | int | None]:
        return {}


def write(folder: Path, name: str, data: bytes, mode: int = 0o644) -> Doc:
    path = folder / name
    path.write_bytes(data)
    path.chmod(mode)
    return Doc(name, path, len(data))


@asynccontextmanager
async def opened(
    docs: list[Doc],
    *,
    engine: Engine | None = None,
    options: SandboxOptions | None = None,
    folder: Path | None = None,
    text_limit: int = 8 * MIB,
) -> AsyncIterator[DockerSandbox]:
    """A sandbox with `docs` attached, closed whatever happens."""
    sandbox = DockerSandbox(options or SandboxOptions(), engine=engine, folder=folder, text_limit=text_limit)
    try:
        await sandbox.open(docs, NoModels())
        yield sandbox
    finally:
        await sandbox.close()


async def printed(sandbox: DockerSandbox, code: str) -> str:
    """What a cell that must succeed prints."""
    result: StepResult = await sandbox.execute(code, timeout=30)
    assert (result.status, result.error) == ("ok", "")
    return result.stdout.head.strip()


def run(test: Coroutine[None, None, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(bounded())


@pytest.fixture
def doc(tmp_path: Path, image: Image) -> Doc:
    """One small readable document (and proof that there is an image to run)."""
    return write(tmp_path, "doc.txt", b"hello\n")


Closing = Callable[[Engine], Engine]


@pytest.fixture
def closing() -> Iterator[Closing]:
    """Closes the engines that it was called with."""
    engines: list[Engine] = []

    def add(engine: Engine) -> Engine:
        engines.append(engine)
        return engine

    yield add
    for engine in engines:
        engine.close()


def ours(engine: Engine, name: str) -> list[str]:
    return [container.name for container in engine.containers() if container.name == name]


# -- locked down


def test_the_engine_holds_the_profile(doc: Doc, engine: Engine) -> None:
    """Every flag of the profile, as the engine itself records it."""

    async def test() -> None:
        options = SandboxOptions(memory=256 * MIB, cpus=1.0, run_id="r1", labels={"mine": "yes"})
        async with opened([doc], options=options) as sandbox:
            found = engine.inspect(sandbox.name)
        assert found is not None
        host, config = found["HostConfig"], found["Config"]
        assert {key: host[key] for key in WANTED_HOST} == WANTED_HOST
        assert {key: config[key] for key in WANTED_CONFIG} == WANTED_CONFIG
        assert host["Mounts"] == [
            {"Type": "bind", "Source": str(doc.path.resolve()), "Target": "/in/0", "ReadOnly": True}
        ]
        labels = config["Labels"]
        assert (labels["rlm.run"], labels["mine"], labels["rlm.owner"]) == ("r1", "yes", str(Owner.here()))

    run(test())


WANTED_HOST = {
    "NetworkMode": "none",
    "ReadonlyRootfs": True,
    "Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=268435456,mode=1777"},
    "IpcMode": "private",
    "ShmSize": 64 * MIB,
    "CapAdd": None,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["label=disable", "no-new-privileges"],
    "Memory": 256 * MIB,
    "MemorySwap": 256 * MIB,
    "OomScoreAdj": 500,
    "NanoCpus": 10**9,
    "PidsLimit": 128,
    "Ulimits": [{"Name": "nofile", "Hard": 1024, "Soft": 1024}, {"Name": "core", "Hard": 0, "Soft": 0}],
    "LogConfig": {"Type": "none", "Config": {}},
    "AutoRemove": True,
    "Privileged": False,
    "PidMode": "",
    "Binds": None,
    "Devices": None,
}
WANTED_CONFIG = {
    "User": "65534:65534",
    "Hostname": "sandbox",
    "WorkingDir": "/tmp",
    "StopSignal": "SIGKILL",
    "Entrypoint": ["python3"],
    "Tty": False,
    "StdinOnce": True,
    "Healthcheck": {"Test": ["NONE"]},
}

PROBE = """
import errno, os, socket
def attempt(what):
    try:
        what()
        return "worked"
    except OSError as error:
        return errno.errorcode[error.errno]
print(attempt(lambda: socket.create_connection(("127.0.0.1", 1), 1)))
print(attempt(lambda: socket.create_connection(("192.0.2.1", 80), 1)))
print(attempt(lambda: open("/planted", "w")))
print(attempt(lambda: open("/in/0", "r+b")))
print(attempt(lambda: os.remove("/in/0")))
print(attempt(lambda: os.setuid(0)))
print(os.getuid(), os.getgid(), attempt(lambda: open("/tmp/mine", "w").close()))
"""


def test_nothing_can_be_reached_or_written(doc: Doc) -> None:
    """No network, a read-only root and input, nobody's user; /tmp works, which shows that the probe can succeed.
    The document is one that everybody may write, so that only the mount is in the way."""
    doc.path.chmod(0o666)

    async def test() -> None:
        async with opened([doc]) as sandbox:
            assert (await printed(sandbox, PROBE)).splitlines() == [
                "EAFNOSUPPORT",
                "EAFNOSUPPORT",
                "EROFS",
                "EROFS",
                "EROFS",
                "EPERM",
                "65534 65534 worked",
            ]

    run(test())


def test_the_environment_is_four_names(doc: Doc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the host's variables nor a proxy's password from Docker's configuration get in."""
    home = tmp_path / "docker"
    home.mkdir()
    proxies = {"default": {"httpProxy": "http://user:hunter2@proxy:3128", "noProxy": "localhost"}}
    (home / "config.json").write_text(json.dumps({"proxies": proxies}))
    monkeypatch.setenv("DOCKER_CONFIG", str(home))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-honey")

    async def test() -> None:
        async with opened([doc]) as sandbox:
            found = await printed(sandbox, "import os; print(sorted(os.environ.items()))")
        assert found == str(
            [
                ("HOME", "/tmp"),
                ("HOSTNAME", "sandbox"),
                ("LANG", "C.UTF-8"),
                ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ]
        )

    run(test())


class Weakened(Engine):
    """An engine that silently gives a container other settings than it was asked for."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self._settings = settings

    def create(self, spec: ContainerSpec) -> str:
        return super().create(replace(spec, profile=replace(spec.profile, **self._settings)))  # type: ignore[arg-type]


def refusing(option: int) -> str:
    """A filter of the engine's that lets everything pass but one option of prctl."""
    chosen = {"index": 0, "value": option, "op": "SCMP_CMP_EQ"}
    rule = {"names": ["prctl"], "action": "SCMP_ACT_ERRNO", "args": [chosen]}
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seccomp": refusing(4)}, "its supervisor can be looked into"),  # PR_SET_DUMPABLE
        ({"seccomp": refusing(22)}, "its own system call filter is not active .seccomp: Operation not"),
        ({"network": "bridge"}, "it has a network"),
        ({"user": "0:0"}, "its user is root"),
        ({"user": "0:0", "cap_drop": ()}, "it has capabilities"),
        ({"read_only": False}, "its root file system can be written"),
        ({"no_new_privileges": False}, "it may gain privileges"),
        ({"memory": 3 * 1024 * MIB}, "memory is limited to"),
        ({"pids": -1}, "the number of processes is not limited"),
        ({"pids": 4000}, "the number of processes is limited to 4000"),
    ],
)
def test_a_container_that_is_not_locked_is_refused(
    doc: Doc, closing: Closing, settings: dict[str, object], named: str
) -> None:
    """The boot facts are read back, and the wrong one is named before any code runs."""

    async def test() -> None:
        sandbox = DockerSandbox(SandboxOptions(), engine=closing(Weakened(**settings)))
        with pytest.raises(SandboxError, match=named) as caught:
            await sandbox.open([doc], NoModels())
        await sandbox.close()
        assert caught.value.code == "boot_facts"

    run(test())


# -- the same bytes


def test_mounted_documents_are_read_byte_for_byte(tmp_path: Path, image: Image) -> None:
    """Any bytes, any path the engine can be told: spaces, commas, colons, quotes, newlines, escapes."""
    names = ["a b,c:d", 'q"uote', "new\nline", "esc\x1b[2J", "-rf", "ünïcode", "empty"]
    docs = [write(tmp_path, name, b"" if name == "empty" else os.urandom(70_000 + n)) for n, name in enumerate(names)]

    async def test() -> None:
        async with opened(docs) as sandbox:
            found = await printed(sandbox, DIGESTS.format(files=[str(n) for n in range(len(docs))]))
            listed = await printed(sandbox, "print(list(context) == " + repr([doc.name for doc in docs]) + ")")
        assert found.split() == [hashlib.sha256(doc.path.read_bytes()).hexdigest() for doc in docs]
        assert listed == "True"

    run(test())


DIGESTS = """
import hashlib
for file in {files}:
    print(hashlib.sha256(open("/in/" + file, "rb").read()).hexdigest())
"""


def test_packed_documents_are_read_byte_for_byte(tmp_path: Path, image: Image) -> None:
    """Many documents, private and empty ones among them, arrive whole through the pack, which goes away at the end."""
    docs = [
        write(tmp_path, f"{n:02}.txt", f"document {n}\n".encode() * (n * 100), 0o600 if n % 2 else 0o644)
        for n in range(40)
    ]
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)

    async def test() -> None:
        async with opened(docs, folder=folder) as sandbox:
            found = await printed(
                sandbox,
                "import hashlib\nfor name in context:\n"
                "    print(name, hashlib.sha256(str(context[name][:]).encode()).hexdigest())",
            )
            during = list(folder.iterdir())
        assert dict(line.split() for line in found.splitlines()) == {
            doc.name: hashlib.sha256(doc.path.read_bytes()).hexdigest() for doc in docs
        }
        assert (len(during), list(folder.iterdir())) == (1, [])

    run(test())


def test_a_private_file_of_the_users_can_be_read(tmp_path: Path, image: Image) -> None:
    """Mode 0600: the kernel's user may not read it, so a copy goes in; the file itself keeps its mode."""
    secret = write(tmp_path, "mine.txt", b"for my eyes\n", 0o600)

    async def test() -> None:
        async with opened([secret]) as sandbox:
            assert await printed(sandbox, "print(context)") == "for my eyes"

    run(test())
    assert secret.path.stat().st_mode & 0o777 == 0o600


# -- nothing stays behind


def test_close_leaves_nothing_and_may_be_called_again(doc: Doc, engine: Engine) -> None:
    """Also from two places at once, and before anything was opened."""

    async def test() -> None:
        untouched = DockerSandbox(SandboxOptions())
        await untouched.close()
        async with opened([doc]) as sandbox:
            assert ours(engine, sandbox.name) == [sandbox.name]
            await asyncio.gather(sandbox.close(), sandbox.close())
        assert engine.inspect(sandbox.name) is None
        with pytest.raises(SandboxError):
            await sandbox.execute("1", timeout=1)

    run(test())


def test_close_while_a_cell_runs(doc: Doc, engine: Engine) -> None:
    """A busy kernel is removed like an idle one, and whoever waits for the cell is told."""

    async def test() -> None:
        async with opened([doc]) as sandbox:
            started = asyncio.Event()
            cell = asyncio.create_task(
                sandbox.execute(
                    "print('on', flush=True)\nwhile True: pass", timeout=600, on_output=lambda *_: started.set()
                )
            )
            await started.wait()
            await sandbox.close()
            assert engine.inspect(sandbox.name) is None
            with pytest.raises(SandboxError):
                await cell

    run(test())


def test_a_container_that_somebody_removes(doc: Doc, engine: Engine) -> None:
    """`docker rm -f` by a third party while a cell runs: one clear error, and closing is still fine."""

    async def test() -> None:
        async with opened([doc]) as sandbox:
            started = asyncio.Event()
            cell = asyncio.create_task(
                sandbox.execute(BUSY["sleeping"], timeout=600, on_output=lambda *_: started.set())
            )
            await started.wait()
            await asyncio.to_thread(engine.remove, sandbox.name)
            with pytest.raises(SandboxError) as caught:
                await cell
            assert caught.value.code == "sandbox_lost"

    run(test())


class Slow(Engine):
    """Calls back at one step of the launch, on the launching thread."""

    def __init__(self, step: str, at: Callable[[], object]) -> None:
        super().__init__()
        self._step = step
        self._at = at

    def create(self, spec: ContainerSpec) -> str:
        created = super().create(spec)
        if self._step == "created":
            self._at()
        return created

    def start(self, container: str) -> None:
        super().start(container)
        if self._step == "started":
            self._at()

    def find_image(self, name: str) -> Image | None:
        if self._step == "before":
            self._at()
        return super().find_image(name)


@pytest.mark.parametrize("step", ["before", "created", "started"])
def test_cancelled_while_it_starts(doc: Doc, engine: Engine, closing: Closing, step: str) -> None:
    """Ctrl-C at any step of the start: the thread that creates the container cannot be stopped, but is waited for."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        opening: list[asyncio.Task[object]] = []
        slow = closing(Slow(step, lambda: loop.call_soon_threadsafe(opening[0].cancel)))
        sandbox = DockerSandbox(SandboxOptions(), engine=slow)
        opening.append(asyncio.create_task(sandbox.open([doc], NoModels())))
        with pytest.raises(asyncio.CancelledError):
            await opening[0]
        await sandbox.close()
        assert ours(engine, sandbox.name) == []

    run(test())


def test_kill_now_needs_no_event_loop(doc: Doc, engine: Engine) -> None:
    """The second Ctrl-C: synchronous, from any thread, and `close` afterwards is harmless."""

    async def test() -> None:
        async with opened([doc]) as sandbox:
            sandbox.kill_now()
            assert engine.inspect(sandbox.name) is None

    run(test())


CHILD = """
import asyncio, sys, time
from pathlib import Path
from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.container import Engine
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from tests.sandbox.test_container import Doc, NoModels

class Stuck(Engine):
    def create(self, spec):
        super().create(spec)
        print(spec.name, flush=True)
        time.sleep(600)

async def main():
    path, code = Path(sys.argv[1]), sys.argv[2]
    sandbox = DockerSandbox(SandboxOptions(), engine=Engine() if code else Stuck())
    await sandbox.open([Doc("doc", path, path.stat().st_size)], NoModels())
    await sandbox.execute(code, timeout=600, on_output=lambda *_: print(sandbox.name, flush=True))

asyncio.run(main())
"""

BUSY = {
    "sleeping": "print('on', flush=True)\nimport time; time.sleep(600)",
    "looping": "print('on', flush=True)\nwhile True: pass",
    "holding the lock": "print('on', flush=True)\nsum(range(10**12))",
}


@pytest.mark.parametrize(("state", "code"), [("created", ""), *(("running", code) for code in BUSY.values())])
def test_a_killed_host_leaves_no_container(doc: Doc, engine: Engine, state: str, code: str) -> None:
    """SIGKILL gives us no chance to clean up. A running kernel ends with its input, whatever its cell is doing; a
    container that was created and not yet started is removed by its guard."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(doc.path), code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        before = engine.inspect(name)
        child.send_signal(signal.SIGKILL)
        child.wait()
    deadline = time.monotonic() + 2
    while engine.inspect(name) is not None and time.monotonic() < deadline:
        pass
    assert (before and before["State"]["Status"], engine.inspect(name)) == (state, None)


@pytest.fixture
def litter(engine: Engine) -> Iterator[list[str]]:
    """Containers to remove after a test, by name."""
    names: list[str] = []
    yield names
    for name in names:
        engine.remove(name)


def test_prune_removes_only_what_is_provably_dead(engine: Engine, image: Image, litter: list[str]) -> None:
    """A dead owner's container goes, even one that was never started; a live one's, and a foreign one, stay."""
    here = Owner.here()
    owners = {
        "dead": replace(here, started="1"),
        "alive": here,
        "foreign": replace(here, machine="elsewhere", boot="x"),
    }
    names = {kind: f"rlm-test-{kind}-{os.getpid()}" for kind in owners}
    litter += names.values()
    for kind, owner in owners.items():
        engine.create(ContainerSpec(names[kind], image, Profile(), labels={"rlm.owner": str(owner)}))
    would = [c.name for c in engine.prune(dry_run=True) if c.name in litter]
    kept = [c.name for c in engine.containers() if c.name in litter]
    engine.prune()
    left = {c.name for c in engine.containers() if c.name in litter}
    assert (would, len(kept), left) == ([names["dead"]], 3, {names["alive"], names["foreign"]})


def test_an_interrupted_cell_returns_what_it_did(doc: Doc) -> None:
    """The run's time is up: the output so far and the answer arrive, and the container goes on."""

    async def test() -> None:
        async with opened([doc]) as sandbox:
            seen = asyncio.Event()
            code = "FINAL('so far')\nprint('started')\nwhile True: pass"
            cell = asyncio.create_task(sandbox.execute(code, timeout=30, on_output=lambda *_: seen.set()))
            await seen.wait()
            sandbox.interrupt()
            result = await cell
            assert (result.status, result.stdout.head) == ("interrupted", "started\n")
            assert result.answer is not None
            assert (result.answer.data, await printed(sandbox, "print(1)")) == (b"so far", "1")

    run(test())


# -- what a person is told


def test_an_image_without_python_is_named(doc: Doc, engine: Engine, tmp_path: Path) -> None:
    """A custom image must have python3; the message says so instead of an OCI error."""
    import tarfile

    import docker

    name = f"rlm-test-empty:{os.getpid()}"
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("etc"))
    engine.import_image(tmp_path / "root.tar", name, changes=())

    async def test() -> None:
        sandbox = DockerSandbox(SandboxOptions(image=name, pull="never"))
        with pytest.raises(SandboxError, match="python3") as caught:
            await sandbox.open([doc], NoModels())
        await sandbox.close()
        assert (caught.value.code, ours(engine, sandbox.name)) == ("image_no_python", [])

    client = docker.from_env()
    try:
        run(test())
    finally:
        client.images.remove(name)
        client.close()


def test_a_missing_image_is_named(doc: Doc) -> None:
    """With pull=never nothing is fetched; the message has the name and what to type."""

    async def test() -> None:
        sandbox = DockerSandbox(SandboxOptions(image="rlm-test-no-such:1", pull="never"))
        with pytest.raises(SandboxError, match="rlm-test-no-such:1 is not here") as caught:
            await sandbox.open([doc], NoModels())
        await sandbox.close()
        assert (caught.value.code, "docker pull rlm-test-no-such:1" in caught.value.hint) == ("image_missing", True)

    run(test())


def test_a_registry_that_cannot_be_reached(engine: Engine) -> None:
    """A closed port on the loopback stands for it: the code tells it from a wrong name, and the hint is to build."""
    with pytest.raises(SandboxError) as caught:
        engine.pull_image("127.0.0.1:1/rlm-test/none:1")
    assert (caught.value.code, "rlm sandbox build" in caught.value.hint) == ("registry_unreachable", True)


def test_a_limit_the_engine_refuses_is_explained(engine: Engine, image: Image) -> None:
    """More CPUs than the machine has is a refusal with a way out."""
    with pytest.raises(SandboxError) as caught:
        engine.create(ContainerSpec("rlm-test-greedy", image, Profile(cpus=100_000)))
    assert (caught.value.code, "sandbox.cpus" in caught.value.hint) == ("limit_refused", True)


# -- a text larger than the memory


@pytest.fixture
def hollow(tmp_path: Path, image: Image) -> Doc:
    """One line of 512 MiB that takes no room on the disk."""
    doc = write(tmp_path, "hollow.txt", b"")
    os.truncate(doc.path, 512 * MIB)
    return replace(doc, size=512 * MIB)


def test_a_cell_that_takes_too_much_keeps_its_variables(hollow: Doc) -> None:
    """It gets an error to learn from instead of losing the worker, which happens only where the guard is taken away."""

    async def test() -> None:
        async with opened([hollow], options=SandboxOptions(memory=128 * MIB)) as sandbox:
            assert await printed(sandbox, "kept = 7; type(context).__name__") == "'Text'"
            for greedy in ("x = list(context)", "''.join(context)", "sorted(context)", "x = bytearray(10**9)"):
                result = await sandbox.execute(greedy, timeout=30)
                assert (result.status, result.restarted) == ("error", "")
                assert (
                    "MemoryError\n[kernel] Out of memory (a cell may have 109 MB). Variables are kept." in result.error
                )
            result = await sandbox.execute("rows = []\nwhile True: rows.append(bytearray(2**20))", timeout=30)
            assert "[kernel] The largest variables, which `del` would free: rows (list, " in result.error
            assert await printed(sandbox, "rows[0] = 'x'; 50 < len(rows) < 110, kept") == "(True, 7)"
            assert (await sandbox.execute("more = bytearray(2**26)", timeout=30)).status == "error"
            assert (
                await printed(sandbox, "del rows; more = [bytearray(2**20) for _ in range(64)]; len(more), kept")
                == "(64, 7)"
            )
            unguarded = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)); x = list(context)"
            assert "memory" in (await sandbox.execute(unguarded, timeout=30)).restarted
            assert (await sandbox.execute("kept", timeout=30)).error.endswith("NameError: name 'kept' is not defined")

    run(test())


def test_threads_and_children_work_in_little_memory(hollow: Doc) -> None:
    """The guard leaves room for a pool of threads, forked workers and a subprocess."""

    async def test() -> None:
        async with opened([hollow], options=SandboxOptions(memory=128 * MIB)) as sandbox:
            threads = "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(64) as pool:\n"
            threads += (
                "    print(sum(pool.map(lambda at: context.count('\\0', at, at + 2**16), range(0, 2**24, 2**16))))"
            )
            assert await printed(sandbox, threads) == str(2**24)
            forks = "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(4) as pool:\n"
            assert await printed(sandbox, forks + "    print(pool.map(len, ['a', 'bc']))") == "[1, 2]"
            child = "import subprocess, sys; subprocess.check_output([sys.executable, '-c', 'print(1 + 1)'])"
            assert await printed(sandbox, child) == "b'2\\n'"

    run(test())


def test_one_line_that_is_larger_than_the_memory(hollow: Doc) -> None:
    """Going through the lines gives it as a Text; everything that looks at parts works."""

    async def test() -> None:
        async with opened([hollow], options=SandboxOptions(memory=128 * MIB)) as sandbox:
            lines = "[(type(line).__name__, len(line), line[-3:]) for line in context.splitlines()]"
            assert await printed(sandbox, lines) == "[('Text', 536870912, '\\x00\\x00\\x00')]"
            assert (
                await printed(sandbox, "len(context), context.count('\\0'), context.find('a')")
                == "(536870912, 536870912, -1)"
            )
            assert (
                await printed(sandbox, "sum(map(len, chunks(context, 2**20))), grep('a')[:]")
                == "(536870912, <0 matching lines>)"
            )
            assert await printed(sandbox, "context[2**28:][5:8], context[-1], context.split('b')[0][7]") == (
                "('\\x00\\x00\\x00', '\\x00', '\\x00')"
            )

    run(test())
