"""Documents -> what the kernel is given, mounted or open, and the index that names them.

Few files are mounted each by itself, so nothing is copied and start-up does not grow with the input; where not
everybody may read them, the kernel runs as a user who may, never root. All others are packed into one file: thousands
of mounts would be slow. Only chosen regular files are ever mounted, never a folder: through a folder the sandbox could
reach its sockets and FIFOs, which a read-only mount does not protect. Where the engine cannot mount: `upload.py`. A
kernel that is a process of this machine is given the same files open.

The index is JSON lines `[name, file, offset, size, encoding]`, `file` below /in or absolute (docs/PROTOCOL.md).
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..disk import disk_error, write_all
from ..errors import InputError, RlmError, SandboxError
from ..in_place import open_in_place
from . import Document, Slice, first_byte
from .changes import Changes, Seen
from .guard import Guard
from .kernel import wire
from .profile import NOBODY

MAX_MOUNTS = 16
INLINE_INDEX = 1 << 20
"""Bytes up to which the index travels in the attach frame."""

PACK_FILE = "pack"
INDEX_FILE = "index"
COPY = "a copy of the input"
COPY_CHUNK = 64 << 20
PROGRESS_AFTER = 1.0
PROGRESS_EVERY = 0.1

OnStageProgress = Callable[[str, int, int], None]
"""Called with what is being done, bytes copied and bytes in all, from any thread, once a copy has taken a second."""


@dataclass(frozen=True)
class Bind:
    """A regular file of the host, and what the index calls it: below /in, or a path."""

    source: str
    file: str


Proof = tuple[tuple[str, int, str], ...]
"""(file, size, blake2b-128 hex) of every file that holds documents: what the host read."""


@dataclass(frozen=True)
class Staged:
    """What the kernel needs. `index_file` is where it finds an index that is too large to travel as bytes; `pack` is
    the copy of all documents, if one was made.

    `folder` is the private copy, if one was made, and `guard` removes it if we cannot; `lent` are files of ours that
    were made readable for the kernel: `remove` when the container is gone. `user` is who may read the mounts. `seen`
    are the mounted documents as they were; `changes` is what happened to the others while they were copied.
    """

    binds: tuple[Bind, ...]
    index: bytes | None
    index_file: str | None
    proof: Proof
    pack: Path | None = None
    folder: Path | None = None
    guard: Guard | None = None
    lent: tuple[Path, ...] = ()
    user: str = NOBODY
    seen: tuple[Seen, ...] = ()
    changes: Changes = Changes()

    def remove(self) -> None:
        """Delete the copy, and make private again what was lent. Idempotent."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.guard is not None:
            self.guard.release()
        for path in self.lent:
            with suppress(OSError):
                path.chmod(0o600)


def ignore(what: str, copied: int, total: int) -> None:
    """The listener of those who do not want to know."""


def stage(
    documents: Sequence[Document],
    folder: Path | None,
    *,
    held: bool = False,
    on_progress: OnStageProgress = ignore,
    cancelled: Callable[[], bool] = lambda: False,
) -> Staged:
    """Make `documents` mountable, or describe them where the kernel gets the files open (`held`: the k-th is its
    `wire.blob_path(k)`). A copy, if one is needed, goes into a new private folder below `folder` (None: the system's
    temporary one).

    Raises `InputError` for a document that vanished, cannot be read, is not a regular file, or is smaller than it was
    when it was listed. `cancelled` is asked while copying; then the copy is removed and `InputError` raised.
    """
    names = unique_names(documents)
    if len({document.path for document in documents}) <= MAX_MOUNTS:
        staged = stage_files(documents, names, folder, held=held)
        if staged is not None:
            return staged if len(staged.index or b"") < INLINE_INDEX else with_index_file(staged, folder, held=held)
    home = Path(tempfile.mkdtemp(prefix="rlm-stage-", dir=folder))
    guard = Guard.of_folders(home)
    try:
        meter = Meter("packing the input", documents, on_progress, cancelled)
        return replace(stage_pack(documents, names, home, meter, held=held), guard=guard)
    except BaseException as error:
        shutil.rmtree(home, ignore_errors=True)
        guard.release()
        if isinstance(error, OSError):
            raise disk_error(error, home.parent, COPY) from error
        raise


def check_proof(seen: Sequence[tuple[str, int, str]], read: Proof) -> None:
    """Raises `SandboxError` (handshake) unless the kernel sees the bytes that the host read."""
    if sorted(seen) != sorted(read):
        raise SandboxError(
            "the sandbox does not see the bytes that were read here; nothing was run",
            hint="run it again; if it happens again:  rlm doctor",
            code="handshake",
        )


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


