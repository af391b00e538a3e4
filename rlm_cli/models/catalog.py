"""Which models to ask: what the user chose, else a packaged pair for the provider whose key is present.

Everything here works without importing LiteLLM, so a missing key is reported at once and before anything is spent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import AuthError
from .facts import LOCAL_PROVIDERS, Facts, all_models, facts

PAIRS_AS_OF = "2026-11"
SCRIPTED = "scripted:"
"""Before the path of a script that plays a model."""


@dataclass(frozen=True)
class Pair:
    """A provider's packaged models: a root that writes clean code, and a cheap sub-model with a wide window."""

    provider: str
    root: str
    sub: str


PAIRS = (
    Pair("openai", "gpt-5", "gpt-5-mini"),
    Pair("anthropic", "claude-sonnet-5", "claude-haiku-4-5"),
    Pair("gemini", "gemini/gemini-2.5-pro", "gemini/gemini-2.5-flash"),
    Pair("mistral", "mistral/mistral-medium-latest", "mistral/mistral-small-latest"),
    Pair("xai", "xai/grok-4.5", "xai/grok-4.20-non-reasoning"),
    Pair("deepseek", "deepseek/deepseek-v4-pro", "deepseek/deepseek-v4-flash"),
    Pair("groq", "groq/openai/gpt-oss-120b", "groq/openai/gpt-oss-20b"),
    Pair("openrouter", "openrouter/openai/gpt-5", "openrouter/openai/gpt-5-mini"),
)
"""As of `PAIRS_AS_OF`; with several keys present the first provider in this order is taken. Tables go stale:
`rlm models default` fixes one, and a test checks the ids against LiteLLM's map."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "mistral": ("MISTRAL_API_KEY",),
    "codestral": ("CODESTRAL_API_KEY",),
    "xai": ("XAI_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "groq": ("GROQ_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY", "OR_API_KEY"),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY"),
    "fireworks_ai": ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY", "FIREWORKSAI_API_KEY"),
    "cerebras": ("CEREBRAS_API_KEY",),
    "cohere": ("COHERE_API_KEY", "CO_API_KEY"),
    "cohere_chat": ("COHERE_API_KEY", "CO_API_KEY"),
    "perplexity": ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
    "deepinfra": ("DEEPINFRA_API_KEY",),
    "moonshot": ("MOONSHOT_API_KEY",),
    "nvidia_nim": ("NVIDIA_NIM_API_KEY",),
}
"""Variables that hold a provider's key; any one of them is enough."""

OWN_CREDENTIALS = frozenset(
    {"bedrock", "bedrock_converse", "sagemaker", "sagemaker_chat", "vertex_ai", "azure", "azure_ai"}
)
"""Providers whose credentials may come from profiles, metadata servers or token files: only a call can tell."""
SECRET_NAME = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)$")
SERVER_NAME = re.compile(r"_(?:API_BASE|BASE_URL|ENDPOINT)$")


@dataclass(frozen=True)
class Choice:
    """The resolved ids and, for the user, why these."""

    root: str
    sub: str
    why: str


def choose_models(
    model: str | None, sub_model: str | None, env: Mapping[str, str], *, api_base: str = "", api_key: str = ""
) -> Choice:
    """The models to use. `model` and `sub_model` are what the user chose (aliases resolved), None for no choice.

    Raises `AuthError` that lists everything missing. Nothing is sent and LiteLLM is not imported, except for
    providers that are not in the table here.
    """
    if model is None:
        return _by_key(sub_model, env, api_base=api_base, api_key=api_key)
    sub = sub_model or _usual_sub(model, api_base)
    require_keys((model, sub), env, api_base=api_base, api_key=api_key)
    return Choice(model, sub, "as chosen" if sub_model else f"root as chosen, sub-model {_sub_reason(model, sub)}")


def _by_key(sub_model: str | None, env: Mapping[str, str], *, api_base: str, api_key: str) -> Choice:
    present = [(pair, key) for pair in PAIRS if (key := present_key(pair.provider, env))]
    if api_base and not sub_model:
        raise AuthError(
            f"no model was chosen for {api_base}",
            hint="Name one that it serves: -m MODEL --api-base URL",
            code="no_model",
        )
    if not present:
        raise _nothing_chosen()
    pair, key = present[0]
    require_keys([sub_model] if sub_model else [], env, api_base=api_base, api_key=api_key)
    why = f"{key} is set"
    if len(present) > 1:
        others = ", ".join(name for _, name in present[1:])
        why += f" (so is {others}: {pair.provider} goes first; choose with -m)"
    return Choice(pair.root, sub_model or pair.sub, why)


