"""Closes the one gap in which a killed host would leave a container: between its creation and its start.

A running container dies by itself when its stdin ends. One that was created and not started has nobody to notice, and
creating cannot be undone by a process that got SIGKILL. So a small process of its own session waits on a pipe: a byte
means that the container runs; end-of-file means that we died, and it removes the container. Local engines only; what
remains elsewhere is removed by `prune` when the next run starts.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

WATCH = """\
import os, sys
if not os.read(0, 1):
    import socket, time
    path, name = sys.argv[1:]
    for _ in range(30):
        try:
            with socket.socket(socket.AF_UNIX) as engine:
                engine.settimeout(5)
                engine.connect(path)
                engine.sendall(f"DELETE /containers/{name}?force=1&v=1 HTTP/1.0\\r\\nHost: docker\\r\\n\\r\\n".encode())
                if engine.recv(12)[9:10] == b"2":
                    break
        except OSError:
            pass
        time.sleep(0.05)
"""
"""Asks for a second and a half: the engine may still be creating the container when the host dies."""


class Guard:
    """Watches over the container `name` of the engine at `path` until `release`."""

    def __init__(self, path: str, name: str) -> None:
        # A session of its own: a signal to our process group must not take it along.
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, a fixed program
            [sys.executable, "-I", "-S", "-c", WATCH, path, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """The container runs, or never will: the guard goes home."""
        assert self._process.stdin is not None  # noqa: S101 - PIPE was asked for
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b".")
            self._process.stdin.close()
        self._process.wait()
