"""The live view: what is finished scrolls up, what is in progress stays in a few lines at the bottom.

Drawing state lives here; what things look like is in `format`. Every change is one write, so nothing flickers, and
all of it is ordinary text above the cursor, so a killed run leaves a usable terminal.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TextIO

from rich.text import Text

from ..events import (
    CallRetried,
    CodeWritten,
    Compacted,
    KernelRestarted,
    LimitReached,
    ModelText,
    Output,
    OutputText,
    Preparing,
    PromptSet,
    Record,
    RunFinished,
    RunStarted,
    SandboxReady,
    StepFinished,
    StepStarted,
    Warned,
)
from ..units import human_seconds
from . import format as fmt
from .look import Look, console_for, height_of, width_of, writable
from .progress import Progress
from .sanitize import clean_line

_FRAMES_A_SECOND = 8
_TAIL_ROWS = 3
_TAIL_CHARS = 8000
_SPINNER, _ASCII_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "-/|"
_STATUS_STYLE = {"ok": "green", "partial": "yellow", "no_answer": "yellow", "error": "red"}


class Region:
    """The bottom lines that are redrawn in place. The cursor rests at the end of the last one.

    Before each redraw the lines are erased as they lie now: a terminal that was narrowed has rewrapped them.
    """

    def __init__(self, stream: TextIO, look: Look) -> None:
        self._stream = stream
        self._look = look
        self._out = writable(stream, look)
        self._ink = io.StringIO()
        self._console = console_for(self._ink, replace(look, unicode=True))
        self._cells: list[int] = []

    @property
    def width(self) -> int:
        return width_of(self._stream, self._look)

    def draw(self, above: Sequence[Text], frame: Sequence[Text]) -> None:
        """Print `above` for good and `frame` below it, replacing the last frame, in one write."""
        width = self.width
        rows = list(frame)[-max(height_of(self._stream) - 1, 1) :]
        for row in rows:
            row.truncate(width - 1, overflow="ellipsis")
        text = self._erasure(width) + "".join(self._ansi(line) + "\n" for line in above)
        self._out.write(text + "\n".join(self._ansi(row) for row in rows))
        self._out.flush()
        self._cells = [row.cell_len for row in rows]

    def _erasure(self, width: int) -> str:
        if not self._cells:
            return ""
        up = sum(max(-(-cells // width), 1) for cells in self._cells) - 1
        # From the second cell on: tmux keeps a screen that is cleared from its first one, and each frame with it.
        return "\r" + (f"\x1b[{up}A" if up else "") + " \x1b[J\r"

    def _ansi(self, line: Text) -> str:
        self._console.print(line, end="", soft_wrap=True)
        text = self._ink.getvalue()
        self._ink.seek(0)
        self._ink.truncate()
        return text


class LiveView:
    """A listener for a terminal. Call `close` before anything else is printed; `with` does.

    `clock` gives the elapsed time; without one it is the records' own (replay). With `animate` a thread redraws the
    region; the lock guards everything drawn against it.
    """

    name = "live view"

    def __init__(
        self, stream: TextIO, look: Look, *, clock: Callable[[], float] | None = time.time, animate: bool = True
    ) -> None:
        self._region = Region(stream, look)
        self._look = look
        self._clock = clock
        self._progress = Progress()
        self._tail = ""
        self._frames = 0
        self._noted = set[tuple[int, str]]()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._animate, name="rlm live view", daemon=True) if animate else None

    def __call__(self, record: Record) -> None:
        """Draw what is finished; what streams waits for the next frame."""
        with self._lock:
            if self._closed:
                return
            self._progress = self._progress.after(record)
            self._remember(record)
            above = fmt.fitted(self._lines(record), self._region.width)
            over = isinstance(record.event, RunFinished) and not record.span.depth
            if above:
                self._region.draw(above, [] if over else self._frame())
        if over:
            self.close()
        elif self._thread is not None and not self._thread.ident:
            self._thread.start()

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def say(self, text: str) -> None:
        """A line above the region that is no record."""
        with self._lock:
            # On a line of its own: the terminal has just echoed ^C behind the region.
            self._region.draw([Text(f"rlm: {clean_line(text)}", "yellow")], [] if self._closed else self._frame())

    def close(self) -> None:
        """Take the region off the screen and end the thread. Idempotent."""
        self._stop.set()
        with self._lock:
            if not self._closed:
                self._closed = True
                with contextlib.suppress(OSError):  # a terminal that was closed
                    self._region.draw([], [])
        if self._thread is not None and self._thread.ident and self._thread is not threading.current_thread():
            self._thread.join()

    def tick(self) -> None:
        """Redraw the region once."""
        with self._lock:
            if not self._closed:
                self._frames += 1
                self._region.draw([], self._frame())

    def _animate(self) -> None:
        warm = False
        try:
            while not self._stop.wait(1 / _FRAMES_A_SECOND):
                self.tick()
                if self._progress.phase == "asking" and not warm:
                    # While the model thinks: the first code must not wait for pygments.
                    warm = bool(fmt.code_lines("0"))
        except (OSError, ValueError):  # the terminal is gone; the next record tells the bus
            return

    def _remember(self, record: Record) -> None:
        """Keep the end of what streams; whole text supersedes it."""
        if record.span.depth:
            return
        if isinstance(record.event, ModelText | OutputText):
            self._tail = (self._tail + record.event.text)[-_TAIL_CHARS:]
        elif isinstance(record.event, Preparing):
            self._tail = fmt.preparing_text(record.event)
        elif isinstance(record.event, SandboxReady | StepStarted | CodeWritten | Output | StepFinished | LimitReached):
            self._tail = ""

    def _frame(self) -> list[Text]:
        progress, width = self._progress, self._region.width
        now = self._clock() if self._clock else progress.now
        rows = fmt.tail_lines(self._tail, width, _TAIL_ROWS) if self._tail.strip() else []
        if progress.burst.in_flight:
            rows.append(fmt.bar_line(progress, width))
        spinner = _SPINNER if self._look.unicode else _ASCII_SPINNER
        return [*rows, fmt.status_line(progress, now, width, spinner[self._frames % len(spinner)])]

    def _lines(self, record: Record) -> list[Text]:
        """What `record` prints for good."""
        event, width, verbose = record.event, self._region.width, self._look.verbosity
        if isinstance(event, Warned | LimitReached | KernelRestarted | Compacted):
            return [Text(fmt.branch(record.span) + fmt.notice_text(event), "yellow")]
        if isinstance(event, CallRetried):
            return self._retry(event)
        if record.span.depth:
            line = fmt.child_text(record)
            return [Text(line, "dim")] if line else []
        match event:
            case RunStarted():
                mode = [Text(fmt.mode_text(event), "dim")] if event.mode and verbose else []
                return [*header_block(event), *mode]
            case SandboxReady() if verbose:
                return [Text(fmt.ready_text(event), "dim")]
            case PromptSet() if verbose > 1:
                return fmt.prose_block(f"{event.system}\n\n{event.user}", width, verbose=True)
            case StepStarted(step=step):
                return [Text(), fmt.rule(step)]
            case CodeWritten() if not self._progress.direct:
                return self._code(event, width)
            case Output():
                return fmt.output_block(
                    event.text, event.total, width, error=event.stream == "stderr", verbose=verbose > 0
                )
            case StepFinished():
                return self._step(event)
            case RunFinished():
                return [*closing_lines(event), *([Text()] if event.result.answered else [])]
        return []

    def _code(self, event: CodeWritten, width: int) -> list[Text]:
        verbose = self._look.verbosity > 0
        prose = fmt.prose_block(fmt.prose_of(event.reply, event.code), width, verbose=verbose)
        code = fmt.code_block(event.code, width, verbose=verbose)
        return [*prose, *([Text()] if prose and code else []), *code, *([Text()] if code else [])]

    def _step(self, event: StepFinished) -> list[Text]:
        lines = []
        burst = self._progress.burst
        if burst.done:
            lines.append(Text(f"  {fmt.burst_text(burst)}", "yellow" if burst.failed else "dim"))
        status = fmt.dotted(
            f"{fmt.step_status(event)} {human_seconds(event.seconds)}",
            fmt.raised(event.observation) if event.status == "error" else "",
        )
        lines.append(Text(f"  {status}", "dim" if event.status == "ok" else "yellow"))
        return lines

    def _retry(self, event: CallRetried) -> list[Text]:
        """Every retry of the root, and the first of its kind in a burst; the burst's summary counts the others."""
        key = (self._progress.step, event.reason)
        if event.call != self._progress.root_call and key in self._noted:
            return []
        self._noted.add(key)
        return [Text(f"  {fmt.retry_text(event)}", "yellow")]


def header_block(run: RunStarted) -> list[Text]:
    """The first lines of a run."""
    return [Text(line, "dim" if number else "bold") for number, line in enumerate(fmt.header_lines(run))]


def closing_lines(event: RunFinished) -> list[Text]:
    """The last lines of a run."""
    result = event.result
    mark = {"ok": "✓", "error": "✗"}.get(result.status, "!")
    line = Text(f"{mark} ", _STATUS_STYLE[result.status])
    line.append(fmt.closing_text(result))
    hint = fmt.show_hint(result)
    return [Text(), line, *([Text(f"  {hint}", "dim")] if hint else [])]
