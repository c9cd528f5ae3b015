"""What one call to Redis costs from Trio: a native connection against redis-py across the bridge.

`python -m bench.crossing unix:///PATH`: medians of turns taken in alternation, in microseconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import hiredis
import redis.asyncio
import trio
import trio_asyncio

__all__ = ["main"]

_CALLS = 300


async def _ping(stream: trio.SocketStream, reader: hiredis.Reader) -> object:
    """One call as the switch's own connection makes it: hiredis on a Trio socket."""
    await stream.send_all(hiredis.pack_command(("PING",)))
    while (reply := reader.gets()) is False:
        reader.feed(bytes(await stream.receive_some(65_536)))
    return reply


async def _measure(url: str, turns: int) -> None:
    async with trio_asyncio.open_loop():
        bridged = redis.asyncio.Redis.from_url(url)
        native = await trio.open_unix_socket(url.removeprefix("unix://").split("?")[0])
        reader = hiredis.Reader()
        times: dict[str, list[float]] = {"native": [], "bridged": []}
        for _ in range(turns + 1):  # the first turn warms up and is not counted
            for name, taken in times.items():
                begun = time.perf_counter()
                for _ in range(_CALLS):
                    if name == "native":
                        with trio.move_on_after(1):
                            await _ping(native, reader)
                    else:
                        await trio_asyncio.aio_as_trio(bridged.ping)()
                taken.append((time.perf_counter() - begun) / _CALLS * 1e6)
        await trio_asyncio.aio_as_trio(bridged.aclose)()
        await native.aclose()
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
