"""The built-in model: keyword search and extraction by fixed rules, in both roles, on any input, for nothing.

It is not a language model and says so first thing. It exists so that `rlm` runs with nothing but Python and a container
engine (`make demo`, tests, a broken network), and as the lexical baseline that a real model must beat. It takes the
whole real path: it writes code, the code runs in the sandbox, and the code's sub-calls come back here.

Replies are a pure function of the request, so a retry or a replay gets the same text.
"""

from __future__ import annotations

import asyncio

from ...events import Usage
from .. import Completion, Finish, OnText, Request
from .extract import extract
from .root import final_reply, root_reply

OFFLINE_NOTE = "keyword search and extraction, not a language model"

PIECE_CHARS = 48
CHARS_PER_TOKEN = 4


class OfflineModel:
    """A `Model` that needs no key and no network. Never raises for what it is asked."""

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """Answer by rule, streaming in small pieces. Tokens are estimated at four characters; the cost is $0."""
        text, finish = await _stream(_reply(request), request, on_text)
        usage = Usage(_tokens(request.chars), _tokens(len(text)), estimated=True)
        return Completion(text, usage, request.model, finish, cost_usd=0.0)


def _reply(request: Request) -> str:
    if request.role == "root":
        return root_reply(request.messages)
    if request.role == "final":
        return final_reply(request.messages)
    return extract(next((m.content for m in reversed(request.messages) if m.role == "user"), ""))


async def _stream(text: str, request: Request, on_text: OnText | None) -> tuple[str, Finish]:
    """`text` as far as `request.cut` lets it come, handed out piece by piece."""
    cutter = request.cut() if request.cut else None
    for end in range(PIECE_CHARS, len(text) + PIECE_CHARS, PIECE_CHARS):
        if on_text:
            on_text(text[end - PIECE_CHARS : end])
        cut = cutter(text[:end]) if cutter else None
        if cut is not None:
            return text[:cut], "cut"
        await asyncio.sleep(0)
    return text, "stop"


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)
