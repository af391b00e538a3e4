"""The table of results in docs/SECURITY.md: `python -m tests.sandbox.catalogue.table` writes it from the registry.

Every entry but "not run here" is a test, so where they pass the table is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from .cases import CASES
from .rows import Case, Elsewhere, NotHere, Pending, Probe

SECURITY = Path(__file__).parents[3] / "docs" / "SECURITY.md"
BLOCK = re.compile(r"<!-- catalogue -->\n.*?<!-- /catalogue -->", re.DOTALL)
GROUPS = {
    "A": "The host's files",
    "B": "The network and the host's kernel",
    "C": "Bombs, floods and broken workers",
    "D": "Keys, and where sub-calls go",
    "E": "The terminal and the record",
    "F": "Money",
    "G": "The wire, and whether the answer is the input's",
    "H": "Engines and people that interrupt",
}


def filled(text: str, backends: Sequence[str], cases: Iterable[Case] = CASES) -> str:
    """`text` with the table between its marks."""
    body = "\n".join(table(tuple(cases), backends))
    return BLOCK.sub(lambda _: f"<!-- catalogue -->\n{body}\n<!-- /catalogue -->", text)


def table(cases: Sequence[Case], backends: Sequence[str]) -> list[str]:
    """Markdown: a table for each group, then the notes that its cells refer to."""
    lines: list[str] = []
    notes: list[str] = []
    for letter, heading in GROUPS.items():
        group = [case for case in cases if case.id.startswith(letter)]
        if group:
            lines += ["", f"### {letter}. {heading}", ""]
            lines += row("", "what is tried", "what happens", *backends, "shown by")
            lines += ["|" + "---|" * (4 + len(backends))]
            for case in group:
                outcomes = [outcome(case, backend, notes) for backend in backends]
                lines += row(case.id, case.tried, case.holds, *outcomes, shown_by(case))
    if notes:
        lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return [*lines, ""]


def row(*cells: str) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"]


def outcome(case: Case, backend: str, notes: list[str]) -> str:
    """One word, and the number of its note where it is not simply "holds"."""

    def noted(word: str, note: str) -> str:
        if note not in notes:
            notes.append(note)
        return f"{word} ({notes.index(note) + 1})"

    differs = case.on.get(backend)
    if differs is not None:
        return noted("holds" if differs.protected else "**does not hold**", differs.reason)
    proofs = case.proofs_on(backend)
    missing = [proof.reason for proof in proofs if isinstance(proof, NotHere)]
    moot = all(isinstance(proof, NotHere) and proof.moot for proof in proofs)
    if any(isinstance(proof, Pending) for proof in proofs):
        return "pending"
    if missing:
        word = "does not apply" if moot else "not run here" if len(missing) == len(proofs) else "holds"
        return noted(word, "; ".join(missing))
    return "holds" if proofs else "pending"


def shown_by(case: Case) -> str:
    """How many probes there are, and how many tests elsewhere."""
    probes = sum(isinstance(proof, Probe) for proof in case.proofs)
    tests = sum(len(proof.nodes) for proof in case.proofs if isinstance(proof, Elsewhere))
    words = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((probes, "probe"), (tests, "test")) if n]
    return ", ".join(words) or "–"


if __name__ == "__main__":
    from .backends import BACKENDS

    SECURITY.write_text(filled(SECURITY.read_text("utf-8"), sorted(BACKENDS)), "utf-8")
