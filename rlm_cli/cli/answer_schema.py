"""`--schema`: a JSON Schema that the answer must satisfy, checked here and never left to a provider."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..engine import answer_data
from ..errors import UsageError
from ..sandbox import Answer


class AnswerSchema(NamedTuple):
    """A schema as JSON text, and its check: what is wrong with an answer, "" when nothing is."""

    text: str
    check: Callable[[Answer], str]


def load(text: str) -> AnswerSchema:
    """A schema given as JSON or as a file's path. Raises `UsageError` before anything is spent."""
    import jsonschema

    schema = _parse(text)
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise UsageError(
            f"--schema is not a valid JSON Schema: {error.message}", hint="https://json-schema.org/learn", code="schema"
        ) from error
    validator = kind(schema)

    def check(answer: Answer) -> str:
        try:
            value = answer_data(answer) if answer.kind == "json" else json.loads(answer.whole())
        except (ValueError, RecursionError):
            return "the value does not satisfy the schema: it is not JSON (a value is wanted, not a sentence)"
        problem = jsonschema.exceptions.best_match(validator.iter_errors(value))
        if problem is None:
            return ""
        return f"the value does not satisfy the schema at {problem.json_path}: {problem.message[:500]}"

    return AnswerSchema(json.dumps(schema, ensure_ascii=False), check)


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
