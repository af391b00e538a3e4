"""The host's half of the wire against a scripted container: what it believes, what it refuses, what it survives."""

from __future__ import annotations

import asyncio
import functools
import gc
import hashlib
import json
import queue
import threading
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import RlmError, SandboxError
from rlm_cli.sandbox import Answer, Captured, Quote, Reference, StepResult, SubCall, SubReply, Value, frames
from rlm_cli.sandbox.client import KernelClient, Patience, kernel_bundle
from rlm_cli.sandbox.frames import Violation
from rlm_cli.sandbox.kernel import wire
from rlm_cli.sandbox.pump import AHEAD, BATCH, Backlog, Pump, cost
from rlm_cli.sandbox.spool import Spool, Spooled
from tests.kernel.local import FakeHost

FACTS = {
    "version": 1, "uid": 65534, "gid": 65534, "pid": 1, "cap_eff": 0, "no_new_privs": True, "seccomp": 2,
    "memory_limit": 2**31, "pids_limit": None, "interfaces": ["lo"], "root_writable": False, "in_writable": False,
    "dumpable": False, "python": "3.12.1", "machine": "x86_64",
}  # fmt: skip
ATTACHED = {"op": "attached", "kind": "str", "documents": 1, "bytes": 5, "chars": 5, "lines": 1, "lines_exact": True,
            "lossy": 0}  # fmt: skip
CONFINED = {"pid": 2, "seccomp": 2, "filtered": True, "landlock": 7, "no_new_privs": True, "failures": []}
STARTED = wire.frame(b"s", json.dumps(CONFINED).encode())
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


EARLY = b"".join(
    (wire.frame(b"o", b"early"), wire.frame(b"l", b""), worker(LAST, b"early"), call(1, b"a"), worker(ATTACHED))
)


def test_frames_before_the_first_cell_and_after_the_last_are_ignored() -> None:
    """No output, no answer, no call of theirs counts."""
    boot = wire.frame(b"b", json.dumps(FACTS).encode()) + STARTED
    host = FakeHost()
    script = {b"boot": [boot + EARLY], b"C": [done()], b"Q": [worker(LAST, b"late") + done()]}
    (result,), channel = play(script, host=host)
    assert (result, host.calls) == (StepResult("ok", seconds=0.5), [])
    assert [kind for kind, _ in channel.sent if kind not in b"PW"] == [b"C", b"Q"]


def test_a_stream_that_does_not_begin_with_the_boot_frame_is_not_believed() -> None:
    """It is what some other program says, and nothing is run."""
    boot = wire.frame(b"b", json.dumps(FACTS).encode()) + STARTED
    with pytest.raises(SandboxError, match="did not start within"):
        play({b"boot": [EARLY + boot], b"C": [done()]}, patience=Patience(boot=0.2))


def test_a_new_worker_that_is_confined_less_ends_the_run() -> None:
    """A cell may have killed the first one to get it. The reason is said in the system's words."""
    weaker = {**CONFINED, "landlock": 0, "failures": ["Landlock: Operation not permitted"]}
    died = wire.frame(b"x", b'{"status": -9, "oom": false, "memory_limit": 0, "violation": ""}')
    script = {b"C": [TAILS + died + wire.frame(b"s", json.dumps(weaker).encode())]}
    with pytest.raises(SandboxError, match="not confined as the first one was: Landlock: Operation not") as caught:
        play(script, cells=2)
    assert caught.value.code == "boot_facts"
    play({b"C": [TAILS + DIED, done(cell=2)]}, cells=2)  # as it was: the run goes on


def test_silence_after_a_kill_is_a_broken_sandbox() -> None:
    """A supervisor that does not even answer a ping after it was told to kill its worker; its owner is told by code
    that another container may do better. One that answers and does not replace its worker is broken, too."""
    for script, patience in (({}, Patience(pong=0.1)), ({b"P": [wire.frame(b"p")] * 9}, Patience(pong=5.0, kill=0.1))):
        with pytest.raises(SandboxError, match="did not stop a cell") as caught:
            play({b"C": [BAD["nan"]], **script}, patience=patience)
        assert caught.value.code == "sandbox_silent"


