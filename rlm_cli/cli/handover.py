"""From the result to its reader: the answer to stdout or a file, the error to the person."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

from .. import config
from ..engine import answer_text
from ..errors import Interrupted, RlmError, UsageError
from ..events import Result
from ..render.answer import print_answer, print_pieces
from ..render.citations import print_citations
from ..render.look import look_for
from ..runlog import RunLog
from ..sandbox import Answer
from ..sandbox.spool import Spooled, unkept
from .boundary import report
from .invocation import Invocation
from .output import STDOUT_NAMES, FileSink, Sink, result_line, writes_to
from .session import Ended


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


def unwritten(error: OSError, ended: Ended, *, events: bool) -> RlmError:
    """The answer is there and cannot be written; where else it is."""
    what = "the events" if events else "the answer"
    message = f"{what} could not be written: {error.strerror or error}"
    return RlmError(message, hint=found_again(ended), code="output_failed")


def stopped(ended: Ended, *, terminated: bool) -> Interrupted:
    """Ctrl-C or SIGTERM while the answer is written; where else it is."""
    how = "terminated by SIGTERM" if terminated else "interrupted by Ctrl-C"
    return Interrupted(f"{how} while the answer was written", hint=found_again(ended), terminated=terminated)


def found_again(ended: Ended) -> str:
    """How to get an answer that was not handed over, "" when it is gone."""
    result, data = ended.result, ended.answer.data if ended.answer else b""
    if result.answered and result.log_dir:
        return f"rlm runs show {result.run_id} --answer"
    if isinstance(data, bytes):
        return ""
    if not data.kept:
        keep_apart(data)
    return f"the answer is in {data.path}"


def keep(answer: Answer, log: RunLog | None, *, named: bool) -> None:
    """Give a large answer its place: in the run's record; without one, when the result names it, a file of its own.
    Raises `RlmError`."""
    data = answer.data
    if isinstance(data, bytes):
        return
    try:
        if log is not None:
            data.keep(log.blob(data.sha256))
        elif named:
            keep_apart(data)
    except OSError as error:
        raise unkept(error) from error


def keep_apart(data: Spooled) -> None:
    """Outlive the command where nothing else does: the reader removes it."""
    descriptor, name = tempfile.mkstemp(prefix="rlm-answer-")
    os.close(descriptor)
    data.keep(Path(name))


def hand_over(invocation: Invocation, ended: Ended, sink: Sink) -> None:
    """The answer to stdout or the file, and the error, if there is one, to the person."""
    result = ended.result
    if invocation.settings.output.format == "json":
        sink.write(result_line(result))
    elif invocation.settings.output.format == "text" and ended.answer is not None:
        write_answer(ended.answer, sink, invocation)
    if ended.answer is not None or invocation.settings.output.format != "text":
        sink.commit()
    if result.citations and invocation.settings.output.format == "text" and not invocation.settings.run.quiet:
        tell_evidence(result, invocation)
    told = result.status == "partial" and result.limit_hit is not None  # the closing line says which limit
    if ended.error is not None and (invocation.settings.run.quiet or not told):
        report(ended.error)


def tell_evidence(result: Result, invocation: Invocation) -> None:
    """To stderr, wherever the answer goes: stdout is the answer and nothing else, and on a terminal they stand below
    it all the same."""
    look = look_for(sys.stderr, color=invocation.settings.output.color, env=config.environment())
    print_citations(sys.stderr, result.citations, look=look, here=working_folder())


def working_folder() -> str:
    """Free of symbolic links; "" when it is gone."""
    with suppress(OSError):
        return str(Path.cwd().resolve())
    return ""


def write_answer(answer: Answer, sink: Sink, invocation: Invocation) -> None:
    """To a file: exactly. To stdout: for a person rendered, or escaped when it is large or no text; else as it is, text
    ended by a newline."""
    if isinstance(sink, FileSink):
        for piece in answer.pieces():
            sink.write(piece)
        return
    stdout = TextIOWrapper(sink.stream, encoding="utf-8", errors="backslashreplace", write_through=True)
    look = look_for(stdout, color=invocation.settings.output.color, env=config.environment())
    if isinstance(answer.data, bytes) and answer.kind != "bytes":
        print_answer(answer_text(answer), stdout, look=look, raw=invocation.raw)
    else:
        print_pieces(answer.pieces(), stdout, look=look, raw=invocation.raw, exact=answer.kind == "bytes")
    stdout.detach()
