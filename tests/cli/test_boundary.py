"""The edge of the process: exit codes, one error block, one JSON object, a stdout that is nobody's but the answer's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_cli import errors
from rlm_cli.cli import boundary
from rlm_cli.cli.help import EXIT_CODES
from rlm_cli.errors import ExitCode

from .conftest import Rlm


def python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_exit_codes_are_frozen() -> None:
    """The table scripts depend on, its names, and which error has which."""
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "ERROR": 1,
        "USAGE": 2,
        "NO_ANSWER": 3,
        "AUTH": 4,
        "SANDBOX": 5,
        "LIMIT": 6,
        "PROVIDER": 7,
        "INPUT": 8,
        "SCHEMA": 9,
        "BATCH_FAILURES": 10,
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }
    assert set(EXIT_CODES) == set(ExitCode)


def test_each_error_ends_in_its_own_code() -> None:
    """An error that reaches the edge gives its class's exit code and its stable string."""
    made = [
        errors.RlmError("x"),
        errors.UsageError("x"),
        errors.ConfigError("x"),
        errors.NoAnswerError("x"),
        errors.AuthError("x"),
        errors.SandboxError("x"),
        errors.LimitError("cost", "x"),
        errors.ProviderError("x"),
        errors.TransientError("x"),
        errors.InputError("x"),
        errors.SchemaError("x"),
        errors.Interrupted(),
        errors.Interrupted(terminated=True),
    ]
    assert [(int(error.exit_code), boundary.error_info(error).code) for error in made] == [
        (1, "internal"),
        (2, "usage"),
        (2, "config"),
        (3, "no_answer"),
        (4, "auth"),
        (5, "sandbox"),
        (6, "limit_cost"),
        (7, "provider"),
        (7, "provider_unavailable"),
        (8, "input"),
        (9, "schema"),
        (130, "interrupted"),
        (143, "terminated"),
    ]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["ask", "--json", "missing.txt", "why?"], "not_found"),
        (["ask", "--json", "--max-cost", "abc", "missing.txt", "why?"], "config"),
        (["ask", "--bogus", "-f", "json", "missing.txt", "why?"], "usage"),
    ],
)
def test_a_failure_with_json_is_one_result_object(rlm: Rlm, words: list[str], code: str) -> None:
    """--json prints exactly one object on failure too, with the exit code in it, and a line for people on stderr."""
    done = rlm(*words)
    found = json.loads(done.out)
    assert (done.out.count("\n"), found["error"]["code"], found["exit_code"], found["status"], bool(done.err)) == (
        1,
        code,
        done.code,
        "error",
        True,
    )


@pytest.mark.parametrize("words", [["--set", "output.format=json"], ["--config", "mine.toml"], ["-qf", "json"]])
def test_a_failure_is_an_object_wherever_the_format_comes_from(rlm: Rlm, words: list[str]) -> None:
    """A setting or a file says json as well as a flag does; the person is told too."""
    Path("mine.toml").write_text('[output]\nformat = "json"\n')
    done = rlm("ask", "missing.txt", "why?", *words)
    assert (json.loads(done.out)["error"]["code"], done.code, "not_found" in done.err) == ("not_found", 8, True)


@pytest.mark.parametrize(
    ("words", "code", "question"),
    [
        (["--max-cost", "abc", "x", "why?"], "config", ""),
        (["--bogus", "x", "why?"], "usage", ""),
        (["missing.txt", "why?"], "not_found", ""),
        (["here.txt", "why?"], "no_key", "why?"),
        (["here.txt", "why?", "-m", "offline", "--schema", "{"], "schema", "why?"),
        (["here.txt", "why?", "-m", "offline", "-o", "no/such/folder/file"], "output_unwritable", ""),
    ],
)
def test_a_failure_with_events_has_both_ends_of_the_stream(
    home: Path, words: list[str], code: str, question: str
) -> None:
    """--events: a run that ends before it begins is run.started and run.finished, with the result of --json."""
    Path("here.txt").write_text("x")

    def ask(form: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "rlm_cli", "ask", form, *words]
        return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)

    done = ask("--events")
    first, last = map(json.loads, done.stdout.splitlines())
    whole = json.loads(ask("--json").stdout)
    assert (first["type"], first["seq"], first["question"]) == ("run.started", 0, question)
    assert (last["type"], last["seq"], last["result"]) == ("run.finished", 1, whole)
    assert (whole["error"]["code"], whole["exit_code"], whole["question"]) == (code, done.returncode, question)


