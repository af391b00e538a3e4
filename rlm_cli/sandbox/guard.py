"""Removes from a local engine what a killed host would leave there.

A running container dies by itself when its stdin ends. Two things have nobody to notice: a container that was created
and not started, and a volume; and a process that got SIGKILL cannot undo anything. So a small process of its own
session waits on a pipe: a byte means that all is well; end-of-file means that we died, and it removes the thing. What
remains on a remote engine is removed by `prune` when the next run starts.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

WATCH = """\
import os, sys
if not os.read(0, 1):
    import socket, time
    path, thing, seconds = sys.argv[1:]
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        try:
            with socket.socket(socket.AF_UNIX) as engine:
                engine.settimeout(5)
                engine.connect(path)
                engine.sendall(f"DELETE {thing} HTTP/1.0\\r\\nHost: docker\\r\\n\\r\\n".encode())
                if engine.recv(12)[9:10] == b"2":
                    break
        except OSError:
            pass
        time.sleep(0.05)
"""

CREATION = 1.5
"""Seconds for which a removal is repeated: the engine may still be creating the container when the host dies."""
RELEASE = 20.0
"""The same for a volume: the container that uses it must go first."""


class Guard:
    """Watches over a thing of the engine at the socket `path` until `release`."""

    def __init__(self, path: str, thing: str, seconds: float) -> None:
        # A session of its own: a signal to our process group must not take it along.
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, a fixed program
            [sys.executable, "-I", "-S", "-c", WATCH, path, thing, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @classmethod
    def of_container(cls, path: str, name: str) -> Guard:
        """For as long as it may exist without running."""
        return cls(path, f"/containers/{name}?force=1&v=1", CREATION)

    @classmethod
    def of_volume(cls, path: str, name: str) -> Guard:
        """For as long as it exists."""
        return cls(path, f"/volumes/{name}", RELEASE)

    def release(self) -> None:
        """The thing is looked after, or gone: the guard goes home. Idempotent."""
        assert self._process.stdin is not None  # noqa: S101 - PIPE was asked for
        if not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b".")
                self._process.stdin.close()
        self._process.wait()
