"""`python -m bench.growth`: does it stay as fast when there are many cards and much history?

    python -m bench.growth --data DIR [--points 10000:0,1000000:0,10000000:50000000] [--json FILE]

A point is a number of cards and a number of links. At each, in rising order on the same private
stores, the program is started anew and measured: the load draws its cards from all there are, so
that rows, indexes and the token table are as cold as they would be. `python -m bench.plots` draws
the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import psutil

from bench.stand import CpuMeter, machine, run_load, switch_running
from bench.thin import BALANCE_MINOR, EXPIRY, fill_cards, number_of, write_thin_links
from fastpath.tokens import TokenKey
from switch.embedded.stores import EmbeddedStores
from switch.keys import KeyUsage, MasterKey
from switch.progress import Progress

__all__ = ["main"]

_POINTS = "10000:0,1000000:0,10000000:0,10000000:10000000,10000000:50000000"
_FIRST_CARD = 1_000_001  # behind all that the demo programme makes
_DEMO_CARDS = 100
_DRAWN = 200_000
"""From how many cards, of all there are, a measurement draws."""
_HISTORY_DAYS = 60
_RATE = 2_000
_FRAMES_PER_SECOND = 40_000
_MEGABYTE = 1 << 20
_SIZES = """
with size as (
    select relname, pg_total_relation_size(oid) as bytes from pg_class
    where relkind = 'r' and relnamespace = 'public'::regnamespace
)
select coalesce(sum(bytes) filter (where relname in ('card', 'card_state')), 0)::bigint as cards,
       coalesce(sum(bytes) filter (where relname like 'link\\_%'), 0)::bigint as links