def _nothing_chosen() -> AuthError:
    names = [KEYS[pair.provider][0] for pair in PAIRS]
    return AuthError(
        f"no model was chosen and no provider's key was found (looked for {', '.join(names)})",
        hint=f"export {names[0]}=...   or name a model: -m ollama_chat/MODEL (local), -m offline (built in, no key)",
        code="no_key",
    )


def _usual_sub(model: str, api_base: str) -> str:
    """The sub-model that goes with a root: its provider's packaged one, else the root itself."""
    provider = provider_of(model)
    pair = None if api_base else next((pair for pair in PAIRS if pair.provider == provider), None)
    return pair.sub if pair else model


def _sub_reason(model: str, sub: str) -> str:
    return "the same" if sub == model else f"{sub} goes with {provider_of(model)}"


def provider_of(model: str) -> str:
    """The provider that LiteLLM will ask for `model`; "" when the id does not say."""
    if needs_nothing(model):
        return model.split(":")[0].split("/")[0]
    prefix, slash, _ = model.partition("/")
    if slash and (prefix in KEYS or prefix in LOCAL_PROVIDERS or prefix in OWN_CREDENTIALS):
        return prefix
    known = facts(model).provider
    if known.startswith("vertex_ai"):
        return "vertex_ai"
    return known or prefix if slash else known or _by_name(model)


def _by_name(model: str) -> str:
    if re.match(r"(?:gpt-|chatgpt-|o\d)", model):
        return "openai"
    return "anthropic" if model.startswith("claude") else ""


def needs_nothing(model: str) -> bool:
    """Built-in and scripted models: no provider at all."""
    return model == "offline" or model.startswith(SCRIPTED)


def present_key(provider: str, env: Mapping[str, str]) -> str:
    """The name of the first variable of `provider` that holds a key, else ""."""
    return next((name for name in KEYS.get(provider, ()) if env.get(name, "").strip()), "")


def require_keys(models: Iterable[str], env: Mapping[str, str], *, api_base: str = "", api_key: str = "") -> None:
    """Raise one `AuthError` for all `models` that lack a key. With `api_key` or `api_base` nothing is required: a
    server of one's own may take any key or none."""
    if api_key or api_base:
        return
    missing = [(model, names) for model in dict.fromkeys(models) if (names := _missing(model, env))]
    if missing:
        what = "; ".join(f"{model} needs {' or '.join(names)}" for model, names in missing)
        name = missing[0][1][0]
        raise AuthError(f"no API key: {what}", hint=f"export {name}=...   or use -m offline (no key)", code="no_key")


def _missing(model: str, env: Mapping[str, str]) -> tuple[str, ...]:
    provider = provider_of(model)
    if needs_nothing(model) or provider in LOCAL_PROVIDERS or provider in OWN_CREDENTIALS:
        return ()
    if provider in KEYS:
        return () if present_key(provider, env) else KEYS[provider][:1]
    from .provider import missing_keys  # imports LiteLLM (2-3 s): only for providers that the table lacks

    return tuple(name for name in missing_keys(model) if not env.get(name, "").strip())


def secret_values(env: Mapping[str, str]) -> tuple[str, ...]:
    """Values of the environment that must never be shown: keys, tokens, passwords."""
    return tuple(value for name, value in env.items() if SECRET_NAME.search(name.upper()) and len(value.strip()) >= 6)


def servers(env: Mapping[str, str]) -> Mapping[str, str]:
    """What the environment says of where providers are (OPENAI_BASE_URL, OLLAMA_API_BASE ...): the same id may be
    another model there."""
    return {name: value for name, value in env.items() if SERVER_NAME.search(name)}


@dataclass(frozen=True)
class Listed:
    """One row of `rlm models list`: the model, and the variable whose key makes it usable ("" none, "-" not needed)."""

    facts: Facts
    usable_by: str


def list_models(
    env: Mapping[str, str], *, query: str = "", provider: str = "", everything: bool = False
) -> list[Listed]:
    """Chat models of LiteLLM's map whose id contains every word of `query`; only usable ones unless `everything`."""
    words = query.lower().split()
    rows = [Listed(facts("offline"), "-")] if not provider else []
    for entry in all_models():
        usable = "-" if entry.provider in LOCAL_PROVIDERS else present_key(entry.provider, env)
        if (everything or usable) and provider in ("", entry.provider):
            rows.append(Listed(entry, usable))
    return [row for row in rows if all(word in row.facts.model.lower() for word in words)]
