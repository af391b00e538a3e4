"""What the whole tree of runs spends, and the caps on it.

One `Ledger` counts root calls, sub-calls, children, retries and repairs, when the response arrives and before
anything is parsed. `Budgeted` reserves the most a call can cost before it goes out; a call that would pass a cap
waits while only other calls' reservations are in the way, and is refused when it cannot fit even after them. So the
cap holds under any fan-out, as long as the estimates are upper bounds (`Budgeted` says how they are made). A provider
that bills more than was asked for breaks that: the truth is booked, and its model's later calls reserve as much more.

A part of the cap is kept back for the root's final "answer with what you have" turn; only role "final" of the
outermost run may use it.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..errors import LimitError, UsageError
from ..events import Calls, Cost, Role, RoleUsage, Totals, Usage
from ..units import money
from . import Completion, Message, Model, OnText, Request, Spent, note_spent, spent_by
from .facts import Facts, Price, output_limit

DEFAULT_TOKEN_CAP = 2_000_000
FINAL_OUTPUT = 2_048
FINAL_GROWTH = 6_000
"""Tokens by which the final turn's prompt may exceed the last one's: a reply and its observation."""
FINAL_SHARE = 0.3
"""The reserve never takes more than this part of a cap."""
LEAST_OUTPUT: Mapping[Role, int] = {"root": 2_048, "sub": 1_024, "final": 256}
"""Below this many tokens of output a call is not worth its input: it is refused instead of shortened."""
MESSAGE_TOKENS = 8
ROUNDING = 1e-9


@dataclass(frozen=True)
class Caps:
    """What the tree may use; None: no cap. `tokens` counts input and output of all calls, `subcalls` all calls but the
    outermost run's own turns: sub-calls, and the turns of child runs."""

    usd: float | None = 1.0
    tokens: int | None = None
    subcalls: int | None = 500


@dataclass(frozen=True)
class Pricing:
    """The prices in force by model id (a missing one is unknown), the caps that follow, and what to tell the user."""

    prices: Mapping[str, Price]
    caps: Caps
    note: str = ""


def pricing(
    models: Iterable[Facts],
    caps: Caps,
    *,
    usd_is_explicit: bool,
    override: Price | None = None,
    allow_unknown: bool = False,
    others: Mapping[str, Facts] | None = None,
) -> Pricing:
    """Decide what is known about cost before the first call. `models` are the root and the sub-model, `others` those
    that the code may ask for, by their aliases.

    `override` (`--price`) prices what is unknown; when root and sub-model are known, both of them. With the price of
    one of these unknown, dollars cannot be capped: a cap the user asked for raises `UsageError` (unless
    `allow_unknown`), the default one is replaced by a cap on tokens, and the note says so. One of the others that is
    unknown has no price here, and must not be asked while dollars are capped.
    """
    asked = {entry.model: entry.price for entry in models}
    others = {alias: entry for alias, entry in (others or {}).items() if entry.model not in asked}
    rest = {entry.model: entry.price for entry in others.values()}
    unknown = [model for model, price in asked.items() if price is None]
    if override is not None:
        asked |= dict.fromkeys(unknown or asked, override)
        rest = {model: price or override for model, price in rest.items()}
        unknown = []
    prices = {model: price for model, price in (asked | rest).items() if price is not None}
    unpriced = [f"{alias} ({entry.model})" for alias, entry in others.items() if rest[entry.model] is None]
    if caps.usd is None:
        unknown += unpriced
        return Pricing(prices, caps, f"price of {', '.join(unknown)} unknown" if unknown else "")
    if not unknown:
        left_out = ", ".join(unpriced)
        return Pricing(prices, caps, f"price of {left_out} unknown: not offered to the code" if left_out else "")
    names = ", ".join(unknown)
    if usd_is_explicit and not allow_unknown:
        raise UsageError(
            f"--max-cost {caps.usd:g} cannot be kept: the price of {names} is unknown",
            hint="Give it with --price IN,OUT (US$ per million tokens), or accept with --allow-unknown-cost.",
            code="unknown_price",
        )
    tokens = caps.tokens if caps.tokens is not None else DEFAULT_TOKEN_CAP
    note = f"price of {names} unknown: dollars cannot be capped, at most {tokens:,} tokens instead"
    return Pricing(prices, replace(caps, usd=None, tokens=tokens), note)


