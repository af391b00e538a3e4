"""`rlm runs`: what was recorded. No key, no container, no network."""

from __future__ import annotations

import codecs
import json as json_module
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import config, runlog, units
from ..errors import InputError, UsageError
from ..events import AnswerFile, Result, StepStarted, record_to_json, to_json
from ..render.sanitize import clean_pieces
from . import options, show
from .run_markdown import as_markdown
from .scratch import sweep

STATUSES = ("ok", "partial", "no_answer", "error", "running", "crashed")
NARROW = 100

RunRef = Annotated[str, typer.Argument(metavar="[RUN]", help="an id, a part of one that is unique, or last")]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="ids, unique parts of them, or last")]
DryRun = Annotated[bool, typer.Option("-n", "--dry-run", help="only say what would go")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="do not ask")]


def list_newest(ctx: typer.Context) -> None:
    """Plain `rlm runs`."""
    list_(ctx)


app = options.command_group(
    """List, show, replay and export past runs.

    \b
      rlm runs                     the newest runs
      rlm runs show last --code    the programs of the last run
      rlm runs replay              watch the last run again: free, no key, no container
    """,
    default=list_newest,
)


@app.command("list", cls=options.Command)
def list_(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=0, help="the newest N; 0: all")] = 20,
    status: Annotated[str, typer.Option("--status", help="ok, partial, no_answer, error, running or crashed")] = "",
    model: Annotated[str, typer.Option("-m", "--model", metavar="ID", help="only of this model")] = "",
    since: Annotated[str, typer.Option("--since", metavar="DUR", help="not older than, such as 7d")] = "",
    search: Annotated[str, typer.Option("--search", metavar="TEXT", help="in question and sources")] = "",
    json: options.Json = False,
) -> None:
    """List runs, newest first."""
    settings, places = options.settings(ctx), options.places(ctx)
    if status and status not in STATUSES:
        raise UsageError(f"--status: {status!r} is not one of {', '.join(STATUSES)}")
    oldest = time.time() - _seconds(since, "--since") if since else 0.0
    found: list[runlog.RunHeader] = []
    for header in runlog.list_runs(places.runs):
        if header.started < oldest:
            break
        if _matches(header, status, model, search):
            found.append(header)
        if limit and len(found) == limit:
            break
    if json:
        show.as_json({"schema_version": 1, "runs": [_header_facts(header) for header in found]})
    elif found:
        _print_headers(settings, found)
    else:
        show.note(settings, f"no runs in {places.runs}" if not (status or model or since or search) else "no such runs")


def _matches(header: runlog.RunHeader, status: str, model: str, search: str) -> bool:
    text = " ".join((header.question, *header.names)).lower()
    models = (header.models.root, header.models.sub)
    return (not status or header.status == status) and (not model or model in models) and search.lower() in text


def _print_headers(settings: config.Settings, headers: Sequence[runlog.RunHeader]) -> None:
    """A table; a narrow terminal has no room for the models, and the question says more."""
    from ..render.tables import Column

    narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < NARROW
    rows = []
    for header in headers:
        result = header.result
        cost = "" if result is None else units.money(result.cost.usd) if result.cost.known else "?"
        seconds = units.human_seconds(result.timing.total_s) if result else ""
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(header.started)) if header.started else ""
        models = [] if narrow else [header.models.root]
        rows.append([header.id, when, header.status, cost, seconds, *models, header.question])
    names = ("run", "started", "status", "cost", "time", *(() if narrow else ("model",)), "question")
    columns = [
        Column(name, "right" if name in ("cost", "time") else "left", keep=name in ("run", "started")) for name in names
    ]
    show.table(settings, columns, rows)


def _header_facts(header: runlog.RunHeader) -> dict[str, Any]:
    return {
        "id": header.id,
        "path": str(header.path),
        "started": header.started,
        "status": header.status,
        "question": header.question,
        "models": to_json(header.models),
        "names": list(header.names),
        "version": header.version,
        "cost": to_json(header.result.cost) if header.result else None,
        "duration_s": header.result.timing.total_s if header.result else None,
        "exit_code": header.result.exit_code if header.result else None,
    }


