"""The commands that print data: sources, runs, models, help, doctor. Real back ends, no key, no network."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rlm_cli import config
from rlm_cli.cli.doctor import Check, config_checks, confinement_check, model_checks, place_checks
from rlm_cli.cli.help import TOPICS
from rlm_cli.cli.run_markdown import fenced
from rlm_cli.errors import ConfigError, ExitCode
from rlm_cli.events import (
    Bus,
    CodeWritten,
    Cost,
    ModelPair,
    Output,
    Result,
    RunFinished,
    RunStarted,
    SourcesFacts,
    StepFinished,
    StepStarted,
)
from rlm_cli.runlog import RunLog
from rlm_cli.sandbox import frames

from .conftest import Rlm

ANSWER = "forty-two"


def record_run(home: Path, run_id: str, question: str = "how many?") -> Path:
    """A finished run with one step, in the folder the commands read."""
    directory = home / "runs" / run_id
    log = RunLog(directory)
    started = datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
    bus = Bus((log,), clock=lambda: started)
    bus.emit(RunStarted(run_id, "1", question, ModelPair("m/root", "m/sub"), SourcesFacts(1, 30), names=("a.log",)))
    bus.emit(StepStarted(1))
    bus.emit(CodeWritten(1, "I look.\n```repl\nprint(1)\n```", "print(1)"))
    bus.emit(Output(1, "stdout", "```1\n", 5))
    bus.emit(StepFinished(1, "ok", 1.0, 0.5, "1"))
    bus.emit(RunFinished(Result(run_id, "ok", ANSWER, question, 0, "1", cost=Cost(0.5))))
    log.close()
    return directory


OLD, NEW = "20200101-000000-aaaaaa", "20260101-000000-bbbbbb"


@pytest.fixture
def runs(home: Path) -> Path:
    """Two finished runs, years apart."""
    record_run(home, OLD, "what is old?")
    record_run(home, NEW, "what is new?")
    return home / "runs"


def test_runs_are_listed_newest_first_and_filtered(rlm: Rlm, runs: Path) -> None:
    """Plain `rlm runs` and `runs list` are the same; --search, --model, --status, --since and -n narrow it."""

    def ids(*words: str) -> list[str]:
        return [run["id"] for run in json.loads(rlm("runs", "list", "--json", *words).out)["runs"]]

    assert (
        rlm("runs") == rlm("runs", "list"),
        ids(),
        ids("-n", "1"),
        ids("--search", "OLD"),
        ids("-m", "m/sub"),
        ids("-m", "other"),
        ids("--status", "error"),
        ids("--since", "1d"),
    ) == (True, [NEW, OLD], [NEW], [OLD], [NEW, OLD], [], [], [])


def test_an_unknown_status_is_no_empty_list(rlm: Rlm, runs: Path) -> None:
    """--status with a word that no run can have: exit 2 and the words there are."""
    done = rlm("runs", "list", "--status", "failed")
    assert (done.code, done.out, "ok, partial, no_answer, error" in done.err) == (2, "", True)


def test_show_by_part(rlm: Rlm, runs: Path) -> None:
    """--answer is the answer alone, --code the program alone, --json the result object."""
    assert (
        rlm("runs", "show", "--answer").out,
        rlm("runs", "show", "aaaaaa", "--code", "--step", "1").out,
        json.loads(rlm("runs", "show", "last", "--json").out)["run_id"],
        rlm("runs", "show", "zzz").code,
    ) == (f"{ANSWER}\n", "print(1)\n", NEW, 8)


def test_replay_redraws_without_a_key_and_answers_on_stdout(rlm: Rlm, runs: Path) -> None:
    """The run on stderr, its answer on stdout, nothing called."""
    done = rlm("runs", "replay", "--no-delay", "--progress", "plain")
    assert (done.code, done.out, "step 1" in done.err) == (0, f"{ANSWER}\n", True)


def test_a_step_that_the_run_has_not(rlm: Rlm, runs: Path) -> None:
    """Nothing would be shown and nobody told why: exit 2, with the steps there are."""
    for words in (("show", "--code", "--step", "9"), ("show", "--step", "0"), ("replay", "--no-delay", "--from", "9")):
        done = rlm("runs", *words)
        assert (done.code, done.out, "the run's steps are 1 to 1" in done.err) == (2, "", True)


def test_replay_imports_no_vendor(home: Path) -> None:
    """Neither litellm nor docker is needed to watch a run again."""
    record_run(home, NEW)
    code = (
        "import sys; from rlm_cli.cli.boundary import run; run(['runs', 'replay', '--no-delay']);"
        "print(*sorted({'litellm', 'docker'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr.splitlines()[-1]) == (f"{ANSWER}\n", "")


def test_export_in_three_forms(rlm: Rlm, runs: Path) -> None:
    """json holds result and records, jsonl the records, md a report whose fences nothing inside can close."""
    whole = json.loads(rlm("runs", "export", "last").out)
    lines = [json.loads(line) for line in rlm("runs", "export", "last", "--to", "jsonl").out.splitlines()]
    report = rlm("runs", "export", "last", "--to", "md", "-o", "report.md")
    text = Path("report.md").read_text()
    assert (whole["events"] == lines, whole["result"]["answer"], report.out) == (True, ANSWER, "")
    assert (text.startswith(f"# Run {NEW}\n\n> what is new?\n"), "````\n```1\n````" in text) == (True, True)
    assert re.findall(r"\d+ (?:file|call)s?\b", text) == ["1 file", "0 calls"]


def test_a_fence_is_longer_than_any_inside() -> None:
    """Text with fences of three and five backticks gets six."""
    assert fenced("a\n`````\n```\n", "x") == "``````x\na\n`````\n```\n``````"


def test_rm_and_prune(rlm: Rlm, runs: Path) -> None:
    """-n only says; prune goes by age or by the configured age; rm takes ids; what is running or newer stays."""
    dry = rlm("runs", "prune", "-n")
    assert (dry.out, sorted(p.name for p in runs.iterdir())) == (f"{NEW}\n{OLD}\n", [OLD, NEW])
    kept = rlm("runs", "prune", "--older-than", "20w", "--keep", "1")
    assert (kept.out, [p.name for p in runs.iterdir()]) == (f"{OLD}\n", [NEW])
    assert (rlm("runs", "rm", "cccc").code, rlm("runs", "rm", "bbbbbb").code, list(runs.iterdir())) == (8, 0, [])


def test_paths(rlm: Rlm, runs: Path) -> None:
    """The folder of all runs, and of one; an unknown one is exit 8."""
    assert (rlm("runs", "path").out, rlm("runs", "path", "last").out, rlm("runs", "path", "zz").code) == (
        f"{runs}\n",
        f"{runs / NEW}\n",
        8,
    )


@pytest.fixture
def corpus(home: Path) -> Path:
    """Two files that are read, one ignored, one hidden, one with a newline in its name."""
    folder = Path("corpus")
    folder.mkdir()
    (folder / "a.txt").write_text("aaaa")
    (folder / "b.txt").write_text("b" * 400)
    (folder / "new\nline.txt").write_text("c")
    (folder / "x.tmp").write_text("x")
    (folder / ".hidden").write_text("h")
    (folder / ".ignore").write_text("*.tmp\n")
    return folder


def test_sources_names_sizes_and_what_is_left_out(rlm: Rlm, corpus: Path) -> None:
    """Names on stdout (NUL-separated with -0), the summary on stderr, --top the largest, --skipped the rules."""
    nul = rlm("sources", "corpus", "-0")
    facts = json.loads(rlm("sources", "corpus", "--json").out)
    top = rlm("sources", "corpus", "--top", "1").out.splitlines()
    skipped = rlm("sources", "corpus", "--skipped").out
    assert (
        nul.out,
        "3 files" in nul.err,
        [file["bytes"] for file in facts["files"]],
        {skip["path"].rpartition("/")[2]: skip["reason"] for skip in facts["skipped"]},
        [line.split()[-1] for line in top],
        "x.tmp" in skipped and "*.tmp" in skipped,
    ) == (
        "a.txt\0b.txt\0new\nline.txt\0",
        True,
        [4, 400, 1],
        {".hidden": "hidden", ".ignore": "hidden", "x.tmp": "ignored"},
        ["name", "b.txt"],
        True,
    )


def test_json_is_json_whatever_a_file_is_called(home: Path, corpus: Path) -> None:
    """A name that is no UTF-8, and one with control characters of two bytes: ASCII out, and the bytes come back."""
    names = [b"bad\xff.txt", "c1\x9b31m.txt".encode()]
    for name in names:
        (corpus / os.fsdecode(name)).write_text("x")
    line = [sys.executable, "-m", "rlm_cli", "sources", "corpus", "--json"]
    out = subprocess.run(line, capture_output=True, timeout=60, check=True).stdout
    found = {os.fsencode(file["name"]) for file in json.loads(out.decode("ascii"))["files"]}
    assert found >= set(names)


def test_sources_opens_archives_unless_told_otherwise(
    rlm: Rlm, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in them are listed, --json names the file on disk, a damaged one that was named is exit 8; nothing of what
    was unpacked is left."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    packed = gzip.compress(b"from a gz\n\0" * 100)
    (corpus / "old.log.gz").write_bytes(gzip.compress(b"from a gz\n"))
    (corpus / "bad.gz").write_bytes(packed[:-3])
    with zipfile.ZipFile(corpus / "more.zip", "w") as made:
        made.writestr("in/side.txt", "from a zip")
    facts = json.loads(rlm("sources", "corpus", "--json").out)
    assert (
        [(file["name"], Path(file["path"]).name) for file in facts["files"] if file["origin"] == "archive"],
        {skip["path"]: skip["reason"] for skip in facts["skipped"] if "bad" in skip["path"]},
        rlm("sources", "corpus", "--set", "sources.archives=false", "-0").out,
        (bad := rlm("sources", "corpus/bad.gz")).code,
        "it ends in the middle" in bad.err,
        list(scratch.iterdir()),
    ) == (
        [("more.zip/in/side.txt", "more.zip"), ("old.log", "old.log.gz")],
        {"corpus/bad.gz": "unreadable"},
        "a.txt\0b.txt\0new\nline.txt\0",
        8,
        True,
        [],
    )


def test_sources_obeys_settings_and_flags(rlm: Rlm, corpus: Path) -> None:
    """-g, -uu, --hidden and sources.ignore from the project file all filter; a missing source or too much is exit 8."""
    Path("rlm.toml").write_text('[sources]\nignore = ["b.*"]\nhidden = true\n')
    seen = [
        rlm("sources", "corpus", "-g", "a*").out.split(),
        len(rlm("sources", "corpus", "-0", "-uu").out.split("\0")) - 1,
        "b.txt" in rlm("sources", "corpus").out,
        ".hidden" in rlm("sources", "corpus").out,
        ".hidden" in rlm("sources", "corpus", "--hidden").out,
        rlm("sources", "nothing-here").code,
        rlm("sources", "corpus", "--max-input", "3").code,
    ]
    assert seen == [["a.txt"], 6, False, False, True, 8, 8]


def test_models_need_no_key_to_be_listed(rlm: Rlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key `offline` is usable; -a lists what is not; with a key its variable is named."""
    without = json.loads(rlm("models", "list", "--json", "gpt-5-mini").out)["models"]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    having = json.loads(rlm("models", "list", "--json", "--provider", "openai").out)["models"]
    offline = json.loads(rlm("models", "list", "--json", "offline").out)["models"]
    assert (
        [m for m in without if m["provider"] == "openai"],
        {m["usable_by"] for m in having},
        offline[0]["model"],
    ) == (
        [],
        {"OPENAI_API_KEY"},
        "offline",
    )


