"""Parquet by arro3 (Apache Arrow in Rust): rows as JSON lines, a batch at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import arro3.core
import arro3.io

from .output import Output

BATCH = 1024
NEEDED = arro3.core
"""The reader makes objects of it; nothing can be imported once a file is read."""


class Sink(io.RawIOBase):
    """The output as the file that arro3 wants."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Bytes as they are."""
        return self._output.write(data)


def kind(of: object) -> str:
    """`Int64` for what shows itself as `arro3.core.DataType<Int64>`."""
    return str(of).partition("<")[2].strip().removesuffix(">")


def parquet(source: int, ready: Callable[[], None], output: Output) -> None:
    """`schema.txt`, and `rows.jsonl`."""
    ready()
    with os.fdopen(source, "rb", closefd=False) as file:
        rows = arro3.io.read_parquet(file, batch_size=BATCH)
        output.part("schema.txt")
        for field in rows.schema:
            output.line(f"{field.name}: {kind(field.type)}{'' if field.nullable else ' not null'}")
        output.part("rows.jsonl")
        arro3.io.write_ndjson(rows, Sink(output), explicit_nulls=True)
