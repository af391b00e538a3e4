"""The host's half of the wire against a scripted container: what it believes, what it refuses, what it survives."""

from __future__ import annotations

import asyncio
import functools
import gc
import hashlib
import json
import queue
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import RlmError, SandboxError
from rlm_cli.sandbox import Answer, Captured, Quote, StepResult, SubCall, SubReply, frames
from rlm_cli.sandbox.client import KernelClient, Patience, kernel_bundle
from rlm_cli.sandbox.frames import Violation
from rlm_cli.sandbox.kernel import wire
from rlm_cli.sandbox.pump import Pump
from rlm_cli.sandbox.spool import Spool, Spooled
from tests.kernel.local import FakeHost

FACTS = {
    "version": 1, "uid": 65534, "gid": 65534, "pid": 1, "cap_eff": 0, "no_new_privs": True, "seccomp": 2,
    "memory_limit": 2**31, "pids_limit": None, "interfaces": ["lo"], "root_writable": False, "in_writable": False,
    "dumpable": False, "python": "3.12.1", "machine": "x86_64",
}  # fmt: skip
ATTACHED = {"op": "attached", "kind": "str", "documents": 1, "bytes": 5, "chars": 5, "lines": 1, "lines_exact": True,
            "lossy": 0}  # fmt: skip
STARTED = wire.frame(b"s", b'{"pid": 2}')
DIED = wire.frame(b"x", b'{"status": -9, "oom": false, "memory_limit": 0, "violation": ""}') + STARTED
TAILS = wire.frame(b"t", wire.message({k: {"total": 0, "dropped": 0, "tail": 0} for k in "oe"}))


def worker(fields: Any, payload: bytes = b"", kind: bytes = b"w") -> bytes:
    return wire.frame(kind, wire.message(fields, payload))


def done(cell: int = 1, **fields: Any) -> bytes:
    end = {"op": "done", "cell": cell, "status": "ok", "seconds": 0.5, "variables": [], **fields}
    return TAILS + worker(end, kind=b"d")


def call(number: int, *prompts: bytes, **fields: Any) -> bytes:
    head = {"op": "call", "id": number, "cell": 1, "kind": "llm", "model": "", "count": len(prompts), **fields}
    return worker(head, wire.pack_texts(prompts))


class ScriptedChannel:
    """A `Channel` whose other side is a script: frame type from the host -> bytes to answer with."""

    def __init__(self, script: dict[bytes, list[bytes]]) -> None:
        self.script = {b"boot": [wire.frame(b"b", json.dumps(FACTS).encode()) + STARTED], **script}
        self.sent: list[tuple[bytes, bytes]] = []
        self._out: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._splitter = wire.Splitter(wire.FROM_HOST)
        self._closed = False

    def read(self) -> bytes:
        return b"" if self._closed else self._out.get()

    def write(self, data: bytes) -> None:
        if data is kernel_bundle():
            self._say(b"boot")
            return
        for kind, payload in self._splitter.feed(data):
            self.sent.append((kind, payload))
            self._say(b"attach" if kind == b"W" and b'"attach"' in payload else kind)

    def _say(self, kind: bytes) -> None:
        replies = self.script.get(kind)
        if replies:
            self._out.put(replies.pop(0))
        elif kind == b"attach":
            self._out.put(worker(ATTACHED))

    def close(self) -> None:
        self._closed = True
        self._out.put(b"")


def play(
    script: dict[bytes, list[bytes]],
    *,
    cells: int = 1,
    host: FakeHost | None = None,
    patience: Patience | None = None,
    new_spool: Callable[[], Spool] = Spool,
) -> tuple[list[StepResult], ScriptedChannel]:
    """Run cells against the script."""
    channel = ScriptedChannel(script)

    async def main() -> list[StepResult]:
        client = KernelClient(channel, patience=patience or Patience(), new_spool=new_spool)
        try:
            await client.start()
            await client.attach(b"", None, 100, host or FakeHost())
            return [await client.execute("code", timeout=30) for _ in range(cells)]
        finally:
            await client.close()

    return bounded(main), channel


def bounded(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), 30))


def test_a_cell_from_start_to_end() -> None:
    """Output pieces, tails, the answer in parts and the status make one StepResult."""
    answer = {"op": "answer", "cell": 1, "kind": "text"}
    tails = wire.message(
        {"o": {"total": 100, "dropped": 93, "tail": 3}, "e": {"total": 0, "dropped": 0, "tail": 0}}, b"end"
    )
    script = (
        wire.frame(b"o", "hé".encode())
        + wire.frame(b"o", b"y")
        + worker({**answer, "part": 0, "last": True}, b"old")
        + worker({**answer, "part": 0, "last": False}, b"ne")
        + worker({**answer, "part": 1, "last": True}, b"w")
        + wire.frame(b"t", tails)
        + done(variables=["x: int, 1"])[len(TAILS) :]
    )
    (result,), channel = play({b"C": [script]})
    assert result == StepResult(
        status="ok",
        stdout=Captured("héy", "end", 100, 93),
        answer=Answer("text", b"new"),
        seconds=0.5,
        variables=("x: int, 1",),
    )
    assert [kind for kind, _ in channel.sent if kind != b"P"] == [b"W", b"C", b"Q"]


