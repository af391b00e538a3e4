"""`grep`: the lines of a text that match."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .regex import Window, hopeless, next_place, real_pattern
from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

LINE_SHOWN = 500
HITS_SHOWN = 200


class Hit:
    """One matching line.

    `document`: its name ("" when a plain text was searched); `line`: number, from 1; `text`: the whole line;
    `start`, `end`: where the match is, `text_searched[start:end]`; `before`, `after`: the lines around it.
    """

    __slots__ = ("after", "before", "document", "end", "line", "start", "text")

    def __init__(self, document: str, line: int, text: str, span: tuple[int, int]) -> None:
        self.document = document
        self.line = line
        self.text = text
        self.start, self.end = span
        self.before: list[str] = []
        self.after: list[str] = []

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
    flags = re.MULTILINE | (re.IGNORECASE if ignore_case else 0)
    searched = re.compile(pattern, flags) if isinstance(pattern, str) else real_pattern(pattern)
    around = (context_lines if before is None else before, context_lines if after is None else after)
    hits = Hits()
    for name, body in texts(text):
        find = hits_in_text if isinstance(body, Text) else hits_in
        for hit in find(searched, name, body):
            if limit is not None and len(hits) >= limit:
                hits.truncated = True
                return hits
            hits.append(hit)
            add_lines(hit, body, around)
    return hits


def texts(text: Any) -> Iterator[tuple[str, Any]]:
    """(name, str or Text) of whatever can be searched."""
    if isinstance(text, (str, Text)):
        yield "", text
    elif isinstance(text, Mapping):
        yield from text.items()
    else:
        raise TypeError(f"text must be a str or a mapping of name to str, not {type(text).__name__}")


def hits_in(pattern: re.Pattern[str], name: str, text: str) -> Iterator[Hit]:
    """One hit a line: the first match in it. A match over several lines is one hit, with all of them."""
    line, counted, at = 1, 0, 0
    while at <= len(text):
        match = pattern.search(text, at)
        if match is None:
            return
        start = text.rfind("\n", 0, match.start()) + 1
        end = text.find("\n", max(match.start(), match.end() - 1))
        end = len(text) if end < 0 else end
        if start == len(text):
            return  # an empty match behind the last newline is no line
        line += text.count("\n", counted, start)
        counted = start
        yield Hit(name, line, text[start:end].rstrip("\r"), match.span())
        at = end + 1


def hits_in_text(pattern: re.Pattern[str], name: str, text: Text) -> Iterator[Hit]:
    """As `hits_in`, window by window."""
    line, counted, at, size = 1, 0, 0, 0
    while True:
        place = at if size else next_place(pattern, text, at, None)
        if place is None:
            return
        if place > at:
            line, counted, at = line + text.count("\n", counted, place), place, place
        window = Window(text, at, None, size)
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
            counted = start
            span = window.base + match.start(), window.base + match.end()
            text.fits(end - start, "the line of a match")
            yield Hit(name, line, text.piece(start, end).rstrip("\r"), span)
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


def add_lines(hit: Hit, text: Any, around: tuple[int, int]) -> None:
    """Fill in `before` and `after`."""
    start = text.rfind("\n", 0, hit.start) + 1
    for _ in range(around[0]):
        if start == 0:
            break
        previous = text.rfind("\n", 0, start - 1) + 1
        hit.before.insert(0, text[previous : start - 1].rstrip("\r"))
        start = previous
    end = text.find("\n", max(hit.start, hit.end - 1))
    for _ in range(around[1]):
        if end < 0 or end + 1 >= len(text):
            break
        following = text.find("\n", end + 1)
        hit.after.append(text[end + 1 : following if following >= 0 else len(text)].rstrip("\r"))
        end = following
