"""HTML as Markdown by markdownify."""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from collections.abc import Callable

from bs4 import BeautifulSoup
from markdownify import ATX, MarkdownConverter

from ..encoding import sniff
from .output import Output
from .package import whole

DEEPEST = 5_000
USUAL = (
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r", "koi8_u"),
    *("iso8859_2", "iso8859_5", "iso8859_7", "iso8859_9", "iso8859_15", "latin_1", "utf_16", "utf_32", "utf_8_sig"),
    *("gb18030", "gbk", "gb2312", "big5", "shift_jis", "cp932", "euc_jp", "iso2022_jp", "euc_kr", "cp949"),
)
DECLARED = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]{2,30})", re.IGNORECASE)


def html(source: int, ready: Callable[[], None], output: Output) -> None:
    """What a reader sees of it, as Markdown."""
    for name in USUAL:
        codecs.lookup(name)
    ready()
    output.line(markdown(decoded(whole(source))))


def decoded(data: bytes) -> str:
    """By its mark, else by what it says of itself, else by what it looks like."""
    found = sniff(data).encoding or "utf-8"
    said = DECLARED.search(data[:4096])
    if said and found == "latin-1":
        with contextlib.suppress(LookupError, UnicodeError):
            return data.decode(said[1].decode(), "replace")
    return data.decode(found, "replace")


def markdown(text: str) -> str:
    """Markdown for HTML, without scripts, styles and pictures."""
    sys.setrecursionlimit(DEEPEST)
    soup = BeautifulSoup(text, "html.parser")
    for unseen in soup(["script", "style", "template"]):
        unseen.decompose()
    for image in soup("img"):
        image.replace_with(f"[image: {image.get('alt')}]" if image.get("alt") else "")
    made = MarkdownConverter(heading_style=ATX, escape_asterisks=False, escape_underscores=False).convert_soup(soup)
    return re.sub(r"\n{3,}", "\n\n", made).strip("\n")
