"""Every value that FINAL takes, as pieces of its answer: read, encoded and sent bit by bit, never held a second time.

Text and bytes are themselves; a file's content is its answer; a generator of text or bytes writes it piece by piece.
Everything else is JSON: indented up to `PRETTY` characters, and beyond that one item of the outermost list or dict a
line, which the C encoder can make. Nested containers that are large are laid out the same way.
"""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence, Set
from io import FileIO, IOBase
from itertools import chain, islice
from json import encoder as json_encoder
from types import GeneratorType

from .text import Text
from .wire import PART_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Pieces = Iterator[tuple[str, "bytes | memoryview"]]
    """(kind, bytes): "text", "json" or "bytes". The last kind is the answer's: of a file it is known at the end."""

TEXT_SLICE = PART_MAX // 4
"""Characters whose UTF-8 fits in one piece."""
PRETTY = 256 * 1024
"""Characters of indented JSON; a larger value has one item a line."""
BATCH = 256 * 1024
"""About so many characters are encoded at once."""
BATCH_ITEMS = 4096
SAMPLE = 16
SCALARS = frozenset((str, int, float, bool, type(None)))
VIEWS: tuple[Any, ...] = (type({}.keys()), type({}.values()), type({}.items()))
SIZED: tuple[Any, ...] = (list, tuple, dict, set, frozenset, range, *VIEWS)
SCRATCH = tuple(os.path.join(place, "") for place in ("/tmp", os.environ.get("HOME") or "/tmp"))  # noqa: S108
"""Where a cell writes: /tmp in a container, elsewhere a folder that is its home."""

_encode_text = json_encoder.encode_basestring


