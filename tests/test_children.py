"""Child runs: what is passed to them, how many live at once, what their parent gets; scripted model and sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlm_cli.children import AT_ONCE, Children, in_words, resolve
from rlm_cli.engine import Deps, LedgerView, Limits, Outcome, Task, run
from rlm_cli.errors import InputError, LimitError, ProviderError, RlmError
from rlm_cli.events import ROOT, ChildFinished, ChildStarted, Event, Span
from rlm_cli.models import Completion, OnText, Request
from rlm_cli.prompts import InputFacts
from rlm_cli.sandbox import Answer, Document, Passed, Reference, Slice, StepResult, SubCall, SubReply, Value

from .fakes import ScriptedModel, ScriptedSandbox, fence, final, no_totals, printed

QUICK_S = 20


@pytest.fixture
def documents(tmp_path: Path) -> list[Document]:
    (tmp_path / "file").write_bytes(b"0123456789abcdef")
    return [Slice("one", tmp_path / "file", 10), Slice("two", tmp_path / "file", 6, offset=10)]


def content(document: Document) -> bytes:
    assert isinstance(document, Slice)
    return document.path.read_bytes()[document.offset : document.offset + document.size]


# -- what is passed ------------------------------------------------------------------------------------------------


def test_nothing_passed_is_all_there_is(documents: list[Document], tmp_path: Path) -> None:
    assert resolve(None, documents, tmp_path) is documents


def test_references_are_parts_of_the_same_file(documents: list[Document], tmp_path: Path) -> None:
    """A part of a part, at the right place of the file, under the name it was given."""
    found = resolve((Reference("x", 1, 2, 3, "latin-1"), Reference("", 0)), documents, tmp_path)
    assert [(document.name, document.encoding, content(document)) for document in found] == [
        ("x", "latin-1", b"cde"),
        ("one", "auto", b"0123456789"),
    ]
    assert {document.path for document in found} == {documents[0].path}


def test_texts_are_written_privately(documents: list[Document], tmp_path: Path) -> None:
    """All of them into one file that nobody else may read."""
    found = resolve((Value("a", "héllo"), Value("b", "x\udc80")), documents, tmp_path)
    assert [content(document) for document in found] == ["héllo".encode(), b"x?"]
    assert {document.path.stat().st_mode & 0o777 for document in found} == {0o600}


@pytest.mark.parametrize(
    "part",
    [
        Reference("x", 2),
        Reference("x", -1),
        Reference("x", 0, 11),
        Reference("x", 0, -1, 2),
        Reference("x", 0, 5, 6),
        Reference("x", 0, 5, -1),
        Reference("x", 0, 0, 1, "../../x"),
    ],
)
def test_what_the_parent_does_not_have_is_refused(documents: list[Document], tmp_path: Path, part: Reference) -> None:
    """Numbers come from model code: never a byte outside the parent's own documents."""
    with pytest.raises(InputError, match="cannot be passed"):
        resolve((part,), documents, tmp_path)


