"""What an engine's failures mean: whose fault it is, and the one command that mends it (SANDBOX.md 7).

Texts in, `SandboxError` out; `container.py` knows which exception carries which text.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..errors import SandboxError

Flavor = Literal["Docker", "Podman"]

UNREACHED = (
    "docker_daemon_down",
    "docker_not_installed",
    "docker_permission",
    "podman_down",
    "podman_not_installed",
    "engine_timeout",
)
"""Codes that mean: nobody answers there, so nothing can be asked of it."""

DAEMON_DOWN = "start it (sudo systemctl start docker; on macOS: open -a Docker) or set DOCKER_HOST; then: rlm doctor"
DOCKER_ABSENT = "install Docker Engine: https://docs.docker.com/engine/install/   then: rlm doctor"
PODMAN_DOWN = "systemctl --user enable --now podman.socket   (as root, and where Podman runs as root: without --user)"


def engine_down(host: str, flavor: Flavor = "Docker") -> SandboxError:
    """Nothing listens there: not installed, or not running."""
    if flavor == "Podman":
        return podman_down((host,))
    if host.startswith("unix://") and not shutil.which("docker") and not Path("/usr/bin/dockerd").exists():
        return SandboxError(
            "Docker is not installed; model-written code runs in a container",
            hint=DOCKER_ABSENT,
            code="docker_not_installed",
        )
    return SandboxError(
        f"cannot reach the Docker Engine at {host}: it is not running, or not there",
        hint=DAEMON_DOWN,
        code="docker_daemon_down",
    )


def podman_down(hosts: Sequence[str]) -> SandboxError:
    """Podman's service, which speaks Docker's language, listens at none of `hosts`."""
    if not shutil.which("podman"):
        return SandboxError(
            f"Podman is not installed, and nothing listens at {' or '.join(hosts)}",
            hint="sudo apt-get install -y podman && systemctl --user enable --now podman.socket",
            code="podman_not_installed",
        )
    return SandboxError(
        f"Podman's service does not listen at {' or '.join(hosts)}",
        hint=PODMAN_DOWN,
        code="podman_down",
    )


def no_permission(host: str, flavor: Flavor = "Docker") -> SandboxError:
    """The socket is another user's."""
    if flavor == "Podman":
        return SandboxError(
            f"no permission to use Podman at {host}",
            hint="use your own (rootless) service:  systemctl --user enable --now podman.socket",
            code="docker_permission",
        )
    return SandboxError(
        f"no permission to use the Docker Engine at {host}",
        hint="sudo usermod -aG docker $USER, then log in again (that group is as good as root), or rootless Docker",
        code="docker_permission",
    )


def no_answer(host: str, doing: str) -> SandboxError:
    """It took the connection, and then nothing."""
    return SandboxError(
        f"the container engine at {host} did not answer in time ({doing})",
        hint="docker info   (if that hangs too, restart the engine)",
        code="engine_timeout",
    )


def no_tls(host: str, said: str) -> SandboxError:
    """Certificates that are missing, wrong, or not wanted there."""
    return SandboxError(
        f"no secure connection to the Docker Engine at {host}: {said}",
        hint="check DOCKER_TLS_VERIFY and DOCKER_CERT_PATH:  docker info",
        code="docker_tls",
    )


def no_ssh(host: str) -> SandboxError:
    """The docker package needs another one for that."""
    return SandboxError(
        f"the engine at {host} is reached by ssh, which needs the paramiko package",
        # `container.is_forwarded` knows such a socket from a local engine's: the input is copied there.
        hint="forward its socket: ssh -NL /tmp/engine.sock:/var/run/docker.sock HOST, DOCKER_HOST=unix:///tmp/engine.sock",
        code="engine_ssh",
    )


def not_an_engine(host: str, said: str) -> SandboxError:
    """Something listens there that speaks another language."""
    return SandboxError(
        f"what answers at {host} is not a container engine: {said[:200]}",
        hint="correct DOCKER_HOST, or unset it to use this machine's engine;  docker context ls",
        code="engine_not_docker",
    )


def no_address(host: str, why: str) -> SandboxError:
    """What is to lead to an engine cannot be read."""
    return SandboxError(
        f"{host} is no address of a container engine: {why}",
        hint="correct DOCKER_HOST, or unset it to use this machine's engine;  docker context ls",
        code="engine_address",
    )


