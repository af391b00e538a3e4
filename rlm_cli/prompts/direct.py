"""The one prompt that holds the input itself (mode direct), and how the reply to it is understood."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from ..sandbox.decoded import Decoded
from .fences import without_thinking
from .texts import fenced, prompt_file, visible

LOSSY = " (not valid in its encoding: some characters are wrong)"
_FENCED = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})[^\n]*\n(?P<body>.*?)^[ ]{0,3}\1[ \t]*$", re.DOTALL | re.MULTILINE)


def direct_prompt(question: str, documents: Sequence[Decoded], *, schema: str = "") -> tuple[str, str]:
    """The system prompt and the user message. Documents first: what stays the same from one question to the next is a
    prefix that providers cache. Nothing in a name or a text can close its frame."""
    parts = [f"Document {visible(name)}{LOSSY if lossy else ''}:\n{fenced(text)}" for name, text, lossy in documents]
    parts.append("Question:\n" + fenced(question))
    if schema:
        parts.append("Reply with one JSON value that satisfies this JSON Schema, and nothing else:\n" + fenced(schema))
    return prompt_file("direct.md"), "\n\n".join(parts)


def direct_repair(problem: str) -> str:
    """What the model is told of a reply that does not satisfy the schema."""
    return f"{problem[:1].upper()}{problem[1:]}. Reply again: one JSON value that satisfies it, and nothing else."


def reply_text(reply: str) -> str:
    """What a reply says: all of it but hidden thinking."""
    return without_thinking(reply).strip()


def reply_json(reply: str) -> str:
    """The JSON value that a reply is, or holds in its first fenced block that is JSON, written as the kernel writes
    them; "" when there is none."""
    text = reply_text(reply)
    for candidate in (text, *(match["body"] for match in _FENCED.finditer(text))):
        try:
            value = json.loads(candidate, parse_constant=_refuse)
            return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
        except (ValueError, RecursionError):
            continue
    return ""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
