"""Many calls at once: how wide the window gets, what a dead provider costs, and what is asked twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli import config
from rlm_cli.cli.wiring import Models
from rlm_cli.errors import LimitError, ProviderError, RlmError, TransientError
from rlm_cli.events import Calls, Span, Usage
from rlm_cli.models import Completion, Model, Request, Spent, note_spent, spent_by
from rlm_cli.models.breaker import FAILURES, PROVIDER_DOWN, REST_S, Breaker
from rlm_cli.models.cached import KEPT_BYTES, Cached
from rlm_cli.models.facts import per_million
from rlm_cli.models.ledger import Budgeted, Caps, Ledger
from rlm_cli.models.limited import START, Limited
from rlm_cli.models.reported import Reported
from rlm_cli.models.retrying import Patience, Retrying
from rlm_cli.models.store import ReplyStore
from tests.loopback import LoopbackServer
from tests.models.asking import FakeModel, Recorder, request, run
from tests.models.virtual import now, run_virtually

DONE = Completion("ok", Usage(10, 2), "m")


class Server:
    """A provider: `seconds` a reply; more than `capacity` at once are told 429; `lanes` are worked on at once."""

    def __init__(
        self, seconds: float, *, capacity: int = 10_000, lanes: int = 10_000, retry_after: float = 1.0
    ) -> None:
        self._seconds, self._capacity, self._retry_after = seconds, capacity, retry_after
        self._lanes = asyncio.Semaphore(lanes)
        self.in_flight = self.most = 0
        self.answered: Counter[str] = Counter()
        self.refused = 0

    async def complete(self, request: Request) -> Completion:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            if self.in_flight > self._capacity:
                self.refused += 1
                await asyncio.sleep(0.01)
                error = TransientError("slow down", code="rate_limited", retry_after=self._retry_after)
                note_spent(error, Spent(1))
                raise error
            async with self._lanes:
                await asyncio.sleep(self._seconds)
            self.answered[request.messages[-1].content] += 1
            return DONE
        finally:
            self.in_flight -= 1


async def ask_all(model: Model, number: int) -> list[Completion | BaseException]:
    calls = (model.complete(request(call=f"s{i}", prompt=f"item {i}")) for i in range(number))
    return await asyncio.gather(*calls, return_exceptions=True)


# -- the window ----------------------------------------------------------------------------------------------------


def test_the_window_opens_to_what_is_allowed_when_that_pays() -> None:
    """1,000 calls of 0.1 s, 32 at once: within a tenth of the ideal 3.2 s, and never more than 32 in flight."""
    server = Server(0.1)
    limited = Limited(FakeModel(server.complete), 32, clock=now)
    replies, seconds = run_virtually(ask_all(limited, 1000))
    assert replies == [DONE] * 1000
    assert (server.most, seconds < 3.5) == (32, True)


def test_the_window_stays_narrow_before_a_server_that_works_in_few_lanes() -> None:
    """Four at a time is what it does: a queue of 256 would only bring timeouts."""

    async def work() -> Server:
        server = Server(0.1, lanes=4)
        assert await ask_all(Limited(FakeModel(server.complete), 256, clock=now), 400) == [DONE] * 400
        return server

    server, seconds = run_virtually(work())
    assert server.most <= 2 * START
    assert seconds == pytest.approx(10.0)


def test_429s_narrow_the_window_to_what_is_let_in_and_hold_every_start() -> None:
    """Ten at a time is what the provider lets in. None is lost, none asked twice, and it is not hammered."""
    server = Server(0.2, capacity=10, retry_after=2.0)
    emit = Recorder()
    limited = Limited(FakeModel(server.complete), 64, clock=now)
    model = Retrying(limited, emit, patience=Patience(attempts=30), clock=now, jitter=lambda: 0.5)
    replies, _ = run_virtually(ask_all(model, 500))
    assert [reply.text for reply in replies if isinstance(reply, Completion)] == ["ok"] * 500
    assert set(server.answered.values()) == {1}
    assert server.refused < 30


def test_a_caller_that_gives_up_gives_its_place_back() -> None:
    """Cancelled while waiting, and in the instant of being let in: the others still go through."""

    async def work() -> int:
        server = Server(1.0)
        limited = Limited(FakeModel(server.complete), 2, clock=now)
        tasks = [asyncio.create_task(limited.complete(request(call=f"s{i}"))) for i in range(8)]
        await asyncio.sleep(0.5)
        tasks[3].cancel()
        await asyncio.sleep(0.5)
        for task in tasks[4:6]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limited.in_flight == 0
        return sum(server.answered.values())

    assert run_virtually(work())[0] == 5


def test_a_caller_may_give_up_in_the_moment_in_which_a_place_falls_free() -> None:
    """It is passed over, and ends as what it is: cancelled."""
    tasks: list[asyncio.Task[Completion]] = []

    async def answer(one: Request) -> Completion:
        await asyncio.sleep(1.0)
        if one.call == "s0":
            tasks[1].cancel()
        return DONE

    async def work() -> list[Completion | BaseException]:
        limited = Limited(FakeModel(answer), 1, clock=now)
        tasks.extend(asyncio.create_task(limited.complete(request(call=f"s{i}"))) for i in range(3))
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = run_virtually(work())[0]
    assert (first, type(second), third) == (DONE, asyncio.CancelledError, DONE)


def test_child_turns_count_and_go_first() -> None:
    """Never more in flight than allowed, turns of child runs included; those need not wait behind a parent's batch. The
    outermost run's turns take no place."""
    server, order = Server(1.0), list[str]()

    async def answer(one: Request) -> Completion:
        order.append(one.call)
        return await server.complete(one)

    async def work() -> Completion:
        limited = Limited(FakeModel(answer), 2, clock=now)
        asked = [request(call=f"s{i}", prompt=f"{i}") for i in range(20)]
        asked += [request(call=f"t{i}", prompt=f"t{i}", role="root", span=Span((i,))) for i in range(1, 4)]
        tasks = [asyncio.create_task(limited.complete(one)) for one in asked]
        await asyncio.sleep(0.5)
        root = await limited.complete(request(call="r", role="root"))
        await asyncio.gather(*tasks)
        return root

    root, seconds = run_virtually(work())
    assert (root, order[:6]) == (DONE, ["s0", "s1", "r", "t1", "t2", "t3"])
    assert server.most == 3  # the third is the outermost run's
    assert seconds == pytest.approx(12.0)


