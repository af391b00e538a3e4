"""The rule of `--mode auto`: its decisions as a table, and what must hold for every input."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.models.facts import Price
from rlm_cli.routing import SMALL, UNKNOWN_WINDOW, Asked, Route, Situation, decide, may_be_direct

PRICE = Price(2e-6, 1e-5)
WHY, COUNT, FIND = "Why did it fail?", "How many requests failed?", "Which request failed first?"


def situation(question: str = FIND, tokens: int = 500, window: int | None = 128_000, **more: object) -> Situation:
    plain = Situation(question, tokens, tokens * 4, window, 16_384, price=PRICE, cap_usd=1.0)
    return replace(plain, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "mode", "why"),
    [
        (situation(FIND, 3_100), "direct", "about 3,100 tokens of 128,000: few enough"),
        (situation(FIND, 8_001), "rlm", "can be searched for"),
        (situation(FIND, 3_100, None), "direct", "window not known: few enough"),
        (situation(COUNT, 900), "direct", "few enough"),
        (situation(COUNT, 1_001), "rlm", "(how many) is about many items"),
        (situation("List all the parties.", 3_000), "rlm", "is about many items"),
        (situation(WHY, 30_000), "direct", "(why) is about the whole"),
        (situation("What does the contract say about notice?", 30_000), "direct", "is about the whole"),
        (situation(WHY, 60_000, cap_usd=9.0), "rlm", "more than half of the window"),
        (situation(WHY, 100_000), "rlm", "might not hold them and the reply"),
        (situation(WHY, 30_000, None), "rlm", "might not hold"),
        (situation(WHY, 30_000, price=None), "rlm", "what one call costs is not known"),
        (situation(WHY, 60_000, 1_000_000, cap_usd=None), "rlm", "one call would cost up to $0.17"),
        (situation(FIND, 4_000, 8_192), "rlm", "might not hold"),
        (situation(FIND, 7_000, cap_usd=0.05), "rlm", "more than half of what is allowed"),
        (situation(FIND, 7_000, cap_tokens=40_000), "rlm", "more than half of what is allowed"),
        (situation(FIND, 100, model="offline"), "rlm", "the offline model works by code"),
        (situation(FIND, 100, model="scripted"), "rlm", "the scripted model works by code"),
        (situation(FIND, 100, binary=True), "rlm", "not text"),
        (situation(FIND, 20_000, depth=0), "rlm-d0", "can be searched for"),
    ],
)
def test_auto(seen: Situation, mode: str, why: str) -> None:
    """Each decision with its reason in words."""
    route = decide("auto", seen)
    assert (route.mode, route.overruled) == (mode, False)
    assert why in route.why


@pytest.mark.parametrize(
    ("asked", "seen", "route"),
    [
        ("rlm", situation(tokens=10), Route("rlm", "as asked")),
        ("rlm-d0", situation(tokens=10), Route("rlm-d0", "as asked")),
        ("rlm", situation(tokens=10, depth=0), Route("rlm-d0", "as asked")),
        ("direct", situation(COUNT, 100_000), Route("direct", "as asked; about 100,000 tokens of 128,000")),
        ("direct", situation(model="scripted"), Route("direct", "as asked; about 500 tokens of 128,000")),
        ("direct", situation(model="offline"), Route("rlm", "the offline model only works by code", overruled=True)),
        ("direct", situation(binary=True), Route("rlm", "the input is not text", overruled=True)),
        (
            "direct",
            situation(tokens=200_000, depth=0),
            Route("rlm-d0", "about 200,000 tokens of 128,000: too many for one call", overruled=True),
        ),
    ],
)
def test_what_is_asked_for_is_done_where_it_is_possible(asked: Asked, seen: Situation, route: Route) -> None:
    """And where it is not, it says so. --max-depth 0 and rlm-d0 are the same."""
    assert decide(asked, seen) == route


prices = st.none() | st.builds(Price, st.floats(0, 1e-4), st.floats(0, 1e-4))
situations = st.builds(
    Situation,
    question=st.sampled_from([WHY, COUNT, FIND, "", "Fasse zusammen."]),
    tokens=st.integers(0, 3_000_000),
    bytes=st.integers(0, 12_000_000),
    window=st.none() | st.integers(1, 2_000_000),
    reply=st.integers(1, 32_000),
    price=prices,
    cap_usd=st.none() | st.floats(0, 10),
    cap_tokens=st.none() | st.integers(1, 3_000_000),
    model=st.sampled_from(["", "offline", "scripted"]),
    binary=st.booleans(),
    depth=st.integers(0, 3),
)


@given(situations)
def test_direct_always_has_room_and_is_paid_for(seen: Situation) -> None:
    """Never above the window, prompt and reply together; never for a model that reads no text; never near a cap."""
    if decide("auto", seen).mode == "direct":
        assert seen.tokens * 1.25 + seen.reply < (seen.window or UNKNOWN_WINDOW)
        assert seen.window is not None or seen.tokens <= SMALL
        assert not seen.model
        assert not seen.binary
        assert seen.cap_tokens is None or seen.bytes < seen.cap_tokens
        assert seen.cap_usd is None or seen.price is None or seen.price.at_most(seen.bytes, 0) <= seen.cap_usd


@given(situations, st.integers(0, 3_000_000), st.integers(0, 12_000_000))
def test_more_input_never_turns_rlm_into_direct(seen: Situation, tokens: int, size: int) -> None:
    """Monotone in size: whoever adds a file does not get less care."""
    larger = replace(seen, tokens=seen.tokens + tokens, bytes=seen.bytes + size)
    if decide("auto", larger).mode == "direct":
        assert decide("auto", seen).mode == "direct"


@given(st.sampled_from(["auto", "rlm", "rlm-d0", "direct"]), situations)
def test_the_sandbox_is_there_whenever_it_is_needed(asked: Asked, seen: Situation) -> None:
    """A run that connects to no engine before it reads is one that may be direct; depth 0 has no sub-calls anywhere."""
    mode = decide(asked, seen).mode
    assert mode != "direct" or may_be_direct(asked, seen.model)
    assert (mode == "rlm") <= (seen.depth > 0 and asked != "rlm-d0")
