"""The benchmark measures what it says: scripts, server, checks and readings. No Docker, no peer, loopback only."""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.bench import figures, inputs, lab, meter, mmap_scan, plan, process, rows, script, server, table

scripts = st.builds(
    script.Script,
    kind=st.sampled_from(["len", "batch", "storm", "seq", "search", "answer"]),
    n=st.integers(0, 10_000),
    dialect=st.sampled_from(["final", "answer"]),
)


def ended(out: str = "", *, status: int = 0) -> process.Ended:
    digest = process.digest([out.encode()])
    return process.Ended(started=100.0, ended=110.0, status=status, peak=0, out=out, err="", digest=digest)


def root(*texts: str, arrived: float = 0.0) -> server.Seen:
    messages = tuple(("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))
    return server.Seen("root/len-9/final", messages, arrived, stream=True)


@given(scripts)
def test_a_script_survives_the_model_name(plan: script.Script) -> None:
    """The server finds in the model's name exactly the script that the lab put there."""
    assert script.parse(plan.name) == plan


@pytest.mark.parametrize(
    ("kind", "n"), [("len", 7), ("batch", 7), ("storm", 70), ("seq", 7), ("search", 0), ("answer", 2_007)]
)
@pytest.mark.parametrize("dialect", ["final", "answer"])
def test_a_script_leads_to_its_answer(kind: Any, n: int, dialect: Any) -> None:
    """Played against a perfect harness, each script ends in its last turn with the answer that the check wants."""
    plan = script.Script(kind, n, dialect)
    context = b"".join(inputs.blocks(2_000_000, "ascii")).decode()
    submitted: list[str] = []
    names: dict[str, Any] = {
        "context": context,
        "FINAL": submitted.append,
        "answer": {},
        "llm_query": script.sub_reply,
        "llm_query_batched": lambda prompts: [script.sub_reply(prompt) for prompt in prompts],
        "print": lambda *_: None,
        "grep_count": lambda pattern: sum(re.search(pattern, line) is not None for line in context.splitlines()),
    }
    for turn in range(plan.turns):
        assert (submitted, names["answer"]) == ([], {})
        exec(plan.reply(turn).split("```repl\n")[1].split("```")[0], names)
    counts = [len(list(re.finditer(pattern, context))) for pattern in plan.patterns]
    due = "".join(plan.answer(len(context), counts))
    assert [*submitted, *([names["answer"]["content"]] if names["answer"] else [])] == [due]
    assert all(counts)


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
    assert submitted != ["".join(plan.answer(0))]


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


def test_a_storm_refuses_every_thirtieth_once() -> None:
    """The second time it is answered; of two refusals one says when to come back; the next trial begins anew."""
    with server.ModelServer() as model:

        def ask(number: int) -> str:
            messages = [{"role": "user", "content": f"item {number}"}]
            return post(model.url, {"model": "sub/0/429", "messages": messages})

        replies = [ask(number) for number in (0, 1, 30, 30, 0)]
        seen = model.take()
        again = ask(30)
    refused = ["Rate limit" in reply for reply in (*replies, again)]
    assert refused == [True, False, True, False, False, True]
    assert [request.refused for request in seen] == refused[:5]
    assert [request.beside for request in seen] == [1] * 5
    plan = script.Script("storm", 70, "final")
    assert (plan.subcalls, plan.refusals) == (70, 3)


def test_what_was_sent_twice_is_no_figure() -> None:
    """Again after a refusal is right; again after a reply is not."""

    def sub(prompt: str, *, refused: bool = False) -> server.Seen:
        return server.Seen("sub/0/429", (("user", prompt),), 0.0, stream=False, refused=refused)

    lab.check_repeats([sub("item 0", refused=True), sub("item 1"), sub("item 0")])
    with pytest.raises(lab.FailedError, match="sent 1 requests twice"):
        lab.check_repeats([sub("item 0", refused=True), sub("item 1"), sub("item 0"), sub("item 0")])


def test_the_harness_s_own_words_are_all_but_the_model_s() -> None:
    assert rows.harness_words(root("system", "reply", "seen", "reply")) == "system\nseen"


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
    job = lab.Job("batch", 3, lab.Context(Path("unused"), 10, 10))
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
    assert (trial.to_first_look, trial.cell(1), trial.after_answer) == pytest.approx((4.0, 0.5, 5.27))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3_000_000), st.sampled_from(["ascii", "emoji"]))
