"""A loopback web server whose pages misbehave as told, and remembers what it was asked."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TAG = '"v1"'


@dataclass(frozen=True)
class Asked:
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """One answer. `cut`: so many bytes of the body, then a reset; `headers` replace those that are made. `bare`: no
    length is said (HTTP/1.0)."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    bare: bool = False


Page = Callable[[Asked, int], Reply]
"""From a request, and how many went before it to this path, to its answer."""


def entity(body: bytes, *, cuts: tuple[int, ...] = (), tag: str = TAG, **headers: str) -> Page:
    """A page that knows ranges; its first answers break off after `cuts` bytes."""

    def page(asked: Asked, seen: int) -> Reply:
        own = {"ETag": tag, "Accept-Ranges": "bytes", **{n.replace("_", "-"): v for n, v in headers.items()}}
        cut = cuts[seen] if seen < len(cuts) else None
        wanted = asked.headers.get("range", "")
        if not wanted or asked.headers.get("if-range") not in (None, tag):
            return Reply(body, headers=own, cut=cut)
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        where = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        return Reply(body[start:], 206, {**own, **where}, cut)

    return page


class Web:
    """The server, from `__enter__` to `__exit__`; pages by path."""

    def __init__(self, pages: Mapping[str, Page | Reply]) -> None:
        self.pages = dict(pages)
        self.asked: list[Asked] = []
        handler = type("Handler", (_Handler,), {"web": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}{'@' if user else ''}127.0.0.1:{self.http.server_address[1]}{path}"

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self._thread.join()

    def reply(self, asked: Asked) -> Reply:
        page = self.pages.get(asked.path.partition("?")[0], Reply(b"no such page", 404))
        seen = sum(one.path == asked.path for one in self.asked)
        self.asked.append(asked)
        return page if isinstance(page, Reply) else page(asked, seen)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""

    def do_GET(self) -> None:
        reply = self.web.reply(Asked(self.path, {name.lower(): value for name, value in self.headers.items()}))
        if reply.bare:
            self.protocol_version = "HTTP/1.0"
        self.send_response_only(reply.status)
        length = {} if reply.bare else {"Content-Length": str(len(reply.body))}
        for name, value in {**length, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
        self.wfile.flush()
        if reply.cut is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_WR)
        if reply.bare:
            self.close_connection = True


@contextmanager
def deaf_server() -> Iterator[str]:
    """The address of a server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


def closed_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        port: int = listening.getsockname()[1]
    return port
