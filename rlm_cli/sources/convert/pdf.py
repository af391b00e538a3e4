"""PDF by PDFium, the reader in Chrome: fast, fuzzed for years, and native code, so that its confinement counts."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable

import pypdfium2

from .output import Output, RefusedError

codecs.lookup("utf-16-le")  # nothing can be imported once a file is read

NOT_A_CHARACTER = "\ufffe"
"""PDFium's sign for a hyphen at the end of a line."""


def pdf(source: int, ready: Callable[[], None], output: Output) -> None:
    """Its pages, each below a mark."""
    ready()
    with os.fdopen(source, "rb", closefd=False) as file:
        try:
            document = pypdfium2.PdfDocument(file)
        except pypdfium2.PdfiumError as error:
            if "assword" in str(error):
                raise RefusedError("it is encrypted: remove its password first (qpdf --decrypt)") from None
            raise
        forms = document.get_formtype() != 0
        for number in range(len(document)):
            text = page_text(document, number, forms=forms)
            output.mark(f"page {number + 1}")
            output.line(text.replace(NOT_A_CHARACTER, "-").replace("\r\n", "\n"))


def page_text(document: pypdfium2.PdfDocument, number: int, *, forms: bool) -> str:
    """The text of one page, with what was filled in to its forms."""
    page = document[number]
    try:
        if forms:
            page.flatten()
        words = page.get_textpage()
        try:
            return str(words.get_text_bounded())
        finally:
            words.close()
    finally:
        page.close()
