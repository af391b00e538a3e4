"""`rlm ask [SOURCES]... QUESTION`: read the line, read the sources, run, and hand over the answer."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

import typer

from .. import config, sources
from ..engine import Limits, answer_text
from ..errors import ConfigError, ExitCode, InputError, Interrupted, RlmError, UsageError
from ..events import Listener, Result
from ..render.answer import print_answer
from ..render.look import Look, look_for
from ..render.sanitize import clean_line
from ..render.ticker import Ticker
from ..render.views import view_for
from ..runlog import RunLog, make_private, new_run_id
from ..sandbox import Answer
from ..sources.archives import FOLDER as UNPACKED
from ..sources.arguments import STDIN, Line, Parsed, split_arguments
from ..sources.stdin import carries_data, stdin_kind
from ..sources.summary import summary_line
from ..units import money
from . import answer_schema, options, reading, show
from .boundary import failure_lines, guard_stdout, report
from .dry_run import cost_range, plan_json, plan_lines
from .output import STDOUT_NAMES, EventLines, FileSink, Sink, result_line, writes_to
from .session import Ended, Plan, ask_once
from .wiring import Docker, Models, check_sizes

EXAMPLES = """\b
Examples:
  rlm ask logs/ "What failed first, and why?"
  journalctl -o cat | rlm ask "Which unit restarts most often?"
  rlm ask a.log b.log -Q "Which of the two is missing requests?" --json
  rlm ask contracts/ "Which contracts renew automatically?" -n
"""


@dataclass(frozen=True)
class Invocation:
    """One `rlm ask`, as typed and configured."""

    settings: config.Settings
    places: config.Places
    parsed: Parsed
    source_options: sources.SourceOptions
    output: str | None
    schema: str | None
    raw: bool
    dry_run: bool
    yes: bool
    interactive: bool
    cost_given: bool
    """Whether the dollar cap is the user's own and not the default: only then an unknown price is refused."""


def ask(
    ctx: typer.Context,
    arguments: options.Arguments = None,
    question: options.Question = None,
    question_file: options.QuestionFile = None,
    source: options.SourceOption = None,
    globs: options.Globs = None,
    unrestricted: options.Unrestricted = 0,
    no_ignore: options.NoIgnore = False,
    follow: options.Follow = False,
    output: options.OutputFile = None,
    schema: options.SchemaOption = None,
    raw: options.Raw = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
) -> int:
    """Answer a question about files, folders or a pipe, however large."""
    settings = options.settings(ctx)
    interactive = sys.stdin is not None and sys.stdin.isatty() and not settings.run.no_input
    invocation = Invocation(
        settings=settings,
        places=options.places(ctx),
        parsed=split_arguments(
            (*(source or ()), *(arguments or ())),
            question,
            question_file,
            stdin_is_data=carries_data(stdin_kind()),
            interactive=interactive,
            line=Line(),
        ),
        source_options=sources.SourceOptions(
            globs=tuple(globs or ()),
            ignore=settings.sources.ignore,
            unrestricted=unrestricted,
            hidden=settings.sources.hidden,
            no_ignore=no_ignore,
            follow=follow,
            encoding=settings.sources.encoding,
            max_input=settings.sources.max_input,
            archives=settings.sources.archives,
        ),
        output=output,
        schema=schema,
        raw=raw,
        dry_run=dry_run,
        yes=yes,
        interactive=interactive,
        cost_given=settings.origins["limits.cost"].kind != "default",
    )
    return _run(invocation)


def question_of(parsed: Parsed) -> str:
    """The question's text, read from where it was said to be."""
    if parsed.question_from == "text":
        return parsed.question
    if parsed.question_from == "prompt":
        return typer.prompt("Question", err=True)  # type: ignore[no-any-return]
    if parsed.question_from == "stdin":
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    else:
        try:
            text = Path(parsed.question_file).read_text("utf-8", "replace")
        except OSError as error:
            raise InputError(
                f"cannot read the question file {parsed.question_file!r}: {error.strerror}",
                hint='rlm ask SOURCES -Q "QUESTION"',
                code="question_file",
            ) from error
    if not text.strip():
        raise UsageError("the question is empty", hint='rlm ask SOURCES -Q "QUESTION"', code="no_question")
    return text.strip()


