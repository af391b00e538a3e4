"""The rows of the table: which trials they need and what is read from them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

from .figures import OURS, Figure, Value
from .lab import (
    CONCURRENCY,
    Contender,
    Context,
    FailedError,
    Job,
    Lab,
    OutOfTimeError,
    Trial,
    our_program,
    scan_by_grep,
    scan_by_mmap,
)
from .plan import KB, MB, Input, Plan
from .script import SEARCHES, Kind, Script
from .server import Seen

IMPORT_LITELLM = "import litellm, time; print(time.monotonic())"
COUNT_TOKENS = (
    "import json, sys, litellm\n"
    "texts = json.load(open(sys.argv[1]))\n"
    "print(json.dumps([len(litellm.encode(model='gpt-4', text=text)) for text in texts]))"
)
BARE_CALLS = """\
import asyncio, sys, time, litellm
url, model, calls, width = *sys.argv[1:3], *map(int, sys.argv[3:])
litellm.suppress_debug_info = litellm.disable_token_counter = True

async def main():
    slots = asyncio.Semaphore(width)

    async def ask(number):
        messages = [{"role": "user", "content": f"item {number}"}]
        async with slots:
            reply = await litellm.acompletion(
                model=f"openai/{model}", api_base=url, messages=messages, max_tokens=8192, num_retries=0, max_retries=0
            )
        return reply.choices[0].message.content == f"seen item {number}"

    assert await ask(-1)
    began = time.monotonic()
    assert all(await asyncio.gather(*map(ask, range(calls))))
    print(time.monotonic() - began)

