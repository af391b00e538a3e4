"""What can happen in a run, as values: the one stream that the log, the screen and `--events` all fold.

An `Event` is a frozen dataclass with a stable dotted `type`. The `Bus` wraps each in a `Record` (sequence number,
time, span) and hands it to its listeners in order, the run log first. Facts go out through `emit`; no listener ever
steers the run. `ModelText`, `OutputText`, `ItemsDone` and `Preparing` are drawn while they stream, never logged:
`CodeWritten` and `Output` carry the same text once it is whole.

JSON both ways: `record_to_json` / `record_from_json`. Unknown types and fields are tolerated on reading, so that an
old `rlm` can list and replay what a newer one wrote.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import time
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, Union

from .units import human_count

SCHEMA_VERSION = 1

Role = Literal["root", "sub", "final"]
AnswerKind = Literal["text", "json", "bytes"]
CitationStatus = Literal["verbatim", "approximate", "not_found", "unchecked"]
Status = Literal["ok", "partial", "no_answer", "error"]
ChildStatus = Literal["ok", "partial", "no_answer", "error", "interrupted"]
StepStatus = Literal["ok", "error", "timeout", "died", "interrupted", "no_code"]
Stream = Literal["stdout", "stderr"]


# -- where in the tree of runs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """A place in the tree: () is the root run, (2,) its second child, (2, 1) that one's first."""

    path: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        return len(self.path)

    def child(self, number: int) -> Span:
        return Span((*self.path, number))

    def call(self, name: str) -> str:
        """The id of a call to a model: unique in the tree when `name` is so in its run."""
        return f"{self}/{name}" if self.path else name

    def __str__(self) -> str:
        return ".".join(map(str, self.path))

    @classmethod
    def parse(cls, text: str) -> Span:
        return cls(tuple(int(part) for part in text.split(".") if part.isdigit()))


ROOT = Span()


# -- values that events and the result object share ----------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """Tokens of one call or of many. `cached` is the part of `input` a provider cache served, `written` the part that
    was stored in it (billed higher by some), `reasoning` the part of `output` that was hidden thinking; `estimated` is
    true when any of it was counted by us and not by the provider."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    estimated: bool = False
    written: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
            self.estimated or other.estimated,
            self.written + other.written,
        )


@dataclass(frozen=True)
class ErrorInfo:
    """An error as scripts see it: stable code, human message and hint, and whether trying again may help."""

    code: str
    message: str
    hint: str = ""
    retryable: bool = False


@dataclass(frozen=True)
class Skipped:
    """How many paths were left out, by reason."""

    ignored: int = 0
    hidden: int = 0
    binary: int = 0
    too_large: int = 0
    unreadable: int = 0
    special: int = 0
    unconverted: int = 0

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def __str__(self) -> str:
        """`skipped 37 (22 ignored, 9 binary, 6 hidden)`, most frequent first; "" when nothing was."""
        counts = sorted(vars(self).items(), key=lambda item: -item[1])
        reasons = ", ".join(f"{human_count(count)} {name.replace('_', ' ')}" for name, count in counts if count)
        return f"skipped {human_count(self.total)} ({reasons})" if reasons else ""


@dataclass(frozen=True)
class SourcesFacts:
    """What was read and what was not. `bytes` as on disk; `tokens_est` at four bytes a token."""

    files: int = 0
    bytes: int = 0
    tokens_est: int = 0
    skipped: Skipped = Skipped()
    manifest_sha256: str = ""


@dataclass(frozen=True)
class ModelPair:
    """Resolved model ids (LiteLLM's spelling)."""

    root: str = ""
    sub: str = ""


@dataclass(frozen=True)
class RoleUsage:
    root: Usage = Usage()
    sub: Usage = Usage()
    total: Usage = Usage()
    by_model: Mapping[str, Usage] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """US dollars. `known` is false when any call's price is unknown: then `usd` is only the known part. `saved_usd` is
    what the replies that were not asked for again would have cost."""

    usd: float = 0.0
    known: bool = True
    by_model: Mapping[str, float] = field(default_factory=dict)
    saved_usd: float = 0.0


