"""Staging: what is mounted, what is copied, and that the index finds every byte again."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import InputError
from rlm_cli.in_place import is_at
from rlm_cli.sandbox import Slice, first_byte, staging
from rlm_cli.sandbox.changes import Changes, changes_since
from rlm_cli.sandbox.staging import (
    INLINE_INDEX,
    MAX_MOUNTS,
    Meter,
    Staged,
    copy_some,
    index_name,
    may_read,
    user_for,
)


@dataclass(frozen=True)
class Doc:
    name: str
    path: Path
    size: int
    encoding: str = "auto"


def write(folder: Path, name: str, data: bytes, mode: int = 0o644) -> Doc:
    path = folder / name
    path.write_bytes(data)
    path.chmod(mode)
    return Doc(name, path, len(data))


made: list[Staged] = []


def stage(*args: Any, **options: Any) -> Staged:
    """`staging.stage`, whose copies are removed after the test."""
    made.append(staging.stage(*args, **options))
    return made[-1]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    while made:
        made.pop().remove()


def read_back(staged: Staged) -> dict[str, bytes]:
    """What a kernel would find: each document's bytes by its name, through the index and the mounted files."""
    sources = {bind.file: Path(bind.source) for bind in staged.binds}
    index = sources[staged.index_file.removeprefix("/in/")].read_bytes() if staged.index_file else staged.index
    assert index is not None
    found = {}
    for line in index.splitlines():
        name, file, offset, size, _ = json.loads(line)
        found[name] = sources[file].read_bytes()[offset : offset + size]
    return found


def test_few_readable_files_are_mounted_and_nothing_is_copied(tmp_path: Path) -> None:
    """Start-up does not grow with the input: the files themselves are mounted, and no folder is made."""
    docs = [write(tmp_path, "a.txt", b"alpha"), write(tmp_path, "empty", b""), write(tmp_path, "b.txt", b"beta")]
    staged = stage(docs, tmp_path / "unused")
    assert (staged.folder, [bind.source for bind in staged.binds]) == (None, [str(d.path.resolve()) for d in docs])
    assert read_back(staged) == {"a.txt": b"alpha", "empty": b"", "b.txt": b"beta"}


@pytest.mark.parametrize("count", [MAX_MOUNTS, MAX_MOUNTS + 1])
def test_many_files_are_packed_into_one(tmp_path: Path, count: int) -> None:
    """Up to 16 mounts, beyond that one pack: the bytes are the same either way."""
    docs = [write(tmp_path, f"{n}.txt", bytes([n]) * n * 1000) for n in range(count)]
    staged = stage(docs, tmp_path)
    assert len(staged.binds) == (count if count <= MAX_MOUNTS else 1)
    assert read_back(staged) == {doc.name: doc.path.read_bytes() for doc in docs}
    staged.remove()
    assert staged.folder is None or not staged.folder.exists()


def test_a_private_file_is_copied_where_no_user_but_root_may_read_it(tmp_path: Path) -> None:
    """Two files of two groups, for group members only: a copy that the kernel's user may read through the mount, in a
    folder that only we may enter. A single one of ours needs none, unless we are root."""
    secret = write(tmp_path, "secret.txt", b"only mine", 0o600)
    staged = stage([secret], None)
    if os.geteuid():
        assert (staged.folder, staged.user) == (None, f"{os.geteuid()}:65534")
    else:
        assert staged.folder is not None
        modes = [staged.folder.stat().st_mode & 0o777, Path(staged.binds[0].source).stat().st_mode & 0o777]
        assert modes == [0o700, 0o644]
    assert (read_back(staged), secret.path.stat().st_mode & 0o777) == ({"secret.txt": b"only mine"}, 0o600)
    staged.remove()


