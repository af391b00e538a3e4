"""The conversation with the root: append-only, until it has to be shortened."""

from __future__ import annotations

from dataclasses import dataclass

from ..models import Message


@dataclass(frozen=True)
class History:
    """Messages so far. Adding returns a longer history; nothing that was sent is ever changed, but by `shortened`,
    which starts a new prefix."""

    messages: tuple[Message, ...]
    shortened_turns: int = 0
    """Turns that an account stands for."""

    @classmethod
    def start(cls, *, system: str, user: str) -> History:
        return cls((Message("system", system), Message("user", user)))

    def turn(self, *, reply: str, observation: str) -> History:
        """The root's reply and what came of it. Providers refuse empty messages: an empty reply has a placeholder."""
        added = Message("assistant", reply or "(empty reply)"), Message("user", observation)
        return History((*self.messages, *added), self.shortened_turns)

    @property
    def turns(self) -> int:
        """Turns that are there in full."""
        return (len(self.messages) - 2) // 2 - bool(self.shortened_turns)

    def shortened(self, keep: int, account: str) -> History:
        """All turns but the last `keep` replaced by `account`."""
        gone = self.shortened_turns + self.turns - keep
        last = self.messages[len(self.messages) - 2 * keep :]
        told = Message("assistant", f"(turns 1 to {gone})"), Message("user", account)
        return History((*self.messages[:2], *told, *last), gone)
