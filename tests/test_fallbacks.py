"""The fallback ladder (DESIGN.md 6) for what ends a run from below: a limit, a lost provider or sandbox, inside a child
inside a batch. What the parent's cell sees, what the run ends with, and what is told of what was found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from rlm_cli.cli.result import exit_code_of
from rlm_cli.errors import ExitCode, LimitError, ProviderError, RlmError, SandboxError
from rlm_cli.events import ChildFinished, LimitReached, SandboxInfo
from rlm_cli.sandbox import Answer, Captured, ContextFacts, Document, Host, OnOutput, StepResult, SubReply
from rlm_cli.sandbox.client import KernelClient
from rlm_cli.task import Limits, Outcome
from rlm_cli.timecap import GRACE_S, OVERRUN_S

from .fakes import Cell, ScriptedSandbox, fence, final, printed
from .kernel.local import PipeChannel
from .trees import HANGS, SUBMITS, BySpan, Tree, asks, rlm

FOUND = printed("found 7\n")
LOOKS = fence("look()")


def text_of(outcome: Outcome) -> str:
    return outcome.answer.whole().decode() if outcome.answer else ""


def batch(
    second: list[str | RlmError], *cells: StepResult | Cell, root: list[str | RlmError], time_s: float | None = None
) -> tuple[Tree, list[list[SubReply]]]:
    """A root that asks three children at once: the first and the third answer, the second plays `second` on `cells`."""
    got: list[list[SubReply]] = []
    model = BySpan({"": [fence("ask"), *root], "1": [SUBMITS], "2": second, "3": [SUBMITS]})
    tree = Tree(model, asks(got, "A", "B", "C"), virtual=True, limits=Limits(time_s=time_s))
    tree.children = [ScriptedSandbox([final("one")]), ScriptedSandbox([*cells]), ScriptedSandbox([final("three")])]
    return tree, got


def ends(tree: Tree) -> dict[str, str]:
    """How each child ended."""
    return {span: event.status for span, event in tree.seen if isinstance(event, ChildFinished)}


def kept(got: list[list[SubReply]]) -> SubReply:
    """The second child's reply; the other two have their answers."""
    first, second, third = got[0]
    assert (first, third) == (
        SubReply(True, "", Answer("text", b"one")),
        SubReply(True, "", Answer("text", b"three")),
    )
    assert (second.ok, second.answer) == (False, None)
    return second


async def asks_the_sub_model(sandbox: ScriptedSandbox) -> StepResult:
    (reply,) = await sandbox.ask("a")
    assert not reply.ok
    return FOUND


@pytest.mark.parametrize("cap", ["cost", "tokens", "subcalls"])
def test_a_cap_of_the_tree_inside_a_child_inside_a_batch(cap: str) -> None:
    """The item fails and says which cap and what was found; the others are kept; the root has its last turn, and the
    answer is partial: exit 6. The cap met by the child's root, or by a call that its code makes."""
    reached = LimitError(cap, f"the cap on {cap} is reached")
    if cap == "subcalls":
        tree, got = batch([LOOKS, LOOKS, "About 7."], FOUND, asks_the_sub_model, root=["What I know."])
        tree.model.sub = lambda _: reached
    else:
        tree, got = batch([LOOKS, reached, reached], FOUND, root=["What I know."])
    outcome = tree.play()
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", cap, "What I know.")
    assert exit_code_of(outcome) == ExitCode.LIMIT
    second = kept(got)
    assert f"the cap on {cap} is reached" in second.text
    assert ("About 7." if cap == "subcalls" else "found 7") in second.text
    assert ends(tree) == {"1": "ok", "2": "partial", "3": "ok"}
    assert [event.limit for span, event in tree.seen if isinstance(event, LimitReached) and not span] == [cap]
    final_request = tree.model.requests[-1]
    assert (final_request.role, str(final_request.span)) == ("final", "")
    assert "asked" in final_request.messages[-2].content


def test_after_a_cap_no_further_child_starts() -> None:
    """Of the same batch: those that wait for their turn are refused, unpaid and without a container."""
    got: list[list[SubReply]] = []
    reached = LimitError("cost", "no money")
    model = BySpan({"": [fence("ask"), "What I know."], "1": [reached]})
    tree = Tree(model, asks(got, *"ABCDEF"), [ScriptedSandbox([]) for _ in range(6)], virtual=True)
    outcome = tree.play()
    assert (outcome.status, [reply.text.count("no money") for reply in got[0]]) == ("partial", [1] * 6)
    assert ends(tree) == {"1": "no_answer"}
    assert [sandbox.host is not None for sandbox in tree.made] == [True] + [False] * 5


