"""stdin for real: pipes with producers behind them, files, sockets and devices (CLI.md 2.4)."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rlm_cli.errors import ExitCode, InputError, Interrupted
from rlm_cli.sources import Document
from rlm_cli.sources.stdin import Watch, carries_data, spool_stdin, stdin_kind, unread_bytes_waiting


@contextmanager
def produced(produce: Callable[[int], None]) -> Iterator[int]:
    """The reading end of a pipe that a thread writes to and then closes."""
    reader, writer = os.pipe()

    def run() -> None:
        try:
            produce(writer)
        except BrokenPipeError:
            pass
        finally:
            os.close(writer)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join()


@contextmanager
def opened(path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def document(directory: Path, data: bytes) -> Document:
    digest = hashlib.sha256(data).hexdigest()
    return Document("stdin", str(directory.resolve() / "stdin"), len(data), origin="stdin", sha256=digest)


def test_kinds_are_told_by_fstat(tmp_path: Path) -> None:
    """A pipe, a regular file and a socket carry data; a device, a folder and a closed descriptor do not."""
    (tmp_path / "f").write_text("x")
    reader, writer = os.pipe()
    left, right = socket.socketpair()
    master, slave = os.openpty()
    with opened(str(tmp_path / "f")) as file, opened(os.devnull) as null, opened(str(tmp_path)) as folder:
        kinds = [stdin_kind(fd) for fd in (reader, file, left.fileno(), slave, null, folder)]
    for fd in (reader, writer, master, slave):
        os.close(fd)
    left.close()
    right.close()
    assert [*kinds, stdin_kind(reader)] == ["pipe", "file", "socket", "terminal", "nothing", "nothing", "nothing"]
    assert [carries_data(kind) for kind in kinds] == [True, True, True, False, False, False]


def test_a_slow_producer_is_read_to_its_end(tmp_path: Path) -> None:
    """Line by line, each only after the one before was received: no timing cut-off, every byte counted and hashed."""
    lines = [b"line %d\n" % number for number in range(20)]
    received: list[int] = []
    step = threading.Semaphore(0)

    def produce(fd: int) -> None:
        for line in lines:
            os.write(fd, line)
            assert step.acquire(timeout=10)

    def on_bytes(total: int) -> None:
        received.append(total)
        step.release()

    with produced(produce) as fd:
        spooled = spool_stdin(fd, tmp_path, watch=Watch(received=on_bytes))
    assert spooled == document(tmp_path, b"".join(lines))
    assert spooled.path.read_bytes() == b"".join(lines)
    assert stat.S_IMODE(spooled.path.stat().st_mode) == 0o600
    assert received == [sum(map(len, lines[: count + 1])) for count in range(20)]


def test_64_mib_arrive_whole(tmp_path: Path) -> None:
    """As many bytes, and the same bytes, as were written."""
    block = bytes(range(256)) * 4096

    def produce(fd: int) -> None:
        with os.fdopen(os.dup(fd), "wb") as out:
            for _ in range(64):
                out.write(block)

    with produced(produce) as fd:
        spooled = spool_stdin(fd, tmp_path, max_input=64 * 1024 * 1024)
    assert spooled == document(tmp_path, block * 64)


def test_waiting_is_said_once(tmp_path: Path) -> None:
    """Nothing arrives: one message, and the reading goes on; silence after the first byte is no news."""
    told: list[str] = []
    quiet = threading.Event()

    def produce(fd: int) -> None:
        assert quiet.wait(10)
        os.write(fd, b"late")

    def waiting() -> None:
        told.append("waiting")
        quiet.set()

    with produced(produce) as fd:
        spooled = spool_stdin(fd, tmp_path, watch=Watch(waiting=waiting, patience=0.01))
    assert (told, spooled.size) == (["waiting"], 4)


def test_a_redirected_file_is_read_from_where_it_stands(tmp_path: Path) -> None:
    """`{ read line; rlm ask ...; } < file` gives the rest of the file."""
    (tmp_path / "f").write_bytes(b"head\nrest")
    (tmp_path / "run").mkdir()
    with opened(str(tmp_path / "f")) as fd:
        os.read(fd, 5)
        assert unread_bytes_waiting(fd) == 4
        assert spool_stdin(fd, tmp_path / "run") == document(tmp_path / "run", b"rest")


def test_unread_bytes_are_seen_without_reading() -> None:
    """C19's notice: what waits in a pipe is counted and stays there; an idle pipe and /dev/null hold nothing."""
    reader, writer = os.pipe()
    assert unread_bytes_waiting(reader) == 0
    os.write(writer, b"hello")
    assert [unread_bytes_waiting(reader), unread_bytes_waiting(reader)] == [5, 5]
    assert os.read(reader, 9) == b"hello"
    os.close(reader)
    os.close(writer)
    with opened(os.devnull) as null:
        assert [unread_bytes_waiting(null), unread_bytes_waiting(reader)] == [0, 0]


