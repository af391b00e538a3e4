"""What a tree of runs shares so that `rlm_query` can be a run of its own: its sandboxes, and what is passed to them.

A child has a container of its own (DESIGN.md 2): nothing that its code does reaches its parent's variables. Parts of
the input are passed by reference, as (document, range) of the parent's own index, and mounted from where the root's
are; only texts that the code made are copied. Everything that the kernel says about them is checked here.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .errors import InputError, SandboxError
from .in_place import open_in_place
from .sandbox import Document, Passed, Quote, Reference, Sandbox, Slice, Value, decode, first_byte
from .sandbox.guard import Guard

AT_ONCE = 4
"""Children that live at once on each level. A level of its own for each, so that nobody waits for a place that is held
by one who waits for him."""
ANY = frozenset(
    {"utf-8", "utf-8-sig", "iso8859-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"}
)
"""What a document may turn out to be in, whatever its encoding was thought to be."""


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
    _copies: Copies | None = None

    @asynccontextmanager
    async def place(
        self, depth: int, documents: Sequence[Document], passed: Passed
    ) -> AsyncIterator[tuple[Sandbox, Sequence[Document]]]:
        """A sandbox for a child at `depth`, and what it is to work on of its parent's `documents`; waits until one is
        free. Raises `InputError` for what its parent does not have."""
        async with self._places.setdefault(depth, asyncio.Semaphore(AT_ONCE)):
            texts = self._new_copy(passed)
            try:
                given = documents if passed is None else await asyncio.to_thread(resolve, passed, documents, texts)
                sandbox = self.sandbox()
                self.live.append(sandbox)
                try:
                    yield sandbox, given
                finally:
                    await self._end(sandbox)
            finally:
                if texts is not None:
                    texts.unlink(missing_ok=True)

    def _new_copy(self, passed: Passed) -> Path | None:
        """The file for the texts among what is passed; None when there are none. Raises `InputError`."""
        if passed is None or not any(isinstance(part, Value) for part in passed):
            return None
        try:
            self._copies = self._copies or Copies.below(self.folder)
        except OSError as error:
            raise unwritten(error) from error
        return self._copies.next()

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
        if self._copies is not None:
            self._copies.remove()

    def kill_now(self) -> None:
        """The same as far as it can be done without an event loop."""
        for sandbox in tuple(self.live):
            sandbox.kill_now()
        if self._copies is not None:
            self._copies.remove()


@dataclass
class Copies:
    """The texts that were copied for children: a private folder, which a process of its own removes if we cannot."""

    home: Path
    guard: Guard | None
    made: int = 0

    @classmethod
    def below(cls, folder: Path | None) -> Copies:
        """None: the system's temporary folder. Raises `OSError`."""
        home = Path(tempfile.mkdtemp(prefix="rlm-children-", dir=folder)).resolve()
        guard = None
        with suppress(OSError):  # no /bin/sh, no process to spare
            guard = Guard.of_folders(home)
        return cls(home, guard)

    def next(self) -> Path:
        """Where a new file may be made."""
        self.made += 1
        return self.home / f"{self.made}.txt"

    def remove(self) -> None:
        """All of them. Idempotent."""
        shutil.rmtree(self.home, ignore_errors=True)
        if self.guard is not None:
            self.guard.release()


def resolve(passed: Passed, documents: Sequence[Document], texts: Path | None) -> Sequence[Document]:
    """What was passed, as documents; texts are written to one new private file, `texts`. Raises `InputError`."""
    if passed is None:
        return documents
    if not passed:
        raise unusable("it is empty")
    found: list[Document] = []
    data = bytearray()
    for part in passed:
        if isinstance(part, Reference):
            found.append(referred(part, documents))
        elif texts is not None:
            piece = part.text.encode("utf-8", "replace")
            found.append(Slice(part.name, texts, len(piece), "utf-8", len(data)))
            data += piece
    if texts is not None:
        try:
            with os.fdopen(os.open(texts, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        except OSError as error:
            raise unwritten(error) from error
    return found


def referred(part: Reference, documents: Sequence[Document]) -> Slice:
    """The part of a document that is meant. Raises `InputError`."""
    if not 0 <= part.number < len(documents):
        raise unusable(f"there is no document {part.number}")
    document = documents[part.number]
    size = document.size - part.start if part.size is None else part.size
    if not 0 <= part.start <= part.start + size <= document.size:
        raise unusable(f"bytes {part.start} to {part.start + size} are not in {document.name}")
    if part.encoding not in ("", document.encoding) and not is_right(part.encoding, document.encoding):
        raise unusable(f"{part.encoding!r} is not the encoding of {document.name}")
    encoding = part.encoding or document.encoding
    return Slice(part.name or document.name, document.path, size, encoding, first_byte(document) + part.start)


def is_right(encoding: str, own: str) -> bool:
    """Whether part of a document of the encoding `own` may be read so. Code that chooses freely would choose one that
    takes hours (punycode), and the host itself reads some parts."""
    try:
        name = codecs.lookup(encoding).name
        return name in ANY or (own != "auto" and name == codecs.lookup(own).name)
    except (LookupError, ValueError):  # there is none of that name; a NUL in it
        return False


def handed_up(quotes: Sequence[Quote], given: Sequence[Document], documents: Sequence[Document]) -> tuple[Quote, ...]:
    """A child's evidence, as its parent's: a quote from a part of a document is one from that document. Where the part
    does not begin where the document does, its place is not known there: counting characters up to it would mean to
    read all of them. Of a text that the parent made, neither is known."""
    from .sandbox.staging import index_name

    if not quotes:
        return ()
    named = {index_name(document.name): document for document in given} if len(given) > 1 else {}
    alone = given[0] if len(given) == 1 else None
    wanted = {document.path for document in given}
    starts: dict[Path, list[Document]] = {}
    for document in documents:
        if document.path in wanted:
            starts.setdefault(document.path, []).append(document)

    def place(quote: Quote) -> Quote:
        part = alone or named.get(quote.document)
        for document in starts.get(part.path, ()) if part else ():
            begins = first_byte(document)
            if part and begins <= first_byte(part) and first_byte(part) + part.size <= begins + document.size:
                start = quote.start if begins == first_byte(part) else None
                return Quote(quote.quote, index_name(document.name), start)
        return Quote(quote.quote)

    return tuple(map(place, quotes))


def unusable(why: str) -> InputError:
    return InputError(f"rlm_query: this context cannot be passed: {why}", code="child_context")


def unwritten(error: OSError) -> InputError:
    return unusable(f"its text cannot be written for the child: {error.strerror}")


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
    with suppress(OSError, LookupError), os.fdopen(open_in_place(part.path), "rb", buffering=0) as file:
        data = os.pread(file.fileno(), part.size, part.offset)
        if len(data) == part.size:
            return decode(data, part.encoding)[0]
    raise unusable(f"{part.name} cannot be read any more")
