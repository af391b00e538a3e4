"""A URL on the command line: how it may be shown, and what its document is called. Nothing is fetched here."""

from __future__ import annotations

import re
from urllib.parse import unquote

URL = re.compile(r"https?://", re.IGNORECASE)

LONGEST_NAME = 200
"""Bytes of a document's name that a server may choose."""

_PARTS = re.compile(r"(?P<scheme>https?)://(?P<host>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?", re.IGNORECASE)
_SECRET_KEY = re.compile(r"token|secret|passw|pwd|auth|credential|signature|session|(^|[-_.])(sig|key|code|jwt)$", re.I)
_SECRET_VALUE = re.compile(r"[\w.~+/%=-]{24,}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def is_url(word: str) -> bool:
    return bool(URL.match(word))


def shown(word: str) -> str:
    """The word as it may be printed and recorded. Of a URL: without name and password, without what looks like a
    secret in its query, and without its fragment, which is never sent. Anything else: itself."""
    found = _PARTS.match(word)
    if found is None:
        return word
    host = found["host"].rpartition("@")[2]
    query = re.sub(r"([?&;])([^=&;]*)=([^&;]*)", _veiled, found["query"] or "")
    return f"{found['scheme'].lower()}://{host}{found['path']}{query}"


def _veiled(pair: re.Match[str]) -> str:
    secret = _SECRET_KEY.search(pair[2]) or _SECRET_VALUE.fullmatch(pair[3])
    return f"{pair[1]}{pair[2]}=…" if secret else pair[0]


def name_parts(url: str, disposition: str = "") -> tuple[str, ...]:
    """What the document of a URL may be called, outermost first: host, folders, file name.

    The file name is the one in `disposition` (a Content-Disposition header) where there is one, else the last part of
    the URL's path, else the host's. All of them are only ever names: no slash, no control character, never `..`.
    """
    found = _PARTS.match(url)
    host, path = (found["host"].rpartition("@")[2], found["path"]) if found else ("", url)
    folders = [_safe(unquote(part)) for part in path.split("/")]
    given = _safe(_disposed(disposition).replace("\\", "/").rpartition("/")[2])
    names = [part for part in [*folders[:-1], given or folders[-1]] if part]
    return tuple(part for part in (_safe(host), *names) if part) or ("download",)


def _disposed(header: str) -> str:
    """The file name in a Content-Disposition header, "" when there is none."""
    from email.message import Message  # only where something is fetched

    message = Message()
    message["Content-Disposition"] = _CONTROL.sub(" ", header)
    try:
        name = message.get_filename() or ""
    except (LookupError, ValueError, TypeError):
        return ""
    try:
        # Headers arrive as Latin-1; many servers send UTF-8 all the same.
        return name.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return name


def _safe(part: str) -> str:
    part = _CONTROL.sub("_", part).replace("/", "_").strip()
    part = part.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore")
    return "" if part in (".", "..") else part
