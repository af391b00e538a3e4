"""Records as text: pure functions that return lines. Nothing here prints, and everything from outside is cleaned."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from ..events import (
    CallRetried,
    ChildFinished,
    ChildStarted,
    Compacted,
    Cost,
    KernelRestarted,
    LimitReached,
    ModelPair,
    Preparing,
    Record,
    Result,
    RunStarted,
    SandboxReady,
    SourcesFacts,
    Span,
    StepFinished,
    Totals,
    Usage,
    Warned,
)
from ..units import compact_count, human_bytes, human_count, human_seconds, money
from .progress import Burst, Progress
from .sanitize import clean, clean_line

if TYPE_CHECKING:
    from rich.syntax import Syntax

DOT = " · "
FOLD_HEAD, FOLD_TAIL = 8, 4
CODE_HEAD, CODE_TAIL = 60, 20
_LINE_CHARS = 240
_LINE_CHARS_VERBOSE = 10_000
_PARAGRAPH_CHARS = 2000
_PROSE_WIDTH = 100
_BAR = 20
_RULE = 32
_NAME = 60
_RAISED = re.compile(r"^(?:[A-Za-z_][\w.]*)?(?:Error|Exception|Interrupt|Exit|Warning)\b.*", re.MULTILINE)


def dotted(*parts: str) -> str:
    """The parts that say something, joined by middle dots."""
    return DOT.join(part for part in parts if part)


def counted(number: int, noun: str) -> str:
    """`1 step`, `1,284 files`."""
    return f"{human_count(number)} {noun}{'' if number == 1 else 's'}"


# -- facts ---------------------------------------------------------------------------------------------------------


def facts_text(facts: SourcesFacts) -> str:
    """`1,284 files · 412 MB · ~103 M tokens`."""
    return dotted(counted(facts.files, "file"), human_bytes(facts.bytes), f"~{compact_count(facts.tokens_est)} tokens")


def names_text(names: Sequence[str]) -> str:
    """The sources as named, at most three of them."""
    shown = " ".join(clean_line(name, _NAME) for name in names[:3])
    return shown + (f" and {human_count(len(names) - 3)} more" if len(names) > 3 else "")


def models_text(models: ModelPair) -> str:
    """`root → sub`, or one name when both are the same."""
    root, sub = clean_line(models.root, _NAME), clean_line(models.sub, _NAME)
    return root if sub in ("", root) else f"{root} → {sub}"


def cost_text(cost: Cost) -> str:
    """`$0.0213`; `≥ $0.0213` when some calls have no known price, `cost ?` when none has."""
    if cost.known:
        return money(cost.usd)
    return f"≥ {money(cost.usd)}" if cost.usd else "cost ?"


def spent_text(totals: Totals, *, gap: str = " ") -> str:
    """`$0.0213 / $1.00`: the running cost against the cap."""
    cap = f"{gap}/{gap}{money(totals.max_usd)}" if totals.max_usd is not None else ""
    return cost_text(totals.cost) + cap


def header_lines(run: RunStarted) -> list[str]:
    """What is read by whom for how much: two or three lines."""
    names = names_text(run.names)
    facts = facts_text(run.sources)
    skipped = str(run.sources.skipped)
    if skipped and run.skips == clean_line(run.skips, 2 * _NAME):  # else it is none to paste
        skipped = dotted(skipped, run.skips)
    cap = run.limits.get("cost")
    return [
        line
        for line in (
            dotted(f"rlm {clean_line(run.version, 20)}", f"{names} ({facts})" if names else facts),
            skipped,
            dotted(
                models_text(run.models),
                clean_line(run.mode, 20) if run.mode != "rlm" else "",
                f"cap {money(cap)}" if cap is not None else "no cost cap",
                clean_line(run.cost_note, 2 * _NAME),
            ),
        )
        if line
    ]


def mode_text(run: RunStarted) -> str:
    """`mode: direct: about 3,100 tokens of 128,000 ...`; "" for a run of before there were modes."""
    return f"mode: {clean_line(run.mode, 20)}: {clean_line(run.mode_why, 200)}" if run.mode else ""


# -- one line each -------------------------------------------------------------------------------------------------


def step_facts(progress: Progress, done: StepFinished) -> str:
    """A finished step on one line, for a pipe."""
    code = f"code {counted(progress.code_lines, 'line')}" if progress.code_lines else ""
    calls = counted(progress.burst.done, "sub-call") if progress.burst.done else ""
    failed = f" ({human_count(progress.burst.failed)} failed)" if progress.burst.failed else ""
    return dotted(
        f"step {done.step}",
        code,
        f"{step_status(done)} {human_seconds(done.seconds)}",
        calls + failed,
        f"{compact_count(progress.totals.usage.total.total)} tok",
        spent_text(progress.totals, gap=""),
        raised(done.observation) if done.status == "error" else "",
    )


def step_status(done: StepFinished) -> str:
    return {"no_code": "no code", "died": "kernel died"}.get(done.status, done.status)


def raised(observation: str) -> str:
    """The last line of the traceback in what the root saw: `NameError: name 'x' is not defined`."""
    found = _RAISED.findall(observation)
    return clean_line(found[-1], _PROSE_WIDTH) if found else ""


def burst_text(burst: Burst) -> str:
    """A step's sub-calls once they are over; "" when there were none."""
    if not burst.done:
        return ""
    cost = money(burst.usd) if burst.priced else "cost ?"
    return dotted(
        counted(burst.done, "sub-call"),
        f"{human_count(burst.ok)} ok" if burst.failed else "",
        f"{human_count(burst.failed)} failed" if burst.failed else "",
        f"{human_count(burst.cached)} cached" if burst.cached else "",
        retries_text(burst.retries) if burst.retries else "",
        f"{compact_count(burst.tokens)} tokens",
        cost,
        human_seconds(max(burst.ended - burst.began, 0.0)),
    )


