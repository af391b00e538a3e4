"""Providers' failures by their wording, status and class; and no secrets in any message."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import AuthError, ProviderError, RlmError, TransientError
from rlm_cli.models.failures import Failure, explain, redact, retry_after, unread_reply

WHERE = Failure("gpt-5")


class Raised(Exception):  # noqa: N818 - it stands for any class of LiteLLM's
    """What LiteLLM raises, as far as it matters: a message, perhaps a status and headers."""

    def __init__(self, text: str, status: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        if status is not None:
            self.status_code = status
        self.litellm_response_headers = headers


@pytest.mark.parametrize(
    ("text", "status", "kind", "code"),
    [
        ("The api_key client option must be set either by passing api_key", 500, AuthError, "no_key"),
        ("Missing Anthropic API Key - A call is being made", 401, AuthError, "no_key"),
        ("API key not valid. Please pass a valid API key.", 400, AuthError, "key_rejected"),
        ("prompt is too long: 210000 tokens > 200000 maximum", 400, ProviderError, "context_overflow"),
        (
            "The input token count (1200000) exceeds the maximum number of tokens",
            400,
            ProviderError,
            "context_overflow",
        ),
        ("Your credit balance is too low to access the Anthropic API", 400, ProviderError, "quota_exhausted"),
        ("You exceeded your current quota, please check your plan", 429, ProviderError, "quota_exhausted"),
        ("You exceeded your current quota. Please retry in 20.5s.", 429, TransientError, "rate_limited"),
        ("Payment required", 402, ProviderError, "quota_exhausted"),
        ("LLM Provider NOT provided. You passed model=x", 400, ProviderError, "unknown_model"),
        ("Overloaded", 529, TransientError, "provider_unavailable"),
        ("conflict", 409, TransientError, "provider_unavailable"),
        ("request timed out", 408, TransientError, "timeout"),
        ("something else", 418, ProviderError, "bad_request"),
        ("No module named 'boto3'", None, ProviderError, "provider"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate", 500, ProviderError, "tls"),
    ],
)
def test_wording_and_status(text: str, status: int | None, kind: type[RlmError], code: str) -> None:
    """The wordings that providers use, each with our class and code: only what may pass is transient. All say what
    to do."""
    error = explain(Raised(text, status), WHERE)
    assert (type(error), error.code, bool(error.hint)) == (kind, code, True)


READ = "Unable to get json response - Expecting value: line 1 column 1 (char 0), Original Response: "
OBJECT = "litellm.APIConnectionError: APIConnectionError: OpenAIException - Invalid response object Traceback (most"
RECEIVED = "\n\nreceived_args={'response_object': %s, 'model_response_object': ModelResponse(choices=[Choices()])}"


@pytest.mark.parametrize(
    ("text", "status", "said", "came"),
    [
        (READ + "<html>", 200, "<html>", ""),
        (READ, 200, "it is empty", ""),
        (READ + '{"choices": [{"prompt is too long', 200, '{"choices": [{"prompt is too long', True),
        (OBJECT + RECEIVED % "{'choices': [no API key]}", 500, "{'choices': [no API key]}", True),
        (OBJECT + RECEIVED % "[]", 500, "[]", ""),
    ],
)
def test_a_reply_that_cannot_be_read(text: str, status: int, said: str, came: str | bool) -> None:
    """What a model wrote is in LiteLLM's message, and is not taken for the provider's wording. It is not asked for
    again; whether it was a reply, which is billed, can be told."""
    error = Raised(text, status)
    problem = explain(error, Failure("m", "http://x"))
    assert (type(problem), problem.code) == (ProviderError, "bad_reply")
    assert problem.message == f"http://x sent a reply that cannot be read: {said}"
    assert unread_reply(error) == (said if came else "")
    assert unread_reply(Raised("'choices': [")) == ""


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (
            "Cannot connect to host api.openai.com:443 ssl:<ssl.SSLContext object at 0x7> [Name or service not known]",
            None,
            "the connection to openai broke: Cannot connect to host api.openai.com:443 [Name or service not known]",
        ),
        (
            "Cannot connect to host 127.0.0.1:1 ssl:default [refused]. Handle with `litellm.InternalServerError`.",
            500,
            "the connection to openai broke: Cannot connect to host 127.0.0.1:1 [refused]",
        ),
        (
            "LLM Provider NOT provided. Pass in the LLM provider. You passed model=gpt-5\n Pass model as E.g. For 'Hug",
            400,
            "unknown model gpt-5: no provider is known to have it",
        ),
    ],
)
def test_what_is_meant_for_programmers_is_left_out(text: str, status: int | None, said: str) -> None:
    """LiteLLM's advice to who calls it, and the names of objects."""
    raised = Raised(text, status)
    raised.__cause__ = ConnectionResetError(104, "reset")
    assert explain(raised, WHERE).message == said


