"""A transfer that has not come to its end, on disk: KEY.part (0600), and KEY.json with what tells this version of the
entity from another, so that the next command can go on with it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..private import make_private

BLOCK = 1 << 20


@dataclass(frozen=True)
class Entity:
    """What is being fetched: `validator` for If-Range ("" when the server gave no strong one), and its coding."""

    validator: str = ""
    total: int | None = None
    coding: str = ""


@dataclass
class Part:
    """The file that grows, locked by this process."""

    path: Path
    descriptor: int
    entity: Entity = Entity()
    size: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, cache: Path, key: str, target: Path) -> Iterator[Part]:
        """The part of this URL, with what an earlier command left in it; where another command is busy with the same
        URL, one of our own beside `target`. It stays only if it can be continued."""
        make_private(cache)
        cache.chmod(0o700)
        part = cls._locked(cache / f"{key}.part") or cls._locked(target.with_name(f"{target.name}.part"))
        if part is None:
            raise OSError(0, "the file is in use")
        try:
            part._adopt()
            yield part
        finally:
            moved = not _same_file(part.path, part.descriptor)
            os.close(part.descriptor)
            if not moved and not (part.entity.validator and part.size):
                part.path.unlink(missing_ok=True)
                part._note.unlink(missing_ok=True)

    @classmethod
    def _locked(cls, path: Path) -> Part | None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it until now may have moved it away.
            if _same_file(path, descriptor):
                return cls(path, descriptor)
        os.close(descriptor)
        return None

    @property
    def _note(self) -> Path:
        return self.path.with_suffix(".json")

    def _adopt(self) -> None:
        """Take over what is there, if it says what it is of. At least one byte is left to be fetched: the answer tells
        whether it is the same entity still."""
        size = os.fstat(self.descriptor).st_size
        try:
            entity = Entity(**json.loads(self._note.read_text("ascii")))
            whole = entity.total if isinstance(entity.total, int) else size
            keep = min(size, whole - 1)
        except (OSError, ValueError, TypeError):
            entity, keep = Entity(), 0
        if keep <= 0 or not isinstance(entity.validator, str) or not entity.validator:
            self.start(Entity())
            return
        os.ftruncate(self.descriptor, keep)
        while piece := os.read(self.descriptor, BLOCK):
            self.digest.update(piece)
            self.size += len(piece)
        self.entity = entity

    def start(self, entity: Entity) -> None:
        """From the first byte, of this entity."""
        self._note.unlink(missing_ok=True)
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        self.entity, self.size, self.digest = entity, 0, hashlib.sha256()
        if entity.validator:
            descriptor = os.open(self._note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                json.dump(asdict(entity), file)

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        self.digest.update(data)
        self.size += len(data)

    def move_to(self, target: Path) -> None:
        self._note.unlink(missing_ok=True)
        self.path.rename(target)


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
