"""Where Podman's service listens, which speaks Docker's language. Pure: the environment is given."""

from __future__ import annotations

from collections.abc import Mapping


def podman_hosts(env: Mapping[str, str], uid: int) -> tuple[str, ...]:
    """The addresses to try, best first: CONTAINER_HOST alone where it is set, as the podman command has it; else the
    user's own service, then the system's. Root has no service of its own but the system's."""
    if env.get("CONTAINER_HOST"):
        return (env["CONTAINER_HOST"],)
    runtime = env.get("XDG_RUNTIME_DIR") or (f"/run/user/{uid}" if uid else "")
    own = (f"unix://{runtime.rstrip('/')}/podman/podman.sock",) if runtime else ()
    return (*own, "unix:///run/podman/podman.sock")
