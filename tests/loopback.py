"""A loopback OpenAI-compatible server that plays the root (a scripted policy) and the sub-models (an oracle).

No language model is needed to test everything the harness does: LiteLLM, Docker, the kernel and the command line are
the real ones, only this server is ours. What it does is written in the model's name, so no test needs a side channel:

    root/<policy>[/<behaviour>...]      step i of a scripted policy; i = assistant turns already in the messages
    sub/e05[/<behaviour>...]            labels every item it sees in the prompt, 5 % of them wrongly

Behaviours (any number, separated by `/`):

    eNN           the oracle mislabels NN % of items, chosen by hash(model, item): order-independent
    rotN          error grows by 12 points per doubling of the prompt beyond N tokens
    ctxN          400 with OpenAI's wording when the prompt has more than N tokens
    cutN          reads N tokens of a longer prompt, and counts these, without a word
    latN          N ms before the reply;  dripN: N ms between streamed pieces;  endless: the stream never ends
    hang          never answers (until the client goes away)
    429xN 500xN 503xN dropxN resetxN   the first N requests to this model name fail, then success; without xN: always.
                  drop: the body breaks off half way (TCP reset); reset: the connection dies before any byte
    raN           Retry-After of N seconds on every 429 (default 0.01)
    400 401 403 404 quota filter   that error, in OpenAI's wording, always
    leak            a 400 that quotes the key: alone, in a URL and in a header
    nousage       no usage record;  cachedNN / reasonN: usage details
    badusage      words where the counts should be;  unreal: counts that cannot be
    badjsonNN     NN % of replies are broken JSON;  refuseNN: NN % are refusals
    fence think   the reply in a code fence / after a <think> block;  thought: after a </think> that nothing opened
    toolcall refusal   the reply as the argument of a tool call / in the refusal field, and no content
    mid429xN      the first N streams break off half way with an error record that says 429
    huge2mb       a reply of 2 MB;  empty: an empty reply;  page: a web page, as an address that is no API's gives it

The oracle looks up labels of *items that it sees* (`item <id>: ...` lines), never a case's answer, so a lost chunk
shows. It replies with a JSON object {id: label} when the prompt says JSON, else with `<id>: <label>` lines.

    with LoopbackServer() as server:
        ...  # model id "openai/root/chunk_map", api_base server.url, any key
        assert len(server.requests) == ...

A policy is a function from a `Turn` to the root's reply:

    @policy("lazy")
    def lazy(turn: Turn) -> str:
        return code("FINAL(len(context))")
"""

from __future__ import annotations

import json
import math
import re
import select
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

LABELS = ("LOC", "HUM", "NUM", "ENTY", "ABBR", "DESC")
ITEM = re.compile(r"^item ([\w.-]+):", re.M)
PATIENCE_S = 60.0
"""No request outlives this, whatever its model name says: a test that forgot to hang up still ends."""

Policy = Callable[["Turn"], str]
Label = Callable[[str], str]


