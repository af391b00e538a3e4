"""The functions a cell can call. Each name here is promised to the model by the system prompt."""

from __future__ import annotations

from . import search
from .answers import Answer, Answers
from .calls import FailedCall, SubcallError, check_prompt
from .display import variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

    from .calls import Calls


class Helpers:
    """Their state: who sends calls, who sends answers, and the namespace they are in."""

    def __init__(self, calls: Calls, answers: Answers, namespace: dict[str, Any]) -> None:
        self._calls = calls
        self._answers = answers
        self._namespace = namespace
        self._context: Any = ""
        self._originals: dict[str, Any] = {}

    def install(self, context: Any) -> None:
        """Put everything into the namespace."""
        self._context = context
        functions = [getattr(self, name) for name in FUNCTIONS]
        self._originals = {function.__name__: function for function in functions}
        self._originals.update(
            context=context, answer=Answer(self._answers), SubcallError=SubcallError, FailedCall=FailedCall, exit=leave,
            quit=leave,
        )  # fmt: skip
        self._namespace.update(self._originals)

    def variables(self) -> list[str]:
        return variables(self._namespace, self._originals)

    def submit_plain_answer(self) -> None:
        """`answer = {"content": ..., "ready": True}` replaces our object; it is meant all the same."""
        answer = self._namespace.get("answer")
        if type(answer) is dict and answer.get("ready") is True and "content" in answer:
            self._answers.submit(answer["content"])

    def __reduce__(self) -> NoReturn:
        raise TypeError("this function works only in the cell's own process; use threads (ThreadPoolExecutor)")

    # -- asking models

    def llm_query(self, prompt: str, model: str | None = None) -> str:
        """Ask a sub-model. Returns its reply; raises SubcallError when the call fails."""
        return only(self._calls.ask("llm", [check_prompt(prompt, name="llm_query")], model))

    def llm_query_batched(self, prompts: Iterable[str], model: str | None = None) -> list[str]:
        """Ask a sub-model many prompts at once, concurrently. Returns the replies in the same order.

        A call that failed leaves a `FailedCall` in its place: it is false, and `.error` says why. Good ones only:
        `[r for r in replies if r]`.
        """
        return self._calls.ask("llm", check_prompts(prompts, name="llm_query_batched"), model)

    async def allm_query(self, prompt: str, model: str | None = None) -> str:
        """llm_query for `await`."""
        return only(await self._calls.ask_async("llm", [check_prompt(prompt, name="allm_query")], model))

    async def allm_query_batched(self, prompts: Iterable[str], model: str | None = None) -> list[str]:
        """llm_query_batched for `await`."""
        return await self._calls.ask_async("llm", check_prompts(prompts, name="allm_query_batched"), model)

    def rlm_query(self, prompt: str, context: str | None = None) -> str:
        """Give a sub-task to a recursive call, with a text of its own to work on. Returns its answer; raises
        SubcallError when it fails."""
        return only(self._calls.ask("rlm", [with_context(check_prompt(prompt, name="rlm_query"), context)], None))

    def rlm_query_batched(self, prompts: Iterable[str], contexts: Sequence[str | None] | None = None) -> list[str]:
        """Many rlm_query at once, in order; `contexts`, when given, has one text for each prompt. A failed one is a
        `FailedCall`, as in llm_query_batched."""
        asked = check_prompts(prompts, name="rlm_query_batched")
        given = [None] * len(asked) if contexts is None else list(contexts)
        if len(given) != len(asked):
            raise ValueError(f"rlm_query_batched: {len(asked)} prompts but {len(given)} contexts")
        return self._calls.ask("rlm", list(map(with_context, asked, given)), None)

    # -- answering

    def FINAL(self, value: Any) -> None:  # noqa: N802 - the paper's name
        """Submit the answer to the question: text, bytes, or anything JSON can hold. The last one counts.

        It may be of any size, and need not fit in memory: a Path (or an open file) stands for what is in the file, a
        generator of text or bytes for what it yields, put together.
        """
        self._answers.submit(value)

    def FINAL_VAR(self, name: Any) -> None:  # noqa: N802
        """Submit the variable of this name (a value is taken too)."""
        if isinstance(name, str):
            key = name.strip().strip("\"'")
            if key in self._namespace:
                name = self._namespace[key]
            elif key.isidentifier():
                raise NameError(f"FINAL_VAR: no variable is named {key!r}; SHOW_VARS() lists them")
        self._answers.submit(name)

    def SUBMIT(self, *values: Any, **fields: Any) -> None:  # noqa: N802
        """FINAL by another name; keyword arguments are submitted as a dict."""
        if fields:
            self._answers.submit(fields)
        else:
            self._answers.submit(values[0] if len(values) == 1 else list(values))

    # -- looking

    def SHOW_VARS(self) -> None:  # noqa: N802
        """Print your variables: name, type, size."""
        print("\n".join(self.variables()) or "(no variables yet)")

    def budget(self) -> dict[str, Any]:
        """What remains of the run's limits (None: unlimited or unknown)."""
        return self._calls.budget()

    def grep(self, pattern: Any, text: Any = None, **options: Any) -> search.Hits:
        return search.grep(pattern, self._context if text is None else text, **options)

    def chunks(self, text: Any = None, size: int = 100_000, overlap: int = 0) -> Any:
        return search.chunks(self._context if text is None else text, size, overlap)

    grep.__doc__ = search.grep.__doc__
    chunks.__doc__ = search.chunks.__doc__


FUNCTIONS = (
    "llm_query", "llm_query_batched", "allm_query", "allm_query_batched", "rlm_query", "rlm_query_batched",
    "FINAL", "FINAL_VAR", "SUBMIT", "SHOW_VARS", "budget", "grep", "chunks",
)  # fmt: skip


def leave(code: object = None) -> NoReturn:
    """End this cell. The kernel and its variables live on."""
    raise SystemExit(code)


leave.__name__ = leave.__qualname__ = "exit"


def only(replies: list[str]) -> str:
    reply = replies[0]
    if isinstance(reply, FailedCall):
        raise SubcallError(reply.error)
    return reply


def check_prompts(prompts: Iterable[str], *, name: str) -> list[str]:
    if isinstance(prompts, (str, bytes)):
        raise TypeError(f"{name} takes a list of prompts; for one prompt use {name.replace('_batched', '')}")
    return [check_prompt(prompt, name=name) for prompt in prompts]


def with_context(prompt: str, context: str | None) -> str:
    """A text to work on goes below the question."""
    if context is None:
        return prompt
    return f"{prompt}\n\n{check_prompt(context, name='rlm_query')}"
