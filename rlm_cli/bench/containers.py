"""What the container's settings and the filters inside it cost: `python -m rlm_cli.bench.containers ROUNDS`.

Containers in turns, ours and one as a bare `docker run -i` makes it, with the same image and the same kernel; each is
timed from before its creation until its worker says that it is ready. Then a worker is confined some more times in a
container of ours, by forks of it: that part is in both kinds of container, so it is counted apart. Prints JSON:
milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..sandbox import Host, SandboxOptions, Slice
from ..sandbox.client import BOOT, kernel_bundle
from ..sandbox.container import OWNER_LABEL, ContainerSpec, Engine
from ..sandbox.docker_sandbox import DockerSandbox
from ..sandbox.image import Image, resolve_image
from ..sandbox.kernel import wire
from ..sandbox.owner import Owner
from ..sandbox.profile import Profile

CONFINE = """
import os, time
from kernel import confinement, landlock, seccomp
def timed(act):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        started = time.process_time()
        act()
        os.write(writer, str((time.process_time() - started) * 1000).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return float(os.read(reader, 100))
for _ in range({rounds}):
    print(timed(lambda: confinement.confine(confinement.Plan())), timed(lambda: seccomp.install(seccomp.CONTAINER)))
"""
"""In a worker, whose children add to the filters that they have already. Nothing in it waits, so its processor time is
what it takes on a machine with nothing else to do."""


def ready(engine: Engine, create: Callable[[str], str]) -> float:
    """Milliseconds from the creation of a container of that name until its worker is ready; then it is removed."""
    name = f"rlm-bench-{secrets.token_hex(6)}"
    started = time.perf_counter()
    try:
        container = create(name)
        channel = engine.attach(container)
        engine.start(container)
        channel.write(kernel_bundle())
        frames = wire.Splitter(wire.FROM_SUPERVISOR)
        while not any(kind == b"s" for kind, _ in frames.feed(received(channel.read()))):
            pass
        took = (time.perf_counter() - started) * 1000
        channel.close()
        return took
    finally:
        engine.remove(name)


def received(data: bytes) -> bytes:
    """Raises `EOFError` at the end of the stream."""
    if not data:
        raise EOFError("the container ended")
    return data


def bare(engine: Engine, image: Image, name: str) -> str:
    """A container as `docker run -i --rm` makes it: root, a network, a writable disk and no limits. Returns its id."""
    api = engine.api()
    made = api.create_container(
        image.id,
        entrypoint=["python3"],
        command=["-I", "-S", "-u", "-c", BOOT],
        name=name,
        labels=labels(),
        stdin_open=True,
        host_config=api.create_host_config(auto_remove=True),
        use_config_proxy=False,
    )
    return str(made["Id"])


def labels() -> dict[str, str]:
    """So that what a killed benchmark leaves is found."""
    return {OWNER_LABEL: str(Owner.here()), "rlm.run": "bench"}


class NoHost(Host):
    """There are no sub-calls."""

    schema = ""

    async def answer(self, *_: Any) -> None:
        raise AssertionError("a cell of the benchmark's own asked a model")

    def budget(self) -> dict[str, float | int | None]:
        return {}

    def progress(self, *_: Any) -> None:
        """Nobody watches."""


async def confining(rounds: int) -> list[list[float]]:
    """Of each round: milliseconds of the processor for all of a worker's confinement, and for the system call filter
    alone."""
    with tempfile.TemporaryDirectory(prefix="rlm-bench-") as folder:
        path = Path(folder).resolve() / "input"
        path.write_bytes(b"x")
        sandbox = DockerSandbox(SandboxOptions())
        try:
            await sandbox.open([Slice("input", path, 1)], NoHost())
            result = await sandbox.execute(CONFINE.format(rounds=rounds), timeout=60)
        finally:
            await sandbox.close()
    return [[float(number) for number in line.split()] for line in result.stdout.head.splitlines()]


def measure(rounds: int) -> dict[str, list[float]]:
    """By name, a sample a round; the first container of each kind is not counted."""
    engine = Engine()
    try:
        image = resolve_image(engine, SandboxOptions())
        profile = Profile(cpus=min(Profile().cpus, engine.probe().cpus))
        kinds: dict[str, Callable[[str], str]] = {
            "ours": lambda name: engine.create(ContainerSpec(name, image, profile, labels=labels())),
            "bare": lambda name: bare(engine, image, name),
        }
        taken: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(rounds + 1):
            for name in sorted(kinds, reverse=number % 2 == 1):
                took = ready(engine, kinds[name])
                if number:
                    taken[name].append(took)
    finally:
        engine.close()
    whole, alone = zip(*asyncio.run(confining(rounds)), strict=True)
    return {**taken, "confine": [*whole], "filter": [*alone]}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
