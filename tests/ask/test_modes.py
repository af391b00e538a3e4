"""`--mode` from the shell to the answer: what runs, what it needs, what is sent, and what is said about it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from dataclasses import replace

import pytest

from .conftest import Done, Shell, checkers_of, is_running, send, until

CAT = "The cat sat on the mat.\n"
PLAIN = "On the mat."
LONG = " ".join(map(str, range(4_000)))
LEN = "```repl\nFINAL(str(len(context)))\n```"


@pytest.fixture
def bare(shell: Shell) -> Shell:
    """No container engine can be reached, and the small document is there."""
    (shell.folder / "cat.txt").write_text(CAT)
    shell.server.policies["plain"] = lambda turn: PLAIN
    shell.server.policies["long"] = lambda turn: LONG
    shell.server.policies["len"] = lambda turn: LEN
    return replace(shell, env={"DOCKER_HOST": "unix:///nowhere.sock"})


def ask(shell: Shell, *args: str, mode: str = "auto", root: str = "root/plain", stdin: bytes | None = None) -> Done:
    return shell.ask(*args, "--mode", mode, root=root, stdin=stdin)


@pytest.mark.parametrize("source", ["file", "pipe"])
def test_a_small_input_is_answered_in_one_call_without_docker(bare: Shell, source: str) -> None:
    """The whole text and the question in one request; the mode and its reason in the result, the record and on -v."""
    sources, stdin = (("cat.txt",), None) if source == "file" else ((), CAT.encode())
    done = ask(bare, *sources, "Where did the cat sit?", "--json", "-v", stdin=stdin)
    assert (done.code, done.json["answer"], done.json["mode"]) == (0, PLAIN, "direct")
    assert (done.json["iterations"], done.json["calls"]["total"], len(bare.server.requests)) == (1, 1, 1)
    assert CAT in bare.server.requests[0].prompt
    assert "rlm: mode: direct: about 7 tokens, window not known: few enough" in done.err
    started, *_, finished = bare.record()
    assert (started["mode"], finished["result"]["mode"]) == ("direct", "direct")
    assert CAT.strip() not in json.dumps(bare.record())


def test_its_evidence_is_looked_up(bare: Shell) -> None:
    """stdout is the answer alone; the quotes are checked in the file, and one that is made up is flagged."""
    bare.server.policies["cites"] = lambda turn: f"{PLAIN}\n\nEvidence:\n> sat on  the mat\n> the dog\n"
    done = ask(bare, "cat.txt", "Where did the cat sit?", root="root/cites")
    assert (done.code, done.out) == (0, f"{PLAIN}\n".encode())
    assert done.err[done.err.index("Evidence:") :].splitlines() == [
        "Evidence:",
        '  cat.txt:1  "sat on  the mat" (but for white space)',
        '  ✗ not found in the input: "the dog" (said to be in cat.txt)',
    ]
    plain = ask(bare, "cat.txt", "Where?", "--no-cite", "--json", root="root/cites")
    assert plain.json["citations"] == []
    assert "Evidence:" in plain.json["answer"]


def test_its_record_is_shown_and_replayed(bare: Shell) -> None:
    """One step, and the answer once."""
    asked = ask(bare, "cat.txt", "Where?")
    assert asked.out == f"{PLAIN}\n".encode()
    shown, replayed = bare.run("runs", "show"), bare.run("runs", "replay", "--no-delay")
    assert (shown.code, replayed.code) == (0, 0)
    assert shown.out.decode().count(PLAIN) == 1
    assert "step 1" in shown.out.decode()
    steps = [line for line in asked.err.splitlines() if "step 1" in line]
    assert steps
    assert all(line in replayed.out.decode() + replayed.err for line in steps)


def test_an_input_that_is_not_small_needs_docker_and_says_so_unpaid(bare: Shell) -> None:
    """There is no direct answer to what may not fit."""
    (bare.folder / "big.txt").write_text(CAT * 2_000)
    done = ask(bare, "big.txt", "Why?", "--json")
    assert (done.code, done.json["error"]["code"], len(bare.server.requests)) == (5, "docker_daemon_down", 0)


def test_a_dry_run_shows_the_mode(bare: Shell) -> None:
    done = ask(bare, "cat.txt", "Where?", "-n", "--json")
    assert (done.code, done.json["mode"]) == (0, "direct")
    assert "few enough" in done.json["mode_why"]
    text = ask(bare, "cat.txt", "Where?", "-n", mode="rlm-d0")
    assert "mode: rlm-d0: as asked" in text.out.decode()


BY_CODE = "if it has to go on by code: 30 turns, "


@pytest.mark.parametrize(
    ("mode", "more", "limits"),
    [
        ("rlm", (), "30 turns, 500 sub-calls"),
        ("rlm", ("--max-subcalls", "1", "--max-iterations", "1"), "1 turn, 1 sub-call"),
        ("rlm", ("--max-depth", "0"), "30 turns, no sub-calls"),
        ("rlm-d0", (), "30 turns, no sub-calls"),
        ("direct", (), f"one call; {BY_CODE}500 sub-calls"),
        ("direct", ("--max-depth", "0"), f"one call; {BY_CODE}no sub-calls"),
        ("auto", ("--schema", "{}"), f"one call, and up to 3 repairs; {BY_CODE}500 sub-calls"),
    ],
)
def test_a_dry_run_shows_the_limits_of_the_mode(bare: Shell, mode: str, more: tuple[str, ...], limits: str) -> None:
    """No sub-calls where none can be made."""
    done = ask(bare, "cat.txt", "Where?", "-n", *more, mode=mode)
    assert f"limits: {limits}" in done.out.decode().splitlines()


def test_a_schema_is_kept_with_repairs(bare: Shell) -> None:
    """The model is told the schema, and of what is wrong; the value is data."""
    bare.server.policies["repairs"] = lambda turn: PLAIN if turn.step == 0 else '```json\n{"n": 6}\n```'
    schema = '{"type":"object","required":["n"],"properties":{"n":{"type":"integer"}}}'
    done = ask(bare, "cat.txt", "Q", "--json", "--schema", schema, root="root/repairs")
    assert (done.code, done.json["data"], done.json["iterations"]) == (0, {"n": 6}, 2)
    first, second = bare.server.requests
    assert '"required"' in first.prompt
    assert "not JSON" in second.prompt
    never = ask(bare, "cat.txt", "Q", "--json", "--schema", schema)
    assert (never.code, never.json["status"], never.json["answer"]) == (9, "error", PLAIN)
    assert len(bare.server.requests) == 2 + 4


@pytest.mark.parametrize(
    ("root", "code", "error"),
    [("root/plain/401", 4, "key_rejected"), ("root/empty", 3, "no_answer"), ("root/plain/500", 7, "")],
)
def test_failures_have_their_codes(bare: Shell, root: str, code: int, error: str) -> None:
    done = ask(bare, "cat.txt", "Q", "--json", root=root, mode="direct")
    assert (done.code, done.json["exit_code"]) == (code, code)
    assert error in done.json["error"]["code"]
    assert done.json["calls"]["total"] == len(bare.server.requests)


def test_limits_have_theirs(bare: Shell) -> None:
    """A cap that one call would pass is not passed; a reply that takes too long is kept as far as it came."""
    cost = ask(bare, "cat.txt", "Q", "--json", "--max-cost", "0.0001", mode="direct")
    assert (cost.code, cost.json["limit_hit"], len(bare.server.requests)) == (6, "cost", 0)
    slow = ask(bare, "cat.txt", "Q", "--json", "--max-time", "8", root="root/long/drip100", mode="direct")
    assert (slow.code, slow.json["limit_hit"]) == (6, "time")
    assert LONG.startswith(slow.json["answer"])


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_is_obeyed_while_an_answer_is_checked(bare: Shell, signals: int) -> None:
    """A pattern may take for ever. Once: 130, with the answer, said to be unchecked. Nothing of it goes on."""
    answer = json.dumps("a" * 60 + "b")
    bare.server.policies["evil"] = lambda turn: answer
    schema = ("--schema", '{"pattern": "^(a+)+$"}')
    process = bare.start("ask", "cat.txt", "Q", *schema, *bare.model("root/evil"), "--mode", "direct")
    until(lambda: checkers_of(process.pid), seconds=40)
    (checker,) = checkers_of(process.pid)
    for _ in range(signals):
        send(process, signal.SIGINT)
    done = bare.finish(process)
    assert done.code == 130
    if signals == 1:
        assert done.out.decode().strip() == answer
        assert "not checked against the schema" in done.err
    until(lambda: not is_running(checker))


def test_ctrl_c_keeps_what_had_arrived(bare: Shell) -> None:
    """130, with the part of the reply that was there, said to be that."""
    process = bare.start("ask", "cat.txt", "Q", *bare.model("root/long/drip20"), "--mode", "direct")
    # The server is ahead of what has been read and taken apart: by far more than the part that is asked for below.
    until(lambda: any(entry.output_tokens > 400 for entry in bare.server.requests), seconds=40)
    send(process, signal.SIGINT)
    done = bare.finish(process)
    assert done.code == 130
    assert len(done.out) > 100
    assert LONG.startswith(done.out.decode().strip())
    assert "was not finished" in done.err


def test_what_cannot_be_direct_is_said(bare: Shell) -> None:
    """--mode direct of the offline model: by code, with a warning."""
    done = bare.run("ask", "cat.txt", "Q", "-m", "offline", "--mode", "direct", "-n")
    assert "mode: rlm: the offline model only works by code" in done.out.decode()


@pytest.mark.docker
def test_an_overflow_goes_on_by_code_in_the_same_run(shell: Shell) -> None:
    """The provider finds it too long: a warning, a container, the exact answer; every request is counted."""
    shell.server.policies["len"] = lambda turn: LEN
    (shell.folder / "a.txt").write_text(CAT * 700)
    done = ask(shell, "a.txt", "Where did the cat sit?", "--json", root="root/len/ctx3000")
    assert (done.code, done.json["answer"], done.json["mode"]) == (0, str(len(CAT) * 700), "rlm")
    assert any("does not fit into one call" in warning for warning in done.json["warnings"])
    assert done.json["sandbox"]["kind"] == "docker"
    assert done.json["calls"]["total"] == len(shell.server.requests) == 2
    assert shell.record()[0]["mode"] == "direct"


@pytest.mark.docker
def test_a_large_input_goes_to_code_by_itself(shell: Shell) -> None:
    """Nothing of it is in a prompt but excerpts."""
    shell.server.policies["len"] = lambda turn: LEN
    (shell.folder / "a.txt").write_text(CAT * 2_000)
    done = ask(shell, "a.txt", "Where did the cat sit?", "--json", "-v", root="root/len")
    assert (done.code, done.json["answer"], done.json["mode"]) == (0, str(len(CAT) * 2_000), "rlm")
    assert "rlm: mode: rlm: about " in done.err
    assert done.json["warnings"] == []


@pytest.mark.docker
@pytest.mark.parametrize("how", [("--mode", "rlm-d0"), ("--max-depth", "0")])
def test_without_sub_calls_none_are_taught_and_none_are_made(shell: Shell, how: tuple[str, str]) -> None:
    """rlm-d0 and depth 0 are one thing: a shorter prompt, and code that asks anyway is told so."""
    (shell.folder / "a.txt").write_text(CAT)
    shell.server.policies["asks"] = lambda turn: (
        "```repl\nprint(llm_query_batched(['a', 'b'])[1].error, budget()['subcalls'])\nmap_query(['a'], 'b')\n```"
        if turn.step == 0
        else "```repl\nFINAL('done')\n```"
    )
    done = shell.ask("a.txt", "Q", "--json", *how, root="root/asks")
    assert (done.code, done.json["mode"], done.json["calls"]["sub"]) == (0, "rlm-d0", 0)
    first, second = shell.server.requests
    assert "this run has no sub-calls" in second.prompt
    assert " 0\n" in second.prompt
    assert "SubcallError: this run has no sub-calls: do it by code" in second.prompt
    assert "llm_query" not in "".join(message["content"] for message in first.messages)
    assert "sub-call" not in "".join(message["content"] for message in first.messages)


def test_no_engine_is_told_before_a_long_pipe_has_been_read(bare: Shell) -> None:
    """A pipe that has more than one call may hold, and never ends, ends at once."""
    process = bare.start("ask", "-", "Q", "--json", *bare.model("root/plain"), "--mode", "auto", stdin=subprocess.PIPE)
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        for _ in range(64):
            process.stdin.write(b"x" * 2**16)
            process.stdin.flush()
    assert process.stdout is not None
    told = json.loads(process.stdout.read())
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdin = None
    bare.finish(process)
    assert (told["exit_code"], told["error"]["code"]) == (5, "docker_daemon_down")
