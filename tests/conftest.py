"""What holds for every test."""

from __future__ import annotations

import os
import secrets

from hypothesis import settings

# One seed for all processes of a run of the acceptance cases, and printed: see tests/e2e.
SEED = os.environ.setdefault("RLM_E2E_SEED", str(secrets.randbelow(10**6)))

# An example's time says how busy the machine is, and nothing about the code.
settings.register_profile("rlm", deadline=None)
# For CI, where a run says something of the commit and not of its luck. Everywhere else each run looks elsewhere.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("rlm")


def pytest_report_header() -> str:
    return f"RLM_E2E_SEED={SEED}"
