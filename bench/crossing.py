"""What one call to Redis costs from Trio: a native connection against redis-py across the bridge.

`python -m bench.crossing REDIS_URL`: medians of turns taken in alternation, in microseconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import redis.asyncio
import trio
import trio_asyncio

from switch.reservation.connection import RedisConnection

__all__ = ["main"]

_CALLS = 300


async def _measure(url: str, turns: int) -> None:
    async with trio_asyncio.open_loop():
        bridged = redis.asyncio.Redis.from_url(url)
        native = RedisConnection(url)
        times: dict[str, list[float]] = {"native": [], "bridged": []}
        for _ in range(turns + 1):  # the first turn warms up and is not counted
            for name, taken in times.items():
                begun = time.perf_counter()
                for _ in range(_CALLS):
                    if name == "native":
                        await native.call("PING", timeout_s=1)
                    else:
                        await trio_asyncio.aio_as_trio(bridged.ping)()
                taken.append((time.perf_counter() - begun) / _CALLS * 1e6)
        await trio_asyncio.aio_as_trio(bridged.aclose)()
        native.discard()
    medians = {name: statistics.median(taken[1:]) for name, taken in times.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:7.1f} us a call")
    print(f"ratio    {medians['bridged'] / medians['native']:7.1f}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()
    trio.run(_measure, arguments.url, arguments.turns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
