"""Roots of every habit against the engine and the real kernel, without Docker: the policies that tell harnesses apart.

Each of the bugs of tests/mutation is caught by one of these at least; some by exactly one.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.engine import run
from rlm_cli.events import ROOT, Event, Span, Totals, Usage
from rlm_cli.models import Completion, OnText, Request
from rlm_cli.models.cached import Cached
from rlm_cli.prompts import InputFacts
from rlm_cli.prompts.fences import parse_reply
from rlm_cli.sources import Document
from rlm_cli.task import Deps, LedgerView, Limits, Outcome, Task

from .kernel.local import LocalSandbox, kernel
from .kernel.local import run as run_bounded
from .loopback import POLICIES, Behaviour, Turn, default_label, oracle, tokens

ITEMS = [f"i{number}" for number in range(240)]
LINES = [f"item {name}: some words about it, äöü" for name in ITEMS] + [
    f"padding {n} " + "x" * 60 for n in range(2_000)
]
CORPUS = "\n".join([*LINES[:1_000], "needle alpha is 4711", *LINES[1_000:], "the last line"])


@dataclass
class Models:
    """The loopback's root and oracle in this process, cut like a stream. `sizes`: tokens of every root prompt."""

    policy: str
    sub: Behaviour = field(default_factory=lambda: Behaviour("sub/e00"))
    sizes: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        messages = tuple({"role": message.role, "content": message.content} for message in request.messages)
        if request.role == "sub":
            self.prompts.append(messages[-1]["content"])
            # The later a prompt was sent, the sooner its reply is there.
            await asyncio.sleep(0.02 / len(self.prompts))
            return Completion(oracle(self.sub, messages[-1]["content"], default_label), Usage(1, 1), request.model)
        self.sizes.append(sum(tokens(message["content"]) for message in messages))
        reply = POLICIES[self.policy](Turn(sum(message["role"] == "assistant" for message in messages), messages))
        end = request.cut()(reply) if request.cut else None
        return Completion(reply if end is None else reply[:end], Usage(1, 1), request.model)


def play(policy: str, folder: Path, sub: str = "sub/e00") -> tuple[Outcome, Models]:
    """The outcome, and what the models were asked."""
    path = folder / "corpus.txt"
    path.write_text(CORPUS)
    models = Models(policy, Behaviour(sub))

    def emit(event: Event, span: Span = ROOT) -> None:
        """Nobody listens."""

    async def main() -> Outcome:
        document = Document("corpus.txt", str(path), path.stat().st_size)
        facts = InputFacts(1, document.size)
        task = Task("?", (document,), facts, "root", "sub", limits=Limits(iterations=8))
        sandbox = LocalSandbox()
        chain = Cached(models, saved=lambda model, usage: None)
        try:
            return await asyncio.wait_for(run(task, Deps(chain, sandbox, emit, LedgerView(Totals))), 60)
        finally:
            await sandbox.close()

    return asyncio.run(main()), models


def text_of(outcome: Outcome) -> str:
    return outcome.answer.whole().decode() if outcome.answer else ""


COUNTS = Counter(default_label(name) for name in ITEMS)
TRUTH = ", ".join(f"{name}={COUNTS[name]}" for name in sorted(COUNTS))
TABLE = "\n".join(f"{name}: {default_label(name)}" for name in ITEMS)

ANSWERS = {
    "lazy": (str(len(CORPUS)), 0),
    "chunk_map": (TRUTH, 40),
    "sequential": (TRUTH, 40),
    "probe_grep": ("4711", 0),
    "verify": ("240 labels, the same twice", 40 + 24),
    "long_output": (TABLE, 40),
    "wasteful": (TABLE, 240),
    "error_recovery": (str(len(CORPUS.splitlines())), 0),
    "two_blocks": (str(len(CORPUS[:100_000])), 0),
    "final_mention": ("done properly", 0),
    "big_print": (str(len(CORPUS)), 0),
    "reactive": (f"saw {len(CORPUS) * 7 + 1}", 0),
    "state_user": (LINES[0], 0),
    "think_tags": ("240", 0),
    "wrong_fence": ("240", 0),
    "missing_var": ("found it", 0),
    "mutate_context": (f"{len(CORPUS)} and 4", 0),
}
UNANSWERED = {"stubborn": "no_answer", "prose_only": "no_answer", "empty": "no_answer"}


@pytest.mark.parametrize("policy", ANSWERS)
def test_roots_of_every_habit(tmp_path: Path, policy: str) -> None:
    """The answer, with so many sub-calls, and never more than 8,000 tokens in a root prompt."""
    outcome, models = play(policy, tmp_path)
    assert (outcome.status, text_of(outcome), len(models.prompts)) == ("ok", *ANSWERS[policy])
    assert max(models.sizes) < 8_000


@settings(max_examples=5)
@given(st.lists(st.text(min_size=1), min_size=30, max_size=30))
def test_any_text_survives_the_way_from_the_reply_to_the_answer(texts: list[str]) -> None:
    """As the root writes it in its block, through parser, wire, kernel and back."""

    async def answers() -> list[bytes | None]:
        found = []
        async with kernel() as session:
            for text in texts:
                reply = parse_reply(f"So:\n```repl\nFINAL({text!r})\n```\nDone.")
                answer = (await session.run(reply.code)).answer
                found.append(None if answer is None else answer.whole())
        return found

    assert run_bounded(answers) == [text.encode() for text in texts]


@given(st.text().filter(lambda text: "<" not in text))
def test_any_text_survives_a_final_in_prose(text: str) -> None:
    """As the paper's prompt taught it. (A tag may begin a tool call, which counts first.)"""
    assert parse_reply(f"So:\nFINAL({text!r})\nThat is it.\n").final == text


def test_all_policies_are_tried() -> None:
    assert set(ANSWERS) | set(UNANSWERED) == set(POLICIES)


@pytest.mark.parametrize("policy", ["chunk_map", "wasteful"])
def test_a_root_is_not_told_what_it_is_to_find(tmp_path: Path, policy: str) -> None:
    """The positive control of the above: sub-models that err make another answer."""
    outcome, _ = play(policy, tmp_path, "sub/e30")
    assert outcome.status == "ok"
    assert text_of(outcome) != ANSWERS[policy][0]


def test_the_two_dialects_of_the_oracle_agree() -> None:
    """As JSON and as lines: the same labels."""
    prompt = "\n".join(LINES[:240])
    lines = oracle(Behaviour("sub/e10"), prompt, default_label)
    data = json.loads(oracle(Behaviour("sub/e10"), "JSON\n" + prompt, default_label))
    assert lines == "\n".join(f"{name}: {label}" for name, label in data.items())
