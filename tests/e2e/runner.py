"""One run of `rlm ask`, and everything that is known about it afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeVar

from rlm_cli.events import Output, Record, Result
from rlm_cli.runlog import read_answer, read_result, read_run
from tests.ask.conftest import Shell, containers_of
from tests.loopback import Logged, LoopbackServer, Policy, Turn

from .case import Case, Lab, Setup
from .inside import replayed_answer

T = TypeVar("T")
IN_USD, OUT_USD = 1.0, 2.0
"""What `Shell.model` says that a million tokens cost."""
DOORS = "doors open:"
PROBE = """\
import socket as _socket
def _knock(host):
    try:
        _socket.create_connection((host, {port}), 2).close()
    except OSError:
        return 0
    return 1
print("{doors}", sum(map(_knock, {hosts})), "of", {number})
"""
"""I10: the root's first cell tries to get out, by every address that the host could have. Where there is no network
that takes no time."""


@dataclass(frozen=True)
class Evidence:
    """What one run left behind. `lab` and `setup` say what it was about.

    `out` is stdout, `answer` what the run answered: stdout's bytes without the newline that ends them, or the file of
    `-o`. `peak` is the most memory that the process had resident, in bytes; `in_flight` the most sub-calls that the
    server saw at once. `before` and `after` are the input's files, as fingerprints. `left` names what should be gone.
    `knocks` counts connections to the canary port of the host. `stored` is the answer in the record, and `replayed`
    what a replay of the record answers.
    """

    lab: Lab
    setup: Setup
    code: int
    out: bytes
    err: str
    seconds: float
    peak: int
    requests: tuple[Logged, ...]
    in_flight: int
    records: tuple[Record, ...]
    result: Result
    before: Mapping[str, str]
    after: Mapping[str, str]
    left: tuple[str, ...]
    knocks: int
    file: bytes | None = None
    stored: bytes = b""
    replayed: bytes = b""

    @property
    def answer(self) -> bytes:
        return self.out.removesuffix(b"\n") if self.file is None else self.file

    @property
    def text(self) -> str:
        return self.answer.decode()

    def requests_of(self, role: str) -> list[Logged]:
        return [request for request in self.requests if request.role == role]

    def events(self, kind: type[T]) -> list[T]:
        return [record.event for record in self.records if isinstance(record.event, kind)]

    @property
    def observations(self) -> list[str]:
        """What the outermost root was told, in order."""
        found = []
        for request in self.requests_of("root")[-1:]:
            found = [message["content"] for message in request.messages[3::2]]
        return found

    @property
    def probes(self) -> list[str]:
        """What the probe said in each kernel that ran one."""
        lines = (line for event in self.events(Output) for line in event.text.splitlines())
        return [line for line in lines if line.startswith(DOORS)]


def runs_of(case: Case, folder: Path) -> Iterator[Evidence]:
    """Make the case's input below `folder`, and run what is to be run on it, one after the other."""
    (folder / "in").mkdir(parents=True)
    lab = Lab.of(case.id, folder / "in")
    built = case.build(lab)
    for number, setup in enumerate(built if isinstance(built, list) else [built]):
        yield run(lab, setup, folder / f"run{number}")


def run(lab: Lab, setup: Setup, home: Path) -> Evidence:
    """One run in a fresh home, with nothing of a user's, and its replay."""
    (home / "tmp").mkdir(parents=True)
    (home / "rlm").mkdir()
    (home / "rlm" / "config.toml").write_text(config(setup))
    (home / "in").symlink_to(lab.folder)
    with CanaryPort() as canary, LoopbackServer(label=setup.label) as server:
        server.policies["case"] = knocking(setup.policy, canary)
        shell = Shell(home, server, {"TMPDIR": str(home / "tmp")})
        before = fingerprints(lab.folder)
        if setup.before is not None:
            setup.before(shell, setup)
        earlier, known = len(server.requests), set((home / "rlm" / "runs").glob("*"))
        server.max_in_flight.clear()
        code, out, err, seconds, peak, pid = measured(shell, setup)
        server.wait(lambda log: all(entry.finished for entry in log[earlier:]))
        (directory,) = set((home / "rlm" / "runs").glob("*")) - known
        result = read_result(directory)
        assert result is not None, f"the run has no result:\n{err}"
        large = b"".join(read_answer(directory, result.answer_file)) if result.answer_file else None
        evidence = Evidence(
            lab,
            setup,
            code,
            out,
            err,
            seconds,
            peak,
            server.requests[earlier:],
            server.max_in_flight["sub"],
            tuple(read_run(directory)),
            result,
            before,
            fingerprints(lab.folder),
            tuple(left_over(home, directory, pid)),
            canary.knocks,
            (home / setup.output).read_bytes() if setup.output else None,
            large if large is not None else (result.answer or "").encode(),
        )
    return replace(evidence, replayed=replayed_answer(evidence, directory))