@dataclass(frozen=True)
class Calls:
    """Requests. `root` and `sub` count logical calls, `retries` the extra attempts; total == requests sent. `cached`
    counts sub-calls answered by an earlier reply, which sent nothing; `children` is the part of `root` that are turns
    of child runs."""

    root: int = 0
    sub: int = 0
    retries: int = 0
    cached: int = 0
    children: int = 0

    @property
    def total(self) -> int:
        return self.root + self.sub + self.retries

    @property
    def below(self) -> int:
        """What the cap on sub-calls counts: all calls but the outermost run's own turns."""
        return self.sub + self.children


@dataclass(frozen=True)
class Timing:
    """Seconds: the whole run; until the kernel was ready; inside root calls; inside cells."""

    total_s: float = 0.0
    ready_s: float = 0.0
    root_s: float = 0.0
    cells_s: float = 0.0


@dataclass(frozen=True)
class SandboxInfo:
    kind: str = ""
    image: str = ""
    network: bool = False
    input: str = ""
    """How the input got in: "mounted" into a container, "opened" for a process, or copied to "memory" or a "volume"
    where the engine cannot see it."""


@dataclass(frozen=True)
class Totals:
    """The ledger at one moment, for the whole tree. `max_usd` None: no dollar cap."""

    calls: Calls = Calls()
    usage: RoleUsage = RoleUsage()
    cost: Cost = Cost()
    max_usd: float | None = None


@dataclass(frozen=True)
class AnswerFile:
    """Where a large answer is, byte for byte. `kind` as it was submitted: UTF-8 text, JSON, or bytes."""

    path: str
    bytes: int
    sha256: str
    kind: AnswerKind


@dataclass(frozen=True)
class Citation:
    """Evidence that the model's code gave for its answer, looked up in the input by us.

    "verbatim": the quote is there, word for word; "approximate": but for white space; "not_found": it is not in the
    input; "unchecked": the time for looking was up, or the input could not be read again.
    """

    quote: str
    status: CitationStatus
    document: str = ""
    """Where it was found, else where it was said to be: what the model calls it."""
    path: str | None = None
    """Of a document that is a file as it is: this is where its line is. None for what was converted or unpacked."""
    line: int | None = None
    """From 1; lines end at "\n"."""
    start: int | None = None
    end: int | None = None
    """Characters [start, end) of the document's text."""


@dataclass(frozen=True)
class Result:
    """The one object of `--json`, of the last line of `--events` and of `run.json` (`rlm schema result`).

    An answer of more than 1 MiB is not in it: `answer` is None, and `answer_file` says where it is.
    """

    run_id: str
    status: Status
    answer: str | None
    question: str
    exit_code: int
    version: str
    data: Any = None
    citations: tuple[Citation, ...] = ()
    sources: SourcesFacts = SourcesFacts()
    models: ModelPair = ModelPair()
    usage: RoleUsage = RoleUsage()
    cost: Cost = Cost()
    calls: Calls = Calls()
    iterations: int = 0
    compactions: int = 0
    """How often the conversation was shortened to fit the root's window."""
    depth: int = 0
    timing: Timing = Timing()
    limit_hit: str | None = None
    sandbox: SandboxInfo = SandboxInfo()
    error: ErrorInfo | None = None
    warnings: tuple[str, ...] = ()
    log_dir: str | None = None
    mode: str = ""
    """How the answer came about: rlm, rlm-d0 or direct (`rlm help modes`)."""
    answer_file: AnswerFile | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def answered(self) -> bool:
        """Whether there is an answer, here or in its file."""
        return bool(self.answer) or self.answer_file is not None


