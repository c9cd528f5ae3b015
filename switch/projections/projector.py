"""The projector: follows the journal, step by step, exactly once in effect.

A step reads the next links, and writes their changes, their digests and the new position in one
transaction. Whatever dies in between, the next step begins where the position says.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import trio

from switch.journal.connection import JournalConnection
from switch.journal.server import STORE_ERRORS
from switch.journal.unit import UnitConnection
from switch.logs import event
from switch.projections.effects import ProjectionFault, fold
from switch.projections.reading import (
    END,
    READER_SETTINGS,
    START,
    Entry,
    Position,
    position_of,
    read_entries,
)
from switch.projections.sealing import Sealer, last_block, write_blocks
from switch.projections.writing import write_effects

__all__ = [
    "STEP_LINKS_MAX",
    "JournalBehind",
    "Overtaken",
    "programmes_of",
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
_OF_PROGRAMME = """
select array_agg(card_id) as cards, array_agg(programme_id) as programmes
from card where card_id = any($1::bigint[])
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
    currencies = {
        row["programme_id"]: row["currency"]
        for row in await raw.fetch("select programme_id, currency from programme")
    }
    effects = fold(entries, await programmes_of(raw, entries, currencies), currencies)
    last = entries[-1].link
    moved = (*position_of(last), effects.links, effects.postings, last["posted_at"], *after)
    async with raw.transaction():
        # First the position: it is the lock, too.
        if not await raw.fetchval(_MOVE, *moved):
            raise Overtaken
        await write_effects(raw, effects)
        if sealer is not None:
            await write_blocks(raw, sealer.seal(entries, await last_block(raw)))
    return len(entries)


async def programmes_of(
    raw: Any, entries: Iterable[Entry], currencies: Mapping[int, str]
) -> Callable[[int], int]:
    """To which programme a card belongs. Most installations have but one."""
    if len(currencies) == 1:
        only = next(iter(currencies))
        return lambda _card_id: only
    card_ids = {link["card_id"] for link, _ in entries}
    for _, postings in entries:
        for posting in postings:
            debit_kind, debit_id, credit_kind, credit_id = posting[5:9]
            if debit_kind == 1:
                card_ids.add(debit_id)
            if credit_kind == 1:
                card_ids.add(credit_id)
    row = await raw.fetchrow(_OF_PROGRAMME, list(card_ids))
    return dict(zip(row["cards"] or (), row["programmes"] or (), strict=True)).__getitem__


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
