"""Each invariant, shown what it must not let pass; and the statistics that a single case cannot show."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlm_cli.events import CallFinished, RunFinished, Warned
from tests.loopback import code, default_label, steps

from . import all_cases, runner
from .aggregate import voted
from .case import Case, Lab, Setup
from .invariants import INVARIANTS, LEAST_MEMORY, violations
from .runner import DOORS, PROBE, CanaryPort, Evidence, runs_of

pytestmark = pytest.mark.docker


def small(lab: Lab) -> Setup:
    lab.write("a.txt", "\n".join(lab.hidden([lab.words(9) for _ in range(300)])))
    return Setup(
        "How many lines?",
        sources=("a.txt",),
        policy=steps(code("print(llm_query('item 1: x'))"), code("FINAL(len(context.splitlines()))")),
        answer="301",
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Of a run with nothing wrong."""
    (evidence,) = runs_of(Case("small", "small", small), tmp_path_factory.mktemp("sound"))
    assert violations(evidence) == []
    return evidence


def with_prompt(evidence: Evidence, text: str) -> Evidence:
    """Its last root prompt says this too."""
    last = evidence.requests[-1]
    messages = (*last.messages, {"role": "user", "content": text})
    return replace(evidence, requests=(*evidence.requests[:-1], replace(last, messages=messages)))


def recounted(evidence: Evidence, **calls: int) -> Evidence:
    return replace(evidence, result=replace(evidence.result, calls=replace(evidence.result.calls, **calls)))


def without_last_tokens(evidence: Evidence) -> Evidence:
    """As if the last call's usage had been lost."""
    usage = evidence.result.usage
    total = replace(usage.total, output=usage.total.output - 1)
    return replace(evidence, result=replace(evidence.result, usage=replace(usage, total=total)))


def in_records(evidence: Evidence, kind: type) -> int:
    return next(n for n, record in enumerate(evidence.records) if isinstance(record.event, kind))


def without_record(evidence: Evidence, kind: type) -> Evidence:
    at = in_records(evidence, kind)
    return replace(evidence, records=evidence.records[:at] + evidence.records[at + 1 :])


def with_odd_record(evidence: Evidence) -> Evidence:
    records = [*evidence.records]
    records[-1] = replace(records[-1], event=Warned("the end"))
    return replace(evidence, records=tuple(records))


