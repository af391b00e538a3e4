"""`Text` against the `str` it stands for: every method it offers gives the same result, wherever pieces are cut."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.sandbox.kernel import decoding, regex, search
from rlm_cli.sandbox.kernel.encoded import Encoded
from rlm_cli.sandbox.kernel.text import Text, TextTooLarge

from .local import kernel, run

ALPHABET = "ab,  \n\r\té€😀\x0b\x1c\x85\u2028\ufffdÃ"
STRINGS = st.text(alphabet=ALPHABET, max_size=120) | st.text(alphabet="ab", max_size=120)
SHORT = st.text(alphabet=ALPHABET, max_size=3)
PLACES = st.none() | st.integers(-130, 130)
ENCODINGS = st.sampled_from(["auto", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le", "gb18030"])
WINDOWS = (16, 12, 2)
"""Of regular expressions in these tests: characters a window has of its own, ahead and behind."""


def encoded(data: bytes, encoding: str = "auto", *, stride: int = 8, run: int = 16) -> Encoded:
    return Encoded(lambda start, size: data[start : start + size], len(data), encoding, stride, run)


def text_of(data: bytes, encoding: str = "auto", *, most: int = 1000, window: int = 5) -> Text:
    return Text(encoded(data, encoding), most, window, WINDOWS)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, Text]:
    """A string, and a Text of its bytes in some encoding, or of Latin-1 that is not UTF-8."""
    string, encoding = draw(STRINGS), draw(ENCODINGS | st.just("latin"))
    if encoding == "latin":
        data = string.encode("latin-1", "ignore") + b"\xff"
        return data.decode("latin-1"), text_of(data)
    data = string.encode("utf-8" if encoding == "auto" else encoding)
    return decoding.decode(data, encoding)[0], text_of(data, encoding)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, Text]:
    """Any bytes at all, in an encoding that replaces what it cannot read."""
    data = b"".join(
        draw(
            st.lists(
                st.sampled_from(
                    [*(c.encode() for c in ALPHABET), *map(bytes, [[i] for i in (0x80, 0xC3, 0xE2, 0xF0, 0x9F, 0xED)])]
                )
            )
        )
    )
    encoding = draw(st.sampled_from(["utf-8", "cp1252", "utf-16-le", "auto", "utf-32-be", "shift_jis"]))
    return decoding.decode(data, encoding)[0], text_of(data, encoding)


BOTH = pairs() | damaged()


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or the type of what it raises."""
    try:
        return call(*arguments)
    except (ValueError, TypeError, IndexError) as error:
        return type(error)


@given(both=BOTH, start=PLACES, stop=PLACES, step=st.none() | st.integers(-7, 7))
def test_slices_and_characters(both: tuple[str, Text], start: int | None, stop: int | None, step: int | None) -> None:
    """Indices and slices of every sign and step, before and after the length is known."""
    string, text = both
    part = slice(start, stop, step)
    assert outcome(lambda: text[part]) == outcome(lambda: string[part])
    if start is not None:
        assert outcome(lambda: text[start]) == outcome(lambda: string[start])
    assert (len(text), bool(text), str(text), list(text)) == (len(string), bool(string), string, list(string))


@given(both=BOTH, sub=SHORT, data=st.data(), start=PLACES, stop=PLACES)
@pytest.mark.parametrize("name", ["find", "rfind", "index", "rindex", "count", "startswith", "endswith"])
def test_finding(
    name: str, both: tuple[str, Text], sub: str, data: st.DataObject, start: int | None, stop: int | None
) -> None:
    """Needles that are there, that are not, that are empty, and that lie across a cut."""
    string, text = both
    if string and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(string) - 1))
        sub = string[at : at + data.draw(st.integers(1, 12))]
    for arguments in ((sub,), (sub, start), (sub, start, stop)):
        assert outcome(getattr(text, name), *arguments) == outcome(getattr(string, name), *arguments)
    assert (sub in text) is (sub in string)


@given(unit=st.text(alphabet="ab", min_size=1, max_size=4), times=st.integers(0, 30))
def test_matches_that_overlap_are_counted_as_str_counts_them(unit: str, times: int) -> None:
    """Where one ends decides whether the next one counts, also across a cut."""
    string = unit * times
    for needle in (unit, unit * 2, unit + unit[:1], "aa"):
        assert text_of(string.encode()).count(needle) == string.count(needle)


