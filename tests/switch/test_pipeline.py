"""The pipeline with a journal and a cache in memory: what is hard to time with real ones."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import msgspec
import pytest
import trio
from pipeline_fakes import NOW, Gate, House, ids, random_pauses, row_with, state_in, working
from trio.testing import MockClock

from rules.identity import request_key
from rules.requests import Operation
from rules.responses import Rule
from switch.journal.journal import BatchRejected, JournalDown, Outcome
from switch.journal.rows import CardRow
from switch.pipeline import Ticket

# -- order --------------------------------------------------------------------------------------


async def test_requests_of_a_card_are_taken_in_order_of_arrival_in_one_batch(
    autojump_clock: MockClock,
) -> None:
    house = House()
    house.cards(1, balance_minor=25)
    tickets = [house.ticket(1) for _ in range(4)]
    async with working(house):
        house.submit(*tickets)
        assert await house.answers_to(tickets) == ["00", "00", "51", "51"]
    assert house.journal.committed(1) == ids(tickets)
    assert len(house.journal.batches) == 1
    assert house.journal.available(1) == 5


async def test_what_comes_for_a_card_that_a_lane_has_waits_and_goes_on_in_order(
    autojump_clock: MockClock,
) -> None:
    house = House()
    house.cards(1, 2)
    house.journal.before = gate = Gate(1)
    first, later, other = house.ticket(1), [house.ticket(1) for _ in range(3)], house.ticket(2)
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(later[0], other)
        house.submit(*later[1:])
        assert await house.answers_to([other]) == ["00"]  # the other lane is free for it
        assert house.pipeline.cards_waited_for == 1
        assert house.pipeline.depth == 3
        await trio.sleep(1)
        assert list(house.observer.answers) == [other]
        gate.open.set()
        await house.answers_to([first, *later])
    assert house.journal.committed(1) == ids([first, *later])
    assert house.pipeline.depth == house.pipeline.cards_waited_for == 0
    # all that waited went into one batch when the card came back
    assert [len(batch["l_card"]) for batch in house.journal.batches] == [1, 1, 3]


@pytest.mark.parametrize("seed", range(6))
async def test_many_requests_over_few_cards_and_three_lanes(
    autojump_clock: MockClock, seed: int
) -> None:
    """Each answered once, each card's in order of arrival, no card in two batches at once."""
    house = House(lanes=3, batch_max=16)
    chance = random.Random(seed)
    house.cards(*range(1, 9), balance_minor=10_000)
    house.journal.before = random_pauses(seed)
    for cache in house.caches:
        cache.pause_s = 0.0005
    arrived: dict[int, list[Ticket]] = defaultdict(list)
    everything = []
    async with working(house):
        for _ in range(120):
            some = [house.ticket(chance.choice([1, 1, 1, 2, 3, 4, 5, 6, 7, 8])) for _ in range(4)]
            for ticket in some:
                arrived[ticket.card_id].append(ticket)
            everything += some
            house.submit(*some)
            if chance.random() < 0.1:  # another worker takes a card for a while
                house.foreign ^= {chance.randrange(1, 9)}
            await trio.sleep(chance.choice([0, 0, 0.001, 0.003]))
        house.foreign.clear()
        assert set(await house.answers_to(everything)) == {"00"}
    for card_id, tickets in arrived.items():
        assert house.journal.committed(card_id) == ids(tickets)
        assert house.journal.available(card_id) == 10_000 - 10 * len(tickets)
    assert max(map(len, (batch["l_card"] for batch in house.journal.batches))) <= 16
    assert house.observer.faults == []


async def test_a_batch_takes_no_more_than_its_maximum(autojump_clock: MockClock) -> None:
    house = House(lanes=1, batch_max=5)
    house.cards(*range(1, 13))
    tickets = [house.ticket(card_id) for card_id in range(1, 13)]
    async with working(house):
        house.submit(*tickets)
        await house.answers_to(tickets)
    assert [len(batch["c_card"]) for batch in house.journal.batches] == [5, 5, 2]


# -- a card that another worker has -------------------------------------------------------------


