"""docs/EVENTS.md is what the code does, and the program that checks a record's order sees what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_cli import events

from .event_order import out_of_order
from .update_events import SPEC, filled, value_types

TEXT = SPEC.read_text("utf-8")
GOLDEN = Path(__file__).parent / "render" / "golden" / "run.jsonl"

Lines = list[dict[str, Any]]


def recorded() -> Lines:
    return [json.loads(line) for line in GOLDEN.read_text("utf-8").splitlines()]


def test_the_tables_are_generated() -> None:
    """`python -m tests.update_events` would change nothing, and every event and value is there."""
    assert filled(TEXT) == TEXT
    assert re.findall(r"^### `(.*)`$", TEXT, re.MULTILINE) == list(events.EVENT_TYPES)
    assert set(re.findall(r"^### (\w+)$", TEXT, re.MULTILINE)) == {kind.__name__ for kind in value_types()}


def test_filling_replaces_what_was_there() -> None:
    """An old table goes, and the words around it stay."""
    old = "a\n<!-- events -->\n### `gone`\n<!-- /events -->\nb\n<!-- values -->\n<!-- /values -->\nc\n"
    new = filled(old)
    assert ("### `gone`" in new, "### `run.started`" in new, "### Usage" in new) == (False, True, True)
    assert (new[:2], "\nb\n" in new, new[-3:]) == ("a\n", True, "\nc\n")


def test_every_line_has_the_fields_of_the_first_table() -> None:
    """The envelope is what `record_to_json` writes."""
    table = TEXT.partition("## A line")[2].partition("## Order")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    line = events.record_to_json(events.Record(0, 0.0, events.ROOT, events.StepStarted(1)))
    assert named == set(line) - {"step"}


def test_what_is_drawn_only_is_named() -> None:
    """The sentence about streaming events names exactly these."""
    streaming = {
        name
        for name, kind in events.EVENT_TYPES.items()
        if issubclass(kind, events.ModelText | events.OutputText | events.ItemsDone | events.Preparing)
    }
    sentence = TEXT.partition("are drawn while they stream")[0].rpartition("\n\n")[2]
    assert set(re.findall(r"`([\w.]+)`", sentence)) == streaming


def test_a_recorded_run_is_in_order() -> None:
    """The golden record, which the views draw."""
    assert out_of_order(recorded()) == []


def _at(lines: Lines, kind: str) -> int:
    return next(number for number, line in enumerate(lines) if line["type"] == kind)


def _numbered(lines: Lines) -> Lines:
    return [line | {"seq": number} for number, line in enumerate(lines)]


def _without(kind: str) -> Callable[[Lines], Lines]:
    return lambda lines: _numbered([line for at, line in enumerate(lines) if at != _at(lines, kind)])


def _twice(kind: str) -> Callable[[Lines], Lines]:
    return lambda lines: _numbered([*lines[: _at(lines, kind) + 1], *lines[_at(lines, kind) :]])


def _moved_to_the_end(lines: Lines) -> Lines:
    return _numbered([*lines[1:], lines[0]])


def _in_a_child(lines: Lines) -> Lines:
    at = _at(lines, "code.written")
    return [*lines[:at], lines[at] | {"span": "1"}, *lines[at + 1 :]]


def _counted_down(lines: Lines) -> Lines:
    last = max(number for number, line in enumerate(lines) if line["type"] == "call.finished")
    totals = lines[last]["totals"]
    less = totals | {"calls": totals["calls"] | {"total": 0}}
    return [*lines[:last], lines[last] | {"totals": less}, *lines[last + 1 :]]


def _of_another_step(lines: Lines) -> Lines:
    at = _at(lines, "code.written")
    return [*lines[:at], lines[at] | {"step": 9}, *lines[at + 1 :]]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda lines: lines[:3] + lines[4:], "seq"),
        (lambda lines: lines[:-1], "run.finished is not the last"),
        (_moved_to_the_end, "run.started is not the first"),
        (_twice("run.finished"), "after run.finished"),
        (_twice("step.started"), "still open"),
        (_without("step.finished"), "still open"),
        (_without("step.started"), "after step"),
        (_twice("call.started"), "starts twice"),
        (_twice("call.finished"), "is not open"),
        (_without("call.started"), "is not open"),
        (_without("call.finished"), "calls without an end"),
        (_in_a_child, "not child.started"),
        (_counted_down, "goes down"),
        (_of_another_step, "of step 9"),
    ],
)
def test_what_is_out_of_order_is_seen(spoil: Callable[[Lines], Lines], said: str) -> None:
    """Each rule by a record that breaks it."""
    assert [wrong for wrong in out_of_order(spoil(recorded())) if said in wrong]
