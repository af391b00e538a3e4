"""Which provider answers for which model id: LiteLLM for all but the two built-in ones."""

from __future__ import annotations

from collections.abc import Callable

from . import Completion, Model, OnText, Request

Factory = Callable[[str], Model]


class Router:
    """`Model` that makes each provider when it is first asked. `make` gets a model id and returns its provider; ids
    with the same `kind` share one."""

    def __init__(self, make: Factory, kind: Callable[[str], str]) -> None:
        self._make, self._kind = make, kind
        self._made: dict[str, Model] = {}

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        kind = self._kind(request.model)
        if kind not in self._made:
            self._made[kind] = self._make(request.model)
        return await self._made[kind].complete(request, on_text)

    async def close(self) -> None:
        """Release what the providers hold."""
        for provider in self._made.values():
            if close := getattr(provider, "close", None):
                await close()
