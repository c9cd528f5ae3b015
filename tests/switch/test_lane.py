"""When a lane sets out with a batch, and how the cards of its last one go back."""

from __future__ import annotations

import pytest
import trio
from pipeline_fakes import Gate, House, working
from trio.testing import MockClock

from rules.cards import WorkingCard
from switch import lane
from switch.journal.rows import CardRow
from switch.pipeline import FURTHER_BATCH_MIN, HASTEN_AFTER_S, WATCH_PERIOD_S

# -- when a lane sets out -----------------------------------------------------------------------


def held_house(cards: int, *, lanes: int = 2, batch_max: int = 256) -> tuple[House, Gate]:
    """A house whose batches with card 1 stay in their append."""
    house = House(lanes=lanes, batch_max=batch_max)
    house.cards(*range(1, cards + 1))
    house.journal.before = gate = Gate(1)
    return house, gate


@pytest.mark.parametrize(
    ("batch_max", "count"),
    [
        pytest.param(256, FURTHER_BATCH_MIN, id="large"),
        pytest.param(3, 3, id="full, however small"),
    ],
)
async def test_a_further_lane_sets_out_at_once_with_a_batch_that_is_worth_it(
    autojump_clock: MockClock, batch_max: int, count: int
) -> None:
    house, gate = held_house(count + 1, batch_max=batch_max)
    tickets = [house.ticket(card_id) for card_id in range(2, count + 2)]
    async with working(house):
        house.submit(house.ticket(1))
        await gate.reached.wait()
        begun = trio.current_time()
        house.submit(*tickets)
        await house.answers_to(tickets)
        assert trio.current_time() - begun < HASTEN_AFTER_S / 2
    assert [len(batch["c_card"]) for batch in house.journal.batches] == [1, count]


async def test_a_small_batch_waits_for_the_one_on_its_way(autojump_clock: MockClock) -> None:
    house, gate = held_house(3)
    first, later = house.ticket(1), [house.ticket(2), house.ticket(3)]
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(later[0])
        await trio.sleep(HASTEN_AFTER_S / 2)
        house.submit(later[1])
        assert len(house.journal.batches) == 1
        gate.open.set()
        await house.answers_to([first, *later])
    assert [list(batch["c_card"]) for batch in house.journal.batches] == [[1], [2, 3]]


async def test_what_is_on_its_way_and_held_up_holds_up_nothing_else(
    autojump_clock: MockClock,
) -> None:
    house, gate = held_house(2)
    async with working(house):
        house.submit(house.ticket(1))
        await gate.reached.wait()
        begun = trio.current_time()
        small = house.ticket(2)
        house.submit(small)
        assert await house.answers_to([small]) == ["00"]
        assert trio.current_time() - begun < HASTEN_AFTER_S + 2 * WATCH_PERIOD_S
        assert not gate.open.is_set()


# -- how its cards go back ----------------------------------------------------------------------


async def test_cards_go_back_with_the_next_reservation_where_there_is_one(
    autojump_clock: MockClock,
) -> None:
    house, gate = held_house(3, lanes=1)
    first, second = house.ticket(1), house.ticket(2)
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(second)
        gate.open.set()
        await house.answers_to([first, second])
        await trio.sleep(0.1)
    (cache,) = house.caches
    assert cache.reserved == [[1], [2]]
    assert cache.exchanged == [[1]]
    assert cache.settled == [[2]], "nothing came after it"
    assert house.states.keys() == {1, 2}


async def test_a_card_is_the_lanes_until_redis_knows_that_it_is_not(
    autojump_clock: MockClock,
) -> None:
    """Else another lane could ask for it first, and be told that it is taken."""
    house, gate = held_house(FURTHER_BATCH_MIN + 2)
    first, second = house.ticket(1), house.ticket(2)
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(second)
        for cache in house.caches:
            cache.pause_s = 0.05
        gate.open.set()
        await house.answers_to([first])
        asked = [house.ticket(1), *map(house.ticket, range(3, FURTHER_BATCH_MIN + 3))]
        house.submit(*asked)
        await trio.sleep(0.02)  # both lanes wait for their reservation
        reserved = [cards for cache in house.caches for cards in cache.reserved]
        assert [1] in reserved
        assert [2] in reserved
        assert sum(1 in cards for cards in reserved) == 1
        await house.answers_to([second, *asked])
    assert house.journal.available(1) == 1000 - 2 * 10


async def test_what_waits_for_a_card_goes_on_in_the_very_next_batch(
    autojump_clock: MockClock,
) -> None:
    house, gate = held_house(1)
    tickets = [house.ticket(1) for _ in range(5)]
    async with working(house):
        house.submit(tickets[0])
        await gate.reached.wait()
        house.submit(*tickets[1:])
        gate.open.set()
        assert await house.answers_to(tickets) == ["00"] * 5
    assert [len(batch["l_card"]) for batch in house.journal.batches] == [1, 4]
    assert [cache.exchanged for cache in house.caches if cache.exchanged] == [[[1]]]


async def test_a_transfer_that_waits_has_both_cards_once_they_are_back(
    autojump_clock: MockClock,
) -> None:
    house, gate = held_house(2)
    first, between = house.ticket(1), house.transfer(2, to=1)
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(between, house.ticket(2))
        gate.open.set()
        assert await house.answers_to([first, between]) == ["00", "00"]
        await trio.sleep(0.1)
        left = [house.pipeline._held, house.pipeline._tied, house.pipeline._unowned]
        assert not any(left)


@pytest.mark.parametrize("lanes", [1, 2])
async def test_a_lane_that_ends_gives_its_cards_back(autojump_clock: MockClock, lanes: int) -> None:
    house, gate = held_house(2, lanes=lanes)
    async with working(house) as nursery:
        house.submit(house.ticket(1))
        await gate.reached.wait()
        house.submit(house.ticket(2))
        nursery.cancel_scope.cancel()
        gate.open.set()
    assert [cache.settled for cache in house.caches if cache.settled] == [[[1]]]
    assert house.pipeline._held == {}


async def test_a_card_whose_row_cannot_be_told_is_forgotten_and_the_lane_goes_on(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, gate = held_house(2, lanes=1)
    gate.open.set()
    tell = lane._row_of

    def failing(card: WorkingCard) -> CardRow:
        if card.card_id == 1:
            raise RuntimeError("what nobody expects")
        return tell(card)

    monkeypatch.setattr(lane, "_row_of", failing)
    tickets = [house.ticket(1), house.ticket(2), house.ticket(1)]
    async with working(house):
        for ticket in tickets:
            house.submit(ticket)
            assert await house.answers_to([ticket]) == ["00"]
            await trio.sleep(0.1)
    assert house.caches[0].released == [[1], [1]]
    assert [where for where, _ in house.observer.faults] == ["settle", "settle"]
