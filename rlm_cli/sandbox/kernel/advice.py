"""What is added to an error that a cell could not know how to avoid: out of memory, a Text where C wants a str, or what
the sandbox does not let it do."""

from __future__ import annotations

import errno
import os
import sys
from itertools import islice

from .display import clip, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LARGE = 1 << 20
"""Bytes from which on a variable is worth naming."""
SAMPLE = 100
"""Items of a container that are measured."""
REFUSALS = (
    (os.strerror(errno.EAFNOSUPPORT), "There is no network and there are no sockets here."),
    (
        "access permission denied",  # SQLite's words for a lock that fails with EPERM
        "Files cannot be locked here: use sqlite3.connect(':memory:') or ('file:/tmp/name?nolock=1', uri=True).",
    ),
)
"""Words of an error, and what is added to it."""
WORDS = ("'Text'", "not Text", "Text found", "got Text", "a Text")


def advice(error: BaseException, namespace: Mapping[str, Any], most: int | None) -> str:
    """Lines for the end of the traceback, "" for most errors. `most`: bytes of memory that a cell may have."""
    from .text import TextTooLarge

    if isinstance(error, MemoryError) and not isinstance(error, TextTooLarge):
        return out_of_memory(namespace, most)
    said = words_of(error)
    if isinstance(error, TypeError) and any(word in said for word in WORDS):
        return (
            "\n[kernel] A Text is read piece by piece and is not a str. Where a str is needed, pass a slice "
            "(context[a:b]), or each line of context.splitlines(), or each piece of context.chunks(100_000)."
        )
    return next((f"\n[kernel] {told}" for words, told in REFUSALS if words in said), "")


def words_of(error: BaseException) -> str:
    """What an error says; "" when its class is a cell's own and fails at that."""
    try:
        return str(error)
    except BaseException:
        return ""


def out_of_memory(namespace: Mapping[str, Any], most: int | None) -> str:
    limit = f" (a cell may have {most / 1e6:,.0f} MB)" if most else ""
    told = (
        f"\n[kernel] Out of memory{limit}. Variables are kept. Go through the input in pieces and keep only what you "
        "need: for line in context.splitlines(), for piece in context.chunks(100_000), grep(pattern), "
        "re.finditer(pattern, context); never list(), sorted() or join() of all of a Text."
    )
    found = largest(namespace)
    if found:
        shown = ", ".join(
            f"{clip(name, 60)} ({describe(value)}, about {size / 1e6:,.0f} MB)" for size, name, value in found
        )
        told += f"\n[kernel] The largest variables, which `del` would free: {shown}"
    return told


def largest(namespace: Mapping[str, Any], count: int = 3) -> list[tuple[int, str, Any]]:
    """(bytes, name, value) of the largest variables, by size."""
    sizes = [(size_of(value), name, value) for name, value in list(namespace.items()) if not name.startswith("_")]
    return sorted((each for each in sizes if each[0] >= LARGE), key=lambda each: -each[0])[:count]


def size_of(value: Any) -> int:
    """Bytes of a value of a built-in type and, of a container, its items: from a sample of them. 0: not known."""
    kind = type(value)
    if kind in (str, bytes, bytearray):
        return sys.getsizeof(value)
    if kind not in (list, tuple, set, frozenset, dict) or not value:
        return 0
    items = list(islice(value.items() if kind is dict else value, SAMPLE))
    if kind is dict:
        items = [half for item in items for half in item]
    each = sum(map(sys.getsizeof, items)) * (2 if kind is dict else 1) // len(items)
    return sys.getsizeof(value) + each * len(value)
