"""`rlm ask -n`: what would be read, by which models, and a rough range of what it may cost. Nothing is spent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..engine import REPAIRS
from ..errors import AuthError, ExitCode
from ..events import SCHEMA_VERSION, to_json
from ..prompts import payload_chars
from ..render.format import counted
from ..render.sanitize import clean_line
from ..routing import Mode, Route
from ..sources import Corpus
from ..sources.summary import summary_line
from ..units import compact_count, money
from . import show
from .boundary import error_info
from .invocation import Invocation
from .output import Sink
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


def cost_range(models: Models, corpus: Corpus, mode: Mode) -> Range:
    """From a run that only uses code to one whose sub-models read the whole input once, or one call that holds the
    input; never above the cap."""
    root, sub = (models.ledger.price(name) for name in (models.choice.root, models.choice.sub))
    if root is None or sub is None:
        return Range(None, None)

    def turns(count: int) -> float:
        inputs = sum(OPENING_TOKENS + turn * TURN_TOKENS for turn in range(count))
        return root.at_most(inputs, count * REPLY_TOKENS)

    tokens, cap = corpus.facts.tokens_est, models.pricing.caps.usd
    if mode == "direct":
        # Logs and tables have up to twice the tokens that their bytes suggest.
        low, high = (root.at_most(times * tokens + OPENING_TOKENS, times * REPLY_TOKENS) for times in (1, 2))
        return Range(low, high if cap is None else min(high, cap))
    calls = max(1, 4 * tokens // payload_chars(models.windows[models.choice.sub]))
    reading = sub.at_most(int(tokens * PROMPT_SHARE), calls * REPLY_TOKENS) if mode == "rlm" else 0.0
    high = turns(LONG_TURNS) + reading
    return Range(turns(SHORT_TURNS), high if cap is None else min(high, cap))


def show_plan(
    invocation: Invocation,
    question: str,
    corpus: Corpus,
    models: Models | AuthError,
    chosen: Route | None,
    sink: Sink,
) -> int:
    """The dry run's output, on stdout: it is what was asked for. Without a key it still shows what would be read."""
    for warning in (*invocation.settings.warnings, *corpus.notes):
        show.note(invocation.settings, f"rlm: warning: {warning}")
    if invocation.settings.output.format == "text":
        summary = summary_line(corpus, invocation.parsed.sources, invocation.source_options)
        lines = [f"question: {question}", f"sources: {summary}", *_model_lines(models, corpus, chosen)]
        lines += [_limits_line(invocation, chosen), "dry run: nothing was sent and nothing was spent"]
        sink.write("".join(f"{clean_line(line, 2_000)}\n" for line in lines).encode())
    else:
        sink.write(plan_json(question, corpus, models, chosen))
    sink.commit()
    return int(ExitCode.OK)


def _model_lines(models: Models | AuthError, corpus: Corpus, chosen: Route | None) -> list[str]:
    if isinstance(models, AuthError) or chosen is None:
        return [f"models: none: {models.message}", f"fix: {models.hint}"] if isinstance(models, AuthError) else []
    cost, cap = cost_range(models, corpus, chosen.mode), models.pricing.caps.usd
    amount = (
        "unknown price" if cost.low is None or cost.high is None else f"roughly {money(cost.low)} to {money(cost.high)}"
    )
    return [
        f"models: {models.choice.root} -> {models.choice.sub} ({models.choice.why})",
        f"mode: {chosen.mode}: {chosen.why}",
        f"cost: {amount}; {'no cap' if cap is None else f'cap {money(cap)}'}",
        *([f"note: {models.note}"] if models.note else []),
    ]


def _limits_line(invocation: Invocation, chosen: Route | None) -> str:
    """Without a model the mode is the one that was asked for."""
    settings, limits = invocation.settings, invocation.settings.limits
    mode = chosen.mode if chosen else settings.mode
    if mode == "rlm-d0" or limits.depth == 0 or limits.subcalls == 0:
        calls = "no sub-calls"
    elif limits.subcalls is None:
        calls = "any number of sub-calls"
    else:
        calls = f"{compact_count(limits.subcalls)} sub-call{'' if limits.subcalls == 1 else 's'}"
    by_code = f"{counted(limits.iterations, 'turn')}, {calls}"
    if mode != "direct":
        return f"limits: {by_code}"
    repairs = min(REPAIRS, limits.iterations - 1) if invocation.schema else 0
    first = f"one call, and up to {counted(repairs, 'repair')}" if repairs else "one call"
    return f"limits: {first}; if it has to go on by code: {by_code}"


def plan_json(question: str, corpus: Corpus, models: Models | AuthError, chosen: Route | None) -> bytes:
    """The plan for a script."""
    body: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "dry_run": True,
        "question": question,
        "sources": to_json(corpus.facts),
        "models": None,
        "mode": chosen.mode if chosen else None,
        "mode_why": chosen.why if chosen else None,
        "cost_range_usd": None,
        "error": None,
        "exit_code": 0,
    }
    if isinstance(models, AuthError):
        body["error"] = to_json(error_info(models))
    elif chosen is not None:
        cost = cost_range(models, corpus, chosen.mode)
        body["models"] = to_json(models.pair)
        body["cost_range_usd"] = {"low": cost.low, "high": cost.high, "cap": models.pricing.caps.usd}
    return json.dumps(body).encode() + b"\n"