VIOLATIONS: dict[str, tuple[str, Callable[[Evidence], Evidence]]] = {
    "another exit code": ("I1", lambda e: replace(e, code=1)),
    "a result with another": ("I1", lambda e: replace(e, result=replace(e.result, exit_code=3))),
    "noise on stdout": ("I2", lambda e: replace(e, out=b"warning: x\n" + e.out)),
    "half an answer": ("I2", lambda e: replace(e, out=e.out[:1])),
    "a traceback": ("I2", lambda e: replace(e, err=e.err + "Traceback (most recent call last):")),
    "an escape": ("I2", lambda e: replace(e, err=e.err + "\x1b[2J")),
    "the key": ("I2", lambda e: replace(e, err=e.err + "sk-test-key-0123456789")),
    "an answer beside its file": ("I2", lambda e: replace(e, file=e.stored)),
    "a large prompt": ("I3", lambda e: with_prompt(e, "x" * 33_000)),
    "the canary": ("I4", lambda e: with_prompt(e, f"... {e.lab.canary} ...")),
    "a request too many": ("I5", lambda e: replace(e, requests=(*e.requests, e.requests[-1]))),
    "a call not counted": ("I5", lambda e: recounted(e, sub=0)),
    "tokens not counted": ("I5", without_last_tokens),
    "a call not recorded": ("I5", lambda e: without_record(e, CallFinished)),
    "money not counted": ("I5", lambda e: replace(e, result=replace(e.result, cost=replace(e.result.cost, usd=0.0)))),
    "too many at once": ("I6", lambda e: replace(e, in_flight=e.setup.concurrency + 1)),
    "a container": ("I7", lambda e: replace(e, left=("container rlm-1",))),
    "a written input": ("I8", lambda e: replace(e, after={**e.after, "a.txt": "other"})),
    "a new file": ("I8", lambda e: replace(e, after={**e.after, "b.txt": "new"})),
    "a lost record": ("I9", lambda e: without_record(e, RunFinished)),
    "a gap": ("I9", lambda e: without_record(e, CallFinished)),
    "no end": ("I9", with_odd_record),
    "another answer the second time": ("I9", lambda e: replace(e, replayed=b"7")),
    "a connection": ("I10", lambda e: replace(e, knocks=1)),
    "no attempt": ("I10", lambda e: replace(e, records=tuple(r for r in e.records if r.event.type != "output"))),
    "much memory": ("I11", lambda e: replace(e, peak=int(1.6 * LEAST_MEMORY))),
    "no measure of it": ("I11", lambda e: replace(e, peak=0)),
    "a long time": ("I12", lambda e: replace(e, seconds=10_000.0)),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_each_violation_is_seen(sound: Evidence, name: str) -> None:
    """By the invariant that it violates."""
    invariant, spoil = VIOLATIONS[name]
    assert invariant in [problem.split(":")[0] for problem in violations(spoil(sound))]


def test_each_invariant_is_violated_above() -> None:
    assert {invariant for invariant, _ in VIOLATIONS.values()} == set(INVARIANTS)


def test_what_is_left_over_is_found(tmp_path: Path) -> None:
    """A file in the temporary folder, in the scratch folder, in the run's own."""
    run = tmp_path / "rlm" / "runs" / "1"
    for path in (
        tmp_path / "tmp" / "x",
        tmp_path / "rlm" / "cache" / "scratch" / "y",
        run / "unpacked",
        run / "run.json",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = list(runner.left_over(tmp_path, run, pid=1 << 30))
    assert found == ["temporary tmp/x", "temporary rlm/cache/scratch/y", "in the run's folder: unpacked"]


def test_an_input_that_was_written_to_is_seen(tmp_path: Path) -> None:
    """Content, mode and name."""
    (tmp_path / "a").write_text("1")
    before = runner.fingerprints(tmp_path)
    assert runner.fingerprints(tmp_path) == before
    (tmp_path / "a").chmod(0o600)
    mode = runner.fingerprints(tmp_path)
    (tmp_path / "a").write_text("2")
    assert len({str(before), str(mode), str(runner.fingerprints(tmp_path))}) == 3


def test_the_probe_gets_out_where_there_is_a_way() -> None:
    """The same code on the host itself finds the door, and the port notices: a sandbox with a network would be seen."""
    with CanaryPort() as canary:
        probe = PROBE.format(port=canary.port, doors=DOORS, hosts=canary.hosts[:1], number=1)
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
        assert (done.stdout, canary.knocks) == (f"{DOORS} 1 of 1\n", 1)


def test_memory_is_measured() -> None:
    """Of a process that takes 200 MB for a moment, after the fact."""
    child = "x = bytearray(200_000_000); del x; print('done', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert 200_000_000 < runner.resident_peak(process.pid) < 260_000_000
        process.communicate(b"\n", timeout=60)


def test_a_vote_is_closer_than_one_pass() -> None:
    """A12 over 20 corpora: sub-models that err on 15 % of the items, one pass, and three with a vote."""
    errors = Counter[str]()
    for seed in range(20):
        ids = [f"q{random.Random(seed).getrandbits(30)}-{n}" for n in range(787)]
        truth, (single, vote) = sum(default_label(name) == "HUM" for name in ids), voted(ids)
        errors["single"] += abs(single - truth)
        errors["vote"] += abs(vote - truth)
    assert 0 < 2 * errors["vote"] < errors["single"]


def test_cases_are_the_thirty() -> None:
    """Every number once; and a case without an answer has something else that judges it."""
    assert sorted(all_cases()) == [f"A{number:02}" for number in range(1, 31)]
