"""Golden texts: what a recorded run looks like, and that log, live view, plain lines and replay agree on it.

A changed look shows as a diff in tests/render/golden. To accept it, delete the file and run the test twice.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlm_cli.events import CodeWritten, ModelText, Record, is_streaming, record_from_json, record_to_json
from rlm_cli.render.live import LiveView
from rlm_cli.render.look import Look
from rlm_cli.render.plain import PlainLines
from rlm_cli.render.replay import replay
from rlm_cli.render.show import Part, ShowOptions, print_show

from .recorded import RUN_ID, play
from .screen import Screen

GOLDEN = Path(__file__).parent / "golden"
PARTS: tuple[Part, ...] = ("summary", "sources", "steps", "subcalls", "code", "cost", "answer")


def agrees(name: str, text: str) -> None:
    path = GOLDEN / name
    if not path.exists():
        path.write_text(text, "utf-8")
        pytest.fail(f"{path} did not exist: written, look at it and run again")
    assert text == path.read_text("utf-8")


def records() -> list[Record]:
    """The golden run as the log has it."""
    lines = (GOLDEN / "run.jsonl").read_text("ascii").splitlines()
    return [record_from_json(json.loads(line)) for line in lines]


def seen(width: int, source: Callable[[Callable[[Record], None]], None]) -> str:
    screen = Screen(width)
    source(LiveView(screen, Look(width=width, tty=True, live=True), clock=None, animate=False))
    return screen.text


def test_the_record() -> None:
    """The run is recorded byte for byte as it was."""
    kept: list[Record] = []
    play(kept.append)
    lines = [json.dumps(record_to_json(r), sort_keys=True) for r in kept if not is_streaming(r.event)]
    agrees("run.jsonl", "\n".join(lines) + "\n")


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view(width: int) -> None:
    """What is on a terminal of that width once the run is over."""
    agrees(f"live-{width}.txt", seen(width, play))


@pytest.mark.parametrize("verbosity", [0, 2])
def test_plain_lines(verbosity: int) -> None:
    """What is in a CI log."""
    out = io.StringIO()
    play(PlainLines(out, Look(verbosity=verbosity)))
    agrees(f"plain-{verbosity}.txt", out.getvalue())


@pytest.mark.parametrize("part", PARTS)
def test_show(part: Part) -> None:
    """Each part of `rlm runs show`, in a pipe: no escape byte."""
    out = io.StringIO()
    print_show(out, records(), ShowOptions((part,)), look=Look())
    assert "\x1b" not in out.getvalue()
    agrees(f"show-{part}.txt", out.getvalue())


def test_show_on_a_terminal_fits() -> None:
    """Nothing but programs and answers is wider than the window."""
    screen = Screen(80)
    print_show(screen, records(), ShowOptions(("summary", "steps", "subcalls", "cost")), look=Look(width=80, tty=True))
    assert (any(screen.soft), RUN_ID in screen.text) == (False, True)


@pytest.mark.parametrize("no_delay", [True, False])
def test_a_replay_is_what_was_seen(no_delay: bool) -> None:
    """From the log alone, the live view and plain lines come out as they were."""
    pauses: list[float] = []
    out, original = io.StringIO(), io.StringIO()
    play(PlainLines(original, Look(verbosity=2)))
    replay(records(), PlainLines(out, Look(verbosity=2)), no_delay=no_delay, sleep=pauses.append)
    assert out.getvalue() == original.getvalue()
    redrawn = seen(80, lambda view: replay(records(), view, no_delay=no_delay, sleep=pauses.append))
    assert (redrawn, bool(pauses)) == (seen(80, play), not no_delay)


def test_a_replay_keeps_the_pace() -> None:
    """At speed 2 half the recorded time; the words come in pieces that add up to the reply."""
    pauses: list[float] = []
    drawn: list[Record] = []
    replay(records(), drawn.append, speed=2, sleep=pauses.append)
    span = records()[-1].ts - records()[0].ts
    words = "".join(r.event.text for r in drawn if isinstance(r.event, ModelText) and r.event.step == 2)
    replies = [r.event.reply for r in drawn if isinstance(r.event, CodeWritten) and r.event.step == 2]
    assert sum(pauses) == pytest.approx(span / 2)
    assert [words] == replies
    times = [r.ts for r in drawn if isinstance(r.event, ModelText) and r.event.step == 2]
    assert (times, len(set(times)) == len(times)) == (sorted(times), True)


def test_a_replay_from_a_step() -> None:
    """The header, then that step and what follows."""
    drawn: list[Record] = []
    replay(records(), drawn.append, no_delay=True, from_step=4)
    assert [r.event.type for r in drawn[:3]] == ["run.started", "step.started", "call.started"]
    assert drawn[-1].event.type == "run.finished"
