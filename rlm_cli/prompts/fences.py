"""Find the code in a model's reply.

Rules, in this order:
- Hidden thinking is not searched: `<think>...</think>` before the code, or all before a `</think>` that nothing opened.
- The first fenced block whose tag is repl, python, py ... or empty is the code. Blocks of other languages are prose.
- A fence closes the block only where Python is not inside a triple-quoted string, so fences inside prompts survive.
- A block that is never closed runs to the end of the reply, unless the provider cut the reply at its output limit.
- Without a block, a call of a tool that carries code, as some models spell it in text, is the code.
- Without any code, a line `FINAL(...)` or `FINAL_VAR(name)` of prose is the answer, as the paper's prompt taught it.

A model whose chat template opens its thinking only closes it, so a block may turn out to be a draft long after it was
closed. How long to wait for that depends on the model (`thinks`): one that was seen to do so is waited for until its
reply ends, one that was not is cut at once, and in a first reply `PATIENCE` decides. What a growing reply was cut at is
what is found in the whole one: nothing is settled by what may still change.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

PATIENCE = 8_000
"""Characters after the first block of a model's first reply in which its thinking may end: some 2,000 tokens, once."""
CODE_TAGS = {"", "repl", "python", "py", "python3", "ipython", "pycon", "tool_code"}

# No pattern here may take a time that grows with the square of a reply: what a model says may be made for that.
_OPEN = re.compile(
    r"^(?P<indent>[ ]{0,3})(?P<fence>`{3,}+|~{3,}+)(?=[^`\n]*+$)[ \t]*+(?P<tag>[\w+.#-]*+)[^`\n]*+$", re.MULTILINE
)
_THINK = re.compile(r"<(think|thinking|reasoning)>", re.IGNORECASE)
_THOUGHT = re.compile(r"</(think|thinking|reasoning)>", re.IGNORECASE)
_LONGEST = len("</reasoning>")
_TOOL = re.compile(r"<(?P<tag>tool_call|function_call|tool|code|execute|python|repl)>|<\|python_tag\|>")
_TOOL_ENDS = re.compile(r"<\|e\w+_id\|>|\Z")
_NAMED = ("tool_call", "function_call", "tool", "json")
"""Calls that hold JSON, and no code by itself."""
_CODE_KEYS = ("code", "python", "source", "script", "input", "command")
_FINAL = re.compile(r"^[ \t]*(?P<name>FINAL|FINAL_VAR)\((?P<value>.*)", re.MULTILINE)
# The start of a comment or of a string literal: all that matters to find open strings.
_TOKEN = re.compile(r"#|(?P<quote>\"\"\"|'''|\"|')")
# Where each ends, escapes aside. A one-line string also ends, broken, at its line's end.
_ENDS = {quote: re.compile(rf"\\.|{quote}|\n", re.DOTALL) for quote in ('"', "'")}
_ENDS |= {quote: re.compile(rf"\\.|{quote}", re.DOTALL) for quote in ('"""', "'''")}
_ENDS[""] = re.compile(r"\n")


@dataclass(frozen=True)
class Reply:
    """A root reply, understood. At most one of `code` and `final` is set; `problem` says why neither is. `thought`:
    thinking that it did not open was hidden in it."""

    text: str
    code: str = ""
    final: str | None = None
    problem: str = ""
    thought: bool = False


@dataclass(frozen=True)
class _Block:
    """A fenced block: its first fence is at `start`, its last ends at `end`. One that is not closed, or not `certain`
    to be, runs to the end of the text."""

    start: int
    body: int
    end: int
    code: str
    python: bool
    closed: bool
    certain: bool


class _Call(NamedTuple):
    """A tool's call: from where to where, what it is marked by ("json": nothing else is there; "": its code follows,
    up to a mark of its end), and what it holds."""

    start: int
    end: int
    tag: str
    body: str