def test_a_context_has_the_size_asked_for(size: int, writing: Any) -> None:
    """To the byte, in whole characters, as many as are counted."""
    data = b"".join(inputs.blocks(size, writing))
    text = data.decode()
    assert (len(data), sum(inputs.count_chars(data))) == (size, len(text))
    assert text.isascii() == (writing == "ascii" or size < 108)


def test_no_line_of_a_context_comes_twice() -> None:
    """Repeated blocks differ in every line, and in nothing but their number."""
    lines = b"".join(inputs.blocks(108 * 120, "ascii", 50)).splitlines()
    assert len(set(lines)) == len(lines) == 120
    assert lines[7][4:] == lines[57][4:] == lines[107][4:]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_scan_by_hand_counts_every_match(tmp_path: Path, processes: int) -> None:
    """However many processes share the file."""
    path = tmp_path / "log"
    path.write_bytes(b"".join(inputs.blocks(500_000, "emoji")))
    pattern = script.SEARCHES[0][2]
    assert mmap_scan.main(processes, re.compile(pattern.encode()), str(path)) == len(
        re.findall(pattern, path.read_text("utf-8"))
    )


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)), st.integers(0, 3))
def test_a_digest_is_of_the_text_however_it_comes(data: bytes, cuts: list[int], newlines: int) -> None:
    """In any pieces, and with any number of newlines at the end; any other difference shows."""
    text = data.rstrip(b"\n")
    edges = [0, *sorted(cuts), len(text) + newlines + 40]
    whole = text + b"\n" * newlines
    assert process.digest(whole[a:b] for a, b in pairwise(edges)) == process.digest([text])
    assert process.digest([b"\n" + text]) != process.digest([text + b"x"]) != process.digest([text])


def test_a_large_output_is_known_by_its_end_and_its_digest(tmp_path: Path) -> None:
    code = "for i in range(300): print('x' * 9999)"
    got = process.run([sys.executable, "-c", code], folder=tmp_path, env={}, timeout=60)
    assert (len(got.out), got.digest) == (2**20, process.digest([b"x" * 9999 + b"\n"] * 300))


@pytest.mark.parametrize(
    ("stat", "expected"),
    [
        ("anon 1000\nfile 90000\nshmem 200\nanon_thp 500\n", 1200),
        ("cache 90000\nrss 7\nrss_huge 5\ntotal_cache 90000\ntotal_rss 1000\ntotal_shmem 200\n", 1200),
        ("cache 90000\ntotal_rss 1000\n", 1000),
        ("", 0),
    ],
)
def test_memory_that_cannot_be_dropped_is_counted(stat: str, expected: int) -> None:
    """Anonymous and shared, in both versions of cgroups; page cache never."""
    assert meter.unreclaimable(stat) == expected


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("0::/system.slice/docker-ab.scope", "/sys/fs/cgroup/system.slice/docker-ab.scope/memory.stat"),
        ("7:memory:/docker/ab", "/sys/fs/cgroup/memory/docker/ab/memory.stat"),
        ("3:cpu,cpuacct:/docker/ab", "None"),
        ("0::/", "None"),
        ("", "None"),
    ],
)
def test_a_container_is_found_among_cgroups(group: str, expected: str) -> None:
    assert str(meter.stat_path(group)) == expected


def test_a_meter_takes_only_the_container_of_its_command() -> None:
    """The owner on the label is a process of the session that the command leads."""
    here = os.getsid(0)
    assert meter.belongs([str(os.getpid())], here)
    assert not any(meter.belongs(process, here) for process in ([], ["x"], ["999999999"]))
    assert not meter.belongs([str(os.getpid())], here + 1)


def test_a_meter_says_why_it_saw_nothing() -> None:
    with meter.ContainerMeter(None) as none:
        none.start(1)
    with meter.ContainerMeter(lambda _pid: "") as unseen:
        unseen.start(1)
    assert (none.peak, none.reason) == (0, "has no container")
    assert (unseen.peak, unseen.reason) == (0, "no container was seen")


