"""The bugs still fit the code, and what is said of them is true. (Whether tests notice them: `make mutation`.)"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from .__main__ import ROOT, Copy, mutated, verdict
from .mutants import MUTANTS, OF_OURS, OF_THE_METHOD, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies(mutant: Mutant) -> None:
    """Its old text is there once, the result is Python and another program, and its tests exist."""
    original = (ROOT / "rlm_cli" / mutant.file).read_text("utf-8")
    assert mutated(original, mutant) != original
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text("utf-8")


def test_there_are_the_eleven_and_more() -> None:
    assert (len(OF_THE_METHOD), len(OF_OURS) >= 10) == (11, True)
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1


def test_a_mutant_that_does_not_apply_is_an_error() -> None:
    """A bug that fits nowhere, or in two places, or is no Python: all are said."""
    bug = Mutant("m", "x.py", "a = 1", "a = 2", ())
    for text in ("b = 1\n", "a = 1\na = 1\n"):
        with pytest.raises(ValueError, match="adapt the mutant"):
            mutated(text, bug)
    with pytest.raises(SyntaxError):
        mutated("a = 1\n", Mutant("m", "x.py", "a = 1", "a = =", ()))


def test_only_a_failing_test_is_a_bug_noticed() -> None:
    """Not a test that passes, and not an error in collecting: that would say nothing about the bug."""
    assert [verdict(status, good=1) for status in (1, 0, 2, 4, 5)] == [
        "noticed",
        "SURVIVES",
        "ERROR 2",
        "ERROR 4",
        "ERROR 5",
    ]


def test_every_change_of_the_copy_is_newer_than_the_last(tmp_path: Path) -> None:
    """Or Python would run what it compiled before."""
    (tmp_path / "rlm_cli").mkdir()
    path = tmp_path / "rlm_cli" / "x.py"
    path.write_text("a = 1\n")
    copy, ages = Copy(tmp_path), [int(path.stat().st_mtime)]
    for text in ("a = 2\n", "a = 1\n"):
        copy.write("x.py", text)
        ages.append(int(path.stat().st_mtime))
    assert len(set(ages)) == 3
    assert ages[1] < ages[2] < ages[0]
