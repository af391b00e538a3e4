"""One cell as the host sees it: its clock, what it wrote, what it answered, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import SandboxError
from ..events import Stream
from . import Answer, Captured, CellStatus, OnOutput, Quote, StepResult, frames
from .frames import AnswerPart, Done, Violation
from .kernel import wire
from .spool import Spool, SpoolFull, unkept

GONE = "Python was restarted and every variable is gone; `context` and the helper functions are there again."


@dataclass(frozen=True)
class Patience:
    """Seconds that the client waits: for the boot frame; for the corpus to be opened; for a cell to end after it was
    interrupted; for a pong after its worker was killed; for a killed worker to be replaced; between pings; for any
    frame at all; for threads to end; for calls to end that were given up (a child run among them removes its
    container)."""

    boot: float = 60.0
    attach: float = 600.0
    interrupt: float = 2.0
    pong: float = 3.0
    kill: float = 10.0
    ping: float = 5.0
    silence: float = 12.0
    close: float = 1.0
    calls: float = 30.0


class Clock:
    """Counts seconds of computing: it stands while at least one sub-call is pending."""

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = seconds
        self._ring = ring
        self._since = 0.0
        self._pauses = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        self._since = self._loop.time()
        self._timer = self._loop.call_later(max(0.0, self._left), self._ring)

    def pause(self) -> None:
        self._pauses += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._left -= self._loop.time() - self._since

    def resume(self) -> None:
        self._pauses -= 1
        if not self._pauses and not self._stopped:
            self.start()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Cell:
    """A running cell. `ended` resolves when it is over, whichever way, and fails when the sandbox does."""

    def __init__(
        self,
        number: int,
        timeout: float,
        patience: Patience,
        send: Callable[[bytes], None],
        kill: Callable[[], None],
        on_output: OnOutput | None,
        new_spool: Callable[[], Spool],
        broken: Callable[[SandboxError], None],
    ) -> None:
        self.number = number
        self.timeout = timeout
        self.started = False
        self.violation = ""
        self.failure: BaseException | None = None
        """What the host's own answer to a call raised."""
        self._patience = patience
        self._send = send
        self._kill_worker = kill
        self._tell = on_output
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._clock = Clock(timeout, lambda: self.interrupt("timeout"))
        self._ladder: asyncio.TimerHandle | None = None
        self._asked: CellStatus | None = None
        self._killed = False
        self._began = 0.0
        self._heads: dict[bytes, list[str]] = {b"o": [], b"e": []}
        self._tails: frames.Tails | None = None
        self._new_spool = new_spool
        self._broken = broken
        self._spool: Spool | None = None
        self._parts = 0
        self._evidence: tuple[Quote, ...] = ()
        self._answer: Answer | None = None
        self._refused = ""
        self._done: Done | None = None
        self._reason = ""

    @property
    def running(self) -> bool:
        """Started, and not over."""
        return self.started and not self.ended.done()

    @property
    def stopping(self) -> bool:
        """Interrupted: it gets no more calls answered."""
        return self._asked is not None

    @property
    def answered(self) -> bool:
        """Whether a whole answer has arrived."""
        return self._answer is not None

    @property
    def dead(self) -> bool:
        """Over because its worker is gone."""
        return self.ended.done() and self._done is None

    def start(self, code: str) -> None:
        """Send it off."""
        self.started = True
        self._began = self._loop.time()
        self._clock.start()
        body = code.encode("utf-8", "replace")
        self._send(wire.frame(b"C", wire.message({"op": "cell", "cell": self.number}, body)))

    # -- stopping

    def pause(self) -> None:
        """A sub-call is pending: waiting is not computing."""
        self._clock.pause()

    def resume(self) -> None:
        self._clock.resume()

    def interrupt(self, why: CellStatus) -> None:
        """First rung: SIGINT, which keeps the variables. The second follows by itself."""
        if self._asked is not None or not self.running:
            return
        self._asked = why
        self._clock.stop()
        self._send(wire.frame(b"I"))
        self._ladder = self._loop.call_later(self._patience.interrupt, self.kill)

    def kill(self) -> None:
        """Second rung: SIGKILL. Silence after it means that the sandbox itself is broken: the third rung is its
        owner's, who is told by the failure of `ended`."""
        self.disarm()
        self._killed = True
        self._kill_worker()
        self._give_up_in(self._patience.pong)

    def on_pong(self) -> None:
        """The supervisor answers: a large process may take its time to die."""
        if self._killed and self.running:
            self.disarm()
            self._give_up_in(self._patience.kill)

    def _give_up_in(self, seconds: float) -> None:
        error = SandboxError("the sandbox did not stop a cell", code="sandbox_silent")
        self._ladder = self._loop.call_later(seconds, self._broken, error)

    @property
    def killed(self) -> bool:
        """Whether only the death of its worker can still end it."""
        return self._killed and self.running

    def disarm(self) -> None:
        self._clock.stop()
        if self._ladder is not None:
            self._ladder.cancel()

    # -- what arrives

    def on_output(self, kind: bytes, payload: bytes) -> None:
        """A piece of a head (`o`, `e`), or the end of both streams (`t`)."""
        if kind == b"t":
            self._tails = frames.parse_tails(payload)
            self._tell_tail("stdout", self._tails.stdout)
            self._tell_tail("stderr", self._tails.stderr)
            return
        text = payload.decode("utf-8", "replace")
        self._heads[kind].append(text)
        if self._tell is not None:
            self._tell("stdout" if kind == b"o" else "stderr", text)

    def _tell_tail(self, stream: Stream, tail: frames.Tail) -> None:
        if self._tell is None or not tail.tail:
            return
        gap = f"\n... {tail.dropped:,} bytes not shown ...\n" if tail.dropped else ""
        self._tell(stream, gap + tail.tail.decode("utf-8", "replace"))

    def on_answer(self, part: AnswerPart) -> None:
        """Part 0 starts over; the last answer that is whole counts. One that is too large ends the cell."""
        if self._refused or self.ended.done():
            return
        if part.part == 0:
            self._drop_parts()
            self._evidence = part.evidence
        if part.part != self._parts:
            raise Violation(f"piece {part.part} of an answer")
        self._parts += 1
        self._spool = self._spool or self._new_spool()
        try:
            self._spool.write(part.data)
            if part.last:
                self._answer = Answer(part.kind, self._spool.content(), self._evidence, part.problem)
                self._spool, self._parts = None, 0
        except SpoolFull as error:
            self._drop_parts()
            self._refused = f"FINAL: {error}; submit less, or a summary"
            self.interrupt("error")
        except OSError as error:
            self._drop_parts()
            self._refused = str(error)
            raise unkept(error) from error

    def _drop_parts(self) -> None:
        if self._spool is not None:
            self._spool.discard()
        self._spool, self._parts = None, 0

    def finish(self, done: Done) -> None:
        """The worker says that the cell is over. Once it is being killed, only its death counts."""
        if not self._killed:
            self._done = done
            self._end()

    def blame(self, error: BaseException) -> None:
        """The host's own code failed while it served this cell: end it, and let `execute` raise that."""
        self.failure = self.failure or error
        self.interrupt("interrupted")

    def died(self, reason: str) -> None:
        """The supervisor says that the worker is gone, and why."""
        self._reason = reason
        self._end()

    def fail(self, error: BaseException) -> None:
        """The sandbox is gone."""
        self.disarm()
        self._drop_parts()
        if not self.ended.done():
            self.ended.set_exception(error)
            self.ended.exception()

    def _end(self) -> None:
        self.disarm()
        self._drop_parts()
        if not self.ended.done():
            self.ended.set_result(None)

    # -- the result

    def result(self, *, lost: str, late: str, given_up: int = 0) -> StepResult:
        """What the cell did. `lost`: why the worker before it was gone; `late`: output between the cells; `given_up`:
        replies that it did not wait for."""
        status, error, restarted = self._outcome()
        if lost and not restarted:
            restarted = f"Before this cell, {lost}. {GONE}"
        done = self._done
        return StepResult(
            status=status,
            stdout=self._captured(b"o", self._tails.stdout if self._tails else None),
            stderr=self._captured(b"e", self._tails.stderr if self._tails else None),
            error=error,
            answer=self._answer,
            seconds=done.seconds if done is not None else self._seconds(),
            restarted=restarted,
            late=late,
            given_up=given_up if self._done is not None and self._asked is None else 0,
            variables=done.variables if done is not None else (),
        )

    def remains(self, why: str) -> StepResult:
        """What it did until its container had to be replaced. Raises what the host's own answer to a call raised."""
        if self.failure is not None:
            raise self.failure
        found = self.result(lost="", late="")
        restarted = f"The cell was lost with its container: {why}. {GONE}"
        return replace(found, status=self._asked or "died", error=self._refused, restarted=restarted)

    def _outcome(self) -> tuple[CellStatus, str, str]:
        """(status, error, restarted)."""
        if self._done is not None:
            if self._done.status == "interrupted":
                return self._asked or "error", self._refused or self._done.error, ""
            return self._done.status, self._done.error, ""
        if self._asked is not None and not self.violation:
            late = f"ran longer than {self.timeout:g} s and " if self._asked == "timeout" else ""
            how = f"; it did not stop, and {self._patience.interrupt:g} s later it was killed"
            how = how if self._killed else f"; then {self._reason}"
            return self._asked, self._refused, f"The cell {late}was interrupted{how}. {GONE}"
        return "died", "", f"The cell ended its Python process: {self._reason}. {GONE}"

    def _seconds(self) -> float:
        return self._loop.time() - self._began if self.started else 0.0

    def _captured(self, kind: bytes, tail: frames.Tail | None) -> Captured:
        head = "".join(self._heads[kind])
        if tail is None:
            return Captured(head, "", len(head.encode("utf-8", "replace")), 0)
        return Captured(head, tail.tail.decode("utf-8", "replace"), tail.total, tail.dropped)
