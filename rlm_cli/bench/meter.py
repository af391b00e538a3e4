"""How much memory a trial's container has, read from the host's cgroup files while it runs.

Counted is what the kernel cannot drop: anonymous memory, and shared memory (files in /tmp, a memfd). The page cache
of a mapped input is not in it. Cgroup v1 and v2; only where the engine runs on this very kernel.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
LOOK_S = 0.1
SAMPLE_S = 0.01
COUNTED = (("anon", "shmem"), ("total_rss", "total_shmem"))
"""Lines of memory.stat, in v2 and v1."""

Find = Callable[[int], str]
"""The command's process id -> its container's id, "" when there is none (yet)."""


class ContainerMeter:
    """`with ContainerMeter(find) as meter:` samples, from `meter.start(pid)` on, the container that `find` names."""

    def __init__(self, find: Find | None) -> None:
        self.peak = 0
        """Bytes; 0: never seen, and `reason` says why."""
        self.reason = "no container was seen" if find else "has no container"
        self._find = find
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, pid: int) -> None:
        if self._find:
            self._thread = threading.Thread(target=self._run, args=[self._find, pid], name="bench-meter", daemon=True)
            self._thread.start()

    def __enter__(self) -> ContainerMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()

    def _run(self, find: Find, pid: int) -> None:
        container = ""
        while not container and not self._ended.wait(LOOK_S):
            container = find(pid)
        path = memory_stat(container) if container else None
        if container and path is None:
            self.reason = "the container's memory cannot be read from here (does its engine run on another kernel?)"
        while path and not self._ended.wait(SAMPLE_S):
            try:
                self.peak = max(self.peak, unreclaimable(path.read_text("ascii")))
            except OSError:  # the container is gone
                return


def docker(*arguments: str) -> str:
    """What the docker command prints, "" when it fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=20, check=True)  # noqa: S603, S607
        return done.stdout.strip()
    return ""


def labelled(label: str) -> Find:
    """Our container: its label names the process that owns it (owner.py: machine:boot:pid:start)."""

    def find(pid: int) -> str:
        listed = docker(
            "ps", "--no-trunc", "--filter", f"label={label}", "--format", f'{{{{.ID}}}} {{{{.Label "{label}"}}}}'
        )
        pairs = (line.partition(" ") for line in listed.splitlines())
        return next((name for name, _, owner in pairs if belongs(owner.split(":")[2:3], pid)), "")

    return find


def belongs(process: list[str], session: int) -> bool:
    """Whether the process (its id, if any) is in the session that the command leads."""
    try:
        return os.getsid(int(process[0])) == session
    except (IndexError, ValueError, OSError):
        return False


def made_of(image: str) -> Find:
    """The one container of an image that nobody else has."""
    return lambda _pid: docker("ps", "--no-trunc", "--quiet", "--filter", f"ancestor={image}").partition("\n")[0]


def memory_stat(container: str) -> Path | None:
    """The container's memory.stat, None when it is not on this machine."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", container)
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return None
    paths = (stat_path(group) for group in groups)
    return next((path for path in paths if path and path.is_file()), None)


def stat_path(group: str) -> Path | None:
    """Where memory.stat of a line of /proc/PID/cgroup is: `0::/path` (v2) or `7:memory:/path` (v1)."""
    number, _, rest = group.partition(":")
    controllers, _, path = rest.partition(":")
    if path in ("", "/"):  # not a container's
        return None
    if number == "0" and not controllers:
        return CGROUPS / path[1:] / "memory.stat"
    return CGROUPS / "memory" / path[1:] / "memory.stat" if "memory" in controllers.split(",") else None


def unreclaimable(stat: str) -> int:
    """Bytes of anonymous and shared memory by a memory.stat of either version."""
    fields = dict(line.split(" ", 1) for line in stat.splitlines() if " " in line)
    names = next((names for names in COUNTED if names[0] in fields), ())
    return sum(int(fields.get(name, "0")) for name in names)
