"""Everything that reads what others wrote, against text and bytes made to break it (cases E12, E17, G02, G03, G08).

Bounded here. For as long as you like:  RLM_FUZZ=1000000 pytest tests/test_fuzz.py
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_cli.errors import RlmError, SandboxError
from rlm_cli.events import EVENT_TYPES, Record, Unknown, record_from_json, record_to_json
from rlm_cli.prompts.fences import PATIENCE, BlockCutter, parse_reply
from rlm_cli.render.live import LiveView
from rlm_cli.render.look import Look
from rlm_cli.render.plain import PlainLines
from rlm_cli.render.replay import replay
from rlm_cli.render.sanitize import clean, clean_line, clean_pieces
from rlm_cli.render.show import ShowOptions, show
from rlm_cli.sandbox import StepResult, frames
from rlm_cli.sandbox.client import KernelClient, Patience
from rlm_cli.sandbox.kernel import wire
from rlm_cli.sandbox.stream import Demultiplexer
from tests.hostile import TEXTS, Terminal, commands, run_of
from tests.kernel.local import FakeHost
from tests.test_client import ATTACHED, DIED, TAILS, ScriptedChannel, call, done, worker

MANY = int(os.environ.get("RLM_FUZZ", "0"))


def examples(number: int) -> Callable[[Any], Any]:
    """How many here; where RLM_FUZZ says so, that many."""
    every = list(HealthCheck) if MANY else [HealthCheck.too_slow]
    return settings(max_examples=MANY or number, deadline=None, suppress_health_check=every)


# -- the sanitizer -------------------------------------------------------------------------------------------------

scraps = st.sampled_from([*TEXTS.values(), "\r\n", "\r", "\x1b", "\u0300" * 5, "a", "\n", "\\x1b", "日", "\ud800"])
nasty = st.lists(scraps | st.text(max_size=8) | st.characters(), max_size=10).map("".join)
UNESCAPED = {**{chr(code): f"\\x{code:02x}" for code in range(256)}, "\r": "\\r"}


def spelled(char: str) -> str:
    """A dangerous character as the sanitizer shows it: written here a second time."""
    return UNESCAPED.get(char) or (f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else f"\\U{ord(char):08x}")


@examples(400)
@given(text=nasty, cuts=st.lists(st.integers(0, 40), max_size=4), width=st.none() | st.integers(1, 80))
def test_e12_what_comes_out_of_the_sanitizer(text: str, cuts: list[int], width: int | None) -> None:
    """No command, the same again when it is done twice, nothing lost: each character is itself or its spelling, in
    order; the same in pieces; one line of it is one line."""
    out = clean(text)
    assert (commands(out), clean(out)) == ([], out)
    at = 0
    for char in text.replace("\r\n", "\n"):
        said = char if out.startswith(char, at) and not commands(char) else spelled(char)
        assert out.startswith(said, at), (text, out, at)
        at += len(said)
    assert at == len(out)
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    assert "".join(clean_pieces(text[a:b] for a, b in itertools.pairwise(places))) == out
    line = clean_line(text, width)
    assert (commands(line), "\n" in line, clean_line(line, width)) == ([], False, line)


# -- frames --------------------------------------------------------------------------------------------------------

digits = st.sampled_from(
    ["9" * 5_000, "-1", "1e999", "NaN", "Infinity", "1.5", "true", "null", str(2**53 + 1), '"\\ud800"']
)
deep = st.sampled_from(["[" * 50_000, '{"a":' * 20_000, "[" * 900 + "]" * 900])
fields = st.dictionaries(
    st.sampled_from(
        ["op", "id", "cell", "kind", "model", "count", "part", "last", "status", "seconds", "variables", "evidence",
         "o", "e", "version", "uid", "received", "error", "oom", "memory_limit", "violation", "reason"]
    ),
    digits | deep | st.integers().map(str) | st.text(max_size=5).map(json.dumps)
    | st.sampled_from(['"call"', '"answer"', '"budget"', '"attached"', '"llm"', '"rlm"', '"text"', '"ok"', "[]", "{}"]),
    max_size=8,
)  # fmt: skip
headers = (
    fields.map(lambda found: "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in found.items()) + "}")
    | fields.map(lambda found: "{" + ",".join(f'"op":{value}' for value in found.values()) + "}")  # names that repeat
    | digits
    | deep
).map(str.encode) | st.binary(max_size=40)
lengths = st.sampled_from([0, 1, wire.HEADER_MAX, wire.HEADER_MAX + 1, 2**31, 2**32 - 1])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A worker's message: a header, its length, true or not, and what follows."""
    header, payload = draw(headers), draw(st.binary(max_size=40) | headers)
    length = draw(st.just(len(header)) | lengths | st.integers(0, 80))
    return length.to_bytes(4, "big") + header + payload


