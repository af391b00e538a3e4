"""`Text` against the `str` it stands for: every method it offers gives the same result, wherever pieces are cut."""

from __future__ import annotations

import copy
import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlm_cli.sandbox.kernel import bridges, context, decoding, pieces, regex, search
from rlm_cli.sandbox.kernel.encoded import Encoded
from rlm_cli.sandbox.kernel.parts import Parts
from rlm_cli.sandbox.kernel.text import EVERY, Text, TextTooLarge

from .local import kernel, run, write_index

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


def string_of(data: bytes, encoding: str) -> str:
    """What a Text of `data` stands for: as a small document is read, but for which encoding "auto" is."""
    source = encoded(data, encoding)
    len(source)
    return decoding.decode(data, encoding)[0] if encoding != "auto" else data.decode(source.codec, "replace")


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, Text]:
    """A string, and a Text of its bytes in some encoding, or of Latin-1 that is not UTF-8."""
    string, encoding = draw(STRINGS), draw(ENCODINGS | st.just("latin"))
    if encoding == "latin":
        data = b"\xff" + string.encode("latin-1", "ignore")
        return data.decode("latin-1"), text_of(data)
    data = string.encode("utf-8" if encoding == "auto" else encoding)
    return string_of(data, encoding), text_of(data, encoding)


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
    return string_of(data, encoding), text_of(data, encoding)


BOTH = pairs() | damaged()


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or the type of what it raises."""
    try:
        return call(*arguments)
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        return type(error)


def plain(value: Any) -> Any:
    """Results of a Text as a str would give them: parts of it that do not fit as str, sequences as lists."""
    if isinstance(value, Text):
        return "".join(value.pieces())
    if isinstance(value, (list, tuple, Parts)):
        made = map(plain, value)
        return tuple(made) if isinstance(value, tuple) else list(made)
    return value


@given(both=BOTH, start=PLACES, stop=PLACES, step=st.none() | st.integers(-7, 7))
def test_slices_and_characters(both: tuple[str, Text], start: int | None, stop: int | None, step: int | None) -> None:
    """Indices and slices of every sign and step, before and after the length is known."""
    string, text = both
    part = slice(start, stop, step)
    assert outcome(lambda: text[part]) == outcome(lambda: string[part])
    if start is not None:
        assert outcome(lambda: text[start]) == outcome(lambda: string[start])
    assert (len(text), bool(text), str(text), list(text)) == (len(string), bool(string), string, list(string))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("before", range(12, 36))
def test_the_first_byte_beyond_ascii_may_end_a_read(before: int, encoding: str) -> None:
    """A character that is cut off there says nothing yet: it may be Latin-1's only one."""
    string = "a" * before + "\u00e9 and no more" + "b" * 40
    assert str(text_of(string.encode(encoding))) == string
    survey = encoded(string.encode(encoding))
    survey.survey(3, before)
    assert survey.text(0, 1000) == string


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


@given(both=BOTH, most=st.integers(1, 60), start=PLACES, stop=PLACES, sub=SHORT, keepends=st.booleans())
def test_what_does_not_fit_is_a_text_again(
    both: tuple[str, Text], most: int, start: int | None, stop: int | None, sub: str, keepends: bool
) -> None:
    """Slices, lines, pieces and chunks longer than a str may be: the same content, and a str wherever they fit."""
    string, whole = both
    text = Text(whole._source, most, min(5, most), WINDOWS)
    part, expected = text[start:stop], string[start:stop]
    assert type(part) is (str if len(expected) <= most else Text)
    assert plain(part) == expected
    assert (len(part), part == expected, part[2:-1] == expected[2:-1]) == (len(expected), True, True)
    assert (part.find("b"), part.rfind("\n", 1), part.count("a", 1, -1), "é" in part) == (
        expected.find("b"), expected.rfind("\n", 1), expected.count("a", 1, -1), "é" in expected,
    )  # fmt: skip
    assert [plain(word) for word in part.split()] == expected.split()
    pairs = [(text.splitlines(keepends), string.splitlines(keepends)), (text.split(), string.split())]
    pairs += [(text.split(sub), string.split(sub))] if sub else []
    pairs += [(text.chunks(most), pieces.chunks(string, most))]
    for found, real in pairs:
        assert [plain(item) for item in found] == real
        assert all(isinstance(item, str) for item in found if len(item) <= most)
        assert all(isinstance(item, Text) for item in found if len(item) > most + 2)
        assert len(found) == len(real)


