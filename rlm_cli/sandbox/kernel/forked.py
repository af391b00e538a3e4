"""Work done by forked processes, in order: both cores, in constant memory, and never fewer results than without.

The jobs are dealt out in turn; each child writes its results to a pipe, which holds it up when nobody reads. What a
child does not deliver, for whatever reason, is done here. A child has no link, answers no frame and leaves by _exit;
the supervisor kills it with the worker, and the end of the cell kills it too.
"""

from __future__ import annotations

import gc
import marshal
import os
import signal
from contextlib import nullcontext

from . import facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NoReturn

    Work = Callable[[Any, Any], Iterator[tuple[Any, ...]]]
    """(job, where to go on; None: at its start) -> its results, each a tuple of what `marshal` takes that begins with
    where to go on behind it."""

MOST = 8
"""Processes at once, of all scans together."""
PIPE = 1 << 18
END = b"\0\0\0\0"

shield: Any = nullcontext()
"""Within it no KeyboardInterrupt is raised: the worker's `Interrupts`."""
in_child = False
"""Whether this is one of the forked processes."""
_live: set[Pool] = set()


class Lost(Exception):  # noqa: N818
    """A child ended before its job did."""


def processes() -> int:
    """How many may run at once: what the CPU set and the cgroup's quota allow; 1 where a fork is not possible."""
    if not hasattr(os, "fork"):
        return 1
    try:
        count = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        count = os.cpu_count() or 1
    for path in facts.cgroup_paths("cpu", "", "cpu.max"):
        quota, _, period = facts.read(path).strip().partition(" ")
        if quota.isdigit() and period.isdigit():
            return max(1, min(count, MOST, int(quota) // int(period)))
    for path in facts.cgroup_paths("cpu", "cpu.cfs_quota_us", ""):
        quota, period = facts.read(path).strip(), facts.read(path.replace("quota", "period")).strip()
        if quota.isdigit() and period.isdigit():
            return max(1, min(count, MOST, int(quota) // int(period)))
    return min(count, MOST)


def results(work: Work, jobs: Sequence[Any], count: int, at: Any = None) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(number of the job, result) in the order of the jobs, from `count` processes (1: this one). `at`: where the first
    job goes on."""
    if at is not None and jobs:
        # Before there is a pool: a child that was dealt this job would do the whole of it.
        for result in work(jobs[0], at):
            yield 0, result
        for number, result in results(work, jobs[1:], count):
            yield number + 1, result
        return
    pool = Pool(work, jobs, count) if count > 1 and len(jobs) > 1 and not in_child else None
    try:
        for number, job in enumerate(jobs):
            done = None
            try:
                if pool is None:
                    raise Lost
                for result in pool.results(number):
                    done = result[0]
                    yield number, result
            except Lost:
                for result in work(job, done):
                    yield number, result
    finally:
        if pool is not None:
            pool.close()


def end_all() -> None:
    """Kill what is left of every scan; one that goes on does so in this process."""
    for pool in list(_live):
        pool.kill()


class Pool:
    """Children, and our ends of their pipes. One that could not be started is one that is lost."""

    def __init__(self, work: Work, jobs: Sequence[Any], count: int) -> None:
        self._pid = os.getpid()
        self._pids: list[int] = []
        self._ends: list[int] = []
        self._started = min(count, len(jobs), MOST - sum(len(pool._pids) for pool in _live))
        with shield:
            _live.add(self)
            try:
                for number in range(self._started):
                    self._start(work, jobs[number :: self._started])
            except OSError:  # no more processes, descriptors or memory
                pass

    def _start(self, work: Work, jobs: Sequence[Any]) -> None:
        reader, writer = os.pipe()
        try:
            pid = fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if pid == 0:
            become_child(work, jobs, writer)
        os.close(writer)
        self._pids.append(pid)
        self._ends.append(reader)

    def results(self, number: int) -> Iterator[tuple[Any, ...]]:
        """Of a job, which must be asked for in order. Raises `Lost`."""
        if self._started < 1 or os.getpid() != self._pid:
            raise Lost
        child = number % self._started
        while True:
            size = int.from_bytes(self._read(child, 4), "little")
            if not size:
                return
            yield marshal.loads(self._read(child, size))  # noqa: S302 - from a fork of this process

    def _read(self, child: int, size: int) -> bytes:
        parts = []
        while size:
            if child >= len(self._ends):
                raise Lost
            data = os.read(self._ends[child], min(size, PIPE))
            if not data:
                raise Lost
            parts.append(data)
            size -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def kill(self) -> None:
        """Kill the children and wait for them. In a fork of this process: nothing, they are not its own."""
        if os.getpid() != self._pid:
            return
        with shield:
            _live.discard(self)
            pids, self._pids = self._pids, []
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                except OSError:
                    pass  # somebody else has waited for it

    def close(self) -> None:
        self.kill()
        with shield:
            ends, self._ends = self._ends, []
            for end in ends:
                os.close(end)


def fork() -> int:
    """os.fork; from Python 3.12 on that warns of other threads, whose locks a child of ours does not take."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def become_child(work: Work, jobs: Sequence[Any], writer: int) -> NoReturn:
    """Do the jobs and leave. Whatever goes wrong is met again, and reported, by the parent."""
    global in_child
    status = 1
    try:
        in_child = True
        for caught in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(caught, signal.SIG_DFL)
        gc.disable()
        os.dup2(writer, 3)  # model code's files and the worker's link are closed
        os.closerange(4, 1024)
        grow(3)
        for job in jobs:
            for result in work(job, None):
                data = marshal.dumps(result)
                write_all(len(data).to_bytes(4, "little") + data)
            write_all(END)
        status = 0
    finally:
        os._exit(status)


def grow(fd: int) -> None:
    """A bigger pipe lets a child run ahead; the system may refuse."""
    import fcntl

    try:
        fcntl.fcntl(fd, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE)
    except OSError:
        pass


def write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(3, view) :]
