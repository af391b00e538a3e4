"""Sources that are no files on this machine (stdin, pipes, URLs) -> files of ours, before anything is walked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..disk import Room, disk_error
from ..errors import InputError, UsageError
from . import Document, SourceOptions
from .arguments import STDIN, check_sources
from .encoding import check_encoding
from .stdin import Watch, is_pipe, spool_pipe, spool_stdin
from .urls import is_url, shown

FOLDER = "received"
PACKED_MEDIA = ("gzip", "zip", "tar", "bzip2", "xz", "zstd")


@dataclass(frozen=True)
class Received:
    """The bytes of `source`, a word of the command line, in a file of ours. `parts`: its name, outermost first.
    `by_content`: what it is packed with its bytes alone say, because it has no name that would."""

    source: str
    document: Document
    parts: tuple[str, ...]
    by_content: bool = True

    @property
    def written(self) -> str:
        """What errors and skips call it."""
        return self.document.written or self.document.name


def _ignore(*_: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Listener:
    """Who is told meanwhile. `progress` gets a name, bytes so far, of how many (None: unknown) and bytes a second
    (None: not measured); `says` a sentence that the person should see."""

    progress: Callable[[str, int, int | None, float | None], None] = _ignore
    says: Callable[[str], None] = _ignore


@dataclass(frozen=True)
class Places:
    """Where bytes go: `spool` does not outlive the command, `stdin` may; `cache` keeps transfers that broke, on the
    disk of `spool`."""

    spool: Path
    stdin: Path
    cache: Path


def receive(
    sources: Sequence[str],
    options: SourceOptions,
    places: Places,
    *,
    listener: Listener = Listener(),
    offline: bool = False,
) -> tuple[Received, ...]:
    """Everything among `sources` that has to be stored to be read, in their order. Blocks.

    Raises `InputError`; what was stored until then stays in `places`, whose owner removes it.
    """
    check_sources(sources)
    if offline and any(map(is_url, sources)):
        url = next(filter(is_url, sources))
        hint = f"drop it (or unset RLM_OFFLINE), or download the file: curl -fsSLO {shown(url)}"
        raise InputError(f"--offline forbids to fetch {shown(url)}", hint=hint, code="offline")
    reception = Reception(options, places, listener, {})
    return tuple(found for source in dict.fromkeys(sources) if (found := reception.take(source)) is not None)


@dataclass
class Reception:
    """The sources of one command while they are received."""

    options: SourceOptions
    places: Places
    listener: Listener
    rooms: dict[Path, Room]
    stored: int = 0
    count: int = 0

    def take(self, source: str) -> Received | None:
        """The source's bytes; None for what is read where it is."""
        if source == STDIN:
            watch, room = self._watch("stdin"), self._room(self.places.stdin)
            document = spool_stdin(0, self.places.stdin, max_input=self._left(), watch=watch, room=room)
            found = Received(source, document, ("stdin",))
        elif is_url(source):
            found = self._fetched(source)
        elif is_pipe(source):
            document = spool_pipe(
                source, self._target(), max_input=self._left(), watch=self._watch(source), room=self._room()
            )
            found = Received(source, document, _pipe_parts(source))
        else:
            return None
        self.stored += found.document.size
        return found

    def _fetched(self, url: str) -> Received:
        # httpx takes a third of a second to import.
        from .http import Errand, fetch

        errand = Errand(
            url,
            self.places.cache,
            self._room(),
            limit=self._left(),
            received=lambda at: self.listener.progress(shown(url), at.done, at.total, at.rate),
            says=self.listener.says,
        )
        got = fetch(errand, self._target())
        encoding = "auto" if got.charset in ("utf-8", "utf8", "us-ascii", "ascii") else _known(got.charset)
        document = Document(
            got.parts[-1],
            str(got.path.resolve()),
            got.size,
            encoding,
            origin="url",
            sha256=got.sha256,
            written=shown(url),
        )
        named = "." in got.parts[-1] and len(got.parts) > 1
        by_content = not named or got.media.rpartition("/")[2].removeprefix("x-") in PACKED_MEDIA
        return Received(url, document, ("/", *got.parts), by_content)

    def _left(self) -> int | None:
        """How much may come."""
        limit = self.options.max_input
        return None if limit is None else max(0, limit - self.stored)

    def _room(self, folder: Path | None = None) -> Room:
        folder = folder or self.places.spool
        return self.rooms.setdefault(folder, Room(folder))

    def _target(self) -> Path:
        folder = self.places.spool / FOLDER
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.places.spool, "what is received") from error
        self.count += 1
        return folder / str(self.count)

    def _watch(self, title: str) -> Watch:
        return Watch(
            received=lambda size: self.listener.progress(title, size, None, None),
            waiting=lambda: self.listener.says(f"waiting for data on {title}..."),
        )


def _pipe_parts(path: str) -> tuple[str, ...]:
    """`/dev/fd/63` is `fd-63`: a bare number says nothing."""
    parts = ("/", *(part for part in path.split("/") if part not in ("", ".", "..")))
    return (*parts[:-1], f"fd-{parts[-1]}") if parts[-2:-1] == ("fd",) else parts


def _known(charset: str) -> str:
    """The codec that a server named; what we do not know is detected."""
    try:
        return check_encoding(charset) if charset else "auto"
    except UsageError:
        return "auto"
