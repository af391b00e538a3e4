"""The mode of a run: measure what the rule of `rlm_cli.routing` looks at, and ask it."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .. import config, routing
from ..errors import SandboxError
from ..models.catalog import SCRIPTED
from ..models.facts import facts, is_local, output_limit, told_window
from ..render.ticker import Ticker
from ..sandbox.decoded import read_texts
from ..sources import Corpus
from .wiring import Models, Runtime

LOCAL_WINDOW = 4_096
"""Tokens that a local server gives a model unless it was told otherwise; it cuts longer prompts without a word."""
LARGEST_BYTES = 16 * 1024**2
SMALL_FILE_BYTES = 1024**2
"""Such a file is read, and even unpacked, in no time."""
BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN = 4, 8
"""As a rule; and more than any text has."""


def route(settings: config.Settings, question: str, corpus: Corpus, models: Models) -> routing.Route:
    """How the question will be answered. Raises `InputError` for a document that cannot be read."""
    asked, name = settings.mode, models.choice.root
    if not may_be_direct(settings, models):
        return routing.decide(
            asked, routing.Situation(question, 0, 0, None, 0, model=_kind(name), depth=_depth(settings))
        )
    caps = models.pricing.caps
    tokens, binary = _measured(corpus, most_bytes(settings, models))
    return routing.decide(
        asked,
        routing.Situation(
            question,
            tokens,
            corpus.facts.bytes,
            _window(settings, name),
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


def most_bytes(settings: config.Settings, models: Models) -> int:
    """Bytes of input beyond which no run is direct."""
    unknown = routing.LARGEST if settings.mode == "direct" else routing.UNKNOWN_WINDOW
    return min(LARGEST_BYTES, (_window(settings, models.choice.root) or unknown) * MOST_BYTES_PER_TOKEN)


def preflight(
    settings: config.Settings, names: Sequence[str], models: Models, box: Runtime, ticker: Ticker
) -> SandboxError | None:
    """Reach the engine before anything is read, where code will run in any case or reading may take long. What is wrong
    with it is returned, not raised, while one call might still answer. Raises `SandboxError`."""
    if not may_be_direct(settings, models):
        box.ready(ticker)
        return None
    if all(map(_is_small_file, names)):
        return None
    try:
        box.reach()
    except SandboxError as error:
        return error
    return None


def _is_small_file(name: str) -> bool:
    try:
        found = Path(name).stat()
    except OSError:  # stdin, a URL, a pattern
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= SMALL_FILE_BYTES


def _depth(settings: config.Settings) -> int:
    return settings.limits.depth


def _kind(model: str) -> Literal["", "offline", "scripted"]:
    if model == "offline":
        return "offline"
    return "scripted" if model.startswith(SCRIPTED) else ""


def _window(settings: config.Settings, model: str) -> int | None:
    usual = LOCAL_WINDOW if is_local(model) else facts(model).window
    return told_window(model, settings.model_options) or usual


def _measured(corpus: Corpus, most: int) -> tuple[int, bool]:
    """Tokens of the input, by its text up to `most` bytes, and whether any of it is no text."""
    if corpus.facts.bytes > most:
        return corpus.facts.bytes // BYTES_PER_TOKEN, False
    from ..sandbox.kernel.tokens import estimate_tokens

    # As one text: of a long one the estimate looks at samples.
    text = "\n".join(document.text for document in read_texts(corpus.documents)[0])
    return estimate_tokens(text), "\0" in text
