"""One worker process: its own Trio loop, store connections, listeners and metrics."""

from __future__ import annotations

import contextlib
import datetime
import gc
import itertools
import logging
import os
import resource
import secrets
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from fastpath.tokens import TokenKey, TokenTable
from rules.identity import counted_transaction_id
from switch.config import Settings
from switch.intake import Intake
from switch.journal.journal import JournalDown, JournalSession
from switch.journal.witness import Witness
from switch.key_desk import KeyDesk
from switch.keys import derive
from switch.lane import Lane
from switch.logs import configure, event
from switch.metrics import Metrics, Store, StoreFault, http_response, request_path
from switch.pipeline import Pipeline
from switch.policies import load_policies, watch_policies
from switch.prepare import load_master_key, load_saved_settings
from switch.programme import ProgrammeSource
from switch.projections.process import ProjectorFile, keep_projecting
from switch.refusal_log import RefusalLog
from switch.reservation.store import ReservationStore, Sealer
from switch.server import Server, link_config, listening_socket, private_listener
from switch.settlement import Desk
from switch.supervised_workers import PARENT_FD_VARIABLE, READY_FD_VARIABLE
from switch.sweeper import Sweeper
from switch.tls import server_context
from switch.watch import StoreWatch
from switch.wire.link import LinkConfig
from switch.wire.translate import Translator

__all__ = ["WorkerFile", "run_worker", "work"]

_BATCH_COUNTER_BITS = 40
_STALLED_AFTER_S = 2.0
_REQUEST_BYTES_MAX = 4096
_POS, _NETWORK = "pos", "network"

log = logging.getLogger(__name__)


class WorkerFile(msgspec.Struct, frozen=True):
    """What the supervisor tells a worker."""

    index: int
    host: str
    switch_port: int
    network_port: int
    postgres_url: str
    redis_url: str
    data_dir: str
    metrics_socket: str


def utc_now() -> datetime.datetime:
    """The wall clock."""
    return datetime.datetime.now(datetime.UTC)


def run_worker(path: Path) -> int:
    """`python -m switch worker FILE`: serve until SIGTERM."""
    file = msgspec.json.decode(path.read_bytes(), type=WorkerFile)
    settings = load_saved_settings(Path(file.data_dir))
    configure(settings.log_level.number, fixed={"worker": file.index})
    _, descriptors_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_max, descriptors_max))
    trio.run(work, file, settings)
    return 0


async def work(file: WorkerFile, settings: Settings) -> None:
    """A worker's life: connect, load, listen, serve, drain."""
    # Requests die young and in good order; a collection in mid-batch costs milliseconds.
    gc.set_threshold(100_000, 20, 20)
    async with trio.open_nursery() as nursery:
        worker = await Worker.start(file, settings)
        gc.freeze()
        await worker.serve(nursery)
        nursery.cancel_scope.cancel()


