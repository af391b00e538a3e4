"""Where the answer goes, and what happens when it cannot go there. Scripted model, real container."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from .conftest import LIMIT_S, RLM, Done, Shell
from .test_hostile import on_a_terminal

pytestmark = pytest.mark.docker


def ask(shell: Shell, words: str, *, reply: str = "FINAL('42')") -> Done:
    """`rlm ask a.txt Q -q WORDS` in a real shell: WORDS may redirect."""
    (shell.folder / "a.txt").write_text("hello\n")
    (shell.folder / "script.jsonl").write_text(json.dumps({"reply": f"```repl\n{reply}\n```"}) + "\n")
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(RLM)} ask a.txt Q -q -m scripted:script.jsonl {words}"],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


@pytest.mark.parametrize(("form", "what"), [("", "the answer"), ("--json", "the answer"), ("--events", "the events")])
def test_a_full_stdout_is_exit_1_and_says_where_the_answer_is(shell: Shell, form: str, what: str) -> None:
    """What was paid for is not lost: the error names the command that prints it. Nothing is reported as a success."""
    done = ask(shell, f"{form} >/dev/full")
    assert done.code == 1
    assert f"rlm: error: {what} could not be written: No space left on device [output_failed]" in done.err
    hint = done.err.splitlines()[-1].removeprefix("  fix: rlm ")
    assert shell.run(*hint.split()).out == b"42\n"


def test_a_reader_of_events_that_leaves_is_no_news(shell: Shell) -> None:
    """`--events | head -1`: nothing on stderr, the run's own exit code, and the log is complete."""
    done = ask(shell, "--events | head -1; exit ${PIPESTATUS[0]}")
    assert (len(done.lines), done.lines[0]["type"], done.err, done.code) == (1, "run.started", "", 0)
    assert shell.record()[-1]["type"] == "run.finished"


def test_events_on_the_terminal_of_stderr_stay_whole(shell: Shell) -> None:
    """Nothing is redrawn over them. Positive control: the same run without them is drawn live."""
    (shell.folder / "a.txt").write_text("hello\n")
    reply = {"reply": "```repl\nFINAL('42')\n```", "repeat": True}
    (shell.folder / "script.jsonl").write_text(json.dumps(reply) + "\n")
    words = ("ask", "a.txt", "Q", "-m", "scripted:script.jsonl", "--mode", "rlm")
    seen = on_a_terminal(shell, *words, "--events")[1]
    events = [json.loads(line) for line in seen.split("\r\n") if line.startswith("{")]
    assert (events[0]["type"], events[-1]["type"], "\x1b[J" in seen) == ("run.started", "run.finished", False)
    assert "\x1b[J" in on_a_terminal(shell, *words)[1]


def test_a_closed_stdout_is_refused_before_the_run(shell: Shell) -> None:
    """No run whose answer nobody could get; with -o FILE nobody needs stdout, nor any other stream."""
    refused = ask(shell, ">&-")
    assert (refused.code, "[stdout_closed]" in refused.err) == (2, True)
    assert not (shell.folder / "rlm" / "runs").exists()
    done = ask(shell, "-o out.txt <&- >&- 2>&-")
    assert (done.code, (shell.folder / "out.txt").read_text()) == (0, "42")


def test_a_source_is_never_replaced_by_the_answer(shell: Shell) -> None:
    """-o with a file that is also a source, by whatever name, is refused; the file is as it was."""
    (shell.folder / "link").symlink_to("a.txt")
    codes = [ask(shell, f"-o {name}").code for name in ("a.txt", "./a.txt", "link")]
    assert (codes, (shell.folder / "a.txt").read_text()) == ([2, 2, 2], "hello\n")


def test_what_was_skipped_is_listed_by_the_command_that_is_named(shell: Shell) -> None:
    """It walks as the run did: with its globs and switches, and however many sources there are."""
    (shell.folder / "logs").mkdir()
    for name in ("a.log", "b.txt", ".hidden.log"):
        (shell.folder / "logs" / name).write_text("x")
    (shell.folder / "script.jsonl").write_text(json.dumps({"reply": "```repl\nFINAL('42')\n```"}))
    sources = ("logs", "script.jsonl", "-g", "*.log", "--hidden")
    said = shell.run("ask", *sources, "-Q", "Q", "-m", "scripted:script.jsonl").err
    named = next(line for line in said.splitlines() if line.startswith("rlm: skipped 1")).partition(" · rlm ")[2]
    listed = shell.run(*shlex.split(named)).out.decode().split()
    assert ("logs/b.txt" in listed, "logs/.hidden.log" in listed) == (True, False)