CALLS: list[tuple[str, tuple[Any, ...]]] = [
    *[(name, (sep,)) for name in ("partition", "rpartition", "removeprefix", "removesuffix") for sep in ("a", "b\n")],
    *[(name, (chars,)) for name in ("strip", "lstrip", "rstrip") for chars in (None, "a", "b \n", "é€")],
    *[(name, (sep, most)) for name in ("split", "rsplit") for sep in (None, "a", "aa", "") for most in (-1, 0, 1, 3)],
    *[(name, ()) for name in sorted(EVERY)],
    *[(name, ()) for name in ("islower", "isupper", "istitle", "isidentifier", "title", "swapcase", "casefold")],
    ("encode", ()),
    *[(name, ()) for name in ("lower", "upper", "capitalize", "expandtabs", "copy_that_str_has_not", "__len__")],
    *[("partition", (bad,)) for bad in ("", 1, None)], *[("strip", (bad,)) for bad in (1, b"a")],
    ("replace", ("a", "b")), ("zfill", (200,)), ("center", (9,)), ("join", (["x", "y"],)), ("translate", ({97: "é"},)),
    ("split", ("",)), ("split", (1,)), ("rsplit", ("", 1)), ("count", (1,)), ("startswith", (("b", "a"), 1)),
    ("find", (None,)), ("index", ("a", 1, -1)), ("removeprefix", (1,)), ("encode", ("utf-16",)), ("splitlines", ()),
    ("__contains__", ("a",)), ("__contains__", (1,)), ("__format__", (">9",)), ("__mul__", (2,)),
    ("__lt__", ("b",)), ("__ge__", ("a\n",)), ("__getitem__", ("a",)), ("__getitem__", (1.5,)),
]  # fmt: skip


@settings(max_examples=40)  # of each of a hundred calls
@given(both=BOTH)
@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_methods(both: tuple[str, Text], name: str, arguments: tuple[Any, ...]) -> None:
    """Everything a str can do: the same result, or an error of the same type."""
    string, text = both
    most = 12  # results that are longer are Texts
    small = Text(text._source, most, 5, WINDOWS)
    expected = outcome(lambda: getattr(string, name)(*arguments))
    assert plain(outcome(lambda: getattr(text, name)(*arguments))) == expected
    if name in STREAMED:
        assert plain(outcome(lambda: getattr(small, name)(*arguments))) == expected


STREAMED = {"partition", "rpartition", "removeprefix", "removesuffix", "strip", "lstrip", "rstrip", "split", *EVERY}


@given(both=BOTH, other=STRINGS)
def test_comparing(both: tuple[str, Text], other: str) -> None:
    """Equal to the string it stands for, with the same hash, and to no other."""
    string, text = both
    assert [text < other, text <= other, text > other, text >= other] == [
        string < other, string <= other, string > other, string >= other,
    ]  # fmt: skip
    assert [other < text, other >= text, max(text, other) == max(string, other)] == [
        other < string, other >= string, True,
    ]  # fmt: skip
    assert (f"{text!s:>5}", "%s" % text, "{}".format(text), str(text)) == (f"{string:>5}", string, string, string)  # noqa: UP031, UP032
    assert (list(reversed(text)), copy.deepcopy(text) == string, text in {string}) == ([*reversed(string)], True, True)
    assert text == string
    assert string == text
    assert hash(text) == hash(string)
    assert (text == other) is (string == other)
    assert (text + "x", "x" + text, f"{text}") == (string + "x", "x" + string, string)
    assert (text.upper(), text.strip(), text.partition("a")) == (string.upper(), string.strip(), string.partition("a"))


def test_one_line_that_does_not_fit() -> None:
    """It is a Text, in the midst of others that are str; what must hold a match whole says where it begins."""
    string = "first\r\n" + "x" * 5000 + "\u00e9\r\nlast"
    text = text_of(string.encode(), most=1000)
    first, long, last = text.splitlines()
    assert (first, last, type(long), len(long), long[-2:]) == ("first", "last", Text, 5001, "x\u00e9")
    assert (text.splitlines()[-1], text.splitlines()[1] == string.splitlines()[1]) == ("last", True)
    assert [hit.line for hit in search.grep("\u00e9", text)] == [2]
    for pattern in ("x+", "(?s)x.*"):
        with pytest.raises(TextTooLarge, match=r"begins at character 7 .* Stream it: context\[7:100007\]"):
            regex.search(re.compile(pattern), text)
    with pytest.raises(TextTooLarge, match="Stream it"):
        regex.sub(re.compile(","), "", text)
    assert regex.split(re.compile(","), text) == [string]
    assert list(text.chunks(1000)) == pieces.chunks(string, 1000)
    assert (text.find("\u00e9"), text.count("xx"), len(regex.findall(re.compile("x{3}"), text))) == (5007, 2500, 1666)


