"""`rlm` as a subprocess: the real command line, LiteLLM and Docker, against the loopback provider."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlm_cli.sandbox.container import ContainerFacts, Engine
from tests.event_order import Order
from tests.loopback import LoopbackServer

LIMIT_S = 60
RLM = (sys.executable, "-m", "rlm_cli")


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class Shell:
    """Runs `rlm` in a folder and an environment of its own: no user files, no keys but the one given."""

    folder: Path
    server: LoopbackServer
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST", "LANG") if name in os.environ}
        own = {
            "HOME": str(self.folder),
            "RLM_HOME": str(self.folder / "rlm"),
            "OPENAI_API_KEY": "sk-test-key-0123456789",
        }
        return kept | own | dict(self.env)

    def start(self, *args: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*RLM, *args],
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *args: str, stdin: bytes | None = None) -> Done:
        """One command to its end."""
        process = self.start(*args, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE)
        return self.finish(process, stdin)

    def finish(self, process: subprocess.Popen[bytes], stdin: bytes | None = None) -> Done:
        try:
            out, err = process.communicate(stdin, timeout=LIMIT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return Done(process.returncode, out, err.decode())

    def ask(self, *args: str, root: str = "root/chunk_map", sub: str = "sub/e00", stdin: bytes | None = None) -> Done:
        """`rlm ask` against the loopback provider, at a price that the test knows: $1 and $2 a million tokens. By code,
        however small the input is, unless `args` say --mode."""
        return self.run("ask", *self.model(root, sub), *args, stdin=stdin)

    def model(self, root: str, sub: str = "sub/e00") -> tuple[str, ...]:
        ids = ("--mode", "rlm", "-m", f"openai/{root}", "--sub-model", f"openai/{sub}")
        return (*ids, "--api-base", self.server.url, "--price", "1,2")

    def record(self) -> list[Any]:
        """The newest run's events, as they stand on disk."""
        # Not by name: two runs may begin in one second.
        newest = max((self.folder / "rlm" / "runs").iterdir(), key=lambda run: run.stat().st_ctime_ns)
        return [json.loads(line) for line in (newest / "events.jsonl").read_text().splitlines()]


def until(true: Any, *, seconds: float = 20.0) -> None:
    """Poll a fact that another process brings about."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def containers_of(pid: int) -> list[ContainerFacts]:
    """Containers that the process `pid` made."""
    engine = Engine()
    try:
        return [found for found in engine.containers() if f":{pid}:" in found.owner]
    finally:
        engine.close()


def send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    os.kill(process.pid, number)


def checkers_of(pid: int) -> list[int]:
    """Processes of `pid` that are at the check of an answer, and no more starting up."""
    children = list[int]()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has just ended
            children += map(int, path.read_text().split())
    return [child for child in children if is_checking(child)]


def is_checking(pid: int) -> bool:
    """Whether it is such a process that has said when it is to look for its parent."""
    try:
        program, status = (Path(f"/proc/{pid}/{name}").read_text() for name in ("cmdline", "status"))
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return "rlm_cli.cli.validation" in program and bool(caught >> (signal.SIGALRM - 1) & 1)


def is_running(pid: int) -> bool:
    """Whether it is neither gone nor waiting to be buried by whoever has taken it over."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path, server: LoopbackServer) -> Iterator[Shell]:
    """Whatever a test does with it: the records of its runs are in order (docs/EVENTS.md)."""
    shell = Shell(tmp_path, server)
    yield shell
    for path in (tmp_path / "rlm" / "runs").glob("*/events.jsonl"):
        order = Order()
        for line in path.read_text().splitlines():
            order.take(json.loads(line))
        assert order.wrong == []
