"""`rlm ask [SOURCES]... QUESTION`: read the line, read the sources, run, and hand over the answer."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import typer

from .. import config, sources
from ..errors import AuthError, ConfigError, ExitCode, InputError, Interrupted, RlmError, SandboxError
from ..events import Listener
from ..private import make_private
from ..render.look import Look, look_for
from ..render.ticker import Ticker
from ..render.views import view_for
from ..routing import Mode, Route
from ..runlog import RunLog, new_run_id
from ..sources.arguments import STDIN, Line, split_arguments
from ..sources.stdin import carries_data, stdin_kind
from ..sources.summary import skips_command
from ..sources.urls import is_url, shown
from ..task import Limits
from ..units import money
from . import answer_schema, options, reading
from .boundary import failure_lines, guard_stdout, report
from .dry_run import cost_range, show_plan
from .handover import hand_over, keep, opened, stopped, unwritten
from .invocation import Invocation, question_of
from .mode import most_bytes, preflight, route
from .output import EventLines, Sink
from .scratch import Scratch, refuse_foreign, scratch
from .session import Plan, ask_once
from .wiring import Models, Runtime, runtime

EXAMPLES = """\b
Examples:
  rlm ask logs/ "What failed first, and why?"
  journalctl -o cat | rlm ask "Which unit restarts most often?"
  rlm ask a.log b.log -Q "Which of the two is missing requests?" --json
  rlm ask contracts/ "Which contracts renew automatically?" -n