async def test_a_foreign_card_waits_alone_and_keeps_its_order(autojump_clock: MockClock) -> None:
    house = House()
    house.cards(1, 2)
    house.foreign.add(1)
    early = [house.ticket(1), house.ticket(1)]
    other = house.ticket(2)
    async with working(house):
        house.submit(early[0], other, early[1])
        assert await house.answers_to([other]) == ["00"]
        late = house.ticket(1)
        house.submit(late)
        await trio.sleep(0.5)
        assert house.pipeline.depth == 3
        asked = sum(1 in cards for cache in house.caches for cards in cache.reserved)
        assert 80 < asked < 600, "asked again after a short while, not all the time"
        house.foreign.clear()
        await house.answers_to([*early, late], within_s=0.1)
    assert house.journal.committed(1) == ids([*early, late])


async def test_a_notice_ends_the_wait_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switch.pipeline.FOREIGN_PAUSE_S", (2.0, 2.5))
    house = House()
    house.cards(1, 2)
    house.foreign.add(1)
    ticket = house.ticket(1)
    async with working(house):
        house.submit(ticket)
        await trio.sleep(0.1)
        house.foreign.clear()
        house.pipeline.freed_elsewhere([2])  # not this one
        await trio.sleep(0.1)
        assert ticket not in house.observer.answers
        house.pipeline.freed_elsewhere([1])
        await house.answers_to([ticket], within_s=0.1)


async def test_a_notice_for_a_card_that_a_lane_of_ours_has_changes_nothing(
    autojump_clock: MockClock,
) -> None:
    house = House()
    house.cards(1)
    house.journal.before = gate = Gate(1)
    first, second = house.ticket(1), house.ticket(1)
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(second)
        house.pipeline.freed_elsewhere([1])
        await trio.sleep(0.1)
        assert len(house.journal.batches) == 1
        gate.open.set()
        await house.answers_to([first, second])
    assert house.journal.committed(1) == ids([first, second])


async def test_a_foreign_card_that_never_comes_back_ends_in_91(autojump_clock: MockClock) -> None:
    house = House()
    house.cards(1)
    house.foreign.add(1)
    ticket = house.ticket(1, within_s=2.0)
    async with working(house):
        house.submit(ticket)
        assert await house.answers_to([ticket], within_s=2.3) == ["91"]
    assert house.rule_for(ticket) == "DEADLINE"
    assert house.observer.answered_at[ticket] - ticket.arrived >= 2.0
    assert house.journal.batches == []


# -- deadlines and bounds -----------------------------------------------------------------------


async def test_what_waits_too_long_is_declined_before_it_is_in_a_batch(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2)
    house.journal.before = gate = Gate(1)
    first = house.ticket(1)
    same_card, other_card = house.ticket(1, within_s=1.0), house.ticket(2, within_s=1.5)
    patient = house.ticket(2, within_s=30.0)
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(same_card, other_card, patient)
        assert await house.answers_to([same_card, other_card], within_s=2.0) == ["91", "91"]
        assert {house.rule_for(t) for t in (same_card, other_card)} == {"DEADLINE"}
        await trio.sleep(10)
        assert first not in house.observer.answers  # its fate is not known: no answer
        gate.open.set()
        assert await house.answers_to([first, patient]) == ["00", "00"]
    assert house.journal.committed(1) == ids([first])
    assert house.journal.committed(2) == ids([patient])


async def test_what_waits_for_a_card_too_long_is_declined_too(autojump_clock: MockClock) -> None:
    house = House(lanes=2)
    house.cards(1, 2)
    house.journal.before = gate = Gate(1)
    first, waiting, other = house.ticket(1), house.ticket(1, within_s=1.0), house.ticket(2)
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(waiting, other)
        await house.answers_to([other])
        assert house.pipeline.cards_waited_for == 1
        assert await house.answers_to([waiting], within_s=1.3) == ["91"]
        assert house.rule_for(waiting) == "DEADLINE"
        assert house.pipeline.depth == house.pipeline.cards_waited_for == 0
        gate.open.set()
        assert await house.answers_to([first]) == ["00"]
    assert house.journal.committed(1) == ids([first])


