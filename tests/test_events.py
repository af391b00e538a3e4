"""The event codec: JSON both ways without loss, whatever the texts; whatever the JSON, no crash."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.events import (
    EVENT_TYPES,
    ROOT,
    Bus,
    Calls,
    Cost,
    ErrorInfo,
    Record,
    Result,
    Span,
    StepStarted,
    Totals,
    Unknown,
    Usage,
    Warned,
    from_json,
    record_from_json,
    record_to_json,
    to_json,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
finite_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
st.register_type_strategy(int, st.integers(-(2**63) + 1, 2**63 - 1))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
results = st.builds(Result, data=finite_json)
st.register_type_strategy(Result, results)


def any_event(name: str) -> st.SearchStrategy[Any]:
    return st.builds(EVENT_TYPES[name], type=st.just(name))


spans = st.lists(st.integers(0, 10**6), max_size=4).map(lambda path: Span(tuple(path)))
records = st.builds(
    Record,
    seq=st.integers(0, 2**40),
    ts=st.integers(0, 2**40).map(lambda micros: round(micros / 1e6, 6)),
    span=spans,
    event=st.sampled_from(sorted(EVENT_TYPES)).flatmap(any_event),
)


@settings(max_examples=300, deadline=None)
@given(record=records)
def test_every_record_comes_back_equal(record: Record) -> None:
    """Through JSON text and back, each of the event types is the same value."""
    assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record


@settings(max_examples=100, deadline=None)
@given(record=records, extra=st.dictionaries(st.text(min_size=8, max_size=12), json_values, max_size=3))
def test_unknown_fields_are_ignored(record: Record, extra: dict[str, Any]) -> None:
    """A newer rlm may add fields."""
    body = record_to_json(record)
    known = {f.name for f in dataclasses.fields(record.event)} | body.keys()
    assert record_from_json(body | {k: v for k, v in extra.items() if k not in known}) == record


@settings(max_examples=100, deadline=None)
@given(body=st.dictionaries(st.text(max_size=8), finite_json, max_size=4), seq=st.integers(0, 99))
def test_an_unknown_type_is_kept_whole(body: dict[str, Any], seq: int) -> None:
    """Reading and writing again what a newer rlm wrote loses nothing."""
    line = body | {"schema_version": 1, "seq": seq, "ts": 1.5, "span": "1.2", "type": "newer.event"}
    record = record_from_json(line)
    assert (isinstance(record.event, Unknown), record_to_json(record)) == (True, line)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(EVENT_TYPES)), data=st.data(), junk=json_values)
def test_what_does_not_fit_becomes_unknown_or_is_refused(name: str, data: st.DataObject, junk: Any) -> None:
    """With any field replaced by any value, the codec gives a record or a `ValueError`, never another exception."""
    body = record_to_json(Record(1, 2.0, ROOT, data.draw(any_event(name))))
    body[data.draw(st.sampled_from(sorted(body)))] = junk
    try:
        record = record_from_json(body)
    except ValueError:
        return
    assert isinstance(record, Record)
    json.dumps(record_to_json(record))


@pytest.mark.parametrize(
    "line",
    [
        None,
        [],
        {"type": 3},
        {"type": "warning", "seq": True, "ts": 1, "span": ""},
        {"type": "warning", "seq": 1, "ts": float("inf"), "span": ""},
        {"type": "warning", "seq": 10**400, "ts": 1, "span": ""},
        {"type": "warning", "seq": 1, "ts": 10**400, "span": ""},
        {"type": "warning", "seq": 1, "ts": 1, "span": "9" * 5000},
        {"type": "warning", "seq": 1, "ts": 1, "span": "²"},
    ],
)
def test_what_is_no_record_is_refused(line: Any) -> None:
    """A line without a usable place in the run raises `ValueError`."""
    with pytest.raises(ValueError, match=r"."):
        record_from_json(line)


@pytest.mark.parametrize("value", ["abc", {"a": 1}, 3])
def test_a_text_is_not_a_list_of_letters(value: Any) -> None:
    """`names: "abc"` is wrong, not three names."""
    with pytest.raises(ValueError, match="list"):
        from_json(Result, to_json(Result("r", "ok", "a", "q", 0, "v")) | {"warnings": value})


def test_numbers_json_cannot_say_become_null() -> None:
    """NaN and infinity would make a line that is not JSON."""
    assert to_json(Result("r", "ok", "a", "q", 0, "v", data=[float("nan"), float("inf"), 1.5]))["data"] == [
        None,
        None,
        1.5,
    ]


def test_totals_are_written_and_recomputed() -> None:
    """Sums appear in the JSON for scripts, and are derived again on reading, so they cannot disagree."""
    data = to_json(Totals(calls=Calls(1, 2, 3), cost=Cost(0.5, True, {"m": 0.5})))
    assert data["calls"]["total"] == 6
    assert from_json(Calls, data["calls"] | {"total": 99}).total == 6
    assert (Usage(1, 2) + Usage(3, 4, 5, 6, True)) == Usage(4, 6, 5, 6, True)
    assert from_json(ErrorInfo, {"code": "c", "message": "m"}) == ErrorInfo("c", "m")


def test_a_failing_listener_is_taken_off_and_the_others_told() -> None:
    """A closed terminal must not end a paid run."""
    seen: list[Record] = []

    def broken(record: Record) -> None:
        raise OSError("gone")

    bus = Bus([seen.append, broken], clock=lambda: 0.0)
    bus.emit(StepStarted(1))
    bus.emit(StepStarted(2))
    assert [r.event for r in seen] == [
        StepStarted(1),
        Warned("function failed and was switched off: gone"),
        StepStarted(2),
    ]
    assert [r.seq for r in seen] == [0, 1, 2]
