"""How a question is answered: by code (rlm), by code alone (rlm-d0), or in one plain call with the input (direct).

The rule of `--mode auto` (`rlm help modes`), pure: direct only where one call surely holds the prompt and its reply,
and where reading everything at once is no worse than code:

- inputs of up to `SMALL` tokens, unless the question counts, ranks or lists: then only up to `TINY`, because code
  counts exactly and models do not;
- questions about the text as a whole (why, summarize, what does it say), up to half of the root's window, where one
  such call is cheap.

All else, and whatever is not known well enough, is rlm. `decide` is monotone: more input never turns rlm into direct.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .models.facts import Price
from .units import money

Asked = Literal["auto", "rlm", "rlm-d0", "direct"]
Mode = Literal["rlm", "rlm-d0", "direct"]

SMALL = 8_000
TINY = 1_000
UNKNOWN_WINDOW = 32_000
"""Tokens that every model takes whose window nobody knows; more are never sent to it at once."""
LARGEST = 4_000_000
"""No window is larger."""
MARGIN = 1.25
"""What another tokenizer, or a text unlike others, may make of the estimate."""
OVERHEAD = 1_000
"""Tokens of the instructions and the names."""
CHEAP_USD = 0.10
SHARE = 0.5
"""Part of a cap that one call may need at most: another run of the same size would fit too."""

COUNTING = re.compile(
    r"\bhow (?:many|often|much|frequent)|\bcount|\bnumber of\b|\btotals?\b|\bsum\b(?! up)|\baverages?\b|\bmean value"
    r"|\bmedian|\bpercent|\bshares?\b|\brates?\b|\bratios?\b|\bproportion|\bmost\b|\bleast\b|\bfewest\b|\blargest\b"
    r"|\bsmallest\b|\bhighest\b|\blowest\b|\blongest\b|\bshortest\b|\btop[ -]\d|\brank|\bsort|\blists?\b|\ball\b"
    r"|\bevery\b|\beach\b|\bper\b|\bhistogram|\bdistribut|\bunique\b|\bdistinct\b|\bduplicate"
    r"|\bgroup(?:ed)? by\b|\btabulate",
    re.IGNORECASE,
)
"""A question about many items: they are to be counted, compared or named one by one."""
WHOLE = re.compile(
    r"\bwhy\b|\bsummar|\bsum up\b|\bexplain|\bdescribe|\boverview\b|\bgist\b|\btl;?dr\b|\bmain (?:point|idea|argument)"
    r"|\bwhat (?:does|do|is|are|did|was|were) .*\b(?:say|saying|about|mean|argue|claim|conclude|purpose|point)\b"
    r"|\bthemes?\b|\bargu(?:e|es|ment)|\bconclu(?:de|sion)|\bpurpose\b|\btone\b|\binterpret|\breview\b|\bcritici[sz]e"
    r"|\btranslate|\brewrite|\bparaphrase",
    re.IGNORECASE,
)
"""A question about the text as a whole."""


@dataclass(frozen=True)
class Situation:
    """What the rule looks at. Sizes in tokens. None: not known (`window`, `price`), or no cap.

    `tokens` estimates the input, `bytes` bounds it from above. `reply` is kept for the reply. `model` is "offline" or
    "scripted" for the two that read no text, else "". `binary`: some document is no text.
    """

    question: str
    tokens: int
    bytes: int
    window: int | None
    reply: int
    price: Price | None = None
    cap_usd: float | None = None
    cap_tokens: int | None = None
    model: Literal["", "offline", "scripted"] = ""
    binary: bool = False
    depth: int = 1

    @property
    def fits(self) -> bool:
        """Whether prompt and reply surely have room together."""
        return self.prompt + self.reply <= (self.window or UNKNOWN_WINDOW)

    @property
    def prompt(self) -> int:
        """The most tokens that the prompt takes."""
        return int(self.tokens * MARGIN) + OVERHEAD + len(self.question)

    @property
    def usd(self) -> float | None:
        """The most that one call costs, its reply being as long as a reply usually is."""
        return None if self.price is None else self.price.at_most(self.prompt, min(self.reply, 2_048))

    @property
    def is_paid_for(self) -> bool:
        """Whether the caps allow the call however the provider counts: a token has at least one byte."""
        most = self.bytes + OVERHEAD + 4 * len(self.question)
        if self.cap_tokens is not None and most + 2_048 > self.cap_tokens * SHARE:
            return False
        if self.cap_usd is None or self.price is None:
            return True
        return self.price.at_most(most, 2_048) <= self.cap_usd * SHARE


@dataclass(frozen=True)
class Route:
    """How, and why. `overruled`: the user asked for something else, which is not possible."""

    mode: Mode
    why: str
    overruled: bool = False


def may_be_direct(asked: Asked, model: str) -> bool:
    """Whether the input decides: only then can a run do without a sandbox."""
    return asked == "direct" or (asked == "auto" and not model)


def decide(asked: Asked, situation: Situation) -> Route:
    """The mode of a run. `asked`: what --mode said; a depth of 0 and rlm-d0 are the same thing."""
    loop: Mode = "rlm-d0" if asked == "rlm-d0" or situation.depth == 0 else "rlm"
    if asked == "direct":
        problem = _impossible(situation)
        return Route(loop, problem, overruled=True) if problem else Route("direct", f"as asked; {_size(situation)}")
    if asked != "auto":
        return Route(loop, "as asked")
    direct, why = _auto(situation)
    return Route("direct" if direct else loop, why)


def _impossible(situation: Situation) -> str:
    """Why one call cannot answer, "" when it may: the provider has the last word."""
    if situation.model == "offline":
        return "the offline model only works by code"
    if situation.binary:
        return "the input is not text"
    if situation.tokens + OVERHEAD > (situation.window or LARGEST):
        return f"{_size(situation)}: too many for one call"
    return ""


def _auto(situation: Situation) -> tuple[bool, str]:
    """Whether one call is to answer, and why or why not."""
    if situation.model:
        return False, f"the {situation.model} model works by code"
    if situation.binary:
        return False, "the input is not text"
    size, small = _size(situation), situation.tokens <= SMALL
    if not situation.fits:
        return False, f"{size}: one call might not hold them and the reply"
    if not situation.is_paid_for:
        return False, f"{size}: one call might need more than half of what is allowed"
    if counting := COUNTING.search(situation.question):
        said = f"the question ({counting[0].strip().lower()}) is about many items"
        if situation.tokens <= TINY:
            return True, f"{size}: few enough to be read at once"
        return False, f"{size}; {said}, which code takes one by one"
    if small:
        return True, f"{size}: few enough to be read at once"
    return _as_a_whole(situation, size)


def _as_a_whole(situation: Situation, size: str) -> tuple[bool, str]:
    """Inputs that fit and are not small."""
    whole = WHOLE.search(situation.question)
    if whole is None:
        return False, f"{size}; what is asked can be searched for"
    if situation.window is None:
        return False, f"{size}: too many for a window that is not known"
    if situation.prompt > situation.window * SHARE:
        return False, f"{size}: more than half of the window"
    usd = situation.usd
    if usd is None:
        return False, f"{size}: what one call costs is not known"
    if usd > CHEAP_USD:
        return False, f"{size}: one call would cost up to {money(usd)}"
    return True, f"{size}; the question ({whole[0].strip().lower()[:40]}) is about the whole, and one call holds it"


def _size(situation: Situation) -> str:
    of = f" of {situation.window:,}" if situation.window else ", window not known"
    return f"about {situation.tokens:,} tokens{of}"
