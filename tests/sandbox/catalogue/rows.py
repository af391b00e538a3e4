"""What a row of the registry is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rlm_cli.sandbox import StepResult

Says = Mapping[str, str]
"""Label -> a regular expression for the whole of what the probe must say about it."""

Check = Callable[[StepResult], object]
"""What is asserted beyond what was said; raises `AssertionError`."""


@dataclass(frozen=True)
class Step:
    """One cell. `status`: a regular expression for the whole of it. `restarted`: one that is found in the reason, ""
    where the worker must live on, None where either may happen."""

    code: str
    says: Says = field(default_factory=dict)
    status: str = "ok"
    restarted: str | None = ""
    timeout: float = 60.0
    check: Check = lambda result: None


@dataclass(frozen=True)
class Control:
    """The same code where it must succeed: `says` of it there. `nobody`: as an unprivileged user of the bare container.

    A label whose expression admits "unavailable" may be one that the machine's kernel does not have at all; the probe
    then proves nothing about it and says so.
    """

    says: Says
    nobody: bool = False


@dataclass(frozen=True)
class Probe:
    """Cells that try something. `control` None: the first step's own labels show that it can succeed (`why`)."""

    name: str
    steps: tuple[Step, ...]
    control: Control | None
    why: str = ""
    only: tuple[str, ...] = ()
    """The back-ends it makes sense on; () is all."""


@dataclass(frozen=True)
class Elsewhere:
    """Tests elsewhere, by node id, which hold for every back-end unless `only` names some."""

    nodes: tuple[str, ...]
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotHere:
    """Part of a case that is not tried, and why: it cannot be here, or there is nothing of the kind (`moot`)."""

    reason: str
    moot: bool = False


@dataclass(frozen=True)
class Pending:
    """Somebody is at work on it; no row may be pending in a version that is given to people."""

    who: str


@dataclass(frozen=True)
class Differs:
    """On one back-end something else happens. `says` replaces the labels of the probes by name (None: the probe is not
    run there); `protected` is whether the property holds all the same."""

    reason: str
    protected: bool
    says: Mapping[str, Says | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One property. `tried`: what hostile code or a hostile input does; `holds`: what happens then."""

    id: str
    tried: str
    holds: str
    proofs: tuple[Probe | Elsewhere | NotHere | Pending, ...]
    on: Mapping[str, Differs] = field(default_factory=dict)

    @property
    def probes(self) -> tuple[Probe, ...]:
        return tuple(proof for proof in self.proofs if isinstance(proof, Probe))

    def proofs_on(self, backend: str) -> tuple[Probe | Elsewhere | NotHere | Pending, ...]:
        """What shows the property on one back-end."""
        return tuple(
            proof
            for proof in self.proofs
            if not isinstance(proof, Probe | Elsewhere) or not proof.only or backend in proof.only
        )


def probe(
    name: str,
    code: str,
    says: Says,
    control: Control | Says | None = None,
    *,
    status: str = "ok",
    restarted: str | None = "",
    timeout: float = 60.0,
    check: Check = lambda result: None,
    then: tuple[Step, ...] = (),
    why: str = "",
    only: tuple[str, ...] = (),
) -> Probe:
    """A probe of one cell, or of one and those that follow it."""
    first = Step(code, says, status, restarted, timeout, check)
    known = control if control is None or isinstance(control, Control) else Control(control)
    return Probe(name, (first, *then), known, why, only)


def tested(*nodes: str, only: tuple[str, ...] = ()) -> Elsewhere:
    return Elsewhere(nodes, only)
