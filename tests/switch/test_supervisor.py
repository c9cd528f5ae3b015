"""The supervisor as a process of its own, with fake workers; real stores where they matter."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import redis
from store_scratch import eventually, gone, scratch_directory, value

from switch.embedded.stores import EmbeddedStores

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("supervise_fakes.py")
# with these nothing is started but workers, which never look at them
ELSEWHERE = {"postgres_url": "postgresql://owner@elsewhere/x", "redis_url": "redis://elsewhere"}


class Up:
    """One `up` on a data directory."""

    def __init__(self, data_dir: Path, **options: object) -> None:
        self.data_dir = data_dir
        self.errors = data_dir.with_name(f"{data_dir.name}-{time.monotonic_ns()}.err")
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(data_dir), json.dumps(options)],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )

    def ready(self) -> str:
        """Its ready line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("ready"), self.words
        return line

    @property
    def words(self) -> str:
        return self.errors.read_text()

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.words.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == kind]

    @property
    def demo(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.data_dir / "demo.json").read_text())
        return document

    @property
    def pids(self) -> list[int]:
        pids = self.demo["pids"]
        single = [pids[name] for name in ("postgres", "redis") if pids[name] is not None]
        return [*pids["workers"], *single]

    def get(self, page: str) -> tuple[int, str]:
        address = urllib.parse.urlsplit(self.demo["metrics"])
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", page)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def call(self, port: str = "port") -> int:
        """Process number of the worker that takes a call."""
        with socket.create_connection(("127.0.0.1", self.demo["switch"][port]), 5) as link:
            return int(link.makefile().readline())

    def value(self, sql: str) -> Any:
        return value(self.demo["postgres"], sql)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout_s: float = 20) -> int:
        try:
            return self.process.wait(timeout_s)
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with scratch_directory() as path:
        (path / "data").mkdir()
        yield path / "data"


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data directory with the table `kept` in its database, to be copied: initdb takes long."""
    with scratch_directory() as path:
        embedded = EmbeddedStores(path, redis=False)
        embedded.start()
        try:
            value(embedded.postgres_url, "CREATE TABLE kept AS SELECT 42 AS n")
        finally:
            embedded.stop()
        yield path


@pytest.fixture
def with_data(template: Path, data_dir: Path) -> None:
    """The data directory has a database already."""
    shutil.copytree(template, data_dir, dirs_exist_ok=True)


@pytest.fixture
def up(data_dir: Path) -> Iterator[Callable[..., Up]]:
    """Starts supervisors and sees to it that none stays."""
    started: list[Up] = []

    def start(**options: object) -> Up:
        started.append(Up(data_dir, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.wait()


# with real stores


def test_cold_and_warm_start_keep_the_data_and_tell_the_truth(
    up: Callable[..., Up], data_dir: Path
) -> None:
    (data_dir / "demo.json").write_text("old")
    first = up()
    assert eventually(lambda: not (data_dir / "demo.json").exists(), 5)
    line = first.ready()
    demo = first.demo
    path = data_dir / "demo.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert demo["switch"] == {
        "host": "127.0.0.1",
        "port": demo["switch"]["port"],
        "packager": "iso87-binary",
        "network_port": demo["switch"]["network_port"],
        "network_packager": "iso87-ascii",
    }
    assert (demo["web"], demo["users"], demo["currency"]) == (None, [], "978")
    assert demo["terminals"] == [{"id": "00000001"}] and demo["cards"] == []
    assert demo["pids"]["supervisor"] == first.process.pid
    assert str(demo["switch"]["port"]) in line and demo["metrics"] in line
    assert len(demo["pids"]["workers"]) == 2 and len(set(first.pids)) == 4
    assert {first.call("port"), first.call("network_port")} <= set(demo["pids"]["workers"])
    assert "creating the database cluster" in first.words
    first.value("CREATE TABLE kept AS SELECT 42 AS n")
    with redis.Redis.from_url(demo["redis"]) as client:
        assert client.ping()
    pids = first.pids
    assert first.end() == 0
    assert all(gone(pid) for pid in pids)
    assert (data_dir / "drained-0").exists() and (data_dir / "drained-1").exists()

    second = up()
    second.ready()
    assert "creating the database cluster" not in second.words
    assert second.value("SELECT n FROM kept") == 42
    assert second.demo["postgres"] == demo["postgres"]
    assert second.end(signal.SIGINT) == 0


@pytest.mark.usefixtures("with_data")
def test_nothing_outlives_a_killed_supervisor(up: Callable[..., Up]) -> None:
    first = up()
    first.ready()
    first.value("INSERT INTO kept SELECT 1 FROM generate_series(1, 99)")
    pids = first.pids
    children = psutil.Process(first.demo["pids"]["postgres"]).children(recursive=True)
    assert children
    first.end(signal.SIGKILL)
    assert eventually(
        lambda: all(gone(pid) for pid in [*pids, *(child.pid for child in children)]), 5
    )
    second = up()
    second.ready()
    assert second.value("SELECT count(*) FROM kept") == 100
    assert second.end() == 0


@pytest.mark.usefixtures("with_data")
def test_a_start_right_after_everything_was_killed_finds_its_data(up: Callable[..., Up]) -> None:
    first = up(workers=1)
    first.ready()
    first.value("INSERT INTO kept SELECT 1 FROM generate_series(1, 99)")
    demo = first.demo
    for pid in [first.process.pid, *first.pids]:
        os.kill(pid, signal.SIGKILL)
    first.wait()
    second = up(
        workers=1,
        switch_port=demo["switch"]["port"],
        network_port=demo["switch"]["network_port"],
    )
    second.ready()
    assert second.value("SELECT count(*) FROM kept") == 100
    assert second.end() == 0


@pytest.mark.usefixtures("with_data")
def test_killed_stores_come_back(up: Callable[..., Up]) -> None:
    one = up()
    one.ready()
    before = one.demo["pids"]
    for name in ("postgres", "redis"):
        os.kill(before[name], signal.SIGKILL)

    def back() -> bool:
        pids = one.demo["pids"]
        return all(
            pids[name] not in (None, before[name]) and not gone(pids[name])
            for name in ("postgres", "redis")
        )

    assert eventually(back, 5)
    assert one.demo["pids"]["workers"] == before["workers"]

    def answers() -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError, redis.RedisError):
            assert one.value("SELECT n FROM kept") == 42
            with redis.Redis.from_url(one.demo["redis"]) as client:
                return bool(client.ping())
        return False

    assert eventually(answers, 5)
    _, page = one.get("/metrics")
    assert 'cardswitch_restarts_total{what="postgres"} 1.0' in page
    assert 'cardswitch_restarts_total{what="redis"} 1.0' in page
    assert 'cardswitch_restarts_total{what="worker-0"} 0.0' in page
    restarted = one.events("store_restarted")
    assert {event["store"] for event in restarted} == {"postgres", "redis"}
    assert all(event["exit"] == -signal.SIGKILL for event in restarted)
    assert one.end() == 0


# workers


def test_a_killed_worker_comes_back_and_the_other_stays(up: Callable[..., Up]) -> None:
    one = up(**ELSEWHERE)
    one.ready()
    killed, other = one.demo["pids"]["workers"]
    assert one.demo["pids"]["postgres"] is None and one.demo["redis"] == ELSEWHERE["redis_url"]
    os.kill(killed, signal.SIGKILL)
    assert eventually(lambda: len(one.events("worker_ready")) == 3, 5)
    assert eventually(lambda: len(one.demo["pids"]["workers"]) == 2, 1)
    new, same = one.demo["pids"]["workers"]
    assert same == other and new != killed and not gone(new)
    assert eventually(lambda: one.call() == new, 5)
    (death,) = one.events("worker_died")
    assert (death["worker"], death["exit"]) == (0, -signal.SIGKILL)
    assert one.events("worker_restarted")[0]["pid"] == new
    assert 'cardswitch_restarts_total{what="worker-0"} 1.0' in one.get("/metrics")[1]
    assert one.end() == 0


def test_the_ports_stay_ours_while_no_worker_lives(up: Callable[..., Up], data_dir: Path) -> None:
    one = up(workers=1, **ELSEWHERE)
    one.ready()
    ports = [one.demo["switch"][name] for name in ("port", "network_port")]
    (data_dir / "die").touch()
    os.kill(one.demo["pids"]["workers"][0], signal.SIGKILL)
    assert eventually(lambda: len(one.events("worker_died")) >= 3, 5)
    for port in ports:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
    assert one.get("/healthz")[0] == 503
    (data_dir / "die").unlink()
    assert eventually(lambda: len(one.events("worker_ready")) == 2, 5)
    assert eventually(lambda: one.get("/readyz")[0] == 200, 2)
    assert one.call() == one.demo["pids"]["workers"][0]
    times = [event["time"] for event in one.events("worker_died")]
    assert times == sorted(times)
    assert one.end() == 0


def test_workers_get_their_settings_in_a_private_file(
    up: Callable[..., Up], data_dir: Path
) -> None:
    one = up(workers=1, **ELSEWHERE)
    one.ready()
    path = data_dir / "run" / "worker-0.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings = json.loads(path.read_text())
    assert settings == {
        "index": 0,
        "workers": 1,
        "host": "127.0.0.1",
        "switch_port": one.demo["switch"]["port"],
        "network_port": one.demo["switch"]["network_port"],
        "data_dir": str(data_dir),
        "metrics_socket": settings["metrics_socket"],
        **ELSEWHERE,
    }
    assert one.end() == 0
    assert not path.exists() and not Path(settings["metrics_socket"]).exists()


def test_workers_that_never_start_end_it(up: Callable[..., Up], data_dir: Path) -> None:
    (data_dir / "die").touch()
    one = up(**ELSEWHERE)
    assert one.wait() == 1
    assert "does not start (exit code 3)" in one.words
    assert not (data_dir / "demo.json").exists()


def test_no_demo_no_demo_file(up: Callable[..., Up], data_dir: Path) -> None:
    one = up(demo=False, workers=1, **ELSEWHERE)
    one.ready()
    assert not (data_dir / "demo.json").exists()
    assert one.end() == 0


# stopping


def test_a_worker_that_does_not_drain_is_killed_in_time(
    up: Callable[..., Up], data_dir: Path
) -> None:
    (data_dir / "stubborn").touch()
    one = up(drain_timeout_s=0.5, **ELSEWHERE)
    one.ready()
    pids = one.pids
    begun = time.monotonic()
    assert one.end() == 0
    assert 0.4 < time.monotonic() - begun < 4
    assert all(gone(pid) for pid in pids)
    assert len(one.events("worker_killed")) == 2


def test_a_second_signal_hastens(up: Callable[..., Up], data_dir: Path) -> None:
    (data_dir / "stubborn").touch()
    one = up(drain_timeout_s=60, workers=1, **ELSEWHERE)
    one.ready()
    pids = one.pids
    one.process.send_signal(signal.SIGTERM)
    assert eventually(lambda: "stopping" in one.get("/readyz")[1], 3)
    assert one.process.poll() is None and not gone(pids[0])
    begun = time.monotonic()
    assert one.end() == 0
    assert time.monotonic() - begun < 4
    assert all(gone(pid) for pid in pids)


def test_a_stop_while_it_prepares_is_a_stop(up: Callable[..., Up], data_dir: Path) -> None:
    (data_dir / "prepare-takes-long").touch()
    one = up(postgres_url=ELSEWHERE["postgres_url"])
    assert eventually(lambda: "preparing" in one.words, 10)
    (server,) = [
        child.pid
        for child in psutil.Process(one.process.pid).children()
        if "server" in child.name()
    ]
    begun = time.monotonic()
    assert one.end() == 0
    assert time.monotonic() - begun < 4
    assert gone(server)


def test_a_failed_preparation_is_told(up: Callable[..., Up], data_dir: Path) -> None:
    (data_dir / "prepare-fails").touch()
    one = up(**ELSEWHERE)
    assert one.wait() == 1
    assert "no programme today" in one.words


# wrong use


def test_a_second_one_on_the_same_directory_is_refused(
    up: Callable[..., Up], data_dir: Path
) -> None:
    one = up(workers=1, **ELSEWHERE)
    one.ready()
    second = up(workers=1, **ELSEWHERE)
    assert second.wait() == 2
    assert str(one.process.pid) in second.words and "in use" in second.words
    assert one.call() == one.demo["pids"]["workers"][0]
    assert one.end() == 0


@pytest.mark.parametrize("which", ["switch", "network", "metrics"])
def test_a_port_of_somebody_else_is_refused(up: Callable[..., Up], which: str) -> None:
    with socket.socket() as theirs:
        # even one that would share it, as another switch's workers would
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        port = theirs.getsockname()[1]
        one = up(**ELSEWHERE, **{f"{which}_port": port})
        assert one.wait() == 2
    assert f"the {which} port 127.0.0.1:{port} is in use" in one.words


def test_an_impossible_host_is_told(up: Callable[..., Up]) -> None:
    one = up(**ELSEWHERE, host="203.0.113.7")
    assert one.wait() == 2
    assert "cannot be used" in one.words


def test_the_same_ports_serve_again_at_once(up: Callable[..., Up]) -> None:
    first = up(workers=1, **ELSEWHERE)
    first.ready()
    demo = first.demo
    for _ in range(3):
        first.call()
    first.get("/healthz")
    assert first.end() == 0
    ports = {
        "switch_port": demo["switch"]["port"],
        "network_port": demo["switch"]["network_port"],
        "metrics_port": urllib.parse.urlsplit(demo["metrics"]).port,
    }
    second = up(workers=1, **ELSEWHERE, **ports)
    second.ready()
    assert second.demo["switch"] == demo["switch"] and second.demo["metrics"] == demo["metrics"]
    assert second.call() == second.demo["pids"]["workers"][0]
    assert second.end() == 0


# figures and health


def test_figures_of_all_workers_are_on_one_page(up: Callable[..., Up], data_dir: Path) -> None:
    one = up(**ELSEWHERE)
    one.ready()
    status, page = one.get("/metrics")
    first, second = one.demo["pids"]["workers"]
    assert status == 200
    for worker, pid in (("0", first), ("1", second)):
        line = f'cardswitch_messages_total{{link="pos",worker="{worker}"}} {float(pid)}'
        assert line in page.splitlines()
        assert f'cardswitch_answer_seconds_bucket{{le="+Inf",worker="{worker}"}} 4.0' in page
        assert f'cardswitch_worker_up{{worker="{worker}"}} 1.0' in page
    assert page.count("# TYPE cardswitch_messages_total counter") == 1
    assert (one.get("/healthz"), one.get("/readyz?x")) == ((200, "ok\n"), (200, "ok\n"))
    assert one.get("/else")[0] == 404

    (data_dir / "broken-page").touch()
    status, page = one.get("/metrics")
    assert status == 200 and 'cardswitch_worker_up{worker="0"} 0.0' in page
    assert "cardswitch_messages_total" not in page

    (data_dir / "unready").touch()
    status, text = one.get("/readyz")
    assert status == 503 and "worker 1: postgres: no answer" in text
    assert one.get("/healthz")[0] == 200
    assert one.end() == 0


def test_a_worker_that_hangs_is_told_and_delays_nobody(up: Callable[..., Up]) -> None:
    one = up(**ELSEWHERE)
    one.ready()
    hung, pid = one.demo["pids"]["workers"]
    os.kill(hung, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        status, page = one.get("/metrics")
        assert time.monotonic() - begun < 4
        assert status == 200
        assert 'cardswitch_worker_up{worker="0"} 0.0' in page
        assert f'cardswitch_messages_total{{link="pos",worker="1"}} {float(pid)}' in page
        status, text = one.get("/healthz")
        assert (status, text) == (503, "worker 0: no answer in time\n")
    finally:
        os.kill(hung, signal.SIGCONT)
    assert one.end() == 0
