"""`rlm ask` where the engine does not see the files, and where they change meanwhile: the person is told."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace

import pytest

from rlm_cli.sandbox.container import Engine
from tests.ask.conftest import Shell, containers_of, until
from tests.ask.test_interrupts import HANGING_CELL
from tests.sandbox.proxy import tcp_engine

pytestmark = pytest.mark.docker

NOTE = "the engine does not see these files: copying them in"
LINES = "".join(f"line {number}: error code E{number}\n" for number in range(500))


def test_a_remote_engine_answers_all_the_same(shell: Shell) -> None:
    """DOCKER_HOST names another machine: one line says that the input is copied, the result records it, and nothing
    is left on the engine."""
    (shell.folder / "app.log").write_text(LINES)
    local = Engine()
    local.api()
    before = {volume.name for volume in local.volumes()}
    with tcp_engine(local.socket_path) as host:
        away = replace(shell, env={**shell.env, "DOCKER_HOST": host})
        done = away.run("ask", "app.log", "Which error code is on line 321?", "-m", "offline", "--json", "-v")
    assert (done.code, "E321" in done.json["answer"]) == (0, True)
    assert (done.json["sandbox"]["input"], NOTE in done.json["warnings"]) == ("memory", True)
    assert (done.err.count(NOTE), "input copied to memory" in done.err) == (1, True)
    assert {volume.name for volume in local.volumes()} <= before
    local.close()


def test_a_log_that_is_being_written_is_answered_about(shell: Shell) -> None:
    """It grows from before the start until after the end: an answer, and a warning that says what it is about."""
    log = shell.folder / "app.log"
    log.write_text(LINES)
    over = threading.Event()

    def keep_writing() -> None:
        with log.open("a") as file:
            while not over.wait(0.002):
                file.write("still alive\n")
                file.flush()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        done = shell.run("ask", "app.log", "Which error code is on line 321?", "-m", "offline", "--json")
    finally:
        over.set()
        writer.join()
    assert (done.code, "E321" in done.json["answer"]) == (0, True)
    assert [warning for warning in done.json["warnings"] if "app.log" in warning] == [
        "grew while it was being read: app.log; the answer is about what was there at the start"
    ]


@pytest.mark.parametrize("log", [(), ("--no-log",)])
def test_a_killed_command_leaves_no_copy_of_the_input(shell: Shell, log: tuple[str, ...]) -> None:
    """SIGKILL while the container runs over a packed folder: the private copy goes, and so does the container."""
    (shell.folder / "docs").mkdir()
    (shell.folder / "tmp").mkdir()
    for number in range(20):
        (shell.folder / "docs" / f"{number}.txt").write_text(LINES)
    shell.server.policies["hangs"] = lambda turn: HANGING_CELL
    away = replace(shell, env={**shell.env, "TMPDIR": str(shell.folder / "tmp")})
    process = away.start("ask", "docs", "Which error code is on line 321?", *shell.model("root/hangs"), *log)

    def copies() -> list[str]:
        try:
            return [path.name for path in shell.folder.rglob("rlm-stage-*/pack")]
        except FileNotFoundError:  # a folder went while it was listed
            return copies()

    until(lambda: copies() and containers_of(process.pid))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not copies() and not containers_of(process.pid))
    until(lambda: list((shell.folder / "tmp").iterdir()) == [])
