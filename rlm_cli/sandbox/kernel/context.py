"""`context`: one document is a `str`, or a `Text` when it is huge; many are `Documents`, which opens them as needed."""

from __future__ import annotations

import os
from array import array
from collections import OrderedDict
from collections.abc import ItemsView, Mapping, Sequence, ValuesView
from fnmatch import fnmatchcase
from itertools import islice
from threading import Lock

from . import wire
from .decoding import decode
from .encoded import Encoded
from .idle import say
from .search import Hits, grep, grep_count
from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, NoReturn

ROOT = "/in"
OPEN_FILES = 32
PARSED = 4096
"""Lines of the index that are parsed at once."""
ENTRY_BYTES = 200
"""What a cached document costs besides its text."""
CACHE_BYTES = 64 * 1024 * 1024
"""Memory for decoded documents that are kept: saves the cost of going through a corpus twice."""
MEASURE_BYTES = 16 * 1024 * 1024
"""Bytes read to count lines; beyond it the count is extrapolated."""
SAMPLE_BYTES = 32 * 1024
SAMPLES = 64
"""Places of a huge document where so many bytes are looked at when it is opened."""


class ContextError(Exception):
    """`context` cannot be opened. `reason` is "encoding" or "unreadable"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ReadOnly(TypeError):  # noqa: N818
    """A cell tried to change `context`."""


class NoSuchDocument(KeyError):  # noqa: N818
    """No document has this name; the message suggests some that exist."""

    def __str__(self) -> str:
        return str(self.args[0])


def size_words(size: float) -> str:
    """Bytes for people: "412 MB"."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


class Entry:
    """One line of the index: where a document's bytes are. `file` is absolute."""

    __slots__ = ("encoding", "file", "name", "offset", "size")

    def __init__(self, name: str, file: str, offset: int, size: int, encoding: str) -> None:
        self.name = name
        self.file = file
        self.offset = offset
        self.size = size
        self.encoding = encoding


