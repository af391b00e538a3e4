"""Ctrl-C once and twice, SIGTERM, SIGKILL: the documented code, and no container left two seconds later."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess

import pytest

from .conftest import Shell, containers_of, send, until

pytestmark = pytest.mark.docker

HANGING_CELL = "```repl\nimport time\nprint('running')\ntime.sleep(60)\n```"


def running(shell: Shell, *more: str) -> subprocess.Popen[bytes]:
    """A run that is in the middle of a cell."""
    (shell.folder / "a.txt").write_text("hello\n")
    shell.server.policies["hangs"] = lambda turn: HANGING_CELL
    process = shell.start("ask", "a.txt", "Q", *shell.model("root/hangs"), *more)
    until(lambda: any(entry.finished for entry in shell.server.requests), seconds=40)
    until(lambda: bool(containers_of(process.pid)))
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_stops_the_run_and_keeps_its_record(shell: Shell, number: signal.Signals, code: int) -> None:
    """The run says so, ends with its code and a complete log, and its container is gone."""
    process = running(shell, "--json")
    send(process, number)
    done = shell.finish(process)
    assert (done.code, done.json["exit_code"], done.json["status"]) == (code, code, "error")
    assert "interrupted" in done.err
    assert shell.record()[-1]["type"] == "run.finished"
    assert containers_of(process.pid) == []


def test_ctrl_c_keeps_what_was_found(shell: Shell) -> None:
    """The last output of the code is the partial answer, with what the stopped cell had printed so far below it, said
    to be that; the code is still 130."""
    (shell.folder / "a.txt").write_text("hello\n")
    found = "```repl\nprint('two refunds')\n```"
    shell.server.policies["finds"] = lambda turn: HANGING_CELL if turn.step else found
    process = shell.start("ask", "a.txt", "Q", *shell.model("root/finds"))
    until(lambda: sum(entry.finished for entry in shell.server.requests) > 1, seconds=40)
    send(process, signal.SIGINT)
    done = shell.finish(process)
    assert (done.code, done.out.removesuffix(b"running\n")) == (130, b"two refunds\n")
    assert "last output of the model's code" in done.err
    assert "interrupted by Ctrl-C" in done.err


def test_a_second_ctrl_c_kills_at_once(shell: Shell) -> None:
    """Exit 130 without waiting for anything polite; no container left."""
    process = running(shell)
    send(process, signal.SIGINT)
    send(process, signal.SIGINT)
    done = shell.finish(process)
    assert done.code == 130
    until(lambda: not containers_of(process.pid), seconds=2)


def test_a_second_ctrl_c_leaves_nothing_of_a_run_without_a_log(shell: Shell) -> None:
    """--no-log: what was piped in is on no disk afterwards, however the run ended."""
    scratch = shell.folder / "rlm" / "cache" / "scratch"
    shell.server.policies["hangs"] = lambda turn: HANGING_CELL
    process = shell.start("ask", "-", "Q", "--no-log", *shell.model("root/hangs"), stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"secret\n")
    process.stdin.close()
    process.stdin = None
    until(lambda: any(entry.finished for entry in shell.server.requests), seconds=40)
    assert list(scratch.glob("*/stdin"))
    # Two signals at once, and two kinds, or the system might make one of them.
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        send(process, number)
    done = shell.finish(process)
    assert (done.code in (130, 143), "rlm: killed" in done.err, list(scratch.rglob("stdin"))) == (True, True, [])


def test_a_second_ctrl_c_leaves_nothing_unpacked(shell: Shell) -> None:
    """The run's record stays, and what was unpacked for it does not, however the run ended."""
    (shell.folder / "a.log.gz").write_bytes(gzip.compress(b"secret\n"))
    shell.server.policies["hangs"] = lambda turn: HANGING_CELL
    process = shell.start("ask", "a.log.gz", "Q", *shell.model("root/hangs"))
    until(lambda: any(entry.finished for entry in shell.server.requests), seconds=40)
    runs, scratch = shell.folder / "rlm" / "runs", shell.folder / "rlm" / "cache" / "scratch"
    assert [path.read_bytes() for path in scratch.glob("*/unpacked/0/0")] == [b"secret\n"]
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        send(process, number)
    done = shell.finish(process)
    assert (done.code in (130, 143), list(scratch.iterdir()), len(list(runs.glob("*/run.json")))) == (True, [], 1)


def test_sigkill_leaves_no_container(shell: Shell) -> None:
    """Nobody is left to clean up: the kernel notices that its host is gone. The log up to there is readable."""
    process = running(shell)
    process.kill()
    process.communicate(timeout=20)
    until(lambda: not containers_of(process.pid), seconds=2)
    assert shell.record()[0]["type"] == "run.started"


def test_ctrl_c_while_stdin_is_awaited(shell: Shell) -> None:
    """Before anything runs: 130, and what was spooled is not kept."""
    process = shell.start("ask", "-", "Q", "--json", *shell.model("root/lazy"), stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"half of it\n")
    process.stdin.flush()
    runs = shell.folder / "rlm" / "runs"
    until(lambda: runs.exists() and any(runs.glob("*/stdin")))
    send(process, signal.SIGINT)
    done = shell.finish(process)
    assert (done.code, json.loads(done.out)["exit_code"]) == (130, 130)
    assert list(runs.glob("*")) == []
