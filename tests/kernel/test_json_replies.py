"""Schemas, and JSON found in what models say: against jsonschema, and for every wrapping."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, Optional

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.sandbox import Answer, SubCall, SubReply
from rlm_cli.sandbox.kernel.calls import FailedCall
from rlm_cli.sandbox.kernel.json_replies import REPAIRS, ask_for_values, value_of
from rlm_cli.sandbox.kernel.json_values import candidates, parse
from rlm_cli.sandbox.kernel.schemas import Schema, SchemaError, schema_of

from .local import FakeHost
from .test_kernel import cells, shown

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.text('ab`\n{[]}"\\<', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
LEAVES = st.one_of(
    TYPES.map(lambda name: {"type": name}),
    st.lists(TYPES, min_size=1, max_size=2, unique=True).map(lambda names: {"type": names}),
    st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
    st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]).flatmap(
        lambda name: st.integers(-2, 2).map(lambda bound: {name: bound})
    ),
    st.sampled_from(["minLength", "maxLength", "minItems", "maxItems"]).flatmap(
        lambda name: st.integers(0, 3).map(lambda bound: {name: bound})
    ),
    st.sampled_from([{"pattern": "a+b"}, {"pattern": "^a"}, {"uniqueItems": True}, True, False, {}]),
)


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    names = st.lists(st.sampled_from("abc"), max_size=2, unique=True)
    members = st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    return st.one_of(
        inner.map(lambda one: {"items": one}),
        st.builds(lambda p, r, a: {"properties": p, "required": r, "additionalProperties": a}, members, names, inner),
        st.builds(lambda name, all_of: {name: all_of}, st.sampled_from(["anyOf", "oneOf", "allOf"]), several),
        inner.map(lambda one: {"$ref": "#/$defs/x", "$defs": {"x": one}}),
    )


SCHEMAS = st.recursive(LEAVES, combined, max_leaves=4)


def has_reference(schema: Any) -> bool:
    return "$ref" in json.dumps(schema)


@given(SCHEMAS, VALUES)
def test_the_validator_agrees_with_jsonschema(schema: Any, value: Any) -> None:
    """Over everything it supports, references to the top level included."""
    if has_reference(schema) and not (
        isinstance(schema, dict) and "$ref" in schema and not has_reference(schema["$defs"])
    ):
        return  # generated references are meant from the top
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert (Schema(schema).errors(value) == "") is expected


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "strin"}, "schema.type must be one of object"),
        ({"name": "string"}, "the keyword \"name\" is not supported; write {'type': 'object'"),
        ({"properties": {"a": {"format": "date"}}}, 'schema.properties.a: the keyword "format" is not supported'),
        ({"pattern": "("}, "schema.pattern is no regular expression"),
        ({"$ref": "http://x/y"}, "only places in the same schema"),
        ({"$ref": "#/$defs/x"}, "leads nowhere"),
        ({"anyOf": []}, "must be a list of schemas"),
        ({"minLength": -1}, "must be a number >= 0"),
        ({"items": 3}, "schema.items must be an object"),
        ({"const": {1, 2}}, "the schema is not JSON"),
        (set, "not <class 'set'>"),
        (dict[int, str], "not dict[int, str]"),
    ],
)
def test_a_wrong_schema_is_an_error(schema: Any, says: str) -> None:
    """What is not known is never ignored."""
    with pytest.raises(SchemaError) as raised:
        Schema(schema)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "schema"),
    [
        (int, {"type": "integer"}),
        (object, {}),
        (None, {"type": "null"}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (Literal["a", 2], {"enum": ["a", 2]}),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045 - Python 3.9's form
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (
            {"a": str, "b": {"type": "array"}},
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "array"}},
                "required": ["a", "b"],
                "additionalProperties": False,
            },
        ),
        ({"enum": [1]}, {"enum": [1]}),
    ],
)  # fmt: skip
def test_types_are_shorthand(spec: Any, schema: Any) -> None:
    """Python's types, nested, and a dict of them."""
    assert schema_of(spec) == schema


