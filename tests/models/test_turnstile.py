"""A few at a time, in order, and nobody for ever."""

from __future__ import annotations

import asyncio

from rlm_cli.models.turnstile import Place, Turnstile
from tests.models.asking import run

NEVER = 3600.0


def test_a_few_at_a_time_first_come_first_served() -> None:
    """The third waits until one of the first two is ready; leaving twice lets only one in."""

    async def work() -> list[int]:
        turnstile, order = Turnstile(2, NEVER), list[int]()

        async def one(number: int) -> Place:
            place = await turnstile.enter()
            order.append(number)
            return place

        tasks = [asyncio.create_task(one(number)) for number in range(4)]
        first, _second = await tasks[0], await tasks[1]
        await asyncio.sleep(0)
        assert order == [0, 1]
        first.leave()
        first.leave()
        third = await tasks[2]
        await asyncio.sleep(0)
        assert order == [0, 1, 2]
        third.leave()
        await tasks[3]
        return order

    assert run(work()) == [0, 1, 2, 3]


def test_nobody_keeps_a_place_for_ever() -> None:
    """Whatever holds a request up, the next one gets through when its time is up."""

    async def work() -> None:
        turnstile = Turnstile(1, 0.0)
        for _ in range(5):
            await turnstile.enter()

    run(work())


def test_who_is_cancelled_takes_no_place() -> None:
    """While it waits; and in the instant in which it is let in."""

    async def work() -> None:
        turnstile = Turnstile(1, NEVER)
        place = await turnstile.enter()
        waiting, in_time = (asyncio.create_task(turnstile.enter()) for _ in range(2))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        place.leave()  # lets `in_time` in, which does not know it yet
        in_time.cancel()
        await asyncio.gather(waiting, in_time, return_exceptions=True)
        assert (waiting.cancelled(), in_time.cancelled()) == (True, True)
        await turnstile.enter()

    run(work())
