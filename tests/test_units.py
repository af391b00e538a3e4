"""Sizes, counts, durations and dollars: what is printed, what is understood, and that the two agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.units import (
    compact_count,
    human_bytes,
    human_count,
    human_seconds,
    money,
    parse_duration,
    parse_money,
    parse_size,
)


def test_spellings() -> None:
    """The spellings other parts and the documentation rely on, rounding at the unit borders included."""
    assert [human_bytes(n) for n in (0, 17, 999, 1000, 1234, 9950, 412_345_678, 999_600, 4 * 1024**3)] == [
        "0 B",
        "17 B",
        "999 B",
        "1.0 kB",
        "1.2 kB",
        "10 kB",
        "412 MB",
        "1.0 MB",
        "4.3 GB",
    ]
    assert [human_count(1284), compact_count(950), compact_count(1234), compact_count(103_000_000)] == [
        "1,284",
        "950",
        "1.2 k",
        "103 M",
    ]
    assert [human_seconds(s) for s in (0.0, 0.085, 3.21, 9.96, 14.2, 59.6, 125, 3599.7, 3725)] == [
        "0 ms",
        "85 ms",
        "3.2 s",
        "10 s",
        "14 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 00 min",
        "1 h 02 min",
    ]
    assert [money(v) for v in (0, 0.00001, 0.0123, 0.99999, 1, 1234.5)] == [
        "$0.00",
        "<$0.0001",
        "$0.0123",
        "$1.00",
        "$1.00",
        "$1,234.50",
    ]


def test_sizes_and_durations_people_write() -> None:
    """One letter is binary (Docker, ripgrep), XB decimal, XiB binary; durations add up from large to small."""
    sizes = {"500": 500, "2g": 2 * 1024**3, "64K": 65536, "10MB": 10_000_000, "4GiB": 4 * 1024**3, "1.5 kib": 1536}
    assert {text: parse_size(text) for text in sizes} == sizes
    spans = {
        "90": 90,
        "90s": 90,
        "15m": 900,
        "1h30m": 5400,
        "2 min 05 s": 125,
        "500ms": 0.5,
        "7d": 604800,
        "1.5h": 5400,
    }
    assert {text: parse_duration(text) for text in spans} == spans
    assert [parse_money(t) for t in ("1", "$2.50", " 0.5 ")] == [1.0, 2.5, 0.5]


@pytest.mark.parametrize("text", ["", "g", "-1", "1x", "1 2", "1e3", "nan", "inf", "2gg", "٣", "5 MiBs"])
def test_not_a_size(text: str) -> None:
    """What is no size is refused and quoted back."""
    with pytest.raises(ValueError, match="is not a size") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["", "m", "-5s", "1m1h", "5s5s", "5m3", "1x", "nan", "1h,30m"])
def test_not_a_duration(text: str) -> None:
    """Units in the wrong order or twice are typing errors, not sums."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "$", "-1", "nan", "inf", "1,5", "1e9", "one", "9" * 400])
def test_not_money(text: str) -> None:
    """A cap that is not a plain finite amount must never be taken for one."""
    with pytest.raises(ValueError, match="is not an amount"):
        parse_money(text)


@given(st.integers(0, 10**15))
def test_printed_sizes_read_back(count: int) -> None:
    """What is printed parses to within the digits shown (two at least), for every size."""
    assert abs(parse_size(human_bytes(count)) - count) <= max(0, count * 0.055)


@given(st.floats(0, 10**6))
def test_printed_durations_read_back(seconds: float) -> None:
    """Likewise for durations: half of the last digit shown (a millisecond, or a tenth of a second), or five percent."""
    half = 0.00051 if seconds < 0.1 else 0.0501
    assert abs(parse_duration(human_seconds(seconds)) - seconds) <= max(half, seconds * 0.055)


@given(st.integers(0, 10**20 - 1), st.sampled_from([("", 1), ("k", 1024), ("KB", 1000), ("GiB", 1024**3), ("b", 1)]))
def test_whole_sizes_are_exact(count: int, unit: tuple[str, int]) -> None:
    """No float touches a whole number of bytes."""
    assert parse_size(f"{count}{unit[0]}") == count * unit[1]


@given(st.text())
def test_parsers_only_raise_value_error(text: str) -> None:
    """Any text either parses or raises the documented error."""
    for parse in (parse_size, parse_duration, parse_money):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert repr(text) in str(error)
