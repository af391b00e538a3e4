"""The model: a loopback OpenAI-compatible server, small and quick, that plays the scripted root and the sub-models.

    root/<script>   see script.py; the turn is the number of assistant messages, so the server keeps no state of a run
    sub/<ms>        answers after that many milliseconds
    sub/<ms>/429    says 429 to some items the first time (`script.is_refused`), half of those with a Retry-After

It notes when each request arrived (monotonic seconds, the clock that the parent starts processes by) and what was in
it. One asyncio loop on a thread of its own, which ends with the context.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from . import script

PIECE = 12
"""Characters of one streamed event: about three tokens, as providers send them."""


@dataclass(frozen=True)
class Seen:
    """One request. `arrived`: monotonic seconds, when its head had been read. `messages`: (role, text) pairs."""

    model: str
    messages: tuple[tuple[str, str], ...]
    arrived: float
    stream: bool
    refused: bool = False
    beside: int = 1
    """Requests to sub-models that were in flight when it had arrived, itself included."""

    @property
    def is_root(self) -> bool:
        return self.model.startswith("root/")


class ModelServer:
    """`with ModelServer() as server:` listens on `server.url`; `take()` hands over what was seen since last time."""

    def __init__(self) -> None:
        self.port = 0
        self._seen: list[Seen] = []
        self._refused: set[str] = set()
        self._in_flight = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-model", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def take(self) -> tuple[Seen, ...]:
        """The requests since the last call, oldest first. Call it when no client is running."""
        seen, self._seen, self._refused = tuple(self._seen), [], set()
        return seen

    def __enter__(self) -> ModelServer:
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._close(server))
        self._loop.close()

    async def _close(self, server: asyncio.Server) -> None:
        """Leave no socket behind: let connections that are being accepted come into being, then end them all."""
        server.close()
        accepting = asyncio.all_tasks() - self._serving - {asyncio.current_task()}
        await asyncio.gather(*accepting, return_exceptions=True)
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the loop's next round

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._serving.discard(task)
            writer.transport.abort()

        task = self._loop.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive until the client leaves, which is how a stream is cut too."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                arrived = time.monotonic()
                body = await reader.readexactly(content_length(head))
                await self._answer(json.loads(body), arrived, writer)

    async def _answer(self, body: dict[str, Any], arrived: float, writer: asyncio.StreamWriter) -> None:
        messages = tuple((m["role"], text_of(m["content"])) for m in body["messages"])
        seen = Seen(body["model"], messages, arrived, bool(body.get("stream")))
        role, _, name = seen.model.partition("/")
        if role == "root":
            self._seen.append(seen)
            turn = sum(role == "assistant" for role, _ in messages)
            reply = script.parse(name).reply(turn)
        else:
            seen = await self._think(seen, messages[-1][1], *name.split("/"))
            if seen.refused:
                writer.writelines(refusal(len(self._refused)))
                return await writer.drain()
            reply = script.sub_reply(messages[-1][1])
        writer.writelines(streamed(body, seen, reply) if seen.stream else whole(seen, reply))
        return await writer.drain()

    async def _think(self, seen: Seen, prompt: str, ms: str, fault: str = "") -> Seen:
        """A sub-model's time, and what became of the request."""
        refused = bool(fault) and script.is_refused(prompt) and prompt not in self._refused
        if refused:
            self._refused.add(prompt)
        self._in_flight += 1
        seen = replace(seen, refused=refused, beside=self._in_flight)
        self._seen.append(seen)
        try:
            await asyncio.sleep(float(ms) / 1000)
        finally:
            self._in_flight -= 1
        return seen


def content_length(head: bytes) -> int:
    """The body's length in bytes, from a request's head."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def text_of(content: Any) -> str:
    """A message's text; content may be a list of parts (cache marks)."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def usage(seen: Seen, reply: str) -> dict[str, Any]:
    prompt = sum(len(text) // 4 + 4 for _, text in seen.messages)
    output = len(reply) // 4 + 1
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def envelope(seen: Seen, kind: str, choices: list[dict[str, Any]], **more: Any) -> bytes:
    head = {"id": "bench", "object": kind, "created": 0, "model": seen.model, "choices": choices}
    return json.dumps(head | more).encode()


def whole(seen: Seen, reply: str) -> Iterator[bytes]:
    """A plain JSON response."""
    choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
    data = envelope(seen, "chat.completion", [choice], usage=usage(seen, reply))
    yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
    yield data


def refusal(number: int) -> Iterator[bytes]:
    """The 429 of that number: every other one says when to come back."""
    data = b'{"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}'
    wait = b"Retry-After: 0.2\r\n" if number % 2 else b""
    yield b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n%s" % wait
    yield b"Content-Length: %d\r\n\r\n" % len(data)
    yield data


def streamed(body: dict[str, Any], seen: Seen, reply: str) -> Iterator[bytes]:
    """Server-sent events, chunked, all of them at once: this root thinks in no time."""
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    kind = "chat.completion.chunk"
    for start in range(0, len(reply), PIECE):
        delta = {"role": "assistant", "content": reply[start : start + PIECE]}
        yield event(envelope(seen, kind, [{"index": 0, "delta": delta, "finish_reason": None}]))
    yield event(envelope(seen, kind, [{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    if (body.get("stream_options") or {}).get("include_usage"):
        yield event(envelope(seen, kind, [], usage=usage(seen, reply)))
    yield event(b"[DONE]")
    yield b"0\r\n\r\n"


def event(data: bytes) -> bytes:
    """One server-sent event as one chunk of a chunked body."""
    line = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(line), line)
