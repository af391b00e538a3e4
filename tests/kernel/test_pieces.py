"""Chunks, line numbers and samples: against the plain loop over the real string, on a str, a Text and a mapping."""

from __future__ import annotations

import copy
import pickle
import re
from bisect import bisect_right
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.sandbox.kernel import pieces, sampling
from rlm_cli.sandbox.kernel.linenumbers import LineNumbering, LineNumbers
from rlm_cli.sandbox.kernel.pieces import Cutter, Lines, Matches, Piece, Pieces, chunks

from .test_text import BOTH, text_of

BOUNDARIES = ["a", "^a", r"^\S", r"(?<=,)", "aa|b,", r"(?m)^(?=b)", r"\n(?=\n)", "€😀", "x"]
BY = st.sampled_from([None, "lines", "paragraphs", *BOUNDARIES, re.compile("^b"), re.compile("(?m)^.")])


def borders(string: str, by: Any) -> list[int]:
    """Where records begin, found by trying every place."""
    if by in (None, "lines"):
        return [at for at in range(1, len(string)) if string[at - 1] == "\n"]
    if by == "paragraphs":
        by = r"(?:(?<=\n\n)|(?<=\n\r\n))[^\r\n]"
    pattern = re.compile(by, re.MULTILINE) if isinstance(by, str) else by
    return [at for at in range(1, len(string)) if pattern.match(string, at)]


