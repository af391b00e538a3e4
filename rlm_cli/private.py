"""Folders and files for the owner alone, whatever the umask says, and never made through a link."""

from __future__ import annotations

import os
from pathlib import Path


def make_private(directory: Path) -> None:
    """Make `directory` and its missing parents, 0700 each; what is there already stays as it is.

    `Path.mkdir(parents=True)` would make the parents with the umask's mode. Another process may make the same ones
    meanwhile. Raises `OSError`.
    """
    if directory.is_dir():
        return
    if directory.parent != directory and not directory.parent.is_dir():
        make_private(directory.parent)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        if not directory.is_dir():
            raise


def is_foreign(directory: Path) -> bool:
    """Whether it is there and somebody else's, who could read and change all that is kept in it. Root, who can do that
    anyway, is nobody else."""
    try:
        return directory.stat().st_uid not in (0, os.geteuid())
    except OSError:
        return False


def open_new(path: Path, flags: int = os.O_WRONLY) -> int:
    """A descriptor of a file that did not exist, 0600. Raises `OSError`, for a link too, wherever it leads."""
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