def test_a_supervisor_that_answers_may_take_longer_to_kill() -> None:
    """A pong after the kill: a large worker takes its time to die, and is not given up after the pong's few seconds."""

    class Slow(ScriptedChannel):
        def _say(self, kind: bytes) -> None:
            if kind == b"P" and any(sent == b"K" for sent, _ in self.sent):
                super()._say(kind)
                threading.Timer(0.5, self._out.put, [TAILS + DIED]).start()
                return
            if kind != b"P":
                super()._say(kind)

    channel = Slow({b"C": [BAD["nan"]], b"P": [wire.frame(b"p")]})

    async def main() -> StepResult:
        client = KernelClient(channel, patience=Patience(pong=0.2, kill=20.0))
        try:
            await client.start()
            await client.attach(b"", None, 100, FakeHost())
            return await client.execute("code", timeout=30)
        finally:
            await client.close()

    assert bounded(main).status == "died"


def lost_cell(answer: bytes) -> tuple[StepResult, bool]:
    """What is left of a cell that printed, sent `answer`, and fell silent; and whether `execute` returned it."""
    channel = ScriptedChannel({b"C": [wire.frame(b"o", b"out") + answer]})

    async def main() -> tuple[StepResult, bool]:
        client = KernelClient(channel, patience=Patience(ping=0.05, silence=0.2))
        try:
            await client.start()
            await client.attach(b"", None, 100, FakeHost())
            try:
                left = await client.execute("code", timeout=30), True
            except SandboxError as error:
                left = client.remains(error.message), False
            with pytest.raises(SandboxError, match="stopped answering") as caught:
                await client.execute("code", timeout=30)
            assert client.failure is caught.value
            return left
        finally:
            await client.close()

    left: tuple[StepResult, bool] = bounded(main)
    return left


def test_what_a_lost_cell_did_is_kept() -> None:
    """Its output outlives the sandbox that had to be given up; half an answer is none."""
    result, returned = lost_cell(worker({**LAST, "last": False}, b"so"))
    assert (result.status, result.stdout.head, result.answer, returned) == ("died", "out", None, False)
    assert "lost with its container: the sandbox stopped answering" in result.restarted


def test_an_answer_that_is_whole_needs_no_sandbox_any_more() -> None:
    """The run has what it is for, whether or not the place can be replaced."""
    result, returned = lost_cell(worker(LAST, b"so far") + worker({**LAST, "last": False}, b"mo"))
    assert (result.status, result.stdout.head, result.answer) == ("died", "out", Answer("text", b"so far"))
    assert returned


ANSWER = {"op": "answer", "cell": 1, "kind": "text"}
LETTERS = [bytes([letter]) * wire.PART_MAX for letter in b"ABCDEFGH"]  # more than a spool holds in memory
MANY = [worker({**ANSWER, "part": part, "last": part == 7}, letters) for part, letters in enumerate(LETTERS)]


def test_a_large_answer_is_in_a_file_as_long_as_it_is_wanted(tmp_path: Path) -> None:
    """Spooled as it comes; what it replaces, and what is never whole, leaves nothing behind."""
    script = [b"".join([*MANY, worker({**ANSWER, "part": 0, "last": True}, b"x"), *MANY, *MANY[:6], done()])]
    (result,), _ = play({b"C": script}, new_spool=lambda: Spool(tmp_path))
    assert result.answer is not None
    assert isinstance(result.answer.data, Spooled)
    assert [*tmp_path.iterdir()] == [result.answer.data.path]
    data = result.answer.whole()
    assert data == b"".join(LETTERS)
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
    assert "an answer may have at most 524,288 bytes" in result.error
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


def test_what_waits_for_a_slow_loop_is_bounded_in_bytes() -> None:
    """However large frames are: sixteen batches of one piece of an answer each were 16 MiB. A larger frame than all the
    room comes through alone, and a flood of empty ones counts, too."""
    piece = cost([(b"w", bytes(wire.PART_MAX))])
    backlog = Backlog()
    pieces = 0
    while backlog.has_room(piece):
        backlog.enter(piece)
        pieces += 1
    assert (pieces + 1) * piece > AHEAD >= pieces * wire.PART_MAX
    assert not backlog.has_room(wire.PAYLOAD_MAX)
    for _ in range(pieces):
        backlog.leave(piece)
    assert backlog.has_room(wire.PAYLOAD_MAX)
    assert cost([(b"w", b"")] * BATCH) * 16 == AHEAD
    backlog.enter(wire.PAYLOAD_MAX)
    assert not backlog.has_room(0)
    backlog.end()  # the pump is closed while its reader waits
    backlog.enter(piece)


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


