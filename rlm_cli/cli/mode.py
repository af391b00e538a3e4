"""The mode of a run: measure what the rule of `rlm_cli.routing` looks at, and ask it."""

from __future__ import annotations

from typing import Literal

from .. import config, routing
from ..models.facts import LOCAL_PROVIDERS, facts, output_limit
from ..sandbox.decoded import read_texts
from ..sources import Corpus
from .wiring import Models

LOCAL_WINDOW = 4_096
"""Tokens that a local server gives a model unless it was told otherwise; it cuts longer prompts without a word."""
WINDOW_OPTIONS = ("num_ctx", "n_ctx")
LARGEST_BYTES = 16 * 1024**2
BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN = 4, 8
"""As a rule; and more than any text has."""


def route(settings: config.Settings, question: str, corpus: Corpus, models: Models) -> routing.Route:
    """How the question will be answered. Raises `InputError` for a document that cannot be read."""
    asked, name = settings.mode, models.choice.root
    if not may_be_direct(settings, models):
        return routing.decide(
            asked, routing.Situation(question, 0, 0, None, 0, model=_kind(name), depth=_depth(settings))
        )
    window, caps = _window(settings, name), models.pricing.caps
    tokens, binary = _measured(corpus, window)
    return routing.decide(
        asked,
        routing.Situation(
            question,
            tokens,
            corpus.facts.bytes,
            window,
            output_limit(name, "root"),
            price=models.ledger.price(name),
            cap_usd=caps.usd,
            cap_tokens=caps.tokens,
            model=_kind(name),
            binary=binary,
            depth=_depth(settings),
        ),
    )


def may_be_direct(settings: config.Settings, models: Models) -> bool:
    """Whether the run may turn out to need no sandbox."""
    return routing.may_be_direct(settings.mode, _kind(models.choice.root))


def _depth(settings: config.Settings) -> int:
    return settings.limits.depth


def _kind(model: str) -> Literal["", "offline", "scripted"]:
    if model == "offline":
        return "offline"
    return "scripted" if model.startswith("scripted:") else ""


def _window(settings: config.Settings, model: str) -> int | None:
    known = facts(model)
    if known.provider not in LOCAL_PROVIDERS and model.split("/")[0] not in LOCAL_PROVIDERS:
        return known.window
    told = [settings.model_options.get(name) for name in WINDOW_OPTIONS]
    return next((int(size) for size in told if isinstance(size, int | float)), LOCAL_WINDOW)


def _measured(corpus: Corpus, window: int | None) -> tuple[int, bool]:
    """Tokens of the input, by its text where the window may hold it, and whether any of it is no text."""
    most = LARGEST_BYTES if window is None else min(LARGEST_BYTES, window * MOST_BYTES_PER_TOKEN)
    if corpus.facts.bytes > most:
        return corpus.facts.bytes // BYTES_PER_TOKEN, False
    from ..sandbox.kernel.tokens import estimate_tokens

    # As one text: of a long one the estimate looks at samples.
    text = "\n".join(document.text for document in read_texts(corpus.documents)[0])
    return estimate_tokens(text), "\0" in text