@given(both=BOTH, data=st.data(), newline=st.sampled_from(["\n", ""]))
def test_a_stream_over_a_text_is_a_string_io(both: tuple[str, Text], data: st.DataObject, newline: str) -> None:
    """read, readline, iteration, tell and seek in any order: what io.StringIO gives."""
    string, text = both
    ours, real = bridges.TextStream(text, newline), io.StringIO(string, newline)
    if newline == "" and "\r\n" in string:  # StringIO itself may end a line between "\r" and "\n" after a seek
        assert [*ours] == [*real]
        return
    for _ in range(data.draw(st.integers(1, 8))):
        name = data.draw(st.sampled_from(["read", "readline", "seek", "next", "tell"]))
        place = data.draw(st.integers(-1, 40))
        calls: dict[str, Callable[[Any, int], Any]] = {
            "read": lambda f, n: f.read(n), "readline": lambda f, n: f.readline(n), "tell": lambda f, _: f.tell(),
            "seek": lambda f, n: f.seek(n), "next": lambda f, _: next(f, "(end)"),
        }  # fmt: skip
        assert outcome(calls[name], ours, place) == outcome(calls[name], real, place)
        assert ours.tell() == real.tell()
    assert (ours.readlines(), ours.read(), ours.seek(0, 2)) == (real.readlines(), "", len(string))
    assert (ours.readable(), ours.seekable(), ours.writable()) == (True, True, False)
    ours.close()
    for call in (ours.read, ours.tell, ours.readline, ours.seekable):
        with pytest.raises(ValueError, match="closed"):
            call()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=4),
    max_leaves=8,
)


@given(values=st.lists(JSON_VALUES, max_size=5), ascii_only=st.booleans(), cut=st.integers(0, 80))
def test_json_values_are_read_one_by_one(values: list[Any], ascii_only: bool, cut: int) -> None:
    """raw_decode reads a value anywhere in a Text, and finds the errors that it finds in a str, at the same places."""
    string = "".join(json.dumps(value, ensure_ascii=ascii_only) + ", " for value in values)
    decoder = json.JSONDecoder()
    at, found = 0, []
    text = text_of(string.encode("utf-8", "surrogatepass"), "utf-8", window=3)
    assume(len(string) <= text.most)
    if str(text) != string:
        return  # lone surrogates
    while at < len(string):
        value, at = bridges.raw_decode(decoder, text, at)
        found.append(value)
        at += 2
    assert found == values
    part, short = string[:cut], text_of(string[:cut].encode(), window=3)
    places: list[Any] = []
    calls: list[Callable[[], Any]] = [
        lambda: decoder.raw_decode(part, 1),
        lambda: bridges.raw_decode(decoder, short, 1),
    ]
    for call in calls:
        try:
            places.append(call())
        except json.JSONDecodeError as error:
            places.append((error.msg, error.pos, error.lineno, error.colno, str(error)))
    assert places[0] == places[1]


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

    expected = string_of(data, "auto")
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
        "import io; list(csv.reader(io.StringIO(context)))[7], next(csv.DictReader(io.StringIO(context, newline='')))",
        "f = io.StringIO(context); next(f), f.readline(), f.read(9), f.tell(), f.seek(3), sum(1 for _ in f), f.read()",
        "with io.StringIO(context) as f: print(len(f.readlines()), isinstance(f, io.TextIOBase))",
        "isinstance(io.StringIO('x'), io.StringIO), io.StringIO('a\\nb').readlines()",
        "import json; json.loads('[1]'), json.load(io.StringIO('[2]')), json.JSONDecoder().raw_decode('3 4', 2)",
        "json.JSONDecoder().raw_decode(context, context.index('321 caf'))",
        "Counter(context.split()).most_common(2), Counter(map(len, context.splitlines()))[18]",
        "max(context.splitlines(), key=len), sorted(context.splitlines())[:2], context.splitlines()[-2:]",
        "import hashlib; h = hashlib.sha256(); [h.update(p.encode()) for p in chunks(context, 999)]; h.hexdigest()",
        "head, sep, tail = context.partition('\\n'); head, len(tail), tail.splitlines()[3], tail.count('caf')",
        "first, rest = context.split('\\n', 1); first, sum(1 for line in rest.split('\\n')), len(context.strip())",
        "context.isascii(), context.isprintable(), context.rsplit(None, 1)[1], context.removesuffix('line\\r\\n')[-3:]",
        "import textwrap; ' '.join(context.splitlines()[:2]), '\\n'.join(context.splitlines())[-9:], context > 'a'",
        "len(''.join(context)), len(list(context)), next(iter(reversed(context))), 'x' in context.splitlines()",
        "import copy, itertools; list(itertools.islice(context, 5)), copy.copy(context) is context, len({context})",
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
        "context[::-1]",
        "context + '!'",
        "re.sub('x', '', context)",
    ]
    advice = "Stream it: "
    _, errors = probe({"doc": DOCUMENT.encode()}, ["import re", *codes], text_limit=5000)
    assert [advice in error for error in errors] == [False] + [True] * len(codes)
    _, others = probe(
        {"doc": DOCUMENT.encode()},
        [
            "llm_query(context)",
            "import json; json.loads(context)",
            "import io; json.load(io.StringIO(context))",
            "context.encode()",
            "int(context)",
            "''.join([context])",
            "'x' + context[1:]",
            "context",
            "context[1:]",
        ],
        text_limit=5000,
    )
    assert "A Text is read piece by piece" in others[0]
    assert "JSON lines: for line in context.splitlines(): json.loads(line)" in others[1]
    assert others[2] == others[1]
    assert "digest.update(piece.encode())" in others[3]
    assert all("Where a str is needed, pass a slice (context[a:b])" in other for other in others[4:6])
    assert "would be a str of" in others[6]
    assert others[7] == f"<Text of {len(DOCUMENT.encode()):,} bytes; a slice [a:b] is a str>"
    assert others[8].startswith("<Text of part of a document of")


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


