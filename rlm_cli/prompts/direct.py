"""The one prompt that holds the input itself (mode direct), and how the reply to it is understood."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from ..sandbox.decoded import Decoded
from ..sandbox.kernel.json_values import candidates
from .fences import without_thinking
from .texts import fenced, prompt_file, visible

EVIDENCE = """
- After it, unless the documents do not hold it: a line `Evidence:`, then one to three short quotes that show it, word \
for word, each on a line of its own after `> `. They are looked up."""
_HEADING = re.compile(r"[\s*_#]*evidence[\s*_:]*", re.IGNORECASE)
_MARKS = "\"'\u201c\u201d\u2018\u2019\u00ab\u00bb`"
"""What models put around a quote."""
LOSSY = " (not valid in its encoding: some characters are wrong)"


def direct_prompt(
    question: str, documents: Sequence[Decoded], *, schema: str = "", cite: bool = False
) -> tuple[str, str]:
    """The system prompt, which asks for evidence if `cite`, and the user message. Documents first: what stays the same
    from one question to the next is a prefix that providers cache. Nothing in a name or a text can close its frame."""
    parts = [f"Document {visible(name)}{LOSSY if lossy else ''}:\n{fenced(text)}" for name, text, lossy in documents]
    parts.append("Question:\n" + fenced(question))
    if schema:
        parts.append("Reply with one JSON value that satisfies this JSON Schema, and nothing else:\n" + fenced(schema))
    return prompt_file("direct.md").replace("{evidence}", EVIDENCE if cite else ""), "\n\n".join(parts)


def direct_repair(problem: str) -> str:
    """What the model is told of a reply that does not satisfy the schema."""
    return f"{problem[:1].upper()}{problem[1:]}. Reply again: one JSON value that satisfies it, and nothing else."


def reply_text(reply: str) -> str:
    """What a reply says: all of it but hidden thinking."""
    return without_thinking(reply).strip()


def split_evidence(reply: str) -> tuple[str, list[str]]:
    """The answer in a reply, and the quotes that stand below it as they were asked for; with none the reply is all
    answer."""
    text = reply_text(reply)
    lines, quotes = text.split("\n"), list[str]()
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith(">")):
        quotes.insert(0, _unquoted(lines.pop().strip().removeprefix(">").strip()))
    if not lines or not _HEADING.fullmatch(lines.pop()) or not (answer := "\n".join(lines).strip()):
        return text, []
    return answer, [quote for quote in quotes if quote]


def _unquoted(quote: str) -> str:
    """Without the marks around all of it."""
    around = len(quote) > 1 and quote[0] in _MARKS and quote[-1] in _MARKS
    return quote[1:-1].strip() if around else quote


def reply_values(reply: str) -> Iterator[str]:
    """The JSON values that a reply is or holds, the likeliest to be meant first, written as the kernel writes them."""
    for value in candidates(reply):
        try:
            yield json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
        except (ValueError, RecursionError):  # 1e999
            continue
