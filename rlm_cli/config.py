"""Settings: merged once, frozen, and each value remembers where it came from.

The dataclasses below are the one table of keys. A field made by `_key` is a key: its default, parser, documentation,
environment variable, flag and what a project may do with it stand in one place, and the help texts, the JSON Schema,
the command-line options and `rlm config` are all read from there (`KEYS`).

Precedence, highest first: flag (and `--set`), `RLM_*` variable, project `rlm.toml`, user `config.toml`, default.
An empty variable is unset. The project file is the nearest `rlm.toml` from the working directory up to the root of its
git work tree (outside git: the working directory only). It comes with whatever was cloned or unpacked, so it is not
trusted: it may only set what `_key(project=...)` allows, and the rest is ignored with a warning.

This is the only module that reads the environment. API keys are not settings: see `api_key`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar, cast

from . import units
from .errors import ConfigError

T = TypeVar("T")

PROJECT_FILE = "rlm.toml"
MAX_FILE_BYTES = 64 * 1024
"""A configuration file larger than this is a mistake or an attack."""
MAX_STATEMENT_LINES = 200
"""Finding the lines of one assignment costs their square; beyond this the lines of a file are not known."""
MAX_WARNINGS = 20
"""A hostile rlm.toml must not flood the terminal."""


# -- kinds of values -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind(Generic[T]):
    """How one sort of value is read and shown.

    `parse` takes text (from a flag, a variable or --set) or a TOML value and raises `ValueError` with a sentence;
    `show` gives text that `parse` reads back; `schema` is JSON Schema for the TOML value.
    """

    parse: Callable[[object], T]
    schema: Mapping[str, Any]
    show: Callable[[T], str] = str


def _plain(value: object) -> str:
    """A scalar as the text that a person would have typed."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a single value")
    return str(value).strip()


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not text")
    return value.strip()


def _boolean(value: object) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    known = words.get(str(value).strip().lower())
    if known is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return known


def _texts(value: object) -> tuple[str, ...]:
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(_text(entry) for entry in entries if entry != "")


def _usd(value: object) -> float:
    amount = units.parse_money(_plain(value))
    if not math.isfinite(amount):
        raise ValueError(f"{value!r} is not an amount in dollars")
    return amount


def _count(minimum: int, maximum: int = 10**15) -> Kind[int]:
    def parse(value: object) -> int:
        text = _plain(value).replace("_", "").replace(",", "")
        if not re.fullmatch(r"\d{1,18}", text) or not minimum <= int(text) <= maximum:
            bound = f"{minimum} or more" if maximum == 10**15 else f"from {minimum} to {maximum}"
            raise ValueError(f"{value!r} is not a whole number, {bound}")
        return int(text)

    return Kind(parse, {"type": "integer", "minimum": minimum, "maximum": maximum})


def _positive(value: object) -> float:
    text = _plain(value)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text) or float(text) <= 0:
        raise ValueError(f"{value!r} is not a number above 0")
    return float(text)


def _duration(value: object) -> float:
    seconds = units.parse_duration(_plain(value))
    if not 0 < seconds <= 366 * 86400:
        raise ValueError(f"{value!r} is not a duration between 0 and a year")
    return seconds


