"""SIGINT becomes KeyboardInterrupt in a running cell and nowhere else, so that no frame is ever cut in two."""

from __future__ import annotations

import signal
from threading import get_ident

_signal = signal.signal
_handler_now = signal.getsignal
_ident = get_ident
_SIGINT = signal.SIGINT


class Interrupts:
    """The worker's SIGINT policy. `with interrupts:` defers the exception to the end of the block (main thread)."""

    def __init__(self) -> None:
        self.count = 0
        """SIGINTs that arrived during this cell."""
        self._armed = False
        self._shields = 0
        self._deferred = False
        self._main = _ident()

    def install(self) -> None:
        """Take SIGINT back, whatever a cell did with it."""
        if _handler_now(_SIGINT) != self._on_signal:
            _signal(_SIGINT, self._on_signal)
        self.count = 0
        self._shields = 0
        self._deferred = False

    def arm(self) -> None:
        """From here on a SIGINT interrupts."""
        self._armed = True

    def disarm(self) -> None:
        """From here on a SIGINT is ignored."""
        self._armed = False

    def _on_signal(self, *_: object) -> None:
        if not self._armed:
            return
        self.count += 1
        if self._shields:
            self._deferred = True
            return
        raise KeyboardInterrupt

    def __enter__(self) -> None:
        if _ident() == self._main:
            self._shields += 1

    def __exit__(self, *_: object) -> None:
        if _ident() != self._main:
            return
        self._shields -= 1
        if self._deferred and not self._shields:
            self._deferred = False
            raise KeyboardInterrupt