def pieces(value: Any) -> Pieces:
    """The answer that `value` is. Raises what reading the value raises, and `ValueError` or `TypeError` when it cannot
    be written as JSON: before the first piece for a small value."""
    if isinstance(value, str):
        return text_pieces(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes_pieces(value)
    if isinstance(value, Text):
        return (("text", encoded(value.piece(at, at + TEXT_SLICE))) for at in range(0, len(value) or 1, TEXT_SLICE))
    if isinstance(value, GeneratorType):
        return written(value)
    if isinstance(value, IOBase) or isinstance(getattr(value, "file", None), IOBase):
        return stream_pieces(value)
    if isinstance(value, os.PathLike):
        return path_pieces(value)
    if is_container(value) or isinstance(value, (int, float, type(None))):
        return json_pieces(value)
    return text_pieces(str(value))


def encoded(text: str) -> bytes:
    """UTF-8; what it cannot carry is replaced."""
    return text.encode("utf-8", "replace")


def text_pieces(text: str) -> Pieces:
    step = PART_MAX if text.isascii() else TEXT_SLICE
    return (("text", encoded(text[at : at + step])) for at in range(0, len(text) or 1, step))


def bytes_pieces(value: Any) -> Pieces:
    view = memoryview(value)
    view = view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
    return (("bytes", view[at : at + PART_MAX]) for at in range(0, len(view) or 1, PART_MAX))


# -- what is read while it is sent


def written(generator: Any) -> Pieces:
    """A generator of text or of bytes is what it yields, one after the other, as `writelines` has it; any other is a
    JSON list."""
    first = next(generator, VIEWS)
    if first is VIEWS:
        return json_pieces([])
    whole = chain((first,), generator)
    if isinstance(first, str):
        return (("text", encoded(text)) for text in joined(whole, str, ""))
    if isinstance(first, (bytes, bytearray, memoryview)):
        return (("bytes", data) for data in joined(whole, (bytes, bytearray, memoryview), b""))
    return json_pieces(whole)


def joined(items: Iterator[Any], kinds: Any, empty: Any) -> Iterator[Any]:
    """Items put together to about `BATCH`. How many are taken at once follows from the size of the last ones."""
    count = 1
    while True:
        batch = list(islice(items, count))
        if not batch:
            return
        for strange in set(map(type, batch)):
            if not issubclass(strange, kinds):
                raise TypeError(f"a generator of text or bytes for FINAL must not yield {strange.__name__} as well")
        piece = empty.join(batch)
        for at in range(0, len(piece), TEXT_SLICE):
            yield piece[at : at + TEXT_SLICE]
        count = min(2 * count, BATCH * len(batch) // (len(piece) or 1) + 1, BATCH_ITEMS)


def path_pieces(path: Any) -> Pieces:
    """A file is its content. A path that names none is a name, which may be the answer; in `SCRATCH` a mistake."""
    name = os.fsdecode(path)
    if not os.path.isfile(name) and not os.path.abspath(name).startswith(SCRATCH):
        return text_pieces(name)
    return file_pieces(os.open(name, os.O_RDONLY | os.O_NONBLOCK))


def stream_pieces(stream: Any) -> Pieces:
    """What an open file holds, from its first byte to its last, also what is still in its buffer."""
    stream = getattr(stream, "file", stream)  # a named temporary file is a wrapper
    below = getattr(stream, "buffer", stream)
    raw = getattr(below, "raw", below)
    if isinstance(raw, FileIO):
        stream.flush()
        return file_pieces(os.open(f"/proc/self/fd/{raw.fileno()}", os.O_RDONLY | os.O_NONBLOCK))
    stream.seek(0)  # in memory, or unpacked while it is read
    return read_pieces(stream)


def read_pieces(stream: Any) -> Pieces:
    while True:
        data = stream.read(TEXT_SLICE)
        yield ("text", encoded(data)) if isinstance(data, str) else ("bytes", data)
        if not data:
            return


def file_pieces(fd: int) -> Pieces:
    """The bytes of a regular file; "text" when all of it is UTF-8. The descriptor is closed."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("FINAL takes a regular file")
        decoder = codecs.getincrementaldecoder("utf-8")()
        kind = "text"
        while True:
            data = os.read(fd, PART_MAX)
            if kind == "text":
                try:
                    decoder.decode(data, not data)
                except UnicodeDecodeError:
                    kind = "bytes"
            yield kind, data
            if not data:
                return
    finally:
        os.close(fd)


# -- JSON


def json_pieces(value: Any) -> Pieces:
    return (("json", encoded(text)) for text in Json().texts(value))


def plain(value: Any) -> Any:
    """Sets, generators, sequences and the like as lists; what has no JSON form as text."""
    if isinstance(value, (set, frozenset)):
        try:
            return sorted(value)
        except TypeError:
            return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Iterator, Sequence, *VIEWS)):
        return list(value)  # type: ignore[call-overload]
    return str(value)


def is_container(value: Any) -> bool:
    return isinstance(value, (list, tuple, Mapping, Iterator, Set, Sequence, *VIEWS)) and not isinstance(value, str)


def can_be_json(value: Any) -> bool:
    """Whether its text says what it is when it turns out to have no JSON form: it can still be read."""
    return isinstance(value, float) or (is_container(value) and not isinstance(value, Iterator))


def weight(value: Any) -> float:
    """About how many characters of JSON a value has, from a sample; infinite when it would have to be read."""
    if isinstance(value, str):
        return len(value) + 2
    if not isinstance(value, SIZED):
        return float("inf") if is_container(value) else 8
    if not value:
        return 2
    items = value.items() if isinstance(value, dict) else value
    sample = list(islice(items, SAMPLE))
    if isinstance(value, (list, tuple)):
        sample = [*value[:: max(1, len(value) // SAMPLE)]]
    return len(value) * (sum(map(weight, sample)) / len(sample) + 2)


class TooLarge(Exception):  # noqa: N818 - no error: it is laid out in another way
    """It is more than `PRETTY` characters."""


def one_line(separator: str, default: Callable[[Any], Any]) -> Callable[[Any], str]:
    """A fast encoder: the C one, made once. (JSONEncoder.encode makes one for every value.)"""
    make: Any = getattr(json_encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(separator, ": "), default=default
        ).encode
    encode = make({}, default, _encode_text, None, ": ", separator, False, False, False)
    return lambda value: "".join(encode(value, 0))


class Json:
    """JSON of one value, in pieces. `pretty` and `batch`: see `PRETTY` and `BATCH`."""

    def __init__(self, pretty: int = PRETTY, batch: int = BATCH) -> None:
        self._most_pretty = pretty
        self._batch = batch
        self._above: set[int] = set()
        self._read: dict[int, tuple[Any, list[Any]]] = {}
        self._in_one = one_line(", ", self._plain)
        self._in_lines = one_line(",\n", self._plain)

    def texts(self, value: Any) -> Iterator[str]:
        """As `json.dumps(value, ensure_ascii=False, indent=2)` up to `PRETTY` characters; else one item a line."""
        if isinstance(value, Iterator):
            head, total = [], 0.0
            for item in value:
                head.append(item)
                total += weight(item)
                if total > self._most_pretty:
                    return self._container(chain(head, value), ends="[]")
            value = head
        if not is_container(value):
            return iter((self._in_one(value),))
        try:
            return iter((self._pretty(value),))
        except TooLarge:
            return self._large(value)

    def _pretty(self, value: Any) -> str:
        encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=2, default=self._small)
        texts, total = [], 0
        for text in encoder.iterencode(self._small(value)):
            texts.append(text)
            total += len(text)
            if total > self._most_pretty:
                raise TooLarge
        return "".join(texts)

    def _small(self, value: Any) -> Any:
        """`plain`, but of a sequence that would have to be read only as much as is small."""
        if isinstance(value, (list, tuple, dict)) or not isinstance(value, Sequence) or isinstance(value, str):
            return self._plain(value)
        items, total = [], 0.0
        for item in value:
            items.append(item)
            total += weight(item)
            if total > self._most_pretty:
                raise TooLarge
        return items

    def _plain(self, value: Any) -> Any:
        """`plain`; an iterator within a value can be read only once, so what it held is kept."""
        if isinstance(value, (list, tuple, dict)):
            return value
        if not isinstance(value, Iterator):
            return plain(value)
        if id(value) not in self._read:
            self._read[id(value)] = (value, list(value))
        return self._read[id(value)][1]

    def _large(self, value: Any) -> Iterator[str]:
        if isinstance(value, str):
            return self._long_text(value)
        if not is_container(value):
            return iter((self._in_one(value),))
        if isinstance(value, Mapping):
            return self._container(value.items(), ends="{}", of=value)
        if not isinstance(value, Sequence):
            value = self._plain(value)
        return self._container(value, ends="[]", of=value)

    def _long_text(self, text: str) -> Iterator[str]:
        yield '"'
        for at in range(0, len(text), TEXT_SLICE):
            yield _encode_text(text[at : at + TEXT_SLICE])[1:-1]
        yield '"'

    def _container(self, items: Iterable[Any], *, ends: str, of: Any = None) -> Iterator[str]:
        """One item a line. `items` of a mapping (`ends` are braces) are pairs."""
        if id(of) in self._above:
            raise ValueError("Circular reference detected")
        self._above.add(id(of))
        rest = iter(items)
        done = 0
        before = ends[0] + "\n"
        for first in rest:
            key, value = first if ends == "{}" else (None, first)
            size = weight(value)
            yield before
            before = ",\n"
            if size > self._batch:
                if ends == "{}":
                    yield self._in_one({key: 0})[1:-2]
                yield from self._large(value)
                done += 1
            else:
                # Of a few items each may be unlike the others; of many the first says how large they are.
                count = 1 if done < SAMPLE else max(1, min(int(self._batch / size), BATCH_ITEMS, done))
                batch = [first, *islice(rest, count - 1)]
                done += len(batch)
                yield self._members(batch) if ends == "{}" else self._items(batch)
        yield "\n" + ends[1] if done else ends
        self._above.discard(id(of))

    def _items(self, batch: list[Any]) -> str:
        if SCALARS.issuperset(map(type, batch)):
            return self._in_lines(batch)[1:-1]
        return ",\n".join(map(self._in_one, batch))

    def _members(self, batch: list[tuple[Any, Any]]) -> str:
        if SCALARS.issuperset(type(value) for _, value in batch):
            return self._in_lines(dict(batch))[1:-1]
        return ",\n".join([self._in_one({key: value})[1:-1] for key, value in batch])
