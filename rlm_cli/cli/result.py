"""The result object: a fold of the run's own records plus how the loop ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import __version__
from ..engine import answer_data, answer_text
from ..errors import ExitCode, NoAnswerError, RlmError
from ..events import (
    AnswerFile,
    CallFinished,
    CallStarted,
    Citation,
    Compacted,
    ModelPair,
    Record,
    Result,
    RunStarted,
    SandboxInfo,
    SandboxReady,
    SourcesFacts,
    Status,
    StepFinished,
    Timing,
    Totals,
    Warned,
)
from ..sandbox import Answer
from ..task import Outcome
from .boundary import error_info


@dataclass
class Tally:
    """A listener that adds up what the result needs, so that it also exists for a run that crashed."""

    started: RunStarted | None = None
    began: float = 0.0
    last: float = 0.0
    ready_s: float = 0.0
    root_s: float = 0.0
    cells_s: float = 0.0
    iterations: int = 0
    compactions: int = 0
    depth: int = 0
    sandbox: SandboxInfo = SandboxInfo()
    mode: str = ""
    warnings: list[str] = field(default_factory=list)

    def __call__(self, record: Record) -> None:
        event, nested = record.event, record.span.depth > 0
        self.last = record.ts
        if isinstance(event, RunStarted):
            self.started, self.began, self.mode = event, record.ts, event.mode
        elif isinstance(event, CallStarted):
            self.depth = max(self.depth, record.span.depth + (event.role == "sub"))
        elif isinstance(event, Warned):
            self.warnings.append(f"child {record.span}: {event.message}" if nested else event.message)
        elif nested:
            return  # the rest is said of the root's own work
        elif isinstance(event, SandboxReady):
            self.sandbox, self.ready_s = event.sandbox, record.ts - self.began
            if self.mode == "direct" and self.started:  # one call could not hold it
                self.mode = "rlm" if self.started.limits.get("depth") else "rlm-d0"
        elif isinstance(event, CallFinished) and event.role != "sub":
            self.root_s += event.seconds
        elif isinstance(event, StepFinished):
            self.cells_s += event.cell_s
            self.iterations = max(self.iterations, event.step)
        elif isinstance(event, Compacted):
            self.compactions += 1


def exit_code_of(outcome: Outcome) -> ExitCode:
    """A partial answer is never 0: whatever made it partial has its code. A limit is 6 with or without one."""
    if outcome.status == "ok":
        return ExitCode.OK
    if outcome.limit:
        return ExitCode.LIMIT
    return outcome.error.exit_code if outcome.error is not None else ExitCode.NO_ANSWER


def no_answer() -> RlmError:
    """The loop ended by itself and nothing was submitted."""
    return NoAnswerError(
        "the model stopped without submitting an answer", hint="try a stronger --model, or a more specific question"
    )


def finished(
    tally: Tally,
    outcome: Outcome,
    error: RlmError | None,
    totals: Totals,
    *,
    log_dir: str | None,
    citations: tuple[Citation, ...] = (),
) -> Result:
    """The result of a run whose loop ended by itself, well or at a limit."""
    return _result(
        tally,
        totals,
        status=outcome.status,
        answer=outcome.answer,
        error=error,
        exit_code=exit_code_of(outcome),
        limit_hit=outcome.limit,
        log_dir=log_dir,
        citations=citations,
    )


def failed(tally: Tally, error: RlmError, totals: Totals, *, log_dir: str | None) -> Result:
    """The result of a run that ended in an error, also one that never started."""
    return _result(
        tally,
        totals,
        status="error",
        answer=None,
        error=error,
        exit_code=error.exit_code,
        limit_hit=None,
        log_dir=log_dir,
    )


def answer_file(answer: Answer | None) -> AnswerFile | None:
    """Where a large answer is; None for one that is held in memory."""
    if answer is None or isinstance(answer.data, bytes):
        return None
    file = answer.data
    return AnswerFile(str(file.path), file.size, file.sha256, answer.kind)


def _result(
    tally: Tally,
    totals: Totals,
    *,
    status: Status,
    answer: Answer | None,
    error: RlmError | None,
    exit_code: ExitCode,
    limit_hit: str | None,
    log_dir: str | None,
    citations: tuple[Citation, ...] = (),
) -> Result:
    started = tally.started or RunStarted("", __version__, "", ModelPair(), SourcesFacts())
    file = answer_file(answer)
    return Result(
        run_id=started.run_id,
        status=status,
        answer=None if file else answer_text(answer) if answer else "",
        data=answer_data(answer) if answer and not file else None,
        citations=citations,
        question=started.question,
        exit_code=int(exit_code),
        version=__version__,
        sources=started.sources,
        models=started.models,
        usage=totals.usage,
        cost=totals.cost,
        calls=totals.calls,
        iterations=tally.iterations,
        compactions=tally.compactions,
        depth=tally.depth,
        timing=Timing(
            round(tally.last - tally.began, 3), round(tally.ready_s, 3), round(tally.root_s, 3), round(tally.cells_s, 3)
        ),
        limit_hit=limit_hit,
        sandbox=tally.sandbox,
        mode=tally.mode,
        error=error_info(error) if error else None,
        warnings=tuple(tally.warnings),
        log_dir=log_dir,
        answer_file=file,
    )
