"""What a worker may do, from the moment on when it reads an untrusted file.

Everywhere: bounded memory, time and output, no core file, low priority. On Linux (x86-64 and ARM64) also a filter of
system calls, which needs no privileges: it reads and writes the files it was given, and can open no other, make no
socket and start no process. A parser that is taken over cannot read a key, reach a network or change anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import socket
import struct
import sys

MEMORY = 2 << 30
"""Most address space of a worker."""

SET_DUMPABLE, SET_PDEATHSIG, SET_SECCOMP, SET_NO_NEW_PRIVS = 4, 1, 22, 38
FILTER = 2
SIGKILL = 9
EPERM = 1

# What the standard library and the parsers need once they have been imported (linux: asm/unistd_64.h, and
# asm-generic/unistd.h for ARM64). Everything else fails with EPERM, also what no kernel has yet.
CALLS = {
    "x86_64": (
        0xC000003E,
        {
            *(0, 1, 3, 5, 7, 8),  # read write close fstat poll lseek
            *(9, 10, 11, 12, 25, 28),  # mmap mprotect munmap brk mremap madvise
            *(13, 14, 15, 131),  # rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
            *(17, 18, 19, 20, 72, 77),  # pread64 pwrite64 readv writev fcntl ftruncate
            *(24, 35, 39, 96, 98, 99),  # sched_yield nanosleep getpid gettimeofday getrusage sysinfo
            *(63, 186, 202, 204),  # uname gettid futex sched_getaffinity
            *(219, 228, 229, 230),  # restart_syscall clock_gettime clock_getres clock_nanosleep
            *(60, 231, 271, 318, 324, 334),  # exit exit_group ppoll getrandom membarrier rseq
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            *(63, 64, 57, 80, 73, 62),  # read write close fstat ppoll lseek
            *(222, 226, 215, 214, 216, 233),  # mmap mprotect munmap brk mremap madvise
            *(134, 135, 139, 132),  # rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
            *(67, 68, 65, 66, 25, 46),  # pread64 pwrite64 readv writev fcntl ftruncate
            *(124, 101, 172, 169, 165, 179),  # sched_yield nanosleep getpid gettimeofday getrusage sysinfo
            *(160, 178, 98, 123),  # uname gettid futex sched_getaffinity
            *(128, 113, 114, 115),  # restart_syscall clock_gettime clock_getres clock_nanosleep
            *(93, 94, 278, 283, 293),  # exit exit_group getrandom membarrier rseq
        },
    ),
}


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
        ctypes.CDLL(None, use_errno=True).prctl(SET_PDEATHSIG, SIGKILL, 0, 0, 0)


class Program(ctypes.Structure):
    """`struct sock_fprog` (linux/filter.h)."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def filter_calls() -> bool:
    """Install the filter; False where the kernel or the machine has none."""
    known = CALLS.get(platform.machine())
    if known is None:
        return False
    code = filter_program(*known)
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(code) // 8, code)
    libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0) == 0)


def filter_program(architecture: int, allowed: set[int]) -> bytes:
    """Classic BPF over `struct seccomp_data` (linux/seccomp.h): another architecture dies, `allowed` calls pass."""
    load, equal, give = 0x20, 0x15, 0x06
    allow, fail, kill = 0x7FFF0000, 0x00050000 | EPERM, 0x80000000
    numbers = sorted(allowed)
    rows = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    rows += [(equal, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    rows += [(give, 0, 0, fail), (give, 0, 0, allow)]
    return b"".join(struct.pack("=HBBI", *row) for row in rows)
