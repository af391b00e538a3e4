"""Paths, folders, globs and stdin -> a `Corpus`: the documents that are read, and everything that was not, and why.

arguments.py  the words on the command line -> sources and question, or an error with the corrected command
paths.py      what those words are on disk: existing paths, globs we expand, near misses
receive.py    sources that are no files (stdin, pipes, URLs) -> files of ours: stdin.py, http.py, partial.py
urls.py       what a URL is called, and how it may be shown
room.py       the disk that these files must not fill up
gather.py     `collect`: sources -> Corpus (names, limits, manifest)
walk.py       one folder, filtered: asks git.py inside a work tree and rules.py outside
compressed.py compressed bytes -> bytes, and what is compressed how
convert/      documents of other programs (PDF, office, databases) -> text
archives.py   compressed files and archives -> the documents in them
encoding.py   text or binary, and codec names
summary.py    the line that says what was read and what was not
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..events import Skipped, SourcesFacts

SkipReason = Literal["ignored", "hidden", "binary", "too_large", "unreadable", "special", "unconverted"]


@dataclass(frozen=True, slots=True)
class Document:
    """One document. `name` is what `context` calls it; `file` the regular file with its bytes; `size` in bytes.

    `file` is absolute and free of symbolic links; a text, because there may be a million of them. `sha256` is known for
    what was received: it is hashed on the way. A document with origin "archive" was unpacked from the file `archive`;
    one with origin "converted" is the text of `archive`, or of a document in it.
    What was unpacked, fetched or read from a named pipe does not outlive the command; `written` is then what was
    received, as it may be shown.
    """

    name: str
    file: str
    size: int
    encoding: str = "auto"
    origin: Literal["file", "stdin", "pipe", "url", "archive", "converted"] = "file"
    sha256: str = ""
    archive: str = ""
    written: str = ""

    @property
    def path(self) -> Path:
        """The file with its bytes."""
        return Path(self.file)

    @property
    def kept(self) -> str:
        """What will still be there afterwards: the file's path, the URL, or the pipe's path."""
        return self.written or self.archive or self.file


@dataclass(frozen=True, slots=True)
class Skip:
    """A path that was left out. `rule` is the pattern with its file:line, where a rule did it.

    A folder that was left out whole is one `Skip` (its path ends in `/`) that stands for `files` files. Inside a git
    work tree (`tree`) only git knows the rule: `git.explain` asks it, when somebody wants to see.
    """

    path: str
    reason: SkipReason
    rule: str = ""
    files: int = 1
    where: str = ""
    """The absolute path."""
    tree: str = ""


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
    max_input: int | None = None
    archives: bool = True
    """Whether compressed files and archives are opened."""
    convert: Literal["auto", "all", "none"] = "auto"
    """Which documents are converted to text: see `convert.formats.Convert`."""


DEFAULT_OPTIONS = SourceOptions()
