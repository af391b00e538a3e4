"""The caps hold, the sums agree, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.errors import LimitError, ProviderError, TransientError, UsageError
from rlm_cli.events import CallFinished, Calls, Role, Span, Usage
from rlm_cli.models import Completion, Message, Request, Spent, note_spent
from rlm_cli.models.facts import FREE, Facts, Price, per_million
from rlm_cli.models.ledger import (
    DEFAULT_TOKEN_CAP,
    Budgeted,
    Caps,
    Ledger,
    Need,
    Remaining,
    pricing,
    upper_bound,
)
from rlm_cli.models.reported import Reported
from tests.models.asking import FakeModel, Recorder, request, run

PRICE = per_million(1.0, 10.0)


def completion(request: Request, usage: Usage, text: str = "x") -> Completion:
    return Completion(text, usage, request.model)


# -- what is booked ------------------------------------------------------------------------------------------------


def test_costs_are_exact_with_cached_and_written_tokens() -> None:
    """Cached input is cheaper, written input dearer; the rest is at the input price."""
    price = Price(1e-6, 1e-5, cached=1e-7, written=2e-6)
    usage = Usage(1000, 100, cached=600, written=100)
    assert price.cost(usage) == pytest.approx(300e-6 + 60e-6 + 200e-6 + 1000e-6)


def test_a_long_request_is_priced_by_its_tier() -> None:
    """Above the threshold the whole request is dearer, and so is the upper estimate."""
    price = Price(1e-6, 1e-5, above=1000, long=Price(2e-6, 3e-5))
    assert (price.cost(Usage(1000, 10)), price.cost(Usage(1001, 10))) == pytest.approx((1.1e-3, 2.302e-3))
    assert price.at_most(1001, 10) == pytest.approx(2.302e-3)


def test_roots_subs_and_retries_are_counted_apart() -> None:
    """`total` of the calls is the number of requests sent; a final turn is a root call; models are told apart."""
    ledger = Ledger(Caps(), {"r": PRICE, "s": FREE})
    ledger.settle("a", "root", "r", Spent(1, Usage(100, 10)))
    ledger.settle("b", "sub", "s", Spent(3, Usage(50, 5)))
    ledger.settle("c", "final", "r", Spent(1, Usage(10, 1)))
    totals = ledger.totals()
    assert (totals.calls, totals.calls.total) == (Calls(root=2, sub=1, retries=2), 5)
    assert (totals.usage.root, totals.usage.sub, totals.usage.total) == (Usage(110, 11), Usage(50, 5), Usage(160, 16))
    assert totals.cost.usd == pytest.approx(220e-6)
    assert (totals.cost.known, totals.cost.by_model) == (True, {"r": pytest.approx(220e-6), "s": 0.0})
    assert totals.usage.by_model == {"r": Usage(110, 11), "s": Usage(50, 5)}


def test_an_unknown_price_is_not_zero() -> None:
    """The cost of a call without a price is None, and the total says that it is only the known part."""
    ledger = Ledger(Caps(usd=None), {})
    assert ledger.settle("a", "sub", "m", Spent(1, Usage(5, 5))) is None
    assert (ledger.totals().cost.usd, ledger.totals().cost.known) == (0.0, False)


def test_an_unknown_price_is_not_zero_when_only_earlier_attempts_used_tokens() -> None:
    """The ledger was asked about each attempt that may be billed, and the last one used nothing more."""
    for prices, cost in (({}, None), ({"m": PRICE}, PRICE.cost(Usage(40, 4)))):
        ledger = Ledger(Caps(usd=None), prices)
        run(ledger.reserve("a", Need(0.0, 100, sub=True, price=prices.get("m"))))
        assert ledger.extend("a", Usage(40, 4))
        assert ledger.settle("a", "sub", "m", Spent(2, Usage(40, 4))) == (cost and pytest.approx(cost))
        assert ledger.totals().cost.known is (cost is not None)
    assert Ledger(Caps(usd=None), {}).settle("a", "sub", "m", Spent(1)) == 0.0  # no tokens cost nothing anywhere


def test_a_reply_without_usage_is_never_free() -> None:
    """The input as reserved and the output by its length are booked, marked as estimated."""
    ledger = Ledger(Caps(), {"m": PRICE})
    model = Budgeted(FakeModel(lambda r: Completion("four", Usage(), r.model)), ledger)
    done = run(model.complete(request()))
    assert done.usage == Usage(upper_bound(request().messages), 2, estimated=True)
    assert (done.cost_usd, ledger.totals().cost.usd) == (PRICE.cost(done.usage), PRICE.cost(done.usage))


def test_a_failed_call_is_billed_for_what_it_used() -> None:
    """A stream that broke off is booked with its estimate; a call that was never sent is not counted."""
    broken = TransientError("reset")
    note_spent(broken, Spent(2, Usage(40, 4, estimated=True)))

    def fail(_: Request) -> Completion:
        raise broken

    ledger = Ledger(Caps(subcalls=1), {"m": PRICE})
    with pytest.raises(TransientError):
        run(Budgeted(FakeModel(fail), ledger).complete(request()))
    assert (ledger.totals().calls, ledger.totals().usage.sub) == (Calls(sub=1, retries=1), Usage(40, 4, estimated=True))
    ledger.settle("never sent", "sub", "m", Spent())
    assert ledger.totals().calls == Calls(sub=1, retries=1)


def test_our_estimate_of_a_failed_call_is_no_provider_that_bills_too_much() -> None:
    """What came of a reply that cannot be read has its envelope with it."""
    broken = ProviderError("unreadable")
    note_spent(broken, Spent(1, Usage(10**6, 10**6, estimated=True)))

    def fail(_: Request) -> Completion:
        raise broken

    warned: list[str] = []
    ledger, one = Ledger(Caps(), {"m": PRICE}), request(max_output=1_000)
    with pytest.raises(ProviderError):
        run(Budgeted(FakeModel(fail), ledger, warn=warned.append).complete(one))
    assert ledger.totals().usage.sub == Usage(upper_bound(one.messages), 1_000, estimated=True)
    assert (warned, ledger.excess("m")) == ([], 1.0)


# -- the caps ------------------------------------------------------------------------------------------------------


def test_a_call_that_cannot_fit_is_refused_before_it_is_sent() -> None:
    """No request goes out; the error names the cap."""
    inner = FakeModel(lambda r: completion(r, Usage(1, 1)))
    model = Budgeted(inner, Ledger(Caps(usd=0.001), {"m": PRICE}))
    with pytest.raises(LimitError) as caught:
        run(model.complete(request(max_output=1000)))
    assert (caught.value.limit, caught.value.code, inner.requests) == ("cost", "limit_cost", [])


@pytest.mark.parametrize("caps", [Caps(usd=1.0), Caps(usd=None, tokens=1_000)])
def test_a_call_that_never_fits_is_told_from_one_that_does_not_any_more(caps: Caps) -> None:
    """Of a cap, what is kept for the end is nobody else's either."""
    ledger = Ledger(caps, {"m": PRICE})
    ledger.keep_for_final(0.2, 200)

    def alone(part: float) -> bool:
        with pytest.raises(LimitError) as caught:
            run(ledger.reserve("a", Need(part, int(1_000 * part), sub=True)))
        return caught.value.alone

    assert alone(0.9) is True
    ledger.settle("b", "sub", "m", Spent(1, Usage(0, int(0.5 / PRICE.output) if caps.usd else 500)))
    assert (alone(0.7), alone(0.9)) == (False, True)


