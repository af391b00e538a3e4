"""The peer: the public `rlms` package in an environment of its own, and an image for its docker environment.

rlms' docker environment wants an image with `python` and installs `dill` and `requests` into the container at start.
Containers often have no network (and a registry may be out of reach), so it gets an image with both already there,
through its own `image=` argument: that makes its start quicker than it would be, and its turns what they are.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..sandbox import SandboxOptions
from ..sandbox.image import candidates

VERSION = "0.1.3"
STOCK_IMAGE = "python:3.11-slim"
PATIENCE_S = 300.0

DOCKERFILE = """\
FROM {base}
COPY site /opt/rlms/site
COPY bin /opt/rlms/bin
ENV PYTHONPATH=/opt/rlms/site PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/rlms/bin
"""


class NotHereError(Exception):
    """The peer, or its docker environment, cannot run on this machine; the message says why."""


@dataclass(frozen=True)
class Peer:
    """`python`: the interpreter that has rlms. `packages`: dill and requests as plain Python, for the image."""

    python: Path
    packages: Path


def ask(command: Sequence[str | Path], *, timeout: float = PATIENCE_S) -> str:
    """The command's stdout. Raises `NotHereError` with its last words when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)  # noqa: S603
    except FileNotFoundError as error:
        raise NotHereError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise NotHereError(f"{command[0]} took longer than {timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        raise NotHereError(f"{Path(command[0]).name} failed: {' '.join(last)[:200]}") from error
    return done.stdout


def prepare(folder: Path, python: str) -> Peer:
    """The environment in `folder`, made with the interpreter `python` on first use (needs PyPI then, never after).

    Raises `NotHereError`.
    """
    peer = Peer(folder.absolute() / "bin" / "python", folder.absolute() / "container-packages")
    if installed(peer) != VERSION:
        ask([python, "-m", "venv", folder])
        (folder / ".gitignore").write_text("*\n", "utf-8")
        ask([peer.python, "-m", "pip", "install", "--quiet", f"rlms=={VERSION}"])
    if not peer.packages.is_dir():
        partial = peer.packages.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        anywhere = ["--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none"]
        ask([peer.python, "-m", "pip", "install", "--quiet", *anywhere, "--target", partial, "dill", "requests"])
        partial.rename(peer.packages)
    return peer


def installed(peer: Peer) -> str:
    """The version of rlms in the environment; "" when there is none."""
    try:
        return ask([peer.python, "-c", "from importlib.metadata import version; print(version('rlms'))"]).strip()
    except NotHereError:
        return ""


@contextlib.contextmanager
def docker_image(peer: Peer) -> Iterator[str]:
    """An image for rlms' docker environment, gone at the end with every container made of it.

    Raises `NotHereError` when there is no engine or nothing to build on.
    """
    tag = f"rlm-bench-rlms:{uuid.uuid4().hex[:12]}"
    base = base_image()
    with tempfile.TemporaryDirectory(prefix="rlm-bench-image-") as name:
        folder = Path(name)
        shutil.copytree(peer.packages, folder / "site")
        (folder / "bin").mkdir()
        # Last on PATH: a stock image has its own `python`, a Debian one has only python3.
        (folder / "bin" / "python").symlink_to("/usr/bin/python3")
        (folder / "Dockerfile").write_text(DOCKERFILE.format(base=base), "utf-8")
        ask(["docker", "build", "--quiet", "--network", "none", "--tag", tag, folder])
    try:
        yield tag
    finally:
        with contextlib.suppress(NotHereError):
            remove_containers(tag)
            ask(["docker", "image", "rm", "--force", tag])


def base_image() -> str:
    """The first image with Python that the engine has: rlms' own default, else ours. Nothing is pulled."""
    names = (STOCK_IMAGE, *candidates(SandboxOptions()))
    ask(["docker", "version"], timeout=20)
    for name in names:
        with contextlib.suppress(NotHereError):
            ask(["docker", "image", "inspect", name], timeout=20)
            return name
    raise NotHereError(f"no image with Python here (tried {', '.join(n.split('@')[0] for n in names)})")


def remove_containers(tag: str) -> None:
    """Remove what rlms left behind: it has no cleanup of its own when it is stopped."""
    left = ask(["docker", "ps", "--all", "--quiet", "--filter", f"ancestor={tag}"], timeout=30).split()
    if left:
        ask(["docker", "rm", "--force", "--volumes", *left], timeout=60)
