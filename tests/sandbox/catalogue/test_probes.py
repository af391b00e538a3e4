"""The catalogue's probes against every back-end, and where they must succeed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_cli.sandbox import StepResult

from .canaries import HONEY, Canaries
from .cases import CASES
from .conftest import Bench
from .rows import Case, Probe, Says, Step

pytestmark = pytest.mark.docker

MIB = 1024**2
UNAVAILABLE = ("IndexError", "refused", "ENOSYS", "EAFNOSUPPORT", "ENODEV", "EPERM", "EPROTONOSUPPORT")
"""What a kernel that lacks a thing says to somebody who may have it."""

PROBES = [(case, probe) for case in CASES for probe in case.probes]


def name_of(value: object) -> str:
    return value.id if isinstance(value, Case) else re.sub(r"\W+", "-", value.name) if isinstance(value, Probe) else ""


def said(lines: list[str], labels: Says) -> dict[str, str]:
    """What was said about each label. Lines about nothing in particular are not looked at."""
    pairs = (line.partition(": ") for line in lines)
    return {label: outcome for label, _, outcome in pairs if label in labels}


def differences(found: dict[str, str], expected: Says) -> dict[str, str]:
    """Every label that was not answered as it must be."""
    return {
        label: found.get(label, "nothing")
        for label, pattern in expected.items()
        if re.fullmatch(pattern, found.get(label, "nothing")) is None
    }


@pytest.mark.parametrize(("case", "probe"), [(c, p) for c, p in PROBES if p.control], ids=name_of)
def test_the_probe_can_succeed(case: Case, probe: Probe, controls: dict[tuple[str, str], list[str]]) -> None:
    """Where nothing is in its way, the same code does what it tries."""
    assert probe.control is not None
    lines = controls[case.id, probe.name]
    found = said(lines, probe.control.says)
    wrong = differences(found, probe.control.says)
    lacking = [
        label
        for label, outcome in wrong.items()
        if "unavailable" in probe.control.says[label] and outcome in UNAVAILABLE
    ]
    assert [label for label in wrong if label not in lacking] == [], lines
    if lacking:
        pytest.skip(f"this machine's kernel does not have it, so that the probe proves nothing: {', '.join(lacking)}")


def test_the_canaries_notice(canaries: Canaries, controls: dict[tuple[str, str], list[str]]) -> None:
    """Each was touched by the probes that were not confined."""
    expected = {*canaries.listeners, "udp gateway", "fifo", "folder"} - {"vsock"}
    assert expected - set(controls["", "touched"]) == set()


@pytest.fixture
def unharmed(bench: Bench) -> Iterator[None]:
    """After a case: no canary was touched, the next cell works and sees the input, nothing grew on the host."""
    session = bench.session
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    yield
    assert bench.canaries.touched() == []
    after = bench.execute("print(6 * 7, len(context), context[-4:-1])")
    assert (after.status, after.stdout.head) == ("ok", f"42 {bench.corpus_chars} ```\n")
    assert session is bench.session, "the sandbox itself was lost"
    assert resident("VmHWM") - before < 100 * MIB


def resident(field: str) -> int:
    """Bytes, of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(("case", "probe"), PROBES, ids=name_of)
@pytest.mark.usefixtures("unharmed")
def test_a_cell_is_held(case: Case, probe: Probe, bench: Bench) -> None:
    """What the cell tries ends as the registry says, for this back-end."""
    differs = case.on.get(bench.backend)
    if probe.only and bench.backend not in probe.only:
        pytest.skip(f"nothing of {bench.backend}'s")
    changed = differs.says.get(probe.name, {}) if differs is not None else {}
    if changed is None:
        assert differs is not None
        pytest.skip(differs.reason)
    for number, step in enumerate(probe.steps):
        result = bench.probe(step.code, timeout=step.timeout)
        expect(result, step, {**step.says, **(changed if number == 0 else {})})


OF_THE_FILTER = [
    (case, probe)
    for case, probe in PROBES
    if case.id in ("A04", "A08", "A10", "A15", "A16") or case.id[0] == "B"
    if not probe.only or "docker" in probe.only
]


@pytest.mark.parametrize(("case", "probe"), OF_THE_FILTER, ids=name_of)
def test_our_own_filter_is_enough(case: Case, probe: Probe, unfiltered: Bench) -> None:
    """Everything that a filter of system calls is to refuse, on an engine whose own one is off."""
    (step,) = probe.steps
    expect(unfiltered.probe(step.code), step, step.says)
    assert unfiltered.canaries.touched() == []


def expect(result: StepResult, step: Step, says: Says) -> None:
    """Status, restart, every label, the check, and no honey."""
    streams = (result.stdout.head, result.stdout.tail, result.stderr.head, result.stderr.tail, result.error)
    assert not any(HONEY in text for text in streams)
    whole = "\n".join(streams)
    assert re.fullmatch(step.status, result.status), whole
    if step.restarted is not None:
        assert re.search(step.restarted or "^$", result.restarted), result.restarted
    assert differences(said(result.stdout.head.splitlines(), says), says) == {}, whole
    assert result.answer is None
    step.check(result)


def test_ten_thousand_cells(bench: Bench) -> None:
    """Each gets exactly its own output; neither side holds more afterwards than after the first thousand."""

    def held() -> tuple[int, int]:
        fds = len([*Path("/proc/self/fd").iterdir()])
        inside = bench.execute(
            "import os, threading; print(len(os.listdir('/proc/self/fd')), threading.active_count())"
        )
        return fds, sum(map(int, inside.stdout.head.split()))

    def some(first: int, last: int) -> None:
        results = bench.execute_each(f"print({number})" for number in range(first, last))
        assert [result.stdout.head for result in results] == [f"{number}\n" for number in range(first, last)]

    def memory() -> tuple[int, int]:
        inside = bench.execute("print(open('/proc/self/statm').read().split()[1])")
        return resident("VmRSS"), int(inside.stdout.head) * 4096

    some(0, 1_000)
    before, (host, worker) = held(), memory()
    for thousand in range(1, 10):
        some(1_000 * thousand, 1_000 * (thousand + 1))
    assert held() == before
    assert [after - first < 16 * MIB for after, first in zip(memory(), (host, worker), strict=True)] == [True, True]


def test_nothing_secret_is_seen_from_outside(bench: Bench) -> None:
    """What other people of the machine can see of a session: the engine's record, and the arguments of our processes.
    That the search would find it shows the environment, which is ours alone."""
    assert bench.execute("1").status == "ok"
    assert len(bench.session.seen_from_outside()) > 100
    assert HONEY not in bench.session.seen_from_outside()
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    assert HONEY.encode() not in b"".join(read(path / "cmdline") for path in processes)
    assert HONEY in os.environ.values()


def read(path: Path) -> bytes:
    """b"" where the process is gone or another user's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
