"""`rlm schema`: JSON Schemas, generated from the values themselves, so that they cannot say anything else."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

import typer

from .. import config, events
from ..errors import UsageError
from . import show

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def result_schema() -> dict[str, Any]:
    """The object of --json."""
    definitions: dict[str, Any] = {}
    body = _object(events.Result, definitions)
    return {"$schema": DIALECT, "title": "rlm result", **body, "$defs": definitions}


def event_schema() -> dict[str, Any]:
    """One line of --events and of events.jsonl."""
    definitions: dict[str, Any] = {}
    head = {
        "schema_version": {"const": events.SCHEMA_VERSION},
        "seq": {"type": "integer", "minimum": 0},
        "ts": {"type": "number", "description": "Unix seconds"},
        "span": {"type": "string", "description": "place in the tree of runs; empty for the root run"},
    }
    kinds = []
    for name, kind in events.EVENT_TYPES.items():
        body = _object(kind, definitions)
        properties = {**head, **body["properties"], "type": {"const": name}}
        kinds.append({**body, "properties": properties, "required": [*head, *body["required"]]})
    return {"$schema": DIALECT, "title": "rlm event", "oneOf": kinds, "$defs": definitions}


def config_schema() -> dict[str, Any]:
    """config.toml, for editors that check TOML by JSON Schema."""
    top: dict[str, Any] = {}
    for key in config.KEYS.values():
        if key.switch:
            continue
        schema = (
            {"type": "object", "additionalProperties": dict(key.kind.schema)} if key.many else dict(key.kind.schema)
        )
        schema["description"] = key.doc
        section = top.setdefault(key.section, _table()) if key.section else {"properties": top}
        section["properties"][key.name.rpartition(".")[2]] = schema
    return {"$schema": DIALECT, "title": "rlm config.toml", "type": "object", "properties": top}


def _table() -> dict[str, Any]:
    return {"type": "object", "properties": {}}


def _object(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """A dataclass as `events.to_json` writes it: every field is there, and `total` where a value adds up to one.

    Other properties stay allowed: a newer rlm may add them.
    """
    hints = typing.get_type_hints(cls)
    properties = {item.name: _schema(hints[item.name], definitions) for item in dataclasses.fields(cls)}
    if isinstance(getattr(cls, "total", None), property) and "total" not in properties:
        properties["total"] = {"type": "integer"}
    out = {"type": "object", "properties": properties, "required": list(properties)}
    # The first sentence; dataclasses without a docstring get their signature as one, which is no description.
    if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("):
        out["description"] = " ".join(cls.__doc__.split("\n\n")[0].split())
    return out


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        options = [arg for arg in arguments if arg is not types.NoneType]
        parts = [_schema(option, definitions) for option in options]
        return {"anyOf": [*parts, {"type": "null"}]} if len(options) < len(arguments) else {"anyOf": parts}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is not None:  # Mapping[str, ...]
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if dataclasses.is_dataclass(kind):
        name = typing.cast(type, kind).__name__
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _object(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    return {"type": _SCALARS[kind]} if kind in _SCALARS else {}


SCHEMAS = {"result": result_schema, "event": event_schema, "config": config_schema}


def schema(name: Annotated[str, typer.Argument(metavar="NAME", help="result, event or config")]) -> None:
    """Print a JSON Schema: of the --json object, of one line of --events, or of config.toml."""
    if name not in SCHEMAS:
        raise UsageError(f"no schema {name!r}: there are {', '.join(SCHEMAS)}", hint="rlm schema result")
    show.as_json(SCHEMAS[name]())