@pytest.mark.parametrize(
    ("words", "form"),
    [
        (["ask", "x"], "text"),
        (["ask", "--json"], "json"),
        (["ask", "-f", "events"], "events"),
        (["ask", "-fjson"], "json"),
        (["ask", "-qf", "json"], "json"),
        (["ask", "-vvnfevents"], "events"),
        (["ask", "-ofjson"], "text"),
        (["ask", "--format=json", "--format", "text"], "text"),
        (["ask", "--json", "--events"], "events"),
        (["ask", "--", "--json"], "text"),
        (["runs", "list", "--json"], "json"),
    ],
)
def test_the_wanted_format_is_read_off_a_line_that_may_be_wrong(home: Path, words: list[str], form: str) -> None:
    """The last format wins, and what stands after -- is no option."""
    assert boundary.wanted_format(words) == form


CRASH = """
import sys
from rlm_cli.cli import app, boundary
def broken(): raise ZeroDivisionError("boom")
app.command = broken
sys.exit(boundary.run(sys.argv[1:]))
"""


def test_a_bug_is_short_on_screen_and_whole_in_a_file(home: Path) -> None:
    """An unexpected exception: exit 1, no traceback without --debug, but a private file that has it."""
    short = python(CRASH)
    (kept,) = (home / "crashes").iterdir()
    loud = python(f"import sys; sys.argv.append('--debug')\n{CRASH}")
    assert (
        short.returncode,
        "Traceback" in short.stderr,
        str(kept) in short.stderr,
        kept.stat().st_mode & 0o777,
        "ZeroDivisionError: boom" in kept.read_text(),
        "Traceback" in loud.stderr,
    ) == (1, False, True, 0o600, True, True)


GUARD = """
import os, subprocess, sys
from rlm_cli.cli.boundary import guard_stdout
answer = guard_stdout()
print("a stray print")
os.write(1, b"a stray write\\n")
subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
assert guard_stdout() is answer
answer.write(b"\\xffanswer")
answer.flush()
"""


def test_stdout_is_the_answers_alone() -> None:
    """After the guard, prints, raw writes and child processes go to stderr; the answer's bytes are untouched."""
    done = subprocess.run([sys.executable, "-c", GUARD], capture_output=True, timeout=60, check=True)
    assert (done.stdout, sorted(done.stderr.split(b"\n"))) == (
        b"\xffanswer",
        [b"", b"a child", b"a stray print", b"a stray write"],
    )


WAIT = """
import sys, time
from rlm_cli.cli import app, boundary
def waiting():
    try:
        print("ready", flush=True)
        while True: time.sleep(0.05)
    finally:
        print("cleaned", flush=True)
app.command = waiting
sys.exit(boundary.run([]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_unwind_and_are_told(home: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C and SIGTERM run the clean-up, print one line, and exit 130 and 143 (Typer alone dies silently)."""
    child = subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline()
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (first, out, child.returncode, err.startswith("rlm: ")) == ("ready\n", "cleaned\n", code, True)


def test_a_reader_that_left_is_no_news(home: Path) -> None:
    """`rlm models list -a | head -1` prints no traceback and nothing else on stderr, and is no failure."""
    line = f"{sys.executable} -m rlm_cli models list -a | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.split()[:1], done.stderr, done.returncode) == (["model"], "", 0)


def test_control_sequences_in_an_error_are_shown_not_sent(rlm: Rlm) -> None:
    """An argument with an escape sequence cannot reach the terminal through the error message."""
    assert "\x1b" not in rlm("\x1b]52;c;x\x07").err


@pytest.mark.parametrize(
    ("closed", "code", "message"),
    [
        (">&-", 1, "rlm: error: Bad file descriptor [os_error]\n"),
        ("<&-", 0, ""),
        ("2>&-", 0, ""),
    ],
)
def test_a_closed_stream_is_no_crash(home: Path, closed: str, code: int, message: str) -> None:
    """A stdin, stdout or stderr that the caller closed: what can be written is, and the rest is an error."""
    line = f"{sys.executable} -m rlm_cli config get limits.cost {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "" if code else "1.00\n", message)
    assert not home.exists()


def test_a_working_folder_that_is_gone_is_named(home: Path) -> None:
    """Somebody removed the folder the shell stands in: the error says that, and not only ENOENT."""
    line = f"mkdir gone && cd gone && rmdir ../gone && {sys.executable} -m rlm_cli config path"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(line, shell=True, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "the working folder no longer exists [cwd_gone]" in done.stderr) == (1, True)


def test_a_full_disk_is_told_and_is_no_bug(home: Path) -> None:
    """Writing to a full device: exit 1 and one error block, no traceback, no crash file."""
    line = f"{sys.executable} -m rlm_cli config get limits.cost > /dev/full"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, home.exists()) == (
        1,
        "rlm: error: No space left on device [os_error]\n",
        False,
    )