@pytest.mark.parametrize(
    ("caps", "limit"), [(Caps(usd=None, tokens=100), "tokens"), (Caps(usd=None, tokens=None, subcalls=0), "subcalls")]
)
def test_every_cap_refuses_by_its_name(caps: Caps, limit: str) -> None:
    """Tokens and sub-calls are capped like dollars."""
    model = Budgeted(FakeModel(lambda r: completion(r, Usage(1, 1))), Ledger(caps, {}))
    with pytest.raises(LimitError) as caught:
        run(model.complete(request(max_output=200)))
    assert caught.value.limit == limit


def test_roots_are_not_sub_calls() -> None:
    """The cap on sub-calls does not stop the root."""
    model = Budgeted(FakeModel(lambda r: completion(r, Usage(1, 1))), Ledger(Caps(subcalls=0), {"m": FREE}))
    assert run(model.complete(request(role="root"))).cost_usd == 0.0


def test_turns_of_child_runs_count_like_sub_calls() -> None:
    """The cap is on all that happens below the root's own turns, at any depth; a child's last turn is no exception."""
    ledger = Ledger(Caps(subcalls=3), {"m": FREE})
    model = Budgeted(FakeModel(lambda r: completion(r, Usage(1, 1))), ledger)
    below = [request(role="root", span=Span((1,))), request(span=Span((1, 2))), request(role="final", span=Span((1,)))]
    for one in (request(role="root"), *below):
        run(model.complete(one))
    for one in (*below, request()):
        with pytest.raises(LimitError, match="3 sub-calls"):
            run(model.complete(one))
    run(model.complete(request(role="final")))
    assert (ledger.totals().calls, ledger.totals().calls.below) == (Calls(root=4, sub=1, children=2), 3)


