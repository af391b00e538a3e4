"""LiteLLM for real, against the loopback server."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from rlm_cli.errors import AuthError, ProviderError, RlmError, TransientError
from rlm_cli.events import Usage
from rlm_cli.models import Completion, Message, Request, Spent, spent_by, turnstile
from rlm_cli.models.provider import (
    COUNT_WHOLE,
    LiteLLMProvider,
    ProviderOptions,
    count_request,
    count_tokens,
    refuses_to_stream,
    resolved,
    warm_up,
    wire_messages,
)
from tests.loopback import LoopbackServer, Turn, code
from tests.models.asking import request, run

KEY = "sk-test-0123456789"

# Pydantic warns about classes of LiteLLM. The provider filters that for its users; pytest undoes it for each test.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    warm_up()


def options(server: LoopbackServer, **more: Any) -> ProviderOptions:
    return ProviderOptions(api_base=server.url, api_key=KEY, **more)


def ask(server: LoopbackServer, *requests: Request, **more: Any) -> list[Completion]:
    """Ask one after the other on one loop, and close."""

    async def work() -> list[Completion]:
        provider = LiteLLMProvider(options(server, **more))
        try:
            return [await provider.complete(one) for one in requests]
        finally:
            await provider.close()

    return run(work())


def failure(server: LoopbackServer, model: str, **more: Any) -> RlmError:
    with pytest.raises(RlmError) as caught:
        ask(server, request(f"openai/{model}", role=more.pop("role", "sub"), cut=more.pop("cut", None)), **more)
    return caught.value


def test_a_sub_call_is_one_plain_request(server: LoopbackServer) -> None:
    """Text, usage and finish come through; nothing is streamed; the default output limit goes along."""
    [completion] = ask(server, request("openai/sub/e00"))
    [seen] = server.requests
    labels = "\n".join(f"{item}: {server.label(item)}" for item in ("a1", "b2"))
    assert (completion.text, completion.usage, completion.finish, completion.attempts) == (
        labels,
        Usage(seen.prompt_tokens, seen.output_tokens),
        "stop",
        1,
    )
    assert (seen.stream, seen.body["max_tokens"], seen.authorization) == (False, 8192, f"Bearer {KEY}")


def test_a_root_call_streams(server: LoopbackServer) -> None:
    """The pieces add up to the text, and the usage is the provider's own, not ours."""
    pieces: list[str] = []

    async def work() -> Completion:
        provider = LiteLLMProvider(options(server))
        completion = await provider.complete(request("openai/root/chunk_map", role="root"), pieces.append)
        await provider.close()
        return completion

    completion = run(work())
    [seen] = server.requests
    assert (len(pieces) > 3, "".join(pieces), completion.text) == (True, seen.reply, seen.reply)
    assert completion.usage == Usage(seen.prompt_tokens, seen.output_tokens)


def test_usage_details_are_kept(server: LoopbackServer) -> None:
    """Cached and reasoning tokens are told apart: they are priced differently."""
    [completion] = ask(server, request("openai/sub/e00/cached50/reason3"))
    [seen] = server.requests
    assert completion.usage == Usage(
        seen.prompt_tokens, seen.output_tokens, cached=seen.prompt_tokens // 2, reasoning=3
    )


@pytest.mark.parametrize("role", ["sub", "root"])
def test_a_reply_without_usage_is_estimated(server: LoopbackServer, role: Any) -> None:
    """Neither LiteLLM's zeros nor its own silent count pass as the provider's: the usage is ours and says so."""
    one = request("openai/sub/nousage", role=role)
    [completion] = ask(server, one)
    assert completion.usage == Usage(count_request(one), count_tokens(completion.text), estimated=True)


