"""Write the help texts into README.md: `python -m tests.update_readme`.

A block between `<!-- help: rlm ... -->` and `<!-- /help -->` holds what that command prints; tests/test_readme.py
checks that it still does.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"<!-- help: (?P<command>rlm [^\n]*?) -->\n(?P<body>.*?)<!-- /help -->", re.DOTALL)
COLUMNS = 80
TIMEOUT_S = 60


def run_help(command: str) -> str:
    """What `command` prints on a plain terminal of 80 columns, with nobody's settings."""
    with tempfile.TemporaryDirectory() as home:
        plain = {"COLUMNS": str(COLUMNS), "TERM": "dumb", "NO_COLOR": "1", "LANG": "C.UTF-8", "HOME": home}
        result = subprocess.run(
            [sys.executable, "-m", "rlm_cli", *shlex.split(command)[1:]],
            env=plain | {"PATH": os.environ["PATH"], "RLM_HOME": home},
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    return "\n".join(line.rstrip() for line in result.stdout.strip("\n").splitlines()) + "\n"


def fill(text: str, run: Callable[[str], str]) -> str:
    """`text` with every block holding what `run` gives for its command."""
    return BLOCK.sub(lambda block: rendered(block["command"], run(block["command"])), text)


def rendered(command: str, output: str) -> str:
    return f"<!-- help: {command} -->\n```text\n$ {command}\n{output}```\n<!-- /help -->"


if __name__ == "__main__":
    README.write_text(fill(README.read_text("utf-8"), run_help), "utf-8")