@app.command("show", cls=options.Command)
def show_(
    ctx: typer.Context,
    run: RunRef = "last",
    answer: Annotated[bool, typer.Option("--answer", help="the answer")] = False,
    steps: Annotated[bool, typer.Option("--steps", help="each step: words, code, output")] = False,
    subcalls: Annotated[bool, typer.Option("--subcalls", help="each sub-call")] = False,
    code: Annotated[bool, typer.Option("--code", help="the programs, to copy")] = False,
    step: Annotated[int | None, typer.Option("--step", metavar="N", help="of --code: only this step's")] = None,
    cost: Annotated[bool, typer.Option("--cost", help="calls, tokens and dollars by role and model")] = False,
    sources: Annotated[bool, typer.Option("--sources", help="what was read")] = False,
    json: options.Json = False,
) -> None:
    """Show a run: all of it in short, or the parts you name."""
    from ..render.show import Part, ShowOptions, print_show

    settings, directory = options.settings(ctx), _find(ctx, run)
    _check_step(directory, step, "--step")
    if json:
        result = runlog.read_result(directory)
        show.as_json(to_json(result) if result else _header_facts(runlog.read_header(directory)))
        return
    wanted: dict[Part, bool] = {
        "answer": answer,
        "steps": steps,
        "subcalls": subcalls,
        "code": code or step is not None,
        "cost": cost,
        "sources": sources,
    }
    parts = tuple(part for part, is_wanted in wanted.items() if is_wanted)
    result = runlog.read_result(directory) if parts == ("answer",) else None
    if result and (result.answer_file or not sys.stdout.isatty()):
        _print_answer(settings, directory, result)
        return
    chosen = ShowOptions(parts, step) if parts else ShowOptions(step=step)
    show.paged(settings, lambda stream, look: print_show(stream, runlog.read_run(directory), chosen, look=look))


def _check_step(directory: Path, step: int | None, option: str) -> None:
    """Raises `UsageError` when the run has no such step: nothing would be shown, and nobody told why."""
    if step is None:
        return
    root = (record.event for record in runlog.read_run(directory) if not record.span.depth)
    steps = {event.step for event in root if isinstance(event, StepStarted)}
    if step not in steps:
        had = f"1 to {max(steps)}" if steps else "none"
        raise UsageError(f"{option} {step}: the run's steps are {had}", hint=f"rlm runs show {directory.name} --steps")


@app.command(cls=options.Command)
def replay(
    ctx: typer.Context,
    run: RunRef = "last",
    speed: Annotated[float, typer.Option("--speed", metavar="N", help="times the recorded pace")] = 4.0,
    no_delay: Annotated[bool, typer.Option("--no-delay", help="as fast as it can be drawn")] = False,
    from_step: Annotated[int | None, typer.Option("--from", metavar="STEP", help="begin at this step")] = None,
) -> None:
    """Draw a run again as it was seen: no calls, no key, no container. The answer goes to stdout."""
    from ..render.citations import print_citations
    from ..render.look import look_for
    from ..render.replay import replay as draw
    from ..render.views import view_for

    if not 0.01 <= speed <= 1000:
        raise UsageError(f"--speed {speed:g}: it is between 0.01 and 1000", hint="--no-delay")
    settings, directory, env = options.settings(ctx), _find(ctx, run), config.environment()
    _check_step(directory, from_step, "--from")
    look = look_for(sys.stderr, color=settings.output.color, env=env, verbosity=settings.run.verbose)
    view = view_for(sys.stderr, look, progress=settings.output.progress, quiet=settings.run.quiet, clock=None)
    try:
        draw(runlog.read_run(directory), view, speed=speed, no_delay=no_delay, from_step=from_step)
    finally:
        view.close()
    if result := runlog.read_result(directory):
        _print_answer(settings, directory, result)
        if not settings.run.quiet:
            print_citations(sys.stderr, result.citations, look=look)


def _print_answer(settings: config.Settings, directory: Path, result: Result) -> None:
    """The answer of a recorded run on stdout, as its own command printed it."""
    from ..render.answer import print_answer, print_pieces
    from ..render.look import look_for

    look = look_for(sys.stdout, color=settings.output.color, env=config.environment())
    if file := result.answer_file:
        print_pieces(runlog.read_answer(directory, file), sys.stdout, look=look, exact=file.kind == "bytes")
    elif result.answer:
        print_answer(result.answer, sys.stdout, look=look)


@app.command(cls=options.Command)
def path(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="without it: the folder of all runs")] = None,
) -> None:
    """Print the folder of a run, or of all runs."""
    show.line(str(_find(ctx, run) if run else options.places(ctx).runs))


@app.command(cls=options.Command)
def export(
    ctx: typer.Context,
    runs: Runs,
    to: Annotated[
        str, typer.Option("--to", metavar="json|jsonl|md", help="json: the result and every record")
    ] = "json",
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE|-", help="instead of stdout")] = "-",
) -> None:
    """Write runs out: as JSON, as the lines of --events, or as a Markdown report."""
    if to not in ("json", "jsonl", "md"):
        raise UsageError(f"--to {to}: it is json, jsonl or md")
    directories = [_find(ctx, run) for run in runs]
    pieces = (piece for directory in directories for piece in _exported(directory, to))
    if output == "-":
        sys.stdout.writelines(pieces)
        return
    try:
        with Path(output).open("w", encoding="utf-8") as file:
            file.writelines(pieces)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from error


