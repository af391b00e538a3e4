"""I1-I12: what holds after every run, whatever it was about. Each yields sentences about what does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from rlm_cli.events import CallFinished, StepFinished, Unknown, record_to_json
from tests.event_order import Order
from tests.loopback import tokens

from .case import LIMIT_S
from .runner import DOORS, IN_USD, OUT_USD, Evidence

Invariant = Callable[[Evidence], Iterator[str]]

LEAST_MEMORY = 300_000_000
"""I11: bytes that a run may take 1.5 times of, however small its input is."""


def exit_code(evidence: Evidence) -> Iterator[str]:
    """The exit code is the one that is documented for how the run ended."""
    if evidence.code != evidence.setup.code:
        yield f"exit code {evidence.code}, not {evidence.setup.code}; stderr ends: {evidence.err[-2000:]}"
    if evidence.result.exit_code != evidence.code:
        yield f"the result says exit code {evidence.result.exit_code}"


def streams(evidence: Evidence) -> Iterator[str]:
    """stdout is the answer, byte for byte, and nothing else; stderr has no traceback and no escape."""
    said = evidence.out if evidence.file is None else evidence.file
    if evidence.file is not None and evidence.out:
        yield f"the answer has a file, and stdout says {evidence.out[:200]!r}"
    if said not in (evidence.stored, evidence.stored + b"\n"):
        yield f"stdout or the file ({len(said)} bytes) is not the recorded answer ({len(evidence.stored)})"
    for bad in ("Traceback", "\x1b", "sk-test-key"):
        if bad in evidence.err:
            yield f"stderr holds {bad!r}"


def prompt_size(evidence: Evidence) -> Iterator[str]:
    """No root prompt is large, however large the input and the output of the code are."""
    most = evidence.setup.root_tokens
    for request in evidence.requests_of("root"):
        size = sum(tokens(message["content"]) for message in request.messages)
        if most is not None and size > most:
            yield f"a root prompt has {size} tokens"


def privacy(evidence: Evidence) -> Iterator[str]:
    """Of the input the root sees what its code printed, and nothing else."""
    canary = evidence.lab.canary
    seen = any(canary in message["content"] for request in evidence.requests_of("root") for message in request.messages)
    if evidence.setup.canary and seen:
        yield "the canary of the input is in a root prompt"


def books(evidence: Evidence) -> Iterator[str]:
    """The server's log is the truth: the same requests, tokens and dollars are in the result, the record, the ledger.

    Of a reply that broke off nobody can know what it cost, beyond its prompt. The run says that it had to estimate;
    then its books may hold more than the truth, and never less.
    """
    served = [request for request in evidence.requests if request.status == 200]
    calls, usage, cost = evidence.result.calls, evidence.result.usage.total, evidence.result.cost
    finished = [record.event for record in evidence.records if isinstance(record.event, CallFinished)]
    attempts = sum(event.attempts for event in finished)
    if not len(evidence.requests) == calls.total == attempts:
        yield f"{len(evidence.requests)} requests arrived, {calls.total} are in the result, {attempts} in the record"
    truth = (sum(r.prompt_tokens for r in served), sum(r.output_tokens for r in served if not r.broken))
    told = (usage.input, usage.output)
    recorded = (sum(event.usage.input for event in finished), sum(event.usage.output for event in finished))
    if told != truth and not (usage.estimated and told[0] >= truth[0] and told[1] >= truth[1]):
        yield f"tokens: {told} in the result, {truth} at the server (estimated: {usage.estimated})"
    if recorded != told:
        yield f"tokens: {told} in the result, {recorded} in the record"
    usd = (told[0] * IN_USD + told[1] * OUT_USD) / 1e6
    if not (cost.known and math.isclose(cost.usd, usd) and math.isclose(sum(cost.by_model.values()), usd)):
        yield f"dollars: {cost} in the result, {usd} by the tokens"


def in_flight(evidence: Evidence) -> Iterator[str]:
    """Never more sub-calls at once than allowed."""
    if evidence.in_flight > evidence.setup.concurrency:
        yield f"{evidence.in_flight} sub-calls in flight, {evidence.setup.concurrency} allowed"


def nothing_left(evidence: Evidence) -> Iterator[str]:
    """No container, no temporary file."""
    yield from evidence.left


def input_unchanged(evidence: Evidence) -> Iterator[str]:
    """Nobody wrote to the input."""
    if evidence.before != evidence.after:
        changed = {name for name, _ in evidence.before.items() ^ evidence.after.items()}
        yield f"these files of the input changed: {sorted(changed)[:10]}"


def trajectory(evidence: Evidence) -> Iterator[str]:
    """The record is whole, and running its code again with its replies gives its answer."""
    order = Order()
    for record in evidence.records:
        order.take(record_to_json(record))
    order.finished()
    if order.wrong:
        yield f"the record is out of order: {order.wrong[:5]}"
    events = [record.event for record in evidence.records]
    if unknown := [event.type for event in events if isinstance(event, Unknown)]:
        yield f"the record has what nobody can read: {unknown}"
    if evidence.replayed.rstrip(b"\n") != evidence.stored.rstrip(b"\n"):
        yield f"a replay answers {evidence.replayed[:300]!r} and the run answered {evidence.stored[:300]!r}"


def no_way_out(evidence: Evidence) -> Iterator[str]:
    """Code in the sandbox tried to reach a port of the host, and did not."""
    if evidence.knocks:
        yield f"{evidence.knocks} connections to the host's canary port"
    if evidence.result.mode != "direct" and any(isinstance(r.event, StepFinished) for r in evidence.records):
        if not evidence.probes:
            yield "the code in the sandbox never tried to get out"
        if bad := [line for line in evidence.probes if not line.startswith(f"{DOORS} 0 of ")]:
            yield f"the code in the sandbox got out: {bad}"


def memory(evidence: Evidence) -> Iterator[str]:
    """The command takes no more than its input, or a constant."""
    size = sum((evidence.lab.folder / name).stat().st_size for name in evidence.before)
    size = max(size, evidence.result.sources.bytes, LEAST_MEMORY)
    if not 0 < evidence.peak <= 1.5 * size:
        yield f"{evidence.peak / 1e6:.0f} MB of memory for an input of {size / 1e6:.0f} MB"


def in_time(evidence: Evidence) -> Iterator[str]:
    """It ends."""
    if evidence.seconds > LIMIT_S:
        yield f"it took {evidence.seconds:.0f} s"


INVARIANTS: dict[str, Invariant] = {
    "I1": exit_code,
    "I2": streams,
    "I3": prompt_size,
    "I4": privacy,
    "I5": books,
    "I6": in_flight,
    "I7": nothing_left,
    "I8": input_unchanged,
    "I9": trajectory,
    "I10": no_way_out,
    "I11": memory,
    "I12": in_time,
}


def violations(evidence: Evidence) -> list[str]:
    """All that is wrong, each with its invariant's name."""
    return [f"{name}: {problem}" for name, holds in INVARIANTS.items() for problem in holds(evidence)]
