"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# An example's time says how busy the machine is, and nothing about the code.
settings.register_profile("rlm", deadline=None)
settings.load_profile("rlm")
