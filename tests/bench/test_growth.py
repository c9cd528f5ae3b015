"""Growth, soak and their pictures, on a small scale: they measure what they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from bench.plots import main as draw
from bench.thin import number_of
from switch.embedded.stores import EmbeddedStores

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@contextlib.contextmanager
def arguments(monkeypatch: pytest.MonkeyPatch, *given: str) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["bench.plots", *given])
        yield


async def counted(url: str) -> dict[str, Any]:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "select (select count(*) from card_state where card_id > 1000000) as cards,"
            " (select count(*) from link where merchant_id = 1 and terminal_id >= 1000000) as thin,"
            " (select count(distinct (card_id, version)) from link where terminal_id >= 1000000)"
            "  as versions,"
            " (select count(*) from link where operation <> 6 or terminal_id < 1000000) as others,"
            " (select bool_and(batch_id < 1::bigint << 40) from link where terminal_id >= 1000000)"
            "  as below_runs"
        )
        return dict(row)
    finally:
        await connection.close()


def test_a_store_grows_and_is_measured_at_each_point(tmp_path: Path) -> None:
    data, figures = tmp_path / "data", tmp_path / "growth.json"
    points = "--points=300:0,2000:60000"
    options = ("--runs=1", "--seconds=0.3", f"--json={figures}")
    table = run("bench.growth", f"--data={data}", points, *options)
    assert len(table.splitlines()) == 3
    result = json.loads(figures.read_text())
    assert [(p["cards"], p["links"]) for p in result["points"]] == [(300, 0), (2000, 60_000)]
    for point in result["points"]:
        full = point["turns"]["full"][0]
        assert full["codes"] == {"00": full["answered"]}
        assert point["per_second"] == full["per_second"] > 0
        assert point["cpu_us"]["switch"] > 0
        assert 0 < point["open_p50_ms"] <= point["open_p99_ms"]
    few, many = result["points"]
    assert many["card_rows_mb"] > few["card_rows_mb"]
    assert many["links_mb"] > few["links_mb"]
    stores = EmbeddedStores(data / "data", redis=False)
    stores.start()
    try:
        found = asyncio.run(counted(stores.postgres_url))
    finally:
        stores.stop()
    others = found.pop("others")
    assert found == {"cards": 2000, "thin": 60_000, "versions": 60_000, "below_runs": True}
    assert others > 0  # what the loads have written
    assert number_of(1_000_001) == "9599000000001000001"


def test_growth_wants_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    done = subprocess.run(
        [sys.executable, "-m", "bench.growth", f"--data={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "is not empty" in done.stderr) == (2, True)


def test_a_soak_samples_every_turn(tmp_path: Path) -> None:
    figures = tmp_path / "soak.json"
    options = ("--minutes=0.02", "--turn-seconds=1", "--rate=300", "--cards=800")
    run("bench.soak", *options, f"--json={figures}")
    result = json.loads(figures.read_text())
    assert result["minutes"]
    for sample in result["minutes"]:
        assert sample["unanswered"] == 0
        assert sum(sample["codes"].values()) == 300
        assert set(sample["memory_mb"]) == {"supervisor", "workers", "redis", "projector"}
        assert all(used > 5 for used in sample["memory_mb"].values())
        assert 0 <= sample["hot_share"] <= 1
        assert sample["database_bytes"] > 1_000_000


POINT = {
    **{"open_p50_ms": 2.0, "open_p99_ms": 5.0, "one_in_flight_p50_ms": 1.0, "per_second": 9000.0},
    **{"token_table_mb": 1, "worker_mb": 40, "redis_mb": 8, "card_rows_mb": 3, "links_mb": 9},
}
MINUTE = {"at_s": 0.0, "p50_ms": 1.0, "p99_ms": 2.0, "lag_links": 3.0, "memory_mb": {"workers": 50}}


def test_pictures_are_drawn_and_the_same_figures_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    growth = {
        "points": [
            POINT | {"cards": cards, "links": links}
            for cards, links in ((10_000, 0), (1_000_000, 0), (1_000_000, 10_000_000))
        ]
    }
    soak = {"rate": 3000.0, "minutes": [MINUTE, MINUTE | {"at_s": 60.0}]}
    turn = {"median": {"p50_ms": 1.0, "p99_ms": 2.0}}
    bench = {"open loop 2,000/s": turn, "open loop 5,000/s": turn, "cpu_us": {"switch": 20.0}}
    for name, result in (("growth", growth), ("soak", soak), ("bench", bench)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    given = [f"--{name}={tmp_path / name}.json" for name in ("growth", "soak", "bench")]
    drawn = []
    for name in ("one", "two"):
        with arguments(monkeypatch, *given, f"--to={tmp_path / name}"):
            assert draw() == 0
        drawn.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {
        *("throughput-by-cards.svg", "latency-by-cards.svg", "memory-by-cards.svg"),
        *("throughput-by-links.svg", "latency-by-links.svg"),
        *("soak-latency.svg", "soak-memory.svg", "soak-lag.svg"),
        *("latency-by-rate.svg", "cpu-by-part.svg"),
    }
    for content in drawn[0].values():
        assert ET.fromstring(content).tag.endswith("svg")
