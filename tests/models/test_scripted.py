"""The scripted model: replies in order, by role, and nothing made up."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.errors import ProviderError, TransientError, UsageError
from rlm_cli.events import Usage
from rlm_cli.models import spent_by
from rlm_cli.models.scripted import ERRORS, Line, ScriptedModel, parse_line, scripted_error
from tests.models.asking import as_model, request, run


def test_lines_are_played_by_role_in_order(tmp_path: Path) -> None:
    """Roles have queues of their own; `match` picks, `repeat` stays, `{prompt}` echoes; usage is as written."""
    script = tmp_path / "a.jsonl"
    lines = [
        "# a comment",
        json.dumps({"reply": ["one", "two"], "usage": {"input": 7, "output": 1}}),
        json.dumps({"role": "sub", "match": "March", "reply": "two charges"}),
        "",
        json.dumps({"role": "sub", "reply": "seen: {prompt}", "repeat": True}),
    ]
    script.write_text("\n".join(lines), "utf-8")
    model = as_model(ScriptedModel.load(script))
    root = run(model.complete(request(role="root")))
    subs = [run(model.complete(request(prompt=prompt))).text for prompt in ("April", "in March", "March again")]
    assert (root.text, root.usage) == ("one\ntwo", Usage(7, 1))
    assert subs == ["seen: April", "two charges", "seen: March again"]


def test_an_exhausted_script_says_what_was_asked() -> None:
    """No invention: the error shows the request that had no line."""
    with pytest.raises(ProviderError) as caught:
        run(ScriptedModel([]).complete(request(prompt="why?")))
    assert caught.value.code == "script_exhausted"
    assert "'why?'" in caught.value.message


def test_the_final_turn_takes_a_root_line_when_it_has_none() -> None:
    """Short scripts need no line for the last turn."""
    model = ScriptedModel([Line("a"), Line("b", role="final")])
    assert [run(model.complete(request(role="final"))).text for _ in range(2)] == ["b", "a"]


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_fresh_and_count_one_request(name: str) -> None:
    """Two uses of an error do not share what is noted on it."""
    first, second = scripted_error(name), scripted_error(name)
    assert (first is second, spent_by(first).attempts, first.code) == (False, 1, ERRORS[name].code)


def test_an_error_line_is_used_up() -> None:
    """`429` then a reply: what a retry meets."""
    model = ScriptedModel([Line(error="429", role="sub"), Line("fine", role="sub")])
    with pytest.raises(TransientError):
        run(model.complete(request()))
    assert run(model.complete(request())).text == "fine"


@given(text=st.text(max_size=200), end=st.integers(0, 200))
def test_streaming_and_cutting_agree(text: str, end: int) -> None:
    """The pieces shown add up to the text returned, cut or not."""
    pieces: list[str] = []
    one = request(role="root", cut=lambda: lambda seen: end if len(seen) > end else None)
    done = run(ScriptedModel([Line(text.replace("{prompt}", ""))]).complete(one, pieces.append))
    whole = text.replace("{prompt}", "")
    assert done.text == (whole[:end] if done.finish == "cut" else whole)
    assert "".join(pieces) == done.text


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "object"),
        ('{"reply": "x", "rolle": "sub"}', "unknown field rolle"),
        ('{"reply": "x", "role": "boss"}', "'boss' is not one of root, sub, final"),
        ('{"reply": 1}', "reply is a text"),
        ("{}", "either a reply or an error"),
        ('{"reply": "x", "error": "429"}', "either a reply or an error"),
        ('{"error": "418"}', "'418' is not one of"),
        ('{"reply": "x", "usage": {"input": -1}}', "whole numbers"),
        ('{"reply": "x", "usage": {"tokens": 1}}', "usage has"),
        ('{"reply": "x", "delay_s": "1"}', "delay_s"),
        ('{"reply": "x", "repeat": 1}', "repeat is true or false"),
    ],
)
def test_bad_lines_are_named(line: str, problem: str) -> None:
    """The message has the place and what is wrong with it."""
    with pytest.raises(UsageError) as caught:
        parse_line(line, "a.jsonl:3")
    assert caught.value.message.startswith("a.jsonl:3: ")
    assert problem in caught.value.message


@pytest.mark.parametrize(("name", "why"), [("none.jsonl", "No such file or directory"), ("latin.jsonl", "not UTF-8")])
def test_a_script_that_cannot_be_read_is_named_once(tmp_path: Path, name: str, why: str) -> None:
    """Its path, the reason, and how one is named."""
    (tmp_path / "latin.jsonl").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=why) as caught:
        ScriptedModel.load(tmp_path / name)
    assert (caught.value.message.count(name), caught.value.hint[:11]) == (1, "-m scripted")


@given(
    st.text(max_size=100) | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5).map(json.dumps)
)
def test_any_text_parses_or_is_refused(text: str) -> None:
    """A line is a `Line` or a `UsageError`, never a crash."""
    with contextlib.suppress(UsageError):
        assert isinstance(parse_line(text, "x"), Line)