@given(st.lists(st.sampled_from(["ok", "429", "500", "cancel"]), min_size=1, max_size=60), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_the_window_is_kept_and_empties(fates: list[str], most: int) -> None:
    """Never more in flight than allowed, whichever of three models is asked, and nobody holds a place afterwards."""
    flight = {"now": 0, "most": 0}

    async def answer(one: Request) -> Completion:
        fate = fates[int(one.call)]
        flight["now"] += 1
        flight["most"] = max(flight["most"], flight["now"])
        try:
            await asyncio.sleep(0.1)
            if fate in ("429", "500"):
                raise TransientError("no", code="rate_limited" if fate == "429" else "provider_unavailable")
            return DONE
        finally:
            flight["now"] -= 1

    async def work() -> Limited:
        limited = Limited(FakeModel(answer), most, clock=now)
        asked = (request("klm"[i % 3], call=str(i)) for i in range(len(fates)))
        tasks = [asyncio.create_task(limited.complete(one)) for one in asked]
        await asyncio.sleep(0.15)
        for task, fate in zip(tasks, fates, strict=True):
            if fate == "cancel":
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return limited

    limited, _ = run_virtually(work())
    assert (limited.in_flight, flight["most"] <= most) == (0, True)
    assert all(window.in_flight == 0 and 1 <= window.width <= most for window in limited.windows.values())


def test_a_wait_that_nobody_waits_for_holds_nothing_up() -> None:
    """A provider that says "in an hour" fails the calls that it says it to, and the others are asked at once; so it is
    with a wait that ends after the time of who asks. One that is waited for holds every start."""

    def answer(one: Request) -> Completion:
        if one.call == "s0":
            raise TransientError("slow down", code="rate_limited", retry_after=float(one.messages[-1].content))
        return DONE

    async def seconds_until_another_is_answered(wait: str, deadline: float | None) -> float:
        limited = Limited(FakeModel(answer), 8, clock=now)
        model = Retrying(limited, Recorder(), clock=now)
        refused = asyncio.create_task(model.complete(request(call="s0", prompt=wait, deadline=deadline)))
        await asyncio.sleep(0)
        began = now()
        await model.complete(request(call="s1"))
        refused.cancel()
        await asyncio.gather(refused, return_exceptions=True)
        return now() - began

    cases: list[tuple[str, float | None]] = [("3600", None), ("60", 50.0), ("60", 70.0), ("90", None)]
    took = [run_virtually(seconds_until_another_is_answered(*case))[0] for case in cases]
    assert took == pytest.approx([0.0, 0.0, 60.0, 90.0])


# -- the windows of several models ---------------------------------------------------------------------------------


class Several:
    """A provider for each model, and how many of all their calls are in flight."""

    def __init__(self, **servers: Server) -> None:
        self.servers = servers
        self.in_flight = self.most = 0
        self.order: list[str] = []
        self.ended: dict[str, float] = {}

    async def complete(self, one: Request) -> Completion:
        self.order.append(one.model)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            return await self.servers[one.model].complete(one)
        finally:
            self.in_flight -= 1
            self.ended[one.model] = now()


async def ask_each(model: Model, **numbers: int) -> list[Completion | BaseException]:
    """As many calls of each model, in turns."""
    asked = sorted((i / most, name, i) for name, most in numbers.items() for i in range(most))
    calls = (model.complete(request(name, call=f"{name}{i}", prompt=f"item {i}")) for _, name, i in asked)
    return await asyncio.gather(*calls, return_exceptions=True)


def test_a_model_that_says_429_holds_up_no_other() -> None:
    """One lets two in and asks for a minute at a time; the other's 600 calls of 0.1 s take what they take alone, and
    together they keep to the one cap of the tree."""
    both = Several(slow=Server(0.1, capacity=2, retry_after=60.0), quick=Server(0.1))
    limited = Limited(FakeModel(both.complete), 32, clock=now)
    model = Retrying(limited, Recorder(), patience=Patience(attempts=99), clock=now, jitter=lambda: 0.5)
    replies, seconds = run_virtually(ask_each(model, slow=60, quick=600))
    assert [reply.text for reply in replies if isinstance(reply, Completion)] == ["ok"] * 660
    assert (both.most <= 32, seconds > 60) == (True, True)
    assert both.ended["quick"] == pytest.approx(600 * 0.1 / 32, abs=0.5)
    assert set(both.servers["slow"].answered.values()) == {1}


def test_the_places_of_the_tree_go_round_in_the_order_in_which_they_are_asked_for() -> None:
    """Two models share eight places: neither waits for the other's whole batch."""
    both = Several(a=Server(0.1), b=Server(0.1))
    replies, seconds = run_virtually(ask_each(Limited(FakeModel(both.complete), 8, clock=now), a=200, b=200))
    assert (replies, both.most) == ([DONE] * 400, 8)
    assert seconds == pytest.approx(400 * 0.1 / 8)
    counts = [Counter(both.order[first : first + 40]) for first in range(0, 400, 40)]
    assert all(count == Counter(a=20, b=20) for count in counts)


def test_a_window_is_not_judged_by_what_other_models_take() -> None:
    """Beside a batch of another model it gets half of the places. Alone again, it is as wide as allowed at once, not
    after some rounds of a rest for a growth that did not pay."""
    both = Several(a=Server(0.1), b=Server(0.1))
    limited = Limited(FakeModel(both.complete), 32, clock=now)
    _, together = run_virtually(ask_each(limited, a=64, b=64))
    _, alone = run_virtually(ask_each(limited, a=640))
    assert together == pytest.approx(128 * 0.1 / 32)
    assert alone == pytest.approx(640 * 0.1 / 32, abs=0.21)


# -- the breaker ---------------------------------------------------------------------------------------------------


def down(_: Request) -> Completion:
    error = TransientError("no route", code="connection_reset")
    note_spent(error, Spent(1))
    raise error


def test_a_dead_provider_is_left_alone() -> None:
    """500 calls to nobody: not 2,500 requests over minutes, but some, and the rest fail at once and say why."""

    async def slowly(one: Request) -> Completion:
        await asyncio.sleep(0.5)
        return down(one)

    provider = FakeModel(slowly)
    model = Retrying(Limited(Breaker(provider, clock=now), 8, clock=now), Recorder(), clock=now, jitter=lambda: 0.5)
    replies, seconds = run_virtually(ask_all(model, 500))
    codes = Counter(reply.code for reply in replies if isinstance(reply, RlmError))
    assert sum(codes.values()) == 500
    assert codes[PROVIDER_DOWN] > 0
    assert (seconds < 20, len(provider.requests) < 150) == (True, True)


def test_one_request_tries_after_the_rest_and_opens_the_way() -> None:
    """Half open: of many callers one asks; when it is answered all go through again."""
    dead = {"is": True}

    async def answer(one: Request) -> Completion:
        await asyncio.sleep(1.0)
        return down(one) if dead["is"] else DONE

    async def work() -> tuple[Counter[str], int, Completion]:
        provider = FakeModel(answer)
        breaker = Breaker(provider, clock=now)
        for _ in range(FAILURES):
            await ask_all(breaker, 1)
        assert isinstance((await ask_all(breaker, 1))[0], ProviderError)
        assert len(provider.requests) == FAILURES
        dead["is"] = False
        await asyncio.sleep(REST_S)
        replies = await ask_all(breaker, 5)
        kinds = Counter("ok" if isinstance(reply, Completion) else "refused" for reply in replies)
        return kinds, len(provider.requests) - FAILURES, await breaker.complete(request())

    (kinds, asked, last), _ = run_virtually(work())
    assert (kinds, asked, last) == (Counter(refused=4, ok=1), 1, DONE)


def test_rate_limits_and_refusals_are_signs_of_life() -> None:
    """Whoever says 429 or 400 is there: the breaker stays closed however often that happens."""

    async def answer(one: Request) -> Completion:
        await asyncio.sleep(1.0)
        if one.call == "429":
            raise TransientError("slow", code="rate_limited")
        if one.call == "400":
            raise ProviderError("too long", code="context_overflow")
        return down(one)

    async def work() -> set[str]:
        breaker, codes = Breaker(FakeModel(answer), clock=now), set[str]()
        for number in range(5 * FAILURES):
            with pytest.raises(ProviderError) as raised:
                await breaker.complete(request(call="429" if number % 8 == 0 else "400" if number % 8 == 4 else "s"))
            codes.add(raised.value.code)
        return codes

    assert run_virtually(work())[0] == {"rate_limited", "context_overflow", "connection_reset"}


# -- asked once ----------------------------------------------------------------------------------------------------


def cached(provider: FakeModel, ledger: Ledger, kept: int = KEPT_BYTES) -> Model:
    return Reported(Cached(Budgeted(provider, ledger), saved=ledger.note_saved, kept=kept), Recorder(), ledger)


def test_the_same_prompt_is_asked_once_in_a_run() -> None:
    """Twenty times five prompts, at once and one after the other: five requests, all get their reply, books agree."""

    async def answer(one: Request) -> Completion:
        await asyncio.sleep(0.1)
        return Completion(f"to {one.messages[-1].content}", Usage(10, 2), "m")

    async def work() -> None:
        provider, ledger = FakeModel(answer), Ledger(Caps(), {"m": per_million(1.0, 1.0)})
        model = cached(provider, ledger)
        prompts = [f"p{i % 5}" for i in range(50)]
        calls = (model.complete(request(call=f"a{i}", prompt=prompt)) for i, prompt in enumerate(prompts))
        replies = [*await asyncio.gather(*calls)]
        replies += [await model.complete(request(call=f"b{i}", prompt=prompt)) for i, prompt in enumerate(prompts)]
        assert [reply.text for reply in replies] == [f"to {prompt}" for prompt in prompts * 2]
        assert len(provider.requests) == 5
        totals = ledger.totals()
        assert (totals.calls, totals.usage.sub) == (Calls(sub=5, cached=95), Usage(50, 10))
        assert totals.cost.saved_usd == pytest.approx(95 * 12e-6)
        assert sum(reply.cost_usd or 0.0 for reply in replies) == pytest.approx(totals.cost.usd)

    run_virtually(work())


def test_a_shared_failure_fails_all_costs_once_and_is_not_kept() -> None:
    """The next call with that prompt asks again."""
    fates: list[Completion | TransientError] = [TransientError("busy", code="timeout"), DONE]

    async def answer(_: Request) -> Completion:
        await asyncio.sleep(0.1)
        fate = fates.pop(0)
        if isinstance(fate, RlmError):
            note_spent(fate, Spent(1, Usage(7, 0)))
            raise fate
        return fate

    async def work() -> None:
        ledger = Ledger(Caps(), {})
        model = cached(FakeModel(answer), ledger)
        replies = await asyncio.gather(
            *(model.complete(request(call=f"s{i}")) for i in range(4)), return_exceptions=True
        )
        errors = [reply for reply in replies if isinstance(reply, TransientError)]
        assert [error.code for error in errors] == ["timeout"] * 4
        assert sum(spent_by(error).attempts for error in errors) == 1
        assert (await model.complete(request(call="again"))).text == "ok"
        assert ledger.totals().calls == Calls(sub=2)

    run_virtually(work())


def test_a_caller_that_gives_up_does_not_take_the_others_along() -> None:
    """The first asker is cancelled: the second one asks in its place. A waiting one may leave too."""

    async def answer(_: Request) -> Completion:
        await asyncio.sleep(1.0)
        return DONE

    async def work() -> None:
        provider = FakeModel(answer)
        model = cached(provider, Ledger(Caps(), {}))
        tasks = [asyncio.create_task(model.complete(request(call=f"s{i}"))) for i in range(4)]
        await asyncio.sleep(0.5)
        tasks[0].cancel()
        tasks[2].cancel()
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(reply, Completion) for reply in replies] == [False, True, False, True]
        assert len(provider.requests) == 2

    run_virtually(work())