def _show_duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def _show_size(size: int) -> str:
    for unit, power in (("TiB", 4), ("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)


def _choice(*names: str) -> Kind[Any]:
    def parse(value: object) -> str:
        text = _plain(value).lower() if isinstance(value, str) else ""
        if text not in names:
            raise ValueError(f"{value!r} is not one of {', '.join(names)}")
        return text

    return Kind(parse, {"enum": list(names)})


def _runtime(value: object) -> Any:
    """Refuse by name what is planned and not there, rather than run something else."""
    text = _text(value).lower()
    if text in ("auto", "docker"):
        return text
    if text == "podman":
        raise ValueError("podman is reached as an engine of Docker's kind: set DOCKER_HOST to its socket")
    if text == "local":
        raise ValueError("model code only ever runs in a container")
    raise ValueError(f"{value!r} is not one of auto, docker")


def _or_none(kind: Kind[T]) -> Kind[T | None]:
    """A cap that the word `none` lifts."""

    def parse(value: object) -> T | None:
        return None if isinstance(value, str) and value.strip().lower() == "none" else kind.parse(value)

    def show(value: T | None) -> str:
        return "none" if value is None else kind.show(value)

    return Kind(parse, {"anyOf": [dict(kind.schema), {"const": "none"}]}, show)


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens. `cached` None: as `input`."""

    input: float
    output: float
    cached: float | None = None


def _price(value: object) -> Price:
    """`{input = 1.25, output = 10}` or `"1.25,10"` or `"1.25,10,0.125"`."""
    if isinstance(value, Mapping):
        unknown = set(value) - {"input", "output", "cached"}
        if unknown or not {"input", "output"} <= set(value):
            raise ValueError(f"{dict(value)!r} is not a price: it takes input, output and perhaps cached")
        return Price(*(_usd(value[name]) for name in ("input", "output", "cached") if name in value))
    parts = str(value).split(",")
    if len(parts) not in (2, 3):
        raise ValueError(f"{value!r} is not a price: write IN,OUT in dollars for a million tokens, such as 1.25,10")
    return Price(*(_usd(part) for part in parts))


def _show_price(price: Price) -> str:
    amounts = (price.input, price.output) if price.cached is None else (price.input, price.output, price.cached)
    return ",".join(f"{amount:g}" for amount in amounts)


def _scalar(value: object) -> str | int | float | bool:
    """An option for the model's own API: text is read as a number or a boolean where it is one."""
    if isinstance(value, bool | int | float):
        return value
    text = _text(value)
    if text in ("true", "false"):
        return text == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


_SIZE_SCHEMA = {"type": ["integer", "string"]}
_AMOUNT = {"type": "number", "minimum": 0}
TEXT: Kind[str] = Kind(_text, {"type": "string", "minLength": 1})
OPTIONAL_TEXT: Kind[str | None] = Kind(_text, TEXT.schema, lambda value: value or "")
TEXTS: Kind[tuple[str, ...]] = Kind(_texts, {"type": "array", "items": {"type": "string"}}, ",".join)
BOOLEAN: Kind[bool] = Kind(_boolean, {"type": "boolean"}, lambda value: str(value).lower())
USD: Kind[float] = Kind(_usd, _AMOUNT, lambda value: f"{value:.2f}" if round(value, 2) == value else f"{value:g}")
DURATION: Kind[float] = Kind(_duration, {"type": ["number", "string"]}, _show_duration)
SIZE: Kind[int] = Kind(lambda value: units.parse_size(_plain(value)), _SIZE_SCHEMA, _show_size)
NUMBER: Kind[float] = Kind(_positive, {"type": "number", "exclusiveMinimum": 0}, lambda value: f"{value:g}")
SCALAR: Kind[str | int | float | bool] = Kind(
    _scalar,
    {"type": ["string", "number", "boolean"]},
    lambda value: str(value).lower() if isinstance(value, bool) else str(value),
)
_PRICE_FIELDS = dict.fromkeys(("input", "output", "cached"), _AMOUNT)
PRICE: Kind[Price] = Kind(
    _price,
    {"type": "object", "properties": _PRICE_FIELDS, "required": ["input", "output"], "additionalProperties": False},
    _show_price,
)
OPTIONAL_PRICE: Kind[Price | None] = Kind(_price, PRICE.schema, lambda value: _show_price(value) if value else "")


# -- the table -----------------------------------------------------------------------------------------------------

Project = Literal["no", "yes", "lower", "add", "alias"]
"""What a project's rlm.toml may do with a key: nothing; set it; only lower it; only add entries; only name one of
the user's own aliases."""


@dataclass(frozen=True)
class Key:
    """One setting. `name` is its name in the files, `path` its attributes from `Settings`; a `many` key is a table
    whose entries (`aliases.fast`) are of `kind`. A `switch` has no place in a file: flag and variable only."""

    name: str
    path: tuple[str, ...]
    kind: Kind[Any]
    default: Any
    doc: str
    env: str
    flag: str
    project: Project
    many: bool
    switch: bool
    negated_env: bool

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    def show(self, value: Any) -> str:
        """`value` as text that --set would read back."""
        if self.many:
            return ", ".join(f"{name}={self.kind.show(entry)}" for name, entry in value.items())
        return self.kind.show(value)


def _key(
    kind: Kind[T],
    default: T,
    doc: str,
    *,
    name: str = "",
    env: str = "",
    flag: str = "",
    project: Project = "no",
    switch: bool = False,
    negated_env: bool = False,
) -> T:
    facts = {
        "kind": kind,
        "doc": doc,
        "name": name,
        "env": env,
        "flag": flag,
        "project": project,
        "switch": switch,
        "negated_env": negated_env,
    }
    return field(default=default, metadata={"key": facts})


def _table(kind: Kind[T], doc: str, *, flag: str = "") -> Mapping[str, T]:
    facts = {"kind": kind, "doc": doc, "flag": flag, "many": True}
    return cast(Mapping[str, T], field(default_factory=lambda: MappingProxyType({}), metadata={"key": facts}))


@dataclass(frozen=True)
class Limits:
    """Caps of one run, for the whole tree of calls. None: not capped."""

    cost: float | None = _key(
        _or_none(USD), 1.00, "most US dollars a run may spend", env="RLM_MAX_COST", flag="--max-cost", project="lower"
    )
    tokens: int | None = _key(
        _or_none(_count(1)),
        None,
        "most tokens a run may use, input and output of all calls",
        env="RLM_MAX_TOKENS",
        flag="--max-tokens",
        project="lower",
    )
    time_s: float | None = _key(
        _or_none(DURATION),
        900.0,
        "longest a run may take",
        name="time",
        env="RLM_MAX_TIME",
        flag="--max-time",
        project="lower",
    )
    iterations: int = _key(
        _count(1, 10_000),
        30,
        "most turns of the root model",
        env="RLM_MAX_ITERATIONS",
        flag="--max-iterations",
        project="lower",
    )
    depth: int = _key(
        _count(0, 8),
        1,
        "how deep sub-calls may recurse; 0: no sub-calls",
        env="RLM_MAX_DEPTH",
        flag="--max-depth",
        project="lower",
    )
    subcalls: int | None = _key(
        _or_none(_count(0)), 500, "most sub-calls", env="RLM_MAX_SUBCALLS", flag="--max-subcalls", project="lower"
    )
    concurrency: int = _key(
        _count(1, 1024),
        8,
        "sub-calls in flight at once",
        env="RLM_CONCURRENCY",
        flag="--concurrency",
        project="lower",
    )
    on_limit: Literal["answer", "fail"] = _key(
        _choice("answer", "fail"), "answer", "at a limit: a last, partial answer, or none", flag="--on-limit"
    )
    allow_unknown_cost: bool = _key(
        BOOLEAN, False, "run although the price of a model is unknown", flag="--allow-unknown-cost"
    )


@dataclass(frozen=True)
class Sources:
    """How folders are read."""

    ignore: tuple[str, ...] = _key(TEXTS, (), "globs that folder walks leave out, besides ignore files", project="add")
    hidden: bool = _key(BOOLEAN, False, "read hidden files in folders too", flag="--hidden")
    max_input: int | None = _key(
        _or_none(SIZE),
        4 * 1024**3,
        "most bytes to read; more is an error, never a cut",
        env="RLM_MAX_INPUT",
        flag="--max-input",
        project="lower",
    )
    encoding: str = _key(TEXT, "auto", "encoding of the sources", flag="--encoding")
    archives: bool = _key(BOOLEAN, True, "open compressed files and archives; false: they are files like any other")


@dataclass(frozen=True)
class Output:
    """How the answer and the run are shown."""

    format: Literal["text", "json", "events"] = _key(
        _choice("text", "json", "events"),
        "text",
        "what stdout carries: the answer, one JSON object, or JSON lines",
        env="RLM_FORMAT",
        flag="--format",
        project="yes",
    )
    progress: Literal["auto", "rich", "plain", "none"] = _key(
        _choice("auto", "rich", "plain", "none"),
        "auto",
        "how the run is shown on stderr",
        env="RLM_PROGRESS",
        flag="--progress",
        project="yes",
    )
    color: Literal["auto", "always", "never"] = _key(
        _choice("auto", "always", "never"), "auto", "colour on the terminal", flag="--color", project="yes"
    )


@dataclass(frozen=True)
class Sandbox:
    """The container that runs the model's code."""

    runtime: Literal["auto", "docker"] = _key(
        Kind(_runtime, {"enum": ["auto", "docker"]}),
        "auto",
        "container runtime",
        env="RLM_SANDBOX",
        flag="--sandbox",
    )
    image: str | None = _key(
        OPTIONAL_TEXT, None, "image to run; unset: the pinned default", env="RLM_SANDBOX_IMAGE", flag="--image"
    )
    memory: int = _key(SIZE, 2 * 1024**3, "memory of the container", flag="--memory")
    cpus: float = _key(NUMBER, 2.0, "processors of the container", flag="--cpus")
    step_timeout: float = _key(DURATION, 120.0, "longest one piece of code may compute", flag="--step-timeout")
    pull: Literal["missing", "always", "never"] = _key(
        _choice("missing", "always", "never"), "missing", "when to pull the image", flag="--pull"
    )


@dataclass(frozen=True)
class Logs:
    """The record kept of each run."""

    enabled: bool = _key(BOOLEAN, True, "keep a record of runs", env="RLM_NO_LOG", flag="--no-log", negated_env=True)
    keep_days: int | None = _key(_or_none(_count(1)), 90, "age at which `rlm runs prune` removes a run, in days")
    max_bytes: int | None = _key(_or_none(SIZE), 5 * 1024**3, "size to which `rlm runs prune` brings all runs")


@dataclass(frozen=True)
class Api:
    """Where models are asked."""

    base: str | None = _key(OPTIONAL_TEXT, None, "URL of the model API", env="RLM_API_BASE", flag="--api-base")


@dataclass(frozen=True)
class Run:
    """Switches of one invocation: flags and variables, never a file."""

    quiet: bool = _key(BOOLEAN, False, "only errors", env="RLM_QUIET", flag="--quiet", switch=True)
    verbose: int = _key(
        _count(0, 2), 0, "1: code and outputs in full, 2: prompts too", env="RLM_VERBOSE", flag="--verbose", switch=True
    )
    debug: bool = _key(BOOLEAN, False, "show tracebacks", env="RLM_DEBUG", flag="--debug", switch=True)
    no_input: bool = _key(BOOLEAN, False, "never ask", env="RLM_NO_INPUT", flag="--no-input", switch=True)
    price: Price | None = _key(
        OPTIONAL_PRICE,
        None,
        "dollars for a million tokens, in and out, of models without a known price",
        env="RLM_PRICE",
        flag="--price",
        switch=True,
    )


def _section(kind: Callable[[], T]) -> T:
    return field(default_factory=kind, metadata={"section": kind})


OriginKind = Literal["flag", "env", "project", "user", "default"]


@dataclass(frozen=True)
class Origin:
    """Where a value came from. `place` is the flag, the variable, or `file:line`; "" for a default."""

    kind: OriginKind
    place: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.place}".strip()


@dataclass(frozen=True)
class Places:
    """The folders rlm uses, and the user's config file. Nothing here exists until something is written."""

    config: Path
    state: Path
    cache: Path
    config_file: Path

    @property
    def runs(self) -> Path:
        return self.state / "runs"


@dataclass(frozen=True)
class Settings:
    """Everything that can be configured, resolved. `origins` holds an entry for every key and every table entry."""

    model: str | None = _key(
        OPTIONAL_TEXT, None, "root model, an id or an alias", env="RLM_MODEL", flag="--model", project="alias"
    )
    sub_model: str | None = _key(
        OPTIONAL_TEXT,
        None,
        "model of the sub-calls, an id or an alias",
        env="RLM_SUB_MODEL",
        flag="--sub-model",
        project="alias",
    )
    confirm_above: float | None = _key(
        _or_none(USD), None, "ask on a terminal before a run that may cost more", project="lower"
    )
    aliases: Mapping[str, str] = _table(TEXT, "your own names for models")
    model_options: Mapping[str, str | int | float | bool] = _table(
        SCALAR, "options passed on to the model's API (temperature ...)", flag="--model-option"
    )
    prices: Mapping[str, Price] = _table(PRICE, "prices of models, in dollars for a million tokens")
    limits: Limits = _section(Limits)
    sources: Sources = _section(Sources)
    output: Output = _section(Output)
    sandbox: Sandbox = _section(Sandbox)
    logs: Logs = _section(Logs)
    api: Api = _section(Api)
    run: Run = _section(Run)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def model_id(self, name: str) -> str:
        """The id that `name` stands for: an alias's target, or `name` itself."""
        return self.aliases.get(name, name)

    def value(self, name: str) -> Any:
        """The value of a key (`limits.cost`) or of one table entry (`aliases.fast`). Raises `KeyError`."""
        key, entry = find_key(name)
        value: Any = self
        for attribute in key.path:
            value = getattr(value, attribute)
        return value[entry] if entry else value


def derived_env(name: str) -> str:
    """The variable of a key that has none of its own name: RLM_SOURCES_ENCODING for sources.encoding."""
    return f"RLM_{name.upper().replace('.', '_')}"


def _keys(cls: Any, section: str = "", path: tuple[str, ...] = ()) -> Iterator[Key]:
    for item in dataclasses.fields(cls):
        here = (*path, item.name)
        if "section" in item.metadata:
            yield from _keys(item.metadata["section"], f"{item.name}.", here)
        if facts := item.metadata.get("key"):
            name = section + (facts.get("name") or item.name)
            many = facts.get("many", False)
            yield Key(
                name=name,
                path=here,
                kind=facts["kind"],
                default={} if many else item.default,
                doc=facts["doc"],
                env="" if many else facts["env"] or derived_env(name),
                flag=facts["flag"],
                project=facts.get("project", "no"),
                many=many,
                switch=facts.get("switch", False),
                negated_env=facts.get("negated_env", False),
            )


KEYS: Mapping[str, Key] = MappingProxyType({key.name: key for key in _keys(Settings)})

OTHER_VARIABLES: Sequence[tuple[str, str]] = (
    ("RLM_CONFIG", "the config file to use instead of the user's (--config)"),
    ("RLM_HOME", "one folder for configuration, runs and cache"),
    ("RLM_API_KEY", "the key for RLM_API_BASE, or for the model's provider"),
    ("NO_COLOR", "not empty: no colour"),
    ("FORCE_COLOR", "not empty: colour even where there is no terminal"),
    ("TERM", "dumb: no colour, no animation"),
    ("CI", "not empty: one plain line per step"),
    ("EDITOR", "what `rlm config edit` opens (VISUAL goes first)"),
    ("HTTP_PROXY, HTTPS_PROXY, NO_PROXY", "how model providers are reached; never passed to the sandbox"),
    ("DOCKER_HOST", "the container engine to use"),
    ("XDG_CONFIG_HOME, XDG_STATE_HOME, XDG_CACHE_HOME", "where configuration, runs and cache are kept"),
)


def find_key(name: str) -> tuple[Key, str]:
    """The key called `name` and, for an entry of a table, the entry's name. Raises `KeyError`."""
    if key := KEYS.get(name):
        return key, ""
    head, _, entry = name.partition(".")
    key = KEYS[head]
    if not key.many or not entry:
        raise KeyError(name)
    return key, entry


def unknown_key(name: str) -> str:
    """A sentence about a name that is no key, with the nearest one that is."""
    names = [key.name for key in KEYS.values() if not key.switch]
    # Short names differ in most letters from `section.name`: compare the last parts too.
    tails = {key.rpartition(".")[2]: key for key in names}
    near = difflib.get_close_matches(name, names, n=1) or [
        tails[tail] for tail in difflib.get_close_matches(name.rpartition(".")[2], tails, n=1)
    ]
    return f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


# -- the environment -----------------------------------------------------------------------------------------------


def environment() -> Mapping[str, str]:
    """A snapshot of the process's environment, without empty variables: empty means unset."""
    return MappingProxyType({name: value for name, value in os.environ.items() if value})


@dataclass(frozen=True)
class Secret:
    """Text that must not show up in a log, a repr or a traceback."""

    value: str = field(repr=False)


def api_key(env: Mapping[str, str]) -> Secret | None:
    """RLM_API_KEY. Keys are read where they are needed and never kept in `Settings`."""
    key = env.get("RLM_API_KEY", "").strip()
    return Secret(key) if key else None


def places(env: Mapping[str, str], config_file: Path | None = None) -> Places:
    """Where things are. XDG on macOS too, %APPDATA% and %LOCALAPPDATA% on Windows, RLM_HOME for everything."""
    if home := env.get("RLM_HOME"):
        root = Path(home).expanduser().absolute()
        folders = (root, root, root / "cache")
    elif sys.platform == "win32":
        folders = _windows_folders()
    else:
        folders = (
            _xdg(env, "XDG_CONFIG_HOME", ".config"),
            _xdg(env, "XDG_STATE_HOME", ".local/state"),
            _xdg(env, "XDG_CACHE_HOME", ".cache"),
        )
    named = config_file or (Path(env["RLM_CONFIG"]) if env.get("RLM_CONFIG") else None)
    return Places(*folders, config_file=named.expanduser() if named else folders[0] / "config.toml")


def _xdg(env: Mapping[str, str], variable: str, default: str) -> Path:
    """The specification says to ignore a relative path."""
    base = Path(env.get(variable, ""))
    if not base.is_absolute():
        base = Path(env.get("HOME") or Path("~").expanduser()) / default
    return base / "rlm"


def _windows_folders() -> tuple[Path, Path, Path]:
    from platformdirs.windows import Windows

    roaming, local = Windows("rlm", appauthor=False, roaming=True), Windows("rlm", appauthor=False)
    return Path(roaming.user_config_dir), Path(local.user_state_dir), Path(local.user_cache_dir)


def project_file(cwd: Path) -> Path | None:
    """The nearest rlm.toml from `cwd` up to the root of its git work tree; outside git only `cwd`'s own."""
    folders = [cwd, *cwd.parents]
    top = next((i for i, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    # is_file: a FIFO by that name must not hang us.
    return next((f / PROJECT_FILE for f in folders[: top + 1] if (f / PROJECT_FILE).is_file()), None)


# -- merging -------------------------------------------------------------------------------------------------------


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
    user = _from_file(file, "user", findings) if explicit or file.exists() else []
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
    key, _ = find_key(name)
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
    document, lines = tomllib.loads(text), _line_numbers(text)
    out: list[Given] = []
    for where, value in _leaves(document):
        name = ".".join(where)
        origin = Origin(kind, f"{path}:{_line_of(lines, where)}")
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


# -- TOML by lines: what tomllib does not tell ---------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """Lines `start` to `end` (from 0, end excluded) of a TOML file: a `[table]` header, or one assignment to `path`."""

    start: int
    end: int
    path: tuple[str, ...]
    header: bool


def toml_statements(text: str) -> Iterator[Statement]:
    """The statements of a valid TOML document, in order: tomllib gives values without their lines.

    A statement ends at the first line where what was collected parses: a prefix of an assignment never does.
    """
    # Not splitlines: TOML strings may hold U+2028 and its like. A CR counts only with its LF.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    table: tuple[str, ...] = ()
    at = 0
    while at < len(lines):
        bare = lines[at].strip()
        if not bare or bare.startswith("#"):
            at += 1
            continue
        end = at + 1
        while _parse("\n".join(lines[at:end])) is None:
            end += 1
            if end > min(len(lines), at + MAX_STATEMENT_LINES):
                return
        header = bare.startswith("[")
        path = _path_of(_parse(bare)) if header else (*table, *_assigned(lines[at]))
        table = path if header else table
        yield Statement(at, end, path, header)
        at = end


def _parse(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _assigned(line: str) -> tuple[str, ...]:
    """The path that the line's assignment names: what stands before the first `=` that is not in quotes."""
    parts = line.split("=", 20)
    for count in range(1, len(parts)):
        if (value := _parse("=".join(parts[:count]) + "= 0")) is not None:
            return _path_of(value)
    return ()


def _path_of(value: Any) -> tuple[str, ...]:
    path: list[str] = []
    while isinstance(value, Mapping) and value:
        name, value = next(iter(value.items()))
        path.append(name)
    return tuple(path)


def _line_numbers(text: str) -> Mapping[tuple[str, ...], int]:
    """Path -> the line, from 1, that first mentions it."""
    lines: dict[tuple[str, ...], int] = {}
    for statement in toml_statements(text):
        for length in range(1, len(statement.path) + 1):
            lines.setdefault(statement.path[:length], statement.start + 1)
    return lines


def _line_of(lines: Mapping[tuple[str, ...], int], where: tuple[str, ...]) -> int:
    """The line of `where`, or of what holds it (an inline table)."""
    return next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), 1)
