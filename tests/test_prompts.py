"""Fences, observations and the opening: what the root reads, and how its replies are understood."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.prompts import (
    BlockCutter,
    InputFacts,
    Remaining,
    observation_text,
    opening,
    parse_reply,
    payload_chars,
)
from rlm_cli.prompts.fences import PATIENCE
from rlm_cli.prompts.texts import fenced, system_text
from rlm_cli.sandbox import Captured, ContextFacts, StepResult
from rlm_cli.sandbox.kernel.helpers import FUNCTIONS, Helpers

PROMPT_WITH_FENCES = 'p = """\n```json\n{}\n```\n"""\nprint(p)\n'


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("```repl\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n", "x = 1\n"),
        ("``` py\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("~~~repl\nx = 1\n~~~", "x = 1\n"),
        ("````python\nx = '```'\n````", "x = '```'\n"),
        ("a\n\n  ```repl\nx = 1\n  ```\nb", "x = 1\n"),
        ("1. look\n   ```repl\n   if x:\n     y()\n\n   z\n   ```\nb", "if x:\n  y()\n\nz\n"),
        ("```repl\r\nx = 1\r\ny\r\n```\r\nmore", "x = 1\ny\n"),
        ("```tool_code\nx = 1\n```", "x = 1\n"),
        ("```json\n{}\n```\nthen\n```repl\nx = 1\n```", "x = 1\n"),
        ("```repl\nx = 1\n```\n```repl\ny = 2\n```", "x = 1\n"),
        ("```repl\nx = 1\n", "x = 1\n"),
        (f"```repl\n{PROMPT_WITH_FENCES}```", PROMPT_WITH_FENCES),
        ("```repl\n# don't\nx = 1\n```\nmore", "# don't\nx = 1\n"),
        ('```repl\nx = "it\'s"\n```\nmore', 'x = "it\'s"\n'),
        ("<think>\n```repl\nwrong\n```\n</think>\n```repl\nright\n```", "right\n"),
        ("<think>a</think>\n<think>\n```repl\nno\n```\n</think>```repl\nright\n```", "right\n"),
        ("Sure!\n<think>\n```repl\nno\n```\n</think>\n```repl\nright\n```", "right\n"),
        ("<think>It splits at `</think>`.\n```repl\nno\n```\n</think>\n```repl\nright\n```", "right\n"),
        ("```repl\nx = r.split('</think>')[-1]\n```", "x = r.split('</think>')[-1]\n"),
        ("```repl\nx = re.sub(r'.*</think>', '', r)  # no </think> left\n```", None),
        ('```repl\np = """\n</think>\n```json\n{}\n```\n"""\n```', 'p = """\n</think>\n```json\n{}\n```\n"""\n'),
        ("It ends with `</think>`.\n```repl\nx = 1\n```\nThis drops the `</think>`.", "x = 1\n"),
        ("I strip <think> and </think>.\n```repl\nx = 1\n```\nNo </think>.", "x = 1\n"),
        ("```text\nHm </think> 4\n```\n```repl\nx = 1\n```", "x = 1\n"),
        ("As `grep`</think>```repl\nx = 1\n```", "x = 1\n"),
        ("First ```repl\n```repl\nno = 'yes\n</think>\n```repl\nx = 1\n```", "x = 1\n"),
        ('```repl\nx = """never closed\n```', 'x = """never closed\n'),
        ("no code at all", ""),
        ("```json\n{}\n```", ""),
        ("", ""),
    ],
)
def test_the_code_of_a_reply(reply: str, code: str | None) -> None:
    """The first block of Python, whatever its fence looks like, and nothing else."""
    assert parse_reply(reply).code == (code if code is not None else reply[8:-3])


@pytest.mark.parametrize("reply", ["```repl\n```\nthen", "```repl\n \n```", "```repl\n```"])
def test_an_empty_block_is_named(reply: str) -> None:
    """There is nothing to run, and the root is told why nothing was run."""
    assert (parse_reply(reply).code, parse_reply(reply).problem) == ("", "the code block was empty")


def test_a_block_cut_off_by_the_output_limit_is_not_run() -> None:
    """Half a program is not a program."""
    reply = parse_reply("```repl\nfor x in y:\n    delete(", truncated=True)
    assert (reply.code, bool(reply.problem)) == ("", True)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("FINAL(42)", "42"),
        ('FINAL("forty two")', "forty two"),
        ("So:\nFINAL(a (b) c)\n", "a (b) c"),
        ("FINAL(two\nlines)", "two\nlines"),
        ("```json\n{}\n```\nFINAL(x)", "x"),
        ("the marker FINAL(x) inside a sentence", None),
        ("# FINAL(x)", None),
        ("```repl\n# FINAL(x)\nprint(1)\n```", None),
    ],
)
def test_final_in_prose(reply: str, answer: str | None) -> None:
    """A line of its own outside code counts, a mention does not."""
    assert parse_reply(reply).final == answer


