"""What a person sees while a run goes on: the live view on a small terminal, plain lines in a pipe."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Mapping

import pytest

from rlm_cli.events import (
    Bus,
    CallFinished,
    Calls,
    CallStarted,
    Cost,
    ErrorInfo,
    ItemsDone,
    ModelPair,
    ModelText,
    OutputText,
    Record,
    RunStarted,
    Skipped,
    SourcesFacts,
    Span,
    StepFinished,
    StepStarted,
    Totals,
    Usage,
)
from rlm_cli.render.format import header_lines
from rlm_cli.render.live import LiveView
from rlm_cli.render.look import ColorChoice, Look, look_for
from rlm_cli.render.plain import PlainLines
from rlm_cli.render.progress import Progress
from rlm_cli.render.views import NoView, view_for

from .recorded import ASK, HOSTILE, Recorder, play
from .screen import Screen

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def live(screen: Screen, *, color: bool = False, verbosity: int = 0, unicode: bool = True) -> LiveView:
    """A view that redraws only when it is told to, on a terminal whose width follows the screen's."""
    look = Look(color=color, width=screen.width, tty=True, live=True, verbosity=verbosity, unicode=unicode)
    return LiveView(screen, look, clock=None, animate=False)


def bottom(screen: Screen, count: int) -> list[str]:
    return screen.text.rstrip("\n").split("\n")[-count:]


def test_the_region_shows_words_as_they_stream() -> None:
    """The last rows of what the model writes, above the status line."""
    screen = Screen(80)
    view = live(screen)
    run = Recorder(view)
    run.start()
    run.ask(1, "First I look. " * 30, "print(1)\n")
    run.emit(StepStarted(2))
    for piece in ("I now send ", "each piece\nto a sub-", "model."):
        run.emit(ModelText(2, piece), after=20.2)
    view.tick()
    assert bottom(screen, 3) == [
        "  I now send each piece",
        "  to a sub-model.",
        "⠙ step 2 · the model is writing · 5.2 k tokens · $0.0061 / $1.00 · 1:02",
    ]


def test_long_rows_are_wrapped_and_not_cut() -> None:
    """The only line of a program, what streams, and a notice, which keeps its indent."""
    screen = Screen(40)
    view = live(screen)
    run = Recorder(view)
    run.start()
    run.ask(1, "", f"FINAL('{'x' * 60}')")
    run.emit(OutputText(1, "stdout", "y" * 60))
    view.tick()
    assert f"  FINAL('{'x' * 31}\n  {'x' * 29}')\n" in screen.text
    assert bottom(screen, 3)[:2] == [f"  {'y' * 37}", f"  {'y' * 23}"]
    run.emit(StepFinished(1, "error", 1.0, 0.5, f"NameError: {'z ' * 20}"))
    assert bottom(screen, 3)[:2] == ["  error 1.0 s · NameError: z z z z z z z", "  z z z z z z z z z z z z z"]


def test_the_region_counts_sub_calls() -> None:
    """Done, failed, cost against the cap; in flight are no more than --concurrency, whatever waits."""
    screen = Screen(80)
    view = live(screen)
    run = Recorder(view)
    run.start(concurrency=8)
    run.ask(2, "I fan out.", ASK)
    for number in range(20):
        run.emit(CallStarted(f"s{number}", "sub", "m", "p", 1, 2))
    run.emit(CallFinished("s1", "sub", "m", Usage(100, 1), 0.01, 1.0, 1, run.totals(), step=2), after=1)
    run.emit(CallFinished("s2", "sub", "m", Usage(), None, 1.0, 1, run.totals(), error=ErrorInfo("x", "y"), step=2))
    view.tick()
    assert bottom(screen, 2) == [
        "  sub-calls ██░░░░░░░░░░░░░░░░░░ 2/20 · 1 failed · 8 in flight",
        "⠙ step 2 · waiting for sub-calls · 5.2 k tokens · $0.0061 / $1.00 · 0:02",
    ]
    run.emit(ItemsDone(2, 750, None))
    view.tick()
    assert bottom(screen, 2)[0] == "  sub-calls ██░░░░░░░░░░░░░░░░░░ 2/20 · 750 items · 1 failed · 8 in flight"
    run.emit(ItemsDone(2, 1_000, 2_000))
    view.tick()
    assert bottom(screen, 2)[0] == "  items ██████████░░░░░░░░░░ 1,000/2,000 · 1 failed · 8 in flight"


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_the_status_fits_and_keeps_the_money(width: int) -> None:
    """A narrow window loses words before it loses the cost."""
    screen = Screen(width)
    view = live(screen)
    run = Recorder(view)
    run.start()
    run.ask(1, "x", "print(1)\n")
    view.tick()
    (line,) = bottom(screen, 1)
    assert (len(line) < width, "$0.0061" in line or width < 40, "0:0" in line or width < 40) == (True, True, True)


