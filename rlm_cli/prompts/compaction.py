"""When the conversation nears the root's window: old turns become a short account, and the session's variables a list.

No model is asked for a summary: that would cost a call, could itself be too long, and could be wrong. What the root
needs of an old turn is what it did and what came out; the values themselves live on in the session.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..models import Message
from ..models.facts import LEAST_DENSITY
from .fences import Reply
from .texts import CHARS_PER_TOKEN, fenced

FULL = 0.75
"""Part of the window at which the conversation is shortened."""
ROOM_TOKENS = 4_096
"""Kept for the reply, in any window that has so much."""
KEEP = (4, 2, 1, 0)
"""Whole turns that stay: the first that makes enough room."""
ACCOUNT_CHARS = 12_000
VARIABLES_CHARS = 4_000
PROSE_CHARS, CODE_CHARS, OUTPUT_CHARS = 200, 300, 400


@dataclass(frozen=True)
class TurnNote:
    """One turn in a few lines, for when the turn itself has to go."""

    step: int
    did: str
    code: str
    came_of_it: str

    @property
    def text(self) -> str:
        parts = [f"Turn {self.step}. {self.did}".strip(), self.code, "-> " + self.came_of_it if self.came_of_it else ""]
        return "\n".join(part for part in parts if part)


def turn_note(step: int, reply: Reply, observation: str) -> TurnNote:
    """What to remember of a turn: the sentence before its code, the code's and the output's beginnings."""
    prose = reply.text.split("```")[0].split("~~~")[0]
    output = observation.rsplit("\n\n[left: ", 1)[0]
    return TurnNote(
        step, shortened(prose, PROSE_CHARS), shortened(reply.code, CODE_CHARS), shortened(output, OUTPUT_CHARS)
    )


def shortened(text: str, most: int) -> str:
    """The beginning of `text`, with how much is missing."""
    text = text.strip()
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most:,} characters]"


def account(notes: Sequence[TurnNote], variables: Sequence[str]) -> str:
    """The message that stands for the turns of `notes`. Where even the notes are too long, they lose, the oldest first,
    their output, then their code, then themselves."""
    texts = [note.text for note in notes]
    over = sum(map(len, texts)) - ACCOUNT_CHARS
    briefer: tuple[Callable[[TurnNote], str], ...] = (
        lambda note: replace(note, came_of_it="").text,
        lambda note: replace(note, came_of_it="", code="").text,
        lambda _: "",
    )
    for brief, (number, note) in itertools.product(briefer, enumerate(notes)):
        if over <= 0:
            break
        over -= len(texts[number]) - len(brief(note))
        texts[number] = brief(note)
    told = "\n\n".join(text for text in texts if text)
    held = shortened("\n".join(variables), VARIABLES_CHARS) or "(none)"
    return (
        f"To make room, turns {notes[0].step} to {notes[-1].step} are shortened to these notes. The session is as it"
        f" was: variables, functions and imports live on.\n\nNotes:\n{fenced(told)}\n\nVariables:\n{fenced(held)}"
    )


def must_shorten(tokens: int, window: int | None) -> bool:
    """Whether a prompt of so many tokens leaves too little of the root's window (None: unknown)."""
    return window is not None and tokens > max(min(window * FULL, window - ROOM_TOKENS), window // 4)


def estimated_tokens(messages: Sequence[Message], measured: int, measured_messages: int) -> int:
    """Tokens of a prompt: what the provider counted for its first messages, an upper guess of the rest. A count that no
    tokenizer would give is not believed."""
    counted = sum(len(message.content) for message in messages[:measured_messages])
    rest = sum(len(message.content) for message in messages[measured_messages:])
    believed = measured if measured * LEAST_DENSITY >= counted else counted // CHARS_PER_TOKEN
    return believed + rest // CHARS_PER_TOKEN
