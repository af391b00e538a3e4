"""The thirty acceptance cases, end to end: real command line, LiteLLM, Docker and kernel; tests/loopback.py plays the
models.

case.py        what a case is: a generator that makes an input and says what must come out
find.py ...    the cases, by what they stress: a module that has some is named in `all_cases`
runner.py      one run of `rlm`, and everything that is known about it afterwards (`Evidence`)
invariants.py  I1-I12, what holds after every run
inside.py      runs without the command line: replays of recorded runs, and the metamorphic relations

A new case is a function with `@case(...)` that returns a `Setup`; the root's policy is a list of code steps:

    @case("A31", "the longest line")
    def longest_line(lab: Lab) -> Setup:
        lines = [lab.words(lab.random.randrange(1, 30)) for _ in range(lab.size(1000))]
        lab.write("lines.txt", "\\n".join(lines))
        return Setup(
            "How long is the longest line?",
            sources=("lines.txt",),
            policy=steps(code("print(len(context))"), code("FINAL(max(map(len, context.splitlines())))")),
            answer=str(max(map(len, lines))),
        )

Seeds are random and printed; `RLM_E2E_SEED=n` repeats a run, `RLM_E2E=full` makes every input ten times as large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .case import Case


def all_cases() -> Mapping[str, Case]:
    """By number. A module of cases registers them when it is imported."""
    from . import aggregate, data, find, product, trouble  # noqa: F401
    from .case import CASES

    return dict(sorted(CASES.found.items()))
