"""What a case is: a generator that writes an input, and what must come of a question about it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.ask.conftest import Shell
from tests.loopback import Label, Policy, default_label

if TYPE_CHECKING:
    from .runner import Evidence

SEED = os.environ["RLM_E2E_SEED"]
"""As tests/conftest.py drew it, or the user gave it."""
FULL = os.environ.get("RLM_E2E") == "full"

SUB = "sub/e00"
CONCURRENCY = 8
ROOT_TOKENS = 8_000
"""I3: what a root prompt may hold, by the server's tokenizer."""
LIMIT_S = 120.0
"""I12: a bound against hangs, many times what a run takes on a quiet machine."""

WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company",
    "system", "program", "question", "work", "government", "number", "night", "point", "home", "water", "room",
    "mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word",
    "business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game",
    "line", "end", "member", "law", "car", "city", "community", "name", "president", "team", "minute", "idea",
)  # fmt: skip


def nothing(_: Evidence) -> None:
    """No more to check than the answer and the invariants."""


@dataclass(frozen=True)
class Setup:
    """One run of `rlm ask`, and what must come of it.

    `answer` is what stdout must be (a newline at its end aside), None when `check` judges it. `policy` plays the root
    and `label` is what the sub-model (`sub`, a loopback model name) knows about items.
    """

    question: str
    policy: Policy
    answer: str | None
    sources: tuple[str, ...] = ()
    """Names in the input's folder, as `Lab.write` made them; none: `stdin` is the input."""
    stdin: Callable[[], Iterable[bytes]] | None = None
    flags: tuple[str, ...] = ()
    mode: str = "rlm"
    sub: str = SUB
    root: str = ""
    """Behaviours of the root model (`ctx16384`), if any."""
    label: Label = default_label
    code: int = 0
    """The exit code."""
    output: str = ""
    """The file of `-o`, which then has the answer instead of stdout."""
    concurrency: int = CONCURRENCY
    root_tokens: int | None = ROOT_TOKENS
    """I3; None: the case is about prompts that are larger."""
    canary: bool = True
    """I4: whether the input holds `Lab.canary`, which the root must not get to see."""
    step_s: float = 120.0
    memory: int = 2 * 1024**3
    """`--step-timeout` and `--memory`, which a replay needs too: the record does not hold them."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """The user's names for further sub-models, to loopback model names."""
    before: Callable[[Shell, Setup], None] | None = None
    """What happened to the same input earlier; its requests are none of this run's."""
    check: Callable[[Evidence], None] = nothing
    """What else must be true."""


@dataclass(frozen=True)
class Lab:
    """Where a case makes its input, and with what randomness."""

    folder: Path
    random: random.Random
    canary: str

    @classmethod
    def of(cls, case_id: str, folder: Path) -> Lab:
        """The same case and seed make the same input."""
        chance = random.Random(f"{SEED}/{case_id}")
        return cls(folder, chance, f"canary-{chance.getrandbits(64):016x}")

    def size(self, ordinary: int, full: int | None = None) -> int:
        """So many; ten times that with RLM_E2E=full, or `full`."""
        return (ordinary * 10 if full is None else full) if FULL else ordinary

    def write(self, name: str, content: str | bytes) -> int:
        """A file of the input; its size in bytes."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.write_bytes(content.encode() if isinstance(content, str) else content)

    def words(self, count: int) -> str:
        return " ".join(self.random.choices(WORDS, k=count))

    def shuffled(self, things: Iterable[str]) -> list[str]:
        found = list(things)
        self.random.shuffle(found)
        return found

    def hidden(self, lines: Iterable[str]) -> list[str]:
        """The lines, with the canary somewhere in the second third, where nobody prints."""
        found = list(lines)
        found.insert(self.random.randrange(len(found) // 3, 2 * len(found) // 3 + 1), f"the {self.canary} sings")
        return found


Build = Callable[[Lab], "Setup | list[Setup]"]


@dataclass(frozen=True)
class Case:
    """`build` makes the input in the lab's folder and says what is to be run on it."""

    id: str
    title: str
    build: Build


@dataclass
class Cases:
    """A registry: one for each module of cases."""

    found: dict[str, Case] = field(default_factory=dict)

    def __call__(self, id: str, title: str) -> Callable[[Build], Build]:  # noqa: A002 - what a case has
        def register(build: Build) -> Build:
            assert id not in self.found
            self.found[id] = Case(id, title, build)
            return build

        return register


CASES = Cases()
case = CASES
