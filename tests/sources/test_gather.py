"""What is read, what is not, and why: real trees, with git and without (CLI.md 2.5)."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rlm_cli.errors import ExitCode, InputError
from rlm_cli.sources import DEFAULT_OPTIONS, Corpus, Document, Skip, SourceOptions
from rlm_cli.sources.gather import collect
from rlm_cli.sources.git import explain
from rlm_cli.sources.receive import Received
from rlm_cli.sources.summary import summary_line

from .conftest import Git, plant

LOGS: dict[str, str | bytes] = {
    ".gitignore": "*.log\nlogs/\n!keep.log\n",
    "a.txt": "a",
    "b.log": "b",
    "keep.log": "k",
    "logs/one.log": "1",
    "logs/deep/two.txt": "2",
    "sub/.gitignore": "*.txt\n!c.txt\n",
    "sub/c.txt": "c",
    "sub/d.txt": "d",
    "sub/b.log": "b",
    ".env": "secret",
    ".cache/x": "x",
    ".cache/y/z": "z",
    "image.png": b"\x89PNG\0\0",
}


def names(corpus: Corpus) -> list[str]:
    return [document.name for document in corpus.documents]


def counts(corpus: Corpus) -> dict[str, int]:
    return {name: count for name, count in asdict(corpus.skipped).items() if count}


def reasons(corpus: Corpus) -> list[tuple[str, str, str, int]]:
    return [(skip.path, skip.reason, skip.rule, skip.files) for skip in corpus.skips]


def failed(*sources: str, options: SourceOptions = DEFAULT_OPTIONS, env: dict[str, str] | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        collect(sources, options, env=env)
    assert caught.value.exit_code == ExitCode.INPUT
    return caught.value


# -- the same tree, by git and by us -------------------------------------------------------------------------------

EXPECTED = [
    ("t/.cache/", "hidden", "", 2),
    ("t/.env", "hidden", "", 1),
    ("t/.gitignore", "hidden", "", 1),
    ("t/b.log", "ignored", "t/.gitignore:1: *.log", 1),
    ("t/image.png", "binary", "a NUL byte in its first 64 KiB", 1),
    ("t/logs/", "ignored", "t/.gitignore:2: logs/", 2),
    ("t/sub/.gitignore", "hidden", "", 1),
    ("t/sub/b.log", "ignored", "t/.gitignore:1: *.log", 1),
    ("t/sub/d.txt", "ignored", "t/sub/.gitignore:1: *.txt", 1),
]


@pytest.mark.parametrize("with_git", [True, False])
def test_one_tree_two_judges(here: Path, git: Git, with_git: bool) -> None:
    """Nested files and negations: git and the matcher read the same documents, and cite the same rule for each skip."""
    plant(here / "t", LOGS)
    if with_git:
        git.init(here / "t")
    corpus = collect(["t"], env=git.env)
    assert names(corpus) == ["a.txt", "keep.log", "sub/c.txt"]
    assert [(s.path, s.reason, s.rule, s.files) for s in explain(corpus.skips, git.env)] == EXPECTED
    assert counts(corpus) == {"ignored": 5, "hidden": 5, "binary": 1}
    line = "3 files · 3 B · ~0 tokens; skipped 11 (5 ignored, 5 hidden, 1 binary) — rlm sources t --skipped"
    assert summary_line(corpus, ["t"]) == line


@pytest.mark.parametrize("with_git", [True, False])
def test_unrestricted_in_three_steps(here: Path, git: Git, with_git: bool) -> None:
    """-u reads ignored files, -uu hidden ones too, -uuu binary ones too; `.git` never, and it is never counted."""
    plant(here / "t", LOGS)
    if with_git:
        git.init(here / "t")
    left = [counts(collect(["t"], SourceOptions(unrestricted=level), env=git.env)) for level in (1, 2, 3)]
    assert left == [{"hidden": 5, "binary": 1}, {"binary": 1}, {}]
    everything = collect(["t"], SourceOptions(unrestricted=3), env=git.env)
    assert names(everything) == sorted(LOGS)


def test_parents_rule_a_source_below_them(here: Path, git: Git) -> None:
    """The rules above the folder that was named hold in it."""
    plant(here, {".gitignore": "*.tmp\n", "t/a.tmp": "x", "t/a.txt": "x", "u/a.tmp": "x", "u/a.txt": "x"})
    git.init(here / "u").joinpath("own")
    assert reasons(collect(["t"], env=git.env)) == [("t/a.tmp", "ignored", ".gitignore:1: *.tmp", 1)]
    # A repository ends that: what is around it is not its business.
    assert names(collect(["u"], env=git.env)) == ["a.tmp", "a.txt"]
    # ... also when it is met on the way down.
    assert names(collect(["."], env=git.env)) == ["t/a.txt", "u/a.tmp", "u/a.txt"]


# -- git ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_which_git_knows_nothing_has_the_rule_of_what_is_in_it(here: Path, git: Git) -> None:
    """`*.log` empties logs/ without naming it: --skipped says so all the same."""
    tree = git.init(here / "t")
    plant(tree, {".gitignore": "*.log\n", "a.txt": "x", "logs/b.log": "x", "logs/old/c.log": "x"})
    corpus = collect(["t"], env=git.env)
    (skip,) = [skip for skip in explain(corpus.skips, git.env) if skip.reason == "ignored"]
    assert (skip.path, skip.rule, skip.files) == ("t/logs/", "t/.gitignore:1: *.log", 2)


def test_the_command_for_what_was_skipped_walks_as_this_walk_did(here: Path) -> None:
    """It opens and converts no more than this walk, which left out for that what the command is to list."""
    plant(here, {"t/a.txt": "x", "t/b.bin": b"\0"})
    options = SourceOptions(archives=False, convert="none", globs=("!c",))
    line = summary_line(collect(["t"], options), ["t"], options)
    said = line.partition(" — ")[2]
    assert said == "rlm sources --convert none --set sources.archives=false -g '!c' t --skipped"


def test_what_only_git_knows(here: Path, git: Git) -> None:
    """Global excludes, .git/info/exclude, tracked files that rules ignore, and files that are only in the index."""
    tree = git.init(here / "t")
    plant(here, {"g/ignore": "*.global\n"})
    git(tree, "config", "--global", "core.excludesFile", str(here / "g/ignore"))
    files = {"a.global": "x", "a.local": "x", "tracked.log": "x", "gone.txt": "x", "new.txt": "x", "a.log": "x"}
    plant(tree, {**files, ".gitignore": "*.log\n", ".git/info/exclude": "*.local\n"})
    git(tree, "add", "-f", "tracked.log", "gone.txt")
    (tree / "gone.txt").unlink()
    corpus = collect(["t"], env=git.env)
    assert names(corpus) == ["new.txt", "tracked.log"]
    assert [(skip.path, skip.rule) for skip in explain(corpus.skips, git.env) if skip.reason == "ignored"] == [
        ("t/a.global", f"{here}/g/ignore:1: *.global"),
        ("t/a.local", "t/.git/info/exclude:1: *.local"),
        ("t/a.log", "t/.gitignore:1: *.log"),
    ]


def test_submodules_and_nested_repositories(here: Path, git: Git) -> None:
    """A submodule and an embedded repository are walked by their own rules; one that is ignored stays out."""
    tree = git.init(here / "t")
    lib = plant(git.init(here / "lib"), {"lib.txt": "x", "lib.o": "x", ".gitignore": "*.o\n"})
    git(lib, "add", "-f", ".")
    git(lib, "commit", "-qm", "lib")
    git(tree, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(lib), "sub")
    plant(tree, {"sub/new.o": "x", ".gitignore": "vendor/\n*.x\n", "own.x": "x"})
    for name in ("nested", "vendor/dep"):
        plant(git.init(tree / name), {"n.txt": "x", "n.x": "x", ".gitignore": "n.txt\n"})
    # A `.git` that is no repository changes nothing.
    plant(tree, {"fake/.git": "nonsense", "fake/f.txt": "x", "fake/f.x": "x"})
    corpus = collect(["t"], env=git.env)
    assert names(corpus) == ["fake/f.txt", "nested/n.x", "sub/lib.o", "sub/lib.txt"]
    assert [(s.path, s.rule) for s in explain(corpus.skips, git.env) if s.reason == "ignored"] == [
        ("t/fake/f.x", "t/.gitignore:2: *.x"),
        ("t/nested/n.txt", "t/nested/.gitignore:1: n.txt"),
        ("t/own.x", "t/.gitignore:2: *.x"),
        ("t/sub/new.o", "t/sub/.gitignore:1: *.o"),
        ("t/vendor/", "t/.gitignore:1: vendor/"),
    ]


def test_a_hostile_repository_runs_nothing(here: Path, git: Git) -> None:
    """Commands in its config (fsmonitor, hooks, pager) and a caller's GIT_DIR have no effect on the walk."""
    tree = plant(git.init(here / "t"), {"a.txt": "x"})
    trap = f"touch {here}/sprung; false"
    (tree / ".git/hooks").mkdir(exist_ok=True)
    plant(tree, {".git/hooks/post-index-change": f"#!/bin/sh\n{trap}\n"})
    (tree / ".git/hooks/post-index-change").chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "core.sshCommand", "pager.ls-files"):
        git(tree, "config", key, trap)
    corpus = collect(["t"], env=git.env | {"GIT_DIR": str(here / "elsewhere"), "GIT_TRACE": f"{here}/sprung"})
    assert (names(corpus), corpus.notes, (here / "sprung").exists()) == (["a.txt"], (), False)


