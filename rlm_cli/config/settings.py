"""The one table of keys: a field made by `_key` is a key, and everything about it stands there."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

from .kinds import (
    BOOLEAN,
    DURATION,
    NUMBER,
    OPTIONAL_PRICE,
    OPTIONAL_TEXT,
    OPTIONAL_URL,
    PRICE,
    RUNTIME,
    SCALAR,
    SIZE,
    TEXT,
    TEXTS,
    USD,
    Kind,
    Price,
    choice,
    count,
    or_none,
    size,
)

T = TypeVar("T")

Project = Literal["no", "yes", "lower", "add", "alias"]
"""What a project's rlm.toml may do with a key: nothing; set it; only lower it; only add entries; only name one of
the user's own aliases."""


LEAST_MEMORY = 64 * 1024**2
"""Bytes that a Python kernel needs for itself."""


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
        or_none(USD), 1.00, "most US dollars a run may spend", env="RLM_MAX_COST", flag="--max-cost", project="lower"
    )
    tokens: int | None = _key(
        or_none(count(1)),
        None,
        "most tokens a run may use, input and output of all calls",
        env="RLM_MAX_TOKENS",
        flag="--max-tokens",
        project="lower",
    )
    time_s: float | None = _key(
        or_none(DURATION),
        900.0,
        "longest a run may take, its last turn included",
        name="time",
        env="RLM_MAX_TIME",
        flag="--max-time",
        project="lower",
    )
    iterations: int = _key(
        count(1, 10_000),
        30,
        "most turns of the root model, and of each child run",
        env="RLM_MAX_ITERATIONS",
        flag="--max-iterations",
        project="lower",
    )
    depth: int = _key(
        count(0, 8),
        1,
        "how deep sub-calls may recurse; 0: no sub-calls",
        env="RLM_MAX_DEPTH",
        flag="--max-depth",
        project="lower",
    )
    subcalls: int | None = _key(
        or_none(count(0)),
        500,
        "most calls below the root's own turns: sub-calls, and turns of child runs",
        env="RLM_MAX_SUBCALLS",
        flag="--max-subcalls",
        project="lower",
    )
    concurrency: int = _key(
        count(1, 1024),
        32,
        "most of these calls in flight at once; fewer while more do not pay, or at rate limits",
        env="RLM_CONCURRENCY",
        flag="--concurrency",
        project="lower",
    )
    on_limit: Literal["answer", "fail"] = _key(
        choice("answer", "fail"), "answer", "at a limit: a last, partial answer, or none", flag="--on-limit"
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
        or_none(SIZE),
        None,
        "most bytes to read; more is an error, never a cut",
        env="RLM_MAX_INPUT",
        flag="--max-input",
        project="lower",
    )
    encoding: str = _key(TEXT, "auto", "encoding of the sources", flag="--encoding")
    archives: bool = _key(BOOLEAN, True, "open compressed files and archives; false: they are files like any other")
    convert: Literal["auto", "all", "none"] = _key(
        choice("auto", "all", "none"),
        "auto",
        "make text of documents (PDF, office, notebooks, SQLite, Parquet); all: of HTML too; none: of nothing",
        flag="--convert",
    )


@dataclass(frozen=True)
class Output:
    """How the answer and the run are shown."""

    format: Literal["text", "json", "events"] = _key(
        choice("text", "json", "events"),
        "text",
        "what stdout carries: the answer, one JSON object, or JSON lines",
        env="RLM_FORMAT",
        flag="--format",
        project="yes",
    )
    cite: bool = _key(
        BOOLEAN,
        True,
        "ask for quotes that show the answer, and look each of them up in the input",
        env="RLM_CITE",
        flag="--cite",
        project="yes",
    )
    progress: Literal["auto", "rich", "plain", "none"] = _key(
        choice("auto", "rich", "plain", "none"),
        "auto",
        "how the run is shown on stderr",
        env="RLM_PROGRESS",
        flag="--progress",
        project="yes",
    )
    color: Literal["auto", "always", "never"] = _key(
        choice("auto", "always", "never"), "auto", "colour on the terminal", flag="--color", project="yes"
    )


@dataclass(frozen=True)
class Sandbox:
    """The container, or the confined process, that runs the model's code."""

    runtime: Literal["auto", "docker", "podman", "process"] = _key(
        RUNTIME,
        "auto",
        "what runs the model's code; auto: Docker, and where none answers Podman; process: no container "
        "(rlm help sandbox)",
        env="RLM_SANDBOX",
        flag="--sandbox",
    )
    image: str | None = _key(
        OPTIONAL_TEXT, None, "image to run; unset: the pinned default", env="RLM_SANDBOX_IMAGE", flag="--image"
    )
    memory: int = _key(size(LEAST_MEMORY), 2 * 1024**3, "memory that the model's code may have", flag="--memory")
    cpus: float = _key(NUMBER, 2.0, "processors of the container", flag="--cpus")
    step_timeout: float = _key(DURATION, 120.0, "longest one piece of code may compute", flag="--step-timeout")
    pull: Literal["missing", "always", "never"] = _key(
        choice("missing", "always", "never"), "missing", "when to pull the image", flag="--pull"
    )


