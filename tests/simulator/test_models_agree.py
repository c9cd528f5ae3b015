"""The stores in memory are no better and no worse than the real ones: one test for both."""

from __future__ import annotations

import datetime
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from rules.requests import Operation
from rules.responses import Rule
from switch.embedded.stores import EmbeddedStores
from switch.journal.bridge import Connection, bridge
from switch.journal.journal import BatchRejected, HistoryQuery, JournalSession, Outcome
from switch.journal.migrate import migrate
from switch.journal.rows import CardRow, Refusal
from switch.reservation.store import Sealer

from .backends import NOW, Backend, Memory, Real, batch, changed, request

_MONTH = NOW.date().replace(day=1)
_BATCH = 5 << 40


@pytest.fixture(scope="module")
def servers() -> Iterator[EmbeddedStores]:
    """A private Postgres with the schema, and a private Valkey."""
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="agree-", dir=base))
    directory.chmod(0o755)
    stores = EmbeddedStores(directory)
    try:
        stores.start()
        yield stores
    finally:
        stores.stop()
        shutil.rmtree(directory, ignore_errors=True)


_PROGRAMME = """
truncate programme cascade; truncate link, refusal, barrier, card_state;
insert into programme values (1, 'Test', '978');
insert into merchant values (1, '000000000000001', 'Shop') on conflict do nothing;
"""


