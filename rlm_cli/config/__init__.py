"""Settings: merged once, frozen, and each value remembers where it came from.

`settings.py` is the one table of keys. A field made by `_key` is a key: its default, parser, documentation,
environment variable, flag and what a project may do with it stand in one place, and the help texts, the JSON Schema,
the command-line options and `rlm config` are all read from there (`KEYS`).

Precedence, highest first: flag (and `--set`), `RLM_*` variable, project `rlm.toml`, user `config.toml`, default.
An empty variable is unset. The project file is the nearest `rlm.toml` from the working directory up to the root of its
git work tree (outside git: the working directory only). It comes with whatever was cloned or unpacked, so it is not
trusted: it may only set what `_key(project=...)` allows, and the rest is ignored with a warning.

`places.py` is the only reader of the environment. API keys are not settings: see `api_key`.
"""

from __future__ import annotations

from .kinds import Kind, Price
from .load import MAX_FILE_BYTES, MAX_WARNINGS, examine, load, read_file, toml_problem
from .places import PROJECT_FILE, Places, Secret, api_key, environment, places, project_file
from .settings import KEYS, OTHER_VARIABLES, Key, Limits, Origin, Project, Settings, derived_env, find_key, unknown_key
from .toml_lines import Statement, toml_statements

__all__ = [
    "KEYS",
    "MAX_FILE_BYTES",
    "MAX_WARNINGS",
    "OTHER_VARIABLES",
    "PROJECT_FILE",
    "Key",
    "Kind",
    "Limits",
    "Origin",
    "Places",
    "Price",
    "Project",
    "Secret",
    "Settings",
    "Statement",
    "api_key",
    "derived_env",
    "environment",
    "examine",
    "find_key",
    "load",
    "places",
    "project_file",
    "read_file",
    "toml_problem",
    "toml_statements",
    "unknown_key",
]
