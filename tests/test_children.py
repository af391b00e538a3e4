"""Child runs: what is passed to them, how many live at once, what their parent gets; scripted model and sandboxes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rlm_cli.children import AT_ONCE, Children, handed_up, in_words, resolve
from rlm_cli.desk import TEXTS_AT_ONCE
from rlm_cli.engine import run
from rlm_cli.errors import InputError, LimitError, ProviderError
from rlm_cli.events import ChildFinished, ChildStarted
from rlm_cli.models import Completion, OnText, Request
from rlm_cli.prompts import InputFacts
from rlm_cli.sandbox import Answer, Document, Passed, Quote, Reference, Slice, StepResult, SubReply, Value
from rlm_cli.task import Deps, LedgerView, Limits, Task

from .fakes import ScriptedModel, ScriptedSandbox, fence, final, no_totals, printed
from .trees import ASKS, QUICK_S, SUBMITS, BySpan, Tree, asks, json_answer, rlm


@pytest.fixture
def documents(tmp_path: Path) -> list[Document]:
    (tmp_path / "file").write_bytes(b"0123456789abcdef")
    return [Slice("one", tmp_path / "file", 10), Slice("two", tmp_path / "file", 6, offset=10)]


def content(document: Document) -> bytes:
    assert isinstance(document, Slice)
    return document.path.read_bytes()[document.offset : document.offset + document.size]


# -- what is passed ------------------------------------------------------------------------------------------------


def test_nothing_passed_is_all_there_is(documents: list[Document]) -> None:
    assert resolve(None, documents, None) is documents


def test_references_are_parts_of_the_same_file(documents: list[Document]) -> None:
    """A part of a part, at the right place of the file, under the name it was given."""
    found = resolve((Reference("x", 1, 2, 3, "latin-1"), Reference("", 0)), documents, None)
    assert [(document.name, document.encoding, content(document)) for document in found] == [
        ("x", "latin-1", b"cde"),
        ("one", "auto", b"0123456789"),
    ]
    assert {document.path for document in found} == {documents[0].path}


def test_texts_are_written_privately(documents: list[Document], tmp_path: Path) -> None:
    """All of them into one file that nobody else may read."""
    found = resolve((Value("a", "héllo"), Value("b", "x\udc80")), documents, tmp_path / "texts")
    assert [content(document) for document in found] == ["héllo".encode(), b"x?"]
    assert {document.path.stat().st_mode & 0o777 for document in found} == {0o600}


def test_a_disk_that_takes_no_text_is_one_failed_item(documents: list[Document], tmp_path: Path) -> None:
    """Full, or read only: said to the code that asked, and no crash of the run."""
    with pytest.raises(InputError, match="cannot be written"):
        resolve((Value("a", "x"),), documents, tmp_path / "no such folder" / "texts")

    async def place() -> None:
        children = Children(lambda: ScriptedSandbox([]), folder=tmp_path / "no such folder")
        async with children.place(1, documents, (Value("a", "x"),)):
            raise AssertionError

    with pytest.raises(InputError, match="cannot be written"):
        asyncio.run(place())


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
        Reference("x", 0, 0, 1, "no such codec"),
        Reference("x", 0, 0, 1, "nul\0"),
        Reference("x", 0, 0, 1, "punycode"),
        Reference("x", 0, 0, 1, "shift_jis"),
    ],
)
def test_what_the_parent_does_not_have_is_refused(documents: list[Document], part: Reference) -> None:
    """Numbers come from model code: never a byte outside the parent's own documents."""
    with pytest.raises(InputError, match="cannot be passed"):
        resolve((part,), documents, None)


@pytest.mark.parametrize(
    ("own", "named"),
    [("auto", "auto"), ("auto", "latin-1"), ("auto", "utf-16-le"), ("utf-8-sig", "utf-8"), ("Shift-JIS", "shift_jis")],
)
def test_a_part_is_read_as_its_document_may_be(tmp_path: Path, own: str, named: str) -> None:
    """In the document's own encoding, however that is spelled, or in what it turned out to be."""
    document = Slice("one", tmp_path / "file", 10, own)
    (found,) = resolve((Reference("x", 0, 0, 2, named),), [document], None)
    assert found.encoding == named


def test_an_empty_selection_is_refused(documents: list[Document]) -> None:
    with pytest.raises(InputError, match="empty"):
        resolve((), documents, None)


def test_at_the_depth_limit_the_text_stands_below_the_prompt(documents: list[Document]) -> None:
    """A plain call has no `context`; parts that the host knows are read for it, up to a size."""
    assert in_words("Q", None, documents, 100) == "Q"
    assert in_words("Q", (Value("", "text"),), documents, 100) == "Q\n\ntext"
    assert in_words("Q", (Reference("", 1), Value("v", "t")), documents, 100) == "Q\n\ntwo:\nabcdef\n\nv:\nt"
    with pytest.raises(InputError, match="10 bytes"):
        in_words("Q", (Reference("", 0),), documents, 9)


def test_a_childs_evidence_is_its_parents(documents: list[Document]) -> None:
    """By the parent's name of the document; the place stays where the part begins where the document does; a text that
    the parent's code made is of no document."""
    given = resolve((Reference("x", 1, 0, 3), Reference("y", 0, 4, 3), Reference("z", 1, 1)), documents, None)
    text = Slice("t", Path("elsewhere"), 3)
    quotes = [
        Quote("abc", "x", 1),
        Quote("456", "y", 1),
        Quote("bc", "z", 0),
        Quote("?", "t", 5),
        Quote("?", "gone", 5),
    ]
    assert handed_up(quotes, [*given, text], documents) == (
        Quote("abc", "two", 1),
        Quote("456", "one"),
        Quote("bc", "two"),
        Quote("?"),
        Quote("?"),
    )
    assert handed_up([Quote("a", "", 2)], given[:1], documents) == (Quote("a", "two", 2),)
    assert handed_up([Quote("a", "", 2)], [text], documents) == (Quote("a"),)


