"""A14-A19 and A28: code that fails, providers that fail, and limits that are reached."""

from __future__ import annotations

import json
import re
from collections import Counter

from rlm_cli.events import CallFinished, KernelRestarted, LimitReached, Output
from tests.loopback import Turn, code, default_label, steps

from .aggregate import COUNT_LOC, LOOK, MANY, MAP, items
from .case import Lab, Setup, case
from .runner import Evidence

LAST_TURN = "The run ends here"


@case("A14", "four errors, then success")
def error_recovery(lab: Lab) -> Setup:
    lines = lab.hidden(lab.words(5) for _ in range(lab.size(300)))
    lab.write("small.txt", "\n".join(lines))

    def told(evidence: Evidence) -> None:
        """Each error came back as a traceback, and what was there before it is still there."""
        for error, observation in zip(
            ("NameError", "SyntaxError", "ZeroDivisionError", "RecursionError"), evidence.observations, strict=True
        ):
            assert error in observation

    return Setup(
        "How many lines are there?",
        sources=("small.txt",),
        policy=steps(
            code("lines = context.splitlines()\nprint(undefined_name)"),
            code("print('unclosed"),
            code("half = len(lines) // 2\n1 / 0"),
            code("def dig(n): return dig(n + 1)\ndig(0)"),
            code("FINAL(half * 2 + len(lines) % 2)"),
        ),
        answer=str(len(lines)),
        check=told,
    )


@case("A15", "code that runs away")
def runaway_code(lab: Lab) -> Setup:
    lines = lab.hidden(lab.words(5) for _ in range(lab.size(300)))
    lab.write("small.txt", "\n".join(lines))

    def survived(evidence: Evidence) -> None:
        """Stopped at its time with its variables. Out of memory: told so, with its variables too, or told that they are
        gone."""
        loop, kept, bomb, after = evidence.observations
        assert "stopped at its time limit" in loop
        assert f"still {len(lines)}" in kept
        assert "out of memory" in bomb.lower()
        restarted = evidence.events(KernelRestarted)
        assert ("restarted" in bomb) == (len(restarted) == 1)
        assert ("gone" if restarted else str(len(lines))) in after.splitlines()

    return Setup(
        "How many lines are there?",
        sources=("small.txt",),
        step_s=2,
        memory=192 * 1024**2,
        policy=steps(
            code("count = len(context.splitlines())\nwhile True:\n    pass"),
            code("print('still', count)"),
            code("bomb = [bytearray(10 ** 7) for _ in range(1000)]"),
            code("try:\n    print(count)\nexcept NameError:\n    print('gone')"),
            code("FINAL(len(context.splitlines()))"),
        ),
        answer=str(len(lines)),
        check=survived,
    )


@case("A16", "a provider that fails")
def flaky_provider(lab: Lab) -> Setup:
    """429 three times, a 500, a reply that breaks off, and latency: the answer of a provider without faults."""
    found = items(lab, lab.size(60 * 4))
    lab.write("items.txt", "\n".join(lab.hidden(item.line for item in found)) + "\n")
    size = len(found) // 60

    def each_once(evidence: Evidence) -> None:
        """Requests beyond the sixty are the retries of the five that failed; and the calls did go out side by side."""
        requests = evidence.requests_of("sub")
        calls = evidence.result.calls
        assert (calls.sub, calls.retries, len(requests)) == (60, 5, 65)
        assert Counter(request.status for request in requests) == {200: 61, 429: 3, 500: 1}
        assert set(Counter(request.prompt for request in requests)) == {request.prompt for request in requests}
        assert evidence.in_flight >= 2
        assert "retrying in" in evidence.err

    return Setup(
        "How many of the items are LOC?",
        sources=("items.txt",),
        sub="sub/e00/429x3/500x1/dropx1/lat50",
        policy=steps(code(LOOK), code(MAP.replace("80", str(size))), code(COUNT_LOC)),
        answer=str(sum(item.label == "LOC" for item in found)),
        check=each_once,
    )


HALVING = """
import json
asked = "Label each item. Reply with a JSON object {id: label}.\\n"
problems = []
def labelled(lines):
    try:
        return json.loads(llm_query(asked + "\\n".join(lines)))
    except SubcallError as error:
        problems.append(str(error))
        half = len(lines) // 2
        return {**labelled(lines[:half]), **labelled(lines[half:])}
labels = labelled(items)
print(len(labels), "of", len(items), problems[:1])
"""


