"""Root policies that three harnesses can play: code with three holes, which each harness fills in its own words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.loopback import Behaviour, Policy, Turn, code, default_label, oracle

Dialect = Literal["rlm", "rlms", "dspy"]
DIALECTS: Sequence[Dialect] = ("rlm", "rlms", "dspy")

FINISH = re.compile(r"^(\s*)FINISH\((.*)\)$", re.MULTILINE)
CHILD = re.compile(r"ASK_CHILD\(([^,()]+), ([^,()]+)\)")
LABEL_THESE = "Label each item"
CHILDS = re.compile("CHILD TASK|count HUM")
"""What a child sees first, and the root does not."""
ITEMS = 'items = [line for line in str(context).splitlines() if line.startswith("item ")]\n'


@dataclass(frozen=True)
class Trajectory:
    """`blocks`: the code of each turn; `FINISH(value)` ends the run. `sub_calls`: how many it makes with `items` items,
    by sight. `children`: whether it starts child runs, which not every harness has in the same form."""

    name: str
    blocks: Sequence[str]
    sub_calls: int
    children: bool = False
    child_blocks: Sequence[str] = ()


LOOK = ITEMS + "print(len(str(context)), len(items)); print(str(context)[:200])"
CHUNKS = """
size = 40
prompts = ["Label each item. Reply with a JSON object {id: label}.\\n" + "\\n".join(items[i:i + size])
           for i in range(0, len(items), size)]
"""
BATCHED = "replies = llm_query_batched(prompts)\nprint(len(replies), 'replies')\n"
SEVERAL = """
replies = [reply for pair in (prompts[:2], prompts[2:4], prompts[4:]) for reply in llm_query_batched(pair)]
print(len(replies), 'replies')
"""
ONE_BY_ONE = "replies = [llm_query(prompt) for prompt in prompts]\nprint(len(replies), 'replies')\n"
LABELS = """
import json, collections
labels = {}
for reply in replies:
    labels.update(json.loads(str(reply)))
"""
COUNT = (
    LABELS
    + """
counts = collections.Counter(labels.values())
FINISH(", ".join(f"{name}={counts[name]}" for name in sorted(counts)))
"""
)
HUMAN = LABELS + "human = str(sum(label == 'HUM' for label in labels.values()))\nprint(human)\n"
VERIFY = """
size = 24
again = ["Label each item. Reply with a JSON object {id: label}.\\n" + "\\n".join(items[i:i + size])
         for i in range(0, len(items), size)]
second = {}
for reply in llm_query_batched(again):
    second.update(json.loads(str(reply)))
print(labels == second)
"""

TRAJECTORIES: Sequence[Trajectory] = (
    Trajectory(
        "grep",
        (
            LOOK,
            "import re\nhits = re.findall(r'needle ([a-z]+) is (\\d+)', str(context))\nprint(hits)",
            "found = hits[0][1]",
            "FINISH(found)",
        ),
        0,
    ),
    Trajectory("map_batched", (LOOK, CHUNKS, BATCHED, COUNT), 6),
    Trajectory(
        "map_sequential",
        (LOOK, CHUNKS, ONE_BY_ONE, COUNT),
        6,
    ),
    Trajectory("map_several", (LOOK, CHUNKS, SEVERAL, COUNT), 6),
    Trajectory(
        "error_recovery",
        (
            ITEMS + "print(undefined_name)",
            "print('unclosed",
            LOOK + "\n1 / 0",
            # Not every harness keeps what a block assigned before it failed.
            ITEMS + CHUNKS + BATCHED,
            HUMAN,
            "FINISH(human)",
        ),
        6,
    ),
    Trajectory(
        "long_output",
        (LOOK, CHUNKS, BATCHED, LABELS + 'FINISH("\\n".join(f"{item}: {labels[item]}" for item in sorted(labels)))'),
        6,
    ),
    Trajectory(
        "verify",
        (
            LOOK,
            CHUNKS + BATCHED,
            LABELS,
            VERIFY,
            "FINISH(str(sum(labels[item] == second[item] for item in labels)))",
        ),
        16,
    ),
)

RECURSIVE = Trajectory(
    "recursive",
    (
        "print(str(context)[:10])",
        ITEMS + "pieces = ['CHILD TASK\\n' + '\\n'.join(items[i:i + 120]) for i in range(0, len(items), 120)]",
        "answers = [ASK_CHILD(task, piece) for task in ['count HUM'] for piece in pieces]\nprint(answers)",
        "FINISH(str(sum(int(str(answer)) for answer in answers)))",
    ),
    6,
    children=True,
    child_blocks=(
        ITEMS + CHUNKS + BATCHED,
        HUMAN,
        "FINISH(human)",
    ),
)


def spelled(source: str, dialect: Dialect) -> str:
    """The code as this harness wants it."""
    finish = {
        "rlm": r"\1FINAL(\2)",
        "rlms": r'\1answer["content"] = \2\n\1answer["ready"] = True',
        "dspy": r"\1SUBMIT(answer=\2)",
    }[dialect]
    child = r"rlm_query(\1, \2)" if dialect == "rlm" else r"rlm_query(\1 + chr(10) + \2)"
    return CHILD.sub(child, FINISH.sub(finish, source)).strip()


def reply(source: str, dialect: Dialect) -> str:
    """A root's whole reply with this code."""
    if dialect != "dspy":
        return code(spelled(source, dialect))
    block = f"```python\n{spelled(source, dialect)}\n```"
    return f"[[ ## reasoning ## ]]\nNext step.\n\n[[ ## code ## ]]\n{block}\n\n[[ ## completed ## ]]"


def turn_number(turn: Turn, dialect: Dialect) -> int:
    """From 0. dspy tells its history in one message, and the turn in a field of it."""
    if dialect != "dspy":
        return turn.step
    number = re.search(r"\[\[ ## iteration ## \]\]\s*(\d+)/", turn.last)
    assert number, "dspy.RLM did not say which turn it is"
    return int(number[1]) - 1


def policy_for(trajectory: Trajectory, dialect: Dialect, sub: str) -> Policy:
    """Plays the trajectory. Child runs ask the same model: they look first, and are told by what they see. A harness
    that sends a child's sub-calls to the root's model gets what `sub` would have said."""

    def play(turn: Turn) -> str:
        if turn.last.startswith(LABEL_THESE):
            return oracle(Behaviour(sub), turn.last, default_label)
        number, blocks = turn_number(turn, dialect), trajectory.blocks
        if trajectory.children and number > 0 and CHILDS.search(seen(turn)):
            number, blocks = number - 1, trajectory.child_blocks
        return reply(blocks[min(number, len(blocks) - 1)], dialect)

    return play


def seen(turn: Turn) -> str:
    """The observation after the first turn."""
    first = next(at for at, message in enumerate(turn.messages) if message["role"] == "assistant")
    return turn.messages[first + 1]["content"]


def policies(sub: str) -> Mapping[str, Policy]:
    """All of them, as `<dialect>-<trajectory>`, beside this sub-model."""
    return {
        f"{dialect}-{trajectory.name}": policy_for(trajectory, dialect, sub)
        for dialect in DIALECTS
        for trajectory in (*TRAJECTORIES, RECURSIVE)
    }
