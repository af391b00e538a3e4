"""`--schema`: what cannot be used is refused before the run, and nothing is fetched for it."""

from __future__ import annotations

import io
import json
import socket

import pytest

from rlm_cli.cli import answer_schema, validation
from rlm_cli.errors import UsageError


def problem(schema: object, value: object) -> str:
    """As the process that checks answers says it."""
    (said,) = validation.problems(json.dumps(schema), [len(data := json.dumps(value).encode())], io.BytesIO(data))
    return said


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"$ref": "#/nowhere"}, "'#/nowhere' leads nowhere"),
        ({"items": {"properties": {"a": {"$ref": "#/$defs/b"}}}}, "'#/$defs/b' leads nowhere"),
        ({"properties": {"a": True, "b": {"$dynamicRef": "#c"}}}, "'#c' leads nowhere"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"$ref": "#/b"}]}, "'#/b' leads nowhere"),
        ({"$ref": "#"}, "refers to itself"),
        ({"$ref": "http://[x"}, "leads nowhere"),
        ({"$schema": 3}, "not a valid JSON Schema"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_at_once(schema: object, word: str) -> None:
    """Not when the answer is there and paid for."""
    with pytest.raises(UsageError, match="--schema") as caught:
        answer_schema.load(json.dumps(schema))
    assert word in caught.value.message
    assert (caught.value.code, bool(caught.value.hint)) == ("schema", True)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}},
        {"$ref": "#n", "$defs": {"n": {"$anchor": "n", "type": "integer"}}},
        {"$id": "http://e.org/s", "$ref": "n", "$defs": {"n": {"$id": "n", "type": "integer"}}},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "$ref": "#/definitions/n",
            "definitions": {"n": {"type": "integer"}},
        },
        {"$ref": "https://json-schema.org/draft/2020-12/meta/validation#/$defs/nonNegativeInteger"},
        {"type": "integer", "default": {"$ref": "#/nowhere"}, "properties": {"$ref": {"type": "string"}, "$id": True}},
    ],
)
def test_what_a_schema_may_refer_to(schema: object) -> None:
    """Parts of itself by path, anchor or id, and the published schemas; what only looks like a reference is none."""
    answer_schema.load(json.dumps(schema))
    assert problem(schema, 3) == ""
    assert "does not satisfy the schema" in problem(schema, "three")


def test_nothing_is_fetched() -> None:
    """A server that is there is not asked: what a run may reach is what the person named as a source."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with pytest.raises(UsageError, match="nothing is fetched"):
            answer_schema.load(json.dumps({"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/x"}))
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("text", ["NaN", "-Infinity", '{"a": [1e999]}'])
def test_what_json_does_not_have_satisfies_nothing(text: str) -> None:
    """Python reads it as a number, and the result could only have a null in its place."""
    (said,) = validation.problems("{}", [len(text)], io.BytesIO(text.encode()))
    assert "it is not JSON" in said
    assert problem({"type": "number"}, 1e300) == ""