def test_the_stream_is_cut_only_when_the_model_goes_on() -> None:
    """A reply that stops by itself keeps the provider's usage record."""
    block = "go\n```repl\nx = 1\n```"
    cut = BlockCutter(thinks=False)
    assert [cut(text) for text in ("go\n```repl\nx = 1\n", block, block + "\n")] == [None, None, None]
    assert cut(block + "\nOutput:") == len(block)


def test_a_long_program_is_not_read_again_for_every_piece() -> None:
    """The number of characters looked at grows with the reply, not with its square: 200 KB in pieces of four."""
    reply = "go\n```repl\n" + "x = 'some text of a program'\n" * 7_000
    cut = BlockCutter(thinks=False)
    assert {cut(reply[:end]) for end in range(0, len(reply), 4)} == {None}
    done = reply + "```\nOutput: 7"
    assert cut(done) == len(reply) + 3


python_lines = st.lists(
    st.sampled_from(
        [
            "x = 1",
            "y = '```'",
            'z = "it\'s"',
            "# a comment with ' and \"",
            PROMPT_WITH_FENCES.rstrip("\n"),
            "",
            "f(a, b)",
        ]
    ),
    min_size=1,
    max_size=8,
).filter(any)


@given(python_lines, st.text(max_size=60).filter(lambda s: "```" not in s and "~~~" not in s and "<" not in s))
def test_any_program_survives_its_fence(lines: list[str], before: str) -> None:
    """Round trip: valid code with backticks in strings and comments comes out as it went in."""
    code = "\n".join(lines) + "\n"
    ast.parse(code)
    assert parse_reply(f"{before}\n```repl\n{code}```\nand more").code == code


def fenced_code(code: str) -> str:
    return f"```repl\n{code}\n```"


DRAFT = "I could try\n```repl\nFINAL('guess')\n```\n"


