"""Ctrl-C, SIGTERM and SIGHUP while a run is under way (CLI.md 2.9).

First signal: say so, cancel the run; it saves what there is and cleans up. Second: kill the containers and leave.
Third: leave at once; the containers end because their stdin does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..errors import Interrupted

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
HURRY_S = 1.5
"""Seconds that a second signal waits for the engine; a frozen one must not hold the person."""


@dataclass
class Interrupts:
    """What to do on a signal. `say` prints one line for the person; `quiet` ends what is drawn on the terminal, and
    `kill` removes the containers at once, from any thread."""

    task: asyncio.Future[Any]
    say: Callable[[str], None]
    quiet: Callable[[], None]
    kill: Callable[[], None]
    received: signal.Signals | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _killing: bool = False

    def __call__(self, number: int, _frame: types.FrameType | None = None) -> None:
        """The handler itself. It runs in the main thread between two instructions of whatever runs there, so it works
        when the event loop is held up; what the first signal does is left to the loop, which may be drawing."""
        if self.received is None:
            self.received = signal.Signals(number)
            self._loop.call_soon_threadsafe(self._stop)
        elif signal.Signals(number).name == "SIGHUP":
            pass  # a terminal that closes may send several
        elif not self._killing:
            self._killing = True
            self._kill()
        else:
            self.leave()

    def _stop(self) -> None:
        self.task.cancel()
        self._tell("interrupted: stopping the run; again to kill it")

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # a terminal that is gone
            self.say(line)

    def _kill(self) -> NoReturn:
        # In threads: what was interrupted may hold any lock, and a third signal must get through.
        work = [threading.Thread(target=each, name="rlm kill", daemon=True) for each in (self.kill, self.quiet)]
        end = time.monotonic() + HURRY_S
        for thread in work:
            thread.start()
        for thread in work:
            thread.join(max(0.0, end - time.monotonic()))
        if work[1].is_alive():
            # What was interrupted is drawing, and never gets to its end: past it, below what it has drawn.
            with suppress(OSError):
                os.write(2, b"\nrlm: killed\n")
        else:
            self._tell("killed")
        self.leave()

    def leave(self) -> NoReturn:
        # Not sys.exit: a cancelled task may be stuck, which is why the person is here a second time.
        os._exit(int(self.error().exit_code))

    def error(self) -> Interrupted:
        """What the run ends with."""
        if self.received in (None, signal.SIGINT):
            return Interrupted("interrupted by Ctrl-C")
        return Interrupted(f"terminated by {signal.Signals(self.received).name}", terminated=True)


@contextmanager
def handling(interrupts: Interrupts) -> Iterator[None]:
    """Route the signals to `interrupts`. One that our caller ignores (nohup, `&` in a script) stays ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupts)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # the answer is still to be written: SIGTERM must unwind that, too
