"""The links around a provider: what is retried, how many go out at once, and that all books agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from rlm_cli.errors import LimitError, ProviderError, RlmError, TransientError
from rlm_cli.events import CallFinished, CallRetried, Calls, CallStarted, ErrorInfo, Usage
from rlm_cli.models import Completion, Model, Request, Spent, note_spent, spent_by
from rlm_cli.models.facts import per_million
from rlm_cli.models.ledger import Budgeted, Caps, Ledger
from rlm_cli.models.limited import Limited
from rlm_cli.models.provider import LiteLLMProvider, ProviderOptions, count_request
from rlm_cli.models.reported import Reported
from rlm_cli.models.retrying import Patience, Retrying
from tests.loopback import LoopbackServer
from tests.models.asking import FakeModel, Recorder, Sequential, as_model, request, run

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

NOTHING = Usage()
DONE = Completion("ok", Usage(10, 2), "m")


def transient(retry_after: float | None = None, *, usage: Usage = NOTHING) -> TransientError:
    error = TransientError("busy", code="rate_limited", retry_after=retry_after)
    note_spent(error, Spent(1, usage))
    return error


class Sleeps:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def retrying(replies: Sequence[Completion | BaseException], **more: Any) -> tuple[Retrying, Recorder, Sleeps]:
    emit, sleeps = Recorder(), Sleeps()
    model = Retrying(Sequential(replies), emit, sleep=sleeps, clock=lambda: sleeps.now, jitter=lambda: 1.0, **more)
    return model, emit, sleeps


# -- retrying ------------------------------------------------------------------------------------------------------


def test_waits_double_and_are_reported() -> None:
    """Two failures, then success: two visible waits, three requests."""
    model, emit, sleeps = retrying([transient(), transient(), DONE])
    done = run(model.complete(request()))
    assert (sleeps.waits, done.attempts, done.usage) == ([0.5, 1.0], 3, DONE.usage)
    assert emit.events == [CallRetried("c1", 1, 5, 0.5, "busy"), CallRetried("c1", 2, 5, 1.0, "busy")]


def test_retry_after_is_a_lower_bound() -> None:
    """The provider's wish is honoured, with a little on top so that calls do not return in one instant."""
    model, _, sleeps = retrying([transient(20.0), DONE])
    run(model.complete(request()))
    assert sleeps.waits == [22.0]


def test_a_wish_that_is_too_long_ends_the_call() -> None:
    """An hour's wait is not worth it: the error comes back at once."""
    model, emit, _ = retrying([transient(3600.0)])
    with pytest.raises(TransientError):
        run(model.complete(request()))
    assert emit.events == []


def test_after_the_last_attempt_the_error_says_what_it_cost() -> None:
    """All attempts and the tokens of the broken ones are on the error's account."""
    model, emit, _ = retrying([transient(usage=Usage(5, 1, estimated=True)) for _ in range(5)])
    with pytest.raises(TransientError) as caught:
        run(model.complete(request()))
    assert spent_by(caught.value) == Spent(5, Usage(25, 5, estimated=True))
    assert len(emit.events) == 4


def test_what_broken_attempts_cost_is_in_the_usage() -> None:
    """A reply that broke off half way was billed, although the second one counts."""
    model, _, _ = retrying([transient(usage=Usage(10, 1, estimated=True)), DONE])
    assert run(model.complete(request())).usage == Usage(20, 3, estimated=True)


def test_final_errors_are_not_retried() -> None:
    """A 404 stays a 404; an earlier attempt is still counted."""
    unknown = ProviderError("no such model", code="unknown_model")
    note_spent(unknown, Spent(1))
    model, _, _ = retrying([transient(), unknown])
    with pytest.raises(ProviderError) as caught:
        run(model.complete(request()))
    assert (caught.value.code, spent_by(caught.value).attempts) == ("unknown_model", 2)


def test_no_wait_goes_past_the_deadline() -> None:
    """--max-time bounds every wait: the call fails instead of sleeping through it. Whoever has more time, as a last
    turn that comes after it, waits: one 429 must not cost the answer."""
    model, emit, _ = retrying([transient(10.0), DONE])
    with pytest.raises(TransientError):
        run(model.complete(request(deadline=5.0)))
    assert emit.events == []
    model, _, _ = retrying([transient(10.0), DONE])
    assert run(model.complete(request(role="final", deadline=15.0))).attempts == 2


def test_the_ledger_can_refuse_a_retry() -> None:
    """When a billed failure leaves nothing for another attempt, there is none; a free failure is not asked about."""
    model, _, _ = retrying([transient(usage=Usage(5, 0)), DONE], may_retry=lambda call, usage: False)
    with pytest.raises(TransientError):
        run(model.complete(request()))
    model, _, _ = retrying([transient(), DONE], may_retry=lambda call, usage: False)
    assert run(model.complete(request())).attempts == 2


def test_patience_has_bounds() -> None:
    """Waits stay between half and the whole of the doubling step, below the longest."""
    patience = Patience()
    assert [patience.wait(n, None, 0.0) for n in (1, 2, 3, 4, 5)] == [0.25, 0.5, 1.0, 2.0, None]
    assert Patience(attempts=99).wait(50, None, 1.0) == patience.longest_s


# -- limited -------------------------------------------------------------------------------------------------------


