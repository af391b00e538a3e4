"""`Conversion`: files -> their text, from the cache or by converter processes, one for each processor.

Nothing here looks into a file or trusts what comes out of a worker: names are cleaned, sizes are measured.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from ...disk import disk_error, most_for
from ...errors import InputError
from ...in_place import open_in_place
from ..archives import safe_name
from ..walk import UnusableError
from .cache import MOST_CACHED, Cache, Converted, key_of, private, read_entry, write_entry
from .formats import NAMED

SECONDS = 120
SECONDS_PER_MB = 1
"""How long a file may take, at its size."""
MOST_PROCESSES = 8
GRACE = 30
"""Seconds after which a converter that should have ended its worker is itself ended."""
PIECE = 1 << 20
WHOLE = "all"
"""What a worker writes into, in the folder of the entry."""
ANY_SIZE = 1 << 62
TITLE = "the text of documents"

ConvertProgress = Callable[[int, int], None]
"""Files done, of how many. It may raise to stop."""

START = "import sys; sys.path.insert(0, sys.argv[1]); import rlm_cli; del sys.path[0]; \
from rlm_cli.sources.convert.process import main; main()"


class Job(NamedTuple):
    """A file to be converted: `title` is its name for people, `format` one of `formats.NAMED`."""

    path: str
    title: str
    format: str


@dataclass(frozen=True)
class Task:
    """A job while a converter is at it: `home` will be its entry of the cache, by the name `key`."""

    number: int
    job: Job
    source: BufferedReader
    before: os.stat_result
    home: Path
    key: str
    seconds: int

    def close(self) -> None:
        """Leave nothing but the entry, if it was kept."""
        self.source.close()
        shutil.rmtree(self.home, ignore_errors=True)


@dataclass
class Slot:
    """A converter process, and what it is at."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    task: Task | None = None
    deadline: float = 0.0
    said: bytearray = field(default_factory=bytearray)


@dataclass
class Conversion:
    """The conversions of one command. Texts are kept in `cache`, else in `spool`, which whoever called removes.

    `limit`: most bytes of text in all, None: any.
    """

    spool: Path
    cache: Cache | None = None
    limit: int | None = None
    on_progress: ConvertProgress | None = None
    bytes: int = 0
    _slots: list[Slot] = field(default_factory=list)
    _done: int = 0
    _made: bool = False

    def run(self, jobs: Sequence[Job]) -> list[Converted | UnusableError]:
        """The text of each, in order; blocks on the disk and the processors.

        A file that cannot be converted is an `UnusableError` in the list. Raises `InputError` when `limit` is reached
        or the disk is full, and what `on_progress` raises.
        """
        results: dict[int, Converted | UnusableError] = {}
        try:
            for number, result in self._results(jobs):
                results[number] = result
                self._done = len(results)
                self._count(jobs[number], result)
                if self.on_progress is not None:
                    self.on_progress(len(results), len(jobs))
        finally:
            for slot in self._slots:
                stop(slot)
            self._slots.clear()
        if self.cache is not None and self._made:
            self.cache.prune()
        return [results[number] for number in range(len(jobs))]

    def _results(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Converted | UnusableError]]:
        most = min(MOST_PROCESSES, os.cpu_count() or 1)
        for number, job in enumerate(jobs):
            while len(self._busy()) >= most:
                yield from self._wait(len(jobs))
            found: Converted | UnusableError | None
            try:
                found = self._begin(number, job)
            except OSError as error:
                found = UnusableError("unreadable", error.strerror or str(error))
            if found is not None:
                yield number, found
        while self._busy():
            yield from self._wait(len(jobs))

    def _busy(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.task is not None]

    def _wait(self, count: int) -> Iterator[tuple[int, Converted | UnusableError]]:
        """What some of the busy converters say, or have not said in time."""
        with selectors.DefaultSelector() as selector:
            for slot in self._busy():
                selector.register(slot.channel, selectors.EVENT_READ, slot)
            ready = {id(key.data) for key, _ in selector.select(1.0)}
        if not ready and self.on_progress is not None:
            # It may want to stop us.
            self.on_progress(self._done, count)
        for slot in self._busy():
            answer = listen(slot) if id(slot) in ready else None
            if answer is None and time.monotonic() > slot.deadline:
                answer = {"failed": "it took too long to convert", "broken": True}
            task = slot.task
            if answer is not None and task is not None:
                slot.task = None
                if answer.get("broken"):
                    self._slots.remove(slot)
                    stop(slot)
                try:
                    yield task.number, self._finish(task, answer)
                finally:
                    task.close()

    # -- one file -------------------------------------------------------------------------------------------------

    def _begin(self, number: int, job: Job) -> Converted | None:
        """What the cache has, or None, and a converter is at it. Raises `OSError`."""
        descriptor = open_in_place(job.path)
        source = os.fdopen(descriptor, "rb")
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(0, "it is no regular file any more")
            cache = self.cache if before.st_size <= MOST_CACHED else None
            key = key_of(source, NAMED[job.format].version) if cache is not None else ""
            found = cache.find(key) if cache is not None else None
            if found is not None:
                source.close()
                return found
            source.seek(0)
            try:
                home = (cache or Cache(self.spool)).new()
            except OSError as error:
                raise disk_error(error, self.spool, TITLE) from error
        except BaseException:
            source.close()
            raise
        seconds = SECONDS + SECONDS_PER_MB * (before.st_size >> 20)
        self._send(Task(number, job, source, before, home, key, seconds))
        return None

    def _send(self, task: Task) -> None:
        slot = next((slot for slot in self._slots if slot.task is None), None)
        if slot is None:
            slot = start()
            self._slots.append(slot)
        slot.task, slot.deadline = task, time.monotonic() + task.seconds + GRACE
        form = NAMED[task.job.format]
        message = {"format": form.name, "title": form.title, "seconds": task.seconds, "most": self._room(task.home)}
        try:
            target = private(str(task.home / WHOLE), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except OSError as error:
            raise disk_error(error, task.home, TITLE) from error
        try:
            socket.send_fds(slot.channel, [json.dumps(message).encode() + b"\n"], [task.source.fileno(), target])
        except OSError:
            # It is gone, which shows again when its answer is awaited.
            slot.deadline = 0.0
        finally:
            os.close(target)

    def _room(self, home: Path) -> int:
        """Most bytes for the next text."""
        left = ANY_SIZE if self.limit is None else self.limit - self.bytes + 1
        return max(1, min(most_for(home), left))

    def _finish(self, task: Task, answer: dict[str, Any]) -> Converted | UnusableError:
        """The text in its place, or why there is none."""
        after = os.fstat(task.source.fileno())
        if (after.st_size, after.st_mtime_ns) != (task.before.st_size, task.before.st_mtime_ns):
            return UnusableError("unconverted", "it changed while it was being read")
        if answer.get("too_large"):
            raise self._too_large(task)
        if not isinstance(answer.get("report"), dict):
            return UnusableError("unconverted", str(answer.get("failed", "what reads it ended without a word")))
        return self._keep(task.home, task.key, answer["report"])

    def _keep(self, home: Path, key: str, report: dict[str, Any]) -> Converted | UnusableError:
        """Cut the text into its parts, and put them where they stay. The report is a worker's: nothing in it is true
        until it is seen to be."""
        try:
            parts = split(home, [(str(name), int(size)) for name, size in report["parts"]])
            write_entry(home, parts, str(report["refused"])[:1000])
            if key and self.cache is not None:
                self._made = True
                return read_entry(self.cache.keep(home, key))
            return read_entry(home.rename(home.with_name(home.name.removeprefix("new-"))))
        except OSError as error:
            raise disk_error(error, home, TITLE) from error
        except (ValueError, TypeError, KeyError):
            return UnusableError("unconverted", "what reads it reported nonsense")

    def _count(self, job: Job, result: Converted | UnusableError) -> None:
        if isinstance(result, Converted):
            self.bytes += sum(part.size for part in result.parts)
        if self.limit is not None and self.bytes > self.limit:
            raise over_limit(job)

    def _too_large(self, task: Task) -> InputError:
        if self.limit is not None and (task.home / WHOLE).stat().st_size >= self.limit - self.bytes:
            return over_limit(task.job)
        return disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), task.home, TITLE)


