"""Any model that LiteLLM reaches. The only importer of litellm.

Importing LiteLLM takes 2-3 s and 170 MB, so it happens once, in `warm_up` (a thread, while the container starts) or
at the first call. Its own retries, price-list download, `.env` loading, debugging output and token counting are off.
All calls are `litellm.acompletion` on the process's one event loop: half the CPU of threads, and a client that is
never carried from one loop to another (which makes some harnesses send, and pay for, requests twice).
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from ..errors import ProviderError, RlmError, TransientError
from ..events import Role, Usage
from . import Completion, Cut, Finish, Message, OnText, Request, Spent, note_spent
from .catalog import provider_of
from .facts import OUTPUT_OPTIONS, output_limit, own_output_limit, was_cut
from .failures import Failure, explain, reply_began, unread_reply
from .turnstile import Place, Turnstile

FINISHES: Mapping[str, Finish] = {"length": "length", "max_tokens": "length", "content_filter": "filter"}
COUNT_WHOLE = 65_536
"""Longer texts (characters) are counted by samples: an estimate need not read 10 MB."""
SAMPLES, SAMPLE_CHARS = 16, 4096
MESSAGE_OVERHEAD = 4
MOST_TOKENS = 10**9
"""A provider that counts more in one request has not counted."""


@dataclass(frozen=True)
class ProviderOptions:
    """How to reach the provider. `options` go into every request as they are (`-O temperature=0`); `max_tokens` among
    them becomes the default output limit.

    `timeout_s`: how long to wait for a whole reply, or for the next piece of a streamed one; `reply_s`: how long a
    reply may take in all, however steadily it comes. `secrets` are values that must never show in a message (the keys
    in the environment).
    """

    api_base: str = ""
    api_key: str = field(default="", repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 180.0
    reply_s: float = 600.0
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def output_limit(self, model: str, role: Role) -> int:
        """The output to ask for when a request does not say (for `Budgeted`, which reserves it)."""
        return own_output_limit(self.options) or output_limit(model, role)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Importing LiteLLM makes a million objects that stay: garbage collection would walk them again and again (a third
    of the import's time), and afterwards at every full collection."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


@functools.cache
def _litellm() -> Any:
    """LiteLLM, imported quietly. Its switches are environment variables that must be set before the import."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else: a download at import
    os.environ["LITELLM_MODE"] = "PRODUCTION"  # else: it loads a stray .env, keys and base URLs included
    # Its own HTTP handler for OpenAI's protocol, as for most providers. The openai package checks every message of the
    # history against every kind of message, 0.13 ms each and turn after turn: 12 ms of a call with 90 messages.
    os.environ["EXPERIMENTAL_OPENAI_BASE_LLM_HTTP_HANDLER"] = "true"
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pydantic")  # about LiteLLM's classes, at a user's first call
    # LiteLLM makes its coroutine in a thread; a call that is cancelled meanwhile never awaits it.
    warnings.filterwarnings("ignore", message=r"coroutine '[\w.]*completion\w*' was never awaited")
    with _without_collection():
        import litellm

    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)  # the import sets it anew
    litellm.telemetry = False
    litellm.suppress_debug_info = True  # else: "Give Feedback / Get Help" on stdout
    litellm.num_retries = 0
    # Else it invents a usage record where the provider sent none, and nobody could tell.
    litellm.disable_token_counter = True
    litellm.disable_hf_tokenizer_download = True
    # Else a reply with a hundred equal pieces in a row (a long rule, a table of zeros) is an error of the provider's,
    # which is tried again and paid again. Replies end at their output limit.
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize
    # Its HTTP handler sends a request again when the connection breaks: unseen, uncounted, perhaps billed twice.
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    AsyncHTTPHandler.single_connection_post_request = _not_again
    _watch_sending()
    # It prices every reply for its own records, from nine looks into its map, and then writes these records for
    # listeners that nobody registered: a third of all that a call costs. The ledger has its own prices. Then it notes
    # times and addresses in fields of the reply that nobody reads either.
    from litellm.litellm_core_utils.litellm_logging import Logging

    Logging.response_cost_calculator = _no_record
    Logging.async_success_handler = _no_record_either
    litellm.utils.update_response_metadata = _no_record
    return litellm


