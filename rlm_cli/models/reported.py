"""Tell what happens to each call. The outermost link: what it reports is what the ledger counted."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import RlmError
from ..events import CallFinished, CallStarted, Emit, ErrorInfo
from . import Completion, Model, OnText, Request, spent_by
from .failures import redact
from .ledger import Ledger


class Reported:
    """`Model` that emits `CallStarted` and `CallFinished` around every call, whatever becomes of it.

    A call that the ledger refused (`LimitError`) is reported with 0 attempts. A cancelled one too, as `cancelled`.
    """

    def __init__(
        self, inner: Model, emit: Emit, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner, self._emit, self._ledger, self._clock = inner, emit, ledger, clock

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        prompt = request.messages[-1].content if request.role == "sub" and request.messages else ""
        started = CallStarted(request.call, request.role, request.model, prompt, request.chars, request.step)
        self._emit(started, request.span)
        begin = self._clock()
        try:
            completion = await self._inner.complete(request, on_text)
        except BaseException as error:
            self._failed(request, error, self._clock() - begin)
            raise
        self._finished(request, completion, self._clock() - begin)
        return completion

    def _finished(self, request: Request, completion: Completion, seconds: float) -> None:
        event = CallFinished(
            request.call,
            request.role,
            completion.model,
            completion.usage,
            completion.cost_usd,
            seconds,
            completion.attempts,
            self._ledger.totals(),
            reply="" if request.role == "root" else completion.text,
            finish=completion.finish,
            cached=completion.cached,
            step=request.step,
        )
        self._emit(event, request.span)

    def _failed(self, request: Request, error: BaseException, seconds: float) -> None:
        spent = spent_by(error)
        cost = self._ledger.price_of(request.model, spent.usage) if spent.cost_usd is None else spent.cost_usd
        info = error_info(error)
        totals = self._ledger.totals()
        event = CallFinished(
            request.call,
            request.role,
            request.model,
            spent.usage,
            cost,
            seconds,
            spent.attempts,
            totals,
            finish="error",
            error=info,
            step=request.step,
        )
        self._emit(event, request.span)


def error_info(error: BaseException) -> ErrorInfo:
    """`error` as scripts see it. A cancelled task is a person's (or a deadline's) decision, not a failure."""
    if isinstance(error, RlmError):
        return ErrorInfo(error.code, error.message, error.hint, error.retryable)
    name = type(error).__name__
    return ErrorInfo("cancelled" if name == "CancelledError" else "internal", redact(str(error)) or name)