def test_a_refused_call_refuses_its_twins() -> None:
    """The cap that stops one stops all who asked the same, and each is told which cap."""

    async def work() -> None:
        ledger = Ledger(Caps(subcalls=0), {})
        model = cached(FakeModel(lambda _: DONE), ledger)
        replies = await asyncio.gather(
            *(model.complete(request(call=f"s{i}")) for i in range(3)), return_exceptions=True
        )
        assert [reply.limit for reply in replies if isinstance(reply, LimitError)] == ["subcalls"] * 3

    run_virtually(work())


def test_root_calls_and_other_models_are_never_mixed_up() -> None:
    """Only the same prompt to the same model is the same question."""

    async def work() -> int:
        provider = FakeModel(lambda one: Completion(one.model, Usage(1, 1), one.model))
        model = cached(provider, Ledger(Caps(), {}))
        for name in ("m", "n", "m"):
            assert (await model.complete(request(name))).text == name
            await model.complete(request(name, role="root"))
        return len(provider.requests)

    assert run_virtually(work())[0] == 5


def test_replies_kept_in_memory_are_bounded() -> None:
    """Old ones are asked again rather than held for ever."""

    async def work() -> int:
        provider = FakeModel(lambda one: Completion("x" * 100, Usage(1, 1), "m"))
        model = cached(provider, Ledger(Caps(), {}), kept=250)
        for prompt in ("a", "b", "c", "c", "b", "a"):
            await model.complete(request(prompt=prompt))
        return len(provider.requests)

    assert run_virtually(work())[0] == 4