def test_replies_never_reach_the_successor_of_who_asked() -> None:
    """A worker that dies while its call is pending: the next one, whose calls have numbers of their own, hears nothing
    of it."""
    script = {b"C": [call(5, b"a") + DIED, done(cell=2)]}
    (first, second), channel = play(script, cells=2, host=FakeHost(gather=2))
    assert (first.status, second.status) == ("died", "ok")
    assert not [payload for kind, payload in channel.sent if kind == b"W" and b'"reply"' in payload]


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


@pytest.mark.parametrize("kind", ["llm", "rlm"])
def test_a_call_is_bounded_before_it_is_parsed(kind: str) -> None:
    """The kernel keeps to the limits; code that writes its frames itself could have the host hold millions of prompts,
    or take seconds over the JSON of a context."""

    def asked(count: int, *texts: bytes) -> Any:
        fields = {"op": "call", "id": 1, "cell": 1, "kind": kind, "model": "", "count": count}
        context = [b"null"] if kind == "rlm" else []
        return frames.parse_worker(wire.message(fields, wire.pack_texts([p for t in texts for p in (t, *context)])))

    room = wire.PROMPTS_MAX - len(wire.pack_texts([b"", b"null"] if kind == "rlm" else [b""]))
    assert len(asked(wire.PROMPTS_COUNT_MAX, *[b""] * wire.PROMPTS_COUNT_MAX).call.prompts) == wire.PROMPTS_COUNT_MAX
    assert len(asked(1, b"a" * room).call.prompts[0]) == room
    for count, texts in ((wire.PROMPTS_COUNT_MAX + 1, [b""] * (wire.PROMPTS_COUNT_MAX + 1)), (1, [b"a" * (room + 1)])):
        with pytest.raises(Violation, match="in one call"):
            asked(count, *texts)
    with pytest.raises(Violation):
        asked(2, b"one")


def test_a_context_is_a_list_of_parts_before_it_is_parsed() -> None:
    """What a child is to work on: 16 MiB of brackets would be a gigabyte of the host's memory."""

    def passed(context: bytes) -> Any:
        fields = {"op": "call", "id": 1, "cell": 1, "kind": "rlm", "model": "", "count": 1}
        return frames.parse_worker(wire.message(fields, wire.pack_texts([b"q", context]))).call.contexts[0]  # type: ignore[union-attr]

    assert (passed(b"null"), passed(b"[]")) == (None, ())
    given: list[list[Any]] = [["a", 'b]"\n\\é'], ["c", 3, 1, None, ""], ["d", 0, 2, 5, "cp1252"]]
    found = passed(json.dumps(given, separators=(",", ":")).encode())
    assert found == (Value("a", 'b]"\n\\é'), Reference("c", 3, 1, None, ""), Reference("d", 0, 2, 5, "cp1252"))
    bad = [b"", b"{}", b"[1]", b'[["a"]]', b'[["a",1]]', b'[["a",1,true,2,""]]', b'[["a",1e3,0,1,""]]', b'[["a",[]]]']
    bad += [b'["a","b"]', b'[["a","\xff"]]', b'[["a","b"],]', b'[["a","\n"]]', b'[["a","b"]] null']
    for context in bad:
        with pytest.raises(Violation):
            passed(context)
    for unit in (b"[]", b"{}", b'[["",""]]', b'{"":[]}', b'["",""]'):
        flood = b"[" + b",".join([unit] * ((wire.PROMPTS_MAX - 100) // (len(unit) + 1))) + b"]"
        tracemalloc.start()
        with pytest.raises(Violation):
            passed(flood)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5 * len(flood)


def test_a_proof_is_bounded_before_it_is_parsed() -> None:
    """A worker may send one at any time."""
    line = wire.proof_lines([("0", 5, "00")])
    most = line * (wire.PROOF_MAX // len(line))
    found = frames.parse_worker(wire.message(ATTACHED, most))
    assert isinstance(found, frames.Attached)
    assert len(found.proof) * len(line) == len(most)
    with pytest.raises(Violation, match="a proof of"):
        frames.parse_worker(wire.message(ATTACHED, most + line))


def test_text_from_headers_can_be_encoded() -> None:
    """Lone surrogates, which JSON lets through, do not reach whoever logs them."""
    message = frames.parse_worker(wire.message({**json.loads('{"model": "\\ud800x"}'), "op": "call", "id": 1, "cell": 1,
                                                "kind": "llm", "count": 1}, wire.pack_texts([b"\xff"])))  # fmt: skip
    assert isinstance(message, frames.CallAsked)
    assert message.call == SubCall("llm", ("�",), "?x")
