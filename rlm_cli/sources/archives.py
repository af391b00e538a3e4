"""Compressed files and archives -> the documents in them, unpacked into a private folder.

An archive is a virtual folder: its regular files are read, by the rules of a walk but without ignore files. Names in
it are only ever names: on disk the files are numbered. Compressed files within an archive (the .gz files of a log
bundle) are opened, and archives in archives, `MOST_DEPTH` in all; the limits hold for the whole nest.

It is all or nothing: an archive that is damaged, or that unpacks to absurdly much, gives no document at all, so that
part of an input is never taken for the whole. Content is counted while it streams, and the counting ends it.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

from ..disk import Room, disk_error, write_all
from ..errors import InputError
from ..in_place import open_in_place
from ..units import human_bytes, human_count
from . import SkipReason
from .compressed import (
    PIECE,
    Codec,
    DamagedError,
    Kind,
    MissingDecoderError,
    Stream,
    decompressed,
    is_tar,
    kind_of,
    raw_lzma,
    recognise,
    says_archive,
    without_suffix,
)
from .convert.formats import Format
from .encoding import HEAD, is_binary
from .walk import BINARY, VERSION_CONTROL, Progress, UnusableError

FOLDER = "unpacked"
"""The folder that is made for the files, below the caller's."""
MOST_DEPTH = 3
"""Archives in each other: a backup of log bundles, and one to spare."""
MOST_ENTRIES = 100_000
MOST_RATIO = 500
"""Logs are packed 5 to 100 times smaller; a file of zeros 1,000 times by gzip, and far more by others."""
RATIO_FROM = 64 << 20
"""Bytes below which nobody cares about the ratio."""
MOST_DIRECTORY = 16 << 20
"""Bytes of a zip's list of entries: it is read whole."""
MOST_HEADER = 1 << 20
"""Bytes of what a tar may say about one entry: names, attributes, maps of holes."""
MOST_NAME = 4096
DAMAGED = "it is damaged or cut off"
TELL_EVERY = 256

