"""Values and errors as text for the model: bounded reprs, the list of variables, trimmed tracebacks."""

from __future__ import annotations

import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

ECHO_MAX = 100_000
"""Characters of the repr of a last expression."""
TRACEBACK_MAX = 32_000
VARIABLES_MAX = 100
"""Variables listed after a cell."""
NAME_SHOWN = 60
KERNEL = "<kernel/"
SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, range)
BRACKETS: dict[type, tuple[str, str]] = {list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}"), dict: ("{", "}")}


def bounded_repr(value: Any, most: int = ECHO_MAX) -> str:
    """repr(value), but never the repr of a gigabyte: big strings and containers are cut and say so."""
    kind = type(value)
    if kind in (str, bytes) and len(value) > most:
        return f"{value[:most]!r}... [{len(value):,} {'characters' if kind is str else 'bytes'} in all]"
    if kind in BRACKETS and value:
        return _repr_of_items(value, most)
    return clip(repr(value), most)


def _repr_of_items(value: Any, most: int) -> str:
    kind = type(value)
    opening, closing = BRACKETS[kind]
    parts: list[str] = []
    used = 0
    for shown, item in enumerate(value.items() if kind is dict else value):
        if used > most:
            return f"{opening}{', '.join(parts)}, ...{closing} [{len(value):,} items in all, {shown:,} shown]"
        left = max(most - used, 20)
        if kind is dict:
            parts.append(f"{bounded_repr(item[0], left)}: {_repr_inside(item[1], left, value)}")
        else:
            parts.append(_repr_inside(item, left, value))
        used += len(parts[-1]) + 2
    comma = "," if kind is tuple and len(value) == 1 else ""
    return opening + ", ".join(parts) + comma + closing


def _repr_inside(item: Any, most: int, outer: Any) -> str:
    """One level is walked by us; deeper structure is Python's own repr, which survives cycles."""
    if type(item) in (str, bytes) and len(item) > most:
        return bounded_repr(item, most)
    return "[...]" if item is outer else clip(repr(item), most)


def clip(text: str, most: int) -> str:
    """Head and tail of a text that is too long, with its length."""
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail]}\n... [{len(text):,} characters in all] ...\n{text[-tail:]}"


def describe(value: Any) -> str:
    """Type and size of a variable, without running code of its class."""
    kind = type(value)
    if kind in SIZED:
        unit = "characters" if kind is str else "bytes" if kind in (bytes, bytearray) else "items"
        return f"{kind.__name__}, {len(value):,} {unit}"
    if kind in (int, float, bool, complex, type(None)):
        return f"{kind.__name__}, {clip(repr(value), 40)}" if kind is not int or abs(value) < 10**40 else "int, huge"
    return kind.__name__


def variables(namespace: Mapping[str, Any], hidden: Mapping[str, Any]) -> list[str]:
    """One line per user variable, "name: type, size". `hidden`: the names that are ours, unless they were rebound."""
    from types import ModuleType

    def is_users(name: str, value: Any) -> bool:
        ours = name in hidden and hidden[name] is value
        return not name.startswith("_") and not ours and not isinstance(value, ModuleType)

    users = [(name, value) for name, value in list(namespace.items()) if is_users(name, value)]
    lines = [f"{clip(name, NAME_SHOWN)}: {describe(value)}" for name, value in users[:VARIABLES_MAX]]
    if len(users) > VARIABLES_MAX:
        lines.append(f"... and {len(users) - VARIABLES_MAX:,} more")
    return lines


def format_error(error: BaseException) -> str:
    """A traceback without the kernel's frames, bounded."""
    try:
        report = traceback.TracebackException(type(error), error, error.__traceback__)
        trim(report, set())
        return clip("".join(report.format()).rstrip("\n"), TRACEBACK_MAX)
    except Exception:  # out of memory, or an exception class whose own code fails
        return f"{type(error).__name__} (its traceback cannot be shown)"


def trim(report: traceback.TracebackException, seen: set[int]) -> None:
    """Drop the kernel's own frames, along the chain of causes too."""
    if id(report) in seen:
        return
    seen.add(id(report))
    report.stack[:] = [frame for frame in report.stack if not frame.filename.startswith(KERNEL)]
    for linked in (report.__cause__, report.__context__, *(getattr(report, "exceptions", None) or ())):
        if linked is not None:
            trim(linked, seen)