def tokens(text: str) -> int:
    """This server's tokenizer: four UTF-8 bytes are a token."""
    return -(-len(text.encode()) // 4)


def default_label(item: str) -> str:
    return LABELS[zlib.crc32(item.encode()) % len(LABELS)]


def percent(*parts: object) -> int:
    """A stable pseudo-random number in 0..99 for these values."""
    return zlib.crc32("\0".join(map(str, parts)).encode()) % 100


@dataclass(frozen=True)
class Logged:
    """One request as the server saw it. `prompt_tokens`, `output_tokens`: what it cost, reported or not (0 on errors).

    `cancelled`: the client hung up before the end; `broken`: the server did. `finished` is false while the reply is
    still being written.
    """

    model: str
    messages: tuple[Mapping[str, str], ...]
    stream: bool
    authorization: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    status: int = 0
    reply: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    cancelled: bool = False
    broken: bool = False
    finished: bool = False

    @property
    def role(self) -> str:
        return self.model.split("/")[0]

    @property
    def prompt(self) -> str:
        return self.messages[-1]["content"] if self.messages else ""


# -- root policies -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """What a policy may decide by: the step (from 0) and the messages; `last` is the newest observation."""

    step: int
    messages: tuple[Mapping[str, str], ...]

    @property
    def last(self) -> str:
        return self.messages[-1]["content"]


POLICIES: dict[str, Policy] = {}


def policy(name: str) -> Callable[[Policy], Policy]:
    """Register a root policy under `root/<name>`."""

    def register(function: Policy) -> Policy:
        POLICIES[name] = function
        return function

    return register


def code(source: str, *, say: str = "Next step.", fence: str = "repl") -> str:
    """A root's reply: a sentence and one code block."""
    return f"{say}\n\n```{fence}\n{source.strip()}\n```\n"


def steps(*replies: str) -> Policy:
    """A policy that plays `replies` in order and repeats the last."""
    return lambda turn: replies[min(turn.step, len(replies) - 1)]


TEXT = """
text = context if isinstance(context, str) else "\\n".join(str(context[name]) for name in context)
items = [line for line in text.splitlines() if line.startswith("item ")]
"""
CHUNKS = """
size = max(1, -(-len(items) // 40))
prompts = ["Label each item. Reply with a JSON object {id: label}.\\n" + "\\n".join(items[i:i + size])
           for i in range(0, len(items), size)]
"""
COUNT = """
import json, collections
labels = {}
for reply in replies:
    labels.update(json.loads(str(reply)))
counts = collections.Counter(labels.values())
answer = ", ".join(f"{name}={counts[name]}" for name in sorted(counts))
"""
PROBE = code(TEXT + "print(len(text), len(items)); print(text[:200])", say="I look at the input first.")

POLICIES["lazy"] = steps(code("FINAL(str(len(context)))", say="Easy."))
POLICIES["stubborn"] = steps(code("print(len(context))", say="Let me look once more."))
POLICIES["prose_only"] = steps("I think the answer is 42, but I will not write any code.")
POLICIES["empty"] = steps("")
POLICIES["chunk_map"] = steps(
    PROBE,
    code(CHUNKS + "replies = llm_query_batched(prompts)\nprint(len(replies), 'replies')"),
    code(COUNT + "FINAL(answer)"),
)
POLICIES["sequential"] = steps(
    PROBE,
    code(CHUNKS + "replies = [llm_query(prompt) for prompt in prompts]\nprint(len(replies), 'replies')"),
    code(COUNT + "FINAL(answer)"),
)
POLICIES["probe_grep"] = steps(
    PROBE,
    code(TEXT + "import re\nhits = re.findall(r'needle ([a-z]+) is (\\d+)', text)\nprint(hits)"),
    code("FINAL(hits[0][1] if hits else 'NOT FOUND')"),
)
POLICIES["two_blocks"] = steps(
    code("value = len(str(context)[:100000])\nprint('length', value)", say="First I measure.")
    + "\nThe output is 7, so:\n\n"
    + code("FINAL('7')", say="The length is 7."),
    code("FINAL(str(value))"),
)
POLICIES["final_mention"] = steps(
    code(
        "# here FINAL('too early') would be wrong\nnote = \"FINAL('in a string')\"\nprint(note)",
        say="Not FINAL('x') yet.",
    ),
    code("FINAL('done properly')"),
)
POLICIES["error_recovery"] = steps(
    code(TEXT + "print(undefined_name)"),
    code("print('unclosed"),
    code("1 / 0"),
    code("def dig(n): return dig(n + 1)\ndig(0)"),
    code("FINAL(str(len(text.splitlines())))"),
)
POLICIES["big_print"] = steps(
    code(TEXT + "print(text * 3)"),
    code("FINAL(str(len(text)))"),
)
POLICIES["verify"] = steps(
    PROBE,
    code(CHUNKS + "first = llm_query_batched(prompts)"),
    code(CHUNKS.replace("// 40", "// 25") + "second = llm_query_batched(prompts)"),
    code(
        "import json\n"
        "def merged(replies):\n"
        "    return {k: v for reply in replies for k, v in json.loads(str(reply)).items()}\n"
        "one, two = merged(first), merged(second)\n"
        "FINAL(f'{len(one)} labels, the same twice' if one == two else 'the two differ')"
    ),
)
POLICIES["long_output"] = steps(
    PROBE,
    code(CHUNKS + "replies = llm_query_batched([p.replace('JSON object', 'list') for p in prompts])"),
    code("table = '\\n'.join(str(reply) for reply in replies)\nprint(len(table))"),
    code("FINAL(table)"),
)
POLICIES["state_user"] = steps(
    code(TEXT + "first = text.splitlines()[0]"),
    code("print(2)"),
    code("print(3)"),
    code("print(4)"),
    code("print(5)"),
    code("FINAL(first)"),
)
POLICIES["think_tags"] = steps(
    "<think>\nI could write ```repl\nFINAL('only thought')\n``` here.\n</think>\n" + code(TEXT + "FINAL(len(items))")
)
POLICIES["wrong_fence"] = steps(code(TEXT + "print(len(items))", fence="python"), code("FINAL(len(items))", fence="py"))
POLICIES["missing_var"] = steps(
    code("FINAL(no_such_variable)"), code("FINAL_VAR('nor_this')"), code("FINAL('found it')")
)
POLICIES["mutate_context"] = steps(
    code("before = len(context)\ncontext = 'gone'\nprint(before)"), code("FINAL(f'{before} and {len(context)}')")
)
POLICIES["wasteful"] = steps(
    PROBE,
    code("replies = [str(r) for r in llm_query_batched(['Label.\\n' + item for item in items])]"),
    code("FINAL('\\n'.join(replies))"),
)


@policy("reactive")
def reactive(turn: Turn) -> str:
    """Its second step copies a number out of the first one's output: a harness that hides output fails."""
    if turn.step == 0:
        return code(TEXT + "print('secret', len(text) * 7 + 1)")
    seen = re.findall(r"secret (\d+)", turn.last)
    return code(f"FINAL('saw {seen[-1]}')" if seen else "FINAL('saw nothing')")


# -- the oracle ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Behaviour:
    """A model name, taken apart."""

    name: str

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.name.split("/")[1:])

    def has(self, word: str) -> bool:
        return word in self.parts

    def number(self, prefix: str, default: float = 0) -> float:
        """The number after `prefix` in one of the parts (`lat50` -> 50)."""
        for part in self.parts:
            if match := re.fullmatch(re.escape(prefix) + r"(\d+(?:\.\d+)?)(?:mb)?", part):
                return float(match[1])
        return default

    def fault(self, seen: int) -> str:
        """The fault that request number `seen` (from 0) to this model name must meet, or ""."""
        past = 0
        for part in self.parts:
            match = re.fullmatch(r"(429|500|503|drop|mid429|reset|400|401|403|404|quota|filter|leak)(?:x(\d+))?", part)
            if match and not match[2]:
                return match[1]
            if match and seen < past + int(match[2]):
                return match[1]
            past += int(match[2]) if match else 0
        return ""


