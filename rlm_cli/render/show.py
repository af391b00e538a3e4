"""`rlm runs show`: a recorded run, or the parts of it that were asked for, as text. Pure folds of its records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TextIO

from rich.text import Text

from ..events import (
    CallFinished,
    CallStarted,
    ChildFinished,
    CodeWritten,
    Compacted,
    KernelRestarted,
    LimitReached,
    Output,
    Record,
    Result,
    RunFinished,
    RunStarted,
    Span,
    StepFinished,
    StepStarted,
    Usage,
    Warned,
)
from ..units import compact_count, human_bytes, human_count, human_seconds, money
from . import format as fmt
from .citations import citation_lines
from .live import closing_lines, header_block
from .look import Look, print_lines, width_of
from .progress import Progress
from .sanitize import clean, clean_line
from .tables import Column, table_lines

Part = Literal["summary", "answer", "steps", "subcalls", "code", "cost", "sources"]
_SNIPPET = 60


@dataclass(frozen=True)
class ShowOptions:
    """What to show: `parts` in order; `step` narrows "code" to one step. `width` in cells."""

    parts: tuple[Part, ...] = ("summary", "steps", "answer")
    step: int | None = None
    width: int = 80
    verbose: bool = False


@dataclass
class _Run:
    """A run gathered for showing: prompts and replies of sub-calls are kept only as snippets."""

    started: RunStarted | None = None
    result: Result | None = None
    finished: RunFinished | None = None
    steps: list[Text] = field(default_factory=list)
    calls: dict[str, list[str]] = field(default_factory=dict)
    code: list[tuple[int, str]] = field(default_factory=list)
    children: dict[Span, list[Text]] = field(default_factory=dict)
    """The lines of child runs that are not over."""
    progress: Progress = Progress()


def show(records: Iterable[Record], options: ShowOptions | None = None) -> list[Text]:
    """The lines of the parts asked for, parts separated by an empty line."""
    options = options or ShowOptions()
    run = _Run()
    for record in records:
        _gather(run, record, options)
    for unfinished in run.children.values():
        run.steps += fmt.fitted(unfinished, options.width)
    lines: list[Text] = []
    for part in options.parts:
        block = _part(part, run, options)
        lines += ([Text()] if lines and block else []) + block
    return lines


def print_show(stream: TextIO, records: Iterable[Record], options: ShowOptions, *, look: Look) -> None:
    """`show` at the width of `stream`: the window on a terminal, 120 columns in a pipe."""
    width = width_of(stream, look) if look.tty or look.width else 120
    sized = ShowOptions(options.parts, options.step, width, options.verbose or look.verbosity > 0)
    print_lines(stream, show(records, sized), look=look)


def _gather(run: _Run, record: Record, options: ShowOptions) -> None:
    run.progress = run.progress.after(record)
    event = record.event
    if isinstance(event, CallStarted | CallFinished):
        _gather_call(run, event)
    if record.span.depth:
        _gather_child(run, record, options)
        return
    if isinstance(event, RunStarted):
        run.started = event
    elif isinstance(event, RunFinished):
        run.finished, run.result = event, event.result
    elif isinstance(event, CodeWritten) and event.code:
        run.code.append((event.step, event.code))
    run.steps += _step_lines(run, record, options)


def _gather_child(run: _Run, record: Record, options: ShowOptions) -> None:
    """Children run side by side: each one's lines stand together, with those of its own children, where it ended."""
    event, span = record.event, record.span
    lines = run.children.setdefault(span, [])
    room = Text("  " * (span.depth + 1))
    if isinstance(event, CodeWritten) and options.verbose:
        code = fmt.code_block(event.code, options.width - len(room), verbose=True)
        lines += [room + line for line in code]
    elif isinstance(event, Warned | LimitReached | KernelRestarted | Compacted):
        lines.append(Text(fmt.branch(span) + fmt.notice_text(event), "yellow"))
    elif text := fmt.child_text(record):
        lines.append(Text(text, "dim"))
    if isinstance(event, ChildFinished):
        del run.children[span]
        parent = Span(span.path[:-1])
        above = run.children.setdefault(parent, []) if parent.depth else run.steps
        above += fmt.fitted(lines, options.width)


def _gather_call(run: _Run, event: CallStarted | CallFinished) -> None:
    if event.role != "sub":
        return
    if isinstance(event, CallStarted):
        run.calls[event.call] = [
            clean_line(event.call, 12),
            str(event.step),
            clean_line(event.model, 32),
            "running",
            "",
            "",
            "",
            clean_line(event.prompt, _SNIPPET),
        ]
        return
    row = run.calls.setdefault(
        event.call, [clean_line(event.call, 12), str(event.step), clean_line(event.model, 32)] + [""] * 5
    )
    row[3] = clean_line(event.error.code, 24) if event.error else "cached" if event.cached else "ok"
    row[4] = compact_count(event.usage.total)
    row[5] = "?" if event.cost_usd is None else money(event.cost_usd)
    row[6] = human_seconds(event.seconds)