def called(number: int, mounted: str, *, held: bool) -> str:
    """What the index calls the `number`-th file: its name below /in, or its place among the kernel's open files."""
    return wire.blob_path(number) if held else mounted


def stage_files(
    documents: Sequence[Document], names: Sequence[str], folder: Path | None, *, held: bool
) -> Staged | None:
    """Each file by itself, as it is, /in/0, /in/1 ..., whatever number of documents are parts of it; None when the
    engine cannot be told a path, or no one user but root may read them all."""
    farthest: dict[Path, Document] = {}
    for document in documents:
        known = farthest.setdefault(document.path, document)
        if first_byte(known) + known.size < first_byte(document) + document.size:
            farthest[document.path] = document
    binds, proof, numbers, found = [], [], dict[Path, int](), []
    for number, (path, document) in enumerate(farthest.items()):
        file = called(number, str(number), held=held)
        numbers[path] = number
        with opened(document) as fd:
            proof.append((file, *wire.proof(fd, first_byte(document) + document.size)))
            found.append(os.fstat(fd))
        binds.append(Bind(os.path.realpath(path), file))
    seen = tuple(
        Seen(name, document.path, document.size, found[number], proof[number][2])
        for document, name in zip(documents, names, strict=True)
        if not isinstance(document, Slice)
        for number in (numbers[document.path],)
    )
    lines = [
        index_line(name, binds[numbers[document.path]].file, first_byte(document), document)
        for document, name in zip(documents, names, strict=True)
    ]
    staged = Staged(tuple(binds), b"".join(lines), None, tuple(proof), seen=seen)
    return staged if held else readable(staged, found, folder)


def readable(staged: Staged, found: Sequence[os.stat_result], folder: Path | None) -> Staged | None:
    """The same, with a user who may read the mounts, for whom our own ones are opened; None when there is none, or when
    the engine cannot be told a path."""
    ours = [is_ours(bind.source, facts, folder) for bind, facts in zip(staged.binds, found, strict=True)]
    user = user_for([facts for facts, lend in zip(found, ours, strict=True) if not lend])
    if user is None or not all(speakable(bind.source) for bind in staged.binds):
        return None
    lent = tuple(Path(bind.source) for bind, lend in zip(staged.binds, ours, strict=True) if lend)
    for path_lent in lent:
        path_lent.chmod(0o644)
    return replace(staged, lent=lent, user=user)


def with_index_file(staged: Staged, folder: Path | None, *, held: bool) -> Staged:
    """The same, with its large index in a file of a private folder."""
    home = Path(tempfile.mkdtemp(prefix="rlm-stage-", dir=folder))
    try:
        made = index_in_file(replace(staged, folder=home), staged.index or b"", held=held)
    except OSError as error:
        staged.remove()
        shutil.rmtree(home, ignore_errors=True)
        raise disk_error(error, home.parent, COPY) from error
    return replace(made, guard=Guard.of_folders(home))


def index_in_file(staged: Staged, index: bytes, *, held: bool) -> Staged:
    """The same, with `index` in a file of its folder."""
    assert staged.folder is not None  # noqa: S101 - for the type checker
    path = staged.folder / INDEX_FILE
    with open_private(path) as target:
        write_all(target, index)
    bind = Bind(str(path.resolve()), called(len(staged.binds), INDEX_FILE, held=held))
    return replace(staged, binds=(*staged.binds, bind), index=None, index_file=str(Path("/in") / bind.file))


def packed(staged: Staged, documents: Sequence[Document]) -> Sequence[Document]:
    """Where `documents`, of which `staged` was made, are on the host now: parts of the pack, when there is one."""
    if staged.pack is None:
        return documents
    offsets = itertools.accumulate((document.size for document in documents), initial=0)
    return [
        Slice(document.name, staged.pack, document.size, document.encoding, offset)
        for document, offset in zip(documents, offsets, strict=False)
    ]


def stage_pack(documents: Sequence[Document], names: Sequence[str], home: Path, meter: Meter, *, held: bool) -> Staged:
    """All documents one after the other in one file; the index too where it is large."""
    pack = (home / PACK_FILE).resolve()
    file = called(0, PACK_FILE, held=held)
    lines = []
    changes = Changes()
    with open_private(pack) as target:
        offset = 0
        for document, name in zip(documents, names, strict=True):
            with opened(document) as source:
                before = os.fstat(source)
                copy_exactly(source, target, document, meter)
                changes = changes.during_copy(name, before, os.fstat(source), document.size)
            lines.append(index_line(name, file, offset, document))
            offset += document.size
        proof = ((file, *wire.proof(target, offset)),)
    index = b"".join(lines)
    staged = Staged((Bind(str(pack), file),), index, None, proof, pack=pack, folder=home, changes=changes)
    return staged if len(index) < INLINE_INDEX else index_in_file(staged, index, held=held)


