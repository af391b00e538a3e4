"""A06-A13: every item must be read by a sub-model, or the answer is long."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from tests.loopback import LABELS, Behaviour, code, default_label, oracle, steps

from .case import Lab, Setup, case
from .runner import Evidence

MANY = ("--max-subcalls", "none", "--max-cost", "none")
"""Ten times the ordinary size needs more calls than the default allows."""

LOOK = """
items = [line for line in context.splitlines() if line.startswith("item ")]
print(len(context), len(items)); print(items[0][:100])
"""
MAP = """
import json
asked = "Label each item. Reply with a JSON object {id: label}.\\n"
prompts = [asked + "\\n".join(items[i:i + 80]) for i in range(0, len(items), 80)]
labels = {}
for reply in llm_query_batched(prompts):
    labels.update(json.loads(str(reply)))
print(len(labels), "of", len(items))
"""


@dataclass(frozen=True)
class Item:
    """One line of an OOLONG-like corpus; its label is what only a sub-model can tell."""

    id: str
    month: str
    user: str
    text: str

    @property
    def label(self) -> str:
        return default_label(self.id)

    @property
    def line(self) -> str:
        return f"item {self.id}: {self.month}-15 {self.user} | {self.text}"


def items(lab: Lab, count: int, *, users: int = 60) -> list[Item]:
    return [
        Item(
            f"q{lab.random.getrandbits(24):06x}-{n}",
            f"{lab.random.randrange(2023, 2025)}-{lab.random.randrange(1, 13):02}",
            f"u{lab.random.randrange(users):03}",
            lab.words(6),
        )
        for n in range(count)
    ]


def aggregate(lab: Lab, found: Sequence[Item], question: str, final: str, answer: str) -> Setup:
    """Label all items in batches, then `final` makes the answer of `labels` and `items`."""
    lab.write("items.txt", "\n".join(lab.hidden(item.line for item in found)) + "\n")

    def completely(evidence: Evidence) -> None:
        """Each item was seen by a sub-model exactly once."""
        seen = Counter(line for request in evidence.requests_of("sub") for line in request.prompt.splitlines()[1:])
        assert seen == Counter(item.line for item in found)

    return Setup(
        question,
        sources=("items.txt",),
        flags=MANY,
        policy=steps(code(LOOK), code(MAP), code(final)),
        answer=answer,
        check=completely,
    )


COUNT_LOC = "FINAL(sum(label == 'LOC' for label in labels.values()))"


@case("A06", "how many of a label")
def oolong_count(lab: Lab) -> Setup:
    found = items(lab, lab.size(787))
    count = sum(item.label == "LOC" for item in found)
    return aggregate(lab, found, "How many of the items are LOC?", COUNT_LOC, str(count))


COMPARE = """
loc, num = (sum(label == name for label in labels.values()) for name in ("LOC", "NUM"))
FINAL("more" if loc > num else "less" if loc < num else "same frequency as")
"""


@case("A07", "two labels of one frequency")
def oolong_compare(lab: Lab) -> Setup:
    """One item lost, or one counted twice, is another answer (but for the four labels that are neither)."""
    found = items(lab, lab.size(3_182))
    counts = Counter(item.label for item in found)
    common, rare = sorted(("LOC", "NUM"), key=lambda name: -counts[name])
    surplus = [item for item in found if item.label == common][: counts[common] - counts[rare]]
    found = [item for item in found if item not in set(surplus)]
    question = "Is LOC more or less frequent than NUM, or of the same frequency?"
    return aggregate(lab, found, question, COMPARE, "same frequency as")


TIMELINE = """
import collections, re
months = collections.defaultdict(collections.Counter)
for line in items:
    name, month = re.match(r"item ([^:]+): (\\d{4}-\\d\\d)", line).groups()
    months[month][labels[name]] += 1
FINAL(next(month for month in sorted(months) if months[month]["HUM"] > months[month]["LOC"]))
"""


@case("A08", "the first month in which")
def oolong_timeline(lab: Lab) -> Setup:
    """Until the planted month HUM is never more frequent than LOC."""
    turn = f"{lab.random.randrange(2023, 2025)}-{lab.random.randrange(1, 13):02}"
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    kept = []
    for item in sorted(items(lab, lab.size(787)), key=lambda item: (item.month, item.label != "LOC")):
        month = counts[item.month]
        if item.label == "HUM" and item.month < turn and month["HUM"] >= month["LOC"]:
            continue
        if item.label == "LOC" and item.month == turn:
            continue
        month[item.label] += 1
        kept.append(item)
    extra = Item(next(f"x{n}" for n in itertools.count() if default_label(f"x{n}") == "HUM"), turn, "u000", "planted")
    lab.random.shuffle(kept)
    return aggregate(lab, [*kept, extra], "In which month are HUM first more than LOC?", TIMELINE, turn)


Predicate = Callable[[Counter[str]], bool]
PAIRS = """
import collections, itertools, re
users = collections.defaultdict(collections.Counter)
for line in items:
    name, user = re.match(r"item ([^:]+): \\S+ (\\w+)", line).groups()
    users[user][labels[name]] += 1
