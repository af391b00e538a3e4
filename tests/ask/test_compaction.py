"""The conversation outgrows the root's window: shortened in the middle of a real run; LiteLLM, Docker and kernel."""

from __future__ import annotations

import itertools

import pytest

from tests.loopback import code

from .conftest import Shell

pytestmark = pytest.mark.docker

TURNS = 14
STEP = f"""
n = len([name for name in dir() if name.startswith("found_")]) + 1
globals()[f"found_{{n}}"] = n * 7
print(f"turn {{n}} found {{n * 7}};", "x" * 1500)
if n == {TURNS}:
    FINAL(sum(globals()[f"found_{{k}}"] for k in range(1, n + 1)))
"""


def test_a_long_run_is_shortened_and_keeps_its_variables(shell: Shell) -> None:
    """The provider says that prompts of more than 5,000 tokens are too long, and no window is known: old turns become
    an account, which lists the variables; the kernel still has them; every prompt is the one before with more at its
    end, except after each shortening, which is counted in the result and in the record."""
    (shell.folder / "a.txt").write_text("hello\n")
    shell.server.policies["long"] = lambda turn: code(STEP)
    done = shell.ask("a.txt", "Q", "--json", root="root/long/ctx5000")
    assert (done.code, done.json["data"], done.json["iterations"]) == (0, 7 * sum(range(1, TURNS + 1)), TURNS), done.err
    record = shell.record()
    compacted = [event for event in record if event["type"] == "history.compacted"]
    assert done.json["compactions"] == len(compacted) >= 2
    assert done.json["calls"]["total"] == len(shell.server.requests)
    requests = shell.server.requests
    assert all(request.messages[:2] == requests[0].messages[:2] for request in requests)
    assert sum(request.status == 400 for request in requests) >= 1
    breaks = [
        later
        for earlier, later in itertools.pairwise(requests)
        if later.messages[: len(earlier.messages)] != earlier.messages
    ]
    assert len(breaks) == len(compacted)
    account = breaks[-1].messages[3]["content"]
    assert "found_1: int, 7" in account
    assert "Turn 1." in account
    assert "x" * 1500 not in account
    assert len(requests[-1].messages) < 2 + 2 * TURNS
    assert f"turn {TURNS - 1} found" in requests[-1].messages[-1]["content"]
    shown = shell.run("runs", "show")
    assert "shortened" in shown.out.decode() + shown.err
