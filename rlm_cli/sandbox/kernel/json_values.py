"""JSON found in what a model says: the one reading of it, in the kernel and on the host."""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

FENCE = re.compile(r"(?:```|~~~)[^\n`~]*\n(.*?)(?:```|~~~)", re.S)
THOUGHT = re.compile(r"</(?:think|thinking|reasoning)>", re.I)
UNFINISHED = re.compile(r"<(?:think|thinking|reasoning)>", re.I)
BRACKET = re.compile(r"[\[{]")
LIKE_JSON = re.compile(r'\{\s*["}]|\[\s*[\[{"\]\d-]')
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.S)
STRAY = 50
"""Brackets of prose, never closed, that are looked behind."""


def no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(strict=False, parse_constant=no_constant)


def parse(text: str) -> Any:
    """`text`, which must be one JSON value. ValueError: it is not. Line ends inside of strings are forgiven."""
    try:
        return DECODER.decode(text.strip())
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def candidates(reply: str) -> Iterator[Any]:
    """The JSON values of a reply, the likeliest to be meant first, each once.

    That is: all of it; what a code fence holds, the last one first; objects and arrays among prose, the last one first.
    Thinking does not count, finished or not, unless its tags are inside of a string, and neither do the parts of a
    value that is broken: they are not what was asked for.
    """
    said = UNFINISHED.split(THOUGHT.split(reply)[-1])[0]
    for text in (reply, said):
        try:
            yield parse(text)
        except ValueError:
            continue
        return
    for match in reversed([*FENCE.finditer(said)]):
        try:
            yield parse(match[1])
        except ValueError:
            continue
    yield from reversed([*among_prose(said)])


def among_prose(text: str) -> Iterator[Any]:
    """The outermost objects and arrays of `text`, in order."""
    place, stray = 0, 0
    while match := BRACKET.search(text, place):
        start = match.start()
        try:
            value, place = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = end_of_brackets(text, start)
            if place < 0:  # a value that breaks off; or prose, as in "[0, 1)"
                stray += 1
                if stray > STRAY or LIKE_JSON.match(text, start):
                    return
                place = start + 1
        else:
            yield value


def end_of_brackets(text: str, start: int) -> int:
    """Where what the bracket at `start` opens is closed; -1: nowhere."""
    depth = 0
    for token in TOKEN.finditer(text, start):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
            if not depth:
                return token.end()
    return -1


def why_no_json(reply: str) -> str:
    """What to tell of a reply in which no JSON was found."""
    said = THOUGHT.split(reply)[-1]
    match = LIKE_JSON.search(said)
    if match is None:
        return "it holds no JSON" if said.strip() else "it is empty"
    try:
        DECODER.raw_decode(said, match.start())
    except json.JSONDecodeError as error:
        left = len(said.rstrip()) - error.pos
        return (
            "its JSON breaks off at the end"
            if left <= 1
            else f"its JSON is broken: {error.msg} at {said[error.pos :][:40]!r}"
        )
    except (ValueError, RecursionError) as error:
        return f"its JSON is broken: {error}"
    return "it holds no JSON"


def form_of(schema: str) -> str:
    """What stands below a prompt whose reply must satisfy a JSON Schema."""
    return f"\n\nReply with JSON only, no other text. It must satisfy this JSON Schema:\n{schema}"
