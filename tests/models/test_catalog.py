"""Which models are asked when, and what is said when none can be."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rlm_cli import config
from rlm_cli.cli.wiring import Models
from rlm_cli.errors import AuthError
from rlm_cli.models.catalog import (
    KEYS,
    PAIRS,
    PAIRS_AS_OF,
    Choice,
    Pair,
    choose_models,
    list_models,
    provider_of,
    require_keys,
    secret_values,
)
from rlm_cli.models.facts import FREE, all_models, facts, output_limit, told_window


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.provider)
def test_packaged_models_are_known_and_alive(pair: Pair) -> None:
    """Every packaged id is a priced chat model of LiteLLM's map that was not deprecated when the table was made."""
    provider, root, sub = pair.provider, pair.root, pair.sub
    assert (provider_of(root), provider_of(sub), provider in KEYS) == (provider, provider, True)
    if provider == "openrouter":  # LiteLLM's map has no prices for it: unknown, and said so
        return
    for model in (root, sub):
        known = facts(model)
        assert known.price is not None
        assert known.window is not None
        assert (known.deprecated_on or "9999") > PAIRS_AS_OF


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.provider)
def test_one_key_is_enough(pair: Pair) -> None:
    """With one provider's key present and nothing chosen, its pair is taken, and the reason says which key."""
    key = KEYS[pair.provider][0]
    expected = Choice(pair.root, pair.sub, f"{key} is set")
    assert choose_models(None, None, {key: "k"}) == expected


def test_several_keys_are_told_about() -> None:
    """The order is fixed and the user hears of it."""
    choice = choose_models(None, None, {"GEMINI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"})
    assert choice.root == "claude-sonnet-5"
    assert choice.why == "ANTHROPIC_API_KEY is set (so is GEMINI_API_KEY: anthropic goes first; choose with -m)"


def test_no_key_lists_everything() -> None:
    """The message names every variable that was looked for; the hint has a command, a local and a built-in model."""
    with pytest.raises(AuthError) as caught:
        choose_models(None, None, {"OPENAI_API_KEY": "  "})
    assert all(KEYS[pair.provider][0] in caught.value.message for pair in PAIRS)
    assert "export OPENAI_API_KEY" in caught.value.hint
    assert "-m offline" in caught.value.hint


@pytest.mark.parametrize(
    ("model", "sub_model", "env", "expected"),
    [
        ("gpt-5", None, {"OPENAI_API_KEY": "k"}, ("gpt-5", "gpt-5-mini")),
        ("gpt-5", "gpt-5", {"OPENAI_API_KEY": "k"}, ("gpt-5", "gpt-5")),
        (None, "ollama/llama3", {"OPENAI_API_KEY": "k"}, ("gpt-5", "ollama/llama3")),
        ("offline", None, {}, ("offline", "offline")),
        ("scripted:a/b.jsonl", None, {}, ("scripted:a/b.jsonl", "scripted:a/b.jsonl")),
        ("ollama_chat/qwen3", None, {}, ("ollama_chat/qwen3", "ollama_chat/qwen3")),
        ("bedrock/anthropic.claude-x", None, {}, ("bedrock/anthropic.claude-x", "bedrock/anthropic.claude-x")),
    ],
)
def test_choices_are_kept(
    model: str | None, sub_model: str | None, env: dict[str, str], expected: tuple[str, str]
) -> None:
    """What the user chose is used; the sub-model is the provider's packaged one, else the root."""
    choice = choose_models(model, sub_model, env)
    assert (choice.root, choice.sub) == expected


def test_a_server_of_ones_own_needs_no_key() -> None:
    """With an api_base the sub-model is the root (nobody knows what else it serves); without a model it cannot be."""
    choice = choose_models("openai/root/x", None, {}, api_base="http://127.0.0.1:1/v1")
    assert (choice.root, choice.sub) == ("openai/root/x", "openai/root/x")
    with pytest.raises(AuthError) as caught:
        choose_models(None, None, {}, api_base="http://127.0.0.1:1/v1")
    assert caught.value.code == "no_model"