def _run(invocation: Invocation) -> int:
    """Everything after the line has been understood. What fails before the run begins is told where the answer would
    have gone, as far as the format has words for it."""
    with opened(invocation, guard_stdout()) as sink:
        try:
            return _answer(invocation, sink)
        except RlmError as error:
            form = invocation.settings.output.format
            if form == "text":
                raise
            report(error)
            sink.write(failure_lines(error, form, question=invocation.parsed.question))
            sink.commit()
            return int(error.exit_code)


def _answer(invocation: Invocation, sink: Sink) -> int:
    """Check what is cheap to check, read, run, hand over."""
    settings, env = invocation.settings, config.environment()
    look = look_for(sys.stderr, color=settings.output.color, env=env, verbosity=settings.run.verbose)
    check = answer_schema.load(invocation.schema) if invocation.schema else None
    models = Models(settings, env, cost_given=invocation.cost_given)
    with ExitStack() as stack:
        ticker = stack.enter_context(closing(Ticker(sys.stderr, look, quiet=settings.run.quiet)))
        if not invocation.dry_run:
            models.start_loading()
        run_id = new_run_id()
        folder = stack.enter_context(run_folder(invocation, run_id))
        docker = None if invocation.dry_run else stack.enter_context(Docker.ready(settings, folder, ticker))
        question = question_of(invocation.parsed)
        corpus = reading.read(invocation.parsed, invocation.source_options, folder, ticker=ticker, env=env)
        ticker.close()
        if docker is None:
            return show_plan(invocation, question, corpus, models, sink)
        check_sizes(corpus, settings)
        confirm(invocation, models, corpus)
        plan = make_plan(invocation, models, corpus, question=question, run_id=run_id, folder=folder)
        plan = replace(plan, check=check) if check else plan
        return carry_out(invocation, plan, models, docker, look=look, sink=sink)


@contextmanager
def run_folder(invocation: Invocation, run_id: str) -> Iterator[Path]:
    """The run's folder, private; with --no-log (and in a dry run) one that does not outlive the command. A folder in
    which no run began is removed: what was spooled for nothing is not kept. What was unpacked never is."""
    if not invocation.settings.logs.enabled or invocation.dry_run:
        with tempfile.TemporaryDirectory(prefix="rlm-") as scratch:
            yield Path(scratch)
        return
    folder = invocation.places.runs / run_id
    try:
        make_private(folder)
    except OSError as error:
        raise ConfigError(
            f"cannot write the run's folder {folder}: {error.strerror}",
            hint="set RLM_HOME to a folder you can write, or use --no-log",
            code="log_unwritable",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder / UNPACKED, ignore_errors=True)
        if not (folder / "run.json").exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def opened(invocation: Invocation, stdout: BinaryIO) -> Iterator[Sink]:
    """Where the answer goes; the plan of a dry run goes to stdout. Raises `UsageError` for a place that cannot hold it:
    before the run, because afterwards the answer would be paid for and lost."""
    output = invocation.output
    if output is None or output in STDOUT_NAMES or invocation.dry_run:
        if not writes_to(stdout):
            raise UsageError("stdout is closed: the answer has nowhere to go", hint="-o FILE", code="stdout_closed")
        yield Sink(stdout)
        return
    with FileSink(output) as sink:
        if same := [name for name in invocation.parsed.sources if _is_file(name, sink.path)]:
            raise UsageError(
                f"the answer would replace {same[0]!r}, which is one of the sources",
                hint="-o ANOTHER_FILE",
                code="output_is_source",
            )
        yield sink


def _is_file(name: str, path: Path) -> bool:
    """Whether `name` is this file, by whatever way; a folder that holds it is not."""
    try:
        return Path(name).is_file() and path.is_file() and path.samefile(name)
    except OSError:
        return False


def show_plan(invocation: Invocation, question: str, corpus: sources.Corpus, models: Models, sink: Sink) -> int:
    """The dry run's output, on stdout: it is what was asked for."""
    for warning in (*invocation.settings.warnings, *corpus.notes):
        show.note(invocation.settings, f"rlm: warning: {warning}")
    if invocation.settings.output.format == "text":
        summary = summary_line(corpus, invocation.parsed.sources, invocation.source_options)
        lines = plan_lines(question, corpus, summary, models, invocation.settings)
        sink.write("".join(f"{clean_line(line, 2_000)}\n" for line in lines).encode())
    else:
        sink.write(plan_json(question, corpus, models))
    sink.commit()
    return int(ExitCode.OK)