def test_an_empty_selection_is_refused(documents: list[Document], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty"):
        resolve((), documents, tmp_path)


def test_at_the_depth_limit_the_text_stands_below_the_prompt(documents: list[Document]) -> None:
    """A plain call has no `context`; parts that the host knows are read for it, up to a size."""
    assert in_words("Q", None, documents, 100) == "Q"
    assert in_words("Q", (Value("", "text"),), documents, 100) == "Q\n\ntext"
    assert in_words("Q", (Reference("", 1), Value("v", "t")), documents, 100) == "Q\n\ntwo:\nabcdef\n\nv:\nt"
    with pytest.raises(InputError, match="10 bytes"):
        in_words("Q", (Reference("", 0),), documents, 9)


# -- runs ----------------------------------------------------------------------------------------------------------


@dataclass
class Tree:
    """A root whose children play `scripts`: (question, cells) in the order in which they start."""

    model: ScriptedModel
    root: ScriptedSandbox
    children: list[ScriptedSandbox] = field(default_factory=list)
    max_depth: int = 2
    limits: Limits = Limits()
    seen: list[tuple[str, Event]] = field(default_factory=list)
    made: list[ScriptedSandbox] = field(default_factory=list)

    def sandbox(self) -> ScriptedSandbox:
        self.made.append(self.children.pop(0))
        return self.made[-1]

    def emit(self, event: Event, span: Span = ROOT) -> None:
        self.seen.append((str(span), event))

    def play(self, documents: Sequence[Document] = ()) -> Outcome:
        task = Task("Q", documents, InputFacts(1, 10), "m/root", "m/sub", limits=self.limits, depth=self.max_depth)
        children = Children(self.sandbox)
        deps = Deps(self.model, self.root, self.emit, LedgerView(no_totals), children=children)

        async def bounded() -> Outcome:
            outcome = await asyncio.wait_for(run(task, deps), QUICK_S)
            await children.close()
            assert children.live == []
            return outcome

        return asyncio.run(bounded())


class BySpan(ScriptedModel):
    """Root replies by the run that asks: its own list for each span."""

    def __init__(self, replies: dict[str, list[str | RlmError]]) -> None:
        super().__init__([])
        self._replies = replies

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        self.roots = [] if request.role == "sub" else [self._replies[str(request.span)].pop(0)]
        return await super().complete(request, on_text)


async def rlm(sandbox: ScriptedSandbox, *prompts: str, contexts: tuple[Passed, ...] = ()) -> list[SubReply]:
    """What a cell's rlm_query_batched does."""
    assert sandbox.host is not None
    replies: dict[int, SubReply] = {}
    call = SubCall("rlm", prompts, "", contexts or (None,) * len(prompts))
    await sandbox.host.answer(call, replies.__setitem__)
    return [replies[index] for index in range(len(prompts))]


def asks(got: list[list[SubReply]], *prompts: str, contexts: tuple[Passed, ...] = ()) -> ScriptedSandbox:
    """A sandbox whose first cell asks, and whose second submits."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        got.append(await rlm(sandbox, *prompts, contexts=contexts))
        return printed("asked\n")

    return ScriptedSandbox([cell, final("done")])


ASKS: list[str | RlmError] = [fence("ask"), fence("FINAL('done')")]
SUBMITS = fence("FINAL(1)")


def json_answer(text: bytes) -> StepResult:
    return StepResult("ok", answer=Answer("json", text))


def test_a_child_is_a_run_with_a_value() -> None:
    """It has a sandbox, a span and turns of its own; its answer keeps its kind; all is closed."""
    got: list[list[SubReply]] = []
    model = BySpan({"": [*ASKS], "1": [SUBMITS], "2": [fence("look"), SUBMITS]})
    tree = Tree(model, asks(got, "A?", "B?"))
    tree.children = [ScriptedSandbox([json_answer(b"[1]")]), ScriptedSandbox([printed("x"), final("two")])]
    assert tree.play().status == "ok"
    assert [reply.answer for reply in got[0]] == [Answer("json", b"[1]"), Answer("text", b"two")]
    assert [(span, event.prompt) for span, event in tree.seen if isinstance(event, ChildStarted)] == [
        ("1", "A?"),
        ("2", "B?"),
    ]
    assert sorted((s, e.status) for s, e in tree.seen if isinstance(e, ChildFinished)) == [("1", "ok"), ("2", "ok")]
    assert all(sandbox.closed for sandbox in tree.made)
    assert len({request.call for request in model.requests}) == len(model.requests)


def test_at_the_limit_it_is_a_plain_sub_call() -> None:
    """No child: the sub-model is asked, and the text stands below the prompt. The system prompt promises no more."""
    got: list[list[SubReply]] = []
    model = BySpan({"": [*ASKS]})
    tree = Tree(model, asks(got, "A?", contexts=((Value("t", "text"),),)), max_depth=1)
    assert tree.play().status == "ok"
    assert [reply.text for reply in got[0]] == ["reply to A?\n\ntext"]
    assert "a run like this one" not in model.requests[0].messages[0].content


def test_three_levels() -> None:
    """Grandchildren are told that they are at the limit; spans name the way down."""
    got: list[list[SubReply]] = []
    model = BySpan({"": [*ASKS], "1": [*ASKS], "1.1": [*ASKS]})
    tree = Tree(model, asks(got, "A"), [asks(got, "B"), asks(got, "C")], max_depth=3)
    assert tree.play().status == "ok"
    assert [[reply.text or reply.answer for reply in replies] for replies in got] == [
        ["reply to C"],
        [Answer("text", b"done")],
        [Answer("text", b"done")],
    ]
    promised = {str(r.span): "a run like this one" in r.messages[0].content for r in model.requests if r.role == "root"}
    assert promised == {"": True, "1": True, "1.1": False}


def test_a_child_without_an_answer_is_one_failed_item() -> None:
    """At its limit, in an error, or with nothing to say: its parent goes on, and knows why and what was found."""
    got: list[list[SubReply]] = []
    model = BySpan(
        {
            "": [*ASKS],
            "1": [fence("a"), fence("b"), "About 40."],
            "2": [ProviderError("the provider is confused", code="bad_request")],
            "3": ["", "", ""],
            "4": [SUBMITS],
        }
    )
    tree = Tree(model, asks(got, "A", "B", "C", "D"), limits=Limits(iterations=2))
    tree.children = [ScriptedSandbox([printed("seen 40")] * 2), ScriptedSandbox([]), ScriptedSandbox([])]
    tree.children.append(ScriptedSandbox([final("4")]))
    assert tree.play().status == "ok"
    first, second, third, fourth = got[0]
    assert (first.ok, second.ok, third.ok, fourth.ok) == (False, False, False, True)
    assert "limit of 2 turns" in first.text
    assert "About 40." in first.text
    assert "confused" in second.text


def test_a_shared_cap_that_a_child_reaches_ends_the_tree() -> None:
    """What the ledger refuses a child it would refuse its parent: one last turn, no more calls."""
    got: list[list[SubReply]] = []
    model = BySpan({"": [fence("ask"), "What I know."], "1": [LimitError("cost", "no money"), "x"]})
    tree = Tree(model, asks(got, "A"), [ScriptedSandbox([])])
    outcome = tree.play()
    assert (outcome.status, outcome.limit) == ("partial", "cost")
    assert [reply.ok for reply in got[0]] == [False]


def test_what_is_fatal_in_a_child_is_fatal() -> None:
    """A quota that is used up is used up for all."""
    model = BySpan({"": [*ASKS], "1": [ProviderError("quota", code="quota_exhausted")]})
    tree = Tree(model, asks([], "A"), [ScriptedSandbox([])])
    with pytest.raises(ProviderError, match="quota"):
        tree.play()
    assert tree.made[0].closed


def test_a_stopped_cell_takes_its_children_with_it() -> None:
    """The run's time is up while a child's cell runs: it is cancelled and its sandbox closed."""

    async def forever(_: ScriptedSandbox) -> StepResult:
        await asyncio.Event().wait()
        raise AssertionError

    model = BySpan({"": [fence("ask"), "Nothing yet."], "1": [fence("wait")]})
    tree = Tree(model, asks([], "A"), [ScriptedSandbox([forever])], limits=Limits(time_s=None))
    child = tree.children[0]

    async def play() -> None:
        task = Task("Q", (), InputFacts(1, 1), "m/root", "m/sub", limits=tree.limits, depth=2)
        children = Children(tree.sandbox)
        deps = Deps(model, tree.root, tree.emit, LedgerView(no_totals), children=children)
        running = asyncio.ensure_future(run(task, deps))
        while child.running is None:
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await children.close()
        assert children.live == []

    asyncio.run(asyncio.wait_for(play(), QUICK_S))
    assert child.closed
    assert [e.status for _, e in tree.seen if isinstance(e, ChildFinished)] == ["interrupted"]


def test_as_many_at_once_as_allowed_on_every_level() -> None:
    """Twelve children with two children each: no level holds more than its places, and nobody waits forever."""
    got: list[list[SubReply]] = []
    now: dict[int, int] = {1: 0, 2: 0}
    most: dict[int, int] = {1: 0, 2: 0}

    class Level(ScriptedModel):
        async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
            first = len(request.messages) == 2
            self.roots = [fence("ask") if first and request.span.depth < 2 else SUBMITS]
            return await super().complete(request, on_text)

    class Counted(ScriptedSandbox):
        depth = 0

        async def close(self) -> None:
            now[self.depth] -= 1
            await super().close()

    def make() -> ScriptedSandbox:
        async def cell(sandbox: ScriptedSandbox) -> StepResult:
            assert sandbox.host is not None
            await asyncio.sleep(0.001)
            depth = sandbox.host._loop.span.depth  # type: ignore[attr-defined]
            sandbox.depth = depth  # type: ignore[attr-defined]
            now[depth] += 1
            most[depth] = max(most[depth], now[depth])
            if depth == 2:
                return final("leaf")
            got.append(await rlm(sandbox, "C", "D"))
            return printed("x")

        return Counted([cell, final("done")])

    tree = Tree(Level([]), asks(got, *("ABCDEFGHIJKL")), max_depth=3)
    tree.sandbox = make  # type: ignore[method-assign]
    assert tree.play().status == "ok"
    assert most == {1: AT_ONCE, 2: AT_ONCE}
    assert all(reply.ok for replies in got for reply in replies)
    assert len(got) == 13
