"""`rlm doctor`: everything a run needs, checked in the order in which it would be needed, one line each."""

from __future__ import annotations

import asyncio
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from .. import __version__, config, units
from ..errors import ConfigError, ExitCode, RlmError, SandboxError
from ..events import to_json
from ..sandbox import Host, SubCall, SubReply
from . import options, show
from .scratch import refuse_foreign
from .version import install_method
from .wiring import sandbox_options

if TYPE_CHECKING:
    from ..sandbox.base import KernelSandbox
    from ..sandbox.container import Engine
    from ..sandbox.frames import BootFacts, WorkerFacts

LEAST_DISK = 1024**3
"""Free bytes below which logs and spooled input may not fit."""


@dataclass(frozen=True)
class Check:
    """One line. `fix` is what to type; `exit_code` counts when it failed."""

    name: str
    status: Literal["ok", "warn", "fail"]
    text: str
    fix: str = ""
    exit_code: ExitCode = ExitCode.OK


def failed(name: str, error: RlmError) -> Check:
    return Check(name, "fail", error.message, error.hint, error.exit_code)


def doctor(ctx: typer.Context, json: options.Json = False) -> None:
    """Check that everything works: one line each, with the fix. Exits with the code of the first failure.

    It runs one line of Python in a real container with the production settings, and spends nothing.
    """
    settings, problems = options.examine(ctx)
    places, env = options.places(ctx), config.environment()
    checks: list[Check] = []
    for check in _checks(settings, tuple(problems), places, env):
        checks.append(check)
        if not json:
            _print(settings, check)
    first = next((check for check in checks if check.status == "fail"), None)
    code = int(first.exit_code) if first else 0
    if json:
        found = [{**to_json(check), "exit_code": int(check.exit_code)} for check in checks]
        show.as_json({"schema_version": 1, "checks": found, "exit_code": code})
    raise typer.Exit(code)


def _checks(
    settings: config.Settings, problems: tuple[RlmError, ...], places: config.Places, env: Mapping[str, str]
) -> Iterator[Check]:
    yield Check("version", "ok", f"rlm {__version__} ({install_method()}), Python {platform.python_version()}")
    yield from config_checks(settings, problems, places)
    yield from model_checks(settings, env)
    yield from sandbox_checks(settings)
    yield from place_checks(settings, places)
    yield converter_check()
    yield terminal_check(settings, env)


def _print(settings: config.Settings, check: Check) -> None:
    from ..render.look import look_for, writable
    from ..render.sanitize import clean_line

    look = look_for(sys.stdout, color=settings.output.color, env=config.environment())
    color = {"ok": "\x1b[32m", "warn": "\x1b[33m", "fail": "\x1b[31m"}[check.status] if look.color else ""
    end = "\x1b[0m" if color else ""
    out = writable(sys.stdout, look)
    print(f"{color}{check.status:4}{end}  {check.name:10}  {clean_line(check.text)}", file=out, flush=True)
    if check.fix:
        print(f"{'':18}{clean_line(check.fix)}", file=out, flush=True)


# -- configuration and models --------------------------------------------------------------------------------------


def config_checks(settings: config.Settings, problems: tuple[RlmError, ...], places: config.Places) -> Iterator[Check]:
    """The files that count, what is wrong in them, and what is ignored."""
    yield from (failed("config", problem) for problem in problems)
    for warning in settings.warnings:
        yield Check("config", "warn", warning, "rlm config validate")
    project = config.project_file(Path.cwd())
    files = [str(path) for path in (places.config_file, project) if path and path.exists()]
    given = sum(origin.kind != "default" for origin in settings.origins.values())
    if not problems:
        said = f"{', '.join(files) or 'no file'}; {given} setting{'' if given == 1 else 's'} not at the default"
        yield Check("config", "ok", said)


