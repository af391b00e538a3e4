"""H05: Ctrl-C once, twice and three times, in a cell, while a model is waited for, while the sandbox starts, and while
the engine hangs; a terminal that closes. The model is a script, so that no run imports what it does not need.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.test_engine_errors import fake_engine

from .conftest import containers_of, until

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
CELL: dict[str, Any] = {"reply": ["```repl", "print('two refunds')", "```"]}
HANGS: dict[str, Any] = {"reply": ["```repl", "print('on')", "import time; time.sleep(600)", "```"]}
STUBBORN: dict[str, Any] = {"reply": ["```repl", "sum(range(10**12))", "```"]}
WAITS: dict[str, Any] = {"reply": "never", "delay_s": 600}


@dataclass
class Terminal:
    """A command in a terminal of its own."""

    process: subprocess.Popen[bytes]
    master: int
    folder: Path
    before: list[Any]
    seen: bytes = b""

    def until(self, words: str, *, seconds: float = 60) -> None:
        """Read until the screen has had these words."""
        deadline = time.monotonic() + seconds
        while words.encode() not in self.seen:
            assert time.monotonic() < deadline and self._read(0.2), self.seen.decode(errors="replace")

    def type(self, keys: bytes) -> None:
        """As a person does: the terminal makes a signal of ^C."""
        os.write(self.master, keys)

    def end(self, *, seconds: float = 30) -> int:
        """The exit code; all that was shown is in `seen`."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.seen.decode(errors="replace")
            self._read(0.1)
        # What it wrote last may still be on its way through the terminal, whose end shows when all has been read.
        last = time.monotonic() + 2
        while time.monotonic() < last and self._read(0.1):
            pass
        return self.process.returncode

    def _read(self, wait: float) -> bool:
        if not select.select([self.master], [], [], wait)[0]:
            return wait > 0
        with contextlib.suppress(OSError):
            data = os.read(self.master, 65536)
            self.seen += data
            return bool(data)
        return False

    def is_sane(self) -> bool:
        """The terminal is as it was (echo, line mode), the cursor shown, no colour left on, no other screen."""
        shown = re.findall(rb"\x1b\[\?25([hl])", self.seen)[-1:] in ([], [b"h"])
        main_screen = re.findall(rb"\x1b\[\?1049([hl])", self.seen)[-1:] in ([], [b"l"])
        plain = re.findall(rb"\x1b\[([\d;]*)m", self.seen)[-1:] in ([], [b"0"], [b""])
        return (termios.tcgetattr(self.master), shown, main_screen, plain) == (self.before, True, True, True)

    def runs(self) -> list[Any]:
        """The last event of each run's record."""
        records = (self.folder / "rlm" / "runs").glob("*/events.jsonl")
        return [json.loads(path.read_text().splitlines()[-1]) for path in records]


