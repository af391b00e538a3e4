"""`collect`: the sources of a command line -> the `Corpus`, its names, its limits and its manifest."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..disk import Room
from ..errors import InputError
from ..events import Skipped, SourcesFacts
from ..units import human_bytes, human_count
from . import DEFAULT_OPTIONS, Corpus, Document, Skip, SkipReason, SourceOptions, git
from .archives import DAMAGED, FOLDER, Archive, Unpacker
from .arguments import STDIN, check_sources, quote
from .compressed import kind_of, recognise, without_suffix
from .convert.convert import ConvertProgress
from .convert.join import FOLDER as CONVERTED
from .convert.join import needs_extra, with_text
from .encoding import HEAD, check_encoding
from .paths import expand
from .receive import Received
from .urls import is_url, shown
from .walk import Found, Progress, UnusableError, Walk, is_folder, named_error

BYTES_PER_TOKEN = 4
BIGGEST = 3
"""How many files an over-the-limit error names."""


@dataclass(frozen=True)
class Root:
    """One source to read: as it was written, its absolute path in parts, and where it is, all links resolved."""

    written: str
    parts: tuple[str, ...]
    real: str


def collect(
    sources: Sequence[str],
    options: SourceOptions = DEFAULT_OPTIONS,
    *,
    received: Sequence[Received] = (),
    spool: Path | None = None,
    cache: Path | None = None,
    on_progress: Progress | None = None,
    on_convert: ConvertProgress | None = None,
    env: Mapping[str, str] | None = None,
) -> Corpus:
    """Read no content beyond each file's head; blocks on the disk (call it in a thread), memory grows with file names.

    Compressed files and archives are unpacked below the private folder `spool`, in `archives.FOLDER`, which the caller
    removes after use (after an error nothing is left); without one they are files like any other. Documents become text
    likewise, in `spool`/`join.FOLDER`, or in `cache`, where it stays for the next time; `on_convert(done, of)` then.
    `received` is what `-`, pipes and URLs among the sources stand for. Files named are always taken; folders are walked
    and filtered; globs are expanded. `on_progress(files, bytes)` may raise to stop. `env` is the caller's environment:
    git's own configuration is found through it. Raises `InputError`, or `UsageError` for an unknown encoding.
    """
    encoding = check_encoding(options.encoding)
    check_sources(sources)
    elsewhere = {STDIN, *(item.source for item in received)}
    roots = _roots(source for source in sources if source not in elsewhere and not is_url(source))
    walk = Walk(options, env or {}, on_progress, unpack=spool is not None)
    for number, root in enumerate(roots):
        _read(walk, number, root)
    for item in received:
        walk.take(_found(item, len(roots), walk))
        roots.append(Root(item.written, item.parts, item.document.file))
    found = list({item.path: item for item in reversed(walk.found)}.values())[::-1]
    if spool is not None and any(item.packed for item in found):
        found = _unpacked(found, walk, roots, spool=spool)
    try:
        if spool is not None:
            found = with_text(
                found, walk, lambda item: _title(item, roots), spool=spool, cache=cache, on_progress=on_convert
            )
        return _corpus(found, walk, roots, sources, received=received, encoding=encoding)
    except BaseException:
        _discard(spool)
        raise


def _corpus(
    found: list[Found],
    walk: Walk,
    roots: list[Root],
    sources: Sequence[str],
    *,
    received: Sequence[Received],
    encoding: str,
) -> Corpus:
    documents = _documents(found, roots, received, encoding)
    skips = _left_out(walk.skips, found)
    if not any(document.size for document in documents):
        raise _nothing(documents, skips, walk, sources)
    _check_size(documents, walk.options.max_input)
    skipped = count_skips(skips)
    size = sum(document.size for document in documents)
    facts = SourcesFacts(len(documents), size, size // BYTES_PER_TOKEN, skipped, _manifest(documents, found))
    return Corpus(documents, skips, skipped, tuple(walk.notes), facts)


def _roots(sources: Iterable[str]) -> list[Root]:
    """Each path once, globs expanded, in the order written."""
    roots: dict[str, Root] = {}
    for source in sources:
        for written in expand(source):
            absolute = os.path.abspath(written)  # noqa: PTH100 - Path.absolute keeps "..": names would show it
            parts = ("/", *(part for part in absolute.split("/") if part))
            roots.setdefault(absolute, Root(written, parts, os.path.realpath(written)))
    return list(roots.values())


def _found(item: Received, number: int, walk: Walk) -> Found:
    """What was received, as a file that was named; its time is a number made of its content."""
    document = item.document
    with document.path.open("rb") as file:
        head = file.read(HEAD)
    kind = kind_of(head) if item.by_content else recognise(item.parts[-1], head)
    # LZMA's magic is three bytes of which two are zero: not enough without a name.
    packed = walk.opens and kind is not None and not (item.by_content and kind == "lzma")
    form = None if packed else walk.document(item.parts[-1], head)
    if form is not None and form.missing:
        raise needs_extra(item.written, form.missing)
    version, convert = int(document.sha256[:15] or "0", 16), form.name if form else ""
    return Found(number, "", document.file, document.size, version, packed, convert=convert)


def _read(walk: Walk, number: int, root: Root) -> None:
    try:
        if is_folder(root.real):
            walk.folder(root.real, source=number, title=root.written)
        else:
            walk.file(root.real, source=number, written=root.written)
    except UnusableError as error:
        if error.reason == "unconverted":
            raise needs_extra(root.written, error.why) from error
        raise named_error(root.written, error) from error


def _title(item: Found, roots: list[Root]) -> str:
    """A file as it was written, for people."""
    written = roots[item.source].written
    return f"{written.rstrip('/')}/{item.below}" if item.below else written


# -- archives ------------------------------------------------------------------------------------------------------


def _unpacked(found: list[Found], walk: Walk, roots: list[Root], *, spool: Path) -> list[Found]:
    """`found` with what is in its archives in their place."""
    plain = [item for item in found if not item.packed]
    size = sum(item.size for item in plain)
    limit = walk.options.max_input
    if limit is not None and size > limit:
        return plain
    named = {item.path for item in walk.found if not item.below}
    unpacker = Unpacker(spool, limit, walk.progress, files=len(plain), bytes=size, room=Room(spool))
    try:
        for item in found:
            if item.packed:
                plain += _open(unpacker, walk, item, roots[item.source].written, named=item.path in named)
    except BaseException:
        _discard(spool)
        raise
    return plain


def _open(unpacker: Unpacker, walk: Walk, item: Found, written: str, *, named: bool) -> list[Found]:
    """The documents in one archive; what is left out is added to the walk's skips."""
    title = f"{written.rstrip('/')}/{item.below}" if item.below else written

    def judge(name: str) -> tuple[SkipReason, str] | None:
        return walk.excluded_inside(item.below, name)

    try:
        contents = unpacker.open(Archive(item.path, title, judge, walk.document, binary=walk.binary, named=named))
    except UnusableError as error:
        if named and error.reason == "unconverted":
            raise needs_extra(title, error.why) from error
        if named:
            raise _archive_error(title, error) from error
        walk.skips.append(Skip(title, error.reason, error.why, 1, item.path))
        return []
    for name, reason, rule in contents.left_out:
        walk.skips.append(Skip(f"{title}/{name}", reason, rule, 1, f"{item.path}/{name}"))
    return [
        item._replace(
            below="/".join(part for part in (item.below, entry.name) if part),
            path=str(entry.path),
            size=entry.size,
            packed=entry.packed,
            archive=item.path,
            convert=entry.convert,
        )
        for entry in contents.entries
    ]