@pytest.fixture(params=["memory", "real"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    if request.param == "memory":
        yield Memory()
        return
    servers = request.getfixturevalue("servers")
    async with bridge():
        owner = await Connection.open(servers.postgres_url, timeout_s=10)
        await migrate(owner)
        await owner.script(_PROGRAMME)
        yield Real(servers, owner)
        await owner.close()


async def rows_of(session: JournalSession, *card_ids: int) -> dict[int, CardRow]:
    return await session.read_cards(card_ids)


async def test_a_batch_goes_in_once(backend: Backend) -> None:
    session = backend.journal()
    await backend.issue(1)
    rows = await rows_of(session, 1, 99)
    assert set(rows) == {1}
    first = batch(rows, {1: [request(Operation.LOAD, 500, 1)]}, _BATCH + 1)
    assert await session.append(first) is Outcome.COMMITTED
    after = await rows_of(session, 1)
    assert after != rows
    assert await session.append(first) is Outcome.MET_ITSELF
    rival = batch(rows, {1: [request(Operation.LOAD, 700, 2)]}, _BATCH + 2)
    assert await session.append(rival) is Outcome.STALE
    assert await rows_of(session, 1) == after
    second = batch(after, {1: [request(Operation.REDEEM, 200, 3)]}, _BATCH + 3)
    assert await session.append(second) is Outcome.COMMITTED
    assert await session.append(first) is Outcome.MET_ITSELF
    await session.close()


async def test_version_and_batch_must_both_be_right(backend: Backend) -> None:
    session = backend.journal()
    await backend.issue(1)
    rows = await rows_of(session, 1)
    work = {1: [request(Operation.LOAD, 500, 1)]}
    right = batch(rows, work, _BATCH + 1)
    for column, value in (("c_version_from", 1), ("c_batch_from", 77)):
        wrong = changed(right, column, 0, value)
        assert await session.append(wrong) is Outcome.STALE, column
    assert await session.append(right) is Outcome.COMMITTED
    await session.close()


async def test_a_batch_is_all_or_nothing(backend: Backend) -> None:
    session = backend.journal()
    for card_id in (1, 2):
        await backend.issue(card_id)
    rows = await rows_of(session, 1, 2)
    alone = batch({2: rows[2]}, {2: [request(Operation.LOAD, 1, 1)]}, _BATCH + 1)
    assert await session.append(alone) is Outcome.COMMITTED
    before = await rows_of(session, 1, 2)
    work = {card_id: [request(Operation.LOAD, 5, 10 + card_id)] for card_id in (1, 2)}
    refusals = [Refusal("pos", "0200", "14", "CARD", "1", "000001")]
    both = batch(rows, work, _BATCH + 2, refusals)
    assert await session.append(both) is Outcome.STALE
    negative = batch({1: rows[1]}, {1: work[1]}, _BATCH + 3)
    for column in ("c_ecash_available", "l_after", "l_held"):
        with pytest.raises(BatchRejected):
            await session.append(changed(negative, column, 0, -1))
    assert await rows_of(session, 1, 2) == before
    assert await links_under(session, 11, 12) == []
    await session.close()


async def test_refusals_are_logged_once(backend: Backend) -> None:
    session = backend.journal()
    refusals = [Refusal("pos", "0200", "14", "CARD", "1", f"{n:06d}") for n in range(3)]
    alone = batch({}, {}, _BATCH + 1, refusals)
    assert await session.append(alone) is Outcome.COMMITTED
    assert await session.append(alone) is Outcome.COMMITTED
    await session.close()


async def links_under(session: JournalSession, *numbers: int) -> list[int]:
    keys = {request(Operation.LOAD, 1, number).key for number in numbers}
    found = await session.read_history(HistoryQuery(keys=keys, card_ids={1, 2}), _MONTH)
    return [link.version for link in found]


async def test_history_is_found_by_all_its_names(backend: Backend) -> None:
    session = backend.journal()
    for card_id in (1, 2):
        await backend.issue(card_id)
    rows = await rows_of(session, 1, 2)
    sale = request(Operation.REDEEM, 200, 2)
    back = request(Operation.REVERSAL, 200, 3, original_key=sale.key)
    other = request(Operation.LOAD, 40, 4)
    work = {1: [request(Operation.LOAD, 500, 1), sale, back], 2: [other]}
    assert await session.append(batch(rows, work, _BATCH + 1)) is Outcome.COMMITTED

    async def found(month: datetime.date = _MONTH, **names: Any) -> list[tuple[int, int]]:
        query = HistoryQuery(**names)
        return [(x.card_id, x.version) for x in await session.read_history(query, month)]

    assert await found(keys={sale.key}) == [(1, 2)]
    assert await found(keys={sale.key, other.key}, card_ids={1}) == [(1, 2), (1, 3), (2, 1)]
    assert await found(card_ids={1}) == [(1, 3)]
    assert await found(card_ids={2}) == []
    named = {"transaction_ids": {sale.transaction_id}}
    assert await found(card_ids={1}, **named) == [(1, 2), (1, 3)]
    assert await found(card_ids={2}, **named) == []
    assert await found(card_ids={2}, approval_codes={other.transaction_id[-6:]}) == [(2, 1)]
    later = (_MONTH + datetime.timedelta(days=40)).replace(day=1)
    assert await found(later, keys={sale.key}, card_ids={1}) == []
    link = (await session.read_history(HistoryQuery(keys={sale.key}), _MONTH))[0]
    assert (link.amount_minor, link.effect_minor, link.available_after_minor) == (200, -200, 300)
    assert link.answer.transaction_id == sale.transaction_id
    assert await session.read_archived([1, 2, 3]) == []
    await session.close()


async def test_the_history_of_what_undid_brings_what_was_undone(backend: Backend) -> None:
    """The reversal of a return is decided with its sale in hand; of its own card only."""
    session = backend.journal()
    for card_id in (1, 2):
        await backend.issue(card_id)
    rows = await rows_of(session, 1, 2)
    sale = request(Operation.REDEEM, 200, 2)
    named = {"original_transaction_id": sale.transaction_id}
    back = request(Operation.RETURN, 50, 3, **named)
    work = {
        1: [request(Operation.LOAD, 500, 1), sale, back],
        2: [request(Operation.LOAD, 40, 4), request(Operation.LOAD, 41, 5)],
    }
    assert await session.append(batch(rows, work, _BATCH + 1)) is Outcome.COMMITTED

    async def found(*card_ids: int) -> list[tuple[int, int]]:
        query = HistoryQuery(keys={back.key}, card_ids=set(card_ids))
        links = await session.read_history(query, _MONTH)
        return sorted({(link.card_id, link.version) for link in links})

    assert await found(1) == [(1, 2), (1, 3)]
    assert await found(2) == [(1, 3)]
    assert await found(1, 2) == [(1, 2), (1, 3)]
    await session.close()


async def test_currency_and_body_come_back_as_they_were(backend: Backend) -> None:
    session = backend.journal()
    await backend.issue(1)
    rows = await rows_of(session, 1)
    told = request(
        *(Operation.ADVICE, 70, 1),
        foreign_currency="840",
        foreign_content=Rule.CURRENCY,
        own_request_key=request(Operation.REDEEM, 70, 9).key,
    )
    assert await session.append(batch(rows, {1: [told]}, _BATCH + 1)) is Outcome.COMMITTED
    link = (await session.read_history(HistoryQuery(keys={told.key}), _MONTH))[0]
    assert (link.foreign_currency, link.answer.rule) == ("840", Rule.CURRENCY)
    barred = HistoryQuery(keys={told.own_request_key})
    assert [x.operation for x in await session.read_history(barred, _MONTH)] == [
        Operation.TOMBSTONE
    ]
    await session.close()


async def test_a_session_that_lost_its_connection_goes_on(backend: Backend) -> None:
    session = backend.journal()
    await backend.issue(1)
    rows = await rows_of(session, 1)
    first = batch(rows, {1: [request(Operation.LOAD, 500, 1)]}, _BATCH + 1)
    assert await session.append(first) is Outcome.COMMITTED
    for _ in range(2):
        session._drop()
        assert await session.append(first) is Outcome.MET_ITSELF
    session._drop()
    assert (await rows_of(session, 1)) != rows
    await session.close()


async def test_without_a_server_every_card_is_granted_and_none_is_known(backend: Backend) -> None:
    store = backend.reservation_without_server()
    for _ in range(2):
        assert await store.reserve([1, 2]) == ({}, [])
    await store.settle([1], [CardRow(b"facts", b"state", b"window")])
    await store.release([2], forget=True)
    assert not store.up
    store.close()


async def test_a_state_that_another_key_sealed_is_unknown(backend: Backend) -> None:
    one, two = backend.reservation(b"one"), backend.reservation(b"two")
    row = CardRow(b"facts", b"state", b"window")
    await one.reserve([1])
    one._sealer = Sealer(b"a key of somebody else".ljust(32))
    await one.settle([1], [row])
    assert await two.reserve([1]) == ({}, [])
    one.close()
    two.close()


async def test_one_lane_at_a_time_has_a_card(backend: Backend) -> None:
    one, two = backend.reservation(b"one"), backend.reservation(b"two")
    assert await one.reserve([1, 2]) == ({}, [])
    assert await two.reserve([2, 3]) == ({}, [2])
    assert await one.reserve([1]) == ({}, [])
    row = CardRow(b"facts", b"state", b"window")
    await two.settle([2], [row])  # not its own: nothing happens
    assert await two.reserve([2]) == ({}, [2])
    await one.settle([1, 2], [row, row])
    assert await two.reserve([1, 2]) == ({1: row, 2: row}, [])
    await two.release([1])
    await two.release([2], forget=True)
    assert await one.reserve([1, 2]) == ({1: row}, [])
    one.close()
    two.close()


async def test_possession_runs_out(backend: Backend) -> None:
    one, two = backend.reservation(b"one", 30), backend.reservation(b"two", 30)
    row = CardRow(b"facts", b"state", b"window")
    await one.reserve([1])
    assert await two.reserve([1]) == ({}, [1])
    await trio.sleep(0.06)
    assert await two.reserve([1]) == ({}, [])
    await one.settle([1], [row])  # too late: another has it
    await two.release([1])
    assert await one.reserve([1]) == ({}, [])
    one.close()
    two.close()


async def test_who_waits_is_told(backend: Backend) -> None:
    one, two = backend.reservation(b"one"), backend.reservation(b"two")
    told: list[list[int]] = []

    async def listen() -> None:
        async for card_ids in two.notices():
            told.append(card_ids)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.sleep(0.1)
        await one.reserve([1, 2])
        await two.reserve([2])
        await one.release([1, 2])
        with trio.move_on_after(2):
            while not told:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert told == [[2]]
    one.close()
    two.close()


class Walk:
    """A random walk over both stores: what each step said, to be compared."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.chance = random.Random(seed)
        self.backend = backend
        self.session = backend.journal()
        self.lanes = [backend.reservation(name, 60_000) for name in (b"a", b"b", b"c")]
        self.rows: dict[int, list[CardRow]] = {}
        self.sent: list[Any] = []
        self.said: list[Any] = []

    async def start(self) -> None:
        for card_id in (1, 2, 3):
            await self.backend.issue(card_id)
            self.rows[card_id] = [(await rows_of(self.session, card_id))[card_id]]

    async def step(self, number: int) -> None:
        chance = self.chance
        cards = chance.sample((1, 2, 3), chance.randint(1, 3))
        lane = chance.choice(self.lanes)
        what = chance.random()
        if what < 0.3:
            old = {c: chance.choice(self.rows[c][-2:]) for c in sorted(cards)}
            work = {c: [request(Operation.LOAD, 5, 10 * number + c)] for c in old}
            self.sent.append(batch(old, work, _BATCH + number))
            self.said.append(await self.session.append(self.sent[-1]))
            for card_id, row in (await rows_of(self.session, *old)).items():
                self.rows[card_id].append(row)
                self.said.append(row)
        elif what < 0.4 and self.sent:
            self.said.append(await self.session.append(chance.choice(self.sent)))
        elif what < 0.5:
            query = HistoryQuery(
                keys={request(Operation.LOAD, 5, chance.randrange(10 * number + 9)).key},
                card_ids=set(cards),
            )
            self.said.append(await self.session.read_history(query, _MONTH))
        elif what < 0.75:
            self.said.append(await lane.reserve(cards))
        elif what < 0.9:
            await lane.settle(cards, [self.rows[c][-1] for c in cards])
        else:
            await lane.release(cards, forget=chance.random() < 0.5)


async def walked(backend: Backend, seed: int) -> list[Any]:
    walk = Walk(backend, seed)
    await walk.start()
    for number in range(1, 120):
        await walk.step(number)
    await walk.session.close()
    for lane in walk.lanes:
        lane.close()
    return walk.said


@pytest.mark.parametrize("seed", range(4))
async def test_a_random_walk_hears_the_same(backend: Backend, seed: int) -> None:
    said = await walked(backend, seed)
    assert len(said) > 60
    assert said == await walked(Memory(), seed)
