"""A file that is read whole, and an office document as what it is: a zip with XML in it."""

from __future__ import annotations

import codecs
import os
import posixpath
from xml.etree import ElementTree
from zipfile import ZipFile

from .output import RefusedError

codecs.lookup("cp437")  # of names in a zip; nothing can be imported once a file is read

OLE = b"\xd0\xcf\x11\xe0"
MOST = 256 << 20
"""Bytes of what is parsed whole."""
MOST_XML = 512 << 20
"""Bytes of the texts in a document, unpacked. zipfile hands out no more than an entry claims to have."""


def opened(source: int) -> ZipFile:
    """The document as the zip that it is."""
    head = os.pread(source, 4, 0)
    if head == OLE:
        raise RefusedError("it is encrypted, or in the format of before 2007: save it anew without a password")
    package = ZipFile(os.fdopen(source, "rb", closefd=False))
    if sum(info.file_size for info in package.infolist() if info.filename.endswith((".xml", ".rels"))) > MOST_XML:
        raise RefusedError(f"its texts unpack to more than {MOST_XML >> 20} MiB, like a zip bomb")
    return package


def relations(package: ZipFile, part: str) -> dict[str, str]:
    """Id -> the part of the package that it stands for. What is outside stays outside."""
    folder, name = posixpath.split(part)
    path = f"{folder}/_rels/{name}.rels"
    if path not in package.namelist():
        return {}
    return {
        entry.get("Id", ""): posixpath.normpath(posixpath.join("/", folder, entry.get("Target", ""))).lstrip("/")
        for entry in parsed(package, path)
        if entry.get("TargetMode") != "External"
    }


def parsed(package: ZipFile, name: str) -> ElementTree.Element:
    """One part. expat expands no entities from outside, and refuses those that grow without end."""
    with package.open(name) as file:
        return ElementTree.parse(file).getroot()  # noqa: S314


def whole(source: int) -> bytes:
    """All of a file."""
    with os.fdopen(source, "rb", closefd=False) as file:
        file.seek(0)
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise RefusedError(f"it is larger than {MOST >> 20} MiB")
    return data
