"""The shipped questions have true answers: each is counted again here, from the files, by other code than made them."""

from __future__ import annotations

import csv
import json
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SAMPLE = Path(__file__).parent.parent / "sample_data"
LOG = (SAMPLE / "incident.log").read_text("utf-8").splitlines()
TICKETS = {path.name: path.read_text("utf-8") for path in sorted((SAMPLE / "tickets").iterdir())}
with (SAMPLE / "orders.csv").open(encoding="utf-8", newline="") as file:
    ORDERS = list(csv.DictReader(file))
QUESTIONS: list[dict[str, Any]] = [
    json.loads(line) for line in (SAMPLE / "questions.jsonl").read_text("utf-8").splitlines()
]
ANSWERS = {question["id"]: question["answer"] for question in QUESTIONS}

DOUBLE_CHARGE = (r"shows order A-\d+ twice", "two identical debits", "billed us 2x", "were double-charged")


def shipped() -> list[Path]:
    """The files of the folder, without what tools leave behind."""
    files = (path for path in SAMPLE.rglob("*") if path.is_file())
    return [path for path in files if not re.search(r"/[._]", path.relative_to(SAMPLE.parent).as_posix())]


def header(ticket: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", ticket, re.MULTILINE)
    assert found
    return found[1]


def order_in(text: str) -> str:
    found = re.search(r"A-\d{5}", text)
    assert found
    return found[0]


def complaints() -> list[str]:
    """The tickets that report a double charge as a fact, in any of the four ways."""
    return [text for text in TICKETS.values() if re.search("|".join(DOUBLE_CHARGE), text)]


def orders_charged_twice() -> set[str]:
    """From the captures themselves: orders that payments captured more than once."""
    captures = Counter(order_in(line) for line in LOG if re.search(r" payments .* (captured|capture repeated)", line))
    return {order for order, times in captures.items() if times > 1}


def customer_of(order: str) -> str:
    return next(row["customer"] for row in ORDERS if row["order_id"] == order)


def first(pattern: str) -> str:
    return next(found[1] for line in LOG if (found := re.search(pattern, line)))


def ticket_with(words: str) -> str:
    (name,) = [name for name, text in TICKETS.items() if words in text]
    return name.removesuffix(".md")


def value_of(order_where: tuple[str, str], column: str) -> str:
    key, value = order_where
    (row,) = [row for row in ORDERS if row[key] == value]
    return row[column]


def best_country() -> str:
    sums: Counter[str] = Counter()
    for row in ORDERS:
        if row["status"] == "delivered":
            sums[row["country"]] += round(int(row["quantity"]) * float(row["unit_price"]) * 100)
    (winner, most), (_, second) = sums.most_common(2)
    assert most > second * 1.02
    return winner


def worst_carrier() -> str:
    (winner, most), (_, second) = Counter(
        row["carrier"] for row in ORDERS if row["status"] == "lost in transit"
    ).most_common(2)
    assert most > second
    return winner


def failing_services() -> str:
    services = [line.split()[2] for line in LOG if line.split()[1] == "ERROR"]
    return ", ".join(dict.fromkeys(service for service in services if service != "mailer"))


def march_customers() -> str:
    march = [text for text in complaints() if header(text, "Opened").startswith("2026-03")]
    return ", ".join(sorted({header(text, "Customer") for text in march}))


def silent_customers() -> str:
    twice = orders_charged_twice()
    spoke = {header(text, "Customer") for text in TICKETS.values() if order_in_any(text) in twice}
    return ", ".join(sorted({customer_of(order) for order in twice} - spoke))


def order_in_any(text: str) -> str:
    found = re.search(r"A-\d{5}", text)
    return found[0] if found else ""


def test_every_answer_is_true() -> None:
    """Recounting the files by independent code gives every shipped answer."""
    asked = order_in(next(q["question"] for q in QUESTIONS if q["id"] == "order-tracking"))
    pool = first(r"max_connections (64 -> 6) ")
    recounted = {
        "log-first-request": first(r"req=(\w+) pool exhausted"),
        "log-breaker-lines": str(sum("circuit breaker open" in line for line in LOG)),
        "log-search-version": first(r"deploy finished: search (\S+)"),
        "ticket-water": ticket_with("water-damaged"),
        "ticket-audit": header(TICKETS[ticket_with("audit trail export") + ".md"], "Customer"),
        "ticket-serial": header(TICKETS["T-2041.md"], "Serial number"),
        "order-tracking": value_of(("order_id", asked), "tracking_code"),
        "order-coupon": value_of(("coupon", "HARE-50"), "order_id"),
        "order-lost": str(sum(row["status"] == "lost in transit" for row in ORDERS)),
        "log-cause": (
            f"The orders connection pool of db-pool was cut from {pool.replace(' -> ', ' to ')} connections by change "
            + first(r"-> 6 \(change (\S+),")
            + " (scheduled job "
            + first(r"scheduled job (\S+)\)")
            + ")"
        ),
        "log-services": failing_services(),
        "log-charged-twice": str(len(orders_charged_twice())),
        "tickets-march": march_customers(),
        "orders-revenue": best_country(),
        "orders-carrier": worst_carrier(),
        "all-silent": silent_customers(),
    }
    assert recounted == ANSWERS


def test_the_cause_comes_before_every_symptom() -> None:
    """The planted root cause precedes the first error that follows from it, and the herring precedes both."""
    deploy, cause, symptom = (
        next(n for n, line in enumerate(LOG) if words in line)
        for words in ("deploy finished: search", "max_connections 64 -> 6", "pool exhausted")
    )
    assert deploy < cause < symptom


def test_generating_again_gives_the_same_bytes() -> None:
    """The data is what the kept generator makes: no hand edits, no dependence on the machine."""
    made = runpy.run_path(str(SAMPLE / "generate.py"))["make_all"]()
    kept = {path.relative_to(SAMPLE).as_posix() for path in shipped()}
    assert {name: (SAMPLE / name).read_bytes() for name in made} == {k: v.encode() for k, v in made.items()}
    assert kept - set(made) == {"generate.py", "README.md"}


def test_it_is_small_and_the_questions_are_enough() -> None:
    """Under 1 MB in all; lexical questions for every kind of source, and several that need judgement."""
    size = sum(path.stat().st_size for path in shipped())
    lexical = Counter(q["sources"][0] for q in QUESTIONS if q["kind"] == "lexical")
    assert size < 1_000_000
    assert set(lexical) == {"incident.log", "tickets", "orders.csv"} and min(lexical.values()) >= 2
    assert sum(q["kind"] == "reasoning" for q in QUESTIONS) >= 5


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: q["id"])
def test_questions_name_sources_that_exist(question: dict[str, Any]) -> None:
    """Each question can be asked as it stands: its sources are there and its answer is not empty."""
    assert all((SAMPLE / source).exists() for source in question["sources"])
    assert question["answer"] and question["question"].endswith("?")
