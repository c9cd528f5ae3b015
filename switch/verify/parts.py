"""The replay by several processes: it is Python's work, and one process has one core."""

from __future__ import annotations

import datetime
import multiprocessing
import queue
from collections.abc import Callable, Sequence
from typing import Any

import trio

from switch.data_access import on_database
from switch.journal.bridge import STORE_ERRORS, Connection
from switch.verify.chains import CardRange, replay_cards
from switch.verify.report import Finding

__all__ = ["PartFailed", "open_snapshot", "replay_in_parts"]

_WAIT_S = 1.0
_RANGES = """
select percentile_disc($1::float8[]) within group (order by card_id)
from (select card_id from card_state tablesample system ($2)) as sampled
"""
# The hot path's sessions never scan whole tables; here that is the point. There are several of
# these sessions, so none spreads over further processes.
WHOLE = """
set local enable_seqscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on;
set local enable_sort = on; set local enable_bitmapscan = on; set local work_mem = '64MB';
set local enable_nestloop = off; set local plan_cache_mode = force_custom_plan;
set local max_parallel_workers_per_gather = 0;
set local cursor_tuple_fraction = 1; set local idle_in_transaction_session_timeout = 0
"""

BY_CARD = "set local enable_nestloop = on"
"""For what looks for single links of cards: the last one of each, those of others in the replay."""

_Result = tuple[int, int, list[Finding]]


class PartFailed(Exception):
    """A process of a verification could not do its part; the text says why."""


async def open_snapshot(url: str, snapshot: str = "") -> Connection:
    """A connection in a read-only transaction, which sees what another exported, if it did."""
    connection = await Connection.open(url, timeout_s=10)
    begin = "begin isolation level repeatable read read only;"
    if snapshot:
        begin += f"set transaction snapshot '{snapshot}';"
    await connection.script(begin + WHOLE)
    return connection


async def ranges_of(raw: Any, count: int, cards: int) -> list[CardRange]:
    """Ranges of card ids with about as many cards each, which cover all ids there can be."""
    percent = min(100.0, 1_000_000.0 / max(cards, 1))
    points = [part / count for part in range(1, count)]
    found = await raw.fetchval(_RANGES, points, percent) if points else []
    edges = sorted({point for point in found or [] if point is not None})
    lows = [-(1 << 63), *(edge + 1 for edge in edges)]
    return list(zip(lows, [*edges, (1 << 63) - 1], strict=True))


async def replay_in_parts(
    url: str,
    snapshot: str,
    ranges: Sequence[CardRange],
    through: datetime.date,
    progress: Callable[[int], None],
) -> _Result:
    """Replay each range in a process of its own. PartFailed when one of them could not."""
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    processes = [
        context.Process(
            target=_part, args=(number, url, snapshot, cards, through, told), daemon=True
        )
        for number, cards in enumerate(ranges)
    ]
    done = dict.fromkeys(range(len(ranges)), 0)
    results: list[_Result] = []
    try:
        for process in processes:
            process.start()
        while len(results) < len(ranges):
            message = await trio.to_thread.run_sync(_next, told, abandon_on_cancel=True)
            if message is None:
                if any(process.exitcode for process in processes):
                    raise PartFailed("a process of the verification died")
                continue
            number, said = message
            if isinstance(said, int):
                done[number] = said
                progress(sum(done.values()))
            elif isinstance(said, str):
                raise PartFailed(said)
            else:
                results.append(said)
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
    links = sum(result[0] for result in results)
    cards = sum(result[1] for result in results)
    findings = [finding for result in results for finding in result[2]]
    return links, cards, sorted(findings, key=lambda found: (found.card_id, found.version))


def _next(told: Any) -> Any:
    try:
        return told.get(timeout=_WAIT_S)
    except queue.Empty:
        return None


def _part(
    number: int, url: str, snapshot: str, cards: CardRange, through: datetime.date, told: Any
) -> None:
    """In the process."""

    async def replay() -> _Result:
        connection = await open_snapshot(url, snapshot)
        await connection.script(BY_CARD)
        try:
            return await connection.unit(
                lambda raw: replay_cards(
                    raw, cards, through, lambda links: told.put((number, links))
                )
            )
        finally:
            connection.discard()

    try:
        told.put((number, on_database(replay)))
    except STORE_ERRORS as error:
        told.put((number, f"{type(error).__name__}: {error}"))
