"""The harnesses under test, and one trial: a command run to its end against the model server, checked, and read out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import process
from .peer import Peer
from .script import Dialect, Kind, Script
from .server import ModelServer, Seen

QUESTION = "How long is the input?"
WARM_TURN = 5
"""Turns are timed from this one on: imports, first connections and first allocations are then behind every harness."""
CONCURRENCY = 32
TRIAL_S = 200.0

# On top of the inherited environment. A packaged program has its byte code on disk, so a setting that keeps an
# editable install from having it would measure the compiler.
ENVIRONMENT = {
    "OPENAI_API_KEY": "bench",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
    "PYTHONDONTWRITEBYTECODE": "",
}


class FailedError(Exception):
    """A trial that cannot be counted: it died, answered wrongly, or sent other requests than its script says."""


@dataclass(frozen=True)
class Context:
    """An input file; ASCII, so `chars` is also its size in bytes."""

    path: Path
    chars: int


@dataclass(frozen=True)
class Job:
    """What one trial does. `n` as in `Script`; `sub_ms`: how long a sub-model thinks."""

    kind: Kind
    n: int
    context: Context
    sub_ms: int = 0


@dataclass(frozen=True)
class Contender:
    """One harness. `command(job, script, url)` is what a user would type."""

    name: str
    dialect: Dialect
    command: Callable[[Job, Script, str], list[str]]


@dataclass(frozen=True)
class Trial:
    """A run that went right. Times in seconds."""

    ended: process.Ended
    roots: tuple[Seen, ...]

    @property
    def to_first_request(self) -> float:
        return self.roots[0].arrived - self.ended.started

    @property
    def per_turn(self) -> float:
        """Mean distance of root requests once warm. The server's own share is well under a millisecond."""
        first = min(WARM_TURN, len(self.roots) - 1) - 1
        return (self.roots[-1].arrived - self.roots[first].arrived) / (len(self.roots) - 1 - first)

    @property
    def first_cell(self) -> float:
        """From the first root request to the second: one turn, with all the sub-calls that it makes."""
        return self.roots[1].arrived - self.roots[0].arrived


@dataclass(frozen=True)
class Lab:
    """Where trials happen. `deadline` (monotonic seconds) ends the repeats, then the rows; `say` hears each trial."""

    server: ModelServer
    folder: Path
    contenders: tuple[Contender, ...]
    deadline: float
    say: Callable[[str], None]

    @property
    def env(self) -> dict[str, str]:
        return {**ENVIRONMENT, "RLM_HOME": str(self.folder / "home")}

    def command(self, command: list[str]) -> process.Ended:
        """Run a command of the benchmark's own. Raises `FailedError`."""
        ended = process.run(command, folder=self.folder, env=self.env, timeout=min(TRIAL_S, self.time_left()))
        if ended.status:
            raise FailedError(ended.complaint())
        return ended

    def trial(self, contender: Contender, job: Job) -> Trial:
        """Run `job` once. Raises `FailedError`."""
        script = Script(job.kind, job.n, contender.dialect)
        self.server.take()
        try:
            ended = self.command(contender.command(job, script, self.server.url))
        finally:
            seen = self.server.take()
        roots = tuple(request for request in seen if request.is_root)
        check(script, job, ended, roots=len(roots), subs=len(seen) - len(roots))
        self.say(f"{contender.name}: {script.name}, {job.context.chars:,} bytes, {ended.seconds:.2f} s")
        return Trial(ended, roots)

    def context(self, size: int) -> Context:
        """A log-like text of `size` bytes, written once."""
        path = self.folder / f"context-{size}.txt"
        if not path.exists():
            with path.open("wb") as file:
                for block in text_blocks(size):
                    file.write(block)
        return Context(path, size)

    def repeats(self, count: int) -> Iterator[int]:
        """0, 1 ... count - 1, ending early (but never before one) when time is up."""
        for number in range(count):
            if number and self.time_left() < TRIAL_S / 10:
                self.say(f"time is up: {number} of {count} repeats")
                return
            yield number

    def time_left(self) -> float:
        """Seconds. Raises `FailedError` when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 1:
            raise FailedError("out of time")
        return left


def check(script: Script, job: Job, ended: process.Ended, *, roots: int, subs: int) -> None:
    """A figure of a run that went wrong is worth nothing. Raises `FailedError`."""
    said, due = ended.out.strip(), script.answer(job.context.chars)
    if said != due:
        raise FailedError(f"answered {said[:80]!r}, not {due!r}")
    if (roots, subs) != (script.turns, script.subcalls):
        raise FailedError(f"sent {roots} + {subs} requests, not {script.turns} + {script.subcalls}")


def text_blocks(size: int) -> Iterator[bytes]:
    """`size` bytes of numbered lines, a megabyte at a time."""
    line = 0
    while size > 0:
        block = b"".join(
            b"%09d 2026-01-01T00:00:00Z service-%02d request handled in %5d us, status 200, nothing to see here\n"
            % (number, number % 17, number * 7919 % 100_000)
            for number in range(line, line + 10_000)
        )[:size]
        line += 10_000
        size -= len(block)
        yield block


def our_program() -> list[str]:
    """The `rlm` command beside this interpreter."""
    beside = Path(sys.executable).with_name("rlm")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "rlm_cli"]


def ours() -> Contender:
    """Our harness, as it is installed."""
    program = our_program()

    def command(job: Job, script: Script, url: str) -> list[str]:
        models = ["-m", f"openai/root/{script.name}", "--sub-model", f"openai/sub/{job.sub_ms}", "--api-base", url]
        # A loopback model has no price, and the default caps are meant for people.
        limits = ["--price", "0,0", "--max-iterations", str(script.turns + 1), "--concurrency", str(CONCURRENCY)]
        return [*program, "ask", str(job.context.path), QUESTION, *models, *limits]

    return Contender("ours", "final", command)


def rlms(peer: Peer, environment: str, image: str = "") -> Contender:
    """The peer in `environment`, "local" or "docker"."""
    program = Path(__file__).with_name("rlms_run.py")

    def command(job: Job, script: Script, url: str) -> list[str]:
        spec = {
            "environment": environment,
            "image": image,
            "context": str(job.context.path),
            "question": QUESTION,
            "url": url,
            "model": f"root/{script.name}",
            "sub_model": f"sub/{job.sub_ms}",
            "turns": script.turns,
        }
        return [str(peer.python), str(program), json.dumps(spec)]

    return Contender(f"rlms {environment}", "answer", command)
