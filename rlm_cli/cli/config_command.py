"""`rlm config`: read and change settings."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import config
from ..errors import ConfigError, UsageError
from . import options, show
from .config_edit import save, with_value, without

app = options.command_group(
    """Read and change settings.

    \b
      rlm config list --origin            every setting and where it comes from
      rlm config set limits.cost 2.50     in your own config file
      rlm config get model
    """
)

KeyName = Annotated[str, typer.Argument(metavar="KEY", help="such as limits.cost; rlm help config lists them")]
ProjectFlag = Annotated[bool, typer.Option("--project", help="the project's rlm.toml instead of your own file")]


@app.command("list", cls=options.Command)
def list_(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="where each value comes from")] = False,
    json: options.Json = False,
) -> None:
    """List every setting with its value."""
    settings = options.settings(ctx)
    if json:
        show.as_json({"schema_version": 1, "settings": {name: _facts(settings, name) for name in settings.origins}})
        return
    from ..render.tables import Column

    show.warnings(settings)
    rows = [
        [name, _shown(settings, name), *([str(where)] if origin else [])] for name, where in settings.origins.items()
    ]
    show.table(settings, [Column("key", keep=True), "value", *(["origin"] if origin else [])], rows)


@app.command(cls=options.Command)
def get(ctx: typer.Context, key: KeyName, json: options.Json = False) -> None:
    """Print one value."""
    settings = options.settings(ctx)
    found, entry = _known(key)
    key = f"{found.name}.{entry}" if entry else key
    if json:
        show.as_json({"schema_version": 1, "key": key, **_facts(settings, key)})
        return
    if found.many and not entry:
        for name, value in settings.value(key).items():
            show.line(f"{name}={_veiled(name, found.kind.show(value))}")
        return
    try:
        show.line(_shown(settings, key))
    except KeyError:
        raise ConfigError(f"{key} is not set", hint=f"rlm config set {key} VALUE") from None


@app.command("set", cls=options.Command)
def set_(
    ctx: typer.Context,
    key: KeyName,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="as a flag would take it; none lifts a limit")],
    project: ProjectFlag = False,
) -> None:
    """Set one value in your config file, leaving the rest of it as it is."""
    found, entry = _known(key)
    if found.many and not entry:
        raise UsageError(f"{key} is a table", hint=f"rlm config set {key}.NAME VALUE")
    try:
        parsed = found.kind.parse(value)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    path = _file(ctx, found, project=project)
    text = config.read_file(path) if path.exists() else ""
    _must_parse(path, text)
    save(path, with_value(text, _where(found, entry), _written(parsed, value)))
    show.note(options.examine(ctx)[0], f"{key} = {_veiled(key, found.kind.show(parsed))}  in {path}")


@app.command(cls=options.Command)
def unset(ctx: typer.Context, key: KeyName, project: ProjectFlag = False) -> None:
    """Remove one value from your config file."""
    found, entry = _known(key)
    path = _file(ctx, found, project=project)
    text = config.read_file(path) if path.exists() else ""
    _must_parse(path, text)
    changed = without(text, _where(found, entry))
    if changed != text:
        save(path, changed)
    verb = "removed from" if changed != text else "is not set in"
    show.note(options.examine(ctx)[0], f"{key} {verb} {path}")


@app.command(cls=options.Command)
def path(ctx: typer.Context, json: options.Json = False) -> None:
    """Print where configuration, runs and cache are. Works whatever the files hold."""
    places = options.places(ctx)
    project = config.project_file(Path.cwd())
    where = {
        "config": str(places.config_file),
        "project": str(project) if project else None,
        "runs": str(places.runs),
        "state": str(places.state),
        "cache": str(places.cache),
    }
    if json:
        show.as_json({"schema_version": 1, **where})
        return
    for name, place in where.items():
        show.line(f"{name:9}{place or f'(no {config.PROJECT_FILE} here)'}")


@app.command(cls=options.Command)
def validate(ctx: typer.Context) -> None:
    """Check the config files and RLM_ variables; exit 2 when something is wrong."""
    settings, problems = options.examine(ctx)
    for problem in problems:
        show.note(settings, f"error: {problem.message}")
    for warning in settings.warnings:
        show.note(settings, f"warning: {warning}")
    if problems:
        raise typer.Exit(2)
    print("valid" if not settings.warnings else f"valid, with {len(settings.warnings)} warnings")


@app.command(cls=options.Command)
def edit(ctx: typer.Context) -> None:
    """Open your config file in $VISUAL or $EDITOR, then check it. Works on a broken file."""
    settings, _ = options.examine(ctx)
    path = options.places(ctx).config_file
    env = config.environment()
    editor = env.get("VISUAL") or env.get("EDITOR") or ("notepad" if sys.platform == "win32" else "vi")
    if settings.run.no_input or not sys.stdin.isatty():
        raise UsageError("there is no terminal to edit in", hint=f"rlm config set KEY VALUE, or open {path}")
    if not path.exists():
        save(path, "# rlm's settings; `rlm help config` lists them\n")
    try:
        status = subprocess.run([*shlex.split(editor, posix=os.name != "nt"), str(path)], check=False).returncode  # noqa: S603
    except OSError as error:
        raise UsageError(
            f"cannot start the editor {editor!r}: {error.strerror}", hint="EDITOR=nano rlm config edit"
        ) from error
    if status:
        raise UsageError(f"the editor {editor!r} ended with status {status}")
    validate(ctx)


def _known(name: str) -> tuple[config.Key, str]:
    try:
        key, entry = config.find_key(name)
    except KeyError:
        raise ConfigError(config.unknown_key(name), hint="rlm config list") from None
    return key, entry


def _shown(settings: config.Settings, name: str) -> str:
    key, _ = config.find_key(name)
    return str(_veiled(name, key.kind.show(settings.value(name))))


def _veiled(name: str, value: Any) -> Any:
    """The value without what is secret in it: an option called api_key, the password in a URL."""
    if not isinstance(value, str):
        return {entry: _veiled(entry, kept) for entry, kept in value.items()} if isinstance(value, Mapping) else value
    from ..models.catalog import SECRET_NAME
    from ..models.failures import redact

    return "[key]" if value and SECRET_NAME.search(name.upper()) else redact(value)


def _facts(settings: config.Settings, name: str) -> dict[str, Any]:
    value = settings.value(name)
    if isinstance(value, config.Price):
        value = _written(value, "")
    origin = settings.origins.get(name, config.Origin("default"))
    return {
        "value": _veiled(name, dict(value) if isinstance(value, Mapping) else value),
        "origin": origin.kind,
        "place": origin.place,
    }


def _file(ctx: typer.Context, key: config.Key, *, project: bool) -> Path:
    """The file to change. Raises `ConfigError` for a key that the file may not hold."""
    if key.switch:
        raise ConfigError(f"{key.name} is not kept in a file", hint=f"use {key.flag} or {key.env}")
    if not project:
        return options.places(ctx).config_file
    if key.project == "no":
        raise ConfigError(f"{key.name} may not be set by a project", hint=f"rlm config set {key.name} VALUE")
    return config.project_file(Path.cwd()) or Path.cwd() / config.PROJECT_FILE


def _where(key: config.Key, entry: str) -> tuple[str, ...]:
    return (*key.name.split("."), *([entry] if entry else []))


def _written(parsed: Any, text: str) -> Any:
    """What to write: numbers, booleans and lists as themselves; sizes, durations and words as they were typed."""
    if isinstance(parsed, config.Price):
        amounts = {"input": parsed.input, "output": parsed.output, "cached": parsed.cached}
        return {name: amount for name, amount in amounts.items() if amount is not None}
    if isinstance(parsed, tuple):
        return list(parsed)
    typed = text.strip()
    if isinstance(parsed, bool):
        return parsed
    if isinstance(parsed, int | float) and typed.replace(".", "", 1).isdecimal():
        return parsed
    return typed


def _must_parse(path: Path, text: str) -> None:
    if problem := config.toml_problem(path, text):
        raise problem