def test_what_is_said_stays_above_the_region() -> None:
    """A line on Ctrl-C survives the next redraw, in the middle of a step and after the view is closed."""
    screen = Screen(80)
    view = live(screen)
    run = Recorder(view)
    run.start()
    run.ask(1, "x", "print(1)\n")
    view.say("interrupted")
    view.tick()
    view.tick()
    assert [line[:16] for line in bottom(screen, 2)] == ["rlm: interrupted", "⠹ step 1 · runni"]
    view.close()
    view.say("killed")
    assert bottom(screen, 2) == ["rlm: interrupted", "rlm: killed"]


def test_nothing_is_left_of_the_region() -> None:
    """Redrawn many times or never, the finished run looks the same, and the region is gone."""
    once, often = Screen(80), Screen(80)
    play(live(once))
    view = live(often)

    def redraw(record: Record) -> None:
        view(record)
        view.tick()

    play(redraw)
    assert (often.text, "⠋" in often.text, often.writes > once.writes) == (once.text, False, True)


@pytest.mark.parametrize(("wide", "narrow"), [(100, 60), (80, 30), (60, 100)])
def test_a_resized_window_keeps_no_remains(wide: int, narrow: int) -> None:
    """The region is erased as the terminal has rewrapped it: no status line stays behind, no text above is lost."""
    leader, window = os.openpty()
    screen = Screen(wide)
    screen.attach(window)
    view = LiveView(screen, Look(tty=True, live=True), clock=None, animate=False)
    widths = iter([narrow, wide] * 2)

    def resize(step: int) -> None:
        view.tick()
        screen.resize(next(widths))
        view.tick()

    play(view, after_step=resize)
    os.close(leader)
    os.close(window)
    assert (re.findall("[⠋⠙⠹⠸]", screen.text), screen.text.count("─ step 1 ─"), "writing" in screen.text) == (
        [],
        1,
        False,
    )


def test_each_change_is_one_write() -> None:
    """No half-drawn frame: an erase never comes without what replaces it."""
    screen = Screen(80)
    view = live(screen)
    run = Recorder(view)
    run.start()
    view.tick()
    before = screen.writes
    run.emit(StepStarted(1))
    assert screen.writes - before == 1


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_hostile_text_cannot_command_the_terminal(verbosity: int, unicode: bool) -> None:
    """`Screen` refuses every control that is not the view's own; markup and emoji codes stay as they are."""
    screen = Screen(300)
    play(live(screen, color=True, verbosity=verbosity, unicode=unicode))
    assert ("[bold red]markup[/x]" in screen.text, ":smile:\\r" in screen.text) == (True, True)
    assert HOSTILE not in screen.sent
    assert unicode or screen.sent.isascii()


def test_without_color_no_style_is_sent() -> None:
    """NO_COLOR with --progress rich: only cursor movement."""
    plain, colored = Screen(80), Screen(80)
    play(live(plain))
    play(live(colored, color=True))
    assert (re.findall(r"\x1b\[[\d;]*m", plain.sent), colored.text) == ([], plain.text)
    assert "\x1b]8" not in colored.sent


def test_a_closed_view_is_silent() -> None:
    """After `close` the error boundary owns the terminal."""
    screen = Screen(80)
    view = live(screen)
    run = Recorder(view)
    run.start()
    view.close()
    sent = screen.sent
    run.ask(1, "late", "print(1)\n")
    view.tick()
    view.close()
    assert (screen.sent, "starting" in screen.text) == (sent, False)


def test_the_thread_animates_and_ends() -> None:
    """Frames come by themselves until the run is over; then nothing runs on."""
    screen = Screen(80)
    frame = threading.Event()
    write = screen.write

    def noted(text: str) -> int:
        if "⠙" in text:
            frame.set()
        return write(text)

    screen.write = noted  # type: ignore[method-assign]
    view = LiveView(screen, Look(width=80, tty=True, live=True), clock=lambda: 1_795_188_613.0)
    Recorder(view).start()
    assert frame.wait(10)
    view.close()
    assert [t for t in threading.enumerate() if t.name == "rlm live view"] == []


@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_plain_lines_have_no_control_byte(verbosity: int) -> None:
    """Not one, in any part, with everything hostile in the run."""
    out = io.StringIO()
    play(PlainLines(out, Look(verbosity=verbosity)))
    assert CONTROLS.findall(out.getvalue()) == []


