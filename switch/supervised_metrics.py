"""The supervisor's HTTP endpoint: figures and health of all workers on one page.

Each worker serves its own /metrics, /healthz and /readyz on a unix socket. Asked for a page, the
supervisor asks all of them at the same time and answers within bounds: a worker that says nothing
for two seconds counts as down, and no more than a few callers are served at once.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http
import http.client
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

__all__ = ["Board", "MetricsServer", "merge_pages"]

_TIMEOUT_S = 2.0
_CALLER_DEADLINE_S = 10.0
_CALLERS_AT_ONCE = 16
_LONGEST_PAGE = 16 * 1024 * 1024
_TURN_OVERDUE_S = 2.0
_BACKLOG = 64
_TEXT = "text/plain; charset=utf-8"


class Board:
    """What the endpoint knows of the supervisor: written by its loop, read by the endpoint.

    Each value is replaced as a whole, so no lock is needed. `phase` is `starting`, `running` or
    `stopping`; `restarts` counts by what was started again.
    """

    def __init__(self) -> None:
        self.phase = "starting"
        self.last_turn = time.monotonic()
        self.restarts: dict[str, int] = {}
        self.workers: dict[str, Path] = {}

    def turned(self) -> None:
        """The supervisor's loop has come round."""
        self.last_turn = time.monotonic()

    def restarted(self, what: str) -> None:
        """One more start of what had died."""
        self.restarts = self.restarts | {what: self.restarts.get(what, 0) + 1}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