# -- the events ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunStarted:
    """Always the first record. `limits` are the caps in force, as `rlm config` spells them."""

    run_id: str
    version: str
    question: str
    models: ModelPair
    sources: SourcesFacts
    limits: Mapping[str, float | None] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """The sources as the user named them (for the header and `runs list`)."""
    cost_note: str = ""
    """What is unusual about pricing: offline model, unknown price."""
    mode: str = ""
    """rlm, rlm-d0 or direct. A direct run whose input turns out not to fit goes on as the others do: a warning says
    so, `sandbox.ready` follows, and the result has the mode that answered."""
    mode_why: str = ""
    sandbox: str = ""
    """What runs code, if any is run: "docker", "podman" or "process"."""
    skips: str = ""
    """The command that lists what was left out; "" when nothing was."""
    type: str = "run.started"


@dataclass(frozen=True)
class Preparing:
    """Something takes longer than a moment, before the first turn or after the last: `done` of `total` bytes. Drawn,
    not logged."""

    what: str
    done: int
    total: int
    type: str = "preparing"


@dataclass(frozen=True)
class SandboxReady:
    """The kernel answered, its boot facts were right, and it sees the corpus."""

    sandbox: SandboxInfo
    seconds: float
    context: str = ""
    """One line: what `context` is for the model's code."""
    type: str = "sandbox.ready"


@dataclass(frozen=True)
class PromptSet:
    """The opening messages: with `CodeWritten` and `StepFinished` every later prompt can be rebuilt. Of documents that
    were sent whole (mode direct) only the sizes are here: the record of a run does not copy its input."""

    system: str
    user: str
    type: str = "prompt.set"


@dataclass(frozen=True)
class StepStarted:
    step: int
    type: str = "step.started"


@dataclass(frozen=True)
class ModelText:
    """A piece of the root's reply as it streams. Drawn, not logged."""

    step: int
    text: str
    type: str = "model.text"


@dataclass(frozen=True)
class CodeWritten:
    """The root's whole reply (cut at its first closed code block) and the code found in it ("" when none, as always in
    mode direct)."""

    step: int
    reply: str
    code: str
    type: str = "code.written"


@dataclass(frozen=True)
class OutputText:
    """A piece of a running cell's output. Drawn, not logged."""

    step: int
    stream: Stream
    text: str
    type: str = "output.text"


@dataclass(frozen=True)
class ItemsDone:
    """How far a `map_query` in the running cell is: `done` of `total` items (None: a generator's) have a value, or
    failed for good. Drawn, not logged."""

    step: int
    done: int
    total: int | None
    type: str = "items.done"


@dataclass(frozen=True)
class Output:
    """What a cell wrote to one stream, head and tail, and its true size in bytes."""

    step: int
    stream: Stream
    text: str
    total: int
    type: str = "output"


@dataclass(frozen=True)
class CallStarted:
    """A model call goes out. `prompt` is the sub-call's whole prompt; for the root it is "" (see `PromptSet`)."""

    call: str
    role: Role
    model: str
    prompt: str
    prompt_chars: int
    step: int = 0
    type: str = "call.started"


@dataclass(frozen=True)
class CallRetried:
    """Attempt `attempt` failed; the next one starts in `wait_s` seconds."""

    call: str
    attempt: int
    attempts: int
    wait_s: float
    reason: str
    type: str = "call.retried"


@dataclass(frozen=True)
class CallFinished:
    """A call is over. `cost_usd` None: price unknown. `attempts`: requests sent. `totals`: the ledger afterwards."""

    call: str
    role: Role
    model: str
    usage: Usage
    cost_usd: float | None
    seconds: float
    attempts: int
    totals: Totals
    reply: str = ""
    """The whole reply of a sub-call, or of the last turn at a limit; the root's others are in `CodeWritten`."""
    finish: str = "stop"
    cached: bool = False
    error: ErrorInfo | None = None
    step: int = 0
    type: str = "call.finished"


@dataclass(frozen=True)
class StepFinished:
    """One turn is over. `observation` is, byte for byte, the message the root sees next ("" on the last turn)."""

    step: int
    status: StepStatus
    seconds: float
    cell_s: float
    observation: str = ""
    type: str = "step.finished"


