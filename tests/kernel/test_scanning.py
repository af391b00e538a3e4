"""Searching in pieces and in forked processes: the same as on the real string, wherever it is cut."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.sandbox.kernel import decoding, forked, patterns, regex, scanning, search
from rlm_cli.sandbox.kernel.encoded import Encoded
from rlm_cli.sandbox.kernel.text import Text

from .local import kernel, run

FRAGMENTS = [
    "error flush\n", "ERROR and then flush 555-1234\n", "user=bob status=503\r\n", "\n", "\r\n", "timeout", " refused ",
    "caf\u00e9 ", "\U0001f600", "\u212aey", "mi\u017fs ", "\x1c", "\x85", "a" * 40, "no line end here, ", "\n\n",
    "key=value; ", "\u2028", "t\u0131meout", "T\u0130MEOUT ", "REFU\u017fED",
]  # fmt: skip
STRINGS = st.lists(st.sampled_from(FRAGMENTS), max_size=120).map("".join)
PLAIN = st.lists(st.sampled_from([f for f in FRAGMENTS if f.isascii()]), max_size=200).map("".join)
IN_LINES = [
    "flush", "error", "ERROR.*flush", r"\b\d{3}-\d{4}\b", "(?i)timeout|refused", r"user=(\w+) .*status=5\d\d", "^",
    "$", "(?m)^u", "(?m)^.*$", r"(?P<key>\w+)=(?P<value>\w+)", "(?i)key", "(?i)miss", "(?<=a)a{3}", "a(?!a)", "x*",
    "(a)|(u)", "(?i)(?:error|refused)", "(?:flush|timeout) ", r"\w+", "(?i)\u017fs", "\u00e9", "e.", "(?a:\\w)+",
    "(ERROR) (and)", "user.+?=", "a.*,", "a+?", "(?x) user = (\\w) # who", "aa",
]  # fmt: skip
ACROSS = [
    r"\s+", "flush\\s+\\d", r"[^;]+", "(?s)ERROR.{0,9}", r"error\sflush\s", "(?s)status.*?timeout", "\n+", r"\Aerror",
    r"flush\Z", r"\W\w", "(?s).", r"a\D\D",
]  # fmt: skip


def text_of(data: bytes, encoding: str = "auto", *, own: int = 8) -> Text:
    source = Encoded(lambda start, size: data[start : start + size], len(data), encoding, 8, 16)
    return Text(source, 100_000, 64, (own, 2000, 4))


def test_what_matches_a_letter_beyond_ascii_is_known() -> None:
    """Under IGNORECASE, on this Python; by it pieces without a needle are passed over unread."""
    beyond = "".join(map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x110000)]))
    assert set(re.findall("(?i)[a-z]", beyond)) == set(patterns.FOLDED)
    letters = "abcdefghijklmnopqrstuvwxyz"
    found = {char: "".join(a for a in letters if re.fullmatch(a, char, re.IGNORECASE)) for char in patterns.FOLDED}
    assert found == patterns.FOLDED


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, Text]:
    """A string and a Text of it, in an encoding that can be cut and one that cannot, damaged ones among them."""
    string = draw(STRINGS | PLAIN)
    encoding = draw(st.sampled_from(["auto", "utf-8-sig", "latin", "damaged", "utf-16-le", "cp1252"]))
    data = string.encode("utf-8" if encoding in ("auto", "damaged") else "latin-1" if encoding == "latin" else encoding,
                         "ignore")  # fmt: skip
    if encoding == "damaged":
        at = draw(st.integers(0, len(data)))
        return decoding.decode(data[:at] + b"\xe2\x82" + data[at:], "utf-8")[0], text_of(
            data[:at] + b"\xe2\x82" + data[at:], "utf-8"
        )
    encoding = "auto" if encoding == "latin" else encoding
    return decoding.decode(data, encoding)[0], text_of(data, encoding)


def shape(match: Any) -> tuple[Any, ...]:
    return match.span(), match.regs, match[0], match.groups(), match.groupdict(), match.lastindex, match.lastgroup


@settings(max_examples=60)
@given(both=pairs(), pattern=st.sampled_from(IN_LINES + ACROSS), pos=st.integers(0, 900), length=st.integers(0, 900))
def test_matches_are_those_of_the_real_string(both: tuple[str, Text], pattern: str, pos: int, length: int) -> None:
    """Everything, and from a place on, up to another: one process or several."""
    string, text = both
    real = re.compile(pattern)
    assert [shape(m) for m in regex.finditer(real, text)] == [shape(m) for m in real.finditer(string)]
    assert regex.findall(real, text) == real.findall(string)
    assert regex.count(real, text) == sum(1 for _ in real.finditer(string))
    some = [m.span() for m in real.finditer(string, pos, pos + length)]
    assert [m.span() for m in regex.finditer(real, text, pos, pos + length)] == some
    assert regex.findall(real, text, pos) == real.findall(string, pos)


@pytest.mark.parametrize("word", ["t\u0131meout", "T\u0130MEOUT", "\u212aey", "mi\u017fs", "TIMEOUT"])
@pytest.mark.parametrize("encoding", ["auto", "utf-8", "cp1254"])
def test_a_letter_beyond_ascii_is_found_where_case_is_ignored(word: str, encoding: str) -> None:
    """Among lines that are not ASCII either and have nothing of the kind, which are passed over; counted and found."""
    string = "gr\u00f6\u00dfe\n" * 40 + f"\u00e9 {word}\n" + "gr\u00f6\u00dfe\n" * 40
    data = string.encode("utf-8" if encoding == "auto" else encoding, "ignore")
    text, string = text_of(data, encoding), decoding.decode(data, encoding)[0]
    for pattern in ("(?i)timeout", "(?i)key", "(?i)miss"):
        spans = [m.span() for m in re.finditer(pattern, string)]
        assert [m.span() for m in regex.finditer(re.compile(pattern), text)] == spans
        assert search.grep_count(pattern, text) == len(spans)


def naive_grep(pattern: re.Pattern[str], string: str, around: int) -> list[tuple[Any, ...]]:
    """Line by line, for a pattern that stays in one."""
    lines, found, at = string.split("\n"), [], 0
    for number, line in enumerate(lines):
        match = pattern.search(line)
        if match and (line or number < len(lines) - 1):
            shown = [one.rstrip("\r") for one in (lines[:-1] if not lines[-1] else lines)]
            around_it = shown[max(0, number - around) : number], shown[number + 1 : number + 1 + around]
            found.append((number + 1, line.rstrip("\r"), at + match.start(), at + match.end(), *around_it))
        at += len(line) + 1
    return found


@settings(max_examples=60)
@given(both=pairs(), pattern=st.sampled_from(IN_LINES), around=st.integers(0, 3), limit=st.integers(0, 5))
def test_grep_is_a_loop_over_the_lines(both: tuple[str, Text], pattern: str, around: int, limit: int) -> None:
    """Numbers, lines, offsets, the lines around and where it stops; and the counts."""
    string, text = both
    real = re.compile(pattern, re.MULTILINE)
    expected = naive_grep(real, string, around)
    for it in (text, string):
        hits = search.grep(pattern, it, context_lines=around, limit=None)
        assert [(h.line, h.text, h.start, h.end, h.before, h.after) for h in hits] == expected
        some = search.grep(pattern, it, limit=limit)
        assert ([h.start for h in some], some.truncated) == ([e[2] for e in expected[:limit]], len(expected) > limit)
        assert search.grep_count(pattern, it) == len(expected)
        assert search.grep_count(pattern, it, matches=True) == len([*real.finditer(string)])


FEW = [
    r"\bflush\b", r"(?<!\w)error", r"\bflush$", r"\Wflush\Z", r"[ab]nd(?= then)", r"\w+ refused ", "(?i)\\bkey=",
    r"(timeout|and)\b.*\d", r"(?i)\btimeout", r"^.*status=5(\d)(\d)", r"(\w)ror", r"(?:user|nobody)=(?=b)", "(?i)error",
]  # fmt: skip


@settings(max_examples=60)
@given(string=STRINGS | PLAIN, pattern=st.sampled_from(FEW + IN_LINES), lines=st.integers(0, 600))
def test_the_same_is_found_where_only_the_lines_with_a_needle_are_searched(
    string: str, pattern: str, lines: int
) -> None:
    """Before and behind lines that have none: matches, lines, counts."""
    filler = ("-" * 99 + "\n") * lines
    string = filler + string + "\n" + filler
    text, real, plain = text_of(string.encode(), own=1 << 20), re.compile(pattern, re.M), re.compile(pattern)
    spans = [m.span() for m in real.finditer(string)]
    for it in (text, string):
        hits = search.grep(pattern, it, limit=None)
        assert [(h.line, h.text, h.start, h.end) for h in hits] == [row[:4] for row in naive_grep(real, string, 0)]
        assert search.grep_count(pattern, it) == len(hits)
        assert search.grep_count(pattern, it, matches=True) == len(spans)
    assert [shape(m) for m in regex.finditer(plain, text)] == [shape(m) for m in plain.finditer(string)]
    assert regex.findall(plain, text) == plain.findall(string)


@pytest.mark.parametrize(
    ("pattern", "few"),
    [
        (r"\b502\b", True), ("(?i)Error", True), (r"\S+ (?:error|502) ", True), ("502 ", False),
        (r"\b502\Z", False), (r"\s502", False), (r"\bline\b", False),
    ],
)  # fmt: skip
def test_what_is_rare_is_not_looked_for_everywhere(pattern: str, few: bool) -> None:
    """`re` tries what begins with no literal at each character: of a log with few such lines, only these are given to
    it. Not where it is as quick by itself, where many lines have a needle, or where more than a line decides."""
    string = "".join(f"line {n} GET /path/{n} {'ERROR 502' if n % 100 == 7 else 'ok'} x\n" for n in range(5000))
    spans = [*patterns.traits(re.compile(pattern, re.M)).spans(string.replace("ERROR", "error"), 0)]
    assert (sum(stop - start for start, stop in spans) < len(string) / 50) is few
    assert few or spans == [(0, len(string))]


@settings(max_examples=40)
@given(both=pairs(), pattern=st.sampled_from(ACROSS))
def test_a_match_over_several_lines_is_one_hit(both: tuple[str, Text], pattern: str) -> None:
    """As in a str."""
    string, text = both
    shown = [[(h.line, h.text, h.start, h.end) for h in search.grep(pattern, it, limit=None)] for it in (text, string)]
    assert shown[0] == shown[1]
    assert search.grep_count(pattern, text) == search.grep_count(pattern, string) == len(shown[0])


@settings(max_examples=60)
@given(string=STRINGS, pattern=st.sampled_from(IN_LINES + ACROSS))
def test_what_is_known_of_a_pattern_is_true(string: str, pattern: str) -> None:
    """A text that is passed over has no match; no match holds a barrier; the pattern for ASCII finds the same."""
    for flags in (0, re.IGNORECASE):
        real = re.compile(pattern, flags)
        known = patterns.traits(real)
        for line in [string, *string.splitlines(True)]:
            matches = [m.span() for m in real.finditer(line)]
            assert not (known.absent(line) and matches)
            assert not any(chr(b) in line[start:end] for start, end in matches for b in known.barriers)
            assert [m.span() for m in known.suited(real, line).finditer(line)] == matches
            raw = known.raw.findall(line.encode()) if known.raw else matches
            assert len(raw) == len(matches)
            assert not known.solid or all(start < end for start, end in matches)
            assert known.ahead is None or all(end - start <= known.ahead for start, end in matches)


@pytest.mark.parametrize(
    ("pattern", "needles", "barrier"),
    [
        ("ERROR.*flush", ("ERROR",), True), ("user=(admin)!", ("user=admin!",), True),
        ("(?:timeout|refused) by", ("timeout", "refused"), True), ("(?:abc)+", ("abc",), True), ("(?:abc)*", (), True),
        (r"a\sb", (), False), ("(?s)a.b", (), False), ("[^x]", (), False), ("[^x\\n]", (), True), ("ab|abcd", (), True),
        (r"x(?!\n)", (), False), (r"\d\D", (), False), ("(?i)caf\u00e9", ("caf",), True),
        ("(?i)m\u00fcller", ("ller",), True), ("(?i)\u00e9t\u00e9", (), True), ("(?i)Fail", ("Fail",), True),
    ],
)  # fmt: skip
def test_what_is_known_of_a_pattern(pattern: str, needles: tuple[str, ...], barrier: bool) -> None:
    """The literals it needs, and whether it stays in a line."""
    known = patterns.traits(re.compile(pattern))
    assert (known.needles, known.barriers == b"\n") == (needles, barrier)


def test_a_match_has_what_a_real_one_has() -> None:
    """Every public attribute of re.Match."""
    string = "one: user=bob status=503\n" * 30
    real = re.compile(r"(?P<key>us)er=(\w+)( never)?")
    mine, its = list(regex.finditer(real, text_of(string.encode()), 30))[5], list(real.finditer(string, 30))[5]
    for name in (name for name in dir(its) if not name.startswith("_")):
        assert hasattr(mine, name), name
    for name in ("pos", "endpos", "lastindex", "lastgroup", "regs", "re"):
        assert getattr(mine, name) == getattr(its, name)
    for template in (r"\2-\1", r"<\g<key>|\g<0>>\n", "plain", r"\3"):
        assert mine.expand(template) == its.expand(template)
    assert copy.copy(mine) is copy.deepcopy(mine) is mine


def test_a_long_match_that_may_be_missed_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a pattern that can run over lines without bounds, and of no other."""
    text = text_of(b"a line\n" * 2000)
    for pattern in (r"(?s)once.*?upon", r"(?s)once.*?upon", "once.*upon", r"(?s)once.{0,50}", r"\s+x"):
        regex.count(re.compile(pattern), text)
    said = capsys.readouterr().err
    assert said.count("may be missed") == said.count("(?s)once.*?upon") == 1


