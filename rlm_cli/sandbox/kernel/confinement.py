"""What a worker gives up before it reads its first command: files, sockets, locks, the ways to other processes.

The container is the wall; this is a second one, inside it, against what a container leaves open (SANDBOX.md 0): kinds
of sockets that its network setting does not cover, io_uring, and everything that reaches the host through a read-only
mount. A worker confines itself before any thread of it exists and any model code runs, and tells the supervisor what
holds.
"""

from __future__ import annotations

import os
import signal
import sys

from . import landlock, seccomp, system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/gnu")
"""Where images keep programs and libraries."""
FACTS = ("/etc", "/proc", "/dev", "/sys/fs/cgroup", "/sys/devices/system")
"""What the standard library, the C library and we read about the system; the last two say how much of it is ours."""
INPUT = ("/in",)
WRITABLE = ("/tmp", "/dev/shm", "/dev/null")  # noqa: S108 - in the container


class Plan:
    """How a worker is confined: its `policy`, made in its own process; the paths that it may read, `run` programs from,
    and write; and the process whose end is its own (0: it need not be told, PID 1 is gone). By default, in a container.
    """

    def __init__(
        self,
        policy: Callable[[], seccomp.Policy] = lambda: seccomp.CONTAINER,
        read: Iterable[str] = (*FACTS, *INPUT),
        run: Iterable[str] | None = None,
        write: Iterable[str] = WRITABLE,
        dies_with: int = 0,
    ):
        self.policy = policy
        self.read = tuple(read)
        self.run = (*PROGRAMS, *interpreter()) if run is None else tuple(run)
        self.write = tuple(write)
        self.dies_with = dies_with


def confine(plan: Plan) -> dict[str, Any]:
    """Confine this process, for good. Returns what holds then, see `UNCONFINED`: the host decides whether that is
    enough. Never raises for what this system lacks."""
    if plan.dies_with:
        die_with(plan.dies_with)
    prefer_to_be_killed()
    failures = []
    version, filtered = 0, False
    try:
        version = landlock.restrict(read=plan.read, run=plan.run, write=plan.write)
    except OSError as error:
        failures.append(f"Landlock: {error.strerror or error}")
    try:
        filtered = seccomp.install(plan.policy())
    except OSError as error:
        failures.append(f"seccomp: {error.strerror or error}")
    return {
        **UNCONFINED,
        "filtered": filtered,
        "seccomp": asked(system.PR_GET_SECCOMP),
        "no_new_privs": asked(system.PR_GET_NO_NEW_PRIVS) == 1,
        "landlock": version,
        "failures": failures,
    }


UNCONFINED: dict[str, Any] = {"filtered": False, "seccomp": 0, "no_new_privs": False, "landlock": 0, "failures": []}
"""The facts of a worker of which nothing is known: the fields of the host's `frames.WorkerFacts`."""


def asked(option: int) -> int:
    """What the system says about this process; 0 where it does not."""
    try:
        return system.prctl(option)
    except OSError:
        return 0


def prefer_to_be_killed() -> None:
    """Of two processes the system should kill the worker, not the supervisor."""
    try:
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(score, b"1000")
        finally:
            os.close(score)
    except OSError:
        pass  # not Linux


def interpreter() -> set[str]:
    """Where this Python is, which need not be among `PROGRAMS`."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.dirname(os.__file__)}
    if sys.executable:
        places |= {os.path.dirname(sys.executable), os.path.dirname(os.path.realpath(sys.executable))}
    return places - {"/", ""}


def die_with(parent: int) -> None:
    """Be killed when `parent`, which started this process, is gone; at once, if it already is. Raises `OSError`."""
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def set_dumpable(on: bool) -> bool:
    """Whether processes of our own uid may look into this one (/proc/<pid>/mem, ptrace). True when it was set."""
    try:
        system.prctl(system.PR_SET_DUMPABLE, int(on))
    except OSError:  # not Linux; the host sees the fact and decides
        return False
    return True
