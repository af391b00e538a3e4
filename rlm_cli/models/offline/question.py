"""What a question asks for, read off its words: what to look for, what kind of answer, which end of the input."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["count", "document", "value", "passage"]
Pick = Literal["best", "first", "last"]


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


STOP_WORDS = _set(
    """a about after all also an and any are as at be because been before being between but by can could did do does
    during each every first for from get gets give given got had has have how i if in into is it its last latest
    earliest list many me much my of off on or our out over please s see show such t tell than that the their them
    then there these they this those through to under up use used uses using was we were what when where whether
    which while who whom whose why will with within without would you your
    ask asked asks appear appears contain contains containing describe describes find hold holds include includes
    mention mentioned mentions name named number occur occurred occurs report reported reports say says said
    state stated states tells told happen happened happens"""
)
DOCUMENT_NOUNS = _set(
    "file document ticket contract page email mail message letter memo chapter report article paper note review"
)
LINE_NOUNS = _set("line row record entry event time message error warning order item match occurrence")

_QUOTED = re.compile(r"`([^`]+)`|\"([^\"]+)\"|“([^”]+)”|‘([^’]+)’|(?<!\w)'([^']+)'(?!\w)")
_TOKEN = re.compile(r"[^\W_](?:[\w./:@#%+-]*\w)?")
_YEAR = re.compile(r"(?:19|20)\d\d")
_ASKED = re.compile(r"\b(?:which|what|whose)\s+((?:(?:is|are|was|were|the|a|an|kind|sort|of)\s+)*)(.+)", re.IGNORECASE)
_ENDS_NOUN = re.compile(
    r"\s+(?:of|for|in|on|at|by|from|to|with|that|which|who|is|are|was|were|did|does|do|has|have|had)\b|[?.,;:'\"`]"
)


@dataclass(frozen=True)
class Question:
    """A question, understood as far as words go.

    `exact` are quoted strings and identifiers, lower case, to be found whole; `words` are the other telling words,
    cut to their stems, to be found as beginnings of words. `target` is what is asked for ("request", "id"), best
    first; `unit` is what is counted.
    """

    text: str
    kind: Kind
    pick: Pick
    exact: tuple[str, ...]
    words: tuple[str, ...]
    target: tuple[str, ...]
    plural: bool
    unit: str = ""

    @property
    def terms(self) -> tuple[str, ...]:
        """What to look for. For "how many" and "first" the exact terms alone decide when there are any."""
        narrow = self.exact and (self.kind == "count" or self.pick != "best")
        return self.exact if narrow else (*self.exact, *self.words)

    @property
    def asks_when(self) -> bool:
        return bool(re.search(r"\b(?:when|what (?:time|date|day))\b", self.text, re.IGNORECASE))


def read_question(text: str) -> Question:
    """Understand `text` by rule. Never fails: without a single telling word `terms` is empty."""
    unquoted = _QUOTED.sub(" ", text)
    phrases = [next(filter(None, groups)).strip().lower() for groups in _QUOTED.findall(text)]
    tokens = _TOKEN.findall(unquoted)
    identifiers = [token.lower() for token in tokens if is_identifier(token)]
    counted = _counted(unquoted)
    unit = counted.lower()
    target = () if unit else _target(unquoted)
    plain = [part for token in tokens if not is_identifier(token) for part in re.split(r"[^\w]+", token.lower())]
    kind_of_thing = "" if counted.isupper() else stem(unit)  # "how many ERROR lines": it stands in them
    words = [stem(word) for word in plain if len(word) > 1 and word not in STOP_WORDS and stem(word) != kind_of_thing]
    return Question(
        text=text.strip(),
        kind=_kind(unquoted, target, unit),
        pick=_pick(unquoted),
        exact=tuple(dict.fromkeys(phrase for phrase in (*phrases, *identifiers) if phrase)),
        words=tuple(dict.fromkeys(words)),
        target=target,
        plural=bool(target) and target[0].endswith("s") and not target[0].endswith("ss"),
        unit=unit,
    )


def is_identifier(token: str) -> bool:
    """Whether a word names one thing and not a kind: `A-10440`, `max_connections`, `setup.py`, `30551`."""
    if _YEAR.fullmatch(token):
        return False
    if token.isdigit():
        return len(token) > 3
    digits, letters = any(map(str.isdigit, token)), any(map(str.isalpha, token))
    return (digits and letters and len(token) > 2) or "_" in token or bool(re.search(r"\w[.@/]\w", token))


def stem(word: str) -> str:
    """The beginning that a word shares with its other forms: deployed -> deploy, parties -> part."""
    for ending in ("ies", "ing", "ied", "ed", "es", "ly", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 4 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


def _counted(text: str) -> str:
    """The noun after "how many" or "number of"; "" when nothing is to be counted."""
    found = re.search(r"\bhow many\s+(?:of the\s+|different\s+)?(\w+)|\bnumber of\s+(\w+)", text, re.IGNORECASE)
    return next(filter(None, found.groups())) if found else ""


def _target(text: str) -> tuple[str, ...]:
    """Up to three words after which/what: the noun that is asked for comes first, verbs may trail."""
    asked = _ASKED.search(text)
    if not asked:
        return ()
    noun = _ENDS_NOUN.split(asked[2] + "?", maxsplit=1)[0]
    return tuple(word for word in re.findall(r"[^\W_]+", noun.lower()) if word not in STOP_WORDS)[:3]


def _kind(text: str, target: tuple[str, ...], unit: str) -> Kind:
    if unit:
        return "count"
    if target and (target[0] in DOCUMENT_NOUNS or target[0].removesuffix("s") in DOCUMENT_NOUNS):
        return "document" if not re.search(r"\bwhat\s+(?:is|are|was|were)\b", text, re.IGNORECASE) else "value"
    asks_value = re.search(
        r"\b(?:which|what|who|whose|when|where|how (?:much|long|old|far|big))\b", text, re.IGNORECASE
    )
    return "value" if asks_value and not re.search(r"\bwhy\b", text, re.IGNORECASE) else "passage"


def _pick(text: str) -> Pick:
    if re.search(r"\b(?:first|earliest|initially)\b", text, re.IGNORECASE):
        return "first"
    return "last" if re.search(r"\b(?:last|latest|most recent)\b", text, re.IGNORECASE) else "best"
