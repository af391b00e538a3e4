"""Landlock: which files this process, and all that it starts, may still open (Linux 5.13 and later; no privileges).

What is open stays usable, and so does what has no path (pipes, sealed memory). The kernel's interface grows by
versions; each adds rights that can be taken away, and what a version does not know stays as it was. So `restrict` asks
for all that the running kernel has, and says which version that is.
"""

from __future__ import annotations

import os
import stat
import struct
import sys

from . import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# linux/landlock.h, and the calls' numbers, which most architectures share.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ELSEWHERE = ("mips", "alpha")
"""Begins the names of those that number system calls in their own way."""
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
LOG_SAME_EXEC_OFF = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
FIRST = (1 << 13) - 1
"""The rights of version 1: everything above `REFER`."""

ADDED = {2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}
"""Version -> the file rights that came with it."""
NETWORK = 1 << 0 | 1 << 1  # TCP: bind, connect
NETWORK_SINCE = 4
SCOPES = 1 << 0 | 1 << 1  # abstract unix sockets and signals, to processes outside
SCOPES_SINCE = 6
QUIET_SINCE = 7

OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""What can be granted on a file that is no folder."""
READ = READ_FILE | READ_DIR
RUN = READ | EXECUTE
WRITE = READ | WRITE_FILE | TRUNCATE | REFER | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM
"""Not: programs, devices, sockets with a name."""


def version() -> int:
    """Of the running kernel's Landlock; 0 where there is none, or it is switched off or denied."""
    if sys.platform != "linux" or os.uname().machine.startswith(ELSEWHERE):
        return 0
    try:
        return system.call(CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)
    except OSError:
        return 0


def handled(version: int) -> tuple[int, int, int, int]:
    """What a kernel of that version can take away: (rights on files, on the network, scopes), and how many bytes of the
    structure that says so it knows."""
    files = FIRST
    for since, rights in ADDED.items():
        files |= rights if version >= since else 0
    network = NETWORK if version >= NETWORK_SINCE else 0
    scopes = SCOPES if version >= SCOPES_SINCE else 0
    return files, network, scopes, 24 if scopes else 16 if network else 8


def restrict(*, read: Iterable[str] = (), run: Iterable[str] = (), write: Iterable[str] = ()) -> int:
    """From here on only files at and below these paths can be opened: to `read`; to read and `run` as programs; to read
    and `write`, files being made and removed. No TCP, no signal to a process outside. Paths that do not exist are left
    out.

    Holds for the calling thread and what it starts, for good: call it while there is one thread. Returns the kernel's
    version of Landlock, 0 when there is none and nothing is restricted. Raises `OSError` when the kernel refuses.
    """
    known = version()
    if known < 1:
        return 0
    files, network, scopes, size = handled(known)
    ruleset = system.call(CREATE_RULESET, struct.pack("=QQQ", files, network, scopes), size, 0)
    try:
        for paths, rights in ((read, READ), (run, RUN), (write, WRITE)):
            for path in paths:
                grant(ruleset, path, rights & files)
        system.give_up_privileges()
        # Else every refused call of model code would be a line in the host's audit log.
        system.call(RESTRICT_SELF, ruleset, LOG_SAME_EXEC_OFF if known >= QUIET_SINCE else 0)
    finally:
        os.close(ruleset)
    return known


def grant(ruleset: int, path: str, rights: int) -> None:
    """Add `rights` at and below `path` to a ruleset."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= OF_FILES
        system.call(ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
    finally:
        os.close(place)
