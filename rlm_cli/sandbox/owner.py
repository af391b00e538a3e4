"""Who owns a container: one process, named so that any later process can tell whether it is dead.

A container is removed by `prune` only when its owner is *provably* gone: it ran on this machine, in this process
namespace, and either the machine was rebooted since or no process with that id and start time is left.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PID = re.compile("[0-9]{1,10}")
MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


@dataclass(frozen=True)
class Owner:
    """`machine` is a hash of machine and process namespace; `started` is the kernel's own spelling."""

    machine: str
    boot: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"{self.machine}:{self.boot}:{self.pid}:{self.started}"

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(machine_id(), boot_id(), pid, start_time(pid))

    @classmethod
    def parse(cls, label: str) -> Owner | None:
        """The owner that a label names, or None when it is not one of ours."""
        parts = label.split(":")
        if len(parts) != 4 or not all(parts) or not PID.fullmatch(parts[2]):
            return None
        return cls(parts[0], parts[1], int(parts[2]), parts[3])

    def is_dead(self) -> bool:
        """True only when it is certain: another machine's processes, and ones we cannot look at, count as alive."""
        if self.machine != machine_id():
            return False
        if self.boot != boot_id():
            return True
        return start_time(self.pid) not in (self.started, "unknown")


def machine_id() -> str:
    """This machine and process namespace, hashed: machine ids are meant to stay private, and a process id means
    nothing in another namespace (two containers that share one engine may share a machine id).

    The machine's name counts too: clones of one disk have the same id, and to one of them the other's runs, which are
    of another boot, would be dead."""
    parts = [platform.node(), system_id() or str(uuid.getnode())]
    namespace = PROC / "self/ns/pid"
    if namespace.exists():
        parts.append(str(namespace.readlink()))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def system_id() -> str:
    """What the installation was given at its first boot; "" where there is none, or (in images) none yet."""
    for path in MACHINE_IDS:
        if path.is_file():
            text = path.read_text("ascii", "replace").strip()
            if text and text != "uninitialized":
                return text
    return ""


def boot_id() -> str:
    """Changes at every boot; "none" where the system does not say."""
    path = PROC / "sys/kernel/random/boot_id"
    return path.read_text("ascii").strip() if path.is_file() else "none"


def start_time(pid: int) -> str:
    """When that process started, without colons; "gone" when there is none; "unknown" when we may not look."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return "gone"
    except PermissionError:
        pass  # it lives, and belongs to somebody else
    if not (PROC / "self/stat").exists():
        return start_time_by_ps(pid)
    try:
        stat = (PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return "unknown"
    # The second field is the program's name in parentheses, which may contain spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return "gone" if fields[0] == "Z" else fields[19]


def start_time_by_ps(pid: int) -> str:
    """The same where there is no /proc (macOS)."""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return "-".join(done.stdout.replace(":", ".").split()) or "unknown"
