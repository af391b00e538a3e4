"""Ask git what belongs to a work tree: its own answer is the only one that is always right (CLI.md C25).

The repository is data from a stranger: whatever its config could make git run is switched off, and of the caller's
environment only what names the user's own configuration is passed on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import Skip
from .rules import shown

TIMEOUT_S = 300

# fsmonitor and hooks are commands; a sparse index may have to be filled from a remote, whose transport is a command.
SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.untrackedCache=false")
SAFE_ENV = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
    "LC_ALL": "C",
}
# Where the user's own configuration (global excludes, safe.directory) is.
PASSED_ON = ("PATH", "HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")


class GitError(Exception):
    """git is missing or will not answer for this folder; its message is a clause for a note."""


@dataclass(frozen=True)
class Listing:
    """What git would not ignore below `root`: `files` (tracked or untracked; a nested repository as its folder) and
    every folder that holds one. Names are relative to `root`."""

    root: str
    files: frozenset[str]
    folders: frozenset[str]

    def holds(self, path: str, *, folder: bool) -> bool:
        """Whether an absolute path below `root` is listed, or as a folder holds something that is."""
        name = path[len(self.root.rstrip("/")) + 1 :]
        if not folder:
            return name in self.files
        return name in self.folders or name in self.files or name + "/" in self.files


def work_tree(directory: str) -> str:
    """The nearest folder at or above an absolute one that has a `.git`, or ""."""
    here = Path(directory)
    for folder in (here, *here.parents):
        if os.path.lexists(folder / ".git"):
            return str(folder)
    return ""


def listing(directory: str, top: str, env: Mapping[str, str]) -> Listing:
    """List a folder of the work tree at `top`. Raises `GitError`."""
    out = _git(directory, top, env, ("ls-files", "-z", "--cached", "--others", "--exclude-standard"))
    files = frozenset(_decoded(name) for name in out.split(b"\0") if name)
    folders: set[str] = set()
    for name in files:
        folder = name.rstrip("/").rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return Listing(directory, files, frozenset(folders))


def rule_for(path: str, top: str, env: Mapping[str, str]) -> str:
    """The rule by which git ignores an absolute path in the work tree at `top`, or "". Raises `GitError`."""
    return _rules([path], top, env).get(path, "")


def explain(skips: Sequence[Skip], env: Mapping[str, str]) -> tuple[Skip, ...]:
    """Fill in the rules that git knows. One git process per work tree; where it has no answer the rule stays ""."""
    by_tree: dict[str, list[str]] = defaultdict(list)
    for skip in skips:
        if skip.tree and not skip.rule:
            by_tree[skip.tree].append(skip.where)
    rules: dict[str, str] = {}
    for top, paths in by_tree.items():
        try:
            rules |= _rules(paths, top, env)
            inside = {first: path for path in paths if path not in rules and (first := _first_file(path))}
            found = _rules(inside, top, env) if inside else {}
            rules |= {inside[first]: rule for first, rule in found.items()}
        except GitError:
            continue
    return tuple(replace(skip, rule=rules.get(skip.where, skip.rule)) for skip in skips)


def _first_file(folder: str) -> str:
    """A file in it, "" where there is none: git knows no folder whose files are all ignored, and only their rule."""
    return next((f"{place}/{min(files)}" for place, _, files in os.walk(folder) if files), "")


def _rules(paths: Iterable[str], top: str, env: Mapping[str, str]) -> dict[str, str]:
    prefix = top.rstrip("/") + "/"
    # "./" in front: a name that begins with a colon would be pathspec magic.
    data = b"".join(b"./" + path.removeprefix(prefix).encode("utf-8", "surrogateescape") + b"\0" for path in paths)
    out = _git(top, top, env, ("check-ignore", "-v", "-z", "--no-index", "--stdin"), data)
    fields = [_decoded(field) for field in out.split(b"\0")[:-1]]
    return {
        prefix
        + name.removeprefix(
            "./"
        ): f"{shown(prefix + source) if not source.startswith('/') else source}:{line}: {pattern}"
        for source, line, pattern, name in zip(*[iter(fields)] * 4, strict=True)
        if not pattern.startswith("!")
    }


def _git(directory: str, top: str, env: Mapping[str, str], words: Sequence[str], data: bytes = b"") -> bytes:
    program = shutil.which("git", path=env.get("PATH"))
    if program is None:
        raise GitError("git is not installed")
    scrubbed = {"HOME": str(Path.home())} | {name: env[name] for name in PASSED_ON if name in env} | SAFE_ENV
    # A broken repository must not make git answer for the one around it.
    scrubbed["GIT_CEILING_DIRECTORIES"] = str(Path(top).parent)
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command; the repository's names go through -C and stdin
            [program, "--no-pager", *SAFE, "-C", directory, *words],
            input=data,
            capture_output=True,
            env=scrubbed,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(f"git did not answer ({error})") from error
    # check-ignore says 1 for "none of them".
    if done.returncode not in ((0, 1) if words[0] == "check-ignore" else (0,)):
        first = _decoded(done.stderr).strip().partition("\n")[0]
        raise GitError(first or f"git failed with status {done.returncode}")
    return done.stdout


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