def test_turns_of_a_child_are_its_own() -> None:
    """Not shared: the parent goes on and answers; exit 0."""
    tree, got = batch([LOOKS, LOOKS, "About 7."], FOUND, FOUND, root=[fence("FINAL('done')")])
    tree.limits = Limits(iterations=2, time_s=None)
    outcome = tree.play()
    assert (outcome.status, exit_code_of(outcome)) == ("ok", 0)
    assert "limit of 2 turns" in kept(got).text
    assert "About 7." in kept(got).text


def test_a_child_that_takes_its_time_leaves_its_parent_some() -> None:
    """Its model never answers: its time, and its last turn's, end before its parent's; the batch comes back, and the
    parent answers. Exit 0: the caps of the run were kept."""
    tree, got = batch([LOOKS, HANGS, HANGS], FOUND, root=[fence("FINAL('done')")], time_s=100)
    outcome = tree.play()
    assert (outcome.status, text_of(outcome), exit_code_of(outcome)) == ("ok", "done", 0)
    assert "the time limit of 81 s was reached" in kept(got).text
    assert "found 7" in kept(got).text
    assert tree.seconds < 90


class Slow(ScriptedSandbox):
    """It takes half a minute to start."""

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        await asyncio.sleep(30)
        return await super().open(documents, host)


def test_a_slow_start_takes_nothing_of_the_time_of_a_run() -> None:
    """It counts from when there is something to work with, for every call; a child's start is in its parent's time."""

    async def asking(sandbox: ScriptedSandbox) -> StepResult:
        await sandbox.ask("a")
        await rlm(sandbox, "B")
        return final("done")

    model = BySpan({"": [fence("ask")], "1": [SUBMITS]})
    tree = Tree(model, Slow([asking]), [Slow([final("one")])], virtual=True, limits=Limits(time_s=100))
    assert tree.play().status == "ok"
    assert [request.deadline for request in model.requests] == pytest.approx([120, 120, 30 + 0.9 * (0.9 * 90)])
    assert "1 min 30 s" in model.requests[0].messages[-1].content


def test_a_child_whose_cell_does_not_obey_ends_in_its_own_time() -> None:
    """It is deaf to the interrupt: its child run leaves it, has its last turn, and the parent goes on in time."""

    async def deaf(_: ScriptedSandbox) -> StepResult:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if deafness.is_set():
                    raise
                deafness.set()

    deafness = asyncio.Event()
    tree, got = batch([LOOKS, LOOKS, "About 7."], FOUND, deaf, root=[fence("FINAL('done')")], time_s=100)
    outcome = tree.play()
    assert (outcome.status, text_of(outcome), tree.seconds < 90) == ("ok", "done", True)
    assert "the time limit of 81 s was reached" in kept(got).text
    assert "About 7." in kept(got).text
    assert all(sandbox.closed for sandbox in tree.made)


def test_the_time_of_the_run_inside_a_child_inside_a_batch() -> None:
    """The child's sandbox never opens: when the run's own time is up its call fails; the cell has a moment to make
    something of the others, and the answer is partial."""

    class Closed(ScriptedSandbox):
        async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
            await asyncio.Event().wait()
            raise AssertionError

    tree, got = batch([], root=["What I know."], time_s=100)
    tree.children[1] = Closed([])
    outcome = tree.play()
    assert (outcome.status, outcome.limit, text_of(outcome), exit_code_of(outcome)) == (
        "partial",
        "time",
        "What I know.",
        6,
    )
    assert "the time limit of 100 s was reached" in kept(got).text
    assert tree.seconds == pytest.approx(90)
    assert tree.root.interrupts == 0
    assert all(sandbox.closed for sandbox in tree.made)


def test_the_time_of_the_run_in_a_batch_of_plain_calls() -> None:
    """Calls without a reply fail when the time is up, those with one are kept, and what the cell submits counts."""
    got: list[SubReply] = []

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        got.extend(await sandbox.ask("a", HANGS, "c"))
        (late,) = await sandbox.ask("d")
        assert not late.ok
        return final("1 and 3")

    tree = Tree(BySpan({"": [fence("x")]}), ScriptedSandbox([cell]), virtual=True, limits=Limits(time_s=100))
    outcome = tree.play()
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "time", "1 and 3")
    assert [reply.ok for reply in got] == [True, False, True]
    assert "the time limit of 100 s was reached" in got[1].text
    assert len(tree.model.requests) == 1 + 3