async def _not_again(*_: Any, **__: Any) -> None:
    """Called while the first attempt's error is being handled: that error stands."""
    raise  # noqa: PLE0704 - the error is the caller's


def _no_record(*_: Any, **__: Any) -> None:
    """In place of a calculation whose result nobody reads."""


async def _no_record_either(*_: Any, **__: Any) -> None:
    """In place of telling listeners that there are none of."""


_BEING_SENT: ContextVar[_Reply | None] = ContextVar("rlm_being_sent", default=None)


def _watch_sending() -> None:
    """Notice when a request is ready to be sent, which lets the next one through the turnstile, and when it leaves the
    process: a call that is cancelled before that cost nothing. Nearly all that LiteLLM sends goes through aiohttp, and
    its own hooks for that are out of reach behind LiteLLM."""
    from aiohttp import BaseConnector, ClientRequest

    connect, send = BaseConnector.connect, ClientRequest.send

    async def ready(self: BaseConnector, *args: Any, **more: Any) -> Any:
        # Before a connection is made, which may take as long as the provider is far away.
        if (reply := _BEING_SENT.get()) is not None and reply.place is not None:
            reply.place.leave()
        return await connect(self, *args, **more)

    async def watched(self: ClientRequest, conn: Any) -> Any:
        if (reply := _BEING_SENT.get()) is not None:
            reply.left = True
        return await send(self, conn)

    BaseConnector.connect, ClientRequest.send = ready, watched  # type: ignore[method-assign]


def warm_up() -> None:
    """Import LiteLLM. Blocking; thread-safe; nothing is sent."""
    _litellm()


def count_tokens(text: str) -> int:
    """Tokens of `text`, by OpenAI's cl100k tokenizer; above 64 KB extrapolated from samples."""
    encode = _litellm().encoding.encode
    if len(text) <= COUNT_WHOLE:
        return len(encode(text, disallowed_special=()))
    step = (len(text) - SAMPLE_CHARS) // (SAMPLES - 1)
    counted = sum(len(encode(text[i * step : i * step + SAMPLE_CHARS], disallowed_special=())) for i in range(SAMPLES))
    return counted * len(text) // (SAMPLES * SAMPLE_CHARS)


@functools.lru_cache(maxsize=2048)
def _count_once(text: str) -> int:
    return count_tokens(text)


def count_request(request: Request) -> int:
    """Tokens of a request's input. A root's messages are counted once: its history only grows at the end."""
    count = count_tokens if request.role == "sub" else _count_once
    return sum(count(message.content) + MESSAGE_OVERHEAD for message in request.messages)


def missing_keys(model: str) -> list[str]:
    """Environment variables LiteLLM says `model` lacks. Imports LiteLLM: for providers we have no table for."""
    found = _litellm().validate_environment(model=model)
    return [] if found["keys_in_environment"] else list(found["missing_keys"])


def resolved(model: str, api_base: str) -> str:
    """The id LiteLLM needs: with an `api_base`, a bare or unknown provider means an OpenAI-compatible server."""
    provider = model.partition("/")[0]
    if api_base and ("/" not in model or provider not in _providers()):
        return f"openai/{model}"
    return model


@functools.cache
def _providers() -> frozenset[str]:
    return frozenset(str(getattr(provider, "value", provider)) for provider in _litellm().provider_list)


@dataclass
class _Reply:
    """A reply in the making: its text so far, and what the provider said about it."""

    text: str = ""
    cut: Cut | None = None
    usage: Usage | None = None
    finish: Finish = "stop"
    ended: bool = False
    """Whether the stream said that this is all of the text."""
    tools: dict[int, str] = field(default_factory=dict)
    """The arguments of tool calls, by their index. Nobody offered tools, and some models call one all the same."""
    sent: int = 1
    """Requests: two when the model had to be asked again without streaming."""
    left: bool = False
    """Whether the last of them was seen to leave the process."""
    place: Place | None = None
    """In the turnstile, while the first of them is made ready."""