PARSERS = (
    frames.parse_worker,
    frames.parse_done,
    frames.parse_boot,
    frames.parse_tails,
    frames.parse_exit,
    frames.parse_received,
)


@examples(400)
@given(body=bodies())
def test_g03_any_message_is_a_value_or_a_violation(body: bytes) -> None:
    """Lengths that lie, JSON too deep, numbers too long, names twice, no UTF-8: nothing else is raised."""
    for parse in PARSERS:
        try:
            parse(body)
        except frames.Violation:
            continue


kinds_of_frames = st.sampled_from([bytes([kind]) for kind in wire.FROM_SUPERVISOR])
streams = st.lists(
    st.builds(wire.frame, kinds_of_frames, bodies() | st.binary(max_size=9))
    | st.binary(max_size=12)
    | st.builds(lambda kind, size: wire.head(kind, size), st.sampled_from([b"w", b"z"]), lengths),
    max_size=6,
).map(b"".join)  # fmt: skip


@examples(200)
@given(stream=streams, step=st.integers(1, 7), kinds=st.sampled_from([wire.FROM_SUPERVISOR, wire.FROM_WORKER]))
def test_g02_g04_a_stream_means_the_same_however_it_is_cut(stream: bytes, step: int, kinds: bytes) -> None:
    """Byte by byte or at once: the same frames, then the same violation; what is held is no more than what came."""

    def taken(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes]], bool]:
        splitter, found = wire.Splitter(kinds), list[tuple[bytes, bytes]]()
        try:
            for piece in pieces:
                found += splitter.feed(piece)
                assert splitter.buffered <= len(stream)
        except frames.Violation:
            return found, True
        return found, False

    whole = wire.Splitter(kinds)
    at_once: list[tuple[bytes, bytes]] = []
    violated = False
    try:
        at_once.extend(whole.feed(stream))
    except frames.Violation:
        violated = True
    cut, was = taken([stream[at : at + step] for at in range(0, len(stream), step)])
    assert was == violated
    assert cut[: len(at_once)] == at_once[: len(cut)]
    engine = Demultiplexer()
    parts = b"".join(engine.feed(stream[at : at + step]) for at in range(0, len(stream), step))
    assert parts == Demultiplexer().feed(stream)


GOOD = (
    worker({"op": "budget", "id": 1}),
    call(1, b"a"),
    call(2, b"b", b"c"),
    wire.frame(b"o", b"out\xff"),
    wire.frame(b"p"),
    worker({"op": "answer", "cell": 1, "kind": "text", "part": 0, "last": True}, b"x"),
    worker(ATTACHED),
    TAILS + DIED,
    wire.frame(b"l", b"late"),
    wire.frame(b"s", b"{}"),
    done(),
    done(cell=2),
)
chunks = st.lists(
    st.sampled_from(GOOD) | bodies().map(lambda body: wire.frame(b"w", body)) | streams | st.just(b""), max_size=7
)
HASTE = Patience(boot=5, attach=0.2, interrupt=0.01, kill=0.02, close=0.5)


@examples(60)
@given(before=chunks, after=chunks, late=chunks)
def test_g05_g08_any_sequence_of_frames_ends_a_cell_or_the_run(
    before: list[bytes], after: list[bytes], late: list[bytes]
) -> None:
    """Valid frames at the wrong time, before the corpus is open, after the end, from a worker that was killed: two
    cells each have a result or raise an error of ours. Nothing else is raised, nobody waits for ever, no thread or task
    is left."""
    script = {
        b"attach": [b"".join([worker(ATTACHED), *before])],
        b"C": [b"".join(after), b"".join(late) + done(cell=2)],
        b"K": [TAILS + DIED, TAILS + DIED],
    }
    channel = ScriptedChannel(script)

    async def main() -> list[StepResult | RlmError]:
        client = KernelClient(channel, patience=HASTE)
        found: list[StepResult | RlmError] = []
        try:
            async with asyncio.timeout(60):
                await client.start()
                await client.attach(b"", None, 100, FakeHost())
                for _ in range(2):
                    found.append(await client.execute("code", timeout=0.02))  # noqa: PERF401 - kept before an error
        except RlmError as error:
            found.append(error)
        finally:
            await client.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert [task for task in left if not task.done() and not task.cancelling()] == []
        return found

    ends = asyncio.run(main())
    assert all(isinstance(end, StepResult | SandboxError) for end in ends)


# -- what a model says ---------------------------------------------------------------------------------------------

