"""The loopback's policies and oracle, against a reference harness of a few lines: what they say is what they do."""

from __future__ import annotations

import contextlib
import io
import re
import traceback
from collections import Counter
from typing import Any

import pytest

from tests.loopback import LABELS, POLICIES, Behaviour, Turn, default_label, oracle, tokens

ITEMS = [f"i{number}" for number in range(787)]
CORPUS = "\n".join([f"item {name}: some words about it" for name in ITEMS] + ["needle alpha is 4711"])


class Harness:
    """The method in its smallest form: first code block, run it, show the output. Sub-calls go to the oracle."""

    def __init__(self, sub: str = "sub/e00") -> None:
        self.sub = Behaviour(sub)
        self.prompts: list[str] = []
        self.answer: str | None = None
        self.names: dict[str, Any] = {
            "context": CORPUS,
            "FINAL": self.final,
            "llm_query": self.query,
            "llm_query_batched": lambda prompts: [self.query(prompt) for prompt in prompts],
        }

    def final(self, value: object) -> None:
        self.answer = str(value)

    def query(self, prompt: str) -> str:
        self.prompts.append(prompt)
        return oracle(self.sub, prompt, default_label)

    def run(self, policy: str, turns: int = 8) -> str | None:
        messages = [{"role": "user", "content": "question"}]
        for step in range(turns):
            reply = POLICIES[policy](Turn(step, tuple(messages)))
            block = re.search(r"```repl\n(.*?)```", reply, re.S)
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": self.execute(block)}]
            if self.answer is not None:
                return self.answer
        return None

    def execute(self, block: re.Match[str] | None) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                exec(block[1] if block else "", self.names)
            except Exception:  # noqa: BLE001 - a model's code may raise anything
                print(traceback.format_exc(limit=1))
        return out.getvalue()


def counts(labels: Counter[str]) -> str:
    return ", ".join(f"{name}={labels[name]}" for name in sorted(labels))


TRUTH = counts(Counter(default_label(name) for name in ITEMS))


@pytest.mark.parametrize(
    ("policy", "answer", "sub_calls"),
    [
        ("chunk_map", TRUTH, 40),
        ("sequential", TRUTH, 40),
        ("probe_grep", "4711", 0),
        ("reactive", f"saw {len(CORPUS) * 7 + 1}", 0),
        ("lazy", str(len(CORPUS)), 0),
        ("error_recovery", "788", 0),
        ("final_mention", "done properly", 0),
        ("two_blocks", str(len(CORPUS)), 0),
        ("big_print", str(len(CORPUS)), 0),
        ("stubborn", None, 0),
        ("prose_only", None, 0),
        ("empty", None, 0),
    ],
)
def test_policies_do_what_their_names_say(policy: str, answer: str | None, sub_calls: int) -> None:
    """A correct harness gets this answer with this many sub-calls, from the code alone."""
    harness = Harness()
    assert (harness.run(policy), len(harness.prompts)) == (answer, sub_calls)


def test_the_oracle_errs_by_item_and_not_by_order() -> None:
    """With 10 % error the same items are wrong however they are packed, about 10 % of them."""
    whole = oracle(Behaviour("sub/e10"), CORPUS, default_label)
    singly = "\n".join(oracle(Behaviour("sub/e10"), f"item {name}: x", default_label) for name in ITEMS)
    missed = sum(line != f"{name}: {default_label(name)}" for line, name in zip(whole.splitlines(), ITEMS, strict=True))
    assert whole == singly
    assert 0.05 < missed / len(ITEMS) < 0.15


def test_the_oracle_knows_only_what_it_sees() -> None:
    """A prompt without items has no answer in it."""
    assert oracle(Behaviour("sub/e00"), "How many items are LOC?", default_label) == "nothing to label"


def test_faults_come_first_and_then_success() -> None:
    """`429x2/500x1`: two rate limits, one error, then it works; without a count it never works."""
    flaky, broken = Behaviour("sub/e00/429x2/500x1"), Behaviour("sub/404")
    assert [flaky.fault(seen) for seen in range(5)] == ["429", "429", "500", "", ""]
    assert broken.fault(99) == "404"


def test_long_prompts_rot() -> None:
    """Beyond `rotN` tokens the error grows by 12 points per doubling."""
    prompt = "\n".join(f"item r{number}: {'x' * 60}" for number in range(500))
    assert tokens(prompt) > 8 * 512
    right = sum(
        line.split(": ")[1] == default_label(line.split(":")[0])
        for line in oracle(Behaviour("sub/rot512"), prompt, default_label).splitlines()
    )
    assert 0.4 < right / 500 < 0.75
    assert set(LABELS) >= {default_label(name) for name in ITEMS}
