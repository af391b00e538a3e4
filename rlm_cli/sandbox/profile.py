"""How the container is locked down, and the proof that it is (SANDBOX.md 2).

A limit that was asked for is not yet a limit: engines drop some silently. So the supervisor reads everything back from
inside at boot, and `wrong_facts` names what is not as it must be; then nothing is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .kernel.seccomp import ARCHITECTURES

if TYPE_CHECKING:
    from .frames import BootFacts, WorkerFacts

MIB = 1024**2
NOBODY = "65534:65534"
PODMAN_WRITABLE = ("/run", "/var/tmp")  # noqa: S108 - in the container
"""Where Podman puts a writable disk of its own accord although the root file system is read-only."""


@dataclass(frozen=True)
class Profile:
    """The settings of one container. Sizes in bytes; `cpus` may be a fraction."""

    memory: int = 2048 * MIB
    cpus: float = 2.0
    pids: int = 128
    user: str = NOBODY
    network: str = "none"
    read_only: bool = True
    no_new_privileges: bool = True
    cap_drop: tuple[str, ...] = ("ALL",)
    seccomp: str = ""
    """"" is the engine's own default filter; ours, inside the container, comes on top."""
    tmp_size: int = 256 * MIB
    shm_size: int = 64 * MIB
    open_files: int = 1024
    oom_score_adj: int = 500
    masked: tuple[str, ...] = ()
    """VOLUME paths of the image: each would be a writable disk without a quota, so an empty one is put there."""

    @property
    def security_opt(self) -> list[str]:
        """SELinux labels stay off: relabelling would change the user's files."""
        options = ["label=disable"]
        if self.no_new_privileges:
            options.append("no-new-privileges")
        if self.seccomp:
            options.append(f"seccomp={self.seccomp}")
        return options

    @property
    def tmpfs(self) -> dict[str, str]:
        """The only writable places, counted in the memory limit."""
        common = "noexec,nosuid,nodev"
        return {
            "/tmp": f"rw,{common},size={self.tmp_size},mode=1777",  # noqa: S108
            **dict.fromkeys(self.masked, f"ro,{common},size=4096,mode=555"),
        }


DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROXIES = tuple(
    name
    for stem in ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
    for name in (stem, stem.upper())
)


def environment(image_env: tuple[str, ...], *, removable: bool = True) -> list[str]:
    """The container's environment as the engine's API takes it: only PATH, HOME and LANG.

    What the image sets (and a proxy, which may carry a password) is taken away by name: a name without "=" removes
    the variable. Podman puts its service's own value in its place, which may be just that password: where names are not
    `removable` the variables are there and empty. The image's own PATH stays, because that is where its python3 is.
    """
    given = dict(entry.partition("=")[::2] for entry in image_env)
    ours = {"PATH": given.get("PATH") or DEFAULT_PATH, "HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108
    removed = dict.fromkeys((*PROXIES, *given))
    end = "" if removable else "="
    return [f"{name}={value}" for name, value in ours.items()] + [name + end for name in removed if name not in ours]


def wrong_facts(facts: BootFacts, profile: Profile) -> tuple[str, ...]:
    """What the container says about itself that is not as it must be, one phrase each; () when it is locked down."""
    checks = (
        (facts.uid != 0, "its user is root (uid 0)"),
        (
            facts.uid == 0 or f"{facts.uid}:{facts.gid}" == profile.user,
            f"its user is {facts.uid}:{facts.gid}, not {profile.user}",
        ),
        (facts.cap_eff == 0, f"it has capabilities (CapEff {facts.cap_eff:#x})"),
        (facts.no_new_privs, "it may gain privileges (NoNewPrivs is off)"),
        (within(facts.memory_limit, profile.memory), not_limited("memory", facts.memory_limit, profile.memory)),
        (
            within(facts.pids_limit, profile.pids),
            not_limited("the number of processes", facts.pids_limit, profile.pids),
        ),
        (list(facts.interfaces) == ["lo"], f"it has a network (interfaces: {', '.join(facts.interfaces) or 'none'})"),
        (not facts.root_writable, "its root file system can be written"),
        (not facts.in_writable, "the input (/in) can be written"),
        (not facts.dumpable, "its supervisor can be looked into by the code that it runs"),
    )
    return tuple(phrase for right, phrase in checks if not right)


def wrong_worker(worker: WorkerFacts, machine: str) -> tuple[str, ...]:
    """The same of the process that runs the code. Landlock may be missing: kernels before 5.13 have none."""
    said = f" ({'; '.join(worker.failures)})" if worker.failures else ""
    checks = (
        (worker.no_new_privs, "its worker may gain privileges (NoNewPrivs is off)"),
        (worker.seccomp == 2, f"no system call filter is active (Seccomp is {worker.seccomp}, not 2){said}"),
        (
            worker.filtered or machine not in ARCHITECTURES or worker.seccomp != 2,
            f"its own system call filter is not active{said}",
        ),
    )
    return tuple(phrase for right, phrase in checks if not right)


def within(limit: int | None, asked: int) -> bool:
    """Whether a limit is there and no looser than asked for (kernels round memory down to whole pages)."""
    return limit is not None and limit <= asked


def not_limited(what: str, limit: int | None, asked: int) -> str:
    """The phrase for a limit that was dropped or changed."""
    return f"{what} is limited to {limit}, not {asked}" if limit is not None else f"{what} is not limited (to {asked})"
