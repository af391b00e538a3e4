"""docs/PROTOCOL.md says what the codec does: types, operations, limits."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_cli.sandbox import frames
from rlm_cli.sandbox.kernel import wire
from rlm_cli.sandbox.pump import AHEAD

ROOT = Path(__file__).parent.parent
SANDBOX = ROOT / "rlm_cli" / "sandbox"
TEXT = (ROOT / "docs" / "PROTOCOL.md").read_text("utf-8")
KIB, MIB = 1024, 1024 * 1024


def section(title: str) -> str:
    """Its heading and what is below."""
    found = re.search(rf"^## ({title}.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def rows(title: str) -> list[tuple[str, list[str]]]:
    """(direction, what the second column names) of each row of the section's table."""
    direction, found = "", []
    for row in re.findall(r"^\|(.*)\|$", section(title), re.MULTILINE):
        cells = [cell.strip() for cell in row.split("|")]
        named = re.findall(r"`(\w+)`", cells[1])
        direction = cells[0] or direction
        if named:
            found.append((direction, named))
    return found


def test_the_version() -> None:
    """One number."""
    assert re.search(r"^Version (\d+)\.", TEXT, re.MULTILINE)[1] == str(wire.VERSION)  # type: ignore[index]


def test_outer_types() -> None:
    """Each type byte of the codec is a row, in its direction, and each row is a type byte."""
    listed = rows("Outer frames")
    host = {name for way, names in listed if way.startswith("host") for name in names}
    kernel = {name for way, names in listed if way.startswith("PID 1") for name in names}
    assert ({*host}, {*kernel}) == (set(wire.FROM_HOST.decode()), set(wire.FROM_SUPERVISOR.decode()))


def operations(paths: Iterator[Path]) -> set[str]:
    """The `op` of every message that these modules write: the value of a literal {"op": ...}."""
    found = set[str]()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                found |= {
                    value.value
                    for key, value in pairs
                    if isinstance(key, ast.Constant) and key.value == "op"
                    if isinstance(value, ast.Constant) and isinstance(value.value, str)
                }
    return found


def test_worker_operations() -> None:
    """What each side writes into a worker frame is a row; what the host can parse is what the worker may write."""
    listed = rows("Worker frames")
    to_worker = {names[0] for way, names in listed if way == "to worker"}
    to_host = {names[0] for way, names in listed if way == "to host"}
    streamed = set(re.findall(r'"op": "(\w+)"', section("Streaming the corpus")))
    assert operations(SANDBOX.glob("*.py")) == to_worker | streamed
    assert operations((SANDBOX / "kernel").glob("*.py")) == to_host
    assert {*frames._WORKER, "done"} == to_host


@pytest.mark.parametrize(
    ("title", "said", "number"),
    [
        ("Outer frames", r"Limit: (\d+) MiB a payload", wire.PAYLOAD_MAX // MIB),
        ("Outer frames", r"it is (\d+) MiB and 64 KiB", (wire.WORKER_MAX - wire.HEADER_MAX) // MIB),
        ("Outer frames", r"Head and tail are (\d+) KiB each", wire.KEEP // KIB),
        ("Worker frames", r"JSON header \(<= (\d+) KiB\)", wire.HEADER_MAX // KIB),
        ("Worker frames", r"a piece \(<= (\d+) KiB\)", wire.PART_MAX // KIB),
        ("Answers", r"stops reading when (\d+) MiB waits", AHEAD // MIB),
        ("Worker frames", r"These are (\d+) KiB each", wire.SAMPLE // KIB),
        ("Streaming the corpus", r"with at most (\d+) KiB of payload", wire.PIECE // KIB),
        ("Streaming the corpus", r"descriptor (\d+) \+ k", wire.BLOB_FD),
        ("Streaming the corpus", r"at most (\d+) `call` frames", wire.CALLS_MAX),
        ("Answers", r"At most ([\d,]+) lines", wire.QUOTES_MAX),
        ("Answers", r"([\d,]+) characters a quote", wire.QUOTE_CHARS),
        ("Violations", r"header over (\d+) KiB", wire.HEADER_MAX // KIB),
    ],
)
def test_limits(title: str, said: str, number: int) -> None:
    """A number in the text is the number in the code."""
    found = re.search(said, section(title), re.MULTILINE)
    assert found, said
    assert int(found[1].replace(",", "")) == number


def test_limits_that_stand_in_a_row() -> None:
    """The largest batch of prompts, and the largest reply."""
    call = next(row for row in section("Worker frames").splitlines() if "| `call` |" in row)
    assert f"at most {wire.PROMPTS_COUNT_MAX:,} prompts and {wire.PROMPTS_MAX // MIB} MiB" in call
    attached = next(row for row in section("Worker frames").splitlines() if "| `attached` |" in row)
    assert f"at most {wire.PROOF_MAX // MIB} MiB" in attached
