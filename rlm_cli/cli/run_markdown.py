"""A recorded run as a Markdown report: a fold of its records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from .. import units
from ..events import CodeWritten, Output, Record, Result, RunFinished, RunStarted, StepStarted
from ..render.citations import citation_lines
from ..render.format import counted


def as_markdown(records: Iterable[Record], answer: Iterable[str] = ()) -> Iterator[str]:
    """The report of the root run; children are only in its totals. `answer`: a large one, in pieces."""
    before = ""
    for record in records:
        for part in [] if record.span.depth else _part(record, answer):
            yield before
            yield from [part] if isinstance(part, str) else part
            before = "\n\n"
    yield "\n"


def _part(record: Record, answer: Iterable[str]) -> Sequence[str | Iterable[str]]:
    match record.event:
        case RunStarted() as event:
            models = event.models.root + (f", sub-calls {event.models.sub}" if event.models.sub else "")
            read = f"{counted(event.sources.files, 'file')}, {units.human_bytes(event.sources.bytes)}"
            return [f"# Run {event.run_id}", _quoted(event.question), f"Models: {models}. Sources: {read}."]
        case StepStarted(step=step):
            return [f"## Step {step}"]
        case CodeWritten(reply=reply, code=code):
            # A reply without code is all there is to show; with it, the code says it better than its fences.
            return [fenced(code, "python")] if code else [_quoted(reply)]
        case Output(text=text, stream=stream):
            return [f"{stream}:", fenced(text, "")]
        case RunFinished(result=result):
            return ["## Answer", *_ending(result, answer)]
    return []


def _ending(result: Result, answer: Iterable[str]) -> Sequence[str | Iterable[str]]:
    cost = units.money(result.cost.usd) if result.cost.known else "unknown cost"
    calls, took = counted(result.calls.total, "call"), units.human_seconds(result.timing.total_s)
    facts = f"{result.status}, {calls}, {cost}, {took}"
    error = [f"{result.error.code}: {result.error.message}"] if result.error else []
    said = [answer] if result.answer_file else [result.answer] if result.answer else []
    evidence = "\n".join(line.plain for line in citation_lines(result.citations, most=len(result.citations)))
    return [*said, *([fenced(evidence, "")] if evidence else []), *error, f"({facts})"]


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.removesuffix(chr(10))}\n{fence}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