async def test_what_is_too_late_when_it_is_taken_is_declined_then(
    autojump_clock: MockClock,
) -> None:
    house = House()
    house.cards(1)
    late, good = house.ticket(1, within_s=0.0), house.ticket(1)
    async with working(house):
        house.submit(late, good)
        assert await house.answers_to([late, good]) == ["91", "00"]
    assert house.rule_for(late) == "DEADLINE"
    assert house.journal.committed(1) == ids([good])


async def test_a_full_queue_turns_away_at_once(autojump_clock: MockClock) -> None:
    house = House(lanes=1, queue_max=3)
    house.cards(1, 2)
    house.journal.before = gate = Gate(1)
    first, waiting = house.ticket(1), [house.ticket(1), house.ticket(2), house.ticket(1)]
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(*waiting)
        surplus = house.ticket(2)
        house.submit(surplus)
        assert house.observer.answers[surplus].response.value == "91"
        assert house.rule_for(surplus) == "BUSY"
        gate.open.set()
        assert await house.answers_to([first, *waiting]) == ["00"] * 4
        more = house.ticket(2)
        house.submit(more)
        assert await house.answers_to([more]) == ["00"]


async def test_waiting_for_a_card_counts_for_the_bound_too(autojump_clock: MockClock) -> None:
    house = House(queue_max=2)
    house.cards(1)
    house.foreign.add(1)
    waiting, surplus = [house.ticket(1), house.ticket(1)], house.ticket(1)
    async with working(house):
        house.submit(*waiting)
        await trio.sleep(0.01)
        house.submit(surplus)
        assert house.rule_for(surplus) == "BUSY"
        house.foreign.clear()
        await house.answers_to(waiting)
        assert house.pipeline.depth == 0


# -- Postgres down ------------------------------------------------------------------------------


async def test_with_postgres_down_everything_is_answered_91_at_once(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2)
    house.journal.before = gate = Gate(1)
    first, queued = house.ticket(1), [house.ticket(1), house.ticket(2)]
    async with working(house):
        house.submit(first)
        await gate.reached.wait()
        house.submit(*queued)
        house.pipeline.journal_up = False
        turned_away = house.ticket(2)
        house.submit(turned_away)
        assert house.rule_for(turned_away) == "STORE"
        assert await house.answers_to(queued, within_s=0.3) == ["91", "91"]
        assert {house.rule_for(ticket) for ticket in queued} == {"STORE"}
        await trio.sleep(1)
        assert first not in house.observer.answers
        gate.open.set()
        assert await house.answers_to([first]) == ["00"]
        house.pipeline.journal_up = True
        after = house.ticket(1)
        house.submit(after)
        assert await house.answers_to([after]) == ["00"]


@pytest.mark.parametrize("known", [False, True], ids=["read", "append"])
async def test_a_journal_that_is_down_did_nothing_and_the_cards_come_back(
    autojump_clock: MockClock, known: bool
) -> None:
    house = House()
    house.cards(1, 2)
    if known:  # the states are in the cache: it is the append that fails
        house.states.update(house.journal.rows)
    house.journal.down = True
    tickets = [house.ticket(1), house.ticket(2)]
    async with working(house):
        house.submit(*tickets)
        assert await house.answers_to(tickets) == ["91", "91"]
        assert {house.rule_for(ticket) for ticket in tickets} == {"STORE"}
        assert bool(house.journal.batches) is known
        house.journal.down = False
        again = [house.repeat_of(ticket) for ticket in tickets]
        house.submit(*again)
        assert await house.answers_to(again) == ["00", "00"]
    assert house.states.keys() == {1, 2}


# -- a cache that is wrong ----------------------------------------------------------------------