@pytest.mark.parametrize("before", [0, 3_000_000])
def test_a_document_that_is_not_utf8_is_known_to_be_lossy(before: int) -> None:
    """Latin-1 that shows at the start or in a sample is counted; and the text is what a small document would be."""
    data = b"x" * before + b"caf\xe9\n" * 60_000
    facts, shown = probe({"doc": data}, [f"context[{before}:][:4], len(context)"], text_limit=100)
    assert (facts.kind, facts.lossy, shown) == ("text", 1, [f"('caf\xe9', {before + 300_000})"])


@pytest.mark.parametrize(
    ("before", "shown", "said"),
    [(b"x", "\u00ff", "all of it is read as Latin-1"), (b"\xc3\xa9", "\ufffd", "such bytes are read as \\ufffd")],
)
def test_what_turns_out_not_to_be_utf8_is_said(before: bytes, shown: str, said: str) -> None:
    """One bad byte that no sample shows: nothing is claimed before it is read, and then the cell is told, once. What
    was UTF-8 until there stays so."""
    data = before * 5_000_000 + b"\xff" + before * 5_000_000

    async def main() -> None:
        async with kernel({"doc": data}, text_limit=100) as k:
            assert k.facts.lossy is None
            first, second = await k.run("len(context), context[5_000_000]"), await k.run(f"context.count('{shown}')")
            assert first.stdout.head == f"(10000001, '{shown}')\n"
            place = 5_000_000 * len(before)
            assert first.stderr.head == f"[kernel] doc: not valid UTF-8 at byte {place:,}; {said}\n"
            assert (second.stdout.head, second.stderr.head) == ("1\n", "")

    run(main)


@pytest.mark.parametrize(
    ("data", "codec", "lossy"),
    [
        (b"x" * 5000, "utf-8", None), (b"x" * 10, "utf-8", None), (b"\xe9" * 5000, "latin-1", True),
        ("\u20ac".encode() * 2000, "utf-8", None), (b"\xe9" + "\u20ac".encode() * 2000, "utf-8", True),
        (b"x" * 3000 + b"\xe9" * 500, "latin-1", True),
        (b"\xff\xfea", "utf-16-le", None), (b"\xef\xbb\xbfa", "utf-8", None),
    ],
)  # fmt: skip
def test_samples_decide_on_the_encoding(data: bytes, codec: str, lossy: bool | None) -> None:
    """UTF-8 where any sample is; else Latin-1 where any is not; nothing else of the document is read."""
    reads: list[int] = []

    def read(start: int, size: int) -> bytes:
        reads.append(size)
        return data[start : start + size]

    source = Encoded(read, len(data), stride=8, run=100)
    source.survey(8, 30)
    assert (source.codec, source.lossy) == (codec, lossy)
    assert sum(reads) <= 4 + 100 + 9 * 30


