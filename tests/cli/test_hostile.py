"""Cases E01-E09, E17 at the command line: hostile names, values, records and errors, on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlm_cli.cli import boundary
from rlm_cli.runlog import RunLog
from tests.hostile import TEXTS, Terminal, commands, run_of

from .conftest import own_stdout

NAMED = {name: text.replace("/", "_") for name, text in TEXTS.items()}
"""As file names."""
ALL = "".join(TEXTS.values())
RUN_ID = "20261120-153012-a1b2c3"


@dataclass(frozen=True)
class Seen:
    """What a command sent to a terminal."""

    code: int
    out: str
    err: str


Tty = Callable[..., Seen]


@pytest.fixture
def tty(home: Path, monkeypatch: pytest.MonkeyPatch) -> Tty:
    """Run `rlm ARGS...` in this process, with a terminal for stdout and stderr."""

    def run(*args: str) -> Seen:
        out, err = Terminal(), Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with own_stdout():
                code = boundary.run(args)
        return Seen(code, out.sent, err.sent)

    return run


@pytest.fixture
def files(home: Path) -> Path:
    """A folder whose files have hostile names, one of each kind; one is left out for a hostile rule."""
    folder = Path("corpus").absolute()
    folder.mkdir()
    for text in NAMED.values():
        (folder / text).write_text("one line\n")
        (folder / f"{text}.bin").write_bytes(b"\0")
    (folder / os.fsdecode(b"\x1b[2J\xff\x9b")).write_text("no text\n")
    return folder


@pytest.mark.parametrize(
    "words", [(), ("--skipped",), ("--top", "9"), ("--tokens",), ("-g", ALL)], ids=lambda words: " ".join(words)[:9]
)
def test_e09_file_names_are_shown_and_not_sent(tty: Tty, files: Path, words: Sequence[str]) -> None:
    """Names of files that are read and of files that are left out; a pattern that matches nothing. Positive control:
    in a pipe, and with -0, the names are byte for byte what they are on disk."""
    seen = tty("sources", str(files), *words)
    assert commands(seen.out + seen.err) == []
    if not words:
        assert "\\x1b]52" in seen.out
        raw = subprocess.run([sys.executable, "-m", "rlm_cli", "sources", str(files)], capture_output=True, check=True)
        assert b"\x1b]52" in raw.stdout
        assert commands(raw.stderr.decode()) == []


def test_a_path_is_whole_in_the_narrowest_table(tty: Tty, home: Path) -> None:
    """Its end says which file it is; the terminal here has 80 columns."""
    deep = Path("a" * 60, "b" * 60)
    deep.mkdir(parents=True)
    for name in (".hidden", "read.txt"):
        (deep / name).write_text("one line\n")
    assert f"{'b' * 60}/.hidden" in tty("sources", str(Path("a" * 60)), "--skipped").out
    assert f"{'b' * 60}/read.txt" in tty("sources", str(Path("a" * 60)), "--tokens").out


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_e09_an_error_quotes_and_does_not_send(tty: Tty, text: str) -> None:
    """A path that does not exist, a run, a key, a topic, a model, an option, a verb: each in its own error."""
    lines: list[tuple[str, ...]] = [
        ("sources", f"no-such-{text}"),
        ("runs", "show", text),
        ("runs", "list", "--status", text),
        ("runs", "list", "--since", text),
        ("config", "get", text),
        ("config", "set", "limits.cost", text),
        ("help", text),
        ("models", "show", text),
        ("models", "list", text),
        ("version", f"--{text}"),
        ("--config", text, "config", "list"),
        ("config", "list", "--set", text),
        (text,),
        (f"{text}?",),
    ]
    for words in lines:
        seen = tty(*words)
        assert (words, seen.code != 0 or words[:2] == ("models", "list"), commands(seen.out + seen.err)) == (
            words,
            True,
            [],
        )


@pytest.fixture
def recorded(home: Path) -> Path:
    """One run with hostile text in every field; and folders that only look like runs."""
    log = RunLog(home / "runs" / RUN_ID)
    for record in run_of(ALL):
        log(record)
    log.close()
    for text in NAMED.values():
        (home / "runs" / text).mkdir()
    return home


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("show",),
        ("show", "-v"),
        ("show", "--answer"),
        ("show", "--code", "--sources", "--cost", "--subcalls", "--steps"),
        ("show", "--json"),
        ("list", "--json"),
        ("replay", "--no-delay"),
        ("replay", "--no-delay", "-vv", "--progress", "plain"),
        ("export", "last", "--to", "md"),
        ("export", "last", "--to", "json"),
        ("export", "last", "--to", "jsonl"),
        ("path", "last"),
        ("prune", "--keep", "0", "-n"),
        ("show", "nothing-like-it"),
    ],
    ids=" ".join,
)
def test_e17_a_hostile_record_is_shown_and_not_obeyed(tty: Tty, recorded: Path, words: Sequence[str]) -> None:
    """Every command that reads a record from disk. A folder that is no run's is not named at all."""
    seen = tty("runs", *words, "--no-input")
    assert (seen.code, commands(seen.out + seen.err)) == (8 if "nothing-like-it" in words else 0, [])
    if words[0] == "show" and "--json" not in words and seen.code == 0:
        assert "\\x1b]52;c;" in seen.out


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("events.jsonl", None),
        ("run.json", {"started": 1e300}),
        ("run.json", {"started": 10**400}),
        ("run.json", {"started": -1}),
        ("run.json", {"started": float("nan")}),
        ("run.json", {"question": [ALL], "models": ALL, "names": {ALL: ALL}, "version": 10**4000}),
        ("run.json", {"result": {"run_id": ALL, "timing": {"total_s": 1e308}, "cost": {"usd": -1e308}}}),
        ("run.json", [ALL]),
    ],
)
def test_e17_a_header_of_any_shape_is_survived(tty: Tty, recorded: Path, file: str, value: object) -> None:
    """Numbers that are no dates, lists for texts, no file but a folder: a list is still a list."""
    path = recorded / "runs" / RUN_ID / file
    path.unlink()
    if value is None:
        path.mkdir()
    else:
        path.write_text(json.dumps(value))
    for words in (("list",), ("show",), ("replay", "--no-delay"), ("list", "--json")):
        seen = tty("runs", *words, "--no-input")
        assert (words, "bug" in seen.err, commands(seen.out + seen.err)) == (words, False, [])


