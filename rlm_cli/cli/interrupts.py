"""Ctrl-C and SIGTERM while a run is under way (CLI.md 2.9).

First signal: say so, cancel the run; it saves what there is and cleans up. Second: kill the container and leave.
"""

from __future__ import annotations

import asyncio
import os
import signal
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interrupts:
    """What to do on a signal. `say` prints one line for the person; `kill` removes the container at once, and what is
    drawn on the terminal with it."""

    task: asyncio.Future[Any]
    say: Callable[[str], None]
    kill: Callable[[], None]
    received: signal.Signals | None = None

    def __call__(self, number: signal.Signals) -> None:
        if self.received is None:
            self.received = number
            self.say("interrupted: stopping the run; again to kill it")
            self.task.cancel()
            return
        self.kill()
        self.say("killed")
        # Not sys.exit: a cancelled task may be stuck, which is why the person is here a second time.
        os._exit(int(self.error().exit_code))

    def error(self) -> Interrupted:
        terminated = self.received == signal.SIGTERM
        return Interrupted("terminated by SIGTERM" if terminated else "interrupted by Ctrl-C", terminated=terminated)


@contextmanager
def handling(interrupts: Interrupts) -> Iterator[None]:
    """Route SIGINT and SIGTERM to `interrupts` while the loop runs."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int, _frame: types.FrameType | None) -> None:
        loop.call_soon_threadsafe(interrupts, signal.Signals(number))

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            loop.add_signal_handler(number, interrupts, number)
    except NotImplementedError:  # Windows
        for number in SIGNALS:
            signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number in SIGNALS:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, before[number])  # the answer is still to be written: SIGTERM must unwind that, too