@dataclass(frozen=True)
class _Hidden:
    """Where hidden thinking ends, 0 without any; whether what is still to come cannot change that; and whether the
    reply did not open it."""

    end: int
    certain: bool = True
    unopened: bool = False


def parse_reply(text: str, *, truncated: bool = False, thinks: bool | None = None) -> Reply:
    """The reply cut after its first code block, and what is to be done with it.

    `truncated`: the provider stopped at its output limit, so an unclosed block is not whole and is not run.
    `thinks`: whether this model's replies have thinking that they do not open; None: this is its first.
    """
    hidden = _hidden(text, _patience(thinks))
    reply = _understood(text, hidden.end, truncated, drafting=bool(thinks) and not hidden.end)
    return replace(reply, thought=hidden.unopened)


def _understood(text: str, start: int, truncated: bool, *, drafting: bool) -> Reply:
    """What the text says from `start` on. `drafting`: when it was truncated, it was still thinking."""
    block = _first_code(text, start)
    if block is not None and block.closed and not (truncated and drafting):
        cut = text[: block.end].rstrip() + "\n"
        return Reply(cut, code=block.code) if block.code.strip() else Reply(cut, problem="the code block was empty")
    if truncated:
        return Reply(text, problem="the reply was cut off at the output limit before its code block was closed")
    if block is not None and block.code.strip():
        return Reply(text, code=block.code)
    if code := _tool_code(text[start:]) or _call_around(text, start):
        return Reply(text, code=code)
    return _prose_final(text, start) or Reply(text, problem="no code block" if text.strip() else "the reply was empty")


class BlockCutter:
    """Asked with a growing text: where to end a reply that goes on after its first closed block; None while there is
    nothing to cut, or while it may turn out to be thinking. One for each reply, and for each attempt at one: it looks
    again only when what came may have closed a block.

    `thinks` as in `parse_reply`, which finds the same code in the text that is cut and in any that goes on from there.
    Only text after the block makes a cut: a reply that stops by itself keeps the provider's usage record.
    """

    def __init__(self, thinks: bool | None = None) -> None:
        self._patience = _patience(thinks)
        self._seen = 0
        self._closed: int | None = None
        self._settled = 0.0
        """The length of the text from which on nothing can come that makes the block a draft."""

    def __call__(self, text: str) -> int | None:
        line = text.rfind("\n", 0, self._seen) + 1  # the line that was still growing may have become a fence
        self._seen = len(text)
        if any(mark in text[line:] for mark in ("```", "~~~", "</")):
            self._look(text)
        end = self._closed
        return end if end is not None and len(text) >= self._settled and text[end:].strip() else None

    def _look(self, text: str) -> None:
        hidden = _hidden(text, self._patience)
        block = _first_code(text, hidden.end)
        self._closed = block.end if hidden.certain and block is not None and block.closed and block.certain else None
        if self._closed is not None:
            waits = self._patience and not hidden.end
            self._settled = self._closed + self._patience + _LONGEST if waits else 0


def _patience(thinks: bool | None) -> float:
    """Characters after a block in which a `</think>` that nothing opened still makes it a draft."""
    return PATIENCE if thinks is None else math.inf if thinks else 0


def _first_code(text: str, start: int) -> _Block | None:
    """The first block of Python from `start` on, which counts as the beginning of a line."""
    for block in _blocks(text[start:]):
        if block.python:
            return replace(block, start=block.start + start, body=block.body + start, end=block.end + start)
    return None


def _blocks(text: str) -> Iterator[_Block]:
    position = 0
    while opened := _OPEN.search(text, position):
        body = min(opened.end() + 1, len(text))
        python = opened["tag"].lower() in CODE_TAGS
        closing, certain = _closing_fence(text, body, opened["fence"], python=python)
        end, position = (closing.start(), closing.end()) if closing else (len(text), len(text))
        code = _outdented(text[body:end], opened["indent"]) if python else ""
        yield _Block(opened.start(), body, position, code, python, closing is not None, certain)


