"""`make differential`: every trajectory through every harness, compared, and the table in docs/DIFFERENTIAL.md.

The peers are installed into `.venv-differential` on first use (PyPI). Exit code 1 when an answer differs, when ours
needs more calls than a peer, or when what ours reports is not what the server received.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .harnesses import Harness, Ran, write_corpus
from .trajectories import RECURSIVE, TRAJECTORIES, Dialect, Trajectory

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "DIFFERENTIAL.md"
ENVIRONMENT = ROOT / ".venv-differential"
PACKAGES = ("rlms==0.1.3", "dspy==3.4.1")
ITEMS = 240
ERRORS = ("sub/e00", "sub/e10")

Row = Mapping[Dialect, Ran]


@dataclass(frozen=True)
class Compared:
    """One trajectory with one sub-model, by harness."""

    trajectory: Trajectory
    sub: str
    ran: Row

    def wrong(self) -> Iterator[str]:
        """What is not as it must be."""
        ours = self.ran["rlm"]
        where = f"{self.trajectory.name} with {self.sub}"
        if ours.status:
            yield f"{where}: ours failed: {ours.said}"
        if ours.reported.get("all") != sum(ours.received.values()):
            yield f"{where}: ours reports {ours.reported}, the server received {ours.received}"
        for name, peer in self.ran.items():
            if name == "rlm":
                continue
            if peer.status:
                yield f"{where}: {name} failed: {peer.said}"
            elif peer.answer.strip() != ours.answer.strip():
                yield f"{where}: {name} answers {peer.answer[:80]!r}, ours {ours.answer[:80]!r}"
            elif set(peer.prompts) != set(ours.prompts) and not self.trajectory.children:
                yield f"{where}: {name} asks its sub-model something else"
            elif ours.sub_calls > peer.sub_calls or ours.roots > peer.roots:
                yield f"{where}: ours makes {ours.roots}+{ours.sub_calls} calls, {name} {peer.roots}+{peer.sub_calls}"

    def cells(self) -> Sequence[str]:
        """The row of the table."""
        harnesses: Sequence[Dialect] = ("rlm", "rlms", "dspy")
        ran = [self.ran.get(name) for name in harnesses]
        reported = [sum(run.reported.values()) if run else None for run in ran]
        received = [sum(run.received.values()) if run else None for run in ran]
        return (
            self.trajectory.name,
            self.sub,
            f"{len(self.ran['rlm'].answer):,}",
            _three([run.roots if run else None for run in ran]),
            _three([run.sub_calls if run else None for run in ran]),
            _three([_share(said, got) for said, got in zip(reported, received, strict=True)]),
            "no" if list(self.wrong()) else "yes",
        )


def _three(values: Sequence[object]) -> str:
    return " / ".join("-" if value is None else str(value) for value in values)


def _share(said: int | None, got: int | None) -> str | None:
    if said is None or got is None:
        return None
    return str(said) if said == got else f"**{said} of {got}**"


def prepare() -> Path:
    """The peers' interpreter, with the packages in it."""
    python = ENVIRONMENT / "bin" / "python"
    wanted = "\n".join(PACKAGES)
    stamp = ENVIRONMENT / "packages.txt"
    if not stamp.is_file() or stamp.read_text("utf-8") != wanted:
        print(f"installing {' and '.join(PACKAGES)} into {ENVIRONMENT.name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        (ENVIRONMENT / ".gitignore").write_text("*\n", "utf-8")
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        stamp.write_text(wanted, "utf-8")
    return python


def compare(harnesses: Sequence[Harness], corpus: Path) -> Iterator[Compared]:
    """Every trajectory with a sub-model that errs and one that does not; child runs where a harness has them."""
    for trajectory in (*TRAJECTORIES, RECURSIVE):
        for sub in ERRORS:
            able = [one for one in harnesses if not (trajectory.children and one.name == "dspy")]
            yield Compared(trajectory, sub, {one.name: one.run(trajectory, corpus, sub) for one in able})


def table(rows: Sequence[Compared]) -> str:
    """Markdown."""
    head = (
        "trajectory",
        "sub-model",
        "answer, chars",
        "root turns",
        "sub-calls received",
        "calls reported",
        "as it must be",
    )
    lines = [head, ("---",) * len(head), *(row.cells() for row in rows)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def main() -> int:
    """Run, print, write. Returns the exit code."""
    python = str(prepare())
    rows = []
    with tempfile.TemporaryDirectory(prefix="rlm-differential-") as folder:
        corpus = Path(folder) / "corpus.txt"
        write_corpus(corpus, ITEMS)
        for row in compare((Harness("rlm"), Harness("rlms", python), Harness("dspy", python)), corpus):
            rows.append(row)
            print("  ".join(row.cells()), flush=True)
    text = TABLE.read_text("utf-8")
    TABLE.write_text(
        re.sub(r"(<!-- table -->\n).*?(?=<!-- /table -->)", rf"\g<1>{table(rows)}", text, flags=re.S), "utf-8"
    )
    wrong = [what for row in rows for what in row.wrong()]
    print("\n".join(wrong) or "all as it must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
