"""Text or binary, and codec names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import UsageError
from rlm_cli.sources.encoding import Sniffed, check_encoding, is_binary, sniff


def test_sniffing() -> None:
    """A mark decides, then NUL, then whether it is UTF-8; a character cut at the end of the head is no fault."""
    heads = {
        b"": ("text", "utf-8"),
        b"plain": ("text", "utf-8"),
        "é".encode(): ("text", "utf-8"),
        "é".encode()[:1]: ("text", "utf-8"),
        b"caf\xe9 x": ("text", "latin-1"),
        "é".encode("utf-16"): ("text", "utf-16"),
        "é".encode("utf-32"): ("text", "utf-32"),
        b"\xef\xbb\xbfx": ("text", "utf-8-sig"),
        b"\xef\xbb\xbf\0": ("binary", ""),
        b"a\0": ("binary", ""),
    }
    assert {head: tuple(sniff(head)) for head in heads} == heads


@given(st.binary(max_size=64))
def test_the_two_judges_of_binary_agree(head: bytes) -> None:
    """The quick test and the full one never differ."""
    assert is_binary(head) == (sniff(head) == Sniffed("binary", ""))


@given(st.text(max_size=40), st.sampled_from(["utf-8", "utf-16", "utf-32", "utf-8-sig"]))
def test_text_is_never_taken_for_binary(text: str, codec: str) -> None:
    """Any text without NUL, in any Unicode encoding that has a mark or needs none, is text."""
    text = text.replace("\0", "")
    assert sniff(text.encode(codec, "replace")).kind == "text"


def test_codec_names() -> None:
    """Names are made canonical; what is no codec for files is refused, with the nearest names."""
    assert [check_encoding(name) for name in ("auto", "AUTO", "utf8", "Latin-1", "cp1252", "shift_jis")] == [
        "auto",
        "auto",
        "utf-8",
        "iso8859-1",
        "cp1252",
        "shift_jis",
    ]
    for name in ("hex", "idna", "unicode_escape", "zip", "nope", "", "a\0b"):
        with pytest.raises(UsageError, match="unknown text encoding"):
            check_encoding(name)
    with pytest.raises(UsageError) as caught:
        check_encoding("latin9x")
    assert "latin9" in caught.value.hint
