"""The section "Order" of docs/EVENTS.md as a program: what of a run's records breaks it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Line = Mapping[str, Any]


@dataclass
class Place:
    """What is open in one span."""

    step: int = 0
    in_step: bool = False
    over: bool = False


@dataclass
class Order:
    """Takes the lines of one run; `wrong` says what was out of order, in words."""

    wrong: list[str] = field(default_factory=list)
    _places: dict[str, Place] = field(default_factory=dict)
    _calls: dict[str, bool] = field(default_factory=dict)
    _sent: int = 0
    _seq: int = 0
    _over: bool = False

    def take(self, line: Line) -> None:
        """The next line."""
        kind, span = str(line["type"]), str(line["span"])
        self._check(line["schema_version"] == 1, "schema_version is not 1", line)
        self._check(line["seq"] == self._seq, f"seq {line['seq']} where {self._seq} follows", line)
        self._check((kind == "run.started") == (self._seq == 0), "run.started is not the first line", line)
        self._check(not self._over, "a line after run.finished", line)
        self._check(
            kind not in ("preparing", "model.text", "output.text", "items.done"), "what is only drawn was written", line
        )
        self._seq += 1
        place = self._places.get(span)
        if place is None:
            place = self._places[span] = Place()
            self._check(not span or kind == "child.started", "a child's first line is not child.started", line)
        self._check(not place.over, "a line after child.finished", line)
        handle = getattr(self, "_" + kind.replace(".", "_"), None)
        if handle is not None:
            handle(line, place)
        elif "step" in line:
            self._check(line["step"] in (0, place.step), f"a line of step {line['step']} in step {place.step}", line)

    def finished(self) -> None:
        """There are no more lines."""
        if not self._over:
            self.wrong.append("run.finished is not the last line")

    def _check(self, holds: bool, what: str, line: Line) -> None:
        if not holds:
            self.wrong.append(f"{line['seq']} {line['type']}: {what}")

    def _run_finished(self, line: Line, place: Place) -> None:
        self._over = True
        if line["result"]["status"] == "ok":
            still = [call for call, ended in self._calls.items() if not ended]
            self._check(not still, f"calls without an end: {still}", line)

    def _step_started(self, line: Line, place: Place) -> None:
        self._check(not place.in_step, f"step {place.step} is still open", line)
        self._check(line["step"] == place.step + 1, f"step {line['step']} after step {place.step}", line)
        place.step, place.in_step = line["step"], True

    def _step_finished(self, line: Line, place: Place) -> None:
        self._check(place.in_step and line["step"] == place.step, "a step ends that is not open", line)
        place.in_step = False

    def _call_started(self, line: Line, place: Place) -> None:
        self._check(line["call"] not in self._calls, f"call {line['call']} starts twice", line)
        self._calls[line["call"]] = False

    def _call_retried(self, line: Line, place: Place) -> None:
        self._check(self._calls.get(line["call"]) is False, f"call {line['call']} is not open", line)

    def _call_finished(self, line: Line, place: Place) -> None:
        self._check(self._calls.get(line["call"]) is False, f"call {line['call']} is not open", line)
        self._calls[line["call"]] = True
        sent = line["totals"]["calls"]["total"]
        self._check(sent >= self._sent, f"calls.total goes down from {self._sent} to {sent}", line)
        self._sent = max(sent, self._sent)

    def _child_started(self, line: Line, place: Place) -> None:
        parent = self._places.get(str(line["span"]).rpartition(".")[0], Place())
        self._check(parent.in_step, "its parent is in no step", line)

    def _child_finished(self, line: Line, place: Place) -> None:
        place.over = True


def out_of_order(lines: Iterable[Line]) -> list[str]:
    """What is wrong with the order of a whole record; empty when nothing is."""
    order = Order()
    for line in lines:
        order.take(line)
    order.finished()
    return order.wrong