@dataclass(frozen=True)
class Logs:
    """The record kept of each run."""

    enabled: bool = _key(BOOLEAN, True, "keep a record of runs", env="RLM_NO_LOG", flag="--no-log", negated_env=True)
    keep_days: int | None = _key(or_none(count(1)), 90, "age at which `rlm runs prune` removes a run, in days")
    max_bytes: int | None = _key(or_none(SIZE), 5 * 1024**3, "size to which `rlm runs prune` brings all runs")


@dataclass(frozen=True)
class Cache:
    """Replies of sub-calls that later runs may use. Within one run the same prompt is asked once in any case."""

    enabled: bool = _key(BOOLEAN, False, "use and keep sub-call replies across runs", env="RLM_CACHE", flag="--cache")
    max_bytes: int = _key(SIZE, 1024**3, "bytes of replies that are kept; the longest unused go first")


@dataclass(frozen=True)
class Api:
    """Where models are asked."""

    base: str | None = _key(OPTIONAL_URL, None, "URL of the model API", env="RLM_API_BASE", flag="--api-base")
    timeout: float = _key(
        DURATION, 180.0, "longest to wait for a sub-call's reply, or for the next piece of one that is streamed"
    )
    reply_timeout: float = _key(DURATION, 600.0, "longest that one reply may take, however steadily it comes")


@dataclass(frozen=True)
class Run:
    """Switches of one invocation: flags and variables, never a file."""

    quiet: bool = _key(BOOLEAN, False, "only errors", env="RLM_QUIET", flag="--quiet", switch=True)
    verbose: int = _key(
        count(0, 2), 0, "1: code and outputs in full, 2: prompts too", env="RLM_VERBOSE", flag="--verbose", switch=True
    )
    debug: bool = _key(BOOLEAN, False, "show tracebacks", env="RLM_DEBUG", flag="--debug", switch=True)
    no_input: bool = _key(BOOLEAN, False, "never ask", env="RLM_NO_INPUT", flag="--no-input", switch=True)
    offline: bool = _key(BOOLEAN, False, "fetch no source from a URL", env="RLM_OFFLINE", flag="--offline", switch=True)
    price: Price | None = _key(
        OPTIONAL_PRICE,
        None,
        "dollars for a million tokens, in and out, of models without a known price; of root and sub-model if known",
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
    mode: Literal["auto", "rlm", "rlm-d0", "direct"] = _key(
        choice("auto", "rlm", "rlm-d0", "direct"),
        "auto",
        "answer by code (rlm), by code without sub-calls (rlm-d0), in one plain call (direct), or as suits the input",
        env="RLM_MODE",
        flag="--mode",
    )
    confirm_above: float | None = _key(
        or_none(USD), None, "ask on a terminal before a run that may cost more", project="lower"
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
    cache: Cache = _section(Cache)
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
    ("NO_COLOR", "not empty: no colour, no animation"),
    ("FORCE_COLOR", "not empty, 0 or false: colour even where there is no terminal"),
    ("TERM", "dumb: no colour, no animation"),
    ("CI", "not empty, 0 or false: one plain line per step"),
    ("PAGER", "what shows a long `rlm runs show`; unset: less"),
    ("EDITOR", "what `rlm config edit` opens (VISUAL goes first)"),
    ("HTTP_PROXY, HTTPS_PROXY, NO_PROXY", "how model providers and URLs are reached; never passed to the sandbox"),
    ("DOCKER_HOST", "the container engine to use"),
    ("CONTAINER_HOST", "where Podman's service listens; unset: $XDG_RUNTIME_DIR and /run are looked in"),
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
    # As TOML has it: prices."openai/my-model"
    return key, entry[1:-1] if len(entry) > 2 and entry[0] == entry[-1] == '"' else entry


def unknown_key(name: str) -> str:
    """A sentence about a name that is no key, with the nearest one that is."""
    names = [key.name for key in KEYS.values() if not key.switch]
    # Short names differ in most letters from `section.name`: compare the last parts too.
    tails = {key.rpartition(".")[2]: key for key in names}
    near = difflib.get_close_matches(name, names, n=1) or [
        tails[tail] for tail in difflib.get_close_matches(name.rpartition(".")[2], tails, n=1)
    ]
    return f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
