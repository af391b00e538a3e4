"""The memory guard: a cell that takes too much gets a MemoryError, and the variables live on.

Without it the system kills the worker at the container's limit, and everything is lost. The guard counts what a process
may write (RLIMIT_DATA: heap, anonymous maps, thread stacks), which is a little more than what it has written; the
container also counts the supervisor, files in /tmp and child processes. So the system's limit stays the last resort.
"""

from __future__ import annotations

import resource

from .facts import status_fields

MARGIN = 24 * 1024 * 1024
"""Bytes of the container's limit that a cell cannot have: the supervisor's, the system's, and those with which the
worker reports that memory ran out."""
STACK = 1 << 20
"""Bytes of a thread's stack. The usual 8 MiB would count in full, though hardly any of it is written."""
INFINITE = resource.RLIM_INFINITY


class Guard:
    """Holds while a cell runs, after `arm`; `with guard:` lifts it for what the kernel itself must do meanwhile.

    `limit`: the container's, in bytes; None: there is none, and the guard does nothing.
    """

    def __init__(self, limit: int | None) -> None:
        self._hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        most = INFINITE if limit is None else limit - MARGIN
        self.most: int | None = most if most not in (INFINITE, self._hard) and most > 2 * used() else None
        """Bytes a cell may have, None: any number."""
        self._armed = False

    def arm(self) -> None:
        self._armed = True
        self._set(self.most)

    def disarm(self) -> None:
        self._armed = False
        self._set(None)

    def __enter__(self) -> None:
        self._set(None)

    def __exit__(self, *_: object) -> None:
        if self._armed:
            self._set(self.most)

    def _set(self, most: int | None) -> None:
        if self.most is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (self._hard if most is None else most, self._hard))


def used() -> int:
    """Bytes that count already."""
    return int(status_fields().get("VmData", "0 kB").split()[0]) * 1024