def test_what_we_spooled_ourselves_is_lent_and_not_copied(tmp_path: Path) -> None:
    """A pipe kept in our private folder is mounted as it is; it is readable for others only while nobody else can get
    to it, and private again afterwards. In a folder that others may enter, nothing is lent."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    spooled = write(folder, "stdin", b"piped", 0o600)
    staged = stage([spooled], folder)
    during = spooled.path.stat().st_mode & 0o777
    staged.remove()
    assert (staged.folder, staged.user, during, spooled.path.stat().st_mode & 0o777) == (
        None,
        "65534:65534",
        0o644,
        0o600,
    )
    folder.chmod(0o755)
    stage([spooled], folder).remove()
    assert spooled.path.stat().st_mode & 0o777 == 0o600


def facts(mode: int, uid: int, gid: int) -> os.stat_result:
    return os.stat_result((0o100000 | mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("files", "user"),
    [
        ([], "65534:65534"),
        ([(0o644, 0, 0), (0o604, 1000, 1000)], "65534:65534"),
        ([(0o640, 104, 4)], "65534:4"),
        ([(0o600, 1000, 1000), (0o644, 0, 0)], "1000:65534"),
        ([(0o600, 1000, 1000), (0o640, 1000, 4)], "1000:65534"),
        ([(0o600, 1000, 1000), (0o600, 1001, 1001)], None),
        ([(0o600, 0, 0)], None),
        ([(0o640, 0, 0)], None),
    ],
)
def test_the_least_user_who_may_read_everything(files: list[tuple[int, int, int]], user: str | None) -> None:
    """Nobody where that is enough, nobody in the files' group (system logs), else their owner; never root."""
    assert user_for([facts(*file) for file in files]) == user


@given(st.lists(st.tuples(st.integers(0, 0o777), st.integers(0, 3), st.integers(0, 3)), max_size=5))
def test_the_chosen_user_is_never_root_and_may_read(files: list[tuple[int, int, int]]) -> None:
    """For any modes and owners."""
    found = [facts(*file) for file in files]
    user = user_for(found)
    if user is not None:
        uid, gid = map(int, user.split(":"))
        assert uid > 0
        assert gid > 0
        assert all(may_read(uid, gid, file) for file in found)


def test_nothing_but_empty_documents_can_be_packed(tmp_path: Path) -> None:
    """Zero bytes in all is a valid pack with a valid proof."""
    docs = [write(tmp_path, f"{n}", b"") for n in range(MAX_MOUNTS + 1)]
    staged = stage(docs, tmp_path)
    assert set(read_back(staged).values()) == {b""}
    assert staged.proof == (("pack", 0, blake2b(b"", digest_size=16).hexdigest()),)