def test_sub_calls_share_the_slots_and_roots_take_none() -> None:
    """Never more sub-calls in flight than allowed; a root passes while all slots are taken."""
    gate, flight = asyncio.Event(), {"now": 0, "most": 0}

    async def slow(one: Request) -> Completion:
        if one.role == "sub":
            flight["now"] += 1
            flight["most"] = max(flight["most"], flight["now"])
            await gate.wait()
            flight["now"] -= 1
        return DONE

    async def work() -> None:
        model = Limited(FakeModel(slow), 3)
        subs = [asyncio.create_task(model.complete(request(call=f"s{i}"))) for i in range(10)]
        await asyncio.sleep(0)
        assert await model.complete(request(role="root")) is DONE
        gate.set()
        await asyncio.gather(*subs)

    run(work())
    assert flight["most"] == 3


# -- reported ------------------------------------------------------------------------------------------------------


def test_a_sub_call_is_reported_with_prompt_and_reply() -> None:
    """The log can replay a sub-call; the root's texts are elsewhere in it and not repeated."""
    emit, ledger = Recorder(), Ledger(Caps(), {})
    model = Reported(Sequential([DONE, DONE]), emit, ledger, clock=lambda: 0.0)
    run(model.complete(request(prompt="why?", step=2)))
    run(model.complete(request(prompt="why?", role="root")))
    totals = ledger.totals()
    assert emit.events == [
        CallStarted("c1", "sub", "m", "why?", 4, 2),
        CallFinished("c1", "sub", "m", DONE.usage, None, 0.0, 1, totals, reply="ok", step=2),
        CallStarted("c1", "root", "m", "", 4),
        CallFinished("c1", "root", "m", DONE.usage, None, 0.0, 1, totals),
    ]


def test_failures_are_reported_with_their_code() -> None:
    """A refused call shows 0 attempts; a failed one its attempts, tokens and stable code."""
    emit, ledger = Recorder(), Ledger(Caps(), {"m": per_million(1, 1)})
    model = Reported(Sequential([LimitError("cost", "enough"), transient(usage=Usage(7, 0))]), emit, ledger)
    for _ in range(2):
        with pytest.raises(RlmError):
            run(model.complete(request()))
    refused, failed = emit.of(CallFinished)
    assert (refused.attempts, refused.error) == (0, ErrorInfo("limit_cost", "enough"))
    assert (failed.attempts, failed.usage) == (1, Usage(7, 0))
    assert failed.cost_usd == pytest.approx(7e-6)
    assert failed.error == ErrorInfo("rate_limited", "busy", retryable=True)


# -- the whole chain, LiteLLM and HTTP included --------------------------------------------------------------------


def test_requests_received_are_calls_booked_are_calls_reported(server: LoopbackServer) -> None:
    """60 sub-calls through rate limits, a 500 and resets, 8 at once: the server's log, the ledger and the events agree
    to the request and to the token, every reply is right, and no more than 8 are ever in flight."""
    emit = Recorder()
    prices = {f"openai/{name}": per_million(1.0, 2.0) for name in ("root/lazy", "sub/e00/429x3/500x1/lat5", "sub/404")}
    ledger = Ledger(Caps(usd=1.0), prices)
    provider = LiteLLMProvider(ProviderOptions(api_base=server.url, api_key="sk-test-000000"))
    patience = Patience(base_s=0.001)
    retry = Retrying(Limited(provider, 8), emit, patience=patience, may_retry=ledger.extend)
    model = as_model(Reported(Budgeted(retry, ledger, count=count_request), emit, ledger))

    async def ask(number: int, name: str) -> str:
        one = request(f"openai/{name}", f"item i{number}: x", call=f"s{number}")
        try:
            return (await model.complete(one)).text
        except ProviderError as error:
            return error.code

    async def work() -> list[str]:
        await model.complete(request("openai/root/lazy", role="root", call="r1"))
        replies = await asyncio.gather(*(ask(i, "sub/e00/429x3/500x1/lat5") for i in range(60)))
        await ask(99, "sub/404")
        await provider.close()
        return list(replies)

    replies = run(work())
    assert replies == [f"i{i}: {server.label(f'i{i}')}" for i in range(60)]
    totals, seen, finished = ledger.totals(), server.requests, emit.of(CallFinished)
    assert totals.calls == Calls(root=1, sub=61, retries=4)
    assert len(seen) == totals.calls.total == sum(event.attempts for event in finished)
    assert totals.usage.total.input == sum(entry.prompt_tokens for entry in seen)
    assert totals.usage.total.output == sum(entry.output_tokens for entry in seen)
    assert totals.cost.usd == pytest.approx(sum(event.cost_usd or 0 for event in finished))
    assert finished[-1].totals == totals
    assert server.max_in_flight["sub"] <= 8


def test_a_small_cap_holds_under_fifty_parallel_calls(server: LoopbackServer) -> None:
    """CLI.md test h: 50 sub-calls at once under a cap of one cent: some are refused, none is unpaid for."""
    emit = Recorder()
    price = per_million(20.0, 50.0)
    ledger = Ledger(Caps(usd=0.01), {"openai/sub/e00": price})
    provider = LiteLLMProvider(ProviderOptions(api_base=server.url, api_key="sk-test-000000"))
    model: Model = Reported(Budgeted(Limited(provider, 50), ledger, count=count_request), emit, ledger)

    async def ask(number: int) -> bool:
        prompt = "\n".join(f"item i{number}x{line}: some words" for line in range(10))
        try:
            await model.complete(request("openai/sub/e00", prompt, call=f"s{number}", max_output=100))
        except LimitError:
            return False
        return True

    async def work() -> list[bool]:
        done = await asyncio.gather(*(ask(i) for i in range(50)))
        await provider.close()
        return done

    done = run(work())
    truth = sum(price.cost(Usage(entry.prompt_tokens, entry.output_tokens)) for entry in server.requests)
    assert 0 < sum(done) < 50
    assert truth == pytest.approx(ledger.totals().cost.usd)
    assert truth <= 0.01
