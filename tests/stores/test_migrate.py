"""Migrations, on a database that has a journal from before."""

from __future__ import annotations

import datetime
import itertools
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from store_sessions import Stores

from switch.journal import migrate as migrations
from switch.journal.bridge import Connection
from switch.journal.migrate import MigrationChanged, migrate

_FILES = Path(migrations.__file__).with_name("migrations")
_IN_LINKS = "0013_postings_in_links.sql"
_names = (f"earlier{number}" for number in itertools.count(1))
_ALL = """
select month, batch_id, n, leg, card_id, debit_kind, debit_id, credit_kind, credit_id,
       amount_minor, purse, currency::text
from posting order by month, batch_id, n, leg
"""


@pytest.fixture
async def database(stores: Stores, loop: None) -> AsyncIterator[Connection]:
    """An empty database beside the one that the other tests use."""
    owner = await Connection.open(stores.owner_url)
    name = next(_names)
    await owner.script(f"create database {name}")
    connection = await Connection.open(stores.owner_url.replace("/cardswitch?", f"/{name}?"))
    yield connection
    await connection.close()
    await owner.script(f"drop database {name}")
    await owner.close()


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations as they were before postings stood in their links."""
    for path in _FILES.glob("*.sql"):
        if path.name < _IN_LINKS:
            shutil.copy(path, tmp_path)
    monkeypatch.setattr(migrations, "_FILES", tmp_path)
    return tmp_path


def _month(number: int) -> datetime.date:
    """This month, or the one before it: for these there are partitions."""
    today = datetime.datetime.now(datetime.UTC).date().replace(day=1)
    return (today - datetime.timedelta(days=number)).replace(day=1)


async def _write_journal(connection: Connection, batches: int = 20) -> int:
    """Links with none, one, two and three postings, in two months; how many postings."""
    links: list[tuple[Any, ...]] = []
    postings: list[tuple[Any, ...]] = []
    for batch_id in range(1, batches + 1):
        month = _month(batch_id % 2)
        instant = datetime.datetime(month.year, month.month, 1, tzinfo=datetime.UTC)
        for n in range(1, 5):
            card_id, purse = 100 + n, (60, 80, 90, 60)[n - 1]
            head = (month, batch_id, n, card_id, batch_id, batch_id - 1)
            said = (bytes([batch_id, n] * 8), 6, 0, f"{batch_id:08}{n:04}", purse, -1, 0, 0, 1, 1)
            links.append((*head, *said, instant, b"body"))
            for leg in range(n - 1):
                accounts = (1, card_id, 2 + leg, 2**40 + leg)
                currency = ("978", "036", "999", "840")[n - 1]
                amount_minor = batch_id * 10**9 + leg + 1
                postings.append((month, batch_id, n, leg, card_id, *accounts, amount_minor))
                postings[-1] += (purse, currency)
    await connection.copy(
        "link",
        (
            *("month", "batch_id", "n", "card_id", "version", "prev_batch_id", "request_key"),
            *("operation", "response", "tx", "purse", "amount_minor", "available_after"),
            *("held_after", "terminal_id", "merchant_id", "posted_at", "body"),
        ),
        links,
    )
    await connection.copy(
        "posting",
        (
            *("month", "batch_id", "n", "leg", "card_id", "debit_kind", "debit_id"),
            *("credit_kind", "credit_id", "amount_minor", "purse", "currency"),
        ),
        reversed(postings),
    )
    return len(postings)


async def test_postings_move_into_their_links_and_are_shown_as_they_were(
    database: Connection, before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(database)
    count = await _write_journal(database)
    views = ("ledger_posting", "card_statement")
    order = "order by tx, credit"
    shown = [await database.rows(f"select * from {view} {order}") for view in views]
    kept = await database.rows(_ALL)
    assert len(kept) == len(shown[0]) == count
    monkeypatch.setattr(migrations, "_FILES", _FILES)
    assert _IN_LINKS in await migrate(database)
    assert await database.rows(_ALL) == kept
    assert [await database.rows(f"select * from {view} {order}") for view in views] == shown
    assert await migrate(database) == []
    left = await database.rows("select relname from pg_class where relname ~ '^posting_'")
    assert left == []
    sizes = await database.rows(
        "select n, min(cardinality(postings)) as least, max(cardinality(postings)) as most"
        " from link group by n order by n"
    )
    assert [tuple(row) for row in sizes] == [(1, 0, 0), (2, 6, 6), (3, 12, 12), (4, 18, 18)]


async def test_a_posting_of_no_link_stops_the_migration_and_nothing_is_lost(
    database: Connection, before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(database)
    await _write_journal(database, batches=2)
    await database.script("delete from link where n = 4 and batch_id = 1")
    kept = await database.rows(_ALL)
    monkeypatch.setattr(migrations, "_FILES", _FILES)
    with pytest.raises(asyncpg.RaiseError, match="postings of links that are not there"):
        await migrate(database)
    assert await database.rows(_ALL) == kept
    await database.script("delete from posting where n = 4 and batch_id = 1")
    assert _IN_LINKS in await migrate(database)
    assert len(await database.rows(_ALL)) == len(kept) - 3


async def test_a_migration_that_was_changed_is_refused(database: Connection, before: Path) -> None:
    await migrate(database)
    with (before / "0012_without_heads.sql").open("a") as file:
        file.write("-- another\n")
    with pytest.raises(MigrationChanged, match="0012"):
        await migrate(database)
