"""The container's settings as values, and the check of what it says about itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import rlm_cli
from rlm_cli.sandbox.client import BootFacts
from rlm_cli.sandbox.frames import WorkerFacts
from rlm_cli.sandbox.profile import Profile, environment, wrong_facts, wrong_worker

LOCKED = BootFacts(
    version=1,
    uid=65534,
    gid=65534,
    pid=1,
    cap_eff=0,
    no_new_privs=True,
    seccomp=2,
    memory_limit=Profile().memory,
    pids_limit=Profile().pids,
    interfaces=("lo",),
    root_writable=False,
    in_writable=False,
    dumpable=False,
    python="3.13.0",
    machine="x86_64",
)

CONFINED = WorkerFacts(seccomp=2, filtered=True, landlock=7, no_new_privs=True)


def test_a_locked_container_passes() -> None:
    """Nothing is wrong, and memory rounded down to a page is not wrong either."""
    rounded = replace(LOCKED, memory_limit=Profile().memory - 4095)
    assert (wrong_facts(LOCKED, Profile()), wrong_facts(rounded, Profile())) == ((), ())


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"uid": 0}, "its user is root"),
        ({"cap_eff": 0x20}, "CapEff 0x20"),
        ({"no_new_privs": False}, "may gain privileges"),
        ({"memory_limit": None}, "memory is not limited"),
        ({"memory_limit": 2**40}, "memory is limited to"),
        ({"pids_limit": None}, "the number of processes is not limited"),
        ({"pids_limit": 4096}, "the number of processes is limited to 4096, not 128"),
        ({"interfaces": ("eth0", "lo")}, "it has a network (interfaces: eth0, lo)"),
        ({"interfaces": ()}, "it has a network"),
        ({"root_writable": True}, "root file system can be written"),
        ({"in_writable": True}, "/in) can be written"),
        ({"dumpable": True}, "supervisor can be looked into"),
    ],
)
def test_each_wrong_fact_is_named_alone(change: dict[str, object], phrase: str) -> None:
    """A person learns which lock does not hold."""
    wrong = wrong_facts(replace(LOCKED, **change), Profile())  # type: ignore[arg-type]
    assert (len(wrong), phrase in wrong[0]) == (1, True)


def test_a_confined_worker_passes() -> None:
    """Also without Landlock, which old kernels lack; and on a machine that we have no filter for, by the engine's."""
    bare = replace(CONFINED, landlock=0)
    elsewhere = replace(bare, filtered=False)
    assert (wrong_worker(CONFINED, "x86_64"), wrong_worker(bare, "aarch64")) == ((), ())
    assert (wrong_worker(elsewhere, "riscv64"), len(wrong_worker(elsewhere, "x86_64"))) == ((), 1)


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"no_new_privs": False}, "its worker may gain privileges"),
        ({"seccomp": 0, "filtered": False}, "no system call filter is active (Seccomp is 0, not 2)"),
        ({"filtered": False, "failures": ("seccomp: No",)}, "its own system call filter is not active (seccomp: No)"),
    ],
)
def test_what_is_wrong_with_a_worker_is_named(change: dict[str, object], phrase: str) -> None:
    """With what the system said, where it refused."""
    wrong = wrong_worker(replace(CONFINED, **change), "x86_64")  # type: ignore[arg-type]
    assert (len(wrong), phrase in wrong[0]) == (1, True)


def test_the_images_variables_are_taken_away_by_name() -> None:
    """Only PATH, HOME and LANG get a value; the image's PATH stays, everything else is removed, proxies too."""
    entries = environment(("PATH=/opt/bin:/bin", "PYTHON_VERSION=3.13", "LANG=de_DE", "HTTP_PROXY=http://u:p@h"))
    assert [e for e in entries if "=" in e] == ["PATH=/opt/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"]
    assert {"PYTHON_VERSION", "HTTP_PROXY", "https_proxy", "ALL_PROXY"} <= set(entries)


def test_the_engine_is_never_asked_for_what_can_be_attacked_from_inside() -> None:
    """exec, cp and archives into a container that ran model code, and privileges: not even spelled in our source."""
    words = (
        "exec_create",
        "exec_run",
        "put_archive",
        "get_archive",
        "privileged=",
        "cap_add",
        "docker cp",
        "docker exec",
    )
    package = Path(rlm_cli.__file__).parent
    sources = {path: path.read_text("utf-8") for path in package.rglob("*.py")}
    assert len(sources) > 100
    assert [(path.name, word) for path, text in sources.items() for word in words if word in text] == []
