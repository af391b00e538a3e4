"""Markdown for a terminal: every URL in full, no link that hides one, nothing left out, nothing fetched."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.theme import Theme

from .look import Look, console_for
from .sanitize import clean

# The defaults paint backgrounds; these are the terminal's own.
_THEME = Theme({"markdown.code": "cyan", "markdown.code_block": "cyan", "markdown.link_url": "underline"})
_TRAILING = re.compile(r" +((?:\x1b\[0m)?)$", re.MULTILINE)


class _LeftHeading(Heading):
    """Headings stay on the left, without a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _HonestMarkdown(Markdown):
    """rich's Markdown over tokens of our own: HTML is text, images are their address, line ends are kept."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "heading_open": _LeftHeading}

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup = text
        parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        self.parsed = list(_plain(parser.parse(text)))


def _plain(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        # Again: entities and percent-escapes have been decoded since the text was cleaned.
        token.content = clean(token.content)
        token.attrs = {key: clean(value) if isinstance(value, str) else value for key, value in token.attrs.items()}
        if token.type == "softbreak":
            token.type = "hardbreak"
        if token.type == "image":
            token.type, token.tag = "text", ""
            token.content = f"[image: {token.content}] ({token.attrs.get('src', '')})"
            token.children = None
        token.children = list(_plain(token.children)) if token.children else token.children
        yield token


def render_markdown(text: str, look: Look) -> str:
    """`text` (cleaned) as terminal text of `look.width` columns, ending in one newline, without trailing spaces."""
    out = io.StringIO()
    console = console_for(out, look)
    with console.use_theme(_THEME):
        console.print(_HonestMarkdown(text))
    return _TRAILING.sub(r"\1", out.getvalue()).strip("\n") + "\n"