@dataclass(frozen=True)
class ChildStarted:
    """A child run begins (its span is the record's): `prompt` is its question, about so much of the input."""

    prompt: str
    documents: int
    bytes: int
    step: int = 0
    """The parent's turn that asked."""
    type: str = "child.started"


@dataclass(frozen=True)
class ChildFinished:
    """A child run is over. `reply` says what its parent got: the answer's beginning, or why there is none."""

    status: ChildStatus
    seconds: float
    reply: str = ""
    type: str = "child.finished"


@dataclass(frozen=True)
class LimitReached:
    """A cap stopped the loop; one last "answer with what you have" turn follows when it can be paid."""

    limit: str
    message: str
    type: str = "limit.reached"


@dataclass(frozen=True)
class KernelRestarted:
    """The worker died; `reason` says of what. Variables are gone, the corpus is open again."""

    reason: str
    step: int = 0
    type: str = "kernel.restarted"


@dataclass(frozen=True)
class Compacted:
    """The conversation neared the root's window: all turns but the last `kept` are now `account`, a message."""

    step: int
    turns: int
    """Turns that `account` stands for."""
    kept: int
    account: str
    type: str = "history.compacted"


@dataclass(frozen=True)
class Warned:
    """Something the user should know that does not stop the run. Collected into the result's `warnings`."""

    message: str
    type: str = "warning"


@dataclass(frozen=True)
class RunFinished:
    """Always the last record: the same object as `--json` prints."""

    result: Result
    type: str = "run.finished"


@dataclass(frozen=True)
class Unknown:
    """An event of a newer rlm. Kept so that nothing that was logged is lost on the way through."""

    type: str
    data: Mapping[str, Any]


Event = (
    RunStarted
    | Preparing
    | SandboxReady
    | PromptSet
    | StepStarted
    | ModelText
    | CodeWritten
    | OutputText
    | ItemsDone
    | Output
    | CallStarted
    | CallRetried
    | CallFinished
    | StepFinished
    | ChildStarted
    | ChildFinished
    | LimitReached
    | KernelRestarted
    | Compacted
    | Warned
    | RunFinished
    | Unknown
)

EVENT_TYPES: Mapping[str, type[Any]] = {
    cls.__dataclass_fields__["type"].default: cls for cls in typing.get_args(Event) if cls is not Unknown
}


@dataclass(frozen=True)
class Record:
    """An event with its place in the run: `seq` counts from 0 without gaps, `ts` is Unix seconds."""

    seq: int
    ts: float
    span: Span
    event: Event


Emit = Callable[[Event, Span], None]
Listener = Callable[[Record], None]


def is_streaming(event: Event) -> bool:
    """What is drawn as it comes and superseded by a logged event."""
    return isinstance(event, (ModelText, OutputText, ItemsDone, Preparing))


class Bus:
    """Numbers, stamps and hands on events to its listeners, in order.

    One lock (it guards `seq` and the order of delivery) so that any thread may emit. Streaming pieces take no
    number: the log's numbers have no gaps. A listener that raises is taken off the bus and the others are told with
    a `Warned`: a full disk or a closed terminal must not end a paid run.
    """

    def __init__(self, listeners: Iterable[Listener] = (), *, clock: Callable[[], float] = time.time) -> None:
        self._listeners = list(listeners)
        self._clock = clock
        self._seq = 0
        self._lock = threading.RLock()

    def add(self, listener: Listener) -> None:
        with self._lock:
            self._listeners.append(listener)

    def emit(self, event: Event, span: Span = ROOT) -> None:
        with self._lock:
            record = Record(self._seq, self._clock(), span, event)
            if not is_streaming(event):
                self._seq += 1
            failures = [failure for listener in tuple(self._listeners) if (failure := self._deliver(listener, record))]
            for failure in failures:  # after everybody has the record itself
                self.emit(Warned(failure))

    def _deliver(self, listener: Listener, record: Record) -> str:
        """What went wrong, "" when nothing did."""
        try:
            listener(record)
        except Exception as error:  # noqa: BLE001 - the edge between the run and whoever watches it
            self._listeners.remove(listener)
            name = getattr(listener, "name", type(listener).__name__)
            return f"{name} failed and was switched off: {error}"
        return ""


