"""Staging: what is mounted, what is copied, and that the index finds every byte again."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import InputError
from rlm_cli.sandbox.staging import INLINE_INDEX, MAX_MOUNTS, Meter, Staged, copy_some, index_name, stage


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


def read_back(staged: Staged) -> dict[str, bytes]:
    """What a kernel would find: each document's bytes by its name, through the index and the mounted files."""
    sources = {bind.file: Path(bind.source) for bind in staged.binds}
    index = sources[staged.index_file].read_bytes() if staged.index_file else staged.index
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


def test_a_private_file_is_copied_where_the_kernel_may_read_it(tmp_path: Path) -> None:
    """A 0600 file is packed: readable by the kernel's user through the mount, in a folder that only we may enter."""
    staged = stage([write(tmp_path, "secret.txt", b"only mine", 0o600)], tmp_path)
    assert staged.folder is not None
    modes = [staged.folder.stat().st_mode & 0o777, Path(staged.binds[0].source).stat().st_mode & 0o777]
    assert (modes, read_back(staged)) == ([0o700, 0o644], {"secret.txt": b"only mine"})


def test_nothing_but_empty_documents_can_be_packed(tmp_path: Path) -> None:
    """Zero bytes in all is a valid pack with a valid proof."""
    docs = [write(tmp_path, f"{n}", b"", 0o600) for n in range(3)]
    staged = stage(docs, tmp_path)
    assert read_back(staged) == {"0": b"", "1": b"", "2": b""}
    assert staged.proof == (("pack", 0, blake2b(b"", digest_size=16).hexdigest()),)


def test_a_large_index_is_a_mounted_file(tmp_path: Path) -> None:
    """The attach frame stays small: an index of a megabyte and more is mounted beside the pack."""
    name = "x" * 200
    shared = write(tmp_path, "data", b"0123456789")
    docs = [Doc(f"{name}{n}", shared.path, 10) for n in range(INLINE_INDEX // 200)]
    staged = stage(docs, tmp_path)
    assert (staged.index, staged.index_file, [b.file for b in staged.binds]) == (None, "index", ["pack", "index"])
    assert set(read_back(staged).values()) == {b"0123456789"}


def test_the_proof_is_over_both_ends(tmp_path: Path) -> None:
    """blake2b-128 of the first and the last 64 KiB, as docs/PROTOCOL.md says."""
    data = os.urandom(300_000)
    staged = stage([write(tmp_path, "big", data)], tmp_path)
    expected = blake2b(data[: 1 << 16] + data[-(1 << 16) :], digest_size=16).hexdigest()
    assert staged.proof == (("0", len(data), expected),)


@pytest.mark.parametrize(("listed", "verb"), [(3, "grew"), (9, "shrank")])
@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_document_that_changed_is_refused_by_name(tmp_path: Path, listed: int, verb: str, mode: int) -> None:
    """Never an answer from half a file: growing and shrinking are errors that name the document, copied or not."""
    written = write(tmp_path, "moving.log", b"12345", mode)
    with pytest.raises(InputError, match=rf"moving\.log {verb}") as caught:
        stage([Doc("moving.log", written.path, listed)], tmp_path)
    assert (caught.value.code, list(tmp_path.glob("rlm-stage-*"))) == ("input_changed", [])


def test_special_files_are_refused_without_hanging(tmp_path: Path) -> None:
    """A FIFO in a document's place is an error, not an endless wait."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        stage([Doc("pipe", tmp_path / "pipe", 0)], tmp_path)


def test_two_documents_of_one_name_are_refused(tmp_path: Path) -> None:
    """One of them would be lost silently in the mapping."""
    doc = write(tmp_path, "same", b"1")
    with pytest.raises(InputError, match="same name"):
        stage([doc, doc], tmp_path)


def test_an_interrupted_copy_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while packing removes the half-made copy."""
    doc = write(tmp_path, "private", b"x" * 1000, 0o600)
    with pytest.raises(InputError, match="interrupted"):
        stage([doc], tmp_path, cancelled=lambda: True)
    assert list(tmp_path.glob("rlm-stage-*")) == []


def test_a_long_copy_reports_how_far_it_is(tmp_path: Path) -> None:
    """Bytes copied of all bytes; a copy that is over in a moment says nothing."""
    docs = [write(tmp_path, "a", b"12345"), write(tmp_path, "b", b"123")]
    long: list[tuple[int, int]] = []
    meter = Meter(docs, lambda *far: long.append(far), after=0, every=0)
    meter.add(5)
    meter.add(3)
    short: list[tuple[int, int]] = []
    stage([*docs, write(tmp_path, "c", b"", 0o600)], tmp_path, on_progress=lambda *far: short.append(far))
    assert (long, short) == ([(5, 8), (8, 8)], [])


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