def test_a_provider_that_takes_more_than_was_asked_is_booked_and_kept_at_a_distance() -> None:
    """It ignores max_tokens, four times over. The truth is booked, the person is told once, its later calls reserve as
    much more, and beyond the cap nothing goes out."""
    warned: list[str] = []
    inner = FakeModel(lambda r: completion(r, Usage(10, 4_096)))
    price = per_million(0.0, 10.0)
    ledger = Ledger(Caps(usd=0.10), {"m": price})
    model = Budgeted(inner, ledger, warn=warned.append)
    with pytest.raises(LimitError):
        for number in range(10):
            run(model.complete(request(call=f"c{number}", max_output=1_024)))
    assert (len(inner.requests), len(warned)) == (2, 1)  # 0.041 each: a third could take the total to 0.123
    assert "m billed more than it was asked for: 4,106 tokens" in warned[0]
    assert ledger.totals().cost.usd == pytest.approx(2 * price.cost(Usage(10, 4_096)))
    honest = FakeModel(lambda r: completion(r, Usage(10, r.max_output or 0)))
    model = Budgeted(honest, Ledger(Caps(usd=0.10), {"m": price}), warn=warned.append)
    with pytest.raises(LimitError):
        for number in range(10):
            run(model.complete(request(call=f"c{number}", max_output=1_024)))
    assert (len(honest.requests), len(warned)) == (9, 1)


def test_attempts_are_priced_one_by_one() -> None:
    """Two attempts of 700 tokens are not one of 1,400, whose price would be another; the event says what was booked."""
    price = Price(1e-6, 1e-5, above=1000, long=Price(2e-6, 3e-5))
    emit, ledger = Recorder(), Ledger(Caps(), {"m": price})

    async def twice(one: Request) -> Completion:
        assert ledger.extend(one.call, Usage(700, 0))
        if one.messages[0].content == "fail":
            error = TransientError("reset")
            note_spent(error, Spent(2, Usage(1400, 0)))
            raise error
        return Completion("x", Usage(1400, 10), "m", attempts=2)

    model = Reported(Budgeted(FakeModel(twice), ledger), emit, ledger)
    run(model.complete(request(call="c1")))
    with pytest.raises(TransientError):
        run(model.complete(request("m", "fail", call="c2")))
    assert [event.cost_usd for event in emit.of(CallFinished)] == [pytest.approx(1.5e-3), pytest.approx(1.4e-3)]
    assert ledger.totals().cost.usd == pytest.approx(2.9e-3)


def test_near_the_cap_output_is_shortened() -> None:
    """A root that could only pay for half of its usual output asks for that half, not for nothing."""
    inner = FakeModel(lambda r: completion(r, Usage(10, 10)))
    model = Budgeted(inner, Ledger(Caps(usd=0.10), {"m": PRICE}))
    run(model.complete(request(role="root", max_output=16_000)))
    [sent] = inner.requests
    assert sent.max_output is not None
    assert 2_048 <= sent.max_output < 10_000


