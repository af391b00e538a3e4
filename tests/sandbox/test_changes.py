"""What is said about a document that changed while it was read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlm_cli.sandbox.changes import Changes, changes_since
from rlm_cli.sandbox.staging import stage


@dataclass(frozen=True)
class Doc:
    name: str
    path: Path
    size: int
    encoding: str = "auto"


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"NEW")


def overwrite_and_append(path: Path) -> None:
    overwrite(path)
    append(path)


def replace_by_rename(path: Path) -> None:
    (path.parent / "next").write_bytes(path.read_bytes())
    (path.parent / "next").replace(path)


@pytest.mark.parametrize(
    ("happens", "changes"),
    [
        (lambda _: None, Changes()),
        (append, Changes(grown=("app.log",))),
        (overwrite, Changes(mixed=("app.log",))),
        (overwrite_and_append, Changes(mixed=("app.log",))),
        (lambda path: os.truncate(path, 2), Changes(cut=("app.log",))),
        (replace_by_rename, Changes(replaced=("app.log",))),
        (Path.unlink, Changes(replaced=("app.log",))),
    ],
)
def test_what_happened_to_a_mounted_file(tmp_path: Path, happens: Callable[[Path], None], changes: Changes) -> None:
    """By inode, size, time and the proof: an appended log is not one that was rewritten."""
    path = tmp_path / "app.log"
    path.write_bytes(b"one\ntwo\n")
    os.utime(path, ns=(0, 0))  # so that any write shows in the time
    staged = stage([Doc("app.log", path, 8)], None)
    happens(path)
    assert changes_since(staged.seen) == changes
    staged.remove()


def test_a_sentence_for_each_kind() -> None:
    """It says what it means for the answer, and does not list a thousand names."""
    names = tuple(f"{n}.log" for n in range(1003))
    first = "0.log, 1.log, 2.log and 1,000 more"
    assert Changes(mixed=("app.log",), grown=names).sentences() == (
        "changed while it was being read: app.log; the answer may mix old and new",
        f"grew while it was being read: {first}; the answer is about what was there at the start",
    )
