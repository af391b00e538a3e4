"""The caps hold for the whole tree, whatever happens: random runs with children, failures, retries and interruptions,
against a provider that keeps its own books. Real engine, real links, virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from rlm_cli.children import Children
from rlm_cli.engine import run
from rlm_cli.errors import LimitError, ProviderError, RlmError, TransientError
from rlm_cli.events import ROOT, CallFinished, Event, Span, Usage
from rlm_cli.models import Completion, OnText, Request, Spent, note_spent
from rlm_cli.models.breaker import Breaker
from rlm_cli.models.cached import Cached
from rlm_cli.models.facts import Price
from rlm_cli.models.ledger import Budgeted, Caps, Ledger, Need
from rlm_cli.models.limited import Limited
from rlm_cli.models.reported import Reported
from rlm_cli.models.retrying import Retrying
from rlm_cli.prompts import InputFacts
from rlm_cli.sandbox import StepResult, SubCall
from rlm_cli.task import Deps, LedgerView, Limits, Task
from tests.fakes import ScriptedSandbox, fence, final, printed
from tests.models.virtual import now, run_virtually

RUNS = 200
MODELS = ("root", "sub", "other")


def some_price(chance: random.Random) -> Price:
    """Up to $10 and $50 a million tokens, some with prices for cache reads and writes, and for long requests."""
    given, made = 10 ** chance.uniform(-7.5, -5), 10 ** chance.uniform(-7, -4.3)
    price = Price(given, made, chance.choice([None, given / 10]), chance.choice([None, given * 1.25]))
    if chance.random() < 0.3:
        return Price(given, made, price.cached, price.written, 2_000, Price(2 * given, 2 * made))
    return price


@dataclass
class Provider:
    """Bills what it likes within what was asked for: every token of output, more of the input than was estimated up to
    its bytes, cached and written tokens; refuses, breaks off, hangs. `billed` and `tokens` are the truth."""

    chance: random.Random
    prices: dict[str, Price]
    faults: float
    sent: Counter[str] = field(default_factory=Counter)
    billed: float = 0.0
    tokens: int = 0
    in_flight: int = 0
    most: int = 0

    async def complete(self, one: Request, on_text: OnText | None = None) -> Completion:
        self.sent["root" if one.role != "sub" and not one.span.depth else "below"] += 1
        below = one.role == "sub" or one.span.depth > 0
        self.in_flight += below
        self.most = max(self.most, self.in_flight)
        spent = self._bill(one, 0.0)  # a request that is cancelled has been read, and its reply begun
        try:
            await asyncio.sleep(self.chance.choice([0.0, 0.1, 0.1, 1.0, 5.0]))
            fate = self.chance.random()
            if fate < (self.faults if below else 0.02):
                raise self._fault(spent, fate)
            usage = self._bill(one, self.chance.choice([0.0, 0.1, 1.0]), again=spent)
        except asyncio.CancelledError as stop:
            note_spent(stop, Spent(1, spent))
            raise
        finally:
            self.in_flight -= below
        return Completion(fence("work()") if one.role == "root" else "found", usage, one.model)

    def _fault(self, spent: Usage, fate: float) -> ProviderError:
        if fate < self.faults / 2:
            error: ProviderError = TransientError("slow down", code="rate_limited", retry_after=fate)
        elif fate < self.faults * 0.9:
            error = TransientError("broke off", code="connection_reset")
        else:
            error = ProviderError("no", code="bad_request")
        note_spent(error, Spent(1, spent))
        return error

    def _bill(self, one: Request, share: float, *, again: Usage | None = None) -> Usage:
        if again is not None:  # the whole reply replaces its beginning
            self.billed -= self.prices[one.model].cost(again)
            self.tokens -= again.total
        bound = sum(len(message.content.encode()) for message in one.messages)
        given = self.chance.choice([bound, max(1, bound // 4)])
        made = max(1, int(share * (one.max_output or 0)))
        usage = Usage(given, made, cached=given // 3, written=given // 3 if self.chance.random() < 0.5 else 0)
        self.billed += self.prices[one.model].cost(usage)
        self.tokens += usage.total
        return usage


@dataclass
class Story:
    """One random run."""

    seed: int
    ledger_class: type[Ledger] = Ledger

    def __post_init__(self) -> None:
        self.chance = chance = random.Random(self.seed)
        self.prices = {name: some_price(chance) for name in MODELS}
        self.caps = Caps(
            10 ** chance.uniform(-1.5, 1),
            chance.choice([None, int(10 ** chance.uniform(4.5, 6.5))]),
            chance.choice([None, 40, 400]),
        )
        self.concurrency = chance.choice([1, 3, 32])
        self.provider = Provider(chance, self.prices, chance.choice([0.0, 0.1, 0.4]))
        self.ledger = self.ledger_class(self.caps, self.prices)
        self.limits = Limits(
            iterations=chance.choice([1, 4, 10]),
            time_s=chance.choice([None, None, 5.0, 100.0]),
            on_limit=chance.choice(["answer", "answer", "fail"]),
        )
        self.seen: list[Event] = []

    def emit(self, event: Event, span: Span = ROOT) -> None:
        self.seen.append(event)

    def sandbox(self) -> ScriptedSandbox:
        """Cells that ask in batches of all sizes, plainly or by child runs, and may walk away from what they asked."""
        return ScriptedSandbox([self.cell] * 12)

    async def cell(self, sandbox: ScriptedSandbox) -> StepResult:
        chance = self.chance
        assert sandbox.host is not None
        if chance.random() < 0.08:
            return final("done")
        prompts = tuple("x" * int(10 ** chance.uniform(0, 4)) for _ in range(chance.choice([1, 2, 5, 30])))
        if chance.random() < 0.25:
            call = SubCall("rlm", prompts[:5], "", (None,) * len(prompts[:5]))
        else:
            call = SubCall("llm", prompts, chance.choice(["", "sub", "root", "extra"]))
        patience = chance.choice([0.05, 5.0, 1000.0, 1000.0])
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await sandbox.host.answer(call, lambda index, reply: None)
        return printed("asked")

    async def play(self) -> None:
        limited = Limited(Breaker(self.provider, clock=now), self.concurrency, clock=now)
        retrying = Retrying(limited, self.emit, may_retry=self.ledger.extend, clock=now, jitter=self.chance.random)
        budgeted = Budgeted(retrying, self.ledger)
        model = Reported(Cached(budgeted, saved=self.ledger.note_saved), self.emit, self.ledger, clock=now)
        task = Task("Q", (), InputFacts(1, 10), "root", "sub", aliases={"extra": "other"}, limits=self.limits, depth=3)
        view = LedgerView(self.ledger.totals, self.caps.subcalls, self.caps.tokens)
        children = Children(self.sandbox)
        deps = Deps(model, self.sandbox(), self.emit, view, clock=now, children=children)
        running = asyncio.ensure_future(run(task, deps))
        try:
            with suppress(TimeoutError, RlmError):
                await asyncio.wait_for(running, self.chance.choice([3.0, 100.0, 10_000.0, 10_000.0]))  # Ctrl-C, or none
        finally:
            await children.close()

    def wrong(self) -> list[str]:
        """What is not as it should be at the end."""
        run_virtually(self.play())
        totals, provider, caps = self.ledger.totals(), self.provider, self.caps
        finished = [event for event in self.seen if isinstance(event, CallFinished)]
        sent = sum(provider.sent.values())
        facts = {
            "the cost is above its cap": provider.billed > (caps.usd or 0.0) * (1 + 1e-9),
            "the tokens are above their cap": caps.tokens is not None and provider.tokens > caps.tokens,
            "too many calls below the root": caps.subcalls is not None and totals.calls.below > caps.subcalls,
            "too many in flight": provider.most > self.concurrency,
            "the bill is not the ledger's": totals.cost.usd != pytest.approx(provider.billed, abs=1e-12)
            or totals.usage.total.total != provider.tokens,
            "received is not reported": {sent} != {totals.calls.total, sum(event.attempts for event in finished)},
            "the events' costs are not the ledger's": totals.cost.usd
            != pytest.approx(sum(event.cost_usd or 0.0 for event in finished), abs=1e-12),
            "the models' sums are not the total": sum(totals.cost.by_model.values())
            != pytest.approx(totals.cost.usd, abs=1e-12)
            or sum(usage.total for usage in totals.usage.by_model.values()) != totals.usage.total.total,
            "something stays reserved": bool(self.ledger._held or self.ledger._queue),
        }
        return [fact for fact, is_so in facts.items() if is_so]


def test_no_cap_is_passed_in_two_hundred_random_runs() -> None:
    """Prices, sizes, fan-out, depth, faults and interruptions at random: cost, tokens, calls below the root and calls
    in flight stay within their caps by the provider's own books, which are also the ledger's and the events'."""
    stories = [Story(seed) for seed in range(RUNS)]
    wrong = {story.seed: found for story in stories if (found := story.wrong())}
    assert wrong == {}
    # The runs were worth it: many came to a cap, asked below the root at depth, failed, were cut off.
    finished = [event for story in stories for event in story.seen if isinstance(event, CallFinished)]
    assert len(finished) > 15 * RUNS
    codes = Counter(event.error.code for event in finished if event.error)
    assert codes.keys() >= {"limit_cost", "limit_tokens", "limit_subcalls", "cancelled", "rate_limited", "bad_request"}
    assert sum(story.ledger.totals().calls.retries for story in stories) > RUNS / 2
    assert sum(story.ledger.totals().calls.children for story in stories) > RUNS
    near = [story for story in stories if story.provider.billed > 0.95 * (story.caps.usd or 1.0)]
    assert len(near) > RUNS / 20


class Unreserved(Ledger):
    """Refuses when the cap is reached, and sets nothing aside: as most harnesses do."""

    async def reserve(self, call: str, need: Need) -> None:
        if (self.remaining().usd or 0.0) <= 0.0:
            raise LimitError("cost", "enough")

    def extend(self, call: str, usage: Usage) -> bool:
        return True


def test_without_reservations_caps_are_passed() -> None:
    """The positive control: the same runs, the same provider, and spending goes far beyond."""
    beyond = []
    for seed in range(60):
        story = Story(seed, Unreserved)
        if "the cost is above its cap" in story.wrong():
            beyond.append(story.provider.billed / (story.caps.usd or 1.0))
    assert len(beyond) > 2
    assert max(beyond) > 2.0