def _step_lines(run: _Run, record: Record, options: ShowOptions) -> list[Text]:
    event, width = record.event, options.width
    match event:
        case StepStarted(step=step):
            return [*([Text()] if run.steps else []), fmt.rule(step)]
        case CodeWritten(reply=reply, code=code) if not run.progress.direct or options.verbose:
            prose = fmt.prose_block(fmt.prose_of(reply, code), width, verbose=options.verbose)
            block = fmt.code_block(code, width, verbose=options.verbose)
            return [*prose, *([Text()] if prose and block else []), *block, *([Text()] if block else [])]
        case Output(text=text, total=total, stream=stream):
            return fmt.output_block(text, total, width, error=stream == "stderr", verbose=options.verbose)
        case StepFinished():
            return fmt.wrapped(Text(fmt.step_facts(run.progress, event), "dim"), width, first=Text("  "))
        case Warned() | LimitReached() | KernelRestarted() | Compacted():
            return fmt.wrapped(Text(fmt.notice_text(event), "yellow"), width)
    return []


# -- the parts -----------------------------------------------------------------------------------------------------


def _part(part: Part, run: _Run, options: ShowOptions) -> list[Text]:
    match part:
        case "summary":
            return _summary(run, options)
        case "answer":
            return _answer(run)
        case "steps":
            return run.steps
        case "subcalls":
            return _subcalls(run, options.width)
        case "code":
            return _code(run, options.step)
        case "cost":
            return _cost(run, options.width)
        case "sources":
            return _sources(run)


def _summary(run: _Run, options: ShowOptions) -> list[Text]:
    width = options.width
    if run.started is None:
        return [Text("the record of this run is empty", "yellow")]
    header = fmt.fitted(header_block(run.started), width)
    room = width - 2
    question = [Text("  ") + row for row in fmt.prose_block(run.started.question, room, verbose=options.verbose)]
    if run.finished is None:
        return [*header, Text(), *question, Text(), Text("✗ it did not finish", "red")]
    error = run.finished.result.error
    why = [Text("  ") + row for row in fmt.prose_block(error.message, room, verbose=options.verbose)] if error else []
    return [*header, Text(), *question, *fmt.fitted(closing_lines(run.finished), width), *why]


def _answer(run: _Run) -> list[Text]:
    """The whole answer, cleaned and not wrapped, or where a large one is; below it its evidence."""
    if run.result is None:
        return []
    evidence = citation_lines(run.result.citations, most=len(run.result.citations))
    return [*_answer_itself(run.result), *([Text()] if evidence else []), *evidence]


def _answer_itself(result: Result) -> list[Text]:
    if file := result.answer_file:
        how = f"rlm runs show {clean_line(result.run_id)} --answer"
        return [Text(f"the answer has {human_bytes(file.bytes)} of {file.kind}: {how}")]
    return [Text(line) for line in clean(result.answer).split("\n")] if result.answer else []


def _code(run: _Run, only: int | None) -> list[Text]:
    """Programs as they were written: unfolded, so that they can be copied."""
    chosen = [(step, code) for step, code in run.code if only in (None, step)]
    lines: list[Text] = []
    for step, code in chosen:
        lines += [*([Text(f"# step {step}", "dim")] if only is None else []), *fmt.code_lines(code)]
    return lines


def _subcalls(run: _Run, width: int) -> list[Text]:
    columns = [
        Column("call"),
        Column("step", "right"),
        Column("model"),
        Column("status"),
        Column("tokens", "right"),
        Column("cost", "right"),
        Column("time", "right"),
        Column("prompt", style="dim"),
    ]
    return table_lines(columns, list(run.calls.values()), width=width) if run.calls else [Text("no sub-calls")]


def _cost(run: _Run, width: int) -> list[Text]:
    """Spending by role and by model; the totals of a run that did not finish are those of its last call."""
    totals, by_role = run.progress.totals, run.progress.totals.usage
    columns = [Column(""), *(Column(name, "right") for name in ("calls", "input", "cached", "output", "reasoning"))]
    rows = [
        [name, calls, *(human_count(n) for n in (usage.input, usage.cached, usage.output, usage.reasoning))]
        for name, calls, usage in (
            ("root", human_count(totals.calls.root), by_role.root),
            ("sub", human_count(totals.calls.sub), by_role.sub),
            ("total", human_count(totals.calls.total), by_role.total),
        )
    ]
    lines = table_lines(columns, rows, width=width)
    retries = [Text(f"{human_count(totals.calls.retries)} of the calls were retries")] if totals.calls.retries else []
    if saved := fmt.saved_text(totals.calls.cached, totals.cost):
        retries.append(Text(saved))
    if totals.calls.children:
        retries.append(Text(f"{human_count(totals.calls.children)} of the root calls were turns of child runs"))
    models = [_model_row(name, usd, by_role.by_model.get(name)) for name, usd in sorted(totals.cost.by_model.items())]
    headings = [Column("model"), *(Column(name, "right") for name in ("input", "cached", "output", "cost"))]
    table = table_lines(headings, models, width=width) if models else []
    return [*lines, *retries, Text(), *table, Text(f"{fmt.spent_text(totals)}{fmt.cached_text(by_role.total)}")]


def _model_row(name: str, usd: float, usage: Usage | None) -> list[str]:
    """What one model took; records of an earlier version have no tokens by model."""
    tokens = ["?"] * 3 if usage is None else [human_count(n) for n in (usage.input, usage.cached, usage.output)]
    return [clean_line(name, 60), *tokens, money(usd)]


def _sources(run: _Run) -> list[Text]:
    if run.started is None:
        return []
    facts = run.started.sources
    lines = [
        *(clean_line(name, None) for name in run.started.names),
        fmt.facts_text(facts),
        str(facts.skipped),
    ]
    return [Text(line) for line in lines if line]
