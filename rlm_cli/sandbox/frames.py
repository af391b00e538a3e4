"""What the container says, as values. Every frame is untrusted: sizes and types are checked, nothing is evaluated.

`parse_worker` reads what the worker (and so a cell) wrote; `parse_facts` what only the supervisor can say. Both raise
`Violation`. Text that UTF-8 cannot carry is replaced, so that no lone surrogate breaks whoever logs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn, cast

from ..events import AnswerKind
from . import ContextFacts, Passed, Quote, Reference, SubCall, Value
from .kernel import wire
from .kernel.wire import Violation

NUMBER_MAX = 2**53
VARIABLES_MAX = 200
VARIABLE_CHARS = 300
ERROR_CHARS = 100_000
FILES_MAX = 1_000_000

__all__ = [
    "AnswerPart",
    "AttachFailed",
    "Attached",
    "BootFacts",
    "BudgetAsked",
    "CallAsked",
    "Done",
    "Exit",
    "FileProof",
    "ProgressTold",
    "Received",
    "Tails",
    "Violation",
    "WorkerFacts",
    "parse_boot",
    "parse_done",
    "parse_exit",
    "parse_received",
    "parse_started",
    "parse_tails",
    "parse_worker",
]


@dataclass(frozen=True)
class BootFacts:
    """What the supervisor read back about its own container, before any model code ran.

    `memory_limit` bytes and `pids_limit` are None where there is none; `root_writable` and `in_writable` say whether
    the file systems of `/` and of any mount at or below `/in` are mounted read-write; `dumpable` is false when the
    worker cannot look into the supervisor.
    """

    version: int
    uid: int
    gid: int
    pid: int
    cap_eff: int
    no_new_privs: bool
    seccomp: int
    memory_limit: int | None
    pids_limit: int | None
    interfaces: tuple[str, ...]
    root_writable: bool
    in_writable: bool
    dumpable: bool
    python: str
    machine: str


@dataclass(frozen=True)
class WorkerFacts:
    """How a worker is confined, as it read back before any model code ran in it.

    `seccomp`: its mode, 2 when filters are active, whether the engine's or ours; `filtered`: ours is; `landlock`:
    version of the interface in use, 0 when files are not restricted; `failures`: what the system refused, in its words.
    """

    seccomp: int
    filtered: bool
    landlock: int
    no_new_privs: bool
    failures: tuple[str, ...] = ()


class Received(NamedTuple):
    """How many bytes of a streamed corpus are written; `error` says why the next could not be."""

    received: int
    error: str


class FileProof(NamedTuple):
    """A file as the kernel sees it: the index's name for it, bytes, and the digest that `wire.proof` defines."""

    file: str
    size: int
    digest: str


@dataclass(frozen=True)
class Attached:
    facts: ContextFacts
    proof: tuple[FileProof, ...]


@dataclass(frozen=True)
class AttachFailed:
    """`reason`: "encoding" or "unreadable"."""

    reason: str
    message: str


@dataclass(frozen=True)
class CallAsked:
    id: int
    cell: int
    call: SubCall


@dataclass(frozen=True)
class ProgressTold:
    """How far a helper of the running cell is."""

    cell: int
    done: int
    total: int | None


@dataclass(frozen=True)
class BudgetAsked:
    id: int


@dataclass(frozen=True)
class AnswerPart:
    cell: int
    kind: AnswerKind
    part: int
    last: bool
    data: bytes
    evidence: tuple[Quote, ...] = ()
    """With part 0 only."""
    problem: str = ""
    """With the last part only."""


@dataclass(frozen=True)
class Done:
    cell: int
    status: Literal["ok", "error", "interrupted"]
    seconds: float
    variables: tuple[str, ...]
    error: str


class Tail(NamedTuple):
    """The end of one stream: bytes in all, bytes that nobody kept, and the last ones."""

    total: int
    dropped: int
    tail: bytes


class Tails(NamedTuple):
    stdout: Tail
    stderr: Tail


@dataclass(frozen=True)
class Exit:
    """How a worker died. `status` below zero is a signal; `violation` is why the supervisor killed it, or ""."""

    status: int
    oom: bool
    memory_limit: int
    violation: str


WorkerMessage = Attached | AttachFailed | CallAsked | BudgetAsked | ProgressTold | AnswerPart


