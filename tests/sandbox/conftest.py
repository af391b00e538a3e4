"""Docker for real. These fixtures fail, and never skip, where Docker or the image is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlm_cli.sandbox import SandboxOptions
from rlm_cli.sandbox.container import Engine
from rlm_cli.sandbox.image import Image, status


@pytest.fixture
def engine() -> Iterator[Engine]:
    """The engine of this machine."""
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture
def image(engine: Engine) -> Image:
    """The image that `rlm ask` would run, pulled or built beforehand."""
    found = status(engine, SandboxOptions()).found
    if found is None:
        pytest.fail("no sandbox image in the engine: run `make image` first")
    return found
