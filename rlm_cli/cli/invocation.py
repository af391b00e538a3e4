"""One `rlm ask`, as typed and configured: the value that the steps of the command share."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from .. import config, sources
from ..errors import InputError, UsageError
from ..sources.arguments import Parsed


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