asyncio.run(main())
"""
"""What LiteLLM itself needs for a batch, by the handler that ours uses."""
LITELLM_ENV = ["env", "LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_MODE=PRODUCTION"]
FAST_HANDLER = "EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER=true"
PROMPTS = 8
"""Root prompts whose tokens are compared: every plan has so many."""


Results = dict[str, list[Trial] | str]
"""By contender: its trials, or why there are none."""


class Rows:
    """Every row is a method that returns figures; trials of the same kind are run once and shared."""

    def __init__(self, lab: Lab, plan: Plan, most_memory: int) -> None:
        self.lab, self.plan, self.most_memory = lab, plan, most_memory
        self._looks: dict[Input, Results] = {}

    def turn(self) -> list[Figure]:
        """Harness time per turn, by size of the context, and how the largest compares with the smallest."""
        looks = self.looks(self.plan.looks)
        figures = [
            Figure(
                f"harness time per turn, {item.name}",
                "ms",
                values(results, lambda t: t.per_turn * 1000),
                target=12,
            )
            for item, results in looks.items()
        ]
        least, most = self.plan.looks[0], max(self.plan.looks)
        ratio = paired(looks[most][OURS], looks[least][OURS], lambda a, b: a.per_turn / b.per_turn)
        return [*figures, Figure(f"... {most.name} over {least.name}", "x", {OURS: ratio}, target=1.1)]

    def look(self) -> list[Figure]:
        """The first look: until code has seen `len(context)`, by size of the context."""
        looks = self.looks(self.plan.looks)
        least = self.plan.looks[0]
        figures = []
        for item, results in looks.items():
            mine = results[OURS]
            figures += [
                Figure(f"command start until len(context) is seen, {item.name}", "s", values(results, to_first_look)),
                Figure("... of it after the first root request", "s", {OURS: value(mine, first_cell)}, target=0.3),
            ]
            if item.size > least.size:
                more = paired(mine, looks[least][OURS], lambda a, b: a.to_first_look - b.to_first_look)
                figures.append(Figure(f"... more than at {least.name}", "s", {OURS: more}, target=0.3))
        return figures

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

    def fanout(self) -> list[Figure]:
        """A large batch, in turns with what LiteLLM alone needs for it; and a storm of refusals."""
        context, calls = self.lab.context(KB), self.plan.fanout
        job = Job("batch", calls, context, sub_ms=100)
        bare: list[float] = []

        def alone() -> None:
            arguments = [self.lab.server.url, job.sub_model, str(calls), str(CONCURRENCY)]
            program = [*LITELLM_ENV, FAST_HANDLER, sys.executable, "-c", BARE_CALLS, *arguments]
            bare.append(float(self.lab.command(program).out))
            self.lab.server.take()

        batch = self.alternate(lambda _: job, also=alone)
        storm = self.alternate(lambda _: Job("storm", 3 * calls, context, sub_ms=20), repeats=1)
        took = {name: value(trials, lambda t: t.first_cell) for name, trials in batch.items()}
        more = tuple((ours - alone) * 1000 / calls for ours, alone in zip(took[OURS].samples, bare, strict=False))
        refusals = Script("storm", 3 * calls, "final").refusals
        return [
            Figure(
                f"{calls:,} batched sub-calls x 100 ms (ours: {CONCURRENCY} at once)",
                "s",
                took,
                target=4.8 * calls / 1000,
            ),
            Figure(f"... bare `litellm.acompletion`, {CONCURRENCY} at once", "s", {OURS: Value(tuple(bare))}),
            Figure("... ours more than that, each", "ms", {OURS: Value(more, took[OURS].reason)}),
            Figure(
                f"{3 * calls:,} sub-calls x 20 ms in 4 batches, {refusals} x 429: all in place, none twice",
                "s",
                {name: value(trials, lambda t: t.first_cell) for name, trials in storm.items()},
            ),
            Figure(
                "... most in flight",
                "",
                {name: value(trials, lambda t: t.most_in_flight) for name, trials in storm.items()},
                target=CONCURRENCY,
            ),
        ]

    def memory(self) -> list[Figure]:
        """Peak memory of the command and of its container, over a look and some searches."""
        figures = []
        for item, results in self.rounds(self.plan.memory, lambda *_: ("search", 0), metered=True).items():
            contained = [contender.name for contender in self.lab.contenders if contender.container]
            figures += [
                Figure(f"peak memory of the command, {item.name}", "MB", values(results, peak), target=300),
                Figure(
                    "... of its container, without page cache",
                    "MB",
                    {name: container_peak(results[name]) for name in contained},
                    target=64,
                ),
            ]
        return figures

    def scan(self) -> list[Figure]:
        """Counting a pattern in the kernel, beside grep and scans by hand on the host, in turns."""
        figures: list[Figure] = []
        for item, index in self.plan.scans:
            try:
                figures += self.scans(item, index)
            except FailedError as error:
                figures.append(Figure(f"count in {item.name}", "s", {OURS: Value(reason=str(error))}))
        return figures

    def scans(self, item: Input, index: int) -> list[Figure]:
        context, patterns = self.lab.context(*item), SEARCHES[index]
        mine: list[Trial] = []
        others: dict[tuple[str, str], list[float]] = {}
        for _ in self.lab.repeats(self.plan.repeats):
            mine.append(self.lab.trial(self.lab.contenders[0], Job("search", index, context)))
            for pattern in patterns:
                for name, command in rivals(pattern).items():
                    ended = self.lab.command(command(context))
                    if int(ended.out) != self.lab.count(context, pattern):
                        raise FailedError(f"{name} counted {ended.out.strip()} of {pattern!r}")
                    others.setdefault((pattern, name), []).append(ended.seconds)
        figures = []
        for number, pattern in enumerate(patterns):
            ours = [trial.cell(number + 1) for trial in mine]
            theirs = {name: others[pattern, name] for name in rivals(pattern)}
            best = [min(round_) for round_ in zip(*theirs.values(), strict=True)]
            ratios = tuple(a / b for a, b in zip(ours, best, strict=True))
            figures += [
                Figure(f"count {pattern} in {item.name}", "s", {OURS: Value(tuple(ours))}),
                *(Figure(f"... {name}", "s", {OURS: Value(tuple(took))}) for name, took in theirs.items()),
                Figure(
                    "... ours over the best", "x", {OURS: Value(ratios)}, target=1.5 if is_literal(pattern) else 1.2
                ),
            ]
        return figures

    def answer(self) -> list[Figure]:
        """A large answer and a short one, in turns: until the command has ended, and its memory."""
        context = self.lab.context(KB)
        large: Results = {contender.name: [] for contender in self.lab.contenders}
        short: Results = {contender.name: [] for contender in self.lab.contenders}
        for _ in self.lab.repeats(self.plan.repeats):
            for contender in self.lab.contenders:
                self.attempt(short, contender, Job("answer", 10, context))
                self.attempt(large, contender, Job("answer", self.plan.answer_lines, context))
        added = {
            name: paired(large[name], short[name], lambda a, b: (a.ended.peak - b.ended.peak) / MB) for name in large
        }
        name = Input(self.plan.answer_lines * 100).name
        return [
            Figure(f"answer of {name}: submitted until the command ends", "s", values(large, after_answer), target=1.5),
            Figure("... an answer of 1 KB", "s", values(short, after_answer)),
            Figure("... memory of the command that it adds", "MB", added, target=16),
        ]

    def tokens(self) -> list[Figure]:
        """What the root is sent: tokens, and how much of a prompt is the previous one."""
        smallest = self.plan.looks[0]
        firsts = {name: got for name, got in self.looks([smallest])[smallest].items() if not isinstance(got, str)}
        texts: list[str] = []
        for trials in firsts.values():
            opening = trials[0].roots[0].messages
            texts += [opening[0][1], *map(harness_words, trials[0].roots[:PROMPTS])]
        counts = self.count_tokens(texts)
        of = {name: counts[i * (PROMPTS + 1) : (i + 1) * (PROMPTS + 1)] for i, name in enumerate(firsts)}
        system = {name: Value((first,)) for name, (first, *_) in of.items()}
        opening_tokens = {name: Value((first,)) for name, (_, first, *_) in of.items()}
        mean = {name: Value((sum(every) / PROMPTS,)) for name, (_, *every) in of.items()}
        growth = {name: Value(((every[-1] - every[0]) / (PROMPTS - 1),)) for name, (_, *every) in of.items()}
        kept = {name: Value((kept_share(trials[0].roots),)) for name, trials in firsts.items()}
        return [
            Figure("system prompt", "tokens", system, target=1200),
            Figure("system prompt and first message", "tokens", opening_tokens),
            Figure(f"harness's own words in a prompt, mean of {PROMPTS} turns", "tokens", mean),
            Figure("... more of them with every turn", "tokens", growth),
            Figure("share of a prompt that the next one keeps, least", "%", kept, target=100, at_least=True),
        ]

    def looks(self, items: Sequence[Input]) -> dict[Input, Results]:
        """The trials that look at an input turn after turn, for each of `items`."""
        if not all(item in self._looks for item in items):
            self._looks |= self.rounds(items, lambda contender, item: ("len", self.plan.turns(contender, item.size)))
        return {item: self._looks[item] for item in items}

    def rounds(
        self, items: Sequence[Input], script: Callable[[Contender, Input], tuple[Kind, int]], *, metered: bool = False
    ) -> dict[Input, Results]:
        """Every input with every contender, again and again, so that a slow minute of the machine hits all of them;
        once where memory is metered, which does not depend on the minute."""
        results: dict[Input, Results] = {item: {c.name: [] for c in self.lab.contenders} for item in items}
        for number in self.lab.repeats(1 if metered else self.plan.repeats):
            for item in items:
                for contender in self.lab.contenders:
                    if number >= self.plan.repeated(contender, item.size):
                        continue
                    if shortage := contender.shortage(item.size, item.writing, self.most_memory):
                        results[item][contender.name] = f"{item.name} {shortage}"
                        continue
                    job = Job(*script(contender, item), self.lab.context(*item))
                    self.attempt(results[item], contender, job, metered=metered)
        return results

    def alternate(
        self, job: Callable[[Contender], Job], *, repeats: int = 0, also: Callable[[], None] | None = None
    ) -> Results:
        """Every contender in turn, again and again."""
        results: Results = {contender.name: [] for contender in self.lab.contenders}
        for _ in self.lab.repeats(repeats or self.plan.repeats):
            for contender in self.lab.contenders:
                self.attempt(results, contender, job(contender))
            if also:
                also()
        return results

    def attempt(self, results: Results, contender: Contender, job: Job, *, metered: bool = False) -> None:
        """One more trial. A contender that failed is not run again, and its reason is kept."""
        so_far = results[contender.name]
        if isinstance(so_far, str):
            return
        try:
            so_far.append(self.lab.trial(contender, job, metered=metered))
        except FailedError as error:
            self.lab.say(f"{contender.name}: failed: {error}")
            if so_far and isinstance(error, OutOfTimeError):
                return  # what was measured stands
            results[contender.name] = str(error)

    def sandbox(self) -> list[Figure]:
        """A container of ours beside a bare one, until the kernel's worker is ready, and what its confinement takes."""
        rounds = str(6 * self.plan.repeats + 3)
        took = json.loads(self.lab.command([sys.executable, "-m", "rlm_cli.bench.containers", rounds]).out)
        confine = Value(tuple(took["confine"])).median or 0.0
        over = tuple(ours - bare + confine for ours, bare in zip(took["ours"], took["bare"], strict=True))
        return [
            Figure("create a container until its worker is ready", "ms", {OURS: Value(tuple(took["ours"]))}),
            Figure("... a bare container with the same kernel", "ms", {OURS: Value(tuple(took["bare"]))}),
            Figure("... ours over bare, its confinement counted", "ms", {OURS: Value(over)}, target=20),
            Figure("confine a worker, processor time", "ms", {OURS: Value(tuple(took["confine"]))}),
            Figure("... the system call filter alone", "ms", {OURS: Value(tuple(took["filter"]))}),
        ]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, by the tokenizer that LiteLLM ships (cl100k). Raises `FailedError`."""
        path = self.lab.folder / "texts.json"
        path.write_text(json.dumps(list(texts)), "utf-8")
        counts = json.loads(self.lab.command([*LITELLM_ENV, sys.executable, "-c", COUNT_TOKENS, str(path)]).out)
        return [int(count) for count in counts]


ROWS: dict[str, Callable[[Rows], list[Figure]]] = {
    "turn": Rows.turn,
    "look": Rows.look,
    "start": Rows.start,
    "help": Rows.help,
    "subcalls": Rows.subcalls,
    "fanout": Rows.fanout,
    "tokens": Rows.tokens,
    "memory": Rows.memory,
    "answer": Rows.answer,
    "scan": Rows.scan,
    "sandbox": Rows.sandbox,
}


def rivals(pattern: str) -> dict[str, Callable[[Context], list[str]]]:
    """What counts a pattern on the host: grep where it is a literal, which re could not be asked to match."""
    if is_literal(pattern):
        return {"grep -c": lambda context: scan_by_grep(context, pattern)}
    return {
        "re over mmap, 1 process": lambda context: scan_by_mmap(context, pattern, 1),
        "re over mmap, 2 processes": lambda context: scan_by_mmap(context, pattern, 2),
    }


def is_literal(pattern: str) -> bool:
    return pattern.replace(" ", "").isalnum()


def first_cell(trial: Trial) -> float:
    return trial.first_cell


def to_first_look(trial: Trial) -> float:
    return trial.to_first_look


def after_answer(trial: Trial) -> float:
    return trial.after_answer


def peak(trial: Trial) -> float:
    return trial.ended.peak / MB


def container_peak(trials: list[Trial] | str) -> Value:
    """Of the runs whose container could be metered; the reason when none could."""
    if isinstance(trials, str):
        return Value(reason=trials)
    peaks = tuple(trial.container / MB for trial in trials if isinstance(trial.container, int))
    return Value(peaks, next((trial.container for trial in trials if isinstance(trial.container, str)), ""))


def values(results: Results, read: Callable[[Trial], float]) -> dict[str, Value]:
    return {name: value(trials, read) for name, trials in results.items()}


def paired(one: list[Trial] | str, other: list[Trial] | str, read: Callable[[Trial, Trial], float]) -> Value:
    """One sample a pair of trials that ran one after the other."""
    if isinstance(one, str) or isinstance(other, str):
        return Value(reason=one if isinstance(one, str) else str(other))
    return Value(tuple(read(a, b) for a, b in zip(one, other, strict=False)))


def value(trials: list[Trial] | str, read: Callable[[Trial], float]) -> Value:
    """One sample a trial; a failed contender has its reason instead."""
    if isinstance(trials, str):
        return Value(reason=trials)
    return Value(tuple(read(trial) for trial in trials))


def harness_words(root: Seen) -> str:
    """A root prompt without the model's own replies: what the harness puts into it, the question and a number per turn
    (the output of the cell) included."""
    return "\n".join(text for role, text in root.messages if role != "assistant")


def kept_share(roots: Sequence[Seen]) -> float:
    """The least share, in percent, of a root prompt that stands unchanged at the head of the next one."""
    prompts = ["\0".join(f"{role}\1{text}" for role, text in root.messages) for root in roots]
    return min((100 * common_prefix(a, b) / len(a) for a, b in pairwise(prompts)), default=100.0)


def common_prefix(a: str, b: str) -> int:
    """How many characters two texts share at their start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
