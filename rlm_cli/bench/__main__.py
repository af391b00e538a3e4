"""`python -m rlm_cli.bench`: see the package's docstring and docs/BENCHMARKS.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import peer, table
from .figures import FULL, QUICK, ROWS, Figure, Rows, Value
from .lab import Contender, FailedError, Lab, ours, rlms
from .server import ModelServer


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    about = "Measure this harness against the rlms package, with a loopback model. Medians."
    parser = argparse.ArgumentParser(prog="python -m rlm_cli.bench", description=about)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and sizes, under 90 seconds")
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


def contenders(stack: contextlib.ExitStack, options: argparse.Namespace) -> tuple[list[Contender], dict[str, str]]:
    """Who can run here, and why the others cannot (name -> reason)."""
    ready, missing = [ours()], dict[str, str]()
    if options.no_peer:
        return ready, missing
    try:
        say(f"preparing rlms {peer.VERSION} in {options.peer_venv}")
        place = peer.prepare(options.peer_venv, sys.executable)
        ready.append(rlms(place, "local"))
    except peer.NotHereError as error:
        return ready, {"rlms local": str(error), "rlms docker": str(error)}
    try:
        ready.append(rlms(place, "docker", stack.enter_context(peer.docker_image(place))))
    except peer.NotHereError as error:
        missing["rlms docker"] = str(error)
    return ready, missing


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
    plan = QUICK if options.quick else FULL
    deadline = time.monotonic() + (85 if options.quick else 570)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlm-bench-")))
        ready, missing = contenders(stack, options)
        server = stack.enter_context(ModelServer())
        lab = Lab(server, folder, tuple(ready), deadline, say)
        figures = measure(Rows(lab, plan), options.rows)
    place = machine()
    if options.json:
        print(json.dumps({"machine": place, "missing": missing, "figures": table.as_json(figures)}, indent=1))
    else:
        print(f"medians; {place}")
        print("\n".join([*table.lines(figures), *(f"n/a, {name}: {why}" for name, why in missing.items())]))
    return int(any(not value.samples for figure in figures for name, value in figure.values.items() if name == "ours"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
