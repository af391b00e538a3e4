"""The benchmark measures what it says: scripts, server, checks and readings. No Docker, no peer, loopback only."""

from __future__ import annotations

import http.client
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlm_cli.bench import figures, lab, process, script, server, table

scripts = st.builds(
    script.Script,
    kind=st.sampled_from(["len", "batch", "seq"]),
    n=st.integers(1, 10_000),
    dialect=st.sampled_from(["final", "answer"]),
)


def ended(out: str = "", *, status: int = 0) -> process.Ended:
    return process.Ended(started=100.0, ended=110.0, status=status, peak=0, out=out, err="")


def root(*texts: str, arrived: float = 0.0) -> server.Seen:
    messages = tuple(("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))
    return server.Seen("root/len-9/final", messages, arrived, stream=True)


@given(scripts)
def test_a_script_survives_the_model_name(plan: script.Script) -> None:
    """The server finds in the model's name exactly the script that the lab put there."""
    assert script.parse(plan.name) == plan


@pytest.mark.parametrize("kind", ["len", "batch", "seq"])
@pytest.mark.parametrize("dialect", ["final", "answer"])
def test_a_script_leads_to_its_answer(kind: Any, dialect: Any) -> None:
    """Played against a perfect harness, each script ends in its last turn with the answer that the check wants."""
    plan = script.Script(kind, 7, dialect)
    submitted: list[str] = []
    names: dict[str, Any] = {
        "context": "x" * 50,
        "FINAL": submitted.append,
        "answer": {},
        "llm_query": script.sub_reply,
        "llm_query_batched": lambda prompts: [script.sub_reply(prompt) for prompt in prompts],
        "print": lambda *_: None,
    }
    for turn in range(plan.turns):
        assert (submitted, names["answer"]) == ([], {})
        exec(plan.reply(turn).split("```repl\n")[1].split("```")[0], names)
    assert [*submitted, *([names["answer"]["content"]] if names["answer"] else [])] == [plan.answer(50)]


def test_a_batch_out_of_order_is_noticed() -> None:
    """The batch script counts replies in their own place, so a harness that shuffles them fails the check."""
    plan = script.Script("batch", 7, "final")
    submitted: list[str] = []
    names: dict[str, Any] = {
        "FINAL": submitted.append,
        "llm_query_batched": lambda prompts: [script.sub_reply(prompt) for prompt in reversed(prompts)],
        "print": lambda *_: None,
    }
    for turn in range(plan.turns):
        exec(plan.reply(turn).split("```repl\n")[1].split("```")[0], names)
    assert submitted != [plan.answer(0)]


def post(url: str, body: dict[str, Any]) -> str:
    """The response's body, whole or as streamed."""
    host = url.removeprefix("http://").partition("/")[0]
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_the_server_plays_both_roles_and_remembers() -> None:
    """Root by the number of assistant turns, streamed or whole; sub by its prompt; `take` empties the record."""
    plan = script.Script("len", 2, "final")
    first = {"role": "user", "content": "go"}
    then = [first, {"role": "assistant", "content": "..."}, {"role": "user", "content": [{"text": "5"}]}]
    with server.ModelServer() as model:
        whole = json.loads(post(model.url, {"model": f"root/{plan.name}", "messages": [first]}))
        streamed = post(model.url, {"model": f"root/{plan.name}", "messages": then, "stream": True})
        sub = json.loads(post(model.url, {"model": "sub/0", "messages": [{"role": "user", "content": "item 3"}]}))
        seen = model.take()
        assert model.take() == ()
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert whole["choices"][0]["message"]["content"] == plan.reply(0)
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == plan.reply(1)
    assert sub["choices"][0]["message"]["content"] == "seen item 3"
    assert [(request.is_root, request.stream, request.messages[-1][1]) for request in seen] == [
        (True, False, "go"),
        (True, True, "5"),
        (False, False, "item 3"),
    ]
    assert [request.arrived for request in seen] == sorted(request.arrived for request in seen)


def test_the_server_ends_with_its_context() -> None:
    """Clients that are still connected, just now or for a while, keep neither the thread nor a socket alive."""
    with server.ModelServer() as model:
        clients = [http.client.HTTPConnection("127.0.0.1", model.port, timeout=10) for _ in range(2)]
        clients[0].request("POST", "/", json.dumps({"model": "sub/0", "messages": [{"role": "user", "content": ""}]}))
        clients[0].getresponse().read()
        clients[1].connect()
    for client in clients:
        client.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "bench-model"]


def test_a_command_is_measured_and_its_words_kept(tmp_path: Path) -> None:
    """Exit code, output, folder, environment and memory are those of the command."""
    code = "import os, sys; print(os.getcwd(), os.environ['X']); print('no', file=sys.stderr); sys.exit(3)"
    got = process.run([sys.executable, "-c", code], folder=tmp_path, env={"X": "1"}, timeout=60)
    assert (got.status, got.out, got.err, got.complaint()) == (3, f"{tmp_path} 1\n", "no\n", "exit 3: no")
    assert got.ended > got.started and got.peak > 1_000_000


def test_a_command_that_hangs_is_stopped(tmp_path: Path) -> None:
    """The time limit ends the whole process group with SIGTERM."""
    got = process.run(["sh", "-c", "sleep 600 & wait"], folder=tmp_path, env={}, timeout=0.1)
    assert got.status == -15


def test_only_a_right_run_counts() -> None:
    """Wrong answers and missing or extra requests are failures, whatever the exit code said."""
    plan = script.Script("batch", 3, "final")
    job = lab.Job("batch", 3, lab.Context(Path("unused"), 10))
    lab.check(plan, job, ended("3\n"), roots=2, subs=3)
    for out, roots, subs in [("2", 2, 3), ("", 2, 3), ("3", 1, 3), ("3", 2, 4)]:
        with pytest.raises(lab.FailedError):
            lab.check(plan, job, ended(out), roots=roots, subs=subs)


def test_a_trial_is_read_by_the_arrival_of_root_requests() -> None:
    """Start-up and the first turns are not in the time per turn."""
    arrivals = [103.0, 104.0, 104.5, 104.6, 104.7, 104.71, 104.73]
    trial = lab.Trial(ended(), tuple(root("go", arrived=at) for at in arrivals))
    assert (trial.to_first_request, trial.first_cell) == (3.0, 1.0)
    assert trial.per_turn == pytest.approx(0.015)


@given(st.integers(0, 3_000_000))
def test_a_context_has_the_size_asked_for(size: int) -> None:
    """To the byte, in ASCII, so bytes are characters."""
    text = b"".join(lab.text_blocks(size))
    assert (len(text), text.isascii()) == (size, True)


@given(st.text(), st.text(), st.text())
def test_the_common_prefix_is_common_and_longest(head: str, left: str, right: str) -> None:
    """No shorter than what is known to be shared, and the texts differ right after it."""
    a, b = head + left, head + right
    n = figures.common_prefix(a, b)
    assert (n >= len(head), a[:n] == b[:n]) == (True, True)
    assert a[n : n + 1] != b[n : n + 1] or a == b


def test_the_kept_share_is_that_of_the_worst_turn() -> None:
    """Append-only prompts keep everything; a counter at the head of the prompt keeps next to nothing."""
    grown = [root("question"), root("question", "code", "output"), root("question", "code", "output", "code", "more")]
    counted = [root("turn 1 of 9, question"), root("turn 2 of 9, question", "code", "output")]
    assert figures.kept_share(grown) == 100
    assert figures.kept_share(counted) < 50


@pytest.mark.parametrize(
    ("mine", "target", "at_least", "verdict"),
    [
        ((9.0, 11.0, 40.0), 12.0, False, "ok"),
        ((9.0, 13.0, 14.0), 12.0, False, "over"),
        ((100.0,), 100.0, True, "ok"),
        ((99.0,), 100.0, True, "under"),
        ((), 12.0, False, "n/a"),
        ((9.0,), None, False, ""),
    ],
)
def test_a_verdict_is_about_our_median(mine: tuple[float, ...], target: Any, at_least: bool, verdict: str) -> None:
    values = {"ours": figures.Value(mine), "rlms docker": figures.Value((500.0,))}
    assert figures.Figure("f", "ms", values, target=target, at_least=at_least).verdict == verdict


def test_the_table_says_what_is_missing_and_why() -> None:
    """Medians with units, the ratio to the sandboxed peer, and each reason once below."""
    dead = figures.Value(reason="exit 1: no engine")
    values = {"ours": figures.Value((8.0,)), "rlms local": figures.Value((4.0, 5.0)), "rlms docker": dead}
    one = figures.Figure("per turn", "ms", values, target=12)
    two = figures.Figure("start", "s", {"ours": figures.Value((2.0,)), "rlms docker": figures.Value((3.0,))})
    assert [" ".join(line.split()) for line in table.lines([one, two])[2:]] == [
        "per turn 8.0 ms 4.5 ms n/a - <= 12.0 ms ok",
        "start 2.00 s - 3.00 s 1.5x",
        "",
        "n/a, rlms docker: exit 1: no engine",
    ]