def oracle(behaviour: Behaviour, prompt: str, label: Label) -> str:
    """A sub-model's reply to `prompt`: the labels of the items in it, spoilt as the model's name says."""
    if percent(behaviour.name, "refuse", prompt) < behaviour.number("refuse"):
        return "I'm sorry, but I can't help with that."
    error = behaviour.number("e") + rot(behaviour, tokens(prompt))
    found = {
        item: wrong(label(item)) if percent(behaviour.name, item) < error else label(item)
        for item in ITEM.findall(prompt)
    }
    if "json" not in prompt.lower():
        return "\n".join(f"{item}: {value}" for item, value in found.items()) or "nothing to label"
    reply = json.dumps(found)
    return reply[:-1] if percent(behaviour.name, "badjson", prompt) < behaviour.number("badjson") else reply


def rot(behaviour: Behaviour, size: int) -> float:
    """Extra error, in percent, of a prompt of `size` tokens: 12 points per doubling beyond `rotN`."""
    start = behaviour.number("rot")
    return 12.0 * math.log2(size / start) if start and size > start else 0.0


def wrong(label: str) -> str:
    """The label after this one: wrong in the same way every time."""
    return LABELS[(LABELS.index(label) + 1) % len(LABELS)] if label in LABELS else f"not-{label}"