def start() -> Slot:
    """A converter, with nothing of ours but one end of a socket."""
    ours, theirs = socket.socketpair()
    root = str(Path(__file__).resolve().parents[3])
    with theirs:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-X", "utf8", "-c", START, root],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            process_group=0,
        )
    return Slot(process, ours)


def stop(slot: Slot) -> None:
    """End a converter, and the worker that it may have."""
    if slot.task is not None:
        slot.task.close()
    slot.channel.close()
    try:
        # It ends its worker and itself when the socket is closed.
        slot.process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(slot.process.pid, 9)
        slot.process.wait()


def listen(slot: Slot) -> dict[str, Any] | None:
    """What a converter says, as far as it is complete."""
    try:
        piece = slot.channel.recv(1 << 16)
    except OSError:
        piece = b""
    if not piece:
        return {"failed": "what converts it was ended from outside: no memory left?", "broken": True}
    slot.said += piece
    if not slot.said.endswith(b"\n"):
        return None
    answer = json.loads(slot.said)
    slot.said.clear()
    return dict(answer)


def split(home: Path, parts: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """`home`/all as `0`, `1` ..., with names that are safe and different. Raises `ValueError` where sizes lie."""
    whole = home / WHOLE
    if not parts:
        whole.unlink()
        return []
    if sum(size for _, size in parts) != whole.stat().st_size or any(size < 0 for _, size in parts):
        raise ValueError(parts)
    if len(parts) == 1:
        whole.rename(home / "0")
        return [(safe_name(parts[0][0]) if parts[0][0] else "", parts[0][1])]
    named: dict[str, int] = {}
    with whole.open("rb") as file:
        for number, (raw, size) in enumerate(parts):
            name = safe_name(raw.replace("/", "_"))
            while name in named:
                name = f"{number}-{name}"
            named[name] = size
            with open(home / str(number), "xb", opener=private) as part:
                left = size
                while left:
                    left -= part.write(file.read(min(left, PIECE)))
    whole.unlink()
    return list(named.items())


def over_limit(job: Job) -> InputError:
    return InputError(
        f"{job.title}, as text, makes the sources larger than --max-input allows",
        hint="name less, leave some out with -g '!PATTERN', or raise it: --max-input none",
        code="over_max_input",
    )
