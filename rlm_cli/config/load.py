"""Merge the layers into `Settings`, each value with its origin; what is not trusted is left out, with a warning."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from types import MappingProxyType
from typing import Any, Literal

from .. import units
from ..errors import ConfigError
from .places import PROJECT_FILE, environment, places, project_file
from .settings import KEYS, OTHER_VARIABLES, Key, Origin, Settings, find_key, unknown_key
from .toml_lines import line_numbers, line_of

MAX_FILE_BYTES = 64 * 1024
"""A configuration file larger than this is a mistake or an attack."""
MAX_WARNINGS = 20
"""A hostile rlm.toml must not flood the terminal."""


@dataclass(frozen=True)
class Given:
    """A value somebody set: `name` as in `Settings.value`, already parsed."""

    name: str
    key: Key
    value: Any
    origin: Origin


@dataclass(frozen=True)
class Findings:
    """What is wrong with the configuration: problems stop a run, warnings are shown."""

    problems: list[ConfigError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def warn(self, message: str) -> None:
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(message)
        elif len(self.warnings) == MAX_WARNINGS:
            self.warnings.append("... and more; see `rlm config validate`")


def load(
    flags: Mapping[str, object] | None = None,
    overrides: Iterable[str] = (),
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> Settings:
    """Merge all layers. `flags` maps key names to raw values, `overrides` are the KEY=VALUE of --set.

    Raises `ConfigError` for the first value, name on the command line, or file that is wrong.
    """
    settings, problems = examine(flags, overrides, cwd=cwd, env=env, config_file=config_file)
    if problems:
        raise problems[0]
    return settings


def examine(
    flags: Mapping[str, object] | None = None,
    overrides: Iterable[str] = (),
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> tuple[Settings, tuple[ConfigError, ...]]:
    """As `load`, but with everything that is wrong beside what could be read: for doctor and `config validate`."""
    env = environment() if env is None else env
    findings = Findings()
    file = places(env, config_file).config_file
    explicit = config_file is not None or "RLM_CONFIG" in env
    user: list[Given] = []
    if error := exposed(file, named=explicit):
        findings.problems.append(error)
    elif explicit or file.exists():
        user = _from_file(file, "user", findings)
    project = project_file(cwd or Path.cwd())
    trusted = _build([*user], findings)
    safe = [given for given in _from_file(project, "project", findings) if _allowed(given, trusted, findings)]
    layers = [
        *user,
        *(_added(given, trusted) for given in safe),
        *_from_env(env, findings),
        *_from_flags(flags or {}, findings),
        *_from_overrides(overrides, findings),
    ]
    settings = _build(layers, findings)
    return settings, tuple(findings.problems)


def _parsed(name: str, raw: object, origin: Origin, findings: Findings) -> Iterator[Given]:
    """One value, read by its key's parser; nothing but a problem when it cannot be."""
    key, entry = find_key(name)
    name = f"{key.name}.{entry}" if entry else name
    try:
        yield Given(name, key, key.kind.parse(raw), origin)
    except ValueError as error:
        where = origin.place if origin.kind in ("flag", "env") else f"{origin.place}: {name}"
        hint = {"user": "rlm config edit", "env": f"unset {origin.place}", "project": "correct or remove it"}
        findings.problems.append(ConfigError(f"{where}: {error}", hint=hint.get(origin.kind, "")))


def _from_flags(flags: Mapping[str, object], findings: Findings) -> Iterator[Given]:
    for name, raw in flags.items():
        key, entry = find_key(name)
        if key.many and not entry:
            pairs = raw if isinstance(raw, Mapping) else {}
            for item, value in pairs.items():
                yield from _parsed(f"{name}.{item}", value, Origin("flag", key.flag), findings)
        else:
            yield from _parsed(name, raw, Origin("flag", key.flag or f"--set {name}"), findings)


def _from_overrides(overrides: Iterable[str], findings: Findings) -> Iterator[Given]:
    for text in overrides:
        name, equals, raw = text.partition("=")
        name = name.strip()
        try:
            key, entry = find_key(name)
        except KeyError:
            findings.problems.append(ConfigError(f"--set {text}: {unknown_key(name)}", hint="rlm config list"))
            continue
        if not equals or (key.many and not entry):
            wanted = f"{name}.NAME=VALUE" if key.many else f"{name}=VALUE"
            findings.problems.append(ConfigError(f"--set {text}: write --set {wanted}"))
            continue
        yield from _parsed(name, raw, Origin("flag", f"--set {name}"), findings)


def _from_env(env: Mapping[str, str], findings: Findings) -> Iterator[Given]:
    # Not every unknown one: other tools of this family have RLM_ variables of their own.
    known = {key.env for key in KEYS.values()} | {name for name, _ in OTHER_VARIABLES}
    for name in sorted(name for name in env if name.startswith("RLM_") and name not in known):
        if near := difflib.get_close_matches(name, known, n=1, cutoff=0.88):
            findings.warn(f"{name} is not a variable of rlm; did you mean {near[0]}?")
    for key in KEYS.values():
        raw = env.get(key.env, "").strip() if key.env else ""
        if not raw:
            continue
        for given in _parsed(key.name, raw, Origin("env", key.env), findings):
            yield dataclasses.replace(given, value=not given.value) if key.negated_env else given


