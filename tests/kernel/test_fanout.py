"""`map_query`: packing, retries, stopping; with replies as a provider might give them."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_cli.sandbox.kernel import fanout
from rlm_cli.sandbox.kernel.calls import FailedCall, SubcallError
from rlm_cli.sandbox.kernel.fanout import ATTEMPTS, PACKED, Fanout, item_text
from rlm_cli.sandbox.kernel.pieces import Piece
from rlm_cli.sandbox.kernel.search import grep

from .local import FakeHost, kernel, run
from .test_kernel import cells, shown

ITEM = re.compile(r"^item (\d+): (.*(?:\n(?!\n).*)*)", re.M)
Answer = Callable[[str], str]


class Batch:
    left = 0


class FakeCalls:
    """What `Calls` does for a fan-out: replies come at once, in an order of their own."""

    def __init__(self, answer: Answer, *, chars: int = 5_000, seed: int = 0, calls: int = 10**9) -> None:
        self.answer = answer
        self.chars = chars
        self.left = calls
        self.prompts: list[str] = []
        self.abandoned = 0
        self.limit = ""
        self.progressed: list[tuple[int, int | None]] = []
        self._random = random.Random(seed)

    def budget(self) -> Mapping[str, Any]:
        limit = "subcalls" if self.left <= 0 else None
        return {"subcall_chars": self.chars, "usd": 1 - len(self.prompts) / 1000, "limit": self.limit or limit}

    def start(self, prompts: list[str], model: str | None, on_reply: Callable[[int, str], None]) -> Batch:
        replies = {}
        for index, prompt in enumerate(prompts):
            self.left -= 1
            self.prompts.append(prompt)
            replies[index] = FailedCall("the limit of sub-calls was reached") if self.left < 0 else self.answer(prompt)
        order = [*replies]
        self._random.shuffle(order)
        for index in order:
            on_reply(index, replies[index])
        return Batch()

    def tell_progress(self, done: int, total: int | None) -> None:
        self.progressed.append((done, total))

    def abandon(self, batch: Batch) -> None:
        self.abandoned += 1


def asked(prompt: str) -> dict[str, str]:
    """The items in a prompt by their numbers."""
    return dict(ITEM.findall(prompt.partition("\n\n")[2]))


def upper(prompt: str) -> str:
    return json.dumps({number: text.upper() for number, text in asked(prompt).items()})


def mapped(items: Any, calls: FakeCalls, spec: Any = str, **options: Any) -> list[Any]:
    made = Fanout(calls, "Shout.", spec, options.get("model"), options.get("until"))  # type: ignore[arg-type]
    return made.run(items)


# -- packing

TEXTS = st.lists(st.text("ab \n", max_size=120).map(str.strip) | st.sampled_from(["x", "y"]), max_size=150)


@given(TEXTS, st.integers(1_900, 4_000), st.integers(0, 9))
def test_every_item_is_in_exactly_one_prompt(items: list[str], chars: int, seed: int) -> None:
    """In order, within the limits; what repeats is asked once and answered everywhere."""
    calls = FakeCalls(
        lambda prompt: json.dumps({number: int(number) for number in asked(prompt)}), chars=chars, seed=seed
    )
    values = mapped(iter(items), calls, int)
    numbers = [int(number) for prompt in calls.prompts for number, _ in re.findall(r"^item (\d+): ()", prompt, re.M)]
    firsts = {text: index for index, text in reversed([*enumerate(items)])}
    assert numbers == sorted(index + 1 for index in firsts.values())
    assert values == [firsts[text] + 1 for text in items]
    assert all(len(prompt) <= chars for prompt in calls.prompts)
    assert all(len(re.findall(r"^item \d+:", prompt, re.M)) <= PACKED for prompt in calls.prompts)
    for one, other in zip(calls.prompts, calls.prompts[1:], strict=False):
        first = re.search(r"\n\n(item \d+:.*?)(?=\n\nitem \d+:|\Z)", other, re.S)
        assert first is not None
        full = len(re.findall(r"^item \d+:", one, re.M)) == PACKED
        assert full or len(one) + len("\n\n") + len(first[1]) > chars - fanout.REASON_ROOM


@given(st.integers(0, 300), st.integers(0, 90), st.integers(0, 10**6))
@settings(max_examples=60)
def test_nothing_is_lost_under_random_failures(count: int, percent: int, seed: int) -> None:
    """Broken replies, items left out, values of a wrong type, refusals: each item has its own value or says why not."""
    chance = random.Random(seed)

    def answer(prompt: str) -> str:
        values: dict[str, Any] = {number: text.upper() for number, text in asked(prompt).items()}
        if chance.randrange(100) >= percent:
            return json.dumps(values)
        kept = {number: chance.choice([value, 7, None]) for number, value in values.items() if chance.random() < 0.7}
        return chance.choice([json.dumps(values)[:-1], json.dumps(kept), "I'm sorry.", "", FailedCall("filtered")])

    calls = FakeCalls(answer, seed=seed)
    items = [f"text {number}" for number in range(count)]
    values = mapped(items, calls)
    times = Counter(text for prompt in calls.prompts for text in asked(prompt).values())
    assert len(values) == count
    for item, value in zip(items, values, strict=True):
        assert times[item] <= ATTEMPTS
        if isinstance(value, FailedCall):
            assert times[item] == ATTEMPTS or "filtered" in value.error
        else:
            assert (value, times[item] > 0) == (item.upper(), True)
    assert len(set(calls.prompts)) == len(calls.prompts)


def test_packs_shrink_when_items_are_asked_again() -> None:
    """A fifth, then one by one, with the reason; the others of the pack are not asked again."""

    def answer(prompt: str) -> str:
        values = {number: text.upper() for number, text in asked(prompt).items()}
        if len(values) > 1:
            values = {number: value for number, value in values.items() if int(number) % 2}
        return json.dumps(values)

    calls = FakeCalls(answer)
    assert mapped([f"t{n}" for n in range(50)], calls) == [f"T{n}" for n in range(50)]
    sizes = [len(asked(prompt)) for prompt in calls.prompts]
    assert sizes == [50, 10, 10, 5] + [1] * 25
    assert "earlier reply was not usable: the reply left this item out. This is attempt 2 of 5" in calls.prompts[1]


def test_packs_become_smaller_for_a_model_that_breaks_off() -> None:
    """Replies to large packs are all cut: after three of them the next packs are half as large."""
    calls = FakeCalls(lambda prompt: upper(prompt)[: -1 if len(asked(prompt)) > 25 else None], chars=3_000)
    values = mapped([f"t{n}" for n in range(64 * 50 + 1000)], calls)
    assert not any(isinstance(value, FailedCall) for value in values)
    first = [len(asked(prompt)) for prompt in calls.prompts if "attempt" not in prompt]
    assert first[0] == 50
    assert first[-2] == 25


# -- what an item may be


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("plain", "plain"),
        (Piece("part", 7, "a.txt"), "[a.txt] part"),
        (Piece("part", 7), "part"),
        (("key", "text"), "[key] text"),
        ((3, {"a": [1]}), '[3] {"a": [1]}'),
        ({"a": "é\nb"}, '{"a": "é\\nb"}'),
        ((1.5, 2), "[1.5, 2]"),
        (grep("b", "a\nb\nc", context_lines=1)[0], "[2]\na\nb\nc"),
        (grep("b", {"d": "a\nb"})[0], "[d:2]\nb"),
    ],
)
def test_items_as_text(item: Any, text: str) -> None:
    """With their names, and all of their text."""
    assert item_text(item) == text


def test_items_that_cannot_be_asked() -> None:
    """Each says why, and the others are answered."""
    calls = FakeCalls(upper)
    too_large, wrong, fine, nested = mapped(["x" * 10_000, {1}, "ok", "a\nitem 1: b"], calls)
    assert "the item has 10,008 characters and a prompt has room for" in too_large.error
    assert "chunks(item, " in too_large.error
    assert "not set" in wrong.error
    assert (fine, nested) == ("OK", "A\n ITEM 1: B")


def test_a_prompt_without_room() -> None:
    """An instruction that fills the prompt is an error before anything is paid."""
    calls = FakeCalls(upper, chars=800)
    with pytest.raises(ValueError, match="leave no room for items"):
        mapped(["x"], calls)
    assert calls.prompts == []


def test_a_stream_is_never_held() -> None:
    """A generator is read only as far as prompts go out."""
    taken = 0
    ahead = 0

    def items() -> Iterator[str]:
        nonlocal taken
        for number in range(20_000):
            taken += 1
            yield f"text {number}"

    def answer(prompt: str) -> str:
        nonlocal ahead
        answered = max(int(number) for number in asked(prompt))
        ahead = max(ahead, taken - answered)
        return upper(prompt)

    assert len(mapped(items(), FakeCalls(answer, chars=100_000))) == 20_000
    assert ahead <= PACKED * fanout.IN_FLIGHT + 1


# -- replies


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"1": "a"}', "a"),
        ('Sure:\n```json\n{"item 1": "a"}\n```', "a"),
        ('{"#1.": "a", "2": "b"}', "a"),
        ('{"note": 1}\n{"1": "a"}', "a"),
        ('"a"', "a"),
        ('["a"]', None),
        ('{"01a": "a"}', None),
        ('{"99999999999999999999": "a"}', None),
    ],
)
def test_keys_as_models_write_them(reply: str, value: str | None) -> None:
    """The number in several forms; for a single item also the value alone."""
    (found,) = mapped(["x"], FakeCalls(lambda _: reply))
    assert found == value if value else isinstance(found, FailedCall)


def test_without_a_schema_any_json_will_do() -> None:
    """Null and false are values too."""
    calls = FakeCalls(lambda _: '{"1": null, "2": false, "3": {"a": 1}}')
    assert mapped(["a", "b", "c"], calls, object) == [None, False, {"a": 1}]
    assert "JSON Schema" not in calls.prompts[0]


def test_copies_are_values_of_their_own() -> None:
    """Changing the one does not change the other; also when the second came after the reply."""
    calls = FakeCalls(lambda prompt: json.dumps({number: {"a": 1} for number in asked(prompt)}))
    many = ["x", "x", *(f"t{n}" for n in range(5_000)), "x"]
    first, second, *_, last = mapped(many, calls, {"a": int})
    first["a"] = 2
    assert second == last == {"a": 1}
    second["a"] = 3
    assert last == {"a": 1}


# -- stopping


def test_until_ends_it() -> None:
    """What was on its way is kept; the rest says that it was not asked; a generator is read no further."""
    calls = FakeCalls(upper)
    items = [f"t{n}" for n in range(5_000)]
    values = mapped(items, calls, until=lambda value: value == "T70")
    assert (values[70], len(values)) == ("T70", 5_000)
    assert len(calls.prompts) <= fanout.IN_FLIGHT_UNTIL
    assert {value.error for value in values if isinstance(value, FailedCall)} == {"not asked: until= was satisfied"}
    read = mapped(iter(items), FakeCalls(upper), until=lambda value: value == "T70")
    assert read[70] == "T70"
    assert len(read) <= fanout.IN_FLIGHT_UNTIL * PACKED + 1


def test_a_limit_on_the_way() -> None:
    """Done items keep their values; the rest say which limit; it stops asking at once."""
    calls = FakeCalls(upper, calls=70)
    values = mapped([f"t{n}" for n in range(10_000)], calls)
    done = [value for value in values if not isinstance(value, FailedCall)]
    assert (len(values), len(done)) == (10_000, 70 * PACKED)
    assert {value.error for value in values if isinstance(value, FailedCall)} == {
        "the limit of sub-calls was reached", "not asked: the limit of sub-calls was reached",
    }  # fmt: skip
    assert len(calls.prompts) <= 70 + fanout.IN_FLIGHT


def test_when_nothing_gets_through() -> None:
    """A provider that is down is not asked ten thousand times."""
    calls = FakeCalls(lambda _: FailedCall("cannot be reached"))
    values = mapped([f"t{n}" for n in range(50_000)], calls)
    assert not any(values)
    assert len(calls.prompts) <= fanout.DOWN + fanout.IN_FLIGHT


def test_one_poisonous_item_costs_only_itself() -> None:
    """A pack that the provider refuses is taken apart."""
    calls = FakeCalls(lambda prompt: FailedCall("filtered") if "poison" in prompt else upper(prompt))
    values = mapped(["a", "poison", "b"], calls)
    assert (values[0], values[1].error, values[2]) == ("A", "filtered", "B")


def test_a_predicate_that_raises() -> None:
    """Its error is the caller's; what was not sent is not paid for."""
    calls = FakeCalls(upper)
    with pytest.raises(ZeroDivisionError):
        mapped(["a"], calls, until=lambda _: 1 / 0)
    assert calls.abandoned


