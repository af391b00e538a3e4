"""Runs without the command line: the engine with the real sandbox, and models that live in this process."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rlm_cli.children import Children
from rlm_cli.engine import run
from rlm_cli.errors import LimitError, ProviderError, RlmError
from rlm_cli.events import (
    ROOT,
    CallFinished,
    CallStarted,
    CodeWritten,
    Event,
    Record,
    RunStarted,
    Span,
    Totals,
    Usage,
)
from rlm_cli.models import Completion, Model, OnText, Request
from rlm_cli.prompts import InputFacts
from rlm_cli.sandbox import Document, SandboxOptions
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from rlm_cli.sources import Document as Source
from rlm_cli.task import Deps, LedgerView, Limits, Outcome, Task
from tests.loopback import Behaviour, Label, Policy, Turn, default_label, oracle, tokens

from .case import LIMIT_S

if TYPE_CHECKING:
    from .runner import Evidence


def ask(
    question: str,
    documents: Sequence[Document],
    model: Model,
    *,
    sub: str = "sub/e00",
    limits: Limits | None = None,
    depth: int = 1,
    memory: int = 2 * 1024**3,
    aliases: Mapping[str, str] | None = None,
    ledger: LedgerView | None = None,
    events: list[Event] | None = None,
) -> Outcome:
    """One question, answered by the engine in a container of its own."""
    seen = events if events is not None else []

    def emit(event: Event, span: Span = ROOT) -> None:
        seen.append(event)

    async def answered() -> Outcome:
        sandbox = DockerSandbox(SandboxOptions(memory=memory, pull="never"))
        children = Children(sandbox.child, sandbox.placed)
        task = Task(
            question,
            documents,
            InputFacts(len(documents), sum(document.size for document in documents)),
            "root/inside",
            sub,
            limits=limits or Limits(),
            depth=depth,
            aliases=aliases or {},
        )
        deps = Deps(model, sandbox, emit, ledger or LedgerView(Totals), children=children)
        try:
            return await asyncio.wait_for(run(task, deps), LIMIT_S)
        finally:
            await children.close()
            await sandbox.close()

    return asyncio.run(answered())


def answer_of(outcome: Outcome) -> bytes:
    return b"" if outcome.answer is None else outcome.answer.whole()


@dataclass
class Oracle:
    """The loopback server's models, without the server. Counts what it was asked, by role."""

    policy: Policy
    label: Label = default_label
    prompts: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        messages = tuple({"role": message.role, "content": message.content} for message in request.messages)
        self.prompts["sub" if request.role == "sub" else "root"].append(messages[-1]["content"])
        if request.role == "sub":
            reply = oracle(Behaviour(request.model), messages[-1]["content"], self.label)
        else:
            reply = self.policy(Turn(sum(message["role"] == "assistant" for message in messages), messages))
        usage = Usage(sum(tokens(message["content"]) + 4 for message in messages), tokens(reply))
        return Completion(reply, usage, request.model)


# -- replays -------------------------------------------------------------------------------------------------------


class DivergedError(AssertionError):
    """A replay asked for something that the recorded run did not ask for."""


@dataclass
class Recorded:
    """The models of a recorded run: each turn of each run in the tree gets the reply that it got, each sub-call the
    reply to the same prompt, in the same order where one was asked more than once.

    A refusal for want of money or calls comes after all replies of its turn: as long as they are not in, it would keep
    the engine from asking for them.
    """

    roots: Mapping[Span, deque[str]]
    subs: Mapping[tuple[Span, str, str], deque[CallFinished]]
    successes: dict[tuple[Span, int], int]
    last: str = ""
    """What was said in the last turn, at a limit."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @classmethod
    def of(cls, records: Sequence[Record]) -> Recorded:
        roots: dict[Span, deque[str]] = defaultdict(deque)
        subs: dict[tuple[Span, str, str], deque[CallFinished]] = defaultdict(deque)
        successes: dict[tuple[Span, int], int] = defaultdict(int)
        asked: dict[str, CallStarted] = {}
        last = ""
        for record in records:
            event = record.event
            if isinstance(event, CodeWritten):
                roots[record.span].append(event.reply)
            elif isinstance(event, CallStarted):
                asked[event.call] = event
            elif isinstance(event, CallFinished) and event.role == "sub":
                call = asked[event.call]
                subs[record.span, call.model, call.prompt].append(event)
                successes[record.span, event.step] += event.error is None
            elif isinstance(event, CallFinished) and event.role == "final":
                last = event.reply
        return cls(roots, subs, successes, last)

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        if request.role == "sub":
            return await self._sub(request)
        if request.role == "final":
            return Completion(self.last, Usage(1, 1), request.model)
        if not self.roots[request.span]:
            raise DivergedError("the replay takes more turns than the run did")
        return Completion(self.roots[request.span].popleft(), Usage(1, 1), request.model)

    async def _sub(self, request: Request) -> Completion:
        waiting = self.subs.get((request.span, request.model, request.messages[-1].content))
        turn = (request.span, request.step)
        if not waiting:
            raise DivergedError(f"the run never asked: {request.messages[-1].content[:200]!r}")
        call = waiting.popleft()
        if call.error is not None:
            if not call.attempts:
                async with self.changed:
                    await self.changed.wait_for(lambda: not self.successes[turn])
            raise error_of(call)
        async with self.changed:
            self.successes[turn] -= 1
            self.changed.notify_all()
        return Completion(call.reply, call.usage, call.model)


def error_of(call: CallFinished) -> RlmError:
    """The error that the record tells of."""
    assert call.error is not None
    if not call.attempts:
        return LimitError("cost", call.error.message)
    return ProviderError(call.error.message, code=call.error.code)


def replayed_answer(evidence: Evidence, directory: Path) -> bytes:
    """Run the record's code again on the record's input, with the record's replies; what that answers."""
    (started,) = evidence.events(RunStarted)
    if evidence.result.mode == "direct":
        (written,) = evidence.events(CodeWritten)
        return written.reply.strip().encode()
    setup, caps = evidence.setup, started.limits
    outcome = ask(
        started.question,
        manifest(directory),
        Recorded.of(evidence.records),
        limits=Limits(int(caps["iterations"] or 0), caps["time"], setup.step_s),
        depth=int(caps["depth"] or 0),
        memory=setup.memory,
        ledger=LedgerView(Totals, None if caps["subcalls"] is None else int(caps["subcalls"])),
        sub=started.models.sub,
        aliases={name: f"openai/{model}" for name, model in setup.aliases.items()},
    )
    return answer_of(outcome)


def manifest(directory: Path) -> list[Source]:
    """The documents that a run read, as its record names them."""
    lines = (directory / "sources.jsonl").read_text().splitlines()
    return [Source(entry["name"], entry["path"], entry["size"]) for entry in map(json.loads, lines)]
