"""A corpus in sealed memory: the worker reads it, cannot change it, and finds it again after a restart."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlm_cli.errors import InputError
from rlm_cli.sandbox.client import KernelClient
from rlm_cli.sandbox.kernel import wire
from rlm_cli.sandbox.upload import Upload
from tests.kernel.local import FakeHost, Kernel, PipeChannel, run

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="memfd is Linux's; the kernel runs on Linux only")


@dataclass(frozen=True)
class Doc:
    name: str
    path: Path
    size: int
    encoding: str = "auto"


def write(folder: Path, name: str, data: bytes) -> Doc:
    (folder / name).write_bytes(data)
    return Doc(name, folder / name, len(data))


@asynccontextmanager
async def filled(docs: list[Doc]) -> AsyncIterator[Kernel]:
    """A kernel whose corpus came through the channel."""
    channel = PipeChannel()
    client = KernelClient(channel, place=wire.IN_MEMORY)
    try:
        await client.start()
        upload = Upload(docs, 2**40)
        await client.fill(upload)
        facts, proof = await client.attach(upload.index, upload.index_file, 1000, FakeHost())
        assert proof == upload.proof
        yield Kernel(client, channel, facts)
    finally:
        await client.close()


CHANGE = """
import fcntl, mmap, os
def attempt(what):
    try:
        what()
        return "worked"
    except (OSError, ValueError) as error:
        return type(error).__name__
path = "/proc/self/fd/300"
def reopened():
    fd = os.open(path, os.O_RDWR)
    os.write(fd, b"X")
print(attempt(lambda: os.pwrite(300, b"X", 0)))
print(attempt(reopened))
print(attempt(lambda: os.truncate(path, 1)))
print(attempt(lambda: os.ftruncate(300, 100)))
print(attempt(lambda: mmap.mmap(300, 0)))
print(attempt(lambda: fcntl.fcntl(300, 1033, 0)))
print(attempt(lambda: mmap.mmap(300, 0, access=mmap.ACCESS_READ)))
"""


def test_nothing_in_the_container_can_change_it(tmp_path: Path) -> None:
    """Written, cut, grown, mapped for writing, unsealed: refused. Mapped for reading: that the probe can succeed."""

    async def main() -> None:
        async with filled([write(tmp_path, "doc", b"one\ntwo\n")]) as kernel:
            assert (await kernel.out(CHANGE)).split() == ["PermissionError"] * 6 + ["worked"]
            assert await kernel.out("print(context)") == "one\ntwo\n\n"

    run(main)


def test_a_new_worker_finds_it_again(tmp_path: Path) -> None:
    """Also one whose predecessor closed every file, and documents of every kind: empty, small, lazy."""
    docs = [write(tmp_path, name, data) for name, data in (("a", b""), ("b", b"beta"), ("c", b"0123456789" * 500))]

    async def main() -> None:
        async with filled(docs) as kernel:
            for crash in ("import os; os._exit(1)", "import os; os.closerange(3, 1000)"):
                await kernel.run(crash)
                seen = await kernel.out("print([len(text) for text in context.values()], context['c'][-5:])")
                assert seen == "[0, 4, 5000] 56789\n"

    run(main)


def test_a_subprocess_of_a_cell_does_not_inherit_it(tmp_path: Path) -> None:
    """It is the cell's input, not that of every program it starts."""
    code = "import subprocess\nprint(subprocess.run(['ls', '/proc/self/fd'], capture_output=True, text=True).stdout)"

    async def main() -> None:
        async with filled([write(tmp_path, "doc", b"1")]) as kernel:
            assert "300" not in (await kernel.out(code)).split()

    run(main)


def test_nothing_but_empty_documents(tmp_path: Path) -> None:
    """Zero bytes in all are a corpus, too."""

    async def main() -> None:
        async with filled([write(tmp_path, name, b"") for name in "ab"]) as kernel:
            assert await kernel.out("print(dict(context))") == "{'a': '', 'b': ''}\n"

    run(main)


def test_a_document_that_shrinks_on_the_way_ends_the_upload(tmp_path: Path) -> None:
    """The error names it; the kernel is closed without having run anything."""
    doc = write(tmp_path, "app.log", b"12345")

    async def main() -> None:
        async with filled([Doc("app.log", doc.path, 50)]):
            raise AssertionError("it was opened")

    with pytest.raises(InputError, match=r"app\.log shrank"):
        run(main)


def test_a_mapped_file_that_is_cut_short_is_the_inputs_fault(tmp_path: Path) -> None:
    """Touching what is gone kills the process by SIGBUS: said in words, and the next cell works."""
    path = tmp_path / "moving"
    path.write_bytes(b"x" * 100_000)
    code = f"""
import mmap, os
with open({str(path)!r}, "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
    os.truncate({str(path)!r}, 0)
    mapped[90_000]
"""

    async def main() -> None:
        async with filled([write(tmp_path, "doc", b"1")]) as kernel:
            result = await kernel.run(code)
            assert (result.status, "the input changed while it was being read" in result.restarted) == ("died", True)
            assert await kernel.out("print(1)") == "1\n"

    run(main)