def test_valid_utf8_is_not_called_lossy_by_its_samples() -> None:
    """Samples begin and end in the middle of characters."""
    facts, shown = probe({"doc": "\u20ac\U0001f600".encode() * 500_000}, ["len(context)"], text_limit=100)
    assert (facts.lossy, shown) == (None, ["1000000"])


@given(
    names=st.lists(st.text(max_size=6) | st.sampled_from(["a/\udcff", "\ud800", "", "a\nb"]), max_size=40), other=SHORT
)
def test_names_are_a_list_and_a_dict(names: list[str], other: str) -> None:
    """Also of names that no encoding has; of two that are equal the last is found."""
    ours = context.Names()
    for name in names:
        ours.append(name)
    numbers = {name: number for number, name in enumerate(names)}
    assert (list(ours), len(ours), ours[1:-1], ours[::-2]) == (names, len(names), names[1:-1], names[::-2])
    assert [ours.number(name) for name in [*names, other]] == [numbers.get(name) for name in [*names, other]]
    assert [outcome(ours.__getitem__, at) for at in (0, -1, 40)] == [
        outcome(names.__getitem__, at) for at in (0, -1, 40)
    ]  # fmt: skip
    assert (other in ours) is (other in numbers)


def test_a_large_document_among_many_is_known_to_be_lossy() -> None:
    """By its beginning, if that is enough: one that only ends inside of a character is none."""
    documents = {
        "latin-1": b"caf\xe9\n" * 100_000,
        "utf-8": b"x" + "\u00e9".encode() * 300_000,
        "utf-16": ("\u00e9" + "\U0001f600" * 100_000).encode("utf-16"),
        "later": b"x" * 1_000_000 + b"\xe9",
        "plain": b"x\n" * 9_000_000,
    }
    facts, _ = probe(documents, [], text_limit=10**9)
    assert (facts.kind, facts.lines_exact, facts.lossy) == ("documents", False, 1)


def test_going_through_many_documents_holds_few_of_them() -> None:
    """items() and values() in order, with names of any characters; the cache stays below its limit with tiny ones."""
    documents = {f"folder/{number}\udcff.txt": b"x%d" % number for number in range(9000)}
    codes = [
        "all(text == 'x' + name[7:-5] for name, text in context.items()), len(context.items()), len(context.values())",
        "''.join(context.values()) == ''.join(f'x{n}' for n in range(9000)), list(context)[:2], [*context][-1]",
        "context['folder/8999\\udcff.txt'], context.get('folder/1\\udcff.txt'), context.get('no', 7), 5 in context",
        "('folder/2\\udcff.txt', 'x2') in context.items(), 'x8998' in context.values(), context.get('nothing')",
    ]
    facts, shown = probe(documents, codes, text_limit=1000)
    assert (facts.kind, facts.documents, facts.lossy) == ("documents", 9000, 0)
    assert shown == [
        "(True, 9000, 9000)",
        "(True, ['folder/0\\udcff.txt', 'folder/1\\udcff.txt'], 'folder/8999\\udcff.txt')",
        "('x8999', 'x1', 7, False)",
        "(True, True, None)",
    ]


def test_a_cache_of_tiny_documents_counts_what_an_entry_costs() -> None:
    """A million documents of a few bytes would take ten times their text."""
    with tempfile.TemporaryDirectory() as folder:
        lines = write_index(Path(folder), {str(number): b"tiny" for number in range(500)})
        library = context.Library(context.parse_index(lines.splitlines()), 1000)
        documents = context.Documents(library, cache_bytes=10_000)
        assert [*documents.values()] == ["tiny"] * 500
        assert len(documents._cache) < 10_000 // 200


def test_the_last_piece_is_whole_where_the_text_ends_with_what_was_read() -> None:
    """That nothing follows shows only at the next read: until then it is not cut at a space."""
    string = "aaaaaaabbbbb a"
    for most in range(2, 20):
        text = text_of(string.encode(), most=most)
        assert [plain(piece) for piece in text.chunks(most)] == pieces.chunks(string, most)
