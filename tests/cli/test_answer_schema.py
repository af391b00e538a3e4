"""Answers against a schema, by the process that checks them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_cli.cli.answer_schema import load
from rlm_cli.errors import SchemaError, UsageError
from rlm_cli.sandbox import Answer
from rlm_cli.sandbox.spool import IN_MEMORY, Spool
from tests.ask.conftest import checkers_of, is_running, until

ENDLESS = '{"items": {"pattern": "^(a+)+$"}}'
NEVER_MATCHED = json.dumps(["a" * 60 + "b"]).encode()
"""What the pattern of `ENDLESS` tries for longer than anybody lives."""


def check(schema: str, *answers: Answer) -> list[str]:
    return asyncio.run(asyncio.wait_for(load(schema).check(answers), 60))


def test_problems_are_told_up_to_the_first_answer_that_fits() -> None:
    """In order; a text is JSON or it is not; of what comes after the one that fits nothing is said."""
    texts = ("six", "6.5", "6", "seven")
    first, second, third = check('{"type": "integer"}', *(Answer("text", text.encode()) for text in texts))
    assert "not JSON" in first
    assert second == "the value does not satisfy the schema at $: 6.5 is not of type 'integer'"
    assert third == ""


def test_a_large_answer_is_read_where_it_is(tmp_path: Path) -> None:
    """Beside one that is not: neither takes the other's bytes."""
    spool = Spool(tmp_path)
    spool.write(json.dumps(["x" * IN_MEMORY]).encode())
    large = Answer("json", spool.content())
    assert not isinstance(large.data, bytes)
    schema = '{"type": "array", "items": {"maxLength": 2}}'
    first, second, third = check(schema, Answer("json", b"{}"), large, Answer("json", b'["xx"]'))
    assert "{} is not of type 'array'" in first
    assert second.startswith("the value does not satisfy the schema at $[0]: 'xxx")
    assert second.endswith("xxx' is too long")
    assert len(second) < 600
    assert third == ""


def test_what_cannot_be_checked_is_an_error() -> None:
    """A schema that runs in circles over a value shows when it meets one."""
    circle = '{"properties": {"a": {"$ref": "#/properties/a"}}}'
    assert check(circle, Answer("json", b"{}")) == [""]
    with pytest.raises(SchemaError, match="could not be checked") as caught:
        check(circle, Answer("json", b'{"a": 1}'))
    assert caught.value.code == "schema_unchecked"


def test_a_check_that_is_ended_from_outside_is_an_error() -> None:
    """By the kernel, for its memory."""

    async def main() -> None:
        checking = asyncio.ensure_future(load(ENDLESS).check([Answer("json", NEVER_MATCHED)]))
        while not (checkers := checkers_of(os.getpid())):
            await asyncio.sleep(0)
        os.kill(checkers[0], signal.SIGKILL)
        with pytest.raises(SchemaError, match="ended from outside"):
            await checking

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("schema", ["no file", '{"type": 7}', "{", "[1]"])
def test_what_is_no_schema_is_refused_at_once(schema: str) -> None:
    with pytest.raises(UsageError):
        load(schema)


def test_a_check_that_is_not_waited_for_is_ended() -> None:
    """Or its thread would keep the command from ending, and its process the machine busy."""

    async def main() -> list[int]:
        checking = asyncio.ensure_future(load(ENDLESS).check([Answer("json", NEVER_MATCHED)]))
        while not (checkers := checkers_of(os.getpid())):
            await asyncio.sleep(0)
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking
        return checkers

    (child,) = asyncio.run(main())  # which waits for the thread
    until(lambda: not Path(f"/proc/{child}").exists())


def test_a_check_ends_with_the_command() -> None:
    """However that was ended."""
    script = (
        "import asyncio, sys; from rlm_cli.cli.answer_schema import load; from rlm_cli.sandbox import Answer\n"
        f"asyncio.run(load({ENDLESS!r}).check([Answer('json', {NEVER_MATCHED!r})]))"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as command:
        until(lambda: checkers_of(command.pid))
        (child,) = checkers_of(command.pid)
        command.send_signal(signal.SIGKILL)
    until(lambda: not is_running(child))
