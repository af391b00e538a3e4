"""The engine's framing of an attached stream, and what its failures are called; no engine needed."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import SandboxError
from rlm_cli.sandbox.container import Engine
from rlm_cli.sandbox.stream import Demultiplexer, DockerChannel


def frame(stream: int, payload: bytes) -> bytes:
    return struct.pack(">BxxxI", stream, len(payload)) + payload


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50))), st.data())
def test_streams_come_apart_however_they_are_cut(frames: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """stdout comes out byte for byte and stderr aside, wherever the network cuts the bytes."""
    wire = b"".join(frame(*one) for one in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)))))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    demultiplexer = Demultiplexer()
    stdout = b"".join(demultiplexer.feed(piece) for piece in pieces)
    assert (stdout, demultiplexer.stderr) == tuple(
        b"".join(payload for stream, payload in frames if stream == wanted) for wanted in (1, 2)
    )


def test_closing_wakes_up_the_reader() -> None:
    """`close` from another thread ends a blocked `read` with end-of-file, and may be called twice."""
    ours, theirs = socket.socketpair()
    channel = DockerChannel(ours)
    theirs.sendall(frame(1, b"ready"))
    seen = [channel.read()]
    reader = threading.Thread(target=lambda: seen.append(channel.read()))
    reader.start()
    channel.close()
    channel.close()
    reader.join(5)
    theirs.close()
    assert (seen, reader.is_alive()) == ([b"ready", b""], False)


def test_writing_to_nobody_is_a_sandbox_error() -> None:
    """The other side is gone: an error with a code, not a BrokenPipeError."""
    ours, theirs = socket.socketpair()
    channel = DockerChannel(ours)
    theirs.close()
    with pytest.raises(SandboxError, match="connection to the container broke") as caught:
        channel.write(b"x" * 10_000_000)
    channel.close()
    assert caught.value.code == "sandbox_lost"


def code_of(engine: Engine) -> str:
    with pytest.raises(SandboxError) as caught:
        engine.probe()
    engine.close()
    assert caught.value.hint
    return caught.value.code


def listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's 100 bytes, and which everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="rlm-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_an_engine_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the address that was tried."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    with pytest.raises(SandboxError, match=r"/nonexistent/docker\.sock|not installed") as caught:
        Engine().probe()
    assert caught.value.code in {"docker_daemon_down", "docker_not_installed"}


def test_an_engine_that_stopped(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket left behind by a daemon that is gone refuses connections."""
    listen(short / "d").close()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{short}/d")
    assert code_of(Engine()) in {"docker_daemon_down", "docker_not_installed"}


def test_an_engine_that_hangs(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepts and never answers: given up after the timeout."""
    with listen(short / "d"):
        monkeypatch.setenv("DOCKER_HOST", f"unix://{short}/d")
        assert code_of(Engine(timeout=0.2)) == "engine_timeout"


def test_something_that_is_not_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage instead of HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-what\r\n")

        threading.Thread(target=answer, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.getsockname()[1]}")
        assert code_of(Engine(timeout=5)) == "engine_not_docker"


DENIED = """
import os, sys
from rlm_cli.errors import SandboxError
from rlm_cli.sandbox.container import Engine
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    Engine().probe()
except SandboxError as error:
    print(error.code, error.hint)
"""


def test_no_permission_for_the_socket(short: Path) -> None:
    """A user outside the docker group is told about the group, and what it means."""
    with listen(short / "d"):
        (short / "d").chmod(0)
        environment = {**os.environ, "DOCKER_HOST": f"unix://{short}/d", "DOCKER_CONFIG": str(short)}
        done = subprocess.run(
            [sys.executable, "-c", DENIED], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
    assert (done.stdout.split()[:1], "-aG docker" in done.stdout) == (["docker_permission"], True)
