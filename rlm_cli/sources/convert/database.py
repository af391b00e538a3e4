"""SQLite by the standard library: rows as JSON lines, one at a time."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable

from .output import Output


def sqlite(source: int, ready: Callable[[], None], output: Output) -> None:
    """`schema.sql`, and each table as `NAME.jsonl`. Views are in the schema only: what they say is code."""
    # immutable: no journal is looked for, no lock is taken. The file is opened here and read later.
    base = sqlite3.connect(f"file:/dev/fd/{source}?mode=ro&immutable=1", uri=True, isolation_level=None)
    ready()
    base.text_factory = lambda data: data.decode("utf-8", "replace")
    for setting in ("trusted_schema=OFF", "cell_size_check=ON", "temp_store=MEMORY", "mmap_size=0"):
        base.execute(f"PRAGMA {setting}")
    schema = base.execute("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
    entries = schema.fetchall()
    output.part("schema.sql")
    for _, _, sql in entries:
        if sql:
            output.line(f"{sql};")
    for kind, name, sql in entries:
        if kind == "table" and not str(sql).upper().startswith("CREATE VIRTUAL"):
            table(base, str(name), output)


def table(base: sqlite3.Connection, name: str, output: Output) -> None:
    """The rows of one table."""
    output.part(f"{name}.jsonl")
    quoted = name.replace('"', '""')
    cursor = base.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608
    columns = [column[0] for column in cursor.description]
    for row in cursor:
        values = {column: plain(value) for column, value in zip(columns, row, strict=True)}
        output.line(json.dumps(values, ensure_ascii=False))


def plain(value: object) -> object:
    """A value that JSON can hold."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
