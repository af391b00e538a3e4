"""Paths, folders, globs and stdin -> a `Corpus`: the documents that are read, and everything that was not, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..events import Skipped, SourcesFacts

SkipReason = Literal["ignored", "hidden", "binary", "too_large", "unreadable", "special"]


@dataclass(frozen=True)
class Document:
    """One document. `name` is what `context` calls it; `path` the regular file with its bytes; `size` in bytes."""

    name: str
    path: Path
    size: int
    encoding: str = "auto"
    origin: Literal["file", "stdin"] = "file"


@dataclass(frozen=True)
class Skip:
    """A path that was left out. `rule` is the pattern with its file:line, where a rule did it."""

    path: str
    reason: SkipReason
    rule: str = ""


@dataclass(frozen=True)
class Corpus:
    """What a run reads, in a stable order, and what it leaves out. `notes` are sentences the user should see."""

    documents: tuple[Document, ...]
    skips: tuple[Skip, ...] = ()
    skipped: Skipped = Skipped()
    notes: tuple[str, ...] = ()
    facts: SourcesFacts = SourcesFacts()


@dataclass(frozen=True)
class SourceOptions:
    """How to read sources (CLI.md 2.5). `unrestricted`: 1 no ignore files, 2 and hidden, 3 and binary."""

    globs: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    unrestricted: int = 0
    hidden: bool = False
    no_ignore: bool = False
    follow: bool = False
    encoding: str = "auto"
    max_input: int | None = 4 * 1024**3
