"""Metrics of one process for Prometheus, and the HTTP answers that show them.

Every process has a registry of its own; the supervisor's page is the pages of all workers with a
`worker` label (`merge`). Label sets are bounded: what a peer sends can never make a new series
(an unknown message type is `other`), and no label ever names a card, a terminal or a merchant.
What happens per message is told in batches, with one call per batch.
"""

from __future__ import annotations

import bisect
import collections
import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import HistogramMetricFamily

from rules.responses import APPROVALS, Response

__all__ = [
    "BATCH_SIZE_BUCKETS",
    "LATENCY_BUCKETS_S",
    "FrameRefusal",
    "Metrics",
    "Store",
    "StoreFault",
    "http_response",
    "merge",
    "render",
    "request_path",
]

OTHER = "other"
MESSAGE_TYPES = (
    *("0100", "0200", "0201", "0220", "0221", "0320", "0321", "0400", "0401", "0420", "0421"),
    *("0500", "0501", "0520", "0521", "0600", "0601", "0620", "0621", "0800", "0801", "0820"),
)
_DECIDED_CLASSES = ("01", "02")  # authorizations and financial messages: approved or declined

LATENCY_BUCKETS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02),
    *(0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256)
_LINKS_MAX = 256


class Store(enum.Enum):
    """A store of the switch."""

    POSTGRES = "postgres"
    REDIS = "redis"


class StoreFault(enum.Enum):
    """In which way a store failed."""

    CONNECTION = "connection"  # refused, closed, not found
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"  # there, but does not serve: starting, stopping, read-only
    CONFLICT = "conflict"  # deadlock, lock time-out
    ERROR = "error"  # it said no: a fault of ours or of the data


class FrameRefusal(enum.Enum):
    """Why a frame or its connection was refused before anything was decided."""

    LENGTH = "length"  # over the link's maximum, or not a length
    FORMAT = "format"  # not a message of the link's packager (30)
    TERMINAL = "terminal"  # unknown, disabled, another merchant's or acquirer's (58)
    MAC = "mac"  # missing or wrong (63)
    OVERLOAD = "overload"  # queue full, or too old to be answered in time (91)
    KEEPALIVES = "keepalives"  # too many of length 0
    IDLE = "idle"  # silent for too long
    HALF_FRAME = "half_frame"  # began a frame and did not end it
    SLOW_READER = "slow_reader"  # does not read its replies
    CONNECTIONS = "connections"  # one connection too many


