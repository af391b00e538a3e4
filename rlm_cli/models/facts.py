"""What is known of a model: its price, window and largest output.

Read from the price map that LiteLLM ships, as JSON and without importing LiteLLM (20 ms instead of 2-3 s), so that
`rlm models list`, a dry run and the price check before the first call cost nothing. An id that the map does not have
is unknown, and an unknown price is never $0.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..events import Role, Usage

ROOT_OUTPUT = 16_384
SUB_OUTPUT = 8_192
OUTPUT_OPTIONS = ("max_tokens", "max_completion_tokens")
_RETRIES = ("rlm tries again by itself, and counts it", "leave it out")
_STREAM = ("the root's replies are streamed, and no others", "leave it out")
TAKEN: Mapping[str, tuple[str, str]] = {
    "model": ("it has a flag", "-m MODEL --sub-model MODEL"),
    "messages": ("they are the conversation", "leave it out"),
    "n": ("one reply is read, and all would be paid for", "leave it out"),
    "max_retries": _RETRIES,
    "num_retries": _RETRIES,
    "stream": _STREAM,
    "stream_options": _STREAM,
    "timeout": ("it has a setting", "--set api.timeout=5m --set api.reply_timeout=10m"),
}
"""Options of the API that may not come from the user: why, and what to do instead."""
LOCAL_PROVIDERS = frozenset({"ollama", "ollama_chat", "lm_studio", "llamafile", "docker_model_runner", "oobabooga"})
"""Providers that run on the user's own machine: legitimately $0, and they need no key."""

WINDOW_OPTIONS = ("num_ctx", "n_ctx")
"""How a local server is told the window of a model; longer prompts it cuts without a word."""
LEAST_DENSITY = 8
"""Characters a token, at most."""
SURELY_CUT_CHARS = 8_000
"""A shorter prompt is not one that anybody cuts."""

MAP_FILE = "model_prices_and_context_window_backup.json"
_TIER = re.compile(r"input_cost_per_token_above_(\d+)k_tokens$")


@dataclass(frozen=True)
class Price:
    """US dollars per token. `cached`: input served from the provider's cache; `written`: input stored in it.

    `above` and `long`: the price of a whole request whose input is longer than `above` tokens.
    """

    input: float
    output: float
    cached: float | None = None
    written: float | None = None
    above: int | None = None
    long: Price | None = None

    def at(self, input_tokens: int) -> Price:
        """The tier that a request with so many input tokens falls into."""
        return self.long.at(input_tokens) if self.long and self.above and input_tokens > self.above else self

    def cost(self, usage: Usage) -> float:
        """What one request with this usage costs."""
        tier = self.at(usage.input)
        fresh = max(0, usage.input - usage.cached - usage.written)
        cached = tier.input if tier.cached is None else tier.cached
        written = tier.input if tier.written is None else tier.written
        return fresh * tier.input + usage.cached * cached + usage.written * written + usage.output * tier.output

    def at_most(self, input_tokens: int, output_tokens: int) -> float:
        """The most that a request of this size can cost: nothing served from a cache, everything written to it."""
        tier = self.at(input_tokens)
        return input_tokens * max(tier.input, tier.written or 0.0) + output_tokens * tier.output


FREE = Price(0.0, 0.0)


def per_million(input_usd: float, output_usd: float, cached_usd: float | None = None) -> Price:
    """`--price IN,OUT[,CACHED]`, as providers print it."""
    return Price(input_usd / 1e6, output_usd / 1e6, None if cached_usd is None else cached_usd / 1e6)


@dataclass(frozen=True)
class Facts:
    """One model. None means that the map does not say. Sizes in tokens."""

    model: str
    provider: str = ""
    price: Price | None = None
    window: int | None = None
    max_output: int | None = None
    deprecated_on: str | None = None


def facts(model: str) -> Facts:
    """What the map says about `model`, in any of LiteLLM's spellings; offline, scripted and local models are $0."""
    head = model.split(":")[0].split("/")[0]
    if model == "offline" or head == "scripted":
        return Facts(model, head, FREE)
    known = _lookup(model)
    return replace(known, price=FREE) if head in LOCAL_PROVIDERS else known


def output_limit(model: str, role: Role) -> int:
    """The tokens of output to ask for when nobody said: the model's own limit, or less, by role."""
    limit = SUB_OUTPUT if role == "sub" else ROOT_OUTPUT
    return min(limit, facts(model).max_output or limit)