@given(both=BOTH, keepends=st.booleans(), sep=SHORT, start=PLACES, stop=PLACES, step=st.sampled_from([None, 1, 2, -1]))
def test_lazy_sequences(
    both: tuple[str, Text], keepends: bool, sep: str, start: int | None, stop: int | None, step: int | None
) -> None:
    """Lines, words and pieces: iteration, length, items and slices are the list's."""
    string, text = both
    cases: list[tuple[Callable[[], Any], list[str]]] = [
        (lambda: text.splitlines(keepends), string.splitlines(keepends)),
        (text.split, string.split()),
    ]
    if sep:
        cases.append((lambda: text.split(sep), string.split(sep)))
    for make, expected in cases:
        part = slice(start, stop, step)
        assert list(make()[part]) == expected[part]
        parts = make()
        for at in (3, 0, -1, 50):
            assert outcome(parts.__getitem__, at) == outcome(expected.__getitem__, at)
        assert (list(parts), len(parts), list(reversed(parts))) == (expected, len(expected), expected[::-1])


PATTERNS = [
    "a", "b+", "^a", "a$", "^", "$", r"\b", "(?m)^.", "(?m).$", r"\w+", "(a)(b)?", "(?<=a)b", "a(?=b)", "a|", "|a",
    r"\s+", "[^a]", "aab?", r"\bba", "a+bbb|b", "bbb", "x?bab+", "(aba)bab", "€€😀",
    "é", ".", "(?s).{3}", r"(?P<x>a)|(?P<y>,)", r"\Aa", r"b\Z", "(?i)A", "a??", r"(?<!\n)b",
    "(?i)aBa", "(?i)x?BAB+", r"(?i)\bbAA",
]  # fmt: skip


@given(both=BOTH, pattern=st.sampled_from(PATTERNS), most=st.integers(0, 3), pos=st.integers(0, 40))
def test_regular_expressions(both: tuple[str, Text], pattern: str, most: int, pos: int) -> None:
    """The functions of `re`: the same matches, groups and offsets, and a match is where it says."""
    string, text = both
    real = re.compile(pattern)
    expected = [(m.span(), m.group(), m.groups(), m.groupdict(), m.lastindex) for m in real.finditer(string)]
    found = list(regex.finditer(real, text))
    assert [(m.span(), m.group(), m.groups(), m.groupdict(), m.lastindex) for m in found] == expected
    assert all(text[m.start() : m.end()] == m[0] == m.group(0) for m in found)
    assert regex.findall(real, text) == real.findall(string)
    assert [m.span() for m in regex.finditer(real, text, pos, 50)] == [m.span() for m in real.finditer(string, pos, 50)]
    one, other = regex.match(real, text, pos), real.match(string, pos)
    assert (one and (one.span(), one.groups())) == (other and (other.span(), other.groups()))
    assert regex.subn(real, r"<\g<0>>", text, most) == real.subn(r"<\g<0>>", string, most)
    assert regex.sub(real, lambda m: m[0].upper(), text) == real.sub(lambda m: m[0].upper(), string)
    assert regex.split(real, text, most) == real.split(string, most)


@given(
    both=BOTH, pattern=st.sampled_from([p for p in PATTERNS if "$" not in p and "Z" not in p]), around=st.integers(0, 2)
)
def test_grep(both: tuple[str, Text], pattern: str, around: int) -> None:
    """Hits, their lines, offsets and the lines around them are those of the real string."""
    string, text = both
    shown = [
        [(h.line, h.text, h.start, h.end, h.before, h.after) for h in search.grep(pattern, it, context_lines=around)]
        for it in (text, string)
    ]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("word", ["KEY", "key", "\u212aey", "MISS", "mi\u017fs"])
def test_case_is_folded_as_re_folds_it(word: str) -> None:
    """Windows that cannot hold a match are passed over; those that hold it in any case, beyond ASCII too, are not."""
    string = "nothing here, line after line\n" * 9 + f"the {word} is here\n" + "and nothing there\n" * 9
    text = text_of(string.encode())
    for pattern in (re.compile(r"(?i)(?<!\w)key"), re.compile("(?i)miss"), re.compile("(?i)\u017fs")):
        assert [m.span() for m in regex.finditer(pattern, text)] == [m.span() for m in pattern.finditer(string)]
        assert [h.line for h in search.grep(pattern, text)] == [h.line for h in search.grep(pattern, string)]