def test_without_git_its_files_are_read(here: Path, git: Git) -> None:
    """No git on PATH, or one that refuses: the matcher does it, `.git/info/exclude` included, and a note says so."""
    tree = plant(git.init(here / "t"), {"a.txt": "x", "a.log": "x", "b.tmp": "x", ".gitignore": "*.log\n"})
    plant(tree, {".git/info/exclude": "*.tmp\n"})
    corpus = collect(["t"], env=git.env | {"PATH": str(here)})
    assert (names(corpus), counts(corpus)) == (["a.txt"], {"ignored": 2, "hidden": 1})
    assert corpus.notes == ("git did not list t (git is not installed): its ignore files were read directly",)
    git(tree, "config", "core.repositoryformatversion", "99")
    refused = collect(["t"], env=git.env)
    assert names(refused) == ["a.txt"]
    assert "git did not list t (fatal: " in refused.notes[0]


# -- our own ignore files, and options -----------------------------------------------------------------------------


@pytest.mark.parametrize("with_git", [True, False])
def test_own_ignore_files_add_and_take_back(here: Path, git: Git, with_git: bool) -> None:
    """`.rlmignore` beats `.ignore` beats git: what git ignores can be brought back, and the other way round."""
    plant(
        here / "t",
        {
            ".gitignore": "*.log\nout/\n",
            ".ignore": "*.md\n!out/\n",
            ".rlmignore": "!README.md\nout/*.bin\n",
            "a.log": "x",
            "README.md": "x",
            "b.md": "x",
            "out/a.txt": "x",
            "out/a.bin": "x",
        },
    )
    if with_git:
        git.init(here / "t")
    corpus = collect(["t"], env=git.env)
    assert names(corpus) == ["README.md", "out/a.txt"]
    ignored = [(s.path, s.rule) for s in explain(corpus.skips, git.env) if s.reason == "ignored"]
    assert ignored == [
        ("t/a.log", "t/.gitignore:1: *.log"),
        ("t/b.md", "t/.ignore:1: *.md"),
        ("t/out/a.bin", "t/.rlmignore:2: out/*.bin"),
    ]


