"""`csv_rows` and `json_rows`: tables and JSON read as a stream, from texts of any size."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping
from io import StringIO
from itertools import chain, islice

from .pieces import of_str
from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DELIMITERS = ",;\t|"
SNIFFED = 1 << 16
"""Characters that the delimiter is told by."""
FIELD = 1 << 20
"""Characters of one field; a longer one is a quotation mark that is never closed."""
WINDOW = 1 << 20
"""Characters of a str that are read at a time."""
LITERAL = 10
"""Characters in which the longest literal ends (-Infinity)."""
BETWEEN = re.compile(r"[\s,]*")
SHOWN = 20
"""Bad rows that are kept."""


class BadRow:
    """A row that could not be read as it should be. It is false.

    `document`, `line`: where it ends (the line's number, from 1); `error`: why; `text`: its beginning.
    """

    def __init__(self, document: str, line: int, error: str, text: str) -> None:
        self.document, self.line, self.error, self.text = document, line, error, text[:500]

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"{self.document}:{self.line}: {self.error}: {self.text[:80]!r}".lstrip(":")


class Rows(Iterator["Any"]):
    """The rows of a text, or of all documents of a mapping one after the other, read once.

    `bad`: how many could not be read as they should be; `bad_rows`: the first 20 of them. Of the row read last:
    `document`, and `line`, where it ends (number, from 1).
    """

    what = ""

    def __init__(self, text: Any) -> None:
        self._texts = text.items() if isinstance(text, Mapping) else [("", text)]
        self.document = ""
        self.line = 0
        self.bad = 0
        self.bad_rows: list[BadRow] = []
        self._rows = self._all()

    def __iter__(self) -> Iterator[Any]:
        return self._rows  # without a step through __next__ for each row

    def __next__(self) -> Any:
        return next(self._rows)

    def _all(self) -> Iterator[Any]:
        for name, text in self._texts:
            self.document = name
            yield from self._read(text if isinstance(text, Text) else of_str(text))
        if self.bad:
            first = ", ".join(f"{row.document}:{row.line}".lstrip(":") for row in self.bad_rows[:5])
            sys.stderr.write(f"[{self.what}] {self.bad:,} bad rows, see .bad_rows; the first are at line {first}\n")

    def _read(self, text: str | Text) -> Iterator[Any]:
        raise NotImplementedError

    def _note(self, line: int, error: str, text: str) -> None:
        self.bad += 1
        if len(self.bad_rows) < SHOWN:
            self.bad_rows.append(BadRow(self.document, line, error, text))

    def __repr__(self) -> str:
        return f"<{self.what}: an iterator; for row in rows, next(rows), islice>"


def part_of(text: str | Text, start: int, stop: int) -> str:
    return text.piece(start, stop) if isinstance(text, Text) else text[start:stop]


def windows(text: str | Text, start: int = 0, line_ends: str = "\n") -> Iterator[str]:
    """A text from a place on, in parts that end where a line ends."""
    most = text._window if isinstance(text, Text) else WINDOW
    size = most
    while True:
        part = part_of(text, start, start + size)
        final = len(part) < size
        end = len(part) if final else 0
        for mark in line_ends:
            end = end or part.rfind(mark, 0, len(part) - (mark != "\n")) + 1
        if end:
            yield part[:end]
            start, size = start + end, most
        elif not final:
            size = text.larger(size, start) if isinstance(text, Text) else 2 * size
        if final:
            return


# -- CSV


class CsvLines:
    """The lines of a text from a place on, as csv wants them; remembers where its parts began."""

    def __init__(self, text: str | Text, start: int) -> None:
        self._text = text
        self._start = start
        self._parts: list[tuple[int, int]] = []
        self.reader: Any = None

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._files())

    def _files(self) -> Iterator[StringIO]:
        start = self._start
        for part in windows(self._text, start, "\n\r"):
            self._parts.append((self.reader.line_num, start))
            yield StringIO(part, newline="")
            start += len(part)

    def line_at(self, number: int) -> tuple[int, str]:
        """Where a line that has been read begins, and the line; the first has number 0."""
        first, start = [part for part in self._parts if part[0] <= number][-1]
        for line in chain.from_iterable(StringIO(part, newline="") for part in windows(self._text, start, "\n\r")):
            if first == number:
                return start, line
            first, start = first + 1, start + len(line)
        raise AssertionError("the line has been read before")


class CsvRows(Rows):
    """As `Rows`; `fieldnames`: the columns, `delimiter`: what is between them."""

    what = "csv_rows"

    def __init__(self, text: Any, delimiter: str | None, fieldnames: Any, options: dict[str, Any]) -> None:
        csv.reader((), delimiter=delimiter or ",", **options)  # a mistake in them shows at once
        super().__init__(text)
        self._wanted = delimiter
        self._given = None if fieldnames is None else list(fieldnames)
        self._options = options
        self._names = self._given
        self._before = 0
        self._reader: Any = None
        self.delimiter = delimiter

    @property
    def fieldnames(self) -> list[str]:
        if self._names is None:
            first = next(self._rows, None)
            self._rows = chain([] if first is None else [first], self._rows)
        return self._names or []

    @property
    def line(self) -> int:
        return self._before + (self._reader.line_num if self._reader is not None else 0)

    @line.setter
    def line(self, _: int) -> None:
        pass

    def _read(self, text: str | Text) -> Iterator[Any]:
        csv.field_size_limit(max(csv.field_size_limit(), FIELD))
        start = int(text[:1] == "\ufeff")
        self.delimiter = self._wanted or sniff(part_of(text, start, SNIFFED), self._options)
        self._names, self._before = self._given, 0
        while True:
            lines = CsvLines(text, start)
            reader = lines.reader = self._reader = self._csv(lines)
            done = 0
            try:
                for row in reader:
                    if self._names is not None and len(row) == len(self._names):
                        yield dict(zip(self._names, row))  # noqa: B905 - Python 3.9
                    elif row:
                        yield from self._unlike(row)
                    done = reader.line_num
                return
            except csv.Error as error:  # mostly a quotation mark that nothing closes: only its line is bad
                start, line = lines.line_at(done)
                self._before, self._reader = self._before + done + 1, None
                self._note(self._before, str(error), line)
                yield from self._unquoted(line)
                start += len(line)

    def _csv(self, lines: Any, **options: Any) -> Any:
        return csv.reader(lines, **{**self._options, "delimiter": self.delimiter, **options})

    def _unlike(self, row: list[str]) -> Iterator[dict[Any, Any]]:
        """The header, or a row with another number of fields, noted."""
        names = self._names
        if names is None:
            self._names = unique(row)
            return
        if len(row) != len(names):
            self._note(self.line, f"{len(row)} fields instead of {len(names)}", str(row))
        yield fitted(names, row)

    def _unquoted(self, line: str) -> Iterator[dict[Any, Any]]:
        try:
            row: list[str] = next(self._csv([line], quoting=csv.QUOTE_NONE), [])
        except csv.Error:
            return
        if self._names is None:
            self._names = unique(row)
        elif row:
            yield fitted(self._names, row)


def fitted(names: list[str], row: list[str]) -> dict[Any, Any]:
    """As csv.DictReader has it: fields that are missing are None, those too many are a list under the key None."""
    fields: dict[Any, Any] = dict.fromkeys(names)
    fields.update(zip(names, row))  # noqa: B905 - Python 3.9
    if len(row) > len(names):
        fields[None] = row[len(names) :]
    return fields


def unique(header: list[str]) -> list[str]:
    """Names for the columns: one that is missing or there before gets a number."""
    names: list[str] = []
    for number, name in enumerate(header, 1):
        made = name or f"column_{number}"
        while made in names:
            made = f"{name or 'column'}_{number}"
            name = made
        names.append(made)
    return names


def sniff(head: str, options: dict[str, Any]) -> str:
    """The delimiter by which most of the first rows have the same number of columns, more than one; else ","."""

    def score(delimiter: str) -> tuple[float, int]:
        reader = csv.reader(StringIO(head, newline=""), **{**options, "delimiter": delimiter})
        try:
            widths = [len(row) for row in islice(reader, 100) if row]
        except csv.Error:
            return 0.0, 0
        widths = widths[:-1] if len(widths) > 2 else widths  # the last one may be cut
        usual = max(set(widths), key=widths.count, default=0)
        return (widths.count(usual) / len(widths), usual) if usual > 1 else (0.0, 0)

    return max(DELIMITERS, key=score)


# -- JSON


class JsonRows(Rows):
    """As `Rows`; `start`: the character at which the value read last begins, or the line that it is in."""

    what = "json_rows"
    start = 0

    def _read(self, text: str | Text) -> Iterator[Any]:
        self.line = 0
        start = int(text[:1] == "\ufeff")
        array = array_start(text, start)
        return self._lines(text, start) if array is None else self._items(text, array)

    def _lines(self, text: str | Text, start: int) -> Iterator[Any]:
        decode = json.JSONDecoder().decode
        number = 0
        for part in windows(text, start):
            lines = part.split("\n")
            if not lines[-1]:
                lines.pop()
            for line in lines:
                number += 1
                try:
                    value = decode(line)
                except (ValueError, RecursionError) as error:
                    if line.strip():
                        self._note(number, str(error), line)
                else:
                    self.line, self.start = number, start
                    yield value
                start += len(line) + 1

    def _items(self, text: str | Text, start: int) -> Iterator[Any]:
        """The items of one array, the first of which is behind `start`."""
        decode = json.JSONDecoder().raw_decode
        size = most = text._window if isinstance(text, Text) else WINDOW
        while True:
            window = part_of(text, start, start + size)
            final, at = len(window) < size, 0
            while True:
                at = BETWEEN.match(window, at).end()  # type: ignore[union-attr]
                if window[at : at + 1] == "]":
                    return
                try:
                    value, end = decode(window, at)
                except ValueError as error:
                    if final or not is_cut(error, len(window)):
                        raise ValueError(
                            f"json_rows: the array is broken at character {start + at:,}: {error}"
                        ) from None
                    break
                if end > len(window) - LITERAL and not final:  # a number may go on
                    break
                self.start = start + at
                yield value
                at = end
            if at:
                start, size = start + at, most
            else:
                size = text.larger(size, start) if isinstance(text, Text) else 2 * size


def is_cut(error: ValueError, size: int) -> bool:
    """Whether a JSON text of `size` characters may only be wrong because it ends."""
    return getattr(error, "pos", 0) >= size - LITERAL or str(error).startswith("Unterminated string")


def array_start(text: str | Text, start: int) -> int | None:
    """Where the items of the array begin, when a text is one; None: it has a value on each line."""
    head = part_of(text, start, start + SNIFFED)
    blank = len(head) - len(head.lstrip())
    if head[blank : blank + 1] != "[":
        return None
    start += blank
    end = text.find("\n", start)
    if 0 <= end <= start + WINDOW and part_of(text, end, end + SNIFFED).strip():
        try:
            json.loads(part_of(text, start, end))
        except ValueError:
            return start + 1
        return None
    return start + 1
