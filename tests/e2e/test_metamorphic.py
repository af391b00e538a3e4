"""Relations between answers (section 8 of the acceptance cases) on A04, A06, A22 and A23: an input is changed so that
everybody knows what must become of the answer. In this process, with the real sources, engine, sandbox and kernel.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlm_cli.events import CodeWritten, Event, StepFinished
from rlm_cli.models.facts import per_million
from rlm_cli.models.ledger import Budgeted, Caps, Ledger
from rlm_cli.sandbox import Document
from rlm_cli.sources import SourceOptions
from rlm_cli.sources.gather import collect
from rlm_cli.task import LedgerView
from tests.loopback import Policy, Turn, code, default_label, steps

from . import aggregate, data, find, trouble
from .case import Lab
from .inside import Oracle, answer_of, ask

pytestmark = pytest.mark.docker

MAPPED = """
names = [None] if isinstance(context, str) else sorted(context)
items = [line for name in names for line in (context if name is None else context[name]).splitlines()
         if line.startswith("item ")]
"""


@pytest.fixture
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    return Lab.of(request.node.name, tmp_path)


def documents(*paths: Path, spool: Path | None = None) -> Sequence[Document]:
    """As the command line would read these files and folders."""
    return collect([str(path) for path in paths], SourceOptions(), spool=spool, env={}).documents


class Answers:
    """Asks the same of one input after the other."""

    def __init__(self, policy: Policy, sub: str = "sub/e00") -> None:
        self.policy, self.sub = policy, sub
        self.events: list[Event] = []
        self.asked: dict[str, list[str]] = {}

    def __call__(self, *found: Document) -> str:
        model = Oracle(self.policy)
        self.events = []
        outcome = ask("?", found, model, sub=self.sub, events=self.events)
        assert outcome.status == "ok", outcome
        self.asked = {role: sorted(prompts) for role, prompts in model.prompts.items()}
        return answer_of(outcome).decode()

    @property
    def trajectory(self) -> list[tuple[str, str]]:
        """What was run, and what the root was told of it, but for the clock."""
        said = []
        for event in self.events:
            if isinstance(event, CodeWritten):
                said.append(("code", event.code))
            elif isinstance(event, StepFinished):
                said.append(("told", re.sub(r"\[left: .*", "", event.observation)))
        return said


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


# -- A04: needles in files -----------------------------------------------------------------------------------------


def test_files_in_another_order_and_more_of_them(lab: Lab, tmp_path: Path) -> None:
    """Shuffled lines and fifty irrelevant files: the same needles, and not a request more."""
    setup, files = find.needles(lab)
    answers = Answers(setup.policy)
    first = answers(*documents(tmp_path / "box"))
    assert first == setup.answer
    requests = {role: len(prompts) for role, prompts in answers.asked.items()}
    for name, lines in files.items():
        (tmp_path / name).write_text("\n".join(lab.shuffled(lines)) + "\n")
    write(tmp_path / "box" / "more", {f"{n:02}.txt": lab.words(50) for n in range(50)})
    assert answers(*documents(tmp_path / "box")) == first
    assert {role: len(prompts) for role, prompts in answers.asked.items()} == requests


def test_renamed_keys_and_a_corpus_twice(lab: Lab, tmp_path: Path) -> None:
    """Values renamed one to one: the answer is renamed likewise. The corpus twice: each needle twice, at both names."""
    setup, files = find.needles(lab)
    answers = Answers(setup.policy)
    first = answers(*documents(tmp_path / "box"))
    other = str.maketrans("0123456789", "5678901234")
    for name, lines in files.items():
        text = "\n".join(re.sub(r"is: \d+", lambda found: found[0].translate(other), line) for line in lines)
        write(tmp_path / "twice", {f"a/{name}": text, f"b/{name}": text})
    renamed = [re.sub(r": \d+", lambda found: found[0].translate(other), line) for line in first.splitlines()]
    both = sorted(f"{half}/box/{line}" for half in "ab" for line in renamed)
    assert answers(*documents(tmp_path / "twice")).splitlines() == both


def test_the_same_text_in_any_container(tmp_path: Path, lab: Lab) -> None:
    """One text as it is, with CRLF, with a BOM, as UTF-16, compressed: the same answer. (As one of two files: alone, a
    file's name is not in the answer's way.)"""
    key, value = "tapir", "1234567"
    text = "\n".join([*(lab.words(9) for _ in range(500)), find.needle(key, value), "ends", ""])
    answers = Answers(steps(code(find.GREP.format(key=key)), code("FINAL([hits[0].line, values])")))
    shapes: dict[str, bytes] = {
        "plain.txt": text.encode(),
        "crlf.txt": text.replace("\n", "\r\n").encode(),
        "bom.txt": text.encode("utf-8-sig"),
        "utf16.txt": text.encode("utf-16"),
        "packed.txt.gz": gzip.compress(text.encode()),
    }
    write(tmp_path / "shapes", shapes)
    seen = {}
    for name in shapes:
        (tmp_path / f"spool-{name}").mkdir(mode=0o700)
        seen[name] = answers(*documents(tmp_path / "shapes" / name, spool=tmp_path / f"spool-{name}"))
    assert set(seen.values()) == {json.dumps([501, [value]], indent=2)}, seen


def test_a_path_and_a_folder_of_one_file_are_the_same_input(tmp_path: Path, lab: Lab) -> None:
    """Not only the same answer: the same trajectory, word for word. (And stdin, but for its name: `A05`.)"""
    text = "\n".join(lab.words(9) for _ in range(500))
    write(tmp_path / "folder", {"only.txt": text})
    answers = Answers(
        steps(code("print(type(context), len(context), context[:50])"), code("FINAL(hash(context) and 1)"))
    )
    answers(*documents(tmp_path / "folder" / "only.txt"))
    path = answers.trajectory
    answers(*documents(tmp_path / "folder"))
    assert answers.trajectory == path
    assert len(path) == 4


@pytest.mark.parametrize("depth", [0, 50, 100])
def test_a_needle_is_found_at_any_depth(tmp_path: Path, lab: Lab, depth: int) -> None:
    lines = [find.NOISE] * 2_000
    lines.insert(len(lines) * depth // 100, find.needle("tapir", 7654321))
    write(tmp_path, {"noise.txt": "\n".join(lines)})
    answers = Answers(steps(code(find.GREP.format(key="tapir")), code("FINAL(values)")))
    assert json.loads(answers(*documents(tmp_path / "noise.txt"))) == ["7654321"]


# -- A06: counting labels ------------------------------------------------------------------------------------------

COUNTS = "import collections\nFINAL(dict(sorted(collections.Counter(labels.values()).items())))"


def counting(size: int = 80, *, batched: bool = True) -> Policy:
    """Label all items, so many to a call, side by side or one after the other; count."""
    mapped = aggregate.MAP.replace("80", str(size))
    if not batched:
        mapped = mapped.replace("llm_query_batched(prompts)", "map(llm_query, prompts)")
    return steps(code(MAPPED), code(mapped), code(COUNTS))


@pytest.fixture
def found(lab: Lab) -> list[aggregate.Item]:
    return aggregate.items(lab, 240)


def test_lines_in_any_order_and_in_any_number_of_files(tmp_path: Path, lab: Lab, found: list[aggregate.Item]) -> None:
    """Shuffled, in thirty files, with irrelevant lines between: the same counts."""
    lines = [item.line for item in found]
    write(tmp_path, {"one/items.txt": "\n".join(lines)})
    write(tmp_path, {"shuffled/items.txt": "\n".join([*lab.shuffled(lines), *["noise"] * 100])})
    write(tmp_path, {f"split/{n:02}.txt": "\n".join(lines[n::30]) for n in range(30)})
    answers = Answers(counting())
    seen = [json.loads(answers(*documents(tmp_path / name))) for name in ("one", "shuffled", "split")]
    assert seen == [dict(sorted(Counter(item.label for item in found).items()))] * 3


def test_chunks_of_any_size_side_by_side_or_not(tmp_path: Path, found: list[aggregate.Item]) -> None:
    """With a sub-model that errs by item, also the errors are the same."""
    write(tmp_path, {"items.txt": "\n".join(item.line for item in found)})
    seen = [
        Answers(counting(size, batched=batched), sub="sub/e20")(*documents(tmp_path / "items.txt"))
        for size, batched in ((80, True), (7, True), (60, False))
    ]
    assert len(set(seen)) == 1
    assert json.loads(seen[0]) != Counter(item.label for item in found)


def test_everything_twice_counts_twice(tmp_path: Path, found: list[aggregate.Item]) -> None:
    """Under other ids that mean the same."""
    again = [aggregate.Item(f"{item.id}", item.month, item.user, item.text + " again") for item in found]
    write(tmp_path, {"items.txt": "\n".join(item.line for item in [*found, *again])})
    policy = steps(
        code(MAPPED), code(aggregate.MAP), code("FINAL([labels[line[5:line.index(':')]] for line in items])")
    )
    labels = Counter(json.loads(Answers(policy)(*documents(tmp_path / "items.txt"))))
    assert labels == Counter({name: 2 * n for name, n in Counter(item.label for item in found).items()})


def test_more_errors_are_no_better(tmp_path: Path) -> None:
    """Over 20 corpora the part of right labels falls with the sub-model's error, about as much."""
    scores = []
    for error in (0, 10, 30):
        right = 0
        for seed in range(20):
            ids = [f"q{random.Random(seed).getrandbits(30)}-{n}" for n in range(200)]
            said = aggregate.opinions(f"sub/e{error:02}", ids)
            right += sum(said[name] == default_label(name) for name in ids)
        scores.append(right / 4_000)
    assert scores[0] == 1.0
    assert 0.87 < scores[1] < 0.93
    assert 0.66 < scores[2] < 0.74