LAST = {"op": "answer", "cell": 1, "kind": "text", "part": 0, "last": True}


def cited(lines: bytes) -> bytes:
    """An answer with evidence."""
    return worker({**LAST, "evidence": len(lines)}, lines + b"42")


FORGED = {
    "no line": b'["a", "", null]',
    "no JSON": b"{]\n",
    "deep": b"[" * 100_000 + b"\n",
    "two fields": b'["a", ""]\n',
    "object": b'{"quote": "a"}\n',
    "number": b'[5, "", null]\n',
    "empty": b'[" ", "", null]\n',
    "long": b'["' + b"x" * (wire.QUOTE_CHARS + 1) + b'", "", null]\n',
    "name": b'["a", null, null]\n',
    "long name": b'["a", "' + b"x" * (wire.NAME_CHARS + 1) + b'", null]\n',
    "place": b'["a", "", -1]\n',
    "truth as a place": b'["a", "", true]\n',
    "far": b'["a", "", 99999999999999999999]\n',
    "many": b'["a", "", null]\n' * (wire.QUOTES_MAX + 1),
    "large": b" " * (wire.EVIDENCE_MAX + 1),
}


def test_evidence_belongs_to_the_answer_it_came_with() -> None:
    """What the last whole answer brought counts, also when there is none; lone surrogates are replaced."""
    first = cited(b'["a b", "d", 3]\n["\\ud800x", "", null]\n')
    (result,), _ = play({b"C": [first + done()]})
    assert result.answer == Answer("text", b"42", (Quote("a b", "d", 3), Quote("?x", "", None)))
    (result,), _ = play({b"C": [first + worker(LAST, b"43") + done()]})
    assert result.answer == Answer("text", b"43")
    begun = worker({**LAST, "last": False, "evidence": 16}, b'["n", "", null]\nbroken off')
    (result,), _ = play({b"C": [first + begun + done()]})
    assert result.answer is not None
    assert len(result.answer.evidence) == 2


