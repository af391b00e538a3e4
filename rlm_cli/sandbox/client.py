"""The host's half of the wire (docs/PROTOCOL.md): starts the kernel, runs cells, answers their calls.

Everything runs in one event loop; `Pump` has the two threads that touch the channel. The client trusts the supervisor
(process facts) and never the worker (`frames.py` checks it): a worker that breaks the protocol is killed and replaced,
and only a second time in one cell ends the run.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import InputError, RlmError, SandboxError
from ..events import AnswerKind
from . import Channel, ContextFacts, Host, OnOutput, StepResult, SubReply, frames
from .cell import Cell, Patience
from .frames import BootFacts, FileProof, Violation, WorkerFacts
from .kernel import wire
from .pump import Frames, Pump
from .spool import Spool

if TYPE_CHECKING:
    from .upload import Sending, Upload

__all__ = ["BOOT", "BootFacts", "FileProof", "KernelClient", "Patience", "kernel_bundle"]

BOOT = """\
import os,sys,json,types
def read(n):
    b=bytearray()
    while len(b)<n:
        d=os.read(0,n-len(b))
        if not d: os._exit(3)
        b+=d
    return bytes(b)
s=json.loads(read(int.from_bytes(read(8),"big")))
k=sys.modules["kernel"]=types.ModuleType("kernel")
k.__path__=[]
exec(s.pop("__init__"),k.__dict__)
k.boot(s)
"""
"""What `python3 -I -S -u -c` is given: it reads the kernel from stdin (an argument may not exceed 128 KB)."""

T = TypeVar("T")

GIVEN_UP = "the call was given up"

REPLY_MAX = 32 * 1024 * 1024
LATE_MAX = 64 * 1024
UNREAD_MAX = 256 * 1024 * 1024
"""Bytes that may wait for the kernel when its worker asks for more: replies that nobody reads wait in our memory."""
SIGBUS = -7  # of Linux, whatever the host is
EXITS = {
    wire.LOST_PIPES: f"it closed file descriptors that the kernel needs (exit code {wire.LOST_PIPES})",
    wire.BROKEN: f"it broke something that the kernel needs, such as a builtin (exit code {wire.BROKEN})",
    SIGBUS: "the input changed while it was being read: a mapped file was cut short (SIGBUS)",
}


def kernel_bundle(place: str = "", alone: Mapping[str, Any] | None = None) -> bytes:
    """The kernel's modules, as BOOT reads them: 8 bytes of length, then JSON {module: source}. With a `place`, the
    supervisor first waits for the corpus to be streamed there: `wire.IN_MEMORY`, or a folder of a volume. `alone`:
    what `kernel.alone.prepare` is given; None: there is a container."""
    return _bundle(json.dumps({"place": place, "alone": alone}))


@functools.lru_cache(maxsize=4)
def _bundle(settings: str) -> bytes:
    folder = Path(__file__).parent / "kernel"
    sources = {path.stem: path.read_text("utf-8") for path in sorted(folder.glob("*.py"))}
    body = json.dumps({**sources, "": settings}).encode("ascii")
    return len(body).to_bytes(8, "big") + body


@dataclass(frozen=True)
class _Corpus:
    """What `attach` was given, to attach a new worker to the same."""

    index: bytes | None
    index_file: str | None
    text_limit: int
    schema: str

    def frame(self) -> bytes:
        fields = {"op": "attach", "index": self.index_file, "text_limit": self.text_limit, "schema": self.schema}
        return wire.frame(b"W", wire.message(fields, self.index or b""))


class KernelClient:
    """One kernel behind one channel. `start`, `attach`, then `execute` one cell at a time; always `close`.

    `new_spool` makes what takes an answer. Methods raise `SandboxError` when the place itself failed; then nothing but
    `close` works any more.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        place: str = "",
        alone: Mapping[str, Any] | None = None,
        patience: Patience | None = None,
        new_spool: Callable[[], Spool] = Spool,
    ) -> None:
        self._channel = channel
        self._place = place
        self._alone = alone
        self._new_spool = new_spool
        self._patience = patience or Patience()
        self._pump: Pump
        self._host: Host
        self._boot: asyncio.Future[BootFacts]
        self._attached: asyncio.Future[frames.Attached] | None = None
        self._worker_started: asyncio.Future[WorkerFacts]
        self._confined: WorkerFacts | None = None
        self._corpus: _Corpus | None = None
        self._seen: frames.Attached | None = None
        self._cell: Cell | None = None
        self._last: Cell | None = None
        self._cells = 0
        self._calls: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._unanswered: dict[tuple[int, int], set[int]] = {}  # the items of each call that have no reply yet
        self._generation = 0  # of workers: a reply must not reach the successor of the one that asked
        self._stopping: asyncio.Task[None] | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._fresh = True  # whether the worker now alive still has to be attached
        self._punished = ""  # how the worker broke the protocol, while it is being killed for that
        self.lost = ""
        """Why variables are gone that the next result must report."""
        self._late = ""
        self._sending: Sending | None = None
        self._dead: SandboxError | None = None
        self._heard = 0.0

    # -- starting and stopping

    async def start(self) -> BootFacts:
        """Send the kernel and wait for its boot frame. The caller judges the facts."""
        loop = asyncio.get_running_loop()
        self._boot = loop.create_future()
        self._worker_started = loop.create_future()
        self._pump = Pump(self._channel, on_frames=self._on_frames, on_end=self._on_end)
        self._pump.start()
        self._pump.send(kernel_bundle(self._place, self._alone))
        facts = await self._within(self._boot, self._patience.boot, "did not start")
        self._heard = loop.time()
        self._pinging = asyncio.create_task(self._ping())
        return facts

    async def fill(self, upload: Upload) -> None:
        """Stream the corpus to the `place` that was given. Raises what `Upload.frames` raises, and `SandboxError`."""
        from .upload import Sending

        self._check()
        self._sending = Sending(self._send)
        try:
            await self._sending.run(upload.frames())
        finally:
            self._sending = None

    async def worker(self) -> WorkerFacts:
        """How the first worker is confined, once it has started. The caller judges the facts before it attaches; a
        later worker must be confined just so, or the run ends."""
        return await self._within(self._worker_started, self._patience.boot, "did not start a worker")

    async def attach(
        self, index: bytes | None, index_file: str | None, text_limit: int, host: Host
    ) -> tuple[ContextFacts, tuple[FileProof, ...]]:
        """Open the corpus in the kernel: the index itself, or its path in the container. `text_limit`: bytes up to
        which a document is a `str`. The caller compares the proof with its own files.

        Raises `InputError` when a document is too large or its encoding does not exist.
        """
        self._host = host
        self._corpus = _Corpus(index, index_file, text_limit, host.schema)
        await self.worker()
        await self._open_corpus()
        return self._seen.facts, self._seen.proof  # type: ignore[union-attr]

    async def close(self) -> None:
        """Tell the supervisor to exit, end the threads, cancel what is pending. Idempotent."""
        if self._dead is None:
            self._fail(SandboxError("the sandbox is closed", code="sandbox_lost"))
        for task in (self._pinging, self._stopping):
            if task is not None:
                task.cancel()
        await self._end_calls()
        if hasattr(self, "_pump"):
            self._pump.send(wire.frame(b"Q"))
            await self._pump.close(patience=self._patience.close)

    # -- cells

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        """Run one cell. At `timeout` seconds of computing it is interrupted, two seconds later its process is killed
        and replaced. Cancelling does the same at once, and leaves the client usable."""
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
        self._check()
        if self._cell is not None:
            raise RuntimeError("a cell is running already")
        self._cells += 1
        cell = Cell(
            self._cells, timeout, self._patience, self._send, self._kill, on_output, self._new_spool, self._fail
        )
        self._cell = self._last = cell
        try:
            lost = await self._renew()
            cell.start(code)
            await asyncio.shield(cell.ended)
            given_up = await self._end_calls()
            return await self._result(cell, lost, given_up)
        except asyncio.CancelledError:
            self._stopping = asyncio.create_task(self._stop(cell))
            await asyncio.shield(self._stopping)
            raise
        except SandboxError as error:
            self._fail(error)
            await self._end_calls()
            if cell.answered:  # nothing more is wanted of it; whoever goes on all the same is told then
                return cell.remains(error.message)
            raise
        finally:
            if self._stopping is None:
                self._cell = None

    @property
    def failure(self) -> SandboxError | None:
        """Why nothing but `close` works any more."""
        return self._dead

    def remains(self, why: str) -> StepResult:
        """After `execute` raised `SandboxError`: what its cell did until then."""
        if self._last is None:
            raise RuntimeError("no cell was ever started")
        return self._last.remains(why)

    def interrupt(self) -> None:
        """Stop the running cell; `execute` returns what it did until then. Its calls are given up after the signal has
        left, so that it does not go on with what they say."""
        if self._cell is not None:
            self._cell.interrupt("interrupted")
            for task in self._calls.values():
                task.cancel()

    async def _renew(self) -> str:
        """Attach a worker that was started since the last cell; why the one before is gone, or ""."""
        lost, self.lost = self.lost, ""
        if self._fresh:
            await self._within(self._worker_started, self._patience.kill, "did not replace its worker")
            await self._open_corpus()
        return lost

    async def _result(self, cell: Cell, lost: str, given_up: int) -> StepResult:
        """Repair what the cell broke, so that the next one can start at once."""
        if cell.failure is not None:
            raise cell.failure
        if cell.dead:
            await self._renew()
        late, self._late = self._late, ""
        return cell.result(lost=lost, late=late, given_up=given_up)

    async def _end_calls(self) -> int:
        """Stop the calls that are still pending, and wait until they are over, so that what they cost is known when the
        cell's result is. How many replies that were awaited by nobody (a thread that a cell left behind) did not come.
        """
        missing = sum(len(items) for items in self._unanswered.values())
        for task in self._calls.values():
            task.cancel()
        if self._calls:
            await asyncio.wait(tuple(self._calls.values()), timeout=self._patience.calls)
        return missing

    async def _stop(self, cell: Cell) -> None:
        """A cancelled cell: nobody wants its calls' replies, and it must be over before the next one starts."""
        try:
            self.interrupt()
            with suppress(RlmError):  # whoever calls next is told
                if cell.started and self._dead is None:
                    await cell.ended
                    if self._fresh:
                        self.lost = "the cell was interrupted and had to be killed"
            await self._end_calls()
        finally:
            cell.disarm()
            self._cell = None
            self._stopping = None

    async def _open_corpus(self) -> None:
        if self._corpus is None:
            raise RuntimeError("attach() comes before execute()")
        self._attached = asyncio.get_running_loop().create_future()
        self._fresh = False
        self._send(self._corpus.frame())
        try:
            seen = await self._within(self._attached, self._patience.attach, "did not open the input")
        except BaseException:
            self._fresh = True
            raise
        finally:
            self._attached = None
        if self._seen is not None and seen.proof != self._seen.proof:
            raise SandboxError("the input changed while it was being read", code="input_changed")
        self._seen = seen

    # -- life and death

    def _check(self) -> None:
        if self._dead is not None:
            raise self._dead

    def _send(self, data: bytes) -> None:
        self._pump.send(data)

    def _kill(self) -> None:
        """SIGKILL for the worker, and not for one that took its place before this arrives."""
        # What still waits for a worker that is killed matters no more, and a flood of it must not hold up the killing.
        self._pump.send(wire.frame(b"K", b"%d" % self._generation) + wire.frame(b"P"), alone=True)

    async def _within(self, future: asyncio.Future[T], seconds: float, failed: str) -> T:
        """Wait for what the kernel must do; its silence is the sandbox's failure."""
        self._check()
        done, _ = await asyncio.wait([future], timeout=seconds)
        if not done:
            self._fail(SandboxError(f"the sandbox {failed} within {seconds:g} s{self._said()}", code="sandbox_silent"))
            self._check()
        return future.result()

    def _said(self) -> str:
        """What arrived before any frame, for a message."""
        said = bytes(self._pump.text).decode("utf-8", "replace").strip()
        return f"; it said: {said[:2000]}" if said else ""

    def _on_end(self, error: SandboxError | None) -> None:
        if error is None:
            removed = "was stopped or removed from outside, or its engine ended"
            what = removed if self._boot.done() else "ended before the kernel started"
            message = f"the sandbox {what}{self._said()}"
            error = SandboxError(message, hint="Run it again; rlm doctor checks the engine.", code="sandbox_lost")
        self._fail(error)

    def _fail(self, error: SandboxError) -> None:
        """The place itself failed: everybody who waits is told, now and later. The first reason is the true one."""
        if self._dead is not None:
            return
        self._dead = error
        for future in (self._boot, self._worker_started, self._attached) if hasattr(self, "_boot") else ():
            if future is not None and not future.done():
                future.set_exception(error)
                future.exception()  # it need not be awaited by anybody
        if self._sending is not None:
            self._sending.fail(error)
        if self._cell is not None:
            self._cell.fail(error)
        for task in self._calls.values():
            task.cancel()

    async def _ping(self) -> None:
        """Keeps the supervisor alive (it exits when the host is silent), and notices when it is silent itself."""
        loop = asyncio.get_running_loop()
        while self._dead is None:
            self._send(wire.frame(b"P"))
            due = loop.time() + self._patience.ping
            await asyncio.sleep(self._patience.ping)
            now = loop.time()
            self._heard = min(now, self._heard + now - due)  # a loop that was held up could hear nobody
            if now - self._heard > self._patience.silence:
                self._fail(SandboxError("the sandbox stopped answering", code="sandbox_silent"))

    # -- frames

    def _on_frames(self, arrived: Frames) -> None:
        if self._dead is not None:
            return
        self._heard = time.monotonic()
        for kind, payload in arrived:
            try:
                self._on_frame(kind, payload)
            except Violation as error:
                self._fail(SandboxError(f"the sandbox broke the protocol: {error}", code="sandbox_protocol"))
                return
            except Exception as error:  # noqa: BLE001 - a bug of a listener's or of the host's: `execute` raises it
                if self._cell is not None:
                    self._cell.blame(error)

    def _on_worker_started(self, facts: WorkerFacts) -> None:
        self._confined = self._confined or facts
        if facts != self._confined:
            said = "; ".join(facts.failures)
            message = "a new worker is not confined as the first one was" + (f": {said}" if said else "")
            self._fail(SandboxError(message, code="boot_facts"))
        elif not self._worker_started.done():
            self._worker_started.set_result(facts)

    def _on_frame(self, kind: bytes, payload: bytes) -> None:
        if kind == b"b":
            if not self._boot.done():
                self._boot.set_result(frames.parse_boot(payload))
        elif kind == b"s":
            self._punished = ""
            self._on_worker_started(frames.parse_started(payload))
        elif kind == b"r" and self._sending is not None:
            self._sending.on_received(frames.parse_received(payload))
        elif kind == b"p" and self._cell is not None:
            self._cell.on_pong()
        elif kind == b"x":
            self._on_exit(frames.parse_exit(payload))
        elif kind == b"l":
            room = LATE_MAX - len(self._late)
            self._late += payload.decode("utf-8", "replace")[:room]
        elif kind in b"oet" and self._cell is not None:
            self._cell.on_output(kind, payload)
        elif kind in b"wd" and not self._is_doomed:
            self._on_worker(kind, payload)

    @property
    def _is_doomed(self) -> bool:
        """The worker is being killed: what it said until then is not read any more, or a flood would hide its end."""
        return bool(self._punished) or (self._cell is not None and self._cell.killed)

    def _on_worker(self, kind: bytes, payload: bytes) -> None:
        """The untrusted part: whatever is wrong with it costs the worker its life, and not the run."""
        try:
            if kind == b"d":
                self._on_done(frames.parse_done(payload))
            else:
                self._on_message(frames.parse_worker(payload))
        except Violation as error:
            self._punish(str(error))

    def _on_done(self, done: frames.Done) -> None:
        cell = self._cell
        if cell is None or not cell.started or cell.number != done.cell:
            raise Violation("the end of a cell that is not running")
        cell.finish(done)

    def _on_message(self, message: frames.WorkerMessage) -> None:
        if isinstance(message, frames.CallAsked | frames.BudgetAsked) and self._pump.unsent > UNREAD_MAX:
            raise Violation("it asks without reading what it is told")
        match message:
            case frames.CallAsked():
                self._on_call(message)
            case frames.BudgetAsked():
                body = json.dumps(dict(self._host.budget())).encode("utf-8")
                self._send(wire.frame(b"W", wire.message({"op": "budget", "id": message.id}, body)))
            case frames.ProgressTold():
                if self._cell is not None and self._cell.number == message.cell and self._cell.running:
                    self._host.progress(message.done, message.total)
            case frames.AnswerPart():
                if self._cell is not None and self._cell.number == message.cell:
                    self._cell.on_answer(message)
            case _ if self._attached is None or self._attached.done():
                pass  # an attach whose waiter was cancelled
            case frames.Attached():
                self._attached.set_result(message)
            case frames.AttachFailed():
                self._attached.set_exception(attach_error(message, again=self._seen is not None))

    def _punish(self, why: str) -> None:
        """Kill a worker that broke the protocol. One that does it before it ran a cell cannot be worked with."""
        cell = self._cell
        if self._attached is not None or (cell is not None and cell.violation):
            raise Violation(why)
        self._punished = why
        if cell is not None and cell.running:
            cell.violation = why
            cell.kill()
        else:
            self._kill()

    def _on_exit(self, gone: frames.Exit) -> None:
        """The worker is dead; the supervisor starts another."""
        for task in self._calls.values():
            task.cancel()
        self._generation += 1
        why = f"it wrote bad messages into the kernel's own pipes ({self._punished})" if self._punished else ""
        why = why or exit_reason(gone)
        self._worker_started = asyncio.get_running_loop().create_future()
        if self._attached is not None and not self._attached.done():
            self._attached.set_exception(SandboxError(f"the kernel died while opening the input: {why}", code="attach"))
            return
        self._fresh = True
        if self._cell is not None and self._cell.running:
            self._cell.died(why)
        else:
            self.lost = f"the Python process was lost between two cells: {why}"

    # -- calls

    def _on_call(self, asked: frames.CallAsked) -> None:
        cell = self._cell
        key = (self._generation, asked.id)
        # Not `_calls`: the worker may send its next call before the task that sent it the last reply has ended.
        flying = sum(generation == self._generation for generation, _ in self._unanswered)
        if flying >= wire.CALLS_MAX or key in self._unanswered or key in self._calls:
            raise Violation("more calls at once than allowed")
        if cell is None or not cell.running or cell.stopping:
            refusal = SubReply(False, "sub-calls work only while a cell runs")
            for index in range(len(asked.call.prompts)):
                self._reply(key, index, refusal)
            return
        cell.pause()
        self._unanswered[key] = set(range(len(asked.call.prompts)))
        task = self._calls[key] = asyncio.create_task(self._answer(key, asked))
        task.add_done_callback(functools.partial(self._on_answered, key, cell))

    async def _answer(self, key: tuple[int, int], asked: frames.CallAsked) -> None:
        await self._host.answer(asked.call, functools.partial(self._deliver, key))

    def _deliver(self, key: tuple[int, int], index: int, reply: SubReply) -> None:
        """Pass one item's reply on; only the first counts."""
        missing = self._unanswered.get(key, set())
        if index not in missing:
            return
        missing.discard(index)
        if not missing:
            del self._unanswered[key]
        self._reply(key, index, reply)

    def _on_answered(self, key: tuple[int, int], cell: Cell, task: asyncio.Task[None]) -> None:
        del self._calls[key]
        for index in sorted(self._unanswered.get(key, ())):
            self._deliver(key, index, SubReply(False, GIVEN_UP))
        cell.resume()
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a bug of the host's, or the end of the run: the cell must not hide it
            cell.blame(error)

    def _reply(self, key: tuple[int, int], index: int, reply: SubReply) -> None:
        generation, number = key
        if generation != self._generation:
            return
        ok, kind, body = reply_body(reply)
        fields = {"op": "reply", "id": number, "index": index, "ok": ok, "kind": kind}
        self._send(wire.frame(b"W", wire.message(fields, body)))


