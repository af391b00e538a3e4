"""The corpus as a stream: what goes in at one end comes out at the other, byte for byte, and proves it."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import InputError, SandboxError
from rlm_cli.sandbox.changes import Changes
from rlm_cli.sandbox.frames import Received
from rlm_cli.sandbox.kernel import wire
from rlm_cli.sandbox.kernel.blobs import Blobs
from rlm_cli.sandbox.staging import INLINE_INDEX
from rlm_cli.sandbox.upload import WINDOW, Sampler, Sending, Upload, data_frame

MIB = 1024**2


@dataclass(frozen=True)
class Doc:
    name: str
    path: Path
    size: int
    encoding: str = "auto"


def write(folder: Path, name: str, data: bytes) -> Doc:
    path = folder / f"{len(list(folder.iterdir()))}"
    path.write_bytes(data)
    return Doc(name, path, len(data))


def payloads(stream: bytes) -> Iterator[bytes]:
    """The `D` frames of a stream, as the supervisor takes them apart."""
    for kind, payload in wire.Splitter(wire.FROM_HOST).feed(stream):
        assert kind == b"D"
        yield payload


# -- the proof


@given(st.integers(0, 3 * MIB))
def test_samples_cover_both_ends_and_do_not_overlap(size: int) -> None:
    """Ascending, apart, inside; a file of up to ten samples' size is covered whole."""
    starts = wire.sample_starts(size)
    assert all(after - before >= wire.SAMPLE for before, after in pairwise(starts))
    covered = sum(min(wire.SAMPLE, size - start) for start in starts)
    assert covered == min(size, wire.SAMPLES * wire.SAMPLE)
    assert list(starts[:1]) == ([0] if size else [])
    assert not size or starts[-1] + wire.SAMPLE >= size


@pytest.mark.parametrize("size", [10, 5 * 10**9, 2**50])
def test_the_proof_is_cheap_at_any_size(size: int) -> None:
    """At most 640 KiB are read."""
    assert len(wire.sample_starts(size)) <= wire.SAMPLES


