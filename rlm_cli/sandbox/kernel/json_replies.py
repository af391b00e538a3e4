"""Sub-models' replies as values: JSON found in what they say, checked, and asked for again when it is not right."""

from __future__ import annotations

import json
import re

from .calls import FailedCall
from .schemas import Schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from typing import Any

REPAIRS = 2
"""How often a reply that is not right is asked for again."""
REASON_MAX = 600
FENCE = re.compile(r"(?:```|~~~)[^\n`~]*\n(.*?)(?:```|~~~)", re.S)
THOUGHT = re.compile(r"</think(?:ing)?>", re.I)
UNFINISHED = re.compile(r"<think(?:ing)?>", re.I)
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
    Thinking does not count, and neither do the parts of a value that is broken: they are not what was asked for.
    """
    said = THOUGHT.split(reply)[-1].strip()
    said = UNFINISHED.split(said)[0] or said
    for text in (said, *reversed([match[1] for match in FENCE.finditer(said)])):
        try:
            yield parse(text)
        except ValueError:
            continue
        if text is said:
            return
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


def value_of(reply: str, schema: Schema) -> tuple[Any, str]:
    """(the value that a reply holds, "") or (None, why there is none that satisfies the schema)."""
    wrong = ""
    for value in candidates(reply):
        errors = schema.errors(value)
        if not errors:
            return value, ""
        wrong = wrong or errors
    return None, wrong or why_no_json(reply)


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


def clipped(reason: str, most: int = REASON_MAX) -> str:
    return reason if len(reason) <= most else f"{reason[:most]}..."


def ask_for_values(prompts: Sequence[str], spec: Any) -> Generator[list[str], Sequence[str], list[Any]]:
    """Yields the prompts to ask and takes their replies, until it returns a value (or FailedCall) for each prompt."""
    schema = Schema(spec)
    form = f"\n\nReply with JSON only, no other text. It must satisfy this JSON Schema:\n{schema.text}"
    results: list[Any] = [None] * len(prompts)
    asked = {index: f"{prompt}{form}" for index, prompt in enumerate(prompts)}
    for attempt in range(1, REPAIRS + 2):
        replies = yield list(asked.values())
        again: dict[int, str] = {}
        for index, reply in zip(asked, replies):  # noqa: B905 - Python 3.9
            if isinstance(reply, FailedCall):
                results[index] = reply
                continue
            results[index], wrong = value_of(reply, schema)
            if wrong:
                results[index] = FailedCall(f"no usable reply in {attempt} attempts: {wrong}", reply)
                # The number keeps a second repair with the same reason from being taken for the first.
                again[index] = (
                    f"{prompts[index]}{form}\n\nYour reply was not usable: {clipped(wrong)}. Reply again, with JSON "
                    f"only (attempt {attempt + 1} of {REPAIRS + 1})."
                )
        asked = again
        if not asked:
            break
    return results