def _from_file(path: Path | None, kind: Literal["user", "project"], findings: Findings) -> list[Given]:
    if path is None:
        return []
    try:
        text = read_file(path)
    except ConfigError as error:
        findings.problems.append(error)
        return []
    if problem := toml_problem(path, text):
        findings.problems.append(problem)
        return []
    document, lines = tomllib.loads(text), line_numbers(text)
    out: list[Given] = []
    for where, value in _leaves(document):
        name = ".".join(where)
        origin = Origin(kind, f"{path}:{line_of(lines, where)}")
        if name not in KEYS and not _is_entry(name):
            findings.warn(f"{origin.place}: {unknown_key(name)}; ignored")
        elif KEYS.get(name) and KEYS[name].many:
            findings.problems.append(ConfigError(f"{origin.place}: {name} is a table: write [{name}]"))
        elif find_key(name)[0].switch:
            findings.warn(f"{origin.place}: {name} has no effect in a file; ignored")
        elif kind == "project" and find_key(name)[0].project == "no":
            # Before it is read: a value that cannot be parsed must not stop a run either.
            findings.warn(f"{origin.place}: {name} may not be set by a project; ignored")
        else:
            out += _parsed(name, value, origin, findings)
    return out


def read_file(path: Path) -> str:
    """A configuration file's text. Raises `ConfigError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {units.human_bytes(MAX_FILE_BYTES)}")
        return data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint="rlm config path") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint="rlm config path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8", hint="rlm config edit") from error


def exposed(path: Path, *, named: bool) -> ConfigError | None:
    """Why the user's own file is not believed, by the rules of ssh: others can write it, or it belongs to somebody else
    and was not `named` by a flag or a variable. It says where the key is sent. A group of the user's own is no others.
    """
    try:
        facts = path.stat()
    except OSError:  # reading it says why
        return None
    if sys.platform == "win32" or not stat.S_ISREG(facts.st_mode):
        return None
    spelt, why = quote(str(path)), "what it says of endpoints decides where keys are sent"
    if not named and facts.st_uid not in (0, os.geteuid()):
        hint = f"look at it, then: sudo chown {os.geteuid()} {spelt}"
        return ConfigError(f"{path} belongs to another user: {why}", hint=hint, code="config_exposed")
    others = stat.S_IWOTH if facts.st_gid == facts.st_uid else stat.S_IWOTH | stat.S_IWGRP
    if facts.st_mode & others:
        hint = f"look at it, then: chmod go-w {spelt}"
        return ConfigError(f"{path} can be written by other users: {why}", hint=hint, code="config_exposed")
    return None


def toml_problem(path: Path, text: str) -> ConfigError | None:
    """Why the file is no TOML, and in which line; None when it is."""
    try:
        tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = re.search(r"at line (\d+)", str(error))
        place = f"{path}:{found[1]}" if found else str(path)
        hint = f"correct or remove {path}" if path.name == PROJECT_FILE else "rlm config edit"
        return ConfigError(f"{place}: not valid TOML: {error}", hint=hint)
    return None


def _is_entry(name: str) -> bool:
    try:
        return bool(find_key(name)[1])
    except KeyError:
        return False


def _leaves(document: Mapping[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value with its path. The entries of a `many` table are values, whatever they hold."""
    for name, value in document.items():
        here = (*where, name)
        if isinstance(value, Mapping) and not _is_entry(".".join(here)) and len(here) < 4:
            yield from _leaves(value, here)
        else:
            yield here, value


def _allowed(given: Given, trusted: Settings, findings: Findings) -> bool:
    """Whether a project may set this, by the key's own rule; a refusal is a warning that names key and file."""
    rule, have = given.key.project, trusted.value(given.key.name)
    refusal = ""
    if rule == "alias" and given.value not in trusted.aliases:
        refusal = f"may only name an alias of yours in a project, and {given.value!r} is none"
    elif rule == "lower" and (given.value is None or (have is not None and given.value > have)):
        refusal = f"may only be lowered by a project; it stays {given.key.show(have)}"
    if refusal:
        findings.warn(f"{given.origin.place}: {given.name} {refusal}; ignored")
    return not refusal


def _added(given: Given, trusted: Settings) -> Given:
    """Lists of a project extend the user's: it must not take away what the user leaves out."""
    if given.key.project != "add":
        return given
    return dataclasses.replace(given, value=(*trusted.value(given.name), *given.value))


def _build(givens: Iterable[Given], findings: Findings) -> Settings:
    """Settings from values in rising precedence."""
    values: dict[tuple[str, ...], Any] = {}
    origins = {key.name: Origin("default") for key in KEYS.values() if not key.many}
    for given in givens:
        _, entry = find_key(given.name)
        if entry:
            values[given.key.path] = {**values.get(given.key.path, {}), entry: given.value}
        else:
            values[given.key.path] = given.value
        origins[given.name] = given.origin
    sections: dict[str, Any] = {}
    for path, value in values.items():
        frozen = MappingProxyType(value) if isinstance(value, dict) else value
        if len(path) == 1:
            sections[path[0]] = frozen
        else:
            sections[path[0]] = dataclasses.replace(sections.get(path[0], _SECTIONS[path[0]]()), **{path[1]: frozen})
    return Settings(**sections, origins=MappingProxyType(origins), warnings=tuple(findings.warnings))


_SECTIONS: Mapping[str, Any] = {
    item.name: item.metadata["section"] for item in dataclasses.fields(Settings) if "section" in item.metadata
}
