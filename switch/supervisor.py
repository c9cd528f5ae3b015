"""One supervisor starts stores and workers, and starts again what dies.

Plain synchronous Python in the main thread: its children are bound to the life of that thread, so
nothing it started outlives it, not even after SIGKILL. What has died is noticed at once (SIGCHLD)
and started again at once, later only when it keeps dying young.

Exit codes: 0 asked to stop, 1 could not start, 2 wrong use (data directory or port in use, no
store programs found).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from switch.embedded.locate import StoreNotFound
from switch.embedded.stores import DataDirBusy, EmbeddedStores, StoreFailed
from switch.supervised_metrics import Board, MetricsServer
from switch.supervised_signals import StartInterrupted, StopSignals
from switch.supervised_workers import PortTaken, Worker, reserve_port

__all__ = ["CannotPrepare", "Prepare", "SupervisorOptions", "supervise"]

_TURN_S = 0.1
_READY_TIMEOUT_S = 60.0
_DEATHS_AT_START = 3
_ANY_HOST = {"", "0.0.0.0", "::"}  # noqa: S104 - compared, not bound


@dataclass(frozen=True)
class SupervisorOptions:
    """What `cardswitch up` was told. Ports: 0 is any free one; URLs: None starts a private store.

    `drain_timeout_s`: how long workers may take to finish what they have when asked to stop.
    """

    data_dir: Path
    host: str
    switch_port: int
    network_port: int
    metrics_port: int
    workers: int
    postgres_url: str | None
    redis_url: str | None
    demo: bool
    drain_timeout_s: float = 10


class Prepare(Protocol):
    """Called once when the stores answer, before any worker starts."""

    def __call__(self, postgres_url: str, redis_url: str) -> Mapping[str, object]:
        """Migrate and make what workers need; the programme's part of demo.json, {} without."""


class CannotPrepare(RuntimeError):
    """What `Prepare` raises for a fault of the installation; the text says what to do."""


class _WorkersFailed(RuntimeError):
    """Workers do not become ready."""


def supervise(
    options: SupervisorOptions, prepare: Prepare, *, worker_command: Sequence[str] | None = None
) -> int:
    """Run the whole switch until SIGTERM, SIGINT or SIGHUP; the exit code. Main thread only.

    Prints one line that begins with `ready` to standard output when everything answers; all else
    goes to standard error. A worker is `worker_command` with its settings file as last argument.
    """
    command = worker_command or (sys.executable, "-m", "switch", "worker")
    with StopSignals() as signals:
        try:
            _Supervisor(options, command, signals).run(prepare)
        except StartInterrupted:
            return 0
        except (DataDirBusy, StoreNotFound, PortTaken, CannotPrepare) as error:
            _say(str(error))
            return 2
        except (StoreFailed, _WorkersFailed) as error:
            _say(str(error))
            return 1
        except Exception:
            _say("cannot start\n" + traceback.format_exc())
            return 1
    return 0


def _say(text: str) -> None:
    """A line for people. Nobody may read it any more, which must not stop the switch."""
    with contextlib.suppress(OSError, ValueError):
        print(f"cardswitch: {text}", file=sys.stderr, flush=True)