names = sorted(users)
"""
SYMMETRIC = """
able = [name for name in names if users[name]["LOC"] or users[name]["NUM"]]
FINAL("\\n".join(f"({a}, {b})" for a, b in itertools.combinations(able, 2)))
"""
ASYMMETRIC = """
def first(user): return user["LOC"] == 1 and user["HUM"] >= 1
def second(user): return user["NUM"] == 2
def third(user): return user["ABBR"] >= 1 and user["DESC"] == 1
def fourth(user): return user["ENTY"] == 1
def pairs(one, other):
    return [f"({a}, {b})" for a, b in itertools.combinations(names, 2)
            if one(users[a]) and other(users[b]) or one(users[b]) and other(users[a])]
FINAL("\\n".join(["13:", *pairs(first, second), "19:", *pairs(third, fourth)]))
"""


def of_users(found: Sequence[Item]) -> dict[str, Counter[str]]:
    users: dict[str, Counter[str]] = defaultdict(Counter)
    for item in found:
        users[item.user][item.label] += 1
    return users


@case("A09", "all pairs, either way round")
def pairs_symmetric(lab: Lab) -> Setup:
    found = items(lab, lab.size(787), users=lab.size(140))
    users = of_users(found)
    able = [name for name in sorted(users) if users[name]["LOC"] or users[name]["NUM"]]
    answer = "\n".join(f"({a}, {b})" for a, b in itertools.combinations(able, 2))
    assert len(answer) > 80_000
    question = "List all pairs of users who both have an item that is LOC or NUM."
    return aggregate(lab, found, question, PAIRS + SYMMETRIC, answer)


@case("A10", "pairs by exact counts")
def pairs_asymmetric(lab: Lab) -> Setup:
    found = items(lab, lab.size(787), users=lab.size(100))
    users = of_users(found)
    predicates: dict[str, tuple[Predicate, Predicate]] = {
        "13:": (
            lambda user: user["LOC"] == 1 and user["HUM"] >= 1,
            lambda user: user["NUM"] == 2,
        ),
        "19:": (
            lambda user: user["ABBR"] >= 1 and user["DESC"] == 1,
            lambda user: user["ENTY"] == 1,
        ),
    }
    answer = []
    for name, (one, other) in predicates.items():
        answer.append(name)
        for a, b in itertools.combinations(sorted(users), 2):
            if any(one(users[x]) and other(users[y]) for x, y in ((a, b), (b, a))):
                answer.append(f"({a}, {b})")
    question = "List the pairs of users that satisfy predicate 13, then those that satisfy predicate 19."
    return aggregate(lab, found, question, PAIRS + ASYMMETRIC, "\n".join(answer))


CONVERT = """
import json
rows = sorted(csv_rows(context), key=lambda row: row["key"])
FINAL("".join(json.dumps(row, sort_keys=True) + "\\n" for row in rows))
"""


@case("A11", "5 MB converted into a file")
def long_output(lab: Lab) -> Setup:
    rows = [
        {"key": f"{lab.random.getrandbits(40):010x}", "name": lab.words(2), "note": f'"{lab.words(9)}", ä\n{n}'}
        for n in range(lab.size(50_000))
    ]
    rows[len(rows) // 2]["note"] = lab.canary
    text = io.StringIO()
    writer = csv.DictWriter(text, ["key", "name", "note"])
    writer.writeheader()
    writer.writerows(rows)
    assert lab.write("table.csv", text.getvalue()) > 4_000_000
    answer = "".join(json.dumps(row, sort_keys=True) + "\n" for row in sorted(rows, key=lambda row: row["key"]))

    def byte_for_byte(evidence: Evidence) -> None:
        assert evidence.answer == answer.encode()
        assert evidence.result.answer_file is not None

    return Setup(
        "Convert the table to JSON lines, sorted by key.",
        sources=("table.csv",),
        output="out.jsonl",
        policy=steps(code("print(context[:200])"), code(CONVERT)),
        answer=answer,
        check=byte_for_byte,
    )


VOTE = """
import json, collections
def labelled(model, lines):
    asked = "Label each item. Reply with a JSON object {id: label}.\\n"
    prompts = [asked + "\\n".join(lines[i:i + 80]) for i in range(0, len(lines), 80)]
    return {name: label for reply in llm_query_batched(prompts, model=model)
            for name, label in json.loads(str(reply)).items()}