def confirm(invocation: Invocation, models: Models, corpus: sources.Corpus) -> None:
    """Ask a person before a run that may cost more than `confirm_above`; a script obeys the cap alone."""
    above = invocation.settings.confirm_above
    high = cost_range(models, corpus).high
    if above is None or invocation.yes or high is None or high <= above:
        return
    if invocation.interactive and not typer.confirm(f"This may cost up to {money(high)}. Go on?", err=True):
        raise Interrupted("stopped before anything was spent", hint="-y skips the question")


def make_plan(
    invocation: Invocation, models: Models, corpus: sources.Corpus, *, question: str, run_id: str, folder: Path
) -> Plan:
    """What the run will do, from settings and corpus."""
    settings, limits = invocation.settings, invocation.settings.limits
    warnings = list(settings.warnings)
    if limits.depth > 1:
        warnings.append("this version answers rlm_query as a plain sub-call: --max-depth above 1 has no effect yet")
    return Plan(
        run_id=run_id,
        question=question,
        names=tuple("stdin" if source == STDIN else source for source in invocation.parsed.sources),
        corpus=corpus,
        facts=reading.input_facts(corpus),
        models=models.pair,
        limits=Limits(limits.iterations, limits.time_s, settings.sandbox.step_timeout, limits.on_limit),
        caps={
            "cost": models.pricing.caps.usd,
            "tokens": models.pricing.caps.tokens,
            "time": limits.time_s,
            "iterations": limits.iterations,
            "depth": limits.depth,
            "subcalls": limits.subcalls,
            "concurrency": limits.concurrency,
        },
        aliases=models.aliases,
        note=models.note,
        warnings=tuple(warnings),
        log_dir=str(folder) if settings.logs.enabled else None,
        scratch=str(folder / UNPACKED if settings.logs.enabled else folder),
    )


def carry_out(invocation: Invocation, plan: Plan, models: Models, docker: Docker, *, look: Look, sink: Sink) -> int:
    """Run the plan in view of the person, and hand the answer over. Raises `BrokenPipeError` when its reader left."""
    settings = invocation.settings
    events = EventLines(sink)
    with ExitStack() as stack:
        listeners: list[Listener] = []
        if plan.log_dir is not None:
            log = RunLog(Path(plan.log_dir))
            stack.callback(log.close)
            log.write_manifest(replace(document, path=document.kept) for document in plan.corpus.documents)
            listeners.append(log)
        view = view_for(sys.stderr, look, progress=settings.output.progress, quiet=settings.run.quiet)
        stack.callback(view.close)
        if settings.output.format == "events":
            listeners.append(events)
        ended = ask_once(plan, models, docker, listeners=tuple(listeners), view=view, debug=settings.run.debug)
    try:
        hand_over(invocation, ended, sink)
        if events.failure is not None:
            raise events.failure
    except BrokenPipeError:
        raise
    except OSError as error:
        report(unwritten(error, ended.result, events=settings.output.format == "events"))
        return int(ExitCode.ERROR)
    return ended.result.exit_code


def unwritten(error: OSError, result: Result, *, events: bool) -> RlmError:
    """The answer is there and cannot be written; where else it is."""
    what = "the events" if events else "the answer"
    hint = f"rlm runs show {result.run_id} --answer" if result.answer and result.log_dir else ""
    return RlmError(f"{what} could not be written: {error.strerror or error}", hint=hint, code="output_failed")


def hand_over(invocation: Invocation, ended: Ended, sink: Sink) -> None:
    """The answer to stdout or the file, and the error, if there is one, to the person."""
    result = ended.result
    if invocation.settings.output.format == "json":
        sink.write(result_line(result))
    elif invocation.settings.output.format == "text" and ended.answer is not None:
        write_answer(ended.answer, sink, invocation)
    if ended.answer is not None or invocation.settings.output.format != "text":
        sink.commit()
    if ended.error is not None and (invocation.settings.run.quiet or result.status in ("error", "no_answer")):
        report(ended.error)


def write_answer(answer: Answer, sink: Sink, invocation: Invocation) -> None:
    """To a file or as bytes: exactly. To stdout: rendered for a person, else as it is, ended by a newline."""
    if isinstance(sink, FileSink) or answer.kind == "bytes":
        sink.write(answer.data)
        return
    stdout = TextIOWrapper(sink.stream, encoding="utf-8", errors="backslashreplace", write_through=True)
    look = look_for(stdout, color=invocation.settings.output.color, env=config.environment())
    print_answer(answer_text(answer), stdout, look=look, raw=invocation.raw)
    stdout.detach()
