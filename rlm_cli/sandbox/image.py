"""The sandbox's image: which names are tried, when something is pulled, and how an equivalent is built.

The default is the stock slim Python, pinned by digest. Where no registry can be reached, `build` makes an equivalent
from Debian packages and tags it so that it is found without any setting. Nothing here talks to an engine by itself:
an `ImageStore` does (container.py), so the policy can be tested without one.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import SandboxError
from . import SandboxOptions

# The multi-architecture index of python:3.13.14-slim-bookworm, as docker-library/repo-info records it.
PINNED_IMAGE = "python:3.13.14-slim-bookworm@sha256:67a1e1f215ccda113cfc024e8639049257e88f273898f595b61476d128d387e8"
PINNED_DOWNLOAD = 44_324_229
"""Bytes to download for amd64 (arm64 is as large), said before a pull starts."""

LOCAL_IMAGE = "rlm-sandbox:debian-bookworm"
"""What `build` tags; tried right after the pinned image."""

RECIPE = Path(__file__).with_name("build-image.sh")

# What the stock image declares, which a bare root file system does not.
IMPORT_CHANGES = (
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    'CMD ["python3"]',
    "LABEL rlm.image=debian-bookworm",
)


@dataclass(frozen=True)
class Image:
    """An image that the engine has. `size` in bytes on disk; `env` is NAME=value; `volumes` its VOLUME paths."""

    name: str
    id: str
    size: int
    architecture: str = ""
    env: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageProgress:
    """How far a pull or build is. `done` and `total` in bytes; `total` 0: unknown. `phase` is a few words."""

    name: str
    phase: str
    done: int = 0
    total: int = 0

    @property
    def percent(self) -> float | None:
        """0 to 100, or None while the total is unknown."""
        return min(100.0, 100 * self.done / self.total) if self.total else None


OnImageProgress = Callable[[ImageProgress], None]


def silent(progress: ImageProgress) -> None:
    """The listener of those who do not want to know."""


@dataclass(frozen=True)
class ImageStatus:
    """Which names would be tried, in order, and the first one that is there."""

    candidates: tuple[str, ...]
    found: Image | None


class ImageStore(Protocol):
    """What of an engine this module needs. Every method raises `SandboxError` when the engine fails."""

    def find_image(self, name: str) -> Image | None:
        """The image of that name, or None when the engine has none."""
        ...

    def pull_image(self, name: str, on_progress: OnImageProgress) -> Image:
        """Download it. Raises `SandboxError`: registry_unreachable or image_pull_failed."""
        ...

    def import_image(self, tar: Path, name: str, *, changes: tuple[str, ...]) -> Image:
        """Make an image of a root file system."""
        ...


def candidates(options: SandboxOptions) -> tuple[str, ...]:
    """The names to try, best first: the configured image alone, or the pinned one and then the local build."""
    return (options.image,) if options.image else (PINNED_IMAGE, LOCAL_IMAGE)


def status(store: ImageStore, options: SandboxOptions) -> ImageStatus:
    """What `resolve_image` would find, without pulling anything."""
    names = candidates(options)
    found = (store.find_image(name) for name in names)
    return ImageStatus(names, next((image for image in found if image), None))


def resolve_image(store: ImageStore, options: SandboxOptions, *, on_progress: OnImageProgress = silent) -> Image:
    """The image to run, pulled first where the policy says so.

    Raises `SandboxError`: image_missing (with what to type next), or image_pull_failed under pull="always".
    """
    if options.pull == "always":
        return pull(store, options.image, on_progress=on_progress)
    found = status(store, options).found
    if found:
        return found
    if options.pull == "never":
        raise missing(options, "pulling is off (pull = never)")
    try:
        return pull(store, options.image, on_progress=on_progress)
    except SandboxError as error:
        raise missing(options, error.message) from error


def missing(options: SandboxOptions, why: str) -> SandboxError:
    """The engine has no image to run and will not get one by itself."""
    name = candidates(options)[0]
    if options.image:
        hint = f"check the name, or load it:  docker pull {name}   (offline: docker load -i image.tar)"
    else:
        hint = "rlm sandbox pull   (where no registry can be reached:  rlm sandbox build)"
    return SandboxError(f"the sandbox image {name} is not here: {why}", hint=hint, code="image_missing")


def pull(store: ImageStore, image: str = "", *, on_progress: OnImageProgress = silent) -> Image:
    """Download `image` (default: the pinned one). The first progress says what, and how big where that is known."""
    name = image or PINNED_IMAGE
    on_progress(ImageProgress(name, "pulling", 0, 0 if image else PINNED_DOWNLOAD))
    return store.pull_image(name, on_progress)


def build(
    store: ImageStore,
    *,
    tag: str = LOCAL_IMAGE,
    mirror: str = "",
    on_progress: OnImageProgress = silent,
) -> Image:
    """Make the equivalent of the default image from Debian packages. Takes about a minute and 500 MB of disk.

    Raises `SandboxError`: build_tools_missing (the hint installs them) or image_build_failed.
    """
    check_tools()
    # Not /tmp: that is often in memory, or mounted so that debootstrap cannot make devices or run programs there.
    parent = Path("/var/tmp")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="rlm-image-", dir=parent if parent.is_dir() else None) as folder:
        tar = Path(folder) / "root.tar"
        run_recipe(tar, mirror, lambda phase: on_progress(ImageProgress(tag, phase)))
        on_progress(ImageProgress(tag, "importing", 0, tar.stat().st_size))
        return store.import_image(tar, tag, changes=IMPORT_CHANGES)


def check_tools() -> None:
    """Raises `SandboxError` (build_tools_missing) with the exact command when the recipe cannot run here."""
    root = is_root()
    if shutil.which("mmdebstrap") or (root and shutil.which("debootstrap")):
        return
    if not shutil.which("apt-get"):
        raise SandboxError(
            "building the image needs debootstrap, which this system's packages may not have",
            hint="on a machine with a registry: docker save python:3.13-slim-bookworm > image.tar; here: docker load",
            code="build_tools_missing",
        )
    hint = (
        "apt-get install -y debootstrap && rlm sandbox build"
        if root
        else "sudo apt-get install -y mmdebstrap uidmap && rlm sandbox build"
    )
    what = "debootstrap" if root else "mmdebstrap (debootstrap works only as root)"
    raise SandboxError(f"building the image needs {what}", hint=hint, code="build_tools_missing")


def is_root() -> bool:
    """Whether this process may do everything on this machine."""
    import os

    return hasattr(os, "geteuid") and os.geteuid() == 0


def run_recipe(tar: Path, mirror: str, on_phase: Callable[[str], None]) -> None:
    """Run build-image.sh, which prints a line per stage. Its last words on stderr become the error's message."""
    command = ["/bin/sh", str(RECIPE), str(tar), "bookworm", *([mirror] if mirror else [])]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True) as recipe,  # noqa: S603 - our own script
    ):
        assert recipe.stdout is not None  # noqa: S101 - PIPE was asked for
        for line in recipe.stdout:
            on_phase(line.strip())
        status_code = recipe.wait()
        said.seek(0)
        last_words = said.read()[-2000:].decode("utf-8", "replace").strip()
    if status_code:
        raise SandboxError(
            f"building the sandbox image failed (exit {status_code}): {last_words or 'the recipe said nothing'}",
            hint="check that a Debian mirror can be reached:  rlm sandbox build",
            code="image_build_failed",
        )