# -- forked processes


def numbers(job: int, at: int | None) -> Iterator[tuple[int, int]]:
    for number in range(at or 0, 5):
        yield number + 1, job * 10 + number


def fragile(job: int, at: int | None) -> Iterator[tuple[int, int]]:
    """Some children die, in the middle of a job."""
    for following, value in numbers(job, at):
        if forked.in_child and value == 43:
            os.kill(os.getpid(), 9)
        yield following, value


def broken(job: int, at: int | None) -> Iterator[tuple[int, int]]:
    for following, value in numbers(job, at):
        if value == 43:
            raise ValueError("what is wrong with it")
        yield following, value


EXPECTED = [(job, (number + 1, job * 10 + number)) for job in range(8) for number in range(5)]


@pytest.mark.parametrize("work", [numbers, fragile])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_results_come_in_order_and_none_is_lost(work: forked.Work, count: int) -> None:
    """Also when a child is killed: what it did not deliver is done here."""
    assert list(forked.results(work, range(8), count)) == EXPECTED


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_first_job_that_was_begun_is_not_done_again(count: int, at: int) -> None:
    """It goes on where it was left, and the jobs behind it keep their places."""
    assert list(forked.results(numbers, range(8), count, at)) == EXPECTED[at:]


def test_a_text_that_is_no_ascii_after_all_is_found_out_in_the_middle() -> None:
    """What an encoding turns out to be, when several processes are at work, loses no match and gives none twice."""
    string = "error flush\n" * 14 + "caf\u00e9 error flush\n" + "error flush\n" * 3 + "a" * 40
    found = [match.span() for match in regex.finditer(re.compile("flush"), text_of(string.encode()))]
    assert found == [match.span() for match in re.finditer("flush", string)]


