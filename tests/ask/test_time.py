"""`--max-time` from the shell, when nothing obeys: real LiteLLM, Docker and kernel."""

from __future__ import annotations

import threading

import pytest

from tests.loopback import Turn
from tests.loopback import code as code_block

from .conftest import Shell, containers_of

pytestmark = pytest.mark.docker

STUBBORN = """
import time
print("found 7", flush=True)
while True:
    try:
        time.sleep(100)
    except BaseException:
        pass
"""


def test_a_cell_that_does_not_stop_and_a_provider_that_hangs(shell: Shell) -> None:
    """The cell is killed, and what it had printed kept; in the last turn the provider replies 14 s after it was asked.
    Of 16 s, 1.6 are kept for that, and 10 are all that a run may overrun: the reply is not waited for. Exit 6, with
    what was found, and nothing left."""
    over = threading.Event()

    def policy(turn: Turn) -> str:
        if turn.last.startswith("The run ends here"):
            over.wait(14)
            return "Too late."
        return code_block(STUBBORN)

    shell.server.policies["stubborn"] = policy
    (shell.folder / "notes.txt").write_text("seven\n" * 100)
    process = shell.start(
        "ask", "notes.txt", "How many?", "--json", "--max-time", "16", "--mode", "rlm", *shell.model("root/stubborn")
    )
    try:
        done = shell.finish(process)
    finally:
        over.set()
    assert (done.code, done.json["status"], done.json["limit_hit"]) == (6, "partial", "time"), done.err
    assert done.json["answer"] == "found 7\n"
    assert [entry.role for entry in shell.server.requests] == ["root", "root"]
    assert containers_of(process.pid) == []