@dataclass(frozen=True)
class Need:
    """The most a call may use. `sub`: it counts towards the cap on sub-calls; `last` is true for the outermost run's
    final turn, which may use the reserve; `price` is the model's, None when unknown."""

    usd: float
    tokens: int
    sub: bool = False
    last: bool = False
    price: Price | None = None


@dataclass(frozen=True)
class Remaining:
    """What is left for ordinary calls, the final turn's reserve and calls in flight taken off. None: no cap."""

    usd: float | None
    tokens: int | None
    subcalls: int | None


@dataclass
class _Waiting:
    call: str
    need: Need
    turn: asyncio.Future[None]


@dataclass
class _Held:
    """What is set aside for a call in flight, and what its failed attempts have used of it."""

    need: Need
    lost: Usage = Usage()
    lost_usd: float = 0.0


@dataclass
class _Books:
    """The running sums of what was settled."""

    calls: Calls = Calls()
    root: Usage = Usage()
    sub: Usage = Usage()
    usage_by_model: dict[str, Usage] = field(default_factory=dict)
    usd: float = 0.0
    known: bool = True
    by_model: dict[str, float] = field(default_factory=dict)
    saved_usd: float = 0.0

    @property
    def tokens(self) -> int:
        return self.root.total + self.sub.total


class Ledger:
    """The one set of books of a tree of runs. Used from the event loop only, so it needs no lock."""

    def __init__(self, caps: Caps, prices: Mapping[str, Price]) -> None:
        self._caps = caps
        self._prices = prices
        self._books = _Books()
        self._held: dict[str, _Held] = {}
        self._held_sum = Need(0.0, 0)
        self._excess: dict[str, float] = {}
        self._queue: deque[_Waiting] = deque()
        self._subcalls = 0
        self._kept = Need(0.0, 0)

    # -- before a call

    async def reserve(self, call: str, need: Need) -> None:
        """Set `need` aside for `call`, first come first served.

        Waits while it would fit but for calls in flight. Raises `LimitError` (cost, tokens or subcalls) when it would
        pass a cap even with nothing in flight: what is spent never comes back.
        """
        waiting = _Waiting(call, need, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._admit()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            elif not waiting.turn.cancelled() and waiting.turn.exception() is None:
                self._release(call, need)  # admitted in the same instant
            self._admit()
            raise

    def extend(self, call: str, usage: Usage) -> bool:
        """Set more aside for a call in flight, whose failed attempt may be billed; False when that does not fit."""
        held = self._held.get(call)
        if held is None:
            return False
        need = held.need
        more = Need(need.price.cost(usage) if need.price else 0.0, usage.total, last=need.last)
        if self._passes(more, self._in_flight()):
            return False
        need = replace(need, usd=need.usd + more.usd, tokens=need.tokens + more.tokens)
        self._hold(call, _Held(need, held.lost + usage, held.lost_usd + more.usd))
        return True

    def keep_for_final(self, usd: float, tokens: int) -> None:
        """Keep this much for the final turn (never more than a share of the cap)."""
        usd_most = (self._caps.usd or 0.0) * FINAL_SHARE
        tokens_most = int((self._caps.tokens or 0) * FINAL_SHARE)
        self._kept = Need(min(usd, usd_most), min(tokens, tokens_most))
        self._admit()

    def output_within(self, price: Price | None, input_tokens: int, *, wanted: int, last: bool) -> int:
        """How many of the `wanted` tokens of output what is left would pay for, calls in flight not counted."""
        usd, tokens = self._left(last=last, in_flight=Need(0.0, 0))
        payable = float(wanted)
        if tokens is not None:
            payable = min(payable, tokens - input_tokens)
        tier = price.at(input_tokens) if price else None
        if usd is not None and price and tier and tier.output > 0:
            # Prices are round figures, so this often comes out at a whole number of tokens: the sums' rounding errors
            # must not make a call of just that size one that does not fit.
            usd -= (self._caps.usd or 0.0) * ROUNDING
            payable = min(payable, (usd - price.at_most(input_tokens, 0)) / tier.output)
        return int(max(0.0, payable))

    # -- after a call

    def settle(self, call: str, role: Role, model: str, spent: Spent) -> float | None:
        """Book what `call` used, drop its reservation, let waiting calls go. Returns its cost; None: unknown.

        A call that sent no request is not counted.
        """
        held = self._let_go(call) or _Held(Need(0.0, 0))
        # Each attempt has a price of its own: their sum may be in a tier in which none of them was.
        last = self.price_of(model, _without(spent.usage, held.lost))
        known = model in self._prices or not spent.usage.total
        cost = last + held.lost_usd if known and last is not None else None
        if spent.attempts:
            self._book(role, model, spent, cost, child=held.need.sub and role != "sub")
            self._note_excess(model, held.need, spent.usage.total, cost or 0.0)
        elif held.need.sub:
            self._subcalls -= 1
        self._admit()
        return cost

    def excess(self, model: str) -> float:
        """How many times what was set aside `model` has billed, at worst; 1.0 when that always held."""
        return self._excess.get(model, 1.0)

    def note_saved(self, model: str, usage: Usage) -> None:
        """A sub-call was answered by an earlier reply that took `usage`."""
        books = self._books
        books.calls = replace(books.calls, cached=books.calls.cached + 1)
        books.saved_usd += self.price_of(model, usage) or 0.0

    def price_of(self, model: str, usage: Usage) -> float | None:
        """What `usage` costs on `model`; None: its price is unknown. No tokens cost nothing anywhere."""
        if not usage.total:
            return 0.0
        price = self._prices.get(model)
        return None if price is None else price.cost(usage)

    def price(self, model: str) -> Price | None:
        return self._prices.get(model)

    # -- reading

    def totals(self) -> Totals:
        """The books at this moment."""
        books = self._books
        usage = RoleUsage(books.root, books.sub, books.root + books.sub, dict(books.usage_by_model))
        return Totals(
            books.calls, usage, Cost(books.usd, books.known, dict(books.by_model), books.saved_usd), self._caps.usd
        )

    def remaining(self) -> Remaining:
        usd, tokens = self._left(last=False, in_flight=self._in_flight())
        calls = self._caps.subcalls
        return Remaining(
            None if usd is None else max(0.0, usd),
            None if tokens is None else max(0, tokens),
            None if calls is None else max(0, calls - self._subcalls),
        )

    # -- inside

    def _note_excess(self, model: str, need: Need, tokens: int, usd: float) -> None:
        ratios = [used / held for used, held in ((tokens, need.tokens), (usd, need.usd)) if held]
        most = max(ratios, default=1.0)
        if most > 1.0 + ROUNDING:
            self._excess[model] = max(self.excess(model), most)

    def _book(self, role: Role, model: str, spent: Spent, cost: float | None, *, child: bool) -> None:
        books, old = self._books, self._books.calls
        retries = old.retries + spent.attempts - 1
        if role == "sub":
            books.calls = replace(old, sub=old.sub + 1, retries=retries)
            books.sub += spent.usage
        else:
            books.calls = replace(old, root=old.root + 1, retries=retries, children=old.children + child)
            books.root += spent.usage
        books.usage_by_model[model] = books.usage_by_model.get(model, Usage()) + spent.usage
        books.known = books.known and cost is not None
        books.usd += cost or 0.0
        books.by_model[model] = books.by_model.get(model, 0.0) + (cost or 0.0)

    def _admit(self) -> None:
        """Let the calls at the head of the queue go, as far as they fit."""
        while self._queue:
            head = self._queue[0]
            if (limit := self._passes(head.need, Need(0.0, 0))) is not None:
                self._queue.popleft()
                if not head.turn.done():
                    head.turn.set_exception(self._refusal(limit, head.need))
            elif self._passes(head.need, self._in_flight()) is None:
                self._queue.popleft()
                self._hold(head.call, _Held(head.need))
                self._subcalls += head.need.sub
                if not head.turn.done():
                    head.turn.set_result(None)
                else:
                    self._release(head.call, head.need)
            else:
                return

    def _release(self, call: str, need: Need) -> None:
        self._let_go(call)
        self._subcalls -= need.sub

    def _hold(self, call: str, held: _Held) -> None:
        """Set aside, in place of what was set aside for `call`. The sum is kept: thousands may be in flight."""
        self._let_go(call)
        self._held[call] = held
        self._held_sum = Need(self._held_sum.usd + held.need.usd, self._held_sum.tokens + held.need.tokens)

    def _let_go(self, call: str) -> _Held | None:
        held = self._held.pop(call, None)
        if held is not None:
            left = Need(self._held_sum.usd - held.need.usd, self._held_sum.tokens - held.need.tokens)
            self._held_sum = left if self._held else Need(0.0, 0)  # nothing is left of what was rounded
        return held

    def _in_flight(self) -> Need:
        return self._held_sum

    def _left(self, *, last: bool, in_flight: Need) -> tuple[float | None, int | None]:
        caps, kept = self._caps, Need(0.0, 0) if last else self._kept
        usd = None if caps.usd is None else caps.usd - self._books.usd - in_flight.usd - kept.usd
        tokens = None if caps.tokens is None else caps.tokens - self._books.tokens - in_flight.tokens - kept.tokens
        return usd, tokens

    def _passes(self, need: Need, in_flight: Need) -> str | None:
        """The cap that `need` would pass beside `in_flight`, if any."""
        usd, tokens = self._left(last=need.last, in_flight=in_flight)
        if need.sub and self._caps.subcalls is not None and self._subcalls >= self._caps.subcalls:
            return "subcalls"
        if usd is not None and need.usd > usd:
            return "cost"
        if tokens is not None and need.tokens > tokens:
            return "tokens"
        return None

    def _refusal(self, limit: str, need: Need) -> LimitError:
        caps, books, kept = self._caps, self._books, Need(0.0, 0) if need.last else self._kept
        if limit == "subcalls":
            return LimitError(limit, f"the cap of {caps.subcalls:,} sub-calls is reached", hint="Raise --max-subcalls.")
        if limit == "tokens":
            message = (
                f"the cap of {caps.tokens:,} tokens: {books.tokens:,} used, the next call may take {need.tokens:,}"
            )
            alone = need.tokens > (caps.tokens or 0) - kept.tokens
            return LimitError(limit, message, hint="Raise --max-tokens.", alone=alone)
        cap, spent, next_one = money(caps.usd or 0.0), money(books.usd), money(need.usd)
        message = f"the cap of {cap}: {spent} spent, the next call may cost {next_one}"
        alone = need.usd > (caps.usd or 0.0) - kept.usd
        return LimitError(limit, message, hint="Raise --max-cost.", alone=alone)


def _without(usage: Usage, lost: Usage) -> Usage:
    """The last attempt's part of a call's tokens."""
    return replace(
        usage,
        input=max(0, usage.input - lost.input),
        output=max(0, usage.output - lost.output),
        cached=max(0, usage.cached - lost.cached),
        written=max(0, usage.written - lost.written),
    )


OutputLimit = Callable[[str, Role], int]
Count = Callable[[Request], int]
Warn = Callable[[str], None]


class Budgeted:
    """`Model` that reserves before and settles after, so that no cap is passed.

    The estimate of a request's input is the number of its UTF-8 bytes: no tokenizer in use makes more tokens than
    that. Where that bound would take a sizeable part of what is left, `count` (a tokenizer, times `margin` for
    providers that use another one) says it closer. Output is bounded by `max_output`, which goes to the provider;
    near the cap it is lowered to what can be paid for, down to `LEAST_OUTPUT`. `warn` hears of a model that bills more.
    """

    def __init__(
        self,
        inner: Model,
        ledger: Ledger,
        *,
        limit: OutputLimit = output_limit,
        count: Count | None = None,
        margin: float = 2.0,
        warn: Warn = lambda _message: None,
    ) -> None:
        self._inner, self._ledger, self._limit, self._count, self._margin = inner, ledger, limit, count, margin
        self._warn = warn

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """As the inner model, with `cost_usd`. Raises `LimitError` without sending anything when a cap forbids it."""
        inputs = self._input_bound(request)
        if request.role == "root" and not request.span.depth:
            self._keep(request.model, inputs + FINAL_GROWTH)
        request = await self._reserved(request, inputs)
        spent = Spent()
        try:
            completion = await self._inner.complete(request, on_text)
            completion = replace(completion, usage=billed(completion, inputs, request.max_output or 0))
            spent = Spent(completion.attempts, completion.usage)
        except BaseException as error:
            spent = within(spent_by(error), inputs, request.max_output or 0)
            note_spent(error, replace(spent, cost_usd=self._settle(request, spent)))
            raise
        cost = self._settle(request, spent)
        if request.role == "root" and not request.span.depth:
            self._keep(request.model, completion.usage.total + FINAL_GROWTH)
        return replace(completion, cost_usd=cost)

    def _settle(self, request: Request, spent: Spent) -> float | None:
        known = self._ledger.excess(request.model)
        cost = self._ledger.settle(request.call, request.role, request.model, spent)
        if known == 1.0 < self._ledger.excess(request.model):
            self._warn(
                f"{request.model} billed more than it was asked for: {spent.usage.total:,} tokens, where at most "
                f"{request.max_output:,} of output were allowed. From now on its calls keep more distance from the caps"
            )
        return cost

    async def _reserved(self, request: Request, inputs: int) -> Request:
        """The request as it can be paid for, with its cost set aside. What is left may have shrunk by the time it was
        this call's turn; then its output is shortened once more, as long as that helps."""
        while True:
            payable = self._within_means(request, inputs)
            try:
                await self._ledger.reserve(request.call, self._need(payable, inputs))
            except LimitError:
                if self._within_means(request, inputs) == payable:
                    raise
            else:
                return payable

    def _input_bound(self, request: Request) -> int:
        bound = upper_bound(request.messages)
        left = self._ledger.remaining()
        price = self._ledger.price(request.model)
        cheap = left.usd is None or price is None or price.at_most(bound, 0) < left.usd / 64
        short = left.tokens is None or bound < left.tokens / 64
        if self._count is None or (cheap and short):
            return bound
        return min(bound, int(self._count(request) * self._margin) + MESSAGE_TOKENS * len(request.messages))

    def _within_means(self, request: Request, inputs: int) -> Request:
        wanted = request.max_output or self._limit(request.model, request.role)
        price = self._ledger.price(request.model)
        inputs = math.ceil(inputs * self._ledger.excess(request.model))
        payable = self._ledger.output_within(price, inputs, wanted=wanted, last=is_last(request))
        payable = int(payable / self._ledger.excess(request.model))
        return replace(request, max_output=max(payable, min(wanted, LEAST_OUTPUT[request.role])))

    def _need(self, request: Request, inputs: int) -> Need:
        output = request.max_output or 0
        price = self._ledger.price(request.model)
        usd = price.at_most(inputs, output) if price else 0.0
        excess = self._ledger.excess(request.model)
        sub = request.role == "sub" or request.span.depth > 0
        tokens = math.ceil((inputs + output) * excess)
        return Need(usd * excess, tokens, sub=sub, last=is_last(request), price=price)

    def _keep(self, model: str, inputs: int) -> None:
        price = self._ledger.price(model)
        usd = price.at_most(inputs, FINAL_OUTPUT) if price else 0.0
        self._ledger.keep_for_final(usd, inputs + FINAL_OUTPUT)


def is_last(request: Request) -> bool:
    """Whether this is the outermost run's final turn."""
    return request.role == "final" and not request.span.depth


def upper_bound(messages: Iterable[Message]) -> int:
    """No byte-level tokenizer makes more tokens of a text than it has UTF-8 bytes."""
    return sum(len(message.content.encode("utf-8", "replace")) + MESSAGE_TOKENS for message in messages)


def billed(completion: Completion, inputs: int, most_output: int) -> Usage:
    """The usage to book. A reply without one is never free: input as reserved, output by its length."""
    usage = completion.usage
    if not usage.input or (completion.text and not usage.output):
        output = usage.output or -(-len(completion.text.encode("utf-8", "replace")) // 2)
        usage = replace(usage, input=usage.input or inputs, output=output, estimated=True)
    return within(Spent(completion.attempts, usage), inputs, most_output).usage


def within(spent: Spent, inputs: int, most_output: int) -> Spent:
    """An estimate of ours is never more than a provider could bill for one request that keeps to what it was asked."""
    usage = spent.usage
    if not usage.estimated or spent.attempts != 1:
        return spent
    return replace(spent, usage=replace(usage, input=min(usage.input, inputs), output=min(usage.output, most_output)))