class _Fields:
    """A JSON object whose values are fetched with their type and range checked."""

    def __init__(self, data: bytes) -> None:
        if len(data) > wire.HEADER_MAX:
            raise Violation(f"a header of {len(data)} bytes")
        try:
            value = json.loads(data, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a 5,000-digit number; a thousand brackets
            raise Violation(f"bad JSON: {type(error).__name__}") from None
        if not isinstance(value, dict):
            raise Violation("a header that is not an object")
        self._values: Mapping[str, Any] = value

    def value(self, name: str, kind: type) -> Any:
        value = self._values.get(name)
        if type(value) is not kind:
            raise Violation(f"field {name!r} is not {kind.__name__}")
        return value

    def number(self, name: str, *, least: int = 0) -> int:
        value: int = self.value(name, int)
        if not least <= value <= NUMBER_MAX:
            raise Violation(f"field {name!r} is out of range")
        return value

    def optional(self, name: str) -> int | None:
        return None if self._values.get(name) is None else self.number(name)

    def flag(self, name: str) -> bool:
        return bool(self.value(name, bool))

    def text(self, name: str, *, most: int = wire.HEADER_MAX) -> str:
        return clean(self.value(name, str))[:most]

    def optional_text(self, name: str, *, most: int) -> str:
        return "" if self._values.get(name) is None else self.text(name, most=most)

    def choice(self, name: str, *options: str) -> str:
        value = self.value(name, str)
        if value not in options:
            raise Violation(f"field {name!r} is none of {options}")
        return str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.value(name, list)
        if not all(type(value) is str for value in values):
            raise Violation(f"field {name!r} holds something that is not text")
        return tuple(clean(value) for value in values)

    def inner(self, name: str) -> _Fields:
        fields = object.__new__(_Fields)
        fields._values = self.value(name, dict)
        return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def clean(text: str) -> str:
    """Without lone surrogates, which JSON lets through."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def parse_worker(body: bytes) -> WorkerMessage:
    """A `w` frame's payload."""
    header, payload = wire.split(body)
    fields = _Fields(header)
    parse = _WORKER.get(fields.text("op"))
    if parse is None:
        raise Violation(f"unknown message {fields.text('op', most=40)!r}")
    return parse(fields, payload)


def _attached(fields: _Fields, payload: bytes) -> Attached:
    facts = ContextFacts(
        kind=cast(Any, fields.choice("kind", "str", "text", "documents")),
        documents=fields.number("documents"),
        bytes=fields.number("bytes"),
        chars=fields.optional("chars"),
        lines=fields.number("lines"),
        lines_exact=fields.flag("lines_exact"),
        lossy=fields.optional("lossy"),
    )
    if len(payload) > wire.PROOF_MAX:
        raise Violation(f"a proof of {len(payload)} bytes")
    return Attached(facts, tuple(map(_file_proof, payload.splitlines())))


def _file_proof(line: bytes) -> FileProof:
    try:
        file, size, digest = json.loads(line)
    except (ValueError, RecursionError, TypeError):
        raise Violation("a bad line in a proof") from None
    if type(file) is not str or type(size) is not int or type(digest) is not str:
        raise Violation("a bad line in a proof")
    return FileProof(clean(file), size, clean(digest))


def _attach_failed(fields: _Fields, payload: bytes) -> AttachFailed:
    return AttachFailed(fields.text("reason"), payload[:ERROR_CHARS].decode("utf-8", "replace"))


def _call(fields: _Fields, payload: bytes) -> CallAsked:
    kind = cast(Literal["llm", "rlm"], fields.choice("kind", "llm", "rlm"))
    count = fields.number("count", least=1)
    if count > wire.PROMPTS_COUNT_MAX or len(payload) > wire.PROMPTS_MAX:
        raise Violation(f"{count} prompts of {len(payload)} bytes in one call")
    texts = wire.unpack_texts(payload, count * (2 if kind == "rlm" else 1))
    contexts = tuple(map(_passed, texts[1::2])) if kind == "rlm" else ()
    prompts = tuple(text.decode("utf-8", "replace") for text in (texts[::2] if kind == "rlm" else texts))
    schema = fields.optional_text("schema", most=wire.SCHEMA_CHARS) if kind == "rlm" else ""
    call = SubCall(kind, prompts, fields.text("model", most=200), contexts, schema)
    return CallAsked(fields.number("id"), fields.number("cell"), call)


_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NUMBER = rb"-?\d{1,16}"
_PART = rb"\[%b,(?:%b|%b,%b,(?:null|%b),%b)\]" % (_TEXT, _TEXT, _NUMBER, _NUMBER, _NUMBER, _TEXT)
_PASSED = re.compile(rb"null|\[(?:%b(?:,%b){0,%d}+)?\]" % (_PART, _PART, FILES_MAX - 1), re.DOTALL)
"""A context as JSON without white space. Megabytes of brackets would be a gigabyte of lists before anybody could count
them."""


def _passed(text: bytes) -> Passed:
    """What a child is to work on: null, or a list of `[name, text]` and `[name, number, start, size, encoding]`."""
    if not _PASSED.fullmatch(text):
        raise Violation("a context that is no list of parts")
    try:
        parts = json.loads(text)
    except ValueError as error:
        raise Violation(f"bad JSON: {type(error).__name__}") from None
    return None if parts is None else tuple(_passed_part(*part) for part in parts)


def _passed_part(
    name: str, what: Any, start: int = 0, size: int | None = None, encoding: str = ""
) -> Reference | Value:
    if isinstance(what, str):
        return Value(clean(name), clean(what))
    return Reference(clean(name), what, start, size, clean(encoding)[:40])


def _budget(fields: _Fields, payload: bytes) -> BudgetAsked:  # noqa: ARG001 - one signature for all
    return BudgetAsked(fields.number("id"))


def _progress(fields: _Fields, payload: bytes) -> ProgressTold:  # noqa: ARG001 - one signature for all
    return ProgressTold(fields.number("cell"), fields.number("done"), fields.optional("total"))


def _answer(fields: _Fields, payload: bytes) -> AnswerPart:
    before = fields.optional("evidence") or 0
    part = fields.number("part")
    if before > min(len(payload), wire.EVIDENCE_MAX) or (before and part):
        raise Violation(f"evidence of {before} bytes")
    if len(payload) - before > wire.PART_MAX:
        raise Violation(f"a piece of an answer of {len(payload) - before} bytes")
    kind = cast(AnswerKind, fields.choice("kind", "text", "json", "bytes"))
    quotes = _evidence(payload[:before])
    problem = fields.optional_text("problem", most=wire.PROBLEM_CHARS)
    return AnswerPart(fields.number("cell"), kind, part, fields.flag("last"), payload[before:], quotes, problem)


def _evidence(lines: bytes) -> tuple[Quote, ...]:
    """JSON lines `[quote, document, start]`."""
    rows = lines.split(b"\n", wire.QUOTES_MAX + 1)
    if rows.pop() or len(rows) > wire.QUOTES_MAX:
        raise Violation("evidence that is no lines, or too many")
    return tuple(map(_quote, rows))


def _quote(line: bytes) -> Quote:
    try:
        quote, document, start = json.loads(line)
    except (ValueError, RecursionError, TypeError):
        raise Violation("a bad line in the evidence") from None
    if type(quote) is not str or not quote.strip() or len(quote) > wire.QUOTE_CHARS:
        raise Violation("a quote that is no text, empty or too long")
    if type(document) is not str or len(document) > wire.NAME_CHARS:
        raise Violation("a document's name that is no text, or too long")
    if start is not None and (type(start) is not int or not 0 <= start <= NUMBER_MAX):
        raise Violation("a quote's place that is no offset")
    return Quote(clean(quote), clean(document), start)


_WORKER: Mapping[str, Callable[[_Fields, bytes], WorkerMessage]] = {
    "attached": _attached,
    "attach_failed": _attach_failed,
    "call": _call,
    "budget": _budget,
    "progress": _progress,
    "answer": _answer,
}


def parse_done(body: bytes) -> Done:
    """A `d` frame's payload."""
    header, payload = wire.split(body)
    fields = _Fields(header)
    fields.choice("op", "done")
    seconds = fields._values.get("seconds")
    if type(seconds) not in (int, float) or not 0 <= cast(float, seconds) < NUMBER_MAX:
        raise Violation("field 'seconds' is not a duration")
    return Done(
        cell=fields.number("cell"),
        status=cast(Any, fields.choice("status", "ok", "error", "interrupted")),
        seconds=float(cast(float, seconds)),
        variables=tuple(line[:VARIABLE_CHARS] for line in fields.texts("variables")[:VARIABLES_MAX]),
        error=payload[: 4 * ERROR_CHARS].decode("utf-8", "replace")[:ERROR_CHARS],
    )


def parse_boot(payload: bytes) -> BootFacts:
    """The `b` frame."""
    fields = _Fields(payload)
    return BootFacts(
        version=fields.number("version"),
        uid=fields.number("uid"),
        gid=fields.number("gid"),
        pid=fields.number("pid"),
        cap_eff=fields.number("cap_eff"),
        no_new_privs=fields.flag("no_new_privs"),
        seccomp=fields.number("seccomp"),
        memory_limit=fields.optional("memory_limit"),
        pids_limit=fields.optional("pids_limit"),
        interfaces=fields.texts("interfaces"),
        root_writable=fields.flag("root_writable"),
        in_writable=fields.flag("in_writable"),
        dumpable=fields.flag("dumpable"),
        python=fields.text("python"),
        machine=fields.text("machine"),
    )


def parse_started(payload: bytes) -> WorkerFacts:
    """The `s` frame."""
    fields = _Fields(payload)
    return WorkerFacts(
        seccomp=fields.number("seccomp"),
        filtered=fields.flag("filtered"),
        landlock=fields.number("landlock"),
        no_new_privs=fields.flag("no_new_privs"),
        failures=fields.texts("failures"),
    )


def parse_received(payload: bytes) -> Received:
    """The `r` frame."""
    fields = _Fields(payload)
    return Received(fields.number("received"), fields.text("error"))


def parse_tails(payload: bytes) -> Tails:
    """The `t` frame: header, then both tails."""
    header, rest = wire.split(payload)
    fields = _Fields(header)
    tails = []
    for name in ("o", "e"):
        stream = fields.inner(name)
        size = stream.number("tail")
        if size > min(len(rest), wire.KEEP):
            raise Violation(f"a tail of {size} bytes")
        tails.append(Tail(stream.number("total"), stream.number("dropped"), rest[:size]))
        rest = rest[size:]
    return Tails(*tails)


def parse_exit(payload: bytes) -> Exit:
    """The `x` frame."""
    fields = _Fields(payload)
    return Exit(
        fields.number("status", least=-NUMBER_MAX),
        fields.flag("oom"),
        fields.number("memory_limit"),
        fields.text("violation", most=500),
    )