words = st.lists(
    st.sampled_from(
        ["```", "````", "~~~", "```repl\n", "```python\n", "```json\n", "\n", "'''", '"""', "'", "\\", "#", "<think>",
         "</think>", "<tool_call>", "</tool_call>", '{"code": "', '"}', "FINAL(", ")", "FINAL_VAR(x)", "   ",
         "print(1)", "<|python_tag|>", "\r\n", "\x00", "\ud800", "thought\n", "much thought\n" * (PATIENCE // 10)]
    ) | st.text(max_size=5),
    max_size=14,
).map("".join)  # fmt: skip


@examples(400)
@given(
    text=words,
    truncated=st.booleans(),
    thinks=st.sampled_from([None, True, False]),
    cuts=st.lists(st.integers(0, 80), max_size=5) | st.none(),
)
def test_any_reply_is_understood(text: str, truncated: bool, thinks: bool | None, cuts: list[int] | None) -> None:
    """Code, an answer, or a reason for neither; the code and what is kept are the reply's own words, and a reply that
    is cut while it grows says what the whole one would. (No cuts: it grows by a character at a time.)"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of ast.literal_eval, about the model's backslashes
        reply = parse_reply(text, truncated=truncated, thinks=thinks)
        assert (bool(reply.code) + (reply.final is not None) + bool(reply.problem)) == 1
        assert text.startswith(reply.text.rstrip())
        ends = range(min(len(text), 200)) if cuts is None else sorted({min(end, len(text)) for end in cuts})
        cutter = BlockCutter(thinks)
        cut = next((cut for end in [*ends, len(text)] if (cut := cutter(text[:end])) is not None), None)
        if cut is not None:
            assert parse_reply(text[:cut], thinks=thinks) == parse_reply(text, thinks=thinks) == reply
            assert text[cut:].strip()


# -- records -------------------------------------------------------------------------------------------------------

numbers = st.sampled_from([0, -1, 2**62, -(2**62), 2**63, 10**400, 1e300, -1e300, 1e-300, 0.5, True, None])
odd = numbers | st.sampled_from(["", "x", "\x1b[2J", [], {}, ["x"], {"x": 1}, [[]], {"total": {}}])
PLAIN = [record_to_json(record) for record in run_of("x\x1b]52;c;x\x07")]


@st.composite
def logs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Some records of a run in any order, with some of their values, however deep, replaced."""
    chosen = draw(st.lists(st.sampled_from(PLAIN), min_size=1, max_size=8))
    return [_bent(json.loads(json.dumps(line)), draw) for line in chosen]


def _bent(value: Any, draw: st.DrawFn, depth: int = 0) -> Any:
    if not isinstance(value, dict) or depth > 3:
        return draw(odd)
    for name in draw(st.lists(st.sampled_from(sorted(value)), max_size=2)) if value else []:
        if name != "type":
            value[name] = _bent(value[name], draw, depth + 1)
    return value


@examples(120)
@given(lines=logs())
def test_e17_any_record_can_be_read_and_drawn(lines: list[Mapping[str, Any]]) -> None:
    """Records in any order, with any value in any place: each is an event, an unknown one, or no record; what was read
    is written as it was read; and every view of it draws something harmless."""
    run: list[Record] = []
    for line in lines:
        try:
            record = record_from_json(line)
        except ValueError:
            continue
        assert isinstance(record.event, Unknown) or record.event.type in EVENT_TYPES
        again = record_from_json(json.loads(json.dumps(record_to_json(record)))).event
        assert again.type == record.event.type
        assert again == record.event or isinstance(again, Unknown)
        run.append(record)
    terminal = Terminal()
    look = Look(color=True, width=60, tty=True, live=True, verbosity=1)
    with LiveView(terminal, look, clock=None, animate=False) as view:
        replay(run, view, sleep=lambda _: view.tick())
    plain = PlainLines(terminal, look)
    for record in run:
        plain(record)
    parts = ShowOptions(("summary", "answer", "steps", "subcalls", "code", "cost", "sources"))
    terminal.write("\n".join(line.plain for line in show(run, parts)))
    assert commands(terminal.sent) == []


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
def test_g03_a_header_may_have_64_kb_and_no_more(parse: Callable[[bytes], Any]) -> None:
    """Positive control of the limits: one byte decides."""
    pad = b'{"op": "budget", "id": 1, "x": "' + b"x" * (wire.HEADER_MAX - 34) + b'"}'
    assert len(pad) == wire.HEADER_MAX
    assert isinstance(frames.parse_worker(len(pad).to_bytes(4, "big") + pad), frames.BudgetAsked)
    longer = pad[:-2] + b'x"}'
    with pytest.raises(frames.Violation):
        parse(longer if parse in (frames.parse_boot, frames.parse_exit, frames.parse_received)
              else len(longer).to_bytes(4, "big") + longer)  # fmt: skip
