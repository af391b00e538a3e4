"""`estimate_tokens`: how many tokens a text has, told by its letters, digits and scripts, without a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .encoded import Encoded
from .pieces import of_str
from .sampling import strata
from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SAMPLED = 1 << 18
"""Characters that are looked at."""
PLACES = 64

WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
DIGITS = re.compile("[0-9]+")
SIGNS = re.compile(r"[!-/:-@\[-`{-~]+\n*")
SPACES = re.compile(r"(?<![!-/:-@\[-`{-~\n])\n+|(?<=\s)[ \t]+|[ \t](?=[0-9])")  # the others go with a word or sign
ENGLISH = re.compile(r"\b(?:the|and|of|to|in|is|that|for|it|was)\b")
FEW, PROSE, FOREIGN = 0.06, 0.25, 1.3
"""Prose has few signs among its words; where few of them are English, words take more tokens."""
SCRIPTS = (  # tokens a character, as cl100k_base has them
    (re.compile("[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U0003ffff]+"), 1.15),
    (re.compile("[\u3040-\u30ff\u3000-\u303f\uff00-\uffef]+"), 0.95),
    (re.compile("[\uac00-\ud7af\u1100-\u11ff]+"), 1.1),
    (re.compile("[\u0400-\u052f]+"), 0.55),
    (re.compile("[\u0370-\u03ff\u0590-\u05ff]+"), 1.1),
    (re.compile("[\u0600-\u06ff]+"), 0.85),
    (re.compile("[\u0900-\u0dff]+"), 1.1),
    (re.compile("[\u0e00-\u0fff\u1000-\u10ff]+"), 1.05),
    (re.compile("[\x80-\u036f\u1e00-\u1fff\u2000-\u22ff]+"), 0.9),
    (re.compile("[\u2300-\u2fff\U0001f000-\U0001faff]+"), 2.2),
)


def estimate_tokens(text: Any) -> int:
    """See Helpers.estimate_tokens."""
    if isinstance(text, Mapping):
        return of_documents(text)
    if isinstance(text, Text):
        return of_text(text)
    size = len(of_str(text))
    if size <= SAMPLED:
        return round(weigh(text))
    step = SAMPLED // PLACES
    sampled = [text[at : at + step] for at in places(size - step)]
    return round(sum(map(weigh, sampled)) * size / (step * len(sampled)))


def places(size: int) -> Iterator[int]:
    """Where to look: evenly spread, off any period that the text may have, and the same every time."""
    from random import Random

    return strata(size, PLACES, Random(0))  # noqa: S311 - not a secret


def of_text(text: Text) -> int:
    source, step = text._source, SAMPLED // PLACES
    if type(source) is not Encoded:
        size = len(text)
        return round(sum(weigh(text.piece(at, at + step)) for at in places(size)) * size / (step * min(PLACES, size)))
    sampled = seen = 0.0
    for at in places(max(1, source.size - step)):
        data = source.read(at - at % 4, min(at - at % 4 + step, source.size))
        sampled += weigh(str(data, source.codec, "ignore"))
        seen += len(data)
    return round(sampled * source.size / seen)


def of_documents(documents: Mapping[str, Any]) -> int:
    """Few documents are all looked at; of many, some are, by their bytes."""
    names = list(documents)
    if len(names) <= PLACES:
        return sum(estimate_tokens(documents[name]) for name in names)
    size_of = getattr(documents, "size", None) or (lambda name: len(documents[name]))
    total = sum(map(size_of, names))
    chosen = [names[at] for at in places(len(names))]
    seen = sum(map(size_of, chosen))
    return round(sum(estimate_tokens(documents[name]) for name in chosen) * total / max(seen, 1))


def weigh(text: str) -> float:
    """Tokens of a short text."""
    found = WORDS.findall(text)
    words = sum(map(word_tokens, found))
    digits = sum((len(run) + 2) // 3 for run in DIGITS.findall(text))
    signs = sum(1 + (len(run) - 1) // 3 for run in SIGNS.findall(text))
    spaces = len(SPACES.findall(text))
    prose = digits + signs < PROSE * len(found) and sum(map(len, found)) > 3 * len(found)
    if prose and len(ENGLISH.findall(text)) < FEW * len(found):
        words *= FOREIGN
    if text.isascii():
        return words + digits + signs + spaces
    scripts = sum(cost * sum(map(len, script.findall(text))) for script, cost in SCRIPTS)
    return words + digits + signs + spaces + scripts


def word_tokens(word: str) -> float:
    size = len(word)
    if word.isupper():
        return 1 if size <= 3 else size / 3
    return 1 if size <= 8 else 1 + (size - 8) / 4