@pytest.fixture
def configured(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file and a project's, in a folder with a hostile name; both hold hostile keys and values."""
    quoted = json.dumps(ALL).replace("\x7f", "\\u007f")  # TOML's strings are JSON's, but for this one
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        f'model = {quoted}\nmode = "rlm"\n{quoted} = 1\n[aliases]\n{quoted} = {quoted}\n[prices.{quoted}]\n'
        f"input = 1\noutput = 2\n[model_options]\n{quoted} = {quoted}\n"
    )
    folder = Path(NAMED["e01-osc52"] + NAMED["e06-bidi-zero-width-tags"] + "\nrlm: error: forged").absolute()
    folder.mkdir()
    (folder / "rlm.toml").write_text(f"{quoted} = 1\nmodel = {quoted}\n[sources]\nignore = [{quoted}]\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("config", "list", "--origin"),
        ("config", "list", "--json"),
        ("config", "get", "model"),
        ("config", "get", "aliases"),
        ("config", "validate"),
        ("config", "path"),
        ("config", "set", "model", ALL),
        ("config", "unset", "model", "--project"),
        ("models", "default"),
        ("models", "show", ALL),
        ("models", "list"),
        ("runs", "path"),
        ("sandbox", "status"),
        ("doctor",),
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_e09_settings_are_shown_and_not_sent(
    tty: Tty, configured: Path, words: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and values of the user's file and a project's, the folder's own name, and an engine's address in its error;
    a line break in a name begins no line of its own."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/" + "".join(NAMED.values()))
    monkeypatch.setenv("RLM_HOME", f"{os.environ['RLM_HOME']}")
    seen = tty(*words)
    assert commands(seen.out + seen.err) == []
    assert "\nrlm: error: forged" not in seen.out + seen.err


BROKEN = """
import sys, threading, warnings, logging
from rlm_cli.cli import app, boundary
BAD = "\\x1b]52;c;x\\x07 \\u202e sk-live-0123456789abcdef https://h/?key=abcdefgh12345"
class Loud:
    def __del__(self): raise ValueError(BAD)
def broken():
    secret_local = "s3cret-local-value"
    thread = threading.Thread(target=lambda: 1 / 0 if False else (_ for _ in ()).throw(RuntimeError(BAD)), name=BAD)
    thread.start()
    thread.join()
    warnings.warn(BAD)
    logging.getLogger(BAD).error(BAD)
    Loud()
    raise ZeroDivisionError(BAD)
app.command = broken
boundary.main()
"""


@pytest.mark.parametrize("flags", [(), ("--debug",)], ids=["", "debug"])
def test_d06_e09_a_bug_says_nothing_that_is_secret_or_obeyed(home: Path, flags: Sequence[str]) -> None:
    """Exceptions of ours, of a thread, of a destructor, a warning and a log line of a library, each with a sequence, a
    key and a URL with a key: cleaned and without keys on the screen and in the crash's file; locals are nowhere."""
    env = os.environ | {"OPENAI_API_KEY": "sk-live-0123456789abcdef"}
    done = subprocess.run([sys.executable, "-c", BROKEN, *flags], capture_output=True, text=True, timeout=60, env=env)
    kept = "".join(path.read_text() for path in home.rglob("crashes/*"))
    said = done.stderr + kept + done.stdout
    assert (done.returncode, commands(said)) == (1, [])
    assert [secret for secret in ("0123456789abcdef", "abcdefgh12345", "s3cret-local") if secret in said] == []
    assert "\\x1b]52;c;x\\x07 \\u202e [key] https://h/?key=[key]" in said
    assert ("Traceback" in kept, "Traceback" in done.stderr) == (not flags, bool(flags))
    assert "RuntimeError" in done.stderr  # a thread's failure is always told
    assert ("UserWarning" in done.stderr) == bool(flags)


def test_e09_completion_prints_no_file_names(tty: Tty, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are completed by the shell itself: what we print are our own words. Positive control: options are ours."""
    monkeypatch.chdir(files)
    env = os.environ | {"_RLM_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "rlm sources "}
    for args, expected in (("rlm sources ", ""), ("rlm sources --sk", "--skipped")):
        done = subprocess.run(
            [sys.executable, "-m", "rlm_cli"], env=env | {"_TYPER_COMPLETE_ARGS": args}, capture_output=True, text=True
        )
        assert (commands(done.stdout + done.stderr), expected in done.stdout) == ([], True)
        assert "52" not in done.stdout