def test_globs_choose_and_exclude(here: Path, git: Git) -> None:
    """-g takes only what matches, '!' leaves out, the last match wins; a wanted file may be hidden or ignored."""
    plant(here / "t", LOGS)
    git.init(here / "t")

    def with_globs(*globs: str) -> list[str]:
        return names(collect(["t"], SourceOptions(globs=globs), env=git.env))

    assert with_globs("*.txt") == ["a.txt", "sub/c.txt", "sub/d.txt"]
    assert with_globs("!sub") == ["a.txt", "keep.log"]
    assert with_globs("*.txt", "!sub/d.*") == ["a.txt", "sub/c.txt"]
    assert with_globs("*.log", ".env") == [".env", "b.log", "keep.log", "sub/b.log"]
    error = failed("t", options=SourceOptions(globs=("*.nope",)), env=git.env)
    assert "ignored: no -g glob matches" in error.message and error.hint == "change or drop -g"


def test_configured_patterns_hidden_and_no_ignore(here: Path, git: Git) -> None:
    """`sources.ignore` adds patterns (off with --no-ignore); --hidden and --no-ignore each lift their own filter."""
    plant(here / "t", {"a.txt": "x", "b.csv": "x", "c.log": "x", ".h": "x", ".ignore": "*.log\n"})
    configured = SourceOptions(ignore=("*.csv",))
    assert reasons(collect(["t"], configured, env=git.env))[2:] == [
        ("t/b.csv", "ignored", "sources.ignore: *.csv", 1),
        ("t/c.log", "ignored", "t/.ignore:1: *.log", 1),
    ]
    lifted = SourceOptions(ignore=("*.csv",), no_ignore=True)
    assert names(collect(["t"], lifted, env=git.env)) == ["a.txt", "b.csv", "c.log"]
    assert names(collect(["t"], SourceOptions(hidden=True), env=git.env)) == [".h", ".ignore", "a.txt", "b.csv"]


