"""Ignore files outside git, and `.ignore`, `.rlmignore`, `-g` and configured patterns everywhere: pathspec's matcher.

A path is judged by the patterns of its own folder's ignore files, then its parent's and so on up; within a file the
last match wins. Folders are judged on the way down, so what is below an ignored folder is never asked about. pathspec
translates each pattern; its own matching judges a path by its parents too, which is not what git does on a walk.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

# Strongest first, as ripgrep orders its own.
OWN_FILES = (".rlmignore", ".ignore")
ALL_FILES = (*OWN_FILES, ".gitignore")

LARGEST = 4 * 1024 * 1024
"""Bytes of an ignore file beyond which it is no ignore file."""

# pathspec hands bracket expressions to `re`, which has no POSIX classes.
POSIX_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": " \t",
    "digit": "0-9",
    "lower": "a-z",
    "space": " \t\r\v\f",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
CLASS = re.compile(r"\[:([a-z]+):\]")

STARS = re.compile(r"(?<![^/!])\*{3,}(?![^/])")
"""A part of three stars or more: to git it is `**`."""

Note = Callable[[str], None]


class Verdict(NamedTuple):
    """What patterns say: True ignored, False taken although others ignore it, None nothing."""

    ignored: bool | None
    rule: str = ""


NO_OPINION = Verdict(None)


class Rule(NamedTuple):
    """One pattern: the matcher's regular expression, and what git decides besides."""

    regex: re.Pattern[str]
    ignores: bool
    folders_only: bool
    label: str

    def matches(self, name: str, folder: bool) -> bool:
        """The path itself. The expression also matches what is below a match (its only group then holds the slash),
        which must not count: whether a folder is left out was settled when the walk came to it."""
        if self.folders_only and not folder:
            return False
        match = self.regex.search(name)
        return match is not None and match.lastgroup is None


@dataclass(frozen=True)
class Patterns:
    """The patterns of one ignore file (or of an option), last first. A label cites one: `.gitignore:3: *.log`."""

    rules: tuple[Rule, ...] = ()

    def check(self, path: str, *, folder: bool = False) -> Verdict:
        """`path` is relative to the file's folder, without a slash at either end."""
        # No pattern can hold a newline, and the matcher's `.` and `$` have their own ideas about it.
        name = _bytewise(path).replace("\n", "\0")
        for rule in self.rules:
            if rule.matches(name, folder):
                return Verdict(rule.ignores, rule.label)
        return NO_OPINION


def parse(lines: Iterable[tuple[str, str]], note: Note) -> Patterns:
    """Patterns from (label, line). A malformed one is reported through `note` and left out, as git leaves it out."""
    found: list[Rule] = []
    for label, line in lines:
        text = _trimmed(line)
        if not text or text.startswith("#"):
            continue
        try:
            found.append(_compiled(text, label))
        except (ValueError, re.error):
            note(f"malformed pattern skipped: {label}")
    return Patterns(tuple(reversed(found)))


def _compiled(text: str, label: str) -> Rule:
    """Raises `ValueError` or `re.error` for what is no pattern."""
    bare = text.removesuffix("/")
    with warnings.catch_warnings():
        # `re` warns that it may read `[[a]` differently one day; today it reads it as git does.
        warnings.simplefilter("ignore", FutureWarning)
        pattern = GitIgnoreSpecPattern(_protected(CLASS.sub(_posix_class, STARS.sub("**", _bytewise(bare)))))
    if pattern.regex is None or pattern.include is None:
        raise ValueError("the matcher takes it for no pattern")
    return Rule(pattern.regex, pattern.include, bare != text, label)


def _bytewise(text: str) -> str:
    """One character a byte: to git, `?` is one byte and a name need not be UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


def _protected(text: str) -> str:
    """The matcher strips white space at the end; what git leaves there (it may be half of a character, such as the
    second byte of an "à") goes in brackets."""
    if not text or not text[-1].isspace():
        return text
    body = text[:-1]
    escaped = (len(body) - len(body.rstrip("\\"))) % 2
    return f"{body[: len(body) - escaped]}[{text[-1]}]"


def _posix_class(match: re.Match[str]) -> str:
    if match[1] not in POSIX_CLASSES:
        raise ValueError(f"unknown character class {match[0]}")
    return POSIX_CLASSES[match[1]]


def _trimmed(line: str) -> str:
    """Without trailing spaces, unless a backslash protects them (git's trim_trailing_spaces)."""
    end, at = 0, 0
    while at < len(line):
        if line[at] == "\\":
            at += 1
            end = at + 1
        elif line[at] != " ":
            end = at + 1
        at += 1
    return line[:end]


def read(path: str, shown: str, note: Note) -> Patterns | None:
    """The patterns in a file; None when it is not a regular file, cannot be read, or is absurdly large."""
    try:
        info = Path(path).stat()
        if not stat.S_ISREG(info.st_mode):
            return None
        if info.st_size > LARGEST:
            note(f"{shown} is too large for an ignore file and was not used")
            return None
        data = Path(path).read_bytes()
    except OSError as error:
        note(f"{shown} cannot be read ({error.strerror}) and was not used")
        return None
    return parse(_lines(data, shown), note)


def _lines(data: bytes, shown: str) -> Iterator[tuple[str, str]]:
    """(label, line), split as git does: at newlines only, with one carriage return off."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.removesuffix("\r")
        yield f"{shown}:{number}: {bare}", bare


@dataclass(frozen=True)
class Level:
    """The patterns that hold from folder `base` down, strongest first, and those of the folders above."""

    base: str
    patterns: tuple[Patterns, ...]
    above: Level | None = None

    def check(self, path: str, *, folder: bool) -> Verdict:
        """Judge an absolute path below `base`."""
        level: Level | None = self
        while level is not None:
            relative = path[len(level.base.rstrip("/")) + 1 :]
            for patterns in level.patterns:
                verdict = patterns.check(relative, folder=folder)
                if verdict.ignored is not None:
                    return verdict
            level = level.above
        return NO_OPINION


def extend(above: Level | None, base: str, names: Iterable[str], note: Note) -> Level | None:
    """`above` and the ignore files `names` (strongest first) of folder `base`; `above` when none has patterns."""
    found = [read(f"{base.rstrip('/')}/{name}", shown(f"{base.rstrip('/')}/{name}"), note) for name in names]
    usable = tuple(patterns for patterns in found if patterns is not None and patterns.rules)
    return Level(base, usable, above) if usable else above


def shown(path: str) -> str:
    """An absolute path as the user would write it: relative when it is below the working directory."""
    try:
        here = os.path.realpath(".")
    except OSError:
        return path
    return path.removeprefix(here.rstrip("/") + "/")
