"""The walk over trees that nobody expects: nothing hangs, nothing is followed out, nothing is lost."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_cli.sources import DEFAULT_OPTIONS, Corpus, SourceOptions
from rlm_cli.sources.gather import collect

from .conftest import plant


def taken(corpus: Corpus) -> set[str]:
    return {document.name for document in corpus.documents}


def reasons(corpus: Corpus) -> dict[str, tuple[str, str]]:
    return {skip.path: (skip.reason, skip.rule) for skip in corpus.skips}


def test_twenty_thousand_files_forty_levels_deep(here: Path) -> None:
    """Each of them, in order, with progress on the way."""
    folder, expected = here / "t", []
    for level in range(40):
        folder = folder / f"level{level:02}"
        folder.mkdir(parents=True)
        below = folder.relative_to(here / "t")
        for number in range(500):
            (folder / f"{number:03}").write_text("x")
            expected.append(f"{below}/{number:03}")
    heard: list[tuple[int, int]] = []
    corpus = collect(["t"], on_progress=lambda files, size: heard.append((files, size)))
    assert [document.name for document in corpus.documents] == sorted(expected)
    assert (corpus.facts.bytes, len(heard), heard == sorted(heard)) == (20_000, 78, True)


@pytest.fixture
def abyss(tmp_path: Path) -> Iterator[Path]:
    """A chain of 5,000 folders with a file in each of some: far beyond the longest path the system takes."""
    top = tmp_path / "abyss"
    top.mkdir()
    handle = os.open(top, os.O_RDONLY)
    for level in range(5000):
        if level % 500 == 0:
            os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=handle))
            os.write(name := os.open("file", os.O_WRONLY, dir_fd=handle), b"x")
            os.close(name)
        os.mkdir("d", dir_fd=handle)
        below = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    os.close(handle)
    yield top
    subprocess.run(["rm", "-rf", str(top)], check=True, timeout=120)


def test_a_folder_5000_levels_deep(abyss: Path) -> None:
    """What a path can name is read; the rest is one skip that says why, not a crash and not silence."""
    corpus = collect([str(abyss)])
    (skip,) = corpus.skips
    assert (skip.reason, skip.rule, skip.path.endswith("/d/")) == ("unreadable", os.strerror(36), True)
    assert taken(corpus) == {
        "file",
        *(f"{'d/' * level}file" for level in range(500, 5000, 500) if len(f"{abyss}/file") + 2 * level < 4096),
    }


@pytest.mark.parametrize("follow", [False, True])
def test_links_loop_and_lead_out(here: Path, follow: bool) -> None:
    """Without -L none is followed; with it each folder is read once, and loops end."""
    plant(here, {"out/secret": "s", "t/a/file": "x", "t/b/other": "y"})
    links = {"t/self": "self", "t/a/up": "..", "t/a/loop": "../b/back", "t/b/back": "../a", "t/out": "../out"}
    links |= {"t/abs": str(here / "out/secret"), "t/gone": "nowhere", "t/ping": "pong", "t/pong": "ping"}
    for link, target in links.items():
        (here / link).symlink_to(target)
    corpus = collect(["t"], SourceOptions(follow=follow))
    skipped = {path.removeprefix("t/").rstrip("/") for path in reasons(corpus)}
    if not follow:
        assert (taken(corpus), skipped) == ({"a/file", "b/other"}, {link.removeprefix("t/") for link in links})
        assert {rule for _, rule in reasons(corpus).values()} == {"a symbolic link; -L follows it"}
        return
    assert {"a/file", "b/other", "abs"} == taken(corpus)  # out/secret is the file that `abs` is
    assert {reason for reason, _ in reasons(corpus).values()} <= {"special", "unreadable"}
    assert {"self", "gone", "ping", "pong", "a/up"} <= skipped


def test_what_is_no_file_is_named(here: Path) -> None:
    """FIFOs, sockets, devices: skipped by name, and the walk does not wait for any of them."""
    plant(here, {"t/a": "x"})
    os.mkfifo(here / "t/fifo")
    expected = {"t/fifo": ("special", "a named pipe"), "t/socket": ("special", "a socket")}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("t/socket")
        try:
            os.mknod("t/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
            os.mknod("t/block", stat.S_IFBLK | 0o666, os.makedev(250, 250))
            expected |= {"t/zero": ("special", "a device"), "t/block": ("special", "a device")}
        except PermissionError:
            pass  # devices are made by root
        corpus = collect(["t"])
    assert (taken(corpus), reasons(corpus)) == ({"a"}, expected)


UNPRIVILEGED = """
import json, os, sys
os.chdir(sys.argv[1])
from rlm_cli.sources.gather import collect
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
corpus = collect(["t"])
print(json.dumps([[d.name for d in corpus.documents], [[s.path, s.reason, s.rule] for s in corpus.skips]]))
"""


def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    """Files and folders without permission, in a process that permissions hold for (root's own pass everywhere)."""
    import json

    plant(tmp_path, {"t/a": "x", "t/shut": "x", "t/locked/in": "x", "t/blind/in": "x", "t/z": "x"})
    modes = {"t/shut": 0o000, "t/locked": 0o000, "t/blind": 0o444}
    for name, mode in modes.items():
        (tmp_path / name).chmod(mode)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path(folder.anchor):
            folder.chmod(folder.stat().st_mode | 0o055)
    line = [sys.executable, "-c", UNPRIVILEGED, str(tmp_path)]
    root = Path(__file__).parent.parent.parent
    try:
        done = subprocess.run(
            line,
            env={"PYTHONPATH": str(root), "PATH": os.environ["PATH"]},
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        for name in modes:
            (tmp_path / name).chmod(0o700)
    assert done.returncode == 0, done.stderr.decode()
    denied = os.strerror(13)
    assert json.loads(done.stdout) == [
        ["a", "z"],
        [["t/blind/in", "unreadable", denied], ["t/locked/", "unreadable", denied], ["t/shut", "unreadable", denied]],
    ]


ODD = [
    b"new\nline",
    b"tab\tbell\a esc\x1b[31m",
    b"\xff\xfe not utf-8",
    b"-rf",
    b"--help",
    b" leading and trailing ",
    b"quote\"'`$HOME",
    b"*?[a]",
    b"...",
    "Ünïcödé-日本-🎉".encode(),
    "e\u0301-and-\u00e9".encode(),
    b"x" * 255,
    b"\\n",
    b"~",
    b"#",
    b"!bang",
]


def test_names_of_any_bytes(here: Path) -> None:
    """As they are, byte for byte; as folders too."""
    for name in ODD:
        plant(here / "t" / os.fsdecode(name), {os.fsdecode(file): "x" for file in ODD[:3]})
    corpus = collect(["t"], SourceOptions(hidden=True))
    assert {os.fsencode(name) for name in taken(corpus)} == {b"/".join((one, two)) for one in ODD for two in ODD[:3]}
    assert all(document.path.read_bytes() == b"x" for document in corpus.documents)


def test_files_that_vanish_and_change_meanwhile(here: Path) -> None:
    """A file, a folder and a file turned FIFO after they were listed: each is a skip, and the walk goes on."""
    plant(here, {f"t/{number:04}": "x" for number in range(600)})
    plant(here, {"t/zz/in": "x", "t/zzz": "x"})

    def meddle(files: int, _: int) -> None:
        if files == 256:
            (here / "t/0400").unlink()
            (here / "t/0500").unlink()
            os.mkfifo(here / "t/0500")
            shutil.rmtree(here / "t/zz")

    corpus = collect(["t"], on_progress=meddle)
    gone = ("unreadable", os.strerror(2))
    assert reasons(corpus) == {"t/0400": gone, "t/0500": ("special", "a named pipe"), "t/zz/": gone}
    assert len(corpus.documents) == 599


def test_links_put_in_place_of_what_was_listed(here: Path) -> None:
    """A file, and a folder above what was found, become links while the walk is on: neither is followed. What a person
    named, and what -L follows, is."""
    plant(here, {f"t/{number:04}": "x" for number in range(600)})
    plant(here, {"t/zz/key": "x", "home/key": "secret", "home/.ssh/key": "secret"})

    def meddle(files: int, _: int) -> None:
        if files == 256:
            (here / "t/0400").unlink()
            (here / "t/0400").symlink_to(here / "home/key")
            shutil.rmtree(here / "t/zz")
            (here / "t/zz").symlink_to(here / "home/.ssh")

    corpus = collect(["t"], on_progress=meddle)
    swapped = ("special", "a symbolic link that was put in its place")
    assert reasons(corpus) == {"t/0400": swapped, "t/zz/": swapped}
    assert taken(collect(["t/0400"])) == {"0400"}
    assert {"0400", "zz/key"} <= taken(collect(["t"], SourceOptions(follow=True)))


# -- against an oracle ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", ".h", "c.log", "d.tmp", "new\nline", ".git", "é"])
KINDS = st.sampled_from(["text", "binary", "empty", "fifo", "link", "folder link"])
TREES = st.recursive(KINDS, lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=25)


def build(path: Path, tree: object) -> None:
    if isinstance(tree, dict):
        path.mkdir()
        for name, inner in tree.items():
            build(path / name, inner)
    elif tree == "fifo":
        os.mkfifo(path)
    elif tree in ("link", "folder link"):
        path.symlink_to("/etc/hostname" if tree == "link" else "..")
    else:
        path.write_bytes({"text": b"text", "binary": b"\0", "empty": b""}[str(tree)])


def oracle(tree: object, below: str, hidden: bool) -> tuple[set[str], dict[str, str]]:
    """What is read, and what is not and why, as a sentence of the manual would have it."""
    read, left = set[str](), dict[str, str]()
    assert isinstance(tree, dict)
    for name, inner in tree.items():
        path = f"{below}{name}"
        if name == ".git":
            continue
        if name.startswith(".") and not hidden:
            if not isinstance(inner, dict):
                left[path] = "hidden"
            elif files(inner):
                left[f"{path}/"] = "hidden"
        elif isinstance(inner, dict):
            more, others = oracle(inner, f"{path}/", hidden)
            read, left = read | more, left | others
        elif inner in ("text", "empty"):
            read.add(path)
        else:
            left[path] = "binary" if inner == "binary" else "special"
    return read, left


def files(tree: object) -> int:
    if not isinstance(tree, dict):
        return 1
    return sum(files(inner) for name, inner in tree.items() if name != ".git")


@given(tree=st.dictionaries(NAMES, TREES, max_size=5), hidden=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_trees(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object], hidden: bool) -> None:
    """Everything is either read or left out with its reason: nothing is lost, nothing is read twice."""
    top = tmp_path_factory.mktemp("tree")
    build(top / "t", tree)
    (top / "t" / "always").write_text("x")
    corpus = collect([str(top / "t")], SourceOptions(hidden=hidden) if hidden else DEFAULT_OPTIONS)
    read, left = oracle(tree, "", hidden)
    prefix = f"{top}/t/"
    assert taken(corpus) == read | {"always"}
    assert {skip.path.removeprefix(prefix): skip.reason for skip in corpus.skips} == left
    shutil.rmtree(top)