DAMAGE = (
    DamagedError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the standard library raises at a damaged archive; more than it documents."""

Verdict = tuple[SkipReason, str]
"""Why an entry is left out: the column of the summary, and the rule."""


def no_document(_name: str, _head: bytes) -> Format | None:
    """For those who convert nothing."""
    return None


def everything(_name: str) -> Verdict | None:
    """The judge of those who want all."""
    return None


@dataclass(frozen=True)
class Archive:
    """A file to be opened. `title`: its name as it was written; `judge` says which names in it are left out, `document`
    what is to be converted afterwards, binary or not, by its name and first bytes. `binary`: binary files in it are
    wanted too; `named`: it was named, so that its content is wanted when it is a single file."""

    path: str
    title: str
    judge: Callable[[str], Verdict | None] = everything
    document: Callable[[str, bytes], Format | None] = no_document
    binary: bool = False
    named: bool = False


class Entry(NamedTuple):
    """A document: its name in the archive, "" for the content of a compressed file; `packed`: that entry was itself
    compressed, and its name still says so."""

    name: str
    path: Path
    size: int
    packed: bool
    convert: str = ""
    """The format that it is to be converted from."""


class LeftOut(NamedTuple):
    name: str
    reason: SkipReason
    rule: str


@dataclass(frozen=True)
class Contents:
    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]


@dataclass
class Unpacker:
    """Unpacks into `folder`/`FOLDER` (0700, files 0600). Whoever called removes that folder when it has been read;
    after an error too. `files` and `bytes` start with what there is besides; `limit`: most bytes in all, None: any."""

    folder: Path
    limit: int | None = None
    on_progress: Progress | None = None
    files: int = 0
    bytes: int = 0
    room: Room | None = None
    opened: int = 0

    def open(self, archive: Archive) -> Contents:
        """Unpack one archive.

        Raises `UnusableError` for an archive that cannot be read or is refused, of which nothing is left then, and
        `InputError` when `limit` is reached or the disk is full. `on_progress` may raise to stop.
        """
        files, size = self.files, self.bytes
        home = self.folder.resolve() / FOLDER / str(self.opened)
        self.opened += 1
        try:
            try:
                home.mkdir(mode=0o700, parents=True)
                # Parents are made with the default mode.
                home.parent.chmod(0o700)
            except OSError as error:
                raise self.disk_error(error) from error
            return Opening(self, archive, home).contents()
        except UnusableError:
            shutil.rmtree(home, ignore_errors=True)
            self.files, self.bytes = files, size
            raise

    def tell(self) -> None:
        if self.on_progress is not None:
            self.on_progress(self.files, self.bytes)

    def disk_error(self, error: OSError) -> InputError:
        """A file could not be made or written."""
        return disk_error(error, self.folder, "what compressed files hold")


@dataclass
class Opening:
    """One archive while it is open, or one in it: that counts with the outermost."""

    unpacker: Unpacker
    archive: Archive
    home: Path
    prefix: str = ""
    """What stands before the names of its entries."""
    depth: int = 1
    entries: list[Entry] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    seen: int = 0
    out: int = 0
    """Bytes that came out of decoders."""
    size: int = 0
    """Bytes of the file."""
    names: dict[str, int] = field(default_factory=dict)

    def contents(self) -> Contents:
        """Raises as `Unpacker.open` does."""
        self.read(self.archive.path)
        return Contents(tuple(self.entries), tuple(self.left_out))

    def read(self, path: str) -> None:
        """Take what is in the archive at `path`."""
        try:
            with open_archive(path) as file:
                self.size = self.size or os.fstat(file.fileno()).st_size
                head = file.read(HEAD)
                file.seek(0)
                self._read(file, kind_of(head))
        except MissingDecoderError as error:
            raise UnusableError("unreadable", str(error)) from error
        except DAMAGE as error:
            raise damaged(error) from error

    def _read(self, file: ZipFileBytes, kind: Kind | None) -> None:
        if kind == "zip":
            self._zip(file)
        elif kind == "tar":
            self._tar(Stream(pieces_of(file)))
        elif kind is None:
            # It was packed a moment ago.
            raise UnusableError("unreadable", "it changed while it was being read")
        else:
            stream = Stream(self._counted(decompressed(file.read, kind)))
            if is_tar(stream.peek(tarfile.BLOCKSIZE)) or self._empty_tar(stream):
                self._tar(stream)
            else:
                self._single(stream)

    def _empty_tar(self, stream: Stream) -> bool:
        """A tar without entries is zeros only, which have no magic."""
        head = stream.peek(tarfile.BLOCKSIZE)
        return says_archive(self.archive.title) and len(head) == tarfile.BLOCKSIZE and not any(head)

    def _counted(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces, as long as they are in proportion to the file."""
        for piece in pieces:
            self.out += len(piece)
            if self.out > RATIO_FROM and self.out > MOST_RATIO * self.size:
                raise UnusableError(
                    "too_large",
                    f"it unpacks to more than {MOST_RATIO} times its size ({human_bytes(self.size)}), like a zip bomb",
                )
            self.unpacker.tell()
            yield piece

    def _single(self, stream: Stream) -> None:
        """A compressed file that is no archive."""
        form = self.archive.document(without_suffix(self.archive.title), stream.peek(HEAD))
        if form is not None and form.missing:
            raise UnusableError("unconverted", form.missing)
        if form is None and not (self.archive.binary or self.archive.named) and is_binary(stream.peek(HEAD)):
            raise UnusableError("binary", BINARY)
        self._keep("", *self._write(stream), packed=True, form=form)

    # -- zip ------------------------------------------------------------------------------------------------------

    def _zip(self, file: ZipFileBytes) -> None:
        with zipfile.ZipFile(file) as listed:
            for info in listed.infolist():
                name = self._accept(info.filename, folder=info.is_dir())
                if name is None:
                    continue
                refused = zip_refusal(info)
                if refused is not None:
                    self._leave(name, *refused)
                    continue
                if info.compress_type in ENTRY_CODECS:
                    self._take(name, Stream(self._counted(zip_entry(file, info))))
                    continue
                with listed.open(info) as content:
                    self._take(name, Stream(self._counted(pieces_of(content))))

    # -- tar ------------------------------------------------------------------------------------------------------

    def _tar(self, stream: Stream) -> None:
        source = TarSource(stream)
        with tarfile.open(
            fileobj=source,
            mode="r|",
            tarinfo=CheckedHeader,
            bufsize=1 << 16,
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar:
            while True:
                member = tar.next()
                source.allow(None)
                if member is None:
                    break
                # It remembers every entry, to find them again.
                tar.members.clear()  # type: ignore[attr-defined]
                self._member(tar, member)
                # What is left of this entry, and the description of the next one.
                source.allow(max(0, tar.offset - source.taken) + MOST_HEADER)
        for _ in stream:
            """The decoder's checksum is at the end."""

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = self._accept(member.name, folder=member.isdir())
        if name is None:
            return
        if not member.isreg() or member.issparse():
            self._leave(name, "special", kind_of_member(member))
            return
        content = tar.extractfile(member)
        if content is None:
            raise DamagedError("an entry without content")
        rest = Stream(pieces_of(content))
        self._take(name, rest)
        for _ in rest:
            """The next header is behind it."""

    # -- entries --------------------------------------------------------------------------------------------------

    def _accept(self, raw: str, *, folder: bool) -> str | None:
        """The entry's name if it is wanted so far."""
        self.seen += 1
        if self.seen > MOST_ENTRIES:
            raise UnusableError("too_large", f"it has more than {human_count(MOST_ENTRIES)} entries")
        if self.seen % TELL_EVERY == 0:
            self.unpacker.tell()
        name = self.prefix + safe_name(raw)
        if folder or not VERSION_CONTROL.isdisjoint(name.split("/")):
            return None
        verdict = self.archive.judge(name)
        if verdict is not None:
            self._leave(name, *verdict)
        return name if verdict is None else None

    def _leave(self, name: str, reason: SkipReason, rule: str) -> None:
        self.left_out.append(LeftOut(self._unique(name), reason, rule))

    def _take(self, name: str, stream: Stream) -> None:
        """Keep an entry's content, or note why not."""
        kind = recognise(name, stream.peek(HEAD))
        packed = kind not in (None, "zip", "tar")
        content, nested = stream, kind in ("zip", "tar")
        path: Path | None = None
        try:
            if kind is not None and kind != "zip" and kind != "tar":
                content = Stream(self._counted(decompressed(stream.read, kind)))
                nested = is_tar(content.peek(tarfile.BLOCKSIZE))
            if nested and says_archive(name):
                self._nested(name, content)
                return
            form = self.archive.document(without_suffix(name) if packed else name, content.peek(HEAD))
            if form is not None and form.missing:
                self._leave(name, "unconverted", form.missing)
                return
            if form is None and not self.archive.binary and (nested or is_binary(content.peek(HEAD))):
                self._leave(name, "binary", BINARY)
                return
            path = self.home / str(len(self.entries))
            size = self._write(content, path)[1]
        except (DamagedError, MissingDecoderError) as error:
            if content is stream:
                raise
            # Damage to the archive itself comes up again when it is read on.
            if path is not None:
                self._forget(path)
            self._leave(name, "unreadable", str(error))
            return
        self._keep(self._unique(name), path, size, packed=packed, form=form)

    def _nested(self, name: str, content: Stream) -> None:
        """An archive in this one: its entries, or none of them and the reason."""
        if self.depth >= MOST_DEPTH:
            self._leave(name, "too_large", f"archives are opened {MOST_DEPTH} deep: unpack it first")
            return
        path = self.home / f"archive-{self.depth}"
        kept, left_out, names = len(self.entries), len(self.left_out), dict(self.names)
        files, size = self.unpacker.files, self.unpacker.bytes
        outer, self.prefix, self.depth = self.prefix, f"{self._unique(name)}/", self.depth + 1
        try:
            self._write(content, path)
            self.unpacker.bytes = size
            self.read(str(path))
        except (UnusableError, DamagedError) as error:
            if isinstance(error, UnusableError) and error.reason == "too_large":
                raise
            for entry in self.entries[kept:]:
                entry.path.unlink()
            del self.entries[kept:], self.left_out[left_out:]
            self.names, self.unpacker.files, self.unpacker.bytes = names, files, size
            if isinstance(error, DamagedError):
                raise
            self.prefix = outer
            self._leave(name, error.reason, error.why)
        finally:
            self.prefix, self.depth = outer, self.depth - 1
            path.unlink(missing_ok=True)

    def _keep(self, name: str, path: Path, size: int, *, packed: bool, form: Format | None = None) -> None:
        self.entries.append(Entry(name, path, size, packed, form.name if form else ""))
        self.unpacker.files += 1

    def _unique(self, name: str) -> str:
        """A tar may hold a name several times, and `../a` and `a` are the same to us: all are kept."""
        if name not in self.names:
            self.names[name] = 1
            return name
        while True:
            self.names[name] += 1
            other = f"{name} ({self.names[name]})"
            if other not in self.names:
                self.names[other] = 1
                return other

    # -- the disk -------------------------------------------------------------------------------------------------

    def _write(self, stream: Stream, path: Path | None = None) -> tuple[Path, int]:
        path, size = path or self.home / "0", 0
        descriptor = self._create(path)
        try:
            for piece in stream:
                size += len(piece)
                self._grow(len(piece))
                try:
                    write_all(descriptor, piece)
                except OSError as error:
                    raise self.unpacker.disk_error(error) from error
                self.unpacker.tell()
        finally:
            os.close(descriptor)
        return path, size

    def _create(self, path: Path) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self.unpacker.disk_error(error) from error

    def _grow(self, count: int) -> None:
        self.unpacker.bytes += count
        if self.unpacker.room is not None:
            self.unpacker.room.take(count, f"what is in {self.archive.title}")
        limit = self.unpacker.limit
        if limit is not None and self.unpacker.bytes > limit:
            raise InputError(
                f"{self.archive.title}, unpacked, makes the sources larger than --max-input allows",
                hint="name less, leave some out with -g '!PATTERN', or raise it: --max-input none",
                code="over_max_input",
            )

    def _forget(self, path: Path) -> None:
        """An entry that turned out to be damaged."""
        self.unpacker.bytes -= path.stat().st_size
        path.unlink()


# -- pieces --------------------------------------------------------------------------------------------------------


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """All that is left of an open file."""
    return iter(lambda: file.read(PIECE), b"")


def safe_name(raw: str) -> str:
    """A relative name without `.`, `..`, empty parts and NUL; what is left of `/etc/passwd` is `etc/passwd`."""
    parts = [part for part in raw.replace("\0", "\\0").split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[:MOST_NAME].rstrip("/") or "unnamed"


def zip_refusal(info: zipfile.ZipInfo) -> Verdict | None:
    """Why an entry of a zip is not read."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return ("special", "a symbolic link" if kind == stat.S_IFLNK else "not a regular file")
    if info.flag_bits & 0x1:
        return ("unreadable", "encryption: unpack it first, with its password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, *ENTRY_CODECS):
        return ("unreadable", f"compression method {info.compress_type} inside a zip: unpack it first")
    return None


ENTRY_CODECS: dict[int, Codec | None] = {12: "bzip2", 14: None, 93: "zstd", 95: "xz"}
"""Compression methods of zip entries that the standard library does not decode, or not with a bound on memory; 14 is
LZMA, which has a header of its own (APPNOTE 5.8)."""
LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def zip_entry(file: ZipFileBytes, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of an entry, in pieces, checked against what the list says of it."""
    crc, size = 0, 0
    for piece in _entry_pieces(file, info):
        crc, size = zlib.crc32(piece, crc), size + len(piece)
        if size > info.file_size:
            break
        yield piece
    if size != info.file_size or crc != info.CRC:
        raise DamagedError(f"{info.filename!a} is not what the list of entries says")


def _entry_pieces(file: ZipFileBytes, info: zipfile.ZipInfo) -> Iterator[bytes]:
    file.seek(info.header_offset)
    header = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    file.seek(header[-2] + header[-1], os.SEEK_CUR)
    left, at = info.compress_size, file.tell()

    def read(count: int) -> bytes:
        nonlocal left, at
        file.seek(at)
        data = file.read(min(count, left))
        left, at = left - len(data), at + len(data)
        return data

    codec = ENTRY_CODECS[info.compress_type]
    if codec is not None:
        return decompressed(read, codec)
    _version, length = struct.unpack("<HH", read(4))
    return raw_lzma(read, read(length), info.file_size)


def kind_of_member(member: tarfile.TarInfo) -> str:
    """An entry of a tar that is no file, in words."""
    if member.issym() or member.islnk():
        return "a symbolic link" if member.issym() else "a hard link to another entry"
    if member.isfifo() or member.issparse():
        return "a named pipe" if member.isfifo() else "a file with holes: unpack it first"
    return "a device" if member.isdev() else "not a regular file"


def damaged(error: Exception) -> UnusableError:
    if isinstance(error, OSError) and error.errno is not None:
        return UnusableError("unreadable", error.strerror or str(error))
    return UnusableError("unreadable", f"{DAMAGED}: {error}".rstrip(": "))


class ZipFileBytes(io.FileIO):
    """A file that is not read in one go beyond what a zip's list of entries may need."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > MOST_DIRECTORY:
            raise DamagedError(f"its list of entries is larger than {human_bytes(MOST_DIRECTORY)}")
        return super().read(size) or b""


@contextmanager
def open_archive(path: str) -> Iterator[ZipFileBytes]:
    """The file, if it is a regular one. Never blocks."""
    descriptor = open_in_place(path)
    with ZipFileBytes(descriptor) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnusableError("special", "it is no regular file any more")
        yield file


class TarSource(io.BufferedIOBase):
    """What tarfile reads from. Between two entries it may take `allow` bytes: it keeps all of a header in memory."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left: int | None = MOST_HEADER
        self.taken = 0

    def allow(self, count: int | None) -> None:
        self._left = count

    def read(self, size: int | None = -1, /) -> bytes:
        size = PIECE if size is None or size < 0 else size
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise DamagedError("the description of an entry is too long")
        data = self._stream.read(size)
        self.taken += len(data)
        return data


class CheckedHeader(tarfile.TarInfo):
    """tarfile takes a damaged header for the end of the archive; then the rest would be missing without a word."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> CheckedHeader:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(str(error)) from error
            # Nothing, or zeros: the end.
            raise
