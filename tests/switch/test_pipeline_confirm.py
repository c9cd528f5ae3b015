"""An answer that writes nothing leaves when what it was read from is as safe as a commit."""

from __future__ import annotations

import trio
from pipeline_fakes import House, working
from trio.testing import MockClock


async def test_an_answer_that_is_only_read_is_made_sure_of_first(autojump_clock: MockClock) -> None:
    house = House()
    house.cards(1)
    first = house.ticket(1)
    async with working(house):
        house.submit(first)
        assert await house.answers_to([first]) == ["00"]
        assert house.journal.confirmed == 0  # its own commit has said so
        held = trio.Event()
        confirm = house.journal.confirm

        async def slow() -> None:
            await held.wait()
            await confirm()

        house.journal.confirm = slow  # type: ignore[method-assign]
        again = house.repeat_of(first)
        house.submit(again)
        await trio.sleep(1)
        assert again not in house.observer.answers
        held.set()
        assert await house.answers_to([again]) == ["00"]
        assert house.journal.confirmed == 1


async def test_where_it_cannot_be_made_sure_of_nothing_is_told(autojump_clock: MockClock) -> None:
    house = House()
    house.cards(1)
    first = house.ticket(1)
    async with working(house):
        house.submit(first)
        await house.answers_to([first])
        house.journal.down = True
        again = house.repeat_of(first)
        house.submit(again)
        assert await house.answers_to([again]) == ["91"]
