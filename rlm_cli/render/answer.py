"""The answer on stdout: as it is for programs, rendered for a person."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, TextIO

from .look import Look, console_for, width_of
from .sanitize import clean

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_READABLE = 100


def print_answer(answer: str, stream: TextIO, *, look: Look, raw: bool = False) -> bool:
    """Write `answer`: rendered Markdown on a terminal, else (or with `raw`) the text itself.

    Off a terminal the text goes out as UTF-8, byte for byte, with a final newline when it has none; nothing is
    escaped there. Returns False when the reader has gone (`| head`), which is no error.
    """
    if raw or not look.tty:
        end = "" if answer.endswith("\n") else "\n"
        return write_raw((answer + end).encode("utf-8", "backslashreplace"), stream)
    return _quietly(stream, lambda: _print_rendered(answer, stream, look))


def write_raw(data: bytes, stream: TextIO) -> bool:
    """`data` as it is, and nothing else. Returns False when the reader has gone."""

    def write() -> None:
        buffer = getattr(stream, "buffer", None)
        if buffer is None:  # a text-only stream
            stream.write(data.decode("utf-8", "backslashreplace"))
        else:
            stream.flush()
            buffer.write(data)
            buffer.flush()

    return _quietly(stream, write)


def _quietly(stream: TextIO, write: object) -> bool:
    assert callable(write)
    try:
        write()
        stream.flush()
    except BrokenPipeError:
        # Python flushes again at exit and would complain: what is left goes nowhere.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return False
    return True


def _print_rendered(answer: str, stream: TextIO, look: Look) -> None:
    from rich.text import Text

    console = console_for(stream, look)
    console.width = min(width_of(stream, look), _READABLE)
    text = clean(answer).strip("\n")
    if _is_json(text):
        console.print(Text(text), soft_wrap=True)
    else:
        console.print(_markdown(text))


def _is_json(text: str) -> bool:
    if not text.startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