def bad_version(host: str, said: str) -> SandboxError:
    """Its API is older than what the docker package speaks, or it refuses ours as too old."""
    return SandboxError(
        f"the engine at {host} speaks no version of the API that rlm does: {said}",
        hint="update the engine (Docker 20.10 or later, Podman 4.3 or later), or rlm:  pip install -U rlm-cli",
        code="engine_api",
    )


def engine_gone(name: str, error: SandboxError, flavor: Flavor = "Docker") -> SandboxError:
    """The last rung of the ladder: nobody is there who could remove the container."""
    return SandboxError(
        f"the container engine is gone in the middle of the run ({error.message}); the container {name} ends by itself "
        "within a minute, or when the engine is back",
        hint=f"when the engine is back:  {flavor.lower()} rm -f {name}   (or: rlm sandbox prune)",
        code="engine_gone",
    )


def removed_outside(name: str, said: str = "") -> SandboxError:
    """The engine is well, and the container is not there any more."""
    return SandboxError(
        f"the container {name} was stopped or removed from outside{f'; it said: {said}' if said else ''}",
        hint="Run it again; rlm doctor checks the engine.",
        code="sandbox_lost",
    )


# Words in the engine's refusal -> (code, hint). The first that matches wins.
REFUSALS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("executable file not found", 'exec: "python3"', "stat python3: no such file", "executable file `python3`"),
        "image_no_python",
        "use an image with python3 3.9 or later on its PATH, or the default one: unset sandbox.image",
    ),
    (
        ("exec format error", "does not match the specified platform", "no matching manifest for"),
        "image_wrong_arch",
        "get the image for this machine's architecture:  rlm sandbox pull",
    ),
    (
        (
            "bind source path does not exist",
            "invalid mount config",
            "error while creating mount",
            "to rootfs at",
            "mounts denied",
            "statfs",
        ),
        "mount_failed",
        "the engine does not see this machine's files (remote engine, or a folder Docker Desktop does not share)",
    ),
    (
        ("memory limit", "memoryswap", "range of cpus", "rlimit", "pids limit", "nanocpus", "cgroup controller"),
        "limit_refused",
        "ask for less:  --set sandbox.memory=1GB --set sandbox.cpus=1",
    ),
    (
        ("unknown or invalid runtime", "unknown runtime", "default oci runtime", "no such runtime", "runtime name"),
        "engine_runtime",
        "mend the engine's default runtime:  docker info --format '{{.DefaultRuntime}} {{.Runtimes}}'",
    ),
    (
        ("is already in use by container", "name is already in use", "already in use by"),
        "name_clash",
        "run it again: the next one has another name",
    ),
    (("no space left on device",), "engine_disk_full", "docker system df   (and: docker system prune)"),
    (
        ("too new. maximum supported", "is too old. minimum supported", "client version"),
        "engine_api",
        "update the engine (Docker 20.10 or later), or rlm:  pip install -U rlm-cli",
    ),
)


def refusal(said: str, doing: str) -> SandboxError:
    """The engine answered and said no."""
    return recognized(said, f"{doing}: the engine refused: {said}") or SandboxError(
        f"{doing} failed: {said}", hint="docker info", code="engine_error"
    )


def recognized(said: str, message: str) -> SandboxError | None:
    """`message` as the error that the words in `said` stand for; None when they stand for nothing known."""
    lowered = said.lower()
    for words, code, hint in REFUSALS:
        if any(word in lowered for word in words):
            return SandboxError(message, hint=hint, code=code)
    return None


UNREACHABLE = (
    "no such host",
    "connection refused",
    "network is unreachable",
    "i/o timeout",
    "timeout",
    "no route to host",
    "server misbehaving",
    "proxyconnect",
    "temporary failure in name resolution",
    "pinging container registry",
)


def pull_failure(name: str, error: SandboxError) -> SandboxError:
    """A pull that failed: the registry cannot be reached, or it has no such image for us."""
    if error.code.startswith("docker_") or error.code in (*UNREACHED, "image_wrong_arch", "engine_disk_full"):
        return error
    reason = error.message.partition(": ")[2] or error.message
    if any(word in reason.lower() for word in UNREACHABLE):
        return SandboxError(
            f"the registry cannot be reached: {reason}",
            hint="rlm sandbox build   (makes an equivalent image from Debian packages)",
            code="registry_unreachable",
        )
    return SandboxError(
        f"pulling {name} failed: {reason}",
        hint=f"check the name and your login:  docker pull {name}",
        code="image_pull_failed",
    )