def test_calls_wait_for_reservations_in_their_way() -> None:
    """Ten calls that each may take half the cap, but take little, all get through, two at a time at most."""
    state = {"now": 0, "most": 0}

    async def slow(one: Request) -> Completion:
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
        await asyncio.sleep(0)
        state["now"] -= 1
        return completion(one, Usage(10, 1))

    async def work() -> None:
        model = Budgeted(FakeModel(slow), Ledger(Caps(usd=0.0205), {"m": per_million(0.0, 10.0)}))
        await asyncio.gather(*(model.complete(request(call=f"c{i}", max_output=1_000)) for i in range(10)))

    run(work())
    assert state["most"] == 2


def test_a_call_whose_turn_comes_late_is_shortened_again() -> None:
    """Each of ten calls was cut to all that is left; the first one takes a little of it. The others still fit, and get
    through one after the other, each with a little less output than the one before."""

    async def slow(one: Request) -> Completion:
        await asyncio.sleep(0)
        return completion(one, Usage(10, 2))

    inner = FakeModel(slow)

    async def work() -> None:
        model = Budgeted(inner, Ledger(Caps(usd=0.02), {"m": per_million(0.0, 10.0)}))
        await asyncio.gather(*(model.complete(request(call=f"c{i}", max_output=4_000)) for i in range(10)))

    run(work())
    limits = [sent.max_output or 0 for sent in inner.requests]
    assert limits == [pytest.approx(2_000 - 2 * i, abs=1) for i in range(10)]


CENTS = st.integers(1, 500).map(lambda hundredths: hundredths / 100)


@settings(max_examples=300, deadline=None)
@given(
    usd=st.integers(5, 100).map(lambda thousandths: thousandths / 1000),
    given_price=CENTS,
    made_price=CENTS,
    over=st.sampled_from([1.0, 1.7]),
    used=st.lists(st.tuples(st.integers(1, 900), st.integers(0, 300)), max_size=30),
    prompt=st.integers(1, 1_000),
)
def test_what_can_be_paid_for_is_not_refused(
    usd: float, given_price: float, made_price: float, over: float, used: list[tuple[int, int]], prompt: int
) -> None:
    """Prices and caps are round figures, so what is left is often exactly a whole number of tokens: rounding must not
    refuse the call that was shortened to just that. A call is refused only when its least output does not fit; also
    when its model has billed more than it was asked for."""
    price = per_million(given_price, made_price)
    ledger = Ledger(Caps(usd=usd), {"m": price})
    for number, (given_tokens, made) in enumerate(used):
        ledger.settle(f"s{number}", "sub", "m", Spent(1, Usage(given_tokens, made)))
    ledger._excess["m"] = over
    inner = FakeModel(lambda one: completion(one, Usage(1, 1)))
    asked = request(prompt="x" * prompt, max_output=1_000_000)
    least = price.at_most(upper_bound(asked.messages) + 1, 1_024 + 1) * over
    try:
        run(Budgeted(inner, ledger).complete(asked))
    except LimitError:
        assert least > usd * (1 - 1e-9) - ledger.totals().cost.usd
    else:
        assert inner.requests[0].max_output


def test_the_final_turn_has_a_reserve_of_its_own() -> None:
    """When sub-calls have used up what they may, the outermost run's final turn still fits; a child's turn does not."""

    async def work() -> tuple[str, str]:
        ledger = Ledger(Caps(usd=0.05), {"m": PRICE})
        model = Budgeted(FakeModel(lambda r: completion(r, Usage(10, r.max_output or 0))), ledger)
        await model.complete(request(role="root", call="r", max_output=100))
        refused = ""
        for number in range(100):
            try:
                await model.complete(request(call=f"s{number}", max_output=1_024))
            except LimitError as error:
                refused = error.limit
                break
        with pytest.raises(LimitError):
            await model.complete(request(role="root", call="1/r", max_output=2_000, span=Span((1,))))
        done = await model.complete(request(role="final", call="f"))
        assert ledger.totals().cost.usd <= 0.05
        return refused, done.text

    assert run(work()) == ("cost", "x")


