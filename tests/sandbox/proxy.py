"""A remote engine, simulated: a TCP port on the loopback, or a socket of ssh's, that leads to this machine's engine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

FORWARD = """
import socket, sys, threading
def carry(source, target):
    try:
        while data := source.recv(1 << 18):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
while True:
    near, far = listener.accept()[0], socket.socket(socket.AF_UNIX)
    far.connect(sys.argv[2])
    for pair in ((near, far), (far, near)):
        threading.Thread(target=carry, args=pair, daemon=True).start()
"""


@contextlib.contextmanager
def forwarded_engine(path: str, folder: Path, program: str = "ssh") -> Iterator[str]:
    """A socket in `folder` at which a process called `program` passes everything on to the socket at `path`."""
    named = folder / program
    named.symlink_to(Path(sys.executable).resolve())
    near = folder / f"{program}.sock"
    with subprocess.Popen([named, "-I", "-S", "-c", FORWARD, near, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield str(near)
        finally:
            process.kill()


@contextlib.contextmanager
def tcp_engine(path: str) -> Iterator[str]:
    """What DOCKER_HOST would be; every connection is passed on to the socket at `path`."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = [listener]

    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                open_sockets.extend((near, far))
                far.connect(path)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for each in open_sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
