"""Run the model's code: the `Sandbox` and `Channel` seams and the values that cross them.

`container.py` is the only importer of docker; `client.py` is the host's half of the wire (docs/PROTOCOL.md);
`kernel/` is the stdlib-only program that runs inside and imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from ..events import AnswerKind, SandboxInfo, Stream
from .kernel.decoding import decode as decode
from .spool import Spooled

CellStatus = Literal["ok", "error", "timeout", "died", "interrupted"]


class Document(Protocol):
    """One document of the corpus: a regular file on the host whose bytes are its content."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def size(self) -> int: ...
    @property
    def encoding(self) -> str:
        """A Python codec name, or "auto": BOM, then strict UTF-8, then Latin-1 (marked lossy)."""
        ...


@dataclass(frozen=True)
class Slice:
    """A `Document` that is a part of a file: `size` bytes from `offset` on."""

    name: str
    path: Path
    size: int
    encoding: str = "auto"
    offset: int = 0


def first_byte(document: Document) -> int:
    """Where in its file a document begins."""
    return document.offset if isinstance(document, Slice) else 0


@dataclass(frozen=True)
class ContextFacts:
    """What the kernel measured about `context`, once it is open.

    `kind` is "str" (one document, decoded), "text" (one document, lazy) or "documents" (a mapping). `chars` is None
    where it was not counted (lazy); `lines_exact` is false when `lines` was extrapolated from a sample.
    """

    kind: Literal["str", "text", "documents"]
    documents: int
    bytes: int
    chars: int | None
    lines: int
    lines_exact: bool
    lossy: int | None = 0
    """Documents whose bytes were not valid in their encoding and were read as Latin-1. Where not everything was read:
    at least so many, and None when none was found."""


@dataclass(frozen=True)
class Captured:
    """One stream of one cell: at most the first and the last 64 KiB, and the true size in bytes."""

    head: str = ""
    tail: str = ""
    total: int = 0
    dropped: int = 0
    """Bytes between head and tail that were not kept."""

    @property
    def text(self) -> str:
        """What was kept, with a line where something is missing."""
        gap = f"\n[... {self.dropped:,} bytes not kept ...]\n" if self.dropped else ""
        return self.head + gap + self.tail


@dataclass(frozen=True)
class Quote:
    """Evidence as the model's code gave it, unchecked: a text that is said to be in the input. `document`: its name in
    the kernel, or ""; `start`: the place, in characters, that the text is said to be at or to hold."""

    quote: str
    document: str = ""
    start: int | None = None


@dataclass(frozen=True)
class Answer:
    """A submitted answer: "text" is UTF-8, "json" is UTF-8 JSON of a list, dict or number, "bytes" is as it was.

    A large one (more than `spool.IN_MEMORY` bytes) is in a file.
    """

    kind: AnswerKind
    data: bytes | Spooled
    evidence: tuple[Quote, ...] = ()
    problem: str = ""
    """Why it does not satisfy `Host.schema`, as the kernel says."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.size

    def pieces(self) -> Iterator[bytes]:
        """All of it, a piece at a time. Raises `OSError`."""
        return iter((self.data,)) if isinstance(self.data, bytes) else self.data.pieces()

    def whole(self) -> bytes:
        """All of it in memory, for who cannot do without. Raises `OSError`."""
        return b"".join(self.pieces())


@dataclass(frozen=True)
class StepResult:
    """What one cell did. The model's code failing is data: `status` and `error` (its traceback).

    `restarted` is "" or says why the worker had to be replaced: then every variable is gone.
    `late` is output of background threads that arrived between cells; `given_up` counts the replies that nobody waited
    for: their calls were stopped with the cell.
    """

    status: CellStatus
    stdout: Captured = Captured()
    stderr: Captured = Captured()
    error: str = ""
    answer: Answer | None = None
    seconds: float = 0.0
    restarted: str = ""
    late: str = ""
    given_up: int = 0
    variables: tuple[str, ...] = ()
    """One line per user variable, as SHOW_VARS prints them (capped)."""


@dataclass(frozen=True)
class Reference:
    """A part of what the asking code sees as `context`: `size` bytes (None: to its end) of document `number` (in the
    order of the index) from `start` on. `encoding` "" is the document's own. Whoever answers checks every number."""

    name: str
    number: int
    start: int = 0
    size: int | None = None
    encoding: str = ""


