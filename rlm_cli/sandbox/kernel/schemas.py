"""What a reply must look like: a JSON Schema, or Python types as shorthand for one.

It is checked here and not by the host: the schema and its patterns are the cell's, and one that never ends costs the
cell its own time, which is limited and can be interrupted, and nobody else's.
"""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Found = Iterator[tuple[str, str]]
    """(where, what is wrong there)."""

TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool,
    "null": type(None),
}  # fmt: skip
OF_PYTHON: dict[Any, dict[str, Any]] = {
    str: {"type": "string"}, int: {"type": "integer"}, float: {"type": "number"}, bool: {"type": "boolean"},
    list: {"type": "array"}, dict: {"type": "object"}, type(None): {"type": "null"}, None: {"type": "null"}, object: {},
}  # fmt: skip
IGNORED = frozenset(
    ("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples")
)
"""Keywords that say nothing about which values are right."""
SHOWN = 3
"""Errors that are told at once."""
VALUE_SHOWN = 80


class SchemaError(ValueError):
    """The schema itself is wrong, or has something that is not supported."""


def schema_of(spec: Any) -> Any:
    """The JSON Schema that `spec` means: itself, or built of Python types.

    int, list[str], dict[str, int], Optional[int], Literal["yes", "no"]; {"name": str, "tags": list[str]} is an object
    with exactly these members.
    """
    if isinstance(spec, bool):
        return spec
    try:
        if spec in OF_PYTHON:
            return OF_PYTHON[spec]
    except TypeError:  # a dict
        pass
    if isinstance(spec, dict):
        if not any(is_python(value) for value in spec.values()):
            return spec
        members = {str(name): schema_of(value) for name, value in spec.items()}
        return {"type": "object", "properties": members, "required": [*members], "additionalProperties": False}
    return generic(spec)


def is_python(spec: Any) -> bool:
    return isinstance(spec, type) or bool(getattr(spec, "__args__", None))


def generic(spec: Any) -> dict[str, Any]:
    import typing

    origin, args = typing.get_origin(spec), typing.get_args(spec)
    if origin is list and len(args) == 1:
        return {"type": "array", "items": schema_of(args[0])}
    if origin is dict and len(args) == 2 and args[0] is str:
        return {"type": "object", "additionalProperties": schema_of(args[1])}
    if origin is typing.Literal:
        return {"enum": [*args]}
    if origin is typing.Union or getattr(origin, "__name__", "") == "UnionType":
        return {"anyOf": [schema_of(arg) for arg in args]}
    if spec is typing.Any:
        return {}
    raise SchemaError(f"a schema is a JSON Schema (dict) or built of int, float, str, bool, list, dict; not {spec!r}")


class Schema:
    """A checked schema. `text`: it as JSON, for a prompt."""

    def __init__(self, spec: Any) -> None:
        self.root = schema_of(spec)
        try:
            self.text = json.dumps(self.root, ensure_ascii=False)
            self._check(self.root, "schema")
        except (TypeError, ValueError, RecursionError) as error:
            if isinstance(error, SchemaError):
                raise
            raise SchemaError(f"the schema is not JSON: {error}") from None

    @property
    def is_free(self) -> bool:
        """It is satisfied by everything."""
        return self.root is True or self.root == {}

    def errors(self, value: Any) -> str:
        """What is wrong with `value`, the first few things; "" when it satisfies."""
        found: list[str] = []
        try:
            for where, what in self._wrong(self.root, value, "the value"):
                found.append(f"{where} {what}")
                if len(found) == SHOWN:
                    break
        except RecursionError:
            return "the schema or the value nests too deeply"
        return "; ".join(found)

    # -- the schema

    def _check(self, schema: Any, where: str) -> None:
        """Every keyword must be one that is checked; what it is given must make sense."""
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise SchemaError(f"{where} must be an object, not {shown(schema)}")
        for keyword, given in schema.items():
            if keyword in ("$defs", "definitions", "properties"):
                expect(isinstance(given, dict), where, keyword, "an object")
                for name, inner in given.items():
                    self._check(inner, f"{where}.{keyword}.{name}")
            elif keyword in ("anyOf", "oneOf", "allOf"):
                expect(isinstance(given, list) and given, where, keyword, "a list of schemas")
                for index, inner in enumerate(given):
                    self._check(inner, f"{where}.{keyword}[{index}]")
            elif keyword in ("items", "additionalProperties"):
                self._check(given, f"{where}.{keyword}")
            elif keyword == "$ref":
                self._target(given)
            elif keyword not in IGNORED:
                check_keyword(keyword, given, where)

    def _target(self, reference: Any) -> Any:
        if not isinstance(reference, str) or not re.match(r"#(/|$)", reference):
            raise SchemaError(f"$ref {shown(reference)}: only places in the same schema (#/$defs/...) are supported")
        place = self.root
        for step in reference[2:].split("/") if reference != "#" else ():
            try:
                place = place[step.replace("~1", "/").replace("~0", "~")]
            except (KeyError, TypeError):
                raise SchemaError(f"$ref {reference!r} leads nowhere") from None
        if not isinstance(place, (dict, bool)):
            raise SchemaError(f"$ref {reference!r} leads to no schema")
        return place

    # -- values

    def _wrong(self, schema: Any, value: Any, where: str) -> Found:
        if isinstance(schema, bool):
            if not schema:
                yield where, "must not be there"
            return
        if "$ref" in schema:
            yield from self._wrong(self._target(schema["$ref"]), value, where)
        kinds = schema.get("type")
        if kinds is not None and not any(is_a(value, kind) for kind in listed(kinds)):
            yield where, f"must be {' or '.join(listed(kinds))}, not {shown(value)}"
            return  # what else is wrong follows from that
        for keyword, holds, says in SIMPLE:
            if keyword in schema and not holds(value, schema[keyword]):
                yield where, f"is {shown(value)}, but {says} {shown(schema[keyword], 500)}"
        yield from self._wrong_by_several(schema, value, where)
        if isinstance(value, list) and "items" in schema:
            for index, item in enumerate(value):
                yield from self._wrong(schema["items"], item, f"{where}[{index}]")
        if isinstance(value, dict):
            yield from self._wrong_members(schema, value, where)

    def _wrong_members(self, schema: Any, value: dict[str, Any], where: str) -> Found:
        for name in schema.get("required", ()):
            if name not in value:
                yield where, f"lacks the member {name!r}"
        known = schema.get("properties", {})
        for name, member in value.items():
            place = f"{where}.{name}"
            if name in known:
                yield from self._wrong(known[name], member, place)
            elif schema.get("additionalProperties", True) is False:
                yield where, f"has a member {shown(name)} that is not allowed; allowed: {', '.join(known) or 'none'}"
            else:
                yield from self._wrong(schema.get("additionalProperties", True), member, place)

    def _wrong_by_several(self, schema: Any, value: Any, where: str) -> Found:
        for inner in schema.get("allOf", ()):
            yield from self._wrong(inner, value, where)
        for keyword in ("anyOf", "oneOf"):
            if keyword not in schema:
                continue
            firsts = [next(self._wrong(inner, value, where), None) for inner in schema[keyword]]
            fitting = firsts.count(None)
            if not fitting:
                reasons = " / ".join(what for _, what in filter(None, firsts))
                yield where, f"satisfies nothing of {keyword}: {reasons}"
            elif fitting > 1 and keyword == "oneOf":
                yield where, f"satisfies {fitting} schemas of oneOf and must satisfy exactly one"


