"""The command tree: help everywhere, nothing heavy imported for it, and no verb means no run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlm_cli.cli.app import VERBS, command, load

from .conftest import Rlm

SUBCOMMANDS = {
    "runs": ("list", "show", "replay", "path", "export", "rm", "prune"),
    "models": ("list", "show", "default"),
    "config": ("list", "get", "set", "unset", "path", "validate", "edit"),
    "sandbox": ("status", "pull", "build", "prune"),
}
EVERY_COMMAND = [
    (),
    *((verb.name,) for verb in VERBS),
    *((group, verb) for group, verbs in SUBCOMMANDS.items() for verb in verbs),
]


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_h_works_everywhere(rlm: Rlm, words: tuple[str, ...]) -> None:
    """-h and --help print the same on stdout and exit 0, for every command; each takes the global options."""
    short, long = rlm(*words, "-h"), rlm(*words, "--help")
    usage = f"Usage: {' '.join(('rlm', *words))} "
    assert (short.code, short.err, short.out.startswith(usage), "--set KEY=VALUE" in short.out) == (0, "", True, True)
    assert short == long


def test_the_tree_is_complete() -> None:
    """The sub-commands named in this file are the ones there are."""
    groups = {verb.name: load(verb) for verb in VERBS if verb.name in SUBCOMMANDS}
    assert {name: tuple(group.commands) for name, group in groups.items()} == SUBCOMMANDS


def test_brackets_survive_in_help(rlm: Rlm) -> None:
    """No markup language reads the help texts: what is in brackets stays (C65)."""
    assert "[default 1.00; RLM_MAX_COST]" in " ".join(rlm("ask", "-h").out.split())


@pytest.mark.parametrize(
    "words",
    [["--help"], ["ask", "--help"], ["version"], ["config", "list"], ["help", "environment"], ["completion", "bash"]],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(home: Path, words: list[str]) -> None:
    """What needs no model and no container imports neither litellm nor docker: that is what keeps them quick."""
    code = (
        "import sys; from rlm_cli.cli.boundary import run; code = run(sys.argv[1:]);"
        "print(code, *sorted({'litellm', 'docker', 'requests', 'tiktoken'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.splitlines()[-1] == "0"


def test_completion_of_a_verb_imports_nothing_heavy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pressing Tab completes verbs and loads neither litellm nor docker."""
    monkeypatch.setenv("_RLM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "rlm ru")
    monkeypatch.setenv("COMP_CWORD", "1")
    code = (
        "import sys; from rlm_cli.cli.boundary import run; run([]);"
        "print(*sorted({'litellm', 'docker'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.split(), done.stderr.split()) == (["runs"], [])


def test_no_verb_prints_short_help(rlm: Rlm) -> None:
    """Bare `rlm` shows examples on stdout and exits 2: a script whose arguments vanished must not succeed."""
    done = rlm()
    assert (done.code, done.err, done.out.startswith("Usage: rlm COMMAND"), "rlm ask" in done.out) == (
        2,
        "",
        True,
        True,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("why did it fail?",), "fix: rlm ask SOURCES 'why did it fail?'"),
        (("aks", "x", "why now?"), "did you mean 'ask'? [usage]\n  fix: rlm ask x 'why now?'"),
        (("ask", "x", "why?", "-m"), "fix: rlm ask --help"),
        (("notes.txt", "why?"), "fix: rlm ask notes.txt 'why?'"),
        (("frobnicate",), "'frobnicate' is not a command"),
        (("runs", "shwo"), "Did you mean 'show'"),
        (("ask", "--max-cots", "1", "x"), "--max-cost"),
    ],
)
def test_a_wrong_verb_is_an_error_with_a_hint(rlm: Rlm, words: tuple[str, ...], said: str) -> None:
    """A question without a verb, a mistyped verb or option: exit 2, stdout empty, and what was probably meant (C18)."""
    Path("notes.txt").write_text("x")
    done = rlm(*words)
    assert (done.code, done.out, said in done.err) == (2, "", True), done.err


def test_global_options_stand_before_or_after_the_verb(rlm: Rlm) -> None:
    """--set and --config count wherever they are; later ones win."""
    Path("mine.toml").write_text("[limits]\ncost = 7\n")
    seen = [
        rlm("--config", "mine.toml", "config", "get", "limits.cost").out,
        rlm("config", "get", "limits.cost", "--config", "mine.toml").out,
        rlm("config", "--set", "limits.cost=3", "get", "limits.cost").out,
        rlm("--set", "limits.cost=3", "config", "get", "limits.cost", "--set", "limits.cost=4").out,
        rlm("-v", "config", "get", "run.verbose").out,
        rlm("config", "get", "run.verbose", "-vv").out,
        rlm("--progress", "none", "config", "get", "output.progress").out,
    ]
    assert seen == ["7.00\n", "7.00\n", "3.00\n", "4.00\n", "1\n", "2\n", "none\n"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("max_tokens=lots", "is no number of tokens"),
        ("max_completion_tokens=-1", "is no number of tokens"),
        ("max_tokens=0", "is no number of tokens"),
        ("max_tokens=true", "is no number of tokens"),
        ("n=3", "all would be paid for"),
        ("num_retries=2", "tries again by itself"),
        ("timeout=9", "--set api.timeout=5m"),
    ],
)
def test_options_that_rlm_counts_with_are_checked_before_anything_is_spent(rlm: Rlm, wrong: str, said: str) -> None:
    """What calls reserve, and what multiplies or repeats them: exit 2, also in a dry run; a right one is taken."""
    Path("a.txt").write_text("hello\n")
    asked = ("ask", "a.txt", "-Q", "Why?", "-n", "-m", "offline", "-O")
    refused = rlm(*asked, wrong)
    assert (refused.code, said in refused.err) == (2, True)
    assert rlm(*asked, "max_tokens=4096").code == rlm(*asked, "temperature=0").code == 0


def test_version_in_both_spellings(rlm: Rlm) -> None:
    """-V, --version and the verb say the same."""
    assert len({rlm("-V").out, rlm("--version").out, rlm("version").out}) == 1


def test_the_tree_can_be_built_twice() -> None:
    """Nothing is registered globally: two trees do not share state."""
    assert command() is not command()