def reply_body(reply: SubReply) -> tuple[bool, AnswerKind, bytes]:
    """(ok, kind, payload) of a `reply` frame."""
    answer = reply.answer
    size = answer.size if answer is not None else len(reply.text.encode("utf-8", "replace"))
    if size > REPLY_MAX:
        return False, "text", f"the reply has {size:,} bytes; at most {REPLY_MAX:,} can be handed back".encode()
    if answer is None:
        return reply.ok, "text", reply.text.encode("utf-8", "replace")
    try:
        return reply.ok, answer.kind, answer.whole()
    except OSError as error:
        return False, "text", f"the reply was lost: {error.strerror or error}".encode("utf-8", "replace")


def attach_error(failed: frames.AttachFailed, *, again: bool = False) -> RlmError:
    """Whose fault it is that the corpus cannot be opened; `again`: it could be before, by another worker."""
    if failed.reason == "encoding":
        return InputError(failed.message, hint="--encoding auto", code="encoding")
    if again:
        return SandboxError(f"the input changed while it was being read: {failed.message}", code="input_changed")
    return SandboxError(f"the sandbox cannot read the input: {failed.message}", code="unreadable")


def exit_reason(gone: frames.Exit) -> str:
    """How a worker died, in words."""
    import signal

    if gone.violation:
        return f"it wrote something into the kernel's own pipes ({gone.violation})"
    if gone.oom:
        return f"out of memory (limit {gone.memory_limit // 2**20:,} MB)" if gone.memory_limit else "out of memory"
    if gone.status in EXITS:
        return EXITS[gone.status]
    if gone.status >= 0:
        return f"its process ended with exit code {gone.status}"
    try:
        name = signal.Signals(-gone.status).name
    except ValueError:
        name = f"signal {-gone.status}"
    return f"its process was killed by {name}"
