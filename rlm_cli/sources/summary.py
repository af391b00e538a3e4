"""The line that is always printed: what was read and what was not (CLI.md C28)."""

from __future__ import annotations

from collections.abc import Sequence

from ..units import compact_count, human_bytes, human_count
from . import DEFAULT_OPTIONS, Corpus, SourceOptions
from .arguments import STDIN, quote
from .urls import shown

LONGEST_COMMAND = 80


def summary_line(corpus: Corpus, sources: Sequence[str], options: SourceOptions = DEFAULT_OPTIONS) -> str:
    """`1,284 files · 412 MB · ~103 M tokens; skipped 37 (28 ignored, 9 binary) — rlm sources logs/ --skipped`.

    The command lists the same walk: it has the options that filter it, and the sources unless they make it too long.
    """
    facts = corpus.facts
    line = f"{_what(corpus)} · {human_bytes(facts.bytes)} · ~{compact_count(facts.tokens_est)} tokens"
    if not facts.skipped.total:
        return line
    return f"{line}; {facts.skipped} — {skips_command(sources, options)}"


def stored(corpus: Corpus) -> dict[str, int]:
    """Bytes that had to be stored to be read, by where they came from; nothing that is read where it is."""
    sizes: dict[str, int] = {}
    for document in corpus.documents:
        if document.origin != "file":
            sizes[document.origin] = sizes.get(document.origin, 0) + document.size
    return sizes


STORED = {
    "stdin": "from stdin",
    "pipe": "from pipes",
    "url": "fetched",
    "archive": "unpacked",
    "converted": "converted",
}


def stored_words(corpus: Corpus) -> tuple[str, ...]:
    """`stored for this: 2.0 MB fetched, 12 MB unpacked`, or nothing."""
    words = ", ".join(f"{human_bytes(size)} {STORED.get(origin, origin)}" for origin, size in stored(corpus).items())
    return (f"stored for this: {words}",) if words else ()


def _what(corpus: Corpus) -> str:
    files = sum(document.origin != "stdin" for document in corpus.documents)
    stdin = len(corpus.documents) > files
    named = f"{human_count(files)} file{'' if files == 1 else 's'}"
    return " and ".join([*([named] if files else []), *(["stdin"] if stdin else [])])


def skips_command(sources: Sequence[str], options: SourceOptions) -> str:
    """What lists the paths that this walk left out."""
    words = [*filter_flags(options), *(quote(shown(source)) for source in sources if source != STDIN)]
    line = " ".join(["rlm sources", *words, "--skipped"])
    return line if len(line) <= LONGEST_COMMAND else "rlm sources … --skipped"


def filter_flags(options: SourceOptions) -> list[str]:
    """The options of a walk, as they are typed."""
    flags = ["-" + "u" * options.unrestricted] if options.unrestricted else []
    flags += ["--hidden"] if options.hidden else []
    flags += ["--no-ignore"] if options.no_ignore else []
    flags += ["-L"] if options.follow else []
    flags += [f"--convert {options.convert}"] if options.convert != DEFAULT_OPTIONS.convert else []
    flags += ["--set sources.archives=false"] if not options.archives else []
    return flags + [f"-g {quote(glob)}" for glob in options.globs]