def test_it_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing, up to all: failed ones, copies and what cannot be asked are done too. Of a generator's length it says
    nothing."""
    monkeypatch.setattr(fanout, "PAUSE_S", 0.0)
    items = [*(f"t{n % 300}" for n in range(400)), {1}, "x" * 10_000, "poison"]
    for stream, total in ((items, len(items)), (iter(items), None)):
        calls = FakeCalls(lambda prompt: FailedCall("filtered") if "poison" in prompt else upper(prompt))
        mapped(stream, calls)
        done = [done for done, _ in calls.progressed]
        assert done == sorted(done)
        assert (len(done) > 5, done[-1], {of for _, of in calls.progressed}) == (True, len(items), {total})


def test_what_is_done_outlives_an_error() -> None:
    """The list as it would be returned: values, and for the rest why there are none."""
    calls = FakeCalls(upper)

    def until(value: str) -> bool:
        return bool(1 / 0) if value == "T70" else False

    made = Fanout(calls, "Shout.", str, None, until)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        made.run([f"t{n}" for n in range(5_000)])
    assert (made.any_done, made.results[70], len(made.results)) == (True, "T70", 5_000)
    assert made.results[-1].error == "not asked: map_query ended in ZeroDivisionError"


def test_without_sub_calls_it_says_so() -> None:
    """rlm-d0: an error in the cell, not a list of failures, and nothing is tried again."""
    calls = FakeCalls(lambda _: FailedCall("this run has no sub-calls"))
    calls.limit = "depth"
    with pytest.raises(SubcallError, match="no sub-calls"):
        mapped([f"t{n}" for n in range(500)], calls)
    assert len(calls.prompts) == 10


# -- in a cell


def test_in_a_cell() -> None:
    """Through the real calls: a mapping, hits, repeated items, and one line that says what it came to."""
    host = FakeHost(upper)
    codes = [
        "map_query({'a': 'one', 'b': 'two'}, 'Shout.', str)",
        "map_query(grep('line'), 'Shout.')",
        "from collections import Counter; Counter(map_query((f't{n % 7}' for n in range(9000)), 'Shout.'))['T3']",
        "map_query([], 'x')",
        "map_query('abc', 'x')",
        "map_query([f't{n}' for n in range(4000)], 'Shout.', str) == [f'T{n}' for n in range(4000)]",
        "help(map_query)",
    ]
    results = cells(*codes, host=host)
    assert [shown(result) for result in results[:4]] == [
        "['[A] ONE', '[B] TWO']\n", "['[1]\\nLINE ONE', '[2]\\nLINE TWO']\n", "1286\n", "[]\n",
    ]  # fmt: skip
    assert results[0].stderr.head == "[map_query] 2 items: 2 values, 0 failed; 1 calls\n"
    assert "TypeError: map_query(items, instruction)" in results[4].error
    assert shown(results[5]) == "True\n"
    assert shown(results[6]).startswith("map_query(items, instruction, schema=None, *, model=None, until=None)")
    assert sum(len(call.prompts) for call in host.calls) == 3 + 80


def test_an_interrupt_pays_for_nothing_more() -> None:
    """The cell ends, and the next one has a working helper."""

    def answer(prompt: str) -> str:
        if "slow" in prompt:
            raise ValueError("no")
        return upper(prompt)

    async def main() -> tuple[str, str]:
        async with kernel(host=FakeHost(answer, gather=2)) as k:
            asyncio.get_running_loop().call_later(0.3, k.client.interrupt)
            waiting = await k.run("map_query(['a'], 'slow')")
            return waiting.status, await k.out("map_query(['a'], 'Shout.')")

    assert run(main) == ("interrupted", "['A']\n")


def test_an_interrupt_loses_nothing_that_is_done() -> None:
    """The list so far is in a variable, which the cell is told; progress went to the host."""
    host = FakeHost(upper)
    code = (
        "import time\n"
        "def until(value):\n    if value == 'T2':\n        print('here', flush=True)\n        time.sleep(100)\n"
        "map_query(['t0', 't1', 't2', 't3'], 'Shout.', str, until=until)"
    )

    async def main() -> tuple[str, str, str]:
        async with kernel(host=host) as k:
            stopped = await k.run(code, on_output=lambda _stream, _text: k.client.interrupt())
            return stopped.status, stopped.stderr.head, await k.out("map_query_partial")

    status, told, values = run(main)
    assert status == "interrupted"
    assert "map_query_partial" in told
    assert values == ("['T0', 'T1', 'T2', FailedCall('not asked: map_query ended in KeyboardInterrupt')]\n")
    finished = FakeHost(upper)
    (result,) = cells("map_query(['a', 'b'], 'Shout.', str)", host=finished)
    assert (result.status, finished.progressed) == ("ok", [(2, 2)])
