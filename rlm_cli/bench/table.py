"""Figures as a table for people and as JSON for programs."""

from __future__ import annotations

from typing import Any

from .figures import OURS, Figure, Value

COLUMNS = ("ours", "rlms local", "rlms docker")
HEAD = ("figure", *COLUMNS, "docker/ours", "target", "")


def lines(figures: list[Figure]) -> list[str]:
    """The table, then the reasons for what is missing in it."""
    rows = [HEAD, *(row(figure) for figure in figures)]
    widths = [max(len(line[i]) for line in rows) for i in range(len(HEAD))]
    table = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in rows
    ]
    table.insert(1, "  ".join("-" * width for width in widths if width))
    return [line.rstrip() for line in table] + reasons(figures)


def row(figure: Figure) -> tuple[str, ...]:
    cells = (cell(figure.values.get(name), figure.unit) for name in COLUMNS)
    return (figure.title, *cells, ratio(figure), bound(figure), figure.verdict)


def cell(value: Value | None, unit: str) -> str:
    """A median with its unit; "-" where nothing is measured, "n/a" where it could not be."""
    if value is None:
        return "-"
    if value.median is None:
        return "n/a"
    return spell(value.median, unit)


def spell(number: float, unit: str) -> str:
    digits = 2 if unit in ("s", "x") else 1 if unit in ("ms", "%") else 0
    space = "" if unit in ("x", "%") else " "
    return f"{number:,.{digits}f}{space}{unit}"


def ratio(figure: Figure) -> str:
    """How many times ours the sandboxed peer needs."""
    ours, docker = (figure.values.get(name, Value()).median for name in (OURS, COLUMNS[2]))
    if not ours or docker is None:
        return "-"
    times = docker / ours
    return f"{times:,.0f}x" if times >= 10 else f"{times:.1f}x"


def bound(figure: Figure) -> str:
    if figure.target is None:
        return ""
    return f"{'>=' if figure.at_least else '<='} {spell(figure.target, figure.unit)}"


def reasons(figures: list[Figure]) -> list[str]:
    """Why something is missing: each reason once."""
    found = [(name, value.reason) for figure in figures for name, value in figure.values.items() if value.reason]
    return ["", *(f"n/a, {name}: {reason}" for name, reason in dict.fromkeys(found))] if found else []


def as_json(figures: list[Figure]) -> list[dict[str, Any]]:
    """Every figure with all its samples, medians included."""
    return [
        {
            "figure": figure.title,
            "unit": figure.unit,
            "values": {
                name: {"median": value.median, "samples": list(value.samples), "reason": value.reason}
                for name, value in figure.values.items()
            },
            "target": figure.target,
            "target_is": None if figure.target is None else "at least" if figure.at_least else "at most",
            "verdict": figure.verdict,
        }
        for figure in figures
    ]
