"""The projector: follows the journal, step by step, exactly once in effect.

A step reads the next links, and writes their changes, their digests and the new position in one
transaction. Whatever dies in between, the next step begins where the position says.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable
from typing import Any

import trio

from switch.journal.connection import JournalConnection
from switch.journal.server import STORE_ERRORS
from switch.journal.unit import UnitConnection
from switch.logs import event
from switch.projections.effects import ProjectionFault
from switch.projections.reading import (
    END,
    READER_SETTINGS,
    START,
    Position,
    position_of,
    read_entries,
)
from switch.projections.sealing import Sealer, last_block, write_blocks
from switch.projections.writing import currencies_of, project_entries

__all__ = [
    "STEP_LINKS_MAX",
    "JournalBehind",
    "Overtaken",
    "reader",
    "run_projector",
    "step",
]

STEP_LINKS_MAX = 2_000
_PERIOD_S = 0.2
_RETRY_S = 1.0
_LOCK = 0x70726F6A  # any number that is ours: one projector at a time

_POSITION = "select xid, batch_id, n from projection_position"
_NEXT_XID = "select pg_snapshot_xmax(pg_current_snapshot())"
_XMIN = "select pg_snapshot_xmin(pg_current_snapshot())"
_MOVE = """
update projection_position set xid = $1, batch_id = $2, n = $3, links = links + $4,
       postings = postings + $5, posted_at = $6
where (xid, batch_id, n) = ($7, $8, $9) returning true
"""

log = logging.getLogger(__name__)


class JournalBehind(Exception):
    """The server's transaction numbers are below those already read: it was restored from a dump.

    New links would be taken for old ones. The numbers must be moved on (pg_resetwal) first.
    """


class Overtaken(Exception):
    """Somebody else has moved the position on."""


async def step(
    raw: Any,
    sealer: Sealer | None,
    *,
    limit: int = STEP_LINKS_MAX,
    until: Position = END,
    through: datetime.date = datetime.date.min,
) -> int:
    """One step; how many links it took. `raw` is asyncpg's connection, or a UnitConnection.

    Without a sealer no digests are made: for projections that are made anew. Links of months up to
    `through` are left out.
    """
    row = await raw.fetchrow(_POSITION)
    after = position_of(row)
    entries = await read_entries(raw, after, limit, until=until, through=through)
    if not entries:
        if after != START and await raw.fetchval(_NEXT_XID) <= after.xid:
            raise JournalBehind(f"next transaction number is not above {after.xid}")
        return 0
    currencies = await currencies_of(raw)
    last, postings = entries[-1].link, sum(len(entry.postings) for entry in entries)
    moved = (*position_of(last), len(entries), postings, last["posted_at"], *after)
    async with raw.transaction():
        # First the position: it is the lock, too. What is read from here on stands still.
        if not await raw.fetchval(_MOVE, *moved):
            raise Overtaken
        await project_entries(raw, entries, currencies)
        if sealer is not None:
            await write_blocks(raw, sealer.seal(entries, await last_block(raw)))
    return len(entries)


async def run_projector(
    url: str, sealer: Sealer | None, *, after_step: Callable[[int], None] = lambda _links: None
) -> None:
    """Follow the journal until cancelled: every 200 ms, and at once while there is more.

    Any number may run; one works, the others wait for its lock.
    """
    while True:
        try:
            connection = await JournalConnection.open(url, timeout_s=5)
        except STORE_ERRORS as error:
            event(log, logging.WARNING, "projector-waits", error=type(error).__name__)
            await trio.sleep(_RETRY_S)
            continue
        try:
            await _follow(connection, sealer, after_step)
        except STORE_ERRORS as error:
            event(log, logging.WARNING, "projector-lost-postgres", error=type(error).__name__)
        except (ProjectionFault, JournalBehind) as fault:
            event(log, logging.ERROR, "projector-halted", fault=str(fault))
        finally:
            connection.discard()
        await trio.sleep(_RETRY_S)


async def reader(connection: JournalConnection) -> UnitConnection:
    """A session set up to read the journal in the order of its commits."""
    for setting in READER_SETTINGS.split(";"):
        await connection.rows(setting)
    return UnitConnection(connection)


async def _follow(
    connection: JournalConnection, sealer: Sealer | None, after_step: Callable[[int], None]
) -> None:
    while not await connection.value("select pg_try_advisory_lock($1)", _LOCK):
        await trio.sleep(_RETRY_S)
    unit = await reader(connection)
    nothing_below = 0
    while True:
        # As long as no transaction has ended there is nothing to look for in any month.
        xmin = await connection.value(_XMIN)
        links = 0
        if xmin != nothing_below:
            with contextlib.suppress(Overtaken):
                links = await step(unit, sealer)
                nothing_below = 0 if links else xmin
        after_step(links)
        if links < STEP_LINKS_MAX:
            await trio.sleep(_PERIOD_S)