def left(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def refused(fd: int, directory: Path, max_input: int | None = None) -> tuple[str, list[str]]:
    """The code of the error, and what was left in the directory."""
    with pytest.raises(InputError) as caught:
        spool_stdin(fd, directory, max_input=max_input)
    assert caught.value.exit_code == ExitCode.INPUT
    return caught.value.code, left(directory)


def test_empty_and_unreadable(tmp_path: Path) -> None:
    """/dev/null and a closed pipe are empty at once; a folder cannot be read; no file stays."""
    run = tmp_path / "run"
    run.mkdir()
    with opened(os.devnull) as null, produced(lambda fd: None) as pipe, opened(str(tmp_path)) as folder:
        assert [refused(null, run), refused(pipe, run), refused(folder, run)] == [
            ("stdin_empty", []),
            ("stdin_empty", []),
            ("unreadable", []),
        ]


def test_too_much_is_an_error_never_a_cut(tmp_path: Path) -> None:
    """One byte over --max-input stops the reading, of an endless producer too; exactly the limit is taken."""

    def endless(fd: int) -> None:
        while True:
            os.write(fd, b"y\n" * 4096)

    with produced(endless) as fd:
        assert refused(fd, tmp_path, 100_000) == ("over_max_input", [])

    def exact(fd: int) -> None:
        os.write(fd, b"12345")

    with produced(exact) as fd:
        assert spool_stdin(fd, tmp_path, max_input=5).size == 5


def test_a_stop_from_another_thread(tmp_path: Path) -> None:
    """A silent pipe can be left: Interrupted, and the partial file is gone."""
    stop = threading.Event()
    reader, writer = os.pipe()
    os.write(writer, b"some")
    with pytest.raises(Interrupted):
        spool_stdin(reader, tmp_path, watch=Watch(received=lambda _: stop.set(), stop=stop))
    os.close(reader)
    os.close(writer)
    assert left(tmp_path) == []


SPOOL = """
import resource, sys
from pathlib import Path
from rlm_cli.errors import InputError
from rlm_cli.sources.stdin import Watch, spool_stdin
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    spool_stdin(0, Path(sys.argv[1]), watch=Watch(received=lambda n: print(n, flush=True)))
except InputError as error:
    print(error.code, error.message)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_full_disk_is_said_and_cleaned_up(tmp_path: Path) -> None:
    """The system refuses a write (a real file size limit, in a process of its own): one sentence, no half file."""
    done = subprocess.run(
        [sys.executable, "-c", SPOOL, str(tmp_path), "1000"], input=b"x" * 5000, capture_output=True, timeout=60
    )
    assert done.stdout.decode().split()[0] == "disk"
    assert str(tmp_path) in done.stdout.decode()
    assert left(tmp_path) == []


def test_ctrl_c_while_waiting(tmp_path: Path) -> None:
    """SIGINT ends a read that would wait for ever, and takes the partial file away."""
    child = subprocess.Popen(
        [sys.executable, "-c", SPOOL, str(tmp_path), "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin and child.stdout
    child.stdin.write(b"partial")
    child.stdin.flush()
    # The first count shows that it is inside the loop.
    assert child.stdout.readline() == b"7\n"
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert out == b"interrupted\n"
    assert left(tmp_path) == []
