"""3,000 sub-calls in four batches while the provider refuses a hundred: the links together, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

from rlm_cli.errors import TransientError
from rlm_cli.events import CallFinished, CallRetried, Usage
from rlm_cli.models import Completion, Model, OnText, Request, Spent, note_spent
from rlm_cli.models.breaker import Breaker
from rlm_cli.models.cached import Cached
from rlm_cli.models.facts import per_million
from rlm_cli.models.ledger import Budgeted, Caps, Ledger
from rlm_cli.models.limited import Limited
from rlm_cli.models.reported import Reported
from rlm_cli.models.retrying import Retrying
from tests.models.asking import FakeModel, Recorder, request
from tests.models.virtual import now, run_virtually

CALLS, BATCHES, EVERY, LIMIT = 3_000, 4, 30, 32
PRICE = per_million(1.0, 4.0)


class Provider:
    """Answers after 50 to 150 ms. Every thirtieth prompt is told 429 the first time, half of those with Retry-After."""

    def __init__(self) -> None:
        self._chance = random.Random(4)
        self.asked: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.in_flight = self.most = 0
        self.billed = 0.0

    async def complete(self, one: Request, on_text: OnText | None = None) -> Completion:
        prompt = one.messages[-1].content
        self.asked[prompt] += 1
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self._chance.uniform(0.05, 0.15))
            number = int(prompt.split()[-1])
            if number % EVERY == 0 and prompt not in self.refused:
                self.refused.add(prompt)
                error = TransientError("slow down", code="rate_limited", retry_after=1.0 if number % 2 else None)
                note_spent(error, Spent(1))
                raise error
            usage = Usage(len(prompt), 3)
            self.billed += PRICE.cost(usage)
            return Completion(f"reply to {prompt}", usage, one.model)
        finally:
            self.in_flight -= 1


Link = Callable[[Model], Model]


def problems(faulty: Link = lambda provider: provider, *, calls: int = CALLS) -> list[str]:
    """Everything that is wrong after the storm, with a fault between the provider and the chain."""
    provider, emit = Provider(), Recorder()
    ledger = Ledger(Caps(usd=50.0, subcalls=calls), {"m": PRICE})
    limited = Limited(Breaker(faulty(provider), clock=now), LIMIT, clock=now)
    budgeted = Budgeted(Retrying(limited, emit, may_retry=ledger.extend, clock=now), ledger)
    chain = Reported(Cached(budgeted, saved=ledger.note_saved), emit, ledger, clock=now)

    async def work() -> list[str]:
        texts = []
        for first in range(0, calls, calls // BATCHES):
            batch = range(first, first + calls // BATCHES)
            batch_calls = (chain.complete(request(call=f"s{i}", prompt=f"item {i}")) for i in batch)
            texts += [reply.text for reply in await asyncio.gather(*batch_calls)]
        return texts

    texts, seconds = run_virtually(work())
    finished, totals = emit.of(CallFinished), ledger.totals()
    seen, twice = sum(provider.asked.values()), {prompt for prompt, times in provider.asked.items() if times > 1}
    wrong = {
        "a call was not refused that should be": len(provider.refused) != calls // EVERY,
        "lost, or out of order": texts != [f"reply to item {i}" for i in range(calls)],
        "received is not reported": seen != sum(event.attempts for event in finished),
        "received is not booked": (seen, calls, len(provider.refused))
        != (totals.calls.total, totals.calls.sub, totals.calls.retries),
        "sent twice": twice != provider.refused or seen != calls + len(provider.refused),
        "too many in flight": provider.most > LIMIT,
        "a refusal cost more than a second": seconds > calls / EVERY,
        "a retry was not told": len(emit.of(CallRetried)) != len(provider.refused),
        "the bill is not the ledger's": totals.cost.usd != pytest.approx(provider.billed),
    }
    return [problem for problem, is_so in wrong.items() if is_so]


def test_a_storm_loses_nothing_and_sends_nothing_twice() -> None:
    """3,000 calls, four batches, 100 x 429: every reply in its place, 3,100 requests, never more than 32 in flight, and
    provider, ledger and events agree to the request and to the cent."""
    assert problems() == []


def sends_again(provider: Model) -> Model:
    """A client that repeats a request by itself, now and then."""

    async def twice(one: Request) -> Completion:
        if one.call.endswith("77"):
            await provider.complete(one)
        return await provider.complete(one)

    return FakeModel(twice)


def hedges(provider: Model) -> Model:
    """A client that asks three times at once and takes the first reply."""

    async def thrice(one: Request) -> Completion:
        return (await asyncio.gather(*(provider.complete(one) for _ in range(3))))[0]

    return FakeModel(thrice)


def mixes_up(provider: Model) -> Model:
    """Two replies come to the wrong callers."""

    async def swapped(one: Request) -> Completion:
        done = await provider.complete(one)
        return Completion("reply to item 8", done.usage, "m") if one.call == "s7" else done

    return FakeModel(swapped)


UNCOUNTED = {"received is not reported", "received is not booked", "sent twice", "the bill is not the ledger's"}


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (sends_again, UNCOUNTED),
        (hedges, UNCOUNTED | {"too many in flight"}),
        (mixes_up, {"lost, or out of order"}),
    ],
)
def test_the_storm_shows_a_fault(fault: Link, found: set[str]) -> None:
    """The positive control: a chain that does wrong is found out, and for what it does."""
    assert set(problems(fault, calls=600)) == found