@given(both=BOTH, other=STRINGS)
def test_comparing(both: tuple[str, Text], other: str) -> None:
    """Equal to the string it stands for, with the same hash, and to no other."""
    string, text = both
    assert text == string
    assert string == text
    assert hash(text) == hash(string)
    assert (text == other) is (string == other)
    assert (text + "x", "x" + text, f"{text}") == (string + "x", "x" + string, string)
    assert (text.upper(), text.strip(), text.partition("a")) == (string.upper(), string.strip(), string.partition("a"))


def test_one_line_that_does_not_fit() -> None:
    """What would hold it whole is refused; what looks at parts of it works."""
    text = text_of(b"x" * 5000 + b"\xc3\xa9", most=1000)
    refused: list[Callable[[], Any]] = [
        lambda: list(text.splitlines()),
        lambda: text.splitlines()[-1],
        lambda: text.split(),
        lambda: search.grep("\u00e9", text),
        lambda: regex.search(re.compile("x+"), text),
        lambda: regex.split(re.compile(","), text),
    ]
    for call in refused:
        with pytest.raises(TextTooLarge, match="Stream it"):
            list(call())
    assert [len(piece) for piece in text.chunks(900)] == [900] * 5 + [501]
    assert (text.find("\u00e9"), text.count("xx"), len(regex.findall(re.compile("x{3}"), text))) == (5000, 2500, 1666)