def test_more_money_is_never_worse(tmp_path: Path, lab: Lab) -> None:
    """The higher the cap, the more is labelled, up to all of it; and no cap is passed."""
    found = aggregate.items(lab, 1_200)
    write(tmp_path, {"items.txt": "\n".join(item.line for item in found)})
    price = per_million(1, 2)
    labelled = []
    for cap in (0.02, 0.03, 1.0):
        ledger = Ledger(Caps(cap), {"root/inside": price, "sub/e00": price})
        policy = steps(code(MAPPED), code(trouble.PARTIAL), code("FINAL(len(labels))"))

        def by_the_end(turn: Turn, policy: Policy = policy) -> str:
            return code("FINAL(len(labels))") if trouble.LAST_TURN in turn.last else policy(turn)

        model = Budgeted(Oracle(by_the_end), ledger)
        outcome = ask("?", documents(tmp_path / "items.txt"), model, ledger=LedgerView(ledger.totals))
        assert 0 < ledger.totals().cost.usd <= cap
        assert outcome.status == ("ok" if cap == 1.0 else "partial")
        labelled.append(int(answer_of(outcome)))
    assert labelled == sorted(labelled)
    assert labelled[0] < labelled[-1] == len(found)


# -- A22 and A23: logs and tables ----------------------------------------------------------------------------------


