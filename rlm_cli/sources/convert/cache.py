"""What was converted before: text by the hash of the file and of what converted it, in the user's cache folder.

An entry is a private folder: `index.json` names the parts, `0`, `1`, ... hold them. It is made under another name and
renamed, so that it is whole or not there. The least recently used go when all take more than `MOST_KEPT`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from ...private import make_private

MOST_KEPT = 4 << 30
IN_USE = 6 * 3600
"""Seconds for which an entry is not removed: a run may still read it."""
MOST_CACHED = 1 << 30
"""Bytes of a file above which its text is not kept."""


class Part(NamedTuple):
    """A document that came out of a file; "" is the name of the only one."""

    name: str
    path: Path
    size: int


@dataclass(frozen=True)
class Converted:
    """The text of a file, or why there is none."""

    parts: tuple[Part, ...] = ()
    refused: str = ""


def key_of(file: BufferedReader, version: str) -> str:
    """The name of the entry for an open file; it is read from its beginning."""
    digest = hashlib.file_digest(file, "sha256")
    digest.update(b"\0" + version.encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Cache:
    """The entries in `folder`, which is made when it is needed."""

    folder: Path

    def find(self, key: str) -> Converted | None:
        """What is there, and is from now on used most recently."""
        home = self.folder / key[:2] / key
        try:
            found = read_entry(home)
            os.utime(home)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found

    def new(self) -> Path:
        """A folder for an entry that is being made. Raises `OSError`."""
        make_private(self.folder)
        return Path(tempfile.mkdtemp(prefix="new-", dir=self.folder))

    def keep(self, made: Path, key: str) -> Path:
        """The entry `made` under its name, or the one that somebody else made meanwhile. Raises `OSError`."""
        home = self.folder / key[:2] / key
        home.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            made.rename(home)
        except OSError:
            if self.find(key) is not None:
                shutil.rmtree(made, ignore_errors=True)
                return home
            # Half an entry, by a disk that failed.
            shutil.rmtree(home, ignore_errors=True)
            made.rename(home)
        return home

    def prune(self, most: int = MOST_KEPT, now: float | None = None) -> None:
        """Remove what was not used for the longest time, and what somebody left half done."""
        now = time.time() if now is None else now
        entries = []
        for home in (*self.folder.glob("new-*"), *self.folder.glob("??/*")):
            with contextlib.suppress(OSError):  # another command's, or no entry at all: the others are still counted
                size = sum(file.stat().st_size for file in home.iterdir())
                entries.append((home.stat().st_mtime, size, home))
        total = sum(size for _, size, _ in entries)
        for used, size, home in sorted(entries):
            if now - used < IN_USE:
                break
            if total > most or home.name.startswith("new-"):
                shutil.rmtree(home, ignore_errors=True)
                total -= size


def write_entry(home: Path, parts: list[tuple[str, int]], refused: str) -> None:
    """Say what the numbered files in `home` are."""
    path = home / "index.json"
    with open(path, "x", encoding="utf-8", opener=private) as file:
        json.dump({"parts": parts, "refused": refused}, file)


def read_entry(home: Path) -> Converted:
    """Raises `OSError`, `ValueError`, `TypeError` or `KeyError` where it is not whole."""
    index = json.loads((home / "index.json").read_text("utf-8"))
    parts = []
    for number, (name, size) in enumerate(index["parts"]):
        path = home / str(number)
        if path.lstat().st_size != size:
            raise ValueError(path)
        parts.append(Part(str(name), path, int(size)))
    return Converted(tuple(parts), str(index["refused"]))


def private(path: str, flags: int) -> int:
    """An opener: for nobody but us, and never through a link."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
