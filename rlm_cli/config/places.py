"""The environment and the folders. The only reader of `os.environ`, and the only importer of platformdirs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

PROJECT_FILE = "rlm.toml"


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

    @property
    def converted(self) -> Path:
        """The text of documents, by their content."""
        return self.cache / "converted"


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
