"""`rlm models`: what can be asked, what it costs, and what is asked by default. No key and no network needed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .. import config, units
from ..errors import AuthError, ProviderError, UsageError
from ..models.catalog import Choice, choose_models, list_models, needs_nothing, present_key, provider_of
from ..models.facts import LOCAL_PROVIDERS, Facts, Price, all_models, facts
from . import options, show
from .config_edit import save, with_value, without

app = options.command_group(
    """List models, their prices and the default.

    \b
      rlm models list                what your keys can use
      rlm models list -a haiku       any model whose id has this in it
      rlm models default             what `rlm ask` uses, and why
      rlm models default gpt-5 --sub gpt-5-mini
    """
)


@app.command("list", cls=options.Command)
def list_(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(metavar="[QUERY]", help="words that the id contains")] = "",
    everything: Annotated[bool, typer.Option("-a", "--all", help="also those without a key")] = False,
    provider: Annotated[str, typer.Option("--provider", metavar="NAME", help="only of this provider")] = "",
    json: options.Json = False,
) -> None:
    """List the models that can be used now; prices in dollars for a million tokens."""
    settings, env = options.settings(ctx), config.environment()
    rows = list_models(env, query=query, provider=provider, everything=everything)
    if json:
        found = [{**_facts(settings, row.facts), "usable_by": row.usable_by} for row in rows]
        show.as_json({"schema_version": 1, "models": found})
        return
    if not rows:
        show.note(settings, _none_found(query, provider, everything=everything))
        return
    from ..render.tables import Column

    names = ("model", "usable by", "window", "in", "out", "cached", "alias")
    numbers = ("window", "in", "out", "cached")
    columns = [Column(name, "right" if name in numbers else "left", keep=name == "model") for name in names]
    show.table(settings, columns, [_row(settings, row.facts, row.usable_by) for row in rows])
    if not everything and len(rows) <= 1:
        show.note(settings, "rlm: no provider's key was found; `rlm models list -a` lists every model")


def _none_found(query: str, provider: str, *, everything: bool) -> str:
    what = f"rlm: no model{f' of {provider}' if provider else ''}{f' has {query!r} in its id' if query else ''}"
    if everything:
        return what
    more = " ".join(
        ["rlm models list -a", *([f"--provider {provider}"] if provider else []), *([query] if query else [])]
    )
    return f"{what}, of those your keys can use; {more} lists the others"


@app.command("show", cls=options.Command)
def show_(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="ID", help="an id or an alias")],
    json: options.Json = False,
) -> None:
    """Show what is known of one model."""
    settings, env = options.settings(ctx), config.environment()
    name = settings.model_id(model)
    known = _known(settings, name)
    provider = provider_of(name)
    key = "-" if needs_nothing(name) or provider in LOCAL_PROVIDERS else present_key(provider, env)
    details = {**_facts(settings, known), "provider": provider, "usable_by": key}
    if json:
        show.as_json({"schema_version": 1, **details})
        return
    show.table(settings, ["", name], [[label, _plain(value)] for label, value in details.items() if label != "model"])


@app.command("default", cls=options.Command)
def default_(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[ID]", help="make this the default root model")] = None,
    sub: Annotated[str | None, typer.Option("--sub", metavar="ID", help="... and this the sub-model")] = None,
    unset: Annotated[bool, typer.Option("--unset", help="go back to the choice by key")] = False,
    json: options.Json = False,
) -> None:
    """Print the default models and why they are; with an ID, set them in your config file."""
    if unset and (model or sub):
        raise UsageError("--unset takes no model", hint="rlm models default --unset")
    if unset:
        _write(ctx, {"model": None, "sub_model": None})
        return
    if model or sub:
        settings = options.settings(ctx)
        chosen = {"model": model, "sub_model": sub}
        for name in filter(None, chosen.values()):
            _known(settings, settings.model_id(name))
        _write(ctx, {key: name for key, name in chosen.items() if name})
    _print_default(ctx, json=json)


def _print_default(ctx: typer.Context, *, json: bool) -> None:
    settings = options.settings(ctx)
    root, sub = (name and settings.model_id(name) for name in (settings.model, settings.sub_model))
    try:
        choice = choice_of(settings, config.environment())
    except AuthError as error:
        if root is None:
            raise
        # The default is what was chosen, whether or not its key is here now.
        show.note(settings, f"rlm: warning: {error.message}")
        shown = {"root": root, "sub": sub or root, "why": "as chosen"}
    else:
        shown = {"root": choice.root, "sub": choice.sub, "why": choice.why}
    origins = {name: str(settings.origins[name]) for name in ("model", "sub_model")}
    if json:
        show.as_json({"schema_version": 1, **shown, "origins": origins})
        return
    for label, value in shown.items():
        show.line(f"{label:5}{value}")
    if settings.model or settings.sub_model:
        show.line(f"     set by {origins['model' if settings.model else 'sub_model']}")


def choice_of(settings: config.Settings, env: Mapping[str, str]) -> Choice:
    """The models that `ask` would use. Raises `AuthError`."""
    root, sub = (name and settings.model_id(name) for name in (settings.model, settings.sub_model))
    key = config.api_key(env)
    return choose_models(root, sub, env, api_base=settings.api.base or "", api_key=key.value if key else "")


def _write(ctx: typer.Context, values: dict[str, str | None]) -> None:
    path = options.places(ctx).config_file
    text = config.read_file(path) if path.exists() else ""
    if problem := config.toml_problem(path, text):
        raise problem
    changed = text
    for name, value in values.items():
        changed = without(changed, (name,)) if value is None else with_value(changed, (name,), value)
    if changed != text:
        save(path, changed)


def _known(settings: config.Settings, name: str) -> Facts:
    """What the map says of a model. Raises `ProviderError` when nobody knows it and nothing was configured for it."""
    found = facts(name)
    if found.price or found.window or name in settings.prices or provider_of(name) in LOCAL_PROVIDERS:
        return found
    near = difflib.get_close_matches(name, [entry.model for entry in all_models()], n=3)
    raise ProviderError(
        f"unknown model {name!r}" + (f"; did you mean {', '.join(near)}?" if near else ""),
        hint="rlm models list -a",
        code="unknown_model",
    )


def _price(settings: config.Settings, known: Facts) -> tuple[config.Price | None, str]:
    """Dollars for a million tokens, and who says so."""
    if own := settings.prices.get(known.model):
        return own, str(settings.origins.get(f"prices.{known.model}", ""))
    if known.price is None:
        return None, ""
    free = needs_nothing(known.model) or provider_of(known.model) in LOCAL_PROVIDERS
    return _per_million(known.price), "runs here: free" if free else "LiteLLM's price map"


def _per_million(price: Price) -> config.Price:
    cached = None if price.cached is None else round(price.cached * 1e6, 6)
    return config.Price(round(price.input * 1e6, 6), round(price.output * 1e6, 6), cached)


def _facts(settings: config.Settings, known: Facts) -> dict[str, Any]:
    price, source = _price(settings, known)
    return {
        "model": known.model,
        "provider": known.provider,
        "window": known.window,
        "max_output": known.max_output,
        "input_usd_per_million": price.input if price else None,
        "output_usd_per_million": price.output if price else None,
        "cached_usd_per_million": price.cached if price else None,
        "price_source": source,
        "deprecated_on": known.deprecated_on,
        "aliases": [alias for alias, target in settings.aliases.items() if target == known.model],
    }


def _row(settings: config.Settings, known: Facts, usable_by: str) -> list[str]:
    price, _ = _price(settings, known)
    cells = [f"{price.input:g}", f"{price.output:g}"] if price else ["?", "?"]
    cells.append("" if price is None or price.cached is None else f"{price.cached:g}")
    aliases = [alias for alias, target in settings.aliases.items() if target == known.model]
    window = units.compact_count(known.window) if known.window else ""
    return [known.model, usable_by, window, *cells, " ".join(aliases)]


def _plain(value: object) -> str:
    if value is None:
        return "?"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return (
        units.human_count(value) if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )
