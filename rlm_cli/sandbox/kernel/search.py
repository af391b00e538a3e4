"""`grep`: the lines of a text that match."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby

from . import forked, regex, scanning
from .patterns import traits, whole_lines
from .regex import Window, hopeless, next_place, real_pattern
from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .context import Documents

    Row = tuple[int, str, int, int, list[str], list[str]]
    """(newlines before its line, the line, start and end of the match, the lines before and after)."""

GROUP = 1 << 22
"""Bytes of small documents that are one job of a forked search."""
LINE_SHOWN = 500
HITS_SHOWN = 200


class Hit:
    """One matching line.

    `document`: its name ("" when a plain text was searched); `line`: number, from 1; `text`: the whole line;
    `start`, `end`: where the match is, `text_searched[start:end]`; `before`, `after`: the lines around it.
    """

    __slots__ = ("after", "before", "document", "end", "line", "start", "text")

    def __init__(self, document: str, row: Row) -> None:
        self.document = document
        lines, self.text, self.start, self.end, self.before, self.after = row
        self.line = lines + 1

    def _show(self, line: int, mark: str, text: str) -> str:
        shown = text if len(text) <= LINE_SHOWN else f"{text[:LINE_SHOWN]}... [{len(text):,} characters]"
        return f"{self.document}{mark}{line}{mark} {shown}" if self.document else f"{line}{mark} {shown}"

    def __repr__(self) -> str:
        lines = [self._show(self.line - len(self.before) + i, "-", text) for i, text in enumerate(self.before)]
        lines.append(self._show(self.line, ":", self.text))
        following = self.line + 1 + self.text.count("\n")
        lines += [self._show(following + i, "-", text) for i, text in enumerate(self.after)]
        return "\n".join(lines)


class Hits(list[Hit]):
    """A list of `Hit` that prints one a line. `truncated`: whether `limit` ended the search."""

    truncated = False

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return Hits(found) if isinstance(key, slice) else found

    def __repr__(self) -> str:
        lines = [repr(hit) for hit in self[:HITS_SHOWN]]
        if len(self) > HITS_SHOWN:
            lines.append(f"... and {len(self) - HITS_SHOWN:,} more")
        more = "; the search stopped at limit=, there may be more" if self.truncated else ""
        plural = "" if len(self) == 1 else "s"
        return "\n".join([f"<{len(self):,} matching line{plural}{more}>", *lines])

    __str__ = __repr__


def grep(
    pattern: Any,
    text: Any,
    *,
    context_lines: int = 0,
    before: int | None = None,
    after: int | None = None,
    limit: int | None = 1000,
    ignore_case: bool = False,
) -> Hits:
    """Lines that match a regular expression (str or compiled), at most `limit` (None: all), as a list of `Hit`.

    `text` is a str, a Text or a mapping of name to such; without it, all of `context`. `^` and `$` match at line ends.
    `context_lines` adds lines around each hit; `before`/`after` one side only.
    """
    searched = line_pattern(pattern, ignore_case)
    around = (context_lines if before is None else before, context_lines if after is None else after)
    hits = Hits()
    for name, row in found(searched, text, around):
        if limit is not None and len(hits) >= limit:
            hits.truncated = True
            return hits
        hits.append(Hit(name, row))
    return hits


def grep_count(
    pattern: Any, text: Any, *, ignore_case: bool = False, matches: bool = False, by_document: bool = False
) -> Any:
    """How many lines match, as `grep -c`; with `matches=True` how many matches there are, as len(re.findall()).

    Takes what `grep` takes, and is the fastest way to count: nothing is kept. `by_document=True`: a dict of name to
    count instead of the sum, without those that have none.
    """
    searched = line_pattern(pattern, ignore_case)
    counts = {name: count for name, count in counted(searched, text, matches) if count}
    return counts if by_document else sum(counts.values())


def line_pattern(pattern: Any, ignore_case: bool) -> re.Pattern[str]:
    flags = re.MULTILINE | (re.IGNORECASE if ignore_case else 0)
    made: re.Pattern[str] = re.compile(pattern, flags) if isinstance(pattern, str) else real_pattern(pattern)
    return made


def found(pattern: re.Pattern[str], text: Any, around: tuple[int, int]) -> Iterator[tuple[str, Row]]:
    """(document's name, row) of every line that matches."""

    def rows(body: Any) -> Iterator[Row]:
        if isinstance(body, Text):
            return rows_in_text(pattern, body, around)
        return rows_in(pattern, body, around)

    for name, made in each(text, rows, lambda body: [*rows(body)]):
        for row in made:
            yield name, row


def counted(pattern: re.Pattern[str], text: Any, matches: bool) -> Iterator[tuple[str, int]]:
    """(document's name, how many lines or matches)."""

    def count(body: Any) -> int:
        if isinstance(body, Text):
            return regex.count(pattern, body) if matches else count_lines(pattern, body)
        known = traits(pattern)
        if known.absent(body):
            return 0
        whole = None if matches else whole_lines(pattern)
        suited = traits(whole or pattern).suited(whole or pattern, body)
        if matches or whole:
            return sum(1 for start, stop in known.spans(body, 0) for _ in suited.finditer(body, start, stop))
        return sum(1 for _ in scanning.lines_in(known, suited, body, 0, len(body) + 1))

    return each(text, count, count)


def count_lines(pattern: re.Pattern[str], text: Text) -> int:
    whole = whole_lines(pattern)
    if whole is not None:
        return regex.count(whole, text)
    plan = scanning.prepare(pattern, text)
    if plan is not None and plan.known.barriers == b"\n":
        try:
            return scanning.total(plan, scanning.count_lines)
        except scanning.Unbroken:
            pass
    return sum(1 for _ in rows_in_windows(pattern, text, 0, 0))


def each(text: Any, here: Callable[[Any], Any], there: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
    """(name, what `here` makes of its text) of everything to search, in order. Many small documents are shared out to
    forked processes, where `there` makes of each what can be sent back."""
    if not hasattr(text, "unshared"):
        for name, body in texts(text):
            yield name, here(body)
        return
    for huge, names in groupby(text, text.is_huge):
        if huge:
            for name in names:
                yield name, here(text[name])
        else:
            yield from in_documents(text, list(names), there)


def in_documents(documents: Documents, names: list[str], make: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
    """(name, what `make` makes of its text) of documents that are not huge, where that is not false."""
    own: list[Documents] = []

    def work(job: list[str], at: int | None) -> Iterator[tuple[int, str, Any]]:
        if forked.in_child and not own:
            own.append(documents.unshared())
        for number in range(at or 0, len(job)):
            made = make((own or [documents])[0][job[number]])
            if made:
                yield number + 1, job[number], made

    jobs = groups(documents, names)
    lead = scanning.LEAD
    for part, count in ((jobs[:lead], 1), (jobs[lead:], forked.processes() if len(jobs) >= 2 * lead else 1)):
        for _, (_, name, made) in forked.results(work, part, count):
            yield name, made


def groups(documents: Documents, names: list[str]) -> list[list[str]]:
    """Names of documents that are GROUP bytes together."""
    made: list[list[str]] = []
    room = 0
    for name in names:
        if room <= 0:
            made.append([])
            room = GROUP
        made[-1].append(name)
        room -= documents.size(name) + 4096  # a small document costs too
    return made


def texts(text: Any) -> Iterator[tuple[str, Any]]:
    """(name, str or Text) of whatever can be searched."""
    if isinstance(text, (str, Text)):
        yield "", text
    elif isinstance(text, Mapping):
        yield from text.items()
    else:
        raise TypeError(f"text must be a str or a mapping of name to str, not {type(text).__name__}")


def rows_in(pattern: re.Pattern[str], text: str, around: tuple[int, int]) -> Iterator[Row]:
    """Of a str."""
    if isinstance(pattern.pattern, bytes):
        pattern.search(text)  # raises `re`'s own error
    known = traits(pattern)
    if known.absent(text):
        return
    pattern = known.suited(pattern, text)
    line, counted = 0, 0
    for match, start, end in scanning.lines_in(known, pattern, text, 0, len(text) + 1):
        line += text.count("\n", counted, start)
        counted = start
        yield (line, text[start:end].rstrip("\r"), *match.span(), *lines_around(text, match.span(), around))


def rows_in_text(pattern: re.Pattern[str], text: Text, around: tuple[int, int]) -> Iterator[Row]:
    """Of a Text: piece by piece where lines can be searched by themselves."""
    plan = scanning.prepare(pattern, text)
    place = line = 0
    if plan is not None and plan.known.barriers == b"\n":
        plan.line_numbers = True
        try:
            for base, lines, rows in scanning.run(plan, rows_in_piece(around)):
                for number, shown, start, end, before, after in rows:
                    yield lines + number, shown, base + start, base + end, before, after
            return
        except scanning.Unbroken as unbroken:
            place, line = unbroken.place, unbroken.line
    for number, shown, start, end in rows_in_windows(pattern, text, place, line):
        yield (number, shown, start, end, *lines_around(text, (start, end), around))


def rows_in_piece(around: tuple[int, int]) -> scanning.Take:
    """What `scanning.run` is to make of a piece: its rows."""

    def take(scan: scanning.Scan, piece: scanning.Piece) -> list[Row]:
        text = piece.text or ""
        rows: list[Row] = []
        line, counted = 0, piece.lead
        wide, shift = text, 0
        for match, start, end in scanning.lines_in(scan.known, piece.pattern, text, piece.lead, piece.limit):
            if around != (0, 0) and not rows:
                earlier = scan.lines_before(piece.start, around[0])
                wide = earlier + text[piece.lead : piece.limit] + scan.lines_after(piece.end, around[1])
                shift = len(earlier) - piece.lead
            line += text.count("\n", counted, start)
            counted = max(counted, start)
            span = match.start() + shift, match.end() + shift
            rows.append((line, text[start:end].rstrip("\r"), *match.span(), *lines_around(wide, span, around)))
        return rows

    return take


def rows_in_windows(pattern: re.Pattern[str], text: Text, at: int, line: int) -> Iterator[tuple[int, str, int, int]]:
    """Rows without the lines around them, from a character on, window by window."""
    counted, size = at, 0
    regex.uncertain(pattern, text, at)
    while True:
        place = at if size else next_place(pattern, text, at, None)
        if place is None:
            return
        if place > at:
            line, counted, at = line + text.count("\n", counted, place), place, place
        window = Window(text, at, None, size, pattern)
        size, skip = 0, hopeless(pattern, window)
        while at <= window.base + len(window.text) and not skip:
            match = pattern.search(window.text, at - window.base)
            if match is None or (match.start() >= window.limit and not window.final):
                break
            if match.end() == len(window.text) and not window.final:
                size = text.larger(len(window.text), window.base + match.start())
                break
            start, end = line_around(window, match.span(), text)
            if start == end and not text.piece(start, start + 1):
                return  # an empty match behind the last newline is no line
            line += newlines(window, counted, start, text)
            counted = max(counted, start)
            yield line, text[start:end].rstrip("\r"), window.base + match.start(), window.base + match.end()
            at = end + 1
        if window.final:
            return
        if not size:
            at = max(at, window.base + window.limit)
        line += newlines(window, counted, at, text)
        counted = max(counted, at)


def line_around(window: Window, span: tuple[int, int], text: Text) -> tuple[int, int]:
    """Offsets of the line (or lines) that a match in a window is in."""
    start = window.text.rfind("\n", 0, span[0]) + 1 + window.base
    if start == window.base:
        start = text.rfind("\n", 0, start) + 1
    last = max(span[0], span[1] - 1)
    end = window.text.find("\n", last) + window.base
    if end < window.base:
        end = text.find("\n", last + window.base)
    return start, len(text) if end < 0 else end


def newlines(window: Window, start: int, end: int, text: Text) -> int:
    """How many in [start, end) of the text, most of which is in the window."""
    if window.base <= start and end <= window.base + len(window.text):
        return window.text.count("\n", start - window.base, end - window.base)
    return text.count("\n", start, end) if end > start else 0


def lines_around(text: Any, span: tuple[int, int], around: tuple[int, int]) -> tuple[list[str], list[str]]:
    """The lines before and after those of a match."""
    before: list[str] = []
    after: list[str] = []
    start = text.rfind("\n", 0, span[0]) + 1 if around[0] else 0
    for _ in range(around[0]):
        if start == 0:
            break
        previous = text.rfind("\n", 0, start - 1) + 1
        before.insert(0, text[previous : start - 1].rstrip("\r"))
        start = previous
    end = text.find("\n", max(span[0], span[1] - 1)) if around[1] else 0
    for _ in range(around[1]):
        if end < 0 or end + 1 >= len(text):
            break
        following = text.find("\n", end + 1)
        after.append(text[end + 1 : following if following >= 0 else len(text)].rstrip("\r"))
        end = following
    return before, after
