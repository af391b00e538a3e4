"""Find the code in a model's reply.

Rules, in this order:
- Hidden thinking (`<think>...</think>` at the start, or all before a `</think>` that nothing opened) is not searched.
- The first fenced block whose tag is repl, python, py ... or empty is the code. Blocks of other languages are prose.
- A fence closes the block only where Python is not inside a triple-quoted string, so fences inside prompts survive.
- A block that is never closed runs to the end of the reply, unless the provider cut the reply at its output limit.
- Without a block, a call of a tool that carries code, as some models spell it in text, is the code.
- Without any code, a line `FINAL(...)` or `FINAL_VAR(name)` of prose is the answer, as the paper's prompt taught it.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass

CODE_TAGS = {"", "repl", "python", "py", "python3", "ipython", "pycon", "tool_code"}

_OPEN = re.compile(r"^(?P<indent>[ ]{0,3})(?P<fence>`{3,}|~{3,})[ \t]*(?P<tag>[\w+.#-]*)[^`\n]*$", re.MULTILINE)
_THINK = re.compile(r"\s*<(think|thinking|reasoning)>", re.IGNORECASE)
_THOUGHT = re.compile(r"</(think|thinking|reasoning)>", re.IGNORECASE)
# <tool_call>{...}</tool_call>, <|python_tag|>code, <code>code</code>, or the JSON alone.
_TOOL = re.compile(
    r"<(?P<tag>tool_call|function_call|tool|code|execute|python|repl)>\s*(?P<body>.*?)\s*</(?P=tag)>"
    r"|<\|python_tag\|>\s*(?P<rest>.*?)\s*(?:<\|e\w+_id\|>|\Z)"
    r"|\A\s*(?P<json>\{.*\})\s*\Z",
    re.DOTALL,
)
_CODE_KEYS = ("code", "python", "source", "script", "input", "command")
_FINAL = re.compile(r"^[ \t]*(?P<name>FINAL|FINAL_VAR)\((?P<value>.*)", re.MULTILINE)
# The start of a string literal, or a comment to the end of its line: all that matters to find open strings.
_TOKEN = re.compile(r"#[^\n]*|(?P<quote>\"\"\"|'''|\"|')")


@dataclass(frozen=True)
class Reply:
    """A root reply, understood. At most one of `code` and `final` is set; `problem` says why neither is."""

    text: str
    code: str = ""
    final: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class _Block:
    code: str
    end: int
    closed: bool


def parse_reply(text: str, *, truncated: bool = False) -> Reply:
    """The reply cut after its first code block, and what is to be done with it.

    `truncated`: the provider stopped at its output limit, so an unclosed block is not whole and is not run.
    """
    block = _first_block(text)
    if block is not None and block.closed:
        cut = text[: block.end].rstrip() + "\n"
        return Reply(cut, code=block.code) if block.code.strip() else Reply(cut, problem="the code block was empty")
    if truncated:
        return Reply(text, problem="the reply was cut off at the output limit before its code block was closed")
    if block is not None and block.code.strip():
        return Reply(text, code=block.code)
    if code := _tool_code(text):
        return Reply(text, code=code)
    return _prose_final(text) or Reply(text, problem="no code block" if text.strip() else "the reply was empty")


class BlockCutter:
    """Asked with a growing text: where to end a reply that goes on after its first closed block; None while there is
    nothing to cut. One for each reply: it looks again only when what came may have closed a block.

    Only text after the block makes a cut: a reply that stops by itself keeps the provider's usage record.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._closed: int | None = None

    def __call__(self, text: str) -> int | None:
        line = text.rfind("\n", 0, self._seen) + 1  # the line that was still growing may have become a fence
        self._seen = len(text)
        if any(mark in text[line:] for mark in ("```", "~~~", "</")):
            block = _first_block(text)
            self._closed = block.end if block is not None and block.closed else None
        return self._closed if self._closed is not None and text[self._closed :].strip() else None