@given(string=STRINGS, damage=st.booleans(), stops=st.sets(st.integers(2, 60), max_size=12))
def test_an_interrupt_leaves_the_text_whole(string: str, damage: bool, stops: set[int]) -> None:
    """A cell may be stopped at any read; the next one sees the same text as if it had never been."""
    data = string.encode() + b"\xff" * damage
    reads = 0

    def read(start: int, size: int) -> bytes:
        nonlocal reads
        reads += 1
        if reads in stops:
            raise KeyboardInterrupt
        return data[start : start + size]

    def insist(call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except KeyboardInterrupt:
                pass

    expected = decoding.decode(data)[0]
    text = Text(Encoded(read, len(data), stride=8, run=16), 1000, 5, WINDOWS)
    lines = text.splitlines()
    assert insist(lambda: text[3:5]) == expected[3:5]
    assert insist(lambda: len(lines)) == len(expected.splitlines())
    assert [insist(lambda at=at: text[at]) for at in range(len(expected))] == list(expected)  # type: ignore[misc]
    assert insist(lambda: len(text)) == len(expected)


def test_a_document_that_shrinks_is_an_error() -> None:
    """Offsets beyond the end of what can still be read are never filled with something else."""
    data = bytearray(b"abc\n" * 100)

    def read(start: int, size: int) -> bytes:
        if start + size > len(data):
            raise OSError("the input changed while it was being read")
        return bytes(data[start : start + size])

    text = Text(Encoded(read, len(data), stride=8, run=16), 1000, 5, WINDOWS)
    assert len(text) == 400
    del data[200:]
    with pytest.raises(OSError, match="changed"):
        text.count("abc")


def probe(documents: dict[str, bytes], codes: list[str], *, text_limit: int) -> tuple[Any, list[str]]:
    """What the kernel measured, and what each cell prints or the last line of its error."""

    async def main() -> tuple[Any, list[str]]:
        async with kernel(documents, text_limit=text_limit) as k:
            results = [await k.run(code) for code in codes]
            return k.facts, [r.error.splitlines()[-1] if r.error else r.stdout.head.rstrip("\n") for r in results]

    return run(main)


DOCUMENT = "".join(f"{number} caf\u00e9 \U0001f600 line\r\n" for number in range(500))


def test_what_models_write_works_on_a_text() -> None:
    """The same cells over the same document, once as a str and once as a Text: the same output."""
    codes = [
        "len(context), context[:5], context[-3:], context[100:90:-3], 'line' in context, bool(context)",
        "[(i, s) for i, s in enumerate(context.splitlines()) if s.startswith('42 ')]",
        "lines = context.splitlines(); len(lines), lines[0], lines[-1], lines[10:13], list(lines[498:])",
        "sum(1 for line in context.split('\\n') if line), len(context.split())",
        "import re; p = re.compile(r'(?P<n>\\d+) caf'); isinstance(p, re.Pattern), p.findall(context)[-1]",
        "m = p.search(context, 5000); m['n'], m.span(), context[m.start():m.end()] == m.group()",
        "len(re.findall('caf.', context)), re.search('99 .+', context).group(), re.sub(p, 'x', 'a 5 caf')",
        "[m.start() for m in re.finditer(string=context, pattern='1{2}', flags=re.I)][:3], re.match('0', context)[0]",
        "re.split('x', 'axb'), p.sub('', '1 caf'), p.pattern, re.compile(p) == p, {p: 1}[p]",
        "grep('^1?99 '), grep(p, limit=2), grep('LINE', ignore_case=True)[-1].line",
        "grep('77 caf', context, context_lines=1)",
        "pieces = chunks(context, 1000); len(pieces), len(pieces[3]), pieces[-1], ''.join(pieces) == context",
        "sum(map(len, chunks(context, 700))), sum(len(p) for p in chunks(size=700, overlap=10))",
        "from collections import Counter; Counter(context)['é'], context.count('é')",
        "context.find('499 '), context.rfind('0'), context.index('\\r\\n', 100), context.endswith(('x', 'line\\r\\n'))",
        "from concurrent.futures import ThreadPoolExecutor; pool = ThreadPoolExecutor(8)",
        "list(pool.map(lambda i: context[i * 7 : i * 7 + 5], range(900)))",
        "list(pool.map(lambda i: context.find(f'{i} caf', i * 9), range(400)))",
        "import csv; [row for row in csv.reader(context.splitlines())][7]",
    ]
    data = {"doc": DOCUMENT.encode()}
    text, as_text = probe(data, codes, text_limit=5000)
    string, as_string = probe(data, codes, text_limit=10**6)
    assert as_text == as_string
    assert not [line for line in as_text if "Error" in line]
    assert (text.kind, text.chars, text.lines, text.lines_exact) == ("text", None, 500, False)
    assert string.kind == "str"


def test_a_forked_process_reads_the_text_too() -> None:
    """Both cores can be used: children share the open file and need no copy."""
    code = (
        "import multiprocessing\n"
        "def lines(part): return context.count('\\n', part * 4000, part * 4000 + 4000)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: counts = pool.map(lines, range(3))\n"
        "sum(counts) == context.count('\\n', 0, 12000)"
    )
    assert probe({"doc": DOCUMENT.encode()}, [code], text_limit=5000)[1] == ["True"]


def test_what_does_not_fit_says_how_to_stream_it() -> None:
    """A cell that would hold everything at once gets an error to learn from."""
    codes = [
        "str(context)",
        "f'{context}'",
        "context.lower()",
        "context[1:]",
        "context + '!'",
        "re.sub('x', '', context)",
    ]
    advice = "Stream it: for line in context.splitlines()"
    _, errors = probe({"doc": DOCUMENT.encode()}, ["import re", *codes], text_limit=5000)
    assert [advice in error for error in errors] == [False] + [True] * len(codes)
    _, others = probe(
        {"doc": DOCUMENT.encode()},
        ["llm_query(context)", "import json; json.loads(context)", "context"],
        text_limit=5000,
    )
    assert "a slice of it is one" in others[0]
    assert others[1].startswith("TypeError: the JSON object must be str")
    assert others[2] == f"<Text of {len(DOCUMENT.encode()):,} bytes; context[a:b] is a str>"


def test_a_huge_document_among_others() -> None:
    """In a folder, the huge ones are Texts and the others str; grep goes through all of them."""
    documents = {"small": b"the needle\n", "huge": b"hay\n" * 5000 + b"another needle\n"}
    codes = [
        "{name: type(text).__name__ for name, text in context.items()}",
        "context.grep('needle')",
        "sum(text.count('hay') for text in context.values()), [piece.document for piece in chunks(size=4900)]",
    ]
    _, shown = probe(documents, codes, text_limit=5000)
    assert shown == [
        "{'small': 'str', 'huge': 'Text'}",
        "<2 matching lines>\nsmall:1: the needle\nhuge:5001: another needle",
        "(5000, ['small', 'huge', 'huge', 'huge', 'huge', 'huge'])",
    ]


def test_a_document_that_is_not_utf8_is_known_to_be_lossy() -> None:
    """Latin-1 that shows at the start is counted; and the text is what a small document would be."""
    facts, shown = probe({"doc": b"caf\xe9\n" * 2000}, ["context[:4], len(context)"], text_limit=100)
    assert (facts.kind, facts.lossy, shown) == ("text", 1, ["('caf\xe9', 10000)"])
