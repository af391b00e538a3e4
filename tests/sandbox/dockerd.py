"""A Docker Engine of the tests' own, to be frozen, killed and restarted, in its own network and mount namespaces.

Without them a second engine would take the first one's bridge away, or share its containerd. Needs root, as CI is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.container import Engine
from rlm_cli.sandbox.image import Image, status

READY_S = 60.0
# /run of its own: there the machine's containerd listens, which an engine would take for its own.
START = """
mount --make-rprivate / && mount -t tmpfs none /run && ip link set lo up
exec dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" --host "unix://$1/sock" \
  --config-file "$1/daemon.json" --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false
"""


class OwnEngine:
    """`start` it, send it signals, and `start` it again. `stop` removes everything."""

    def __init__(self) -> None:
        # A short name: a socket's has room for 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="rlm-engine-", dir="/var/tmp"))
        (self.folder / "daemon.json").write_text("{}")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix://{self.folder}/sock"

    @property
    def pid(self) -> int:
        """Of the daemon itself: the shell has become it."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Until it answers; nothing if it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "-n", "-m", "sh", "-ec", START, "sh", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no second engine: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            probe.connect(f"{self.folder}/sock")
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"200 OK" in probe.recv(100)
        return False

    def take(self, image: Image) -> None:
        """Copy an image from the machine's engine."""
        copy_image(image, self.address)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> None:
        """Until the daemon has ended."""
        assert self._process is not None
        self._process.wait(60)

    def stop(self) -> None:
        """The daemon, and what a killed one left; all of them carry the folder's name."""
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
            self._process.kill()
            self._process.wait()
        for pid in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while self.folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _left(self) -> Iterator[int]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if str(self.folder).encode() in (entry / "cmdline").read_bytes():
                        yield int(entry.name)


def image_by_id() -> Image:
    """What `rlm ask` would run on the machine's engine, by its id: that is all that a copy has."""
    machine = Engine()
    found = status(machine, SandboxOptions()).found
    machine.close()
    if found is None:
        pytest.fail("no sandbox image in the engine: run `make image` first")
    return replace(found, name=found.id)


def copy_image(image: Image, address: str) -> None:
    """From the machine's engine into the one at `address`."""
    source, target = docker.APIClient(timeout=120), docker.APIClient(base_url=address, timeout=120)
    try:
        for line in target.load_image(source.get_image(image.id)):
            assert "error" not in line, line
    finally:
        source.close()
        target.close()
