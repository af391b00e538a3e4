"""`python -m rlm_cli.bench`: see the package's docstring and docs/BENCHMARKS.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import peer, table
from .figures import Figure, Value
from .lab import GB, Contender, FailedError, Lab, ours, rlms
from .plan import FULL, QUICK, ROOM, Plan
from .rows import ROWS, Rows
from .server import ModelServer


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    about = "Measure this harness against the rlms package, with a loopback model. Medians."
    parser = argparse.ArgumentParser(prog="python -m rlm_cli.bench", description=about)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, nothing above 100 MB, under two minutes")
    parser.add_argument("--rows", default=",".join(ROWS), help="which rows, comma separated [default %(default)s]")
    parser.add_argument("--json", action="store_true", help="JSON with every sample instead of the table")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--peer-venv", type=Path, default=Path(".venv-bench"), help="where rlms is installed")
    options = parser.parse_args(argv)
    options.rows = options.rows.split(",")
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))} (there are {', '.join(ROWS)})")
    return options


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def contenders(
    stack: contextlib.ExitStack, options: argparse.Namespace, most_memory: int
) -> tuple[list[Contender], dict[str, str]]:
    """Who can run here, and why the others cannot (name -> reason)."""
    ready, missing = [ours()], dict[str, str]()
    if options.no_peer:
        return ready, missing
    try:
        say(f"preparing rlms {peer.VERSION} in {options.peer_venv}")
        place = peer.prepare(options.peer_venv, sys.executable)
        ready.append(rlms(place, "local", most_memory))
    except peer.NotHereError as error:
        return ready, {"rlms local": str(error), "rlms docker": str(error)}
    try:
        ready.append(rlms(place, "docker", most_memory, stack.enter_context(peer.docker_image(place))))
    except peer.NotHereError as error:
        missing["rlms docker"] = str(error)
    return ready, missing


def sized(quick: bool, free: int) -> tuple[Plan, dict[str, str]]:
    """The plan for so many bytes of free disk, and what is not in it (name -> reason)."""
    if quick:
        return QUICK, {"what is above 100 MB": "left out by --quick"}
    if free < ROOM:
        why = f"needs {ROOM / GB:.0f} GB of free disk, here are {free / GB:.0f} (TMPDIR says where)"
        return FULL.without_largest(), {"5 GB": why}
    return FULL, {}


def allowance() -> int:
    """Bytes of memory that a peer may take: half of what is free, so that the machine lives."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")) // 2
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def measure(rows: Rows, names: Sequence[str]) -> list[Figure]:
    """The figures of the rows named; one that cannot be taken at all becomes a line that says why."""
    figures: list[Figure] = []
    for name in names:
        try:
            figures += ROWS[name](rows)
        except FailedError as error:
            figures.append(Figure(name, "", {"ours": Value(reason=str(error))}))
    return figures


def machine() -> str:
    """Where the figures come from; a load well above the number of CPUs makes them worthless."""
    system, python = f"{platform.system()} {platform.machine()}", platform.python_version()
    return f"{system}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python {python}"


def main(argv: Sequence[str]) -> int:
    """Exit code 1 when a figure of ours could not be taken; a missed target is in the table, not in the code."""
    options = arguments(argv)
    most_memory = allowance()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlm-bench-")))
        plan, left_out = sized(options.quick, shutil.disk_usage(folder).free)
        ready, missing = contenders(stack, options, most_memory)
        server = stack.enter_context(ModelServer())
        lab = Lab(server, folder, tuple(ready), time.monotonic() + plan.seconds, say)
        figures = measure(Rows(lab, plan, most_memory), options.rows)
    missing |= left_out
    place = machine()
    if options.json:
        print(json.dumps({"machine": place, "missing": missing, "figures": table.as_json(figures)}, indent=1))
    else:
        print(f"medians; {place}")
        print("\n".join([*table.lines(figures), *(f"n/a, {name}: {why}" for name, why in missing.items())]))
    return int(any(not value.samples for figure in figures for name, value in figure.values.items() if name == "ours"))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # inputs of gigabytes and an image are to be removed
    sys.exit(main(sys.argv[1:]))
