"""`--schema`: a JSON Schema that the answer must satisfy, checked here and never left to a provider.

Checked in a process of its own: `uniqueItems` over a huge array takes minutes, and a `pattern` may take for ever and
lets no other thread run meanwhile, not even the one that is to see Ctrl-C. A process can be killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SchemaError, UsageError
from ..sandbox import Answer

START = "import sys; sys.path.insert(0, sys.argv[1]); import rlm_cli; del sys.path[0]; \
from rlm_cli.cli.validation import main; main()"


@dataclass(frozen=True)
class AnswerSchema:
    """A schema as JSON text, which is known to be one."""

    text: str

    async def check(self, answers: Sequence[Answer]) -> list[str]:
        """What is wrong with each, in order, up to the first with nothing (""). See `task.Check`."""
        try:
            process = _process()
        except OSError as error:
            raise _unchecked(error.strerror or str(error)) from error
        try:
            said = await asyncio.to_thread(_told, process, _request(self.text, answers))
        finally:
            process.kill()  # with which the thread ends, when it is not waited for any more
        try:
            told = json.loads(said)
        except ValueError as error:
            raise _unchecked("what checks it was ended from outside: no memory left?") from error
        if "failed" in told:
            raise _unchecked(told["failed"])
        return [str(problem) for problem in told["problems"]]


def _process() -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-X", "utf8", "-c", START, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        process_group=0,  # a person's Ctrl-C is for us
    )


def _unchecked(why: str) -> SchemaError:
    return SchemaError(
        f"the answer could not be checked against the schema: {why}",
        hint="check what --schema refers to, and its patterns",
        code="schema_unchecked",
    )


def _told(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    with process:
        return process.communicate(request)[0]


def _request(schema: str, answers: Sequence[Answer]) -> bytes:
    """One line of JSON, and below it the answers that are held in memory; the others are read where they are."""
    held = [answer.data for answer in answers if isinstance(answer.data, bytes)]
    parts = [
        len(answer.data) if isinstance(answer.data, bytes) else str(answer.data.path.resolve()) for answer in answers
    ]
    line = json.dumps({"parent": os.getpid(), "schema": schema, "answers": parts})
    return b"".join((line.encode(), b"\n", *held))


def load(text: str) -> AnswerSchema:
    """A schema given as JSON or as a file's path. Raises `UsageError` before anything is spent."""
    from .validation import invalid

    schema = _parse(text)
    if problem := invalid(schema):
        raise UsageError(
            f"--schema is not a valid JSON Schema: {problem}", hint="https://json-schema.org/learn", code="schema"
        )
    return AnswerSchema(json.dumps(schema, ensure_ascii=False))


def _parse(text: str) -> dict[str, Any]:
    try:
        raw = text if text.lstrip().startswith("{") else Path(text).read_text("utf-8")
        schema = json.loads(raw)
    except OSError as error:
        hint = "--schema FILE, or the schema itself in single quotes"
        raise UsageError(f"cannot read the schema {text!r}: {error.strerror}", hint=hint, code="schema") from error
    except ValueError as error:
        raise UsageError(f"--schema is not JSON: {error}", hint="rlm help formats", code="schema") from error
    if not isinstance(schema, dict):
        raise UsageError("--schema is not a JSON object", hint="rlm help formats", code="schema")
    return schema
