"""At most so many sub-calls at a time, over the whole tree of runs."""

from __future__ import annotations

import asyncio

from . import Completion, Model, OnText, Request


class Limited:
    """`Model` with one semaphore for sub-calls. Root calls take no slot: a parent's sub-calls must not be able to
    keep its child's root waiting. Retrying sits outside, so that nobody holds a slot while sleeping."""

    def __init__(self, inner: Model, concurrency: int) -> None:
        self._inner = inner
        self._slots = asyncio.Semaphore(concurrency)

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        if request.role != "sub":
            return await self._inner.complete(request, on_text)
        async with self._slots:
            return await self._inner.complete(request, on_text)
