"""The converter: a process with an empty environment that takes one job after the other and forks a worker for each.

It imports what a format needs, once, and never looks into a file itself: that is done by the worker, which is forked
with the imports in place, confined, and gone afterwards, so that one file can do nothing to the next. A job comes over
a socket as one line of JSON with two descriptors, the source and the file for the text; the answer is a line of JSON.
When the socket is closed, everything ends.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from .confine import MEMORY, confine, die_with_parent
from .output import Output, RefusedError, report

MODULES = {
    "pdf": "pdf",
    "docx": "word",
    "pptx": "slides",
    "sheets": "sheets",
    "html": "pages",
    "notebook": "notebook",
    "sqlite": "database",
    "parquet": "parquet",
}
"""Format -> the module with the function of that name, a `Converter`."""

MOST_REPORT = 8 << 20
Converter = Callable[[int, Callable[[], None], Output], None]
"""Converts the file `source` into the output. It calls the second argument, once, before it looks at the content."""

TOO_LARGE = 90
NO_MEMORY = 91
"""Exit statuses of a worker that could not report."""


def main() -> None:
    """Serve standard input, a socket, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    with socket.socket(fileno=0) as channel:
        while True:
            # A job is one small message; the descriptors come with its first byte.
            data, descriptors, _, _ = socket.recv_fds(channel, 4096, 2)
            if not data:
                return
            while not data.endswith(b"\n"):
                data += channel.recv(4096)
            job = json.loads(data)
            try:
                answer = work(job, descriptors[0], descriptors[1], channel)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            if answer is None:
                return
            channel.sendall(json.dumps(answer).encode() + b"\n")


def work(job: dict[str, Any], source: int, target: int, channel: socket.socket) -> dict[str, Any] | None:
    """Convert one file in a worker; None: whoever asked is gone."""
    try:
        module = importlib.import_module(f".{MODULES[job['format']]}", __package__)
    except ImportError as error:
        return {"failed": f"what reads it is not installed completely ({error})"}
    convert = cast(Converter, getattr(module, job["format"]))
    read_end, write_end = os.pipe()
    parent = os.getpid()
    worker = os.fork()
    if worker == 0:
        os.close(read_end)
        channel.detach()
        be_worker(convert, job, source, target, write_end, parent)
    os.close(write_end)
    try:
        said = listen(read_end, channel, time.monotonic() + job["seconds"])
    finally:
        os.close(read_end)
        if not ended(worker):
            os.kill(worker, signal.SIGKILL)
        status = os.waitpid(worker, 0)[1]
    if said is None:
        return None
    return answer_of(said, status, job)


def ended(worker: int) -> bool:
    """Whether it has ended, or is about to: its report is complete. It stays to be waited for."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, worker, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.001)
    return False


def listen(pipe: int, channel: socket.socket, deadline: float) -> bytes | None:
    """What the worker reports until it closes the pipe or its time is over; None: whoever asked is gone."""
    said = bytearray()
    while (left := deadline - time.monotonic()) > 0 and len(said) <= MOST_REPORT:
        ready = select.select([pipe, channel.fileno()], [], [], left)[0]
        if channel.fileno() in ready:
            # Nobody sends before they have an answer.
            return None
        if pipe in ready:
            piece = os.read(pipe, 1 << 16)
            if not piece:
                return bytes(said)
            said += piece
    return b"timeout"


def answer_of(said: bytes, status: int, job: dict[str, Any]) -> dict[str, Any]:
    """What to say about a worker that is gone."""
    if said == b"timeout" or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return {"failed": f"it took longer than {job['seconds']} s to convert"}
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return {"failed": f"what reads it crashed ({name})"}
    if os.WEXITSTATUS(status) == TOO_LARGE:
        return {"too_large": True}
    if os.WEXITSTATUS(status) == NO_MEMORY:
        return {"failed": f"it needs more than {MEMORY >> 30} GiB of memory to convert"}
    try:
        answer = json.loads(said)
        return {"failed": answer["failed"]} if "failed" in answer else {"report": answer}
    except (ValueError, TypeError):
        return {"failed": "what reads it ended without a word"}


def be_worker(convert: Converter, job: dict[str, Any], source: int, target: int, pipe: int, parent: int) -> None:
    """Convert, report, and end; never return."""
    status = 1
    try:
        die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        said = attempt(convert, job, source, target)
        view = memoryview(said)
        while view:
            view = view[os.write(pipe, view) :]
        status = 0
    except MemoryError:
        status = NO_MEMORY
    except OSError as error:
        status = TOO_LARGE if error.errno in (errno.EFBIG, errno.ENOSPC) else 1
    finally:
        os._exit(status)


def attempt(convert: Converter, job: dict[str, Any], source: int, target: int) -> bytes:
    """The report of a conversion. Raises `MemoryError`, and `OSError` when there is no room for the text."""
    output = Output(target)

    def ready() -> None:
        confine(seconds=job["seconds"], output=job["most"])

    try:
        convert(source, ready, output)
        output.flush()
    except RefusedError as refused:
        return report([], str(refused))
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.ENOSPC):
            raise
        # Not a report: the next try, with other versions of what reads it, may end better.
        return json.dumps({"failed": f"it is damaged, or not what it says ({spoken(error)})"}).encode()
    if not output.words:
        return report([], "there is no text in it: a scan?" if job["format"] == "pdf" else "there is no text in it")
    return report(output.parts)


def spoken(error: Exception) -> str:
    """An error of a library, in a line."""
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{type(error).__name__}: {said}" if isinstance(error, (LookupError, AttributeError, TypeError)) else said


if __name__ == "__main__":
    main()
