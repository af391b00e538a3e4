"""The messages the root reads: system prompt, opening facts, observations, nudges, the last turn."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from ..sandbox import Captured, ContextFacts, StepResult
from ..units import human_bytes, human_count, human_seconds, money

# Characters of one observation's output: about 2,000 tokens, so that a careless print cannot fill the root's window.
OUTPUT_CHARS = 8_000
ERROR_CHARS = 4_000
LISTING = 40
SAMPLE_CHARS = 500

# How to go through an input that is not one str, by kind of `context`.
STREAMING = {
    "text": (
        (
            "look at it by slices, `draw_sample(context, 20)` and `grep`; go through all of it only as a stream:"
            " `for line in context.splitlines()`, `for piece in chunks(context, 50_000)`"
        ),
    ),
    "documents": (
        "go through it by `for name, text in context.items()`, `grep` or `chunks`, not by joining the texts",
    ),
}

# What is asked for with --cite. A few quotes: they cost output tokens.
EVIDENCE = " `FINAL(value, evidence=[...])` adds a few short quotes, word for word, that show it; each is looked up."

# Kept of a sub-model's window for its reply, and characters a token: both on the safe side.
REPLY_TOKENS = 8_000
CHARS_PER_TOKEN = 3
MAX_PAYLOAD = 400_000
UNKNOWN_WINDOW = 32_000

_MARKED = re.compile(r"(?:\{(?P<mark>sub|alone|flat|deep)\})?(?P<text>.*)")


@dataclass(frozen=True)
class InputFacts:
    """What the host knows of the input before the first turn. `samples`: (where, text) pairs of short excerpts."""

    files: int
    bytes: int
    kinds: tuple[tuple[str, int], ...] = ()
    listing: tuple[tuple[str, int], ...] = ()
    samples: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True)
class Remaining:
    """What is left, as the root is told at the end of every message. None: not limited."""

    turns: int
    subcalls: int | None = None
    seconds: float | None = None
    usd: float | None = None
    tokens: int | None = None


def payload_chars(window: int | None) -> int:
    """Characters that one sub-call may hold, from the sub-model's window in tokens (None: unknown)."""
    tokens = window or UNKNOWN_WINDOW
    usable = max(tokens - min(REPLY_TOKENS, tokens // 4), 1_000) * CHARS_PER_TOKEN
    step = 10_000 if usable >= 20_000 else 1_000
    return min(usable // step * step, MAX_PAYLOAD)


@cache
def prompt_file(name: str) -> str:
    """A file of this folder."""
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def system_text(*, payload: int, depth: int, cite: bool = True) -> str:
    """The system prompt. In the file, a mark begins what only holds at some depths: `{sub}` with sub-calls, `{alone}`
    without (0), `{flat}` where `rlm_query` is one of them (1), `{deep}` where it starts child runs (above)."""
    holds = {"": True, "sub": depth > 0, "alone": depth == 0, "flat": depth == 1, "deep": depth > 1}
    lines = (_MARKED.fullmatch(line) for line in prompt_file("system.md").split("\n"))
    kept = (line["text"] for line in lines if line and holds[line["mark"] or ""])
    text = "\n".join(kept).strip("\n").replace("{payload}", f"{payload:,}") + "\n"
    return text.replace("{evidence}", EVIDENCE if cite else "")


def opening(
    question: str,
    *,
    facts: InputFacts,
    context: ContextFacts,
    payload: int,
    remaining: Remaining,
    depth: int = 1,
    cite: bool = True,
    schema: str = "",
) -> tuple[str, str]:
    """The system prompt, which asks for evidence if `cite`, and the first user message. `schema`: what the answer must
    satisfy, as JSON."""
    system = system_text(payload=payload, depth=depth, cite=cite)
    parts = [
        "Question:\n" + fenced(question),
        *(["The value given to FINAL must satisfy this JSON Schema:\n" + fenced(schema)] if schema else []),
        "Input:\n" + "\n".join(f"- {line}" for line in _facts_lines(facts, context)),
        *(f"{where}:\n{fenced(text)}" for where, text in facts.samples),
        remaining_line(remaining),
    ]
    return system, "\n\n".join(parts)


def context_line(context: ContextFacts) -> str:
    """What `context` is, in one line, for the model and for the screen."""
    lines = ("" if context.lines_exact else "about ") + human_count(context.lines) + " lines"
    if context.kind == "documents":
        return (
            f"a read-only mapping, document name -> text: {human_count(context.documents)} documents,"
            f" {human_bytes(context.bytes)}, {lines}"
        )
    if context.kind == "text":
        return f"a Text, too large to be a str: {human_bytes(context.bytes)}, {lines}"
    chars = f", {human_count(context.chars)} characters" if context.chars is not None else ""
    return f"a str: {human_bytes(context.bytes)}{chars}, {lines}"


def _facts_lines(facts: InputFacts, context: ContextFacts) -> list[str]:
    lines = [
        f"`context` is {context_line(context)}",
        *STREAMING.get(context.kind, ()),
        f"about {human_count(max(1, facts.bytes // 4))} tokens in all",
    ]
    if context.lossy:
        least = "" if context.lines_exact or context.documents == 1 else "at least "
        lines.append(f"{least}{human_count(context.lossy)} of it not valid UTF-8, read as Latin-1")
    if len(facts.kinds) > 1:
        lines.append("kinds: " + ", ".join(f"{kind} ({human_count(n)})" for kind, n in facts.kinds[:8]))
    if facts.listing:
        shown = [f"{visible(name)} ({human_bytes(size)})" for name, size in facts.listing[:LISTING]]
        more = facts.files - len(shown)
        lines.append("documents: " + ", ".join(shown) + (f", and {human_count(more)} more" if more > 0 else ""))
    return lines


def visible(name: str) -> str:
    """A document name on one line; odd characters as Python escapes, so that the name can be typed back."""
    return name if name.isprintable() and "," not in name else ascii(name)


def remaining_line(left: Remaining) -> str:
    parts = [f"{left.turns} turns"]
    if left.subcalls is not None:
        parts.append(f"{human_count(left.subcalls)} sub-calls")
    if left.usd is not None:
        parts.append(money(left.usd))
    if left.tokens is not None:
        parts.append(f"{human_count(left.tokens)} tokens")
    if left.seconds is not None:
        parts.append(human_seconds(left.seconds))
    return "[left: " + ", ".join(parts) + "]"


def observation_text(result: StepResult, *, remaining: Remaining, note: str = "") -> str:
    """What one cell did, as the next user message."""
    parts = [
        _stream("stdout", result.stdout, OUTPUT_CHARS),
        _stream("stderr", result.stderr, OUTPUT_CHARS // 2),
        f"late output of background threads:\n{fenced(_shorten(result.late, OUTPUT_CHARS // 4))}"
        if result.late
        else "",
        f"error:\n{fenced(_shorten(result.error, ERROR_CHARS))}" if result.error else "",
        _outcome(result),
        left_behind(result.given_up),
        note,
        remaining_line(remaining),
    ]
    return "\n\n".join(part for part in parts if part)


def _outcome(result: StepResult) -> str:
    if result.restarted:
        return f"The session was restarted: {result.restarted}"
    if result.status == "timeout":
        return "The code was stopped at its time limit. Variables are kept."
    if result.status == "interrupted":
        return "The code was interrupted. Variables are kept."
    if result.status == "ok" and not (result.stdout.total or result.stderr.total):
        return "The code ran and printed nothing."
    return ""


def left_behind(given_up: int) -> str:
    """What became of calls that nobody waited for."""
    if not given_up:
        return ""
    replies = "1 reply" if given_up == 1 else f"{human_count(given_up)} replies"
    return f"{replies} had not come when the code ended: wait for sub-calls in the code that makes them."


def cut_short(replies: int) -> str:
    """What is known of replies that are not whole: their text does not say so."""
    if not replies:
        return ""
    which = "1 reply of a sub-model was" if replies == 1 else f"{human_count(replies)} replies of sub-models were"
    return f"{which} cut off, at the output limit or by a filter"


def _stream(name: str, captured: Captured, cap: int) -> str:
    if not captured.total:
        return ""
    text = captured.head + captured.tail
    if captured.dropped or len(text) > cap:
        body = _head_and_tail(captured, cap)
        return f"{name} ({captured.total:,} bytes, middle left out):\n{fenced(body)}"
    return f"{name}:\n{fenced(text)}"


def _head_and_tail(captured: Captured, cap: int) -> str:
    """First three quarters and last quarter of `cap` characters, with the size of the gap."""
    text = captured.head + captured.tail
    head, tail = captured.head[: cap * 3 // 4], (captured.tail or text)[-(cap // 4) :]
    kept = len(head.encode("utf-8", "replace")) + len(tail.encode("utf-8", "replace"))
    return f"{head}\n[... {max(captured.total - kept, 0):,} bytes left out ...]\n{tail}"


def _shorten(text: str, cap: int) -> str:
    if len(text) <= cap:
        return text
    return f"{text[: cap // 4]}\n[... {len(text) - cap:,} characters left out ...]\n{text[-(cap - cap // 4) :]}"


def fenced(text: str) -> str:
    """`text` inside a fence that nothing in it can close."""
    longest = max((len(run) for run in re.findall(r"~+", text)), default=0)
    fence = "~" * max(4, longest + 1)
    return f"{fence}\n{text.rstrip(chr(10))}\n{fence}"


def no_code_text(problem: str, *, remaining: Remaining) -> str:
    """The nudge after a reply without code."""
    return (
        f"Nothing was run: {problem}. Reply with one ```repl block. When you know the answer, the block is"
        f" FINAL(value).\n\n{remaining_line(remaining)}"
    )


def last_turn_text(reason: str) -> str:
    """The last message when a limit has been reached."""
    return (
        f"The run ends here: {reason}. No more code or sub-calls. Reply now with the answer in plain text, from what"
        " you have found so far: the answer itself first, then one line on what is missing or unchecked. If you found"
        " nothing, say so."
    )
