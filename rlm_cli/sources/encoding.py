"""Text or binary, and which codec names are codecs."""

from __future__ import annotations

import codecs
import difflib
from encodings.aliases import aliases
from typing import Literal, NamedTuple

from ..errors import UsageError

HEAD = 64 * 1024
"""How far a NUL byte is looked for."""

# UTF-32 first: its little-endian mark begins with that of UTF-16.
BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
# Codecs that decode str-like bytes but that no file is written in, or whose meaning depends on more than the bytes.
NOT_FOR_FILES = {"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "unicode_escape"}


class Sniffed(NamedTuple):
    kind: Literal["text", "binary"]
    encoding: str
    """The likely codec; "" for binary."""


def sniff(head: bytes) -> Sniffed:
    """Judge a file by its first bytes (`HEAD` of them): a mark decides, then NUL, then whether it is UTF-8."""
    for mark, name in BOMS:
        if head.startswith(mark):
            binary = name == "utf-8-sig" and b"\0" in head
            return Sniffed("binary", "") if binary else Sniffed("text", name)
    if b"\0" in head:
        return Sniffed("binary", "")
    try:
        # Not final: the head may end inside a character.
        codecs.getincrementaldecoder("utf-8")("strict").decode(head)
    except UnicodeDecodeError:
        return Sniffed("text", "latin-1")
    return Sniffed("text", "utf-8")


def is_binary(head: bytes) -> bool:
    """A NUL byte outside UTF-16 and UTF-32 with a mark (CLI.md C29)."""
    return b"\0" in head and sniff(head).kind == "binary"


def check_encoding(name: str) -> str:
    """The codec's canonical name, or "auto". Raises `UsageError` for what cannot decode a file."""
    if name.lower() == "auto":
        return "auto"
    try:
        codec = codecs.lookup(name).name
        # Refuses the bytes-to-bytes codecs (hex, zip, ...).
        b"text".decode(name, "ignore")
    except (LookupError, ValueError, UnicodeError):
        raise _unknown(name) from None
    if codec in NOT_FOR_FILES:
        raise _unknown(name)
    return codec


def _unknown(name: str) -> UsageError:
    known = sorted({*aliases.keys(), *aliases.values(), "utf-8", "utf-16", "latin-1"})
    near = [word for word in difflib.get_close_matches(name.lower(), known, 3, 0.6) if word not in NOT_FOR_FILES]
    hint = f"did you mean {' or '.join(near)}?" if near else "leave --encoding out to have it detected"
    return UsageError(f"unknown text encoding {name!r}", hint=hint, code="encoding")
