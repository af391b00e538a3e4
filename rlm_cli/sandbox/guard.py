"""Removes what a killed host would leave: on a local engine, and on our own disk.

A running container dies by itself when its stdin ends. Nobody else notices: a container that was created and not
started, a volume, a private copy of the input; and a process that got SIGKILL cannot undo anything. So a small process
of its own session waits on a pipe: a line means that all is well; end-of-file means that we died, and it removes the
thing. What remains on a remote engine is removed by `prune` when the next run starts.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

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


REMOVE = 'read -r _ || rm -rf -- "$@"'
"""A shell's program: it starts in a millisecond and keeps no memory to speak of."""
REMOVE_UNBEGUN = 'read -r _ || { rm -rf -- "$1"; [ -z "$2" ] || [ -e "$2/run.json" ] || rm -rf -- "$2"; }'

REMOVE_SCRATCH = """\
read -r _ || sleep 1
for _ in 1 2 3 4 5 6 7 8 9 10; do
  chmod -R u+rwx -- "$1"
  rm -rf -- "$1"
  [ -e "$1" ] || break
  sleep 0.1
done"""
"""Whatever model code made there. When we were killed, only once its process is dead too: both programs may follow a
link that is put in a folder's place meanwhile."""


class Guard:
    """A process that runs `command`, which waits for us to die, until `release`."""

    def __init__(self, *command: str) -> None:
        # A session of its own: a signal to our process group must not take it along.
        self._process = subprocess.Popen(  # noqa: S603 - a fixed program
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @classmethod
    def of_container(cls, path: str, name: str) -> Guard:
        """For as long as it may exist without running."""
        return cls.of_thing(path, f"/containers/{name}?force=1&v=1", CREATION)

    @classmethod
    def of_volume(cls, path: str, name: str) -> Guard:
        """For as long as it exists."""
        return cls.of_thing(path, f"/volumes/{name}", RELEASE)

    @classmethod
    def of_thing(cls, path: str, thing: str, seconds: float) -> Guard:
        """Of the engine at the socket `path`; the removal is repeated for some seconds."""
        return cls(sys.executable, "-I", "-S", "-c", WATCH, path, thing, str(seconds))

    @classmethod
    def of_folders(cls, *folders: Path) -> Guard:
        """With all that is in them; they need not exist yet."""
        return cls("/bin/sh", "-c", REMOVE, "sh", *map(str, folders))

    @classmethod
    def of_scratch(cls, folder: Path) -> Guard:
        """A folder of model code's own: removed when we die, and when it is released."""
        return cls("/bin/sh", "-c", REMOVE_SCRATCH, "sh", str(folder))

    @classmethod
    def of_command(cls, folder: Path, run: Path | None) -> Guard:
        """A command's folder, and that of the run that it is about to begin, if it never does."""
        return cls("/bin/sh", "-c", REMOVE_UNBEGUN, "sh", str(folder), str(run or ""))

    def release(self, *, wait: bool = True) -> None:
        """The thing is looked after, or gone: the guard goes home. Idempotent."""
        assert self._process.stdin is not None  # noqa: S101 - PIPE was asked for
        if not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(b".\n")
                self._process.stdin.close()
        if wait:
            self._process.wait()
