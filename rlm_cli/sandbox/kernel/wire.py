"""Frames (docs/PROTOCOL.md): the codec that both halves of the wire use. It checks sizes and never evaluates."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

VERSION = 1
PAYLOAD_MAX = 64 * 1024 * 1024
HEADER_MAX = 64 * 1024
PROMPTS_MAX = 16 * 1024 * 1024
"""Bytes of prompts in one `call` frame."""
WORKER_MAX = 4 + HEADER_MAX + PROMPTS_MAX
"""Payload of the largest frame that a worker sends, which is a `call`: the supervisor has to hold it whole."""
PROMPTS_COUNT_MAX = 10_000
"""And how many they are."""
PROOF_MAX = 1024 * 1024
"""Bytes of the proof in an `attached` frame: more than a dozen files are packed into one."""
CALLS_MAX = 16
"""`call` frames in flight from one worker."""
PART_MAX = 256 * 1024
"""Bytes of one piece of an answer: the host has half a dozen copies of one at once."""
EVIDENCE_MAX = 1024 * 1024
"""Bytes of an answer's evidence, which come before its first piece."""
QUOTES_MAX = 1_000
QUOTE_CHARS = 4_000
SCHEMA_CHARS = 8_000
"""Of a schema for child runs: as JSON in a header, with escapes."""
PROBLEM_CHARS = 600
NAME_CHARS = 4_096
"""Quotes of one answer; characters of one of them, and of the name of its document."""
KEEP = 64 * 1024
"""Bytes kept of each end of a cell's stdout and stderr."""
SAMPLE = 64 * 1024
"""Bytes of one sample of a file."""
SAMPLES = 10
"""Samples that a file's proof covers: both ends, and eight spread between them."""
PIECE = 256 * 1024
"""Bytes of a blob in one `D` frame: small, so that a slow line still brings an answer every few seconds."""
IN_MEMORY = "memory"
"""Where blobs go that are not written to a folder."""
BLOB_FD = 300
"""File descriptor of the first blob in memory, above all that a worker closes."""

DESERTED = "kernel: no word from the host"
"""What the supervisor says on its stderr, the last of all, when it takes the host for dead."""
LOST_PIPES = 99
"""Exit status of a worker whose pipes a cell closed."""
BROKEN = 97
"""Exit status of a worker whose own loop failed: a cell broke something it needs."""

FROM_HOST = b"WCIKPQD"
FROM_SUPERVISOR = b"boetlwdxspr"
FROM_WORKER = b"wd"

HEAD = 5  # type and length

# Bound now: a cell may rebind os.pread or json.dumps, and shares the worker's process. `scan_once` is C: json's Python
# code would look up builtins.
_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_pread = os.pread
_fstat = os.fstat


class Violation(Exception):  # noqa: N818 - it says what the other side did
    """The other side broke the protocol; nothing after it on the same stream can be trusted."""


def head(kind: bytes, length: int) -> bytes:
    """The five bytes before a payload."""
    return kind + length.to_bytes(4, "big")


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    """One outer frame."""
    return head(kind, len(payload)) + payload


def header(fields: dict[str, Any]) -> bytes:
    """The start of a worker frame; the raw payload follows."""
    body = _encode(fields).encode("ascii")
    return len(body).to_bytes(4, "big") + body


def message(fields: dict[str, Any], payload: bytes = b"") -> bytes:
    """A whole worker frame: what a `W`, `C`, `w` or `d` frame carries."""
    return header(fields) + payload


def parse_json(text: str) -> Any:
    """JSON from the other half, trusted (the host checks what it reads in frames.py)."""
    return _scan(text, 0)[0]


def split(body: bytes) -> tuple[bytes, bytes]:
    """A worker frame's JSON header, unparsed, and its raw payload. Raises `Violation`."""
    length = int.from_bytes(body[:4], "big")
    if len(body) < 4 or length > HEADER_MAX or len(body) < 4 + length:
        raise Violation(f"bad header length {length} in a message of {len(body)} bytes")
    return body[4 : 4 + length], body[4 + length :]


