"""The forked process that runs the model's code: one thread reads commands, the main thread runs cells."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from contextlib import nullcontext
from queue import SimpleQueue
from threading import Thread, stack_size
from time import perf_counter

from . import context as corpus
from . import forked, wire
from .answers import Answers
from .calls import Calls
from .cells import Cells
from .display import format_error
from .facts import memory_limit
from .helpers import Helpers
from .idle import Idle, say_what_was_found
from .interrupts import Interrupts
from .link import Link
from .memory import STACK, Guard
from .streams import Streams
from .system import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_exit = os._exit
_write = os.write
_format_exc = traceback.format_exc
_clock = perf_counter


def c_flush() -> Any:
    """C's fflush, for output of C code that its library still holds."""
    try:
        return libc().fflush
    except OSError:  # no ctypes here: nothing a cell could call printf with either
        return lambda _: 0


class Worker:
    """The worker's state, and its loop."""

    def __init__(self, commands: int, frames: int) -> None:
        self.interrupts = Interrupts()
        self.interrupts.install()
        forked.shield = self.interrupts
        self.guard = Guard(memory_limit())
        if self.guard.most is not None:
            stack_size(STACK)
        self.link = Link(commands, frames, self.interrupts, self.guard)
        self.calls = Calls(self.link, self.interrupts)
        self.answers = Answers(self.link)
        self.streams = Streams()
        self.cells = Cells(self.interrupts, self.guard)
        self.helpers = Helpers(self.calls, self.answers, self.cells.namespace)
        self.inbox: SimpleQueue[tuple[dict[str, Any], bytes]] = SimpleQueue()
        self.fflush = c_flush()
        self.attached = False
        self.idle: Idle | None = None

    def read(self) -> NoReturn:
        """The reader thread: replies go where they are awaited, everything else to the main thread."""
        try:
            for fields, payload in self.link.received():
                if fields["op"] == "reply":
                    self.calls.on_reply(fields, payload)
                elif fields["op"] == "budget":
                    self.calls.on_budget(fields, payload)
                else:
                    self.inbox.put((fields, payload))
        finally:
            give_up()  # the pipe ends the process, not the loop; without a reader nothing would ever be heard again

    def run(self) -> NoReturn:
        self.streams.restore()
        Thread(target=self.read, name="kernel-reader", daemon=True).start()
        while True:
            fields, payload = self.inbox.get()
            if fields["op"] == "attach":
                self.attach(fields, payload)
            elif self.attached:  # a cell that overtook its attach was meant for a worker that is dead
                self.run_cell(fields["cell"], payload.decode("utf-8", "replace"))

    def attach(self, fields: dict[str, Any], payload: bytes) -> None:
        try:
            if fields["index"] is None:
                index = corpus.parse_index(payload.splitlines())
            else:
                with open(fields["index"], "rb") as lines:
                    index = corpus.parse_index(lines)
            cache = min(corpus.CACHE_BYTES, (memory_limit() or 1 << 60) // 16)
            context, facts = corpus.attach(index, fields["text_limit"], cache)
        except Exception as error:  # whatever is wrong with the input, the host must be told
            reason = getattr(error, "reason", "unreadable")
            message = str(error) or type(error).__name__
            self.link.send({"op": "attach_failed", "reason": reason}, message.encode("utf-8", "replace"))
            return
        if corpus.has_text(index, fields["text_limit"]):
            from . import bridges, regex

            regex.install(self.cells.namespace)
            bridges.install()
        self.helpers.install(context, index)
        self.answers.schema = fields["schema"]
        self.attached = True
        proof = wire.proof_lines(facts.pop("proof"))
        gc.freeze()
        self.link.send({"op": "attached", **facts}, proof)
        step = corpus.counting(context)
        if step is not None:
            self.idle = Idle(step)
            self.idle.start()

    def run_cell(self, number: int, source: str) -> None:
        self.streams.restore()
        self.interrupts.install()
        self.calls.cell = self.answers.cell = number
        started = _clock()
        with self.idle.held() if self.idle is not None else nullcontext():
            say_what_was_found()
            status, error = self.cells.run(number, source)
        if not self.link.is_ours():
            self.leave_fork(error)
        forked.end_all()
        self.helpers.put_back()
        self.streams.flush()
        self.fflush(None)
        if status == "ok":
            try:
                self.helpers.submit_plain_answer()
            except Exception as failure:  # its value's own __str__
                status, error = "error", format_error(failure)
        fields = {
            "op": "done",
            "cell": number,
            "status": status,
            "seconds": round(_clock() - started, 6),
            "variables": self.helpers.variables(),
        }
        self.link.send(fields, error.encode("utf-8", "replace"), kind=b"d")

    def leave_fork(self, error: str) -> NoReturn:
        """A process that the cell forked came back from it: it must not answer in the worker's name."""
        try:
            self.streams.flush()
            self.fflush(None)
            if error:
                sys.stderr.write(error + "\n")
        finally:
            _exit(1 if error else 0)


def give_up() -> NoReturn:
    """The kernel's own code failed, in whichever thread: say why, as far as that can be said, and end the process."""
    try:
        _write(2, _format_exc().encode("utf-8", "replace"))
    finally:
        _exit(wire.BROKEN)


def main(commands: int, frames: int) -> NoReturn:
    """Run as the worker, which is confined already. The process ends with its pipes."""
    try:
        Worker(commands, frames).run()
    finally:
        give_up()