passes = [labelled(model, items) for model in ("p1", "p2", "p3")]
disputed = [line for line in items if len({one[line[5:line.index(":")]] for one in passes}) > 1]
votes = passes + [labelled(model, disputed) for model in ("p4", "p5")]
print(len(items), "items,", len(disputed), "disputed")
"""
TALLY = """
agreed = collections.Counter(
    collections.Counter(vote[name] for vote in votes if name in vote).most_common(1)[0][0] for name in passes[0])
FINAL(agreed["HUM"])
"""
PASSES = {f"p{n}": f"sub/e15/p{n}" for n in range(1, 6)}


def opinions(model: str, ids: Sequence[str]) -> dict[str, str]:
    """What this sub-model says of each item, however they are put to it."""
    said: dict[str, str] = json.loads(
        oracle(Behaviour(model), "JSON\n" + "\n".join(f"item {i}:" for i in ids), default_label)
    )
    return said


def voted(ids: Sequence[str]) -> tuple[int, int]:
    """(HUM by one pass, HUM by three passes and two more opinions on what they do not agree on)."""
    passes = [opinions(PASSES[name], ids) for name in ("p1", "p2", "p3")]
    disputed = [name for name in ids if len({one[name] for one in passes}) > 1]
    votes = passes + [opinions(PASSES[name], disputed) for name in ("p4", "p5")]
    agreed = [Counter(vote[name] for vote in votes if name in vote).most_common(1)[0][0] for name in ids]
    return sum(label == "HUM" for label in passes[0].values()), agreed.count("HUM")


@case("A12", "three passes and a vote")
def verify_by_majority(lab: Lab) -> Setup:
    """The sub-models err on 15 % of the items, each on others. The corpus is drawn until the vote is within two of the
    truth, as most are; that votes are closer than single passes is `test_a_vote_is_closer_than_one_pass`."""
    while True:
        found = items(lab, lab.size(787))
        truth, (single, vote) = sum(item.label == "HUM" for item in found), voted([item.id for item in found])
        if abs(vote - truth) <= 2 and vote != single:
            break
    lab.write("items.txt", "\n".join(lab.hidden(item.line for item in found)) + "\n")

    def by_all_of_them(evidence: Evidence) -> None:
        assert {request.model for request in evidence.requests_of("sub")} == set(PASSES.values())
        assert abs(int(evidence.text) - truth) <= 2

    return Setup(
        "How many of the items are HUM? Verify.",
        sources=("items.txt",),
        flags=MANY,
        sub="sub/e15",
        aliases=PASSES,
        policy=steps(code(LOOK), code(VOTE), code(TALLY)),
        answer=str(vote),
        check=by_all_of_them,
    )


DIRECTORIES = """
import collections, json
directories = sorted({name.split("/")[0] for name in context})
parts = [context.names(f"{directory}/*") for directory in directories]
print(len(directories), [len(part) for part in parts])
values = rlm_query_batched(["Label each item. Reply with a JSON object {id: label}."] * len(parts), parts)
counts = collections.Counter()
for value in values:
    found = json.loads(value) if isinstance(value, str) else value
    counts.update(found.values())
FINAL("\\n".join(f"{name}={counts[name]}" for name in sorted(counts)))
"""
IN_A_CHILD = """
import json
prompt = "Label each item. Reply with a JSON object {id: label}.\\n" + "\\n".join(map(str, context.values()))
FINAL(json.loads(llm_query(prompt)))
"""


@case("A13", "a run for each folder")
def recursive(lab: Lab) -> list[Setup]:
    """Depth 2: each folder is a child run's; depth 1: the same code, and each folder is one sub-call."""
    found = items(lab, 8 * lab.size(30, full=1_000))
    for number, item in enumerate(found):
        lab.write(f"tree/d{number % 8}/{number:04}.txt", item.line + "\n")
    lab.write("tree/d3/9999.txt", f"{lab.words(200)}\n{lab.canary}\n")
    counts: Mapping[str, int] = Counter(item.label for item in found)

    def with_children(evidence: Evidence) -> None:
        assert (evidence.result.depth, len({record.span for record in evidence.records})) == (2, 1 + 8)
        assert (evidence.result.calls.root, evidence.result.calls.sub) == (1 + 8, 8)
        assert len(evidence.probes) == 1 + 8

    def without(evidence: Evidence) -> None:
        assert (evidence.result.depth, len({record.span for record in evidence.records})) == (1, 1)
        assert (evidence.result.calls.root, evidence.result.calls.sub) == (1, 8)

    asked = "How many items of each label are there?"
    deep = Setup(
        asked,
        sources=("tree",),
        flags=("--max-depth", "2"),
        policy=lambda turn: code(DIRECTORIES if asked in turn.messages[1]["content"] else IN_A_CHILD),
        answer="\n".join(f"{name}={counts[name]}" for name in sorted(LABELS) if counts[name]),
        check=with_children,
    )
    return [deep, replace(deep, flags=("--max-depth", "1"), check=without)]