class Names(Sequence[str]):
    """Documents' names: UTF-8 in one piece, and a hash table of numbers that is made for the first look-up. A list and
    a dict of a million strings would be five times as large."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("Q")
        self._slots: array[int] | None = None

    def append(self, name: str) -> None:
        self._text += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    def _name(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return self._text[start : self._ends[number]].decode("utf-8", "surrogatepass")

    def __getitem__(self, key: Any) -> Any:
        places = range(len(self._ends))[key]
        return self._name(places) if isinstance(places, int) else [self._name(place) for place in places]

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(len(self._ends)))

    def number(self, name: str) -> int | None:
        """Which of them it is. Of two that are equal, the last."""
        slots = self._slots
        if slots is None:
            slots = self._slots = self._table()
        slot = hash(name) % len(slots)
        while slots[slot]:
            number = slots[slot] - 1
            if self._name(number) == name:
                return number
            slot = (slot + 1) % len(slots)
        return None

    def _table(self) -> array[int]:
        """Number + 1 of each name in the slot of its hash, or the next one that is free."""
        size = 2 * len(self._ends) + 1
        slots = array("I", bytes(4 * size))
        for number in range(len(self._ends) - 1, -1, -1):
            slot = hash(self._name(number)) % size
            while slots[slot]:
                slot = (slot + 1) % size
            slots[slot] = number + 1
        return slots

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.number(name) is not None


class Index:
    """The index, compact: a million documents are their names in one piece and four arrays of numbers."""

    def __init__(self) -> None:
        self.names = Names()
        self.files: list[str] = []
        self._offsets = array("Q")
        self._sizes = array("Q")
        self._file_of = array("I")
        self._encoding_of = array("I")
        self._encodings: list[str] = []
        self._file_ids: dict[str, int] = {}
        self._encoding_ids: dict[str, int] = {}

    def add(self, name: str, file: str, offset: int, size: int, encoding: str) -> None:
        self.names.append(name)
        self._offsets.append(offset)
        self._sizes.append(size)
        self._file_of.append(_intern(file, self._file_ids, self.files))
        self._encoding_of.append(_intern(encoding, self._encoding_ids, self._encodings))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Entry:
        return Entry(
            self.names[number],
            self.path(self._file_of[number]),
            self._offsets[number],
            self._sizes[number],
            self._encodings[self._encoding_of[number]],
        )

    def largest(self) -> int:
        """Bytes of the largest document."""
        return max(self._sizes, default=0)

    def beyond(self, ends: list[int]) -> int | None:
        """A document that goes on behind the end of its file, of which these are the ends."""
        ranges = enumerate(zip(self._offsets, self._sizes, self._file_of))  # noqa: B905 - Python 3.9
        return next((number for number, (offset, size, file) in ranges if offset + size > ends[file]), None)

    def path(self, file: int) -> str:
        return os.path.join(ROOT, self.files[file])

    @property
    def total(self) -> int:
        """Bytes of all documents."""
        return sum(self._sizes)

    def extents(self) -> list[int]:
        """Of each of `files`: where its last document ends."""
        ends = [0] * len(self.files)
        for file, offset, size in zip(self._file_of, self._offsets, self._sizes):  # noqa: B905 - Python 3.9
            ends[file] = max(ends[file], offset + size)
        return ends

    def size(self, number: int) -> int:
        return self._sizes[number]

    def file_of(self, number: int) -> int:
        """Which of `files` a document is in."""
        return self._file_of[number]


def _intern(value: str, ids: dict[str, int], values: list[str]) -> int:
    number = ids.setdefault(value, len(values))
    if number == len(values):
        values.append(value)
    return number


def parse_index(lines: Iterable[bytes]) -> Index:
    """JSON lines `[name, file, offset, size, encoding]` -> Index."""
    index = Index()
    rows = (line for line in lines if line.strip())
    while True:  # many at once: one JSON text for each line takes four times as long
        batch = b",".join(islice(rows, PARSED))
        if not batch:
            return index
        for row in wire.parse_json(f"[{batch.decode('utf-8', 'replace')}]"):
            index.add(*row)


class Store:
    """Reads documents' bytes with pread, so that forked children can share it. A few files stay open."""

    def __init__(self) -> None:
        self._lock = Lock()  # guards the table of open files
        self._fds: OrderedDict[str, int] = OrderedDict()

    def read(self, entry: Entry, most: int | None = None) -> bytes:
        """A document's bytes (the first `most`). Raises `OSError`."""
        return self.read_range(entry, 0, entry.size if most is None else min(most, entry.size))

    def read_range(self, entry: Entry, start: int, size: int) -> bytes:
        """`size` bytes of a document from `start` on. Raises `OSError`."""
        offset = entry.offset + start
        with self._lock:
            data = os.pread(self._open(entry.file), size, offset)
        while len(data) < size:  # pread stops at 2 GB, and at the end of a file that has shrunk
            with self._lock:
                more = os.pread(self._open(entry.file), size - len(data), offset + len(data))
            if not more:
                raise OSError(f"{entry.name}: the input changed while it was being read")
            data += more
        return data

    def mapped(self, entry: Entry) -> tuple[Any, int]:
        """A mapping of the file around a document, and where in it the document begins. Raises `OSError`, `ValueError`.
        Who reads it dies of SIGBUS when the file has shrunk: for processes that may."""
        import mmap

        before = entry.offset % mmap.ALLOCATIONGRANULARITY
        with self._lock:
            fd, size = self._open(entry.file), entry.size + before
            return mmap.mmap(fd, size, access=mmap.ACCESS_READ, offset=entry.offset - before), before

    def _open(self, path: str) -> int:
        if path in self._fds:
            self._fds.move_to_end(path)
            return self._fds[path]
        while len(self._fds) >= OPEN_FILES:
            os.close(self._fds.popitem(last=False)[1])
        fd = self._fds[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return fd

    def proof(self, path: str, size: int) -> tuple[int, str]:
        """Of the first `size` bytes of a file, see `wire.proof`."""
        with self._lock:
            return wire.proof(self._open(path), size)


class Library:
    """The attached corpus: the index, its bytes, and how large a document may be to become a `str`."""

    def __init__(self, index: Index, text_limit: int) -> None:
        self.index = index
        self.text_limit = text_limit
        self.store = Store()

    def open_text(self, entry: Entry) -> str | Text:
        """A document as text: the one place that decides what a huge document becomes. Raises `LookupError`,
        `OSError`."""
        if entry.size > self.text_limit:
            return Text(self.open_source(entry)[0], self.text_limit)
        return decode(self.store.read(entry), entry.encoding)[0]

    def open_source(self, entry: Entry) -> tuple[Encoded, int]:
        """A huge document's bytes as characters, and an estimate of its lines. That its bytes are not valid may show
        when a cell is far into it."""

        def read(start: int, size: int) -> bytes:
            return self.store.read_range(entry, start, size)

        def on_lossy(place: int, codec: str) -> None:
            result = "all of it is read as Latin-1" if codec == "latin-1" else "such bytes are read as \\ufffd"
            say(f"[kernel] {entry.name}: not valid UTF-8 at byte {place:,}; {result}\n")

        source = Encoded(read, entry.size, entry.encoding, on_lossy=on_lossy)
        source.mapped = lambda: self.store.mapped(entry)
        newlines, seen = source.survey(SAMPLES, SAMPLE_BYTES)
        return source, round(newlines * source.size / max(seen, 1))


class Documents(Mapping[str, "str | Text"]):
    """Read-only mapping: document name -> text, in a stable order. A document is read when it is used; it is a str,
    or a Text when it is huge.

    `context["name"]`, `"name" in context`, `len(context)`, `for name in context`, `.items()`, `.values()`, `.get()`;
    `.names("*.log")`: the names that match; `.size("name")`: bytes, without reading; `.grep(pattern, ...)`: lines of
    all documents, see `grep`; `.grep_count(pattern)`: how many.
    """

    def __init__(self, library: Library, cache_bytes: int = CACHE_BYTES) -> None:
        self._library = library
        self._lock = Lock()  # guards the cache and its size
        self._cache: OrderedDict[int, str | Text] = OrderedDict()
        self._cached = 0
        self._most = cache_bytes

    def __getitem__(self, name: str) -> str | Text:
        return self.document(self._number(name))

    def document(self, number: int) -> str | Text:
        with self._lock:
            text = self._cache.get(number)
            if text is not None:
                self._cache.move_to_end(number)
                return text
        text = self._library.open_text(self._library.index[number])
        if isinstance(text, Text) and isinstance(text.source, Encoded):
            text.source.number = number
        self._keep(number, text)
        return text

    def cached(self) -> list[tuple[int, str | Text]]:
        """The documents that are in memory, by number, the last used first."""
        with self._lock:
            return list(self._cache.items())[::-1]

    def _number(self, name: str) -> int:
        if not isinstance(name, str):
            raise TypeError(
                f"context is a mapping from document name (str) to text: it has no {type(name).__name__} index. "
                "Names: list(context)[:10]; one document: context[name]; all: for name, text in context.items()"
            )
        number = self._library.index.names.number(name)
        if number is None:
            raise NoSuchDocument(f"no document is named {name!r}. {self._suggestion(name)}")
        return number

    def _suggestion(self, name: str) -> str:
        from difflib import get_close_matches

        names = self._library.index.names
        base = name.rsplit("/", 1)[-1].lower()
        near = [other for other in names if base and base in other.lower()][:5]
        near = near or get_close_matches(name, names[:5000], n=3)
        if near:
            return "Near: " + ", ".join(map(repr, near))
        return "The first names: " + ", ".join(map(repr, names[:3]))

    def _keep(self, number: int, text: str | Text) -> None:
        size = weight(text)
        if size > self._most // 4:
            return
        with self._lock:
            if number not in self._cache:
                self._cached += size
            self._cache[number] = text
            while self._cached > self._most:
                self._cached -= weight(self._cache.popitem(last=False)[1])

    def __iter__(self) -> Iterator[str]:
        return iter(self._library.index.names)

    def __len__(self) -> int:
        return len(self._library.index)

    def __contains__(self, name: object) -> bool:
        return name in self._library.index.names

    def __repr__(self) -> str:
        plural = "" if len(self) == 1 else "s"
        return f"<Documents: {len(self):,} document{plural}, {size_words(self._library.index.total)}; keys() are names>"

    def get(self, name: str, default: Any = None) -> Any:
        """The document, or `default`, without a search for names that are near."""
        number = self._library.index.names.number(name) if isinstance(name, str) else None
        return default if number is None else self.document(number)

    def items(self) -> Items:
        return Items(self)

    def values(self) -> Values:
        return Values(self)

    def names(self, pattern: str = "*") -> list[str]:
        """The names that match a glob; `*` matches `/` too."""
        return [name for name in self if fnmatchcase(name, pattern)]

    def size(self, name: str) -> int:
        """A document's bytes, without reading it."""
        return self._library.index.size(self._number(name))

    def grep(self, pattern: Any, **options: Any) -> Hits:
        """`grep(pattern, context, **options)`: matching lines of all documents."""
        return grep(pattern, self, **options)

    def grep_count(self, pattern: Any, **options: Any) -> Any:
        """`grep_count(pattern, context, **options)`: how many lines of all documents match."""
        return grep_count(pattern, self, **options)

    def is_huge(self, name: str) -> bool:
        """Whether a document is a Text."""
        return self.size(name) > self._library.text_limit

    def unshared(self) -> Documents:
        """The same for a forked process: with no lock that another thread may have held, and no cache."""
        made = Documents.__new__(Documents)
        made._library = Library(self._library.index, self._library.text_limit)
        made._lock, made._cache = Lock(), OrderedDict()
        made._cached = made._most = 0
        return made

    def __setitem__(self, name: object, value: object) -> NoReturn:
        raise ReadOnly("context is read-only; keep results in variables of your own")

    def __delitem__(self, name: object) -> NoReturn:
        raise ReadOnly("context is read-only; select with a dict of your own")

    def __reduce__(self) -> NoReturn:
        raise TypeError("context cannot be pickled; a forked process already has it, so pass names and not documents")


class Items(ItemsView[str, "str | Text"]):
    """Goes through the documents without looking each name up."""

    _mapping: Documents

    def __iter__(self) -> Iterator[tuple[str, str | Text]]:
        for number, name in enumerate(self._mapping):
            yield name, self._mapping.document(number)


class Values(ValuesView["str | Text"]):
    _mapping: Documents

    def __iter__(self) -> Iterator[str | Text]:
        return map(self._mapping.document, range(len(self._mapping)))


def weight(text: str | Text) -> int:
    """Bytes that a cached document takes, with its entry in the cache."""
    return text.__sizeof__() + ENTRY_BYTES


# -- attaching


def has_text(index: Index, text_limit: int) -> bool:
    """Whether any document is too large to be a str."""
    return index.largest() > text_limit


def attach(
    index: Index, text_limit: int, cache_bytes: int = CACHE_BYTES
) -> tuple[str | Text | Documents, dict[str, Any]]:
    """Open the corpus: `context`, and the fields of the `attached` frame. Raises `ContextError`."""
    library = Library(index, text_limit)
    try:
        proofs = [
            (file, *library.store.proof(index.path(number), size))
            for number, (file, size) in enumerate(zip(index.files, index.extents()))  # noqa: B905 - Python 3.9
        ]
        sizes = {file: size for file, size, _ in proofs}
        check_ranges(index, sizes)
        if len(index) == 1:
            text, facts = attach_one(library)
            return text, {"documents": 1, "bytes": index.total, "proof": proofs, **facts}
        facts = {"documents": len(index), "bytes": index.total, "proof": proofs, **measure(library)}
        return Documents(library, cache_bytes), facts
    except LookupError as error:
        raise ContextError("encoding", str(error)) from error
    except OSError as error:
        raise ContextError("unreadable", f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")) from error


def check_ranges(index: Index, sizes: dict[str, int]) -> None:
    """Every document lies within its file: a shorter file than the host saw is not the host's file."""
    ends = [sizes[file] for file in index.files]
    number = index.beyond(ends)
    if number is not None:
        entry, have = index[number], ends[index.file_of(number)]
        raise ContextError("unreadable", f"{entry.name}: expected {entry.size} bytes, the file has only {have}")


def counting(context: str | Text | Documents) -> Callable[[], bool] | None:
    """One step of counting a huge text's characters, which makes its first `len` quick; None: nothing to count."""
    source = context._source if isinstance(context, Text) else None
    return source.look_further if isinstance(source, Encoded) else None


def attach_one(library: Library) -> tuple[str | Text, dict[str, Any]]:
    entry = library.index[0]
    if entry.size > library.text_limit:
        source, lines = library.open_source(entry)
        facts = {
            "kind": "text",
            "chars": None,
            "lines": lines,
            "lines_exact": False,
            "lossy": count_lossy(source.lossy),
        }
        return Text(source, library.text_limit), facts
    text, bad = decode(library.store.read(entry), entry.encoding)
    facts = {"kind": "str", "chars": len(text), "lines": count_lines(text), "lines_exact": True, "lossy": int(bad)}
    return text, facts


def count_lossy(lossy: bool | None) -> int | None:
    return None if lossy is None else int(lossy)


def count_lines(text: str) -> int:
    """Lines as an editor counts them: the last one needs no newline."""
    return text.count("\n") + bool(text and not text.endswith("\n"))


def measure(library: Library) -> dict[str, Any]:
    """Lines, characters and lossy documents: exact for a small corpus, else from documents spread over all of it."""
    index = library.index
    total = index.total
    exact = total <= MEASURE_BYTES
    step = 1 if exact else max(1, len(index) // 64)
    seen = chars = lines = lossy = 0
    for number in range(0, len(index), step):
        entry = index[number]
        most = None if exact else MEASURE_BYTES // 64
        data = library.store.read(entry, most) if entry.size else b""
        text, bad = decode(data, entry.encoding)
        seen += len(data)
        chars += len(text)
        lines += count_lines(text)
        # The beginning of a document may end inside of a character, which has four bytes at most.
        ends = range(1, 4) if bad and len(data) < entry.size else ()
        lossy += bad and all(decode(data[:-cut], entry.encoding)[1] for cut in ends)
    return {
        "kind": "documents",
        "chars": chars if exact else None,
        "lines": lines if exact else round(lines * total / max(seen, 1)),
        "lines_exact": exact,
        "lossy": lossy if exact or lossy else None,
    }
