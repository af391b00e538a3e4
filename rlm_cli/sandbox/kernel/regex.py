"""Regular expressions over a `Text`, with offsets of the whole.

Where something that the pattern cannot match (mostly the newline) cuts the text, `scanning` searches the pieces; that
is exact. Otherwise the text is matched here in windows of decoded text. A window holds some text before the place where
the search goes on, for `^`, `\\b` and look-behind, and behind its own matches REACH characters, or as many as the
pattern can look at. A match that touches the end of its window is tried again in a larger one. What can be missed, or
cut short, is a match longer than REACH of a pattern without bounds (`uncertain`): that is said once on stderr.
"""

from __future__ import annotations

import re
import sys

from . import scanning
from .patterns import traits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .text import Text

BACK = 4096
REACH = 1 << 18
WINDOW = 1 << 21
_warned: set[str] = set()


class Window:
    """Characters [base, base + len(text)) of a Text. Matches that start before `limit` belong to it."""

    __slots__ = ("base", "final", "limit", "text")

    def __init__(self, text: Text, at: int, stop: int | None, size: int, pattern: re.Pattern[str]) -> None:
        own, reach, back = text.windows
        known = traits(pattern)
        if known.ahead is not None and known.ahead <= own:
            reach = max(reach, known.ahead)
        self.base = max(0, at - max(back, known.back))
        end = at + max(size, own) + reach
        self.text = text.piece(self.base, end if stop is None else min(end, stop))
        self.final = self.base + len(self.text) < end
        self.limit = len(self.text) if self.final else len(self.text) - reach


def uncertain(pattern: re.Pattern[str], text: Text, at: int) -> None:
    """Say once of a pattern that its long matches may be missed, if they may."""
    own, reach, _ = text.windows
    ahead = traits(pattern).ahead
    if (ahead is not None and ahead <= max(own, reach)) or pattern.pattern in _warned:
        return
    if text.piece(at + own + reach, at + own + reach + 1):
        _warned.add(pattern.pattern)
        sys.stderr.write(
            f"[kernel] matches of {pattern.pattern!r} that are longer than {reach:,} characters may be missed or cut "
            "short: it can run on over lines. Exact is what stays in a line (. without DOTALL, [^x\\n]) or has bounds "
            "(.{0,1000})\n"
        )


def next_place(pattern: re.Pattern[str], text: Text, at: int, stop: int | None) -> int | None:
    """The first place from `at` on where a match of at most REACH characters may begin; None: there is none."""
    known = traits(pattern)
    if len(known.needles) != 1 or known.ignore_case:
        return at
    place = text.find(known.needles[0], at, stop)
    if place < 0:
        return None
    reach = text.windows[1] if known.ahead is None else max(text.windows[1], known.ahead)
    return max(at, place + len(known.needles[0]) - reach)


def hopeless(pattern: re.Pattern[str], window: Window) -> bool:
    """Whether a window cannot hold a match, found out quickly: `re` takes some 12 s to look through 1 GB regardless of
    case, `lower` and `in` take one. Only ASCII: beyond it, more than upper and lower case may match."""
    known = traits(pattern)
    return known.ignore_case and known.absent(window.text)


def scan(pattern: re.Pattern[str], text: Text, pos: int = 0, stop: int | None = None) -> Iterator[tuple[int, Any]]:
    """(base, match) for each match, as finditer finds them; `base` is to be added to the match's offsets."""
    at, size = pos, 0
    last = (-1, -1)
    uncertain(pattern, text, pos)
    while stop is None or pos <= stop:
        place = at if size else next_place(pattern, text, at, stop)
        if place is None:
            return
        at = place
        window = Window(text, at, stop, size, pattern)
        following, size = window.base + window.limit, 0
        matches = () if hopeless(pattern, window) else pattern.finditer(window.text, at - window.base)
        for match in matches:
            start, end = match.span()
            if start >= window.limit and not window.final:
                break
            if end == len(window.text) and not window.final:
                following = window.base + start
                size = text.larger(len(window.text), following)
                break
            if (window.base + start, window.base + end) != last:
                last = (window.base + start, window.base + end)
                yield window.base, match
            at = last[1]
        if window.final:
            return
        at = max(at, following)


def anchored(pattern: re.Pattern[str], text: Text, pos: int = 0, stop: int | None = None) -> Match | None:
    """pattern.match."""
    size = 0
    while stop is None or pos <= stop:
        window = Window(text, pos, stop, size, pattern)
        match = pattern.match(window.text, pos - window.base)
        if match is None or match.end() < len(window.text) or window.final:
            return made_match(match, window.base, text) if match else None
        size = text.larger(len(window.text), pos)
    return None


def made_match(match: re.Match[str], base: int, text: Text, window: tuple[int, int | None] = (0, None)) -> Match:
    """A `re.Match` in some piece of a Text, as one in the Text."""
    return Match(match.re, text, base, (match.regs, (match[0], *match.groups()), match.lastindex), window)


