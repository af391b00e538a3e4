"""What the comparison found in the peer library, and that ours has none of it: no call is sent twice or lost from the
books, and a child's sub-calls go to the sub-model (`make differential` shows the peers' own figures)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from .__main__ import Compared
from .harnesses import Harness, Ran, write_corpus
from .trajectories import DIALECTS, FINISH, RECURSIVE, TRAJECTORIES, Dialect, Trajectory, reply, spelled

pytestmark = pytest.mark.docker
BY_NAME = {trajectory.name: trajectory for trajectory in TRAJECTORIES}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("differential") / "corpus.txt"
    write_corpus(path, 240)
    return path


def test_batches_after_the_first_send_nothing_twice(corpus: Path) -> None:
    """Three batches of two prompts: six requests received, six reported, six asked, each prompt once. (A client that is
    bound to one event loop and used from another sends some again: `rlms` sends nine.)"""
    ran = Harness("rlm").run(BY_NAME["map_several"], corpus)
    assert (ran.status, ran.sub_calls, set(ran.prompts.values())) == (0, 6, {1}), ran.said
    assert ran.reported["all"] == sum(ran.received.values()) == 4 + 6


def test_what_children_call_is_reported_and_goes_to_the_sub_model(corpus: Path) -> None:
    """Two child runs of three sub-calls each: all are in the totals, and no sub-call is paid at the root's price."""
    ran = Harness("rlm").run(RECURSIVE, corpus)
    assert (ran.status, ran.received["sub/e00"]) == (0, 6), ran.said
    assert ran.reported["all"] == sum(ran.received.values())
    # The root's four turns and four of each child; a sub-call among them would be one more.
    assert ran.roots == ran.received["root/rlm-recursive"] == 4 + 2 * 4


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("trajectory", [*TRAJECTORIES, RECURSIVE], ids=lambda one: one.name)
def test_every_block_is_python_in_every_dialect(trajectory: Trajectory, dialect: Dialect) -> None:
    """No hole is left open, and only the block that is meant to be broken is."""
    for block in (*trajectory.blocks, *trajectory.child_blocks):
        code = spelled(block, dialect)
        assert not FINISH.search(code) and "ASK_CHILD" not in code
        assert code in reply(block, dialect)
        if "unclosed" not in block:
            compile(code, trajectory.name, "exec")


def ran(answer: str, calls: int, *, reported: int | None = None, status: int = 0) -> Ran:
    received = {"root/x": 2, "sub/e00": calls}
    said = {"all": 2 + calls if reported is None else reported}
    return Ran(answer, 2, Counter({f"p{n}": 1 for n in range(calls)}), said, received, status)


@pytest.mark.parametrize(
    ("ours", "peer", "said"),
    [
        (ran("a", 2), ran("b", 2), "answers 'b'"),
        (ran("a", 2, reported=3), ran("a", 2), "ours reports"),
        (ran("a", 3), ran("a", 2), "asks its sub-model something else"),
        (ran("a", 2, status=1), ran("a", 2), "ours failed"),
        (ran("a", 2), ran("a", 2, status=1), "rlms failed"),
    ],
)
def test_a_difference_is_seen(ours: Ran, peer: Ran, said: str) -> None:
    """The comparison by two runs that differ in one thing; two that do not are as they must be."""
    wrong = list(Compared(BY_NAME["grep"], "sub/e00", {"rlm": ours, "rlms": peer}).wrong())
    assert len(wrong) == 1 and said in wrong[0]
    assert list(Compared(BY_NAME["grep"], "sub/e00", {"rlm": ran("a", 2), "rlms": ran("a\n", 2)}).wrong()) == []
