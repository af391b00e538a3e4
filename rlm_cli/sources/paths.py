"""What a word on the command line is on disk: a path, a glob that we expand, or nothing but a near miss."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = frozenset("*?[")
MOST_ENTRIES = 10_000
"""How many names of a folder are looked at for a near miss."""


def exists(word: str) -> bool:
    """Whether it is a path, or a glob that matches one. A path that may not be looked at counts: it is no question."""
    return on_disk(word) or next(matches(word), None) is not None


def on_disk(word: str) -> bool:
    """Whether it is, literally, a path. True for a dangling link and for what permissions hide."""
    try:
        os.lstat(word)
    except OSError as error:
        return error.errno == errno.EACCES
    except ValueError:
        return False
    return True


def is_glob(word: str) -> bool:
    return not MAGIC.isdisjoint(word)


def matches(word: str) -> Iterator[str]:
    """Paths that a glob matches, unsorted. `**` is any depth; hidden names only where the pattern's part begins with
    a dot; links to folders are not followed. What is no glob or no valid one matches nothing."""
    if not is_glob(word):
        return
    parts = word.split("/")
    first = next(i for i, part in enumerate(parts) if is_glob(part))
    base = "/".join(parts[:first]) + ("/" if first else "")
    pattern = "/".join(part for part in parts[first:] if part)
    dotted = any(part.startswith(".") for part in parts[first:])
    try:
        for path in Path(base or ".").glob(pattern):
            found = str(path)
            below = path.relative_to(base or ".").parts
            if dotted or not any(part.startswith(".") for part in below):
                yield found
    except (OSError, ValueError, NotImplementedError):
        # A question may look like a glob and be too long for a path, or no valid pattern.
        return


def expand(word: str) -> list[str]:
    """The paths a source stands for: itself when it exists, else what it matches, sorted by bytes."""
    return [word] if on_disk(word) else sorted(matches(word), key=os.fsencode)


def entries(folder: str) -> list[str]:
    """Some names in a folder (for suggestions); nothing when it cannot be listed."""
    try:
        with os.scandir(folder or ".") as listing:
            return [entry.name for entry in itertools.islice(listing, MOST_ENTRIES)]
    except (OSError, ValueError):
        return []


@dataclass(frozen=True)
class Disk:
    """The file system as far as reading a command line needs it. Tests pass another."""

    exists: Callable[[str], bool] = exists
    entries: Callable[[str], list[str]] = entries


DISK = Disk()
