"""Run a command to its end and say how long it took and how much memory it had."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

GRACE_S = 10.0
"""From SIGTERM to SIGKILL for a command that overran its time: enough to take down its container."""
PIECE = 1 << 20


@dataclass(frozen=True)
class Ended:
    """`started`, `ended`: monotonic seconds. `status`: exit code, or minus the signal. `peak`: bytes of resident
    memory, of the process or its largest child, whichever is more. `out`, `err`: at most the last megabyte; `digest`:
    of all of the stdout, as `digest` makes it."""

    started: float
    ended: float
    status: int
    peak: int
    out: str
    err: str
    digest: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    def complaint(self) -> str:
        """ "" for exit code 0, else what it said last."""
        if self.status == 0:
            return ""
        last = (self.err or self.out).strip().splitlines()[-3:]
        return f"exit {self.status}: {' / '.join(last)[:300]}"


def run(
    command: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    timeout: float,
    on_start: Callable[[int], None] = lambda _pid: None,
) -> Ended:
    """Run `command` in `folder` with `env` set on top of the inherited environment; it leads a session of its own.

    `env` is applied by env(1), which becomes the command: same process, one millisecond. After `timeout` seconds the
    process group gets SIGTERM, then SIGKILL.
    """
    settings = [f"{name}={value}" for name, value in env.items()]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        child = subprocess.Popen(  # noqa: S603 - the benchmark's own commands
            ["env", *settings, *command],  # noqa: S607
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        timers = [
            threading.Timer(timeout, stop, [child.pid, signal.SIGTERM]),
            threading.Timer(timeout + GRACE_S, stop, [child.pid, signal.SIGKILL]),
        ]
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            on_start(child.pid)
            _, status, usage = os.wait4(child.pid, 0)
            ended = time.monotonic()
        except BaseException:
            stop(child.pid, signal.SIGTERM)
            child.wait()
            raise
        finally:
            for timer in timers:
                timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)  # it has been reaped; Popen must not wait again
        unit = 1 if sys.platform == "darwin" else 1024
        return Ended(
            started, ended, child.returncode, usage.ru_maxrss * unit, read(out), read(err), digest(pieces(out))
        )


def stop(group: int, sign: signal.Signals) -> None:
    """Signal the process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, sign)


def read(file: IO[bytes]) -> str:
    """The last megabyte of a temporary file."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - PIECE))
    return file.read().decode("utf-8", "replace")


def pieces(file: IO[bytes]) -> Iterable[bytes]:
    file.seek(0)
    return iter(lambda: file.read(PIECE), b"")


def digest(pieces: Iterable[bytes]) -> str:
    """Of the bytes but for newlines at the end, which a command adds to its answer or not."""
    found, newlines = hashlib.blake2b(), b""
    for piece in pieces:
        text = piece.rstrip(b"\n")
        if text:
            found.update(newlines)
            found.update(text)
            newlines = b""
        newlines += piece[len(text) :]
    return found.hexdigest()
