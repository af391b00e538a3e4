"""Cases E01-E09, E17: whatever a run holds, wherever it holds it, no view of it commands the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlm_cli.events import ErrorInfo, Record, RunFinished, record_from_json, record_to_json
from rlm_cli.render.answer import print_answer, print_pieces
from rlm_cli.render.citations import print_citations
from rlm_cli.render.error import print_error
from rlm_cli.render.live import LiveView
from rlm_cli.render.look import Look
from rlm_cli.render.plain import PlainLines
from rlm_cli.render.replay import replay
from rlm_cli.render.show import ShowOptions, print_show
from rlm_cli.render.tables import print_table
from rlm_cli.render.ticker import Ticker
from rlm_cli.render.views import NoView
from rlm_cli.runlog import RunLog, read_run
from tests.hostile import FLOODS, TEXTS, Terminal, commands, run_of

Draw = Callable[[Terminal, list[Record]], object]
ALL = ("summary", "answer", "steps", "subcalls", "code", "cost", "sources")


def look(verbosity: int = 0) -> Look:
    return Look(color=True, width=100, tty=True, live=True, verbosity=verbosity)


def live(verbosity: int) -> Draw:
    def draw(terminal: Terminal, run: list[Record]) -> None:
        with LiveView(terminal, look(verbosity), clock=None, animate=False) as view:
            for record in run:
                view(record)
                view.tick()
            view.say(run[-1].event.result.question)  # type: ignore[union-attr]

    return draw


def plain(verbosity: int) -> Draw:
    def draw(terminal: Terminal, run: list[Record]) -> None:
        view = PlainLines(terminal, look(verbosity))
        for record in run:
            view(record)
        view.say(run[-1].event.result.question)  # type: ignore[union-attr]

    return draw


def replayed(terminal: Terminal, run: list[Record]) -> None:
    with LiveView(terminal, look(), clock=None, animate=False) as view:
        replay(run, view, sleep=lambda _: view.tick())


def shown(terminal: Terminal, run: list[Record]) -> None:
    print_show(terminal, run, ShowOptions(ALL, verbose=True), look=look())  # type: ignore[arg-type]


def around(terminal: Terminal, run: list[Record]) -> None:
    """What is printed beside a run: its answer and evidence, errors, tables, progress."""
    result = run[-1].event.result  # type: ignore[union-attr]
    text = result.question
    print_answer(text, terminal, look=look())
    print_answer(f"# {text}\n\n- [{text}]({text}) ![{text}]({text}) `{text}` <{text}>\n\n```\n{text}\n```\n", terminal,
                 look=look())  # fmt: skip
    print_pieces([text.encode()[at : at + 1] for at in range(min(len(text.encode()), 999))], terminal, look=look())
    print_citations(terminal, result.citations, look=look())
    print_error(terminal, ErrorInfo(text, text, text), look=look())
    print_table(terminal, [text, "b"], [[text, text]], look=look())
    ticker = Ticker(terminal, look(), clock=iter(range(0, 1000, 10)).__next__)
    ticker.show(text)
    ticker.say(text)
    ticker.close()
    NoView(terminal).say(text)


VIEWS: Mapping[str, Draw] = {
    "live": live(0),
    "live-v": live(1),
    "live-vv": live(2),
    "plain": plain(0),
    "plain-vv": plain(2),
    "replay": replayed,
    "show": shown,
    "around": around,
}


def test_the_run_is_hostile_everywhere() -> None:
    """Positive control: every text of the run is ours, and a view without the sanitizer would send it."""
    for text in TEXTS.values():
        if text != TEXTS["e07-markup"]:
            assert commands(text) != []
    run = run_of("\x1b]52;c;x\x07")
    assert json.dumps([record_to_json(record) for record in run]).count("]52;c;x") > 100
    assert [record.event.type for record in run if isinstance(record.event, RunFinished)]
    terminal = Terminal()
    terminal.write(str(run[-1].event.result.answer))  # type: ignore[union-attr]
    assert commands(terminal.sent) == ["U+001B", "U+0007"]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_e09_no_text_of_a_run_commands_the_terminal(text: str, view: str) -> None:
    """Each kind of hostile text at every place of every event at once, in each view; it is shown, not dropped."""
    terminal = Terminal()
    VIEWS[view](terminal, run_of(text))
    assert commands(terminal.sent) == []
    assert {"e01-osc52": "\\x1b]52", "e04-c1": "\\x9b2J", "e07-markup": "[bold red]y[/x] :smile:"}.get(
        next(name for name in TEXTS if TEXTS[name] == text), ""
    ) in terminal.sent


@pytest.mark.parametrize("view", ["live", "plain", "show"])
@pytest.mark.parametrize("text", FLOODS.values(), ids=list(FLOODS))
def test_e05_a_flood_keeps_the_layout(text: str, view: str) -> None:
    """Ten thousand lines, a megabyte in one line, piles of marks: a bounded number of rows in what nobody asked for in
    full. The answer and the code, which one asks for, are whole."""
    terminal, run = Terminal(), run_of(text)
    options = ShowOptions(("summary", "steps", "subcalls", "cost"))
    draw: Mapping[str, Any] = {
        **VIEWS,
        "show": lambda terminal, run: print_show(terminal, run, options, look=look()),
    }
    draw[view](terminal, run)
    assert (commands(terminal.sent), terminal.sent.count("\n") < 30 * len(run)) == ([], True)


def test_e05_a_pile_of_marks_does_not_climb() -> None:
    """At most four marks stay on their letter: rows above and below are not painted over."""
    terminal = Terminal()
    print_table(terminal, ["a"], [[FLOODS["zalgo"]]], look=look())
    assert "\u0300\u0489" * 2 in terminal.sent
    assert "\u0300\u0489" * 3 not in terminal.sent


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_e14_e17_a_hostile_record_is_ascii_lines_and_comes_back(tmp_path: Path, text: str) -> None:
    """On disk: one ASCII line a record; read back equal, so that showing it again is the test above."""
    log = RunLog(tmp_path / "20261120-153012-a1b2c3")
    run = run_of(text)
    for record in run:
        log(record)
    log.close()
    lines = (log.directory / "events.jsonl").read_bytes().splitlines()
    assert all(line.isascii() and min(line) > 31 for line in lines)
    assert list(read_run(log.directory)) == [record_from_json(json.loads(line)) for line in lines]
    header = (log.directory / "run.json").read_bytes()
    assert header.isascii()
    assert commands(header.decode()) == []
