"""What a compressed file is by its first bytes, and its content in pieces: whatever the input claims, memory stays at
a few MiB (every decoder is asked for a bounded piece, and dictionaries are bounded too).

A file is opened when its name says that it is packed (so that a .docx or a .jar, which are zips, stay what they are);
how it is packed its content says: a .gz that is text is text.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, cast

Codec = Literal["gzip", "bzip2", "xz", "lzma", "zstd"]
Kind = Literal["zip", "tar"] | Codec

PIECE = 1 << 20
"""Most bytes that are handled at a time."""
INPUT = 64 * 1024
MOST_DICTIONARY = 256 << 20
"""`xz -9` needs 65 MiB to be read, `zstd --long` 128 MiB."""

COMPRESSED = (".gz", ".bz2", ".xz", ".lzma", ".zst")
"""One document each; its name is the one before the suffix."""
SHORT_TARS = (".tgz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst")
ARCHIVES = (".zip", ".tar", *SHORT_TARS, *(f".tar{suffix}" for suffix in COMPRESSED))

ZSTD_MISSING = (
    "zstd needs a package that is not installed: pip install 'rlm-cli[zstd]' (or unpack it first: unzstd FILE)"
)


class DamagedError(ValueError):
    """The content is not what the format demands."""


class MissingDecoderError(Exception):
    """The format is known, but what reads it is not installed; the text says what to do."""


def says_packed(name: str) -> bool:
    """Whether the name is that of a compressed file or an archive."""
    return name.lower().endswith((*COMPRESSED, *ARCHIVES))


def says_archive(name: str) -> bool:
    """Whether the name is that of a file with files in it."""
    return name.lower().endswith(ARCHIVES)


def without_suffix(name: str) -> str:
    """`app.log` for `app.log.gz`; "" for a name that has no such suffix, or nothing else."""
    for suffix in COMPRESSED:
        if name.lower().endswith(suffix):
            stem = name[: -len(suffix)]
            return stem if stem.rpartition("/")[2] else ""
    return ""


def recognise(name: str, head: bytes) -> Kind | None:
    """How the file `name`, which begins with `head`, is packed; None: it is not, or not in a way we know."""
    return kind_of(head) if says_packed(name) else None


def kind_of(head: bytes) -> Kind | None:
    """The format by its magic bytes."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    if head.startswith(b"\x5d\x00\x00") and len(head) >= 13:
        return "lzma"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"
    return "tar" if is_tar(head) else None


def is_tar(head: bytes) -> bool:
    """Whether a member's header, with its checksum, stands at the beginning."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


# -- decoders ------------------------------------------------------------------------------------------------------


class Decoder(Protocol):
    """One member of a stream, as `bz2.BZ2Decompressor` decodes it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """The next bytes, `max_length` at most."""
        ...


