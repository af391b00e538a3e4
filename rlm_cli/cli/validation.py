"""The only importer of jsonschema, and the program of the process that checks answers (`answer_schema.py`): it loads
nothing else of ours.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jsonschema
from jsonschema_specifications import REGISTRY as PUBLISHED  # type: ignore[import-untyped]  # it has no stubs
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

MOST = 500
"""Characters that are told of a problem."""


def invalid(schema: dict[str, Any]) -> str:
    """Why this is not a schema, "" when it is."""
    if not isinstance(schema.get("$schema", ""), str):
        return "$schema is no text"
    try:
        _kind(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        return str(error.message)
    if lost := _leads_nowhere(schema):
        return f"{lost!r} leads nowhere; put what it refers to below $defs (nothing is fetched)"
    try:
        _validator(schema).is_valid(None)
    except RecursionError:
        return "it refers to itself without end"
    return ""


def _leads_nowhere(schema: dict[str, Any]) -> str:
    """The first reference to what is neither in the schema nor published, "" when there is none: else it would be found
    out where it is used, when the answer is paid for."""
    kind = _kind(schema)
    root = specification_with(kind.ID_OF(kind.META_SCHEMA)).create_resource(schema)
    todo = [(PUBLISHED.with_resource(root.id() or "", root).resolver(root.id() or ""), root)]
    while todo:
        resolver, part = todo.pop()
        todo += [(resolver.in_subresource(each), each) for each in part.subresources()]
        words = part.contents if isinstance(part.contents, dict) else {}  # a schema may be just true or false
        for ref in (words[key] for key in ("$ref", "$dynamicRef") if key in words):
            try:
                resolver.lookup(ref)
            except (Unresolvable, ValueError):
                return str(ref)
    return ""


def main() -> None:
    """Check what is asked on standard input, and say what is wrong with it as a line of JSON."""
    request = json.loads(sys.stdin.buffer.readline())
    end_with(request["parent"])
    try:
        told: dict[str, Any] = {"problems": problems(request["schema"], request["answers"], sys.stdin.buffer)}
    except Exception as error:  # noqa: BLE001 - the process's edge: whoever asked is told
        told = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    sys.stdout.write(json.dumps(told))


def end_with(parent: int) -> None:
    """End when whoever asked is gone, however long a check takes: a regular expression lets signals through."""

    def look(_number: int, _frame: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)


def problems(schema: str, answers: Sequence[int | str], held: BinaryIO) -> list[str]:
    """What is wrong with each answer, up to the first with nothing (""): so many bytes of `held`, or a file's path."""
    value = json.loads(schema)
    validator, found = _validator(value), list[str]()
    for part in answers:
        found.append(problem(validator, held.read(part) if isinstance(part, int) else Path(part).read_bytes()))
        if not found[-1]:
            break
    return found


def problem(validator: Any, data: bytes) -> str:
    """What is wrong with an answer, "" when nothing is."""
    try:
        value = json.loads(data, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return "the value does not satisfy the schema: it is not JSON (a value is wanted, not a sentence)"
    worst = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if worst is None:
        return ""
    return f"the value does not satisfy the schema at {worst.json_path}: {_in_short(worst.message)}"


def _finite(number: str) -> float:
    """JSON has no NaN and no infinity, and the result could not hold one."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is not JSON")
    return value


def _in_short(message: str) -> str:
    """It begins with the value, however long that is, and ends with what is wrong with it."""
    return message if len(message) <= MOST else f"{message[: MOST // 2]} ... {message[-MOST // 2 :]}"


def _kind(schema: dict[str, Any]) -> Any:
    return jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)


def _validator(schema: dict[str, Any]) -> Any:
    return _kind(schema)(schema, registry=PUBLISHED)  # without one, jsonschema fetches what a $ref names
