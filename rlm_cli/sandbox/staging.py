"""Documents -> what the container mounts, and the index that names them.

Few documents that anybody may read are mounted each by itself, so nothing is copied and start-up does not grow with
the input. All others are packed into one file: thousands of mounts would be slow, and the kernel runs as a user who
may not read private files. Only chosen regular files are ever mounted, never a folder: through a folder the sandbox
could reach its sockets and FIFOs, which a read-only mount does not protect.

The index is JSON lines `[name, file, offset, size, encoding]`, `file` below /in (docs/PROTOCOL.md).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, RlmError
from . import Document
from .kernel import wire

MAX_MOUNTS = 16
INLINE_INDEX = 1 << 20
"""Bytes up to which the index travels in the attach frame."""

PACK_FILE = "pack"
INDEX_FILE = "index"
COPY_CHUNK = 64 << 20
PROGRESS_AFTER = 1.0
PROGRESS_EVERY = 0.1

OnStageProgress = Callable[[int, int], None]
"""Called with bytes copied and bytes in all, from the copying thread, once a copy has taken a second."""


@dataclass(frozen=True)
class Bind:
    """A regular file of the host, mounted read-only at /in/`file`."""

    source: str
    file: str


Proof = tuple[tuple[str, int, str], ...]
"""(file, size, blake2b-128 hex) of every file that holds documents: what the host read."""


@dataclass(frozen=True)
class Staged:
    """What the container needs. `index_file` names a mount where the index is too large to travel as bytes.

    `folder` is the private copy, if one was made; `remove` it when the container is gone.
    """

    binds: tuple[Bind, ...]
    index: bytes | None
    index_file: str | None
    proof: Proof
    folder: Path | None = None

    def remove(self) -> None:
        """Delete the copy. Idempotent."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def ignore(copied: int, total: int) -> None:
    """The listener of those who do not want to know."""


def stage(
    documents: Sequence[Document],
    folder: Path | None,
    *,
    on_progress: OnStageProgress = ignore,
    cancelled: Callable[[], bool] = lambda: False,
) -> Staged:
    """Make `documents` mountable. A copy, if one is needed, goes into a new private folder below `folder` (None: the
    system's temporary one).

    Raises `InputError` for a document that vanished, cannot be read, is not a regular file, or whose size is no
    longer the one that was listed. `cancelled` is asked while copying; then the copy is removed and `InputError`
    raised.
    """
    names = unique_names(documents)
    if len(documents) <= MAX_MOUNTS and all(mountable(document) for document in documents):
        return stage_mounts(documents, names)
    home = Path(tempfile.mkdtemp(prefix="rlm-stage-", dir=folder))
    try:
        return stage_pack(documents, names, home, Meter(documents, on_progress, cancelled))
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise


def unique_names(documents: Sequence[Document]) -> list[str]:
    """The name of each document in the kernel. Raises `InputError` when two are the same: one would be lost."""
    names = [index_name(document.name) for document in documents]
    seen = set[str]()
    for name in names:
        if name in seen:
            raise InputError(f"two documents have the same name: {name}", code="duplicate_name")
        seen.add(name)
    return names


