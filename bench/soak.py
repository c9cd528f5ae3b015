"""`python -m bench.soak`: mixed traffic at an even rate for a long time, sampled every minute.

What only shows with time shows here: memory that grows, checkpoints and vacuum that get in the
way, a projector that falls behind, tables that bloat. Open loop: latencies count from the intended
instants. A minute is one turn of the load generator; between two it builds the next one's messages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from bench.stand import CpuMeter, machine, run_load, switch_running

__all__ = ["main"]

_MEGABYTE = 1 << 20
_LAG = re.compile(r"^cardswitch_projector_lag_links\S* ([0-9.e+]+)$", re.MULTILINE)
_STATE = """
select pg_database_size(current_database()) as database_bytes,
       (select count from checkpoints) as checkpoints,
       (select coalesce(sum(autovacuum_count), 0) from pg_stat_user_tables)::bigint as vacuums,
       (select n_tup_hot_upd::float8 / greatest(n_tup_upd, 1) from pg_stat_user_tables
        where relname = 'card_state') as hot_share,
       (select n_dead_tup from pg_stat_user_tables where relname = 'card_state') as dead_rows
from (select 1) as once
"""
_CHECKPOINTS = {
    True: "select num_timed + num_requested as count from pg_stat_checkpointer",
    False: "select checkpoints_timed + checkpoints_req as count from pg_stat_bgwriter",
}


async def _state(url: str) -> dict[str, Any]:
    """What Postgres has done so far."""
    connection = await asyncpg.connect(url)
    try:
        checkpointer = connection.get_server_version().major >= 17
        text = f"with checkpoints as ({_CHECKPOINTS[checkpointer]}) {_STATE}"
        return dict(await connection.fetchrow(text))
    finally:
        await connection.close()


def _lag(metrics_url: str) -> float:
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:  # noqa: S310 -- our own URL
        page = answer.read().decode()
    return max((float(value) for value in _LAG.findall(page)), default=0)


class Soak:
    """One run."""

    def __init__(self, demo: Path, arguments: argparse.Namespace) -> None:
        self._demo = demo
        self._document = json.loads(demo.read_text())
        self._meter = CpuMeter(demo)
        self._arguments = arguments
        self._stan = 0

    def minute(self) -> dict[str, Any]:
        """A turn of the load, and how everything stands after it."""
        arguments = self._arguments
        frames = round(arguments.rate * arguments.turn_seconds)
        turn = run_load(
            self._demo,
            self._meter,
            scenario="mixed",
            links=arguments.links,
            rate=arguments.rate,
            seconds=arguments.turn_seconds,
            frames=frames,
            first_stan=self._stan % 1_000_000,
        )
        self._stan += frames
        sample = {name: turn[name] for name in ("per_second", "p50_ms", "p99_ms", "max_ms")}
        return sample | {
            "codes": turn["codes"],
            "unanswered": turn["unanswered"],
            "cpu_us": turn["cpu_us"],
            "memory_mb": self._memory(),
            "lag_links": _lag(self._document["metrics"]),
            **asyncio.run(_state(self._document["postgres"])),
        }

    def _memory(self) -> dict[str, float]:
        """Resident memory of each part that is ours, in MB."""
        pids = self._document["pids"]
        parts = {"supervisor": [pids["supervisor"]], "workers": pids["workers"]}
        parts["redis"] = [pids["redis"]]
        used = {name: sum(map(_resident, some)) for name, some in parts.items()}
        children = [
            child.pid
            for pid in pids["workers"]
            for child in psutil.Process(pid).children(recursive=True)
        ]
        used["projector"] = sum(map(_resident, children))
        return {name: round(size / _MEGABYTE, 1) for name, size in used.items()}


def _resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def main() -> int:
    """Soak, print a line per minute, write JSON; 1 where a message stayed without an answer."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--turn-seconds", type=float, default=55)
    parser.add_argument("--rate", type=float, default=3_000, help="messages a second")
    parser.add_argument("--cards", type=int, default=20_000)
    parser.add_argument("--links", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="cardswitch-soak-"))
    result = machine(directory) | {"rate": arguments.rate, "minutes": []}
    samples: list[dict[str, Any]] = result["minutes"]
    try:
        with switch_running(directory, arguments.cards) as demo:
            soak = Soak(demo, arguments)
            begun = time.monotonic()
            while time.monotonic() < begun + arguments.minutes * 60:
                samples.append({"at_s": round(time.monotonic() - begun, 1)} | soak.minute())
                print(json.dumps(samples[-1]), file=sys.stderr, flush=True)
                if arguments.json is not None:
                    arguments.json.write_text(json.dumps(result, indent=1))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for name in ("p50_ms", "p99_ms", "max_ms", "lag_links"):
        values = sorted(sample[name] for sample in samples)
        print(f"{name:12} median {values[len(values) // 2]}, highest {values[-1]}")
    for part, first in samples[0]["memory_mb"].items():
        print(
            f"{part:12} {first} MB after a minute, {samples[-1]['memory_mb'][part]} MB in the end"
        )
    return 1 if any(sample["unanswered"] for sample in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
