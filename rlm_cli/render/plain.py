"""Plain lines for pipes, CI and dumb terminals: one line a step, never an escape byte."""

from __future__ import annotations

from typing import TextIO

from ..events import (
    CallRetried,
    CodeWritten,
    Compacted,
    KernelRestarted,
    LimitReached,
    Output,
    PromptSet,
    Record,
    RunFinished,
    RunStarted,
    SandboxReady,
    StepFinished,
    Warned,
)
from . import format as fmt
from .look import Look, writable
from .progress import Progress
from .sanitize import clean_line

_PREFIX = "rlm: "
_INDENT = "    "
_ALL = 10**9


class PlainLines:
    """A listener that writes whole lines and flushes each. With -v also code and output, with -vv the prompts."""

    name = "plain view"

    def __init__(self, stream: TextIO, look: Look) -> None:
        self._out = writable(stream, look)
        self._verbosity = look.verbosity
        self._progress = Progress()
        self._noted = set[tuple[int, str]]()

    def __call__(self, record: Record) -> None:
        """Write what `record` says, if it says anything."""
        self._progress = self._progress.after(record)
        lines = self._lines(record)
        if lines:
            self._out.write("".join(f"{line}\n" for line in lines))
            self._out.flush()

    def say(self, text: str) -> None:
        """A line that is no record."""
        self._out.write(f"{_PREFIX}{clean_line(text)}\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing is held."""

    def _lines(self, record: Record) -> list[str]:
        event = record.event
        if isinstance(event, Warned | LimitReached | KernelRestarted | Compacted):
            return [_PREFIX + fmt.branch(record.span) + fmt.notice_text(event)]
        if isinstance(event, CallRetried):
            return self._retry(event)
        if record.span.depth:
            line = fmt.child_text(record)
            return [_PREFIX + line] if line else []
        match event:
            case RunStarted():
                mode = [fmt.mode_text(event)] if event.mode and self._verbosity else []
                return [_PREFIX + line.removeprefix("rlm ") for line in [*fmt.header_lines(event), *mode]]
            case StepFinished():
                return [_PREFIX + fmt.step_facts(self._progress, event)]
            case RunFinished(result=result):
                hint = fmt.show_hint(result)
                return [_PREFIX + fmt.closing_text(result), *([f"{_PREFIX}see {hint}"] if hint else [])]
        return self._more(record) if self._verbosity else []

    def _more(self, record: Record) -> list[str]:
        match record.event:
            case SandboxReady() as event:
                return [_PREFIX + fmt.ready_text(event)]
            case CodeWritten(step=step, reply=reply, code=code) if not self._progress.direct:
                words = _block(f"step {step} words", fmt.prose_of(reply, code))
                return words + (_block(f"step {step} code", code) if code else [])
            case Output(step=step, stream=stream, text=text):
                return _block(f"step {step} {stream}", text)
            case PromptSet(system=system, user=user) if self._verbosity > 1:
                return _block("system prompt", system) + _block("user prompt", user)
        return []

    def _retry(self, event: CallRetried) -> list[str]:
        """Every retry of the root, and the first of its kind among a step's sub-calls."""
        key = (self._progress.step, event.reason)
        if event.call != self._progress.root_call and key in self._noted:
            return []
        self._noted.add(key)
        return [_PREFIX + fmt.retry_text(event)]


def _block(title: str, text: str) -> list[str]:
    lines = fmt.fold(text, _ALL, 0, chars=_ALL)
    return [f"{_PREFIX}{title}", *(f"{_INDENT}{line}".rstrip() for line in lines)] if lines else []
