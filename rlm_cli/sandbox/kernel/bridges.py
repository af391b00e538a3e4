"""What teaches the standard library about `Text`: `io.StringIO`, `json`; and what to say where C code wants a str.

`csv.reader` and `csv.DictReader` take any iterable of lines, so that `context.splitlines()` and the stream that
`io.StringIO(context)` gives are enough for them. `re` has its own module, `regex`.
"""

from __future__ import annotations

import io
import json

from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

FIRST = 1 << 16
"""Characters of a first try to read a JSON value."""
TOKEN = 16
"""Characters in which any token but a string ends."""
JSON_LINES = (
    "for row in json_rows(context); JSON lines: for line in context.splitlines(): json.loads(line); one value: "
    "value, at = json.JSONDecoder().raw_decode(context, at), with `at` moved over commas and white space"
)


class TextStream(io.TextIOBase):
    """What io.StringIO(text) is for a Text: a stream that reads, never writes. Offsets count characters.

    `newline` as for StringIO: "\\n" ends lines there only, "" at \\n, \\r and \\r\\n.
    """

    def __init__(self, text: Text, newline: str = "\n") -> None:
        self.text = text
        self._newline = newline
        self._at = 0
        self._lines: Iterator[str] = iter(())

    def _open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def readable(self) -> bool:
        self._open()
        return True

    def seekable(self) -> bool:
        self._open()
        return True

    def tell(self) -> int:
        self._open()
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._open()
        if whence not in (0, 1, 2):
            raise ValueError(f"Invalid whence ({whence}, should be 0, 1 or 2)")
        if offset < 0 and whence == 0:
            raise ValueError(f"Negative seek position {offset}")
        if offset and whence:
            raise OSError("Can't do nonzero cur-relative seeks")
        if whence != 1:
            self._move(len(self.text) if whence == 2 else offset)
        return self._at

    def _move(self, at: int) -> None:
        self._lines = iter(())
        self._at = at

    def read(self, size: int | None = -1, /) -> str:
        self._open()
        if size is None or size < 0:
            rest = self.text.part(self._at)
            found = rest.whole("read()", "read(100_000), or for line in stream") if isinstance(rest, Text) else rest
        else:
            self.text.fits(size, "read(size)", "read(100_000), or for line in stream")
            found = self.text.piece(self._at, self._at + size)
        self._move(self._at + len(found))
        return found

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        self._open()
        line = next(self, "")
        if size is not None and 0 <= size < len(line):
            self._move(self._at - len(line) + size)
            return line[:size]
        return line

    def __next__(self) -> str:  # type: ignore[override]
        line = next(self._lines, None)
        if line is None:
            self._open()
            self._lines = self._following()
            line = next(self._lines)
        self._at += len(line)
        return line

    def _following(self) -> Iterator[str]:
        """The next few lines."""
        size = self.text._window
        while True:
            piece = self.text.piece(self._at, self._at + size)
            final = len(piece) < size
            whole = piece if final else piece[: self._whole(piece)]
            if whole or final:
                return iter(self._cut(whole))
            size = self.text.larger(size, self._at)

    def _whole(self, piece: str) -> int:
        """Where the last line of a piece ends that surely ends in it."""
        if self._newline:
            return piece.rfind("\n") + 1
        return max(piece.rfind("\n"), piece.rfind("\r", 0, -1)) + 1  # a "\r" at the end may be half of an end

    def _cut(self, piece: str) -> list[str]:
        return list(io_string(piece, self._newline))

    def getvalue(self) -> str:
        self._open()
        return self.text.whole("getvalue()")

    def write(self, *_: object) -> NoReturn:
        raise io.UnsupportedOperation("not writable: it reads a Text; write into an io.StringIO() of its own")

    truncate = write


class StringIO(io.StringIO):
    """io.StringIO, which for a Text gives a `TextStream`."""

    def __new__(cls, initial_value: Any = "", newline: str | None = "\n") -> Any:
        if type(initial_value) is not Text:
            return super().__new__(cls)
        if newline in ("\n", ""):
            return TextStream(initial_value, newline or "")
        advice = 'io.StringIO(context, newline="")'
        return io_string(initial_value.whole("io.StringIO() that changes newlines", advice), newline)


io_string = io.StringIO


# -- json


def loads(text: Text, options: dict[str, Any]) -> Any:
    """json.loads."""
    return json_loads(text.whole("the JSON document", JSON_LINES), **options)


def raw_decode(decoder: json.JSONDecoder, text: Text, start: int) -> tuple[Any, int]:
    """JSONDecoder.raw_decode: the value that begins at `start`, and where it ends. Reads no further than it must."""
    size = min(FIRST, text._window)
    while True:
        piece = text.piece(start, start + size)
        final = len(piece) < size
        try:
            value, end = real_raw_decode(decoder, piece)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated string") or error.pos > size - TOKEN
            if final or not cut:
                raise misplaced(error, text, start) from None
        else:
            if final or end < size - len("e+"):  # a number at the end may go on
                return value, start + end
        size = text.larger(size, start)


def misplaced(error: json.JSONDecodeError, text: Text, start: int) -> json.JSONDecodeError:
    """An error in a piece that begins at `start`, with its place in the whole."""
    made = json.JSONDecodeError(error.msg, error.doc, error.pos)
    made.pos = start + error.pos
    made.lineno = text.count("\n", 0, made.pos) + 1
    made.colno = made.pos - text.rfind("\n", 0, made.pos)
    made.args = (f"{made.msg}: line {made.lineno} column {made.colno} (char {made.pos})",)
    return made


json_loads = json.loads
real_raw_decode = json.JSONDecoder.raw_decode


def install() -> None:
    """Put our functions in the place of those that refuse a Text. Done once, in a worker whose corpus has one."""

    def bridged_loads(s: Any, **options: Any) -> Any:
        return loads(s, options) if type(s) is Text else json_loads(s, **options)

    def bridged_load(fp: Any, **options: Any) -> Any:
        if type(fp) is TextStream and fp.tell() == 0:
            return loads(fp.text, options)
        return json_loads(fp.read(), **options)

    def bridged_raw_decode(self: json.JSONDecoder, s: Any, idx: int = 0) -> tuple[Any, int]:
        return raw_decode(self, s, idx) if type(s) is Text else real_raw_decode(self, s, idx)

    for where, name, ours in (
        (json, "loads", bridged_loads),
        (json, "load", bridged_load),
        (json.JSONDecoder, "raw_decode", bridged_raw_decode),
    ):
        ours.__name__, ours.__doc__ = name, getattr(where, name).__doc__
        setattr(where, name, ours)
    StringIO.__module__, StringIO.__qualname__ = "io", "StringIO"
    setattr(io, "StringIO", StringIO)  # noqa: B010 - a class is no variable
