"""H10: the disk is full where the input is spooled, where the run is logged, or from the beginning. A small file system
of the test's own, in a mount namespace that ends with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
RLM = f"{sys.executable} -m rlm_cli ask -m offline --mode rlm"


@dataclass(frozen=True)
class Done:
    """What the command said and left: `files` below the small file system, `code` its exit code."""

    code: int
    out: str
    err: str
    files: list[str]


def on_a_small_disk(folder: Path, script: str) -> Done:
    """Run a shell's script where RLM_HOME has 1 MiB."""
    (folder / "home").mkdir()
    (folder / "a.txt").write_text("code=BLUE\n")
    around = f"mount -t tmpfs -o size=1m none home; {script} 2>err >out; echo $?; find home -type f"
    env = {**os.environ, "RLM_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    line = ["unshare", "-m", "sh", "-c", around]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=True)
    code, *files = done.stdout.splitlines()
    return Done(int(code), (folder / "out").read_text(), (folder / "err").read_text(), files)


def test_h10_no_room_for_what_is_piped_in(tmp_path: Path) -> None:
    """5 MB into 1 MiB: exit 8, how far it came and what to do; and nothing of it is kept."""
    done = on_a_small_disk(tmp_path, f"head -c 5000000 /dev/zero | {RLM} - Q")
    assert (done.code, done.out, done.files) == (8, "", [])
    assert "could not be kept in" in done.err
    assert "No space left on device [disk]" in done.err
    assert "RLM_HOME=/path" in done.err


def test_h10_no_room_from_the_beginning(tmp_path: Path) -> None:
    """Not one byte: an error that says where, and what to do."""
    done = on_a_small_disk(tmp_path, f"head -c 2000000 /dev/zero >home/fill; {RLM} a.txt Q")
    assert (done.code, done.out, done.files) == (1, "", ["home/fill"])
    assert "nothing can be kept in" in done.err
    assert "[disk]" in done.err
    assert "Traceback" not in done.err


def test_h10_no_room_for_the_log(tmp_path: Path) -> None:
    """The run goes on without its record, and says so: the answer is worth more."""
    done = on_a_small_disk(tmp_path, f"head -c 1028096 /dev/zero >home/fill; {RLM} a.txt 'What is the code?'")
    assert (done.code, done.out) == (0, "BLUE\n")
    assert "run log failed and was switched off" in done.err
    assert "No space left on device" in done.err
