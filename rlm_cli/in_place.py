"""Files are opened where they were found, and not where a link leads that was put in their place since.

Paths that are kept (of a document, of a folder to be walked) are free of links: one that the person named, or asked to
follow, was resolved then. Somebody else who can write in a folder could still swap what is there for a link to a file
that only the person may read.
"""

from __future__ import annotations

import errno
import os

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
GONE = " (deleted)"


def open_in_place(path: str | os.PathLike[str]) -> int:
    """A descriptor to read what is at `path`, a file or a folder. It never waits: a FIFO is opened, too.

    Raises `OSError`: with ELOOP where a link is now in its place, or (on Linux) in that of a folder above it.
    """
    fd = os.open(path, READ)
    if not is_at(fd, os.fspath(path)):
        os.close(fd)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))
    return fd


def is_at(fd: int, path: str) -> bool:
    """Whether the open file is the one that `path` spells out. The system knows where it found it; true where it does
    not say, and for a file that was replaced since. Some file systems spell a name in another case than was asked."""
    try:
        there = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - as quick as can be: one for each file
    except OSError:
        return True
    return path.casefold() in (there.casefold(), there.removesuffix(GONE).casefold())
