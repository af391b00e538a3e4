"""A signal that comes very early, one in the pager, and a second one when what it interrupts holds the terminal."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .test_data_commands import record_run

PROGRAM = """
import asyncio, os, signal, threading
from rlm_cli.cli.interrupts import Interrupts, handling

drawing = threading.Lock()

def say(line):
    with drawing:
        print(line, flush=True)
        os.kill(os.getpid(), signal.SIGINT)  # arrives while the first one's line is being drawn

def quiet():
    with drawing:
        print("never drawn", flush=True)

async def work():
    main = asyncio.ensure_future(asyncio.sleep(60))
    with handling(Interrupts(main, say, quiet, lambda: print("containers removed", flush=True))):
        os.kill(os.getpid(), signal.SIGINT)
        await main

asyncio.run(work())
"""


def test_a_second_signal_that_finds_the_terminal_taken_still_says_what_it_did() -> None:
    """The line being drawn never gets to its end, so its lock is never free again: past it, and with the exit code."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 130
    assert done.stdout.splitlines() == ["interrupted: stopping the run; again to kill it", "containers removed"]
    assert done.stderr == "\nrlm: killed\n"


STARTING = """
import os, signal, sys

class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Pressed())
from rlm_cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "pydantic", "rlm_cli.cli.config_command"])
def test_ctrl_c_while_the_command_is_still_being_imported(module: str) -> None:
    """Before the signals are ours, while Typer reads the line, and while the verb is loaded: one line and exit 130,
    no traceback and no silence."""
    line = [sys.executable, "-c", STARTING, "config", module]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, "rlm: error: interrupted [interrupted]\n", "")


PAGER = """
import signal, sys
sys.stdin.read()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("paged", flush=True)
print("the pager got it" if signal.sigtimedwait([signal.SIGINT], 30) else "it did not come")
"""


def test_ctrl_c_in_the_pager_is_the_pagers(home: Path) -> None:
    """less stays, and whoever killed it for a Ctrl-C would leave a terminal without echo."""
    record_run(home, "20261120-153012-a1b2c3")
    terminal, inside = os.openpty()
    env = {**os.environ, "TERM": "xterm", "LINES": "5", "PAGER": shlex.join([sys.executable, "-c", PAGER])}
    line = [sys.executable, "-m", "rlm_cli", "runs", "show"]
    process = subprocess.Popen(line, stdout=inside, stderr=inside, env=env, start_new_session=True)
    os.close(inside)
    seen = b""
    while b"paged" not in seen and select.select([terminal], [], [], 30)[0]:
        seen += os.read(terminal, 4096)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0
    assert b"the pager got it" in os.read(terminal, 4096)
    os.close(terminal)


def test_a_question_that_is_left_ends_its_line(home: Path) -> None:
    """Ctrl-D (and Ctrl-C, as the same exception): what is said of it does not stand behind the question."""
    record_run(home, "20261120-153012-a1b2c3")
    terminal, inside = os.openpty()
    line = [sys.executable, "-m", "rlm_cli", "runs", "rm", "last"]
    process = subprocess.Popen(line, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    os.write(terminal, b"\x04")
    assert process.wait(60) == 130
    assert b"[y/N]: \r\nrlm: " in os.read(terminal, 4096)
    os.close(terminal)
