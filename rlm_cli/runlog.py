"""One folder per run: what happened, once, in order, readable by the owner alone.

    runs/20261120-153012-a1b2c3/      0700, files 0600, nothing is followed or overwritten
      run.json        the header: enough for a list; written at the start, replaced at the end with the result
      events.jsonl    one record a line, ASCII, appended; a torn last line is the most a crash can cost
      blobs/<sha256>  strings over 2 KiB, once each: {"$blob": sha256, "chars": n, "head": first characters}; an answer
                      over 1 MiB as the bytes it is: {"answer_file": {"sha256": ...}}
      sources.jsonl   the corpus by reference: name, path, size

Streaming pieces are not logged. While a run lives it holds a lock on its events.jsonl: that tells a running run from
a crashed one. Reading treats every file as untrusted.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from .errors import ConfigError, InputError
from .events import (
    SCHEMA_VERSION,
    AnswerFile,
    ModelPair,
    Record,
    Result,
    RunFinished,
    RunStarted,
    from_json,
    is_streaming,
    record_from_json,
    record_to_json,
    to_json,
)
from .private import make_private, open_new

RunStatus = Literal["ok", "partial", "no_answer", "error", "running", "crashed"]

_encode = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode
_INLINE_CHARS = 2048
_HEAD_CHARS = 160
_PIECE = 1024 * 1024
_HEADER_BYTES = 4 * 1024 * 1024
_LATEST = 4e9
"""Unix seconds, in 2096."""
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-z-]{1,64}", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{64}", re.ASCII)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a planted FIFO must not block


class ManifestEntry(Protocol):
    """What the manifest says of a document (`sources.Document` has it). `kept`: a host path, or a URL."""

    @property
    def name(self) -> str: ...
    @property
    def kept(self) -> str: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class RunHeader:
    """One run as lists show it, without reading its records. `started` is Unix seconds.

    `status` is the result's; "running" while the process lives, "crashed" when it ended without a result. In
    `result`, long texts are cut to their first characters: `read_result` has them whole.
    """

    id: str
    path: Path
    started: float
    status: RunStatus
    question: str = ""
    models: ModelPair = ModelPair()
    names: tuple[str, ...] = ()
    version: str = ""
    result: Result | None = None


@dataclass(frozen=True)
class Pruned:
    """What `prune` removed, or would remove, and the bytes that frees."""

    runs: tuple[RunHeader, ...]
    bytes: int


def new_run_id(clock: Callable[[], float] = time.time, random: Callable[[int], str] = secrets.token_hex) -> str:
    """`20261120-153012-a1b2c3`: the start in UTC, so that ids sort by time, and three random bytes."""
    return f"{datetime.fromtimestamp(clock(), UTC):%Y%m%d-%H%M%S}-{random(3)}"


# -- writing -------------------------------------------------------------------------------------------------------


class RunLog:
    """The listener that keeps a run. Calls come in order, from the bus; an `OSError` ends the log, not the run.

    Raises `ConfigError` when the folder cannot be made or holds a run already. The creator closes it.
    """

    name = "run log"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stored = set[str]()
        self._header: dict[str, Any] = {}
        try:
            if directory.is_symlink():
                raise OSError(errno.ELOOP, "it is a symbolic link")
            make_private(directory)
            (directory / "blobs").mkdir(mode=0o700)
            self._events = open_new(directory / "events.jsonl", os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise ConfigError(
                f"cannot write the run log in {directory}: {error.strerror or error}",
                hint="set RLM_HOME to a folder you can write, or use --no-log",
                code="log_unwritable",
            ) from error
        _lock(self._events)

    def __call__(self, record: Record) -> None:
        """Keep one record: its blobs first, then its line, so that a line never names what is not there."""
        if is_streaming(record.event):
            return
        if isinstance(record.event, RunStarted) and not record.span.depth:
            self._open_header(record.event, record.ts)
        self._append(_line(record_to_json(record), self._store))
        if isinstance(record.event, RunFinished) and not record.span.depth:
            self._write_header({"finished": record.ts, "result": _shrink(to_json(record.event.result), self._store)})

    def write_manifest(self, documents: Iterable[ManifestEntry]) -> None:
        """Name, host path (or URL) and size of every document, in order, as JSON lines."""
        lines = (_ascii({"name": d.name, "path": d.kept, "size": d.size}) for d in documents)
        _write_new(self.directory / "sources.jsonl", lines)

    def blob(self, sha256: str) -> Path:
        """Where the bytes with this hash belong."""
        return self.directory / "blobs" / sha256

    def close(self) -> None:
        """Release the file and the lock. Idempotent."""
        if self._events >= 0:
            os.close(self._events)
            self._events = -1

    def _open_header(self, started: RunStarted, at: float) -> None:
        self._header = {
            "schema_version": SCHEMA_VERSION,
            "id": started.run_id,
            "started": at,
            "question": _shrink(started.question, self._store),
            "models": to_json(started.models),
            "names": list(started.names),
            "version": started.version,
            "pid": os.getpid(),
        }
        self._write_header({})

    def _write_header(self, more: Mapping[str, Any]) -> None:
        self._header |= more
        scratch = self.directory / ".run.json.new"
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
        _write_new(scratch, [_ascii(self._header)])
        scratch.replace(self.directory / "run.json")

    def _append(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._events, line) :]

    def _store(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        sha = hashlib.sha256(data).hexdigest()
        if sha not in self._stored:
            with contextlib.suppress(FileExistsError):
                _write_new(self.blob(sha), [data])
            self._stored.add(sha)
        return sha


def _lock(descriptor: int) -> None:
    with contextlib.suppress(ImportError, OSError):  # no such lock here: the run will look crashed until it ends
        import fcntl

        # Waits: a list that is just looking at the new file must not make this run look crashed for good.
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _write_new(path: Path, pieces: Iterable[bytes]) -> None:
    with os.fdopen(open_new(path), "wb") as file:
        for piece in pieces:
            file.write(piece)


def _ascii(value: Any) -> bytes:
    return _encode(value).encode("ascii") + b"\n"


def _line(record: dict[str, Any], store: Callable[[str], str]) -> bytes:
    """A record's line, shrunk where there is anything to shrink. In most there is nothing, which the line itself shows:
    a walk through every value would take longer than writing it, and thousands of calls have a line each."""
    own = [len(value) for value in record.values() if type(value) is str]
    if max(own) <= _INLINE_CHARS:
        line = _ascii(record)
        # What is left for a text further inside is too little for a long one; and the names that decide are not there.
        if len(line) - sum(own) <= _INLINE_CHARS and not (
            b'"$blob":' in line or b'"$literal":' in line or b'"data":[' in line or b'"data":{' in line
        ):
            return line
    return _ascii(_shrink(record, store))


def _shrink(value: Any, store: Callable[[str], str]) -> Any:
    """JSON with its long strings replaced by references. A mapping that looks like one is wrapped as `$literal`."""
    if isinstance(value, str):
        return value if len(value) <= _INLINE_CHARS else _reference(value, store)
    if isinstance(value, list):
        return [_shrink(item, store) for item in value]
    if not isinstance(value, dict):
        return value
    out = {key: _shrink_field(key, item, store) for key, item in value.items()}
    return {"$literal": out} if value.keys() & {"$blob", "$literal"} else out


def _shrink_field(key: str, value: Any, store: Callable[[str], str]) -> Any:
    if key == "data" and isinstance(value, list | dict):
        # An answer's data may be any size and shape: stored whole, or a list of runs would have to read it.
        text = json.dumps(value)
        if len(text) > _INLINE_CHARS:
            return _reference(text, store) | {"json": True}
    return _shrink(value, store)


def _reference(text: str, store: Callable[[str], str]) -> dict[str, Any]:
    return {"$blob": store(text), "chars": len(text), "head": text[:_HEAD_CHARS]}


# -- reading -------------------------------------------------------------------------------------------------------

Fetch = Callable[[Mapping[str, Any]], Any]


def read_run(directory: Path) -> Iterator[Record]:
    """The records of a run, in order; each one's blobs are read when it is reached.

    Lines that are not records (a torn last one) are left out. Raises `InputError` when there is no record file.
    """
    fetch = _fetcher(directory)
    try:
        descriptor = os.open(directory / "events.jsonl", _READ)
    except OSError as error:
        raise InputError(
            f"cannot read {directory / 'events.jsonl'}: {error.strerror}", hint="rlm runs list", code="run_unreadable"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        for line in file:
            try:
                record = record_from_json(_grow(json.loads(line), fetch))
            except (ValueError, RecursionError):
                continue
            yield record


def read_result(directory: Path) -> Result | None:
    """The whole result, or None when the run has none (it is running, or crashed)."""
    header = _read_json(directory / "run.json")
    try:
        result = from_json(Result, _grow(header["result"], _fetcher(directory)))
    except (KeyError, ValueError, RecursionError):
        return None
    file = result.answer_file
    if file is None or not _SHA.fullmatch(file.sha256):
        return replace(result, answer_file=None)
    path = str(directory.absolute() / "blobs" / file.sha256)  # the folder may have been moved
    return replace(result, answer_file=replace(file, path=path))


def read_answer(directory: Path, file: AnswerFile) -> Iterator[bytes]:
    """A large answer, piece by piece. Raises `InputError` when it is missing, or, at its end, when it is not what was
    recorded."""
    hint = f"the record is in {directory}"
    seen, size = hashlib.sha256(), 0
    try:
        with os.fdopen(os.open(directory / "blobs" / Path(file.path).name, _READ), "rb", buffering=0) as blob:
            while data := blob.read(_PIECE):
                seen.update(data)
                size += len(data)
                yield data
    except OSError as error:
        raise InputError(f"cannot read the answer: {error.strerror}", hint=hint, code="run_unreadable") from error
    if (seen.hexdigest(), size) != (file.sha256, file.bytes):
        raise InputError("the recorded answer was changed or is damaged", hint=hint, code="run_damaged")


def read_header(directory: Path) -> RunHeader:
    """The header of one run; whatever cannot be read has its empty value."""
    data = {key: _grow(value, _head_of) for key, value in _read_json(directory / "run.json").items()}
    header = RunHeader(directory.name, directory, _started(directory.name), "crashed")
    result = _fitting(Result, data.get("result"))
    names = data.get("names")
    return replace(
        header,
        started=_instant(data.get("started"), header.started),
        status=result.status if result else "running" if _is_locked(directory / "events.jsonl") else "crashed",
        question=str(data.get("question", "")),
        models=_fitting(ModelPair, data.get("models")) or ModelPair(),
        names=tuple(str(name) for name in names) if isinstance(names, list) else (),
        version=str(data.get("version", "")),
        result=result,
    )


def _fitting(kind: type[Any], data: Any) -> Any:
    try:
        return from_json(kind, data)
    except (ValueError, RecursionError):
        return None


def _instant(value: Any, otherwise: float) -> float:
    """Unix seconds that can be shown as a date."""
    return float(value) if type(value) in (int, float) and 0 <= value < _LATEST else otherwise


def _started(run_id: str) -> float:
    try:
        return datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with os.fdopen(os.open(path, _READ), "rb") as file:
            data = json.loads(file.read(_HEADER_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _grow(value: Any, fetch: Fetch) -> Any:
    """The inverse of `_shrink`."""
    if isinstance(value, list):
        return [_grow(item, fetch) for item in value]
    if not isinstance(value, dict):
        return value
    if "$blob" in value:
        return fetch(value)
    inner = value.get("$literal") if value.keys() == {"$literal"} else None
    return {key: _grow(item, fetch) for key, item in (inner if isinstance(inner, dict) else value).items()}


def _head_of(reference: Mapping[str, Any]) -> Any:
    return None if reference.get("json") else f"{reference.get('head', '')}…"


def _fetcher(directory: Path) -> Fetch:
    def fetch(reference: Mapping[str, Any]) -> Any:
        text = _blob(directory / "blobs", str(reference["$blob"]))
        if text is None:
            return f"{reference.get('head', '')}… [the rest of {reference.get('chars', '?')} characters is missing]"
        return json.loads(text) if reference.get("json") else text

    return fetch


def _blob(blobs: Path, sha: str) -> str | None:
    if not _SHA.fullmatch(sha):
        return None
    try:
        with os.fdopen(os.open(blobs / sha, _READ), "rb") as file:
            data = file.read()
    except OSError:
        return None
    return data.decode("utf-8", "surrogatepass") if hashlib.sha256(data).hexdigest() == sha else None


def _is_locked(path: Path) -> bool:
    try:
        import fcntl

        with os.fdopen(os.open(path, _READ), "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


# -- many runs -----------------------------------------------------------------------------------------------------


def run_ids(root: Path) -> list[str]:
    """The ids of all runs below `root`, newest first. Links and strangers are not runs."""
    try:
        with os.scandir(root) as entries:
            names = [e.name for e in entries if _ID.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(names, reverse=True)


def list_runs(root: Path) -> Iterator[RunHeader]:
    """Headers, newest first, read as they are asked for."""
    return (read_header(root / run_id) for run_id in run_ids(root))


def find_run(root: Path, ref: str = "last") -> Path:
    """The folder of the run that `ref` names: "last", an id, or a prefix or suffix that only one run has.

    Raises `InputError` when none or several match.
    """
    ids = run_ids(root)
    if not ids:
        raise InputError(f"there are no runs in {root}", hint='rlm ask FILE "QUESTION"', code="run_not_found")
    if ref == "last":
        return root / ids[0]
    matches = [ref] if ref in ids else [i for i in ids if ref and (i.startswith(ref) or i.endswith(ref))]
    if len(matches) == 1:
        return root / matches[0]
    if matches:
        shown = ", ".join(matches[:5]) + (" …" if len(matches) > 5 else "")
        raise InputError(
            f"{len(matches)} runs match {ref!r}: {shown}", hint="give more of the id", code="run_ambiguous"
        )
    near = difflib.get_close_matches(ref, ids, n=3, cutoff=0.4) or ids[:3]
    raise InputError(f"no run {ref!r}; did you mean {', '.join(near)}?", hint="rlm runs list", code="run_not_found")


def prune(
    root: Path,
    *,
    older_than: float | None = None,
    keep: int | None = None,
    max_size: int | None = None,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> Pruned:
    """Remove runs: those older than `older_than` seconds, and the oldest until all fit in `max_size` bytes.

    The newest `keep` always stay; `keep` alone removes all others. Running runs stay. Without any rule nothing goes.
    """
    if older_than is None and keep is None and max_size is None:
        return Pruned((), 0)
    keep_only = older_than is None and max_size is None
    removed: list[RunHeader] = []
    freed = total = 0
    for position, header in enumerate(list_runs(root)):
        size = _size(header.path)
        total += size
        old = older_than is not None and clock() - header.started > older_than
        big = max_size is not None and total > max_size
        if position < (keep or 0) or header.status == "running" or not (old or big or keep_only):
            continue
        if not dry_run:
            remove_run(root, header.id)
        removed.append(header)
        freed += size
        total -= size
    return Pruned(tuple(removed), freed)


def remove_run(root: Path, run_id: str) -> None:
    """Delete one run folder. Raises `InputError` for anything that is not a run directly below `root`."""
    directory = root / run_id
    if not _ID.fullmatch(run_id) or directory.is_symlink() or not directory.is_dir():
        raise InputError(f"no run {run_id!r} in {root}", hint="rlm runs list", code="run_not_found")
    shutil.rmtree(directory)  # follows no link


def _size(directory: Path) -> int:
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).lstat().st_size
    return total