# -- JSON ----------------------------------------------------------------------------------------------------------


_PLAIN = frozenset({str, int, bool, type(None)})
"""What is JSON as it is. Most values are, and looking here is cheaper than a call."""


def to_json(value: Any) -> Any:
    """A frozen dataclass (or mapping, sequence, scalar) as JSON-ready values."""
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if kind is float:
        return value if math.isfinite(value) else None  # JSON has no NaN and no infinity
    if kind is Span:
        return str(value)
    if names := _written(kind):
        return {name: item if type(item := getattr(value, name)) in _PLAIN else to_json(item) for name in names}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    return value


@functools.cache
def _written(kind: type[object]) -> tuple[str, ...]:
    """What is written of a dataclass: its fields, and a sum that is a property; () for anything else. Kept, because two
    records for each of thousands of calls are written while those calls wait for their turn."""
    if not dataclasses.is_dataclass(kind):
        return ()
    sums = ("total",) if isinstance(getattr(kind, "total", None), property) else ()
    return (*(field.name for field in dataclasses.fields(kind)), *sums)


T = TypeVar("T")


def from_json(cls: type[T], data: Any) -> T:
    """Build a dataclass of this module from JSON. Unknown fields are ignored, missing ones take their defaults.

    Raises `ValueError` when `data` does not fit.
    """
    try:
        return typing.cast(T, _build(cls, data))
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a {cls.__name__}: {error}") from error


def _build(kind: Any, data: Any) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any or kind is None:
        return data
    if origin in (Union, types.UnionType):
        options = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        return None if data is None else _build(options[0], data)
    if origin is Literal:
        if data not in typing.get_args(kind):
            raise ValueError(f"{data!r} is not one of {typing.get_args(kind)}")
        return data
    if origin is tuple:
        item = typing.get_args(kind)[0]
        if not isinstance(data, list | tuple):
            raise ValueError(f"expected a list, got {type(data).__name__}")
        return tuple(_build(item, entry) for entry in data)
    if origin is not None:  # Mapping[str, ...]
        value_type = typing.get_args(kind)[1]
        return {str(key): _build(value_type, value) for key, value in data.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{key: _build(hints[key], value) for key, value in data.items() if key in hints})
    return _scalar(kind, data)


@functools.cache
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    """The types of a dataclass's fields. Finding them out costs more than all else: a long record has 50,000 events."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _scalar(kind: Any, data: Any) -> Any:
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        data = float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise ValueError(f"expected {kind.__name__}, got {type(data).__name__}")
    # Who reads a number does arithmetic with it: a forged one must not overflow there.
    if (kind is float and not math.isfinite(data)) or (kind is int and abs(data) >= 2**63):
        raise ValueError(f"{kind.__name__} out of range")
    return data


def record_to_json(record: Record) -> dict[str, Any]:
    """One line of events.jsonl or `--events`. `schema_version` is in every line: lines get separated from files."""
    body = record.event.data if isinstance(record.event, Unknown) else to_json(record.event)
    head = {
        "schema_version": SCHEMA_VERSION,
        "seq": record.seq,
        "ts": round(record.ts, 6),
        "span": str(record.span),
        "type": record.event.type,
    }
    return head | {key: value for key, value in body.items() if key not in head}


def record_from_json(data: Any) -> Record:
    """The inverse. An event of an unknown type, or one that does not fit, becomes `Unknown`; a line that is not a
    record at all raises `ValueError`."""
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise ValueError("not an event record")
    seq, ts, span = data.get("seq"), data.get("ts"), data.get("span", "")
    if not isinstance(span, str):
        raise ValueError("not an event record: span is wrong")
    kind = EVENT_TYPES.get(data["type"])
    event: Event
    try:
        event = from_json(kind, data) if kind else Unknown(data["type"], data)
    except ValueError:
        event = Unknown(data["type"], data)
    return Record(from_json(int, seq), from_json(float, ts), Span.parse(span), event)
