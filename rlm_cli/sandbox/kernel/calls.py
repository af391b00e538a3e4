"""Sub-calls: prompts out to the host, replies in, from the main thread, other threads and asyncio alike."""

from __future__ import annotations

from collections import deque
from threading import Lock

from . import wire
from .text import Text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .interrupts import Interrupts
    from .link import Link

MODEL_NAME_MAX = 200


class SubcallError(RuntimeError):
    """A sub-call failed for good; the message says why. `.reply`: what came, when that did not satisfy a schema."""

    reply = ""


class FailedCall(str):
    """The reply in the place of one that failed in a batch. It is false, `.error` says why, and as text it reads
    "[sub-call failed: ...]", so `[r for r in replies if r]` keeps the good ones and joining never crashes. `.reply` is
    what came when that did not satisfy a schema, else ""."""

    error: str
    reply: str

    def __new__(cls, error: str, reply: str = "") -> FailedCall:
        self = super().__new__(cls, f"[sub-call failed: {error}]")
        self.error = error
        self.reply = reply
        return self

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"FailedCall({self.error!r})"

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return self.error, self.reply


class Batch:
    """The replies of one llm_query_batched, as they come. `gate` opens when the last one is there."""

    def __init__(self, count: int) -> None:
        self.replies: list[Any] = [FailedCall("no reply")] * count
        self.left = count
        self.parts: list[Part] = []
        self.gate = Lock()
        self.gate.acquire()
        self.on_done: Callable[[], None] | None = None
        self.on_reply: Callable[[int, str], None] | None = None

    def take(self, index: int, reply: Any) -> None:
        self.replies[index] = reply
        if self.on_reply is not None:
            self.on_reply(index, reply)
        self.left -= 1
        if not self.left:
            self.gate.release()
            if self.on_done is not None:
                self.on_done()


class Part:
    """A run of a batch's prompts that travels in one frame; each is one text, or with its context two. `offset`: where
    its first reply belongs."""

    def __init__(self, batch: Batch, fields: dict[str, Any], prompts: Sequence[tuple[str, ...]], offset: int) -> None:
        self.batch = batch
        self.fields = fields
        self.prompts = prompts
        self.offset = offset
        self.left = set(range(len(prompts)))

    def payload(self) -> bytes:
        return wire.pack_texts(text.encode("utf-8", "replace") for texts in self.prompts for text in texts)


def check_prompt(prompt: object, *, name: str) -> str:
    if isinstance(prompt, str):
        return prompt
    advice = "; decode it first" if isinstance(prompt, (bytes, bytearray)) else ""
    if isinstance(prompt, Text):
        advice = "; a slice of it is one: text[a:b]"
    raise TypeError(f"{name}: a prompt must be a str, not {type(prompt).__name__}{advice}")


def value_of(fields: dict[str, Any], payload: bytes) -> Any:
    """A reply as the cell gets it: text, bytes, or the value that is in JSON."""
    if fields["kind"] == "bytes":
        return payload
    text = payload.decode("utf-8", "replace")
    if not fields["ok"]:
        return FailedCall(text)
    if fields["kind"] == "text":
        return text
    try:
        return wire.parse_json(text)
    except (ValueError, RecursionError) as error:
        return FailedCall(f"the answer is JSON that cannot be read here: {error}")


def bound_of_utf8(text: str) -> int:
    """At least the bytes of `text` in UTF-8, without encoding it."""
    return len(text) if text.isascii() else 4 * len(text)


def need_of(texts: tuple[str, ...]) -> int:
    """Bytes of a frame that a prompt takes, at most."""
    return sum(4 + bound_of_utf8(text) for text in texts)


def runs(prompts: Sequence[tuple[str, ...]]) -> Iterable[tuple[int, int]]:
    """(start, end) of the runs of prompts that fit in one frame."""
    start, size = 0, 0
    for index, texts in enumerate(prompts):
        need = need_of(texts)
        if index > start and (size + need > wire.PROMPTS_MAX or index - start >= wire.PROMPTS_COUNT_MAX):
            yield start, index
            start, size = index, 0
        size += need
    if start < len(prompts):
        yield start, len(prompts)


