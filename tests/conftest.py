"""What holds for every test."""

from __future__ import annotations

import os
import secrets

from hypothesis import settings

from rlm_cli.config.settings import OTHER_VARIABLES
from rlm_cli.models.catalog import KEYS

# What the machine says to every program is no test's subject: a CI's `CI=true` turns the live line off, a developer's
# keys are not for tests. A test that wants one sets it. Where the engines are is for the machine to say.
ENGINES = {"DOCKER_HOST", "CONTAINER_HOST"}
OURS = {"RLM_E2E", "RLM_E2E_SEED", "RLM_FUZZ"}
LOOKED_AT = {name for names, _ in OTHER_VARIABLES for name in names.split(", ")} | {"VISUAL"}
for _name in [*os.environ]:
    if _name in (LOOKED_AT | {key for keys in KEYS.values() for key in keys}) - ENGINES or (
        _name.startswith("RLM_") and _name not in OURS
    ):
        del os.environ[_name]

# One seed for all processes of a run of the acceptance cases, and printed: see tests/e2e.
SEED = os.environ.setdefault("RLM_E2E_SEED", str(secrets.randbelow(10**6)))

# An example's time says how busy the machine is, and nothing about the code.
settings.register_profile("rlm", deadline=None)
# For CI, where a run says something of the commit and not of its luck. Everywhere else each run looks elsewhere.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("rlm")


def pytest_report_header() -> str:
    return f"RLM_E2E_SEED={SEED}"
