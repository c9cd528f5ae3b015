"""A unit of work on the journal's own connection: asyncpg's calls, all or nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from store_sessions import Stores

from switch.journal.connection import JournalConnection
from switch.journal.server import ConnectionLost, ServerError
from switch.journal.unit import UnitConnection

RUN = 7_000_000
WRITE = "insert into barrier (run, written_at) values ($1, now())"
COUNT = "select count(*) as n from barrier where run >= $1"


@pytest.fixture
async def connection(stores: Stores) -> AsyncIterator[JournalConnection]:
    opened = await JournalConnection.open(stores.app_url)
    yield opened
    await opened.close()


@pytest.fixture
async def unit(connection: JournalConnection) -> UnitConnection:
    return UnitConnection(connection)


async def test_rows_a_row_and_a_value(unit: UnitConnection) -> None:
    query = "select n from generate_series(1, $1::int) as n"
    assert await unit.fetch(query, 2) == [{"n": 1}, {"n": 2}]
    assert await unit.fetchrow(query, 2) == {"n": 1}
    assert await unit.fetchrow(query, 0) is None
    assert await unit.fetchval(query, 2) == 1


async def test_what_ends_well_is_committed_and_what_raises_leaves_nothing(
    stores: Stores, unit: UnitConnection
) -> None:
    other = await JournalConnection.open(stores.app_url)
    begun = await other.value(COUNT, RUN)
    async with unit.transaction():
        await unit.execute(WRITE, RUN + begun)
        assert await other.value(COUNT, RUN) == begun
    assert await other.value(COUNT, RUN) == begun + 1

    async def half() -> None:
        async with unit.transaction():
            await unit.execute(WRITE, RUN + begun + 1)
            raise LookupError

    with pytest.raises(LookupError):
        await half()
    assert await other.value(COUNT, RUN) == begun + 1
    # and the next one begins anew, on the same connection
    async with unit.transaction():
        await unit.execute(WRITE, RUN + begun + 1)
    assert await other.value(COUNT, RUN) == begun + 2
    await other.close()


async def test_a_statement_that_fails_ends_its_transaction_only(unit: UnitConnection) -> None:
    async def fail() -> None:
        async with unit.transaction():
            await unit.execute("select 1 / $1::int", 0)

    with pytest.raises(ServerError, match="22012"):
        await fail()
    async with unit.transaction():
        assert await unit.fetchval("select 1") == 1


async def test_a_connection_that_is_lost_is_told_as_that(
    connection: JournalConnection, unit: UnitConnection
) -> None:
    async def lose() -> None:
        async with unit.transaction():
            connection.discard()
            await unit.fetchval("select 1")

    with trio.fail_after(5), pytest.raises(ConnectionLost):
        await lose()