@given(st.integers(0, 2 * MIB), st.integers(10_000, 400_000))
def test_a_stream_and_a_file_have_the_same_proof(size: int, piece: int) -> None:
    """However the stream is cut; and what a file has beyond `size` does not count."""
    data = (bytes(range(251)) * (2 * MIB // 251 + 2))[: size + 1]
    sampler = Sampler(size)
    for at in range(0, size, piece):
        sampler.feed(data[at : min(at + piece, size)])
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        assert wire.proof(file.fileno(), size) == (size, sampler.digest())


# -- the stream


def carried(docs: list[Doc], folder: Path, memory: int = 64 * MIB) -> tuple[Upload, dict[str, bytes]]:
    """What arrives in a volume, by name, through the index."""
    upload = Upload(docs, memory)
    blobs = Blobs(str(folder))
    for frame, count in upload.frames():
        before = blobs.take(next(payloads(frame)))
        assert (before["error"], count <= wire.PIECE) == ("", True)
    assert blobs.complete
    index = upload.index
    if index is None:
        index = (folder / "index").read_bytes()
    found = {}
    pack = (folder / "pack").read_bytes()
    for line in index.splitlines():
        name, _, offset, size, _ = json.loads(line)
        found[name] = pack[offset : offset + size]
    return upload, found


@given(st.dictionaries(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw), st.binary(max_size=300), min_size=1))
def test_any_documents_arrive_whole(documents: dict[bytes, bytes]) -> None:
    """Names of any bytes, sizes from nothing on: pack and index find every byte again."""
    with tempfile.TemporaryDirectory() as source, tempfile.TemporaryDirectory() as target:
        docs = [write(Path(source), os.fsdecode(name), data) for name, data in documents.items()]
        expected = {name.decode("utf-8", "backslashreplace"): data for name, data in documents.items()}
        if len(expected) < len(docs):
            return  # two names that look the same are refused: see test_staging
        upload, found = carried(docs, Path(target))
        assert found == expected
        with (Path(target) / "pack").open("rb") as pack:
            assert upload.proof[0][1:] == wire.proof(pack.fileno(), sum(map(len, documents.values())))


def test_a_large_index_is_a_blob_of_its_own(tmp_path: Path) -> None:
    """It would not fit into one frame when there are a million documents."""
    (tmp_path / "in").mkdir()
    one = write(tmp_path / "in", "x", b"0123456789")
    docs = [replace(one, name=f"{'x' * 200}{n}") for n in range(INLINE_INDEX // 200)]
    upload, found = carried(docs, tmp_path)
    assert (upload.index, upload.index_file, len(found)) == (None, wire.blob_path(1), len(docs))
    assert set(found.values()) == {b"0123456789"}


def test_only_what_is_small_beside_the_memory_goes_there(tmp_path: Path) -> None:
    """It counts against the container's limit; above a quarter of that, or 256 MB, it is a volume."""
    doc = write(tmp_path, "x", b"")
    sizes = [16 * MIB, 16 * MIB + 1]
    assert [Upload([replace(doc, size=size)], 64 * MIB).place for size in sizes] == ["memory", "volume"]
    assert [Upload([replace(doc, size=n * MIB)], 2**40).place for n in (256, 257)] == ["memory", "volume"]


def test_a_log_that_grows_is_sent_as_far_as_it_was_listed(tmp_path: Path) -> None:
    """And the person is told; one that shrank is an error."""
    (tmp_path / "in").mkdir()
    doc = write(tmp_path / "in", "app.log", b"12345")
    upload, found = carried([replace(doc, size=3)], tmp_path)
    assert (found, upload.changes) == ({"app.log": b"123"}, Changes(grown=("app.log",)))
    with pytest.raises(InputError, match=r"app\.log shrank"):
        list(Upload([replace(doc, size=9)], MIB).frames())


# -- the other end


def start(blobs: Blobs, *pieces: tuple[str, int, bytes]) -> list[dict[str, object]]:
    return [blobs.take(next(payloads(data_frame(*piece)))) for piece in pieces]


@pytest.mark.parametrize(
    "pieces",
    [
        [("pack", 3, b"1234")],
        [("pack", 3, b"12"), ("index", 3, b"3")],
        [("../pack", 3, b"1")],
        [("", 3, b"1")],
        [("..", 3, b"1")],
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path: Path, pieces: list[tuple[str, int, bytes]]) -> None:
    """Too much, another blob in the middle of one, a name that leads elsewhere."""
    (tmp_path / "volume").mkdir()
    with pytest.raises(wire.Violation):
        start(Blobs(str(tmp_path / "volume")), *pieces)
    assert [path.name for path in tmp_path.iterdir()] == ["volume"]


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.lists(st.binary(max_size=40))), max_size=4))
def test_blobs_come_out_as_they_went_in(blobs: list[tuple[str, list[bytes]]]) -> None:
    """However each is cut, one after the other, empty ones too; every piece is confirmed with the sum so far."""
    blobs = list(dict(blobs).items())
    with tempfile.TemporaryDirectory() as folder:
        taker, sent = Blobs(folder), 0
        for name, pieces in blobs:
            size = sum(map(len, pieces))
            for piece in filter(None, pieces) if size else [b""]:
                sent += len(piece)
                assert start(taker, (name, size, piece)) == [{"received": sent, "error": ""}]
        assert not taker.complete
        taker.take(wire.message({"op": "end"}))
        assert taker.complete
        found = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        assert found == {name: b"".join(pieces) for name, pieces in blobs}


def test_an_early_end_and_a_late_piece_are_refused(tmp_path: Path) -> None:
    """Half a blob is never taken for a whole one, and nothing is added to it afterwards."""
    end = wire.message({"op": "end"})
    half, whole = Blobs(str(tmp_path)), Blobs(wire.IN_MEMORY)
    start(half, ("pack", 3, b"12"))
    with pytest.raises(wire.Violation, match="1 bytes too early"):
        half.take(end)
    whole.take(end)
    for blobs in (whole, Blobs("")):
        with pytest.raises(wire.Violation, match="none is awaited"):
            start(blobs, ("pack", 1, b"1"))


def test_a_full_disk_is_reported_and_not_raised(tmp_path: Path) -> None:
    """The host is told why, and ends the run."""
    assert start(Blobs(str(tmp_path / "absent")), ("pack", 1, b"1")) == [
        {"received": 0, "error": "No such file or directory"}
    ]


# -- between them


class Other:
    """The far side of a `Sending`: confirms what it got, when it is told to."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.sending = Sending(self.got.append)

    @property
    def bytes(self) -> int:
        return sum(map(len, self.got))


def test_no_more_is_under_way_than_the_window() -> None:
    """A side that confirms nothing gets eight megabytes and no more: the rest waits on the disk."""
    pulled = []

    def frames() -> Iterator[tuple[bytes, int]]:
        for number in range(100):
            pulled.append(number)
            yield b"x" * MIB, MIB

    async def main() -> None:
        other = Other()
        run = asyncio.create_task(other.sending.run(frames()))
        most = confirmed = 0
        while not run.done():
            await asyncio.wait([run], timeout=0.001)
            most = max(most, other.bytes - confirmed)
            confirmed = other.bytes
            other.sending.on_received(Received(confirmed, ""))
        await run
        assert (most <= WINDOW + 4 * MIB, other.bytes, len(pulled)) == (True, 100 * MIB, 100)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_full_volume_ends_the_upload() -> None:
    """With its reason and what to do, also when it comes with the last piece."""

    async def main() -> None:
        other = Other()
        run = asyncio.create_task(other.sending.run(iter([(b"x", 1)])))
        while not other.got:
            await asyncio.sleep(0)
        other.sending.on_received(Received(0, "No space left on device"))
        with pytest.raises(SandboxError, match="No space left") as caught:
            await run
        assert caught.value.code == "engine_disk_full"

    asyncio.run(asyncio.wait_for(main(), 30))
