"""An event loop whose time only waiting moves: minutes of waiting take no time and come out the same every run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Where nothing is ready it jumps to the next timer; without one the test would hang, and fails instead."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        selector = self._selector  # type: ignore[attr-defined]  # asyncio's own
        look = selector.select

        def select(timeout: float | None) -> Any:
            if timeout is None:
                raise AssertionError("everything waits, and nothing will wake it")
            self._now += max(0.0, timeout)
            return look(0)

        selector.select = select

    def time(self) -> float:
        return self._now


def run_virtually(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """What `work` returns, and how many seconds it would have taken."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work), loop.time()
    finally:
        loop.close()


def now() -> float:
    """The running loop's time, as a clock."""
    return asyncio.get_running_loop().time()