def test_what_a_peer_cannot_hold_is_not_given_to_it() -> None:
    """By its appetite and by how much memory it may have; ours takes any size."""
    nobody = lab.Contender("ours", "final", lambda *_: [])
    peer = lab.Contender("rlms docker", "answer", lambda *_: [], needs=lab.NEEDS["docker"])
    assert nobody.shortage(10**12, "emoji", 1) == ""
    assert peer.shortage(10**8, "ascii", 2 * 10**9) == ""
    assert peer.shortage(10**9, "ascii", 10**10).startswith("needs about 18 GB of memory, 10 GB")


def test_a_plan_without_room_has_nothing_of_the_largest_size() -> None:
    """And still scans and looks at all the rest."""
    less = plan.FULL.without_largest()
    assert max(less.looks).size == max(item for item, _ in less.scans).size == lab.GB
    assert [index for _, index in less.scans] == [index for _, index in plan.FULL.scans]


@given(st.text(), st.text(), st.text())
def test_the_common_prefix_is_common_and_longest(head: str, left: str, right: str) -> None:
    """No shorter than what is known to be shared, and the texts differ right after it."""
    a, b = head + left, head + right
    n = rows.common_prefix(a, b)
    assert (n >= len(head), a[:n] == b[:n]) == (True, True)
    assert a[n : n + 1] != b[n : n + 1] or a == b


def test_the_kept_share_is_that_of_the_worst_turn() -> None:
    """Append-only prompts keep everything; a counter at the head of the prompt keeps next to nothing."""
    grown = [root("question"), root("question", "code", "output"), root("question", "code", "output", "code", "more")]
    counted = [root("turn 1 of 9, question"), root("turn 2 of 9, question", "code", "output")]
    assert rows.kept_share(grown) == 100
    assert rows.kept_share(counted) < 50


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


class Rehearsal(lab.Lab):
    """A lab that runs nothing: every trial takes as long as its bytes say, and commands count what is to be counted."""

    def context(self, size: int, writing: Any = "ascii") -> lab.Context:
        return lab.Context(Path("unused"), size, size)

    def count(self, context: lab.Context, pattern: str) -> int:
        return 3

    def command(self, command: list[str], on_start: Any = None) -> process.Ended:
        if "rlm_cli.bench.containers" in command:
            took = {"ours": [160, 300, 150], "bare": [150, 295, 145], "confine": [1, 2, 9], "filter": [0.5] * 3}
            return process.Ended(0.0, 2.0, 0, 0, json.dumps(took), "")
        return process.Ended(0.0, 2.0, 0, 0, "3\n", "")

    def trial(self, contender: lab.Contender, job: lab.Job, *, metered: bool = False) -> lab.Trial:
        if contender.name == "rlms docker" and job.kind == "answer":
            raise lab.FailedError("no room")
        turn = 0.010 if job.context.size < lab.GB else 0.012
        roots = tuple(root("go", arrived=101 + turn * number) for number in range(8))
        peak = 50_000_000 + job.n * 10 * (job.kind == "answer")
        return lab.Trial(process.Ended(100.0, 103.0, 0, peak, "", ""), roots, 40_000_000 if metered else "")


@pytest.fixture
def model() -> Iterator[server.ModelServer]:
    with server.ModelServer() as running:
        yield running


def rehearsed(model: server.ModelServer, *names: str) -> dict[str, figures.Figure]:
    """The figures of some rows by title (a continuation by that and the title before it)."""
    crew = (
        lab.Contender("ours", "final", lambda *_: [], container=lambda _: ""),
        lab.Contender("rlms docker", "answer", lambda *_: [], lambda _: "", lab.NEEDS["docker"]),
    )
    place = Rehearsal(model, Path("unused"), crew, time.monotonic() + 1000, lambda _: None)
    got, head = dict[str, figures.Figure](), ""
    for name in names:
        for figure in rows.ROWS[name](rows.Rows(place, plan.FULL, most_memory=4 * lab.GB)):
            head = head if figure.title.startswith("...") else figure.title
            got[figure.title if figure.title == head else f"{head} {figure.title}"] = figure
    return got


