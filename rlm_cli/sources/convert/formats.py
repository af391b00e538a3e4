"""Which formats are converted, how a file is recognised as one, and what has to be installed."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ..encoding import is_binary

Convert = Literal["auto", "all", "none"]
"""What is converted: all but HTML, which is text as it is; HTML too; nothing."""

VERSION = 1
"""Of our own part in the text: counted up when that changes, so that the cache is not asked for older ones."""
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Word, Excel and PowerPoint before 2007, and anything encrypted since."""
ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Format:
    """A format. `packages` (module, distribution) are needed, which `extra` installs."""

    name: str
    title: str
    suffixes: tuple[str, ...]
    packages: tuple[tuple[str, str], ...] = ()
    extra: str = ""

    @property
    def missing(self) -> str:
        """What it is and what to type so that it can be converted here; "" when it can."""
        return f"{self.title}: {install_command(self.extra)}" if not installed(self.packages) else ""

    @property
    def version(self) -> str:
        """What its text depends on besides the file."""
        from importlib.metadata import version  # it brings email along: not for every command

        found = [f"{name}={version(name)}" for _, name in self.packages]
        return " ".join([f"{self.name}/{VERSION}", *found])


MARKDOWN = (("markdownify", "markdownify"), ("bs4", "beautifulsoup4"))
FORMATS = (
    Format("pdf", "PDF", (".pdf",), (("pypdfium2", "pypdfium2"),), "docs"),
    Format("docx", "Word", (".docx", ".docm"), (("mammoth", "mammoth"), *MARKDOWN), "docs"),
    Format(
        "sheets",
        "spreadsheets",
        (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"),
        (("python_calamine", "python-calamine"),),
        "docs",
    ),
    Format("pptx", "PowerPoint", (".pptx", ".pptm")),
    Format("html", "HTML", (".html", ".htm", ".xhtml"), MARKDOWN, "docs"),
    Format("notebook", "notebooks", (".ipynb",)),
    Format("sqlite", "SQLite", (".sqlite", ".sqlite3", ".db")),
    Format("parquet", "Parquet", (".parquet",), (("arro3", "arro3-io"),), "parquet"),
)
NAMED = {form.name: form for form in FORMATS}


@cache
def installed(packages: tuple[tuple[str, str], ...]) -> bool:
    """Whether they are, without importing one."""
    return all(importlib.util.find_spec(module) is not None for module, _ in packages)


def install_command(extra: str) -> str:
    """What to type, by the folder that this rlm is installed in."""
    prefix = Path(sys.prefix).as_posix()
    if "/pipx/venvs/" in prefix:
        return f"pipx runpip rlm-cli install 'rlm-cli[{extra}]'"
    if "/uv/tools/" in prefix:
        # It replaces the extras that there were.
        return "uv tool install 'rlm-cli[docs,parquet,zstd]'"
    return f"pip install 'rlm-cli[{extra}]'"


def recognise(name: str, head: bytes, which: Convert = "auto") -> Format | None:
    """The format of the file `name`, which begins with `head`, if `which` says that it is converted.

    Its content decides, where it can: a .pdf that is a web page is text, and a PDF needs no suffix.
    """
    if which == "none":
        return None
    if head.startswith(b"%PDF-"):
        return NAMED["pdf"]
    if head.startswith(b"SQLite format 3\0"):
        return NAMED["sqlite"]
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    form = next((form for form in FORMATS if suffix in form.suffixes), None)
    if form is None:
        return None
    fits = {
        "docx": head.startswith((ZIP, OLE)),
        "sheets": head.startswith((ZIP, OLE)),
        "pptx": head.startswith((ZIP, OLE)),
        "html": which == "all" and not is_binary(head),
        "notebook": head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"),
        "parquet": head.startswith(b"PAR1"),
    }
    return form if fits.get(form.name, False) else None
