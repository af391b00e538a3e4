"""Change one value in a TOML file and leave everything else as it is: comments, order, spacing.

Pure text in, text out, by the statements that `config` finds. Every edit is checked by parsing what came out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import Statement, toml_statements
from ..errors import ConfigError
from ..private import make_private

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def with_value(text: str, where: tuple[str, ...], value: Any) -> str:
    """`text` with `where` assigned to `value` (a TOML scalar, list or flat table). Raises `ConfigError`."""
    lines, statements = _lines(text), list(toml_statements(text))
    assignment = f"{_name(where[-1])} = {toml_value(value)}"
    current = next((s for s in statements if s.path == where and not s.header), None)
    if current:
        left = lines[current.start].partition("=")[0].rstrip()
        comment = _comment(lines[current.start]) if current.end == current.start + 1 else ""
        lines[current.start : current.end] = [f"{left} = {toml_value(value)}{comment}"]
    else:
        _refuse_other_spellings(statements, where)
        _insert(lines, statements, where[:-1], assignment)
    return _checked(_text(lines, like=text), where, value)


def without(text: str, where: tuple[str, ...]) -> str:
    """`text` without the assignment of `where`; the same text when there is none. Raises `ConfigError`."""
    lines, statements = _lines(text), list(toml_statements(text))
    current = next((s for s in statements if s.path == where and not s.header), None)
    if not current:
        _refuse_other_spellings(statements, where)
        return text
    del lines[current.start : current.end]
    return _text(lines, like=text)


def toml_value(value: Any) -> str:
    """The value as TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_name(name)} = {toml_value(entry)}" for name, entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(entry) for entry in value) + "]"
    # JSON's strings, numbers and booleans are TOML's, but for one character that must be escaped here.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def save(path: Path, text: str) -> None:
    """Replace the file in one step. New files are for the owner alone; a link stays a link. Raises `ConfigError`."""
    target = path.resolve()
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        make_private(target.parent)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        with os.fdopen(
            os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8", newline=""
        ) as file:
            file.write(text)
        scratch.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="rlm config path") from error


def _lines(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _text(lines: list[str], *, like: str) -> str:
    end = "\r\n" if "\r\n" in like else "\n"
    return end.join(lines) + end if lines else ""


def _name(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_value(name)


def _comment(line: str) -> str:
    """The comment at the end of a one-line assignment, with the spaces before it."""
    whole = tomllib.loads(line)
    at = line.find("#")
    while at >= 0:
        with contextlib.suppress(tomllib.TOMLDecodeError):
            if tomllib.loads(line[:at]) == whole:
                return line[len(line[:at].rstrip()) :]
        at = line.find("#", at + 1)
    return ""


def _refuse_other_spellings(statements: list[Statement], where: tuple[str, ...]) -> None:
    """An inline table or a table of its own holds the value: too much to change by lines."""
    for statement in statements:
        inside = not statement.header and where[: len(statement.path)] == statement.path
        if inside or statement.path[: len(where)] == where:
            raise ConfigError(
                f"line {statement.start + 1} has {'.'.join(where)} in a table, which this command cannot change",
                hint="rlm config edit",
            )


def _insert(lines: list[str], statements: list[Statement], table: tuple[str, ...], assignment: str) -> None:
    """Put the assignment at the end of its table, which is made when it is missing."""
    end = 0 if not table else None
    current: tuple[str, ...] = ()
    for statement in statements:
        if statement.header:
            current = statement.path
        if current == table:
            end = statement.end
    if end is None:
        header = ".".join(_name(part) for part in table)
        lines += [*([""] if lines else []), f"[{header}]", assignment]
        return
    new = [assignment]
    # Above everything else only when the file has no other top-level value: keep it apart from what follows.
    if not table and end == 0 and lines:
        new.append("")
    lines[end:end] = new


def _checked(text: str, where: tuple[str, ...], value: Any) -> str:
    try:
        found: Any = tomllib.loads(text)
        for part in where:
            found = found[part]
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        found = None
    wanted = list(value) if isinstance(value, tuple) else value
    if found != wanted:
        raise ConfigError(f"{'.'.join(where)} cannot be changed in this file by this command", hint="rlm config edit")
    return text
