"""A29 and A30: which way a question takes, and what is kept when a run is killed."""

from __future__ import annotations

import re
import signal
import threading
from dataclasses import replace

from tests.ask.conftest import Shell, containers_of, send, until
from tests.loopback import Turn, code, default_label, steps

from .aggregate import COUNT_LOC, LOOK, MANY, MAP, items
from .case import CONCURRENCY, LIMIT_S, Lab, Setup, case
from .find import GREP, NOISE, needle, word
from .runner import Evidence, command

REPL = "```repl"


@case("A29", "by code or in one call")
def auto_route(lab: Lab) -> list[Setup]:
    """Three sizes, a question that can be looked up and one that counts. Of these only the small look-up is one plain
    call (`rlm help modes`); one that is forced upon a model whose window is too small goes on by code."""
    key, value = word(lab), str(lab.random.randrange(10**6, 10**7))
    sparse, dense = f"What is the special magic number for {key}?", "How many of the items are LOC?"
    for name, size in (("small", 8_000), ("middle", 80_000), ("large", 800_000)):
        lines = lab.hidden([NOISE] * (size // (len(NOISE) + 1)))
        lines.insert(lab.random.randrange(len(lines)), needle(key, value))
        lab.write(f"{name}/noise.txt", "\n".join(lines))
        found = items(lab, size // 60)
        lab.write(f"{name}/items.txt", "\n".join(lab.hidden(item.line for item in found)) + "\n")
        if name == "small":
            count = sum(item.label == "LOC" for item in found)

    def look_up(turn: Turn) -> str:
        """In one call: what it can read. By code: what it finds."""
        if REPL not in turn.messages[0]["content"]:
            seen = re.findall(rf"numbers for {key} is: (\d+)", turn.messages[-1]["content"])
            return str(seen[0]) if seen else "NOT FOUND"
        return code(GREP.format(key=key) if turn.step == 0 else "FINAL(values[0])")

    def one_call(evidence: Evidence) -> None:
        """All of the input was sent, and nothing was run."""
        assert (evidence.result.mode, len(evidence.requests)) == ("direct", 1)
        assert lab.canary in evidence.requests[0].prompt
        assert "rlm: mode: direct:" in evidence.err

    def counted_by_code(evidence: Evidence) -> None:
        assert evidence.result.mode == "rlm"
        assert "(how many) is about many items" in evidence.err

    def went_on(evidence: Evidence) -> None:
        assert evidence.result.mode == "rlm"
        assert evidence.requests[0].status == 400
        assert any("going on by code" in warning for warning in evidence.result.warnings)

    def routes(shell: Shell, _: Setup) -> None:
        """What `-n` says of the others."""
        planned = {}
        for name in ("middle", "large"):
            for file, question in (("noise.txt", sparse), ("items.txt", dense)):
                done = shell.run(
                    "ask",
                    f"in/{name}/{file}",
                    "-Q",
                    question,
                    *shell.model("root/case"),
                    "--mode",
                    "auto",
                    "-n",
                    "--json",
                )
                planned[name, file] = done.json["mode"]
        assert set(planned.values()) == {"rlm"}, planned
        assert not shell.server.requests

    small = Setup(
        sparse,
        sources=("small/noise.txt",),
        mode="auto",
        flags=("-v",),
        policy=look_up,
        answer=value,
        canary=False,
        check=one_call,
    )
    counting = Setup(
        dense,
        sources=("small/items.txt",),
        mode="auto",
        flags=("-v", *MANY),
        policy=steps(code(LOOK), code(MAP), code(COUNT_LOC)),
        answer=str(count),
        check=counted_by_code,
    )
    forced = replace(
        small,
        sources=("middle/noise.txt",),
        mode="direct",
        root="ctx16384",
        root_tokens=None,
        before=routes,
        check=went_on,
    )
    return [small, counting, forced]


class Gate:
    """A sub-model that answers so many prompts of one item each, and keeps the others waiting."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left = 0

    def open_for(self, prompts: int) -> None:
        with self._changed:
            self._left = prompts
            self._changed.notify_all()

    def label(self, item: str) -> str:
        with self._changed:
            self._changed.wait_for(lambda: self._left > 0, LIMIT_S)
            self._left -= 1
        return default_label(item)


@case("A30", "killed, interrupted, and resumed")
def kill_resume(lab: Lab) -> Setup:
    """With --cache the replies of a run that died are there for the next one. Killed after half of the calls, then
    stopped by Ctrl-C after half of the rest; the third run asks for what is missing."""
    found = items(lab, lab.size(200))
    lab.write("items.txt", "\n".join(lab.hidden(item.line for item in found)) + "\n")
    gate, finished, earlier = Gate(), set[str](), 0
    half, quarter = len(found) // 2, len(found) // 4

    def stopped(shell: Shell, setup: Setup, after: int, number: signal.Signals) -> int:
        """A run that gets this signal when so many of its calls are answered; its exit code. It leaves no container."""
        server, known = shell.server, len(shell.server.requests_of("sub"))
        gate.open_for(after)
        process = shell.start(*command(shell, setup))
        until(lambda: sum(entry.finished for entry in server.requests_of("sub")[known:]) >= after, seconds=LIMIT_S)
        finished.update(entry.prompt for entry in server.requests_of("sub") if entry.finished)
        send(process, number)
        process.communicate(timeout=LIMIT_S)
        until(lambda: not containers_of(process.pid), seconds=LIMIT_S)
        gate.open_for(len(found))
        server.wait(lambda log: all(entry.finished for entry in log), seconds=LIMIT_S)
        return process.returncode

    def twice(shell: Shell, setup: Setup) -> None:
        nonlocal earlier
        assert stopped(shell, setup, half, signal.SIGKILL) == -signal.SIGKILL
        assert len(finished) == half
        assert stopped(shell, setup, quarter, signal.SIGINT) == 130
        assert half + quarter - CONCURRENCY <= len(finished) <= half + quarter
        earlier = len(shell.server.requests_of("sub"))

    def not_billed_again(evidence: Evidence) -> None:
        """Only what was on its way at the two signals was asked for again."""
        asked = evidence.requests_of("sub")
        assert sum(request.prompt in finished for request in asked) <= CONCURRENCY
        assert earlier + len(asked) <= len(found) + 2 * 2 * CONCURRENCY
        calls = evidence.result.calls
        assert (calls.sub, calls.sub + calls.cached) == (len(asked), len(found))

    return Setup(
        "How many of the items are LOC?",
        sources=("items.txt",),
        label=gate.label,
        flags=("--cache", *MANY),
        policy=steps(code(LOOK), code(MAP.replace("80", "1")), code(COUNT_LOC)),
        answer=str(sum(item.label == "LOC" for item in found)),
        before=twice,
        check=not_billed_again,
    )