@pytest.mark.parametrize("with_git", [True, False])
@pytest.mark.parametrize("source", ["t/logs", "t/logs/deep"])
def test_a_named_folder_that_is_ignored_is_read(here: Path, git: Git, with_git: bool, source: str) -> None:
    """C26: log folders usually are ignored. Who names one wants it, or a folder in it, and is told."""
    plant(here / "t", LOGS)
    if with_git:
        git.init(here / "t")
    corpus = collect([source], env=git.env)
    assert "two.txt" in names(corpus)[0]
    rule = "t/.gitignore:2: logs/"
    assert corpus.notes == (f"{source} is itself ignored ({rule}): read with ignore rules off",)


def test_malformed_patterns_are_noted_and_skipped(here: Path) -> None:
    """A pattern no matcher takes costs only itself; a strange ignore file costs nothing and blocks nothing."""
    rules = "!\nfoo\\\n[z-a].txt\n[[:nope:]]\n*.log\n"
    plant(here / "t", {".ignore": rules, "a.log": "x", "a.txt": "x", "b/x.txt": "x", "c/x.txt": "x"})
    os.mkfifo(here / "t/b/.ignore")
    (here / "t/c/.gitignore").mkdir()
    corpus = collect(["t"])
    assert names(corpus) == ["a.txt", "b/x.txt", "c/x.txt"]
    assert corpus.notes == tuple(
        f"malformed pattern skipped: t/.ignore:{number}: {text}"
        for number, text in ((1, "!"), (2, "foo\\"), (3, "[z-a].txt"), (4, "[[:nope:]]"))
    )


# -- kinds of files -------------------------------------------------------------------------------------------------


def test_text_in_any_encoding_is_text(here: Path) -> None:
    """Binary is a NUL without a UTF-16 or UTF-32 mark, within 64 KiB; Latin-1 and one long line are text."""
    plant(
        here / "t",
        {
            "latin1": "é".encode("latin-1"),
            "utf16": "é".encode("utf-16"),
            "utf32": "é".encode("utf-32"),
            "utf8bom": b"\xef\xbb\xbfe",
            "long": b"x" * 1_000_000,
            "late-nul": b"x" * 65536 + b"\0",
            "early-nul": b"x" * 65535 + b"\0",
            "bom-and-nul": b"\xef\xbb\xbf\0",
        },
    )
    corpus = collect(["t"], SourceOptions(encoding="latin1"))
    assert names(corpus) == ["late-nul", "latin1", "long", "utf16", "utf32", "utf8bom"]
    assert {document.encoding for document in corpus.documents} == {"iso8859-1"}
    assert counts(corpus) == {"binary": 2}


