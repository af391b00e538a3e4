"""`rlm sources`: what `ask` would read, and what not. Costs nothing, needs no key and no container."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from .. import config
from ..errors import UsageError
from ..events import to_json
from ..sources import Corpus, Document, Skip, SourceOptions
from ..sources.summary import stored
from . import options, reading, show
from .scratch import Scratch, scratch


def sources(
    ctx: typer.Context,
    arguments: options.SourceArguments = None,
    source: options.SourceOption = None,
    glob: options.Globs = None,
    unrestricted: options.Unrestricted = 0,
    no_ignore: options.NoIgnore = False,
    follow: options.Follow = False,
    skipped: Annotated[bool, typer.Option("--skipped", help="what is left out instead: path, reason, rule")] = False,
    top: Annotated[int | None, typer.Option("--top", metavar="N", min=1, help="the N largest, with sizes")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="every file with its estimated tokens")] = False,
    json: options.Json = False,
    null: Annotated[bool, typer.Option("-0", "--null", help="end each path with NUL, for xargs -0")] = False,
) -> None:
    """Show what would be read: names on stdout, the summary on stderr.

    \b
      rlm sources corpus/                what `rlm ask corpus/ ...` would read
      rlm sources corpus/ --skipped      what it would leave out, and why
      rlm sources corpus/ --top 10       where the size is
    """
    from ..sources.summary import stored_words, summary_line

    settings = options.settings(ctx)
    show.warnings(settings)
    named = [*(source or ()), *(arguments or ())]
    how = reading.source_options(settings, glob, unrestricted=unrestricted, no_ignore=no_ignore, follow=follow)
    with scratch(options.places(ctx)) as place:
        cache = options.places(ctx).converted if settings.logs.enabled else None
        corpus = _collect(settings, named, how, place, cache)
        skips = _explained(corpus) if skipped or json else ()
        if json:
            show.as_json(_facts(corpus, skips, place.folder))
        elif skipped:
            _print_skips(settings, skips, null=null)
        else:
            _print_documents(settings, corpus.documents, top=top, tokens=tokens, null=null)
    for note in (*corpus.notes, *stored_words(corpus)):
        show.note(settings, f"rlm: {note}")
    show.note(settings, f"rlm: {summary_line(corpus, named, how)}")


def _collect(
    settings: config.Settings, named: list[str], how: SourceOptions, place: Scratch, cache: Path | None
) -> Corpus:
    """The corpus, with what has to be stored in `place`; progress on a terminal."""
    from ..render.look import look_for
    from ..render.ticker import Ticker
    from ..sources.stdin import carries_data, stdin_kind

    if not named and carries_data(stdin_kind()):
        named.append("-")
    if not named:
        raise UsageError("no sources", hint="rlm sources FILE|FOLDER...")
    env, offline = config.environment(), settings.run.offline
    look = look_for(sys.stderr, color=settings.output.color, env=env, verbosity=settings.run.verbose)
    with closing(Ticker(sys.stderr, look, quiet=settings.run.quiet)) as ticker:
        return reading.read(named, how, place, stdin=place.folder, ticker=ticker, env=env, cache=cache, offline=offline)


def _explained(corpus: Corpus) -> tuple[Skip, ...]:
    from ..sources.git import explain

    return explain(corpus.skips, config.environment())


def _facts(corpus: Corpus, skips: tuple[Skip, ...], scratch: Path) -> dict[str, object]:
    """`path` is null where nothing is left of the document after this command."""

    def path(document: Document) -> str | None:
        return None if document.kept.startswith(f"{scratch}/") else document.kept

    return {
        "schema_version": 1,
        "sources": to_json(corpus.facts),
        "files": [{"name": d.name, "path": path(d), "bytes": d.size, "origin": d.origin} for d in corpus.documents],
        "stored": stored(corpus),
        "skipped": [{"path": s.path, "reason": s.reason, "rule": s.rule, "files": s.files} for s in skips],
        "notes": list(corpus.notes),
    }


def _print_documents(
    settings: config.Settings, documents: Sequence[Document], *, top: int | None, tokens: bool, null: bool
) -> None:
    from ..render.tables import Column
    from ..units import compact_count, human_bytes

    if top is None and not tokens:
        _print_names([document.name for document in documents], null=null)
        return
    if top is not None:
        documents = sorted(documents, key=lambda document: -document.size)[:top]
    rows = [[human_bytes(d.size), f"~{compact_count(d.size // 4)}", d.name] for d in documents]
    show.table(settings, [Column("size", "right"), Column("tokens", "right"), Column("name", keep=True)], rows)


def _print_skips(settings: config.Settings, skips: Sequence[Skip], *, null: bool) -> None:
    if null:
        _print_names([skip.path for skip in skips], null=True)
    elif skips:
        from ..render.tables import Column

        columns = [Column("path", keep=True), Column("reason"), Column("rule", keep=True)]
        show.table(settings, columns, [[s.path, s.reason.replace("_", " "), s.rule] for s in skips])


def _print_names(names: Sequence[str], *, null: bool) -> None:
    """Byte for byte with -0 and in a pipe; on a terminal a name cannot send control sequences."""
    if null or not sys.stdout.isatty():
        end = b"\0" if null else b"\n"
        sys.stdout.flush()
        sys.stdout.buffer.write(b"".join(os.fsencode(name) + end for name in names))
        sys.stdout.buffer.flush()
        return
    for name in names:
        show.line(name)
