"""Podman through its Docker-compatible service: a real one, of the tests' own, with its storage in a folder of theirs.
Where Podman is missing these tests fail, and `.ci/run` installs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_cli.errors import SandboxError
from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.container import Engine
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from rlm_cli.sandbox.image import Image

from .dockerd import copy_image, image_by_id
from .test_container import PROBE, ROOT, NoModels, printed, run, write
from .test_engine_faults import of, until
from .test_ladder import STEADY, pid_of, running

pytestmark = pytest.mark.docker


class Podman:
    """`podman system service`, and its storage."""

    def __init__(self) -> None:
        if not shutil.which("podman"):
            pytest.fail("Podman is not installed: apt-get install -y podman")
        # A short name: a socket's has room for 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="rlm-podman-", dir="/var/tmp"))
        self.address = f"unix://{self.folder}/sock"
        self._log = (self.folder / "log").open("wb")
        self._service = subprocess.Popen(
            [*self._command, "system", "service", "-t", "0", self.address],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            until((self.folder / "sock").exists)
        except AssertionError as late:
            raise AssertionError((self.folder / "log").read_text()[-2000:]) from late

    @property
    def _command(self) -> list[str]:
        places = [f"--{name}={self.folder}/{name}" for name in ("root", "runroot", "tmpdir")]
        return ["podman", *places]

    def take(self, image: Image) -> None:
        """Copy an image from the machine's Docker."""
        copy_image(image, self.address)

    def stop(self) -> None:
        self._service.terminate()
        self._service.wait(30)
        self._log.close()
        subprocess.run([*self._command, "rm", "-af"], check=False, capture_output=True, timeout=60)
        subprocess.run([*self._command, "unshare", "true"], check=False, capture_output=True, timeout=60)
        subprocess.run(["umount", "-l", self.folder / "root" / "overlay"], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def image() -> Image:
    return image_by_id()


@pytest.fixture(scope="module")
def podman(image: Image) -> Iterator[Podman]:
    service = Podman()
    try:
        service.take(image)
        yield service
    finally:
        service.stop()


@pytest.fixture
def engine(podman: Podman) -> Iterator[Engine]:
    engine = Engine(runtime="podman", podman=("unix:///nonexistent", podman.address))
    yield engine
    engine.close()


def test_podman_answers_a_question(podman: Podman, engine: Engine, tmp_path: Path, image: Image) -> None:
    """The real command with --sandbox podman: the answer, where it ran, and nothing left."""
    (tmp_path / "a.txt").write_text("one\ncode=BLUE\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "rlm_cli", "ask", "a.txt", "What is the code?", "-m", "offline", "--mode", "rlm",
         "--json", "--sandbox", "podman", "--image", image.id],
        cwd=tmp_path,
        env=os.environ
        | {"RLM_HOME": str(tmp_path / "rlm"), "PYTHONPATH": str(ROOT), "CONTAINER_HOST": podman.address},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    result = json.loads(out)
    assert (process.returncode, result["answer"], result["sandbox"]["kind"]) == (0, "BLUE", "podman"), err.decode()
    assert (engine.probe().name, of(engine, process.pid)) == ("Podman", [])


def test_podman_holds_the_profile(
    engine: Engine, tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the boot facts prove on Docker they prove here; and nothing can be reached or written, no variable of the
    service comes in, and the writable disks are the two that there are on Docker."""
    doc = write(tmp_path, "doc.txt", b"hello\n", 0o666)

    async def test() -> None:
        sandbox = DockerSandbox(SandboxOptions(image=image.id), engine=engine)
        try:
            await sandbox.open([doc], NoModels())
            assert (sandbox.info.kind, sandbox.info.input) == ("podman", "mounted")
            assert (await printed(sandbox, PROBE)).splitlines() == [
                "EAFNOSUPPORT",
                "EAFNOSUPPORT",
                "EROFS",
                "EROFS",
                "EROFS",
                "EPERM",
                "65534 65534 worked",
            ]
            names = await printed(sandbox, "import os; sorted(name for name, value in os.environ.items() if value)")
            assert set(eval(names)) <= {"HOME", "HOSTNAME", "LANG", "PATH", "TERM", "container"}
            writable = (
                "import os\nmounts = [line.split() for line in open('/proc/self/mounts')]\n"
                "[m[1] for m in mounts if m[3].startswith('rw') and os.access(m[1], os.W_OK) and '/proc/' not in m[1]]"
            )
            assert set(eval(await printed(sandbox, writable))) <= {"/tmp", "/dev/shm", "/dev/mqueue"}
            boot, worker = sandbox.facts
            assert (boot.cap_eff, boot.seccomp, boot.dumpable, worker.filtered) == (0, 2, False, True)
        finally:
            await sandbox.close()

    run(test())


def test_podman_and_the_ladder(engine: Engine, tmp_path: Path, image: Image) -> None:
    """SIGINT keeps the variables, SIGKILL replaces the worker, and a frozen supervisor costs its container."""
    doc = write(tmp_path, "doc.txt", b"hello\n")

    async def test() -> None:
        sandbox = DockerSandbox(SandboxOptions(image=image.id), engine=engine, patience=STEADY)
        try:
            await sandbox.open([doc], NoModels())
            await printed(sandbox, "kept = 7")
            assert (await sandbox.execute("while True: pass", timeout=0.2)).restarted == ""
            assert await printed(sandbox, "kept") == "7"
            assert "it was killed" in (await sandbox.execute("sum(range(10**12))", timeout=0.2)).restarted
            before = sandbox.name
            cell = await running(sandbox, "while True: pass", timeout=0.3)
            os.kill(pid_of(engine, before), signal.SIGSTOP)
            assert "lost with its container" in (await cell).restarted
            assert (await printed(sandbox, "context"), sandbox.name != before) == ("'hello\\n'", True)
            cell = await running(sandbox, "import time; time.sleep(600)", timeout=600)
            await asyncio.to_thread(engine.remove, sandbox.name)
            with pytest.raises(SandboxError) as caught:
                await cell
            assert caught.value.code == "sandbox_lost"
        finally:
            await sandbox.close()
        assert engine.containers() == []

    run(test())


def test_podman_leaves_nothing_of_a_killed_host(podman: Podman, engine: Engine, tmp_path: Path, image: Image) -> None:
    """SIGKILL in the middle of a cell: its stdin ends, and so does the container."""
    doc = write(tmp_path, "doc.txt", b"hello\n")
    code = VICTIM.format(address=podman.address, image=image.id, path=doc.path)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        before = of(engine, child.pid)
        child.kill()
    until(lambda: of(engine, child.pid) == [], seconds=10)
    assert len(before) == 1


VICTIM = """
import asyncio
from pathlib import Path
from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.container import Engine
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from tests.sandbox.test_container import Doc, NoModels

async def main():
    engine = Engine(runtime="podman", podman=("{address}",))
    sandbox = DockerSandbox(SandboxOptions(image="{image}"), engine=engine)
    await sandbox.open([Doc("doc", Path("{path}"), 6)], NoModels())
    await sandbox.execute("print(1)\\nwhile True: pass", timeout=600, on_output=lambda *_: print("on", flush=True))

asyncio.run(main())
"""