def test_a_schema_that_never_ends() -> None:
    """A schema that is its own reference is an error value, not a crash."""
    assert "too deeply" in Schema({"$ref": "#"}).errors(1)
    tree = Schema({"properties": {"next": {"$ref": "#"}}, "required": ["id"]})
    assert tree.errors({"id": 1, "next": {"id": 2}}) == ""
    assert tree.errors({"id": 1, "next": {}}) == "the value.next lacks the member 'id'"


# -- finding JSON

BEFORE = [
    "",
    "Sure, here it is:\n",
    '<think>maybe {"no": 1}\n```json\n[7]\n```</think>',
    "thinking [1]</think>\n",
    "<Reasoning>[2]</Reasoning>",
    "As [note] says, ",
]
AFTER = ["", "\nI hope this helps.", "\n\n(see [above])"]


@given(
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3) | st.lists(VALUES, max_size=3),
    st.sampled_from(BEFORE), st.sampled_from(AFTER), st.booleans(), st.sampled_from([None, 2]),
)  # fmt: skip
def test_json_is_found_in_any_wrapping(value: Any, before: str, after: str, fenced: bool, indent: int | None) -> None:
    """After prose or thinking, in a fence, before more prose."""
    text = json.dumps(value, indent=indent)
    if "`" in text or "<" in text:  # fences and thinking inside of strings: only the plain reply is certain
        assert [*candidates(text)] == [value]
        return
    reply = before + (f"```json\n{text}\n```" if fenced else text) + after
    assert value in [*candidates(reply)]
    assert value_of(reply, Schema({"const": value})) == (value, "")


@pytest.mark.parametrize("value", ["a </think> b", {"pattern": "<think>.*</think>"}, ["</think>", "<reasoning>"]])
def test_a_tag_of_thinking_may_be_in_a_string(value: Any) -> None:
    """A reply that is JSON is taken at its word, also after thinking."""
    assert [*candidates(json.dumps(value))] == [value]
    assert [*candidates("</think>" + json.dumps("x"))] == ["x"]


@given(VALUES)
def test_scalars_alone_are_json(value: Any) -> None:
    """The whole reply may be any value."""
    assert [*candidates(f"  {json.dumps(value)}\n")] == [value]


@given(st.text('{}[]"a1, :\\`\n<think/>', max_size=60))
def test_no_reply_breaks_it(reply: str) -> None:
    """It finds what json agrees with, or says why there is nothing."""
    for value in candidates(reply):
        json.dumps(value)
    value, wrong = value_of(reply, Schema(False))
    assert value is None
    assert wrong


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1), min_size=1), st.integers(1, 40))
def test_parts_of_a_broken_value_do_not_count(value: list[Any], cut: int) -> None:
    """A list that breaks off is not its last whole item."""
    text = json.dumps(value)[: -min(cut, len(json.dumps(value)) - 3)]
    assert [*candidates(f"Here: {text}")] == []


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("", "it is empty"),
        ("<think>x</think>", "it is empty"),
        ("I'm sorry.", "it holds no JSON"),
        ('{"a": 1', "its JSON breaks off at the end"),
        ('{"a": 1,, "b": 2}', "its JSON is broken: Expecting property name"),
        ("[" * 100_000, "recursion depth"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[1, 2]", "the value must be object, not [1, 2]"),
    ],
)
def test_why_there_is_nothing(reply: str, says: str) -> None:
    """The reason goes back to the model, so it must help."""
    assert says in value_of(reply, Schema(dict))[1]


def test_strings_may_hold_line_ends() -> None:
    """What models forget to escape."""
    assert parse('{"a": "x\ny"}') == {"a": "x\ny"}


# -- asking


def test_repairs_are_bounded_and_differ() -> None:
    """Each prompt is another one, since the same would have the same reply; only the wrong ones are asked again."""
    asking = ask_for_values(["one", "two", "three"], list[int])
    rounds = [next(asking)]
    assert all("satisfy this JSON Schema" in prompt and prompt.count("Schema") == 1 for prompt in rounds[0])
    rounds.append(asking.send(["[1]", "no", FailedCall("refused")]))
    rounds.extend(asking.send(["no"]) for _ in range(REPAIRS - 1))
    with pytest.raises(StopIteration) as done:
        asking.send(["still no"])
    first, second, third = done.value.value
    assert (first, second.reply, third.error) == ([1], "still no", "refused")
    assert second.error == "no usable reply in 3 attempts: it holds no JSON"
    assert [len(prompts) for prompts in rounds] == [3, 1, 1]
    assert len({prompts[-1] for prompts in rounds}) == len(rounds)


