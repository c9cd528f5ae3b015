"""How fast the stores are by themselves, on the very stores that the switch uses, in the same run.

Redis: one function call per 256 cards that reads and writes a state of the usual size each, and
nothing else. Postgres: one commit per 256 rows by COPY into a table as wide as a link with its
posting, beside an UPDATE of 256 rows as wide as a card's; two connections. No guard, no index but
the keys, no decision: what is left between this and the switch is what the switch is for.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from typing import Any

import asyncpg
import redis

__all__ = ["postgres_ceiling", "redis_ceiling"]

_BATCH = 256
_CARDS = 20_000
_STATE = 300
"""Bytes of a card's state with its window and seal."""
_BODY = 260
"""Bytes of a link's body."""

_LIBRARY = """#!lua name=benchceiling
redis.register_function('benchceiling_swap', function(keys, args)
  local states = redis.call('MGET', unpack(keys))
  local pairs_ = {}
  for i = 1, #keys do pairs_[2 * i - 1] = keys[i]; pairs_[2 * i] = args[1] end
  redis.call('MSET', unpack(pairs_))
  return states
end)
"""

_TABLES = """
drop table if exists bench_card, bench_link;
create table bench_card (card_id bigint primary key, version int not null, a bigint not null,
    b bigint not null, state bytea not null) with (fillfactor = 50);
create table bench_link (batch_id bigint, n smallint, card_id bigint not null, version int not null,
    key bytea not null, amount bigint not null, after bigint not null, tx char(12) not null,
    posted_at timestamptz not null default now(), body bytea not null,
    postings bigint[] not null, primary key (batch_id, n));
"""


def redis_ceiling(url: str, seconds: float) -> dict[str, float]:
    """Cards a second through one function call per 256, and Redis' CPU time per card."""
    client = redis.Redis.from_url(url)
    client.function_load(_LIBRARY, replace=True)
    keys = [f"{{bench}}{number}" for number in range(_CARDS)]
    state = os.urandom(_STATE)
    rng = random.Random(1)
    batches = [rng.sample(keys, _BATCH) for _ in range(64)]
    before = client.info("cpu")
    begun, done = time.perf_counter(), 0
    while time.perf_counter() < begun + seconds:
        client.fcall("benchceiling_swap", _BATCH, *batches[done % 64], state)
        done += 1
    took_s = time.perf_counter() - begun
    after = client.info("cpu")
    used_s = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    client.delete(*keys)
    client.function_delete("benchceiling")
    client.close()
    return {
        "per_second": round(done * _BATCH / took_s, 1),
        "redis_us": round(used_s / (done * _BATCH) * 1e6, 2),
    }


async def _append(url: str, seconds: float, offset: int, counts: list[int]) -> None:
    connection = await asyncpg.connect(url)
    rng = random.Random(offset)
    mine = range(offset, _CARDS, 2)
    state, body, key = os.urandom(_STATE), os.urandom(_BODY), os.urandom(16)
    until = time.perf_counter() + seconds
    for number in itertools.count(offset, 2):
        if time.perf_counter() > until:
            break
        cards = sorted(rng.sample(mine, _BATCH))
        links = [
            (number, n, card, number, key, 1, 1, "000000000000", body, [1, card, 2, 1, 1, 978])
            for n, card in enumerate(cards)
        ]
        async with connection.transaction():
            await connection.execute(
                "update bench_card set version = version + 1, a = a - 1, state = $2"
                " where card_id = any($1::bigint[])",
                cards,
                state,
            )
            columns = ["batch_id", "n", "card_id", "version", "key", "amount", "after", "tx"]
            await connection.copy_records_to_table(
                "bench_link", columns=[*columns, "body", "postings"], records=links
            )
        counts[0] += _BATCH
    await connection.close()


async def _postgres(url: str, seconds: float) -> dict[str, Any]:
    connection = await asyncpg.connect(url)
    await connection.execute(_TABLES)
    await connection.copy_records_to_table(
        "bench_card", records=[(card, 0, 0, 0, os.urandom(_STATE)) for card in range(_CARDS)]
    )
    counts = [0]
    begun = time.perf_counter()
    await asyncio.gather(*(_append(url, seconds, offset, counts) for offset in (0, 1)))
    took_s = time.perf_counter() - begun
    await connection.execute("drop table bench_card, bench_link")
    await connection.close()
    return {"per_second": round(counts[0] / took_s, 1)}


def postgres_ceiling(url: str, seconds: float) -> dict[str, Any]:
    """Durable rows a second: a card's row, and a link with its posting, 256 to a commit."""
    return asyncio.run(_postgres(url, seconds))
