"""The edge of the process: its streams, its signals, and the one place that prints errors.

Everything a command raises ends here. A `RlmError` becomes one block on stderr (what happened, why, the next command
to type) and its exit code; a usage error of Typer's becomes exit 2; anything else is a bug of ours, whose traceback
goes to a file, and to the screen with --debug. With --json or --events a failure is on stdout too, as an object.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TextIO, cast

import typer

from .. import __version__, config
from ..errors import ExitCode, Interrupted, RlmError, UsageError
from ..private import make_private, open_new
from . import strays

if TYPE_CHECKING:
    from ..events import ErrorInfo, Result

ISSUES = "https://github.com/rlm-cli/rlm-cli/issues"

SHORT_FORMAT = re.compile(r"-[qvnyuL]*f=?(.*)", re.S)
"""`-f` with its value, or before it, behind short options that take none."""

_answer: BinaryIO | None = None
"""The real stdout, once `guard_stdout` has taken it: a process has only one."""


# -- streams -------------------------------------------------------------------------------------------------------


def guard_stdout() -> BinaryIO:
    """Take stdout away from everybody else, and return it for the answer.

    Afterwards file descriptor 1 and `sys.stdout` are stderr, so nothing a library or a child process prints can reach
    the answer. Call it once, before libraries are imported. The caller flushes.
    """
    global _answer
    if _answer is None:
        sys.stdout.flush()
        _answer = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        sys.stdout = sys.stderr
    return _answer


def prepare_streams() -> None:
    """All three are open, and any text can be written: UTF-8 on Windows, file names byte for byte in UTF-8."""
    _open_missing_streams()
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if not hasattr(stream, "reconfigure"):
            continue
        if sys.platform == "win32":
            stream.reconfigure(encoding="utf-8")
        utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
        stream.reconfigure(errors=errors if utf8 else "backslashreplace")


def _open_missing_streams() -> None:
    """What the caller closed (`rlm ... >&-`) is /dev/null now, or the next file opened would be taken for it. A closed
    stdout stays one that cannot be written to: nobody would see what it is told."""
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)
    sys.stdin = sys.stdin or os.fdopen(0, "r")
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _finish_streams() -> None:
    """Flush; a reader that left (`| head`) is no news, and a full disk was told already."""
    for stream in (_answer, sys.stdout, sys.stderr):
        try:
            if stream is not None:
                cast(TextIO, stream).flush()
        except (OSError, ValueError):
            _silence_stdout()


def _silence_stdout() -> None:
    """Point stdout at nothing, or the interpreter would complain about the closed pipe on its way out."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if _answer is not None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, _answer.fileno())


# -- running -------------------------------------------------------------------------------------------------------


def main() -> NoReturn:
    """The `rlm` command.

    Ends without tearing the interpreter down: LiteLLM's clients import modules from their destructors, which waits
    for ever when the thread that was importing LiteLLM is gone by then. Exit functions have run, streams are flushed.
    """
    strays.catch(debug=strays.is_debug(sys.argv[1:]))
    code = run(sys.argv[1:])
    atexit._run_exitfuncs()
    os._exit(code)


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code. Nothing is raised, whatever happens."""
    prepare_streams()
    try:
        with _signals_unwind():
            code = _invoke(args)
    except Exception as error:  # noqa: BLE001 - the process's edge: a bug must not end as a bare traceback
        code = _report_crash(error, args)
    _finish_streams()
    return code


def _invoke(args: Sequence[str]) -> int:
    try:
        from .app import command

        code = command().main(args=list(args), prog_name="rlm", standalone_mode=False)
        if sys.stdout is not None and not code:
            sys.stdout.flush()  # here, where a full disk can still change the exit code
        return code if isinstance(code, int) else int(ExitCode.OK)
    except RlmError as error:
        return _end_with(error, args)
    except typer.TyperException as error:
        return _end_with(_as_usage_error(error, args), args)
    except typer.Abort:
        print(file=sys.stderr)  # the cursor is behind the question
        return _end_with(Interrupted("stopped: no answer was given"), args)
    except KeyboardInterrupt:
        return _end_with(Interrupted(), args)
    except BrokenPipeError:  # `| head` has what it wanted
        _silence_stdout()
        return int(ExitCode.OK)
    except OSError as error:
        # A full disk, a lost folder: the machine's failure, not a bug of ours.
        if isinstance(error, FileNotFoundError) and not error.filename:  # only getcwd names no file
            return _end_with(RlmError("the working folder no longer exists", hint="cd /", code="cwd_gone"), args)
        where = f"{error.filename}: " if error.filename else ""
        return _end_with(RlmError(f"{where}{error.strerror or error}", code="os_error"), args)
    except SystemExit as stop:
        if stop.code == ExitCode.TERMINATED:
            return _end_with(Interrupted("terminated", terminated=True), args)
        return stop.code if isinstance(stop.code, int) else int(ExitCode.ERROR)


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack like Ctrl-C, so that what a command opened is closed (containers above all).
    A second signal does not wait for that; what is left then ends by itself, or is removed by its guard. One that our
    caller ignores (nohup, `&` in a script) stays ignored."""
    stopping = False

    def unwind(number: int, _frame: Any) -> NoReturn:
        nonlocal stopping
        code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
        if stopping:
            os._exit(int(code))
        stopping = True
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(int(code))

    wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in wanted}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, unwind)
    except ValueError:  # not the main thread: somebody embeds us and owns the signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- reporting -----------------------------------------------------------------------------------------------------


