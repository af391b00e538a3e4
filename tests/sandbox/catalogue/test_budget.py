"""F03: the budget is the host's, and knows nothing of workers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rlm_cli.engine import run
from rlm_cli.models.ledger import Budgeted, Caps, Ledger
from rlm_cli.prompts import InputFacts
from rlm_cli.sandbox import SandboxOptions, Slice
from rlm_cli.sandbox.docker_sandbox import DockerSandbox
from rlm_cli.task import Deps, LedgerView, Outcome, Task
from tests.fakes import Events, ScriptedModel, fence

pytestmark = pytest.mark.docker

SPEND = "print(len(llm_query_batched(['a', 'b', 'c'])))\nimport os; os._exit(0)"
SPEND_MORE = "print('three more:', llm_query_batched(['d', 'e', 'f']), budget()['subcalls'])"


def play(caps: Caps, *roots: str) -> tuple[Outcome, ScriptedModel]:
    """A run of these cells, in which every model call passes a ledger with these caps."""
    model = ScriptedModel([*map(fence, roots), "FINAL(what there is)"])
    ledger = Ledger(caps, {})
    sandbox = DockerSandbox(SandboxOptions())
    here = Path(__file__)
    task = Task("q", (Slice("doc", here, here.stat().st_size),), InputFacts(files=1, bytes=10), "m/root", "m/sub")
    deps = Deps(Budgeted(model, ledger), sandbox, Events(), LedgerView(ledger.totals, caps.subcalls))

    async def main() -> Outcome:
        try:
            async with asyncio.timeout(60):
                return await run(task, deps)
        finally:
            await sandbox.close()

    return asyncio.run(main()), model


@pytest.mark.parametrize(("most", "sent"), [(4, "abcd"), (100, "abcdef")])
def test_a_new_worker_has_no_new_budget(most: int, sent: str) -> None:
    """Three calls, the worker's death, and three more: together they are at most the cap. With room, all are sent."""
    outcome, model = play(Caps(usd=None, subcalls=most), SPEND, SPEND_MORE, "FINAL('done')")
    prompts = [request.messages[-1].content for request in model.requests if request.role == "sub"]
    assert "".join(sorted(prompts)) == sent
    assert (outcome.status, outcome.limit) == (("ok", None) if most == 100 else ("partial", "subcalls"))
