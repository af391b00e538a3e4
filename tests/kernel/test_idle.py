"""Counting while nobody waits."""

from __future__ import annotations

import threading

from rlm_cli.sandbox.kernel.encoded import Encoded
from rlm_cli.sandbox.kernel.idle import Idle


def test_all_steps_are_taken_and_none_while_a_cell_runs() -> None:
    """Held and let go a hundred times: no step falls within, and in the end the work is done."""
    within, seen, left, done = threading.Event(), [], [20_000], threading.Event()

    def step() -> bool:
        seen.append(within.is_set())
        left[0] -= 1
        if not left[0]:
            done.set()
        return left[0] > 0

    idle = Idle(step)
    idle.start()
    for _ in range(100):
        with idle.held():
            within.set()
            sum(range(1000))
            within.clear()
    assert done.wait(30)
    assert (len(seen), any(seen)) == (20_000, False)


def test_a_step_that_fails_ends_the_work_and_nothing_else() -> None:
    """The input changed: whoever needs it will be told; a cell can still be run."""
    failed = threading.Event()

    def step() -> bool:
        failed.set()
        raise OSError("the input changed")

    idle = Idle(step)
    idle.start()
    assert failed.wait(30)
    with idle.held():
        pass


def test_looking_further_counts_what_len_counts() -> None:
    """Step by step or at once: the same characters, in any encoding."""
    data = ("añ€😀\n" * 5000).encode()
    whole, stepwise = (Encoded(lambda start, size: data[start : start + size], len(data), run=1 << 12) for _ in "ab")
    while stepwise.look_further():
        pass
    assert len(stepwise) == len(whole) == 25_000
