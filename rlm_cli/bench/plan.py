"""How much is measured: sizes and repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from .inputs import Writing
from .lab import GB, Contender

KB, MB = 1_000, 1_000_000
ROOM = 12 * GB
"""Free disk that the largest input asks for: itself, the smaller ones, and as much again for everybody else."""
LARGEST = 5 * GB


class Input(NamedTuple):
    """What a text is: its bytes, and which characters."""

    size: int
    writing: Writing = "ascii"

    @property
    def name(self) -> str:
        unit, word = next(((u, w) for u, w in ((GB, "GB"), (MB, "MB")) if self.size >= u), (KB, "KB"))
        return f"{self.size // unit} {word}{' with emoji' if self.writing == 'emoji' else ''}"


@dataclass(frozen=True)
class Plan:
    """`docker_turns`: bytes -> turns of a run of rlms docker, where it is not `usual_turns`.

    `looks`: what is looked at turn after turn; `memory`: searched and metered; `scans`: (input, index in SEARCHES);
    `fanout`: calls of the large batch, a third of the storm's.
    """

    repeats: int
    usual_turns: int
    docker_turns: dict[int, int]
    looks: tuple[Input, ...]
    memory: tuple[Input, ...]
    scans: tuple[tuple[Input, int], ...]
    answer_lines: int
    fanout: int
    seconds: float

    def turns(self, contender: Contender, size: int) -> int:
        return self.docker_turns.get(size, self.usual_turns) if contender.name == "rlms docker" else self.usual_turns

    def repeated(self, contender: Contender, size: int) -> int:
        """Runs with an input of `size`. A large one costs a peer a minute."""
        return 1 if contender.needs and size > 10 * MB else self.repeats

    def without_largest(self) -> Plan:
        """The same where there is no room: what needs the largest input is left out, or searches a smaller one."""
        smaller = {(Input(min(item.size, GB), item.writing), index) for item, index in self.scans}
        return replace(
            self,
            looks=tuple(item for item in self.looks if item.size < LARGEST),
            scans=tuple(sorted(smaller, key=lambda scan: scan[1])),
        )


# rlms docker carries its whole state through every turn: seconds a turn at 100 MB, so fewer of them.
FULL = Plan(
    repeats=3,
    usual_turns=45,
    docker_turns={10 * MB: 25, 100 * MB: 8},
    looks=(Input(KB), Input(10 * MB), Input(100 * MB), Input(GB), Input(GB, "emoji"), Input(LARGEST)),
    memory=(Input(KB), Input(10 * MB), Input(GB), Input(GB, "emoji")),
    scans=((Input(LARGEST), 0), (Input(GB), 1)),
    answer_lines=1_000_000,
    fanout=1_000,
    seconds=870,
)
QUICK = Plan(
    repeats=1,
    usual_turns=25,
    docker_turns={KB: 15, 10 * MB: 9},
    looks=(Input(KB), Input(10 * MB)),
    memory=(Input(KB), Input(10 * MB)),
    scans=((Input(100 * MB), 0), (Input(10 * MB), 1)),
    answer_lines=100_000,
    fanout=200,
    seconds=115,
)
