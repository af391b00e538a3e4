"""What libraries, threads and destructors say of themselves, past every command: harmless, or not said at all.

Python prints such things straight to stderr: the text of an exception nobody caught in a thread or of a task nobody
awaited (which may be a provider's own words, with a key in its URL), and warnings. Here they are cleaned, and have no
key; only a thread's failure is told without --debug, in one line.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TextIO

from .. import config


def harmless(text: str) -> str:
    """Text that may come from anywhere: no key in it, nothing that a terminal obeys."""
    from ..models.catalog import secret_values
    from ..models.failures import redact
    from ..render.sanitize import clean

    return clean(redact(text, secret_values(config.environment())))


def is_debug(args: Sequence[str]) -> bool:
    """Whether tracebacks are wanted, as far as a command line that may be wrong says it."""
    own = args[: args.index("--")] if "--" in args else args
    return "--debug" in own or config.environment().get("RLM_DEBUG", "0") not in ("0", "false", "no", "off")


def catch(*, debug: bool) -> None:
    """Take the interpreter's own ways to stderr. For the whole process: call it once, at its start."""

    def say(text: str) -> None:
        try:
            sys.stderr.write(harmless(text.rstrip("\n")) + "\n")
        except (OSError, ValueError, ImportError):  # there is no stderr any more, or no interpreter
            return

    def say_traceback(where: str, error: BaseException | None) -> None:
        if debug and error is not None:
            say(f"rlm: in {where}:\n{''.join(traceback.format_exception(error))}")

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if debug:
                say(f"rlm: {record.name}: {self.format(record)}")

    def warned(
        message: Warning | str,
        category: type[Warning],
        filename: str,  # noqa: ARG001 - the interpreter's signature
        lineno: int,  # noqa: ARG001
        file: TextIO | None = None,  # noqa: ARG001
        line: str | None = None,  # noqa: ARG001
    ) -> None:
        if debug:
            say(f"rlm: {category.__name__}: {message}")

    def uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        say_traceback("the interpreter", error)

    def unraisable(args: Any) -> None:
        say_traceback("a destructor", args.exc_value)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        where = f"thread {args.thread.name if args.thread else '?'}"
        say(f"rlm: warning: {where} failed: {args.exc_type.__name__}: {args.exc_value}")
        say_traceback(where, args.exc_value)

    logging.lastResort = Handler(logging.WARNING)
    warnings.showwarning = warned
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    sys.excepthook = uncaught