def _first_block(text: str) -> _Block | None:
    position = _after_thinking(text)
    while opened := _OPEN.search(text, position):
        body = min(opened.end() + 1, len(text))
        closing = _closing_fence(text, body, opened["fence"], python=opened["tag"].lower() in CODE_TAGS)
        if opened["tag"].lower() in CODE_TAGS:
            end, after = (closing.start(), closing.end()) if closing else (len(text), len(text))
            return _Block(_outdented(text[body:end], opened["indent"]), after, closed=closing is not None)
        if closing is None:
            return None
        position = closing.end()
    return None


def _outdented(code: str, indent: str) -> str:
    """The code of a block inside a list, whose fence is indented: that much is not Python's. Newlines as Python's."""
    code = code.replace("\r\n", "\n")
    return re.sub(rf"^ {{1,{len(indent)}}}", "", code, flags=re.MULTILINE) if indent else code


def without_thinking(text: str) -> str:
    """What follows a reply's hidden thinking; all of it when there is none."""
    return text[_after_thinking(text) :]


def _after_thinking(text: str) -> int:
    opened = _THINK.match(text)
    if not opened:  # some chat templates open it in the prompt, so that the reply only closes it
        closed = _THOUGHT.search(text)
        return closed.end() if closed and not _THINK.search(text, 0, closed.start()) else 0
    end = text.find(f"</{opened[1]}>", opened.end())
    return len(text) if end < 0 else end + len(opened[1]) + 3


def _closing_fence(text: str, body: int, fence: str, *, python: bool) -> re.Match[str] | None:
    """The first line that closes `fence`; with a broken (never-ending) string, the first plausible one.

    A fence on the last line without a newline counts only when the text ends there, which is always true for us: the
    caller sees a growing text, and a tag that is still to come would have made it another line.
    """
    closer = re.compile(rf"^[ ]{{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t\r]*$", re.MULTILINE)
    candidates = list(closer.finditer(text, body))
    for candidate in candidates:
        if not python or not _inside_string(text[body : candidate.start()]):
            return candidate
    return candidates[0] if candidates and _nothing_but_fences_after(text, candidates[-1].end()) else None


def _nothing_but_fences_after(text: str, end: int) -> bool:
    return not text[end:].strip()


def _inside_string(code: str) -> bool:
    """Whether Python source ends inside a triple-quoted string."""
    position = 0
    while token := _TOKEN.search(code, position):
        quote = token["quote"]
        if quote is None:
            position = token.end()
            continue
        end = _string_end(code, token.end(), quote)
        if end is None:
            return len(quote) == 3
        position = end
    return False


def _string_end(code: str, start: int, quote: str) -> int | None:
    """The index after the literal's closing quote. A one-line literal also ends, broken, at its line's end."""
    for match in re.finditer(rf"\\.|{quote}" + ("" if len(quote) == 3 else r"|\n"), code[start:], re.DOTALL):
        if not match[0].startswith("\\"):
            return start + match.end()
    return None


def _tool_code(text: str) -> str:
    """The code of a call of some tool, spelled in text; "" when there is none."""
    found = _TOOL.search(text, _after_thinking(text))
    if not found:
        return ""
    body = next(part for part in (found["body"], found["rest"], found["json"]) if part is not None)
    if not body.startswith("{"):
        return body if found["json"] is None and found["tag"] not in ("tool_call", "function_call", "tool") else ""
    return code_argument(body) or ("" if found["rest"] is None else body)


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


def _prose_final(text: str) -> Reply | None:
    found = _FINAL.search(text, _after_thinking(text))
    if not found:
        return None
    value = text[found.start("value") :].rstrip()
    value = value[: value.rfind(")")].strip() if ")" in value else value.strip()
    if found["name"] == "FINAL_VAR":
        return Reply(text, code=f"FINAL_VAR({value.strip(chr(34) + chr(39))!r})")
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return Reply(text, final=value)
    return Reply(text, final=literal if isinstance(literal, str) else value)
