"""Case E16 and E15's links: what we write is for its owner alone, whatever the umask, and never through a link."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlm_cli import config
from rlm_cli.cli import boundary, config_edit, scratch
from rlm_cli.events import Usage
from rlm_cli.models import Completion
from rlm_cli.models.store import ReplyStore
from rlm_cli.private import make_private, open_new
from rlm_cli.runlog import RunLog
from rlm_cli.sources.convert.cache import Cache, write_entry
from rlm_cli.sources.partial import Part
from tests.hostile import run_of


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> set[str]:
    """Kind and mode of everything at and below it."""
    found = [folder, *folder.rglob("*")]
    return {f"{'folder' if path.is_dir() else 'file'} {stat.S_IMODE(path.lstat().st_mode):o}" for path in found}


def a_run(home: Path) -> None:
    log = RunLog(home / "runs" / "20261120-153012-a1b2c3")
    for record in run_of("x" * 3000):
        log(record)
    log.write_manifest([])
    log.close()


def a_reply(home: Path) -> None:
    ReplyStore(home / "cache" / "replies", 10**6).put("a" * 64, Completion("text", Usage(1, 1), "m"))


def a_conversion(home: Path) -> None:
    cache = Cache(home / "cache" / "converted")
    made = cache.new()
    write_entry(made, [("", 0)], "")
    cache.keep(made, "b" * 64)


def a_transfer(home: Path) -> None:
    with Part.opened(home / "cache" / "transfers", "c" * 64, home / "target"):
        pass


def a_scratch(home: Path) -> None:
    places = config.Places(home, home, home / "cache", home / "config.toml")
    with scratch.scratch(places):
        assert modes(home) == {"folder 700", "file 600"}


def a_config(home: Path) -> None:
    config_edit.save(home / "config.toml", "")


def a_crash(home: Path) -> None:
    boundary.crash(ValueError("x"), debug=False)


@pytest.mark.parametrize("write", [a_run, a_reply, a_conversion, a_transfer, a_scratch, a_config, a_crash])
def test_e16_everything_kept_is_for_the_owner_alone(
    tmp_path: Path, umask: int, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders 0700, parents that did not exist too, and files 0600. Positive control: the standard library's own way
    leaves the parents open under the same umask."""
    home = tmp_path / "new" / "home"
    monkeypatch.setenv("RLM_HOME", str(home))
    write(home)
    assert modes(tmp_path / "new") <= {"folder 700", "file 600"}
    assert home.is_dir()
    (tmp_path / "open" / "a").mkdir(mode=0o700, parents=True)
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o777 & ~umask


def test_many_first_commands_make_the_same_folder(tmp_path: Path) -> None:
    """`xargs -P 32` on a new machine: nobody stumbles over what another has just made."""
    start, failed = threading.Barrier(16), []

    def make() -> None:
        start.wait()
        try:
            make_private(tmp_path / "a" / "b" / "c" / "d")
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failed, (tmp_path / "a/b/c/d").is_dir()) == ([], True)


@pytest.mark.parametrize("there", ["file", "link", "dangling", "fifo", "folder"])
def test_e15_a_new_file_is_never_somebody_elses(tmp_path: Path, there: str) -> None:
    """Whatever stands at the place already, nothing is written to it or through it."""
    honey, place = tmp_path / "honey", tmp_path / "place"
    honey.write_text("honey")
    if there == "file":
        place.write_text("honey")
    elif there == "folder":
        place.mkdir()
    elif there == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to(honey if there == "link" else tmp_path / "nothing")
    with pytest.raises(OSError, match="exists"):
        open_new(place)
    assert (honey.read_text(), (tmp_path / "nothing").exists()) == ("honey", False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("name", ["runs", "cache"])
def test_a_folder_that_is_somebody_elses_is_refused(tmp_path: Path, name: str) -> None:
    """Who owns it can read and change what is kept there. Root, who can do so anyway, is no reason; neither is a
    folder that is not there yet."""
    home = tmp_path / "home"
    (home / name).mkdir(parents=True)
    (tmp_path / "a.txt").write_text("hello\n")
    told = []
    for owner in (0, 12345):
        os.chown(home / name, owner, owner)
        done = subprocess.run(
            [sys.executable, "-m", "rlm_cli", "ask", "a.txt", "what?", "-q", "-m", "offline", "--mode", "direct"],
            cwd=tmp_path,
            env={"RLM_HOME": str(home), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        told.append((done.returncode, f"{home / name} belongs to another user" in done.stderr))
    assert told == [(0, False), (2, True)]


def test_a_file_where_a_folder_belongs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"exists|directory"):
        make_private(tmp_path / "file")
    with pytest.raises(OSError, match=r"exists|directory"):
        make_private(tmp_path / "file" / "below")