def _fetch(path: Path, page: str) -> tuple[int, bytes]:
    """Status and body of a worker's page. Raises OSError or HTTPException."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", page)
        response = connection.getresponse()
        body = response.read(_LONGEST_PAGE + 1)
        if len(body) > _LONGEST_PAGE:
            raise http.client.HTTPException("page too long")
        return response.status, body
    finally:
        connection.close()


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _families(page: str | None) -> list[Metric] | None:
    if page is None:
        return None
    try:
        return list(text_string_to_metric_families(page))
    except ValueError:
        return None


def merge_pages(pages: Mapping[str, str | None], restarts: Mapping[str, int]) -> bytes:
    """One page (Prometheus text format 0.0.4) of the pages by worker; None for one without.

    Every sample gets a label `worker`; a label of that name it had is kept as `exported_worker`.
    A page that cannot be read counts as none, and harms no other.
    """
    merged: dict[str, Metric] = {}
    up = GaugeMetricFamily(
        "cardswitch_worker_up", "Whether the worker answers with its figures.", labels=["worker"]
    )
    for worker, page in pages.items():
        families = _families(page)
        up.add_metric([worker], float(families is not None))
        for family in families or ():
            into = merged.get(family.name)
            if into is None:
                into = Metric(family.name, family.documentation, family.type)
                merged[family.name] = into
            if into.type == family.type:
                for sample in family.samples:
                    labels = dict(sample.labels)
                    if "worker" in labels:
                        labels["exported_worker"] = labels["worker"]
                    labels["worker"] = worker
                    into.add_sample(sample.name, labels, sample.value, sample.timestamp)
    counted = CounterMetricFamily(
        "cardswitch_restarts",
        "Starts of what had died, by what: a worker, or a private store.",
        labels=["what"],
    )
    for what, count in sorted(restarts.items()):
        counted.add_metric([what], count)
    merged.pop("cardswitch_worker_up", None)
    merged.pop("cardswitch_restarts", None)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*merged.values(), up, counted]))
    return generate_latest(registry)


class _Server(ThreadingHTTPServer):
    """An HTTP server on a socket that is bound already, with a bound on callers and their time."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, bound: socket.socket, endpoint: MetricsServer) -> None:
        host, port = bound.getsockname()[:2]
        super().__init__((host, port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.server_name, self.server_port = host, port
        self.endpoint = endpoint
        self._callers: dict[Any, float] = {}
        self._callers_lock = threading.Lock()
        bound.listen(_BACKLOG)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._callers_lock:
            full = len(self._callers) >= _CALLERS_AT_ONCE
            if not full:
                self._callers[request] = time.monotonic() + _CALLER_DEADLINE_S
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._callers_lock:
                self._callers.pop(request, None)

    def service_actions(self) -> None:
        """Cut off callers whose time is over: one byte now and then would pass every time-out."""
        now = time.monotonic()
        with self._callers_lock:
            overdue = [caller for caller, deadline in self._callers.items() if now > deadline]
            for caller in overdue:
                with contextlib.suppress(OSError):
                    caller.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is nobody's concern."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _TIMEOUT_S
    server_version = "cardswitch"
    sys_version = ""

    def do_GET(self) -> None:
        pages = {
            "/metrics": self.server.endpoint.metrics,
            "/healthz": self.server.endpoint.health,
            "/readyz": self.server.endpoint.readiness,
        }
        page = pages.get(self.path.partition("?")[0])
        status, kind, body = page() if page is not None else (404, _TEXT, b"not found\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a scrape every few seconds is no event."""


class MetricsServer:
    """Serves /metrics, /healthz and /readyz from a daemon thread on an already bound socket."""

    def __init__(self, bound: socket.socket, board: Board) -> None:
        self._board = board
        self._pool = concurrent.futures.ThreadPoolExecutor(
            max_workers=_CALLERS_AT_ONCE * 2, thread_name_prefix="metrics"
        )
        self._server = _Server(bound, self)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="metrics",
            daemon=True,
        )

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more and close the socket."""
        self._server.shutdown()
        self._server.server_close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def metrics(self) -> tuple[int, str, bytes]:
        """Status, content type and body of /metrics."""
        pages = {
            worker: answer[1].decode("utf-8", "replace")
            if isinstance(answer, tuple) and answer[0] == http.HTTPStatus.OK
            else None
            for worker, answer in self._ask("/metrics")
        }
        return 200, CONTENT_TYPE_PLAIN_0_0_4, merge_pages(pages, self._board.restarts)

    def health(self) -> tuple[int, str, bytes]:
        """Status, content type and body of /healthz: the loop turns and every worker answers."""
        problems = []
        if self._board.phase == "starting":
            problems.append("supervisor: starting")
        elif time.monotonic() - self._board.last_turn > _TURN_OVERDUE_S:
            problems.append("supervisor: its loop stands still")
        return self._verdict(problems + self._problems("/healthz"))

    def readiness(self) -> tuple[int, str, bytes]:
        """Status, content type and body of /readyz: every worker is ready for messages."""
        problems = []
        if self._board.phase != "running":
            problems.append(f"supervisor: {self._board.phase}")
        return self._verdict(problems + self._problems("/readyz"))

    @staticmethod
    def _verdict(problems: list[str]) -> tuple[int, str, bytes]:
        if problems:
            return 503, _TEXT, ("\n".join(problems) + "\n").encode()
        return 200, _TEXT, b"ok\n"

    def _problems(self, page: str) -> list[str]:
        problems = []
        for worker, answer in self._ask(page):
            if isinstance(answer, str):
                problems.append(f"worker {worker}: {answer}")
            elif answer[0] != http.HTTPStatus.OK:
                text = answer[1][:500].decode("utf-8", "replace").strip()
                problems.append(f"worker {worker}: {text or answer[0]}")
        return problems

    def _ask(self, page: str) -> Iterator[tuple[str, tuple[int, bytes] | str]]:
        """A page of all workers: by worker its status and body, or what went wrong."""
        asked = {
            worker: self._pool.submit(_fetch, path, page)
            for worker, path in self._board.workers.items()
        }
        concurrent.futures.wait(asked.values(), timeout=_TIMEOUT_S * 1.25)
        for worker, future in asked.items():
            if not future.done():
                future.cancel()
                yield worker, "no answer in time"
                continue
            try:
                yield worker, future.result()
            except TimeoutError:
                yield worker, "no answer in time"
            except (OSError, http.client.HTTPException, concurrent.futures.CancelledError):
                yield worker, "no answer"