def _as_usage_error(error: typer.TyperException, args: Sequence[str]) -> RlmError:
    """Typer's complaint about the command line, with the help to read."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx else f"rlm {_verb(args)}".rstrip()
    return UsageError(error.format_message(), hint=f"{path} --help")


def _end_with(error: RlmError, args: Sequence[str]) -> int:
    report(error)
    with contextlib.suppress(OSError):
        _report_on_stdout(error, args)
    return int(error.exit_code)


def report(error: RlmError) -> None:
    """Print the error block on stderr: what happened, and the next command to type."""
    from ..render.error import print_error
    from ..render.look import look_for

    with contextlib.suppress(OSError):
        print_error(sys.stderr, error_info(error), look=look_for(sys.stderr, env=config.environment()))


def _report_on_stdout(error: RlmError, args: Sequence[str]) -> None:
    form = wanted_format(args)
    if form == "text":
        return
    from ..events import to_json

    if _verb(args) == "ask":
        lines = failure_lines(error, form)
    else:
        body = {"schema_version": 1, "error": to_json(error_info(error)), "exit_code": int(error.exit_code)}
        lines = json.dumps(body).encode() + b"\n"
    out = _answer or sys.stdout.buffer
    out.write(lines)
    out.flush()


def error_info(error: RlmError) -> ErrorInfo:
    """The error as scripts see it."""
    # Here and below: what only a failure needs is not imported for `rlm --help`.
    from ..events import ErrorInfo
    from ..models.catalog import secret_values
    from ..models.failures import redact

    # Whatever it is about (an engine's address, a proxy, a file's own words): no key leaves in an error.
    secrets = secret_values(config.environment())
    return ErrorInfo(error.code, redact(error.message, secrets), redact(error.hint, secrets), error.retryable)


def failure_lines(error: RlmError, form: str, *, question: str = "") -> bytes:
    """What json or events put out for a run that ended before it began: its result, or both ends of its stream."""
    from ..events import ROOT, ModelPair, Record, RunFinished, RunStarted, SourcesFacts, record_to_json, to_json

    result, now = failure(error, question=question), time.time()
    started = RunStarted("", __version__, question, ModelPair(), SourcesFacts())
    events = [Record(0, now, ROOT, started), Record(1, now, ROOT, RunFinished(result))]
    bodies = [record_to_json(event) for event in events] if form == "events" else [to_json(result)]
    return b"".join(json.dumps(body).encode() + b"\n" for body in bodies)


def failure(error: RlmError, *, question: str = "") -> Result:
    """The result object of a run that ended before it began: without an id, because there is no such run."""
    from ..events import Result

    return Result(
        run_id="",
        status="error",
        answer="",
        question=question,
        exit_code=int(error.exit_code),
        version=__version__,
        error=error_info(error),
    )


def _own(args: Sequence[str]) -> Sequence[str]:
    """The arguments before `--`."""
    return args[: args.index("--")] if "--" in args else args


def _verb(args: Sequence[str]) -> str:
    from .app import VERBS

    names = {verb.name for verb in VERBS}
    return next((arg for arg in _own(args) if arg in names), "")


def wanted_format(args: Sequence[str]) -> str:
    """text, json or events, as far as a command line that may be wrong says it; the last one wins, as in a good one."""
    words = list(_own(args))
    form = config.environment().get("RLM_FORMAT", "text") if _verb(args) == "ask" else "text"
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if word in ("--json", "--events"):
            form = word.removeprefix("--")
        elif word == "--format":
            form = after
        elif word.startswith("--format="):
            form = word.partition("=")[2]
        elif match := SHORT_FORMAT.match(word):
            form = match[1] or after
    return form if form in ("json", "events") else "text"


def _report_crash(error: Exception, args: Sequence[str]) -> int:
    return _end_with(crash(error, debug=strays.is_debug(args)), args)


def crash(error: Exception, *, debug: bool) -> RlmError:
    """A bug of ours as an error for people; its traceback, without keys, goes to the screen (`debug`) or to a file."""
    text = strays.harmless("".join(traceback.format_exception(error)))
    if debug:
        sys.stderr.write(text)
    where = "" if debug else _keep_traceback(text)
    hint = f"report it with {where} attached: {ISSUES}" if where else f"report it: {ISSUES}"
    return RlmError(f"this is a bug in rlm {__version__}: {type(error).__name__}: {error}", hint=hint, code="crash")


def _keep_traceback(text: str) -> str:
    """The path of a new private file with the traceback, or "" when none could be written."""
    try:
        folder: Path = config.places(config.environment()).state / "crashes"
        make_private(folder)
        path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        with os.fdopen(open_new(path), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return ""
    return str(path)