# -- runs ----------------------------------------------------------------------------------------------------------


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


def test_a_child_is_held_to_the_schema_of_who_asked() -> None:
    """It is told, and of what its kernel finds wrong, at most three times; then it is one failed item. A grandchild has
    its own; the root's is not passed on."""
    got: list[list[SubReply]] = []

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        got.append(await rlm(sandbox, "A?", "B?", schema='{"type": "integer"}'))
        return printed("asked\n")

    def wrong(problem: str) -> StepResult:
        return StepResult("ok", answer=Answer("text", b"many", problem=problem))

    model = BySpan({"": [*ASKS], "1": [SUBMITS] * 2, "2": [SUBMITS] * 4})
    tree = Tree(model, ScriptedSandbox([cell, final("done")]))
    tree.children = [
        ScriptedSandbox([wrong("it is no integer"), json_answer(b"7")]),
        ScriptedSandbox([wrong("it is no integer")] * 4),
    ]
    assert tree.play().status == "ok"
    first, second = got[0]
    assert (first.ok, first.answer) == (True, Answer("json", b"7"))
    assert (second.ok, "after 3 repairs it is no integer" in second.text) == (False, True)
    asked = [request for request in model.requests if str(request.span) == "1"]
    assert '{"type": "integer"}' in asked[0].messages[1].content
    assert "it is no integer" in asked[1].messages[-1].content
    assert all(sandbox.host is not None and sandbox.host.schema == '{"type": "integer"}' for sandbox in tree.made)
    assert tree.root.host is not None
    assert tree.root.host.schema == ""


def cited(*quotes: str) -> StepResult:
    return StepResult("ok", answer=Answer("text", b"1", tuple(map(Quote, quotes))))


@pytest.mark.parametrize("own", [(), ("mine",)])
def test_evidence_comes_up_from_grandchildren(own: tuple[str, ...]) -> None:
    """An answer that has none of its own has that of the children it was made of; theirs likewise. Children are asked
    for it, and what a child that did not answer gave does not count."""
    got: list[list[SubReply]] = []
    model = BySpan({"": [*ASKS], "1": [*ASKS], "1.1": [SUBMITS], "1.2": [SUBMITS], "2": ["", "", ""]})

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        got.append(await rlm(sandbox, "C", "D"))
        return printed("x")

    tree = Tree(model, ScriptedSandbox([]), max_depth=3)
    tree.root = asks(got, "A", "B")
    tree.root.results[1] = cited(*own)
    tree.children = [
        ScriptedSandbox([cell, cited()]),
        ScriptedSandbox([]),
        ScriptedSandbox([cited("one", "two")]),
        ScriptedSandbox([cited("two", "three")]),
    ]
    outcome = tree.play()
    assert outcome.answer is not None
    assert [quote.quote for quote in outcome.answer.evidence] == list(own or ("one", "two", "three"))
    systems = [request.messages[0].content for request in model.requests if request.role == "root"]
    assert all("evidence=[...]" in system for system in systems)


def test_at_the_limit_it_is_a_plain_sub_call() -> None:
    """No child: the sub-model is asked, and the text stands below the prompt. The system prompt promises no more."""
    got: list[list[SubReply]] = []
    model = BySpan({"": [*ASKS]})
    tree = Tree(model, asks(got, "A?", contexts=((Value("t", "text"),),)), max_depth=1)
    assert tree.play().status == "ok"
    assert [reply.text for reply in got[0]] == ["reply to A?\n\ntext"]
    assert "a run like this one" not in model.requests[0].messages[0].content


class Crowded(BySpan):
    """Counts the sub-calls that are in flight at once."""

    now = most = 0

    async def complete(self, request: Request, on_text: OnText | None = None) -> Completion:
        self.now += request.role == "sub"
        self.most = max(self.most, self.now)
        for _ in range(1000):
            await asyncio.sleep(0)
        try:
            return await super().complete(request, on_text)
        finally:
            self.now -= request.role == "sub"


@pytest.mark.parametrize(("context", "most"), [((Value("t", "text"),), TEXTS_AT_ONCE), (None, 2 * TEXTS_AT_ONCE)])
def test_texts_are_not_all_read_before_there_is_a_call_for_them(context: Passed, most: int) -> None:
    """Thousands of questions about one large document would be thousands of copies of it."""
    got: list[list[SubReply]] = []
    model = Crowded({"": [*ASKS]})
    questions = [f"{number}?" for number in range(2 * TEXTS_AT_ONCE)]
    tree = Tree(model, asks(got, *questions, contexts=(context,) * len(questions)), max_depth=1)
    assert tree.play().status == "ok"
    below = "\n\ntext" if context else ""
    assert [reply.text for reply in got[0]] == [f"reply to {question}{below}" for question in questions]
    assert model.most == most


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


def test_a_question_that_no_cap_would_pay_for_ends_its_child_only() -> None:
    """The input in the prompt instead of beside it: the parent is told, and goes on."""
    got: list[list[SubReply]] = []
    never = LimitError("cost", "the cap of $1.00", alone=True)
    tree = Tree(BySpan({"": [*ASKS], "1": [never]}), asks(got, "x" * 1_000_000), [ScriptedSandbox([])])
    assert tree.play().status == "ok"
    assert "the cap of $1.00; the prompt has 1,000,000 characters" in got[0][0].text


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
            depth = sandbox.host._asking.span.depth  # type: ignore[attr-defined]
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