def model_checks(settings: config.Settings, env: Mapping[str, str]) -> Iterator[Check]:
    """Keys by name, then the models that would be used, their price and window."""
    from ..models.catalog import KEYS
    from ..models.facts import facts
    from .models import choice_of

    names = sorted({name for group in KEYS.values() for name in group if env.get(name)} | _own_key(env))
    if names:
        yield Check("keys", "ok", ", ".join(names))
    else:
        yield Check("keys", "warn", "no provider's key is set", "export OPENAI_API_KEY=...   or use -m offline")
    try:
        choice = choice_of(settings, env)
    except RlmError as error:
        yield failed("models", error)
        return
    unpriced = [
        name for name in dict.fromkeys((choice.root, choice.sub)) if not (facts(name).price or name in settings.prices)
    ]
    said = f"{choice.root}, sub-calls {choice.sub}: {choice.why}"
    if unpriced:
        fix = f"rlm config set prices.{unpriced[0]} IN,OUT"
        yield Check("models", "warn", f"{said}; no price is known for {', '.join(unpriced)}", fix)
    else:
        yield Check("models", "ok", said)


def _own_key(env: Mapping[str, str]) -> set[str]:
    return {"RLM_API_KEY"} if config.api_key(env) else set()


# -- the sandbox ---------------------------------------------------------------------------------------------------


def sandbox_checks(settings: config.Settings) -> Iterator[Check]:
    """What runs the model's code, up to one line of Python as `ask` runs it; and whether it could be done without."""
    if settings.sandbox.runtime == "process":
        yield process_check(settings, chosen=True)
        return
    yield from container_checks(settings)
    yield process_check(settings, chosen=False)


def container_checks(settings: config.Settings) -> Iterator[Check]:
    """Engine, image, and a container."""
    from ..sandbox import image as images
    from .sandbox import engine

    name = "runtime"
    try:
        with engine(settings) as connected:
            facts = connected.probe()
            memory = units.human_bytes(facts.memory)
            yield Check(
                "runtime", "ok", f"{facts.name} {facts.version} at {facts.host}, {facts.cpus} processors, {memory}"
            )
            name = "image"
            found = images.status(connected, sandbox_options(settings)).found
            if found is None:
                raise images.missing(sandbox_options(settings), "the engine does not have it")
            yield Check("image", "ok", f"{found.name}, {units.human_bytes(found.size)}")
            name = "container"
            filters = filters_check(settings, connected)
            yield Check("container", "ok", "ran print(1): no network, read-only input, limits in force")
            yield filters
    except RlmError as error:
        yield failed(name, error)


def filters_check(settings: config.Settings, connected: Engine) -> Check:
    """What confines the code in a container, which is started for it. Raises `RlmError` when that fails."""
    from ..sandbox.docker_sandbox import DockerSandbox

    options = replace(sandbox_options(settings), pull="never")
    made = run_one_line(lambda folder: DockerSandbox(options, folder=folder, engine=connected))
    return confinement_check(*asyncio.run(made))


class NoHost(Host):
    """A host that has no models: the check makes no sub-calls."""

    schema = ""

    async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
        """Refuse every item."""
        for index in range(len(call.prompts)):
            deliver(index, SubReply(False, "no sub-calls here"))

    def budget(self) -> Mapping[str, float | int | None]:
        """Nothing is counted."""
        return {}

    def progress(self, done: int, total: int | None) -> None:
        """Nobody watches."""


def confinement_check(boot: BootFacts, worker: WorkerFacts) -> Check:
    """What confines the code inside the container: filters, and whether it can look into the process that reports about
    it. What is required was checked before."""
    there = {
        "the engine's system call filter": boot.seccomp == 2,
        "ours": worker.filtered,
        "a closed supervisor": not boot.dumpable,
        "Landlock": worker.landlock > 0,
    }
    active = [name for name, held in there.items() if held]
    said = f"{', '.join(active)}{f' {worker.landlock}' if worker.landlock else ''}; {boot.machine}"
    if boot.seccomp != 2:
        fix = 'take "seccomp-profile": "unconfined" out of /etc/docker/daemon.json, or use an engine built with seccomp'
        return Check("filters", "warn", f"{said}: the engine's own filter is off", fix)
    if not worker.filtered:
        return Check("filters", "warn", f"{said}: rlm has no system call filter for this machine")
    if not worker.landlock:
        return Check("filters", "warn", f"{said}: no Landlock", "boot a kernel with Landlock (Linux 5.13 or later)")
    return Check("filters", "ok", said)


