"""A01-A30 (`make e2e`). Each runs as itself: the processes of two cases at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from . import all_cases
from .case import SEED
from .invariants import violations
from .runner import Evidence, runs_of

pytestmark = pytest.mark.docker

CASES = all_cases()
AT_ONCE = 2


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[list[Evidence]]]]:
    """What the selected cases left behind, as it becomes known."""
    selected = [
        name for name in CASES if any(item.name == f"test_case[{titled(name)}]" for item in request.session.items)
    ]

    def evidence(case_id: str, folder: Path) -> list[Evidence]:
        return list(runs_of(CASES[case_id], folder))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(evidence, name, tmp_path_factory.mktemp(name)) for name in selected}
        pool.shutdown(cancel_futures=True)


def titled(name: str) -> str:
    return f"{name}-{CASES[name].title.replace(' ', '_')}"


@pytest.mark.parametrize("name", CASES, ids=titled)
def test_case(runs: dict[str, Future[list[Evidence]]], name: str) -> None:
    """The answer is the generator's own, all twelve invariants hold, and what else the case is about."""
    for evidence in runs[name].result():
        assert violations(evidence) == [], f"RLM_E2E_SEED={SEED}"
        if evidence.setup.answer is not None:
            assert evidence.text.rstrip("\n") == evidence.setup.answer.rstrip("\n"), f"RLM_E2E_SEED={SEED}"
        evidence.setup.check(evidence)