# -- the server ----------------------------------------------------------------------------------------------------

LEAK_WORDING = (
    "key {key} at https://api.example/v1/chat?key={key}&alt=sse"  # OpenAI's wording has neither
    " with {{'Authorization': 'Bearer {key}'}} \x1b]52;c;x\x07"
)
CONTEXT_WORDING = (
    "This model's maximum context length is {limit} tokens. However, your messages resulted in {size} tokens. "
    "Please reduce the length of the messages."
)
ERRORS: Mapping[str, tuple[int, str, str]] = {
    "400": (400, "invalid_value", "Invalid value for 'messages'."),
    "401": (401, "invalid_api_key", "Incorrect API key provided: {key}. You can find your API key at https://x."),
    "403": (403, "model_access_denied", "Project `p` does not have access to model `{model}`."),
    "404": (404, "model_not_found", "The model `{model}` does not exist or you do not have access to it."),
    "429": (429, "rate_limit_exceeded", "Rate limit reached for requests. Please try again."),
    "500": (500, "internal_error", "The server had an error while processing your request."),
    "503": (503, "overloaded", "That model is currently overloaded with other requests."),
    "quota": (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing."),
    "filter": (400, "content_filter", "The response was filtered due to our content management policy."),
    "context": (400, "context_length_exceeded", CONTEXT_WORDING),
    "leak": (400, "invalid_value", LEAK_WORDING),
}


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests, not an error to print."""


class LoopbackServer:
    """The server, on 127.0.0.1 and a free port, from `__enter__` to `__exit__`.

    `label` maps an item's id to its true label. `policies` are added to (and win over) the registered ones.
    """

    def __init__(self, *, label: Label = default_label, policies: Mapping[str, Policy] | None = None) -> None:
        self.label = label
        self.policies = {**POLICIES, **(policies or {})}
        self.max_in_flight: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._log: list[Logged] = []
        self._seen: Counter[str] = Counter()
        self._changed = threading.Condition()  # guards everything above
        self.closing = threading.Event()
        server = self
        self._http = _Http(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_state": server}))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The `api_base` to give to the client."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def requests(self) -> tuple[Logged, ...]:
        """Every request so far, in order of arrival."""
        with self._changed:
            return tuple(self._log)

    def requests_of(self, role: str) -> tuple[Logged, ...]:
        return tuple(entry for entry in self.requests if entry.role == role)

    def wait(self, done: Callable[[tuple[Logged, ...]], bool], *, seconds: float = 10.0) -> tuple[Logged, ...]:
        """The log, as soon as `done(log)` holds. For facts that the server learns late (a client hanging up)."""
        with self._changed:
            if not self._changed.wait_for(lambda: done(tuple(self._log)), seconds):
                raise AssertionError(f"the server never saw it; its log: {self._log}")
            return tuple(self._log)

    def __enter__(self) -> LoopbackServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # called by the handler threads

    def arrive(self, entry: Logged) -> tuple[int, int]:
        """Log a request; its index in the log and its number among the requests to this model name."""
        with self._changed:
            seen = self._seen[entry.model]
            self._seen[entry.model] += 1
            self._log.append(entry)
            for role in (entry.role, "all"):
                self._in_flight[role] += 1
                self.max_in_flight[role] = max(self.max_in_flight[role], self._in_flight[role])
            self._changed.notify_all()
            return len(self._log) - 1, seen

    def leave(self, role: str) -> None:
        """No longer in flight. Called before the last byte goes out, so the next request is not counted on top."""
        with self._changed:
            for name in (role, "all"):
                self._in_flight[name] -= 1

    def update(self, index: int, **changes: Any) -> None:
        with self._changed:
            old = self._log[index]
            self._log[index] = Logged(**{**old.__dict__, **changes})
            self._changed.notify_all()

    def reply_to(self, behaviour: Behaviour, messages: tuple[Mapping[str, str], ...]) -> str:
        if behaviour.has("empty"):
            return ""
        if behaviour.name.startswith("root/"):
            step = sum(message["role"] == "assistant" for message in messages)
            reply = self.policies[behaviour.parts[0]](Turn(step, messages))
        else:
            reply = oracle(behaviour, "\n".join(m["content"] for m in messages), self.label)
        if behaviour.has("fence"):
            reply = f"Here it is:\n```json\n{reply}\n```"
        if behaviour.has("think"):
            reply = f'<think>Hmm, {{"a": 1}} maybe.</think>\n{reply}'
        if behaviour.has("thought"):
            reply = f"Hmm, I could `look`.\n</think>\n{reply}"
        return reply + "x" * (int(behaviour.number("huge")) * 2**20)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one write
    disable_nagle_algorithm = True
    server_state: LoopbackServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Silence: the log is `server.requests`."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = tuple({"role": m["role"], "content": flat(m["content"])} for m in body["messages"])
        key = self.headers.get("Authorization", "")
        entry = Logged(body["model"], messages, bool(body.get("stream")), key, body)
        index, seen = self.server_state.arrive(entry)
        exchange = _Exchange(self, entry, index, Behaviour(entry.model))
        try:
            exchange.run(seen)
        except (BrokenPipeError, ConnectionResetError):
            self.server_state.update(index, cancelled=True)
            self.close_connection = True
        finally:
            exchange.leave()
            self.server_state.update(index, finished=True)

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def flat(content: Any) -> str:
    """A message's text; content may be a list of parts (cache marks)."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class _Exchange:
    """One request and its answer."""

    def __init__(self, http: _Handler, entry: Logged, index: int, behaviour: Behaviour) -> None:
        self.http, self.entry, self.index, self.behaviour = http, entry, index, behaviour
        self.server = http.server_state
        sent = sum(tokens(m["content"]) + 4 for m in entry.messages)
        self.prompt_tokens = min(sent, int(behaviour.number("cut", sent)))
        self._left = self.limited = False

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self.server.leave(self.entry.role)

    def run(self, seen: int) -> None:
        if self.behaviour.has("hang"):
            self.pause(PATIENCE_S)
            raise ConnectionResetError
        self.pause(self.behaviour.number("lat") / 1000)
        fault = self.behaviour.fault(seen)
        limit = self.behaviour.number("ctx")
        if limit and self.prompt_tokens > limit:
            fault = "context"
        if fault == "reset":
            self.reset()
        elif fault in ERRORS:
            self.error(fault)
        elif self.behaviour.has("page"):
            self.server.update(self.index, status=200)
            self.leave()
            self.http.send(200, b"<!doctype html><title>Welcome</title>")
        else:
            self.limited = fault == "mid429"
            breaks = fault in ("drop", "mid429")
            self.answer(self.server.reply_to(self.behaviour, self.entry.messages), breaks=breaks)

    def pause(self, seconds: float) -> None:
        """Wait; a client that hangs up meanwhile raises `ConnectionResetError`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.server.closing.is_set():
            ready, _, _ = select.select([self.http.connection], [], [], min(left, 0.25))
            if ready and not self.http.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError
            if ready:  # a pipelined request: nothing to wait for on this socket
                time.sleep(min(left, 0.01))

    def error(self, fault: str) -> None:
        status, name, message = ERRORS[fault]
        text = message.format(
            key=self.entry.authorization.removeprefix("Bearer "),
            model=self.entry.model,
            limit=int(self.behaviour.number("ctx")),
            size=self.prompt_tokens,
        )
        self.server.update(self.index, status=status)
        retry = {"Retry-After": f"{self.behaviour.number('ra', 0.01):g}"} if fault == "429" else {}
        self.leave()
        body = {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": name}}
        self.http.send(status, json.dumps(body).encode(), retry)

    def answer(self, reply: str, *, breaks: bool) -> None:
        counted = {"prompt_tokens": self.prompt_tokens, "output_tokens": tokens(reply)}
        self.server.update(self.index, status=200, reply=reply, broken=breaks, **counted)
        if self.entry.stream:
            self.stream(reply, breaks=breaks)
        else:
            self.whole(reply, breaks=breaks)

    def whole(self, reply: str, *, breaks: bool) -> None:
        message = {"role": "assistant", **self.content(reply)}
        body = self.envelope("chat.completion", {"message": message, "finish_reason": "stop"}) | self.usage(reply)
        data = json.dumps(body).encode()
        if not breaks:
            self.leave()
            return self.http.send(200, data)
        self.http.send_response(200)
        self.http.send_header("Content-Type", "application/json")
        self.http.send_header("Content-Length", str(len(data)))
        self.http.end_headers()
        self.http.wfile.write(data[: len(data) // 2])
        return self.reset()

    def stream(self, reply: str, *, breaks: bool) -> None:
        self.http.send_response(200)
        self.http.send_header("Content-Type", "text/event-stream")
        self.http.send_header("Transfer-Encoding", "chunked")
        self.http.end_headers()
        drip = self.behaviour.number("drip") / 1000
        sent = 0
        for piece in self.pieces(reply):
            if breaks and sent >= len(reply) // 2:
                return self.slow_down() if self.limited else self.reset()
            self.event(self.envelope("chat.completion.chunk", {"delta": self.content(piece), "finish_reason": None}))
            sent += len(piece)
            self.server.update(self.index, output_tokens=tokens(reply[:sent]))
            self.pause(drip)
        self.event(self.envelope("chat.completion.chunk", {"delta": {}, "finish_reason": "stop"}))
        usage = self.usage(reply) if self.entry.body.get("stream_options", {}).get("include_usage") else {}
        if usage:
            self.event(self.envelope("chat.completion.chunk", None) | usage)
        self.leave()
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")
        return None

    def content(self, text: str) -> dict[str, Any]:
        """A message's (or a delta's) content, where this model puts it."""
        if self.behaviour.has("refusal"):
            return {"content": None, "refusal": text}
        if self.behaviour.has("toolcall"):
            code = re.sub(r"(?s).*?```\w*\n(.*?)```.*", r"\1", text)
            call = {"name": "python", "arguments": json.dumps({"code": code})}
            return {"content": None, "tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": call}]}
        return {"content": text}

    def slow_down(self) -> None:
        """The provider changes its mind in the middle of a reply."""
        self.event({"error": {"message": "Rate limit reached for requests", "type": "requests", "code": 429}})
        self.chunk(b"")
        self.leave()

    def pieces(self, reply: str) -> Iterator[str]:
        if self.behaviour.has("toolcall"):
            yield reply
            return
        size = max(1, min(32 if len(reply) < 20_000 else 8192, -(-len(reply) // 2)))
        yield from (reply[i : i + size] for i in range(0, len(reply), size))
        end = time.monotonic() + PATIENCE_S
        while self.behaviour.has("endless") and time.monotonic() < end and not self.server.closing.is_set():
            yield " and so on"

    def event(self, data: Mapping[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(data).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.http.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.http.wfile.flush()

    def envelope(self, kind: str, choice: Mapping[str, Any] | None) -> dict[str, Any]:
        choices: Sequence[Any] = [{"index": 0, **choice}] if choice is not None else []
        return {"id": f"c{self.index}", "object": kind, "created": 0, "model": self.entry.model, "choices": choices}

    def usage(self, reply: str) -> dict[str, Any]:
        if self.behaviour.has("nousage"):
            return {}
        if self.behaviour.has("badusage"):
            return {"usage": {"prompt_tokens": "many", "completion_tokens": [], "total_tokens": 2.5}}
        if self.behaviour.has("unreal"):
            return {"usage": {"prompt_tokens": 10**400, "completion_tokens": 10**30, "total_tokens": -1}}
        output = tokens(reply)
        details = {
            "prompt_tokens_details": {"cached_tokens": int(self.prompt_tokens * self.behaviour.number("cached") / 100)},
            "completion_tokens_details": {"reasoning_tokens": int(self.behaviour.number("reason"))},
        }
        total = self.prompt_tokens + output
        return {
            "usage": {
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": output,
                "total_tokens": total,
                **details,
            }
        }

    def reset(self) -> None:
        """Break the connection the hard way (RST), after what was written so far has left."""
        self.leave()
        self.http.wfile.flush()
        self.http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.http.close_connection = True
        self.http.connection.close()
