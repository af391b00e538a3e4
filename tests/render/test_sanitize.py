"""Nothing that reaches a terminal through the sanitizer can move the cursor, hide text or fake it."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from rlm_cli.render.sanitize import clean, clean_line, clean_pieces

# Written differently from the sanitizer on purpose: what Unicode itself calls a control, format or surrogate.
VISIBLE_FORMAT = {chr(c) for c in (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)}
HIEROGLYPHS = {chr(c) for c in range(0x13430, 0x13440)}

NASTY = [
    "\x1b[2J",
    "\x1b]0;t\x07",
    "\x1b]8;;http://x\x1b\\",
    "\x9b1A",
    "\x9d52;c;x\x9c",
    "\r",
    "\b",
    "\u202e",
    "\u2066",
    "\u200b",
    "\U000e0041",
    "\ud800",
    "e\u0301",
    "a" + "\u0300" * 50,
    "日本",
    "\x00",
    "\x7f",
    "\u2028",
    "\n",
    "\t",
    "\ufeff",
    "[/x]",
]
nasty = st.sampled_from(NASTY)
texts = st.lists(nasty | st.text(max_size=6), max_size=12).map("".join)


def dangerous(char: str) -> bool:
    if char in "\n\t" or char in VISIBLE_FORMAT or char in HIEROGLYPHS:
        return False
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


@settings(max_examples=500, deadline=None)
@given(text=texts)
def test_nothing_dangerous_comes_out(text: str) -> None:
    """No control but newline and tab, no format character, no surrogate; cleaning twice changes nothing."""
    out = clean(text)
    assert ([c for c in out if dangerous(c)], clean(out)) == ([], out)


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(st.sampled_from([*NASTY, "\r\n", "\u0301"]), max_size=30).map("".join),
    sizes=st.lists(st.integers(0, 5), min_size=1),
)
def test_pieces_are_cleaned_as_the_whole(text: str, sizes: list[int]) -> None:
    """Wherever a long text is cut: between CR and LF, and within a pile of marks."""
    cut, at, turn = [], 0, 0
    while at < len(text):
        size = sizes[turn % len(sizes)] or (turn % 2)
        cut.append(text[at : at + size])
        at, turn = at + size, turn + 1
    assert "".join(clean_pieces(cut)) == clean(text)


def test_a_hundred_thousand_random_strings() -> None:
    """Over all of Unicode, with the dangerous parts often."""
    rng = random.Random(12)
    edges = [*range(0xA0), 0x1B, 0x9B, *range(0x2000, 0x2070), *range(0xD7F0, 0xE010), *range(0xFFE0, 0x10010)]
    edges += [*range(0xE0000, 0xE0100)]
    for _ in range(100):
        codes = [rng.choice(edges) if rng.random() < 0.5 else rng.randrange(0x110000) for _ in range(5000)]
        out = clean("".join(map(chr, codes)))
        assert ([c for c in out if dangerous(c)], clean(out) == out) == ([], True)


def test_every_format_character_of_unicode() -> None:
    """Each one alone, so that no range of the sanitizer has a hole."""
    assert [f"{c:x}" for c in range(0x110000) if dangerous(chr(c)) and clean(chr(c)) == chr(c)] == []


@pytest.mark.parametrize(
    "text",
    [
        "plain text, 50 % of it: \\x1b is four characters\n\tindented",
        "Ünïcödé — “quotes” … · × → 日本語 العربية עברית हिन्दी ไทย Việt",
        "e\u0301 n\u0303 ❤️ 👍🏽 🇩🇪 ½ \ufffd",
        "[bold]not markup[/] :smile: <b>&amp;</b> $(rm -rf)",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Scripts, emoji, punctuation and markup come out as they went in."""
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\r\nb", "a\nb"),
        ("100%\rdone", "100%\\rdone"),
        ("\x1b]52;c;x\x07", "\\x1b]52;c;x\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("ab\b\bcd", "ab\\x08\\x08cd"),
        ("\u202egnp", "\\u202egnp"),
        ("\U000e0041", "\\U000e0041"),
        ("\U00013430\U00013438\u06dd", "\\U00013430\\U00013438\u06dd"),
        ("a" + "\u0300" * 6, "a" + "\u0300" * 4 + "\\u0300\\u0300"),
    ],
)
def test_what_is_dangerous_is_shown(text: str, shown: str) -> None:
    """Nothing disappears: it becomes visible."""
    assert clean(text) == shown


@settings(max_examples=500, deadline=None)
@given(text=texts, width=st.integers(1, 60))
def test_a_line_is_one_line_of_bounded_width(text: str, width: int) -> None:
    """Whatever goes in, at most `width` cells on one line come out, and again the same."""
    out = clean_line(text, width)
    assert (cell_len(out) <= width, "\n" in out, "\t" in out, clean_line(out, width)) == (True, False, False, out)


def test_a_line_that_fits_is_whole_and_a_cut_is_marked() -> None:
    """The newline sign, and the ellipsis only where something is missing."""
    assert clean_line(" a\nb\tc ", 5) == "a⏎b c"
    assert clean_line("abcdef", 5) == "abcd…"
    assert clean_line("abcde", 5) == "abcde"
    assert clean_line("日本語日本語", 5) == "日本…"
    assert clean_line("x" * 10_000_000, 10) == "x" * 9 + "…"
    assert clean_line("a\nb") == "a⏎b"
