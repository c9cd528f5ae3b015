"""`python -m bench.journal`: a private Postgres with a journal of a million links and more.

    python -m bench.journal --links 1000000 --cards 20000 --data DIR [--months 6] [--serve]

The links are what the rules decided (`bench.journal_life`), written set-wise by COPY, and the real
projector reads them afterwards: rows, links, postings, projections and digests agree, so `verify`,
`rebuild` and `archive` find nothing amiss. `--serve` keeps the server up and prints its URL.

`--thin` writes tens of millions of links that prove nothing about money (`bench.thin`).
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import multiprocessing
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import trio

from bench.journal_life import BATCH_LINKS, CURRENCY, EMPTY_STATE, MERCHANTS, Life, batch_id_of
from bench.thin import make_months, write_thin_links
from rules.cards import CardState
from switch.embedded.stores import EmbeddedStores
from switch.journal.bridge import Connection, bridge
from switch.journal.connection import JournalConnection
from switch.journal.migrate import migrate
from switch.journal.rows import CARD_COLUMNS, LINK_COLUMNS
from switch.keys import MasterKey
from switch.progress import Progress
from switch.projections.projector import reader, step
from switch.projections.sealing import Sealer

__all__ = ["main"]

_COPY_ROWS = 20_000
# Transaction numbers are taken by transactions that do nothing, and given to the batches.
_TAKE_XIDS = """
do $$ begin for i in 1 .. {count} loop perform pg_current_xact_id(); commit; end loop; end $$
"""


async def _prepare(url: str, arguments: argparse.Namespace, begin: datetime.datetime) -> None:
    async with bridge():
        connection = await Connection.open(url, timeout_s=10)
        await migrate(connection)
        await connection.script(make_months(begin))
        await connection.copy(
            "programme", ("programme_id", "name", "currency"), [(1, "Made", CURRENCY)]
        )
        await connection.copy(
            "merchant",
            ("merchant_id", "code", "name"),
            [(n, f"{n:015}", f"Shop {n}") for n in range(1, MERCHANTS + 1)],
        )
        for first in range(1, arguments.cards + 1, 100_000):
            ids = range(first, min(first + 100_000, arguments.cards + 1))
            await connection.copy(
                "card",
                ("card_id", "digest", "programme_id", "expiry"),
                [(card_id, card_id.to_bytes(12, "big"), 1, "9912") for card_id in ids],
            )
        await connection.close()


def _make(
    url: str,
    part: range,
    seed: int,
    batches: range,
    first_xid: int,
    clock: tuple[float, float],
    told: Any,
) -> None:
    """A process: the batches of its cards."""
    asyncio.run(_make_part(url, Life(part, seed), batches, first_xid, clock, told))


async def _make_part(
    url: str, life: Life, batches: range, first_xid: int, clock: tuple[float, float], told: Any
) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("set synchronous_commit = off")
    begin_s, step_s = clock
    links: list[tuple[Any, ...]] = []
    columns = ("month", "batch_id", "n", "xid", "posted_at", *LINK_COLUMNS, "postings")

    async def write() -> None:
        await connection.copy_records_to_table("link", columns=columns, records=links)
        told.put(len(links))
        links.clear()

    for number in batches:
        instant = datetime.datetime.fromtimestamp(begin_s + number * step_s, datetime.UTC)
        batch = life.batch(number, instant)
        batch_id, month = batch_id_of(number), instant.date().replace(day=1)
        head = (month, batch_id)
        links += [
            (*head, n, first_xid + number, instant, *row) for n, row in enumerate(batch.links, 1)
        ]
        if len(links) >= _COPY_ROWS:
            await write()
    await write()
    rows = list(_card_rows(life))
    await connection.copy_records_to_table("card_state", columns=CARD_COLUMNS, records=rows)
    await connection.close()
    told.put(None)


def _card_rows(life: Life) -> Iterator[tuple[Any, ...]]:
    decode = msgspec.msgpack.Decoder(CardState).decode
    for card_id, encoded, window in life.rows():
        state = decode(encoded)
        yield (
            *(card_id, state.version, state.batch_id, state.status),
            *(state.ecash.available_minor, state.ecash.held_minor),
            *(state.voucher.available_minor, state.voucher.held_minor),
            *(state.points.available_minor, state.points.held_minor),
            *(encoded, window),
        )


def _write(
    url: str, arguments: argparse.Namespace, begin: datetime.datetime, progress: Progress
) -> float:
    """All batches, by two processes with half of the cards each; the seconds it took."""
    count = -(-arguments.links // BATCH_LINKS)
    first_xid = asyncio.run(_take_xids(url, count))
    now_s = time.time() - 60
    clock = (begin.timestamp(), (now_s - begin.timestamp()) / count)
    half = arguments.cards // 2
    parts = (range(1, half + 1), range(half + 1, arguments.cards + 1))
    told: Any = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(
            target=_make,
            args=(url, part, 2 * arguments.seed + n, range(n, count, 2), first_xid, clock, told),
        )
        for n, part in enumerate(parts)
    ]
    begun = time.perf_counter()
    for process in processes:
        process.start()
    links, ended = 0, 0
    while ended < len(processes):
        made = told.get()
        ended += made is None
        links += made or 0
        progress.tell("links decided and written", links, arguments.links)
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(f"a process ended with {process.exitcode}")
    return time.perf_counter() - begun


async def _take_xids(url: str, count: int) -> int:
    """Use up transaction numbers; the first of them."""
    connection = await asyncpg.connect(url)
    await connection.execute("set synchronous_commit = off")
    first = int(await connection.fetchval("select pg_current_xact_id()")) + 1
    await connection.execute(_TAKE_XIDS.format(count=count + 1))
    await connection.close()
    return first


def _write_thin(
    url: str, arguments: argparse.Namespace, begin: datetime.datetime, progress: Progress
) -> float:
    """Well-formed links that prove nothing, made by Postgres itself; the seconds it took."""

    async def write() -> None:
        links = range(arguments.links)
        await write_thin_links(
            url, links, arguments.cards, begin, progress, all_links=arguments.links
        )
        connection = await asyncpg.connect(url)
        await connection.execute(
            "insert into card_state select card_id, 0, 0, 1, 0, 0, 0, 0, 0, 0, $1, '' from card",
            EMPTY_STATE,
        )
        await connection.close()

    begun = time.perf_counter()
    asyncio.run(write())
    return time.perf_counter() - begun


async def _project(url: str, key: MasterKey, links: int, progress: Progress) -> float:
    """What the projector makes of it: projections and digests; the seconds it took."""
    sealer = Sealer(key)
    async with bridge():
        connection = await Connection.open(url, timeout_s=10)
        await connection.script("vacuum analyze link")
        await connection.close()
        own = await JournalConnection.open(url, timeout_s=10)
        unit = await reader(own)
        begun = time.perf_counter()
        done = 0
        while taken := await step(unit, sealer):
            done += taken
            progress.tell("links projected", done, links)
        took_s = time.perf_counter() - begun
        await own.close()
    return took_s


def main() -> int:
    """Make the journal; print what was made and how fast, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.journal")
    parser.add_argument("--links", type=int, default=1_000_000)
    parser.add_argument("--cards", type=int, default=20_000)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--months", type=int, default=6, help="how far back it begins")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--thin", action="store_true", help="links that prove nothing; see above")
    parser.add_argument("--serve", action="store_true", help="keep the server up until SIGINT")
    arguments = parser.parse_args()
    if arguments.links < BATCH_LINKS or arguments.cards < 2:
        parser.error(f"at least {BATCH_LINKS} links and 2 cards")
    key_file = arguments.data / "master.key"
    stores = EmbeddedStores(arguments.data, redis=False)
    stores.start()
    try:
        url = stores.postgres_url
        if not key_file.exists():
            key_file.touch(mode=0o600)
            key_file.write_text(secrets.token_bytes(32).hex())
        now = datetime.datetime.now(datetime.UTC)
        progress = Progress()
        begin = now - datetime.timedelta(days=30 * arguments.months)
        trio.run(_prepare, url, arguments, begin)
        write = _write_thin if arguments.thin else _write
        made: dict[str, Any] = {"written_s": write(url, arguments, begin, progress)}
        if not arguments.thin:
            key = MasterKey.load(key_file)
            made["projected_s"] = trio.run(_project, url, key, arguments.links, progress)
        progress.clear()
        made = {name: round(seconds, 1) for name, seconds in made.items()}
        for name in tuple(made):
            made[name.replace("_s", "_per_second")] = round(arguments.links / made[name])
        print(json.dumps({"links": arguments.links, "cards": arguments.cards, **made, "url": url}))
        sys.stdout.flush()
        if arguments.serve:
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
    finally:
        stores.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
