"""TOML by lines: what tomllib does not tell, for messages that name a line and edits that keep comments."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_STATEMENT_LINES = 200
"""Finding the lines of one assignment costs their square; beyond this the lines of a file are not known."""
IN_ARRAY = "[]"


@dataclass(frozen=True)
class Statement:
    """Lines `start` to `end` (from 0, end excluded) of a TOML file: a `[table]` header, or one assignment to `path`.
    Below `[[table]]` is one table of many, which `path` names by `IN_ARRAY`."""

    start: int
    end: int
    path: tuple[str, ...]
    header: bool


def toml_statements(text: str) -> Iterator[Statement]:
    """The statements of a valid TOML document, in order: tomllib gives values without their lines.

    A statement ends at the first line where what was collected parses: a prefix of an assignment never does.
    """
    # Not splitlines: TOML strings may hold U+2028 and its like. A CR counts only with its LF.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    table: tuple[str, ...] = ()
    at = 0
    while at < len(lines):
        bare = lines[at].strip()
        if not bare or bare.startswith("#"):
            at += 1
            continue
        end = at + 1
        while _parse("\n".join(lines[at:end])) is None:
            end += 1
            if end > min(len(lines), at + MAX_STATEMENT_LINES):
                return
        header = bare.startswith("[")
        path = _header(bare) if header else (*table, *_assigned(lines[at]))
        table = path if header else table
        yield Statement(at, end, path, header)
        at = end


def _parse(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _header(line: str) -> tuple[str, ...]:
    path = _path_of(_parse(line))
    return (*path, IN_ARRAY) if line.startswith("[[") else path


def _assigned(line: str) -> tuple[str, ...]:
    """The path that the line's assignment names: what stands before the first `=` that is not in quotes."""
    parts = line.split("=", 20)
    for count in range(1, len(parts)):
        if (value := _parse("=".join(parts[:count]) + "= 0")) is not None:
            return _path_of(value)
    return ()


def _path_of(value: Any) -> tuple[str, ...]:
    path: list[str] = []
    while isinstance(value, Mapping) and value:
        name, value = next(iter(value.items()))
        path.append(name)
    return tuple(path)


def line_numbers(text: str) -> Mapping[tuple[str, ...], int]:
    """Path -> the line, from 1, that first mentions it."""
    lines: dict[tuple[str, ...], int] = {}
    for statement in toml_statements(text):
        for length in range(1, len(statement.path) + 1):
            lines.setdefault(statement.path[:length], statement.start + 1)
    return lines


def line_of(lines: Mapping[tuple[str, ...], int], where: tuple[str, ...]) -> int:
    """The line of `where`, or of what holds it (an inline table)."""
    return next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), 1)