def config(setup: Setup) -> str:
    """The user's config.toml: the aliases, at the same price as all models here."""
    names = "".join(f'{name} = "openai/{model}"\n' for name, model in setup.aliases.items())
    prices = "".join(
        f'[prices."openai/{model}"]\ninput = {IN_USD}\noutput = {OUT_USD}\n' for model in setup.aliases.values()
    )
    return f"[aliases]\n{names}{prices}"


def knocking(policy: Policy, canary: CanaryPort) -> Policy:
    """The policy, whose first cell begins with the probe."""
    probe = PROBE.format(port=canary.port, doors=DOORS, hosts=canary.hosts, number=len(canary.hosts))

    def knocks(turn: Turn) -> str:
        reply = policy(turn)
        return reply.replace("```repl\n", f"```repl\n{probe}", 1) if turn.step == 0 else reply

    return knocks


def command(shell: Shell, setup: Setup) -> list[str]:
    root = "/".join(part for part in ("root/case", setup.root) if part)
    sources = [f"in/{name}" for name in setup.sources]
    limits = ("--concurrency", str(setup.concurrency), "--step-timeout", f"{setup.step_s:g}s")
    output = ("-o", setup.output) if setup.output else ()
    memory = ("--memory", str(setup.memory))
    model = (*shell.model(root, setup.sub), "--mode", setup.mode)
    return ["ask", *sources, "-Q", setup.question, *model, *limits, *memory, *output, *setup.flags]


def measured(shell: Shell, setup: Setup) -> tuple[int, bytes, str, float, int, int]:
    """Run it: exit code, stdout, stderr, seconds, peak memory in bytes, and the process's number."""
    began = time.monotonic()
    process = shell.start(*command(shell, setup), stdin=subprocess.DEVNULL if setup.stdin is None else subprocess.PIPE)
    out, err = Drain(process.stdout), Drain(process.stderr)
    feeder = threading.Thread(target=feed, args=(process.stdin, setup.stdin), daemon=True)
    feeder.start()
    peak = 0
    try:
        while process.poll() is None:
            peak = max(peak, resident_peak(process.pid))
            if time.monotonic() - began > 4 * 120:
                raise TimeoutError(f"it never ended; stderr so far:\n{bytes(err.data).decode()}")
            time.sleep(0.02)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        seconds = time.monotonic() - began
        for thread in (feeder, out.thread, err.thread):
            thread.join(20)
    return process.returncode, bytes(out.data), bytes(err.data).decode(), seconds, peak, process.pid


class Drain:
    """Reads a pipe to its end, in a thread."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        assert pipe is not None
        self.data = bytearray()
        self.pipe = pipe
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with self.pipe:
            while piece := os.read(self.pipe.fileno(), 1 << 20):
                self.data += piece


def feed(pipe: IO[bytes] | None, make: Callable[[], Iterable[bytes]] | None) -> None:
    if pipe is not None and make is not None:
        with contextlib.suppress(BrokenPipeError), pipe:
            for piece in make():
                pipe.write(piece)


def resident_peak(pid: int) -> int:
    """Bytes; the kernel keeps the high-water mark of what is resident, so that polling misses next to nothing. (wait4
    would do without, but it counts the parent's memory at the fork as the child's.)"""
    with contextlib.suppress(OSError, StopIteration):
        status = Path(f"/proc/{pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return 0


def fingerprints(folder: Path) -> dict[str, str]:
    """Every file below `folder`: its content, mode and time of change."""
    return {
        str(path.relative_to(folder)): f"{digest(path)} {path.stat().st_mode:o} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


RECORD = {"run.json", "events.jsonl", "sources.jsonl", "blobs", "stdin"}
"""What a run's folder holds. `stdin`: what was piped in, which a person may want to ask again."""


def left_over(home: Path, directory: Path, pid: int) -> Iterator[str]:
    """What a command should have removed: containers, scratch files, and what else is in the run's folder."""
    yield from (f"container {container.name}" for container in containers_of(pid))
    scratch = home / "rlm" / "cache" / "scratch"
    yield from (f"temporary {path.relative_to(home)}" for place in (home / "tmp", scratch) for path in place.glob("*"))
    yield from (f"in the run's folder: {path.name}" for path in directory.iterdir() if path.name not in RECORD)


class CanaryPort:
    """A port of the host on which nobody has any business: who connects is counted."""

    def __init__(self) -> None:
        self.knocks = 0
        self._socket = socket.create_server(("0.0.0.0", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def hosts(self) -> tuple[str, ...]:
        """What the host may be called by those who are on it: itself, an engine's bridge, a network's address."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it only chooses the address it would be sent from
            return ("127.0.0.1", "172.17.0.1", str(probe.getsockname()[0]), "host.docker.internal")
        return ("127.0.0.1", "172.17.0.1", "host.docker.internal")

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.knocks += 1
                connection.close()

    def __enter__(self) -> CanaryPort:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()
        self._thread.join(10)
