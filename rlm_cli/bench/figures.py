"""A figure: one line of the table, with its samples."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

OURS = "ours"


@dataclass(frozen=True)
class Value:
    """Samples in the figure's unit, or why there are none."""

    samples: tuple[float, ...] = ()
    reason: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None


@dataclass(frozen=True)
class Figure:
    """One line of the table. `target` bounds ours: from above, or from below when `at_least`."""

    title: str
    unit: str
    values: dict[str, Value] = field(default_factory=dict)
    target: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> Literal["", "ok", "over", "under", "n/a"]:
        if self.target is None:
            return ""
        mine = self.values[OURS].median if OURS in self.values else None
        if mine is None:
            return "n/a"
        if self.at_least:
            return "ok" if mine >= self.target else "under"
        return "ok" if mine <= self.target else "over"
