"""The registry: every case of the catalogue, A01 to H10."""

from __future__ import annotations

from . import files, kernel_calls, life, load, money, protocol, screen, secrets
from .on_process import with_process
from .rows import Case

CASES: tuple[Case, ...] = tuple(
    with_process(case)
    for case in (
        *files.CASES,
        *kernel_calls.CASES,
        *load.CASES,
        *secrets.CASES,
        *screen.CASES,
        *money.CASES,
        *protocol.CASES,
        *life.CASES,
    )
)