def test_named_files_are_always_taken(here: Path, git: Git) -> None:
    """C24: ignored, hidden and binary files that are named, literally or by a glob of ours, are read."""
    plant(git.init(here), LOGS)
    corpus = collect(["b.log", ".env", "image.png", "logs/*.log"], env=git.env)
    assert (names(corpus), counts(corpus)) == ([".env", "b.log", "image.png", "one.log"], {})


def test_odd_names(here: Path) -> None:
    """Brackets, newlines, control bytes, bytes that are no UTF-8: names like any other; literal before glob."""
    odd = [b"[x].log", b"two\nlines", b"tab\there", b"\x1b[31mred", b"x.log", b"\xc3\xa9"]
    if sys.platform == "linux":
        # Other file systems take UTF-8 only.
        odd.append(b"caf\xe9")
    (here / "t").mkdir()
    for name in odd:
        plant(here / "t", {os.fsdecode(name): "x"})
    corpus = collect(["t"])
    assert [os.fsencode(document.name) for document in corpus.documents] == sorted(odd)
    assert [document.path.read_bytes() for document in corpus.documents] == [b"x"] * len(odd)
    assert names(collect(["t/[x].log"])) == ["[x].log"]
    (here / "t/[x].log").unlink()
    assert names(collect(["t/[x].log"])) == ["x.log"]


def test_a_newline_in_a_name_is_no_escape_from_rules(here: Path, git: Git) -> None:
    """Rules match names with newlines as git does."""
    files = {"a\nb.log": "x", "a.log\n": "x", "d\ne/c.log": "x", "\nz.log": "x", "ok": "x", ".gitignore": "*.log\n"}
    plant(here / "t", files)
    ours = names(collect(["t"]))
    git.init(here / "t")
    assert ours == names(collect(["t"], env=git.env)) == ["a.log\n", "ok"]


def test_pipes_sockets_and_links_are_left_alone(here: Path) -> None:
    """A FIFO does not hang the walk; links are not followed; all are counted and explained."""
    plant(here / "t", {"a": "x", "d/b": "x"})
    os.mkfifo(here / "t/fifo")
    for link, target in (("loop", "."), ("dangling", "nowhere"), ("to-a", "a")):
        (here / "t" / link).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("t/sock")
        corpus = collect(["t"])
    link = "a symbolic link; -L follows it"
    assert names(corpus) == ["a", "d/b"]
    assert [(skip.path, skip.reason, skip.rule) for skip in corpus.skips] == [
        ("t/dangling", "special", link),
        ("t/fifo", "special", "a named pipe"),
        ("t/loop", "special", link),
        ("t/sock", "special", "a socket"),
        ("t/to-a", "special", link),
    ]


def test_following_links_ends(here: Path, git: Git) -> None:
    """-L goes where links lead, outside too, each folder once: loops end, and files carry their real path."""
    plant(here, {"t/a": "x", "t/d/b": "x", "out/c": "x", "out/.gitignore": "*.o\n", "out/c.o": "x", "file": "x"})
    for link, target in (
        ("t/self", "."),
        ("t/d/up", ".."),
        ("t/out", "../out"),
        ("t/again", "../out"),
        ("t/f", "../file"),
        ("t/no", "nowhere"),
        ("out/back", "../t"),
    ):
        (here / link).symlink_to(target)
    git.init(here / "t")
    corpus = collect(["t"], SourceOptions(follow=True), env=git.env)
    assert {document.name: str(document.path.relative_to(here)) for document in corpus.documents} == {
        "a": "t/a",
        "again/c": "out/c",
        "d/b": "t/d/b",
        "f": "file",
    }
    assert counts(corpus) == {"special": 4, "unreadable": 1, "hidden": 1, "ignored": 1}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root reads everything: for a moment, be nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_unreadable_paths_are_counted() -> None:
    """A file and a folder without permission are skipped in a walk, and refused by name."""
    # Not tmp_path: its parents are closed to others.
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        tree = plant(Path(folder), {"a": "x", "no": "x", "shut/b": "x"})
        (tree / "no").chmod(0)
        (tree / "shut").chmod(0)
        with unprivileged():
            corpus = collect([folder])
            codes = [failed(f"{folder}/{name}").code for name in ("no", "shut", "shut/b")]
        (tree / "shut").chmod(0o700)
    assert (names(corpus), counts(corpus), codes) == (["a"], {"unreadable": 2}, ["unreadable"] * 3)