def test_all_missing_keys_are_named_at_once() -> None:
    """Root and sub-model of two providers: one message for both."""
    with pytest.raises(AuthError) as caught:
        require_keys(["gpt-5", "claude-sonnet-5"], {})
    assert "gpt-5 needs OPENAI_API_KEY; claude-sonnet-5 needs ANTHROPIC_API_KEY" in caught.value.message


def test_choosing_does_not_import_litellm() -> None:
    """A missing key is reported in a fraction of a second: facts, prices and keys need no LiteLLM."""
    script = (
        "import sys; from rlm_cli.models import catalog, facts, ledger, scripted, retrying, reported, limited\n"
        "catalog.choose_models(None, None, {'OPENAI_API_KEY': 'k'}); facts.facts('gpt-5').price or sys.exit(3)\n"
        "sys.exit(any(name in sys.modules for name in ('litellm', 'openai', 'httpx', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=30).returncode == 0


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-99-preview", "openai"),
        ("o9-mini", "openai"),
        ("claude-opus-99", "anthropic"),
        ("openai/gpt-5", "openai"),
        ("gemini/new-one", "gemini"),
        ("offline", "offline"),
        ("scripted:x", "scripted"),
        ("mystery", ""),
    ],
)
def test_the_provider_of_an_id(model: str, provider: str) -> None:
    """New models of known families need no table entry."""
    assert provider_of(model) == provider


def test_prices_are_the_maps_own() -> None:
    """All spellings of an id lead to one entry; unknown ids have no price; local and built-in models cost nothing."""
    assert facts("openai/gpt-5").price == facts("gpt-5").price
    assert facts("anthropic/gpt-5").price is None
    assert facts("openai/root/chunk_map").price is None
    assert [facts(model).price for model in ("offline", "scripted:x", "ollama/anything")] == [FREE] * 3


def test_long_input_tiers_are_read() -> None:
    """Gemini doubles its price above 200k tokens."""
    price = facts("gemini/gemini-2.5-pro").price
    assert price is not None
    assert price.above == 200_000
    assert price.at(200_001).input == pytest.approx(2 * price.at(200_000).input)


def test_every_entry_of_the_map_can_be_read() -> None:
    """No price is negative, no window is zero, and no entry breaks the reader."""
    entries = list(all_models())
    assert len(entries) > 500
    assert all(e.price is None or (e.price.input >= 0 and e.price.output >= 0) for e in entries)
    assert all(e.window is None or e.window > 0 for e in entries)


def test_default_outputs_respect_the_model() -> None:
    """The default is the role's, or the model's own limit when that is less."""
    assert (output_limit("gpt-5", "root"), output_limit("gpt-5", "sub")) == (16_384, 8_192)
    assert output_limit("gpt-4", "root") == facts("gpt-4").max_output == 4096


def test_listing_shows_what_can_be_used() -> None:
    """Only models with a key, unless all are asked for; every word of the query must match."""
    rows = list_models({"ANTHROPIC_API_KEY": "k"}, query="haiku 4")
    assert rows
    assert {(row.facts.provider, row.usable_by) for row in rows} == {("anthropic", "ANTHROPIC_API_KEY")}
    assert len(list_models({}, everything=True)) > len(list_models({"ANTHROPIC_API_KEY": "k"}))


def test_secrets_of_the_environment() -> None:
    """Keys, tokens and passwords are known by their names; ordinary values are not secrets."""
    env = {"OPENAI_API_KEY": "sk-12345", "HF_TOKEN": "hf_12345", "HOME": "/home/someone", "X_KEY": "1"}
    assert secret_values(env) == ("sk-12345", "hf_12345")


def test_a_local_model_has_the_window_that_it_is_told_to_have() -> None:
    """The map knows what it could have; with less, its server cuts. Other providers know no such option."""
    assert told_window("ollama/llama3", {"num_ctx": 4096}) == told_window("lm_studio/x", {"n_ctx": 4096}) == 4096
    assert told_window("ollama/llama3", {}) is told_window("ollama/llama3", {"num_ctx": "x"}) is None
    assert told_window("gpt-5", {"num_ctx": 4096}) is None
    told = config.load(overrides=["model_options.num_ctx=4096"], env={"RLM_MODEL": "ollama/llama3"})
    assert Models(told, {}, cost_given=False).windows == {"ollama/llama3": 4096}