def _outdented(code: str, indent: str) -> str:
    """The code of a block inside a list, whose fence is indented: that much is not Python's. Newlines as Python's."""
    code = code.replace("\r\n", "\n")
    return re.sub(rf"^ {{1,{len(indent)}}}", "", code, flags=re.MULTILINE) if indent else code


def without_thinking(text: str) -> str:
    """What follows a reply's hidden thinking; all of it when there is none."""
    return text[_hidden(text, math.inf).end :]


def words_of(text: str) -> str:
    """What a reply tells a person: neither hidden thinking nor a program that it was to run. A block that is no program
    (a table, a value) belongs to the words."""
    start = _hidden(text, math.inf).end
    block = _first_code(text, start)
    if block is None or not _is_program(block.code):
        return text[start:].strip()
    return (text[start : block.start] + text[block.end :]).strip()


def _is_program(code: str) -> bool:
    """Whether it does anything: a value by itself does not, and neither does what is not Python."""
    try:
        statements = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(one, ast.Expr) or isinstance(one.value, ast.Call) for one in statements)


def _hidden(text: str, patience: float) -> _Hidden:
    """Where hidden thinking ends. A `</think>` more than `patience` characters after the first block ends none."""
    if end := _after_opened(text):
        return _Hidden(end)
    if "</" not in text and not _THINK.search(text):
        return _Hidden(0)
    blocks = list(_blocks(text))
    code = next((block for block in blocks if block.python), None)
    opened = next((tag for tag in _THINK.finditer(text) if not _around(blocks, tag)), None)
    # Opened in the middle of a reply: it is thinking on a line of its own and before the code, else talk about the tag.
    late = opened is not None and (code is None or opened.start() < code.start) and _begins_line(text, opened.start())
    certain = True
    for tag in _ends_of_thinking(text, 0):
        unopened = opened is None or tag.start() < opened.start()
        if not unopened and not late:
            return _Hidden(0, certain)
        if unopened and code is not None and code.certain and tag.start() > code.end + patience:
            return _Hidden(0, certain)
        block = _around(blocks, tag)
        quoted = block is not None and (not block.python or _in_literal(text, block.body, tag.start()))
        if block is None or not quoted or not block.certain:
            return _Hidden(tag.end(), certain and not quoted, unopened)
        certain = certain and block.end < len(text)  # the line that closes it may still become another one
    return _Hidden(0, certain and not late)


def _after_opened(text: str) -> int:
    """Where the thinking ends that the reply begins with; it may come in several parts."""
    end = 0
    while opened := _THINK.match(text, len(text) - len(text[end:].lstrip())):
        name = opened[1].lower()
        closed = next((tag for tag in _ends_of_thinking(text, opened.end()) if tag[1].lower() == name), None)
        end = closed.end() if closed else len(text)
    return end


def _ends_of_thinking(text: str, start: int) -> Iterator[re.Match[str]]:
    """Each `</think>` that is not in quotation marks."""
    for tag in _THOUGHT.finditer(text, start):
        mark = text[tag.start() - 1 : tag.start()]
        quoted = mark in ("`", "'", '"') and text.startswith(mark, tag.end())
        if not quoted or text.startswith("```", tag.end()):
            yield tag


def _around(blocks: list[_Block], tag: re.Match[str]) -> _Block | None:
    return next((block for block in blocks if block.start < tag.start() < block.end), None)


