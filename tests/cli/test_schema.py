"""The schemas are generated, and everything that is printed satisfies them."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rlm_cli import events
from rlm_cli.cli.boundary import failure
from rlm_cli.cli.schema import config_schema, event_schema, result_schema
from rlm_cli.errors import InputError, LimitError
from rlm_cli.events import Record, Result, record_to_json, to_json

from .conftest import Rlm

RESULTS = [
    failure(InputError("gone", hint="look")),
    Result("id", "ok", "yes", "why?", 0, "1"),
    Result(
        "id",
        "partial",
        "maybe",
        "why?",
        6,
        "1",
        data={"a": [1, None]},
        cost=events.Cost(0.5, False, {"m": 0.5}),
        limit_hit="cost",
        error=events.ErrorInfo("limit_cost", str(LimitError("cost", "x"))),
        warnings=("w",),
        log_dir="/x",
    ),
]


def value_for(kind: Any) -> Any:
    """Some value of a field's type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return example(typing.cast(type, kind))
    if origin is typing.Literal:
        return arguments[0]
    if origin is tuple:
        return (value_for(arguments[0]),)
    if arguments and type(None) in arguments:
        return value_for(arguments[0])
    if origin is not None:
        return {"k": value_for(arguments[1])}
    return {str: "x", int: 3, float: 0.5, bool: True}.get(kind)


def example(cls: type) -> Any:
    hints = typing.get_type_hints(cls)
    fields = [item for item in dataclasses.fields(cls) if item.name not in ("type", "schema_version")]
    return cls(**{item.name: value_for(hints[item.name]) for item in fields})


def check(schema: dict[str, Any], value: Any) -> None:
    """Through JSON text, as it is printed."""
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(value)))


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.status)
def test_every_result_satisfies_its_schema(result: Result) -> None:
    """What --json prints, on success, at a limit and on failure."""
    check(result_schema(), to_json(result))


@pytest.mark.parametrize("kind", events.EVENT_TYPES.values(), ids=lambda kind: kind.__name__)
def test_every_event_satisfies_its_schema(kind: type) -> None:
    """One line of --events of each kind, every field filled."""
    check(event_schema(), record_to_json(Record(1, 2.5, events.ROOT, example(kind))))


def test_the_schema_can_say_no() -> None:
    """A result with a wrong status, a missing field or a text for a number is refused."""
    good = to_json(RESULTS[1])
    wrong = [{**good, "status": "fine"}, {k: v for k, v in good.items() if k != "answer"}, {**good, "exit_code": "0"}]
    validator = jsonschema.Draft202012Validator(result_schema())
    assert [validator.is_valid(value) for value in (good, *wrong)] == [True, False, False, False]


def test_the_config_schema_knows_real_files(rlm: Rlm, home: Path) -> None:
    """What `config set` writes satisfies `schema config`; a negative cost does not."""
    for key, value in (
        ("limits.cost", "2"),
        ("limits.time", "5m"),
        ("limits.tokens", "none"),
        ("aliases.a", "x"),
        ("prices.a/b", "1,2"),
        ("sources.ignore", "*.x"),
        ("sandbox.memory", "1g"),
        ("model_options.temperature", "0.5"),
    ):
        assert rlm("config", "set", key, value).code == 0
    written = tomllib.loads((home / "config.toml").read_text())
    validator = jsonschema.Draft202012Validator(config_schema())
    assert (list(validator.iter_errors(written)), validator.is_valid({"limits": {"cost": -1}})) == ([], False)


def test_the_command_prints_them(rlm: Rlm) -> None:
    """result, event and config are valid schemas; another name is exit 2."""
    printed = {name: json.loads(rlm("schema", name).out) for name in ("result", "event", "config")}
    for schema in printed.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert rlm("schema", "answer").code == 2
