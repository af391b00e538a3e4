"""Which image is used, when something is pulled, and what a person is told when nothing can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_cli.errors import SandboxError
from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.image import (
    LOCAL_IMAGE,
    PINNED_DOWNLOAD,
    PINNED_IMAGE,
    Image,
    ImageProgress,
    OnImageProgress,
    build,
    resolve_image,
    status,
)


class Store:
    """An `ImageStore` in memory: `reachable` is what its registry has, None when it cannot be reached."""

    def __init__(self, *here: str, reachable: tuple[str, ...] | None = None) -> None:
        self.here = set(here)
        self.reachable = reachable
        self.pulled: list[str] = []

    def find_image(self, name: str) -> Image | None:
        return Image(name, f"sha256:{name}", 1) if name in self.here else None

    def pull_image(self, name: str, on_progress: OnImageProgress) -> Image:
        self.pulled.append(name)
        if self.reachable is None or name not in self.reachable:
            raise SandboxError("the registry cannot be reached: no such host", code="registry_unreachable")
        on_progress(ImageProgress(name, "pulling", 5, 10))
        self.here.add(name)
        return Image(name, f"sha256:{name}", 1)

    def import_image(self, tar: Path, name: str, *, changes: tuple[str, ...]) -> Image:
        raise AssertionError("nothing is built here")


@pytest.mark.parametrize(
    ("here", "configured", "expected"),
    [
        ((PINNED_IMAGE, LOCAL_IMAGE), "", PINNED_IMAGE),
        ((LOCAL_IMAGE,), "", LOCAL_IMAGE),
        ((PINNED_IMAGE, "mine:1"), "mine:1", "mine:1"),
        ((), "", None),
        ((PINNED_IMAGE,), "mine:1", None),
    ],
)
def test_the_first_image_that_is_there_is_used(here: tuple[str, ...], configured: str, expected: str | None) -> None:
    """Configured alone, else pinned, else the local build; looking never pulls."""
    store = Store(*here)
    found = status(store, SandboxOptions(image=configured)).found
    assert (found and found.name, store.pulled) == (expected, [])


def test_a_missing_image_is_pulled_with_visible_progress() -> None:
    """pull=missing: what, how big, and how far are told before and while it downloads."""
    seen: list[ImageProgress] = []
    store = Store(reachable=(PINNED_IMAGE,))
    image = resolve_image(store, SandboxOptions(), on_progress=seen.append)
    assert (image.name, [(p.name, p.done, p.total, p.percent) for p in seen]) == (
        PINNED_IMAGE,
        [(PINNED_IMAGE, 0, PINNED_DOWNLOAD, 0.0), (PINNED_IMAGE, 5, 10, 50.0)],
    )


def test_without_a_registry_the_hint_is_to_build() -> None:
    """The one command that works offline is named; nothing is built silently."""
    with pytest.raises(SandboxError, match="registry cannot be reached") as caught:
        resolve_image(Store(), SandboxOptions())
    assert (caught.value.code, "rlm sandbox build" in caught.value.hint) == ("image_missing", True)


def test_never_means_never() -> None:
    """pull=never does not even ask the registry."""
    store = Store(reachable=(PINNED_IMAGE,))
    with pytest.raises(SandboxError, match="pull = never") as caught:
        resolve_image(store, SandboxOptions(pull="never"))
    assert (caught.value.code, store.pulled) == ("image_missing", [])


def test_always_pulls_although_the_image_is_there() -> None:
    """pull=always refreshes, and a registry that cannot be reached is an error, not yesterday's image."""
    store = Store("mine:1", reachable=("mine:1",))
    assert (resolve_image(store, SandboxOptions(image="mine:1", pull="always")).name, store.pulled) == (
        "mine:1",
        ["mine:1"],
    )
    with pytest.raises(SandboxError):
        resolve_image(Store("mine:1"), SandboxOptions(image="mine:1", pull="always"))


def programs(folder: Path, **scripts: str) -> str:
    """A folder of little shell programs, as a PATH entry."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    return str(folder)


def test_building_without_the_tools_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Debian machine without debootstrap: the exact line to type."""
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", apt_get="exit 0"))
    with pytest.raises(SandboxError, match="building the image needs") as caught:
        build(Store())
    assert (caught.value.code, "apt-get install -y" in caught.value.hint) == ("build_tools_missing", True)


def test_a_failed_build_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's last words reach the person, and nothing is imported."""
    fails = "echo 'E: no such mirror' >&2; exit 1"
    monkeypatch.setenv("PATH", f"{programs(tmp_path / 'bin', debootstrap=fails, mmdebstrap=fails)}:/usr/bin:/bin")
    phases: list[str] = []
    with pytest.raises(SandboxError, match="E: no such mirror") as caught:
        build(Store(), on_progress=lambda progress: phases.append(progress.phase))
    assert (caught.value.code, len(phases)) == ("image_build_failed", 1)


def test_the_default_is_pinned_by_digest() -> None:
    """What runs model code today is what ran it in the tests."""
    name, _, digest = PINNED_IMAGE.partition("@sha256:")
    assert (name.startswith("python:3."), len(digest)) == (True, 64)
