"""Quotes against documents: what is said of each is what a plain search of the decoded text says."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli import citations
from rlm_cli.events import Citation
from rlm_cli.sandbox import Quote
from rlm_cli.sandbox.kernel.decoding import decode
from rlm_cli.sandbox.kernel.encoded import Encoded
from rlm_cli.sources import Document

ALPHABET = "ab \n\r\té—語😀"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "cp1252", "shift_jis", "auto")


def check(
    quotes: Sequence[Quote], documents: Sequence[Document], text_limit: int = 1 << 26, **how: Any
) -> list[Citation]:
    return list(citations.check(quotes, documents, text_limit=text_limit, **how))


def document(path: Path, data: bytes, encoding: str = "auto", name: str = "") -> Document:
    path.write_bytes(data)
    return Document(name or path.name, str(path), len(data), encoding)


def kernel_text(data: bytes, encoding: str, *, lazy: bool) -> str:
    """What `context` is in the kernel: decoded as a whole, or read in pieces."""
    if not lazy:
        return decode(data, encoding)[0]
    source = Encoded(lambda start, size: data[start : start + size], len(data), encoding)
    source.survey(64, 32 * 1024)
    return source.text(0, len(source))


def naive(text: str, quote: Quote) -> tuple[str, int | None, int | None, int | None]:
    """(status, line, start, end) by the plainest means."""
    places = [match.start() for match in re.finditer(f"(?={re.escape(quote.quote)})", text)]
    ends = dict(zip(places, (place + len(quote.quote) for place in places), strict=True))
    status = "verbatim"
    if not places:
        status = "approximate"
        pattern = r"\s+".join(map(re.escape, quote.quote.split()))
        found = re.search(pattern, text)
        ends = {found.start(): found.end()} if found else {}
    if not ends:
        return "not_found", None, None, None
    start = quote.start if quote.start in ends else min(ends)
    return status, text.count("\n", 0, start) + 1, start, ends[start]


@settings(max_examples=400, deadline=None)
@given(
    text=st.text(ALPHABET, max_size=60),
    garbage=st.binary(max_size=4),
    encoding=st.sampled_from(ENCODINGS),
    cut=st.tuples(st.integers(0, 60), st.integers(1, 12)),
    other=st.text(ALPHABET, min_size=1, max_size=6).filter(str.strip),
    window=st.integers(2, 40),
    lazy=st.booleans(),
    exact=st.booleans(),
)
def test_the_checker_agrees_with_a_plain_search(
    text: str,
    garbage: bytes,
    encoding: str,
    cut: tuple[int, int],
    other: str,
    window: int,
    lazy: bool,
    exact: bool,
) -> None:
    """In any encoding, with bytes that are none, in any windows: status, line and offsets."""
    data = text.encode("utf-8" if encoding == "auto" else encoding, "replace") + garbage
    lazy = lazy and len(data) > window
    whole = kernel_text(data, encoding, lazy=lazy)
    found = whole[cut[0] : sum(cut)]
    quotes = [Quote(one, start=at) for one, at in ((found, cut[0] if exact else None), (other, None)) if one.strip()]
    with tempfile.TemporaryDirectory() as folder:
        made = document(Path(folder, "a.txt"), data, encoding)
        cited = check(quotes, [made], window=window, text_limit=0 if lazy else 1 << 30)
    for quote, citation in zip(quotes, cited, strict=True):
        assert (citation.status, citation.line, citation.start, citation.end) == naive(whole, quote)


@settings(max_examples=60, deadline=None)
@given(spaces=st.lists(st.sampled_from([" ", "\n", "\r\n", "\t  ", "\u3000", "\xa0"]), min_size=2, max_size=2))
def test_white_space_alone_makes_it_approximate(spaces: list[str]) -> None:
    text = f"x\nthe pool{spaces[0]}was{spaces[1]}exhausted at noon\n"
    with tempfile.TemporaryDirectory() as folder:
        made = document(Path(folder, "a.txt"), text.encode())
        (cited,) = check([Quote("pool was exhausted")], [made], window=7)
    assert cited.status == ("verbatim" if spaces == [" ", " "] else "approximate")
    assert (cited.line, cited.start) == (2, 6)
    assert " ".join(text[cited.start : cited.end].split()) == "pool was exhausted"


def test_the_place_decides_among_many(tmp_path: Path) -> None:
    """A match says where its line holds it; without a place it is the first."""
    made = document(tmp_path / "a.log", b"ok 1\nfailed: x\nok 2\nfailed: x\n")
    cited = check(
        [
            Quote("failed: x"),
            Quote("failed: x", start=20),
            Quote("failed: x", start=28),
            Quote("failed: x", start=9_999),
        ],
        [made],
        window=5,
    )
    assert [one.line for one in cited] == [2, 4, 4, 2]


def test_a_document_is_preferred_and_any_other_will_do(tmp_path: Path) -> None:
    """A quote is cited where it truly is, also when it was said to be elsewhere."""
    first = document(tmp_path / "a", b"one\nshared line here\n")
    second = document(tmp_path / "b", b"shared line here\ntwo  words\n")
    cited = check(
        [
            Quote("shared line", "b"),
            Quote("shared line"),
            Quote("one", "b"),
            Quote("two words", "nowhere"),
            Quote("three", "b"),
        ],
        [first, second],
    )
    assert [(one.status, one.document, one.line) for one in cited] == [
        ("verbatim", "b", 1),
        ("verbatim", "a", 2),
        ("verbatim", "a", 1),
        ("approximate", "b", 2),
        ("not_found", "b", None),
    ]
    assert cited[0].path == str(tmp_path / "b")
    assert cited[4].path is None


@pytest.mark.parametrize("origin", ["stdin", "pipe", "url", "archive", "converted"])
def test_what_is_no_file_has_no_path(tmp_path: Path, origin: str) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(b"hello there\n")
    made = Document("input", str(path), 12, origin=origin)  # type: ignore[arg-type]
    (cited,) = check([Quote("hello there")], [made])
    assert (cited.document, cited.path, cited.line) == ("input", None, 1)


def test_what_cannot_be_read_is_said_to_be_unchecked(tmp_path: Path) -> None:
    """Gone, shorter, no file any more: nothing is called missing that was not looked for."""
    gone = Document("gone", str(tmp_path / "gone"), 5)
    short = document(tmp_path / "short", b"hello")
    short.path.write_bytes(b"h")
    os.mkfifo(tmp_path / "fifo")
    fifo = Document("fifo", str(tmp_path / "fifo"), 5)
    good = document(tmp_path / "good", b"there\n")
    cited = check([Quote("there"), Quote("x y z", "gone")], [gone, short, fifo, good])
    assert [one.status for one in cited] == ["verbatim", "unchecked"]
    assert check([Quote("hello")], [fifo])[0].status == "unchecked"


def test_time_and_patience_end_the_search(tmp_path: Path) -> None:
    """What was found until then counts; the rest is unchecked, never missing."""
    made = document(tmp_path / "a", b"found early\n" + b"." * 10_000)
    ticks = itertools.count()
    quotes = [Quote("found early"), Quote("not there")]
    late = check(quotes, [made], window=100, seconds=50, clock=lambda: float(next(ticks)))
    assert {one.status for one in late} <= {"verbatim", "unchecked"}
    assert late[1].status == "unchecked"
    assert check(quotes, [made], cancelled=lambda: True)[1].status == "unchecked"


def test_progress_grows_up_to_the_total(tmp_path: Path) -> None:
    """One pass for a quote with a word that is nowhere; three where its words are there: of its rarest word, word for
    word, and but for white space."""
    made = [document(tmp_path / name, b"x" * 999 + b"y") for name in "ab"]
    seen: list[tuple[int, int]] = []
    for quote, size in (("x z", 2_000), ("y y", 6_000)):
        seen.clear()
        check([Quote(quote)], made, window=100, on_progress=lambda done, total: seen.append((done, total)))
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert all(done <= total for done, total in seen)
        assert seen[-1] == (size, size)


@pytest.mark.parametrize("size", [300 << 20])
def test_memory_does_not_grow_with_the_document(tmp_path: Path, size: int) -> None:
    """A sparse file of 300 MB with a quote at its end: found, in a few megabytes."""
    path = tmp_path / "huge.log"
    with path.open("wb") as file:
        file.seek(size)
        file.write("\nder Schluß steht hier\n".encode())
    made = Document("huge.log", str(path), path.stat().st_size)
    tracemalloc.start()
    (cited,) = check([Quote("Schluß steht")], [made], seconds=600)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (cited.status, cited.line, cited.start) == ("verbatim", 2, size + 5)
    assert peak < 32 << 20


def test_many_documents_and_many_quotes(tmp_path: Path) -> None:
    made = [document(tmp_path / f"{n}.txt", f"this is number {n}\n".encode()) for n in range(300)]
    quotes = [Quote(f"is number {n}\n") for n in range(0, 300, 7)]
    cited = check(quotes, made)
    assert [one.document for one in cited] == [f"{n}.txt" for n in range(0, 300, 7)]


@given(st.lists(st.builds(Quote, st.text(min_size=1), st.text(), st.none() | st.integers(0, 2**53)), max_size=5))
@settings(max_examples=100, deadline=None)
def test_no_quote_breaks_it_and_none_is_lost(quotes: list[Quote]) -> None:
    """Forged evidence: any text, any name, any place."""
    quotes = [quote for quote in quotes if quote.quote.strip()]
    with tempfile.TemporaryDirectory() as folder:
        made = [document(Path(folder, name), b"some text\nof two lines (a+)+$ [\n") for name in "ab"]
        cited = check(quotes, made)
    assert [one.quote for one in cited] == [quote.quote for quote in quotes]


def test_nothing_to_check_reads_nothing() -> None:
    assert check([], [Document("gone", "/nonexistent", 5)]) == []


@pytest.mark.parametrize("last", ["zq", "zqx", "a zq x"])
def test_no_quote_and_no_text_make_the_search_slow(last: str, tmp_path: Path) -> None:
    """Both may be hostile: a quote that nearly begins at every place of a text, and a thousand words to look for."""
    begun = "a " * 1_990
    made = document(tmp_path / "a.txt", b"a " * 2_000_000 + b" zq zqx")
    quotes = [Quote(f"{begun}{number % 8} {last}", "", None) for number in range(50)] + [Quote(begun + last, "", None)]
    found = check(quotes, [made])
    assert [one.status for one in found[:-1]] == ["not_found"] * 50
    assert found[-1].status == {"zq": "approximate", "zqx": "not_found", "a zq x": "not_found"}[last]