class Terminals:
    """Opens terminals, and closes them at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: list[Terminal] = []

    def ask(self, *script: dict[str, Any], words: Sequence[str] = (), **env: str) -> Terminal:
        """`rlm ask` with a script for a model."""
        (self.folder / "a.txt").write_text("hello\n")
        (self.folder / "script.jsonl").write_text("\n".join(map(json.dumps, script)))
        master, slave = pty.openpty()
        line = [sys.executable, "-m", "rlm_cli", "ask", "a.txt", "Q", "-m", "scripted:script.jsonl", "--mode", "rlm"]
        process = subprocess.Popen(
            [sys.executable, "-c", LEADER, *line, *words],
            cwd=self.folder,
            env={**os.environ, "RLM_HOME": str(self.folder / "rlm"), "PYTHONPATH": str(ROOT), "TERM": "xterm", **env},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        made = Terminal(process, master, self.folder, termios.tcgetattr(slave))
        os.close(slave)
        self._open.append(made)
        return made

    def close(self) -> None:
        for each in self._open:
            each.process.kill()
            each.process.wait()
            with contextlib.suppress(OSError):
                os.close(each.master)


# The session's leader takes the terminal, and then is the command; a `&` before the tests may have ignored ^C for all.
LEADER = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    opened = Terminals(tmp_path)
    yield opened
    opened.close()


def test_h05_once_in_a_cell(terminals: Terminals) -> None:
    """^C: the partial answer, exit 130, a whole record, a sane terminal, no container."""
    terminal = terminals.ask(CELL, HANGS)
    terminal.until("step 2 · running code")
    terminal.type(b"\x03")
    assert terminal.end() == 130
    assert b"interrupted" in terminal.seen
    assert b"two refunds" in terminal.seen
    assert terminal.is_sane(), terminal.seen
    assert [last["type"] for last in terminal.runs()] == ["run.finished"]
    assert containers_of(terminal.process.pid) == []


def test_h05_twice_in_a_cell_that_does_not_stop(terminals: Terminals) -> None:
    """The second does not wait for the two seconds that the first gives a cell: its container is killed."""
    terminal = terminals.ask(STUBBORN)
    terminal.until("step 1 · running code")
    terminal.type(b"\x03")
    terminal.until("again to kill it")
    terminal.type(b"\x03")
    assert terminal.end(seconds=10) == 130
    assert b"rlm: killed" in terminal.seen
    assert terminal.is_sane(), terminal.seen
    until(lambda: containers_of(terminal.process.pid) == [], seconds=5)


def test_h05_while_a_model_is_waited_for(terminals: Terminals) -> None:
    """^C while the model thinks: at once, with what was found."""
    terminal = terminals.ask(CELL, WAITS)
    until(lambda: any("step.finished" in path.read_text() for path in terminal.folder.glob("rlm/runs/*/events.jsonl")))
    terminal.type(b"\x03")
    assert terminal.end() == 130
    assert b"two refunds" in terminal.seen
    assert terminal.is_sane(), terminal.seen
    assert containers_of(terminal.process.pid) == []


def test_h05_a_terminal_that_closes(terminals: Terminals) -> None:
    """SIGHUP is a SIGTERM: exit 143 and a whole record, although nobody can be told any more; nothing is left."""
    terminal = terminals.ask(HANGS)
    until(lambda: any("code.written" in path.read_text() for path in terminal.folder.glob("rlm/runs/*/events.jsonl")),
          seconds=60)  # fmt: skip
    os.close(terminal.master)
    assert terminal.process.wait(30) == 143
    (last,) = terminal.runs()
    assert (last["type"], last["result"]["error"]["message"]) == ("run.finished", "terminated by SIGHUP")
    assert containers_of(terminal.process.pid) == []


def test_h05_one_that_our_caller_ignores_stays_ignored(terminals: Terminals) -> None:
    """`nohup rlm ask` outlives its terminal."""
    (terminals.folder / "a.txt").write_text("code=BLUE\n")
    line = f"trap '' HUP; exec {sys.executable} -m rlm_cli ask - 'What is the code?' -m offline --mode rlm"
    process = subprocess.Popen(
        ["sh", "-c", line],
        cwd=terminals.folder,
        env={**os.environ, "RLM_HOME": str(terminals.folder / "rlm"), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: any(terminals.folder.glob("rlm/runs/*/stdin")))
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(b"code=BLUE\n", timeout=60)
    assert (process.returncode, out) == (0, b"BLUE\n")


@pytest.mark.parametrize(("stage", "presses"), [("GET /images/", 1), ("POST /containers/create", 2), ("GET /info", 3)])
def test_h05_while_the_sandbox_starts(terminals: Terminals, stage: str, presses: int) -> None:
    """The engine hangs over the image, over its facts, over the new container: once is enough while nothing runs, and
    otherwise the second or at the latest the third leaves; 130, and no traceback."""
    with fake_engine({stage: (0, "")}) as fake:
        terminal = terminals.ask(HANGS, DOCKER_HOST=fake.address)
        until(lambda: any(asked.startswith(stage) for asked in fake.asked), seconds=60)
        for _ in range(presses):
            terminal.type(b"\x03")
            time.sleep(0.1)  # a person's fingers: signals of one kind that come at once are one
        code = terminal.end(seconds=20)
    assert (code, b"Traceback" in terminal.seen, terminal.is_sane()) == (130, False, True), terminal.seen
