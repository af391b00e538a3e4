"""What the supervisor reads back about its own place, so that the host can refuse a container that is not locked down.

Limits can be dropped silently by an engine (rootless cgroup v1, old kernels); only the container itself can tell.
"""

from __future__ import annotations

import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNLIMITED = 1 << 60
CGROUP = "/sys/fs/cgroup"


def read(path: str) -> str:
    """A small file's text, "" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def status_fields() -> dict[str, str]:
    """/proc/self/status as a dict; empty where there is no /proc."""
    lines = (line.partition(":") for line in read("/proc/self/status").splitlines())
    return {name: value.strip() for name, _, value in lines}


def cgroup_paths(controller: str, v1_file: str, v2_file: str) -> list[str]:
    """Where a value of our own cgroup may be: v2 then v1, by /proc/self/cgroup and at the root of the mount."""
    v1, v2 = "", ""
    for line in read("/proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            v2 = path.rstrip("/")
        elif controller in controllers.split(","):
            v1 = path.rstrip("/")
    roots = [(f"{CGROUP}{v2}", v2_file), (CGROUP, v2_file)]
    roots += [(f"{CGROUP}/{controller}{v1}", v1_file), (f"{CGROUP}/{controller}", v1_file)]
    return [f"{root}/{name}" for root, name in roots]


def limit(controller: str, v1_file: str, v2_file: str) -> int | None:
    """A cgroup limit as a number; None when there is none."""
    for path in cgroup_paths(controller, v1_file, v2_file):
        text = read(path).strip()
        if text.isdigit():
            return int(text) if int(text) < UNLIMITED else None
        if text == "max":
            return None
    return None


def memory_limit() -> int | None:
    """Bytes, or None: of the container, or what no process here can have more of."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    found = limit("memory", "memory.limit_in_bytes", "memory.max")
    return found if hard == resource.RLIM_INFINITY else min(hard, found or hard)


class OomCounter:
    """How many processes of our cgroup the kernel has killed for lack of memory."""

    def __init__(self) -> None:
        paths = cgroup_paths("memory", "memory.oom_control", "memory.events")
        self._path = next((path for path in paths if "oom_kill " in read(path)), "")

    def read(self) -> int:
        for line in read(self._path).splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdigit():
                return int(value)
        return 0


def writable(path: str) -> bool:
    """Whether the file system at `path` is mounted read-write. A missing path is not."""
    try:
        return not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return False


def input_writable(root: str = "/in", most: int = 1000) -> bool:
    """Whether any of the input's mounts can be written."""
    try:
        names = sorted(os.listdir(root))[:most]
    except OSError:
        return False
    return any(writable(path) for path in [root, *(f"{root}/{name}" for name in names)])


def interfaces() -> list[str]:
    """Network interfaces of our namespace."""
    lines = read("/proc/net/dev").splitlines()[2:]
    if lines:
        return sorted(line.partition(":")[0].strip() for line in lines)
    import socket  # 3 ms, and only where there is no /proc

    return sorted(name for _, name in socket.if_nameindex())


def machine() -> str:
    """The kernel's word for the architecture. A 32-bit program on a 64-bit kernel, which has other system calls, says
    so."""
    name = os.uname().machine
    return name if sys.maxsize > 2**32 else f"{name} (32-bit)"


def boot_facts() -> dict[str, Any]:
    """The boot frame, but for what only the supervisor knows."""
    status = status_fields()
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "pid": os.getpid(),
        "cap_eff": int(status.get("CapEff", "0") or "0", 16),
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "seccomp": int(status.get("Seccomp", "0") or "0"),
        "memory_limit": memory_limit(),
        "pids_limit": limit("pids", "pids.max", "pids.max"),
        "interfaces": interfaces(),
        "root_writable": writable("/"),
        "in_writable": input_writable(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "machine": machine(),
    }
