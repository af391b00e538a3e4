"""The pages for contributors name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TARGETS = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def named_paths(text: str) -> set[str]:
    """What is in backticks and looks like a path of this project."""
    return set(re.findall(r"`((?:rlm_cli|tests|docs|sample_data)/[\w./-]*)", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_links_and_commands_exist(page: Path) -> None:
    """Paths in backticks, relative links, `make` targets and `python -m tests...` of every page in docs/."""
    text = page.read_text("utf-8")
    assert {path for path in named_paths(text) if not (ROOT / path).exists()} == set()
    links = set(re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]*)?\)", text))
    assert {link for link in links if not (page.parent / link).exists()} == set()
    assert set(re.findall(r"(?:`|\$ )make ([a-z0-9]+)", text)) - TARGETS == set()
    modules = set(re.findall(r"python -m ((?:tests|rlm_cli)[\w.]*)", text))
    as_files = {name: ROOT / name.replace(".", "/") for name in modules}
    assert {n for n, path in as_files.items() if not path.with_suffix(".py").exists() and not path.is_dir()} == set()


def test_the_check_sees_what_is_missing() -> None:
    """The patterns match what they are meant to."""
    assert named_paths("`rlm_cli/engine.py`, `tests/e2e/` and `rlm_cli/gone.py`") == {
        "rlm_cli/engine.py",
        "tests/e2e/",
        "rlm_cli/gone.py",
    }
    assert {"check", "bench"} <= TARGETS
