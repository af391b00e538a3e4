"""The sub-model's role: the part of one passage that the question's words point at, or NOT FOUND."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .question import Question, is_identifier, read_question, stem

NOT_FOUND = "NOT FOUND"
MAX_EXTRACT = 400
SHORT_LINE = 40
ENOUGH_WORDS = 1 / 3

_ASKS = re.compile(r"^\W{0,4}(?:question|query|task|instructions?)\b\W{0,3}?:[ \t]*(.*)", re.IGNORECASE | re.MULTILINE)
_HOLDS = re.compile(
    r"^\W{0,4}(?:passage|context|text|document|input|content|data|chunk|excerpt|line|log|record)s?\b"
    r"[^:\n]{0,80}:[ \t]*\n?",
    re.IGNORECASE | re.MULTILINE,
)
_STAMP = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?")
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_WHEN = re.compile(
    rf"{_STAMP.pattern}|\b\d{{1,2}}\.? {_MONTH}(?: \d{{4}})?|\b{_MONTH} \d{{1,2}}(?:, \d{{4}})?"
    r"|\b\d\d?:\d\d(?::\d\d)?\b"
)
_PAIR = re.compile(
    r"(?<![\w.])([A-Za-z][\w.-]*)=(\"[^\"]*\"|'[^']*'|[^\s,;)\]]+)|\"([\w .-]+)\"\s*:\s*(\"[^\"]*\"|[\w.+-]+)"
)
_LABEL = re.compile(r"^\W{0,4}([A-Za-z][\w /-]{0,40}?)\W{0,2}:\s+(\S.*)$")

# What a word of the question says about the shape of the answer.
_SHAPES: tuple[tuple[str, str], ...] = (
    (r"version|release", r"\bv\d+(?:\.\d+)+[\w-]*|(?<![\w.])\d+(?:\.\d+)+[\w-]*"),
    (r"e-?mail", r"[\w.+-]+@[\w-]+\.[\w.-]+\w"),
    (r"url|link|website", r"https?://[^\s)>\"']+"),
    (r"ip|host|address", r"\b\d{1,3}(?:\.\d{1,3}){3}\b"),
    (r"phone|telephone", r"\+?\d[\d ()/-]{6,}\d"),
    (r"how long|duration|period", r"\b\d[\d.]*\s*(?:ms|s|h|(?:second|min|minute|hour|day|week|month|year)s?)\b"),
    (r"how much|price|cost|amount|total|sum|fee|rent", r"[$€£]\s?\d[\d.,]*\d|\b\d[\d.,]*\s?(?:EUR|USD|GBP|dollars|€)"),
    (r"percent|percentage|rate|share", r"\d+(?:\.\d+)?\s?(?:%|percent)"),
    (r"who|whose|whom", r"\b[A-Z][\w'-]+(?: (?:[a-z]{2,3} )?[A-Z][\w'-]+)+"),
)  # fmt: skip
_NAMES_ONE_THING = re.compile(
    r"\b(?:id|code|number|serial|key|identifier|order|request|reference|token)\b", re.IGNORECASE
)


class Field(NamedTuple):
    """A labelled value: a column of a table row, `key=value`, `Label: value`, a JSON member."""

    label: str
    value: str


def extract(prompt: str) -> str:
    """Answer any prompt that holds a question and a passage: a value, a number, a sentence, or NOT FOUND."""
    asked, passage = split_prompt(prompt)
    question = read_question(asked)
    units = list(split_units(passage))
    if _delimiter(units or [""]):
        del units[0]  # column names are no answer
    found = [[term for term in (*question.exact, *question.words) if holds(unit, term, question)] for unit in units]
    if not _enough(question, found):
        return NOT_FOUND
    if question.kind == "count":
        return str(_count(question, found))
    best = _best(question, found)
    value = _field(question, units[best], passage) or _shape(question, units[best])
    return value or units[best].strip()[:MAX_EXTRACT]


def split_prompt(prompt: str) -> tuple[str, str]:
    """The question and the passage of a prompt in whatever layout."""
    held = _HOLDS.search(prompt)
    if held and (asked := _ASKS.search(prompt, 0, held.start())):
        return prompt[asked.start(1) : held.start()].strip(), prompt[held.end() :]
    if asked := _ASKS.search(prompt):
        rest = prompt[: asked.start()] + prompt[asked.end() :]
        return asked[1].strip() or rest.strip().split("\n")[0], rest
    if held:
        return prompt[: held.start()].strip(), prompt[held.end() :]
    first, _, rest = prompt.strip().partition("\n")
    if "?" in first or not rest:
        return first, rest
    body, _, last = prompt.strip().rpartition("\n")
    return (last, body) if "?" in last else (first, rest)


def split_units(passage: str) -> Iterator[str]:
    """Lines; where lines are wrapped prose or very long, sentences."""
    for block in re.split(r"\n[ \t]*\n", passage):
        lines = [line for line in block.split("\n") if line.strip()]
        wrapped = sum(_goes_on(before, after) for before, after in itertools.pairwise(lines))
        if wrapped * 2 > len(lines) - 1 or len(block) > MAX_EXTRACT * max(1, len(lines)):
            yield from re.split(r"(?<=[.!?])\s+(?=[\"'“(]?[A-Z0-9])", " ".join(line.strip() for line in lines))
        else:
            yield from lines


def _goes_on(before: str, after: str) -> bool:
    """Whether `after` reads like the rest of the sentence in `before`, and not like the next record."""
    if len(before) < SHORT_LINE or before.rstrip()[-1] in ".:;|,}" or _PAIR.search(before):
        return False
    return re.match(r"[a-z(][^\s:=]*(?:\s|$)", after) is not None


def holds(unit: str, term: str, question: Question) -> bool:
    """Whether `unit` has `term`: exact ones whole, words as the beginning of a word."""
    end = r"(?!\w)" if term in question.exact else ""
    return re.search(rf"(?<!\w){re.escape(term)}{end}", unit.lower()) is not None


def _enough(question: Question, found: list[list[str]]) -> bool:
    seen = {term for terms in found for term in terms}
    if question.exact:
        return bool(seen & set(question.exact))
    return bool(seen) and len(seen) >= len(question.words) * ENOUGH_WORDS


def _count(question: Question, found: list[list[str]]) -> int:
    """Units that hold every term of the question that occurs at all."""
    seen = {term for terms in found for term in terms} & set(question.terms)
    return sum(seen <= set(terms) for terms in found)


def _best(question: Question, found: list[list[str]]) -> int:
    """The unit with the rarest terms, exact ones before all; of equals the first, or the last if that is asked."""
    often = {term: sum(term in terms for terms in found) for terms in found for term in terms}
    weight = {term: math.log(1 + len(found) / n) * (2 if term in question.exact else 1) for term, n in often.items()}
    scores = [sum(weight[term] for term in terms if term in question.terms) for terms in found]
    order = range(len(scores)) if question.pick != "last" else reversed(range(len(scores)))
    return max(order, key=lambda n: (any(term in question.exact for term in found[n]), scores[n]))


def _field(question: Question, unit: str, passage: str) -> str:
    """The value whose label is what the question asks for: in the unit itself, else in the passage's own header."""
    around = (field for line in passage.split("\n") for field in _labels(line))
    for fields in (_row(unit, passage), _pairs(unit), _labels(unit), around):
        if value := _labelled(question.target, fields):
            return value
    return ""


