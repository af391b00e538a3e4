"""What a walk found, with the text of documents in the place of the documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ...errors import InputError
from .. import Skip
from ..walk import Found, UnusableError, Walk
from .cache import Cache, Converted
from .convert import Conversion, ConvertProgress, Job
from .formats import NAMED, install_command

FOLDER = "converted"
"""The folder that is made for texts that are not kept, below the caller's."""


def with_text(
    found: list[Found],
    walk: Walk,
    title_of: Callable[[Found], str],
    *,
    spool: Path,
    cache: Path | None,
    on_progress: ConvertProgress | None = None,
) -> list[Found]:
    """`found`, the documents in it as text; what cannot be converted joins the walk's skips.

    Texts are kept in the folder `cache`; without one they are below `spool`/`FOLDER`, which the caller removes.
    Raises `InputError` for a document that was named, when the text exceeds `max_input`, and when the disk is full.
    """
    todo = [item for item in found if item.convert]
    plain = [item for item in found if not item.convert]
    if todo:
        home = spool.resolve() / FOLDER
        limit = walk.options.max_input
        left = None if limit is None else max(0, limit - sum(item.size for item in plain))
        kept = Cache(cache.resolve()) if cache is not None else None
        work = Conversion(home, kept, left, on_progress)
        results = work.run([Job(item.path, title_of(item), item.convert) for item in todo])
        for item, result in zip(todo, results, strict=True):
            plain += _outcome(item, result, walk, title_of(item))
    tell_missing(walk)
    return plain


def _outcome(item: Found, result: Converted | UnusableError, walk: Walk, title: str) -> list[Found]:
    if isinstance(result, Converted) and not result.refused:
        _tell_log(item, walk, title)
        return [
            item._replace(
                below="/".join(name for name in (item.below, part.name) if name),
                path=str(part.path),
                size=part.size,
                packed=item.packed and not part.name,
                archive=item.archive or item.path,
            )
            for part in result.parts
        ]
    error = UnusableError("unconverted", result.refused) if isinstance(result, Converted) else result
    if not item.below:
        raise unconverted(title, error.why)
    walk.skips.append(Skip(title, error.reason, error.why, 1, item.path))
    return []


def _tell_log(item: Found, walk: Walk, title: str) -> None:
    """What SQLite has not yet moved from its log is not in the file."""
    log = Path(f"{item.path}-wal")
    if item.convert == "sqlite" and log.exists() and log.stat().st_size > 0:
        walk.note(f"{title}: what is in its write-ahead log (-wal) is not read; close the program that writes it")


def unconverted(title: str, why: str) -> InputError:
    """A document named on the command line that cannot be converted."""
    return InputError(
        f"{title} cannot be converted to text: {why}",
        hint="convert it yourself and name the result; --convert none reads its bytes as they are",
        code="unconverted",
    )


def needs_extra(title: str, missing: str) -> InputError:
    """A document named on the command line, without what converts it."""
    kind, _, command = missing.partition(": ")
    return InputError(
        f"{title} cannot be read yet: what converts {kind} is not installed",
        hint=command,
        code="extra_missing",
    )


def tell_missing(walk: Walk) -> None:
    """One sentence for all documents that something is missing for."""
    counts = Counter(skip.rule for skip in walk.skips if skip.reason == "unconverted")
    for extra in sorted({form.extra for form in NAMED.values()} - {""}):
        files = sum(count for rule, count in counts.items() if rule.endswith(f": {install_command(extra)}"))
        if files:
            documents = "1 document was" if files == 1 else f"{files:,} documents were"
            walk.note(f"{documents} not read: {install_command(extra)} converts them to text")