def test_named_but_not_a_file(here: Path) -> None:
    """A FIFO, a device, a dangling link and a file of the kernel are refused at once, each with its reason."""
    os.mkfifo(here / "fifo")
    (here / "dangling").symlink_to("nowhere")
    assert [failed(path).code for path in ("fifo", os.devnull, "dangling")] == [
        "special_file",
        "special_file",
        "unreadable",
    ]
    (here / "self").symlink_to("self")
    assert (failed("self").message, failed("self").hint) == (
        "self is a symbolic link that leads to itself, not a file",
        "",
    )
    assert failed("fifo").hint == "pipe it: cat fifo | rlm ask - ..."
    if Path("/proc/version").exists():
        assert "a file of the kernel" in failed("/proc/version").message


# -- names ----------------------------------------------------------------------------------------------------------


def test_names_are_relative_to_the_source(here: Path) -> None:
    """One source: paths below it. Several: the source's own name in front. Clashes: more of the path."""
    tree = {"logs/x/y.log": "1", "app.log": "1", "a/z.log": "1", "b/z.log": "1", "c/logs/x/y.log": "1"}
    plant(here, tree)
    spooled = plant(here, {"spool/stdin": "file", "in": "in"}) / "in"
    stdin = Document("stdin", str(spooled), 2, origin="stdin", sha256="00")

    def read(*sources: str) -> list[str]:
        return names(collect(sources, received=[Received("-", stdin, ("stdin",))] if "-" in sources else []))

    assert [
        read("logs/"),
        read("app.log"),
        read("a/z.log"),
        read("logs/", "app.log"),
        read("a/z.log", "b/z.log"),
        read("a", "b"),
        read("logs", "c/logs", "app.log"),
        read("./logs/../logs", "logs", "logs/x/y.log"),
        read("-"),
        read("-", "logs"),
        read("-", "spool/stdin"),
        read("*/z.log"),
        read("c/**/*.log"),
    ] == [
        ["x/y.log"],
        ["app.log"],
        ["z.log"],
        ["app.log", "logs/x/y.log"],
        ["a/z.log", "b/z.log"],
        ["a/z.log", "b/z.log"],
        ["app.log", "c/logs/x/y.log", f"{here.name}/logs/x/y.log"],
        ["logs/x/y.log"],
        ["stdin"],
        ["logs/x/y.log", "stdin"],
        ["spool/stdin", "stdin"],
        ["a/z.log", "b/z.log"],
        ["y.log"],
    ]


def test_what_two_sources_share_is_read_once(here: Path) -> None:
    """A file that the walk left out but that is also named is read and not counted as skipped."""
    plant(here / "t", {"a": "x", ".env": "x", "bin": b"\0"})
    corpus = collect(["t", "t/.env", "t"])
    assert (names(corpus), counts(corpus)) == ([".env", "t/a"], {"binary": 1})


def test_what_is_walked_and_named_is_read_once(here: Path) -> None:
    """One document with one name, and its bytes counted once."""
    plant(here / "t", {"a": "x", "d/b": "yy"})
    for sources in (["t", "t/a", "t/d"], ["t/d", "t/a", "t"]):
        corpus = collect(sources)
        assert sorted(document.path.name for document in corpus.documents) == ["a", "b"]
        assert (corpus.facts.files, corpus.facts.bytes) == (2, 3)


# -- facts, limits, errors ------------------------------------------------------------------------------------------


