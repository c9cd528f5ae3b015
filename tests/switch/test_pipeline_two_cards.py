"""What needs two cards, in the pipeline: both or none, in order, and nobody waits in a ring."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from pipeline_fakes import Gate, House, ids, random_pauses, row_with, state_in
from pipeline_fakes import working as at_work
from trio.testing import MockClock

from rules.cards import CardStatus
from rules.ledger import AccountKind
from rules.requests import Operation
from switch.batch import Batch, Ticket
from switch.journal.journal import BatchRejected


@asynccontextmanager
async def working(house: House) -> AsyncIterator[None]:
    """The house at work; nothing may be left waiting or claimed at its end."""
    async with at_work(house):
        yield
        await trio.sleep(0.1)
        pipeline = house.pipeline
        assert (pipeline.depth, pipeline.cards_waited_for) == (0, 0)
        left = [pipeline._held, pipeline._tied, pipeline._unowned, pipeline._foreign]
        assert not any(left), f"never given back: {left}"


def reversal_of(house: House, sent: Ticket, **changes: Any) -> Ticket:
    """It does not name the receiver."""
    return house.ticket(
        sent.card_id,
        Operation.REVERSAL,
        sent.request.amount_minor,
        original_key=sent.request.key,
        **changes,
    )


# -- both or none -------------------------------------------------------------------------------


async def test_both_cards_change_in_one_batch(autojump_clock: MockClock) -> None:
    house = House(lanes=1)
    house.cards(1, 2)
    tickets = [house.ticket(2), house.transfer(1, 2, 300), house.ticket(2), house.ticket(1)]
    async with working(house):
        house.submit(*tickets)
        assert await house.answers_to(tickets) == ["00"] * 4
    assert len(house.journal.batches) == 1
    assert house.journal.happened(1) == ids([tickets[1], tickets[3]])
    assert house.journal.happened(2) == ids(tickets[:3])
    assert (house.journal.available(1), house.journal.available(2)) == (690, 1280)
    batch = house.journal.batches[0]
    kinds = [*batch["p_numbers"][0::6], *batch["p_numbers"][2::6]]
    assert kinds.count(AccountKind.TRANSFER) == 2
    assert house.states == house.journal.rows


async def test_order_of_arrival_decides_what_is_there_to_send(autojump_clock: MockClock) -> None:
    """Each card's requests in order of arrival, across the cards that are tied."""
    house = House(lanes=1)
    house.cards(1, 2, 3, balance_minor=0)
    house.cards(1, balance_minor=100)
    on = [house.transfer(1, 2, 100), house.transfer(2, 3, 100), house.transfer(3, 1, 100)]
    back = [house.transfer(3, 2, 100), house.transfer(1, 3, 100)]
    async with working(house):
        house.submit(*on, *back)
        assert await house.answers_to([*on, *back]) == ["00", "00", "00", "51", "00"]
    assert house.journal.available(3) == 100


async def test_a_receiver_or_a_sender_that_does_not_exist(autojump_clock: MockClock) -> None:
    house = House()
    house.cards(1)
    to_nobody, from_nobody = house.transfer(1, -5), house.transfer(-6, 1)
    async with working(house):
        house.submit(to_nobody, from_nobody)
        assert await house.answers_to([to_nobody, from_nobody]) == ["05", "14"]
    assert house.rule_for(to_nobody) == "TOCARD"
    assert house.journal.committed(1) == ids([to_nobody])
    assert len(house.journal.refusals) == 1


# -- waiting ------------------------------------------------------------------------------------


async def test_what_waits_for_one_card_keeps_its_place_for_the_other(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=3)
    house.cards(1, 2, 3)
    house.journal.before = gate = Gate(2)
    first, sent = house.ticket(2), house.transfer(1, 2)
    behind, other = [house.ticket(1), house.ticket(2), house.ticket(1)], house.ticket(3)
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(sent, *behind, other)
        assert await house.answers_to([other]) == ["00"]
        await trio.sleep(1)
        assert list(house.observer.answers) == [other], "overtaken"
        gate.open.set()
        await house.answers_to([first, sent, *behind])
    assert house.journal.happened(1) == ids([sent, behind[0], behind[2]])
    assert house.journal.happened(2) == ids([first, sent, behind[1]])


async def test_what_stood_before_it_for_the_same_card_goes_on(autojump_clock: MockClock) -> None:
    house = House(lanes=2)
    house.cards(1, 2)
    house.journal.before = gate = Gate(2)
    first, before, sent, behind = (
        house.ticket(2),
        house.ticket(1),
        house.transfer(1, 2),
        house.ticket(1),
    )
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(before, sent, behind)
        assert await house.answers_to([before]) == ["00"]
        await trio.sleep(1)
        assert list(house.observer.answers) == [before]
        gate.open.set()
        await house.answers_to([sent, behind])
    assert house.journal.happened(1) == ids([before, sent, behind])


