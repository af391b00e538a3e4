"""How commands print data: JSON or a table on stdout, remarks on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import config

if TYPE_CHECKING:
    from ..render.tables import Column


def as_json(value: Any) -> None:
    """One JSON value. Readable on a terminal and in a pipe alike: it never depends on where it goes."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def table(settings: config.Settings, columns: Sequence[str | Column], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout: fitted on a terminal, whole in a pipe."""
    from ..render.look import look_for
    from ..render.tables import print_table

    look = look_for(sys.stdout, color=settings.output.color, env=config.environment())
    print_table(sys.stdout, columns, rows, look=look)


def note(settings: config.Settings, text: str) -> None:
    """A remark on stderr; nothing with -q. `text` may hold names from anywhere."""
    if not settings.run.quiet:
        from ..render.look import look_for, writable
        from ..render.sanitize import clean

        print(clean(text), file=writable(sys.stderr, look_for(sys.stderr)))


def warnings(settings: config.Settings) -> None:
    """What was ignored in the configuration."""
    for warning in settings.warnings:
        note(settings, f"rlm: warning: {warning}")
