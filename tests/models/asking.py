"""What the tests of the model chain share: requests, fakes of the seam, and running on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from rlm_cli.events import ROOT, Event, Role, Span
from rlm_cli.models import Completion, Message, Model, OnText, Request

T = TypeVar("T")
LIMIT_S = 30.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on a fresh event loop; a hang becomes a `TimeoutError`."""

    async def bounded() -> T:
        return await asyncio.wait_for(work, LIMIT_S)

    return asyncio.run(bounded())


def request(
    model: str = "m", prompt: str = "item a1: x\nitem b2: y", *, role: Role = "sub", call: str = "c1", **more: Any
) -> Request:
    return Request(call, role, model, (Message("user", prompt),), **more)


class Recorder:
    """An `Emit` that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event, span: Span = ROOT) -> None:
        self.events.append(event)

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]


class FakeModel:
    """A `Model` made of a function of the request."""

    def __init__(self, reply: Callable[[Request], Completion | Awaitable[Completion]]) -> None:
        self._reply = reply
        self.requests: list[Request] = []

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        self.requests.append(request)
        result = self._reply(request)
        return await result if isinstance(result, Awaitable) else result


class Sequential:
    """A `Model` that plays replies and exceptions in order."""

    def __init__(self, replies: Sequence[Completion | BaseException]) -> None:
        self._replies = list(replies)

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        reply = self._replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return reply


def as_model(model: Model) -> Model:
    """Checked by mypy: `model` implements the seam."""
    return model
