"""The conversation with the root, append-only."""

from __future__ import annotations

from dataclasses import dataclass

from ..models import Message


@dataclass(frozen=True)
class History:
    """Messages so far. Adding returns a longer history; nothing that was sent is ever changed."""

    messages: tuple[Message, ...]

    @classmethod
    def start(cls, *, system: str, user: str) -> History:
        return cls((Message("system", system), Message("user", user)))

    def turn(self, *, reply: str, observation: str) -> History:
        """The root's reply and what came of it. Providers refuse empty messages: an empty reply has a placeholder."""
        return History((*self.messages, Message("assistant", reply or "(empty reply)"), Message("user", observation)))