def test_an_error_of_a_child_is_raised_here() -> None:
    """In its place, behind the results before it."""
    results = forked.results(broken, range(8), 2)
    assert [next(results) for _ in range(23)] == EXPECTED[:23]
    with pytest.raises(ValueError, match="wrong"):
        next(results)


def children() -> set[str]:
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_a_search_that_is_left_leaves_nobody() -> None:
    """A consumer that stops, and the end of a cell, end the children; what goes on then does so here."""
    before = children()
    results = forked.results(numbers, range(1000), 2)
    assert next(results) == EXPECTED[0]
    assert len(children() - before) == 2
    results.close()  # type: ignore[attr-defined]
    assert not children() - before
    results = forked.results(numbers, range(8), 2)
    got = [next(results)]
    forked.end_all()
    assert not children() - before
    assert got + list(results) == EXPECTED


def cells(documents: dict[str, bytes], codes: list[str], *, text_limit: int = 5000) -> list[str]:
    async def main() -> list[str]:
        async with kernel(documents, text_limit=text_limit) as k:
            results = [await k.run(code) for code in codes]
            return [r.error.splitlines()[-1] if r.error else r.stdout.head.rstrip("\n") for r in results]

    return run(main)


LOG = "".join(f"line {n} user={n % 7} ok\n" for n in range(30_000)).encode()
SMALL_WINDOWS = (
    "import os, re, signal; context.windows = (1 << 10, 1 << 10, 64)\n"
    "def children():\n"
    "    return [int(pid) for task in os.listdir('/proc/self/task')"
    " for pid in open(f'/proc/self/task/{task}/children').read().split()]\n"
    "def kill():\n"
    "    for pid in children(): os.kill(pid, signal.SIGKILL)"
)


