"""Make the sample data: an incident log, a folder of support tickets, a table of orders, and questions with answers.

Everything is invented. The seed is fixed, so `python sample_data/generate.py` writes the same bytes again, and
tests/test_sample_data.py checks that it does. The answers in questions.jsonl are counted here while the data is
being made; the test counts them a second time, from the files alone.
"""

# ruff: noqa: E501, SIM905 - the tables and texts read better in one line

from __future__ import annotations

import csv
import io
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

SEED = 20260309
NIGHT = datetime(2026, 3, 9, 1, 30)  # noqa: DTZ001 - every time in the data is UTC and written with a Z
BROKEN, EXHAUSTED, FIXED, OVER = (NIGHT + timedelta(minutes=m) for m in (71.8, 79.3, 108.4, 150))

COLUMNS = "order_id placed_at customer country sku quantity unit_price coupon status carrier tracking_code".split()
COUNTRIES = {"PT": 9, "DE": 8, "FR": 7, "NL": 5, "IE": 4, "PL": 4, "SE": 3, "AT": 2}
SKUS = {
    "kettle-09": 39.90,
    "lamp-arc": 84.00,
    "rug-oslo": 129.00,
    "mug-set": 24.50,
    "chair-fjord": 189.00,
    "vase-lin": 31.75,
}
CARRIERS = ("Northbound", "Swiftline", "Parcelo", "Harbour Post")
STATUSES = ("delivered",) * 15 + ("shipped",) * 3 + ("returned", "cancelled")
CUSTOMERS = tuple(
    f"{first} {second}"
    for first in (
        "Orchard",
        "Lumen",
        "Harrow",
        "Tidewater",
        "Copper",
        "Juniper",
        "Saltmarsh",
        "Quarry",
        "Meridian",
        "Fennel",
    )
    for second in ("& Pine", "Studio", "Supply", "Interiors", "Kitchen", "Hotels", "Books", "Workshop")
)
CONTACTS = (
    "Ines Valdez",
    "Tomas Brandt",
    "Aoife Keane",
    "Marek Zielinski",
    "Lena Osei",
    "Hugo Marchand",
    "Sanne Bakker",
)

Row = dict[str, str]


@dataclass
class Story:
    """What was planted: the ground truth that the answers are read from."""

    first_exhausted: str = ""
    breaker_lines: int = 0
    charged_twice: list[str] = field(default_factory=list)
    first_error: dict[str, str] = field(default_factory=dict)
    march: set[str] = field(default_factory=set)
    complained: set[str] = field(default_factory=set)


# -- orders.csv ----------------------------------------------------------------------------------------------------


def make_orders(rng: random.Random) -> list[Row]:
    """1,500 orders of the first quarter; 320 of them were placed during the night of the incident."""
    quarter = datetime(2026, 1, 2, 6, 0)  # noqa: DTZ001
    times = [quarter + timedelta(seconds=rng.randrange(88 * 86400)) for _ in range(1180)]
    times += [NIGHT + timedelta(seconds=rng.randrange(150 * 60)) for _ in range(320)]
    rows = [make_order(rng, 10000 + n, placed) for n, placed in enumerate(sorted(times))]
    for row in rng.sample([r for r in rows if r["status"] == "shipped"], 23):
        row["status"] = "lost in transit"
        row["carrier"] = rng.choice(("Parcelo", "Parcelo", "Parcelo", *CARRIERS))
    rng.choice([r for r in rows if not r["coupon"]])["coupon"] = "HARE-50"
    return rows


def make_order(rng: random.Random, number: int, placed: datetime) -> Row:
    sku = rng.choice(list(SKUS))
    status = rng.choice(STATUSES)
    sent = status != "cancelled"
    values = (
        f"A-{number}",
        f"{placed:%Y-%m-%dT%H:%M:%SZ}",
        rng.choice(CUSTOMERS),
        rng.choices(list(COUNTRIES), list(COUNTRIES.values()))[0],
        sku,
        str(rng.choice((1, 1, 1, 2, 2, 3, 4, 6))),
        f"{SKUS[sku]:.2f}",
        rng.choice(("", "", "", "", "SPRING-10", "WELCOME-5")),
        status,
        rng.choice(CARRIERS) if sent else "",
        f"{rng.choice('BCDFGH')}{rng.choice('KLMNPR')}{rng.randrange(10**8, 10**9)}{rng.choice('XYZ')}" if sent else "",
    )
    return dict(zip(COLUMNS, values, strict=True))