# -- across runs ---------------------------------------------------------------------------------------------------


def test_a_later_run_uses_what_an_earlier_one_was_told(tmp_path: Path) -> None:
    """Same prompt, same model, same options: no request. Another temperature: another question."""

    async def work() -> list[int]:
        asked = []
        for options in ({"t": 0}, {"t": 0}, {"t": 1}):
            provider, ledger = FakeModel(lambda _: Completion("réponse\udcff", Usage(9, 3), "m")), Ledger(Caps(), {})
            store = ReplyStore(tmp_path / "replies", 10**6)
            model = Cached(Budgeted(provider, ledger), saved=ledger.note_saved, store=store, options=options)
            assert (await model.complete(request())).text == "réponse\udcff"
            store.prune()
            asked.append(len(provider.requests))
        return asked

    assert run_virtually(work())[0] == [1, 0, 1]
    kept = [path for path in (tmp_path / "replies").rglob("*") if path.is_file()]
    assert len(kept) == 2
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


SPOILT = b'{"version": 1, "key": "' + b"ab" * 32 + b'", "model": "m", "text": %s, "input": %d, "output": 1}'


@pytest.mark.parametrize(
    "damage",
    [b"", b"{}", b"[1", b'{"version": 99}', b"\xff\xfe", b"[" * 100_000, SPOILT % (b"null", 1), SPOILT % (b'"x"', -1)],
)
def test_a_damaged_reply_is_no_reply(tmp_path: Path, damage: bytes) -> None:
    """Whatever happened to the file, it is asked again."""
    store, key = ReplyStore(tmp_path, 10**6), "ab" * 32
    store.put(key, DONE)
    (tmp_path / "ab" / f"{key}.json").write_bytes(damage)
    assert store.get(key) is None


