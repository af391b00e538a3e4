"""The kernel as an ordinary process of a Linux machine: what it does to itself, where there is no container to do it.

Everything here holds for the supervisor and for every worker that it starts; what a worker gives up beyond that is in
`confinement`. One process runs model code and cannot start another, so a limit of one process is the limit of all.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys

from . import forked, strict, wire
from .confinement import Plan, die_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

OPEN_FILES = 1024
STACK = 8 * 1024 * 1024
"""Bytes of the main thread's stack, which RLIMIT_DATA does not count."""
UNCOUNTED = 1024 * 1024 * 1024
"""Bytes of addresses beyond the memory: programs, libraries, and what the C library reserves for threads. Without such
a limit a cell could have any amount of memory: RLIMIT_DATA does not count what was written and then made read-only, nor
the page tables of what is only read."""
FILE_SIZE = 256 * 1024 * 1024
"""Bytes of one file that model code writes. Nothing bounds how many there are."""
THREADS = 512
"""Threads that may come on top of all that its user runs at the start: the system counts them by user."""
APART = 64
"""More than any number of files that is passed on."""


LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu")
"""Where systems keep shared libraries."""
FACTS = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom", "/dev/zero")
"""What the standard library and the C library read beside them."""
OWN = ("fd", "maps", "stat", "statm", "status")
"""What a worker may see of its own folder in /proc; the rest tells about the machine's mounts and connections."""


def prepare(*, host: int, scratch: str, memory: int, files: Sequence[int]) -> Plan:
    """Before the first worker: die with the process `host`; be in `scratch`, a new private folder; let nobody have more
    than `memory` bytes; hold the open `files`, the k-th where `wire.blob_path(k)` says. Returns a worker's `Plan`.

    Raises `OSError` for what this system does not give.
    """
    die_with(host)
    forked.MOST = 1
    os.umask(0o077)
    os.mkdir(scratch, 0o700)
    os.chdir(scratch)
    hold(files)
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_AS, memory + UNCOUNTED),
        (resource.RLIMIT_STACK, STACK),
        (resource.RLIMIT_NPROC, tasks(os.getuid()) + THREADS),
    ):
        lower(kind, most)
    return Plan(
        policy=lambda: strict.policy(os.getpid()),
        read=(
            *LIBRARIES,
            *library(),
            *FACTS,
            *(f"/proc/self/{name}" for name in OWN),
            *map(wire.blob_path, range(len(files))),
        ),
        run=(),
        write=(scratch, os.devnull),
        dies_with=os.getpid(),
    )


def library() -> set[str]:
    """Where this Python's standard library is, and the shared libraries that came with it."""
    places = {os.path.dirname(os.__file__)}
    for prefix in (sys.base_prefix, sys.base_exec_prefix):
        places |= {os.path.join(prefix, "lib"), os.path.join(prefix, sys.platlibdir)}
    return places


def hold(files: Sequence[int]) -> None:
    """Give each file the number under which workers keep it."""
    apart = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, wire.BLOB_FD + APART) for file in files]
    for file in files:
        os.close(file)
    for number, file in enumerate(apart):
        os.dup2(file, wire.BLOB_FD + number, inheritable=False)
        os.close(file)


def lower(kind: int, most: int) -> None:
    """A limit that cannot be raised again; a lower one stays."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def tasks(uid: int) -> int:
    """Threads that a user runs, as far as they can be seen."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            pass  # it has ended meanwhile
    return count