def _exported(directory: Path, to: str) -> Iterator[str]:
    """A large answer, which the records only name, is in the report and in the result: they may go elsewhere."""
    records = runlog.read_run(directory)
    if to == "jsonl":
        yield from (json_module.dumps(record_to_json(record)) + "\n" for record in records)
        return
    result = runlog.read_result(directory)
    answer = _answer_texts(directory, result.answer_file) if result and result.answer_file else None
    if to == "md":
        # A report is read, by `cat` or in a browser; whoever wants the bytes takes the JSON.
        yield from clean_pieces(as_markdown(records, answer or ()))
        return
    mark = secrets.token_hex(16)
    shown = replace(result, answer=mark) if result and answer else result
    events = [record_to_json(record) for record in records]
    whole = json_module.dumps({"schema_version": 1, "result": to_json(shown), "events": events}) + "\n"
    before, _, after = whole.partition(mark)
    yield before
    yield from (json_module.dumps(text)[1:-1] for text in answer or ())
    yield after


def _answer_texts(directory: Path, file: AnswerFile) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    yield from map(decoder.decode, runlog.read_answer(directory, file))
    yield decoder.decode(b"", final=True)


@app.command(cls=options.Command)
def rm(ctx: typer.Context, runs: Runs, dry_run: DryRun = False, yes: Yes = False) -> None:
    """Remove runs."""
    settings, root = options.settings(ctx), options.places(ctx).runs
    directories = list(dict.fromkeys(_find(ctx, run) for run in runs))
    if running := [d.name for d in directories if runlog.read_header(d).status == "running"]:
        raise InputError(f"{running[0]} is still running", hint="stop it first", code="run_running")
    for directory in directories:
        print(directory.name)
    if dry_run or not _confirmed(settings, f"remove {_runs(len(directories))}?", yes=yes):
        return
    for directory in directories:
        runlog.remove_run(root, directory.name)
    show.note(settings, f"removed {_runs(len(directories))}")


@app.command(cls=options.Command)
def prune(
    ctx: typer.Context,
    older_than: Annotated[str, typer.Option("--older-than", metavar="DUR", help="such as 30d")] = "",
    keep: Annotated[int | None, typer.Option("--keep", metavar="N", min=0, help="the newest N always stay")] = None,
    max_size: Annotated[str, typer.Option("--max-size", metavar="SIZE", help="the oldest go until all fit")] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Remove old runs: by the options, or by logs.keep_days and logs.max_bytes. Running ones stay.

    What killed commands left in the cache goes too.
    """
    settings, root = options.settings(ctx), options.places(ctx).runs
    age = _seconds(older_than, "--older-than") if older_than else None
    size = _bytes(max_size) if max_size else None
    if age is None and size is None and keep is None:
        age = settings.logs.keep_days * 86400.0 if settings.logs.keep_days else None
        size = settings.logs.max_bytes
    if not dry_run:
        sweep(options.places(ctx))
    planned = runlog.prune(root, older_than=age, keep=keep, max_size=size, dry_run=True)
    for header in planned.runs:
        print(header.id)
    what = f"{_runs(len(planned.runs))}, {units.human_bytes(planned.bytes)}"
    if dry_run or not planned.runs:
        show.note(settings, f"would remove {what}" if planned.runs else "nothing to remove")
        return
    if _confirmed(settings, f"remove {what}?", yes=yes):
        for header in planned.runs:
            runlog.remove_run(root, header.id)
        show.note(settings, f"removed {what}")


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"


def _confirmed(settings: config.Settings, question: str, *, yes: bool) -> bool:
    """Asks a person at a terminal; without one the command itself is the decision."""
    if yes or not sys.stdin.isatty():
        return True
    if settings.run.no_input:
        raise UsageError("this needs a confirmation, and --no-input forbids to ask", hint="add -y")
    return typer.confirm(question, err=True)


def _find(ctx: typer.Context, run: str) -> Path:
    return runlog.find_run(options.places(ctx).runs, run)


def _seconds(text: str, flag: str) -> float:
    try:
        return units.parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _bytes(text: str) -> int:
    try:
        return units.parse_size(text)
    except ValueError as error:
        raise UsageError(f"--max-size: {error}") from None
