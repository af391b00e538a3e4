"""The tree of runs as a person sees it: live, in a pipe, and in `runs show`."""

from __future__ import annotations

import io
from dataclasses import replace

from rlm_cli.events import (
    CallFinished,
    Calls,
    ChildFinished,
    ChildStarted,
    CodeWritten,
    Cost,
    Event,
    LimitReached,
    Record,
    RoleUsage,
    Span,
    StepFinished,
    StepStarted,
    Totals,
    Usage,
)
from rlm_cli.render.live import LiveView
from rlm_cli.render.look import Look
from rlm_cli.render.plain import PlainLines
from rlm_cli.render.show import ShowOptions, show

from .screen import Screen

HAPPENED: list[tuple[str, Event]] = [
    ("", StepStarted(1)),
    ("1", ChildStarted("How many in\x1b[2J the first half?", 1, 2_000_000, 1)),
    ("2", ChildStarted("How many in the second half?", 3, 1_000, 1)),
    ("1", StepStarted(1)),
    ("1", CodeWritten(1, "I ask.", "rlm_query('x')")),
    ("1.1", ChildStarted("Deeper?", 1, 10, 1)),
    ("2", LimitReached("iterations", "the limit of 2 turns was reached")),
    ("1.1", StepFinished(1, "ok", 1.0, 0.1)),
    ("1.1", ChildFinished("ok", 2.0, "5")),
    ("2", ChildFinished("partial", 3.0, "the child run did not finish")),
    ("1", StepFinished(1, "error", 2.5, 0.1, "error:\nNameError: name 'x' is not defined")),
    ("1", ChildFinished("no_answer", 4.0, "")),
    ("", StepFinished(1, "ok", 5.0, 0.2)),
]
RECORDS = [Record(number, 1e9 + number, Span.parse(span), event) for number, (span, event) in enumerate(HAPPENED)]
TREE = [
    "  1 child · 1 document, 2.0 MB · How many in\\x1b[2J the first half?",
    "    1.1 child · 1 document, 10 B · Deeper?",
    "    1.1 step 1 · ok 1.0 s",
    "    1.1 child ok 2.0 s · 5",
    "  1 step 1 · error 2.5 s · NameError: name 'x' is not defined",
    "  1 child no answer 4.0 s",
]
BESIDE = [
    "  2 child · 3 documents, 1.0 kB · How many in the second half?",
    "  2 limit: the limit of 2 turns was reached",
    "  2 child partial 3.0 s · the child run did not finish",
]


def test_plain_lines_say_which_run_they_are_about() -> None:
    """In the order in which things happen; nothing of what a child's model wrote can steer a terminal."""
    out = io.StringIO()
    view = PlainLines(out, Look())
    for record in RECORDS:
        view(record)
    lines = [line.removeprefix("rlm: ") for line in out.getvalue().splitlines()]
    assert sorted(lines[:-1]) == sorted(TREE + BESIDE)
    assert lines.index(TREE[0]) < lines.index(BESIDE[0]) < lines.index(TREE[1])


def test_the_live_view_draws_the_same_lines() -> None:
    screen = Screen(100)
    view = LiveView(screen, Look(width=100, tty=True, live=True), clock=None, animate=False)
    for record in RECORDS:
        view(record)
    drawn = [line.rstrip() for line in screen.text.splitlines()]
    assert [line for line in drawn if line in TREE + BESIDE] == [
        line.removeprefix("rlm: ") for line in plain_lines() if line.removeprefix("rlm: ") in TREE + BESIDE
    ]
    assert all(line in drawn for line in TREE + BESIDE)


def test_show_puts_every_child_in_one_place() -> None:
    """Side by side when they ran, one after the other when they are read; a child's own children within it."""
    lines = [line.plain for line in show(RECORDS, ShowOptions(parts=("steps",), width=100))]
    assert [line for line in lines if line in TREE + BESIDE] == BESIDE + TREE
    verbose = [line.plain.strip() for line in show(RECORDS, ShowOptions(parts=("steps",), width=100, verbose=True))]
    assert any("rlm_query('x')" in line for line in verbose)


def test_show_keeps_what_did_not_end() -> None:
    """Of a run that was killed."""
    lines = [line.plain for line in show(RECORDS[:6], ShowOptions(parts=("steps",), width=100))]
    assert TREE[0] in lines
    assert TREE[1] in lines


def plain_lines() -> list[str]:
    out = io.StringIO()
    view = PlainLines(out, Look())
    for record in RECORDS:
        view(record)
    return out.getvalue().splitlines()


def test_the_cost_of_a_tree_says_what_was_whose() -> None:
    """Turns of child runs, replies that were not asked for again and what they would have cost, tokens by model;
    records of before there were such still show."""
    by_model = {"a": Usage(900, 10, cached=450), "b": Usage(100, 5)}
    usage = RoleUsage(by_model["a"], by_model["b"], Usage(1000, 15, cached=450), by_model)
    calls, cost = Calls(root=7, sub=3, retries=1, cached=12, children=6), Cost(0.03, True, {"a": 0.02, "b": 0.01}, 0.5)
    finished = CallFinished("s1", "sub", "b", Usage(100, 5), 0.01, 1.0, 1, Totals(calls, usage, cost, 1.0))
    old = replace(finished, totals=Totals(Calls(1, 0), RoleUsage(), Cost(0.02, True, {"a": 0.02}), None))

    def shown(event: Event) -> list[str]:
        return [line.plain for line in show([Record(0, 1e9, Span(), event)], ShowOptions(("cost",)))]

    lines = shown(finished)
    assert "6 of the root calls were turns of child runs" in lines
    assert "12 from cache (saved $0.5000)" in lines
    assert [line.split() for line in lines if line.startswith(("a ", "b "))] == [
        ["a", "900", "450", "10", "$0.0200"],
        ["b", "100", "0", "5", "$0.0100"],
    ]
    assert lines[-1].endswith("(45 % cached)")
    assert [line.split() for line in shown(old) if line.startswith("a ")] == [["a", "?", "?", "?", "$0.0200"]]
    assert not any("%" in line or "child" in line for line in shown(old))