async def test_a_stale_batch_is_decided_again_from_the_rows(autojump_clock: MockClock) -> None:
    """The cache says 1000, the row 15: what would have been approved is not."""
    house = House()
    house.cards(1, 2)
    house.states.update(house.journal.rows)
    spent = house.ticket(1, amount_minor=985)
    async with working(house):
        house.submit(spent)
        await house.answers_to([spent])
        house.states[1] = row_with(1000)  # as it was before
        first, second, other = house.ticket(1), house.ticket(1), house.ticket(2)
        house.submit(first, other, second)
        assert await house.answers_to([first, second, other]) == ["00", "51", "00"]
    assert house.journal.outcomes == [Outcome.COMMITTED, Outcome.STALE, Outcome.COMMITTED]
    assert house.observer.stale == 1
    assert house.journal.reads == [[1, 2]]
    assert house.journal.available(1) == 5
    batch_ids = [batch["p_batch_id"] for batch in house.journal.batches]
    assert len(set(batch_ids)) == 3, "another decision is another batch"
    assert state_in(house.states[1]).ecash.available_minor == 5


async def test_a_cache_that_is_ahead_cannot_make_money(autojump_clock: MockClock) -> None:
    house = House()
    house.cards(1, balance_minor=10)
    state = state_in(house.journal.rows[1])
    state.version, state.batch_id = 3, 77
    state.ecash.available_minor = 5000
    state.ecash.lots[0].available_minor = 5000
    ahead = CardRow(house.journal.rows[1].facts, msgspec.msgpack.encode(state), b"")
    house.states[1] = ahead
    ticket = house.ticket(1, amount_minor=5000)
    async with working(house):
        house.submit(ticket)
        assert await house.answers_to([ticket]) == ["51"]
    assert house.journal.available(1) == 10


async def test_a_cached_window_that_names_a_lost_link_is_no_fault(
    autojump_clock: MockClock,
) -> None:
    """A failover lost a link that the cache knows of: the repeat is decided from the row."""
    house = House()
    house.cards(1)
    ticket = house.ticket(1)
    async with working(house):
        house.submit(ticket)
        await house.answers_to([ticket])
        house.cards(1)  # Postgres has forgotten it, the cache has not
        house.journal.links.clear()
        again = house.repeat_of(ticket)
        house.submit(again)
        assert await house.answers_to([again]) == ["00"]
    assert house.observer.faults == []
    assert house.journal.available(1) == 990


async def test_damaged_states_in_the_cache_are_no_fault(autojump_clock: MockClock) -> None:
    house = House()
    house.cards(1, 2)
    house.states[1] = CardRow(b"\xc1", b"\xc1", b"")
    tickets = [house.ticket(1), house.ticket(2)]
    async with working(house):
        house.submit(*tickets)
        assert await house.answers_to(tickets) == ["00", "00"]
        house.states[1] = CardRow(b"\xc1", b"\xc1", b"")
        alone = house.ticket(1)
        house.submit(alone)
        assert await house.answers_to([alone]) == ["00"]
    assert house.observer.faults == []


async def test_a_request_that_runs_out_of_time_over_stale_tries_is_told_so(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2)

    turns = 0

    async def always_overtaken(batch: dict[str, Any]) -> None:
        nonlocal turns
        turns += 1
        if 1 in batch["c_card"] and turns < 100:
            overtake(house, 1)
            await trio.sleep(0.1)

    house.journal.before = always_overtaken
    hot, neighbour = house.ticket(1, within_s=1.0), house.ticket(2, within_s=1.0)
    async with working(house):
        house.submit(hot, neighbour)
        assert await house.answers_to([hot, neighbour], within_s=2.0) == ["91", "00"]
    assert house.rule_for(hot) == "DEADLINE"
    assert house.journal.committed(1) == []


def overtake(house: House, card_id: int) -> None:
    """Another worker's batch on this card: same money, another batch id."""
    row = house.journal.rows[card_id]
    state = state_in(row)
    state.batch_id += 1
    house.journal.rows[card_id] = CardRow(row.facts, msgspec.msgpack.encode(state), row.window)


