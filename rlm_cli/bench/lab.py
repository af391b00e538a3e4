"""The harnesses under test, and one trial: a command run to its end against the model server, checked, and read out."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..sandbox.container import OWNER_LABEL
from . import meter, process
from .inputs import Writing
from .peer import Peer
from .script import Dialect, Kind, Script
from .server import ModelServer, Seen

QUESTION = "How long is the input?"
WARM_TURN = 5
"""Turns are timed from this one on: imports, first connections and first allocations are then behind every harness."""
CONCURRENCY = 32
TRIAL_S = 200.0
GB = 1_000_000_000
NEEDS: Mapping[str, Mapping[Writing, float]] = {
    "local": {"ascii": 3.3, "emoji": 9.6},
    "docker": {"ascii": 18.0, "emoji": 40.0},
}
"""Bytes of memory that rlms takes, with its container, for a byte of input: measured at 1 GB; the last is a guess."""
INPUTS = Path(__file__).with_name("inputs.py")
MMAP_SCAN = Path(__file__).with_name("mmap_scan.py")

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


class OutOfTimeError(FailedError):
    """The benchmark's own time is up, which says nothing about the contender."""


@dataclass(frozen=True)
class Context:
    """An input file. `size`: bytes; `chars`: characters."""

    path: Path
    size: int
    chars: int


@dataclass(frozen=True)
class Job:
    """What one trial does. `n` as in `Script`; `sub_ms`: how long a sub-model thinks."""

    kind: Kind
    n: int
    context: Context
    sub_ms: int = 0

    @property
    def sub_model(self) -> str:
        """Its name at the server."""
        return f"sub/{self.sub_ms}" + ("/429" if self.kind == "storm" else "")


@dataclass(frozen=True)
class Contender:
    """One harness. `command(job, script, url)` is what a user would type; `container` finds the one it started.

    `needs`: about how many bytes of memory it takes for each byte of input, by its writing; {}: no more for more.
    """

    name: str
    dialect: Dialect
    command: Callable[[Job, Script, str], list[str]]
    container: meter.Find | None = None
    needs: Mapping[Writing, float] = field(default_factory=dict)

    def shortage(self, size: int, writing: Writing, most: int) -> str:
        """Why an input is not given to it: more memory than `most` bytes; "" when it is."""
        need = self.needs.get(writing, 0) * size
        if need <= most:
            return ""
        return f"needs about {need / GB:.0f} GB of memory, {most / GB:.0f} GB (half of what is free here) are allowed"


@dataclass(frozen=True)
class Trial:
    """A run that went right. Times in seconds. `container`: peak bytes, where it was metered; else why it was not."""

    ended: process.Ended
    roots: tuple[Seen, ...]
    container: int | str = ""
    most_in_flight: int = 0
    """Requests to sub-models at once."""

    @property
    def to_first_request(self) -> float:
        return self.roots[0].arrived - self.ended.started

    @property
    def per_turn(self) -> float:
        """Mean distance of root requests once warm. The server's own share is well under a millisecond."""
        first = min(WARM_TURN, len(self.roots) - 1) - 1
        return (self.roots[-1].arrived - self.roots[first].arrived) / (len(self.roots) - 1 - first)

    def cell(self, number: int) -> float:
        """From root request `number` (from 0) to the next: one turn, with all that its cell does."""
        return self.roots[number + 1].arrived - self.roots[number].arrived

    @property
    def first_cell(self) -> float:
        return self.cell(0)

    @property
    def to_first_look(self) -> float:
        """From the start of the command until its first cell is over."""
        return self.roots[1].arrived - self.ended.started

    @property
    def after_answer(self) -> float:
        """From the last root request, whose reply submits the answer at once, to the end of the command."""
        return self.ended.ended - self.roots[-1].arrived


def ignore(_pid: int) -> None:
    """What happens at the start of a command that nobody watches."""


