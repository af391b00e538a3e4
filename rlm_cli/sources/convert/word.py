"""Word by mammoth, which keeps tracked insertions, notes, comments and text boxes."""

from __future__ import annotations

import io
import re
import xml.dom.expatbuilder  # noqa: F401 - nothing can be imported once a file is read
from collections.abc import Callable, Iterator
from typing import Any
from zipfile import ZipFile

import mammoth

from .output import Output
from .package import opened, parsed, whole
from .pages import markdown

WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def docx(source: int, ready: Callable[[], None], output: Output) -> None:
    """Its text as Markdown, then what headers and footers say."""
    ready()
    package = opened(source)

    def picture(image: Any) -> list[Any]:
        return [mammoth.html.text(f"[image: {image.alt_text}]")] if image.alt_text else []

    made = mammoth.convert_to_html(
        io.BytesIO(whole(source)), convert_image=picture, style_map="comment-reference => sup"
    )
    output.line(markdown(made.value))
    around = [line for line in headers_and_footers(package) if line.strip()]
    if around:
        output.mark("headers and footers")
        output.line("\n".join(dict.fromkeys(around)))


def headers_and_footers(package: ZipFile) -> Iterator[str]:
    """Their paragraphs, which no converter keeps; a contract's number may stand nowhere else."""
    for name in sorted(package.namelist()):
        if re.fullmatch(r"word/(header|footer)\d*\.xml", name):
            for paragraph in parsed(package, name).iter(f"{WORD}p"):
                yield "".join(text.text or "" for text in paragraph.iter(f"{WORD}t"))
