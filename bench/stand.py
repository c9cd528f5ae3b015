"""What a benchmark stands on: a running switch, the naive structure, probes of the machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

__all__ = ["CpuMeter", "machine", "naive_running", "run_load", "switch_running", "sync_probe_ms"]

_SYNC_PROBES = 200
_LIBRARIES = ("asyncpg", "cryptography", "hiredis", "msgspec", "redis", "trio")


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
    return round(statistics.median(times) * 1000, 3)


def machine(directory: Path) -> dict[str, Any]:
    """What it is measured on, as far as that can be read off."""
    model = ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "machine": platform.machine(),
        "processor": model,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "fdatasync_64k_ms": sync_probe_ms(directory),
    }


@contextlib.contextmanager
def switch_running(directory: Path, cards: int, issued: int | None = None) -> Iterator[Path]:
    """The demo programme on private stores; yields its demo.json.

    `cards` are active, `issued` wait for their activation.
    """
    command = [sys.executable, "-m", "switch", "up", "--demo", f"--demo-cards={cards}"]
    if issued is not None:
        command += [f"--demo-issued={issued}"]
    command += ["--data", str(directory / "data")]
    command += ["--switch-port=0", "--network-port=0", "--metrics-port=0"]
    with (directory / "switch.log").open("wb") as log:
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


def run_load(demo: Path, meter: CpuMeter | None = None, **options: object) -> dict[str, Any]:
    """One measurement by the load generator, with the CPU time of each part where a meter is."""
    command = [sys.executable, "-m", "bench.load", str(demo)]
    for name, value in options.items():
        if value is not None:
            command.append(f"--{name.replace('_', '-')}={value}")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = process.stderr.readline()
        before = meter.read() if meter is not None else {}
        output = process.stdout.read()
        after = meter.read() if meter is not None else {}
    if process.returncode or not ready.startswith("go"):
        raise RuntimeError(f"the load ended with {process.returncode}: {' '.join(command)}")
    result: dict[str, Any] = json.loads(output)
    if meter is not None:
        answered = max(result["answered"], 1)
        result["cpu_us"] = {
            name: round((after[name] - before[name]) / answered * 1e6, 1) for name in before
        }
    return result


class CpuMeter:
    """CPU time used so far by each part of a running switch, in seconds."""

    def __init__(self, demo: Path) -> None:
        self._pids: dict[str, Any] = json.loads(demo.read_text())["pids"]

    def read(self) -> dict[str, float]:
        """By part; the projector is the workers' child and is counted apart."""
        used = {"switch": 0.0, "projector": 0.0, "redis": 0.0, "postgres": 0.0}
        for pid in self._pids["workers"]:
            used["switch"] += _seconds(psutil.Process(pid))
            for child in psutil.Process(pid).children(recursive=True):
                used["projector"] += _seconds(child)
        used["redis"] = _seconds(psutil.Process(self._pids["redis"]))
        postmaster = psutil.Process(self._pids["postgres"])
        for process in (postmaster, *postmaster.children(recursive=True)):
            used["postgres"] += _seconds(process)
        return used


def _seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
