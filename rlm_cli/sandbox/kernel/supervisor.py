"""PID 1 of the container: owns the stream to the host, starts the worker, and never runs model code.

One thread, one poll loop. It buffers and cuts the worker's output, forwards frames without reading them, kills and
replaces a worker that dies or misbehaves, and leaves when the host is gone: at end-of-file, on `Q`, or after a minute
without a frame.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import sys
import termios
import time
from collections import deque

from . import wire
from .blobs import Blobs
from .capture import Capture
from .confinement import UNCONFINED, Plan, confine, set_dumpable
from .facts import OomCounter, boot_facts, memory_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

SILENCE = 60
"""Seconds without a frame from the host, after which it is taken for dead."""
COALESCE = 0.05
"""Seconds that output waits for more of itself."""
COALESCE_BYTES = 32 * 1024
PIPE_SIZE = 1024 * 1024
FRAMES_SIZE = 64 * 1024
"""Bytes of the worker's frames that are read in one turn: they may be thousands, and orders of the host wait for it."""
DYING = 5
"""Seconds that killed processes may take to be gone."""


def unread(fd: int) -> int:
    """Bytes waiting in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


def write_all(fd: int, *parts: bytes | memoryview) -> None:
    """One after the other, not joined: a frame may be of a size that we should not hold twice."""
    written = os.writev(fd, parts)
    for part in parts:
        rest = memoryview(part)[written:]
        written = max(0, written - len(part))
        while rest:
            rest = rest[os.write(fd, rest) :]


def grow(fd: int) -> None:
    """A bigger pipe halves the cost of a flood; the system may refuse."""
    try:
        fcntl.fcntl(fd, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_SIZE)
    except OSError:
        pass


class Worker:
    """A running worker, as seen from outside: its pid and our ends of its four pipes."""

    def __init__(self, pid: int, commands: int, frames: int, outputs: dict[int, bytes], facts: dict[str, Any]) -> None:
        self.pid = pid
        self.facts = facts
        """What holds of its confinement, as it said itself before any model code ran in it."""
        self.commands = commands
        self.frames = frames
        self.outputs = outputs
        """Our end of stdout and of stderr -> the frame type that carries it."""
        self.splitter = wire.Splitter(wire.FROM_WORKER, limit=wire.WORKER_MAX)
        self.outbox: deque[memoryview] = deque()
        for fd in (commands, frames, *outputs):
            os.set_blocking(fd, False)

    def push(self) -> None:
        """Write what the command pipe takes now. A worker that is gone takes nothing; its exit is noticed elsewhere."""
        try:
            while self.outbox:
                rest = self.outbox[0][os.write(self.commands, self.outbox[0]) :]
                if rest:
                    self.outbox[0] = rest
                else:
                    self.outbox.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.outbox.clear()

    def close(self) -> None:
        for fd in (self.commands, self.frames, *self.outputs):
            os.close(fd)


def start_worker(plan: Plan) -> Worker:
    """Fork a worker with pipes of its own, /dev/null as its stdin, and wait until it is confined."""
    commands, frames, out, err, facts = (os.pipe() for _ in range(5))
    for pipe in (frames, out, err):
        grow(pipe[1])
    pid = os.fork()
    if pid == 0:
        become_worker(commands[0], frames[1], out[1], err[1], facts[1], plan)
    os.setpgid(pid, pid)  # before anybody may want to kill the group
    for fd in (commands[0], frames[1], out[1], err[1], facts[1]):
        os.close(fd)
    with open(facts[0], "rb") as said:
        told = said.read().decode("ascii")
    confined = wire.parse_json(told) if told else {**UNCONFINED, "failures": ["it died before it could say"]}
    return Worker(pid, commands[1], frames[0], {out[0]: b"o", err[0]: b"e"}, confined)


def become_worker(commands: int, frames: int, out: int, err: int, facts: int, plan: Plan) -> NoReturn:
    """The child's side of the fork: keep nothing of the supervisor's, be confined and say so, then run cells."""
    status = wire.BROKEN
    try:
        signal.set_wakeup_fd(-1)
        for caught in (signal.SIGCHLD, signal.SIGALRM):
            signal.signal(caught, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for fd, number in ((null, 0), (out, 1), (err, 2)):
            os.dup2(fd, number)
        # Numbers that nothing else uses, so that everything else can be closed.
        commands, frames, facts = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200) for fd in (commands, frames, facts))
        os.closerange(3, 200)
        set_dumpable(True)  # else /proc/self belongs to root, and subprocess and oom_score_adj need it
        write_all(facts, wire.header(confine(plan))[4:])
        os.close(facts)
        from .worker import main as work

        work(commands, frames)
        status = 0
    except BaseException:
        import traceback

        write_all(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(status)


class Supervisor:
    """The loop. `host_in` and `host_out` are the stream to the host; `place` is where `Blobs` puts what it streams;
    `plan` says how workers are confined."""

    def __init__(self, host_in: int, host_out: int, place: str, plan: Plan) -> None:
        self.host_in = host_in
        self.host_out = host_out
        self.is_init = os.getpid() == 1
        self.commands = wire.Splitter(wire.FROM_HOST)
        self.last_heard = time.monotonic()
        self.in_cell = False
        self.captures = {b"o": Capture(), b"e": Capture()}
        self.late = Capture()
        self.flush_at: float | None = None
        self.violation = ""
        self.buried = 0
        """Workers that have died, and of which the host was told."""
        self.oom = OomCounter()
        self.oom_seen = self.oom.read()
        self.buffer = bytearray(PIPE_SIZE)
        self.view = memoryview(self.buffer)
        self.wakeup = self.install_signals()
        self.blobs = Blobs(place)
        self.plan = plan
        self.worker: Worker

    # -- starting and leaving

    def install_signals(self) -> int:
        """SIGCHLD wakes the loop. Others are ignored: as PID 1, what we handle is what a cell could send us."""
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, self.on_alarm)
        signal.alarm(SILENCE)
        return reader

    def on_alarm(self, *_: object) -> None:
        """Interrupts even a write that blocks because nobody reads. A cell may send SIGALRM too: look at the clock."""
        left = self.last_heard + SILENCE - time.monotonic()
        if left <= 0.5:
            self.kill_all()
            write_all(2, f"{wire.DESERTED} for {SILENCE} s\n".encode())
            self.leave()
        signal.alarm(max(1, int(left)))

    def run(self) -> NoReturn:
        facts = boot_facts()
        facts["dumpable"] = not set_dumpable(False)
        self.send_facts(b"b", version=wire.VERSION, **facts)
        from . import worker  # noqa: F401 - so that a forked worker starts in 7 ms, not 50

        gc.collect()
        gc.freeze()
        if not self.blobs.complete:
            grow(self.host_in)
        while not (self.blobs.complete and self.blobs.starts_worker):  # where a volume is filled, until `Q`
            self.read_host()
        self.spawn()
        while True:
            self.turn()

    def spawn(self) -> None:
        self.worker = start_worker(self.plan)
        self.poller = select.poll()
        for fd in (self.host_in, self.wakeup, self.worker.frames, *self.worker.outputs):
            self.poller.register(fd, select.POLLIN)
        self.send_facts(b"s", pid=self.worker.pid, **self.worker.facts)

    def leave(self) -> NoReturn:
        """As PID 1, our end is everybody's end."""
        self.kill_all()
        os._exit(0)

    def kill_all(self) -> None:
        """Atomic against fork bombs when we are PID 1; elsewhere (tests) only the worker's own group is ours."""
        try:
            if self.is_init:
                os.kill(-1, signal.SIGKILL)
            elif hasattr(self, "worker"):
                os.killpg(self.worker.pid, signal.SIGKILL)
        except OSError:
            pass  # nobody is left

    # -- one turn of the loop

    def turn(self) -> None:
        ready = {fd for fd, _ in self.poller.poll(self.patience())}
        worker = self.worker
        if self.host_in in ready:
            self.read_host()
        if worker.commands in ready:
            worker.push()
        for fd, kind in worker.outputs.items():
            if fd in ready:
                self.read_output(fd, kind, PIPE_SIZE)
        if worker.frames in ready:
            self.read_frames(FRAMES_SIZE)
        if self.wakeup in ready:
            os.read(self.wakeup, 4096)
            self.reap()
        self.watch_outbox()
        if self.flush_at is not None and time.monotonic() >= self.flush_at:
            self.flush()

    def patience(self) -> float | None:
        """Milliseconds until output must be flushed."""
        return None if self.flush_at is None else max(0.0, (self.flush_at - time.monotonic()) * 1000 + 0.5)

    def watch_outbox(self) -> None:
        """Poll the command pipe only while something waits for it."""
        if self.worker.outbox:
            self.poller.register(self.worker.commands, select.POLLOUT)
        else:
            try:
                self.poller.unregister(self.worker.commands)
            except KeyError:
                pass

    # -- the host

    def send(self, kind: bytes, *parts: bytes | memoryview) -> None:
        """Blocks while the host does not read: a flood waits in the worker's pipes, not in our memory."""
        try:
            write_all(self.host_out, wire.head(kind, sum(map(len, parts))), *parts)
        except OSError:
            self.leave()

    def send_facts(self, kind: bytes, **facts: object) -> None:
        self.send(kind, wire.header(facts)[4:])

    def read_host(self) -> None:
        size = os.readv(self.host_in, [self.view])
        if not size:
            self.leave()
        self.last_heard = time.monotonic()
        signal.alarm(SILENCE)
        try:
            for kind, payload in self.commands.feed(self.view[:size]):
                self.obey(kind, payload)
        except wire.Violation as error:  # our own host: the stream is garbled and cannot be trusted any more
            write_all(2, f"kernel: {error}\n".encode())
            self.leave()

    def obey(self, kind: bytes, payload: bytes) -> None:
        if kind == b"C":
            self.begin_cell()
        if kind in b"WC":
            self.worker.outbox.append(memoryview(wire.frame(b"W", payload)))
            self.worker.push()
        elif kind == b"I":
            os.kill(self.worker.pid, signal.SIGINT)
        elif kind == b"K":
            if payload == b"%d" % self.buried:  # else it is meant for a worker that is dead already
                self.kill_all()
        elif kind == b"P":
            self.send(b"p", payload)
        elif kind == b"D":
            self.send_facts(b"r", **self.blobs.take(payload))
        elif kind == b"Q":
            self.leave()

    # -- the worker's output

    def read_output(self, fd: int, kind: bytes, most: int) -> None:
        try:
            size = os.readv(fd, [self.view[: min(most, PIPE_SIZE)]])
        except BlockingIOError:
            return
        if size == 0:  # the cell closed its end; POLLHUP would spin
            self.poller.unregister(fd)
            return
        capture = self.captures[kind] if self.in_cell else self.late
        capture.add(self.view[:size])
        if self.flush_at is None and capture.pending:
            self.flush_at = time.monotonic() + COALESCE
        if capture.pending >= COALESCE_BYTES:
            self.flush()

    def drain(self) -> None:
        """Take exactly what is in the pipes now: everything written before the frame that follows, and no more."""
        for fd, kind in self.worker.outputs.items():
            left = unread(fd)
            while left > 0:
                self.read_output(fd, kind, left)
                left -= PIPE_SIZE

    def flush(self) -> None:
        self.flush_at = None
        captures = [*self.captures.items()] if self.in_cell else [(b"l", self.late)]
        for kind, capture in captures:
            piece = capture.take()
            if piece:
                self.send(kind, piece)

    def begin_cell(self) -> None:
        """What was written until now is late output of the cell before."""
        if not self.in_cell:
            self.drain()
            self.flush()
        self.in_cell = True
        self.captures = {b"o": Capture(), b"e": Capture()}

    def end_cell(self) -> None:
        """Send what is left of both streams, then `t`. Everything later is late output."""
        self.report_lost_children()
        ends = {kind: capture.finish() for kind, capture in self.captures.items()}
        for kind, end in ends.items():
            if end.head:
                self.send(kind, end.head)
        fields = {
            kind.decode(): {"total": end.total, "dropped": end.dropped, "tail": len(end.tail)}
            for kind, end in ends.items()
        }
        self.send(b"t", wire.header(fields), *(end.tail for end in ends.values()))
        self.in_cell = False
        self.late = Capture()
        self.flush_at = None

    def report_lost_children(self) -> None:
        """The worker lived on, but the system killed one of its processes: the cell may only see a missing result."""
        kills = self.oom.read()
        if kills > self.oom_seen:
            self.captures[b"e"].add(b"[kernel] a child process was killed: out of memory\n")
        self.oom_seen = kills

    # -- the worker's frames and its end

    def read_frames(self, most: int) -> None:
        try:
            data = os.read(self.worker.frames, most)
        except BlockingIOError:
            return
        if not data:
            self.poller.unregister(self.worker.frames)
            return
        try:
            for kind, payload in self.worker.splitter.lend(data):
                self.forward(kind, payload)
        except wire.Violation as error:
            self.violation = str(error)
            self.poller.unregister(self.worker.frames)
            self.kill_all()

    def forward(self, kind: bytes, payload: memoryview) -> None:
        """Output first: what the cell wrote before this frame must not be overtaken by it."""
        self.drain()
        if kind == b"d" and self.in_cell:
            self.end_cell()
        elif kind == b"d":
            return  # forged: no cell is running
        else:
            self.flush()
        self.send(kind, payload)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.worker.pid:
                self.bury(os.waitstatus_to_exitcode(status))

    def wait_for_the_dead(self) -> None:
        """Of a fork bomb, killed, every process counts against the limit until it is reaped: a worker that is started
        before would find no room for a thread. As PID 1 all of them are ours; elsewhere (tests) there are none."""
        give_up = time.monotonic() + DYING
        try:
            while time.monotonic() < give_up:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    time.sleep(0.001)
        except ChildProcessError:
            pass

    def bury(self, status: int) -> None:
        """The worker is dead: kill what it left, pass on its last words, say how it died, start another."""
        self.kill_all()
        kills = self.oom.read()
        out_of_memory = status == -signal.SIGKILL and kills > self.oom_seen
        self.oom_seen = kills
        if not self.violation:
            left = unread(self.worker.frames)
            if left:
                self.read_frames(left)
        self.drain()
        if self.in_cell:
            self.end_cell()
        else:
            self.flush()
        facts = {"status": status, "oom": out_of_memory, "memory_limit": memory_limit() or 0}
        self.send_facts(b"x", **facts, violation=self.violation)
        self.violation = ""
        self.buried += 1
        self.worker.close()
        self.wait_for_the_dead()
        self.spawn()


def main(place: str = "", alone: dict[str, Any] | None = None) -> NoReturn:
    """Both as the host gave them: see `kernel.boot`."""
    plan = Plan()
    if alone is not None:
        from .alone import prepare

        try:
            plan = prepare(**alone)
        except OSError as error:
            write_all(2, f"{error}\n".encode("utf-8", "replace"))
            os._exit(1)
    Supervisor(0, 1, place, plan).run()
