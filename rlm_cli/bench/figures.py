"""The rows of the table: which trials they need and what is read from them."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from .lab import CONCURRENCY, Contender, FailedError, Job, Lab, Trial, our_program
from .server import Seen

KB, MB = 1_000, 1_000_000
OURS = "ours"

IMPORT_LITELLM = "import litellm, time; print(time.monotonic())"
COUNT_TOKENS = (
    "import json, sys, litellm\n"
    "texts = json.load(open(sys.argv[1]))\n"
    "print(json.dumps([len(litellm.encode(model='gpt-4', text=text)) for text in texts]))"
)
LITELLM_ENV = ["env", "LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_MODE=PRODUCTION"]


@dataclass(frozen=True)
class Value:
    """Samples in the figure's unit, or why there are none."""

    samples: tuple[float, ...] = ()
    reason: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None


@dataclass(frozen=True)
class Figure:
    """One line of the table. `target` bounds ours: from above, or from below when `at_least`."""

    title: str
    unit: str
    values: dict[str, Value] = field(default_factory=dict)
    target: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> Literal["", "ok", "over", "under", "n/a"]:
        if self.target is None:
            return ""
        mine = self.values[OURS].median if OURS in self.values else None
        if mine is None:
            return "n/a"
        if self.at_least:
            return "ok" if mine >= self.target else "under"
        return "ok" if mine <= self.target else "over"


@dataclass(frozen=True)
class Plan:
    """How much is done. `turns`: (contender, size) -> turns of a run, where it is not `usual_turns`."""

    repeats: int
    sizes: tuple[int, ...]
    usual_turns: int
    docker_turns: dict[int, int]

    def turns(self, contender: Contender, size: int) -> int:
        return self.docker_turns.get(size, self.usual_turns) if contender.name == "rlms docker" else self.usual_turns


# rlms docker carries its whole state through every turn: seconds a turn at 100 MB, so fewer of them.
FULL = Plan(repeats=3, sizes=(KB, 10 * MB, 100 * MB), usual_turns=45, docker_turns={10 * MB: 25, 100 * MB: 8})
QUICK = Plan(repeats=1, sizes=(KB, 10 * MB), usual_turns=25, docker_turns={KB: 15, 10 * MB: 9})


