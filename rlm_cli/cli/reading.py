"""Sources for a run: stdin spooled, folders walked, with progress; and what the root is told of them up front."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from .. import config
from ..in_place import open_in_place
from ..prompts import InputFacts
from ..prompts.texts import LISTING, SAMPLE_CHARS
from ..render.ticker import Ticker
from ..sandbox.staging import index_name
from ..sources import Corpus, Document, SourceOptions
from ..sources.arguments import Parsed
from ..sources.gather import collect
from ..sources.receive import Listener, Places, receive
from ..sources.stdin import unread_bytes_waiting
from ..units import human_bytes, human_count
from .scratch import Scratch

SAMPLED = 2


def source_options(
    settings: config.Settings,
    globs: Sequence[str] | None,
    *,
    unrestricted: int = 0,
    no_ignore: bool = False,
    follow: bool = False,
) -> SourceOptions:
    """How to read, from the settings and the flags that are no settings."""
    return SourceOptions(
        globs=tuple(globs or ()),
        ignore=settings.sources.ignore,
        unrestricted=unrestricted,
        hidden=settings.sources.hidden,
        no_ignore=no_ignore,
        follow=follow,
        encoding=settings.sources.encoding,
        max_input=settings.sources.max_input,
        archives=settings.sources.archives,
        convert=settings.sources.convert,
    )


def read(
    sources: Sequence[str],
    options: SourceOptions,
    scratch: Scratch,
    *,
    stdin: Path,
    ticker: Ticker,
    env: Mapping[str, str],
    cache: Path | None = None,
    offline: bool = False,
) -> Corpus:
    """The corpus of a command line. stdin goes to the folder `stdin`, whole; what is fetched and unpacked, to
    `scratch`. Text that was converted stays in `cache`, if there is one. Raises `InputError`."""
    listener = Listener(lambda *facts: ticker.show(_progress(*facts)), ticker.say)
    places = Places(spool=scratch.folder, stdin=stdin, cache=scratch.transfers)
    return collect(
        sources,
        options,
        received=receive(sources, options, places, listener=listener, offline=offline),
        spool=scratch.folder,
        on_progress=lambda files, size: ticker.show(f"reading: {human_count(files)} files, {human_bytes(size)}"),
        env=env,
        cache=cache,
        on_convert=lambda done, of: ticker.show(f"converting {human_count(done)} of {human_count(of)} files"),
    )


def _progress(name: str, size: int, total: int | None, rate: float | None) -> str:
    of = f" of {human_bytes(total)}" if total else ""
    return f"{name}: {human_bytes(size)}{of}{f', {human_bytes(int(rate))}/s' if rate else ''}"


def tell_unread_stdin(parsed: Parsed, ticker: Ticker) -> None:
    """Data that waits on stdin and is not read is probably a mistake."""
    if not parsed.reads_stdin and parsed.question_from != "stdin" and unread_bytes_waiting(0):
        ticker.say("stdin holds data and is not read, because sources are named; add '-' to read it too")


def input_facts(corpus: Corpus) -> InputFacts:
    """Names, kinds and short samples, for the first message to the root."""
    documents = corpus.documents
    kinds = Counter(PurePosixPath(document.name).suffix or "no extension" for document in documents)
    single = len(documents) == 1
    return InputFacts(
        files=len(documents),
        bytes=corpus.facts.bytes,
        kinds=tuple(kinds.most_common(8)),
        listing=tuple((index_name(document.name), document.size) for document in documents[:LISTING]),
        samples=_head_and_tail(documents[0]) if single else _heads(documents),
    )


def _head_and_tail(document: Document) -> tuple[tuple[str, str], ...]:
    if document.size <= 2 * SAMPLE_CHARS:
        return (("The whole input", _excerpt(document, 0, document.size)),)
    return (
        ("It begins", _excerpt(document, 0, SAMPLE_CHARS)),
        ("It ends", _excerpt(document, document.size - SAMPLE_CHARS, SAMPLE_CHARS)),
    )


def _heads(documents: tuple[Document, ...]) -> tuple[tuple[str, str], ...]:
    """The first lines of two documents, one from the middle of the list."""
    filled = [document for document in documents if document.size]
    chosen = dict.fromkeys((filled[0], filled[len(filled) // 2])) if filled else {}
    return tuple(
        (f"{document.name!a} begins", _excerpt(document, 0, SAMPLE_CHARS)) for document in list(chosen)[:SAMPLED]
    )


def _excerpt(document: Document, offset: int, size: int) -> str:
    """A few characters for orientation; the kernel decodes the document properly."""
    try:
        with os.fdopen(open_in_place(document.file), "rb") as file:
            file.seek(offset)
            raw = file.read(size)
    except OSError:
        return ""
    utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    return raw.decode("utf-16" if utf16 else "utf-8", "replace").replace("\x00", "")
