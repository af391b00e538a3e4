"""Sub-models' replies as values: the JSON in them, checked, and asked for again when it is not right."""

from __future__ import annotations

from .calls import FailedCall
from .json_values import candidates, form_of, why_no_json
from .schemas import Schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import Any

REPAIRS = 2
"""How often a reply that is not right is asked for again."""
REASON_MAX = 600
SHOWN = 10_000


def value_of(reply: str, schema: Schema) -> tuple[Any, str]:
    """(the value that a reply holds, "") or (None, why there is none that satisfies the schema)."""
    wrong = ""
    for value in candidates(reply):
        errors = schema.errors(value)
        if not errors:
            return value, ""
        wrong = wrong or errors
    return None, wrong or why_no_json(reply)


def checked(value: Any, schema: Schema) -> tuple[Any, str]:
    """(the value that is meant, "") or (None, why it does not satisfy the schema). A text may be that value itself, or
    hold it as JSON."""
    if not isinstance(value, str):
        wrong = schema.errors(list(value) if isinstance(value, tuple) else value)
        return (None, wrong) if wrong else (value, "")
    found, wrong = value_of(value, schema)
    return (value, "") if wrong and not schema.errors(value) else (found, wrong)


def clipped(reason: str, most: int = REASON_MAX) -> str:
    return reason if len(reason) <= most else f"{reason[:most]}..."


def ask_for_values(prompts: Sequence[str], spec: Any) -> Generator[list[str], Sequence[str], list[Any]]:
    """Yields the prompts to ask and takes their replies, until it returns a value (or FailedCall) for each prompt."""
    schema = Schema(spec)
    form = form_of(schema.text)
    results: list[Any] = [None] * len(prompts)
    asked = {index: f"{prompt}{form}" for index, prompt in enumerate(prompts)}
    for attempt in range(1, REPAIRS + 2):
        replies = yield list(asked.values())
        again: dict[int, str] = {}
        for index, reply in zip(asked, replies):  # noqa: B905 - Python 3.9
            if isinstance(reply, FailedCall):
                results[index] = reply
                continue
            results[index], wrong = value_of(reply, schema)
            if wrong:
                results[index] = FailedCall(f"no usable reply in {attempt} attempts: {wrong}", reply)
                again[index] = f"{prompts[index]}{form}{repair(wrong, attempt)}"
        asked = again
        if not asked:
            break
    return results


def repair(wrong: str, attempt: int) -> str:
    """What is added to a prompt whose reply was not right. The number keeps a second repair with the same reason from
    being taken for the first."""
    return (
        f"\n\nYour reply was not usable: {clipped(wrong)}. Reply again, with JSON only (attempt {attempt + 1} of "
        f"{REPAIRS + 1})."
    )


def ask_children_for_values(
    ask: Callable[[Sequence[int], Sequence[str]], Sequence[Any]], prompts: Sequence[str], schema: Schema
) -> list[Any]:
    """A value (or FailedCall) for each prompt. `ask` is given the prompts' indexes and texts. A child was told what is
    wrong before its answer comes here, and is not run again; a plain call, at the deepest level, is asked again."""
    results: list[Any] = [None] * len(prompts)
    asked = dict(enumerate(prompts))
    for attempt in range(1, REPAIRS + 2):
        again: dict[int, str] = {}
        for index, reply in zip(asked, ask([*asked], [*asked.values()])):  # noqa: B905 - Python 3.9
            if isinstance(reply, FailedCall):
                results[index] = reply
                continue
            results[index], wrong = checked(reply, schema)
            if wrong:
                shown = reply if isinstance(reply, str) else repr(reply)[:SHOWN]
                results[index] = FailedCall(f"no usable reply in {attempt} attempts: {wrong}", shown)
                if isinstance(reply, str):
                    again[index] = prompts[index] + repair(wrong, attempt)
        asked = again
        if not asked:
            break
    return results