def test_a_cell_that_goes_on_after_that_is_stopped() -> None:
    """It had its moment: then it is interrupted, and what it printed is told in the last turn."""

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        await sandbox.ask(HANGS)
        await asyncio.Event().wait()
        raise AssertionError

    sandbox = ScriptedSandbox([cell], unfinished=StepResult("interrupted", stdout=Captured("found 17\n", "", 9)))
    tree = Tree(BySpan({"": [fence("x"), "17, so far"]}), sandbox, virtual=True, limits=Limits(time_s=100))
    outcome = tree.play()
    assert (outcome.status, text_of(outcome), sandbox.interrupts) == ("partial", "17, so far", 1)
    assert tree.seconds == pytest.approx(90 + GRACE_S)
    assert "found 17" in tree.model.requests[-1].messages[-2].content


class Stubborn(ScriptedSandbox):
    """A sandbox whose second cell obeys nothing and nobody, until it is closed; which takes its time, too."""

    over: asyncio.Event

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        self.over = asyncio.Event()
        return await super().open(documents, host)

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        if not self.cells:
            return await super().execute(code, timeout=timeout, on_output=on_output)
        self.cells.append(code)
        while not self.over.is_set():
            try:
                await self.over.wait()
            except asyncio.CancelledError:
                self.interrupts += 1
        raise SandboxError("the sandbox is closed")

    async def close(self) -> None:
        await asyncio.sleep(60)
        self.over.set()
        await super().close()


@pytest.mark.parametrize("seconds", [1, 10, 60, 900, 7200])
@pytest.mark.parametrize("hangs", ["root", "cell", "call", "child"])
def test_nothing_that_hangs_keeps_a_run_much_longer_than_its_time(seconds: int, hangs: str) -> None:
    """The provider hangs in a turn; a cell does not stop; one waits for a call, then for nothing; a child's cell does
    not stop, nor does its container. In the last turn the provider hangs as well. Over within ten seconds after the
    run's time; and where the last turn is answered, it has its share, and the answer is its answer."""

    async def call(sandbox: ScriptedSandbox) -> StepResult:
        await sandbox.ask(HANGS)
        return await endless(sandbox)

    async def child(sandbox: ScriptedSandbox) -> StepResult:
        await rlm(sandbox, "A")
        return await endless(sandbox)

    async def endless(_: ScriptedSandbox) -> StepResult:
        await asyncio.Event().wait()
        raise AssertionError

    for last in (HANGS, "What I know."):
        mine: list[str | RlmError] = [LOOKS, HANGS if hangs == "root" else LOOKS, last]
        model = BySpan({"": mine, "1": [LOOKS, LOOKS, last]})
        root = Stubborn([FOUND]) if hangs == "cell" else ScriptedSandbox([FOUND, call if hangs == "call" else child])
        tree = Tree(model, root, [Stubborn([FOUND])], virtual=True, limits=Limits(time_s=seconds))
        outcome = tree.play()
        assert (outcome.status, outcome.limit) == ("partial", "time")
        assert text_of(outcome) == ("found 7\n" if last == HANGS else last)
        closing = 60 * (hangs == "cell") + 60 * (hangs == "child")
        assert tree.seconds - closing <= seconds + OVERRUN_S
        assert model.requests[-1].deadline is not None
        assert model.requests[-1].deadline <= seconds + OVERRUN_S


@pytest.mark.parametrize("lost", [ProviderError("down"), SandboxError("the container is gone")])
@pytest.mark.parametrize("found", [True, False])
def test_provider_or_sandbox_lost_inside_a_child(lost: RlmError, found: bool) -> None:
    """One failed item, with what it had; its parent, whose own may be well, goes on."""

    async def dies(_: ScriptedSandbox) -> StepResult:
        raise lost

    first: list[str | RlmError] = [LOOKS] if found else []
    if isinstance(lost, ProviderError):
        tree, got = batch([*first, lost], FOUND, root=[fence("FINAL('done')")])
    else:
        tree, got = batch([*first, LOOKS], *([FOUND] if found else []), dies, root=[fence("FINAL('done')")])
    outcome = tree.play()
    assert (outcome.status, text_of(outcome), exit_code_of(outcome)) == ("ok", "done", 0)
    assert lost.message in kept(got).text
    assert ("found 7" in kept(got).text) == found
    assert ends(tree)["2"] == ("partial" if found else "error")
    assert tree.made[1].closed