class BatchHistogram:
    """A histogram that takes the observations of a whole batch in one call.

    The library's own costs 0.9 us an observation, this one a tenth, as it neither locks nor walks
    the buckets. To be used by one thread; a scrape from another one may miss the last batch.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._bounds = tuple(bounds)
        self._labels = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe_many(self, values: Iterable[float]) -> None:
        """Count each value in its bucket, the lowest whose bound is not below it."""
        bounds, counts, find = self._bounds, self._counts, bisect.bisect_left
        total = 0.0
        for value in values:
            counts[find(bounds, value)] += 1
            total += value
        self._sum += total

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """For the registry."""
        family = HistogramMetricFamily(self._name, self._text)
        running = 0
        buckets: list[tuple[str, float]] = []
        for label, count in zip(self._labels, self._counts, strict=True):
            running += count
            buckets.append((label, running))
        family.add_metric([], buckets, self._sum)
        yield family


class Metrics:
    """What one process counts. `links` are the names that may stand in the label `link`."""

    def __init__(self, links: Iterable[str] = ()) -> None:
        # the library adds a series with the time of creation to each counter: noise
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._messages = self._counter("messages", "Messages answered", "mti", "response")
        decisions = self._counter("decisions", "Decisions on authorizations", "outcome")
        self._approved = decisions.labels("approved")
        self._declined = decisions.labels("declined")
        self._answered: dict[tuple[str, str], tuple[Counter, Counter | None]] = {}
        for mti in MESSAGE_TYPES:
            self._answer_counters((mti, Response.APPROVED.value))

        self.latency = BatchHistogram(
            "cardswitch_latency_seconds",
            "From the last byte of a request to the sending of its reply",
            LATENCY_BUCKETS_S,
        )
        self.batch_size = BatchHistogram(
            "cardswitch_batch_size", "Requests in a batch", BATCH_SIZE_BUCKETS
        )
        self.registry.register(self.latency)
        self.registry.register(self.batch_size)

        self.queue_depth = self._gauge("queue_depth", "Requests that wait for a batch")
        self.months_ahead = self._gauge("months_ahead", "Months the journal has partitions for")
        self.waiting_cards = self._gauge("waiting_cards", "Cards that requests wait for")
        self.projector_lag_links = self._gauge(
            "projector_lag_links", "Links not projected yet (no more than 100,001)"
        )
        self.projector_lag_seconds = self._gauge(
            "projector_lag_seconds", "Age of the oldest link not projected yet"
        )
        self.programme_changes = self._counter(
            "programme_changes", "Changes of links, merchants, terminals and keys taken"
        )
        self.programme_faults = self._gauge(
            "programme_faults", "Links and terminals whose latest change could not be taken"
        )
        self.tdes_key_since = self._gauge(
            "tdes_key_since_timestamp_seconds",
            "Since when the oldest TDES key of a terminal is in force; 0 where there is none",
        )
        self.sweep_due = self._gauge("sweep_due", "What is due and was found (200 at most)", "kind")
        self._swept = self._counter("swept", "Requests of the sweeper answered", "kind", "outcome")
        self.batch_refusals = self._counter("batch_refusals", "Batches refused as stale")
        self.reversals_elsewhere = self._counter(
            "reversals_elsewhere", "Reversals whose original stands under another card (94)"
        )
        self.unknown_outcomes = self._counter(
            "unknown_outcomes", "Commits whose outcome had to be asked for"
        )
        self.keepalives = self._counter("keepalives", "Frames of length 0")
        self.replies_dropped = self._counter("replies_dropped", "Replies whose connection had gone")
        store_errors = self._counter("store_errors", "Failures of a store", "store", "kind")
        self._store_errors = {
            (store, fault): store_errors.labels(store.value, fault.value)
            for store in Store
            for fault in StoreFault
        }
        refused = self._counter("frames_refused", "Frames and connections refused", "reason")
        self._refused = {reason: refused.labels(reason.value) for reason in FrameRefusal}
        self._links_up = self._gauge("links_up", "Open connections of a link", "link")
        self._links = {OTHER: self._links_up.labels(OTHER)}
        for link in links:
            self.add_link(link)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"cardswitch_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"cardswitch_{name}", text, labels, registry=self.registry)

    def answered(self, answers: Iterable[tuple[str, str]]) -> None:
        """Count the answers of a batch, each as (MTI of the request, DE 39 of the reply)."""
        known = self._answered
        for answer, count in collections.Counter(answers).items():
            counters = known.get(answer) or self._answer_counters(answer)
            counters[0].inc(count)
            if counters[1] is not None:
                counters[1].inc(count)

    def _answer_counters(self, answer: tuple[str, str]) -> tuple[Counter, Counter | None]:
        mti, response = answer
        if mti not in MESSAGE_TYPES:
            mti = OTHER
        try:
            code = Response(response).value
        except ValueError:
            code = OTHER
        outcome = None
        if mti.startswith(_DECIDED_CLASSES):
            outcome = self._approved if code in APPROVALS else self._declined
        counters = (self._messages.labels(mti, code), outcome)
        if OTHER not in (mti, code):  # else a peer could fill this memory with types of its own
            self._answered[answer] = counters
        return counters

    def swept(self, kind: str, *, done: bool) -> None:
        """Count a request of the sweeper: one that found it due, or one that did not."""
        self._swept.labels(kind, "done" if done else "not_done").inc()

    def store_error(self, store: Store, fault: StoreFault) -> None:
        """Count a failure of a store."""
        self._store_errors[store, fault].inc()

    def frame_refused(self, reason: FrameRefusal, count: int = 1) -> None:
        """Count refused frames."""
        self._refused[reason].inc(count)

    def add_link(self, link: str) -> None:
        """Let `link` stand for itself in the label; over 256 of them count as `other`."""
        if link not in self._links and len(self._links) < _LINKS_MAX:
            self._links[link] = self._links_up.labels(link)

    def link_up(self, link: str) -> None:
        """A connection of the link is open. Names not made known count as `other`."""
        self._links.get(link, self._links[OTHER]).inc()

    def link_down(self, link: str) -> None:
        """A connection of the link is closed."""
        self._links.get(link, self._links[OTHER]).dec()


def render(registry: CollectorRegistry) -> bytes:
    """All metrics in Prometheus' text format 0.0.4."""
    return prometheus_client.generate_latest(registry)


_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)")


def merge(pages: Mapping[str, bytes]) -> bytes:
    """One page of the pages of several workers: each sample gets the label `worker`.

    Keys name the workers. A page is what `render` gave; lines that are not metrics are left out.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        family = ""
        for line in page.decode("utf-8", "replace").split("\n"):
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                if len(head) < 2 and line not in head:
                    head.append(line)
                continue
            match = _SAMPLE.fullmatch(line)
            if match is not None and family:
                labels = f'worker="{worker}"' + (f",{match[2]}" if match[2] else "")
                sample = f"{match[1]}{{{labels}}} {match[3]}"
                samples.setdefault(family, []).append(sample)
    lines = [line for family in samples for line in (*heads[family], *samples[family])]
    return "".join(f"{line}\n" for line in lines).encode()


def request_path(request: bytes) -> str:
    """The path of a GET request, from its first line; empty for anything else."""
    parts = request.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3 or parts[0] != b"GET" or not parts[2].startswith(b"HTTP/1."):
        return ""
    return parts[1].decode("ascii", "replace").split("?", 1)[0]


def http_response(
    path: str,
    metrics: Metrics,
    health: Callable[[], tuple[bool, str]],
    ready: Callable[[], tuple[bool, str]],
) -> bytes:
    """The whole HTTP/1.1 response to GET of a path: /metrics, /healthz, /readyz, 404 otherwise.

    `health` and `ready` say whether and why; no makes it a 503, and so does their failing.
    """
    if path == "/metrics":
        kind = prometheus_client.exposition.CONTENT_TYPE_PLAIN_0_0_4
        return _response(HTTPStatus.OK, render(metrics.registry), kind)
    probe = {"/healthz": health, "/readyz": ready}.get(path)
    if probe is None:
        return _response(HTTPStatus.NOT_FOUND, b"not found\n")
    try:
        good, text = probe()
    except Exception as error:  # a probe that fails says no; it must not end the worker
        good, text = False, f"probe failed: {type(error).__name__}"
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return _response(status, f"{text}\n".encode())


def _response(
    status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8"
) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
