"""What a tree of runs shares so that `rlm_query` can be a run of its own: its sandboxes, and what is passed to them.

A child has a container of its own (DESIGN.md 2): nothing that its code does reaches its parent's variables. Parts of
the input are passed by reference, as (document, range) of the parent's own index, and mounted from where the root's
are; only texts that the code made are copied. Everything that the kernel says about them is checked here.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .errors import InputError, SandboxError
from .sandbox import Document, Passed, Reference, Sandbox, Slice, Value, decode, first_byte

AT_ONCE = 4
"""Children that live at once on each level. A level of its own for each, so that nobody waits for a place that is held
by one who waits for him."""
ENCODING = re.compile(r"[\w.-]{0,40}")


@dataclass
class Children:
    """How children come into being. `sandbox` makes one that is not opened; `placed` says where the root's documents
    are on the host; `folder` is a private directory (None: the system's temporary one). `close` when the root is over.
    """

    sandbox: Callable[[], Sandbox]
    placed: Callable[[Sequence[Document]], Sequence[Document]] = lambda documents: documents
    folder: Path | None = None
    warn: Callable[[str], None] = lambda _message: None
    live: list[Sandbox] = field(default_factory=list)
    """Those whose place is not yet seen to be gone."""
    _places: dict[int, asyncio.Semaphore] = field(default_factory=dict)

    @asynccontextmanager
    async def place(
        self, depth: int, documents: Sequence[Document], passed: Passed
    ) -> AsyncIterator[tuple[Sandbox, Sequence[Document]]]:
        """A sandbox for a child at `depth`, and what it is to work on of its parent's `documents`; waits until one is
        free. Raises `InputError` for what its parent does not have."""
        async with self._places.setdefault(depth, asyncio.Semaphore(AT_ONCE)):
            with tempfile.TemporaryDirectory(prefix="rlm-child-", dir=self.folder) as scratch:
                given = (
                    documents if passed is None else await asyncio.to_thread(resolve, passed, documents, Path(scratch))
                )
                sandbox = self.sandbox()
                self.live.append(sandbox)
                try:
                    yield sandbox, given
                finally:
                    await self._end(sandbox)

    async def _end(self, sandbox: Sandbox) -> None:
        """When the waiter is cancelled, `close` waits for it."""
        try:
            await sandbox.close()
        except SandboxError as error:
            self.warn(f"{error.message} {error.hint}".strip())
        self.live[:] = [other for other in self.live if other is not sandbox]

    async def close(self) -> None:
        """Until every child's container is gone."""
        for sandbox in tuple(self.live):
            await self._end(sandbox)


def resolve(passed: Passed, documents: Sequence[Document], scratch: Path) -> Sequence[Document]:
    """What was passed, as documents; texts are written to one private file in `scratch`. Raises `InputError`."""
    if passed is None:
        return documents
    if not passed:
        raise unusable("it is empty")
    texts = scratch / "texts"
    found: list[Document] = []
    with os.fdopen(os.open(texts, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for part in passed:
            if isinstance(part, Reference):
                found.append(referred(part, documents))
                continue
            data = part.text.encode("utf-8", "replace")
            found.append(Slice(part.name, texts, len(data), "utf-8", file.tell()))
            file.write(data)
    return found


def referred(part: Reference, documents: Sequence[Document]) -> Slice:
    """The part of a document that is meant. Raises `InputError`."""
    if not 0 <= part.number < len(documents):
        raise unusable(f"there is no document {part.number}")
    document = documents[part.number]
    size = document.size - part.start if part.size is None else part.size
    if not 0 <= part.start <= part.start + size <= document.size:
        raise unusable(f"bytes {part.start} to {part.start + size} are not in {document.name}")
    if not ENCODING.fullmatch(part.encoding):
        raise unusable(f"{part.encoding!r} is no encoding")
    encoding = part.encoding or document.encoding
    return Slice(part.name or document.name, document.path, size, encoding, first_byte(document) + part.start)


def unusable(why: str) -> InputError:
    return InputError(f"rlm_query: this context cannot be passed: {why}", code="child_context")


def in_words(prompt: str, passed: Passed, documents: Sequence[Document], most: int) -> str:
    """The question with what was passed below it, for a plain call: at the depth limit there is no child to look at it.
    Raises `InputError` for more than `most` bytes, and when the file cannot be read."""
    if passed is None:
        return prompt
    parts = [part if isinstance(part, Value) else referred(part, documents) for part in passed]
    size = sum(len(part.text) if isinstance(part, Value) else part.size for part in parts)
    if size > most:
        raise unusable(f"it has {size:,} bytes, and one call takes about {most:,}: at this depth pass less at a time")
    texts = [(part.name, part.text if isinstance(part, Value) else text_of(part)) for part in parts]
    if len(texts) == 1:
        return f"{prompt}\n\n{texts[0][1]}"
    return "\n\n".join((prompt, *(f"{name}:\n{text}" for name, text in texts)))


def text_of(part: Slice) -> str:
    """A small document's text. Raises `InputError`."""
    with suppress(OSError, LookupError), part.path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), part.size, part.offset)
        if len(data) == part.size:
            return decode(data, part.encoding)[0]
    raise unusable(f"{part.name} cannot be read any more")