def test_whatever_was_skipped_is_said() -> None:
    """Each reason that there is, with the command that lists them; none that cannot be pasted as it is shown."""
    every = Skipped(*range(1, 8))
    lines = [
        header_lines(RunStarted("r", "1", "q", ModelPair("m"), SourcesFacts(skipped=every), skips=command))[1]
        for command in ("rlm sources 'my logs' --skipped", "rlm sources 'a\x1bb' --skipped", "x" * 199, "")
    ]
    said = "skipped 28 (7 unconverted, 6 special, 5 unreadable, 4 too large, 3 binary, 2 hidden, 1 ignored)"
    assert lines == [f"{said} · rlm sources 'my logs' --skipped", said, said, said]


def test_plain_is_one_line_a_step() -> None:
    """Each step says what it did, in one line."""
    out = io.StringIO()
    play(PlainLines(out, Look()))
    assert [line for line in out.getvalue().splitlines() if line.startswith("rlm: step")] == [
        "rlm: step 1 · code 4 lines · ok 3.1 s · 5.2 k tok · $0.0061/$1.00",
        "rlm: step 2 · code 3 lines · ok 9.3 s · 40 sub-calls (2 failed) · 42 k tok · $0.0242/$1.00",
        "rlm: step 3 · code 1 line · error 1.1 s · 48 k tok · $0.0303/$1.00 · NameError: name 'Counter' is not defined",
        "rlm: step 4 · code 2 lines · ok 1.4 s · 53 k tok · $0.0364/$1.00",
    ]


def test_plain_lines_survive_an_ascii_stream() -> None:
    """Our glyphs have one-cell stand-ins; foreign letters become visible escapes, never an exception."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    play(PlainLines(stream, look_for(stream)))
    assert (raw.getvalue().isascii(), b"step 1 - code 4 lines - ok" in raw.getvalue()) == (True, True)


@pytest.mark.parametrize(
    ("tty", "color", "env", "colored", "animated"),
    [
        (True, "auto", {}, True, True),
        (True, "auto", {"NO_COLOR": "1"}, False, False),
        (True, "auto", {"NO_COLOR": ""}, True, True),
        (True, "auto", {"TERM": "dumb"}, False, False),
        (True, "auto", {"CI": "true"}, True, False),
        (True, "never", {}, False, True),
        (True, "auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        (True, "always", {"NO_COLOR": "1"}, True, False),
        (False, "auto", {}, False, False),
        (False, "auto", {"FORCE_COLOR": "1"}, True, False),
        (False, "auto", {"FORCE_COLOR": "0"}, False, False),
        (False, "always", {}, True, False),
    ],
)
def test_look(tty: bool, color: ColorChoice, env: Mapping[str, str], colored: bool, animated: bool) -> None:
    """--color, then NO_COLOR, FORCE_COLOR, TERM=dumb, then the stream; animation only where it can do no harm."""
    look = look_for(Tty() if tty else io.StringIO(), color=color, env=env)
    assert (look.color, look.live, look.tty) == (colored, animated, tty)


def test_which_view() -> None:
    """-q draws nothing; auto follows the terminal; rich insists."""
    tty, pipe = Look(tty=True, live=True), Look()
    kinds = [
        type(view_for(Tty(), tty)),
        type(view_for(Tty(), pipe)),
        type(view_for(Tty(), pipe, progress="rich")),
        type(view_for(Tty(), tty, progress="plain")),
        type(view_for(Tty(), tty, progress="none")),
        type(view_for(Tty(), tty, quiet=True)),
    ]
    assert kinds == [LiveView, PlainLines, LiveView, PlainLines, NoView, NoView]


def test_progress_counts_the_whole_tree() -> None:
    """Calls of child runs belong to the step that started them; the ledger's totals are taken as they come."""
    progress = Progress()
    totals = Totals(Calls(1, 2, 0), cost=Cost(0.5, False))
    run_records: list[Record] = []
    bus = Bus([run_records.append], clock=lambda: 7.0)
    bus.emit(StepStarted(1))
    bus.emit(StepStarted(4), Span((1,)))
    bus.emit(CallStarted("1/r1", "root", "m", "", 1, 1), Span((1,)))
    bus.emit(CallStarted("s1", "sub", "m", "", 1, 1))
    bus.emit(CallFinished("1/r1", "root", "m", Usage(1, 2), None, 1.0, 1, totals), Span((1,)))
    for record in run_records:
        progress = progress.after(record)
    assert (progress.step, progress.burst.started, progress.burst.in_flight, progress.totals) == (1, 2, 1, totals)
    assert (progress.burst.tokens, progress.burst.priced) == (3, False)
