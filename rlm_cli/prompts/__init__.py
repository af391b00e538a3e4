"""What the root reads and how its replies are understood. Pure: values in, values and strings out.

`fences` finds the code in a reply, `texts` writes the messages, `History` holds them append-only, so that every prompt
is a byte-identical prefix of the next one and provider caches hit; `compaction` shortens it when it nears the window;
`direct` is the one prompt that holds the input itself.
"""

from __future__ import annotations

from .compaction import KEEP, TurnNote, account, estimated_tokens, must_shorten, turn_note
from .direct import direct_prompt, direct_repair, reply_text, reply_values, split_evidence
from .fences import BlockCutter, Reply, parse_reply, words_of
from .history import History
from .texts import (
    LISTING,
    InputFacts,
    Remaining,
    context_line,
    cut_short,
    last_turn_text,
    no_code_text,
    observation_text,
    opening,
    payload_chars,
)

__all__ = [
    "KEEP",
    "LISTING",
    "BlockCutter",
    "History",
    "InputFacts",
    "Remaining",
    "Reply",
    "TurnNote",
    "account",
    "context_line",
    "cut_short",
    "direct_prompt",
    "direct_repair",
    "estimated_tokens",
    "last_turn_text",
    "must_shorten",
    "no_code_text",
    "observation_text",
    "opening",
    "parse_reply",
    "payload_chars",
    "reply_text",
    "reply_values",
    "split_evidence",
    "turn_note",
    "words_of",
]
