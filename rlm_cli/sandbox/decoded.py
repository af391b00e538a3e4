"""A document's text on the host, read by the kernel's own rules, for what is answered without a kernel."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import InputError
from . import Document
from .kernel.decoding import decode
from .staging import index_name


class Decoded(NamedTuple):
    """A document as text. `lossy`: its bytes were not valid in their encoding."""

    name: str
    text: str
    lossy: bool


def read_text(document: Document) -> Decoded:
    """The whole document, as long as it was when it was listed. Raises `InputError` when that is not there."""
    try:
        with document.path.open("rb") as file:
            data = file.read(document.size)
    except OSError as error:
        raise InputError(f"cannot read {index_name(document.name)}: {error.strerror}", code="unreadable") from error
    if len(data) < document.size:
        raise InputError(
            f"{index_name(document.name)} shrank while it was being read",
            hint="run the same command again",
            code="input_changed",
        )
    return Decoded(index_name(document.name), *decode(data, document.encoding))