@dataclass(frozen=True)
class Value:
    """A text that came along with the question."""

    name: str
    text: str


Passed = tuple[Reference | Value, ...] | None
"""What a child run is to work on; None: all that its parent has."""


@dataclass(frozen=True)
class SubCall:
    """The model's code asks for something: all of one call to llm_query(_batched) or rlm_query(_batched).

    `kind` "llm" or "rlm"; `model` is "" or an alias that the host resolves; `contexts` has one item for each prompt of
    an "rlm". The kernel is untrusted: whoever answers checks counts and sizes first.
    """

    kind: Literal["llm", "rlm"]
    prompts: tuple[str, ...]
    model: str = ""
    contexts: tuple[Passed, ...] = ()
    schema: str = ""
    """JSON Schema for the replies to an "rlm". It is the model's: children are told it, and kernels alone check it."""


@dataclass(frozen=True)
class SubReply:
    """One item's reply: `ok` false makes it an error value (or exception) in the kernel, with `text` as its message.
    An `answer`, when there is one, becomes the Python value that it is, and `text` does not count."""

    ok: bool
    text: str
    answer: Answer | None = None


class Host(Protocol):
    """What the engine offers to the model's code. Implementations never raise for what the model did wrong."""

    @property
    def schema(self) -> str:
        """A JSON Schema that the kernel is to check submitted values by ("": none)."""
        ...

    async def answer(self, call: SubCall, deliver: Callable[[int, SubReply], None]) -> None:
        """Answer every prompt of `call`, delivering each reply by its index as it comes (any order)."""
        ...

    def budget(self) -> Mapping[str, float | int | str | None]:
        """What remains, for `budget()`: usd, subcalls, seconds, turns ... None: unlimited or unknown. `limit`: the one
        that was reached, so that every further call is refused ("depth": there are none at this depth)."""
        ...

    def progress(self, done: int, total: int | None) -> None:
        """How many of the items that one helper works on are done, from time to time; None: it is not known of how
        many. A claim of the model's code."""
        ...


OnOutput = Callable[[Stream, str], None]


class Sandbox(Protocol):
    """A kernel in a locked-down place. One at a time executes one cell; `close` is idempotent and always called.

    Any method raises `SandboxError` when the place itself fails (engine gone, kernel not answering, boot facts
    wrong); that ends the run. The creator closes it.
    """

    @property
    def info(self) -> SandboxInfo: ...

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        """Start, check the boot facts, attach the corpus, prove that the kernel sees the same bytes."""
        ...

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        """Run one cell. `timeout` counts seconds of computing, not waiting for sub-calls. Cancelling interrupts it."""
        ...

    def interrupt(self) -> None:
        """Stop the running cell, if any: its calls are given up, new ones refused, and `execute` soon returns what it
        did until then, an answer included; its status is "interrupted", unless it ended by itself first."""
        ...

    async def close(self) -> None:
        """Stop and remove everything this sandbox made, at once."""
        ...

    def kill_now(self) -> None:
        """The same as far as it can be done without an event loop, from any thread."""
        ...


class RootSandbox(Sandbox, Protocol):
    """The sandbox of a run as a person starts it: children come from it, and it says what happened to the input."""

    def child(self) -> Sandbox:
        """Another one of the same kind; not opened, and not closed with this one."""
        ...

    def placed(self, documents: Sequence[Document]) -> Sequence[Document]:
        """Where the documents that it was opened with are on the host now."""
        ...

    async def changes(self) -> tuple[str, ...]:
        """Sentences about documents that changed while they were being read; after the last cell."""
        ...


class Channel(Protocol):
    """Bytes to and from the kernel's supervisor. Blocking; used from the client's own two threads.

    End-of-file means only that the other side is gone; shutting the kernel down is a message.
    """

    def read(self) -> bytes:
        """Some bytes, or b"" at the end. Raises `SandboxError` when the engine fails."""
        ...

    def write(self, data: bytes) -> None:
        """All of `data`. Raises `SandboxError` when the other side is gone."""
        ...

    def close(self) -> None:
        """Wake up a blocked `read` and release everything. Idempotent."""
        ...


@dataclass(frozen=True)
class SandboxOptions:
    """The part of the container profile a user may set (SANDBOX.md 2). Memory in bytes."""

    image: str = ""
    pull: Literal["missing", "always", "never"] = "missing"
    memory: int = 2 * 1024**3
    cpus: float = 2.0
    run_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