def data_of(answer: str) -> Any:
    return json.loads(answer)


def test_a_log_with_more_lines_or_another_dress(tmp_path: Path, lab: Lab) -> None:
    """Lines of no service between its own, CRLF, and services renamed: the same incident, renamed."""
    lines, truth = data.incident(lab)
    lines, names = lines[:], {name: f"{name}svc" for name in data.SERVICES}
    answers = Answers(steps(code("print(context[:300])"), code(data.INCIDENT)))
    noisy = [line for pair in zip(lines, ["# nothing happened"] * len(lines), strict=True) for line in pair]
    write(tmp_path, {"noisy.log": "\r\n".join(noisy)})
    assert data_of(answers(*documents(tmp_path / "noisy.log"))) == truth
    renamed = re.sub(r"\b(" + "|".join(names) + r")\b", lambda word: names[word[1]], "\n".join(lines))
    write(tmp_path, {"renamed.log": renamed})
    assert data_of(answers(*documents(tmp_path / "renamed.log"))) == {
        "first": truth["first"],
        "affected": [names[name] for name in truth["affected"]],  # type: ignore[attr-defined]
        "p99": {names[name]: ms for name, ms in truth["p99"].items()},  # type: ignore[attr-defined]
    }


TRANSFORMS: dict[str, Callable[[Lab, dict[str, str]], dict[str, str]]] = {
    "as they are": lambda lab, files: files,
    "in another order": lambda lab, files: {
        **files,
        "users.csv": "id,name\n" + "\n".join(lab.shuffled(files["users.csv"].splitlines()[1:])) + "\n",
        "orders.json": json.dumps(
            sorted(json.loads(files["orders.json"]), key=lambda order: str(order["order"])[::-1])
        ),
        "events.log": "\n".join(lab.shuffled(files["events.log"].splitlines())),
    },
    "with more that is irrelevant": lambda lab, files: {
        **files,
        "users.csv": files["users.csv"] + "u999999,nobody\n",
        "events.log": files["events.log"] + "2026-03-01 999999 sale order=o1 cents=99999999\n",
        "README.txt": "three tables",
    },
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_tables_in_any_order(tmp_path: Path, lab: Lab, transform: str) -> None:
    """The join is of sets: neither order nor what joins with nothing matters."""
    files, answer = data.tables(lab)
    write(tmp_path / "shop", TRANSFORMS[transform](lab, files))
    assert Answers(steps(code(data.JOIN)))(*documents(tmp_path / "shop")) == answer


def test_tables_twice(tmp_path: Path, lab: Lab) -> None:
    """Every event twice: every sum and the orphans double."""
    files, answer = data.tables(lab)
    write(tmp_path / "shop", {**files, "events.log": files["events.log"] * 2})
    doubled = [re.sub(r": (\d+)$", lambda found: f": {2 * int(found[1])}", line) for line in answer.splitlines()]
    assert Answers(steps(code(data.JOIN)))(*documents(tmp_path / "shop")).splitlines() == doubled
