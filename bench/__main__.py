"""`make bench`: durable authorizations per second, against the naive structure in the same run.

Starts the demo programme on private stores in a new directory, loads it from a process of its own,
loads the naive structure on the same stores in turn (A B A B ...), and prints medians and ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["main"]

_START_TIMEOUT_S = 180
_SYNC_PROBES = 200


def sync_probe_ms(directory: Path) -> float:
    """Median time of one fdatasync of 64 kB in this directory, in milliseconds."""
    times = []
    with (directory / "probe").open("wb") as file:
        for _ in range(_SYNC_PROBES):
            file.write(os.urandom(65_536))
            file.flush()
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    (directory / "probe").unlink()
    return statistics.median(times) * 1000


@contextlib.contextmanager
def switch_running(directory: Path, cards: int) -> Iterator[Path]:
    """The demo programme on private stores; yields its demo.json."""
    command = [sys.executable, "-m", "switch", "up", "--demo", "--demo-cards", str(cards)]
    command += ["--data", str(directory / "data")]
    command += ["--switch-port=0", "--network-port=0", "--metrics-port=0"]
    log = (directory / "switch.log").open("wb")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith(b"ready"):
            raise RuntimeError((directory / "switch.log").read_text()[-2000:])
        yield directory / "data" / "demo.json"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextlib.contextmanager
def naive_running(demo: Path) -> Iterator[int]:
    """The naive structure on the same stores; yields its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.naive", str(demo)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def load(
    demo: Path, *, in_flight: int, links: int, seconds: float, **more: int
) -> dict[str, object]:
    """One measurement by the load generator."""
    command = [sys.executable, "-m", "bench.load", str(demo)]
    command += [f"--in-flight={in_flight}", f"--links={links}", f"--seconds={seconds}"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in more.items()]
    output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    result: dict[str, object] = json.loads(output.stdout)
    return result


def cpu_seconds(pids: dict[str, object]) -> dict[str, float]:
    """CPU time used so far by switch, Redis and Postgres, each with its children."""

    def used(pid: int) -> float:
        process = psutil.Process(pid)
        total = 0.0
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
        return total

    return {
        "switch": sum(used(pid) for pid in pids["workers"]),
        "redis": used(pids["redis"]),
        "postgres": used(pids["postgres"]),
    }


def main() -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--runs", type=int, default=5, help="of each, in turn; medians are shown")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--cards", type=int, default=20_000)
    parser.add_argument("--links", type=int, default=8)
    parser.add_argument("--in-flight", type=int, default=1024)
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="cardswitch-bench-"))
    shape = {"links": arguments.links, "in_flight": arguments.in_flight}
    ours, naive, spent = [], [], []
    try:
        probe_ms = sync_probe_ms(directory)
        with switch_running(directory, arguments.cards) as demo:
            for turn in range(arguments.runs):
                stan = turn * 200_000 % 1_000_000
                pids = json.loads(demo.read_text())["pids"]
                before = cpu_seconds(pids)
                result = load(demo, seconds=arguments.seconds, first_stan=stan, **shape)
                after = cpu_seconds(pids)
                ours.append(result)
                answered = result["answered"]
                spent.append({k: (after[k] - before[k]) / answered * 1e6 for k in before})
                print(f"switch  {result}", flush=True)
                with naive_running(demo) as port:
                    result = load(
                        demo, seconds=arguments.seconds, port=port, frames=40_000, **shape
                    )
                naive.append(result)
                print(f"naive   {result}", flush=True)
            one = load(demo, in_flight=1, links=1, seconds=3, frames=10_000, first_stan=777_000)
            print(f"1 in flight {one}", flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    summary = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "fdatasync_64k_ms": round(probe_ms, 3),
        "switch_per_second": statistics.median(r["per_second"] for r in ours),
        "switch_p50_ms": statistics.median(r["p50_ms"] for r in ours),
        "switch_p99_ms": statistics.median(r["p99_ms"] for r in ours),
        "naive_per_second": statistics.median(r["per_second"] for r in naive),
        "one_in_flight_p50_ms": one["p50_ms"],
        "cpu_us": {k: round(statistics.median(s[k] for s in spent), 1) for k in spent[0]},
    }
    summary["ratio"] = round(summary["switch_per_second"] / summary["naive_per_second"], 1)
    print(json.dumps(summary, indent=1))
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({"summary": summary, "switch": ours, "naive": naive}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