def _begins_line(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip()


def _closing_fence(text: str, body: int, fence: str, *, python: bool) -> tuple[re.Match[str] | None, bool]:
    """The first line that closes `fence`, and whether that is certain: in a string that never ends, the first plausible
    one closes, if the text ends with one. When there is none it is not certain either.

    A fence on the last line without a newline counts only when the text ends there, which is always true for us: the
    caller sees a growing text, and a tag that is still to come would have made it another line.
    """
    closer = re.compile(rf"^[ ]{{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t\r]*$", re.MULTILINE)
    first, position = None, body
    for candidate in closer.finditer(text, body):
        if python:
            position = _after_literals(text, position, candidate.start())
        if position <= candidate.start():
            return candidate, True
        first = first or candidate
        if not text[candidate.end() :].strip():
            return first, False
    return None, False


def _in_literal(text: str, start: int, at: int) -> bool:
    """Whether a string or a comment of the Python that begins at `start` goes on at `at`."""
    return any(first < at < end for first, end, _ in _literals(text, start, at))


def _after_literals(text: str, start: int, stop: int) -> int:
    """`stop`, unless a triple-quoted string is open there: then where it ends. `start` is outside of strings."""
    for _, end, quote in _literals(text, start, stop):
        if end > stop and len(quote) == 3:
            return end
    return max(start, stop)


def _literals(text: str, start: int, stop: int) -> Iterator[tuple[int, int, str]]:
    """The strings and comments that begin before `stop`: from where to where, in which quotation marks. One that has
    no end ends behind the text; one that its line ends is broken, and left out."""
    while token := _TOKEN.search(text, start, stop):
        quote = token["quote"] or ""
        ends = _ENDS[quote].finditer(text, token.end())
        end = next((found for found in ends if not found[0].startswith("\\")), None)
        start = end.end() if end else len(text) + 1
        if end is None or end[0] == (quote or "\n"):
            yield token.start(), start, quote


def _tool_code(text: str) -> str:
    """The code of a call of some tool, spelled in text; "" when there is none."""
    call = next(_calls(text), None)
    if call is None:
        return ""
    if not call.body.startswith("{"):
        return "" if call.tag in _NAMED else call.body
    return code_argument(call.body) or ("" if call.tag else call.body)


def _call_around(text: str, at: int) -> str:
    """The code of a call whose JSON goes on at `at`: a `</think>` in it ended no thinking."""
    calls = (call.body for call in _calls(text) if call.tag and call.start < at < call.end)
    return next(filter(None, map(code_argument, calls)), "")


def _calls(text: str) -> Iterator[_Call]:
    """Calls of tools: <tool_call>{...}</tool_call>, <|python_tag|>code, <code>code</code>, or the JSON alone."""
    whole = text.strip()
    if whole.startswith("{") and whole.endswith("}"):
        yield _Call(0, len(text), "json", whole)
        return
    endless: set[str] = set()
    at = 0
    while opened := _TOOL.search(text, at):
        at = opened.end()
        tag = opened["tag"] or ""
        if not tag:
            ends = next(_TOOL_ENDS.finditer(text, at))
            start, stop, at = at, ends.start(), ends.end()
        elif tag not in endless and (stop := text.find(f"</{tag}>", at)) >= 0:
            start, at = at, stop + len(f"</{tag}>")
        else:
            endless.add(tag)
            continue
        yield _Call(opened.start(), at, tag, text[start:stop].strip())


def code_argument(text: str) -> str:
    """The code in a tool call's JSON: `{"name": ..., "arguments": {"code": ...}}` or the arguments alone; else ""."""
    try:
        call = json.loads(text, strict=False)
        arguments = call.get("arguments", call.get("parameters", call))
        if isinstance(arguments, str):
            arguments = json.loads(arguments, strict=False)
        found = next(arguments[key] for key in _CODE_KEYS if isinstance(arguments.get(key), str))
    except (ValueError, AttributeError, StopIteration, RecursionError):
        return ""
    return str(found)


def _prose_final(text: str, start: int) -> Reply | None:
    said = text[start:]
    found = _FINAL.search(said)
    if not found:
        return None
    value = said[found.start("value") :].rstrip()
    value = value[: value.rfind(")")].strip() if ")" in value else value.strip()
    if found["name"] == "FINAL_VAR":
        return Reply(text, code=f"FINAL_VAR({value.strip(chr(34) + chr(39))!r})")
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return Reply(text, final=value)
    return Reply(text, final=literal if isinstance(literal, str) else value)
