"""Bytes of a document -> text. Never dropped, never newline-translated."""

from __future__ import annotations

BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
"""The longer mark first: UTF-32's begins with UTF-16's."""


def decode(data: bytes, encoding: str = "auto") -> tuple[str, bool]:
    """The text, and whether the bytes were not valid in their encoding.

    "auto": a byte order mark decides (and is removed); else strict UTF-8; else Latin-1, which takes any byte, counted
    as lossy. A named codec replaces what it cannot read. Raises `LookupError` for a codec that does not exist.
    """
    if encoding != "auto":
        return _replacing(data, encoding)
    for mark, codec in BOMS:
        if data.startswith(mark):
            return _replacing(data[len(mark) :], codec)
    try:
        return data.decode("utf-8"), False
    except UnicodeDecodeError:
        return data.decode("latin-1"), True


def _replacing(data: bytes, codec: str) -> tuple[str, bool]:
    try:
        return data.decode(codec), False
    except UnicodeDecodeError:
        return data.decode(codec, "replace"), True