def typed(prompt: str) -> str:
    """Wrong at first, right when it is told why."""
    if "never" in prompt:
        return "I would rather not."
    return '<think>[0]</think>```json\n["a", "b"]\n```' if "attempt 2" in prompt else '{"names": ["a"]}'


@pytest.mark.parametrize(
    ("code", "output"),
    [
        ("llm_query('q', schema=list[str])", "['a', 'b']\n"),
        ("await allm_query('q', schema=list[str])", "['a', 'b']\n"),
        ("llm_query_batched(['q', 'never'], schema=list[str])",
         "[['a', 'b'], FailedCall('no usable reply in 3 attempts: it holds no JSON')]\n"),
        ("(await allm_query_batched(['never'], schema=list[str]))[0].reply", "'I would rather not.'\n"),
        ("try: llm_query('never', schema=int)\nexcept SubcallError as e: print(e.reply, '|', e)",
         "I would rather not. | no usable reply in 3 attempts: it holds no JSON\n"),
        ("import pickle; f = llm_query_batched(['never'], schema=int)[0]; pickle.loads(pickle.dumps(f)).reply",
         "'I would rather not.'\n"),
        ("llm_query_batched([], schema=int)", "[]\n"),
    ],
)  # fmt: skip
def test_typed_queries_in_a_cell(code: str, output: str) -> None:
    """Parsed values, or an error that has the reply."""
    (result,) = cells(code, host=FakeHost(typed))
    assert (shown(result), result.error) == (output, "")


# -- child runs


class FakeRuns(FakeHost):
    """Answers to rlm_query: text as a plain call gives it, or JSON values as children do."""

    async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
        self.calls.append(call)
        for index, prompt in enumerate(call.prompts):
            reply = self.reply(prompt)
            answer = Answer("json", reply[1:].encode()) if reply.startswith("!") else None
            deliver(index, SubReply(True, reply, answer))


def test_values_of_child_runs() -> None:
    """A child's value is checked and never run for again; a plain call's text, at the deepest level, is read as JSON,
    and asked for again."""
    replies = {"child": "![1, 2]", "wrong": '!["a"]', "text": "So: [3]", "never": "no"}

    def reply(prompt: str) -> str:
        name, _, repair = prompt.partition("\n\n")
        return "[4]" if name == "never" and "attempt 3 of 3" in repair else replies[name]

    host = FakeRuns(reply)
    (result,) = cells(
        "got = rlm_query_batched(['child', 'wrong', 'text', 'never'], schema=list[int])\n"
        "print(got[0], got[2], got[3], got[1].error, got[1].reply)",
        host=host,
    )
    assert shown(result) == (
        "[1, 2] [3] [4] no usable reply in 1 attempts: the value[0] must be integer, not \"a\" ['a']\n"
    )
    assert [len(call.prompts) for call in host.calls] == [4, 1, 1]
    assert {json.loads(call.schema)["type"] for call in host.calls} == {"array"}
    assert host.calls[1].contexts == (None,)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("FINAL([1])", ""),
        ("FINAL('[1]')", ""),
        ("FINAL((1, 2))", ""),
        ("FINAL(['a'])", "must be integer"),
        ("FINAL('many')", "no JSON"),
        ("SUBMIT({'a': 1})", "must be array"),
    ],
)
def test_an_answer_is_checked_where_it_is_submitted(code: str, problem: str) -> None:
    """The host is told what is wrong, with the value; without a schema nothing is."""
    host = FakeHost()
    (plain,) = cells(code, host=host)
    host.schema = json.dumps(schema_of(list[int]))
    (result,) = cells(code, host=host)
    assert plain.answer is not None
    assert result.answer is not None
    assert (plain.answer.problem, result.answer.data) == ("", plain.answer.data)
    assert (problem in result.answer.problem, bool(result.answer.problem)) == (True, bool(problem))