def _archive_error(title: str, error: UnusableError) -> InputError:
    """An archive named on the command line that cannot be opened, or is refused."""
    return InputError(
        f"{title} cannot be opened: {error.why}",
        hint="unpack it yourself and name what comes out; --set sources.archives=false reads its bytes as they are",
        code="archive_refused" if error.reason == "too_large" else "unreadable",
    )


def _discard(spool: Path | None) -> None:
    if spool is not None:
        shutil.rmtree(spool / FOLDER, ignore_errors=True)
        shutil.rmtree(spool / CONVERTED, ignore_errors=True)


# -- names ---------------------------------------------------------------------------------------------------------


def _documents(
    found: list[Found], roots: list[Root], received: Sequence[Received], encoding: str
) -> tuple[Document, ...]:
    names = name_files(found, [root.parts for root in roots])
    sources = {item.document.file: item.document for item in received}
    documents = [
        _document(name, item, sources.get(item.archive or item.path), encoding)
        for name, item in zip(_plain_names(names, found), found, strict=True)
    ]
    return tuple(sorted(documents, key=lambda document: os.fsencode(document.name)))


def _document(name: str, item: Found, received: Document | None, encoding: str) -> Document:
    """`received`: the source it is, or was unpacked from, when that was no file. What the person says of the encoding
    goes before what a server says."""
    if item.archive:
        written = received.written if received else ""
        made = Document(name, item.path, item.size, encoding, archive=item.archive, written=written)
        return replace(made, origin="converted" if item.convert else "archive")
    if received is not None:
        return replace(received, name=name, encoding=received.encoding if encoding == "auto" else encoding)
    return Document(name, item.path, item.size, encoding)


def _plain_names(names: list[str], found: list[Found]) -> list[str]:
    """`app.log` for what was unpacked from `app.log.gz`, unless something else is called that."""
    stems = [without_suffix(name) if item.packed else "" for name, item in zip(names, found, strict=True)]
    if not any(stems):
        return names
    count = Counter([*names, *stems, "stdin"])
    return [stem if stem and count[stem] == 1 else name for name, stem in zip(names, stems, strict=True)]