def plain(string: str, size: int, overlap: int, by: Any, count: int | None) -> list[tuple[int, int]]:
    """The spans of the chunks, by the plain meaning of the words."""
    places = [*borders(string, by), len(string)]
    spans: list[tuple[int, int]] = []
    done = 0
    while done < len(string):
        at = max(0, done - overlap)
        new = done if at or count is not None else overlap
        stop = at + size
        after = [place for place in places if new < place <= stop]
        if count is not None and len(after) >= count:
            done = after[count - 1]
        elif stop >= len(string):
            done = len(string)
        elif after:
            done = after[-1]
        else:
            line = string.rfind("\n", new, stop) + 1
            space = string.rfind(" ", (new + stop) // 2, stop) + 1
            done = line or (space if space > new else 0) or stop
        spans.append((at, done))
    return spans


@given(
    both=BOTH, size=st.integers(1, 60), part=st.floats(0, 0.99), by=BY, count=st.none() | st.integers(1, 5),
    look=st.integers(1, 9), start=st.integers(-9, 9), stop=st.none() | st.integers(-9, 30),
)  # fmt: skip
def test_chunks_of_any_text(
    both: tuple[str, Any], size: int, part: float, by: Any, count: int | None, look: int, start: int, stop: int | None
) -> None:
    """A str and a Text give the chunks that the plain loop gives, with their places; nothing is lost."""
    string, text = both
    overlap = int(size * part)
    records = pieces.records(by)
    if isinstance(records, Matches):  # as small as the texts are
        records = Matches(records.pattern, look, 20)
    expected = plain(string, size, overlap, by, count)
    cutter = Cutter(size, overlap, records, count)
    whole = cutter.pieces(string, 0, 0, "", final=True)[0]
    lazy: Any = Pieces(text, cutter)
    for found in (whole, list(lazy), [lazy[at] for at in range(len(expected))]):
        assert [(p.start, p.end, p.document) for p in found] == [(*span, "") for span in expected]
        assert [str(p) for p in found] == [string[a:b] for a, b in expected]
    assert (len(lazy), list(lazy[start:stop])) == (len(whole), whole[start:stop])
    assert "".join(p[0 if not n else whole[n - 1].end - p.start :] for n, p in enumerate(whole)) == string
    assert all(0 < len(p) <= size for p in whole)


@given(both=BOTH, count=st.integers(1, 4), by=BY)
def test_chunks_of_so_many_records(both: tuple[str, Any], count: int, by: Any) -> None:
    """Without a size, each piece but the last has exactly so many records."""
    string, text = both
    places = [0, *borders(string, by)]
    expected = [string[a:b] for a, b in pairwise([*places[::count], len(string)]) if a < b]
    assert [str(p) for p in chunks(string, by=by, count=count)] == expected
    assert [str(p) for p in text.chunks(by=by, count=count)] == expected


@given(texts=st.lists(BOTH, max_size=5), size=st.integers(1, 60), overlap=st.integers(0, 3), lazy=st.booleans())
def test_chunks_of_a_mapping(texts: list[tuple[str, Any]], size: int, overlap: int, lazy: bool) -> None:
    """Document by document, each piece with its name; indices and slices too."""
    size += overlap
    strings = {f"d{n}": string for n, (string, _) in enumerate(texts)}
    documents = {f"d{n}": pair[lazy and n % 2] for n, pair in enumerate(texts)}
    expected = [(n, p, p.start) for n, s in strings.items() for p in chunks(s, size, overlap)]
    found = chunks(documents, size, overlap)
    assert [found[at].document for at in range(len(expected))] == [name for name, _, _ in expected]
    assert [(p.document, p, p.start) for p in found] == expected
    assert list(found[1:-1]) == [p for _, p, _ in expected[1:-1]]


def test_chunks_keep_records_whole() -> None:
    """What a model asks for by name: log entries with their stack traces, sections, mail, paragraphs."""
    log = "2024-01-01 a\n  at x\n  at y\n2024-01-02 b\n2024-01-03 c\n  at z\n"
    assert chunks(log, 45, by=r"^\d{4}-") == [log[:40], log[40:]]
    assert chunks(log, by=r"^\d{4}-", count=1) == [log[:27], log[27:40], log[40:]]
    assert chunks("one\ntwo\nlonger\n", 9) == ["one\ntwo\n", "longer\n"]
    assert chunks("a\n\nb\nc\r\n\r\nd\n", by="paragraphs", count=1) == ["a\n\n", "b\nc\r\n\r\n", "d\n"]
    assert chunks("a b c d e f g", 6) == ["a b c ", "d e f ", "g"]
    assert chunks({"x": "ab\ncd", "y": ""}, 3)[1].document == "x"


@pytest.mark.parametrize(("size", "overlap", "count"), [(0, 0, None), (5, 5, None), (5, -1, None), (None, 0, 0)])
def test_chunks_refuse_nonsense(size: int | None, overlap: int, count: int | None) -> None:
    """Sizes that would loop for ever are an error, as are texts and records of the wrong type."""
    with pytest.raises(ValueError, match="chunks needs"):
        chunks("text", size, overlap, count=count)
    with pytest.raises(TypeError, match="not list"):
        chunks(["text"])
    with pytest.raises(TypeError, match="not int"):
        chunks("text", by=5)


def test_a_piece_is_a_str_that_knows_its_place() -> None:
    """Also after it was copied or pickled; what is made of it is an ordinary str."""
    piece = Piece("abc", 7, "doc")
    for same in (pickle.loads(pickle.dumps(piece)), copy.deepcopy(piece)):
        assert (same, same.start, same.end, same.document) == ("abc", 7, 10, "doc")
    assert (repr(piece), type(piece + "d"), type(str(piece))) == ("'abc'", str, str)


def test_a_record_too_large_for_a_text_is_cut() -> None:
    """Counting records never asks for more of a Text than memory allows."""
    text = text_of(b"x" * 2500 + b"\ny\n", most=1000)
    assert [len(p) for p in text.chunks(count=1)] == [1000, 1000, 501, 2]


@given(both=BOTH, block=st.integers(1, 20))
def test_line_numbers(both: tuple[str, Any], block: int) -> None:
    """Of every offset, in any order, also from the end and beyond it."""
    string, text = both
    for it in (string, text):
        numbers = LineNumbers(it, block)
        for offset in [*range(len(string), -1, -1), *range(-len(string), 0)]:
            assert numbers.of(offset) == string[:offset].count("\n") + 1
        assert numbers.of(10**9) == string.count("\n") + 1


def test_the_line_of_pieces_and_matches() -> None:
    """Whatever knows where it begins can be cited."""
    text = "a\nb\nc\n"
    numbering = LineNumbering()
    match = re.search("b", text)
    assert [numbering.line_of(p, text) for p in (match, Piece("c", 4), 0)] == [2, 3, 1]


@given(both=BOTH, n=st.integers(0, 30), by=BY, seed=st.integers(0, 3))
def test_a_sample_is_of_whole_records(both: tuple[str, Any], n: int, by: Any, seed: int) -> None:
    """In order, each once, with true places; all of them when there are fewer; the same for the same seed."""
    string, text = both
    places = [0, *borders(string, by)] if string else []
    spans = dict(pairwise([*places, len(string)]))
    for it in (string, text):
        found = sampling.draw_sample(it, n, seed=seed, by=by)
        assert [p.start for p in found] == sorted({p.start for p in found})
        assert [str(p) for p in found] == [string[p.start : spans[p.start]].rstrip("\r\n") for p in found]
        assert all(string[p.start : p.end] == p for p in found)
        again = sampling.draw_sample(it, n, seed=seed, by=by)
        assert [(p.start, p) for p in again] == [(p.start, p) for p in found]
        assert len(found) <= n
    assert len(sampling.draw_sample(string, n, seed=seed, by=by)) == min(n, len(places))


def test_a_sample_is_even_and_fair() -> None:
    """From all over the text, and long lines no oftener than short ones."""
    lines = [f"{n:05} " + "x" * (10 if n % 2 else 300) for n in range(20_000)]
    string = "\n".join(lines)
    for it in (string, text_of(string.encode(), most=10**7), text_of(string.encode("utf-16"), "utf-16", most=10**7)):
        drawn = sampling.draw_sample(it, 400)
        tenths = [int(line[:5]) * 10 // 20_000 for line in drawn]
        assert {bisect_right(tenths, t) - bisect_right(tenths, t - 1) for t in range(10)} <= set(range(30, 51))
        assert 150 < sum(len(line) < 50 for line in drawn) < 260


def test_a_sample_of_a_mapping() -> None:
    """Larger documents give more lines, and each line says where it is from."""
    documents = {"small": "s\n" * 100, "empty": "", "large": text_of(b"large\n" * 150), "other": "o\n" * 150}
    drawn = sampling.draw_sample(documents, 28)
    assert [line.document for line in drawn][:2] == ["small", "small"]
    assert {(line.document, str(line)) for line in drawn} == {("small", "s"), ("large", "large"), ("other", "o")}
    assert sum(line.document == "large" for line in drawn) > 14


def test_a_sample_of_one_endless_line() -> None:
    """Only the part around the place is shown; and Latin-1 that nobody has met yet is not damaged."""
    drawn = sampling.draw_sample(text_of(b"x" * 600_000, most=10**6), 1)
    assert 30_000 < len(drawn[0]) < 70_000
    text = text_of(b"plain\n" * 5000 + b"caf\xe9\n" * 5000, most=10**6)
    assert "caf\xe9" in {str(line) for line in sampling.draw_sample(text, 50)}


def test_lines_are_found_like_other_records() -> None:
    """Both kinds of boundary answer alike."""
    text = "ab\n\ncd\n"
    for places in (Lines(), Matches(re.compile("(?<=\n)"))):
        assert [places.next(text, at, 7) for at in range(1, 8)] == [3, 3, 3, 4, 7, 7, 7]
        assert [places.last(text, 1, at) for at in range(1, 8)] == [-1, -1, 3, 4, 4, 4, 7]
