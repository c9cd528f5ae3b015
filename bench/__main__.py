"""`make bench`: the whole way measured on private stores, against what it has to be measured by.

In one run, in turn (A B A B ...): the switch at full load, the naive structure on the same stores,
and the ceilings of Redis and Postgres. Then, each by itself: one in flight, lock-step terminals,
open loop at rising rates, hot card, hot merchant, declines, mixed traffic, and drops in which
4,000 buyers want one card worth one purchase. Prints one table, writes JSON; `--check` compares the
ratios with what they must not fall below, and says nothing of seconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.ceilings import postgres_ceiling, redis_ceiling
from bench.stand import CpuMeter, machine, naive_running, run_load, switch_running

__all__ = ["main"]

_RATES = (2_000, 5_000, 10_000, 20_000, 30_000)
_BUYERS = 4_000
_FRAMES_PER_SECOND = 40_000
"""How many messages are built for each second of a closed loop: more than can be answered."""
_MIXED_FRAMES_PER_SECOND = 20_000
"""The same of mixed traffic; fewer, since each activation that is built needs a card of its own."""

RATIOS_LEAST = {"switch / naive": 10.0, "switch / Postgres alone": 0.09}
"""What `--check` asks for. Below the medians seen (docs/performance.md) by what machines vary."""


class Bench:
    """One run on one directory."""

    def __init__(self, directory: Path, demo: Path, arguments: argparse.Namespace) -> None:
        self._demo = demo
        self._arguments = arguments
        self._meter = CpuMeter(demo)
        document = json.loads(demo.read_text())
        self._postgres, self._redis = document["postgres"], document["redis"]
        self._stan = 0
        self.result: dict[str, Any] = machine(directory)
        self.rows: list[tuple[str, str]] = []

    def _load(self, name: str, *, frames: int | None = None, **options: object) -> dict[str, Any]:
        """One load; each message of a run has its own trace number, as far as six digits go."""
        seconds = float(str(options.pop("seconds", self._arguments.seconds)))
        frames = frames or round(seconds * _FRAMES_PER_SECOND)
        result = run_load(
            self._demo,
            self._meter,
            seconds=seconds,
            frames=frames,
            first_stan=self._stan % 1_000_000,
            **options,
        )
        self._stan += frames
        if result["unanswered"]:
            raise RuntimeError(f"{name}: {result['unanswered']} messages without an answer")
        print(f"  {name}: {result}", file=sys.stderr, flush=True)
        return result

    def throughput(self) -> None:
        """Switch, naive, ceilings, in turn."""
        arguments = self._arguments
        shape = {"links": arguments.links, "in_flight": arguments.in_flight}
        turns: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("switch", "naive", "redis", "postgres")
        }
        for _ in range(arguments.runs):
            turns["switch"].append(self._load("switch", **shape))
            with naive_running(self._demo) as port:
                naive = run_load(
                    self._demo, port=port, seconds=arguments.seconds, frames=40_000, **shape
                )
            turns["naive"].append(naive)
            turns["redis"].append(redis_ceiling(self._redis, arguments.seconds / 2))
            turns["postgres"].append(postgres_ceiling(self._postgres, arguments.seconds / 2))
        rates = {name: _median(turn, "per_second") for name, turn in turns.items()}
        cpu = [turn["cpu_us"] for turn in turns["switch"]]
        self.result |= {
            "turns": turns,
            "per_second": rates,
            "cpu_us": {part: statistics.median(used[part] for used in cpu) for part in cpu[0]},
            "ratios": {
                "switch / naive": round(rates["switch"] / rates["naive"], 1),
                "switch / Postgres alone": round(rates["switch"] / rates["postgres"], 2),
                "switch / Redis alone": round(rates["switch"] / rates["redis"], 2),
            },
        }
        p50, p99 = _median(turns["switch"], "p50_ms"), _median(turns["switch"], "p99_ms")
        self.rows += [
            ("durable authorizations", f"{rates['switch']:,.0f}/s, p50 {p50} ms, p99 {p99} ms"),
            ("naive structure", f"{rates['naive']:,.0f}/s"),
            ("Redis alone", f"{rates['redis']:,.0f} cards/s"),
            ("Postgres alone", f"{rates['postgres']:,.0f} links/s"),
            *((f"ratio {name}", str(value)) for name, value in self.result["ratios"].items()),
            *((f"CPU of {part}", f"{used} us") for part, used in self.result["cpu_us"].items()),
        ]

    def _several(
        self,
        name: str,
        tell: Callable[[dict[str, Any]], str],
        of_turn: Callable[[int], dict[str, int]] = lambda _turn: {},
        **options: object,
    ) -> None:
        """Turns of one load; the one of median rate stands for them."""
        runs = range(self._arguments.runs)
        turns = [self._load(name, **options, **of_turn(turn)) for turn in runs]
        turns.sort(key=lambda turn: turn["per_second"])
        middle = turns[len(turns) // 2]
        self.result[name] = {"median": middle, "turns": turns}
        self.rows.append((name, tell(middle)))

    def scenarios(self) -> None:
        """Everything that is measured by itself."""
        whole = {"links": self._arguments.links, "in_flight": self._arguments.in_flight}
        self._several("one in flight", _latency, links=1, in_flight=1, frames=20_000)
        self._several("1,000 lock-step terminals", _rate, links=1000, in_flight=1000)
        for name in ("hot-merchant", "hot-card", "decline"):
            self._several(name.replace("-", " "), _rate, scenario=name, **whole)
        frames = round(self._arguments.seconds * _MIXED_FRAMES_PER_SECOND)
        fresh = _fresh_cards(self._arguments.seconds)
        whole |= {"scenario": "mixed", "frames": frames}
        self._several("mixed", _rate, lambda turn: {"fresh_from": turn * fresh}, **whole)

    def open_loop(self) -> None:
        """Latency from the intended instant, at rising rates; stops where it falls far behind."""
        for rate in _RATES:
            name = f"open loop {rate:,}/s"
            seconds = self._arguments.seconds
            frames = round(rate * seconds)
            turns = [
                self._load(name, rate=rate, frames=frames, links=self._arguments.links)
                for _ in range(self._arguments.runs)
            ]
            turns.sort(key=lambda turn: turn["p99_ms"])
            middle = turns[len(turns) // 2]
            self.result[name] = {"median": middle, "turns": turns}
            kept = middle["per_second"] > 0.95 * rate
            self.rows.append((name, _latency(middle) if kept else f"falls behind: {_rate(middle)}"))
            if not kept:
                break

    def drops(self) -> None:
        """4,000 buyers in one second, one card worth one purchase: one winner each time."""
        turns = []
        for number in range(self._arguments.runs):
            turn = self._load(
                "drop", scenario="drop", rate=_BUYERS, seconds=1, frames=_BUYERS, drop=number
            )
            if turn["codes"].get("00", 0) != 1:
                raise RuntimeError(f"a drop with {turn['codes'].get('00', 0)} winners")
            turns.append(turn)
        turns.sort(key=lambda turn: turn["max_ms"])
        middle = turns[len(turns) // 2]
        self.result["drop"] = {"median": middle, "turns": turns}
        self.rows.append((f"{_BUYERS:,} buyers, one winner", f"slowest {middle['max_ms']} ms"))


def _fresh_cards(seconds: float) -> int:
    """Cards that a turn of mixed traffic may activate: one in ten messages, and a few more."""
    return round(seconds * _MIXED_FRAMES_PER_SECOND * 0.11) + 100


def _median(turns: Iterable[dict[str, Any]], name: str) -> float:
    return float(statistics.median(turn[name] for turn in turns))


def _latency(turn: dict[str, Any]) -> str:
    return f"p50 {turn['p50_ms']} ms, p99 {turn['p99_ms']} ms, p99.9 {turn['p999_ms']} ms"


def _rate(turn: dict[str, Any]) -> str:
    return f"{turn['per_second']:,.0f}/s, p50 {turn['p50_ms']} ms, p99 {turn['p99_ms']} ms"


def _check(ratios: dict[str, float]) -> int:
    """0 when no ratio is below what it must be."""
    below = {name: least for name, least in RATIOS_LEAST.items() if ratios[name] < least}
    for name, least in below.items():
        print(f"below its least: {name} is {ratios[name]}, must be {least}")
    return 1 if below else 0


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--runs", type=int, default=5, help="of each, in turn; medians are shown")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--cards", type=int, default=20_000)
    parser.add_argument("--links", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=1024)
    parser.add_argument("--only-throughput", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 where a ratio is too low")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="cardswitch-bench-"))
    try:
        issued = (arguments.runs + 1) * _fresh_cards(arguments.seconds)
        with switch_running(directory, arguments.cards, issued) as demo:
            bench = Bench(directory, demo, arguments)
            bench.throughput()
            if not (arguments.only_throughput or arguments.check):
                bench.drops()
                bench.scenarios()
                bench.open_loop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    shown = ("processor", "cores", "load_before", "python", "fdatasync_64k_ms")
    for name, value in [*((name, str(bench.result[name])) for name in shown), *bench.rows]:
        print(f"{name:32} {value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(bench.result, indent=1))
    return _check(bench.result["ratios"]) if arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