BAD = {
    "unknown op": worker({"op": "gift"}),
    "no op": worker({}),
    "list": worker([]),
    "huge header": wire.frame(b"w", (70_000).to_bytes(4, "big") + b" " * 70_000),
    "short": wire.frame(b"w", b"\0\0"),
    "deep": wire.frame(b"w", (60_000).to_bytes(4, "big") + b"[" * 60_000),
    "digits": wire.frame(b"w", (5_000).to_bytes(4, "big") + b"9" * 5_000),
    "nan": wire.frame(b"w", (3).to_bytes(4, "big") + b"NaN"),
    "bad utf-8": wire.frame(b"w", (1).to_bytes(4, "big") + b"\xff"),
    "count": call(1, b"a", count=2),
    "negative": call(-1, b"a"),
    "bool for int": call(1, b"a", id=True),
    "foreign done": done(cell=2),
    "done as list": wire.frame(b"d", wire.message([])),  # type: ignore[arg-type]
    "answer starts late": worker({"op": "answer", "cell": 1, "kind": "text", "part": 3, "last": True}, b"x"),
    "answer too big": worker(
        {"op": "answer", "cell": 1, "kind": "text", "part": 0, "last": True}, b"x" * (wire.PART_MAX + 1)
    ),
    **{f"evidence {name}": cited(body) for name, body in FORGED.items()},
    "evidence too late": worker({**LAST, "part": 1, "evidence": 1}, b"\nx"),
    "evidence beyond the frame": worker({**LAST, "evidence": 99}, b"x"),
    "evidence of no length": worker({**LAST, "evidence": -1}, b"x"),
    "same call twice": call(1, b"a") + call(1, b"a"),
    "17 calls": b"".join(call(number, b"a") for number in range(17)),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_violation_kills_the_worker_and_not_the_run(bad: bytes) -> None:
    """K is sent, the corpus is attached again, the result says so, the next cell works."""
    (died, after), channel = play({b"C": [bad, done(cell=2)], b"K": [TAILS + DIED]}, cells=2)
    assert (died.status, after.status, after.restarted) == ("died", "ok", "")
    assert "every variable is gone" in died.restarted
    assert [kind for kind, payload in channel.sent if kind in b"CK" or b'"attach"' in payload] == [
        b"W", b"C", b"K", b"W", b"C",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "script",
    [
        {b"C": [BAD["deep"]], b"K": [TAILS + DIED], b"attach": [worker(ATTACHED), BAD["deep"]]},
        {b"C": [b"z\0\0\0\0"]},
        {b"C": [b"o\xff\xff\xff\xff"]},
        {b"C": [wire.frame(b"x", b"{}")]},
        {b"C": [wire.frame(b"t", b"{}")]},
        {b"C": [b""]},
    ],
    ids=["twice", "type", "length", "exit", "tails", "eof"],
)
def test_what_ends_the_run(script: dict[bytes, list[bytes]]) -> None:
    """A second violation at once, a garbled outer stream, or its end: SandboxError, promptly."""
    with pytest.raises(SandboxError):
        play(script)


def test_silence_after_a_kill_ends_the_run() -> None:
    """A supervisor that does not replace its worker is broken."""
    with pytest.raises(SandboxError, match="did not stop a cell"):
        play({b"C": [BAD["nan"]]}, patience=Patience(kill=0.1))


ANSWER = {"op": "answer", "cell": 1, "kind": "text"}
MANY = [worker({**ANSWER, "part": part, "last": part == 3}, bytes([65 + part]) * wire.PART_MAX) for part in range(4)]


def test_a_large_answer_is_in_a_file_as_long_as_it_is_wanted(tmp_path: Path) -> None:
    """Spooled as it comes; what it replaces, and what is never whole, leaves nothing behind."""
    script = [b"".join([*MANY, worker({**ANSWER, "part": 0, "last": True}, b"x"), *MANY, *MANY[:2], done()])]
    (result,), _ = play({b"C": script}, new_spool=lambda: Spool(tmp_path))
    assert result.answer is not None
    assert isinstance(result.answer.data, Spooled)
    assert [*tmp_path.iterdir()] == [result.answer.data.path]
    data = result.answer.whole()
    assert data == b"".join(letter * wire.PART_MAX for letter in (b"A", b"B", b"C", b"D"))
    assert (result.answer.data.size, result.answer.data.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    del result
    gc.collect()
    assert [*tmp_path.iterdir()] == []


def test_an_answer_that_is_too_large_is_an_error_of_the_cell() -> None:
    """The model learns the limit; the answer before it counts."""
    first = worker({**ANSWER, "part": 0, "last": True}, b"kept")
    stopped = done(status="interrupted")
    spool = functools.partial(Spool, most=2 * wire.PART_MAX)
    (result,), channel = play({b"C": [first + b"".join(MANY)], b"I": [stopped]}, new_spool=spool)
    assert (result.status, result.answer) == ("error", Answer("text", b"kept"))
    assert "an answer may have at most 2,097,152 bytes" in result.error
    assert [kind for kind, _ in channel.sent if kind != b"P"] == [b"W", b"C", b"I", b"Q"]


def test_a_disk_that_takes_no_answer_ends_the_run(tmp_path: Path) -> None:
    """It is this machine's failure, and not the model's."""
    gone = tmp_path / "gone"
    with pytest.raises(RlmError, match=r"could not be kept in .*: No such file") as caught:
        play({b"C": [b"".join(MANY)], b"I": [done(status="interrupted")]}, new_spool=lambda: Spool(gone))
    assert caught.value.code == "answer_unkept"


def test_what_the_other_side_said_beats_a_failed_write() -> None:
    """An interpreter that is not there says so and is gone: the broken pipe may be seen before its words are."""

    class Gone(ScriptedChannel):
        refused = threading.Event()
        words = [b"", b"exec: python3: not found"]

        def write(self, data: bytes) -> None:
            self.refused.set()
            raise SandboxError("broken pipe")

        def read(self) -> bytes:
            self.refused.wait(10)
            return self.words.pop() if self.words else b""

    with pytest.raises(SandboxError, match="it said: exec: python3: not found"):
        bounded(KernelClient(Gone({})).start)


def test_a_held_up_loop_is_not_a_dead_host() -> None:
    """While something blocks the event loop (a full pipe behind stdout), pings still go out: without them the
    supervisor would take us for dead and end the run."""

    class Listening(ScriptedChannel):
        pinged = threading.Event()

        def write(self, data: bytes) -> None:
            self.pinged.set()

    async def main() -> bool:
        channel = Listening({})
        pump = Pump(channel, on_frames=lambda _: None, on_end=lambda _: None, rest=0.01)
        pump.start()
        pinged = channel.pinged.wait(10)  # on purpose: this holds up the loop
        await pump.close(patience=1)
        return pinged

    assert bounded(main)


def test_a_frozen_sandbox_is_noticed() -> None:
    """No pong, no frame: the ping task ends the run without any deadline of the cell."""
    with pytest.raises(SandboxError, match="stopped answering"):
        play({}, patience=Patience(ping=0.05, silence=0.1))


def test_a_worker_that_dies_between_cells_is_reported_with_the_next() -> None:
    """The next result says why its variables were gone."""
    (_, second), channel = play({b"C": [done() + DIED, done(cell=2)]}, cells=2)
    assert second.status == "ok"
    assert "lost between two cells: its process was killed by SIGKILL" in second.restarted
    assert sum(b'"attach"' in payload for _, payload in channel.sent) == 2


def test_out_of_memory_is_named() -> None:
    """The cause and the limit, from the supervisor's facts."""
    oom = b'{"status": -9, "oom": true, "memory_limit": 536870912, "violation": ""}'
    (result,), _ = play({b"C": [TAILS + wire.frame(b"x", oom) + STARTED]})
    assert (result.status, "out of memory (limit 512 MB)" in result.restarted) == ("died", True)


def test_replies_go_back_by_index() -> None:
    """Each item once, whatever the host delivers; an item it forgot fails."""

    class Odd(FakeHost):
        async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
            deliver(1, SubReply(True, "second"))
            deliver(1, SubReply(True, "again"))
            deliver(7, SubReply(True, "nobody"))

    # The cell ends with the second reply.
    channel = ScriptedChannel({b"C": [call(5, b"a", b"b")], b"W": [wire.frame(b"p"), done()]})

    async def main() -> StepResult:
        client = KernelClient(channel)
        await client.start()
        await client.attach(b"", None, 100, Odd())
        try:
            return await client.execute("code", timeout=30)
        finally:
            await client.close()

    assert bounded(main).status == "ok"
    replies = [payload for kind, payload in channel.sent if kind == b"W" and b'"reply"' in payload]
    parsed = [(json.loads(head), bytes(rest)) for head, rest in map(wire.split, replies)]
    assert [(fields["id"], fields["index"], fields["ok"], text) for fields, text in parsed] == [
        (5, 1, True, b"second"),
        (5, 0, False, b"the call was given up"),
    ]


def test_a_call_is_over_with_its_last_reply() -> None:
    """A worker at its limit of calls may send the next one as soon as it has a reply: many threads do so at once, while
    the host's own task for the answered call is still ending."""
    replied = 0

    class Slow(FakeHost):
        async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
            deliver(0, SubReply(True, "ok"))
            async with asyncio.timeout(10):
                while replied < wire.CALLS_MAX + 1:
                    await asyncio.sleep(0)

    class Counting(ScriptedChannel):
        def write(self, data: bytes) -> None:
            nonlocal replied
            replied += b'"reply"' in data
            super().write(data)

    first = b"".join(call(number, b"a") for number in range(wire.CALLS_MAX))
    then = [wire.frame(b"p")] * (wire.CALLS_MAX - 1) + [call(99, b"a"), done()]
    channel = Counting({b"C": [first], b"W": then})

    async def main() -> StepResult:
        client = KernelClient(channel)
        await client.start()
        await client.attach(b"", None, 100, Slow())
        try:
            return await client.execute("code", timeout=30)
        finally:
            await client.close()

    assert (bounded(main).status, replied) == ("ok", wire.CALLS_MAX + 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_violation(body: bytes) -> None:
    """No other exception leaves the parsers, so nothing the container sends can break the host."""
    for parse in (frames.parse_worker, frames.parse_done, frames.parse_boot, frames.parse_tails, frames.parse_exit):
        try:
            parse(body)
        except Violation:
            continue


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
NAMES = ["op", "id", "cell", "kind", "model", "count", "part", "last", "status", "seconds", "variables", "bytes"]


@given(
    op=st.sampled_from(["call", "answer", "budget", "attached", "attach_failed", "done"]),
    fields=st.dictionaries(st.sampled_from(NAMES), JSON),
    payload=st.binary(max_size=60),
)
def test_any_fields_are_a_message_or_a_violation(op: str, fields: dict[str, Any], payload: bytes) -> None:
    """The same with well-formed JSON of the wrong shape."""
    body = wire.message({**fields, "op": op}, payload)
    for parse in (frames.parse_worker, frames.parse_done):
        try:
            parse(body)
        except Violation:
            continue


def test_text_from_headers_can_be_encoded() -> None:
    """Lone surrogates, which JSON lets through, do not reach whoever logs them."""
    message = frames.parse_worker(wire.message({**json.loads('{"model": "\\ud800x"}'), "op": "call", "id": 1, "cell": 1,
                                                "kind": "llm", "count": 1}, wire.pack_texts([b"\xff"])))  # fmt: skip
    assert isinstance(message, frames.CallAsked)
    assert message.call == SubCall("llm", ("�",), "?x")