def test_no_model_found_is_said_without_a_table(rlm: Rlm) -> None:
    """An empty stdout, and the command that lists what no key can use."""
    done = rlm("models", "list", "gpt-5", "--provider", "openai")
    assert (done.code, done.out, "rlm models list -a --provider openai gpt-5" in done.err) == (0, "", True)


def test_a_model_is_shown_by_alias_and_own_price(rlm: Rlm) -> None:
    """An alias resolves, and a price from the user's table wins over LiteLLM's; an unknown id is exit 7."""
    rlm("config", "set", "aliases.mine", "gpt-5")
    rlm("config", "set", "prices.gpt-5", "9,10")
    shown = json.loads(rlm("models", "show", "mine", "--json").out)
    unknown = rlm("models", "show", "gpt-55555")
    assert (
        shown["model"],
        shown["input_usd_per_million"],
        shown["aliases"],
        unknown.code,
        "did you mean" in unknown.err,
    ) == (
        "gpt-5",
        9.0,
        ["mine"],
        7,
        True,
    )


def test_the_default_model_is_written_and_explained(rlm: Rlm, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key: exit 4 at once. A key: the packaged pair and why. Set: written to the file. Unset: gone."""
    none = rlm("models", "default").code
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    by_key = json.loads(rlm("models", "default", "--json").out)
    rlm("models", "default", "offline")
    chosen = json.loads(rlm("models", "default", "--json").out)
    written = (home / "config.toml").read_text()
    rlm("models", "default", "--unset")
    assert (
        none,
        "ANTHROPIC_API_KEY" in by_key["why"],
        chosen["root"],
        written,
        (home / "config.toml").read_text(),
    ) == (
        4,
        True,
        "offline",
        'model = "offline"\n',
        "",
    )


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_can_be_read(rlm: Rlm, topic: str) -> None:
    """Each has text, fits a wide terminal, and leaves no placeholder."""
    done = rlm("help", topic)
    assert (done.code, len(done.out) > 300, max(map(len, done.out.splitlines())) <= 130, "{keys}" in done.out) == (
        0,
        True,
        True,
        False,
    )


def test_help_of_a_command_is_its_help(rlm: Rlm) -> None:
    """`rlm help ask` is `rlm ask --help`; for another word both kinds are offered."""
    assert rlm("help", "ask") == rlm("ask", "--help")
    assert (rlm("help", "runs").out.splitlines()[0], rlm("help", "nonsense").code) == (
        "Usage: rlm runs [OPTIONS] COMMAND [ARGS]...",
        2,
    )


def test_topics_name_every_variable_and_key(rlm: Rlm) -> None:
    """What is generated from the table is complete: no key without its line, no exit code without its own."""
    environment, keys, codes = (rlm("help", topic).out for topic in ("environment", "config", "exit-codes"))
    missing = [key.name for key in config.KEYS.values() if key.env and f"  {key.env} " not in environment]
    missing += [key.name for key in config.KEYS.values() if not key.switch and f"\n  {key.name}" not in keys]
    missing += [str(code) for code in ExitCode if f"{code.value:3}  {code.name.lower()}" not in codes]
    sources = [path.read_text("utf-8") for path in (Path(config.__file__).parents[1]).rglob("*.py")]
    read = {name for text in sources for name in re.findall(r"\benv(?:\.get\(|\[)\"(\w+)\"", text)}
    missing += [name for name in read - {"HOME", "PATH"} if name not in environment]
    assert (missing, rlm("help", "nonsense").code) == ([], 2)


def test_doctor_names_what_is_wrong_in_order(tmp_path: Path, home: Path) -> None:
    """A broken file fails with 2, a missing key with 4, an unwritable folder is named; each has its fix."""
    settings = config.load()
    places = config.places(config.environment())
    blocked = config.Places(home, Path("/proc/nothing"), Path("/proc/nothing"), home / "config.toml")
    problem = ConfigError("config.toml:1: broken", hint="rlm config edit")
    config_said = list(config_checks(settings, (problem,), places))
    models_said = list(model_checks(settings, {}))
    places_said = list(place_checks(settings, blocked))
    assert (
        config_said,
        [(c.name, c.status, c.exit_code) for c in models_said],
        [(c.name, c.status) for c in places_said],
    ) == (
        [Check("config", "fail", "config.toml:1: broken", "rlm config edit", ExitCode.USAGE)],
        [("keys", "warn", 0), ("models", "fail", ExitCode.AUTH)],
        [("runs", "fail"), ("cache", "warn")],
    )


def test_doctor_without_an_engine_fails_with_5_and_goes_on(rlm: Rlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine: the runtime line fails, image and container are not tried, the rest still is; JSON has it all."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    done = rlm("doctor", "--json", "--set", "model=offline")
    found = json.loads(done.out)
    assert (done.code, found["exit_code"], [c["name"] for c in found["checks"]]) == (
        5,
        5,
        ["version", "config", "keys", "models", "runtime", "process", "runs", "cache", "documents", "terminal"],
    )


def test_doctor_says_which_filters_are_active_in_the_container() -> None:
    """All of them is ok; each that lacks is named with what can be done, and is no failure."""
    boot = frames.BootFacts(
        version=1, uid=65534, gid=65534, pid=1, cap_eff=0, no_new_privs=True, seccomp=2, memory_limit=1, pids_limit=1,
        interfaces=("lo",), root_writable=False, in_writable=False, dumpable=False, python="3.13.0", machine="x86_64",
    )  # fmt: skip
    worker = frames.WorkerFacts(seccomp=2, filtered=True, landlock=7, no_new_privs=True)
    held = confinement_check(boot, worker)
    assert (held.status, held.text) == (
        "ok",
        "the engine's system call filter, ours, a closed supervisor, Landlock 7; x86_64",
    )
    lacking = [
        confinement_check(replace(boot, seccomp=0), worker),
        confinement_check(replace(boot, machine="riscv64"), replace(worker, filtered=False)),
        confinement_check(boot, replace(worker, landlock=0)),
    ]
    assert [(check.status, check.text) for check in lacking] == [
        ("warn", "ours, a closed supervisor, Landlock 7; x86_64: the engine's own filter is off"),
        (
            "warn",
            held.text.replace(" ours,", "").replace("x86_64", "riscv64")
            + ": rlm has no system call filter for this machine",
        ),
        ("warn", "the engine's system call filter, ours, a closed supervisor; x86_64: no Landlock"),
    ]
    assert ["daemon.json" in lacking[0].fix, "5.13" in lacking[2].fix] == [True, True]


@pytest.mark.docker
def test_doctor_runs_a_real_container(rlm: Rlm) -> None:
    """With an engine and an image every check passes: the container ran our code under the production flags."""
    done = rlm("doctor", "--json", "--set", "model=offline")
    checks = json.loads(done.out)["checks"]
    status, texts = ({check["name"]: check[field] for check in checks} for field in ("status", "text"))
    assert (done.code, status["runtime"], status["image"], status["container"]) == (0, "ok", "ok", "ok")
    if platform.machine() in ("x86_64", "aarch64"):
        assert "the engine's system call filter, ours" in texts["filters"]


@pytest.mark.docker
def test_sandbox_status_and_prune(rlm: Rlm) -> None:
    """The engine and the image are named; nothing of ours that is alive is pruned."""
    facts = json.loads(rlm("sandbox", "status", "--json").out)
    shown = rlm("sandbox", "status").out.splitlines()
    assert [f"{name:11} {facts[name]['text']}" for name in ("filters", "process")] == shown[-2:]
    assert "a closed supervisor" in facts["filters"]["text"]
    assert (bool(facts["engine"]["version"]), bool(facts["image"]["name"]), rlm("sandbox", "prune", "-n").code) == (
        True,
        True,
        0,
    )