def test_a_server_of_ones_own_that_is_not_there_is_named_by_its_option() -> None:
    """The network is to blame where the address was not ours to choose."""
    raised = Raised("connection refused", 500)
    hints = [explain(raised, Failure("gpt-5", base)).hint for base in ("http://127.0.0.1:1/v1", "")]
    assert ["--api-base" in hint for hint in hints] == [True, False]


def test_an_overflow_says_whose_prompt_must_shrink() -> None:
    """The root's own conversation and a prompt of the model's code need different remedies."""
    hints = [explain(Raised("prompt is too long", 400), Failure("gpt-5", role=role)).hint for role in ("root", "sub")]
    assert ["--sub-model" in hint for hint in hints] == [False, True]


def test_a_broken_connection_is_known_by_its_cause() -> None:
    """LiteLLM's connection error proves nothing; a network error below it does."""
    plain, broken = Raised("unknown trouble", 500), Raised("unknown trouble", 500)
    broken.__cause__ = ConnectionResetError(104, "reset")
    assert [explain(error, WHERE).code for error in (plain, broken)] == ["provider_unavailable", "connection_reset"]


@pytest.mark.parametrize(
    ("headers", "text", "expected"),
    [
        ({"Retry-After": "7"}, "", 7.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, "", 0.25),
        ({"Retry-After": "Fri, 20 Nov 2026 12:00:30 GMT"}, "", 30.0),
        ({"Retry-After": "soon"}, "Please try again in 1.5s.", 1.5),
        ({"Retry-After": "Fri, 31 Nov 2026 12:00:30 GMT"}, "Please try again in 1.5s.", 1.5),
        ({"Retry-After": "soon, GMT"}, "no idea", None),
        (None, "Please try again in 120ms.", 0.12),
        (None, '"retryDelay": "20s"', 20.0),
        (None, "no idea", None),
    ],
)
def test_retry_after(headers: dict[str, str] | None, text: str, expected: float | None) -> None:
    """Seconds, milliseconds, an HTTP date, or words in the message."""
    now = 1795176000.0  # 2026-11-20 12:00:00 UTC
    assert retry_after(Raised(text, 429, headers), now=lambda: now) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-SECRETsecret123.",
        "https://x.googleapis.com/v1?key=SECRETsecret123&alt=sse",
        "headers: {'Authorization': 'Bearer SECRETsecret123'}",
        "x-api-key: SECRETsecret123",
        "connect to https://user:SECRETsecret123@proxy:3128",
        "connect to https://user:p@SECRETsecret123@proxy:3128",
        "AIzaSECRETsecret123SECRETsecret123SEC",
    ],
)
def test_secrets_by_their_looks(text: str) -> None:
    """Keys are taken out although nobody told us their value."""
    assert "SECRET" not in redact(text)


@pytest.mark.parametrize("echo", ["a" * 2_000_000, " ssl:<" * 300_000, "model" * 400_000, "://" * 600_000])
def test_an_echoed_prompt_is_read_in_no_time(echo: str) -> None:
    """A server may repeat the prompt in its error, and model code chose that: no pattern takes hours over it."""
    assert explain(Raised(f"bad input: {echo}", 422), WHERE).code == "bad_request"
    assert redact(echo) == echo


@given(before=st.text(), secret=st.text(min_size=6, max_size=40), after=st.text())
def test_known_secrets_never_show(before: str, secret: str, after: str) -> None:
    """A value we know is gone from any text around it."""
    stand_in = redact(f"{before}{secret}{after}", (secret,))
    assert secret not in stand_in or secret in "[key]"


@given(before=st.binary(max_size=8), secret=st.text(min_size=6, max_size=40), after=st.binary(max_size=8))
def test_known_secrets_never_show_in_another_spelling(before: bytes, secret: str, after: bytes) -> None:
    """In a URL, in JSON, and in the base64 of a header that holds them: nothing of a key can be read back."""
    data = secret.encode()
    for spelled in (quote(secret), quote(secret, safe=""), json.dumps(secret), json.dumps(secret).replace("/", "\\/")):
        assert "[key]" in redact(f"<{spelled}>", (secret,))
    for encode in (b64encode, urlsafe_b64encode):
        shown = redact(f"<{encode(before + data + after).decode()}>", (secret,))
        assert "[key]" in shown
        assert len(shown) <= len("<[key]>") + 2 + (len(before) + len(after) + 4) * 4 // 3 + 4


def test_a_secret_of_any_bytes_is_hidden() -> None:
    """An environment may hold what is no UTF-8; the error that is told must not break on it."""
    secret = b"\xff\xfeabcdefgh".decode("utf-8", "surrogateescape")
    assert redact(f"no {secret} and no %FF%FEabcdefgh", (secret,)) == "no [key] and no [key]"


def test_messages_say_where_and_what_next() -> None:
    """A rejected key names the server and the command that helps; LiteLLM's prefixes are gone."""
    text = (
        "litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key provided: sk-abcdefgh."
    )
    error = explain(Raised(text, 401), Failure("gpt-5", "https://me:pw12345@host/v1"))
    assert error.message == "https://[key]@host/v1 rejected the API key: Incorrect API key provided: [key]"
    assert "rlm doctor" in error.hint