class LiteLLMProvider:
    """`Model` over LiteLLM. The root's replies stream (so that they can be cut and shown); sub-calls do not."""

    def __init__(self, options: ProviderOptions | None = None) -> None:
        self._options = options or ProviderOptions()
        self._cannot_stream: set[str] = set()
        self._watched: set[str] = set()
        """Providers whose requests are seen when they leave."""
        self._turnstile = Turnstile()

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        """See `Model`. One request to the provider, except that a model which turns out unable to stream is asked
        again without streaming (its refusal is not billed)."""
        # A cancellation that is under way arrives here: nothing was sent yet. (One failed call's end lets the next one
        # go, in the same moment in which it may end the run.)
        await asyncio.sleep(0)
        started, reply = time.monotonic(), _Reply(cut=request.cut and request.cut())
        being_sent = _BEING_SENT.set(reply)
        try:
            async with asyncio.timeout(None) as timer:
                if provider_of(request.model) in self._watched:
                    reply.place = await self._turnstile.enter()
                await self._ask(request, reply, on_text, timer)
        except asyncio.CancelledError as stop:
            note_spent(stop, self._spent_until_cancelled(request, reply))
            raise
        except Exception as error:  # LiteLLM raises whatever its providers' libraries raise
            if isinstance(error, TimeoutError) and timer.expired():
                raise self._too_late(request, reply, time.monotonic() - started) from error
            raise self._translated(error, request, reply) from error
        finally:
            _BEING_SENT.reset(being_sent)
            if reply.place is not None:
                reply.place.leave()
            if reply.left:
                self._watched.add(provider_of(request.model))
        usage = reply.usage or estimate(request, reply.text)
        if request.role == "sub" and was_cut(request.chars, usage):
            raise self._overflow(request, Spent(reply.sent, usage))
        seconds = time.monotonic() - started
        return Completion(reply.text, usage, request.model, reply.finish, seconds=seconds, attempts=reply.sent)

    async def close(self) -> None:
        """Close LiteLLM's connections. Nothing to do when it was never imported."""
        if _litellm.cache_info().currsize:
            await _litellm().close_litellm_async_clients()

    async def _ask(self, request: Request, reply: _Reply, on_text: OnText | None, timer: asyncio.Timeout) -> None:
        litellm = _litellm() if _litellm.cache_info().currsize else await asyncio.to_thread(_litellm)
        beat = functools.partial(_beat, timer, self._options, asyncio.get_running_loop().time())
        if request.role != "sub" and request.model not in self._cannot_stream:
            try:
                return await self._stream(litellm, request, reply, on_text, beat)
            except litellm.BadRequestError as error:
                if not refuses_to_stream(str(error)):
                    raise
                self._cannot_stream.add(request.model)
                reply.sent, reply.left = reply.sent + 1, False
        return await self._whole(litellm, request, reply, beat)

    async def _whole(self, litellm: Any, request: Request, reply: _Reply, beat: Callable[[], None]) -> None:
        beat()
        response = await litellm.acompletion(**self._arguments(request))
        reply.usage = usage_of(getattr(response, "usage", None))  # first: it is billed, whatever the rest is
        choice = response.choices[0] if response.choices else None
        reply.text = whole_text(choice.message) if choice else ""
        reply.finish = FINISHES.get(str(choice and choice.finish_reason), "stop")
        _cut_short(reply)

    async def _stream(
        self, litellm: Any, request: Request, reply: _Reply, on_text: OnText | None, beat: Callable[[], None]
    ) -> None:
        beat()
        stream = await litellm.acompletion(
            **self._arguments(request), stream=True, stream_options={"include_usage": True}
        )
        try:
            async for piece in _pieces(stream, reply, beat):
                shown = len(reply.text)
                reply.text += piece
                cut = _cut_short(reply)
                if on_text and reply.text[shown:]:
                    on_text(reply.text[shown:])
                if cut:
                    break
        except Exception:  # what breaks behind the end takes nothing from the reply; another one would be paid for, too
            if not reply.ended:
                raise
        finally:
            # Also when all went well: an open response would hold its connection.
            await stream.aclose()
        if reply.finish != "cut":
            reply.text = reply.text or tool_text(reply.tools)
        # LiteLLM makes up an end where there was none.
        if not reply.text and reply.usage is None and getattr(stream, "received_finish_reason", "") is None:
            raise self._nothing(request)

    def _arguments(self, request: Request) -> dict[str, Any]:
        options = self._options
        # Nobody asked for our own parameters by name, so a provider without them may ignore them; what the user
        # asked for with -O must not vanish silently.
        arguments: dict[str, Any] = {"drop_params": not options.options, "max_retries": 0, "num_retries": 0}
        arguments |= {name: value for name, value in options.options.items() if name not in OUTPUT_OPTIONS}
        arguments["max_tokens"] = request.max_output or options.output_limit(request.model, request.role)
        arguments |= {"model": resolved(request.model, options.api_base), "messages": wire_messages(request)}
        arguments["timeout"] = options.reply_s + options.timeout_s  # ours is the one that counts: it sees each piece
        if options.api_base:
            arguments |= {"api_base": options.api_base, "api_key": options.api_key or "none"}
        elif options.api_key:
            arguments["api_key"] = options.api_key
        return arguments

    def _overflow(self, request: Request, spent: Spent) -> RlmError:
        """The reply is to the part of the prompt that was read: worse than none. (The root's history is shortened in
        time where its window is known; what it does not know any more shows.)"""
        message = f"{request.model} read only {spent.usage.input:,} tokens of a prompt of {request.chars:,} characters"
        hint = "Send smaller pieces; a local server takes longer ones when it is told so: -O num_ctx=32768"
        problem = ProviderError(f"{message}: split it", hint=hint, code="context_overflow")
        note_spent(problem, spent)
        return problem

    def _nothing(self, request: Request) -> RlmError:
        """Neither text nor an end: a connection that was closed early, or no model's server at all."""
        where = Failure(request.model, self._options.api_base, (self._options.api_key, *self._options.secrets)).where
        hint = "Check --api-base (RLM_API_BASE): a web page has such an address, an API's often ends in /v1."
        return TransientError(f"{where} sent a reply with nothing in it", hint=hint, code="empty_stream")

    def _translated(self, error: Exception, request: Request, reply: _Reply) -> RlmError:
        options = self._options
        failure = Failure(request.model, options.api_base, (options.api_key, *options.secrets), request.role)
        problem = explain(error, failure)
        reply.text = reply.text or unread_reply(error)
        late = isinstance(problem, TransientError) and problem.code == "timeout"
        worked = reply.text or reply.usage or late or reply_began(error)
        note_spent(problem, self._spent(request, reply) if worked else Spent(reply.sent))
        return problem

    def _too_late(self, request: Request, reply: _Reply, seconds: float) -> TransientError:
        options = self._options
        if seconds >= options.reply_s:
            message, key = f"{request.model} was still writing after {options.reply_s:g} s", "api.reply_timeout"
        else:
            message, key = f"{request.model} did not answer within {options.timeout_s:g} s", "api.timeout"
        problem = TransientError(message, hint=f"A slow model needs more: --set {key}=15m", code="timeout")
        note_spent(problem, self._spent(request, reply))
        return problem

    def _spent_until_cancelled(self, request: Request, reply: _Reply) -> Spent:
        """A request that had not left yet is none, where that can be seen."""
        if reply.left or provider_of(request.model) not in self._watched:
            return self._spent(request, reply)
        return Spent(reply.sent - 1)

    def _spent(self, request: Request, reply: _Reply) -> Spent:
        """What a request that ended early may be billed for: its input, and the output that came."""
        return Spent(reply.sent, reply.usage or estimate(request, reply.text))