def test_a_dry_run_writes_no_file(shell: Shell) -> None:
    """-n shows its plan on stdout; the answer's file is left alone."""
    (shell.folder / "out.txt").write_text("an older answer")
    done = ask(shell, "-n -o out.txt")
    assert (done.code, b"dry run" in done.out, (shell.folder / "out.txt").read_text()) == (0, True, "an older answer")


def test_a_dry_run_warns_as_the_run_would(shell: Shell) -> None:
    """What is ignored in the configuration is told before it costs something."""
    (shell.folder / "rlm.toml").write_text("[limits]\ncots = 1\n")
    done = shell.run("ask", "rlm.toml", "Q", "-n", "-m", "offline")
    assert (done.code, "did you mean 'limits.cost'?" in done.err) == (0, True)


def test_a_limit_names_the_flag_that_raises_it(shell: Shell) -> None:
    """A partial answer on stdout; what to change is in the error."""
    done = ask(shell, "--max-iterations 1", reply="print(1)")
    assert (done.code, done.err.splitlines()[-1].lower()) == (6, "  fix: raise --max-iterations")


def test_a_link_stays_a_link(shell: Shell) -> None:
    """-o LINK replaces what the link points to, whole, and keeps its mode."""
    (shell.folder / "real.txt").write_text("old")
    (shell.folder / "real.txt").chmod(0o640)
    (shell.folder / "link.txt").symlink_to("real.txt")
    assert ask(shell, "-o link.txt").code == 0
    assert (shell.folder / "link.txt").is_symlink()
    assert ((shell.folder / "real.txt").read_text(), (shell.folder / "real.txt").stat().st_mode & 0o777) == (
        "42",
        0o640,
    )
    assert not list(shell.folder.glob(".*.tmp"))


@pytest.mark.parametrize(("words", "answer"), [("-o /dev/stdout", b"42\n"), ("-o >(cat)", b"42"), ("-o -", b"42\n")])
def test_an_open_file_may_be_named(shell: Shell, words: str, answer: bytes) -> None:
    """/dev/stdout is stdout, a process substitution is written to, and no name below /dev is replaced by a file."""
    before = {path.name: path.is_symlink() for path in Path("/dev").iterdir()}
    done = ask(shell, f"{words} | cat")
    assert (done.code, done.out) == (0, answer)
    assert {path.name: path.is_symlink() for path in Path("/dev").iterdir()} == before


def test_a_failure_goes_where_the_answer_would_have_gone(shell: Shell) -> None:
    """--json -o FILE: one object, in the file, also when the run never began."""
    done = ask(shell, "--json -o out.json --image no-such-image:1 --pull never")
    found = json.loads((shell.folder / "out.json").read_text())
    assert (done.code, done.out, found["error"]["code"], found["question"]) == (5, b"", "image_missing", "Q")


CRASH = """
import os, sys
from rlm_cli.cli import boundary, session
from rlm_cli.sandbox import Answer
async def broken(task, deps):
    if len(sys.argv) > 1: deps.found.answer = Answer("text", sys.argv[1].encode())
    raise ZeroDivisionError("boom")
session.run = broken
code = boundary.run(["ask", "a.txt", "Q", "-m", "offline", "--events"])
os._exit(code)
"""


@pytest.mark.parametrize("found", ["", "17 so far"])
def test_a_bug_in_the_middle_of_a_run_ends_its_stream_and_its_record(shell: Shell, found: str) -> None:
    """A crash after run.started is a result like any other: one run.finished, in the log too, and a kept traceback.
    What was found until then is a partial answer."""
    (shell.folder / "a.txt").write_text("hello\n")
    done = subprocess.run(
        [RLM[0], "-c", CRASH, *([found] if found else [])],
        cwd=shell.folder,
        env=shell.environment,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    types = ["run.started", *(["warning"] if found else []), "run.finished"]
    assert (done.returncode, [event["type"] for event in events]) == (1, types)
    result = events[-1]["result"]
    assert (result["answer"], result["status"]) == (found, "partial" if found else "error")
    assert (events[-1]["result"]["error"]["code"], shell.record()[-1]["type"]) == ("crash", "run.finished")
    assert "ZeroDivisionError: boom" in next((shell.folder / "rlm" / "crashes").iterdir()).read_text()