async def test_from_the_third_try_on_each_card_goes_alone(autojump_clock: MockClock) -> None:
    house = House(lanes=1)
    house.cards(1, 2, 3)
    turns = 0

    async def overtaken_five_times(batch: dict[str, Any]) -> None:
        nonlocal turns
        if 2 in batch["c_card"] and turns < 5:
            turns += 1
            overtake(house, 2)

    house.journal.before = overtaken_five_times
    tickets = [house.ticket(1), house.ticket(2), house.ticket(3), house.ticket(2)]
    async with working(house):
        house.submit(*tickets)
        assert await house.answers_to(tickets) == ["00"] * 4
    cards = [list(batch["c_card"]) for batch in house.journal.batches]
    assert cards == [[1, 2, 3], [1, 2, 3], [1], [2], [2], [2], [2], [3]]
    assert house.observer.stale == 5
    assert house.journal.committed(2) == ids([tickets[1], tickets[3]])


# -- one bad row --------------------------------------------------------------------------------


async def test_a_poisonous_card_gets_96_and_its_neighbours_do_not_notice(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2, 3)
    house.journal.poison = {2}
    tickets = [house.ticket(1), house.ticket(2), house.ticket(3), house.ticket(2)]
    async with working(house):
        house.submit(*tickets)
        assert await house.answers_to(tickets) == ["00", "96", "00", "96"]
        assert house.rule_for(tickets[1]) == "FAULT"
        # the lane lives, and the card is not lost to it
        house.journal.poison = set()
        after = house.ticket(2)
        house.submit(after)
        assert await house.answers_to([after]) == ["00"]
    assert [where for where, _ in house.observer.faults] == ["row"]
    assert isinstance(house.observer.faults[0][1], BatchRejected)
    assert house.journal.committed(1) == ids([tickets[0]])
    assert house.journal.committed(2) == ids([after])


async def test_a_row_that_cannot_be_read_spoils_only_its_own_card(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2, 3)
    good = house.journal.rows[2]
    house.journal.rows[2] = CardRow(good.facts, b"\xc1", b"")
    tickets = [house.ticket(1), house.ticket(2), house.ticket(3)]
    async with working(house):
        house.submit(*tickets)
        assert await house.answers_to(tickets) == ["00", "96", "00"]
    assert [where for where, _ in house.observer.faults] == ["batch"]


# -- doubt --------------------------------------------------------------------------------------


async def test_nothing_is_answered_before_append_has_returned(autojump_clock: MockClock) -> None:
    house = House(lanes=1)
    house.cards(1, 2, balance_minor=10)
    tickets = [house.ticket(1), house.ticket(1), house.ticket(2), house.ticket(99)]
    house.journal.after = gate = Gate()  # committed, but not yet known
    async with working(house):
        house.submit(*tickets)
        await gate.reached.wait()
        assert house.journal.available(1) == 0
        await trio.sleep(100)
        assert house.observer.answers == {}
        gate.open.set()
        assert await house.answers_to(tickets) == ["00", "51", "00", "14"]
    assert len(house.journal.refusals) == 1


