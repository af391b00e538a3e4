"""Replies of earlier runs on disk (`--cache`): one small file each, named by what was asked; bounded in size."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from pathlib import Path

from ..events import Usage
from ..private import make_private, open_new
from . import Completion

VERSION = 1
KEY = re.compile(r"[0-9a-f]{64}")
SHRINK_TO = 0.9
"""When it is too large, the replies longest unused go until this part of the bound is left."""


class ReplyStore:
    """A folder of replies, 0700/0600. What cannot be read is not there, and what cannot be written is not kept: a cache
    never fails a run. Several runs may use it at once; a file appears whole or not at all."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._written = 0

    def get(self, key: str) -> Completion | None:
        """The reply, without what it cost then but with its tokens. Marks it as used."""
        path = self._path(key)
        try:
            data = json.loads(path.read_bytes())
            usage = Usage(int(data["input"]), int(data["output"]))
            found = Completion(data["text"], usage, str(data["model"]))
            current = data["version"] == VERSION and data["key"] == key
            current = current and isinstance(found.text, str) and min(usage.input, usage.output) >= 0
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found if current else None

    def put(self, key: str, completion: Completion) -> None:
        """Keep a reply."""
        data = {
            "version": VERSION,
            "key": key,
            "model": completion.model,
            "text": completion.text,
            "input": completion.usage.input,
            "output": completion.usage.output,
        }
        path = self._path(key)
        scratch = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            make_private(path.parent)
            with os.fdopen(open_new(scratch), "wb") as file:
                file.write(json.dumps(data).encode())
            scratch.replace(path)
            self._written += 1
        except OSError:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)

    def prune(self) -> None:
        """Bring the folder below its bound, if anything was added. Takes a moment where there are very many files."""
        if not self._written:
            return
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total <= self._most:
            return
        for _, size, path in files:
            if total <= self._most * SHRINK_TO:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """(last used, bytes, path) of every reply."""
        found = []
        for path in self._folder.glob("??/*.json"):
            with contextlib.suppress(OSError):
                status = path.lstat()
                found.append((status.st_mtime, status.st_size, path))
        return found

    def _path(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ValueError("a key is a SHA-256 in hex")
        return self._folder / key[:2] / f"{key}.json"
