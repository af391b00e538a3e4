"""One set of canaries, one bare container and one session of each back-end for the whole catalogue."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rlm_cli.errors import SandboxError
from rlm_cli.sandbox import SandboxOptions, StepResult, SubCall, SubReply
from rlm_cli.sandbox.container import Engine
from rlm_cli.sandbox.image import status

from .backends import BACKENDS, UNFILTERED, Open, Session
from .bare import run_bare
from .canaries import CORPUS, HONEY, HONEY_VARIABLE, Canaries, gateway_of
from .cases import CASES
from .prelude import with_prelude

T = TypeVar("T")


class Loop:
    """An event loop in a thread of its own, so that a session lives on between tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], within: float = 120.0) -> T:
        """Its result. Raises `TimeoutError` where it hangs."""

        async def bounded() -> T:
            async with asyncio.timeout(within):
                return await coroutine

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Echo:
    """A `Host` that answers every prompt with itself and counts them."""

    schema = ""

    def __init__(self) -> None:
        self.asked = 0

    async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
        self.asked += len(call.prompts)
        for index, prompt in enumerate(call.prompts):
            deliver(index, SubReply(True, prompt))

    def budget(self) -> Mapping[str, float | int | str | None]:
        return {"subcalls": 10_000_000 - self.asked}

    def progress(self, done: int, total: int | None) -> None:
        """Nobody looks."""


class Bench:
    """A session of one back-end that is there again after a probe that ended it, and what it is over."""

    def __init__(self, backend: str, canaries: Canaries, loop: Loop, new: Open | None = None) -> None:
        self.backend = backend
        self._new = new or BACKENDS[backend]
        self.canaries = canaries
        self.host = Echo()
        self.corpus_chars = len(CORPUS.decode())
        self._loop = loop
        self._session: Session | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="rlm-test-")

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = self._new(self.canaries, Path(self._folder.name))
            self._loop.run(self._session.open(self.host))
        return self._session

    def execute(self, code: str, *, timeout: float = 60.0) -> StepResult:
        """One cell. Raises `SandboxError` when the session is lost; the next call opens another."""
        session = self.session
        try:
            return self._loop.run(session.sandbox.execute(code, timeout=timeout))
        except SandboxError:
            self.close_session(whole=False)
            raise

    def execute_each(self, codes: Iterable[str]) -> list[StepResult]:
        """Many cells, one after the other."""

        async def all_of_them() -> list[StepResult]:
            return [await sandbox.execute(code, timeout=60) for code in codes]

        sandbox = self.session.sandbox
        return self._loop.run(all_of_them(), within=300)

    def probe(self, code: str, *, timeout: float = 60.0) -> StepResult:
        """The same with the prelude and the names of the places."""
        return self.execute(with_prelude(code, self.session.places), timeout=timeout)

    def close_session(self, *, whole: bool = True) -> None:
        """`whole`: it still works, so that it can be asked what it wrote."""
        session, self._session = self._session, None
        if session is not None:
            written = session.disk_bytes() if whole else 0
            self._loop.run(session.close())
            assert written < 2**20

    def close(self) -> None:
        try:
            self.close_session()
        finally:
            self._folder.cleanup()


@pytest.fixture(scope="package")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="package")
def canaries() -> Iterator[Canaries]:
    """On the host, its bridge and in its environment."""
    engine = Engine()
    with tempfile.TemporaryDirectory(prefix="rlm-test-") as folder:
        try:
            canaries = Canaries(Path(folder), gateway_of(engine.api().inspect_network("bridge")))
        finally:
            engine.close()
        os.environ[HONEY_VARIABLE] = HONEY
        yield canaries
        del os.environ[HONEY_VARIABLE]
        canaries.close()


@pytest.fixture(scope="package")
def controls(canaries: Canaries) -> dict[tuple[str, str], list[str]]:
    """What every probe with a control says where nothing is in its way, as lines; and that the canaries notice."""
    engine = Engine()
    try:
        image = status(engine, SandboxOptions()).found
    finally:
        engine.close()
    if image is None:
        pytest.fail("no sandbox image in the engine: run `make image` first")
    places = canaries.places() | {"CORPUS": str(canaries.copy), "SCRATCH": "/tmp", "OUTSIDE": []}
    wanted = [(case.id, probe) for case in CASES for probe in case.probes if probe.control is not None]
    programs = [
        (with_prelude(probe.steps[0].code, places), bool(probe.control and probe.control.nobody)) for _, probe in wanted
    ]
    said = run_bare(programs, image, canaries.folder, {HONEY_VARIABLE: HONEY})
    touched = canaries.touched()
    canaries.tidy()
    results = {(case, probe.name): text.splitlines() for (case, probe), text in zip(wanted, said, strict=True)}
    return results | {("", "touched"): touched}


@pytest.fixture(scope="package", params=sorted(BACKENDS))
def bench(
    request: pytest.FixtureRequest, canaries: Canaries, controls: dict[tuple[str, str], list[str]], loop: Loop
) -> Iterator[Bench]:
    """The session; the controls are over before it begins, so that whatever is touched from then on was reached from
    a cell."""
    bench = Bench(request.param, canaries, loop)
    yield bench
    bench.close()


@pytest.fixture(scope="package")
def unfiltered(canaries: Canaries, controls: dict[tuple[str, str], list[str]], loop: Loop) -> Iterator[Bench]:
    """The container of an engine without a filter of its own."""
    bench = Bench("docker", canaries, loop, UNFILTERED)
    yield bench
    bench.close()
