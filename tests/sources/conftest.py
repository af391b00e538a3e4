"""Trees on disk, and a git that knows only the tests' configuration."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


def plant(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below `root`, folders as needed."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


class Git:
    """Real git with a home of its own: the machine's configuration must not decide tests."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin", "HOME": str(home)}
        self.env |= {"GIT_CONFIG_GLOBAL": str(home / "gitconfig"), "GIT_CONFIG_NOSYSTEM": "1"}
        (home / "gitconfig").write_text("[user]\nname = t\nemail = t@example.org\n[init]\ndefaultBranch = main\n")

    def __call__(self, directory: Path, *words: str, data: bytes = b"", ok: tuple[int, ...] = (0,)) -> bytes:
        done = subprocess.run(
            ["git", "-C", str(directory), *words],
            env=self.env,
            input=data,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in ok, done.stderr
        return done.stdout

    def init(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        self(directory, "init", "-q")
        return directory


@pytest.fixture
def git(tmp_path_factory: pytest.TempPathFactory) -> Git:
    return Git(tmp_path_factory.mktemp("git") / "home")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty, and in no work tree."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
