"""Who may import whom (DESIGN.md 2), and the shape rules that keep the code readable."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rlm_cli"

# Part of the package -> the parts of ours it may import. A part is a top-level module or folder; a module inside a
# folder may always import its own folder. `wiring` names implementations; the rest of `cli` sees values and seams.
MAY_IMPORT = {
    "errors": set[str](),
    "disk": {"errors"},
    "events": set[str](),
    "units": set[str](),
    "private": set[str](),
    "timecap": set[str](),
    "in_place": set[str](),
    "config": {"errors", "events"},
    "sources": {"errors", "events", "disk", "sandbox"},  # sandbox: its system call filter, for the converters
    "runlog": {"errors", "events"},
    "render": {"errors", "events"},
    "prompts": {"models", "sandbox", "events", "errors"},
    "children": {"errors", "events", "sandbox"},
    "citations": {"errors", "events", "sources", "sandbox"},
    "task": {"errors", "events", "prompts", "models", "sandbox", "children", "timecap"},
    "desk": {"errors", "events", "prompts", "models", "sandbox", "children", "task", "timecap"},
    "engine": {"errors", "events", "prompts", "models", "sandbox", "desk", "task", "timecap"},
    "direct": {"errors", "events", "prompts", "models", "sandbox", "engine", "task"},
    "routing": {"models"},
    "models": {"errors", "events"},
    "sandbox": {"errors", "events", "disk"},
    "bench": {"errors", "sandbox"},
    "cli": {
        "errors",
        "events",
        "config",
        "sources",
        "runlog",
        "render",
        "task",
        "engine",
        "children",
        "citations",
        "direct",
        "routing",
        "models",
        "sandbox",
        "prompts",
    },
    "__main__": {"cli"},
    "__init__": set[str](),
}

FOR_ALL = {"units", "private", "in_place"}
"""Pure spelling of numbers, and how files are made and opened."""

# Vendor -> its one owner (a folder or a file).
OWNER = {
    "litellm": "models/provider.py",
    "docker": "sandbox/container.py",
    "typer": "cli",
    "rich": "render",
    "pathspec": "sources",
    "zstandard": "sources/compressed.py",
    "httpx": "sources/http.py",
    "pypdfium2": "sources/convert/pdf.py",
    "mammoth": "sources/convert/word.py",
    "python_calamine": "sources/convert/sheets.py",
    "markdownify": "sources/convert/pages.py",
    "bs4": "sources/convert/pages.py",
    "arro3": "sources/convert/parquet.py",
    "platformdirs": "config",
    "jsonschema": "cli/validation.py",
}

FUNCTION_LINES = 60


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Absolute dotted names imported anywhere in the file, relative ones resolved."""
    found: set[str] = set()
    package = ("rlm_cli", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *([node.module] if node.module else [])))
            found |= {f"{stem}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_table(path: Path) -> None:
    """Calls go one way: no module imports a part that the table does not give it."""
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("rlm_cli.")}
    ours -= {"__version__", *FOR_ALL}
    assert ours - MAY_IMPORT[part_of(path)] - {part_of(path)} == set()


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_vendor_has_one_owner(path: Path) -> None:
    """litellm, docker, rich, typer ... are imported in one place each, so replacing one is one change."""
    where = path.relative_to(PACKAGE)
    vendors = {name.split(".")[0] for name in imports_of(path)} & set(OWNER)
    strangers = {v for v in vendors if OWNER[v] not in (where.as_posix(), where.parts[0])}
    assert strangers == set()


def test_the_kernel_is_standard_library_only() -> None:
    """The kernel runs on a stock Python image: it imports itself and the standard library, nothing else."""
    import sys

    names = set[str]()
    for path in (PACKAGE / "sandbox" / "kernel").glob("*.py"):
        names |= imports_of(path)
    outside = {n for n in names if n.split(".")[0] not in sys.stdlib_module_names}
    assert {n for n in outside if not n.startswith("rlm_cli.sandbox.kernel")} == set()


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_fit_a_screen(path: Path) -> None:
    """No function over 60 lines, docstring included."""
    tree = ast.parse(path.read_text("utf-8"))
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    }
    assert long == {}


def test_the_map_names_every_part() -> None:
    """docs/ARCHITECTURE.md, and nothing that is gone."""
    drawn = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8").split("```")[1]
    named = re.findall(r"^  (\w+)(?:\.py|/) ", drawn, re.MULTILINE)
    assert sorted(named) == sorted({part_of(path) for path in modules()} - {"__init__", "__main__"})


def test_only_config_reads_the_environment() -> None:
    """`os.environ` has one owner (and the kernel, which has an environment of its own)."""
    readers = {
        str(path.relative_to(PACKAGE))
        for path in modules()
        if {"environ", "getenv"}
        & {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
        and "kernel" not in path.parts
    }
    # provider.py sets LiteLLM's switches before importing it; it reads nothing.
    assert readers - {"config/places.py", "models/provider.py"} == set()


def test_no_mocks_of_our_own_seams() -> None:
    """Fakes implement the Protocols; patching our own modules would test the patch."""
    users = {
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if any(name.startswith(("unittest.mock", "mock", "pytest_mock")) for name in imports_in_tests(path))
    }
    assert users == set()


def imports_in_tests(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found