from size
"""


class Point(NamedTuple):
    """How much there is."""

    cards: int
    links: int

    @classmethod
    def read(cls, text: str) -> Point:
        """From `cards:links`. ValueError where it is something else."""
        cards, links = (int(part) for part in text.split(":"))
        return cls(cards, links)


class Growth:
    """One data directory that grows."""

    def __init__(self, directory: Path, arguments: argparse.Namespace) -> None:
        self._directory = directory
        self._arguments = arguments
        self._progress = Progress()
        self._made = Point(0, 0)
        self._stan = 0
        self._end = max(point.links for point in arguments.points)

    async def _grow(self, url: str, to: Point) -> None:
        connection = await asyncpg.connect(url)
        block = await connection.fetchval("select block from programme_key where usage = 'token'")
        await connection.close()
        master_key = MasterKey.load(self._directory / "data" / "master.key")
        key = TokenKey(master_key.unwrap(block, KeyUsage.TOKEN))
        first = _FIRST_CARD + self._made.cards
        await fill_cards(url, key, first, _FIRST_CARD + to.cards - 1, self._progress)
        if to.links > self._made.links:
            begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=_HISTORY_DAYS)
            links = range(self._made.links, to.links)
            await write_thin_links(url, links, to.cards, begin, self._progress, all_links=self._end)
        connection = await asyncpg.connect(url)
        self._progress.tell("vacuum")
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
        await connection.close()
        self._made = to

    def point(self, to: Point) -> dict[str, Any]:
        """Grow to this point, and measure there."""
        stores = EmbeddedStores(self._directory / "data", redis=False)
        stores.start()
        try:
            asyncio.run(self._grow(stores.postgres_url, to))
        finally:
            stores.stop()
            self._progress.clear()
        begun = time.perf_counter()
        with switch_running(self._directory, _DEMO_CARDS) as demo:
            figures: dict[str, Any] = {"cards": to.cards, "links": to.links}
            figures["up_s"] = round(time.perf_counter() - begun, 2)
            figures |= self._loads(demo, to)
            figures |= self._sizes(demo)
        print(f"  {to}: {figures}", file=sys.stderr, flush=True)
        return figures

    def _loads(self, demo: Path, at: Point) -> dict[str, Any]:
        drawn = demo.with_name("growth.json")
        drawn.write_text(json.dumps(_with_cards(json.loads(demo.read_text()), at.cards)))
        meter, arguments = CpuMeter(demo), self._arguments
        seconds, frames = arguments.seconds, round(arguments.seconds * _FRAMES_PER_SECOND)
        shape = {"links": 8, "in_flight": 1024, "seconds": seconds, "frames": frames}
        loads = {
            "full": shape,
            "one": shape | {"links": 1, "in_flight": 1, "frames": round(seconds * 2_000)},
            "open": {
                "links": 8,
                "rate": _RATE,
                "seconds": seconds,
                "frames": round(_RATE * seconds),
            },
        }
        run_load(drawn, **shape, first_stan=self._next_stan(frames))  # connections, plans, caches
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in loads}
        for _ in range(arguments.runs):
            for name, options in loads.items():
                first = self._next_stan(int(options["frames"]))
                turn = run_load(drawn, meter, first_stan=first, **options)
                if turn["unanswered"] or set(turn["codes"]) != {"00"}:
                    raise RuntimeError(f"{name}: {turn}")
                turns[name].append(turn)
        return {
            "per_second": _median(turns["full"], "per_second"),
            "cpu_us": {
                part: statistics.median(turn["cpu_us"][part] for turn in turns["full"])
                for part in turns["full"][0]["cpu_us"]
            },
            "one_in_flight_p50_ms": _median(turns["one"], "p50_ms"),
            "open_p50_ms": _median(turns["open"], "p50_ms"),
            "open_p99_ms": _median(turns["open"], "p99_ms"),
            "turns": turns,
        }

    def _next_stan(self, frames: int) -> int:
        first = self._stan % 1_000_000
        self._stan += frames
        return first

    def _sizes(self, demo: Path) -> dict[str, Any]:
        document = json.loads(demo.read_text())
        pids = document["pids"]
        workers = [psutil.Process(pid) for pid in pids["workers"]]
        sizes = asyncio.run(_sizes(document["postgres"]))
        return {
            "worker_mb": max(_private_mb(process) for process in workers),
            "redis_mb": _private_mb(psutil.Process(pids["redis"])),
            "token_table_mb": _mb((self._directory / "data" / "tokens.tab").stat().st_size),
            "card_rows_mb": _mb(sizes["cards"]),
            "links_mb": _mb(sizes["links"]),
        }


async def _sizes(url: str) -> dict[str, int]:
    connection = await asyncpg.connect(url)
    try:
        return dict(await connection.fetchrow(_SIZES))
    finally:
        await connection.close()


def _with_cards(demo: dict[str, Any], cards: int) -> dict[str, Any]:
    """The demo's document with cards drawn from all that were made."""
    luck = random.Random(cards)
    ids = luck.sample(range(_FIRST_CARD, _FIRST_CARD + cards), min(cards, _DRAWN))
    demo["cards"] = [
        {
            "pan": number_of(card_id),
            "expiry": EXPIRY,
            "status": "active",
            "balance": BALANCE_MINOR,
        }
        for card_id in ids
    ]
    return demo


def _median(turns: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(turn[name] for turn in turns))


def _private_mb(process: psutil.Process) -> float:
    """Memory that would be free without this process: what it shares with others is not its own."""
    return _mb(process.memory_full_info().uss)


def _mb(size: int) -> float:
    return round(size / _MEGABYTE, 1)


def _points(text: str) -> list[Point]:
    points = [Point.read(part) for part in text.split(",")]
    if points != sorted(points, key=lambda point: (point.cards, point.links)):
        raise argparse.ArgumentTypeError("points rise")
    return points


def main() -> int:
    """Grow and measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="an empty one")
    parser.add_argument("--points", type=_points, default=_points(_POINTS))
    parser.add_argument("--runs", type=int, default=3, help="of each load; medians are shown")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    arguments.data.mkdir(parents=True, exist_ok=True)
    if any(arguments.data.iterdir()):
        parser.error(f"{arguments.data} is not empty")
    result = machine(arguments.data)
    with switch_running(arguments.data, _DEMO_CARDS):
        pass  # the programme is made
    growth = Growth(arguments.data, arguments)
    result["points"] = []
    for point in arguments.points:
        result["points"].append(growth.point(point))
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(result, indent=1))
    columns = (
        *("cards", "links", "per_second", "one_in_flight_p50_ms", "open_p50_ms", "open_p99_ms"),
        *("up_s", "worker_mb", "redis_mb", "token_table_mb", "card_rows_mb", "links_mb"),
    )
    print(" | ".join(columns))
    for figures in result["points"]:
        print(" | ".join(f"{figures[column]:,}" for column in columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