class Inflate:
    """A gzip member."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        # zlib may hold back more than it says, until there is room again.
        self._full = len(out) == max_length
        return out


class Zstandard:
    """A zstd frame, by the package `zstandard`. Its decoder takes no limit, but four bytes of a frame are 128 KiB of
    content at most: a few bytes at a time are a limit too."""

    STEP = 128

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._data = b""
        self._at = 0

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def needs_input(self) -> bool:
        return self._at >= len(self._data)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data) + self._data[self._at :]

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if data:
            self._data, self._at = self._data[self._at :] + data, 0
        pieces: list[bytes] = []
        size = 0
        while not self.eof and self._at < len(self._data) and not 0 <= max_length <= size:
            pieces.append(self._inner.decompress(self._data[self._at : self._at + self.STEP]))
            size += len(pieces[-1])
            self._at += self.STEP
        return b"".join(pieces)


def zstd_decoder() -> Callable[[], Decoder]:
    """What makes decoders of zstd frames: the standard library's from Python 3.14 on, else the package's.

    Raises `MissingDecoderError`.
    """
    try:
        own = importlib.import_module("compression.zstd")
    except ImportError:
        pass
    else:
        window = {own.DecompressionParameter.window_log_max: 27}
        return lambda: cast(Decoder, own.ZstdDecompressor(options=window))
    try:
        import zstandard
    except ImportError:
        raise MissingDecoderError(ZSTD_MISSING) from None
    return lambda: Zstandard(zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj())


def decoder_for(codec: Codec) -> Callable[[], Decoder]:
    """What makes a decoder for each member of such a stream. Raises `MissingDecoderError`."""
    if codec == "gzip":
        return Inflate
    if codec == "bzip2":
        return bz2.BZ2Decompressor
    if codec == "zstd":
        return zstd_decoder()
    return lambda: lzma.LZMADecompressor(memlimit=MOST_DICTIONARY)


def decompressed(read: Callable[[int], bytes], codec: Codec) -> Iterator[bytes]:
    """The content of a stream, all its members, in pieces of about `PIECE` bytes at most.

    Raises `DamagedError` where the stream is damaged or ends too early, and what `read` raises.
    """
    make = decoder_for(codec)
    data = read(INPUT)
    while data:
        decoder = make()
        while not decoder.eof:
            piece = decode(decoder, data)
            data = b""
            if piece:
                yield piece
            if not decoder.eof and decoder.needs_input:
                data = read(INPUT)
                if not data:
                    raise DamagedError("it ends in the middle")
        # Zeros may fill up the last block of a medium; anything else is another member, or damage.
        data = decoder.unused_data.lstrip(b"\0")
        while not data and (more := read(INPUT)):
            data = more.lstrip(b"\0")


def raw_lzma(read: Callable[[int], bytes], properties: bytes, size: int) -> Iterator[bytes]:
    """LZMA without a header, as in a zip: `properties` are its five bytes; it ends after `size` bytes, or by itself.

    Raises as `decompressed` does.
    """
    if len(properties) != 5 or properties[0] >= 9 * 5 * 5:
        raise DamagedError("its LZMA properties make no sense")
    lc, rest, dictionary = properties[0] % 9, properties[0] // 9, int.from_bytes(properties[1:], "little")
    if dictionary > MOST_DICTIONARY or lc + rest % 5 > 4:
        raise DamagedError("its LZMA dictionary is too large")
    filters = {"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": lc, "lp": rest % 5, "pb": rest // 5}
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters])
    while size > 0 and not decoder.eof:
        data = read(INPUT) if decoder.needs_input else b""
        piece = decode(decoder, data)
        if not piece and not data and decoder.needs_input:
            raise DamagedError("it ends in the middle")
        size -= len(piece)
        if piece:
            yield piece


def decode(decoder: Decoder, data: bytes) -> bytes:
    """The next piece. Raises `DamagedError` for whatever the decoder has to say."""
    try:
        return decoder.decompress(data, PIECE)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise DamagedError(str(error)) from error
    except Exception as error:
        # zstd's errors: two packages, and neither has to be there.
        if type(error).__name__ != "ZstdError":
            raise
        raise DamagedError(str(error)) from error


class Stream:
    """Pieces of bytes as a file that is read once, forwards. An error stays: reading on is no way around it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        """The rest, in pieces."""
        while piece := self.read(PIECE):
            yield piece

    def read(self, size: int) -> bytes:
        """`size` bytes; fewer only at the end."""
        taken: list[bytes] = []
        while size > 0 and self._fill():
            part = self._piece[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            taken.append(part)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def peek(self, size: int) -> bytes:
        """What the next `read(size)` will give."""
        head = self.read(size)
        self._piece, self._at = head + self._piece[self._at :], 0
        return head

    def _fill(self) -> bool:
        """Whether there is a byte to be read."""
        if self._error is not None:
            raise self._error
        while self._at >= len(self._piece):
            try:
                piece = next(self._pieces, None)
            except Exception as error:
                self._error = error
                raise
            if piece is None:
                return False
            self._piece, self._at = piece, 0
        return True
