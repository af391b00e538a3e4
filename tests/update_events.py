"""Write the tables of docs/EVENTS.md from the values themselves: `python -m tests.update_events`.

What stands between `<!-- events -->` and `<!-- /events -->` (`values` likewise) is generated from rlm_cli/events.py:
names, types and defaults from the classes, the words from their docstrings; tests/test_events_spec.py checks it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union

from rlm_cli import events

SPEC = Path(__file__).parent.parent / "docs" / "EVENTS.md"
JSON_TYPES: Mapping[Any, str] = {str: "string", int: "integer", float: "number", bool: "true or false", Any: "any JSON"}

TYPES = {kind.__name__: name for name, kind in events.EVENT_TYPES.items()}
"""What a docstring calls by its class has a type in JSON."""


def filled(text: str) -> str:
    """`text` with both generated parts as the code is now."""
    for part, body in (("events", _events()), ("values", _values())):
        text = re.sub(
            rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", rf"\g<1>{_escape(body)}\g<2>", text, flags=re.DOTALL
        )
    return text


def _escape(body: str) -> str:
    return body.replace("\\", r"\\")


def _events() -> str:
    return "".join(f"### `{name}`\n\n{_described(kind)}" for name, kind in events.EVENT_TYPES.items())


def _values() -> str:
    return "".join(f"### {kind.__name__}\n\n{_described(kind)}" for kind in value_types())


def value_types() -> list[type[Any]]:
    """The values that the events' fields are made of, in the order in which a reader meets them."""
    found: dict[type[Any], None] = {}
    waiting: list[type[Any]] = list(events.EVENT_TYPES.values())
    for kind in waiting:
        for name, hint in typing.get_type_hints(kind).items():
            if name != "type":
                for inner in _dataclasses_in(hint):
                    if inner not in found:
                        found[inner] = None
                        waiting.append(inner)
    return list(found)


def _dataclasses_in(hint: Any) -> Iterator[type[Any]]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for inner in typing.get_args(hint):
        yield from _dataclasses_in(inner)


def _described(kind: type[Any]) -> str:
    words = "" if (kind.__doc__ or "").startswith(f"{kind.__name__}(") else inspect.cleandoc(kind.__doc__ or "")
    words = re.sub("`([A-Z][A-Za-z]+)`", lambda name: f"`{TYPES.get(name[1], name[1])}`", words)
    hints, said = typing.get_type_hints(kind), _field_words(kind)
    rows = [
        f"| `{field.name}` | {_spelled(hints[field.name])} | {said.get(field.name, '')} |\n"
        for field in dataclasses.fields(kind)
        if field.name != "type"
    ]
    if isinstance(getattr(kind, "total", None), property):
        rows.append(f"| `total` | {JSON_TYPES[int]} | Written for the reader, ignored when read. |\n")
    return f"{words}\n\n" * bool(words) + ("| field | | |\n|---|---|---|\n" + "".join(rows) + "\n") * bool(rows)


def _field_words(kind: type[Any]) -> dict[str, str]:
    """The string below each field, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    said = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            said[ast.unparse(field.target)] = " ".join(str(below.value.value).split()).replace("|", r"\|")
    return said


def _spelled(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return f"{_spelled(next(arg for arg in inner if arg is not type(None)))}, or null"
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is tuple:
        return f"list of {_spelled(inner[0])}"
    if origin is not None:
        return f"object, name: {_spelled(inner[1])}"
    return JSON_TYPES.get(hint) or f"[{hint.__name__}](#{hint.__name__.lower()})"


if __name__ == "__main__":
    SPEC.write_text(filled(SPEC.read_text("utf-8")), "utf-8")
