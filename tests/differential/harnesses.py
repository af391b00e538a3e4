"""One trajectory through one harness: its answer, what it says it called, and what the server received."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.loopback import LoopbackServer

from .trajectories import LABEL_THESE, Dialect, Trajectory, policies

TURNS = 12
PATIENCE_S = 300
PEERS = Path(__file__).with_name("peers.py")


@dataclass(frozen=True)
class Ran:
    """`prompts`: what sub-models were asked, each how often. `reported`: calls by model, as the harness counts them;
    `received`: as the server does. `status`: exit code of the process, and `said` its last words when it failed."""

    answer: str
    roots: int
    prompts: Counter[str]
    reported: Mapping[str, int]
    received: Mapping[str, int]
    status: int = 0
    said: str = ""

    @property
    def sub_calls(self) -> int:
        return self.prompts.total()


@dataclass(frozen=True)
class Harness:
    """`python`: the interpreter that has it; ours is the one that runs the tests."""

    name: Dialect
    python: str = sys.executable

    def run(self, trajectory: Trajectory, corpus: Path, sub: str = "sub/e00") -> Ran:
        """Play `trajectory` over the file `corpus`."""
        root = f"root/{self.name}-{trajectory.name}"
        depth = 2 if trajectory.children else 1
        with LoopbackServer(policies=policies(sub)) as server, tempfile.TemporaryDirectory() as home:
            command = self._command(root, sub, server.url, corpus, depth, Path(home))
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PATIENCE_S, env=_environment(home), check=False
            )
            received = Counter(entry.model for entry in server.requests)
            prompts = Counter(
                entry.messages[-1]["content"] for entry in server.requests if entry.model.startswith("sub/")
            )
            asked_as_root = Counter(
                entry.messages[-1]["content"]
                for entry in server.requests_of("root")
                if entry.messages[-1]["content"].startswith(LABEL_THESE)
            )
        roots = received[root] - asked_as_root.total()
        if done.returncode:
            return Ran("", roots, prompts, {}, received, done.returncode, done.stderr.strip()[-400:])
        answer, reported = self._told(json.loads(done.stdout.strip().splitlines()[-1]), root, sub)
        return Ran(answer, roots, prompts + asked_as_root, reported, received)

    def _command(self, root: str, sub: str, url: str, corpus: Path, depth: int, home: Path) -> Sequence[str]:
        if self.name == "rlm":
            models = ("-m", f"openai/{root}", "--sub-model", f"openai/{sub}", "--api-base", url, "--price", "1,2")
            how = ("--mode", "rlm", "--max-depth", str(depth), "--max-iterations", str(TURNS), "--no-cite", "--json")
            return (self.python, "-m", "rlm_cli", "ask", str(corpus), "How many?", *models, *how)
        spec = {"url": url, "root": root, "sub": sub, "context": str(corpus), "turns": TURNS, "depth": depth}
        return (self.python, str(PEERS), self.name, json.dumps(spec))

    def _told(self, told: Any, root: str, sub: str) -> tuple[str, Mapping[str, int]]:
        if self.name != "rlm":
            return str(told["answer"]), told["reported"]
        calls = told["calls"]
        return told["answer"], {"all": calls["root"] + calls["sub"] + calls["retries"]}


def _environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "DOCKER_HOST", "LANG") if name in os.environ}
    quiet = {"PYTHONPATH": os.getcwd(), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # noqa: PTH109 - for our own process
    return kept | quiet | {"HOME": home, "RLM_HOME": home, "OPENAI_API_KEY": "sk-loopback"}


def write_corpus(path: Path, items: int) -> None:
    """`items` numbered lines to label, and one needle among them."""
    lines = [f"item {number:04d}: what is the matter with number {number * 37 % 1009}" for number in range(items)]
    lines.insert(items // 3, "needle alpha is 4711")
    path.write_text("\n".join(lines) + "\n", "utf-8")