@pytest.mark.skipif(forked.processes() < 2, reason="one CPU: nothing is forked")
def test_forked_searches_in_a_cell() -> None:
    """The same counts; a killed child, a suspended search and a refused fork change nothing; nobody is left."""
    codes = [
        SMALL_WINDOWS,
        "len(re.findall('user=(3)', context)), grep_count('user=3'), context.grep_count('user', matches=True)",
        "hits = grep('line 2999[89]', context_lines=1); [(h.line, h.text, h.before, h.after) for h in hits]",
        "found = re.finditer('line', context); some = [next(found) for _ in range(5000)]; len(children())",
        "len(children()), len(some) + sum(1 for _ in found)",
        "found = re.finditer('line', context); some = [next(found) for _ in range(5000)]; kill()\nlen([*some, *found])",
        "real = os.fork\ndef refuse(): raise BlockingIOError('no more processes')\nos.fork = refuse",
        "grep_count('user=3'), children()",
        "os.fork = real; FINAL(len(children()))",
    ]
    shown = cells({"doc": LOG}, codes)
    count = LOG.count(b"user=3")
    assert shown[1] == f"({count}, {count}, 30000)"
    assert shown[2] == str([
        (29999, "line 29998 user=3 ok", ["line 29997 user=2 ok"], ["line 29999 user=4 ok"]),
        (30000, "line 29999 user=4 ok", ["line 29998 user=3 ok"], []),
    ])  # fmt: skip
    assert shown[3:6] == ["2", "(0, 30000)", "30000"]
    assert shown[7] == f"({count}, [])"