@case("A17", "a prompt that is too long for the sub-model")
def sub_overflow(lab: Lab) -> Setup:
    found = items(lab, lab.size(650))
    lab.write("items.txt", "\n".join(lab.hidden(item.line for item in found)) + "\n")

    def halved(evidence: Evidence) -> None:
        """It was said what was wrong, in words that code can go by, and no refused prompt was sent twice."""
        refused = [event for event in evidence.events(CallFinished) if event.error]
        assert refused
        assert {event.error.code for event in refused if event.error} == {"context_overflow"}
        assert {event.attempts for event in refused} == {1}
        assert re.search(r"too long|context|window", evidence.observations[1])
        assert evidence.requests_of("sub")[0].status == 400

    return Setup(
        "How many of the items are LOC?",
        sources=("items.txt",),
        sub="sub/e00/ctx4096",
        flags=MANY,
        policy=steps(code(LOOK), code(HALVING), code(COUNT_LOC)),
        answer=str(sum(item.label == "LOC" for item in found)),
        check=halved,
    )


PARTIAL = """
import json
asked = "Label each item. Reply with a JSON object {id: label}.\\n"
prompts = [asked + "\\n".join(items[i:i + 10]) for i in range(0, len(items), 10)]
replies = llm_query_batched(prompts)
labels = {}
for reply in replies:
    labels.update(json.loads(str(reply)) if reply else {})
refused = [reply.error for reply in replies if not reply]
print(len(replies) - len(refused), "of", len(replies), "batches; the rest:", refused[0])
"""


@case("A18", "the money runs out on the way")
def budget_stop(lab: Lab) -> Setup:
    found, cap = items(lab, lab.size(1_200)), 0.02 * lab.size(1)
    lab.write("items.txt", "\n".join(lab.hidden(item.line for item in found)) + "\n")

    def policy(turn: Turn) -> str:
        if LAST_TURN in turn.last:
            return code("FINAL(json.dumps({'labelled': len(labels), 'LOC': list(labels.values()).count('LOC')}))")
        return code(LOOK if turn.step == 0 else PARTIAL.replace("10", str(len(found) // 120)))

    def partial(evidence: Evidence) -> None:
        """Some were done, some were not, and the answer is exactly of those that were paid for."""
        served = [request for request in evidence.requests_of("sub") if request.status == 200]
        seen = [name for request in served for name in re.findall(r"^item ([^:]+):", request.prompt, re.M)]
        assert 0 < len(seen) < len(found)
        assert json.loads(evidence.text) == {
            "labelled": len(seen),
            "LOC": sum(default_label(name) == "LOC" for name in seen),
        }
        result = evidence.result
        assert (result.status, result.limit_hit) == ("partial", "cost")
        assert 0.2 * cap < result.cost.usd <= cap
        assert len(evidence.events(LimitReached)) == 1
        assert "cap" in evidence.observations[1]

    return Setup(
        "How many of the items are LOC?",
        sources=("items.txt",),
        flags=("--max-cost", str(cap), "--max-subcalls", "none"),
        policy=policy,
        answer=None,
        code=6,
        check=partial,
    )


@case("A19", "a root that never finishes")
def max_turns(lab: Lab) -> Setup:
    lines = lab.hidden(lab.words(5) for _ in range(lab.size(300)))
    lab.write("small.txt", "\n".join(lines))

    def policy(turn: Turn) -> str:
        if LAST_TURN in turn.last:
            (count,) = re.findall(r"count (\d+)", turn.messages[3]["content"])
            return f"There are {count} lines."
        return code("print('count', len(context.splitlines()))")

    def forced(evidence: Evidence) -> None:
        assert (evidence.result.status, evidence.result.limit_hit) == ("partial", "iterations")
        assert (evidence.result.iterations, len(evidence.requests)) == (4, 5)

    return Setup(
        "How many lines are there?",
        sources=("small.txt",),
        flags=("--max-iterations", "4"),
        policy=policy,
        answer=f"There are {len(lines)} lines.",
        code=6,
        check=forced,
    )


@case("A28", "a flood of output")
def stdout_flood(lab: Lab) -> Setup:
    lines = lab.hidden(lab.words(20) for _ in range(80_000))  # a str, which much more would not be
    size = lab.write("large.txt", "\n".join(lines))

    many = str(lab.size(100_000))

    def measured(evidence: Evidence) -> None:
        """The root is told the true sizes, and of the text a beginning and an end."""
        flood, dictionary = evidence.events(Output)[:2]
        assert flood.total > 3 * size > 25_000_000
        assert dictionary.total > 2_000_000
        for event, observation in zip((flood, dictionary), evidence.observations, strict=False):
            assert f"({event.total:,} bytes, middle left out)" in observation
        assert len(evidence.observations) == 3
        assert max(map(len, evidence.observations)) < 10_000

    return Setup(
        "How many characters are there?",
        sources=("large.txt",),
        policy=steps(
            code("print(context * 3)"),
            code("print(repr({number: str(number) * 3 for number in range(COUNT)}))".replace("COUNT", many)),
            code("{number: str(number) * 3 for number in range(COUNT)}".replace("COUNT", many)),
            code("FINAL(len(context))"),
        ),
        answer=str(size),
        check=measured,
    )