class Splitter:
    """Bytes as they come -> whole frames. `kinds` are the types this stream may carry, one byte each."""

    def __init__(self, kinds: bytes, *, limit: int = PAYLOAD_MAX) -> None:
        self._kinds = kinds
        self._limit = limit
        self._buffer = bytearray()

    @property
    def buffered(self) -> int:
        """Bytes of the frame that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[bytes, bytes]]:
        """Yield (type, payload) of every frame that `data` completes; raise `Violation` at the first bad one."""
        buffer = self._buffer
        buffer += data
        while end := self._end():
            kind, payload = bytes(buffer[:1]), bytes(memoryview(buffer)[HEAD:end])
            del buffer[:end]
            yield kind, payload

    def lend(self, data: bytes) -> Iterator[tuple[bytes, memoryview]]:
        """The same without a copy: a payload is there until the next one is asked for."""
        buffer = self._buffer
        buffer += data
        while end := self._end():
            with memoryview(buffer) as whole, whole[HEAD:end] as payload:
                yield bytes(buffer[:1]), payload
            del buffer[:end]

    def _end(self) -> int:
        """Where the first frame ends, or 0 as long as it is not whole."""
        buffer = self._buffer
        if len(buffer) < HEAD:
            return 0
        length = int.from_bytes(buffer[1:HEAD], "big")
        if buffer[0] not in self._kinds or length > self._limit:
            raise Violation(f"bad frame: type {bytes(buffer[:1])!r}, length {length}")
        return HEAD + length if len(buffer) >= HEAD + length else 0


def pack_texts(texts: Iterable[bytes]) -> bytes:
    """Length-prefixed strings, one after the other."""
    return b"".join(part for text in texts for part in (len(text).to_bytes(4, "big"), text))


def unpack_texts(payload: bytes, count: int) -> Sequence[bytes]:
    """The inverse of `pack_texts`. Raises `Violation` when `payload` is not exactly `count` strings."""
    texts = []
    at = 0
    for _ in range(count):
        size = int.from_bytes(payload[at : at + 4], "big")
        at += 4 + size
        if at > len(payload):
            raise Violation(f"{count} texts do not fit in {len(payload)} bytes")
        texts.append(payload[at - size : at])
    if at != len(payload):
        raise Violation(f"{len(payload) - at} bytes follow the last of {count} texts")
    return texts


def proof_lines(proofs: Iterable[tuple[str, int, str]]) -> bytes:
    """(file, size, digest) of every file, one JSON list a line."""
    return b"".join(_encode(entry).encode("ascii") + b"\n" for entry in proofs)


def blob_path(number: int) -> str:
    """Where the supervisor and its worker find a blob in memory, by the order in which they came."""
    return f"/proc/self/fd/{BLOB_FD + number}"


def sample_starts(size: int) -> Sequence[int]:
    """Where the samples of `size` bytes begin, in order; `SAMPLE` bytes each, less where the bytes end. Of a small
    file they are the whole of it."""
    if size <= SAMPLES * SAMPLE:
        return range(0, size, SAMPLE)
    return [(size - SAMPLE) * number // (SAMPLES - 1) for number in range(SAMPLES)]


def proof(fd: int, size: int) -> tuple[int, str]:
    """What both sides compare to know that they see the same: how many of the first `size` bytes there are, and
    blake2b-128 (hex) of their samples. What a growing file has beyond `size` does not count."""
    from hashlib import blake2b  # 3 ms that the boot frame need not wait for

    size = min(size, _fstat(fd).st_size)
    digest = blake2b(digest_size=16)
    for start in sample_starts(size):
        digest.update(_pread(fd, min(SAMPLE, size - start), start))
    return size, digest.hexdigest()