def test_cancelling_a_waiting_call_frees_its_place() -> None:
    """A call cancelled in the queue leaves nothing behind; one cancelled in flight gives its reservation back."""

    async def work() -> Remaining:
        ledger = Ledger(Caps(usd=1.0, subcalls=10), {})
        await ledger.reserve("a", Need(0.9, 0, sub=True))
        waiting = asyncio.create_task(ledger.reserve("b", Need(0.9, 0, sub=True)))
        behind = asyncio.create_task(ledger.reserve("c", Need(0.05, 0, sub=True)))
        await asyncio.sleep(0)
        assert not behind.done()  # first come, first served
        waiting.cancel()
        await behind
        ledger.settle("c", "sub", "m", Spent())
        ledger.settle("a", "sub", "m", Spent())
        return ledger.remaining()

    assert run(work()) == Remaining(1.0, None, 10)


def test_a_retry_after_a_billed_failure_must_fit_too() -> None:
    """The ledger refuses another attempt when the failed one has eaten up what was set aside."""

    async def work() -> tuple[bool, bool]:
        ledger = Ledger(Caps(usd=0.01), {"m": PRICE})
        await ledger.reserve("a", Need(0.006, 0, price=PRICE))
        return ledger.extend("a", Usage(0, 300)), ledger.extend("a", Usage(0, 300))

    assert run(work()) == (True, False)


def test_big_prompts_are_counted_and_small_ones_are_not() -> None:
    """The tokenizer runs only where the byte bound would take a sizeable part of what is left."""
    counted: list[int] = []

    def count(one: Request) -> int:
        counted.append(one.chars)
        return one.chars // 4

    ledger = Ledger(Caps(usd=1.0), {"m": per_million(1.0, 0.0)})
    model = Budgeted(FakeModel(lambda r: completion(r, Usage(1, 1))), ledger, count=count)
    run(model.complete(request(prompt="x" * 1_000)))
    run(model.complete(request(prompt="x" * 100_000)))
    assert counted == [100_000]


PRICES = st.builds(per_million, st.floats(0, 20), st.floats(0, 80))
CALLS = st.tuples(
    st.sampled_from(["root", "sub", "final"]), st.integers(0, 2), st.integers(1, 4_000), st.integers(1, 3_000)
)


@settings(max_examples=120, deadline=None)
@given(
    usd=st.floats(0.0005, 0.2),
    tokens=st.one_of(st.none(), st.integers(100, 60_000)),
    prices=st.tuples(PRICES, PRICES, PRICES),
    calls=st.lists(CALLS, max_size=50),
    concurrency=st.integers(1, 50),
    seed=st.integers(0, 2**32),
)
def test_the_cap_holds_under_any_fan_out(
    usd: float,
    tokens: int | None,
    prices: tuple[Price, Price, Price],
    calls: list[tuple[Role, int, int, int]],
    concurrency: int,
    seed: int,
) -> None:
    """With random prices, sizes and concurrency: spending stays within both caps, the ledger's sums are the sums over
    the requests that the provider saw, every call ends, and nothing stays reserved."""
    chance = random.Random(seed)
    seen: list[tuple[Role, str, Usage, int]] = []

    async def provider(one: Request) -> Completion:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        used = Usage(chance.randint(1, one.chars), chance.randint(0, one.max_output or 0))
        attempts = chance.randint(1, 3)
        seen.append((one.role, one.model, used, attempts))
        if chance.random() < 0.2:
            error = TransientError("failed")
            note_spent(error, Spent(attempts, used))
            raise error
        return Completion("", used, one.model, attempts=attempts)

    table = {f"m{index}": price for index, price in enumerate(prices)}
    ledger = Ledger(Caps(usd=usd, tokens=tokens), table)

    async def work() -> None:
        slots, model = asyncio.Semaphore(concurrency), Budgeted(FakeModel(provider), ledger)

        async def one(index: int, role: Role, which: int, size: int, output: int) -> None:
            asked = Request(f"c{index}", role, f"m{which}", (Message("user", "x" * size),), max_output=output)
            async with slots:
                try:
                    await model.complete(asked)
                except (LimitError, TransientError):
                    return

        await asyncio.gather(*(one(index, *call) for index, call in enumerate(calls)))

    run(work())
    totals = ledger.totals()
    assert totals.cost.usd <= usd * (1 + 1e-9)
    assert tokens is None or totals.usage.total.total <= tokens
    assert totals.cost.usd == pytest.approx(sum(table[model].cost(used) for _, model, used, _ in seen))
    assert totals.usage.total.total == sum(used.total for _, _, used, _ in seen)
    assert totals.calls.total == sum(attempts for *_, attempts in seen)
    assert totals.calls.sub == sum(role == "sub" for role, *_ in seen)
    assert ledger._held == {}
    assert not ledger._queue