class Match:
    """A match in a Text: what `re.Match` offers, with offsets of the whole Text, and holding none of its windows."""

    __slots__ = ("_base", "_endpos", "_groups", "_regs", "lastindex", "pos", "re", "string")

    def __init__(
        self, pattern: re.Pattern[str], text: Text, base: int, row: tuple[Any, ...], window: tuple[int, int | None]
    ) -> None:
        self.re = pattern
        self.string = text
        self._base = base
        self._regs, self._groups, self.lastindex = row
        self.pos, self._endpos = window

    @property
    def endpos(self) -> int:
        return len(self.string) if self._endpos is None else min(self._endpos, len(self.string))

    @property
    def lastgroup(self) -> str | None:
        return next((name for name, number in self.re.groupindex.items() if number == self.lastindex), None)

    @property
    def regs(self) -> tuple[tuple[int, int], ...]:
        return tuple([self.span(number) for number in range(len(self._regs))])

    def __copy__(self) -> Match:
        return self

    def __deepcopy__(self, memo: object) -> Match:
        return self

    def expand(self, template: str) -> str:
        """As re.Match.expand: by a real match that has the same groups."""
        names = {number: f"?P<{name}>" for name, number in self.re.groupindex.items()}
        parts = [
            f"(?:({names.get(number, '')}(?!)))?" if value is None else f"({names.get(number, '')}.{{{len(value)}}})"
            for number, value in enumerate(self._groups[1:], 1)
        ]
        same = re.compile(f"(?s)(?=.{{{len(self[0])}}}{''.join(parts)}).{{{len(self[0])}}}")
        found = same.match("".join(value or "" for value in self._groups))
        return found.expand(template) if found else ""

    def _number(self, group: Any) -> int:
        number = self.re.groupindex.get(group, group) if isinstance(group, str) else group
        if not isinstance(number, int) or not 0 <= number < len(self._groups):
            raise IndexError("no such group")
        return number

    def __getitem__(self, group: Any) -> Any:
        return self._groups[self._number(group)]

    def group(self, *groups: Any) -> Any:
        if len(groups) <= 1:
            return self[groups[0] if groups else 0]
        return tuple(self[group] for group in groups)

    def groups(self, default: Any = None) -> tuple[Any, ...]:
        return tuple(default if value is None else value for value in self._groups[1:])

    def groupdict(self, default: Any = None) -> dict[str, Any]:
        return {name: default if self[name] is None else self[name] for name in self.re.groupindex}

    def span(self, group: Any = 0) -> tuple[int, int]:
        start, end = self._regs[self._number(group)]
        return (start + self._base, end + self._base) if start >= 0 else (-1, -1)

    def start(self, group: Any = 0) -> int:
        return self.span(group)[0]

    def end(self, group: Any = 0) -> int:
        return self.span(group)[1]

    def __repr__(self) -> str:
        return f"<Match of a Text; span={self.span()}, match={self[0][:50]!r}>"


# -- what a pattern offers, on a Text


def bounds(text: Text, pos: int, endpos: int | None) -> tuple[int, int | None]:
    """As a pattern's methods read them: a start behind the end is the end."""
    if pos > 0 and not text.piece(pos - 1, pos):
        pos = len(text)
    return max(pos, 0), None if endpos is None else max(0, endpos)


def rows(pattern: re.Pattern[str], text: Text, pos: int, stop: int | None) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(base, row) for each match: `base` is to be added to the row's spans; see `scanning.rows`."""
    plan = scanning.prepare(pattern, text, pos, stop)
    if plan is not None:
        try:
            for base, _, found in scanning.run(plan, scanning.rows):
                for row in found:
                    yield base, row
            return
        except scanning.Unbroken as unbroken:
            pos = unbroken.place
    for base, match in scan(pattern, text, pos, stop):
        yield base, (match.regs, (match[0], *match.groups()), match.lastindex)