@pytest.mark.skipif(forked.processes() < 2, reason="one CPU: nothing is forked")
def test_an_interrupted_search_ends_its_processes() -> None:
    """A cell that runs out of time is interrupted, not killed: its variables live on and its children do not."""

    async def main() -> tuple[str, str, str]:
        async with kernel({"doc": LOG}, text_limit=5000) as k:
            await k.out(SMALL_WINDOWS + "\nkept = 7")
            result = await k.run("while True: grep_count('user=(3|4) .k')", timeout=2.0)
            return result.status, await k.out("children()"), await k.out("kept, grep_count('user=3')")

    status, left, after = run(main)
    assert status == "timeout"
    assert (left, after) == ("[]\n", f"(7, {LOG.count(b'user=3')})\n")


def test_many_documents_are_shared_out() -> None:
    """Small ones in groups, huge ones in pieces: in the documents' order, with each one's own line numbers."""
    documents = {f"{n:03}.log": b"filler line\n" * 9000 + f"needle {n}\n".encode() for n in range(80)}
    documents["040.log"] *= 40
    codes = [
        "hits = context.grep('needle', limit=None); names = [h.document for h in hits]",
        "len(hits), hits[0].line, names[-1], names == sorted(names), {h.line for h in hits if h.document != '040.log'}",
        "context.grep_count('needle'), grep_count('needle', by_document=True)['040.log'], grep_count('absent')",
        "[(h.document, h.line) for h in grep('needle', limit=42)][39:]",
    ]
    shown = cells(documents, codes, text_limit=1 << 20)
    assert shown[1:] == [
        "(119, 9001, '079.log', True, {9001})", "(119, 40, 0)",
        "[('039.log', 9001), ('040.log', 9001), ('040.log', 18002)]",
    ]  # fmt: skip


def test_a_fork_takes_no_lock(tmp_path: Any) -> None:
    """Children read a mapping of the file; bytes before the document, and a byte order mark, are skipped."""
    from rlm_cli.sandbox.kernel.context import Index, Library

    path = tmp_path / "pack"
    path.write_bytes(b"x" * 5000 + b"\xef\xbb\xbf" + LOG + b"behind")
    index = Index()
    index.add("doc", str(path), 5000, 3 + len(LOG), "auto")
    text: Any = Library(index, 10).open_text(index[0])
    text.windows = (1 << 10, 1 << 10, 64)
    plan = scanning.prepare(re.compile("user=3"), text)
    assert plan is not None
    assert plan.reader.prepare_fork()
    call: Callable[[], int] = lambda: regex.count(re.compile("user=[3]"), text)  # noqa: E731
    assert call() == LOG.count(b"user=3")
    assert search.grep(r"^line 29999 ", text)[0].line == 30_000