class Calls:
    """Every request to the host that waits for a reply. At most `wire.CALLS_MAX` frames fly; the rest wait here."""

    def __init__(self, link: Link, interrupts: Interrupts) -> None:
        self._link = link
        self._interrupts = interrupts
        self._lock = Lock()  # guards the next two and the counter
        self._flying: dict[int, Part] = {}
        self._waiting: deque[Part] = deque()
        self._next = 0
        self._budgets: dict[int, Batch] = {}
        self.cell = 0

    def ask(self, kind: str, prompts: Sequence[str], model: str | None) -> list[str]:
        """Send prompts and wait for every reply, in order. A failed one is a `FailedCall`."""
        return self._wait(self._start(kind, [(prompt,) for prompt in prompts], model))

    def ask_children(self, prompts: Sequence[str], contexts: Sequence[str], schema: str = "") -> list[Any]:
        """The same of child runs, each with what it is to work on (see `passing`); an answer may be any value. `schema`
        is JSON that they are told."""
        pairs = list(zip(prompts, contexts))  # noqa: B905 - Python 3.9
        return self._wait(self._start("rlm", pairs, None, schema=schema))

    def start(self, prompts: Sequence[str], model: str | None, on_reply: Callable[[int, str], None]) -> Batch:
        """Send prompts to a sub-model and do not wait: `on_reply` is given (index, reply) as each comes, mostly in the
        reader's thread."""
        return self._start("llm", [(prompt,) for prompt in prompts], model, on_reply=on_reply)

    async def ask_async(self, kind: str, prompts: Sequence[str], model: str | None) -> list[str]:
        """The same from a coroutine, without blocking its loop."""
        import asyncio

        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(finish)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        batch = self._start(kind, [(prompt,) for prompt in prompts], model, wake)
        try:
            await done
        except BaseException:
            self.abandon(batch)
            raise
        return batch.replies

    def budget(self) -> dict[str, Any]:
        """Ask the host what remains."""
        self._check_process()
        batch = Batch(1)
        with self._interrupts:
            with self._lock:
                number = self._number()
                self._budgets[number] = batch
            self._link.send({"op": "budget", "id": number, "cell": self.cell})
        text = self._wait(batch)[0]
        return dict(wire.parse_json(text))

    def tell_progress(self, done: int, total: int | None) -> None:
        """Tell the host how far a helper is, for whoever watches."""
        self._link.send({"op": "progress", "cell": self.cell, "done": done, "total": total})

    # -- out

    def _start(
        self,
        kind: str,
        prompts: Sequence[tuple[str, ...]],
        model: str | None,
        on_done: Callable[[], None] | None = None,
        on_reply: Callable[[int, str], None] | None = None,
        schema: str = "",
    ) -> Batch:
        self._check_process()
        if model is not None and (not isinstance(model, str) or len(model) > MODEL_NAME_MAX):
            raise TypeError(f"model must be a short str that names a model, not {type(model).__name__}")
        sendable = [index for index, prompt in enumerate(prompts) if need_of(prompt) <= wire.PROMPTS_MAX]
        batch = Batch(len(prompts))
        batch.on_done, batch.on_reply = on_done, on_reply
        fields = {"op": "call", "cell": self.cell, "kind": kind, "model": model or ""}
        if schema:
            fields["schema"] = schema
        # A prompt that is too large splits its batch; then each of the others travels alone.
        spans = list(runs(prompts)) if len(sendable) == len(prompts) else [(i, i + 1) for i in sendable]
        batch.parts = [Part(batch, fields, prompts[start:end], start) for start, end in spans]
        for index in sorted(set(range(len(prompts))) - set(sendable)):
            size = sum(map(len, prompts[index]))
            batch.take(index, FailedCall(f"the prompt has {size:,} characters, far beyond any model"))
        for part in batch.parts:
            self._launch(part)
        if not prompts:
            batch.gate.release()
            if on_done is not None:
                on_done()
        return batch

    def _check_process(self) -> None:
        if not self._link.is_ours():
            raise SubcallError("sub-calls do not work in other processes; use threads (ThreadPoolExecutor) or a batch")

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _launch(self, part: Part) -> None:
        with self._interrupts:
            with self._lock:
                if len(self._flying) >= wire.CALLS_MAX:
                    self._waiting.append(part)
                    return
                number = self._number()
                self._flying[number] = part
            self._send(number, part)

    def _send(self, number: int, part: Part) -> None:
        self._link.send({**part.fields, "id": number, "count": len(part.prompts)}, part.payload())
        part.prompts = ()

    def _wait(self, batch: Batch) -> list[str]:
        try:
            batch.gate.acquire()
        except BaseException:  # KeyboardInterrupt: what was not sent yet must not be paid for
            self.abandon(batch)
            raise
        return batch.replies

    def abandon(self, batch: Batch) -> None:
        """What was not sent yet must not be paid for."""
        with self._interrupts, self._lock:
            self._waiting = deque(part for part in self._waiting if part.batch is not batch)

    # -- in (the reader thread)

    def on_reply(self, fields: dict[str, Any], payload: bytes) -> None:
        """One item's reply. A reply that nobody waits for is dropped."""
        number, index = fields["id"], fields["index"]
        reply = value_of(fields, payload)
        with self._lock:
            part = self._flying.get(number)
            if part is None or index not in part.left:
                return
            part.left.discard(index)
            following = None if part.left else self._land(number)
        part.batch.take(part.offset + index, reply)
        if following is not None:
            self._send(*following)

    def _land(self, number: int) -> tuple[int, Part] | None:
        """A frame is answered: the next one in the queue takes its place."""
        del self._flying[number]
        if not self._waiting:
            return None
        part = self._waiting.popleft()
        number = self._number()
        self._flying[number] = part
        return number, part

    def on_budget(self, fields: dict[str, Any], payload: bytes) -> None:
        batch = self._budgets.pop(fields["id"], None)
        if batch is not None:
            batch.take(0, payload.decode("utf-8", "replace"))