def index_name(name: str) -> str:
    """`name` as UTF-8 can carry it: bytes of a file name that are not UTF-8 become the four characters \\xNN."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte: not from a file system
        return name.encode("utf-8", "backslashreplace").decode("utf-8")


def stage_mounts(documents: Sequence[Document], names: Sequence[str]) -> Staged:
    """Each document is its own mount, /in/0, /in/1 ..."""
    binds, proof, lines = [], [], []
    for number, (document, name) in enumerate(zip(documents, names, strict=True)):
        file = str(number)
        with opened(document) as fd:
            proof.append((file, *wire.proof(fd)))
        binds.append(Bind(os.path.realpath(document.path), file))
        lines.append(index_line(name, file, 0, document))
    return Staged(tuple(binds), b"".join(lines), None, tuple(proof))


def stage_pack(documents: Sequence[Document], names: Sequence[str], home: Path, meter: Meter) -> Staged:
    """All documents one after the other in one file; the index too where it is large."""
    pack = home / PACK_FILE
    lines = []
    with open_private(pack) as target:
        offset = 0
        for document, name in zip(documents, names, strict=True):
            with opened(document) as source:
                copy_exactly(source, target, document, meter)
            lines.append(index_line(name, PACK_FILE, offset, document))
            offset += document.size
        proof = ((PACK_FILE, *wire.proof(target)),)
    binds = [Bind(str(pack.resolve()), PACK_FILE)]
    index = b"".join(lines)
    if len(index) < INLINE_INDEX:
        return Staged(tuple(binds), index, None, proof, home)
    with open_private(home / INDEX_FILE) as target:
        write_all(target, index)
    binds.append(Bind(str((home / INDEX_FILE).resolve()), INDEX_FILE))
    return Staged(tuple(binds), None, INDEX_FILE, proof, home)


def index_line(name: str, file: str, offset: int, document: Document) -> bytes:
    """One line of the index; ASCII, so that any byte of a name survives."""
    return json.dumps([name, file, offset, document.size, document.encoding]).encode("ascii") + b"\n"


def mountable(document: Document) -> bool:
    """Whether the engine can mount the file itself and the kernel's user may read it."""
    try:
        found = document.path.stat()
        os.path.realpath(document.path).encode()  # the engine's API carries paths as UTF-8
    except (OSError, UnicodeEncodeError):
        return False
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & stat.S_IROTH)


@contextmanager
def opened(document: Document) -> Iterator[int]:
    """The document's file, open and checked against what was listed."""
    try:
        # Not blocking: a FIFO that took the file's place must not hang us.
        fd = os.open(document.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"cannot read {shown(document)}: {error.strerror}", code="unreadable") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{shown(document)} is not a regular file", code="special_file")
        if found.st_size != document.size:
            raise changed(document, found.st_size)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_private(path: Path) -> Iterator[int]:
    """A new file in a private folder, readable by the kernel's user once it is mounted."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
        os.fchmod(fd, 0o644)
    finally:
        os.close(fd)


def copy_exactly(source: int, target: int, document: Document, meter: Meter) -> None:
    """Copy the whole document. Raises `InputError` if it is shorter or longer than listed."""
    left = document.size
    while left:
        copied = copy_some(source, target, min(left, COPY_CHUNK))
        if not copied:
            raise changed(document, document.size - left)
        left -= copied
        meter.add(copied)
    size = os.fstat(source).st_size
    if size != document.size:
        raise changed(document, size)


def copy_some(source: int, target: int, count: int) -> int:
    """Copy up to `count` bytes, inside the kernel where it can; 0 at the end of the file."""
    if hasattr(os, "copy_file_range"):
        try:
            copied = os.copy_file_range(source, target, count)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                raise
        else:
            if copied:
                return copied
        # Some file systems answer 0 instead of an error: the plain way decides.
    data = os.read(source, min(count, 1 << 20))
    write_all(target, data)
    return len(data)


def write_all(target: int, data: bytes) -> None:
    """All of `data`, however often the system cuts it."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


class Meter:
    """Counts copied bytes and tells a person about it, but only when it takes long enough to notice."""

    def __init__(
        self,
        documents: Iterable[Document],
        on_progress: OnStageProgress = ignore,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        after: float = PROGRESS_AFTER,
        every: float = PROGRESS_EVERY,
    ) -> None:
        self._total = sum(document.size for document in documents)
        self._copied = 0
        self._on_progress = on_progress
        self._cancelled = cancelled
        self._every = every
        self._next = time.monotonic() + after

    def add(self, count: int) -> None:
        """`count` more bytes are copied."""
        self._copied += count
        if self._cancelled():
            raise InputError("copying the input was interrupted", code="interrupted")
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            self._on_progress(self._copied, self._total)


def changed(document: Document, size: int) -> RlmError:
    """The document is not what was listed a moment ago."""
    verb = "grew" if size > document.size else "shrank"
    return InputError(
        f"{shown(document)} {verb} while it was being read: {document.size} bytes were listed, {size} are there",
        hint="for a file that is being written, read a copy:  cp FILE /tmp/ && rlm ask /tmp/FILE ...",
        code="input_changed",
    )


def shown(document: Document) -> str:
    """The document's name as text that can be printed."""
    return index_name(document.name)
