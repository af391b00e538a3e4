"""Work for the time in which nobody waits: while the model thinks, a huge text is counted, so that `len` is known."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from threading import Event, Lock, Thread, current_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


NAME = "kernel-idle"
_said: list[str] = []


def say(text: str) -> None:
    """A line for the cell that runs, or, when it was found out in idle time, for the next one."""
    if current_thread().name == NAME:
        _said.append(text)
        return
    try:
        sys.stderr.write(text)
    except Exception:  # a cell may have closed or replaced it
        pass


def say_what_was_found() -> None:
    """At the start of a cell."""
    while _said:
        say(_said.pop(0))


class Idle:
    """A thread that takes one short `step` after the other until one says that there is none left; none while a cell
    runs, which then has the processor, the disk and every lock to itself."""

    def __init__(self, step: Callable[[], bool]) -> None:
        self._step = step
        self._go = Event()
        self._stepping = Lock()
        self._thread = Thread(target=self._run, name=NAME, daemon=True)

    def start(self) -> None:
        self._go.set()
        self._thread.start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """No step within: waits for the one that is being taken, a millisecond or so."""
        self._go.clear()
        with self._stepping:
            yield
        self._go.set()

    def _run(self) -> None:
        try:
            while self._go.wait():
                with self._stepping:
                    if self._go.is_set() and not self._step():
                        return
        except Exception:  # the input changed, or memory is short: the cell that needs it will be told
            return