def test_a_cut_stream_is_closed_at_once(server: LoopbackServer) -> None:
    """The text ends where `cut` said, the server sees the client hang up, and the tokens are our estimate."""
    pieces: list[str] = []

    def cut(text: str) -> int | None:
        end = text.find("FINAL(")
        return end + 6 if end >= 0 else None

    async def work() -> Completion:
        provider = LiteLLMProvider(options(server))
        one = request("openai/root/lazy/endless", role="root", cut=lambda: cut)
        completion = await provider.complete(one, pieces.append)
        await asyncio.to_thread(server.wait, lambda log: log[0].cancelled)
        await provider.close()
        return completion

    completion = run(work())
    assert completion.text == server.requests[0].reply.split("FINAL(")[0] + "FINAL("
    assert ("".join(pieces), completion.finish, completion.usage.estimated) == (completion.text, "cut", True)
    assert completion.usage.output == count_tokens(completion.text)


def test_cancelling_closes_the_connection(server: LoopbackServer) -> None:
    """A cancelled call hangs up on the provider and says what it may have cost."""
    spent: list[Spent] = []
    one = request("openai/sub/hang")

    async def call(provider: LiteLLMProvider) -> None:
        try:
            await provider.complete(one)
        except asyncio.CancelledError as stop:
            spent.append(spent_by(stop))
            raise

    async def work() -> None:
        provider = LiteLLMProvider(options(server))
        task = asyncio.create_task(call(provider))
        await asyncio.to_thread(server.wait, lambda log: len(log) == 1)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.to_thread(server.wait, lambda log: log[0].cancelled)
        await provider.close()

    run(work())
    assert spent == [Spent(1, Usage(count_request(one), 0, estimated=True))]


def test_a_cancellation_under_way_comes_before_the_request(server: LoopbackServer) -> None:
    """A call that got its turn in the moment in which all are cancelled sends nothing, and is not counted."""
    spent: list[Spent] = []

    async def work() -> None:
        provider = LiteLLMProvider(options(server))
        task = asyncio.create_task(provider.complete(request("openai/sub/e00")))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as stop:
            spent.append(spent_by(stop))
        await provider.close()

    run(work())
    assert (spent, list(server.requests)) == ([Spent()], [])


@pytest.mark.parametrize(
    ("model", "kind", "error_code"),
    [
        ("sub/400", ProviderError, "bad_request"),
        ("sub/401", AuthError, "key_rejected"),
        ("sub/403", AuthError, "no_permission"),
        ("sub/404", ProviderError, "unknown_model"),
        ("sub/quota", ProviderError, "quota_exhausted"),
        ("sub/filter", ProviderError, "content_filter"),
        ("sub/ctx5", ProviderError, "context_overflow"),
        ("sub/429", TransientError, "rate_limited"),
        ("sub/500", TransientError, "provider_unavailable"),
        ("sub/503", TransientError, "provider_unavailable"),
        ("sub/reset", TransientError, "connection_reset"),
        ("sub/drop", TransientError, "connection_reset"),
    ],
)
@pytest.mark.parametrize("role", ["sub", "root"])
def test_failures_are_told_apart(
    server: LoopbackServer, model: str, kind: type[RlmError], error_code: str, role: Any
) -> None:
    """Each failure has our class and code, streamed or not; LiteLLM sends one request and does not retry itself."""
    error = failure(server, model, role=role)
    assert (type(error), error.code, KEY in error.message, len(server.requests)) == (kind, error_code, False, 1)


def test_the_key_in_a_rejection_is_redacted(server: LoopbackServer) -> None:
    """OpenAI's 401 repeats the key; we do not."""
    assert failure(server, "sub/401").message == (
        f"{server.url} rejected the API key: Incorrect API key provided: [key]. You can find your API key at https://x."
    )


def test_retry_after_is_read(server: LoopbackServer) -> None:
    """The provider's own wish comes along, so that retrying can honour it."""
    error = failure(server, "sub/429/ra7")
    assert isinstance(error, TransientError)
    assert error.retry_after == 7.0


def test_a_reset_half_way_says_what_it_cost(server: LoopbackServer) -> None:
    """The tokens that came before the connection broke may be billed: input and partial output, estimated."""
    one = request("openai/root/chunk_map/drop", role="root")
    with pytest.raises(TransientError) as caught:
        ask(server, one)
    spent = spent_by(caught.value)
    assert (spent.attempts, spent.usage.input, spent.usage.estimated) == (1, count_request(one), True)
    assert 0 < spent.usage.output < count_tokens(server.requests[0].reply)


