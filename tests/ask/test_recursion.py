"""`--max-depth` from the shell: child runs in containers of their own; real LiteLLM, Docker and kernel."""

from __future__ import annotations

import signal
from collections import defaultdict

import pytest

from tests.loopback import Turn, code

from .conftest import Shell, containers_of, send, until

pytestmark = pytest.mark.docker

LINES = [f"item q{number}: what is thing number {number}? ä" for number in range(800)]
HALVES = """
if len(context) > SIZE:
    cut = context.find("\\n", len(context) // 2) + 1
    halves = rlm_query_batched(["How many items? An int."] * 2, [context[:cut], context[cut:]])
    print(halves)
    FINAL(sum(halves))
else:
    seen = [llm_query("Label:\\n" + context[:300]), llm_query("Label again:\\n" + context[:300], model="cheap")]
    FINAL(context.count("item "))
"""


def items(shell: Shell) -> str:
    (shell.folder / "items.txt").write_text("\n".join(LINES) + "\n")
    return "items.txt"


def ask(shell: Shell, source: str, *more: str, root: str) -> list[str]:
    return ["ask", source, "How many items?", *more, *shell.model(f"root/{root}")]


def test_depth_three_with_three_models_adds_up(shell: Shell) -> None:
    """A count over halves of halves, each in a run of its own: exact; and for every model the totals, the record and
    the provider say the same."""
    (shell.folder / "rlm").mkdir()
    (shell.folder / "rlm" / "config.toml").write_text(
        '[aliases]\ncheap = "openai/sub/cheap"\n[prices."openai/sub/cheap"]\ninput = 1\noutput = 2\n'
    )
    source = items(shell)
    size = len((shell.folder / source).read_text())
    shell.server.policies["halves"] = lambda turn: code(HALVES.replace("SIZE", str(size // 3)))
    done = shell.run(*ask(shell, source, "--max-depth", "3", "--json", root="halves"))
    assert (done.code, done.json["data"], done.json["depth"]) == (0, 800, 3)
    assert done.json["calls"]["root"] == 7
    requests = shell.server.requests
    assert done.json["calls"]["total"] == len(requests) == 7 + 8
    cost = defaultdict[str, float](float)
    for request in requests:
        cost[f"openai/{request.model}"] += request.prompt_tokens * 1e-6 + request.output_tokens * 2e-6
    assert len(cost) == 3
    assert done.json["cost"]["by_model"] == pytest.approx(dict(cost))
    usage = done.json["usage"]["total"]
    assert usage["input"] == sum(request.prompt_tokens for request in requests)
    assert usage["output"] == sum(request.output_tokens for request in requests)
    record = shell.record()
    spans = {event["span"] for event in record if event["type"] == "child.finished"}
    assert spans == {"1", "2", "1.1", "1.2", "2.1", "2.2"}
    shown = shell.run("runs", "show").err + shell.run("runs", "show").out.decode()
    assert all(f"{span} child ok" in shown for span in spans)


def test_many_files_are_mounted_once_for_the_tree(shell: Shell) -> None:
    """More files than are mounted one by one: the root's packed copy serves the children, which see what they were
    given under its name."""
    (shell.folder / "docs").mkdir()
    for number in range(40):
        (shell.folder / "docs" / f"{number:02}.txt").write_text(f"secret {number}\n")
    root = """
halves = rlm_query_batched(["names"] * 3, [None, context.names("*1.txt"), {"x": "mine", "07.txt": context["07.txt"]}])
FINAL(halves)
"""
    child = """
import glob
FINAL([len(context), sorted(context)[:2], sorted(map(str, context.values()))[0], sorted(glob.glob("/in/*"))])
"""
    shell.server.policies["files"] = lambda turn: code(child if "names" in turn.messages[1]["content"][:40] else root)
    done = shell.run(*ask(shell, "docs", "--max-depth", "2", "--json", root="files"))
    assert done.code == 0, done.err
    everything, some, mixed = done.json["data"]
    assert everything == [40, ["00.txt", "01.txt"], "secret 0\n", ["/in/0"]]
    assert some[:3] == [4, ["01.txt", "11.txt"], "secret 1\n"]
    assert mixed == [2, ["07.txt", "x"], "mine", ["/in/0", "/in/1"]]


def test_a_child_that_fails_is_one_item(shell: Shell) -> None:
    """One gives up, one reaches its turns, one answers: the parent sees which and goes on; exit 0."""

    def policy(turn: Turn) -> str:
        asked = turn.messages[1]["content"]
        if "SILENT" in asked:
            return "I would rather not."
        if "ENDLESS" in asked:
            return code("print('still looking')")
        if "GOOD" in asked:
            return code("FINAL({'n': len(context)})")
        return code(
            "got = rlm_query_batched(['SILENT', 'ENDLESS', 'GOOD'], ['abc'] * 3)\n"
            "FINAL([got[0].error, got[1].error, got[2], [bool(one) for one in got]])"
        )

    shell.server.policies["mixed"] = policy
    done = shell.run(*ask(shell, items(shell), "--max-depth", "2", "--max-iterations", "4", "--json", root="mixed"))
    assert done.code == 0, done.err
    silent, endless, good, truth = done.json["data"]
    assert "without submitting" in silent
    assert "limit of 4 turns" in endless
    assert (good, truth) == ({"n": 3}, [False, False, True])
    assert "2 child no answer" in done.err or "1 child no answer" in done.err


def test_ctrl_c_in_a_child_leaves_nothing(shell: Shell) -> None:
    """The child's cell is running: one signal ends the tree, with every container gone when the command is."""

    def policy(turn: Turn) -> str:
        if "CHILD" in turn.messages[1]["content"]:
            return code("import time\nprint('here', flush=True)\ntime.sleep(100)")
        return code("rlm_query_batched(['CHILD'] * 3)")

    shell.server.policies["nested"] = policy
    process = shell.start(*ask(shell, items(shell), "--max-depth", "2", "--json", root="nested"))
    until(lambda: sum(entry.finished for entry in shell.server.requests) == 4, seconds=40)
    assert len(containers_of(process.pid)) == 4
    send(process, signal.SIGINT)
    done = shell.finish(process)
    assert done.code == 130
    assert containers_of(process.pid) == []
    assert not list((shell.folder / "rlm").rglob("rlm-child-*"))


def test_without_more_depth_nothing_changes(shell: Shell) -> None:
    """By default `rlm_query` is a call to the sub-model, with the slice below the prompt."""
    shell.server.policies["plain"] = lambda turn: code("FINAL(rlm_query('Label:', context[:40]))")
    done = shell.run(*ask(shell, items(shell), "--json", root="plain"))
    (call,) = shell.server.requests_of("sub")
    assert call.prompt == "Label:\n\n" + "\n".join(LINES)[:40]
    assert (done.code, done.json["depth"], "--max-depth" in done.err) == (0, 1, False)
