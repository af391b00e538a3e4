"""A provider's failure, put into our terms: whose fault it is, what to do, whether to try again, and no secrets.

LiteLLM's exception classes do not decide: it raises `BadRequestError` for some 500s, `InternalServerError` for a
missing key and for a connection that broke, `RateLimitError` for an empty account. So wording is looked at first
where providers agree on it, then the HTTP status, then the class.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from ..errors import AuthError, ProviderError, RlmError, TransientError
from ..events import Role
from .catalog import KEYS, provider_of

DETAIL_CHARS = 400
READ_CHARS = 64 * 1024
"""Of what was raised: it may repeat the prompt, which model code chose, and a pattern would take hours over megabytes
while nothing else can run."""
LATER = "Try again later; the provider's status page may say when."

NO_KEY = re.compile(
    r"api_key client option must be set|missing .{0,40}api.?key|api.?key.{0,20}not (?:set|found)|no api.?key", re.I
)
BAD_KEY = re.compile(r"(?:invalid|incorrect|expired).{0,20}api.?key|api.?key.{0,30}(?:not valid|invalid|expired)", re.I)
CONTEXT = re.compile(
    r"context.?(?:length|window)|maximum context|prompt is too long|input is too long|too many (?:input )?tokens"
    r"|input token count.{0,60}exceed|exceeds? the (?:maximum|model's|limit).{0,40}tokens|reduce the length of the",
    re.I,
)
QUOTA = re.compile(
    r"insufficient_quota|exceeded your current quota|credit balance is too low|insufficient (?:balance|credits|funds)"
    r"|out of credits|billing hard limit|payment required",
    re.I,
)
FILTER = re.compile(r"content.?(?:filter|policy|management)|ContentPolicyViolation|responsible ai|safety system", re.I)
UNKNOWN_MODEL = re.compile(
    r"model_not_found|LLM Provider NOT provided|model.{0,200}(?:does not exist|not found|not exist|is not supported)"
    r"|unknown model|invalid model|no such model|not a valid model",
    re.I,
)
BROKE = re.compile(
    r"connection error|connection reset|server disconnected|connection refused|payload is not completed", re.I
)
PART = re.compile(
    r"payload is not completed|peer closed connection without sending complete|IncompleteRead|Raw keys: .*'usage'", re.I
)
UNREADABLE = re.compile(r"Invalid response object|Unable to get json response")
CAME = re.compile(
    r"(?:Original Response: |received_args=\{'response_object': )(.*?)(?:, 'model_response_object': |\Z)", re.S
)
"""What LiteLLM could not read, in its own words about it."""
MADE = re.compile(r"""["']choices["'] ?: ?\[""")
BROKEN = {"TransportError", "ClientConnectionError", "ClientPayloadError", "ConnectionError", "gaierror"}
UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
WAIT = re.compile(r"(?:retry|try again) in (\d+(?:\.\d+)?) ?(ms|s)|retryDelay\W+(\d+(?:\.\d+)?)()s", re.I)
PREFIX = re.compile(r"^(?:litellm\.\w+: |\w*(?:Error|Exception) ?[:-] (?:- )?|\w+Exception - )+")
NOISE = re.compile(r" ssl:(?:<[^<>]*>|\w+)|\.? Handle with `litellm\.\w+`\.?")
"""What LiteLLM and aiohttp say to programmers in the middle of a sentence."""
NO_PROVIDER = "LLM Provider NOT provided"
SECRETS = (
    (re.compile(r"\b(?:sk|gsk|xai|pk|rk|or|r8|hf|pplx|fw|csk|tgp)[-_][\w*.-]{6,}"), "[key]"),
    (re.compile(r"\bAIza[\w-]{20,}"), "[key]"),
    (re.compile(r"([?&](?:key|api_key|apikey|token|access_token|sig|signature)=)[^&\s'\"]+", re.I), r"\1[key]"),
    (re.compile(r"((?:authorization|x-api-key|api-key)\W{1,4}(?:(?:bearer|basic)\s+)?)[^\s'\",}]+", re.I), r"\1[key]"),
    (re.compile(r"(bearer\s+)[\w.~+/=-]{6,}", re.I), r"\1[key]"),
    (re.compile(r"://[^/?#\s]+@"), "://[key]@"),  # up to the last @: a password may hold some
)


@dataclass(frozen=True)
class Failure:
    """What the request was about: for messages, and to keep secrets out of them."""

    model: str
    api_base: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    role: Role = "sub"

    @property
    def where(self) -> str:
        return redact(self.api_base, self.secrets) or provider_of(self.model) or self.model

    @property
    def option(self) -> str:
        """The flag that chooses the model."""
        return "--sub-model" if self.role == "sub" else "-m"


def redact(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` without keys: the known `secrets` by value, others by their usual looks."""
    for secret in secrets:
        if len(secret) >= 6:
            for spelling in spellings(secret):
                text = text.replace(spelling, "[key]")
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def spellings(secret: str) -> Iterator[str]:
    """A secret as it is, as it stands in a URL or in JSON, and what shows of it in the base64 of any text around it."""
    yield secret
    data = secret.encode("utf-8", "surrogateescape")  # from the environment, which may hold any bytes
    inside = json.dumps(secret)[1:-1]
    yield from (quote(data, safe=""), quote(data), inside, inside.replace("/", "\\/"))
    for before in range(3):
        code = b64encode(bytes(before) + data).decode("ascii")
        whole = code[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        yield from (whole, whole.replace("+", "-").replace("/", "_"))


def explain(error: BaseException, failure: Failure) -> RlmError:
    """The error of ours that `error`, raised by LiteLLM or below it, stands for."""
    if isinstance(error, RlmError):
        return error
    # LiteLLM wraps what breaks a stream half way; what it wraps says more.
    inner = getattr(error, "original_exception", None)
    if isinstance(inner, Exception) and type(error).__name__ == "MidStreamFallbackError":
        return explain(inner, failure)
    text = str(error)[:READ_CHARS]
    if UNREADABLE.match(PREFIX.sub("", text)):  # first: what models wrote is in it, which may read like anything
        return _unreadable(text, failure)
    said = NOISE.sub("", _said(PREFIX.sub("", text.split("\nTraceback")[0]).strip()))
    detail = redact(said, failure.secrets)[:DETAIL_CHARS]
    return _by_wording(error, text, failure, detail) or _by_status(error, failure, detail)


def _unreadable(text: str, failure: Failure) -> RlmError:
    """A reply that is no reply: not tried again, for it may be one that was paid for, and the next would be like it."""
    came = CAME.search(text)
    shown = redact(came[1] if came else "", failure.secrets)[:DETAIL_CHARS]
    return ProviderError(
        f"{failure.where} sent a reply that cannot be read: {shown or 'it is empty'}",
        hint=f"Check that --api-base is an API that LiteLLM knows, or choose another model with {failure.option}.",
        code="bad_reply",
    )


def _said(text: str) -> str:
    """The provider's own sentence, where the text is its JSON error record."""
    try:
        record = json.loads(text[text.index("{") :])
    except (ValueError, RecursionError):
        return text
    error = record.get("error", record)
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else text


def _by_wording(error: BaseException, text: str, failure: Failure, detail: str) -> RlmError | None:
    status = status_of(error)
    if NO_KEY.search(text):
        return AuthError(
            f"no API key for {failure.model}: {detail}", hint="rlm doctor shows which keys were found.", code="no_key"
        )
    if UNTRUSTED in text:
        hint = "Behind a proxy of your company, point SSL_CERT_FILE at its certificate."
        return ProviderError(f"the certificate of {failure.where} is not trusted: {detail}", hint=hint, code="tls")
    if status in (None, 400, 413, 422) or type(error).__name__ == "ContextWindowExceededError":
        return _by_request_wording(error, text, failure, detail)
    if status == 402 or (status in (403, 429) and QUOTA.search(text) and not WAIT.search(text)):
        return _spent(failure, detail)
    return None


def _by_request_wording(error: BaseException, text: str, failure: Failure, detail: str) -> RlmError | None:
    """400s: what is wrong with the request."""
    code = str(getattr(error, "code", ""))
    kind = type(error).__name__
    if CONTEXT.search(text) or "context_length" in code or kind == "ContextWindowExceededError":
        return ProviderError(
            f"the prompt is longer than the context window of {failure.model}: {detail}",
            hint="Send smaller pieces to the sub-model, or choose one with a larger window (--sub-model)."
            if failure.role == "sub"
            else "Choose a root model with a larger window (-m), or fewer turns (--max-iterations).",
            code="context_overflow",
        )
    if BAD_KEY.search(text):  # Google says 400 to a wrong key
        return _rejected(failure, detail)
    if QUOTA.search(text):  # so does Anthropic to an empty account
        return _spent(failure, detail)
    if FILTER.search(text + code) or kind == "ContentPolicyViolationError":
        message = f"{failure.model} refused the prompt (content filter): {detail}"
        return ProviderError(message, hint=f"Choose another model with {failure.option}.", code="content_filter")
    if UNKNOWN_MODEL.search(text) or code == "model_not_found":
        return _unknown(failure, detail)
    return None


def _by_status(error: BaseException, failure: Failure, detail: str) -> RlmError:
    status, kind = status_of(error), type(error).__name__
    if isinstance(error, TimeoutError) or "Timeout" in kind or status == 408:
        return TransientError(f"{failure.model} did not answer in time", hint=LATER, code="timeout")
    if status == 401:
        return _rejected(failure, detail)
    if status == 403:
        return AuthError(
            f"no permission to use {failure.model}: {detail}", hint="rlm models list", code="no_permission"
        )
    if status == 404:
        return _unknown(failure, detail)
    if status == 429:
        message, wait = f"{failure.where} is rate limiting: {detail}", retry_after(error)
        hint = "Try again later, or ask for less at a time: --concurrency 4"
        return TransientError(message, hint=hint, code="rate_limited", retry_after=wait)
    if _broke(error) and getattr(error, "litellm_response_headers", None) is None:
        message = f"the connection to {failure.where} broke: {detail}"
        return TransientError(message, hint=_reach(failure), code="connection_reset")
    if status is not None and (status >= 500 or status == 409):
        message = f"{failure.where} is not available ({status}): {detail}"
        return TransientError(message, hint=LATER, code="provider_unavailable", retry_after=retry_after(error))
    if status is not None:
        message = f"{failure.model} refused the request ({status}): {detail}"
        return ProviderError(
            message, hint=f"Look at -O, if given; or choose another model with {failure.option}.", code="bad_request"
        )
    return ProviderError(f"asking {failure.model} failed ({kind}): {detail}", hint="rlm doctor", code="provider")


def _rejected(failure: Failure, detail: str) -> AuthError:
    name = "RLM_API_KEY" if failure.api_base else " or ".join(KEYS.get(provider_of(failure.model), ())[:2])
    hint = f"Check {name or 'the key'}; rlm doctor shows what was found."
    return AuthError(f"{failure.where} rejected the API key: {detail}", hint=hint, code="key_rejected")


def _spent(failure: Failure, detail: str) -> ProviderError:
    message = f"the account at {failure.where} has no quota or credit left: {detail}"
    hint = f"Add credit with the provider, or choose another model with {failure.option}."
    return ProviderError(message, hint=hint, code="quota_exhausted")


def _reach(failure: Failure) -> str:
    if failure.api_base:
        return "Check that a server answers there (--api-base, RLM_API_BASE)."
    return "Check the network and, where there is one, the proxy (HTTPS_PROXY)."


def _unknown(failure: Failure, detail: str) -> ProviderError:
    if NO_PROVIDER in detail:
        message = f"unknown model {failure.model}: no provider is known to have it"
        return ProviderError(message, hint="Write PROVIDER/MODEL; rlm models list -a", code="unknown_model")
    hint = f"rlm models list {failure.model.rpartition('/')[2].partition('-')[0]}"
    return ProviderError(f"unknown model {failure.model}: {detail}", hint=hint, code="unknown_model")


def _broke(error: BaseException) -> bool:
    """Whether the connection died. LiteLLM's own `APIConnectionError` proves nothing (it wraps a missing module, too):
    what counts is what the network libraries raised below it."""
    return any(
        BROKEN & {kind.__name__ for kind in type(link).__mro__} or type(link).__module__ == "openai"
        for link in _chain(error)
        if not type(link).__module__.startswith("litellm")
    ) or bool(BROKE.search(str(error)))


def reply_began(error: BaseException) -> bool:
    """Whether the connection died while a whole reply was on its way: it was made, so it may be billed, though nobody
    has it. One that died before may have reached nobody."""
    return PART.search(str(error)) is not None


def unread_reply(error: BaseException) -> str:
    """What came, where that was a model's reply and could not be read; "" for anything else."""
    text = str(error)
    came = CAME.search(text) if UNREADABLE.match(PREFIX.sub("", text)) else None
    return came[1] if came and MADE.search(came[1]) else ""


def _chain(error: BaseException) -> list[BaseException]:
    """`error` and what caused it."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def status_of(error: BaseException) -> int | None:
    """The HTTP status the provider answered with, where there was one."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and 400 <= status < 600 else None


def retry_after(error: BaseException, *, now: Callable[[], float] = time.time) -> float | None:
    """How long the provider asks to wait, in seconds: from its headers, else from its message."""
    headers = getattr(error, "litellm_response_headers", None)
    if headers is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
    if headers is not None and (wait := _from_headers(headers, now)) is not None:
        return wait
    if match := WAIT.search(str(error)):
        return float(match[1] or match[3]) / (1000 if match[2] == "ms" else 1)
    return None


def _from_headers(headers: Mapping[str, str], now: Callable[[], float]) -> float | None:
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    if (milliseconds := _number(lower.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    value = lower.get("retry-after", "")
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now()) if "GMT" in value else None
    except (ValueError, OverflowError):  # no date that there is
        return None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1e7 else None
