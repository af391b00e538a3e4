"""Whether a document changed while it was read, and what that means for the answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .kernel import wire

NAMED = 3
"""Documents that a sentence names; of the rest it tells the number."""


@dataclass(frozen=True)
class Changes:
    """Names of documents by what happened to them."""

    mixed: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    grown: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.mixed + other.mixed,
            self.cut + other.cut,
            self.grown + other.grown,
            self.replaced + other.replaced,
        )

    def during_copy(self, name: str, before: os.stat_result, after: os.stat_result, size: int) -> Changes:
        """Together with what happened to `name` while its first `size` bytes were copied."""
        if after.st_size > size:
            return replace(self, grown=(*self.grown, name))
        if after.st_mtime_ns != before.st_mtime_ns:
            return replace(self, mixed=(*self.mixed, name))
        return self

    def sentences(self) -> tuple[str, ...]:
        """One for each kind, as a person is told."""
        kinds = (
            ("changed while it was being read", self.mixed, "the answer may mix old and new"),
            ("was cut short while it was being read", self.cut, "the answer may lack what is gone"),
            ("grew while it was being read", self.grown, "the answer is about what was there at the start"),
            ("was replaced while it was being read", self.replaced, "the answer is about what was there at the start"),
        )
        return tuple(f"{what}: {listed(names)}; {meaning}" for what, names, meaning in kinds if names)


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


@dataclass(frozen=True)
class Seen:
    """A mounted document when it was opened. `size` and `digest` are of the part that is read."""

    name: str
    path: Path
    size: int
    facts: os.stat_result
    digest: str

    def change(self) -> Changes:
        """What has happened since."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return Changes(replaced=(self.name,))
        try:
            now = os.fstat(fd)
            if (now.st_dev, now.st_ino) != (self.facts.st_dev, self.facts.st_ino):
                return Changes(replaced=(self.name,))
            if now.st_size < self.size:
                return Changes(cut=(self.name,))
            if now.st_mtime_ns == self.facts.st_mtime_ns and now.st_size == self.facts.st_size == self.size:
                return Changes()
            # Appending to it changes its time, too: what tells is whether the part that was read is the same.
            if wire.proof(fd, self.size)[1] != self.digest:
                return Changes(mixed=(self.name,))
            return Changes(grown=(self.name,)) if now.st_size > self.size else Changes(mixed=(self.name,))
        finally:
            os.close(fd)


def changes_since(seen: Sequence[Seen]) -> Changes:
    """What has happened to any of them."""
    return sum((document.change() for document in seen), Changes())