def index_line(name: str, file: str, offset: int, document: Document) -> bytes:
    """One line of the index; ASCII, so that any byte of a name survives."""
    return json.dumps([name, file, offset, document.size, document.encoding]).encode("ascii") + b"\n"


def speakable(path: str) -> bool:
    """Whether the engine can be told the path: its API carries UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_ours(path: str, facts: os.stat_result, folder: Path | None) -> bool:
    """Whether we made the file (a spooled pipe, an unpacked archive), in a folder that nobody else may enter: there
    it may be readable for everybody while it is mounted."""
    if folder is None or facts.st_uid != os.geteuid() or facts.st_mode & stat.S_IROTH:
        return False
    private = not folder.stat().st_mode & 0o077
    return private and Path(path).is_relative_to(folder.resolve())


def user_for(files: Sequence[os.stat_result]) -> str | None:
    """The user who may read all the files and can do least otherwise, as `uid:gid`: nobody, nobody in the group of
    the files, their owner. Never root and never root's group. None when there is none."""
    closed = [facts for facts in files if not facts.st_mode & stat.S_IROTH]
    nobody, no_group = map(int, NOBODY.split(":"))
    candidates = [(nobody, no_group)]
    if closed:
        candidates += [(nobody, closed[0].st_gid), (closed[0].st_uid, no_group)]
    for uid, gid in candidates:
        if uid and gid and all(may_read(uid, gid, facts) for facts in files):
            return f"{uid}:{gid}"
    return None


def may_read(uid: int, gid: int, facts: os.stat_result) -> bool:
    """What the mode says; the first class that fits decides, as in the system."""
    if uid == facts.st_uid:
        return bool(facts.st_mode & stat.S_IRUSR)
    if gid == facts.st_gid:
        return bool(facts.st_mode & stat.S_IRGRP)
    return bool(facts.st_mode & stat.S_IROTH)


@contextmanager
def opened(document: Document) -> Iterator[int]:
    """The document's file, open and as long as it was listed, or longer."""
    try:
        fd = open_in_place(document.path)
    except OSError as error:
        raise unreadable(document, error) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{shown(document)} is not a regular file", code="special_file")
        if found.st_size < first_byte(document) + document.size:
            raise shrank(document, found.st_size)
        os.lseek(fd, first_byte(document), os.SEEK_SET)
        yield fd  # one that has grown is read as far as it was listed: logs do that
    finally:
        os.close(fd)


@contextmanager
def open_private(path: Path) -> Iterator[int]:
    """A new file in a private folder. It is 0644 once it is whole, because the kernel opens it as a user who is not us
    (nobody, in a container); on the host none but us can enter its folder."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
        os.fchmod(fd, 0o644)
    finally:
        os.close(fd)


def copy_exactly(source: int, target: int, document: Document, meter: Meter) -> None:
    """Copy the document as far as it was listed. Raises `InputError` if it is shorter."""
    left = document.size
    while left:
        copied = copy_some(source, target, min(left, COPY_CHUNK))
        if not copied:
            raise shrank(document, document.size - left)
        left -= copied
        meter.add(copied)


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


class Meter:
    """Counts copied bytes and tells a person about it, but only when it takes long enough to notice."""

    def __init__(
        self,
        what: str,
        documents: Iterable[Document],
        on_progress: OnStageProgress = ignore,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        after: float = PROGRESS_AFTER,
        every: float = PROGRESS_EVERY,
    ) -> None:
        self._what = what
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
            self._on_progress(self._what, self._copied, self._total)


def unreadable(document: Document, error: OSError) -> RlmError:
    """The system does not let us read it, or it is not where it was."""
    if error.errno == errno.ELOOP:
        return InputError(
            f"{shown(document)} is not where it was listed: a symbolic link was put in its place",
            hint="give rlm a folder that only you can write",
            code="input_changed",
        )
    return InputError(f"cannot read {shown(document)}: {error.strerror}", code="unreadable")


def shrank(document: Document, size: int) -> RlmError:
    """Part of what was listed is gone: there is nothing consistent left to read."""
    return InputError(
        f"{shown(document)} shrank while it was being read: {document.size} bytes were listed, {size} are there",
        hint="run it again, or read a copy:  cp FILE /tmp/ && rlm ask /tmp/FILE ...",
        code="input_changed",
    )


def shown(document: Document) -> str:
    """The document's name as text that can be printed."""
    return index_name(document.name)
