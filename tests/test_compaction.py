"""The account that stands for old turns: bounded, ordered, nothing in it can close its fence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.models import Message
from rlm_cli.prompts import History, account, estimated_tokens, must_shorten, parse_reply, turn_note
from rlm_cli.prompts.compaction import ACCOUNT_CHARS, VARIABLES_CHARS

from .fakes import fence


@given(
    st.lists(st.tuples(st.text(max_size=2000), st.text(max_size=3000)), min_size=1, max_size=60),
    st.lists(st.text(max_size=200), max_size=60),
)
def test_the_account_is_bounded_and_in_order(turns: list[tuple[str, str]], variables: list[str]) -> None:
    """However many and however long the turns were: it fits, and it names the first and the last of them."""
    notes = [
        turn_note(number, parse_reply(fence(code), truncated=False), output)
        for number, (code, output) in enumerate(turns, 1)
    ]
    text = account(notes, variables)
    assert len(text) < 2 * (ACCOUNT_CHARS + VARIABLES_CHARS)
    assert f"turns 1 to {len(turns)}" in text
    steps = [line for line in text.split("\n") if line.startswith("Turn ")]
    assert steps or sum(map(len, (note.text for note in notes))) > ACCOUNT_CHARS


def test_the_oldest_notes_give_way_first() -> None:
    """What was found out last is worth more."""
    notes = [turn_note(i, parse_reply(fence(f"a = {i}"), truncated=False), "o" * 350) for i in range(1, 101)]
    text = account(notes, [])
    assert "Turn 100." in text
    assert "a = 100" in text
    assert "a = 1\n" in text
    assert text.count("ooo") < 100 * 350 / 3


@given(st.integers(1, 12), st.integers(0, 12))
def test_shortening_keeps_opening_and_the_last_turns(turns: int, keep: int) -> None:
    """Twice in a row as well: the numbers of what is gone add up."""
    history = History.start(system="s", user="u")
    for number in range(turns):
        history = history.turn(reply=f"r{number}", observation=f"o{number}")
    keep = min(keep, turns - 1)
    short = history.shortened(keep, "account")
    assert short.messages[:2] == history.messages[:2]
    assert (short.turns, short.shortened_turns) == (keep, turns - keep)
    assert short.messages[4:] == history.messages[len(history.messages) - 2 * keep :]
    again = short.turn(reply="r", observation="o").shortened(0, "more")
    assert (again.turns, again.shortened_turns, len(again.messages)) == (0, turns + 1, 4)


def test_room_is_kept_in_any_window() -> None:
    """Three quarters of a large window, less of a small one; an unknown window is never full."""
    assert not must_shorten(10**9, None)
    assert (must_shorten(95_000, 128_000), must_shorten(97_000, 128_000)) == (False, True)
    assert (must_shorten(3_900, 8_000), must_shorten(4_000, 8_000)) == (False, True)


def test_what_the_provider_counted_is_believed() -> None:
    """Only what came after its count is guessed."""
    messages = [Message("user", "x" * 3000), Message("user", "y" * 300)]
    assert estimated_tokens(messages, 0, 5) == 1100
    assert estimated_tokens(messages, 700, 1) == 800
    assert estimated_tokens(messages, 1, 1) == 1100
