"""`rlm sandbox`: the container engine, the image, and what was left over."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .. import config, units
from ..events import to_json
from . import options, show
from .wiring import make_engine, sandbox_options

if TYPE_CHECKING:
    from ..sandbox.container import ContainerFacts, Engine, VolumeFacts
    from ..sandbox.image import ImageProgress, OnImageProgress
    from .doctor import Check

app = options.command_group(
    """Status, image and leftovers of the sandbox.

    \b
      rlm sandbox status    engine, image, containers
      rlm sandbox pull      get the image now, with progress
      rlm sandbox build     make an equivalent where no registry can be reached
    """
)

ImageName = Annotated[str, typer.Option("--image", metavar="REF", help="instead of the configured or pinned one")]


@app.command(cls=options.Command)
def status(ctx: typer.Context, json: options.Json = False) -> None:
    """Say what engine runs, which image is there, which containers are left, what confines the code in one of them, and
    whether it could be done without. Exit 5 when nothing can run.

    For that it runs one line of Python in each, as rlm doctor does.
    """
    from ..sandbox import image as images
    from .doctor import filters_check, process_check

    settings = options.settings(ctx)
    with engine(settings) as connected:
        facts = connected.probe()
        found = images.status(connected, sandbox_options(settings))
        containers = connected.containers()
        volumes = connected.volumes()
        filters = filters_check(settings, connected) if found.found else None
    process = process_check(settings, chosen=False)
    if json:
        show.as_json(
            {
                "schema_version": 1,
                "engine": to_json(facts),
                "image": to_json(found.found),
                "candidates": list(found.candidates),
                "containers": [to_json(container) for container in containers],
                "volumes": [to_json(volume) for volume in volumes],
                "filters": _said(filters),
                "process": _said(process),
            }
        )
    else:
        show.line(f"engine      {facts.name} {facts.version} at {facts.host}, {facts.os}")
        memory = units.human_bytes(facts.memory)
        show.line(f"            {facts.cpus} processors, {memory} of memory, cgroup v{facts.cgroup}")
        named = f"{found.found.name}, {units.human_bytes(found.found.size)}" if found.found else "none"
        show.line(f"image       {named}")
        show.line(f"containers  {_in_use(containers)}")
        if volumes:
            show.line(f"volumes     {_in_use(volumes)}")
        for check in (filters, process):
            if check is not None:
                show.line(f"{check.name:11} {check.text}")
    if found.found is None:
        raise images.missing(sandbox_options(settings), "the engine does not have it")


def _said(check: Check | None) -> dict[str, str] | None:
    """None: it could not be tried without an image."""
    return None if check is None else {"status": check.status, "text": check.text}


def _in_use(found: Sequence[ContainerFacts | VolumeFacts]) -> str:
    orphans = sum(each.orphan for each in found)
    if not found:
        return "none"
    return f"{len(found)}" + (f", {orphans} left over: rlm sandbox prune" if orphans else ", all in use")


@app.command(cls=options.Command)
def pull(ctx: typer.Context, image: ImageName = "") -> None:
    """Get the image, so that the first run need not."""
    from ..sandbox import image as images

    settings = options.settings(ctx)
    wanted = image or sandbox_options(settings).image
    with engine(settings) as connected, _progress(settings) as on_progress:
        got = images.pull(connected, wanted, on_progress=on_progress)
    show.line(f"{got.name}  {units.human_bytes(got.size)}")


@app.command(cls=options.Command)
def build(
    ctx: typer.Context,
    mirror: Annotated[str, typer.Option("--mirror", metavar="URL", help="Debian mirror to use")] = "",
) -> None:
    """Make an image like the default one from Debian packages: Python, its library and nothing else."""
    from ..sandbox import image as images

    settings = options.settings(ctx)
    with engine(settings) as connected, _progress(settings) as on_progress:
        made = images.build(connected, mirror=mirror, on_progress=on_progress)
    show.line(f"{made.name}  {units.human_bytes(made.size)}")


@app.command(cls=options.Command)
def prune(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("-n", "--dry-run", help="only say what would go")] = False,
) -> None:
    """Remove containers and copied inputs of killed runs. Those of running ones, and of other machines, stay."""
    settings = options.settings(ctx)
    with engine(settings) as connected:
        gone = connected.prune(dry_run=dry_run)
    for thing in gone:
        show.line(thing.name)
    verb = "would remove" if dry_run else "removed"
    show.note(settings, f"{verb} {len(gone)} leftover{'' if len(gone) == 1 else 's'}")


@contextlib.contextmanager
def engine(settings: config.Settings) -> Iterator[Engine]:
    """The container engine, closed at the end."""
    connected = make_engine(settings)
    try:
        yield connected
    finally:
        connected.close()


@contextlib.contextmanager
def _progress(settings: config.Settings) -> Iterator[OnImageProgress]:
    """Each phase as a line on stderr, and how far it is on a terminal."""
    from ..render.look import look_for
    from ..render.ticker import Ticker

    look = look_for(sys.stderr, color=settings.output.color, env=config.environment())
    ticker = Ticker(sys.stderr, look, quiet=settings.run.quiet)
    said: set[str] = set()

    def tell(progress: ImageProgress) -> None:
        size = f" ({units.human_bytes(progress.total)})" if progress.total else ""
        if progress.phase not in said:
            said.add(progress.phase)
            ticker.say(f"{progress.phase} {progress.name}{size}")
        elif progress.percent is not None:
            ticker.show(f"{progress.phase} {progress.percent:.0f} %{size}")

    try:
        yield tell
    finally:
        ticker.close()
