"""What a worker may do, from the moment on when it reads an untrusted file.

Everywhere: bounded memory, time and output, no core file, low priority. On Linux (x86-64 and ARM64) also a filter of
system calls, which needs no privileges: it reads and writes the files it was given, and can open no other, make no
socket and start no process. A parser that is taken over cannot read a key, reach a network or change anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import sys

# The kernel in the container has the same need, and must be one package of the standard library; so it has the filter.
from ...sandbox.kernel import seccomp, system
from ...sandbox.kernel.seccomp import Policy

MEMORY = 2 << 30
"""Most address space of a worker."""

SIGKILL = 9

NEEDED = (
    *("read", "write", "close", "fstat", "poll", "ppoll", "lseek"),
    *("mmap", "mprotect", "munmap", "brk", "mremap", "madvise"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
    *("pread64", "pwrite64", "readv", "writev", "fcntl", "ftruncate"),
    *("sched_yield", "nanosleep", "getpid", "gettimeofday", "getrusage", "sysinfo"),
    *("uname", "gettid", "futex", "sched_getaffinity"),
    *("restart_syscall", "clock_gettime", "clock_getres", "clock_nanosleep"),
    *("exit", "exit_group", "getrandom", "membarrier", "rseq"),
)
POLICY = Policy(dict.fromkeys(NEEDED, ()), other=errno.EPERM)
"""What the standard library and the parsers need once they have been imported. Everything else fails."""


def confine(*, seconds: int, output: int) -> None:
    """Take from this process what it does not need. `seconds` of the processor, `output` bytes in a file."""
    os.nice(10)
    limits = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_FSIZE, output))
    for kind, limit in (*limits, (resource.RLIMIT_AS, MEMORY)):
        # macOS takes no limit of the address space.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (limit, limit))
    without_sockets()
    if sys.platform == "linux":
        filter_calls()


def without_sockets() -> None:
    """No library opens a connection. Code that is taken over could; the filter is for that."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("a converter has no network")

    # Wherever the filter does not exist, this is all there is.
    socket.socket = refuse  # type: ignore[assignment,misc]
    socket.create_connection = refuse  # type: ignore[assignment]


def die_with_parent() -> None:
    """On Linux; elsewhere the converter kills its workers when whoever started it is gone."""
    if sys.platform == "linux":
        system.prctl(system.PR_SET_PDEATHSIG, SIGKILL)


def filter_calls() -> bool:
    """Install the filter; False where the kernel or the machine has none."""
    try:
        system.prctl(system.PR_SET_DUMPABLE, 0)
        return seccomp.install(POLICY)
    except OSError:
        return False