class Worker:
    """The composition root: builds everything once and starts it."""

    def __init__(
        self, file: WorkerFile, settings: Settings, url: str, session: JournalSession, run: int
    ) -> None:
        self._file = file
        self._settings = settings
        self._url = url
        self._session = session
        self._run = run
        self._session_turn = trio.Lock()
        self._lane_journals: list[JournalSession] = []
        self._metrics = Metrics([_POS, _NETWORK])
        self._draining = False
        self._beat = trio.current_time()
        self._batch_ids = itertools.count((run << _BATCH_COUNTER_BITS) + 1)
        counts = itertools.count(1)
        self._next_transaction_id = lambda: counted_transaction_id(run, next(counts))

    @classmethod
    async def start(cls, file: WorkerFile, settings: Settings) -> Worker:
        """Wait for Postgres, take a run number, load programme and token table."""
        url = app_url(file.postgres_url, Path(file.data_dir))
        session = JournalSession(url, 0, witness=Witness.of(file.data_dir, file.index))
        while True:
            try:
                run = (await session.rows("select nextval('run_number') as run"))[0]["run"]
                worker = cls(file, settings, url, session, run)
                await worker._load()
            except JournalDown as down:
                event(log, logging.WARNING, "waiting-for-postgres", error=str(down))
                await trio.sleep(0.2)
            else:
                return worker

    async def _load(self) -> None:
        master_key = load_master_key(self._settings, Path(self._file.data_dir))
        witness = Witness.of(self._file.data_dir, self._file.index)
        self._key_session = JournalSession(self._url, self._run, witness=witness)
        source = ProgrammeSource(self._key_session.rows, master_key)
        self._programme = await source.load()
        self._policies = await load_policies(self._session.rows, self._settings)
        tokens_path = Path(self._file.data_dir) / "tokens.tab"
        self._tokens = TokenTable.open(tokens_path, TokenKey(self._programme.token_key))
        self._watch = StoreWatch(self._rows, self._programme.epoch, self._tokens, self._metrics)
        await self._watch.add_new_cards()
        settings = self._settings
        translator = Translator(
            self._programme,
            self._tokens,
            horizon_s=settings.horizon_days * 86_400,
            clock_ahead_s=settings.clock_ahead_hours * 3600,
        )
        self._intake = Intake(
            translator,
            self._metrics,
            self._next_transaction_id,
            utc_now,
            trio.current_time,
            answer_within_s=settings.answer_within_ms / 1000,
        )
        self._intake.pipeline = self._pipeline = Pipeline(
            self._intake, self._policies, batch_max=settings.batch_max, queue_max=settings.queue_max
        )
        self._watch.pipeline = self._pipeline
        # Of its own: an append may have to wait long, and the probe must not wait behind it.
        self._refusals = RefusalLog(
            JournalSession(self._url, self._run, witness=witness),
            self._intake.refusals,
            self._pipeline,
            self._batch_ids.__next__,
            utc_now,
            batch_max=settings.batch_max,
        )
        self._keys = KeyDesk(
            *(self._key_session, master_key, source, self._intake, self._metrics),
            self._next_transaction_id,
            window_s=settings.key_overlap_minutes * 60,
            answer_within_s=settings.answer_within_ms / 1000,
        )
        session = JournalSession(self._url, self._run, on_down=self._count_failure)  # fails alone
        self._intake.desk = self._desk = Desk(
            self._pipeline, session, self._intake.settled, utc_now, queue_max=settings.queue_max
        )
        self._server = Server(
            self._metrics, self._intake.receive, connections_max=settings.link_connections_max
        )

    def _lane(self, number: int) -> tuple[Lane, ReservationStore]:
        settings = self._settings
        reservation = ReservationStore(
            self._file.redis_url,
            f"cs:{self._programme.epoch}",
            f"{self._run}.{number}.{secrets.token_hex(4)}".encode(),
            Sealer(derive(self._programme.token_key, "cache seal", 32)),
            timeout_s=settings.redis_timeout_ms / 1000,
            possession_ms=settings.possession_ms,
            on_error=self._redis_failed,
        )
        witness = Witness.of(self._file.data_dir, self._file.index, number)
        on_down = self._postgres_failed
        journal = JournalSession(self._url, self._run, on_down=on_down, witness=witness)
        self._lane_journals.append(journal)
        next_batch_id = self._batch_ids.__next__
        return Lane(self._pipeline, journal, reservation, next_batch_id, utc_now), reservation

    def _redis_failed(self, kind: str) -> None:
        fault = StoreFault.TIMEOUT if kind == "silent" else StoreFault.CONNECTION
        self._metrics.store_error(Store.REDIS, fault)
        event(log, logging.WARNING, "redis-failed", kind=kind)

    def _count_failure(self, kind: str) -> None:
        fault = StoreFault.TIMEOUT if kind == "TimeoutError" else StoreFault.CONNECTION
        self._metrics.store_error(Store.POSTGRES, fault)

    def _postgres_failed(self, kind: str) -> None:
        self._count_failure(kind)
        if self._pipeline.journal_up:
            self._pipeline.journal_up = False
            event(log, logging.ERROR, "postgres-failed", kind=kind)

    # Serve

    async def serve(self, nursery: trio.Nursery) -> None:
        """Start all tasks, say ready, return when drained after SIGTERM."""
        settings, file = self._settings, self._file
        lanes = [self._lane(number) for number in range(settings.lane_count)]
        for lane, _ in lanes:
            nursery.start_soon(lane.run)
        background: list[Callable[[], Awaitable[None]]] = [
            self._pipeline.watch,
            self._desk.run,
            self._server.watch_deadlines,
            self._refusals.run,
            self._watch.postgres,
            self._watch.cards,
            self._watch.months,
            self._keys.run,
            lambda: watch_policies(self._policies, self._rows),
            self._heartbeat,
            self._watch_parent,
            lambda: self._listen_for_notices(lanes[0][1]),
        ]
        for task in background:
            nursery.start_soon(task)
        await nursery.start(self._serve_metrics)
        tls_of = {_POS: settings.switch_tls, _NETWORK: settings.network_tls}
        for port, name in ((file.switch_port, _POS), (file.network_port, _NETWORK)):
            listener = listening_socket(file.host, port)
            tls = tls_of[name]
            context = server_context(tls.certificate, tls.key, tls.peers) if tls else None
            nursery.start_soon(self._server.serve, listener, self._config_of(name), context)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            _say_ready()
            event(log, logging.INFO, "ready", run=self._run)
            if file.index == 0:
                nursery.start_soon(keep_projecting, ProjectorFile(self._url, file.data_dir))
                nursery.start_soon(self._watch.projector)
                what = (self._pipeline, self._metrics, self._next_transaction_id, utc_now)
                nursery.start_soon(Sweeper(self._rows, *what).run)
            async for _ in signals:
                break
        self._draining = True
        event(log, logging.INFO, "draining", connections=self._server.connections)
        await self._server.drain()
        await self._refusals.flush()

    def _config_of(self, name: str) -> Callable[[], LinkConfig]:
        """What is agreed with whoever connects now: the programme may change."""
        return lambda: link_config(self._intake.programme.links[name], self._settings)

    async def _rows(self, query: str, *args: object) -> list[Any]:
        """A question of a background task; a session answers one at a time."""
        async with self._session_turn:
            return await self._session.rows(query, *args)

    async def _heartbeat(self) -> None:
        doubts = 0
        while True:
            self._beat = trio.current_time()
            before, doubts = doubts, sum(each.outcomes_unknown for each in self._lane_journals)
            self._metrics.unknown_outcomes.inc(doubts - before)
            self._metrics.queue_depth.set(self._pipeline.depth)
            self._metrics.waiting_cards.set(self._pipeline.cards_waited_for)
            await trio.sleep(0.25)

    async def _listen_for_notices(self, reservation: ReservationStore) -> None:
        """Other workers' notices that a card somebody waits for is free."""
        async for card_ids in reservation.notices():
            self._pipeline.freed_elsewhere(card_ids)

    async def _watch_parent(self) -> None:
        """End when the supervisor is gone, where the kernel does not see to it."""
        descriptor = os.environ.get(PARENT_FD_VARIABLE)
        if descriptor is None:
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(int(descriptor or 0))
        os._exit(1)

    # Metrics and health

    async def _serve_metrics(self, task_status: trio.TaskStatus[None]) -> None:
        listener = private_listener(Path(self._file.metrics_socket))
        task_status.started()
        await trio.serve_listeners(self._answer_http, [listener])

    async def _answer_http(self, stream: trio.SocketStream) -> None:
        with trio.move_on_after(2), contextlib.suppress(trio.BrokenResourceError):
            request = b""
            while b"\r\n\r\n" not in request and len(request) < _REQUEST_BYTES_MAX:
                data = await stream.receive_some()
                if not data:
                    return
                request += data
            path = request_path(request)
            await stream.send_all(http_response(path, self._metrics, self._health, self._ready))

    def _health(self) -> tuple[bool, str]:
        stalled_s = trio.current_time() - self._beat
        return stalled_s < _STALLED_AFTER_S, f"loop turned {stalled_s:.1f} s ago"

    def _ready(self) -> tuple[bool, str]:
        if self._draining:
            return False, "draining"
        if not self._pipeline.journal_up:
            return False, "postgres down"
        if self._watch.months_ahead < 1:
            return False, "the journal has no partition for next month"
        return True, "ready"


def _say_ready() -> None:
    descriptor = os.environ.get(READY_FD_VARIABLE)
    if descriptor is not None:
        os.write(int(descriptor), b"ready\n")


def app_url(owner_url: str, data_dir: Path) -> str:
    """The URL of the switch's own role, which can add to the journal and delete nothing."""
    password = (data_dir / "app-role").read_text().strip()
    scheme, rest = owner_url.split("://", 1)
    authority, slash, tail = rest.partition("/")
    host = authority.rpartition("@")[2]
    return f"{scheme}://cardswitch_app:{password}@{host}{slash}{tail}"
