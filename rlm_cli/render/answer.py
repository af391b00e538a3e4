"""The answer on stdout: as it is for programs, rendered for a person."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TextIO

from .look import Look, width_of, writable
from .sanitize import clean, clean_pieces

_READABLE = 100
# Beyond this, laying out Markdown takes seconds and nobody reads it in a terminal.
_LARGE = 200_000


def print_answer(answer: str, stream: TextIO, *, look: Look, raw: bool = False) -> bool:
    """Write `answer`: rendered Markdown on a terminal, else (or with `raw`) the text itself.

    Off a terminal the text goes out as UTF-8, byte for byte, with a final newline when it has none; nothing is
    escaped there. Returns False when the reader has gone (`| head`), which is no error.
    """
    if raw or not look.tty:
        end = "" if answer.endswith("\n") else "\n"
        return write_raw((answer + end).encode("utf-8", "backslashreplace"), stream)
    return _quietly(stream, lambda: _print_rendered(answer, stream, look))


def print_pieces(
    pieces: Iterable[bytes], stream: TextIO, *, look: Look, raw: bool = False, exact: bool = False
) -> bool:
    """Write a large answer, UTF-8, as its pieces come, without holding it: escaped on a terminal, else (or with `raw`)
    as it is. Ended by a newline, unless it is bytes (`exact`) and not for a terminal. Returns as `print_answer`."""
    if raw or not look.tty:
        return _quietly(stream, lambda: _write_all(pieces if exact else _ended(pieces), stream))
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    texts = clean_pieces(map(decoder.decode, _ended(pieces)))
    return _quietly(stream, lambda: writable(stream, look).writelines(texts))


def _ended(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """With a final newline."""
    last = b""
    for piece in pieces:
        yield piece
        last = piece[-1:] or last
    if last != b"\n":
        yield b"\n"


def _write_all(pieces: Iterable[bytes], stream: TextIO) -> None:
    stream.flush()
    for piece in pieces:
        stream.buffer.write(piece)
    stream.buffer.flush()


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


def _quietly(stream: TextIO, write: Callable[[], None]) -> bool:
    try:
        write()
        stream.flush()
    except BrokenPipeError:
        _abandon(stream)
        return False
    except (KeyboardInterrupt, SystemExit):
        _abandon(stream)
        raise
    return True


def _abandon(stream: TextIO) -> None:
    """Python flushes again at exit, and would complain, or wait for a reader: what is left goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _print_rendered(answer: str, stream: TextIO, look: Look) -> None:
    text = clean(answer).strip("\n")
    if len(text) > _LARGE or _is_json(text):
        writable(stream, look).write(text + "\n")
        return
    from .markdown import render_markdown

    width = min(width_of(stream, look), _READABLE)
    writable(stream, look).write(render_markdown(text, replace(look, width=width)))


def _is_json(text: str) -> bool:
    if not text.startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
