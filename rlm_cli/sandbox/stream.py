"""The attached stream of a container: the engine's framing taken off, as a `Channel`."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

from ..errors import SandboxError

STDERR_KEPT = 8 * 1024


class Demultiplexer:
    """The engine's framing of an attached stream without a terminal: stream:1 | 0 0 0 | length:u32 | payload."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0
        self.stderr = b""
        """The last bytes that did not come from stdout: what a container says that never became a kernel."""

    def feed(self, data: bytes) -> bytes:
        """The part of `data` that is the container's stdout."""
        out = []
        view = memoryview(data)
        while view:
            if self._left == 0:
                need = 8 - len(self._header)
                self._header += view[:need]
                view = view[need:]
                if len(self._header) == 8:
                    self._stream, self._left = struct.unpack(">BxxxI", self._header)
                    self._header = b""
                continue
            piece = view[: self._left]
            view = view[len(piece) :]
            self._left -= len(piece)
            if self._stream == 1:
                out.append(piece)
            else:
                self.stderr = (self.stderr + piece)[-STDERR_KEPT:]
        return b"".join(out)


class DockerChannel:
    """The attached socket as a `Channel`. `read` and `write` from one thread each; `close` from any."""

    def __init__(self, attached: Any) -> None:
        # Unix and plain TCP: a SocketIO around the socket; TLS: the socket itself. Nothing public can be written to.
        self._attached = attached
        self._socket = getattr(attached, "_sock", attached)
        self._socket.settimeout(None)
        self._demultiplexer = Demultiplexer()
        self._closed = False

    @property
    def stderr(self) -> str:
        """What the container said beside the protocol; only before the kernel boots is that worth reading."""
        return self._demultiplexer.stderr.decode("utf-8", "replace").strip()

    def read(self) -> bytes:
        """Some bytes of the kernel's, or b"" at the end. Raises `SandboxError` when the engine fails."""
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except OSError as error:
                if self._closed:
                    return b""
                raise lost(error) from error
            if not data:
                return b""
            out = self._demultiplexer.feed(data)
            if out:
                return out

    def write(self, data: bytes) -> None:
        """All of `data`. Raises `SandboxError` when the other side is gone."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise lost(error) from error

    def close(self) -> None:
        """Wake up a blocked `read` and release everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        response = getattr(self._attached, "_response", None)
        # The response first: closing it flushes the reader it sits on, which must still be open.
        for thing in (response, self._attached, self._socket):
            if thing is not None:
                with contextlib.suppress(OSError):
                    thing.close()


def lost(error: OSError) -> SandboxError:
    """The stream broke: the container or the engine went away."""
    return SandboxError(
        f"the connection to the container broke: {error.strerror or error}",
        hint="run the command again; if it happens again:  rlm doctor",
        code="sandbox_lost",
    )