def _beat(timer: asyncio.Timeout, options: ProviderOptions, began: float) -> None:
    """Something arrived (or was just sent): the clock starts over, and never goes on past the end of all patience."""
    now = asyncio.get_running_loop().time()
    timer.reschedule(min(now + options.timeout_s, began + options.reply_s))


def _cut_short(reply: _Reply) -> bool:
    end = reply.cut(reply.text) if reply.cut else None
    if end is None:
        return False
    reply.text, reply.finish = reply.text[:end], "cut"
    return True


async def _pieces(stream: Any, reply: _Reply, beat: Callable[[], None]) -> AsyncIterator[str]:
    """The texts of a stream; usage and finish reason go into `reply` as they come. Hidden thinking is not text, but it
    is a sign of life."""
    async for chunk in stream:
        beat()
        reply.usage = usage_of(getattr(chunk, "usage", None)) or reply.usage
        if not chunk.choices:
            continue
        choice = chunk.choices[0]
        reply.ended = bool(choice.finish_reason)
        if choice.finish_reason:
            reply.finish = FINISHES.get(str(choice.finish_reason), "stop")
        for call in getattr(choice.delta, "tool_calls", None) or ():
            reply.tools[call.index] = reply.tools.get(call.index, "") + (call.function.arguments or "")
        if text := choice.delta.content or getattr(choice.delta, "refusal", None):
            yield text


