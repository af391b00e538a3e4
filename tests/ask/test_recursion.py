"""`--max-depth` from the shell: child runs in containers of their own; real LiteLLM, Docker and kernel."""

from __future__ import annotations

import signal
import threading
from collections import defaultdict

import pytest

from tests.loopback import Turn
from tests.loopback import code as code_block

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
    FINAL(context.count("item "), evidence=context.splitlines()[0])
"""


def items(shell: Shell) -> str:
    (shell.folder / "items.txt").write_text("\n".join(LINES) + "\n")
    return "items.txt"


def ask(shell: Shell, source: str, *more: str, root: str) -> list[str]:
    return ["ask", source, "How many items?", *more, *shell.model(f"root/{root}")]


def test_an_alias_without_a_price_says_so(shell: Shell) -> None:
    """Under a dollar cap it cannot be asked: the person is told by the name that they gave it, the code why."""
    (shell.folder / "rlm").mkdir()
    models = ("openai/root/asks", "openai/sub/e00")
    prices = "".join(f'[prices."{model}"]\ninput = 1\noutput = 2\n' for model in models)
    (shell.folder / "rlm" / "config.toml").write_text(f'[aliases]\nnew = "openai/sub/new"\n{prices}')
    tries = "try:\n    llm_query('x', model='new')\nexcept Exception as error:\n    FINAL(str(error))"
    shell.server.policies["asks"] = lambda turn: code_block(tries)
    asked = ("ask", items(shell), "Q", "--json", "--mode", "rlm", "--api-base", shell.server.url)
    done = shell.run(*asked, "-m", models[0], "--sub-model", models[1])
    assert (done.code, len(shell.server.requests)) == (0, 1)
    assert done.json["answer"].startswith(
        "model 'new' cannot be asked: its price is unknown, and what this run may cost is capped; only these names"
    )
    assert shell.record()[0]["cost_note"] == "price of new (openai/sub/new) unknown: not offered to the code"


def test_depth_three_with_three_models_adds_up(shell: Shell) -> None:
    """A count over halves of halves, each in a run of its own: exact; and for every model the totals, the record and
    the provider say the same. The evidence of the leaves comes up to the answer, at its place in the whole file."""
    (shell.folder / "rlm").mkdir()
    (shell.folder / "rlm" / "config.toml").write_text(
        '[aliases]\ncheap = "openai/sub/cheap"\n[prices."openai/sub/cheap"]\ninput = 1\noutput = 2\n'
    )
    source = items(shell)
    size = len((shell.folder / source).read_text())
    shell.server.policies["halves"] = lambda turn: code_block(HALVES.replace("SIZE", str(size // 3)))
    done = shell.run(*ask(shell, source, "--max-depth", "3", "--json", root="halves"))
    assert (done.code, done.json["data"], done.json["depth"]) == (0, 800, 3)
    assert (done.json["calls"]["root"], done.json["calls"]["children"]) == (7, 6)
    requests = shell.server.requests
    assert done.json["calls"]["total"] == len(requests) == 7 + 8
    cost, tokens = defaultdict[str, float](float), defaultdict[str, int](int)
    for request in requests:
        tokens[f"openai/{request.model}"] += request.prompt_tokens + request.output_tokens
        cost[f"openai/{request.model}"] += request.prompt_tokens * 1e-6 + request.output_tokens * 2e-6
    assert len(cost) == 3
    assert done.json["cost"]["by_model"] == pytest.approx(dict(cost))
    assert {name: usage["total"] for name, usage in done.json["usage"]["by_model"].items()} == dict(tokens)
    told = defaultdict[str, list[int]](lambda: [0, 0, 0])
    for event in shell.record():
        if event["type"] == "call.finished":
            usage = event["usage"]
            told[event["model"]] = [
                *map(sum, zip(told[event["model"]], (1, usage["input"], usage["output"]), strict=True))
            ]
    assert told == {
        model: [
            sum(1 for request in requests if f"openai/{request.model}" == model),
            sum(request.prompt_tokens for request in requests if f"openai/{request.model}" == model),
            sum(request.output_tokens for request in requests if f"openai/{request.model}" == model),
        ]
        for model in cost
    }
    usage = done.json["usage"]["total"]
    assert usage["input"] == sum(request.prompt_tokens for request in requests)
    assert usage["output"] == sum(request.output_tokens for request in requests)
    cited = {citation["quote"]: (citation["status"], citation["line"]) for citation in done.json["citations"]}
    assert cited == {LINES[line - 1]: ("verbatim", line) for _, line in cited.values()}
    assert len(cited) == 4
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
    shell.server.policies["files"] = lambda turn: code_block(
        child if "names" in turn.messages[1]["content"][:40] else root
    )
    done = shell.run(*ask(shell, "docs", "--max-depth", "2", "--json", root="files"))
    assert done.code == 0, done.err
    everything, some, mixed = done.json["data"]
    assert everything == [40, ["00.txt", "01.txt"], "secret 0\n", ["/in/0"]]
    assert some[:3] == [4, ["01.txt", "11.txt"], "secret 1\n"]
    assert mixed == [2, ["07.txt", "x"], "mine", ["/in/0", "/in/1"]]


def test_a_child_that_fails_is_one_item(shell: Shell) -> None:
    """One gives up, one reaches its turns, one answers: the parent sees which and goes on; exit 0.
    One submits a text where a number is wanted, is told so, and submits a number."""

    def policy(turn: Turn) -> str:
        asked = turn.messages[1]["content"]
        if "SILENT" in asked:
            return "I would rather not."
        if "ENDLESS" in asked:
            return code_block("print('still looking')")
        if "GOOD" in asked:
            return code_block("FINAL({'n': len(context)})")
        if "TYPED" in asked:
            return code_block("FINAL(7)" if "does not satisfy the schema" in turn.last else "FINAL('many')")
        return code_block(
            "got = rlm_query_batched(['SILENT', 'ENDLESS', 'GOOD'], ['abc'] * 3)\n"
            "typed = rlm_query('TYPED', 'abc', int)\n"
            "FINAL([got[0].error, got[1].error, got[2], [bool(one) for one in got], typed])"
        )

    shell.server.policies["mixed"] = policy
    done = shell.run(*ask(shell, items(shell), "--max-depth", "2", "--max-iterations", "4", "--json", root="mixed"))
    assert done.code == 0, done.err
    silent, endless, good, truth, typed = done.json["data"]
    assert "without submitting" in silent
    assert "limit of 4 turns" in endless
    assert (good, truth, typed) == ({"n": 3}, [False, False, True], 7)
    assert "2 child no answer" in done.err or "1 child no answer" in done.err


KILLED = -signal.SIGKILL


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ((signal.SIGINT,), 130),
        ((signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT), None),
        ((signal.SIGKILL,), KILLED),
    ],
    ids=["Ctrl-C", "twice", "SIGKILL"],
)
def test_a_signal_while_children_run_leaves_nothing(
    shell: Shell, signals: tuple[signal.Signals, ...], code: int | None
) -> None:
    """Their cells are running, on texts that were copied for them: the documented code, every container gone, and
    nothing of the texts on the disk. Of two signals of two kinds at once, either may be the first."""

    def policy(turn: Turn) -> str:
        if "CHILD" in turn.messages[1]["content"]:
            return code_block("import time\nprint('here', flush=True)\ntime.sleep(100)")
        return code_block("rlm_query_batched(['CHILD'] * 2, ['a secret', 'another'])")

    def texts() -> list[bytes]:
        return sorted(path.read_bytes() for path in (shell.folder / "rlm").rglob("rlm-children-*/*.txt"))

    shell.server.policies["nested"] = policy
    process = shell.start(*ask(shell, items(shell), "--max-depth", "2", "--json", root="nested"))
    until(lambda: sum(entry.finished for entry in shell.server.requests) == 3, seconds=50)
    assert len(containers_of(process.pid)) == 3
    assert texts() == [b"a secret", b"another"]
    for number in signals:
        send(process, number)
    done = shell.finish(process)
    assert done.code in ((130, 143) if code is None else (code,))
    if code == KILLED:  # by the kernels themselves, which notice that their host is gone, and by the guard
        until(lambda: not containers_of(process.pid) and not texts())
    assert containers_of(process.pid) == []
    assert not list((shell.folder / "rlm").rglob("rlm-children-*"))


def test_children_when_the_time_is_up(shell: Shell) -> None:
    """Their cells never end: exit 6, a record that ends, and nothing left; on a machine that is too slow for children
    to start in that time, too. (What the parent makes of it: tests/test_fallbacks.py.)"""

    def policy(turn: Turn) -> str:
        if "CHILD" in turn.messages[1]["content"]:
            return code_block("import time\nprint('found 7', flush=True)\ntime.sleep(100)")
        if turn.last.startswith("The run ends here"):
            return "What I know."
        return code_block("print(rlm_query_batched(['CHILD'] * 2, ['a secret', 'another']))")

    shell.server.policies["deaf"] = policy
    limits = ("--max-depth", "2", "--max-time", "15")
    process = shell.start(*ask(shell, items(shell), *limits, "--json", root="deaf"))
    done = shell.finish(process)
    assert (done.code, done.json["limit_hit"]) == (6, "time"), done.err
    assert shell.record()[-1]["result"] == done.json
    assert containers_of(process.pid) == []
    assert not list((shell.folder / "rlm").rglob("rlm-children-*"))


def test_a_cap_inside_a_child_inside_a_batch(shell: Shell) -> None:
    """--max-subcalls 5: two children share it, and their own turns count; each tells what it found, the root has its
    last turn; exit 6, and not a call more was made."""

    both = threading.Barrier(2)

    def policy(turn: Turn) -> str:
        last_turn = turn.messages[-1]["content"].startswith("The run ends here")
        if "CHILD" in turn.messages[1]["content"]:
            asks = "print(sum(map(bool, llm_query_batched([f'CHILD{context} {n}' for n in range(4)]))), 'of 4')"
            if not last_turn:
                both.wait(30)  # neither asks before the other has had its turn
            return "About 4." if last_turn else code_block(asks)
        if last_turn:
            return "At least 3."
        return code_block("for reply in rlm_query_batched(['CHILD'] * 2, ['1', '2']): print(reply)")

    shell.server.policies["capped"] = policy
    limits = ("--max-depth", "2", "--max-subcalls", "5")
    done = shell.run(*ask(shell, items(shell), *limits, "--json", root="capped"))
    assert (done.code, done.json["status"], done.json["limit_hit"]) == (6, "partial", "subcalls"), done.err
    calls = done.json["calls"]
    assert (done.json["answer"], calls["sub"] + calls["children"]) == ("At least 3.", 5)
    assert len(shell.server.requests_of("sub")) == 3
    observed = shell.server.requests[-1].messages[-2]["content"]
    assert observed.count("the child run did not finish: the cap of 5 sub-calls is reached") == 2
    assert observed.count("what it had so far") == 2


def test_without_more_depth_nothing_changes(shell: Shell) -> None:
    """By default `rlm_query` is a call to the sub-model, with the slice below the prompt, and read as JSON where a
    schema is given."""
    shell.server.policies["plain"] = lambda turn: code_block("FINAL(rlm_query('Label:', context[:40], dict[str, str]))")
    done = shell.run(*ask(shell, items(shell), "--json", root="plain"))
    (call,) = shell.server.requests_of("sub")
    assert call.prompt.startswith("Label:\n\n" + "\n".join(LINES)[:40] + "\n\nReply with JSON only")
    assert done.json["data"] == {"q0": shell.server.label("q0")}
    assert (done.code, done.json["depth"], "--max-depth" in done.err) == (0, 1, False)