def finditer(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> Iterator[Match]:
    window = (max(pos, 0), endpos)
    for base, row in rows(pattern, text, *bounds(text, pos, endpos)):
        yield Match(pattern, text, base, row, window)


def count(pattern: re.Pattern[str], text: Text) -> int:
    """How many matches finditer finds."""
    plan = scanning.prepare(pattern, text)
    if plan is not None:
        if plan.known.literal:
            return text.count(plan.known.literal)
        try:
            return scanning.total(plan, scanning.count_matches)
        except scanning.Unbroken:
            pass
    return sum(1 for _ in scan(pattern, text))


def search(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> Match | None:
    return next(finditer(pattern, text, pos, endpos), None)


def match(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> Match | None:
    return anchored(pattern, text, *bounds(text, pos, endpos))


def fullmatch(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> Any:
    return pattern.fullmatch(str(text), pos, sys.maxsize if endpos is None else endpos)


def findall(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> list[Any]:
    pos, stop = bounds(text, pos, endpos)
    made: list[Any] = []
    plan = scanning.prepare(pattern, text, pos, stop)
    if plan is not None:
        try:
            for _, _, found in scanning.run(plan, scanning.strings):
                made += found
            return made
        except scanning.Unbroken as unbroken:
            pos = unbroken.place
    matches = (match for _, match in scan(pattern, text, pos, stop))
    if pattern.groups == 0:
        made += [match[0] for match in matches]
    elif pattern.groups == 1:
        made += [match[1] or "" for match in matches]
    else:
        made += [match.groups("") for match in matches]
    return made


def split(pattern: re.Pattern[str], text: Text, maxsplit: int = 0) -> list[Any]:
    parts: list[Any] = []
    at = used = 0
    if maxsplit >= 0:
        for number, (base, match) in enumerate(scan(pattern, text), 1):
            used = text.fits(used + base + match.start() - at, "the pieces that re.split makes")
            parts += [text[at : base + match.start()], *match.groups()]
            at = base + match.end()
            if number == maxsplit:
                break
    return [*parts, text[at:]]


def subn(pattern: re.Pattern[str], repl: Any, text: Text, count: int = 0) -> tuple[str, int]:
    parts: list[str] = []
    at = used = made = 0
    for base, match in scan(pattern, text) if count >= 0 else ():
        new = repl(made_match(match, base, text)) if callable(repl) else match.expand(repl)
        kept = base + match.start() - at
        used = text.fits(used + kept + len(new), "the result of re.sub")
        parts += [text[at : at + kept], new]
        at = base + match.end()
        made += 1
        if made == count:
            break
    return "".join([*parts, str(text[at:])]), made


def sub(pattern: re.Pattern[str], repl: Any, text: Text, count: int = 0) -> str:
    return subn(pattern, repl, text, count)[0]


METHODS: dict[str, Callable[..., Any]] = {
    "search": search, "match": match, "fullmatch": fullmatch, "finditer": finditer, "findall": findall,
    "split": split, "sub": sub, "subn": subn,
}  # fmt: skip


class Pattern:
    """A compiled pattern that takes a Text too; all else is the real pattern's."""

    __slots__ = ("_real",)

    def __init__(self, real: re.Pattern[Any]) -> None:
        self._real = real

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return re.Pattern  # so that isinstance, and re itself, take it for one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __eq__(self, other: object) -> bool:
        return self._real == getattr(other, "_real", other)

    def __hash__(self) -> int:
        return hash(self._real)

    def __repr__(self) -> str:
        return repr(self._real)

    def __reduce__(self) -> Any:
        return re.compile, (self._real.pattern, self._real.flags)


def real_pattern(pattern: Any) -> Any:
    """Without our wrapper."""
    return pattern._real if type(pattern) is Pattern else pattern


def _method(name: str, place: int) -> Callable[..., Any]:
    """A method of `Pattern`: ours when the argument at `place` (or `string=`) is a Text, else the real one."""
    from .text import Text

    ours = METHODS[name]

    def call(self: Pattern, *args: Any, **named: Any) -> Any:
        string = args[place] if len(args) > place else named.get("string")
        if type(string) is not Text:
            return getattr(self._real, name)(*args, **named)
        if "string" in named:
            named["text"] = named.pop("string")
        return ours(self._real, *args, **named)

    call.__name__ = name
    return call


def _function(name: str, place: int) -> Callable[..., Any]:
    """A replacement for re.`name`; `place`: of the string among the arguments after the pattern."""
    from .text import Text

    original = getattr(re, name)
    compiled = re.compile
    ours = METHODS[name]
    after = ("count", "flags") if name in ("sub", "subn") else ("maxsplit", "flags") if name == "split" else ("flags",)

    def call(pattern: Any, *args: Any, **named: Any) -> Any:
        string = args[place] if len(args) > place else named.get("string")
        if type(string) is not Text:
            return original(pattern, *args, **named)
        if "string" in named:
            named["text"] = named.pop("string")
        named.update(zip(after, args[place + 1 :]))  # noqa: B905 - strict= needs Python 3.10
        flags = named.pop("flags", 0)
        return ours(real_pattern(compiled(pattern, flags)), *args[: place + 1], **named)

    call.__name__, call.__doc__ = name, original.__doc__
    return call


def install(namespace: dict[str, Any]) -> None:
    """Teach `re` about Text: its functions, and the patterns that code in `namespace` compiles."""
    if getattr(re.compile, "__module__", "") == __name__:
        return
    original = re.compile
    for name in METHODS:
        place = 1 if name in ("sub", "subn") else 0
        setattr(Pattern, name, _method(name, place))
        setattr(re, name, _function(name, place))

    def compile(pattern: Any, flags: Any = 0) -> Any:
        made = original(real_pattern(pattern), flags)
        return Pattern(made) if sys._getframe(1).f_globals is namespace else made

    setattr(re, "compile", compile)  # noqa: B010 - it has overloads, which an assignment would have to repeat