def whole_text(message: Any) -> str:
    """What a reply says: its text, else its refusal, else the tool calls in it."""
    calls = getattr(message, "tool_calls", None) or ()
    return (
        message.content
        or getattr(message, "refusal", None)
        or tool_text({number: call.function.arguments or "" for number, call in enumerate(calls)})
    )


def tool_text(calls: Mapping[int, str]) -> str:
    """Calls of tools as text, the way models without an API for it spell them; `prompts` finds the code in it."""
    return "\n".join(f"<tool_call>{arguments}</tool_call>" for _, arguments in sorted(calls.items()))


def estimate(request: Request, text: str) -> Usage:
    """Usage of a call whose provider did not report it."""
    return Usage(count_request(request), count_tokens(text), estimated=True)


def usage_of(reported: Any) -> Usage | None:
    """A provider's usage record as LiteLLM unifies it; None when there is none (LiteLLM then says 0 and 0)."""
    if reported is None:
        return None
    given, made = _count(reported, "prompt_tokens"), _count(reported, "completion_tokens")
    if not given + made:
        return None
    # Some providers leave hidden thinking out of the completion's tokens, but bill it; then only the total has it.
    made = max(made, _count(reported, "total_tokens") - given)
    inputs, outputs = (
        getattr(reported, "prompt_tokens_details", None),
        getattr(reported, "completion_tokens_details", None),
    )
    written = _count(inputs, "cache_creation_tokens") or _count(reported, "cache_creation_input_tokens")
    return Usage(
        given,
        made,
        cached=min(given, _count(inputs, "cached_tokens")),
        reasoning=min(made, _count(outputs, "reasoning_tokens")),
        written=min(given, written),
    )


def _count(record: Any, name: str) -> int:
    value = getattr(record, name, None)
    return value if isinstance(value, int) and 0 < value <= MOST_TOKENS else 0


def wire_messages(request: Request) -> list[dict[str, Any]]:
    """The messages as LiteLLM takes them. Claude caches only what is marked: the root's system prompt and newest
    message are, so that each turn pays the full price for its new part only."""
    messages: Sequence[Message] = request.messages
    marked = {0, len(messages) - 1} if request.role != "sub" and "claude" in request.model.lower() else set[int]()
    return [_wire(message, mark=index in marked and bool(message.content)) for index, message in enumerate(messages)]


def _wire(message: Message, *, mark: bool) -> dict[str, Any]:
    if not mark:
        return {"role": message.role, "content": message.content}
    part = {"type": "text", "text": message.content, "cache_control": {"type": "ephemeral"}}
    return {"role": message.role, "content": [part]}


def refuses_to_stream(message: str) -> bool:
    """OpenAI wants some organisations "verified to stream this model"; some servers do not stream at all."""
    text = message.lower()
    return "stream" in text and any(
        word in text for word in ("verified", "not support", "unsupported", "must be false")
    )
