"""Whose container it is, and when its owner is provably dead."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.sandbox import owner
from rlm_cli.sandbox.owner import Owner, start_time


def test_this_process_is_alive_and_its_label_reads_back() -> None:
    """The reaper of another run must not touch ours."""
    here = Owner.here()
    assert (Owner.parse(str(here)), here.is_dead(), here.pid) == (here, False, os.getpid())


def test_a_finished_process_is_dead() -> None:
    """Its container is nobody's."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        theirs = replace(Owner.here(), pid=child.pid, started=start_time(child.pid))
        before = theirs.is_dead()
        child.communicate(b"\n")
    assert (before, theirs.is_dead()) == (False, True)


def test_a_reused_process_id_is_not_the_owner() -> None:
    """Same number, another start: the one we meant is gone."""
    assert replace(Owner.here(), started="1").is_dead()


def test_another_boot_is_dead_and_another_machine_is_not_ours_to_judge() -> None:
    """A shared engine carries containers of other machines, whose processes we cannot see."""
    here = Owner.here()
    gone = replace(here, pid=2**22 + 1, boot="another")
    assert (gone.is_dead(), replace(gone, machine="elsewhere").is_dead()) == (True, False)


def test_what_two_machines_may_share_does_not_make_them_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clones have one id, images an empty one: the other machine's runs, of another boot, must not count as dead."""
    file = tmp_path / "machine-id"
    monkeypatch.setattr(owner, "MACHINE_IDS", (tmp_path / "absent", file))

    def seen_from(name: str, text: str, card: int = 1) -> Owner:
        file.write_text(text)
        monkeypatch.setattr(platform, "node", lambda: name)
        monkeypatch.setattr(uuid, "getnode", lambda: card)
        return Owner.here()

    for text in ("0123456789abcdef\n", "", "uninitialized\n"):
        theirs = replace(seen_from("theirs", text), boot="another")
        assert theirs.is_dead()  # to itself, after it was started again
        seen_from("ours", text)
        assert not theirs.is_dead()
    for text in ("", "uninitialized\n"):
        theirs = replace(seen_from("same", text, card=1), boot="another")
        seen_from("same", text, card=2)
        assert not theirs.is_dead()


@pytest.mark.parametrize(
    "label",
    [
        "",
        "a:b:c:d",
        "a:b:1",
        "a:b:1:2:3",
        ":b:1:2",
        "a:b:-1:2",
        "a:b:٣:2",
        pytest.param(f"a:b:{'1' * 5000}:2", id="long"),
    ],
)
def test_foreign_labels_are_nobody(label: str) -> None:
    """A label we cannot read is never a reason to remove a container."""
    assert Owner.parse(label) is None


@given(st.text())
def test_no_label_breaks_the_reader(label: str) -> None:
    """Whatever somebody wrote there."""
    found = Owner.parse(label)
    assert found is None or str(found).count(":") == 3