def cut_at(reply: str, thinks: bool | None) -> int | None:
    """Where a stream is cut that brings one character at a time, or, of a long reply, a hundred."""
    cutter, ends = BlockCutter(thinks), [*range(0, len(reply), 1 + len(reply) // 1_000), len(reply)]
    return next((at for end in ends if (at := cutter(reply[:end])) is not None), None)


@pytest.mark.parametrize(
    ("after", "thinks", "code"),
    [
        # Its first reply: thinking that goes on for a while is waited for, and no longer.
        ("but no.\n</think>\n" + fenced_code("x = 1"), None, "x = 1\n"),
        ("but no. " * (PATIENCE // 8 - 1) + "</think>" + fenced_code("x = 1"), None, "x = 1\n"),
        ("but no. " * (PATIENCE // 8 + 1) + "</think>" + fenced_code("x = 1"), None, "FINAL('guess')\n"),
        ("Output: 7\n" * PATIENCE, None, "FINAL('guess')\n"),
        # A model that was seen to think like that may take as long as it wants, and one that was not is cut at once.
        ("but no. " * PATIENCE + "</think>" + fenced_code("x = 1"), True, "x = 1\n"),
        ("Output: 7\n", True, "FINAL('guess')\n"),
        ("This drops </think>.\n" + fenced_code("x = 1"), False, "FINAL('guess')\n"),
        # What it opens itself after the block is not about the block.
        ("<think>hm</think>\n" + fenced_code("x = 1"), None, "FINAL('guess')\n"),
        (fenced_code("x = r.split('</think>')[-1]"), None, "FINAL('guess')\n"),
    ],
)
def test_a_draft_is_not_run_and_code_is_not_lost(after: str, thinks: bool | None, code: str) -> None:
    """A block in thinking that the prompt opened is told from one that the model goes on after; the stream is cut after
    the one that is found in the whole reply, or not at all."""
    reply = DRAFT + after + "\nOutput: 1\n"
    assert parse_reply(reply, thinks=thinks).code == code
    assert parse_reply(reply[: cut_at(reply, thinks)], thinks=thinks).code == code


@pytest.mark.parametrize(
    ("reply", "thinks", "seen"),
    [
        (DRAFT + "</think>", None, True),
        (DRAFT, None, False),
        (f"<think>{DRAFT}</think>", None, False),
        ("a </think>b", False, True),
    ],
)
def test_a_reply_tells_whether_the_model_thinks_unopened(reply: str, thinks: bool | None, seen: bool) -> None:
    """What is known about its next ones."""
    assert parse_reply(reply, thinks=thinks).thought == seen


def test_thinking_that_the_output_limit_ended_is_not_run() -> None:
    """Of a model that thinks first, a draft is all there is; of another, its block is whole."""
    codes = [parse_reply(DRAFT + "But", truncated=True, thinks=thinks).code for thinks in (True, False, None)]
    assert codes == ["", "FINAL('guess')\n", "FINAL('guess')\n"]


def test_a_prompt_with_a_fence_is_not_cut_inside() -> None:
    """However the pieces fall: a fence in a string that is still open closes nothing, though the text ends there."""
    reply = f"```repl\n{PROMPT_WITH_FENCES}```\nOutput: {{}}"
    assert cut_at(reply, False) == len(reply) - len("\nOutput: {}")


def test_a_fence_that_may_become_another_one_settles_nothing() -> None:
    """Whether a `</think>` is in a comment of code depends on where that ends."""
    reply = DRAFT + "```repl\n# </think>\n" + "x = 1\n" * PATIENCE + "```"
    cutter = BlockCutter()
    assert (cutter(reply), parse_reply(reply).code) == (None, "FINAL('guess')\n")
    assert (cutter(reply + "repl\ny\n"), parse_reply(reply + "repl\ny\n").code) == (None, "y\n")


@given(st.text())
def test_streaming_and_whole_agree(text: str) -> None:
    """Where the stream would be cut never changes which code is found."""
    reply = f"{text[:20]}\n```repl\nprint(1)\n```\n{text}"
    at = cut_at(reply, False)
    assert parse_reply(reply[:at], thinks=False) == parse_reply(reply, thinks=False)


@given(st.text(alphabet="~`a\n", max_size=80))
def test_nothing_inside_can_close_the_fence(text: str) -> None:
    """The closing fence of an observation occurs in it exactly once as a line: at its end."""
    lines = fenced(text).split("\n")
    assert lines[0] == lines[-1]
    assert lines[0] not in lines[1:-1]


def captured(text: str) -> Captured:
    raw = text.encode()
    if len(raw) <= 131072:
        return Captured(text, "", len(raw))
    return Captured(text[:65536], text[-65536:], len(raw), len(raw) - 131072)


@given(st.integers(0, 300_000))
def test_output_is_bounded_and_its_true_length_stated(size: int) -> None:
    """However much a cell printed, the observation is small and the bytes add up."""
    text = observation_text(StepResult("ok", stdout=captured("x" * size)), remaining=Remaining(3))
    assert len(text) < 9_000
    if size > 8_000:
        assert f"{size:,} bytes" in text
        left_out = int(text.split("[... ")[1].split(" bytes")[0].replace(",", ""))
        assert left_out + text.count("x") == size


def test_what_is_not_utf8_is_said() -> None:
    """How many documents, where all were looked at; of more there may be others."""
    said = [
        opening("Q?", facts=InputFacts(9, 10), context=context, payload=9_000, remaining=Remaining(30))[1]
        for context in (
            ContextFacts("documents", 9, 10, 10, 1, True, lossy=2),
            ContextFacts("documents", 9, 10, None, 1, False, lossy=2),
            ContextFacts("text", 1, 10, None, 1, False, lossy=1),
        )
    ]
    assert [line for text in said for line in text.splitlines() if "UTF-8" in line] == [
        "- 2 of it not valid UTF-8, read as Latin-1",
        "- at least 2 of it not valid UTF-8, read as Latin-1",
        "- 1 of it not valid UTF-8, read as Latin-1",
    ]


def test_an_observation_carries_what_is_left_at_its_tail() -> None:
    """Counters go last, so that everything before them can be cached."""
    left = Remaining(turns=28, subcalls=498, seconds=61, usd=0.97)
    text = observation_text(StepResult("error", error="NameError: x"), remaining=left)
    assert text.splitlines()[-1].startswith("[left: 28 turns, 498 sub-calls, $0.97")


def test_the_root_is_told_of_calls_that_it_did_not_wait_for() -> None:
    """Else it would wonder, a turn later, where its replies are."""
    told = [observation_text(StepResult("ok", given_up=number), remaining=Remaining(3)) for number in (0, 1, 2_000)]
    assert ["had not come" in text for text in told] == [False, True, True]
    assert "1 reply had" in told[1]
    assert "2,000 replies had" in told[2]


def test_the_root_is_told_the_schema() -> None:
    """Before it writes its first line, not only when an answer is refused; nothing in it can close its fence."""
    context = ContextFacts("str", 1, 10, 10, 1, True)
    schema = '{"type": "integer", "title": "~~~~"}'
    asked: Any = {"facts": InputFacts(1, 10), "context": context, "payload": 300_000, "remaining": Remaining(30)}
    told = opening("Q?", **asked, schema=schema)[1]
    assert f"must satisfy this JSON Schema:\n{fenced(schema)}" in told
    assert "Schema" not in opening("Q?", **asked)[1]


def test_the_system_prompt_is_short() -> None:
    """Under 1,200 tokens at four characters a token; the sub-call payload is one number throughout."""
    context = ContextFacts("str", 1, 10, 10, 1, True)
    system, user = opening("Q?", facts=InputFacts(1, 10), context=context, payload=300_000, remaining=Remaining(30))
    assert len(system) / 4 < 1_200
    assert system.count("300,000") == 2
    assert "Q?" in user


def test_evidence_is_asked_for_or_not_mentioned() -> None:
    """--no-cite: not a word of it."""
    context, facts = ContextFacts("str", 1, 10, 10, 1, True), InputFacts(1, 10)
    asked, not_asked = (
        opening("Q?", facts=facts, context=context, payload=9, remaining=Remaining(30), cite=cite)[0]
        for cite in (True, False)
    )
    assert "`FINAL(value, evidence=[...])`" in asked
    assert "evidence=" not in not_asked + asked.replace("evidence=[...]", "")
    assert "{evidence}" not in asked + not_asked


def test_the_root_is_told_which_kind_of_text_it_has() -> None:
    """A lazy text is named in the facts, and the system prompt says what differs from a str."""
    context = ContextFacts("text", 1, 5_000_000_000, None, 48_000_000, False)
    facts = InputFacts(1, 5_000_000_000)
    system, user = opening("Q?", facts=facts, context=context, payload=300_000, remaining=Remaining(30))
    assert "`context` is a Text, too large to be a str: 5.0 GB, about 48,000,000 lines" in user
    assert "`for piece in chunks(context, 50_000)`" in user
    assert "a `Text`, too large for one, which works like one" in system


def test_every_helper_in_the_system_prompt_exists() -> None:
    """What is promised is in the session, and each has words of help with an example or its shapes."""
    context = ContextFacts("documents", 2, 10, 10, 1, True)
    system, user = opening("Q?", facts=InputFacts(2, 10), context=context, payload=300_000, remaining=Remaining(30))
    promised = set(re.findall(r"`([a-zA-Z_]+)\(", system)) - {"str", "list"}
    assert promised - set(FUNCTIONS) == set()
    assert {"grep", "chunks", "draw_sample", "csv_rows", "json_rows", "line_of", "estimate_tokens"} <= promised
    assert all(len(getattr(Helpers, name).__doc__) > 20 for name in FUNCTIONS)
    assert "`for name, text in context.items()`" in user


@pytest.mark.parametrize(("window", "chars"), [(None, 72_000 // 10_000 * 10_000), (128_000, 360_000), (2_000, 4_000)])
def test_the_payload_fits_the_window(window: int | None, chars: int) -> None:
    """One round number, safely inside the sub-model's window."""
    assert payload_chars(window) == chars


PIECES = ["`", "```", "~~~", "\n", "repl", "py", "x = 1", '"""', "'", "</think>", "<think>", " "]


@given(st.lists(st.sampled_from(PIECES)), st.sampled_from([None, True, False]))
def test_pieces_and_whole_agree_on_where_to_cut(parts: list[str], thinks: bool | None) -> None:
    """However the text came, a cutter that saw it grow says what one says that sees it for the first time."""
    growing, text = BlockCutter(thinks), ""
    for part in parts:
        text += part
        assert growing(text) == BlockCutter(thinks)(text)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ('<tool_call>{"name": "python", "arguments": {"code": "print(1)"}}</tool_call>', "print(1)"),
        ('I look.\n<tool_call>\n{"name": "x", "arguments": "{\\"code\\": \\"a = 1\\"}"}\n</tool_call>', "a = 1"),
        ('{"code": "print(2)\\nprint(3)"}', "print(2)\nprint(3)"),
        ('{"name": "repl", "parameters": {"source": "y"}}', "y"),
        ("<|python_tag|>print(4)<|eom_id|>", "print(4)"),
        ("Thoughts.\n<code>\nprint(5)\n</code>", "print(5)"),
        ("I plan.\n```\nnot this\n```\n</think>\n```repl\nprint(6)\n```", "print(6)\n"),
        ('Hm.</think>{"code": "print(6)"}', "print(6)"),
        ('<tool_call>{"code": "x = \\"ends with </think>\\""}</tool_call>', 'x = "ends with </think>"'),
        ("<think>\n```repl\nno\n```\n</think>\n```repl\nprint(7)\n```", "print(7)\n"),
        ("~~~python\nprint(8)\n~~~", "print(8)\n"),
        ("```repl\n1\n```\n<code>2</code>", "1\n"),
    ],
)
def test_other_ways_to_write_code(reply: str, code: str) -> None:
    """What models write that were trained to call tools, or whose thinking is not opened."""
    assert parse_reply(reply).code == code


@pytest.mark.parametrize(
    "reply",
    ['{"answer": 42}', "<tool_call>go</tool_call>", "a <code>", '{"code": 7}', '<tool_call>{"a": [}</tool_call>'],
)
def test_what_only_looks_like_code_is_not_run(reply: str) -> None:
    """JSON that carries none, tags that say nothing."""
    assert parse_reply(reply).code == ""


@pytest.mark.parametrize(
    "reply",
    [
        "<code>" * 200_000,
        "<code>" + " " * 1_000_000,
        "<|python_tag|>x" + " " * 1_000_000 + "</think>",
        "```" + " " * 1_000_000 + "`",
        "~" * 1_000_000 + "`",
        "```" + "x" * 1_000_000 + "`",
    ],
    ids=["tags", "blanks", "rest", "fence", "tildes", "word"],
)
def test_no_reply_makes_the_search_slow(reply: str) -> None:
    """A megabyte that begins a call, or a fence, at every place and never ends it; patterns took hours."""
    assert parse_reply(reply).code in ("", "x" + " " * 1_000_000 + "</think>")


def test_rlm_query_is_what_the_depth_allows() -> None:
    """Above depth 1 it is told as a run of its own; at the limit as the plain call that it is there."""
    flat, deep = (system_text(payload=300_000, depth=depth) for depth in (1, 2))
    assert ("a run like this one" in flat, "a run like this one" in deep) == (False, True)
    assert "4. `rlm_query`" in deep
    assert "4. `rlm_query`" not in flat
    assert "{" not in (flat + deep).replace("{i}", "").replace("{s}", "").replace("{len(hits)}", "")


def test_without_sub_calls_the_prompt_teaches_none() -> None:
    """Depth 0: shorter, no word of another model but that there is none, and no marks of the file in either."""
    with_calls, without = (system_text(payload=300_000, depth=depth) for depth in (1, 0))
    assert not re.search(r"query|sub-|chunks of|\{", without)
    assert "no other model" in without
    assert "llm_query_batched" in with_calls
    assert "no other model" not in with_calls
    assert "{sub}" not in with_calls + without
    assert len(without) < len(with_calls) * 0.7
