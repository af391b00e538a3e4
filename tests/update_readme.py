"""Write what commands print into README.md: `python -m tests.update_readme`, with `demo` for the demo too (Docker).

A block between `<!-- help: rlm ... -->` and `<!-- /help -->` (`demo` likewise) holds a command and its output;
tests/test_readme.py checks that it still does.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(
    r"<!-- (?P<kind>help|demo): (?P<command>rlm [^\n]*?) -->\n(?P<body>.*?)<!-- /(?P=kind) -->", re.DOTALL
)
COLUMNS = 80
TIMEOUT_S = 120


def run_command(command: str) -> str:
    """What `command` prints, typed in the project's folder on a plain terminal of 80 columns with nobody's settings."""
    with tempfile.TemporaryDirectory() as home:
        plain = {"COLUMNS": str(COLUMNS), "TERM": "dumb", "NO_COLOR": "1", "LANG": "C.UTF-8", "HOME": home}
        result = subprocess.run(
            [sys.executable, "-m", "rlm_cli", *shlex.split(command)[1:]],
            env=plain | {"PATH": os.environ["PATH"], "RLM_HOME": home},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    return "\n".join(line.rstrip() for line in result.stdout.strip("\n").splitlines()) + "\n"


def fill(text: str, kinds: Collection[str], run: Callable[[str], str]) -> str:
    """`text` with every block of these kinds holding what `run` gives for its command."""

    def filled(block: re.Match[str]) -> str:
        kind, command = block["kind"], block["command"]
        return rendered(kind, command, run(command)) if kind in kinds else block[0]

    return BLOCK.sub(filled, text)


def rendered(kind: str, command: str, output: str) -> str:
    return f"<!-- {kind}: {command} -->\n```text\n$ {command}\n{output}```\n<!-- /{kind} -->"


if __name__ == "__main__":
    README.write_text(fill(README.read_text("utf-8"), {"help", *sys.argv[1:]}, run_command), "utf-8")
