"""Commands as an ordinary user: CI is root, for whom `--sandbox process` is refused. Elsewhere they stay as is."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

NOBODY = 65534
KEEP = "/mnt"
"""A folder that no Linux lacks, and that nothing of ours is below; what is put over it, only the command sees."""


def unprivileged(*visible: Path) -> tuple[str, ...]:
    """What to write before a command. For it, and for nobody else, what `visible` and this Python need can be reached
    also where the way there is closed (/root): in a mount namespace of its own, the closed folders are replaced by open
    ones that hold nothing else."""
    if os.geteuid() != 0:
        return ()
    needed = {Path(place).resolve() for place in (*visible, Path(sys.prefix), Path(sys.base_prefix))}
    lines = ["set -e", f"mount -t tmpfs tmpfs {KEEP}"]
    for closed, places in hidden(needed).items():
        kept = {place: f"{KEEP}/{number}" for number, place in enumerate(places)}
        for place, keep in kept.items():
            lines += [f"mkdir {keep}", f"mount --bind {shlex.quote(str(place))} {keep}"]
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(closed))}")
        for place, keep in kept.items():
            lines += [
                f"mkdir -p {shlex.quote(str(place))}",
                f"mount --move {keep} {shlex.quote(str(place))}",
                f"rmdir {keep}",
            ]
    lines += [f"umount {KEEP}", "unset PWD OLDPWD"]
    lines.append(f'exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups -- "$@"')
    return ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", "\n".join(lines), "sh")


def hidden(places: set[Path]) -> dict[Path, list[Path]]:
    """Outermost folder that others may not enter -> those of `places` that are behind it."""
    found: dict[Path, list[Path]] = {}
    for place in sorted(places):
        closed = [folder for folder in [*reversed(place.parents), place] if not folder.stat().st_mode & stat.S_IXOTH]
        if closed:
            found.setdefault(closed[0], []).append(place)
    return found