class Rows:
    """Every row is a method that returns figures; trials of the same kind are run once and shared."""

    def __init__(self, lab: Lab, plan: Plan) -> None:
        self.lab, self.plan = lab, plan
        self._looks: dict[int, dict[str, list[Trial] | str]] = {}

    def turn(self) -> list[Figure]:
        """Harness time per turn, by size of the context."""
        return [
            Figure(
                f"harness time per turn, {size_name(size)}",
                "ms",
                {name: value(trials, lambda t: t.per_turn * 1000) for name, trials in self.looks(size).items()},
                target=12,
            )
            for size in self.plan.sizes
        ]

    def start(self) -> list[Figure]:
        """Command start to first root request, beside a bare import of LiteLLM, in turns."""
        job = Job("len", 1, self.lab.context(KB))
        baseline: list[float] = []

        def also() -> None:
            ended = self.lab.command([*LITELLM_ENV, sys.executable, "-c", IMPORT_LITELLM])
            baseline.append(float(ended.out) - ended.started)

        trials = self.alternate(lambda _: job, repeats=2 * self.plan.repeats + 1, also=also)
        first = {name: value(got, lambda t: t.to_first_request) for name, got in trials.items()}
        ratios = tuple(ours / bare for ours, bare in zip(first[OURS].samples, baseline, strict=False))
        return [
            Figure("command start to first root request", "s", first),
            Figure("... a bare `import litellm`", "s", {OURS: Value(tuple(baseline))}),
            Figure("... the ratio of the two", "x", {OURS: Value(ratios, first[OURS].reason)}, target=1.15),
        ]

    def help(self) -> list[Figure]:
        """`rlm --help`, beside an interpreter that does nothing, in turns."""
        program = [*our_program(), "--help"]
        helps, nothings = [], []
        for number in self.lab.repeats(4 * self.plan.repeats + 2):
            pair = self.lab.command(program).seconds, self.lab.command([sys.executable, "-c", "pass"]).seconds
            if number:  # the first one may compile
                helps.append(pair[0])
                nothings.append(pair[1])
        return [
            Figure("rlm --help", "s", {OURS: Value(tuple(helps))}, target=0.3),
            Figure("... `python -c pass`", "s", {OURS: Value(tuple(nothings))}),
        ]

    def subcalls(self) -> list[Figure]:
        """Fan-out and single sub-calls, each with the one turn that makes them."""
        context = self.lab.context(KB)
        batch = self.alternate(lambda _: Job("batch", 200, context, sub_ms=100))
        single = self.alternate(lambda _: Job("seq", 200, context))
        return [
            Figure(
                f"200 batched sub-calls x 100 ms (ours: {CONCURRENCY} at once)",
                "s",
                {name: value(trials, lambda t: t.first_cell) for name, trials in batch.items()},
                target=1.0,
            ),
            Figure(
                "200 sequential sub-calls x 0 ms, each",
                "ms",
                {name: value(trials, lambda t: t.first_cell * 1000 / 200) for name, trials in single.items()},
                target=6,
            ),
        ]

    def memory(self) -> list[Figure]:
        """Peak resident memory of the command (not of a container)."""
        return [
            Figure(
                f"peak memory of the command, {size_name(size)}",
                "MB",
                {name: value(trials, lambda t: t.ended.peak / MB) for name, trials in self.looks(size).items()},
                target=300,
            )
            for size in self.plan.sizes[:2]
        ]

    def tokens(self) -> list[Figure]:
        """What the root is sent: tokens, and how much of a prompt is the previous one."""
        firsts = {name: got for name, got in self.looks(KB).items() if not isinstance(got, str)}
        texts: list[str] = []
        for trials in firsts.values():
            opening = trials[0].roots[0].messages
            texts += [opening[0][1], "\n".join(text for _, text in opening)]
        counts = self.count_tokens(texts)
        system = {name: Value((counts[2 * i],)) for i, name in enumerate(firsts)}
        opening_tokens = {name: Value((counts[2 * i + 1],)) for i, name in enumerate(firsts)}
        kept = {name: Value((kept_share(trials[0].roots),)) for name, trials in firsts.items()}
        return [
            Figure("system prompt", "tokens", system, target=1200),
            Figure("system prompt and first message", "tokens", opening_tokens),
            Figure("share of a prompt that the next one keeps, least", "%", kept, target=100, at_least=True),
        ]

    def looks(self, size: int) -> dict[str, list[Trial] | str]:
        """The trials that look at a context of `size` bytes turn after turn."""
        if size not in self._looks:
            context = self.lab.context(size)
            self._looks[size] = self.alternate(
                lambda contender: Job("len", self.plan.turns(contender, size), context),
                repeats=1 if size > 10 * MB else self.plan.repeats,
            )
        return self._looks[size]

    def alternate(
        self, job: Callable[[Contender], Job], *, repeats: int = 0, also: Callable[[], None] | None = None
    ) -> dict[str, list[Trial] | str]:
        """Every contender in turn, again and again. One that fails is not run again, and its reason is kept."""
        results: dict[str, list[Trial] | str] = {contender.name: [] for contender in self.lab.contenders}
        for _ in self.lab.repeats(repeats or self.plan.repeats):
            for contender in self.lab.contenders:
                so_far = results[contender.name]
                if isinstance(so_far, str):
                    continue
                try:
                    so_far.append(self.lab.trial(contender, job(contender)))
                except FailedError as error:
                    self.lab.say(f"{contender.name}: failed: {error}")
                    results[contender.name] = str(error)
            if also:
                also()
        return results

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, by the tokenizer that LiteLLM ships (cl100k). Raises `FailedError`."""
        path = self.lab.folder / "texts.json"
        path.write_text(json.dumps(list(texts)), "utf-8")
        counts = json.loads(self.lab.command([*LITELLM_ENV, sys.executable, "-c", COUNT_TOKENS, str(path)]).out)
        return [int(count) for count in counts]


ROWS: dict[str, Callable[[Rows], list[Figure]]] = {
    "turn": Rows.turn,
    "start": Rows.start,
    "help": Rows.help,
    "subcalls": Rows.subcalls,
    "memory": Rows.memory,
    "tokens": Rows.tokens,
}


def value(trials: list[Trial] | str, read: Callable[[Trial], float]) -> Value:
    """One sample a trial; a failed contender has its reason instead."""
    if isinstance(trials, str):
        return Value(reason=trials)
    return Value(tuple(read(trial) for trial in trials))


def kept_share(roots: Sequence[Seen]) -> float:
    """The least share, in percent, of a root prompt that stands unchanged at the head of the next one."""
    prompts = ["\0".join(f"{role}\1{text}" for role, text in root.messages) for root in roots]
    return min((100 * common_prefix(a, b) / len(a) for a, b in pairwise(prompts)), default=100.0)


def common_prefix(a: str, b: str) -> int:
    """How many characters two texts share at their start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def size_name(size: int) -> str:
    return f"{size // MB} MB" if size >= MB else f"{size // KB} KB"
