"""Stop asking a provider that is plainly down: a batch of 500 must not wait out 500 times five attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ProviderError, TransientError
from . import Completion, Model, OnText, Request
from .limited import RATE_LIMITED

FAILURES = 12
"""Requests in a row without one success ..."""
LEAST_S = 5.0
"""... over at least this long ..."""
REST_S = 30.0
"""... and nothing is sent for so long; then one request may try."""
PROVIDER_DOWN = "provider_down"


@dataclass
class _Circuit:
    """What is known of one model: failures since the last sign of life, when the first came, and when it opened."""

    failures: int = 0
    since: float = 0.0
    opened: float | None = None
    trying: bool = False


class Breaker:
    """`Model` that fails at once with `ProviderError` (code `provider_down`) while a model does not answer at all.

    Only what says that nobody is there counts: timeouts, resets, 5xx. A 429 or a refusal is a sign of life. Sits next
    to the provider, so that calls which wait for a place or for their next attempt learn of it too.
    """

    def __init__(self, inner: Model, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner, self._clock = inner, clock
        self._circuits: dict[str, _Circuit] = {}

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        circuit = self._circuits.setdefault(request.model, _Circuit())
        trial = self._enter(circuit, request.model)
        try:
            completion = await self._inner.complete(request, on_text)
        except TransientError as error:
            if error.code == RATE_LIMITED:
                self._alive(circuit)
            else:
                self._failed(circuit, trial=trial)
            raise
        except ProviderError:
            self._alive(circuit)
            raise
        finally:
            circuit.trying = circuit.trying and not trial
        self._alive(circuit)
        return completion

    def _enter(self, circuit: _Circuit, model: str) -> bool:
        """Whether this request is the one that tries. Raises `ProviderError` while the circuit is open."""
        if circuit.opened is None:
            return False
        left = circuit.opened + REST_S - self._clock()
        if left > 0 or circuit.trying:
            raise ProviderError(
                f"{model} does not answer: {circuit.failures} requests in a row failed",
                hint="Look at the provider's status page; --api-base names the server that is asked.",
                code=PROVIDER_DOWN,
            )
        circuit.trying = True
        return True

    def _failed(self, circuit: _Circuit, *, trial: bool) -> None:
        now = self._clock()
        if circuit.failures == 0:
            circuit.since = now
        circuit.failures += 1
        if trial or (circuit.failures >= FAILURES and now - circuit.since >= LEAST_S):
            circuit.opened = now

    def _alive(self, circuit: _Circuit) -> None:
        circuit.failures, circuit.opened = 0, None
