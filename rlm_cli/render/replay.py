"""Draw a recorded run again, through the same views: no key, no container, no network, no cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from ..events import CodeWritten, Event, Listener, ModelText, Output, OutputText, Record, RunStarted

_LONGEST_PAUSE = 3.0
_PIECES = 80
_WORDS = re.compile(r"\S*\s*")


def replay(
    records: Iterable[Record],
    view: Listener,
    *,
    speed: float = 4.0,
    no_delay: bool = False,
    from_step: int | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Hand `records` to `view` at `speed` times the recorded pace, no pause over three seconds.

    Streaming pieces were not recorded: they are made again from the whole texts. With `from_step`, what came
    between the header and that step is left out. A view of a replay has no clock of its own (`LiveView(clock=None)`).
    """
    before: float | None = None
    for record in _from(records, from_step):
        pause = 0.0 if before is None or no_delay else min(max(record.ts - before, 0.0) / speed, _LONGEST_PAUSE)
        pieces = list(_pieces(record.event)) if pause else []
        for number, piece in enumerate(pieces):
            sleep(pause / len(pieces))
            earlier = record.ts - (record.ts - (before or record.ts)) * (1 - (number + 1) / len(pieces))
            view(replace(record, ts=earlier, event=piece))
        if pause and not pieces:
            sleep(pause)
        view(record)
        before = record.ts


def _from(records: Iterable[Record], step: int | None) -> Iterator[Record]:
    skipping = step is not None
    for record in records:
        if skipping and getattr(record.event, "step", 0) == step and not record.span.depth:
            skipping = False
        if not skipping or isinstance(record.event, RunStarted):
            yield record


def _pieces(event: Event) -> Iterator[Event]:
    """What streamed before `event`: its words, or its lines, in at most 80 pieces."""
    if isinstance(event, CodeWritten):
        yield from (ModelText(event.step, text) for text in _grouped(_WORDS.findall(event.reply)))
    elif isinstance(event, Output):
        lines = event.text.splitlines(keepends=True)
        yield from (OutputText(event.step, event.stream, text) for text in _grouped(lines))


def _grouped(parts: list[str]) -> Iterator[str]:
    size = max(-(-len(parts) // _PIECES), 1)
    return ("".join(parts[at : at + size]) for at in range(0, len(parts), size))
