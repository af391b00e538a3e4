"""Regular expressions over a `Text`: matched in windows of decoded text, with offsets of the whole.

A window holds some text before the place where the search goes on, for `^`, `\\b` and look-behind, and REACH
characters behind its own matches. A match that touches the end of its window is tried again in a larger one. Where
every match holds a certain literal, bytes are searched for that, and the text in between is never decoded. What can be
missed: a match longer than REACH.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .text import Text

BACK = 4096
REACH = 1 << 18
WINDOW = 1 << 21
LITERAL = 3
"""Characters from which on a literal is worth looking for."""


class Window:
    """Characters [base, base + len(text)) of a Text. Matches that start before `limit` belong to it."""

    __slots__ = ("base", "final", "limit", "text")

    def __init__(self, text: Text, at: int, stop: int | None, size: int) -> None:
        own, reach, back = text.windows
        self.base = max(0, at - back)
        end = at + max(size, own) + reach
        self.text = text.piece(self.base, end if stop is None else min(end, stop))
        self.final = self.base + len(self.text) < end
        self.limit = len(self.text) if self.final else len(self.text) - reach


@lru_cache(maxsize=256)
def required(pattern: re.Pattern[str]) -> str:
    """A literal that every match holds (in some case, under IGNORECASE), "" when none is known: the longest at the
    top level of the pattern."""
    if not isinstance(pattern.pattern, str):
        return ""
    parser: Any = sys.modules.get("re._parser") or sys.modules["sre_parse"]  # its name before Python 3.11
    runs = [""]
    for operator, argument in parser.parse(pattern.pattern, pattern.flags):
        if str(operator) == "LITERAL":
            runs[-1] += chr(argument)
        else:
            runs.append("")
    longest = max(runs, key=len)
    return longest if len(longest) >= LITERAL else ""


def next_place(pattern: re.Pattern[str], text: Text, at: int, stop: int | None) -> int | None:
    """The first place from `at` on where a match of at most REACH characters may begin; None: there is none."""
    literal = required(pattern)
    if not literal or pattern.flags & re.IGNORECASE:
        return at
    place = text.find(literal, at, stop)
    return max(at, place + len(literal) - text.windows[1]) if place >= 0 else None


def hopeless(pattern: re.Pattern[str], window: Window) -> bool:
    """Whether a window cannot hold a match, found out quickly: `re` takes some 12 s to look through 1 GB regardless of
    case, `lower` and `in` take one. Only ASCII: beyond it, more than upper and lower case may match."""
    if not pattern.flags & re.IGNORECASE:
        return False
    literal, text = required(pattern), window.text
    return literal != "" and literal.isascii() and text.isascii() and literal.lower() not in text.lower()


def scan(pattern: re.Pattern[str], text: Text, pos: int = 0, stop: int | None = None) -> Iterator[tuple[int, Any]]:
    """(base, match) for each match, as finditer finds them; `base` is to be added to the match's offsets."""
    at, size = pos, 0
    last = (-1, -1)
    while stop is None or pos <= stop:
        place = at if size else next_place(pattern, text, at, stop)
        if place is None:
            return
        at = place
        window = Window(text, at, stop, size)
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
        window = Window(text, pos, stop, size)
        match = pattern.match(window.text, pos - window.base)
        if match is None or match.end() < len(window.text) or window.final:
            return Match(match, window.base, text) if match else None
        size = text.larger(len(window.text), pos)
    return None


class Match:
    """A match in a Text: what `re.Match` offers, with offsets of the whole Text, and holding none of its windows."""

    __slots__ = ("_groups", "_names", "_spans", "lastgroup", "lastindex", "re", "string")

    def __init__(self, match: re.Match[str], base: int, text: Text) -> None:
        self.re = match.re
        self.string = text
        self.lastindex = match.lastindex
        self.lastgroup = match.lastgroup
        self._groups = (match[0], *match.groups())
        regs = match.regs
        self._spans = tuple([(a + base, b + base) if a >= 0 else (-1, -1) for a, b in regs]) if base else regs

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
        return self._spans[self._number(group)]

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


def finditer(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> Iterator[Match]:
    for base, match in scan(pattern, text, *bounds(text, pos, endpos)):
        yield Match(match, base, text)


def search(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> Match | None:
    return next(finditer(pattern, text, pos, endpos), None)


def match(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> Match | None:
    return anchored(pattern, text, *bounds(text, pos, endpos))


def fullmatch(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> Any:
    return pattern.fullmatch(str(text), pos, sys.maxsize if endpos is None else endpos)


def findall(pattern: re.Pattern[str], text: Text, pos: int = 0, endpos: int | None = None) -> list[Any]:
    found = (match for _, match in scan(pattern, text, *bounds(text, pos, endpos)))
    if pattern.groups == 0:
        return [match[0] for match in found]
    if pattern.groups == 1:
        return [match[1] or "" for match in found]
    return [match.groups("") for match in found]


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
        new = repl(Match(match, base, text)) if callable(repl) else match.expand(repl)
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