def _labelled(target: tuple[str, ...], fields: Iterable[Field]) -> str:
    """The value of the best fitting label: most words of the target, then fewest words of its own beside them."""
    best, value = (0.0, 0.0), ""
    for field in fields:
        parts = re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", field.label).lower())
        hits = sum(1 / (1 + n) for n, word in enumerate(target) if any(_same(part, word) for part in parts))
        if field.value and hits and (hits, -len(parts)) > best:
            best, value = (hits, -float(len(parts))), field.value
    return value


def _same(part: str, word: str) -> bool:
    """Whether a label's word means the question's: equal, another form, or its usual short form (req, cust)."""
    return part == word or stem(part) == stem(word) or (len(part) > 2 and word.startswith(part))


def _row(unit: str, passage: str) -> Iterator[Field]:
    """The unit's cells under the column names in the passage's first line, when the passage is a table."""
    head = passage.lstrip("\n").split("\n", 1)[0]
    if delimiter := _delimiter(passage.strip("\n").split("\n")):
        names, cells = _cells(head, delimiter), _cells(unit, delimiter)
        if len(names) == len(cells):
            yield from map(Field, names, cells)


def _delimiter(lines: list[str]) -> str:
    """What separates the columns, when most lines have as many as the first one and that is three or more."""
    for delimiter in ",\t;|":
        columns = lines[0].count(delimiter) + 1
        if columns > 2 and sum(len(_cells(line, delimiter)) == columns for line in lines) * 2 > len(lines) > 1:
            return delimiter
    return ""


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line.strip()], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _pairs(unit: str) -> Iterator[Field]:
    for pair in _PAIR.finditer(unit):
        yield Field(pair[1] or pair[3], (pair[2] or pair[4]).strip("\"'"))


def _labels(line: str) -> Iterator[Field]:
    if (label := _LABEL.match(line)) and not _STAMP.match(line.strip()):
        yield Field(label[1], label[2].strip())


def _shape(question: Question, unit: str) -> str:
    """A value of the shape that the question's words announce: a time, a version, an amount, an identifier."""
    if question.asks_when:
        when = _WHEN.search(unit)
        return when[0] if when else ""
    rest = _STAMP.sub(" ", unit)
    asked = question.text.lower()
    for words, shape in _SHAPES:
        if re.search(rf"\b(?:{words})s?\b", asked) and (found := re.search(shape, rest)):
            return found[0].strip()
    if question.kind == "value" and _NAMES_ONE_THING.search(asked):
        tokens = re.findall(r"\w[\w./-]*\w", rest)
        return next((t for t in tokens if is_identifier(t) and any(map(str.isdigit, t)) and t.lower() not in asked), "")
    return ""
