"""Draw a recorded run again, through the same views: no key, no container, no network, no cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from ..events import CallFinished, CodeWritten, Event, Listener, ModelText, Output, OutputText, Record, RunStarted

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
    for record, following in _pairs(_from(records, from_step)):
        gap = 0.0 if before is None else max(record.ts - before, 0.0)
        pause = 0.0 if no_delay else min(gap / speed, _LONGEST_PAUSE)
        pieces = list(_pieces(record, following)) if pause else []
        for number, piece in enumerate(pieces, 1):
            sleep(pause / len(pieces))
            view(replace(record, ts=record.ts - gap * (1 - number / len(pieces)), event=piece))
        if pause and not pieces:
            sleep(pause)
        view(record)
        before = record.ts


def _pairs(records: Iterable[Record]) -> Iterator[tuple[Record, Record | None]]:
    """Each record with the one that follows it."""
    last: Record | None = None
    for record in records:
        if last is not None:
            yield last, record
        last = record
    if last is not None:
        yield last, None


def _from(records: Iterable[Record], step: int | None) -> Iterator[Record]:
    skipping = step is not None
    for record in records:
        if skipping and getattr(record.event, "step", 0) == step and not record.span.depth:
            skipping = False
        if not skipping or isinstance(record.event, RunStarted):
            yield record


def _pieces(record: Record, following: Record | None) -> Iterator[Event]:
    """What streamed before `record`, in at most 80 pieces: a reply while its call went on, or a cell's lines."""
    event, then = record.event, following.event if following else None
    if isinstance(event, CallFinished) and isinstance(then, CodeWritten) and event.role != "sub":
        yield from (ModelText(then.step, text) for text in _grouped(_WORDS.findall(then.reply)))
    elif isinstance(event, Output):
        lines = event.text.splitlines(keepends=True)
        yield from (OutputText(event.step, event.stream, text) for text in _grouped(lines))


def _grouped(parts: list[str]) -> Iterator[str]:
    size = max(-(-len(parts) // _PIECES), 1)
    return ("".join(parts[at : at + size]) for at in range(0, len(parts), size))
