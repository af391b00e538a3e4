"""One way to run a command line: in this process, with a home, a working folder and an environment of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlm_cli.cli import boundary


@dataclass(frozen=True)
class Done:
    """What a command line did."""

    code: int
    out: str
    err: str


Rlm = Callable[..., Done]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RLM_HOME, empty; the working folder is beside it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("RLM_HOME", str(folder))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """`rlm ask` takes stdout for the life of its process (`boundary.guard_stdout`); here it gives it back, or what
    later tests print is lost."""
    stream, copy = sys.stdout, os.dup(1)
    try:
        yield
    finally:
        if boundary._answer is not None:
            boundary._answer.close()
            boundary._answer = None
        os.dup2(copy, 1)
        os.close(copy)
        sys.stdout = stream


@pytest.fixture
def rlm(home: Path, capsys: pytest.CaptureFixture[str]) -> Rlm:
    """Run `rlm ARGS...` behind its real error boundary."""

    def run(*args: str) -> Done:
        with own_stdout():
            code = boundary.run(args)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run