async def test_a_foreign_card_lets_its_partner_go_at_once(autojump_clock: MockClock) -> None:
    house = House(lanes=1)
    house.cards(1, 2)
    house.foreign.add(2)
    before, sent, behind = house.ticket(1), house.transfer(1, 2), house.ticket(1)
    async with working(house):
        house.submit(sent, behind)
        await trio.sleep(0.5)
        assert house.observer.answers == {}
        cache = house.caches[0]
        assert len(cache.released) == len(cache.reserved) > 50
        assert {card for cards in cache.released for card in cards} == {1}
        house.foreign.clear()
        assert await house.answers_to([sent, behind], within_s=0.1) == ["00", "00"]
        house.foreign.add(2)
        late = house.transfer(1, 2)
        house.submit(before, late)
        assert await house.answers_to([before]) == ["00"]
        house.foreign.clear()
        await house.answers_to([late])
    assert house.journal.happened(1) == ids([sent, behind, before, late])


async def test_a_notice_of_the_foreign_card_is_enough(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switch.pipeline.FOREIGN_PAUSE_S", (2.0, 2.5))
    house = House()
    house.cards(1, 2)
    house.foreign.add(2)
    sent = house.transfer(1, 2)
    async with working(house):
        house.submit(sent)
        await trio.sleep(0.1)
        house.foreign.clear()
        house.pipeline.freed_elsewhere([2])
        await house.answers_to([sent], within_s=0.1)


async def test_one_that_waits_too_long_is_91_and_bars_nobody(autojump_clock: MockClock) -> None:
    house = House()
    house.cards(1, 2)
    house.foreign.add(2)
    sent, behind = house.transfer(1, 2, within_s=1.0), house.ticket(1, within_s=30.0)
    async with working(house):
        house.submit(sent, behind)
        assert await house.answers_to([sent], within_s=1.3) == ["91"]
        assert house.rule_for(sent) == "DEADLINE"
        assert await house.answers_to([behind], within_s=0.1) == ["00"], "its card was free"
        house.foreign.clear()
    assert house.journal.committed(2) == []


async def test_what_came_first_is_looked_at_first_when_its_time_is_over(
    autojump_clock: MockClock,
) -> None:
    """Queues that a transfer joins are one in order of arrival."""
    house = House(lanes=2)
    house.cards(1, 2)
    house.journal.before = gate = Gate(1, 2)
    first = [house.ticket(1), house.ticket(2)]
    async with working(house):
        for ticket in first:
            house.submit(ticket)
            await trio.sleep(0.01)
        hasty = house.ticket(2, within_s=1.0)
        house.submit(hasty)
        await trio.sleep(0.1)
        patient = [house.ticket(1, within_s=30.0), house.transfer(1, 2, within_s=30.0)]
        house.submit(*patient)
        assert await house.answers_to([hasty], within_s=1.3) == ["91"]
        gate.open.set()
        await house.answers_to([*first, *patient])


async def test_with_postgres_down_what_waits_for_two_cards_is_told_once(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2)
    house.journal.before = gate = Gate(2)
    first, waiting = house.ticket(2), [house.transfer(1, 2), house.transfer(2, 1)]
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(*waiting)
        house.pipeline.journal_up = False
        assert await house.answers_to(waiting, within_s=0.3) == ["91", "91"]
        gate.open.set()
        await house.answers_to([first])
        house.pipeline.journal_up = True
        after = house.transfer(1, 2)
        house.submit(after)
        assert await house.answers_to([after]) == ["00"]


@pytest.mark.parametrize("seed", range(8))
async def test_a_hot_pair_and_its_neighbours_on_three_lanes(
    autojump_clock: MockClock, seed: int
) -> None:
    """To and fro at once, cards that come and go: all are answered, in order, nothing is lost."""
    house = House(lanes=3, batch_max=8)
    chance = random.Random(seed)
    cards = range(1, 6)
    house.cards(*cards, balance_minor=10_000)
    house.journal.before = random_pauses(seed)
    for cache in house.caches:
        cache.pause_s = 0.0005
    arrived: dict[int, list[Ticket]] = defaultdict(list)
    everything: list[Ticket] = []
    async with working(house):
        for _ in range(100):
            some = []
            for _ in range(4):
                one, two = chance.choice([(1, 2), (2, 1), (1, 2), (2, 1), *_pairs(chance, cards)])
                transfer = chance.random() < 0.6
                some.append(house.transfer(one, two) if transfer else house.ticket(one))
            for ticket in some:
                for card_id in ticket.card_ids:
                    arrived[card_id].append(ticket)
            everything += some
            house.submit(*some)
            if chance.random() < 0.1:
                house.foreign ^= {chance.choice(cards)}
            await trio.sleep(chance.choice([0, 0, 0.001, 0.003]))
        house.foreign.clear()
        assert set(await house.answers_to(everything, within_s=3.0)) == {"00"}
    for card_id, tickets in arrived.items():
        assert house.journal.happened(card_id) == ids(tickets)
    sales = sum(10 for ticket in everything if not ticket.other_id)
    assert sum(map(house.journal.available, cards)) == 50_000 - sales
    assert house.observer.faults == []


def _pairs(chance: random.Random, cards: range) -> list[tuple[int, int]]:
    one, two = chance.sample(cards, 2)
    return [(one, two)]


async def test_that_a_receiver_cannot_receive_is_read_from_its_row(
    autojump_clock: MockClock,
) -> None:
    """No link on it would tell that the cache was old."""
    house = House()
    house.cards(1, 2)
    old = row_with(1000)
    state = state_in(old)
    state.status = CardStatus.BLOCKED
    house.states[2] = msgspec.structs.replace(old, state=msgspec.msgpack.encode(state))
    sent = house.transfer(1, 2, 300)
    async with working(house):
        house.submit(sent)
        assert await house.answers_to([sent]) == ["00"]
    assert house.journal.available(2) == 1300


# -- a reversal that does not name the receiver -------------------------------------------------


async def test_a_reversal_learns_of_the_receiver_and_comes_back_for_both(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2, 3)
    sent = house.transfer(1, 2, 300)
    async with working(house):
        house.submit(sent)
        await house.answers_to([sent])
        undone, behind, other = reversal_of(house, sent), house.ticket(1), house.ticket(3)
        house.submit(undone, behind, other)
        assert await house.answers_to([undone, behind, other]) == ["00", "00", "00"]
    assert house.observer.answers[undone].reversal_state.value == "REVERSED"
    assert house.observer.order[1:] == [other, undone, behind]
    assert (house.journal.available(1), house.journal.available(2)) == (990, 1000)
    assert house.caches[0].reserved[-1] == [1, 2]


async def test_a_reversal_in_its_originals_batch(autojump_clock: MockClock) -> None:
    house = House(lanes=1)
    house.cards(1, 2)
    sent = house.transfer(1, 2, 300)
    undone, again = reversal_of(house, sent), house.repeat_of(sent)
    async with working(house):
        house.submit(sent, undone, again)
        assert await house.answers_to([sent, undone, again]) == ["00", "00", "05"]
    assert len(house.journal.batches) == 1
    assert (house.journal.available(1), house.journal.available(2)) == (1000, 1000)


async def test_many_reversals_learn_at_once(autojump_clock: MockClock) -> None:
    """A storm of them costs one more look, not one each."""
    house = House(lanes=1)
    house.cards(*range(1, 41))
    sent = [house.transfer(card, card + 20) for card in range(1, 21)]
    async with working(house):
        house.submit(*sent)
        await house.answers_to(sent)
        undone = [reversal_of(house, ticket) for ticket in sent]
        house.submit(*undone)
        assert await house.answers_to(undone) == ["00"] * 20
    assert len(house.journal.history_reads) == 2
    assert {house.journal.available(card) for card in range(1, 41)} == {1000}


async def test_a_reversal_that_learns_while_the_receiver_is_elsewhere_waits_in_order(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=2)
    house.cards(1, 2)
    sent = house.transfer(1, 2, 300)
    async with working(house):
        house.submit(sent)
        await house.answers_to([sent])
        house.foreign.add(2)
        undone, behind = reversal_of(house, sent), house.ticket(1)
        house.submit(undone)
        await trio.sleep(0.2)
        house.submit(behind)
        await trio.sleep(0.2)
        assert behind not in house.observer.answers
        house.foreign.clear()
        assert await house.answers_to([undone, behind]) == ["00", "00"]
    assert house.journal.happened(1) == ids([sent, undone, behind])


async def test_a_reversal_that_learns_when_its_batch_was_split_is_not_overtaken(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2, 3)
    sent = house.transfer(1, 2, 300)
    async with working(house):
        house.submit(sent)
        await house.answers_to([sent])
        good = house.journal.rows[3]
        house.journal.rows[3] = type(good)(good.facts, b"\xc1", b"")
        undone, bad, behind = reversal_of(house, sent), house.transfer(3, 1), house.ticket(1)
        house.submit(undone, bad, behind)
        assert await house.answers_to([undone, bad, behind]) == ["00", "96", "00"]
    assert house.journal.happened(1) == ids([sent, undone, behind])


# -- refused batches ----------------------------------------------------------------------------


async def test_a_stale_pair_is_decided_again_whole(autojump_clock: MockClock) -> None:
    """The cache says the sender is as it was; its row says more."""
    house = House(lanes=1)
    house.cards(1, 2)
    house.states.update(house.journal.rows)
    sold = house.ticket(1)
    async with working(house):
        cached = dict(house.states)
        house.submit(sold)
        await house.answers_to([sold])
        await trio.sleep(0.01)
        house.states.update(cached)
        sent = house.transfer(1, 2)
        house.submit(sent)
        assert await house.answers_to([sent]) == ["00"]
    assert house.observer.stale == 1
    assert (house.journal.available(1), house.journal.available(2)) == (980, 1010)


async def test_from_the_third_try_on_tied_cards_stay_together(autojump_clock: MockClock) -> None:
    house = House(lanes=1)
    house.cards(1, 2, 3)
    turns = 0

    async def overtaken(batch: dict[str, Any]) -> None:
        nonlocal turns
        if 2 in batch["c_card"] and turns < 4:
            turns += 1
            row = house.journal.rows[2]
            house.journal.rows[2] = type(row)(row.facts, _other_batch(row.state), row.window)

    house.journal.before = overtaken
    tickets = [house.ticket(3), house.transfer(1, 2)]
    async with working(house):
        house.submit(*tickets)
        assert await house.answers_to(tickets) == ["00", "00"]
    cards = [list(batch["c_card"]) for batch in house.journal.batches]
    assert cards == [[1, 2, 3], [1, 2, 3], [3], [1, 2], [1, 2], [1, 2]]


def _other_batch(state: bytes) -> bytes:
    fields = msgspec.msgpack.decode(state)
    fields[1] += 1
    return msgspec.msgpack.encode(fields)


async def test_a_poisonous_card_spoils_only_what_needs_it(autojump_clock: MockClock) -> None:
    house = House(lanes=1)
    house.cards(1, 2, 3, 4)
    house.journal.poison = {2}
    tied = [house.transfer(3, 1), house.transfer(1, 2), house.ticket(1), house.ticket(2)]
    neighbours = [house.ticket(4), house.ticket(3)]
    async with working(house):
        house.submit(*tied, *neighbours)
        assert await house.answers_to(tied) == ["00", "96", "00", "96"]
        assert await house.answers_to(neighbours) == ["00", "00"]
        house.journal.poison = set()
        after = house.repeat_of(tied[1])
        house.submit(after)
        assert await house.answers_to([after]) == ["00"]
    assert {type(error) for _, error in house.observer.faults} == {BatchRejected}
    assert house.journal.happened(1) == ids([tied[0], tied[2], after])
    total = sum(map(house.journal.available, (1, 2, 3, 4)))
    assert total == 4000 - 30


# -- batches ------------------------------------------------------------------------------------

PAIRS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=12)