def test_replies_are_kept_for_the_server_that_gave_them(server: LoopbackServer, tmp_path: Path) -> None:
    """LiteLLM reads from the environment where a provider is: the same id may be another model there. What a built-in
    model says is not kept: its script may be another one tomorrow."""
    replies: list[str] = []
    script = tmp_path / "script.jsonl"

    async def ask(model: str, env: dict[str, str]) -> None:
        where = {"RLM_HOME": str(tmp_path), "RLM_CACHE": "1", "RLM_MODEL": model, "OPENAI_API_KEY": "sk-0123456789"}
        models = Models(config.load({}, cwd=tmp_path, env=where | env), where | env, cost_given=False)
        chain = models.chain(lambda _event, _span: None)
        replies.append((await chain.complete(request(model))).text)
        await models.close()

    with LoopbackServer(label=lambda _: "elsewhere") as other, pytest.MonkeyPatch.context() as patch:
        for asked in (server, other, server):
            patch.setenv("OPENAI_BASE_URL", asked.url)
            run(ask("openai/sub/e00", {"OPENAI_BASE_URL": asked.url}))
        assert replies[0] == replies[2] != replies[1]
        assert (len(server.requests), len(other.requests)) == (1, 1)
    for text in ("one", "two"):
        script.write_text(json.dumps({"role": "sub", "reply": text}))
        run(ask(f"scripted:{script}", {}))
    assert replies[3:] == ["one", "two"]


def test_the_store_stays_below_its_bound_and_drops_the_longest_unused(tmp_path: Path) -> None:
    """What was used last stays; a folder that cannot be written is no error."""
    import os

    store = ReplyStore(tmp_path, 1000)
    keys = [f"{i:064x}" for i in range(20)]
    for age, key in enumerate(keys):
        store.put(key, Completion("x" * 20, Usage(1, 1), "m"))
        path = tmp_path / key[:2] / f"{key}.json"
        os.utime(path, (1000 + age, 1000 + age))
    assert store.get(keys[0]) is not None
    store.prune()
    left = [key for key in keys if store.get(key)]
    assert keys[0] in left
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.json")) <= 1000
    assert left[1:] == keys[-len(left) + 1 :]
    ReplyStore(Path("/dev/null/nothing"), 10).put(keys[0], DONE)