def is_local(model: str) -> bool:
    """Whether it runs on the user's own machine."""
    return facts(model).provider in LOCAL_PROVIDERS or model.split("/")[0] in LOCAL_PROVIDERS


def told_window(model: str, options: Mapping[str, Any]) -> int | None:
    """The tokens that a local model was told to take, among the options of the API; None for any other."""
    told = [options.get(name) for name in WINDOW_OPTIONS] if is_local(model) else []
    return next((int(size) for size in told if isinstance(size, int | float) and size > 0), None)


def was_cut(chars: int, usage: Usage) -> bool:
    """Whether the provider cut a prompt of so many characters without a word, as local servers do: no tokenizer is that
    frugal."""
    counted = bool(usage.input) and not usage.estimated
    return counted and chars > max(SURELY_CUT_CHARS, usage.input * LEAST_DENSITY)


def own_output_limit(options: Mapping[str, Any]) -> int | None:
    """The same as the user says it among the options of the API; None when nobody did. Raises `UsageError` for what is
    no number of tokens: it is what a call reserves."""
    for name in OUTPUT_OPTIONS:
        value = options.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if value is not None:
            raise UsageError(f"{name} = {value} is no number of tokens", hint=f"-O {name}=4096", code="model_option")
    return None


def check_options(options: Mapping[str, Any]) -> None:
    """Raises `UsageError` for options of the API that rlm sets itself, or counts with."""
    for name in options:
        if name in TAKEN:
            raise UsageError(
                f"-O {name}=... is not for you to set: {TAKEN[name][0]}", hint=TAKEN[name][1], code="model_option"
            )
    own_output_limit(options)


def all_models() -> Iterator[Facts]:
    """Every chat model of the map, in its order."""
    for name, entry in _model_map().items():
        if entry.get("mode") == "chat" and name != "sample_spec":
            yield _facts_of(name, entry)


@functools.lru_cache(maxsize=256)
def _lookup(model: str) -> Facts:
    entries = _model_map()
    provider, _, rest = model.partition("/")
    if model in entries:
        return _facts_of(model, entries[model])
    entry = entries.get(rest)
    if entry is not None and entry.get("litellm_provider") == provider:
        return _facts_of(model, entry)
    return Facts(model, provider if rest else "")


@functools.cache
def _model_map() -> Mapping[str, dict[str, Any]]:
    """LiteLLM's bundled map; empty when a release moves the file, which makes every price unknown, not wrong."""
    spec = find_spec("litellm")
    path = Path(spec.origin).with_name(MAP_FILE) if spec and spec.origin else None
    if path is None or not path.is_file():
        return {}
    data = json.loads(path.read_bytes())
    return {name: entry for name, entry in data.items() if isinstance(entry, dict)}


def _facts_of(model: str, entry: Mapping[str, Any]) -> Facts:
    return Facts(
        model,
        str(entry.get("litellm_provider", "")),
        _price_of(entry),
        _count(entry.get("max_input_tokens") or entry.get("max_tokens")),
        _count(entry.get("max_output_tokens") or entry.get("max_tokens")),
        entry.get("deprecation_date"),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _price_of(entry: Mapping[str, Any]) -> Price | None:
    """The base price with its long-input tiers nested, smallest threshold first."""
    price = _tier_of(entry, "")
    if price is None:
        return None
    thresholds = sorted((int(match[1]) for key in entry if (match := _TIER.match(key))), reverse=True)
    above: Price | None = None
    step: int | None = None
    for thousands in thresholds:
        tier = _tier_of(entry, f"_above_{thousands}k_tokens") or price
        above, step = replace(tier, above=step, long=above), thousands * 1000
    return replace(price, above=step, long=above)


def _tier_of(entry: Mapping[str, Any], suffix: str) -> Price | None:
    def dollars(name: str) -> float | None:
        value = entry.get(name + suffix)
        return float(value) if isinstance(value, int | float) else None

    base_input, base_output = dollars("input_cost_per_token"), dollars("output_cost_per_token")
    if base_input is None or base_output is None:
        return None
    cached, written = dollars("cache_read_input_token_cost"), dollars("cache_creation_input_token_cost")
    return Price(base_input, base_output, cached, written)
