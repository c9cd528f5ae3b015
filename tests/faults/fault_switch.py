"""A whole switch to break: four workers, its processes by number, its stores from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import redis

from switch.embedded.process import spawn
from tests.client.demo import Demo
from tests.client.terminal import NoReplyError

__all__ = ["BrokenSwitch", "eventually", "sql"]

WORKERS = 4
_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


def eventually(what: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """What it returns once that is true; fails when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < deadline, f"did not happen in {timeout_s:.0f} s"
        time.sleep(0.02)


def sql(url: str, *statements: str) -> list[Any]:
    """Run statements with the owner's rights; the rows of the last."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            rows: list[Any] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    return asyncio.run(run())


class BrokenSwitch(Demo):
    """`cardswitch up --demo` with four workers; with `options` by way of `fault_up.py`.

    Options: `plan` True lets workers die by plan; `postgres_url`, `redis_url` are stores of the
    test's own, `redis_of` those of single workers. `judged_at`: the database, not through a proxy.
    """

    judged_at: str | None = None

    def __init__(self, directory: Path, **options: object) -> None:
        super().__init__(directory)
        self._options = options
        self.mac_keys: dict[str, list[bytes]] = {}
        """By terminal, those of terminals whose keys were changed."""
        self._starts = 0
        self._adopted = False

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    def start(self) -> None:
        """Start it, or start it again on the same data directory."""
        self._starts += 1
        self.log = self.directory / f"up-{self._starts}.log"
        if self._options:
            document = json.dumps({"workers": WORKERS} | self._options)
            command = [sys.executable, str(_HERE / "fault_up.py"), str(self.data_dir), document]
        else:
            program = Path(sys.executable).parent / "cardswitch"
            command = [str(program), "up", "--demo", "--data", str(self.data_dir)]
            command += ["--workers", str(WORKERS)]
            command += ["--switch-port", "0", "--network-port", "0", "--metrics-port", "0"]
        with self.log.open("wb") as log:  # it ends in good order when this process is gone
            self._process = spawn(
                command,
                death_signal=signal.SIGTERM,
                stdout=log,
                stderr=subprocess.STDOUT,
                environment={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(_ROOT)},
            )
        try:
            self._wait_until_ready()
            self.refresh()
        except BaseException:
            self.kill()
            raise

    def refresh(self) -> None:
        """demo.json as it is now: process numbers change with every death."""
        self.adopt(json.loads((self.data_dir / "demo.json").read_text()))

    def adopt(self, contents: dict[str, Any]) -> None:
        """Cards are handed out once, over all starts on this directory."""
        before = self.cards
        super().adopt(contents)
        if self._adopted:
            self.cards = before
        self._adopted = True

    @property
    def postgres_url(self) -> str:
        return self.judged_at or str(self.json["postgres"])

    def pid(self, name: str) -> int:
        self.refresh()
        return int(self.json["pids"][name])

    @property
    def workers(self) -> list[int]:
        self.refresh()
        return self.worker_pids

    def redis(self) -> redis.Redis:
        """A client of the cache, from outside."""
        return redis.Redis.from_url(str(self.json["redis"]), socket_timeout=5)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Lines of the log of this start that name one of these events."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                with contextlib.suppress(json.JSONDecodeError):
                    document = json.loads(line)
                    if document.get("event") in kinds:
                        found.append(document)
        return found

    def metric(self, name: str) -> float:
        """The sum of a counter over all workers and labels."""
        with urllib.request.urlopen(str(self.json["metrics"]), timeout=5) as response:
            lines = response.read().decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.split("{", 1)[0].split(" ", 1)[0] == name
        )

    def kill_supervisor(self) -> None:
        """SIGKILL; all that it started must be gone before this returns."""
        pids = self._child_pids()
        self.kill()
        eventually(lambda: not any(_lives(pid) for pid in pids))

    def until_whole(self) -> None:
        """Wait until every process runs again and is ready."""

        def whole() -> bool:
            self.refresh()
            if len(self.worker_pids) < WORKERS or not self._all_are_ready():
                return False
            with contextlib.suppress(OSError, NoReplyError), self.pos() as terminal:
                terminal.timeout_s = 2
                return terminal.echo().code == "00"
            return False

        eventually(whole, 60)

    def _all_are_ready(self) -> bool:
        """Whether the last that the log says of each worker is that it is ready."""
        last = {
            event["worker"]: event["event"]
            for event in self.events("worker_died", "worker_ready", "worker_restarted")
        }
        return list(last.values()).count("worker_ready") == WORKERS

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """A process that stands still for the block."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