def _write_private(path: Path, text: str) -> None:
    """Write a file for its owner alone, by one rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


class _Supervisor:
    def __init__(
        self, options: SupervisorOptions, command: Sequence[str], signals: StopSignals
    ) -> None:
        self._options = options
        self._command = command
        self._signals = signals
        self._board = Board()
        self._stores = EmbeddedStores(
            options.data_dir,
            postgres=options.postgres_url is None,
            redis=options.redis_url is None,
            progress=self._progress,
        )
        self._demo_file = options.data_dir / "demo.json"
        self._metrics: MetricsServer | None = None
        self._metrics_url = ""
        self._reserved: dict[str, socket.socket] = {}
        self._ports: dict[str, int] = {}
        self._postgres_url = ""
        self._redis_url = ""
        self._parent_pipe: tuple[int, int] | None = None
        self._workers: list[Worker] = []
        self._programme = "{}"
        self._published_pids: dict[str, object] | None = None

    def run(self, prepare: Prepare) -> None:
        """Start, serve until asked to stop, stop."""
        begun = time.monotonic()
        try:
            self._stores.lock()
            self._demo_file.unlink(missing_ok=True)
            self._reserve_ports()
            self._start_stores()
            self._progress("preparing the database")
            programme = prepare(self._postgres_url, self._redis_url)
            self._programme = json.dumps({"users": []} | dict(programme))
            self._signals.settle()
            self._start_workers()
            if self._until_ready():
                self._announce(time.monotonic() - begun)
            while not self._signals.count:
                self._turn()
        finally:
            self._stop()

    # start

    def _reserve_ports(self) -> None:
        options = self._options
        wanted = {
            "switch": options.switch_port,
            "network": options.network_port,
            "metrics": options.metrics_port,
        }
        for name, port in wanted.items():
            # the metrics port is listened to here alone
            bound = reserve_port(name, options.host, port, shared=name != "metrics")
            self._reserved[name] = bound
            self._ports[name] = bound.getsockname()[1]
        self._metrics = MetricsServer(self._reserved.pop("metrics"), self._board)
        self._metrics.start()
        host = f"[{self._reached_at}]" if ":" in self._reached_at else self._reached_at
        self._metrics_url = f"http://{host}:{self._ports['metrics']}/metrics"

    def _start_stores(self) -> None:
        self._stores.start()
        options = self._options
        self._postgres_url = options.postgres_url or self._stores.postgres_url
        self._redis_url = options.redis_url or self._stores.redis_url
        self._board.restarts = dict.fromkeys(self._stores.pids, 0)

    def _start_workers(self) -> None:
        self._progress(f"starting {self._options.workers} worker(s)")
        self._parent_pipe = os.pipe()
        for index in range(self._options.workers):
            settings = self._stores.run_dir / f"worker-{index}.json"
            metrics_socket = self._stores.socket_dir / f"worker-{index}.sock"
            document = {
                "index": index,
                "workers": self._options.workers,
                "host": self._options.host,
                "switch_port": self._ports["switch"],
                "network_port": self._ports["network"],
                "postgres_url": self._postgres_url,
                "redis_url": self._redis_url,
                "data_dir": str(self._options.data_dir.absolute()),
                "metrics_socket": str(metrics_socket),
            }
            _write_private(settings, json.dumps(document, indent=1) + "\n")
            parent_fd = self._parent_pipe[0]
            worker = Worker(index, self._command, settings, metrics_socket, parent_fd)
            self._workers.append(worker)
            worker.start()
        self._board.workers = {str(worker.index): worker.metrics_socket for worker in self._workers}
        self._board.restarts |= {worker.name: 0 for worker in self._workers}

    def _until_ready(self) -> bool:
        """Turn until every worker is ready; False when asked to stop before."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not self._signals.count:
            self._turn()
            if all(worker.is_ready for worker in self._workers):
                return True
            for worker in self._workers:
                if worker.deaths_before_ready >= _DEATHS_AT_START:
                    raise _WorkersFailed(
                        f"{worker.name} does not start (exit code {worker.exit_code})"
                    )
            if time.monotonic() > deadline:
                raise _WorkersFailed("the workers do not become ready")
        return False

    def _announce(self, took_s: float) -> None:
        self._board.phase = "running"
        self._publish()
        host = self._options.host
        with contextlib.suppress(OSError, ValueError):
            print(
                f"ready: switch {host}:{self._ports['switch']}, "
                f"network {host}:{self._ports['network']}, metrics {self._metrics_url}, "
                f"data {self._options.data_dir}, {took_s:.1f} s",
                flush=True,
            )

    # serve

    def _turn(self) -> None:
        """One round: notice what died, start it again, keep the public facts true."""
        self._signals.wait(_TURN_S)
        for name in self._stores.ensure_running():
            self._board.restarted(name)
            pid = self._stores.pids.get(name)
            self._event("store_restarted", store=name, exit=self._stores.exit_code(name), pid=pid)
        for worker in self._workers:
            if worker.has_become_ready():
                self._event("worker_ready", worker=worker.index, took_s=round(worker.lived_s, 3))
            if worker.has_died():
                self._event("worker_died", worker=worker.index, exit=worker.exit_code)
            try:
                if worker.restart_when_due():
                    self._board.restarted(worker.name)
                    self._event("worker_restarted", worker=worker.index, pid=worker.pid)
            except OSError as error:  # no memory for a process just now; the next turn tries again
                self._event("worker_not_started", worker=worker.index, error=str(error))
        self._board.turned()
        if self._published_pids is not None:
            self._publish()

    def _publish(self) -> None:
        """Write demo.json when its process numbers are not (or no more) true."""
        stores = self._stores.pids
        pids: dict[str, object] = {
            "supervisor": os.getpid(),
            "workers": [worker.pid for worker in self._workers if worker.pid is not None],
            "postgres": stores.get("postgres"),
            "redis": stores.get("redis"),
        }
        if not self._options.demo or pids == self._published_pids:
            return
        document: dict[str, object] = {
            "switch": {
                "host": self._reached_at,
                "port": self._ports["switch"],
                "packager": "iso87-binary",
                "network_port": self._ports["network"],
                "network_packager": "iso87-ascii",
            },
            "web": None,
            "metrics": self._metrics_url,
            "pids": pids,
            "postgres": self._postgres_url,
            "redis": self._redis_url,
        }
        # the programme may list a million cards: made into text once, appended as it is
        head, rest = json.dumps(document, indent=1), self._programme.removeprefix("{")
        try:
            _write_private(self._demo_file, head.removesuffix("\n}") + f",\n{rest}\n")
        except OSError as error:
            self._event("demo_file_not_written", error=str(error))
        else:
            self._published_pids = pids

    # stop

    def _stop(self) -> None:
        """Let the workers finish, then end everything. A further signal hastens."""
        self._signals.settle()
        self._board.phase = "stopping"
        signals_before = self._signals.count
        for worker in self._workers:
            worker.ask_to_stop()
        deadline = time.monotonic() + self._options.drain_timeout_s
        while any(worker.pid is not None for worker in self._workers):
            if time.monotonic() > deadline or self._signals.count > signals_before:
                break
            self._signals.wait(_TURN_S)
            self._board.turned()
        for worker in self._workers:
            if worker.end():
                self._event("worker_killed", worker=worker.index)
        signals_before = self._signals.count
        self._stores.stop(hasten=lambda: self._signals.count > signals_before)
        if self._metrics is not None:
            self._metrics.stop()
        for bound in self._reserved.values():
            bound.close()
        for descriptor in self._parent_pipe or ():
            os.close(descriptor)

    # words

    @property
    def _reached_at(self) -> str:
        """The host at which a program on this machine reaches the ports."""
        host = self._options.host
        if host not in _ANY_HOST:
            return host
        return "::1" if host == "::" else "127.0.0.1"

    def _progress(self, text: str) -> None:
        if self._board.phase == "starting":
            _say(text)
        else:
            self._event("note", text=text)

    @staticmethod
    def _event(event: str, **facts: object) -> None:
        """One structured line in the log."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with contextlib.suppress(OSError, ValueError):
            line = json.dumps({"time": now, "event": event, **facts})
            # One write, also where nothing is buffered: workers write lines beside it.
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