def name_files(found: Sequence[Found], roots: Sequence[tuple[str, ...]]) -> list[str]:
    """Unique names, in the order of `found`: the path below its source, with the source's own name in front when there
    are several. Where two names clash, their sources go by more of their path, up to all of it. `roots`: each source's
    path in parts. A full path begins with "/", so it is unlike any other name; stdin has one part, and always its
    name."""
    depth = dict.fromkeys(range(len(roots)), 0 if len(roots) == 1 else 1)
    while True:
        names = [_name(item, roots[item.source], depth[item.source]) for item in found]
        count = Counter(names)
        clashing = {item.source for name, item in zip(names, found, strict=True) if count[name] > 1}
        deeper = {number for number in clashing if depth[number] < len(roots[number])}
        if not deeper:
            return names
        for number in deeper:
            depth[number] += 1


def _name(item: Found, parts: tuple[str, ...], depth: int) -> str:
    front = "/".join(parts[len(parts) - max(depth, 0 if item.below else 1) :]).replace("//", "/")
    return "/".join(part for part in (front, item.below) if part).replace("//", "/")


# -- what was left out ---------------------------------------------------------------------------------------------


def _left_out(skips: list[Skip], found: list[Found]) -> tuple[Skip, ...]:
    """Each path once, without those that another source brought in after all."""
    taken = {item.archive or item.path for item in found}
    kept = {skip.where: skip for skip in reversed(skips) if skip.where not in taken}
    return tuple(sorted(kept.values(), key=lambda skip: os.fsencode(skip.path)))


def count_skips(skips: Iterable[Skip]) -> Skipped:
    """Files left out, by reason."""
    counts: Counter[str] = Counter()
    for skip in skips:
        counts[skip.reason] += skip.files
    return Skipped(**counts)


def _nothing(
    documents: tuple[Document, ...], skips: tuple[Skip, ...], walk: Walk, sources: Sequence[str]
) -> InputError:
    """No file, or only empty ones: say which rule took most and which option brings it back (C26)."""
    names = " ".join(quote(shown(source)) for source in sources)
    if documents:
        files = "the only file is" if len(documents) == 1 else f"all {human_count(len(documents))} files are"
        return InputError(f"nothing to read: {files} empty", hint=f"look: rlm sources {names}", code="empty")
    if not skips:
        return InputError(f"nothing to read: no files in {names}", hint=f"look: ls -la {names}", code="no_files")
    total = count_skips(skips)
    reason = max(vars(total), key=lambda name: getattr(total, name))
    by_rule: Counter[str] = Counter()
    for skip in git.explain([skip for skip in skips if skip.reason == reason], walk.env):
        by_rule[skip.rule] += skip.files
    rule, most = by_rule.most_common(1)[0]
    message = (
        f"nothing left to read in {names}: {human_count(total.total)} skipped, {human_count(most)} of them {reason}"
    )
    remedy = "" if rule.startswith(DAMAGED) else REMEDY.get(reason, "")
    hint = f"{remedy} list them: rlm sources {names} --skipped".strip()
    if rule.startswith(("-g", "no -g")):
        hint = "change or drop -g"
    if rule.startswith("no -g"):
        message = f"{message}: {rule}"
    elif rule:
        message = f"{message} by {rule}" if reason in ("ignored", "binary") else f"{message}: {rule}"
    return InputError(message, hint=hint, code="all_skipped")


REMEDY = {
    "ignored": "read ignored files too with -u;",
    "hidden": "read hidden files too with --hidden (or -uu, ignored ones as well);",
    "binary": "read binary files too with -uuu;",
    "unreadable": "look at the permissions;",
    "unconverted": "look at the reasons;",
}


# -- limits and manifest -------------------------------------------------------------------------------------------


def _check_size(documents: tuple[Document, ...], limit: int | None) -> None:
    size = sum(document.size for document in documents)
    if limit is None or size <= limit:
        return
    biggest = sorted(documents, key=lambda document: -document.size)[:BIGGEST]
    listed = ", ".join(f"{document.name} ({human_bytes(document.size)})" for document in biggest)
    raise InputError(
        f"the sources hold {human_bytes(size)}, more than the {human_bytes(limit)} that --max-input allows; "
        f"the largest: {listed}",
        hint="name less, leave some out with -g '!PATTERN', or raise it: --max-input none",
        code="over_max_input",
    )


def _manifest(documents: tuple[Document, ...], found: list[Found]) -> str:
    """sha256 over names, sizes and times, in order (of what was received: its content). The same corpus has the same
    one."""
    times = {item.path: item.mtime_ns for item in found}
    digest = hashlib.sha256()
    for document in documents:
        version = document.sha256 or str(times[document.file])
        digest.update(b"%s\0%d\0%s\0" % (os.fsencode(document.name), document.size, version.encode()))
    return digest.hexdigest()