def test_sizes_are_compared_run_by_run(model: server.ModelServer) -> None:
    """Ours at every size; a peer as far as memory reaches, with the reason behind it."""
    got = rehearsed(model, "turn", "look")
    ratio = got["harness time per turn, 5 GB ... 5 GB over 1 KB"].values["ours"]
    assert list(ratio.samples) == pytest.approx([1.2] * plan.FULL.repeats)
    assert got["harness time per turn, 1 GB with emoji"].values["ours"].median == pytest.approx(12)
    docker = got["harness time per turn, 1 GB"].values["rlms docker"]
    assert docker.reason.startswith("1 GB needs about 18 GB of memory, 4 GB")
    look = got["command start until len(context) is seen, 5 GB"].values["ours"].median
    more = got["command start until len(context) is seen, 5 GB ... more than at 1 KB"].values["ours"].median
    assert [look, more] == [pytest.approx(1.012), pytest.approx(0.002)]


def test_scans_are_measured_against_their_best_rival(model: server.ModelServer) -> None:
    """grep for the literal, both scans by hand for the rest; the cell's own turn is what counts."""
    got = rehearsed(model, "scan")
    ratios = {title: figure for title, figure in got.items() if title.endswith("ours over the best")}
    assert [figure.target for figure in ratios.values()] == [1.5, 1.2, 1.2, 1.2, 1.2]
    assert all(figure.values["ours"].median == pytest.approx(0.006) for figure in ratios.values())
    assert "count pool exhausted in 5 GB ... grep -c" in got
    assert len([title for title in got if title.endswith("re over mmap, 2 processes")]) == 4


def test_a_container_is_compared_with_a_bare_one_pair_by_pair(model: server.ModelServer) -> None:
    """What both do, confining the worker, is added: a bare container would not."""
    over = rehearsed(model, "sandbox")[
        "create a container until its worker is ready ... ours over bare, its confinement counted"
    ]
    assert (over.values["ours"].samples, over.target) == ((12, 7, 7), 20)


def test_memory_is_that_of_the_command_and_of_its_container(model: server.ModelServer) -> None:
    got = rehearsed(model, "memory", "answer")
    head = "peak memory of the command, 1 GB with emoji"
    assert got[head].values["ours"].median == 50
    assert got[f"{head} ... of its container, without page cache"].values["ours"].median == 40
    large = "answer of 100 MB: submitted until the command ends"
    assert got[large].values["ours"].median == pytest.approx(103 - 101.07)
    assert got[large].values["rlms docker"].reason == "no room"
    assert got[f"{large} ... memory of the command that it adds"].values["ours"].median == pytest.approx(9.9999)


def test_a_rival_that_counts_something_else_is_no_rival(model: server.ModelServer) -> None:
    """Then the row says so instead of giving a ratio."""

    class Odd(Rehearsal):
        def count(self, context: lab.Context, pattern: str) -> int:
            return 4

    ours = lab.Contender("ours", "final", lambda *_: [])
    place = Odd(model, Path("unused"), (ours,), time.monotonic() + 1000, lambda _: None)
    got = rows.Rows(place, plan.QUICK, most_memory=0).scan()
    assert [(figure.title, figure.values["ours"].reason) for figure in got] == [
        ("count in 100 MB", "grep -c counted 3 of 'pool exhausted'"),
        ("count in 10 MB", "re over mmap, 1 process counted 3 of '(timeout|refused|exhausted) after [0-9]+'"),
    ]


def test_what_was_measured_before_time_was_up_stands(model: server.ModelServer) -> None:
    """The end of the time takes no samples away; a contender's own failure does."""
    ours = lab.Contender("ours", "final", lambda *_: [])
    late = lab.Lab(model, Path("unused"), (ours,), time.monotonic(), lambda _: None)
    job = lab.Job("len", 3, lab.Context(Path("unused"), 1, 1))
    table_of = rows.Rows(late, plan.QUICK, most_memory=0)
    one = lab.Trial(ended(), (root("go"),))
    results: rows.Results = {"ours": [one]}
    table_of.attempt(results, ours, job)
    assert (list(late.repeats(3)), results["ours"]) == ([0], [one])
    nothing: rows.Results = {"ours": []}
    table_of.attempt(nothing, ours, job)
    assert nothing["ours"] == "out of time"