async def test_an_unknown_outcome_that_ends_stale_is_decided_again(
    autojump_clock: MockClock,
) -> None:
    """The doubt ends at a foreign state: the answer is what the rows say now."""
    house = House(lanes=1)
    house.cards(1, balance_minor=10)
    calls = 0

    async def long_doubt(_: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await trio.sleep(3)
            house.journal.rows[1] = row_with(0)
            overtake(house, 1)

    house.journal.before = long_doubt
    ticket = house.ticket(1)
    async with working(house):
        house.submit(ticket)
        assert await house.answers_to([ticket]) == ["51"]
    assert trio.current_time() >= 3


async def test_a_lane_that_is_cancelled_finishes_its_batch_first(autojump_clock: MockClock) -> None:
    house = House(lanes=1)
    house.cards(1)
    house.journal.before = gate = Gate(1)
    ticket = house.ticket(1)
    async with trio.open_nursery() as outer:

        async def open_later() -> None:
            await trio.sleep(5)
            gate.open.set()

        async with trio.open_nursery() as nursery:
            house.run_in(nursery)
            house.submit(ticket)
            await gate.reached.wait()
            outer.start_soon(open_later)
            nursery.cancel_scope.cancel()
    assert house.observer.answers[ticket].response.value == "00"
    assert house.caches[0].settled == [[1]]


# -- what needs no commit -----------------------------------------------------------------------


async def test_a_balance_is_read_from_the_row_whatever_the_cache_says(
    autojump_clock: MockClock,
) -> None:
    house = House()
    house.cards(1, balance_minor=250)
    house.states[1] = row_with(999)
    asked = house.ticket(1, Operation.BALANCE, 0)
    async with working(house):
        house.submit(asked)
        assert await house.answers_to([asked]) == ["00"]
    assert house.observer.answers[asked].balances.endswith("C000000000250")
    assert house.journal.batches == []
    assert house.journal.reads == [[1]]


@pytest.mark.parametrize("operation", [Operation.LOT_SWEEP, Operation.DORMANCY_FEE])
async def test_that_nothing_is_due_is_read_from_the_row(
    autojump_clock: MockClock, operation: Operation
) -> None:
    house = House()
    house.cards(1, balance_minor=250)
    house.states[1] = row_with(999)
    asked = house.ticket(1, operation, 0)
    async with working(house):
        house.submit(asked)
        await house.answers_to([asked])
    assert house.journal.reads == [[1]]


async def test_a_balance_behind_a_purchase_of_its_batch_waits_for_the_commit(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, balance_minor=250)
    sale, asked = house.ticket(1), house.ticket(1, Operation.BALANCE, 0)
    house.journal.before = gate = Gate(1)
    async with working(house):
        house.submit(sale, asked)
        await gate.reached.wait()
        assert asked not in house.observer.answers
        gate.open.set()
        await house.answers_to([sale, asked])
    assert house.observer.answers[asked].balances.endswith("C000000000240")


async def test_an_unknown_card_is_refused_and_logged(autojump_clock: MockClock) -> None:
    house = House()
    house.cards(1)
    unknown, known = house.ticket(-5), house.ticket(1)
    async with working(house):
        house.submit(unknown, known)
        assert await house.answers_to([unknown, known]) == ["14", "00"]
    assert len(house.journal.refusals) == 1


async def test_a_repeat_in_the_same_batch_gets_the_same_answer_and_no_link(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1)
    first = house.ticket(1)
    repeats = [house.repeat_of(first) for _ in range(3)]
    async with working(house):
        house.submit(first, *repeats)
        await house.answers_to([first, *repeats])
    answers = {house.observer.answers[ticket].transaction_id for ticket in [first, *repeats]}
    assert answers == {first.request.transaction_id}
    assert house.journal.committed(1) == ids([first])


async def test_a_repeat_that_the_window_has_forgotten_is_found_in_the_journal(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1)
    first = house.ticket(1)
    async with working(house):
        house.submit(first)
        await house.answers_to([first])
        for _ in range(20):
            another = house.ticket(1, amount_minor=1)
            house.submit(another)
            await house.answers_to([another])
        assert house.journal.history_reads == []
        again = house.repeat_of(first)
        house.submit(again)
        await house.answers_to([again])
    assert house.observer.answers[again].transaction_id == first.request.transaction_id
    assert len(house.journal.history_reads) == 1
    assert house.journal.available(1) == 1000 - 10 - 20


async def test_a_repeat_within_a_batch_that_outgrows_the_window_is_still_known(
    autojump_clock: MockClock,
) -> None:
    """The batch's own links would push its first key out, were the window cut at each link."""
    house = House(lanes=1)
    house.cards(1)
    first = house.ticket(1)
    many = [house.ticket(1, amount_minor=1) for _ in range(20)]
    again = house.repeat_of(first)
    async with working(house):
        house.submit(first, *many, again)
        await house.answers_to([first, *many, again])
    assert house.observer.answers[again].transaction_id == first.request.transaction_id
    assert house.journal.available(1) == 1000 - 10 - 20


async def test_a_reversal_under_another_cards_key_bars_nothing(autojump_clock: MockClock) -> None:
    house = House(lanes=1)
    house.cards(1, 2)
    sale = house.ticket(1)
    reversal = house.ticket(2, Operation.REVERSAL, original_key=sale.request.key)
    async with working(house):
        house.submit(sale)
        await house.answers_to([sale])
        house.submit(reversal)
        assert await house.answers_to([reversal]) == ["94"]
    assert house.journal.committed(2) == []


async def test_the_horizon_reaches_back_sixty_days_to_the_first_of_its_month(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1)
    months = []
    read = house.journal.read_history

    async def noting(query: Any, oldest_month: Any) -> Any:
        months.append(oldest_month)
        return await read(query, oldest_month)

    house.journal.read_history = noting  # type: ignore[method-assign]
    reversal = house.ticket(
        1, Operation.REVERSAL, original_key=request_key(int(NOW.timestamp()), "x")
    )
    async with working(house):
        house.submit(reversal)
        assert await house.answers_to([reversal]) == ["00"]
    assert [month.isoformat() for month in months] == ["2026-01-01"]


async def test_the_repeat_of_what_was_archived_is_told_so_once_it_was_looked_for(
    autojump_clock: MockClock,
) -> None:
    """The window names a link that no month of the journal has any more."""
    house = House(lanes=1)
    house.cards(1)
    told = house.ticket(1, Operation.ADVICE)
    repeat = Ticket(told.request, 1, trio.current_time(), trio.current_time() + 4, "repeat")
    lost = Ticket(told.request, 1, trio.current_time(), trio.current_time() + 60, "lost")
    async with working(house):
        house.submit(told)
        assert await house.answers_to([told]) == ["00"]
        links = house.journal.links[1]
        gone = links[:]
        links.clear()
        house.submit(lost)
        assert await house.answers_to([lost]) == ["96"], "not archived: something is broken"
        house.journal.archived[1] = gone[-1].version
        house.submit(repeat)
        assert await house.answers_to([repeat]) == ["00"]
    assert house.observer.answers[repeat].rule is Rule.DONE_BEFORE
    assert links == []


# -- the cards go back --------------------------------------------------------------------------


async def test_cards_go_back_with_what_was_committed_and_only_after_it(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2)
    house.journal.before = gate = Gate()
    tickets = [house.ticket(1), house.ticket(2)]
    async with working(house):
        house.submit(*tickets)
        await gate.reached.wait()
        assert house.states == {}
        gate.open.set()
        await house.answers_to(tickets)
        await trio.sleep(0.01)
    assert house.states == house.journal.rows


async def test_cards_of_a_batch_that_failed_go_back_with_nothing_known(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1, 2)
    house.states.update(house.journal.rows)
    house.journal.poison = {2}
    tickets = [house.ticket(1), house.ticket(2)]
    async with working(house):
        house.submit(*tickets)
        await house.answers_to(tickets)
        await trio.sleep(0.01)
    assert house.states.keys() == {1}
    assert house.caches[0].released == [[2]]


async def test_the_answers_leave_before_the_cards_are_given_back(autojump_clock: MockClock) -> None:
    """A cache that is slow to take a card back holds up nobody's answer."""
    house = House(lanes=1)
    house.cards(1)
    house.caches[0].pause_s = 0.2
    ticket = house.ticket(1)
    async with working(house):
        house.submit(ticket)
        await house.answers_to([ticket])
        assert house.caches[0].settled == []
        await trio.sleep(0.3)
        assert house.caches[0].settled == [[1]]


async def test_an_error_nobody_expects_in_a_read_is_96_and_no_end_of_the_lane(
    autojump_clock: MockClock,
) -> None:
    house = House(lanes=1)
    house.cards(1)
    read = house.journal.read_cards
    calls = 0

    async def failing(card_ids: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= 2:
            raise RuntimeError("surprise")
        return await read(card_ids)

    house.journal.read_cards = failing  # type: ignore[method-assign]
    first, second = house.ticket(1), house.ticket(1)
    async with working(house):
        house.submit(first)
        assert await house.answers_to([first]) == ["96"]
        house.submit(second)
        assert await house.answers_to([second]) == ["00"]
    assert isinstance(house.observer.faults[0][1], RuntimeError)


def test_a_journal_that_is_down_is_no_rejected_batch() -> None:
    assert not issubclass(JournalDown, BatchRejected)
    assert not issubclass(BatchRejected, JournalDown)
