"""`rlm ask -n`: what would be read, by which models, and a rough range of what it may cost. Nothing is spent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .. import config
from ..events import SCHEMA_VERSION, to_json
from ..models.facts import facts
from ..prompts import payload_chars
from ..sources import Corpus
from ..units import compact_count, money
from .wiring import Models

# A short run looks, filters and answers; a long one uses many turns and has the sub-models read everything once.
SHORT_TURNS, LONG_TURNS = 3, 15
OPENING_TOKENS, TURN_TOKENS, REPLY_TOKENS = 2_000, 1_500, 400
PROMPT_SHARE = 1.1
"""What the question and instructions add to each piece of input that a sub-model reads."""


@dataclass(frozen=True)
class Range:
    """US dollars, roughly. None: a price is unknown."""

    low: float | None
    high: float | None


def cost_range(models: Models, corpus: Corpus) -> Range:
    """From a run that only uses code to one whose sub-models read the whole input once; never above the cap."""
    root, sub = (models.ledger.price(name) for name in (models.choice.root, models.choice.sub))
    if root is None or sub is None:
        return Range(None, None)

    def turns(count: int) -> float:
        inputs = sum(OPENING_TOKENS + turn * TURN_TOKENS for turn in range(count))
        return root.at_most(inputs, count * REPLY_TOKENS)

    tokens = corpus.facts.tokens_est
    calls = max(1, 4 * tokens // payload_chars(models.sub_window))
    reading = sub.at_most(int(tokens * PROMPT_SHARE), calls * REPLY_TOKENS)
    high = turns(LONG_TURNS) + reading
    cap = models.pricing.caps.usd
    return Range(turns(SHORT_TURNS), high if cap is None else min(high, cap))


def plan_lines(question: str, corpus: Corpus, summary: str, models: Models, settings: config.Settings) -> list[str]:
    """The plan for a person."""
    cost, cap = cost_range(models, corpus), models.pricing.caps.usd
    amount = (
        "unknown price" if cost.low is None or cost.high is None else f"roughly {money(cost.low)} to {money(cost.high)}"
    )
    limits = settings.limits
    return [
        f"question: {question}",
        f"sources: {summary}",
        f"models: {models.choice.root} -> {models.choice.sub} ({models.choice.why})",
        f"cost: {amount}; {'no cap' if cap is None else f'cap {money(cap)}'}",
        f"limits: {limits.iterations} turns, "
        + (f"{compact_count(limits.subcalls)} sub-calls" if limits.subcalls is not None else "any number of sub-calls"),
        *([f"note: {models.pricing.note}"] if models.pricing.note else []),
        "dry run: nothing was sent and nothing was spent",
    ]


def plan_json(question: str, corpus: Corpus, models: Models) -> bytes:
    """The plan for a script."""
    cost = cost_range(models, corpus)
    body: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "dry_run": True,
        "question": question,
        "sources": to_json(corpus.facts),
        "models": to_json(models.pair),
        "cost_range_usd": {"low": cost.low, "high": cost.high, "cap": models.pricing.caps.usd},
        "sub_window": facts(models.choice.sub).window,
        "exit_code": 0,
    }
    return json.dumps(body).encode() + b"\n"