def test_a_provider_that_is_lost_for_all() -> None:
    """The children's failures are what the root's code printed last: that is the partial answer; exit 7."""
    down = ProviderError("down")
    tree, got = batch([down], root=[down])
    outcome = tree.play()
    assert (outcome.status, outcome.error, text_of(outcome)) == ("partial", down, "asked\n")
    assert exit_code_of(outcome) == ExitCode.PROVIDER
    assert "down" in kept(got).text


def test_the_parents_sandbox_lost_while_children_run() -> None:
    """They are stopped and their containers gone; what the root had printed before is the partial answer; exit 5."""
    lost = SandboxError("the container is gone")

    async def cell(sandbox: ScriptedSandbox) -> StepResult:
        asking = asyncio.ensure_future(rlm(sandbox, "A", "B"))
        while len(tree.made) < 2 or any(child.running is None for child in tree.made):
            await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        raise lost

    async def forever(_: ScriptedSandbox) -> StepResult:
        await asyncio.Event().wait()
        raise AssertionError

    model = BySpan({"": [LOOKS, LOOKS], "1": [LOOKS], "2": [LOOKS]})
    tree = Tree(model, ScriptedSandbox([FOUND, cell]), virtual=True, limits=Limits(time_s=None))
    tree.children = [ScriptedSandbox([forever]), ScriptedSandbox([forever])]
    outcome = tree.play()
    assert (outcome.status, outcome.error, text_of(outcome)) == ("partial", lost, "found 7\n")
    assert exit_code_of(outcome) == ExitCode.SANDBOX
    assert ends(tree) == {"1": "interrupted", "2": "interrupted"}
    assert all(sandbox.closed for sandbox in tree.made)


def test_a_limit_two_levels_down() -> None:
    """A grandchild meets the cap: each level says so to the one above, and the root's last turn ends the run."""
    got: list[list[SubReply]] = []
    reached = LimitError("cost", "no money")
    model = BySpan({"": [fence("ask"), "What I know."], "1": [fence("ask"), reached], "1.1": [LOOKS, reached, reached]})
    tree = Tree(model, asks(got, "A"), [asks(got, "B"), ScriptedSandbox([FOUND])], max_depth=3, virtual=True)
    outcome = tree.play()
    assert (outcome.status, outcome.limit, text_of(outcome)) == ("partial", "cost", "What I know.")
    assert ["no money" in replies[0].text for replies in got] == [True, True]
    assert "found 7" in got[0][0].text
    assert "asked" in got[1][0].text


class RealKernel:
    """A sandbox whose kernel is a subprocess."""

    info = SandboxInfo("process")

    async def open(self, documents: Sequence[Document], host: Host) -> ContextFacts:
        self.client = KernelClient(PipeChannel())
        await self.client.start()
        return (await self.client.attach(b'["doc", "/dev/null", 0, 0, "auto"]', None, 1 << 20, host))[0]

    async def execute(self, code: str, *, timeout: float, on_output: OnOutput | None = None) -> StepResult:
        return await self.client.execute(code, timeout=timeout, on_output=on_output)

    def interrupt(self) -> None:
        self.client.interrupt()

    async def close(self) -> None:
        await self.client.close()

    def kill_now(self) -> None:
        """Not needed: the kernel ends with its pipes."""


def test_the_time_of_the_run_in_real_kernels() -> None:
    """One child answers, the model of the other falls silent, and so does that of a plain call: the cell has a typed
    reply for each, the others kept, and what it submits is the partial answer."""
    code = f"""
got = rlm_query_batched(["A", "B"])
late = llm_query_batched(["x", "{HANGS}"])
mapped = map_query(["y"], "z", int)
FINAL([got[0], type(got[1]).__name__, got[1].error, late[0], late[1].error, mapped[0].error])
"""
    replies: dict[str, list[str | RlmError]] = {
        "": [fence(code)],
        "1": [fence("FINAL([1, 2])")],
        "2": [fence("print('found 7')"), HANGS, HANGS],
    }
    tree = Tree(BySpan(replies), RealKernel(), limits=Limits(time_s=8))  # type: ignore[arg-type]
    tree.sandbox = RealKernel  # type: ignore[method-assign, assignment]
    outcome = tree.play()
    assert (outcome.status, outcome.limit, exit_code_of(outcome)) == ("partial", "time", 6)
    value, kind, why, kept_reply, late, mapped = json.loads(text_of(outcome))
    assert (value, kind, kept_reply) == ([1, 2], "FailedCall", "reply to x")
    assert "the time limit of" in why
    assert "found 7" in why
    assert late.startswith("the time limit of 8 s was reached")
    assert mapped.endswith(late)
