"""One run from corpus to result: listeners on the bus, the loop under signals, the result as the last record."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .. import __version__, config
from ..children import Children
from ..direct import ask_directly
from ..engine import run
from ..errors import Interrupted, LimitError, RlmError, SandboxError
from ..events import Bus, Citation, Listener, ModelPair, Preparing, Result, RunFinished, RunStarted, Totals, Warned
from ..prompts import InputFacts
from ..render.views import View
from ..routing import Mode
from ..sandbox import Answer
from ..sources import Corpus
from ..task import Check, Deps, Found, Limits, Outcome, Task, nothing_wrong
from .boundary import crash
from .interrupts import Interrupts, handling
from .result import Tally, failed, finished, no_answer
from .wiring import Models, Runtime


@dataclass(frozen=True)
class Plan:
    """Everything that is known before a run starts."""

    run_id: str
    question: str
    names: tuple[str, ...]
    corpus: Corpus
    facts: InputFacts
    models: ModelPair
    limits: Limits
    caps: Mapping[str, float | None] = field(default_factory=dict)
    mode: Mode = "rlm"
    mode_why: str = ""
    check: Check = nothing_wrong
    cite: bool = True
    """Whether the answer's evidence is asked for, and looked up."""
    schema: str = ""
    """The JSON Schema that `check` checks."""
    keep: Callable[[Answer], None] = lambda _answer: None
    """Gives a large answer the place where its result says that it is. Raises `RlmError`."""
    note: str = ""
    """What the person should know about the models (offline, chosen by key ...)."""
    warnings: tuple[str, ...] = ()
    skips: str = ""
    """The command that lists what was left out; "" when nothing was."""
    log_dir: str | None = None
    scratch: str | None = None
    """A folder of the run's own that nothing may be left of, not even by a second Ctrl-C."""

    @property
    def depth(self) -> int:
        """How deep sub-calls may recurse."""
        return int(self.caps.get("depth") or 0)


@dataclass(frozen=True)
class Ended:
    """A run's result, and the answer as bytes (the result has it as text)."""

    result: Result
    answer: Answer | None
    error: RlmError | None = None


def ask_once(
    plan: Plan,
    models: Models,
    box: Runtime,
    *,
    listeners: tuple[Listener, ...],
    view: View,
    debug: bool = False,
) -> Ended:
    """Run the plan in `view`. Every failure becomes the run's result, a bug of ours too: its record has an end."""
    tally, found = Tally(), Found()
    bus = Bus((tally, *listeners, view))
    bus.emit(
        RunStarted(
            plan.run_id,
            __version__,
            plan.question,
            plan.models,
            plan.corpus.facts,
            plan.caps,
            plan.names,
            plan.note,
            plan.mode,
            plan.mode_why,
            box.name,
            plan.skips,
        )
    )
    for warning in (*plan.warnings, *plan.corpus.notes):
        bus.emit(Warned(warning))
    try:
        ended = asyncio.run(_under_signals(plan, models, box, bus, tally, view, found))
    except KeyboardInterrupt:  # before the signals were ours
        ended = _failed(plan, tally, Interrupted("interrupted by Ctrl-C"), models.totals())
    except Exception as error:  # noqa: BLE001 - the run's edge: what was paid for is in the result
        ended = _stopped(plan, tally, bus, crash(error, debug=debug), found, models.totals())
    bus.emit(RunFinished(ended.result))
    return ended


async def _under_signals(
    plan: Plan, models: Models, box: Runtime, bus: Bus, tally: Tally, view: View, found: Found
) -> Ended:
    sandbox = box.sandbox(plan.run_id, bus.emit)
    task = Task(
        question=plan.question,
        documents=plan.corpus.documents,
        facts=plan.facts,
        root=plan.models.root,
        sub=plan.models.sub,
        windows=models.windows,
        aliases=models.aliases,
        refused=models.refused,
        limits=plan.limits,
        check=plan.check,
        cite=plan.cite,
        schema=plan.schema,
        depth=plan.depth,
    )
    children = Children(sandbox.child, sandbox.placed, box.folder, warn=lambda message: bus.emit(Warned(message)))
    deps = Deps(models.chain(bus.emit), sandbox, bus.emit, models.view, found=found, children=children)
    main = asyncio.ensure_future((ask_directly if plan.mode == "direct" else run)(task, deps))

    def kill() -> None:
        with ThreadPoolExecutor(max_workers=2) as pool:  # side by side: an engine may be slow to answer
            pool.map(lambda each: each.kill_now(), (children, sandbox))
        if plan.scratch is not None:
            shutil.rmtree(plan.scratch, ignore_errors=True)

    interrupts = Interrupts(main, view.say, view.close, kill)
    with handling(interrupts):
        try:
            outcome = await main
            for change in await sandbox.changes():
                bus.emit(Warned(change))
            citations = await _citations(plan, outcome.answer, box.text_limit, bus, interrupts)
            ended = _ended(plan, tally, outcome, models.totals(), citations)
        except asyncio.CancelledError:
            ended = _stopped(plan, tally, bus, interrupts.error(), found, models.totals())
        except RlmError as error:
            ended = _failed(plan, tally, error, models.totals())
        finally:
            await children.close()
            await _close(sandbox.close(), bus)
            await models.close()
    return ended


async def _citations(
    plan: Plan, answer: Answer | None, text_limit: int, bus: Bus, interrupts: Interrupts
) -> tuple[Citation, ...]:
    """The answer's evidence, looked up in the input. Ctrl-C ends that, and not the answer."""
    if answer is None or not answer.evidence or not plan.cite:
        return ()
    from ..citations import check  # it takes the kernel's decoders with it

    return await asyncio.to_thread(
        check,
        answer.evidence,
        plan.corpus.documents,
        text_limit=text_limit,
        cancelled=lambda: interrupts.received is not None,
        on_progress=Ticks(lambda done, total: bus.emit(Preparing("looking up the quotes", done, total))),
    )


class Ticks:
    """Passes progress on once something has taken a second, ten times a second."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell
        self._next = time.monotonic() + 1.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 0.1
            self._tell(done, total)


def _ended(plan: Plan, tally: Tally, outcome: Outcome, totals: Totals, citations: tuple[Citation, ...] = ()) -> Ended:
    error = outcome.error or (no_answer() if outcome.status == "no_answer" else None)
    if isinstance(error, LimitError) and not error.hint and (key := config.KEYS.get(f"limits.{error.limit}")):
        error = LimitError(error.limit, error.message, hint=f"raise {key.flag}")  # the engine knows no flags
    if outcome.answer is not None:
        plan.keep(outcome.answer)
    return Ended(
        finished(tally, outcome, error, totals, log_dir=plan.log_dir, citations=citations), outcome.answer, error
    )


def _stopped(plan: Plan, tally: Tally, bus: Bus, error: RlmError, found: Found, totals: Totals) -> Ended:
    """A person's or the system's decision, or a bug of ours: what was found until then is still worth something."""
    if found.answer is None or plan.limits.on_limit == "fail":
        return _failed(plan, tally, error, totals)
    bus.emit(Warned(found.note))
    return _ended(plan, tally, Outcome("partial", found.answer, found.iterations, None, error), totals)


def _failed(plan: Plan, tally: Tally, error: RlmError, totals: Totals) -> Ended:
    return Ended(failed(tally, error, totals, log_dir=plan.log_dir), None, error)


async def _close(closing: Coroutine[None, None, None], bus: Bus) -> None:
    """A container that cannot be removed is worth a warning, never the answer."""
    try:
        await closing
    except SandboxError as error:
        bus.emit(Warned(f"{error.message} {error.hint}".strip()))
