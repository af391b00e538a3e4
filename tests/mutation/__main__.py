"""Put each bug into a copy of the package, run the tests that should notice it there, and print who did.

The copy is a folder of its own with the package and the tests in it, so that nothing else is imported. Exit code 0:
every bug was noticed, and without any bug all those tests pass.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from .mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
LIMIT_S = 600.0
"""A bug may make a test hang: that is noticed too, but late."""
PASSED, FAILED = 0, 1
"""pytest's exit codes. Any other (nothing collected, an error in collecting) says nothing about the bug."""


class Copy:
    """The package's copy in `folder`. What is written gets an age of its own, each younger than the one before, so that
    Python never takes what it compiled of another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._age = time.time() - 1_000_000

    def write(self, file: str, text: str) -> None:
        path = self.folder / "rlm_cli" / file
        path.write_text(text, "utf-8")
        self._age += 10
        os.utime(path, (self._age, self._age))


def main(wanted: Sequence[str]) -> int:
    """Run the mutants whose names hold one of the words in `wanted`, or all."""
    chosen = [m for m in MUTANTS if not wanted or any(word in m.name for word in wanted)]
    with tempfile.TemporaryDirectory(prefix="rlm-mutation-") as place:
        copy = Copy(Path(place))
        shutil.copytree(ROOT / "rlm_cli", copy.folder / "rlm_cli", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("tests", "sample_data", "docs", "pyproject.toml"):
            (copy.folder / name).symlink_to(ROOT / name)
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        began = time.monotonic()
        status, last = run(copy, tests)
        print(f"{'without any bug':64} {verdict(status, good=PASSED):9} {time.monotonic() - began:5.1f} s  {last}")
        if status != PASSED:
            return 1
        missed = [mutant.name for mutant in chosen if not noticed(mutant, copy)]
    print(f"\n{len(chosen) - len(missed)} of {len(chosen)} bugs noticed")
    return 1 if missed else 0


def noticed(mutant: Mutant, copy: Copy) -> bool:
    """Whether a test fails because of it; prints its line of the table."""
    began = time.monotonic()
    original = (copy.folder / "rlm_cli" / mutant.file).read_text("utf-8")
    try:
        copy.write(mutant.file, mutated(original, mutant))
        status, last = run(copy, mutant.tests, "-x")
    except (ValueError, SyntaxError) as error:
        status, last = -1, str(error)
    finally:
        copy.write(mutant.file, original)
    print(f"{mutant.name:64} {verdict(status, good=FAILED):9} {time.monotonic() - began:5.1f} s  {last}", flush=True)
    return status == FAILED


def mutated(original: str, mutant: Mutant) -> str:
    """The file with the bug. Raises `ValueError` when the bug does not fit the code any more."""
    if (count := original.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.file} has {count} of {mutant.old[:40]!r}: adapt the mutant")
    text = original.replace(mutant.old, mutant.new)
    compile(text, mutant.file, "exec")
    return text


def verdict(status: int, *, good: int) -> str:
    if status == good:
        return "noticed" if good == FAILED else "passes"
    return {PASSED: "SURVIVES", FAILED: "FAILS"}.get(status, f"ERROR {status}")


def run(copy: Copy, tests: Sequence[str], *options: str) -> tuple[int, str]:
    """pytest's exit code on the copy, and the name of the first test that failed, or its last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rf", *options, *tests]
    compiled = {"PYTHONPYCACHEPREFIX": str(copy.folder / "compiled")}
    environment = {**os.environ, "PYTHONPATH": str(copy.folder), **compiled}
    try:
        done = subprocess.run(
            command, cwd=copy.folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return FAILED, f"no end within {LIMIT_S:g} s"
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    failed = re.search(r"^FAILED \S*::(\S+)", done.stdout, re.M)
    return done.returncode, failed[1] if failed else lines[-1]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