def retries_text(number: int) -> str:
    return "1 retry" if number == 1 else f"{human_count(number)} retries"


def retry_text(event: CallRetried) -> str:
    """`rate limited, retrying in 8 s (2/5)`."""
    reason = clean_line(event.reason, _PROSE_WIDTH) or "failed"
    return f"{reason}, retrying in {_wait(event.wait_s)} ({event.attempt}/{event.attempts})"


def _wait(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if 1 <= seconds < 60 else human_seconds(seconds)


def notice_text(event: Warned | LimitReached | KernelRestarted | Compacted) -> str:
    """What the user should know, on one line."""
    if isinstance(event, LimitReached):
        return f"limit: {clean_line(event.message, 4 * _PROSE_WIDTH)}"
    if isinstance(event, KernelRestarted):
        return f"the kernel was restarted: {clean_line(event.reason, 4 * _PROSE_WIDTH)}"
    if isinstance(event, Compacted):
        return f"the conversation was shortened: {counted(event.turns, 'turn')} became notes, variables live on"
    return f"warning: {clean_line(event.message, 4 * _PROSE_WIDTH)}"


def branch(span: Span) -> str:
    """What begins a line about a child run: as far in as it is deep, and which it is; "" for the root."""
    return f"{'  ' * span.depth}{span} " if span.depth else ""


def child_text(record: Record) -> str:
    """A child run's beginning, turn or end on one line; "" for all else that it does."""
    match record.event:
        case ChildStarted(prompt=prompt, documents=documents, bytes=size):
            given = f"{counted(documents, 'document')}, {human_bytes(size)}"
            text = dotted("child", given, clean_line(prompt, _PROSE_WIDTH))
        case StepFinished() as done:
            why = raised(done.observation) if done.status == "error" else ""
            text = dotted(f"step {done.step}", f"{step_status(done)} {human_seconds(done.seconds)}", why)
        case ChildFinished(status=status, seconds=seconds, reply=reply):
            how = status.replace("_", " ")
            text = dotted(f"child {how} {human_seconds(seconds)}", clean_line(reply, _PROSE_WIDTH))
        case _:
            return ""
    return branch(record.span) + text


def ready_text(event: SandboxReady) -> str:
    """`sandbox ready in 0.4 s · input copied to memory · a text of 1.2 GB`."""
    copied = event.sandbox.input in ("memory", "volume")
    return dotted(
        f"sandbox ready in {human_seconds(event.seconds)}",
        f"input copied to {'memory' if event.sandbox.input == 'memory' else 'a volume'}" if copied else "",
        clean_line(event.context, 200),
    )


def preparing_text(event: Preparing) -> str:
    """`packing the input: 120 MB of 412 MB`; of how much is left out where it is not known."""
    of = f" of {human_bytes(event.total)}" if event.total else ""
    return f"{clean_line(event.what, _NAME)}: {human_bytes(event.done)}{of}"


def closing_text(result: Result) -> str:
    """How it ended, how long it took, what it cost."""
    words = {"ok": "answered", "partial": "partial answer", "no_answer": "no answer", "error": "failed"}
    reason = result.limit_hit or (result.error.code if result.error else "")
    return dotted(
        words[result.status] + (f" ({clean_line(reason, _NAME)})" if reason else ""),
        human_seconds(result.timing.total_s),
        counted(result.iterations, "step"),
        counted(result.calls.total, "call"),
        f"{compact_count(result.usage.total.total)} tokens{cached_text(result.usage.total)}",
        cost_text(result.cost),
        saved_text(result.calls.cached, result.cost),
    )


def cached_text(usage: Usage) -> str:
    """` (62 % cached)`: the share of the input that the provider had in its cache; "" when none was."""
    return f" ({100 * usage.cached / usage.input:.0f} % cached)" if usage.cached and usage.input else ""


def saved_text(cached: int, cost: Cost) -> str:
    """`12 from cache (saved $0.03)`; "" when every sub-call was asked."""
    if not cached:
        return ""
    return f"{human_count(cached)} from cache" + (f" (saved {money(cost.saved_usd)})" if cost.saved_usd else "")


def show_hint(result: Result) -> str:
    """The command that shows the kept run; "" when nothing was kept."""
    return f"rlm runs show {clean_line(result.run_id, _NAME)}" if result.log_dir else ""


# -- blocks --------------------------------------------------------------------------------------------------------


def prose_of(reply: str, code: str) -> str:
    """What the model said before its code."""
    body = code.strip("\n")
    at = reply.find(body) if body else -1
    if at < 0:
        return reply.strip()
    before = reply[:at].rstrip()
    return (
        before[: before.rfind("\n") + 1].strip() if before.split("\n")[-1].lstrip().startswith(("`", "~")) else before
    )


def fold(text: str, head: int, tail: int, *, chars: int = _LINE_CHARS) -> list[str]:
    """`text` cleaned, in lines: the first `head` and the last `tail`, with what lies between as one counted line."""
    text = text.replace("\r\n", "\n").strip("\n")
    lines = text.split("\n") if text else []
    hidden = len(lines) - head - tail
    if hidden > 1:
        lines = [*lines[:head], "", *lines[len(lines) - tail :]]
    shown = [clean(_clip(line, chars)).replace("\n", "⏎").expandtabs(4) for line in lines]
    if hidden > 1:
        shown[head] = f"… {human_count(hidden)} lines more"
    return shown


def _clip(line: str, chars: int) -> str:
    extra = len(line) - chars
    return f"{line[:chars]}… {human_count(extra)} characters more" if extra > 0 else line


def rule(step: int) -> Text:
    """The dim line that opens a step. Short, so that a narrowed window does not break it."""
    label = f"── step {step} "
    return Text(label + "─" * (_RULE - cell_len(label)), "dim")


def wrapped(text: Text, width: int, *, first: Text | None = None) -> list[Text]:
    """`text` in rows of at most `width` cells, each behind a copy of `first`. Nothing pads the right."""
    from rich.console import Console

    lead = first or Text()
    room = max(width - cell_len(lead.plain), 10)
    console = Console(width=room, _environ={})
    return [lead + row for line in text.split("\n", allow_blank=True) for row in _rows(line, console, room)]


def _rows(line: Text, console: object, room: int) -> list[Text]:
    rows = line.wrap(console, room, tab_size=4)  # type: ignore[arg-type]
    for row in rows:
        row.rstrip()
    return list(rows) or [Text()]


def fitted(lines: Sequence[Text], width: int) -> list[Text]:
    """`lines`, those that are too wide wrapped behind their own indent."""
    return [row for line in lines for row in ([line] if line.cell_len <= width else _indented(line, width))]


def _indented(line: Text, width: int) -> list[Text]:
    indent = len(line.plain) - len(line.plain.lstrip(" "))
    return wrapped(line[indent:], width, first=line[:indent])


def prose_block(text: str, width: int, *, verbose: bool = False) -> list[Text]:
    """The model's words; a flood of them is folded."""
    head, tail = (10**9, 0) if verbose else (CODE_HEAD, CODE_TAIL)
    lines = fold(text, head, tail, chars=_LINE_CHARS_VERBOSE if verbose else _PARAGRAPH_CHARS)
    return wrapped(Text("\n".join(lines)), min(width, _PROSE_WIDTH)) if lines else []


def code_block(code: str, width: int, *, verbose: bool = False) -> list[Text]:
    """Highlighted code in the terminal's own colours, indented; long programs are folded."""
    head, tail = (10**9, 0) if verbose else (CODE_HEAD, CODE_TAIL)
    lines = fold(code, head, tail, chars=_LINE_CHARS_VERBOSE if verbose else _LINE_CHARS)
    return wrapped(_highlighted("\n".join(lines)), width, first=Text("  ")) if lines else []


def code_lines(code: str) -> list[Text]:
    """The whole program, highlighted, neither folded nor wrapped nor indented."""
    return list(_highlighted(clean(code.strip("\n"))).split("\n", allow_blank=True)) if code.strip() else []


def _highlighted(code: str) -> Text:
    text = _python().highlight(code)
    text.rstrip()
    return text


@cache
def _python() -> Syntax:
    """The highlighter. Its first use loads pygments (a tenth of a second)."""
    from rich.syntax import Syntax

    return Syntax("", "python", theme="ansi_dark", background_color="default", word_wrap=True)


def output_block(text: str, total: int, width: int, *, error: bool = False, verbose: bool = False) -> list[Text]:
    """A cell's output behind a bar, folded to its first and last lines; `total` is its true size in bytes."""
    head, tail = (10**9, 0) if verbose else (FOLD_HEAD, FOLD_TAIL)
    lines = fold(text, head, tail, chars=_LINE_CHARS_VERBOSE if verbose else _LINE_CHARS)
    if total > len(text.encode("utf-8", "replace")):
        lines.append(f"… {human_bytes(total)} in all")
    bar = Text("  │ ", "red" if error else "dim")
    return [
        row for line in lines for row in wrapped(Text(line, "dim" if line.startswith("… ") else ""), width, first=bar)
    ]


# -- the live region -----------------------------------------------------------------------------------------------


def tail_lines(text: str, width: int, count: int) -> list[Text]:
    """The last `count` rows of what is being written, empty ones left out."""
    lines = [line for line in clean(text[-count * width * 2 :]).split("\n") if line.strip()]
    # The region leaves the last column free, so that no row wraps by itself.
    rows = wrapped(Text("\n".join(lines[-count:]), "dim"), min(width - 1, _PROSE_WIDTH), first=Text("  "))
    return rows[-count:]


def bar_line(progress: Progress, width: int) -> Text:
    """`sub-calls ███████░░░ 12/40 · 1 failed · 8 in flight`; while items are mapped, `items ███░░░ 600/2,000 · ...`."""
    burst = progress.burst
    size = _BAR if width >= 72 else _BAR // 2
    done, of = (burst.items, burst.items_total) if burst.items_total else (burst.done, burst.started)
    full = min(size * done // max(of, 1), size)
    line = Text("  items " if burst.items_total else "  sub-calls ")
    line.append("█" * full, "green").append("░" * (size - full), "dim")
    line.append(f" {human_count(done)}/{human_count(of)}")
    if burst.items and not burst.items_total:
        line.append(f"{DOT}{human_count(burst.items)} items")
    if burst.failed:
        line.append(DOT, "dim").append(f"{human_count(burst.failed)} failed", "red")
    in_flight = burst.in_flight if progress.concurrency is None else min(burst.in_flight, int(progress.concurrency))
    line.append(f"{DOT}{human_count(in_flight)} in flight", "dim")
    if burst.retries:
        line.append(f"{DOT}{retries_text(burst.retries)}", "dim")
    return line


def status_line(progress: Progress, now: float, width: int, spinner: str) -> Text:
    """`⠹ step 2 · running code · 31 k tokens · $0.0213 / $1.00 · 0:42`, with less of it in a narrow window.

    `now` is in Unix seconds.
    """
    step = f"step {progress.step}" if progress.step else ""
    tokens = f"{compact_count(progress.totals.usage.total.total)} tokens"
    spent = spent_text(progress.totals)
    clock = clock_text(now - progress.began if progress.began else 0.0)
    full = (dotted(step, _doing(progress, now)), dotted(tokens, spent, clock))
    for left, right in (full, (step, dotted(tokens, spent, clock)), (step, dotted(spent, clock))):
        line = Text(spinner, "cyan").append(f" {left}" if left else "", "default")
        line.append(DOT if left else " ", "dim").append(right, "dim")
        if line.cell_len < width:
            break
    return line


def _doing(progress: Progress, now: float) -> str:
    if progress.burst.in_flight:
        return "waiting for sub-calls"
    if progress.wait and now < progress.wait_until:
        return f"retrying in {_wait(progress.wait_until - now)}"
    return {
        "starting": "starting the sandbox",
        "asking": "the model is writing",
        "running": "running code",
        "ending": "asking for an answer with what there is",
        "over": "done",
    }[progress.phase]


def clock_text(seconds: float) -> str:
    """`0:42`, `12:05`, `1:02:03`: steady while it counts."""
    whole = max(int(seconds), 0)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