def batch_of(pairs: list[tuple[int, int]]) -> Batch:
    request: Any = None
    return Batch(
        Ticket(request, one, 0, 0, at, two if two != one else 0)
        for at, (one, two) in enumerate(pairs)
    )


@given(PAIRS, st.sets(st.integers(1, 6), max_size=3))
def test_what_is_left_out_overtakes_nothing(pairs: list[tuple[int, int]], busy: set[int]) -> None:
    batch = batch_of(pairs)
    before = list(batch.tickets)
    batch.leave_out(busy)
    left = batch.left
    assert sorted(batch.tickets + left, key=before.index) == before
    assert set(batch.card_ids) == {card for ticket in batch.tickets for card in ticket.card_ids}
    assert not busy & set(batch.card_ids)
    for at, ticket in enumerate(before):
        earlier = [other for other in before[:at] if set(other.card_ids) & set(ticket.card_ids)]
        waits = bool(busy & set(ticket.card_ids)) or any(other in left for other in earlier)
        assert (ticket in left) is waits


@given(PAIRS)
def test_parts_share_no_card_and_lose_no_request(pairs: list[tuple[int, int]]) -> None:
    batch = batch_of(pairs)
    parts = batch.parts()
    assert sorted(t.context for part in parts for t in part.tickets) == list(range(len(pairs)))
    for part in parts:
        assert [t.context for t in part.tickets] == sorted(t.context for t in part.tickets)
    cards = [card for part in parts for card in part.card_ids]
    if len(cards) != len(set(cards)):  # one knot: each request alone, in order of arrival
        assert [part.tickets for part in parts] == [[ticket] for ticket in batch.tickets]
        knot = {batch.tickets[0].card_id}
        for _ in pairs:
            for ticket in batch.tickets:
                if knot & set(ticket.card_ids):
                    knot |= set(ticket.card_ids)
        assert knot == set(batch.card_ids)