"""


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
    try:
        parsed = split_arguments(
            (*(source or ()), *(arguments or ())),
            question,
            question_file,
            stdin_is_data=carries_data(stdin_kind()),
            interactive=interactive,
            line=Line(),
        )
    except RlmError as error:
        return _tell(error, settings.output.format, Sink(sys.stdout.buffer))
    invocation = Invocation(
        settings=settings,
        places=options.places(ctx),
        parsed=parsed,
        source_options=reading.source_options(
            settings, globs, unrestricted=unrestricted, no_ignore=no_ignore, follow=follow
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


def _run(invocation: Invocation) -> int:
    """Everything after the line has been understood. What fails before the run begins is told where the answer would
    have gone, as far as the format has words for it."""
    with opened(invocation, guard_stdout()) as sink:
        try:
            return _answer(invocation, sink)
        except RlmError as error:
            return _tell(error, invocation.settings.output.format, sink, question=invocation.parsed.question)


def _tell(error: RlmError, form: str, sink: Sink, *, question: str = "") -> int:
    """A failure of before the run, to the person and as an object; the exit code. Raises `error` where the format has
    no words for it."""
    if form == "text":
        raise error
    report(error)
    with suppress(OSError):  # a full disk, a reader that left: what ended the run is the exit code
        sink.write(failure_lines(error, form, question=question))
        sink.commit()
    return int(error.exit_code)


def _answer(invocation: Invocation, sink: Sink) -> int:
    """Check what is cheap to check, read, run, hand over."""
    settings, env = invocation.settings, config.environment()
    look = look_for(sys.stderr, color=settings.output.color, env=env, verbosity=settings.run.verbose)
    schema = answer_schema.load(invocation.schema) if invocation.schema else None
    models = models_for(invocation, env)
    with ExitStack() as stack:
        ticker = stack.enter_context(closing(Ticker(sys.stderr, look, quiet=settings.run.quiet)))
        run_id = new_run_id()
        folder, place = stack.enter_context(run_folder(invocation, run_id))
        box = stack.enter_context(closing(runtime(settings, folder)))
        down = None
        consent(invocation)
        if not invocation.dry_run and isinstance(models, Models):
            models.start_loading()
            down = preflight(settings, invocation.parsed.sources, models, box, ticker)
            invocation = only_what_one_call_holds(invocation, models) if down else invocation
        question = question_of(invocation.parsed)
        reading.tell_unread_stdin(invocation.parsed, ticker)
        try:
            corpus = reading.read(
                invocation.parsed.sources,
                invocation.source_options,
                place,
                stdin=folder,
                ticker=ticker,
                env=env,
                cache=invocation.places.converted if settings.logs.enabled else None,
                offline=settings.run.offline,
            )
        except InputError as error:
            if down and error.code == "over_max_input":
                raise down from error
            raise
        chosen = None if isinstance(models, AuthError) else route(settings, question, corpus, models)
        if invocation.dry_run or chosen is None or isinstance(models, AuthError):
            ticker.close()
            return show_plan(invocation, question, corpus, models, chosen, sink)
        if chosen.mode != "direct":
            box.ready(ticker)
        ticker.close()
        confirm(invocation, models, corpus, chosen.mode)
        plan = make_plan(invocation, models, corpus, chosen, question=question, run_id=run_id, folder=folder)
        plan = replace(plan, scratch=str(place.folder))
        plan = replace(plan, check=schema.check, schema=schema.text) if schema else plan
        return carry_out(invocation, plan, models, box, look=look, sink=sink)


def only_what_one_call_holds(invocation: Invocation, models: Models) -> Invocation:
    """There is no engine: more input could not be answered, and to say so after gigabytes of a pipe would be late."""
    options, most = invocation.source_options, most_bytes(invocation.settings, models)
    least = most if options.max_input is None else min(most, options.max_input)
    return replace(invocation, source_options=replace(options, max_input=least))


def models_for(invocation: Invocation, env: Mapping[str, str]) -> Models | AuthError:
    """The models of a run. A dry run goes on without: what would be read can be shown all the same."""
    try:
        return Models(invocation.settings, env, cost_given=invocation.cost_given)
    except AuthError as error:
        if invocation.dry_run:
            return error
        raise


@contextmanager
def run_folder(invocation: Invocation, run_id: str) -> Iterator[tuple[Path, Scratch]]:
    """The run's folder, private, and one for what does not outlive the command; with --no-log (and in a dry run) that
    one is both. A folder in which no run began is removed: what was spooled for nothing is not kept."""
    if not invocation.settings.logs.enabled or invocation.dry_run:
        with scratch(invocation.places) as place:
            yield place.folder, place
        return
    refuse_foreign(invocation.places.runs)
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
        with scratch(invocation.places, run=folder) as place:
            yield folder, place
    finally:
        if not (folder / "run.json").exists():
            shutil.rmtree(folder, ignore_errors=True)


def confirm(invocation: Invocation, models: Models, corpus: sources.Corpus, mode: Mode) -> None:
    """Ask a person before a run that may cost more than `confirm_above`; a script obeys the cap alone."""
    above = invocation.settings.confirm_above
    high = cost_range(models, corpus, mode).high
    if above is None or invocation.yes or high is None or high <= above:
        return
    if invocation.interactive and not typer.confirm(f"This may cost up to {money(high)}. Go on?", err=True):
        raise Interrupted("stopped before anything was spent", hint="-y skips the question")


def consent(invocation: Invocation) -> None:
    """Without a container, what comes from the network needs a person's word: it may be written to make the model's
    code do harm. Raises `SandboxError`."""
    fetched = [shown(source) for source in invocation.parsed.sources if is_url(source)]
    if invocation.settings.sandbox.runtime != "process" or not fetched or invocation.yes or invocation.dry_run:
        return
    why = f"{fetched[0]} comes from the network, and --sandbox process puts no container around the code it leads to"
    if not invocation.interactive:
        hint = "-y goes on all the same; --sandbox docker is safer"
        raise SandboxError(why, hint=hint, code="process_fetched")
    if not typer.confirm(f"{why}. Go on?", err=True):
        raise Interrupted("stopped before anything was fetched", hint="-y skips the question")


def make_plan(
    invocation: Invocation,
    models: Models,
    corpus: sources.Corpus,
    chosen: Route,
    *,
    question: str,
    run_id: str,
    folder: Path,
) -> Plan:
    """What the run will do, from settings and corpus."""
    settings, limits = invocation.settings, invocation.settings.limits
    warnings = list(settings.warnings)
    if chosen.overruled:
        warnings.append(f"--mode {settings.mode} is not possible: {chosen.why}; answered by code, in the sandbox")
    return Plan(
        run_id=run_id,
        question=question,
        names=tuple("stdin" if source == STDIN else shown(source) for source in invocation.parsed.sources),
        corpus=corpus,
        facts=reading.input_facts(corpus),
        models=models.pair,
        limits=Limits(limits.iterations, limits.time_s, settings.sandbox.step_timeout, limits.on_limit),
        caps={
            "cost": models.pricing.caps.usd,
            "tokens": models.pricing.caps.tokens,
            "time": limits.time_s,
            "iterations": limits.iterations,
            "depth": 0 if chosen.mode == "rlm-d0" else limits.depth,
            "subcalls": limits.subcalls,
            "concurrency": limits.concurrency,
        },
        note=models.note,
        mode=chosen.mode,
        mode_why=chosen.why,
        warnings=tuple(warnings),
        skips=skips_command(invocation.parsed.sources, invocation.source_options) if corpus.facts.skipped.total else "",
        log_dir=str(folder) if settings.logs.enabled else None,
        cite=cites(invocation),
    )


def cites(invocation: Invocation) -> bool:
    """By default a text answer has evidence, and one of a demanded form has not: `--cite` says otherwise."""
    settings = invocation.settings
    return settings.output.cite and (not invocation.schema or settings.origins["output.cite"].kind != "default")


def carry_out(invocation: Invocation, plan: Plan, models: Models, box: Runtime, *, look: Look, sink: Sink) -> int:
    """Run the plan in view of the person, and hand the answer over."""
    settings = invocation.settings
    events = EventLines(sink)
    log = None
    with ExitStack() as stack:
        listeners: list[Listener] = []
        if plan.log_dir is not None:
            log = RunLog(Path(plan.log_dir))
            stack.callback(log.close)
            log.write_manifest(plan.corpus.documents)
            listeners.append(log)
        if settings.output.format == "events":
            listeners.append(events)
            # On one terminal the lines of the one would be drawn over by the other.
            look = replace(look, live=look.live and not sink.stream.isatty())
        view = view_for(sys.stderr, look, progress=settings.output.progress, quiet=settings.run.quiet)
        stack.callback(view.close)
        named = settings.output.format != "text"
        plan = replace(plan, keep=lambda answer: keep(answer, log, named=named))
        ended = ask_once(plan, models, box, listeners=tuple(listeners), view=view, debug=settings.run.debug)
    try:
        hand_over(invocation, ended, sink)
        if events.failure is not None:
            raise events.failure
    except BrokenPipeError:  # its reader left: no news, as for any other command, and no failure of the run
        return ended.result.exit_code
    except OSError as error:
        report(unwritten(error, ended, events=settings.output.format == "events"))
        # Who closed the terminal ended the run; that nobody reads its answer then is no failure of its own.
        return ended.result.exit_code if isinstance(ended.error, Interrupted) else int(ExitCode.ERROR)
    except (KeyboardInterrupt, SystemExit) as stop:
        raise stopped(ended, terminated=isinstance(stop, SystemExit)) from None
    return ended.result.exit_code