def test_a_large_index_is_a_mounted_file(tmp_path: Path) -> None:
    """The attach frame stays small: an index of a megabyte and more is mounted beside the pack."""
    name = "x" * 200
    files = [write(tmp_path, f"data{n}", b"0123456789").path for n in range(MAX_MOUNTS + 1)]
    docs = [Doc(f"{name}{n}", files[n % len(files)], 10) for n in range(INLINE_INDEX // 200)]
    staged = stage(docs, tmp_path)
    assert (staged.index, staged.index_file, [b.file for b in staged.binds]) == (None, "/in/index", ["pack", "index"])
    assert set(read_back(staged).values()) == {b"0123456789"}


def test_the_proof_is_of_ten_samples(tmp_path: Path) -> None:
    """blake2b-128 of both ends and eight pieces between them, as docs/PROTOCOL.md says; a byte in any of them tells."""
    data = os.urandom(5_000_000)
    staged = stage([write(tmp_path, "big", data)], tmp_path)
    starts = [(len(data) - (1 << 16)) * n // 9 for n in range(10)]
    expected = blake2b(b"".join(data[at : at + (1 << 16)] for at in starts), digest_size=16).hexdigest()
    assert staged.proof == (("0", len(data), expected),)


@pytest.mark.parametrize("count", [1, MAX_MOUNTS + 1])
def test_a_document_that_shrank_is_refused_by_name(tmp_path: Path, count: int) -> None:
    """Never an answer from half a file, mounted or copied."""
    docs = [write(tmp_path, f"{n}.log", b"12345") for n in range(count)]
    with pytest.raises(InputError, match=r"0\.log shrank") as caught:
        stage([replace(docs[0], size=9), *docs[1:]], tmp_path)
    assert (caught.value.code, list(tmp_path.glob("rlm-stage-*"))) == ("input_changed", [])


@pytest.mark.parametrize("count", [1, MAX_MOUNTS + 1])
def test_a_log_that_grew_is_read_as_far_as_it_was_listed(tmp_path: Path, count: int) -> None:
    """A log is being written while somebody asks about it: no reason to refuse, and the person is told."""
    docs = [write(tmp_path, f"{n}.log", b"12345") for n in range(count)]
    staged = stage([replace(docs[0], size=3), *docs[1:]], tmp_path)
    changes = staged.changes + changes_since(staged.seen)
    assert (read_back(staged)["0.log"], changes) == (b"123", Changes(grown=("0.log",)))
    staged.remove()


def test_special_files_are_refused_without_hanging(tmp_path: Path) -> None:
    """A FIFO in a document's place is an error, not an endless wait."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        stage([Doc("pipe", tmp_path / "pipe", 0)], tmp_path)


@pytest.mark.parametrize("count", [1, MAX_MOUNTS + 1], ids=["mounted", "packed"])
@pytest.mark.parametrize("above", [False, True], ids=["the file", "a folder above it"])
def test_a_link_put_in_place_of_what_was_listed_is_not_followed(tmp_path: Path, above: bool, count: int) -> None:
    """Somebody else may write in the folder: what the link leads to is as long, and for the person alone."""
    (tmp_path / "home").mkdir()
    (tmp_path / "listed").mkdir()
    write(tmp_path / "home", "0", b"secret", 0o600)
    docs = [write(tmp_path / "listed", str(number), b"listed") for number in range(count)]
    if above:
        (tmp_path / "listed").rename(tmp_path / "away")
        (tmp_path / "listed").symlink_to(tmp_path / "home")
    else:
        docs[0].path.unlink()
        docs[0].path.symlink_to(tmp_path / "home" / "0")
    with pytest.raises(InputError, match="a symbolic link was put in its place") as caught:
        stage(docs, tmp_path)
    assert caught.value.code == "input_changed"


def test_a_copy_is_open_to_others_in_a_folder_that_is_not(tmp_path: Path) -> None:
    """The container's user must read it; on the host nobody else gets there, and while it is written neither."""
    documents = [write(tmp_path, str(number), b"x") for number in range(MAX_MOUNTS + 1)]
    during: list[list[int]] = []

    def look() -> bool:
        during.append(modes(tmp_path))
        return False

    staged = stage(documents, tmp_path, cancelled=look)
    assert staged.folder is not None
    assert (during[0], modes(tmp_path)) == ([0o700, 0o600], [0o700, 0o644])


def modes(folder: Path) -> list[int]:
    """Of the private folder in it, and of the copy."""
    (home,) = folder.glob("rlm-stage-*")
    return [path.stat().st_mode & 0o777 for path in (home, home / "pack")]


def test_a_file_replaced_by_its_owner_is_read(tmp_path: Path) -> None:
    """Editors and programs replace a file as a whole, also while it is being opened."""
    doc = write(tmp_path, "state", b"old")
    write(tmp_path, "new", b"new").path.rename(doc.path)
    with staging.opened(doc) as fd:
        doc.path.unlink()
        assert (os.read(fd, 9), is_at(fd, str(doc.path)), is_at(fd, str(tmp_path / "new"))) == (b"new", True, False)


def test_two_documents_of_one_name_are_refused(tmp_path: Path) -> None:
    """One of them would be lost silently in the mapping."""
    doc = write(tmp_path, "same", b"1")
    with pytest.raises(InputError, match="same name"):
        stage([doc, doc], tmp_path)


def test_an_interrupted_copy_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while packing removes the half-made copy."""
    docs = [write(tmp_path, f"{n}", b"x" * 1000) for n in range(MAX_MOUNTS + 1)]
    with pytest.raises(InputError, match="interrupted"):
        stage(docs, tmp_path, cancelled=lambda: True)
    assert list(tmp_path.glob("rlm-stage-*")) == []


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    """Not a traceback: where there was no room, and nothing of the copy is left."""
    docs = [write(tmp_path, f"{n}", b"x" * 1000) for n in range(MAX_MOUNTS + 1)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(InputError, match=f"a copy of the input could not be kept in {tmp_path}") as caught:
            stage(docs, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.code, list(tmp_path.glob("rlm-stage-*"))) == ("disk", [])


def test_a_long_copy_reports_how_far_it_is(tmp_path: Path) -> None:
    """Bytes copied of all bytes; a copy that is over in a moment says nothing."""
    docs = [write(tmp_path, "a", b"12345"), write(tmp_path, "b", b"123")]
    long: list[tuple[str, int, int]] = []
    meter = Meter("packing", docs, lambda *far: long.append(far), after=0, every=0)
    meter.add(5)
    meter.add(3)
    short: list[tuple[str, int, int]] = []
    stage(
        [write(tmp_path, f"{n}", b"1") for n in range(MAX_MOUNTS + 1)],
        tmp_path,
        on_progress=lambda *far: short.append(far),
    )
    assert (long, short) == ([("packing", 5, 8), ("packing", 8, 8)], [])


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems refuse names that are not UTF-8")
def test_a_path_that_json_cannot_carry_is_packed(tmp_path: Path) -> None:
    """The engine's API speaks UTF-8: a file whose name is not goes in by copy, and its name is shown escaped."""
    raw = os.fsencode(tmp_path) + b'/caf\xe9 \n"x".txt'
    Path(os.fsdecode(raw)).write_bytes(b"bytes")
    doc = Doc(os.fsdecode(b'caf\xe9 \n"x".txt'), Path(os.fsdecode(raw)), 5)
    staged = stage([doc], tmp_path)
    assert staged.folder is not None
    assert read_back(staged) == {'caf\\xe9 \n"x".txt': b"bytes"}


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_any_name_becomes_text_that_utf8_can_carry(raw: bytes) -> None:
    """Every byte string a file system allows: valid UTF-8 is kept as it is, the rest is escaped byte by byte."""
    name = index_name(os.fsdecode(raw))
    assert name.encode() == raw.decode("utf-8", "backslashreplace").encode()


@given(st.text(st.characters(categories=["Cs", "Lu", "Po"])))
def test_any_text_becomes_a_name(text: str) -> None:
    """Also surrogates that stand for no byte: never an exception."""
    assert index_name(text).encode().decode() == index_name(text)


def test_a_copy_without_the_kernels_help_is_the_same(tmp_path: Path) -> None:
    """copy_file_range cannot read from a pipe: the plain way takes over."""
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    os.close(writer)
    with (tmp_path / "out").open("w+b") as target:
        copied = [copy_some(reader, target.fileno(), 100), copy_some(reader, target.fileno(), 100)]
    os.close(reader)
    assert (copied, (tmp_path / "out").read_bytes()) == ([5, 0], b"hello")


# -- parts of files ------------------------------------------------------------------------------------------------


def test_parts_of_one_file_are_one_mount(tmp_path: Path) -> None:
    """However many documents: the index names ranges, and the proof covers the file up to the last of them."""
    whole = write(tmp_path, "whole", b"0123456789" * 10)
    parts = [Slice(f"part {number}", whole.path, 2, "utf-8", 2 * number) for number in range(40)]
    staged = stage(parts, None)
    assert [bind.file for bind in staged.binds] == ["0"]
    assert staged.proof[0][:2] == ("0", 80)
    assert staged.index is not None
    assert json.loads(staged.index.splitlines()[7]) == ["part 7", "0", 14, 2, "utf-8"]


def test_a_part_behind_the_end_is_refused(tmp_path: Path) -> None:
    """A file that is shorter than its part says it is."""
    whole = write(tmp_path, "whole", b"0123456789")
    with pytest.raises(InputError, match="shrank"):
        stage([Slice("part", whole.path, 2, offset=9)], None)


def test_parts_of_many_files_are_packed_alone(tmp_path: Path) -> None:
    """Only what is a part is copied."""
    files = [
        write(tmp_path, f"f{number}", b"head" + bytes([65 + number]) + b"tail") for number in range(MAX_MOUNTS + 1)
    ]
    staged = stage([Slice(file.name, file.path, 1, offset=4) for file in files], None)
    assert Path(staged.binds[0].source).read_bytes() == bytes(range(65, 65 + MAX_MOUNTS + 1))


def test_a_pack_serves_children(tmp_path: Path) -> None:
    """Documents of a pack are parts of it; those that are mounted stay what they are."""
    files = [write(tmp_path, f"f{number}", b"x" * number) for number in range(MAX_MOUNTS + 1)]
    staged = stage(files, None)
    placed = staging.packed(staged, files)
    assert [(part.name, part.size, first_byte(part)) for part in placed[:4]] == [
        ("f0", 0, 0),
        ("f1", 1, 0),
        ("f2", 2, 1),
        ("f3", 3, 3),
    ]
    again = stage(placed, None)
    assert ([bind.source for bind in again.binds], again.folder) == ([staged.binds[0].source], None)
    few = files[:2]
    assert staging.packed(stage(few, None), few) is few


def test_a_large_index_of_parts_is_a_file(tmp_path: Path) -> None:
    """What does not fit in a frame is mounted beside the pack."""
    whole = write(tmp_path, "whole", b"x" * 100)
    staged = stage([Slice(f"{number:0>100}", whole.path, 1, offset=3) for number in range(INLINE_INDEX // 100)], None)
    assert (staged.index, staged.index_file) == (None, f"/in/{staging.INDEX_FILE}")
    assert Path(staged.binds[-1].source).stat().st_size > INLINE_INDEX
