"""The switch as one would first write it, to measure the structure against.

One Trio task per message; redis-py's asyncio client and an asyncpg pool of 16 across trio-asyncio;
per message one EVALSHA and one INSERT with its own commit. Codec, MACs and stores are the same as
the switch's, so what differs is the structure alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

import asyncpg
import redis.asyncio
import trio
import trio_asyncio

from fastpath.codec import decode, encode_unsealed, seal
from fastpath.framing import FrameBuffer, Header, pack
from fastpath.mac import MacAlgorithm, MacKey
from fastpath.specs import DE, packagers

__all__ = ["main"]

_START_MINOR = 10_000
_POOL = 16

_RESERVE = """
local left = tonumber(redis.call('GET', KEYS[1]) or ARGV[2])
local amount = tonumber(ARGV[1])
if left < amount then return -1 end
redis.call('SET', KEYS[1], left - amount)
return left - amount
"""

_TABLE = """
drop table if exists naive_link;
create table naive_link (
    id bigint generated always as identity primary key, card text not null, stan text not null,
    amount_minor bigint not null, available_after bigint not null, posted_at timestamptz not null)
"""
_INSERT = """
insert into naive_link (card, stan, amount_minor, available_after, posted_at)
values ($1, $2, $3, $4, $5)
"""


class Naive:
    """The naive server."""

    def __init__(self, demo: dict[str, object], pool: object, client: object) -> None:
        self._packager = packagers()[demo["switch"]["packager"]]
        self._keys = {
            t["id"]: MacKey(MacAlgorithm(t["mac"]), bytes.fromhex(t["mac_key"]))
            for t in demo["terminals"]
        }
        self._pool = pool
        self._script = client.register_script(_RESERVE)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        buffer, lock = FrameBuffer(), trio.Lock()
        async with trio.open_nursery() as nursery:
            async for data in stream:
                for frame in buffer.feed(data):
                    nursery.start_soon(self._answer, stream, lock, frame)

    async def _answer(self, stream: trio.SocketStream, lock: trio.Lock, frame: bytes) -> None:
        message = decode(self._packager, frame)
        key = self._keys[message.get(DE.TERMINAL)]
        if not key.verify(message.raw[: message.mac_covers], message.mac or b""):
            return
        card, amount = message.get(DE.PAN), message.amount(DE.AMOUNT)
        left = await trio_asyncio.aio_as_trio(self._script)(
            keys=[f"naive:{card}"], args=[amount, _START_MINOR]
        )
        now = datetime.datetime.now(datetime.UTC)
        if left >= 0:
            await trio_asyncio.aio_as_trio(self._insert)(
                card, message.get(DE.STAN), amount, left, now
            )
        fields = {de: message.get(de) for de in (2, 3, 4, 11, 12, 13, 41, 42, 49)}
        fields[DE.TRANSMISSION_TIME] = now.strftime("%m%d%H%M%S")
        fields[DE.RRN] = f"{message.get(DE.STAN):0>12}"
        fields[DE.RESPONSE_CODE] = "00" if left >= 0 else "51"
        body = encode_unsealed(self._packager, "0210", fields)
        reply = pack(Header.BINARY2, seal(self._packager, body, key.sign(body)))
        async with lock:
            await stream.send_all(reply)

    async def _insert(self, *row: object) -> None:
        async with self._pool.acquire() as connection:
            await connection.execute(_INSERT, *row)


async def _serve(demo: dict[str, object]) -> None:
    async with trio_asyncio.open_loop():
        pool = await trio_asyncio.aio_as_trio(asyncpg.create_pool)(
            demo["postgres"], min_size=_POOL, max_size=_POOL
        )
        await trio_asyncio.aio_as_trio(pool.execute)(_TABLE)
        connections = redis.asyncio.BlockingConnectionPool.from_url(
            demo["redis"], max_connections=_POOL, timeout=None
        )
        client = redis.asyncio.Redis(connection_pool=connections)
        naive = Naive(demo, pool, client)
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, naive.serve, 0)
            print(listeners[0].socket.getsockname()[1], flush=True)


def main() -> int:
    """`python -m bench.naive DEMO_JSON`: prints its port, then serves until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("demo", type=Path)
    trio.run(_serve, json.loads(parser.parse_args().demo.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
