"""Find the code in a model's reply.

Rules, in this order:
- Hidden thinking (`<think>...</think>` at the start) is not searched.
- The first fenced block whose tag is repl, python, py ... or empty is the code. Blocks of other languages are prose.
- A fence closes the block only where Python is not inside a triple-quoted string, so fences inside prompts survive.
- A block that is never closed runs to the end of the reply, unless the provider cut the reply at its output limit.
- Without any code, a line `FINAL(...)` or `FINAL_VAR(name)` of prose is the answer, as the paper's prompt taught it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

CODE_TAGS = {"", "repl", "python", "py", "python3", "ipython", "pycon", "tool_code"}

_OPEN = re.compile(r"^(?P<indent>[ ]{0,3})(?P<fence>`{3,}|~{3,})[ \t]*(?P<tag>[\w+.#-]*)[^`\n]*$", re.MULTILINE)
_THINK = re.compile(r"\s*<(think|thinking|reasoning)>", re.IGNORECASE)
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
    return _prose_final(text) or Reply(text, problem="no code block" if text.strip() else "the reply was empty")


def cut_after_block(text: str) -> int | None:
    """Where to end a reply that goes on after its first closed block; None while there is nothing to cut.

    Only text after the block makes a cut: a reply that stops by itself keeps the provider's usage record.
    """
    if text.count("```") + text.count("~~~") < 2:  # called for every streamed piece: be quick
        return None
    block = _first_block(text)
    if block is None or not block.closed or not text[block.end :].strip():
        return None
    return block.end


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


def _after_thinking(text: str) -> int:
    opened = _THINK.match(text)
    if not opened:
        return 0
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