def test_a_whole_reply_that_breaks_off_may_be_billed(server: LoopbackServer) -> None:
    """It was made, though nobody has it: its prompt is booked, estimated. A connection that died before any of a reply
    came costs nothing that anybody could know of."""
    cut, unheard = (spent_by(failure(server, f"sub/e00/{fault}")) for fault in ("drop", "reset"))
    assert (cut.attempts, cut.usage.input > 0, cut.usage.estimated) == (1, True, True)
    assert (unheard.attempts, unheard.usage.total) == (1, 0)


def test_a_reply_that_cannot_be_read_is_billed(server: LoopbackServer) -> None:
    """One that came whole was paid for, whatever LiteLLM says of its form: asked once, and booked by what came."""
    error = failure(server, "sub/badusage")
    spent = spent_by(error)
    assert (error.code, spent.attempts, spent.usage.estimated, len(server.requests)) == ("bad_reply", 1, True, 1)
    assert spent.usage.input > 0
    assert spent.usage.output >= count_tokens(server.requests[0].reply) > 0
    assert "Traceback" not in error.message


def test_what_breaks_behind_the_end_of_a_stream_breaks_nothing(server: LoopbackServer) -> None:
    """All of the text was there, and was paid for: it is not asked for again because the counts cannot be read."""
    one = request("openai/root/lazy/badusage", role="root")
    [completion] = ask(server, one)
    reply = server.requests[0].reply
    assert (completion.text, completion.finish, completion.attempts) == (reply, "stop", 1)
    assert completion.usage == Usage(count_request(one), count_tokens(reply), estimated=True)


@pytest.mark.parametrize(("role", "code"), [("sub", "bad_reply"), ("root", "empty_stream")])
def test_a_web_page_is_no_reply(server: LoopbackServer, role: Any, code: str) -> None:
    """An address that is no API's, but says 200: the model is not what failed, and nothing is billed."""
    with pytest.raises(RlmError) as caught:
        ask(server, request("openai/root/lazy/page", role=role))
    assert (caught.value.code, spent_by(caught.value).usage) == (code, Usage())
    assert "--api-base" in caught.value.hint


@pytest.mark.parametrize("role", ["sub", "root"])
def test_counts_that_cannot_be_are_not_believed(server: LoopbackServer, role: Any) -> None:
    """They cannot even be multiplied by a price: the call is estimated, as if nobody had counted."""
    one = request("openai/sub/unreal", role=role)
    [completion] = ask(server, one)
    assert completion.usage == Usage(count_request(one), count_tokens(completion.text), estimated=True)


def test_a_sub_call_that_was_cut_has_failed(server: LoopbackServer) -> None:
    """A local server answers to the part that fits its window: a reply that looks like any other. It is booked."""
    ask(server, request("openai/sub/e00/cut500", "x" * 8_000), request("openai/sub/e00/cut500", "x" * 1_000))
    with pytest.raises(ProviderError, match="read only 500 tokens of a prompt of 20,000 characters") as caught:
        ask(server, request("openai/sub/e00/cut500", "x" * 20_000))
    assert (caught.value.code, spent_by(caught.value)) == ("context_overflow", Spent(1, Usage(500, 4)))


def test_a_hanging_provider_times_out(server: LoopbackServer) -> None:
    """The timeout is a `TransientError` that carries the input's tokens."""
    error = failure(server, "sub/hang", timeout_s=0.2)
    assert (error.code, spent_by(error).usage.output, spent_by(error).usage.input > 0) == ("timeout", 0, True)


def test_a_slow_stream_does_not_time_out_while_it_flows(server: LoopbackServer) -> None:
    """The clock starts over with every piece: a long reply is not a hanging one."""
    server.policies["long"] = lambda turn: "x" * 32 * 12
    [completion] = ask(server, request("openai/root/long/drip40", role="root"), timeout_s=0.3)
    assert len(completion.text) == 32 * 12