@dataclass(frozen=True)
class Lab:
    """Where trials happen. `deadline` (monotonic seconds) ends the repeats, then the rows; `say` hears each trial."""

    server: ModelServer
    folder: Path
    contenders: tuple[Contender, ...]
    deadline: float
    say: Callable[[str], None]
    _contexts: dict[Path, Context] = field(default_factory=dict)
    _counts: dict[tuple[Path, str], int] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {**ENVIRONMENT, "RLM_HOME": str(self.folder / "home")}

    def command(self, command: list[str], on_start: Callable[[int], None] = ignore) -> process.Ended:
        """Run a command of the benchmark's own. Raises `FailedError`."""
        limit = min(TRIAL_S, self.time_left())
        ended = process.run(command, folder=self.folder, env=self.env, timeout=limit, on_start=on_start)
        if ended.status:
            if ended.seconds < limit:
                raise FailedError(ended.complaint())
            raise (FailedError if limit == TRIAL_S else OutOfTimeError)(f"over {limit:.0f} s")
        return ended

    def trial(self, contender: Contender, job: Job, *, metered: bool = False) -> Trial:
        """Run `job` once, watching its container's memory if asked to. Raises `FailedError`."""
        script = Script(job.kind, job.n, contender.dialect)
        counts = [self.count(job.context, pattern) for pattern in script.patterns]
        self.server.take()
        with meter.ContainerMeter(contender.container) as watch:
            try:
                ended = self.command(
                    contender.command(job, script, self.server.url), on_start=watch.start if metered else ignore
                )
            finally:
                seen = self.server.take()
        roots = tuple(request for request in seen if request.is_root)
        subs = [request for request in seen if not request.is_root]
        check(script, job, ended, counts, roots=len(roots), subs=len(subs))
        check_repeats(subs)
        self.say(f"{contender.name}: {script.name}, {job.context.size:,} bytes, {ended.seconds:.2f} s")
        return Trial(ended, roots, watch.peak or watch.reason, max((one.beside for one in subs), default=0))

    def context(self, size: int, writing: Writing = "ascii") -> Context:
        """A log-like text of `size` bytes, written once, and warm in the page cache if that has room."""
        path = self.folder / f"context-{writing}-{size}.txt"
        if path not in self._contexts:
            ended = self.command([sys.executable, str(INPUTS), writing, str(size), str(path)])
            self.say(f"{path.name}: written in {ended.seconds:.1f} s")
            self._contexts[path] = Context(path, size, int(ended.out))
        return self._contexts[path]

    def count(self, context: Context, pattern: str) -> int:
        """How often a pattern is in a file: counted once, by plain Python."""
        key = (context.path, pattern)
        if key not in self._counts:
            self._counts[key] = int(self.command(scan_by_mmap(context, pattern, 1)).out)
        return self._counts[key]

    def repeats(self, count: int) -> Iterator[int]:
        """0, 1 ... count - 1, ending early (but never before one) when time is up."""
        for number in range(count):
            if number and self.deadline - time.monotonic() < TRIAL_S / 10:
                self.say(f"time is up: {number} of {count} repeats")
                return
            yield number

    def time_left(self) -> float:
        """Seconds. Raises `OutOfTimeError` when there are none."""
        left = self.deadline - time.monotonic()
        if left <= 1:
            raise OutOfTimeError("out of time")
        return left


def check(script: Script, job: Job, ended: process.Ended, counts: Sequence[int] = (), *, roots: int, subs: int) -> None:
    """A figure of a run that went wrong is worth nothing. Raises `FailedError`."""
    due = script.answer(job.context.chars, counts)
    if ended.digest != process.digest(piece.encode() for piece in due):
        wanted = next(script.answer(job.context.chars, counts))
        raise FailedError(f"answered {ended.out.strip()[:80]!r}, not {wanted[:80]!r}")
    wanted_subs = script.subcalls + script.refusals
    if (roots, subs) != (script.turns, wanted_subs):
        raise FailedError(f"sent {roots} + {subs} requests, not {script.turns} + {wanted_subs}")


def check_repeats(subs: Sequence[Seen]) -> None:
    """A prompt comes again when it was refused, and then only. Raises `FailedError`."""
    asked = Counter(request.messages[-1][1] for request in subs)
    answered = asked - Counter(request.messages[-1][1] for request in subs if request.refused)
    if again := sum(times - 1 for times in answered.values()):
        raise FailedError(f"sent {again} requests twice that were not refused")


def scan_by_mmap(context: Context, pattern: str, processes: int) -> list[str]:
    return [sys.executable, "-I", str(MMAP_SCAN), str(processes), pattern, str(context.path)]


def scan_by_grep(context: Context, pattern: str) -> list[str]:
    """Bytes, as the others: in a UTF-8 locale grep is slower."""
    return ["env", "LC_ALL=C", "grep", "-cE", "-e", pattern, str(context.path)]


def our_program() -> list[str]:
    """The `rlm` command beside this interpreter."""
    beside = Path(sys.executable).with_name("rlm")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "rlm_cli"]


def ours() -> Contender:
    """Our harness, as it is installed."""
    program = our_program()

    def command(job: Job, script: Script, url: str) -> list[str]:
        models = ["-m", f"openai/root/{script.name}", "--sub-model", f"openai/{job.sub_model}", "--api-base", url]
        models += ["--mode", "rlm"]
        # A loopback model has no price, and the default caps are meant for people.
        limits = ["--price", "0,0", "--max-iterations", str(script.turns + 1), "--concurrency", str(CONCURRENCY)]
        limits += ["--max-input", "none", "--max-subcalls", "none"]
        return [*program, "ask", str(job.context.path), QUESTION, *models, *limits]

    return Contender("ours", "final", command, meter.labelled(OWNER_LABEL))


def rlms(peer: Peer, environment: str, most_memory: int, image: str = "") -> Contender:
    """The peer in `environment`, "local" or "docker"; its process may have `most_memory` bytes."""
    program = Path(__file__).with_name("rlms_run.py")

    def command(job: Job, script: Script, url: str) -> list[str]:
        spec = {
            "environment": environment,
            "image": image,
            "context": str(job.context.path),
            "question": QUESTION,
            "url": url,
            "model": f"root/{script.name}",
            "sub_model": job.sub_model,
            "turns": script.turns,
            "most_memory": most_memory,
        }
        return [str(peer.python), str(program), json.dumps(spec)]

    container = meter.made_of(image) if image else None
    return Contender(f"rlms {environment}", "answer", command, container, NEEDS[environment])
