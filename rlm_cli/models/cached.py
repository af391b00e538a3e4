"""The same prompt is asked once: within a run always, across runs when the user wants it (`--cache`)."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from ..errors import LimitError
from ..events import Usage
from . import Completion, Model, OnText, Request, Spent, note_spent

KEPT_BYTES = 64 * 1024**2
"""Replies of this run that are kept in memory."""

Saved = Callable[[str, Usage], None]
"""Told of every reply that cost nothing: the model, and the tokens it would have taken."""


class Store(Protocol):
    """Replies of earlier runs, by key."""

    def get(self, key: str) -> Completion | None: ...
    def put(self, key: str, completion: Completion) -> None: ...


class Cached:
    """`Model` that answers a sub-call from an earlier reply to the same prompt of the same model.

    Outside the ledger: a hit reserves nothing, costs nothing and takes no slot. Calls with the same prompt that are in
    flight together share one request, also its failure; a failure is not kept. Root calls pass through: their
    prompts never repeat. `options` is what else decides a reply (server, temperature ...).
    """

    def __init__(
        self,
        inner: Model,
        *,
        saved: Saved,
        store: Store | None = None,
        options: Mapping[str, object] | None = None,
        kept: int = KEPT_BYTES,
    ) -> None:
        self._inner, self._saved, self._store, self._most = inner, saved, store, kept
        self._options = dict(options or {})
        self._replies: OrderedDict[str, Completion] = OrderedDict()
        self._bytes = 0
        self._flights: dict[str, asyncio.Future[Completion]] = {}

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """As the inner model; a reply that was there already has `cached` set, no usage and no attempts."""
        if request.role != "sub":
            return await self._inner.complete(request, on_text)
        key = self._key(request)
        while (flight := self._flights.get(key)) is not None:
            await asyncio.wait({flight})
            if not flight.cancelled():  # else its caller gave up, and this one asks
                return self._again(shared(flight))
        found = self._find(key)
        return self._again(found) if found is not None else await self._ask(key, request, on_text)

    async def _ask(self, key: str, request: Request, on_text: OnText | None) -> Completion:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            completion = await self._inner.complete(request, on_text)
        except asyncio.CancelledError:
            flight.cancel()
            raise
        except BaseException as error:
            flight.set_exception(error)
            flight.exception()  # there may be nobody else who looks
            raise
        else:
            flight.set_result(completion)
            self._keep(key, completion)
            if self._store is not None and completion.finish == "stop":
                self._store.put(key, completion)
            return completion
        finally:
            del self._flights[key]

    def _again(self, completion: Completion) -> Completion:
        self._saved(completion.model, completion.usage)
        return replace(completion, usage=Usage(), cost_usd=0.0, seconds=0.0, attempts=0, cached=True)

    def _key(self, request: Request) -> str:
        messages = [[message.role, message.content] for message in request.messages]
        told = [request.model, messages, request.max_output, self._options]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def _find(self, key: str) -> Completion | None:
        found = self._replies.get(key)
        if found is not None:
            self._replies.move_to_end(key)
        elif self._store is not None:
            found = self._store.get(key)
        return found

    def _keep(self, key: str, completion: Completion) -> None:
        self._replies[key] = completion
        self._bytes += len(completion.text)
        while self._bytes > self._most:
            _, oldest = self._replies.popitem(last=False)
            self._bytes -= len(oldest.text)


def shared(flight: asyncio.Future[Completion]) -> Completion:
    """What another caller's request brought. Its failure is this caller's too, but what it cost is not."""
    error = flight.exception()
    if error is None:
        return flight.result()
    mine = error_again(error)
    note_spent(mine, Spent())
    raise mine


def error_again(error: BaseException) -> BaseException:
    """The same error, for somebody else to raise."""
    if isinstance(error, LimitError):  # made of more than its message
        return LimitError(error.limit, error.message, alone=error.alone)
    return copy.copy(error)