def process_check(settings: config.Settings, *, chosen: bool) -> Check:
    """Whether `--sandbox process` works here. Where it is not `chosen`, it need not."""
    from ..sandbox.process_sandbox import ProcessSandbox, refusal

    try:
        if refused := refusal():
            raise refused
        made = run_one_line(lambda folder: ProcessSandbox(sandbox_options(settings), folder=folder))
        _, worker = asyncio.run(made)
    except SandboxError as error:
        if chosen:
            return failed("process", error)
        return Check("process", "ok", f"not possible here: {error.message.removeprefix('--sandbox process: ')}")
    ran = f"ran print(1): strict system call filter, Landlock {worker.landlock}, memory limit"
    return Check("process", "ok", ran if chosen else f"{ran}; only --sandbox process uses it")


async def run_one_line(make: Callable[[Path], KernelSandbox]) -> tuple[BootFacts, WorkerFacts]:
    """`print(1)` in a sandbox with the production settings and a file; `make` gets a private folder. Returns what the
    sandbox reported at boot, which was right, or this raises `SandboxError`."""
    from ..sources import Document

    with tempfile.TemporaryDirectory(prefix="rlm-doctor-") as folder:
        probe = Path(folder).resolve() / "probe.txt"
        probe.write_bytes(b"1\n")
        sandbox = make(Path(folder))
        try:
            await sandbox.open([Document("probe.txt", str(probe), 2)], NoHost())
            result = await sandbox.execute("print(context.strip())", timeout=30)
        finally:
            await sandbox.close()
    if result.status != "ok" or result.stdout.head.strip() != "1":
        said = result.error or result.stderr.head or result.stdout.head or result.status
        raise SandboxError(f"the sandbox runs, but not our code: {said.strip()[-300:]}", code="sandbox_probe")
    return sandbox.facts


# -- this machine --------------------------------------------------------------------------------------------------


def place_checks(settings: config.Settings, places: config.Places) -> Iterator[Check]:
    """Where runs are kept can be written, and has room."""
    for name, folder in (("runs", places.runs), ("cache", places.cache)):
        try:
            refuse_foreign(folder)
        except ConfigError as error:
            yield failed(name, error)
            continue
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            status: Literal["warn", "fail"] = "fail" if name == "runs" and settings.logs.enabled else "warn"
            fix = "set RLM_HOME to a folder you can write"
            yield Check(name, status, f"{existing}: {error.strerror}", fix, ExitCode.USAGE)
            continue
        free = shutil.disk_usage(existing).free
        text = f"{folder}, {units.human_bytes(free)} free"
        yield Check(name, "ok" if free >= LEAST_DISK else "warn", text, "" if free >= LEAST_DISK else "rlm runs prune")


def converter_check() -> Check:
    """Which documents can be made text of."""
    from ..sources.convert.formats import FORMATS, install_command

    there = ", ".join(form.title for form in FORMATS if not form.missing)
    extras = sorted({form.extra for form in FORMATS if form.missing})
    return Check("documents", "ok", f"converted: {there}", "; ".join(map(install_command, extras)))


def terminal_check(settings: config.Settings, env: Mapping[str, str]) -> Check:
    """What the live view would have to work with."""
    from ..render.look import look_for, width_of

    look = look_for(sys.stderr, color=settings.output.color, env=env)
    kind = f"{width_of(sys.stderr, look)} columns" if look.tty else "not a terminal: plain lines"
    encoding = sys.stderr.encoding or "unknown encoding"
    color = "colour" if look.color else "no colour"
    if look.unicode:
        return Check("terminal", "ok", f"{kind}, {encoding}, {color}")
    return Check("terminal", "warn", f"{kind}, {encoding}: shapes are drawn in ASCII", "export PYTHONIOENCODING=utf-8")
