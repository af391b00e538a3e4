"""The matcher outside git against git itself, on a real tree, for patterns nobody would write."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlm_cli.sources import rules
from rlm_cli.sources.gather import collect
from rlm_cli.sources.rules import Verdict

from .conftest import Git, plant

FOLDERS = ("", "a/", "b/", "a/a/", "a/b/", "ab/", "ab/a.c/", "a/b/ab/")
FILES = ("x", "ab", "a.c", "b.c", "c d", "é", "#a", "!a", "a]", "z ", "à")
TREE = {f"{folder}{name}": "1" for folder in FOLDERS for name in FILES if f"{folder}{name}/" not in FOLDERS}

PLAIN = [
    "a",
    "b",
    "ab",
    "x",
    "a.c",
    "c d",
    "é",
    "*",
    "**",
    "?",
    "??",
    "a*",
    "*.c",
    "*b",
    "[ab]",
    "[!a]",
    "[^b]*",
    "[a-b]?",
]
ODD = ["\\a", "\\#a", "\\!a", "a\\]", "[[:alpha:]]", "[a]]", "z\\ ", "***", "?*", "à", "?à\t"]
segments = st.sampled_from([*PLAIN, *ODD])


@st.composite
def composed(draw: st.DrawFn) -> str:
    """A pattern of plausible parts: negated, anchored, for folders only, with trailing spaces."""
    body = "/".join(draw(st.lists(segments, min_size=1, max_size=3)))
    ends = [draw(st.sampled_from(options)) for options in (("", "", "!"), ("", "", "/"), ("", "", "/"), ("", "", " "))]
    return ends[0] + ends[1] + body + ends[2] + ends[3]


patterns = st.one_of(composed(), composed(), composed(), st.text("ab*?/![]\\ .#x", max_size=6))
# git compares what is before the first wildcard apart, and so takes `a**/b` for `a`, then `**/b`: a quirk, not a rule.
# And a slash in brackets is outside what the matcher reads: such a pattern is noted as malformed.
BEYOND = re.compile(r"[^/!*]\*\*|\[[^]]*/")
ignore_files = st.lists(patterns.filter(lambda text: not BEYOND.search(text)), max_size=5).map("\n".join)


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Git]:
    git = Git(tmp_path_factory.mktemp("git") / "home")
    root = plant(tmp_path_factory.mktemp("forest"), {"named": "1"})
    return plant(git.init(root / "tree"), TREE), git


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(root=ignore_files, nested=ignore_files)
def test_our_matcher_agrees_with_git(forest: tuple[Path, Git], root: str, nested: str) -> None:
    """For any two ignore files, one inside the other's reach, the same files are left over as by `git ls-files`."""
    tree, git = forest
    plant(tree, {".gitignore": root, "a/.gitignore": nested})
    listed = git(tree, "ls-files", "-z", "--others", "--exclude-standard").decode().split("\0")[:-1]
    expected = sorted(name for name in listed if not name.endswith(".gitignore"))
    # One file that is named, so that there is always something to read; git out of reach, so that ours decides.
    corpus = collect([str(tree), str(tree.parent / "named")], env={"PATH": str(tree)})
    prefix = f"{tree.name}/"
    ours = sorted(d.name.removeprefix(prefix) for d in corpus.documents if d.name.startswith(prefix))
    assert ours == expected


# Any bytes, as the system hands them over.
raw = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape"))


@settings(max_examples=300)
@given(st.one_of(raw, patterns), raw)
def test_no_line_breaks_the_matcher(line: str, path: str) -> None:
    """Any line of an ignore file is a pattern, or is noted as malformed; it never raises and never warns."""
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parsed = rules.parse([("f:1", line)], notes.append)
        parsed.check(path.strip("/") or "x")
    assert len(parsed.rules) + len(notes) <= 1


def test_lines_are_split_as_git_splits_them(tmp_path: Path) -> None:
    """Only newlines end a line; a byte order mark and one carriage return are taken off; numbers count from 1."""
    path = plant(tmp_path, {"f": b"\xef\xbb\xbf*.a\r\n# no\n\n*.b\x0bc\n*.\xff"}) / "f"
    parsed = rules.read(str(path), "f", pytest.fail)
    assert parsed is not None
    assert [rule.label for rule in parsed.rules] == ["f:5: *.\udcff", "f:4: *.b\x0bc", "f:1: *.a"]
    assert parsed.check("x.a") == Verdict(True, "f:1: *.a")


def test_only_regular_files_of_sane_size_are_ignore_files(tmp_path: Path) -> None:
    """What is missing, a folder, or absurdly large is no ignore file; each but the folder is said."""
    notes: list[str] = []
    (tmp_path / "big").touch()
    with (tmp_path / "big").open("r+b") as file:
        file.truncate(rules.LARGEST + 1)
    assert [rules.read(str(tmp_path / name), name, notes.append) for name in ("", "big", "none")] == [None] * 3
    assert notes == [
        "big is too large for an ignore file and was not used",
        "none cannot be read (No such file or directory) and was not used",
    ]
