"""How commands print data: JSON or a table on stdout, remarks on stderr."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from .. import config

if TYPE_CHECKING:
    from ..render.look import Look
    from ..render.tables import Column

NOTE_CELLS = 10_000


def as_json(value: Any) -> None:
    """One JSON value, the same on a terminal and in a pipe; ASCII, so that a file name that is no text, or one with
    control characters beyond ASCII, is still JSON and harmless."""
    print(json.dumps(value, indent=2))


def table(settings: config.Settings, columns: Sequence[str | Column], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: fitted on a terminal, whole in a pipe."""
    from ..render.look import look_for
    from ..render.tables import print_table

    look = look_for(sys.stdout, color=settings.output.color, env=config.environment())
    print_table(sys.stdout, columns, rows, look=look)


def line(text: str) -> None:
    """One line on stdout: as it is in a pipe; on a terminal it cannot send control sequences."""
    if sys.stdout.isatty():
        from ..render.sanitize import clean_line

        text = " " * (len(text) - len(text.lstrip(" "))) + clean_line(text)
    print(text)


def note(settings: config.Settings, text: str) -> None:
    """A remark on stderr, one line; nothing with -q. `text` may hold names from anywhere."""
    if not settings.run.quiet:
        from ..render.look import look_for, writable
        from ..render.sanitize import clean_line

        print(clean_line(text, NOTE_CELLS), file=writable(sys.stderr, look_for(sys.stderr)))


def warnings(settings: config.Settings) -> None:
    """What was ignored in the configuration."""
    for warning in settings.warnings:
        note(settings, f"rlm: warning: {warning}")


def paged(settings: config.Settings, draw: Callable[[TextIO, Look], None]) -> None:
    """What `draw` writes, on stdout; through the pager when a person is there and it is taller than the window."""
    from ..render.look import look_for, width_of

    env = config.environment()
    look = look_for(sys.stdout, color=settings.output.color, env=env)
    if not look.tty or settings.run.no_input:
        draw(sys.stdout, look)
        return
    text = io.StringIO()
    draw(text, dataclasses.replace(look, width=width_of(sys.stdout, look)))
    pager = shlex.split(env.get("PAGER", "less"))
    tall = text.getvalue().count("\n") >= shutil.get_terminal_size().lines
    if not tall or not pager or not shutil.which(pager[0]):
        draw(sys.stdout, look)
        return
    # -R: colours; -F -X: leave the text on the screen.
    with subprocess.Popen(pager, stdin=subprocess.PIPE, env={"LESS": "-FRX", **env}) as process:  # noqa: S603
        # Ctrl-C is the pager's: killed for it, it would leave the terminal without echo.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.communicate(text.getvalue().encode())
        finally:
            signal.signal(signal.SIGINT, before)
