"""The registry is complete, points at tests that exist, and docs/SECURITY.md says what it says."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from .backends import BACKENDS
from .cases import CASES
from .rows import Case, Elsewhere, Pending, Probe
from .table import SECURITY, filled

ROOT = Path(__file__).parents[3]
COUNTS = {"A": 17, "B": 12, "C": 18, "D": 10, "E": 18, "F": 8, "G": 16, "H": 10}


def test_every_case_is_there_once_and_in_order() -> None:
    """A01 to H10: 109."""
    expected = [f"{letter}{number:02}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
    assert [case.id for case in CASES] == expected
    assert len(expected) == 109


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_case_is_shown_on_every_back_end(case: Case) -> None:
    """By a probe or a test; or the row says why not, or what else happens there. Nobody is still at work on it."""
    assert [proof.who for proof in case.proofs if isinstance(proof, Pending)] == []
    assert [name for name in BACKENDS if not case.proofs_on(name) and name not in case.on] == []
    assert all(differs.reason for differs in case.on.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_probe_has_a_control_or_says_why_not(case: Case) -> None:
    """And its name is its own; what differs on a back-end names a probe that exists."""
    names = [probe.name for probe in case.probes]
    assert len(set(names)) == len(names)
    assert all((probe.control is None) == bool(probe.why) for probe in case.probes)
    assert {name for differs in case.on.values() for name in differs.says} <= set(names)


def nodes() -> list[str]:
    return sorted(
        {node for case in CASES for proof in case.proofs if isinstance(proof, Elsewhere) for node in proof.nodes}
    )


@functools.cache
def functions(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef))


def missing(wanted: list[str]) -> list[str]:
    """The node ids that name no test."""
    split = [node.partition("::") for node in wanted]
    return [
        path + "::" + name
        for path, _, name in split
        if not (ROOT / path).is_file() or name not in functions(ROOT / path)
    ]


def test_every_test_that_is_named_exists() -> None:
    """A test that is renamed or removed is missed here; one that never was is noticed."""
    assert missing(nodes()) == []
    assert len(nodes()) > 100
    absent = "tests/sandbox/catalogue/test_registry.py::test_nothing_of_the_kind"
    assert missing([absent, "tests/no_such_file.py::test_x", *nodes()]) == [absent, "tests/no_such_file.py::test_x"]


def test_the_published_table_is_the_registrys() -> None:
    """`python -m tests.sandbox.catalogue.table` would change nothing."""
    text = SECURITY.read_text("utf-8")
    assert filled(text, sorted(BACKENDS)) == text
    assert all(f"| {case.id} |" in text for case in CASES)


def test_back_ends_that_are_named_exist() -> None:
    """The registry speaks of no back-end that nobody opens."""
    only = {
        name for case in CASES for proof in case.proofs if isinstance(proof, Probe | Elsewhere) for name in proof.only
    }
    assert only | {name for case in CASES for name in case.on} <= set(BACKENDS)