def test_a_stream_that_never_ends_is_ended(server: LoopbackServer) -> None:
    """Piece after piece for ever: no silence is too long, the whole is. What came is on the call's account, and the
    message names the setting."""

    async def work() -> TransientError:
        provider = LiteLLMProvider(options(server, timeout_s=60.0, reply_s=4.0))
        await provider.complete(
            request("openai/root/lazy", role="root")
        )  # so that four seconds see some pieces; after 100 equal ones LiteLLM gives up
        with pytest.raises(TransientError) as caught:
            await provider.complete(request("openai/root/lazy/endless/drip100", role="root"))
        await provider.close()
        return caught.value

    error = run(work())
    assert (error.code, "still writing after 4 s" in error.message) == ("timeout", True)
    assert "api.reply_timeout" in error.hint
    assert spent_by(error).usage.output > 0
    server.wait(lambda log: log[1].cancelled)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # the provider does so for users
def test_what_was_cancelled_before_it_left_is_no_request(server: LoopbackServer) -> None:
    """Batches are cancelled at any moment, also while their requests are being made: the requests that the calls say
    they sent are those that the server saw. (Once it is known that this provider's can be seen when they leave.)"""
    attempts: list[int] = []

    async def call(provider: LiteLLMProvider, number: int) -> None:
        try:
            done = await provider.complete(request("openai/sub/e00/lat30", f"item c{number}: x"))
        except asyncio.CancelledError as stop:
            attempts.append(spent_by(stop).attempts)
            raise
        attempts.append(done.attempts)

    async def work() -> None:
        provider = LiteLLMProvider(options(server))
        await call(provider, 0)
        for turns in range(1, 40, 3):
            tasks = [asyncio.create_task(call(provider, turns * 100 + i)) for i in range(8)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await provider.close()

    run(work())
    gc.collect()  # LiteLLM's coroutines that were made and not begun
    server.wait(lambda log: len(log) >= sum(attempts) and all(entry.finished for entry in log))  # it may be behind
    assert len(attempts) == 1 + 13 * 8
    assert sum(attempts) == len(server.requests)
    assert 0 < attempts.count(0) < len(attempts)


def test_a_request_on_its_way_makes_room_for_the_next(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are made ready at a time, and all are in flight together: a place is free as soon as its request is made,
    not when its reply has come (nobody else frees one here for an hour)."""
    monkeypatch.setattr(turnstile, "LONGEST_S", 3600.0)

    async def work() -> None:
        provider = LiteLLMProvider(options(server))
        await provider.complete(request("openai/sub/e00"))
        tasks = [asyncio.create_task(provider.complete(request("openai/sub/hang"))) for _ in range(12)]
        await asyncio.to_thread(server.wait, lambda log: len(log) == 1 + 12)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await provider.close()

    run(work())
    server.wait(lambda log: all(entry.finished or entry.cancelled for entry in log))


def test_a_reply_may_be_empty_or_huge(server: LoopbackServer) -> None:
    """0 bytes and 2 MB both come through whole."""
    empty, huge = ask(server, request("openai/sub/empty"), request("openai/sub/huge2mb"))
    assert (empty.text, len(huge.text) > 2 * 2**20) == ("", True)


def test_a_reply_may_repeat_itself(server: LoopbackServer) -> None:
    """Hundreds of equal pieces in a row are a reply like any other, not an error that is tried again."""
    rule = "-" * 6_000
    server.policies["rule"] = lambda turn: rule
    [completion] = ask(server, request("openai/root/rule", role="root"))
    assert (completion.text, completion.attempts, len(server.requests)) == (rule, 1, 1)


def test_options_go_into_every_request(server: LoopbackServer) -> None:
    """`-O` reaches the provider; an explicit max_output wins over the default."""
    chosen = {"temperature": 0.5, "max_tokens": 99}
    ask(server, request("openai/sub/e00", max_output=77), request("openai/sub/e00"), options=chosen)
    assert [(entry.body["temperature"], entry.body["max_tokens"]) for entry in server.requests] == [
        (0.5, 77),
        (0.5, 99),
    ]
    assert ProviderOptions(options=chosen).output_limit("gpt-5", "root") == 99


def test_a_bare_model_with_an_api_base_is_openai_compatible(server: LoopbackServer) -> None:
    """A server of one's own needs no `openai/` in front of its model's name, and no key."""
    [completion] = ask(server, request("sub/e00"))
    assert (completion.model, server.requests[0].model) == ("sub/e00", "sub/e00")
    assert resolved("qwen3", "http://localhost:8000/v1") == "openai/qwen3"
    assert resolved("ollama_chat/qwen3", "http://localhost:8000") == "ollama_chat/qwen3"
    assert resolved("gpt-5", "") == "gpt-5"


def test_nothing_is_printed(server: LoopbackServer, capfd: pytest.CaptureFixture[str]) -> None:
    """LiteLLM prints banners to stdout on errors by default; ours says nothing on either stream."""
    failure(server, "sub/500")
    failure(server, "sub/404")
    failure(server, "root/chunk_map/drop", role="root")
    ask(server, request("openai/root/lazy", role="root"))
    assert capfd.readouterr() == ("", "")


def test_an_endpoint_that_is_not_there_is_a_broken_connection() -> None:
    """Connection refused is transient: the server may be starting."""

    async def work() -> Completion:
        provider = LiteLLMProvider(ProviderOptions(api_base="http://127.0.0.1:9/v1", api_key=KEY))
        try:
            return await provider.complete(request("openai/x"))
        finally:
            await provider.close()

    with pytest.raises(TransientError) as caught:
        run(work())
    assert caught.value.code == "connection_reset"


def test_forty_calls_at_once_are_forty_requests(server: LoopbackServer) -> None:
    """One client on one loop: nothing is sent twice (CASES.md 5.1), in any batch."""

    async def work() -> int:
        provider = LiteLLMProvider(options(server))
        for batch in range(4):
            prompts = [f"item b{batch}n{i}: x" for i in range(40)]
            texts = await asyncio.gather(*(provider.complete(request("openai/sub/e00", p)) for p in prompts))
            assert [t.text.split(":")[0] for t in texts] == [f"b{batch}n{i}" for i in range(40)]
        await provider.close()
        return len(server.requests)

    assert run(work()) == 160


def test_only_claude_roots_carry_cache_marks() -> None:
    """The system prompt and the newest message are marked, for roots of providers that cache only what is marked."""
    messages = (Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v"))

    def marks(model: str, role: Any) -> list[bool]:
        wire = wire_messages(Request("c", role, model, messages))
        return [isinstance(message["content"], list) for message in wire]

    assert marks("claude-sonnet-5", "root") == [True, False, False, True]
    assert marks("claude-sonnet-5", "sub") == marks("gpt-5", "root") == [False] * 4


def test_long_texts_are_counted_by_samples() -> None:
    """Counting a big text by samples is within 10 % of counting it whole."""
    text = "".join(
        f"2026-11-20T12:00:{i % 60:02d} svc-{i % 7} INFO id={i * 7919:x} took {i % 97} ms\n" for i in range(4000)
    )
    assert len(text) > COUNT_WHOLE
    whole = sum(count_tokens(text[i : i + COUNT_WHOLE]) for i in range(0, len(text), COUNT_WHOLE))
    assert abs(count_tokens(text) - whole) < whole / 10


def test_a_model_that_may_not_stream_is_asked_without() -> None:
    """OpenAI's wording for unverified organisations is recognised; ordinary 400s are not."""
    unverified = "Your organization must be verified to stream this model. Please go to: https://platform..."
    assert (refuses_to_stream(unverified), refuses_to_stream("Invalid value for 'messages'.")) == (True, False)


def test_policies_can_be_added(server: LoopbackServer) -> None:
    """A test's own policy is one function."""

    def parrot(turn: Turn) -> str:
        return code(f"print({turn.step})")

    server.policies["parrot"] = parrot
    [completion] = ask(server, request("openai/root/parrot", role="root"))
    assert completion.text == code("print(0)")