def test_facts_and_manifest(here: Path) -> None:
    """Files, bytes, estimated tokens; the manifest changes with a name, a size or a time, and with nothing else."""
    plant(here / "t", {"a": "x" * 4000, "b": "x" * 10})
    os.utime(here / "t/a", ns=(0, 1))
    first = collect(["t"]).facts
    assert (first.files, first.bytes, first.tokens_est, len(first.manifest_sha256)) == (2, 4010, 1002, 64)
    assert collect(["./t/"]).facts == first
    os.utime(here / "t/a", ns=(0, 2))
    assert collect(["t"]).facts.manifest_sha256 != first.manifest_sha256
    os.utime(here / "t/a", ns=(0, 1))
    assert collect(["t"]).facts == first
    plant(here, {"in": "x" * 4000})
    stdin = Document("stdin", str(here / "in"), 4000, origin="stdin", sha256="aa")
    other = Document("stdin", str(here / "in"), 4000, origin="stdin", sha256="bb")
    received = [[Received("-", document, ("stdin",))] for document in (stdin, other, stdin)]
    piped = [collect(["-"], received=each).facts.manifest_sha256 for each in received]
    assert (piped[0] == piped[2], piped[0] != piped[1]) == (True, True)
    line = "2 files and stdin · 8.0 kB · ~2.0 k tokens"
    assert summary_line(collect(["-", "t"], received=[Received("-", stdin, ("stdin",))]), ["-", "t"]) == line


def test_over_the_limit_names_the_largest(here: Path) -> None:
    """C31: an error that says how much, how much is allowed, and which files are the largest; never a cut."""
    plant(here / "t", {"small": "x", "big": "x" * 3000, "bigger": "x" * 4000, "mid": "x" * 100})
    error = failed("t", options=SourceOptions(max_input=7100))
    assert error.code == "over_max_input"
    assert "hold 7.1 kB, more than the 7.1 kB" in error.message
    assert error.message.endswith("the largest: bigger (4.0 kB), big (3.0 kB), mid (100 B)")
    assert collect(["t"], SourceOptions(max_input=7101)).facts.bytes == 7101
    assert collect(["t"], SourceOptions(max_input=None)).facts.bytes == 7101


def test_nothing_left_says_what_took_it(here: Path, git: Git) -> None:
    """C26: the rule and file:line that removed most, and the option that brings it back."""
    plant(git.init(here), {".gitignore": "*.log\n*.tmp\n", "t/1.log": "x", "t/2.log": "x", "t/3.tmp": "x", "t/.h": "x"})
    plant(here, {"h/.a": "x", "b/a": b"\0", "e/a": "", "e/b": ""})
    (here / "none").mkdir()
    errors = [failed(source, env=git.env) for source in ("t", "h", "b", "e", "none")]
    assert [(error.code, error.message) for error in errors] == [
        ("all_skipped", "nothing left to read in t: 4 skipped, 2 of them ignored by .gitignore:1: *.log"),
        ("all_skipped", "nothing left to read in h: 1 skipped, 1 of them hidden"),
        ("all_skipped", "nothing left to read in b: 1 skipped, 1 of them binary by a NUL byte in its first 64 KiB"),
        ("empty", "nothing to read: all 2 files are empty"),
        ("no_files", "nothing to read: no files in none"),
    ]
    assert [option in error.hint for option, error in zip(("-u;", "--hidden", "-uuu"), errors, strict=False)] == [
        True
    ] * 3


def test_missing_sources(here: Path) -> None:
    """The same words as on the command line of `ask`: near names, globs that match nothing, URLs."""
    plant(here, {"app.log": "x"})
    assert [failed(word).code for word in ("ap.log", "*.gz", "https://x.org")] == ["not_found", "not_found", "no_files"]


def test_many_files_and_progress(here: Path, git: Git) -> None:
    """3,000 files: all there, in order, with progress on the way; a progress callback that raises stops the walk."""
    tree = plant(here / "t", {f"d{number % 50}/f{number}.txt": str(number) for number in range(3000)})
    git.init(tree)
    seen: list[tuple[int, int]] = []
    corpus = collect(["t"], env=git.env, on_progress=lambda files, size: seen.append((files, size)))
    found = names(corpus)
    assert (len(found), found == sorted(set(found)), seen == sorted(seen), len(seen)) == (3000, True, True, 11)

    def stop(files: int, size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(["t"], env=git.env, on_progress=stop)


def test_skips_are_plain_values(here: Path) -> None:
    """A folder left out whole is one entry that stands for its files."""
    plant(here / "t", {"a": "x", ".h/1": "x", ".h/2/3": "x", ".h/.git/x": "x"})
    assert collect(["t"]).skips == (Skip("t/.h/", "hidden", "", 2, str(here.resolve() / "t/.h")),)
