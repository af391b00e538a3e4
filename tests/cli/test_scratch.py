"""What a command stores goes with it, and if it was killed, with the next one."""

from __future__ import annotations

import gzip
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlm_cli import config
from rlm_cli.cli.scratch import KEEP_TRANSFERS_S, OWNER, scratch, sweep
from tests.sources.web import Reply, Web, entity

from .conftest import Rlm

BODY = b"x" * 10_000


@pytest.fixture
def places(home: Path) -> config.Places:
    return config.places(config.environment())


def left(places: config.Places) -> list[str]:
    folder = places.cache / "scratch"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_it_is_private_and_goes_away(places: config.Places) -> None:
    """0700; removed after an error too."""
    with pytest.raises(KeyboardInterrupt), scratch(places) as place:
        (place.folder / "stdin").write_text("x")
        assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
        assert sweep(places) == 0
        raise KeyboardInterrupt
    assert left(places) == []


def test_what_a_killed_command_left_is_removed(places: config.Places, rlm: Rlm) -> None:
    """SIGKILL while stdin is spooled: the guard removes the folder. After a power cut there is no guard: the next
    command removes it, and the folder of the run that never began."""
    line = [sys.executable, "-m", "rlm_cli", "sources", "-"]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(b"secret")
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(places.cache.glob("scratch/*/stdin")):
        assert process.poll() is None and time.monotonic() < deadline
        select_a_moment(process)
    folder = next(places.cache.glob("scratch/*"))
    owner = (folder / OWNER).read_text().split("\n")[0]
    assert sweep(places) == 0
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    while left(places):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run = places.runs / "20261120-153012-a1b2c3"
    run.mkdir(parents=True)
    folder.mkdir()
    (folder / OWNER).write_text(f"{owner}\n{run}")
    Path("a.log").write_text("x")
    assert (rlm("sources", "a.log").code, left(places), run.exists()) == (0, [], False)


def select_a_moment(process: subprocess.Popen[bytes]) -> None:
    """Let the other process run; returns early when it ends."""
    try:
        process.wait(0.02)
    except subprocess.TimeoutExpired:
        return


def test_a_sweep_removes_nothing_else(places: config.Places, tmp_path: Path) -> None:
    """A run that began, a folder elsewhere, links, young folders without an owner and young transfers stay."""
    began, elsewhere = places.runs / "20261120-153012-a1b2c3", tmp_path / "elsewhere"
    with scratch(places) as place:
        owner = (place.folder / OWNER).read_text().split(":")
    dead = ":".join([owner[0], "another-boot", "1", "1"])
    began.mkdir(parents=True)
    (began / "run.json").write_text("{}")
    for folder in (
        elsewhere,
        places.cache / "scratch/young",
        places.cache / "scratch/other",
        places.cache / "transfers",
    ):
        folder.mkdir(parents=True)
    for number, run in enumerate((began, elsewhere, places.runs, Path(f"{places.runs}/../../elsewhere"))):
        (places.cache / f"scratch/dead{number}").mkdir()
        (places.cache / f"scratch/dead{number}" / OWNER).write_text(f"{dead}\n{run}")
    (places.cache / "scratch/other" / OWNER).write_text("another-machine:b:1:1\n")
    (places.cache / "scratch/link").symlink_to(elsewhere)
    for name, age in (("old.part", KEEP_TRANSFERS_S + 60), ("young.part", 60.0)):
        (places.cache / "transfers" / name).write_text("x")
        os.utime(places.cache / "transfers" / name, (time.time() - age,) * 2)
    assert sweep(places) == 5
    assert (left(places), [path.name for path in (places.cache / "transfers").iterdir()]) == (
        ["link", "other", "young"],
        ["young.part"],
    )
    assert [path.exists() for path in (began, elsewhere, places.runs)] == [True] * 3


def test_no_cache_can_be_written(places: config.Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any place will do then, and it is cleaned up in the same way."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    places.cache.parent.mkdir(parents=True, exist_ok=True)
    places.cache.write_text("a file where the folder should be")
    with scratch(places) as place:
        assert place.folder.parent == tmp_path
    assert not place.folder.exists()


def test_sources_shows_urls_for_free(rlm: Rlm, places: config.Places) -> None:
    """Names, sizes and where from; what was stored; and nothing of it is left, no password anywhere."""
    with Web({"/logs/a.log.gz": Reply(gzip.compress(BODY)), "/b.txt": Reply(b"bb")}) as web:
        urls = [web.url("/logs/a.log.gz", "me:hunter2"), web.url("/b.txt")]
        done, shown = rlm("sources", "--json", *urls), rlm("sources", *urls)
        facts = json.loads(done.out)
        assert [(file["name"], file["path"], file["bytes"], file["origin"]) for file in facts["files"]] == [
            ("a.log", web.url("/logs/a.log.gz"), 10_000, "archive"),
            ("b.txt", web.url("/b.txt"), 2, "url"),
        ]
    assert (facts["stored"], shown.out) == ({"archive": 10_000, "url": 2}, "a.log\nb.txt\n")
    assert "stored for this: 10 kB unpacked, 2 B fetched" in shown.err
    assert ("hunter2" in done.out + done.err + shown.err, left(places)) == (False, [])


def test_offline_is_a_flag_and_a_variable(rlm: Rlm, monkeypatch: pytest.MonkeyPatch) -> None:
    with Web({"/a": Reply(b"x")}) as web:
        flag = rlm("sources", "--offline", web.url("/a"))
        monkeypatch.setenv("RLM_OFFLINE", "1")
        variable = rlm("sources", web.url("/a"))
        assert (flag.code, variable.code, web.asked) == (8, 8, [])
    assert "--offline forbids to fetch" in flag.err


def test_the_next_command_continues_a_transfer(
    rlm: Rlm, places: config.Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From exit 8 and a partial file to the whole document."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    with Web({"/a.log": entity(BODY, cuts=(4000, 0, 0, 0, 0))}) as web:
        broken, whole = rlm("sources", web.url("/a.log")), rlm("sources", web.url("/a.log"))
        assert (broken.code, whole.code, whole.out) == (8, 0, "a.log\n")
        assert web.asked[-1].headers["range"] == "bytes=4000-"
    assert ("after 4.0 kB of 10 kB" in broken.err, "goes on where" in broken.err) == (True, True)
    assert list((places.cache / "transfers").iterdir()) == []


def test_sources_shows_progress_on_a_terminal(home: Path) -> None:
    """A line with the bytes so far while stdin is read; gone at the end."""
    terminal, inside = os.openpty()
    env = {**os.environ, "TERM": "xterm"}
    line = [sys.executable, "-m", "rlm_cli", "sources", "-"]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=inside, env=env)
    os.close(inside)
    assert process.stdin is not None
    seen, deadline = b"", time.monotonic() + 60
    while b"stdin: " not in seen:
        assert time.monotonic() < deadline
        process.stdin.write(b"x" * 1000)
        process.stdin.flush()
        if select.select([terminal], [], [], 0.02)[0]:
            seen += os.read(terminal, 4096)
    process.stdin.close()
    while b"tokens" not in seen and select.select([terminal], [], [], 30)[0]:
        seen += os.read(terminal, 4096)
    assert (process.wait(30), b"1 file" in seen or b"rlm: stdin" in seen) == (0, True)
    os.close(terminal)