def expect(holds: Any, where: str, keyword: str, what: str) -> None:
    if not holds:
        raise SchemaError(f"{where}.{keyword} must be {what}")


def check_keyword(keyword: str, given: Any, where: str) -> None:
    """A keyword that holds no schema."""
    if keyword == "type":
        known = listed(given) and all(isinstance(kind, str) and kind in TYPES for kind in listed(given))
        expect(known, where, keyword, f"one of {', '.join(TYPES)}, or a list of them")
    elif keyword == "required":
        expect(isinstance(given, list) and all(isinstance(n, str) for n in given), where, keyword, "a list of names")
    elif keyword == "enum":
        expect(isinstance(given, list), where, keyword, "a list of values")
    elif keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        expect(is_a(given, "number"), where, keyword, "a number")
    elif keyword in ("minLength", "maxLength", "minItems", "maxItems"):
        expect(is_a(given, "integer") and given >= 0, where, keyword, "a number >= 0")
    elif keyword == "uniqueItems":
        expect(isinstance(given, bool), where, keyword, "true or false")
    elif keyword == "pattern":
        try:
            re.compile(given)
        except (TypeError, re.error) as error:
            raise SchemaError(f"{where}.pattern is no regular expression: {error}") from None
    elif keyword != "const":
        advice = "; write {'type': 'object', 'properties': {...}}" if where == "schema" else ""
        raise SchemaError(f"{where}: the keyword {shown(keyword)} is not supported{advice}")


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def is_a(value: Any, kind: str) -> bool:
    """JSON's types: true is no number, 1.0 is an integer."""
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[kind])


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    return bool(one == other)


def is_unique(items: list[Any]) -> bool:
    return not any(same(item, other) for index, item in enumerate(items) for other in items[:index])


def shown(value: Any, most: int = VALUE_SHOWN) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(type(value))
    return text if len(text) <= most else f"{text[:most]}..."


def when(kind: str, holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """A keyword says nothing about values of other types."""
    return lambda value, given: not is_a(value, kind) or holds(value, given)


SIMPLE: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("enum", lambda value, given: any(same(value, one) for one in given), "must be one of"),
    ("const", same, "must be"),
    ("minimum", when("number", lambda value, given: value >= given), "must be at least"),
    ("maximum", when("number", lambda value, given: value <= given), "must be at most"),
    ("exclusiveMinimum", when("number", lambda value, given: value > given), "must be more than"),
    ("exclusiveMaximum", when("number", lambda value, given: value < given), "must be less than"),
    ("minLength", when("string", lambda value, given: len(value) >= given), "must have this length at least:"),
    ("maxLength", when("string", lambda value, given: len(value) <= given), "must have this length at most:"),
    ("pattern", when("string", lambda value, given: re.search(given, value) is not None), "must match"),
    ("minItems", when("array", lambda value, given: len(value) >= given), "must have so many items at least:"),
    ("maxItems", when("array", lambda value, given: len(value) <= given), "must have so many items at most:"),
    ("uniqueItems", when("array", lambda value, given: not given or is_unique(value)), "must not repeat an item:"),
)
