"""What a command stores and must not outlive it (pipes, URLs, what is unpacked): one private folder in the cache.

It is removed on every way out; after a SIGKILL by a guard process. For a power cut it says who owns it, so that the
next command can tell that the owner is dead, and remove it then.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from .. import config
from ..errors import ConfigError, RlmError
from ..private import is_foreign, make_private, open_new
from ..sandbox.guard import Guard
from ..sandbox.owner import Owner

OWNER = "owner"
SCRATCH, TRANSFERS = "scratch", "transfers"
FALLBACK = "rlm-scratch-"
KEEP_TRANSFERS_S = 7 * 86400.0
"""A transfer that broke can be continued so long."""
UNOWNED_S = 86400.0
"""A folder that does not say whose it is was being made when its command was killed."""


@dataclass(frozen=True)
class Scratch:
    """`folder`: all of it goes when the command ends. `transfers`: what is kept of transfers that broke, on the same
    disk."""

    folder: Path
    transfers: Path


@contextlib.contextmanager
def scratch(places: config.Places, *, run: Path | None = None) -> Iterator[Scratch]:
    """A new private folder. Removes first what dead commands left. `run`: the folder of a run that is to begin; if it
    never does because we are killed, that goes with ours. Raises `ConfigError` where the cache is somebody else's."""
    refuse_foreign(places.cache)
    sweep(places)
    parent = places.cache / SCRATCH
    try:
        make_private(parent)
        folder = parent.resolve() / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        made = Scratch(folder, places.cache / TRANSFERS)
    except OSError:
        # No cache can be written here: any place will do, and broken transfers are not kept.
        folder = Path(tempfile.mkdtemp(prefix=FALLBACK)).resolve()
        made = Scratch(folder, folder / TRANSFERS)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no /bin/sh, no process to spare: the owner's name must do
            stack.callback(Guard.of_command(folder, run).release)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            with os.fdopen(open_new(folder / OWNER), "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"{Owner.here()}\n{run or ''}")
        except OSError as error:
            raise full(folder, error) from error
        yield made


def refuse_foreign(folder: Path) -> None:
    """Raises `ConfigError` unless the folder is ours, or not there yet."""
    if is_foreign(folder):
        raise ConfigError(
            f"{folder} belongs to another user, who could read and change what rlm keeps there",
            hint=f"sudo chown -R {os.geteuid()} {quote(str(folder))}, or set RLM_HOME to a folder of your own",
            code="foreign_folder",
        )


def full(folder: Path, error: OSError) -> RlmError:
    """Nothing can be written to our own folder."""
    return RlmError(
        f"nothing can be kept in {folder.parent}: {error.strerror or error}",
        hint="free some space there, or use another disk: RLM_HOME=/path rlm ...",
        code="disk",
    )


def sweep(places: config.Places) -> int:
    """Remove what dead commands left, and transfers nobody continued; how many folders and files."""
    removed = 0
    for folder in [*_entries(places.cache / SCRATCH), *_entries(Path(tempfile.gettempdir()), FALLBACK)]:
        if not _is_ours(folder) or not _is_abandoned(folder):
            continue
        run = _run_of(folder, places)
        for path in (run, folder):
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
        removed += 1
    for file in _entries(places.cache / TRANSFERS):
        with contextlib.suppress(OSError):
            if time.time() - file.lstat().st_mtime > KEEP_TRANSFERS_S:
                file.unlink()
                removed += 1
    return removed


def _entries(folder: Path, prefix: str = "") -> list[Path]:
    try:
        with os.scandir(folder) as listing:
            return [Path(entry.path) for entry in listing if entry.name.startswith(prefix)]
    except OSError:
        return []


def _is_ours(folder: Path) -> bool:
    """A folder of this user's, and no link to one."""
    try:
        info = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()


def _is_abandoned(folder: Path) -> bool:
    try:
        owner = Owner.parse(_lines(folder)[0])
        return owner.is_dead() if owner else time.time() - folder.lstat().st_mtime > UNOWNED_S
    except OSError:
        return False


def _run_of(folder: Path, places: config.Places) -> Path | None:
    """The folder of the run that never began."""
    try:
        run = Path(_lines(folder)[1])
    except OSError:
        return None
    never_began = run.parent == places.runs and _is_ours(run) and not (run / "run.json").exists()
    return run if never_began else None


def _lines(folder: Path) -> list[str]:
    """Owner and run, each "" when it does not say."""
    try:
        text = (folder / OWNER).read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        text = ""
    return [*text.split("\n"), "", ""]
