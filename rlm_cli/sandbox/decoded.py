"""Documents' text on the host, read by the kernel's own rules, for what is answered without a kernel."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import InputError
from ..in_place import open_in_place
from . import Document
from .changes import Changes
from .kernel.decoding import decode
from .staging import index_name


class Decoded(NamedTuple):
    """A document as text. `lossy`: its bytes were not valid in their encoding."""

    name: str
    text: str
    lossy: bool


def read_texts(documents: Iterable[Document]) -> tuple[list[Decoded], Changes]:
    """Every document whole, as long as it was when it was listed, and what happened to them meanwhile. Raises
    `InputError` for one that is not there, or no longer as long."""
    texts, changes = [], Changes()
    for document in documents:
        name = index_name(document.name)
        try:
            with os.fdopen(open_in_place(document.path), "rb") as file:
                before = os.fstat(file.fileno())
                data = file.read(document.size)
                changes = changes.during_copy(name, before, os.fstat(file.fileno()), document.size)
        except OSError as error:
            raise InputError(f"cannot read {name}: {error.strerror}", code="unreadable") from error
        if len(data) < document.size:
            raise InputError(
                f"{name} shrank while it was being read", hint="run the same command again", code="input_changed"
            )
        texts.append(Decoded(name, *decode(data, document.encoding)))
    return texts, changes