def write_csv(rows: list[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


# -- incident.log --------------------------------------------------------------------------------------------------

Line = tuple[datetime, str, str, str]


def make_log(rng: random.Random, orders: list[Row], story: Story) -> str:
    """One night of a small shop. At 02:41 the order database's pool is cut from 64 connections to 6 by a
    configuration change, which is logged as INFO; eight minutes later everything else starts to fail."""
    tonight = [o for o in orders if NIGHT <= datetime.strptime(o["placed_at"], "%Y-%m-%dT%H:%M:%SZ") < OVER]  # noqa: DTZ007
    lines = [*background(rng), *causes()]
    for order in tonight:
        lines += checkout(rng, order, story)
    for _ in range(800):
        lines += browse(rng)
    lines.sort(key=lambda line: line[0])
    for _at, level, service, text in lines:
        if level == "ERROR" and service != "mailer":
            story.first_error.setdefault(service, text)
        if "pool exhausted" in text and not story.first_exhausted:
            story.first_exhausted = text.split()[0].removeprefix("req=")
        story.breaker_lines += "circuit breaker open" in text
    return "".join(
        f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z {lv:<5} {sv:<9} {text}\n" for at, lv, sv, text in lines
    )


def causes() -> Iterator[Line]:
    """The root cause, its repair, and two things that only look like causes."""
    pool = "config reloaded from /etc/pool/orders.toml: max_connections"
    yield BROKEN, "INFO", "db-pool", f"{pool} 64 -> 6 (change OPS-3188, scheduled job rotate-limits)"
    yield FIXED, "INFO", "db-pool", f"{pool} 6 -> 64 (change OPS-3189, on-call)"
    deploy = NIGHT + timedelta(minutes=62.4)
    yield deploy, "INFO", "search", "deploy finished: search v5.2.0 (was v5.1.7), 3 of 3 instances healthy"
    for n in range(14):
        yield (
            deploy + timedelta(seconds=47 * n + 9),
            "WARN",
            "search",
            f"index warm-up slow: segment {n + 1}/14 took {4900 - 211 * n}ms",
        )
    yield NIGHT + timedelta(minutes=66), "WARN", "gateway", "tls certificate for *.shop.example expires in 12 days"


def background(rng: random.Random) -> Iterator[Line]:
    """What is in every log: heartbeats, and a mailer that has been failing for weeks."""
    for minute in range(150):
        at = NIGHT + timedelta(minutes=minute, milliseconds=rng.randrange(900))
        starved = EXHAUSTED - timedelta(minutes=4) <= at < FIXED
        in_use, waiting = (6, rng.randrange(9, 60)) if starved else (rng.randrange(3, 6), 0)
        size = 6 if BROKEN <= at < FIXED else 64
        yield at, "WARN" if starved else "INFO", "db-pool", f"pool=orders in_use={in_use}/{size} waiting={waiting}"
        yield (
            at + timedelta(seconds=11),
            "INFO",
            "inventory",
            f"stock sync done: {rng.randrange(180, 240)} items, 0 conflicts",
        )
        if minute % 7 == 3:
            yield (
                at + timedelta(seconds=20),
                "ERROR",
                "mailer",
                "newsletter batch deferred: smtp 451 greylisted, will retry",
            )


def browse(rng: random.Random) -> list[Line]:
    """A visitor looks at things: a request that does not need the order database."""
    at, req = NIGHT + timedelta(seconds=rng.uniform(0, 9000)), f"{rng.getrandbits(32):08x}"
    sku, took = rng.choice(list(SKUS)), rng.randrange(18, 140)
    path = rng.choice((f"/product/{sku}", f"/search?q={sku.split('-')[0]}", "/", "/basket", "/help/returns"))
    head = f"req={req}"
    lines: list[Line] = [
        (at, "INFO", "gateway", f"{head} GET {path} from 10.4.{rng.randrange(8)}.{rng.randrange(2, 250)}")
    ]
    if "search" in path:
        hit = f"{head} query={sku.split('-')[0]} hits={rng.randrange(1, 60)} took={took - 9}ms"
        lines.append((at + timedelta(milliseconds=took - 4), "INFO", "search", hit))
    return [
        *lines,
        (at + timedelta(milliseconds=took), "INFO", "gateway", f"{head} GET {path} status=200 took={took}ms"),
    ]


def checkout(rng: random.Random, order: Row, story: Story) -> Iterator[Line]:
    """One order through the services; between exhaustion and repair most of them fail, and some are charged twice."""
    at = datetime.strptime(order["placed_at"], "%Y-%m-%dT%H:%M:%SZ") + timedelta(milliseconds=rng.randrange(1000))  # noqa: DTZ007
    head = f"req={rng.getrandbits(32):08x}"
    amount = f"{int(order['quantity']) * float(order['unit_price']):.2f}"
    yield at, "INFO", "gateway", f"{head} POST /checkout from 10.4.{rng.randrange(8)}.{rng.randrange(2, 250)}"
    yield (
        later(at, 9),
        "INFO",
        "checkout",
        f"{head} order={order['order_id']} items={order['quantity']} total={amount} EUR validated",
    )
    if EXHAUSTED <= at < FIXED:
        yield from failing(rng, at, head, order, amount, story)
        return
    yield (
        later(at, 31),
        "INFO",
        "inventory",
        f"{head} order={order['order_id']} reserved {order['quantity']} x {order['sku']}",
    )
    yield (
        later(at, 190),
        "INFO",
        "payments",
        f"{head} order={order['order_id']} captured {amount} EUR auth={rng.getrandbits(24):06x}",
    )
    yield later(at, 214), "INFO", "checkout", f"{head} order={order['order_id']} confirmed"
    yield later(at, 220), "INFO", "gateway", f"{head} POST /checkout status=201 took={rng.randrange(205, 480)}ms"


def failing(rng: random.Random, at: datetime, head: str, order: Row, amount: str, story: Story) -> Iterator[Line]:
    """The cascade for one request: pool, then inventory or payments, then checkout, then the gateway."""
    waiting, name = rng.randrange(31, 70), f"order={order['order_id']}"
    yield later(at, 2009), "ERROR", "db-pool", f"{head} pool exhausted: in_use=6/6 waiting={waiting} (pool=orders)"
    luck = rng.random()
    if luck < 0.45:
        yield (
            later(at, 2015),
            "ERROR",
            "inventory",
            f"{head} {name} reserve failed: no database connection after 2000ms",
        )
        yield later(at, 2022), "ERROR", "checkout", f"{head} {name} circuit breaker open for inventory, order parked"
        yield later(at, 2030), "ERROR", "gateway", f"{head} POST /checkout status=503 took=2031ms"
    elif luck < 0.75:
        auth = f"{rng.getrandbits(24):06x}"
        yield (
            later(at, 2400),
            "WARN",
            "payments",
            f"{head} {name} captured {amount} EUR auth={auth}, idempotency record not written",
        )
        yield (
            later(at, 4900),
            "ERROR",
            "payments",
            f"{head} {name} capture repeated after timeout: {amount} EUR auth={rng.getrandbits(24):06x}",
        )
        yield later(at, 4950), "INFO", "gateway", f"{head} POST /checkout status=201 took=4951ms"
        story.charged_twice.append(order["order_id"])
    else:
        yield (
            later(at, 6010),
            "ERROR",
            "gateway",
            f"{head} POST /checkout status=504 upstream checkout timed out after 6000ms",
        )


def later(at: datetime, milliseconds: int) -> datetime:
    return at + timedelta(milliseconds=milliseconds)


# -- tickets/ ------------------------------------------------------------------------------------------------------

TWICE: tuple[str, ...] = (
    "Our card statement shows order {order} twice: the same amount, seconds apart. Please return one of them.",
    "There are two identical debits for {order}. We ordered once. Our bookkeeper would like the second one back.",
    "You billed us 2x for {order}. The parcel is fine, the bill is not.",
    "We were double-charged for {order}. Both amounts have left the account.",
)
NOT_TWICE: tuple[str, ...] = (
    "Not a complaint: we first thought we had been charged twice for {order}, but the second line was only a reservation and is gone.",
    "Can you confirm that {order} will not be charged twice if we change the delivery address? Nothing has happened yet.",
    "We returned {order} and were told of a refund. The money has not arrived. We were charged once, correctly.",
)
ORDINARY: tuple[str, ...] = (
    "The parcel for {order} has been at the depot for six days. Could somebody nudge the carrier?",
    "The lamp from {order} hums when it is dimmed. Is that normal, and is there a quieter transformer?",
    "We need the invoice for {order} with our VAT number on it. The one we have shows the old address.",
    "The reset link for our login expires before the mail arrives. We have asked three times this week.",
    "One of the mugs in {order} came with a chipped handle. A replacement is enough, no need to collect it.",
    "Could the basket remember quantities between visits? We order the same things every month.",
    "The chair from {order} is missing two of its eight screws, the long ones for the back rest.",
    "Please move the delivery of {order} to the side entrance; the front door is closed for building work.",
)
PLANTED = {
    2013: (
        "Returns",
        "The parcel for {order} arrived water-damaged: the carton was soaked through and the rug inside has a tide mark.",
    ),
    2024: (
        "Account",
        "Our auditors ask for an 'audit trail export' of every login since January. Is there such a thing, and in what format?",
    ),
    2041: (
        "Warranty",
        "The kettle from {order} switches itself off at 60 degrees.\nSerial number: KT9-77-41902\nIt was bought new and descaled.",
    ),
}
CLOSINGS = (
    "Thank you for looking into it.",
    "No hurry, but an answer this week would be good.",
    "You can reach me on weekdays before four.",
)


def make_tickets(rng: random.Random, orders: list[Row], story: Story) -> dict[str, str]:
    """Sixty tickets. Double charges are told in several ways, before, in and after March, beside three look-alikes."""
    by_id = {o["order_id"]: o for o in orders}
    calm = [o["order_id"] for o in orders if o["order_id"] not in story.charged_twice]
    tonight = rng.sample(story.charged_twice, 5)
    story.complained = {by_id[o]["customer"] for o in tonight}
    march = rng.sample([o["order_id"] for o in orders if o["placed_at"].startswith("2026-03-1")], 4)
    other = rng.sample([o["order_id"] for o in orders if o["placed_at"].startswith("2026-02")], 3)
    plots = [(o, "Billing", TWICE, 3) for o in (*tonight, tonight[0], *march)] + [
        (o, "Billing", TWICE, 2) for o in other
    ]
    plots += [(rng.choice(calm), "Billing", (text,), 3) for text in NOT_TWICE]
    story.march = {by_id[o]["customer"] for o in (*tonight, *march)}
    ordinary = [(rng.choice(calm), rng.choice(("Store", "Delivery", "Account")), ORDINARY, 0) for _ in range(41)]
    numbers = [n for n in range(2001, 2061) if n not in PLANTED]
    mixed = [*plots, *ordinary]
    rng.shuffle(mixed)
    tickets = {}
    for number, (order, product, texts, month) in zip(numbers, mixed, strict=True):
        tickets[f"T-{number}.md"] = make_ticket(rng, number, by_id[order], product, rng.choice(texts), month)
    for number, (product, text) in PLANTED.items():
        tickets[f"T-{number}.md"] = make_ticket(rng, number, by_id[rng.choice(calm)], product, text, 0)
    return dict(sorted(tickets.items()))


def make_ticket(rng: random.Random, number: int, order: Row, product: str, text: str, month: int) -> str:
    """`month` 0: any. A ticket about a charge is opened in the month of the charge."""
    placed = datetime.strptime(order["placed_at"][:10], "%Y-%m-%d")  # noqa: DTZ007
    opened = placed + timedelta(days=rng.randrange(1, 9))
    if month and opened.month != month:
        opened = placed
    return (
        f"Ticket: T-{number}\nCustomer: {order['customer']}\nContact: {rng.choice(CONTACTS)}\nProduct: {product}\n"
        f"Opened: {opened:%Y-%m-%d}\nStatus: {rng.choice(('open', 'waiting', 'closed', 'closed'))}\n\n"
        f"Hello,\n\n{text.format(order=order['order_id'])}\n\n{rng.choice(CLOSINGS)}\n"
    )


# -- questions.jsonl -----------------------------------------------------------------------------------------------


def make_questions(
    rng: random.Random, orders: list[Row], tickets: dict[str, str], story: Story
) -> list[dict[str, object]]:
    """Lexical ones can be answered by finding words and copying what stands there; reasoning ones cannot."""
    log, folder, table = ["incident.log"], ["tickets"], ["orders.csv"]
    by_id = {o["order_id"]: o for o in orders}
    tracked = rng.choice([o for o in orders if o["tracking_code"]])
    audit = next(t for t in tickets.values() if "audit trail export" in t)
    lost = Counter(o["carrier"] for o in orders if o["status"] == "lost in transit")
    revenue: Counter[str] = Counter()
    for o in orders:
        if o["status"] == "delivered":
            revenue[o["country"]] += int(o["quantity"]) * round(float(o["unit_price"]) * 100)
    silent = sorted({by_id[o]["customer"] for o in story.charged_twice} - story.complained)
    cause = "The orders connection pool of db-pool was cut from 64 to 6 connections by change OPS-3188 (scheduled job rotate-limits)"
    rows = [
        ("log-first-request", log, "Which request id first failed with 'pool exhausted'?", story.first_exhausted, "lexical", "find the words, take the earliest line's req"),
        ("log-breaker-lines", log, "How many lines report 'circuit breaker open'?", str(story.breaker_lines), "lexical", "count lines"),
        ("log-search-version", log, "Which version of search was deployed?", "v5.2.0", "lexical", "one line says it"),
        ("ticket-water", folder, "Which ticket mentions a water-damaged parcel?", "T-2013", "lexical", "one ticket has the words"),
        ("ticket-audit", folder, "Which customer asked for an 'audit trail export'?", audit.split("Customer: ")[1].split("\n")[0], "lexical", "one ticket has the words; the customer is in its header"),
        ("ticket-serial", folder, "What is the serial number in ticket T-2041?", "KT9-77-41902", "lexical", "a labelled value in a named ticket"),
        ("order-tracking", table, f"What is the tracking code of order {tracked['order_id']}?", tracked["tracking_code"], "lexical", "one row, one column"),
        ("order-coupon", table, "Which order used the coupon 'HARE-50'?", next(o["order_id"] for o in orders if o["coupon"] == "HARE-50"), "lexical", "one row has the word"),
        ("order-lost", table, "How many orders have the status 'lost in transit'?", str(sum(lost.values())), "lexical", "count rows"),
        ("log-cause", log, "What failed first, and why?", cause, "reasoning", "the cause is an INFO line eight minutes before the first symptom; the deploy of search and the failing mailer are red herrings"),
        ("log-services", log, "Which services logged errors because of the incident, in the order of their first error?", ", ".join(story.first_error), "reasoning", "order by time, leave out the mailer, which fails all night"),
        ("log-charged-twice", log, "How many orders were charged twice during the incident?", str(len(story.charged_twice)), "reasoning", "the log says 'capture repeated', not 'charged twice'"),
        ("tickets-march", folder, "Which customers were double-charged in March?", ", ".join(sorted(story.march)), "reasoning", "told in four ways, beside February ones, one duplicate and three look-alikes"),
        ("orders-revenue", table, "Which country brought the highest revenue from delivered orders?", revenue.most_common(1)[0][0], "reasoning", "multiply, filter, add up by country"),
        ("orders-carrier", table, "Which carrier lost the most orders?", lost.most_common(1)[0][0], "reasoning", "group and compare"),
        ("all-silent", ["incident.log", "tickets", "orders.csv"], "Which customers were charged twice in the incident but did not open a ticket about such an order?", ", ".join(silent), "reasoning", "a join: orders from the log, customers from the table, complaints from the tickets"),
    ]  # fmt: skip
    keys = ("id", "sources", "question", "answer", "kind", "why")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def make_all() -> dict[str, str]:
    """Every generated file: path below sample_data -> text."""
    rng, story = random.Random(SEED), Story()  # noqa: S311 - reproducible, not secret
    orders = make_orders(rng)
    log = make_log(rng, orders, story)
    tickets = make_tickets(rng, orders, story)
    questions = make_questions(rng, orders, tickets, story)
    files = {"incident.log": log, "orders.csv": write_csv(orders)}
    files |= {f"tickets/{name}": text for name, text in tickets.items()}
    return files | {"questions.jsonl": "".join(json.dumps(q, ensure_ascii=False) + "\n" for q in questions)}


def main(folder: Path) -> None:
    for name, text in make_all().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