# -- prices before the first call ----------------------------------------------------------------------------------

KNOWN, UNKNOWN = Facts("k", price=PRICE), Facts("u")


def test_known_prices_keep_the_caps() -> None:
    """Nothing to say when every price is known."""
    assert pricing([KNOWN], Caps(), usd_is_explicit=True).note == ""


def test_an_unknown_price_under_the_default_cap_caps_tokens_instead() -> None:
    """Dollars cannot be capped, so tokens are, and the user is told."""
    found = pricing([KNOWN, UNKNOWN], Caps(), usd_is_explicit=False)
    assert (found.caps.usd, found.caps.tokens) == (None, DEFAULT_TOKEN_CAP)
    assert "price of u unknown" in found.note


def test_an_unknown_price_under_an_explicit_cap_is_refused() -> None:
    """A cap the user asked for is kept or refused, never dropped; --allow-unknown-cost is the user's word."""
    with pytest.raises(UsageError) as caught:
        pricing([UNKNOWN], Caps(usd=0.5), usd_is_explicit=True)
    assert caught.value.code == "unknown_price"
    assert pricing([UNKNOWN], Caps(), usd_is_explicit=True, allow_unknown=True).caps.tokens == DEFAULT_TOKEN_CAP


def test_a_price_given_by_the_user_fills_what_is_unknown() -> None:
    """--price is for the models without a price; with none such it overrides all."""
    own = per_million(3, 4)
    assert pricing([KNOWN, UNKNOWN], Caps(), usd_is_explicit=True, override=own).prices == {"k": PRICE, "u": own}
    assert pricing([KNOWN], Caps(), usd_is_explicit=True, override=own).prices == {"k": own}


def test_models_that_only_the_code_may_ask_follow() -> None:
    """--price prices an alias without a price, and does not make a known one dearer. Without --price such an alias is
    left out under a dollar cap, and the note says so, by its name; where dollars are not capped it may be asked."""
    own, other, none = per_million(3, 4), Facts("o", price=FREE), Facts("n")
    rest = {"cheap": other, "new": none, "known": KNOWN, "newer": none}
    assert pricing([UNKNOWN], Caps(), usd_is_explicit=True, override=own, others=rest).prices == {
        "u": own, "o": FREE, "n": own, "k": PRICE,
    }  # fmt: skip
    assert pricing([KNOWN], Caps(), usd_is_explicit=True, override=own, others=rest).prices == {
        "k": own, "o": FREE, "n": own,
    }  # fmt: skip
    left_out = pricing([KNOWN], Caps(), usd_is_explicit=True, others=rest)
    assert (left_out.prices, left_out.caps.usd) == ({"k": PRICE, "o": FREE}, 1.0)
    assert left_out.note == "price of new (n), newer (n) unknown: not offered to the code"
    assert pricing([UNKNOWN], Caps(), usd_is_explicit=False, others=rest).note.startswith("price of u unknown: dollars")
    assert (
        pricing([KNOWN], Caps(usd=None), usd_is_explicit=True, others=rest).note
        == "price of new (n), newer (n) unknown"
    )


def test_without_a_cap_an_unknown_price_is_only_noted() -> None:
    """--max-cost none: there is nothing to refuse."""
    assert pricing([UNKNOWN], Caps(usd=None), usd_is_explicit=True) == pricing(
        [UNKNOWN], Caps(usd=None), usd_is_explicit=False
    )
