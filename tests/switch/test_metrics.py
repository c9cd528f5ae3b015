"""Metrics: what is counted, bounded labels, the merged page, the HTTP answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from rules.responses import Response
from switch.metrics import (
    BATCH_SIZE_BUCKETS,
    LATENCY_BUCKETS_S,
    FrameRefusal,
    Metrics,
    Store,
    StoreFault,
    http_response,
    merge,
    render,
    request_path,
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _parse(page: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return _parse(render(metrics.registry)).get(
        (f"cardswitch_{name}", tuple(sorted(labels.items())))
    )


def test_answers_are_counted_by_type_and_response() -> None:
    metrics = Metrics()
    assert _value(metrics, "messages_total", mti="0200", response="00") == 0
    metrics.answered([("0200", "00")] * 5 + [("0200", "51")] * 2 + [("0400", "00"), ("0800", "00")])
    metrics.answered([("0200", Response.APPROVED), ("0100", "10"), ("0220", "00")])
    assert _value(metrics, "messages_total", mti="0200", response="00") == 6
    assert _value(metrics, "messages_total", mti="0200", response="51") == 2
    assert _value(metrics, "messages_total", mti="0400", response="00") == 1
    assert ("0200", "51") in metrics._answered  # found without a label look-up the next time
    # reversals and network messages are no decisions
    assert _value(metrics, "decisions_total", outcome="approved") == 8
    assert _value(metrics, "decisions_total", outcome="declined") == 2


def test_peers_cannot_make_series() -> None:
    metrics = Metrics()
    before = len(_parse(render(metrics.registry)))
    for number in range(2_000):
        metrics.answered([(f"9{number:03d}", "00"), ("0200", f"x{number}"), (f"z{number}", "yy")])
        metrics.link_up(f"link{number}")
    after = _parse(render(metrics.registry))
    assert len(after) == before + 3
    assert _value(metrics, "messages_total", mti="other", response="00") == 2_000
    assert _value(metrics, "messages_total", mti="0200", response="other") == 2_000
    assert _value(metrics, "messages_total", mti="other", response="other") == 2_000
    assert _value(metrics, "links_up", link="other") == 2_000
    # nor fill the memory behind them
    assert len(metrics._answered) < 100


def test_all_answers_there_can_be_are_bounded() -> None:
    metrics = Metrics()
    for mti in [f"{number:04d}" for number in range(1_000)]:
        metrics.answered([(mti, response) for response in Response])
    series = [
        key for key in _parse(render(metrics.registry)) if key[0] == "cardswitch_messages_total"
    ]
    assert len(series) <= 25 * (len(Response) + 1)


@pytest.mark.parametrize("bounds", [LATENCY_BUCKETS_S, BATCH_SIZE_BUCKETS])
@given(values=st.lists(st.floats(0, 300) | st.sampled_from([0.0005, 2.5, 1.0, 256.0])))
def test_histograms_count_as_the_librarys(bounds: tuple[float, ...], values: list[float]) -> None:
    metrics = Metrics()
    registry = CollectorRegistry()
    theirs = Histogram("h", "h", buckets=bounds, registry=registry)
    ours, name = (
        (metrics.latency, "cardswitch_latency_seconds")
        if bounds is LATENCY_BUCKETS_S
        else (metrics.batch_size, "cardswitch_batch_size")
    )
    ours.observe_many(values[:2])
    ours.observe_many(values[2:])
    for value in values:
        theirs.observe(value)
    expected = _parse(render(registry))
    got = _parse(render(metrics.registry))
    assert {key for key in got if key[0].startswith(name)} == {
        (key[0].replace("h", name, 1), key[1]) for key in expected
    }
    for (part, labels), value in expected.items():
        assert math.isclose(got[part.replace("h", name, 1), labels], value, abs_tol=1e-6)


def test_latency_buckets_are_seconds_from_half_a_millisecond() -> None:
    assert LATENCY_BUCKETS_S[0] == 0.0005
    assert LATENCY_BUCKETS_S[-1] == 2.5
    assert list(LATENCY_BUCKETS_S) == sorted(LATENCY_BUCKETS_S)


def test_gauges_and_counters() -> None:
    metrics = Metrics(links=["network"])
    metrics.queue_depth.set(17)
    metrics.waiting_cards.set(3)
    metrics.batch_refusals.inc()
    metrics.unknown_outcomes.inc()
    metrics.keepalives.inc(4)
    metrics.replies_dropped.inc(2)
    metrics.store_error(Store.REDIS, StoreFault.TIMEOUT)
    metrics.frame_refused(FrameRefusal.MAC)
    metrics.frame_refused(FrameRefusal.MAC, 3)
    metrics.add_link("pos")
    for link in ("network", "pos", "pos"):
        metrics.link_up(link)
    metrics.link_down("pos")
    assert _value(metrics, "queue_depth") == 17
    assert _value(metrics, "waiting_cards") == 3
    assert _value(metrics, "batch_refusals_total") == 1
    assert _value(metrics, "unknown_outcomes_total") == 1
    assert _value(metrics, "keepalives_total") == 4
    assert _value(metrics, "replies_dropped_total") == 2
    assert _value(metrics, "store_errors_total", store="redis", kind="timeout") == 1
    assert _value(metrics, "store_errors_total", store="postgres", kind="timeout") == 0
    assert _value(metrics, "frames_refused_total", reason="mac") == 4
    assert _value(metrics, "links_up", link="network") == 1
    assert _value(metrics, "links_up", link="pos") == 1
    assert _value(metrics, "links_up", link="other") == 0


def test_links_are_bounded() -> None:
    metrics = Metrics(f"link{number}" for number in range(1_000))
    metrics.link_up("link0")
    metrics.link_up("link999")
    assert _value(metrics, "links_up", link="link0") == 1
    assert _value(metrics, "links_up", link="other") == 1
    assert sum(key[0] == "cardswitch_links_up" for key in _parse(render(metrics.registry))) == 256


def test_a_registry_for_each() -> None:
    first, second = Metrics(), Metrics()
    first.keepalives.inc()
    assert _value(second, "keepalives_total") == 0
    page = render(first.registry)
    assert b"process_cpu_seconds_total" in page
    assert b"_created" not in page


def test_merged_pages() -> None:
    first, second = Metrics(["network"]), Metrics(["network", 'odd "name"\\'])
    first.answered([("0200", "00")])
    second.answered([("0200", "00"), ("0420", "25")])
    second.latency.observe_many([0.001])
    second.link_up('odd "name"\\')
    page = merge({"0": render(first.registry), "1": render(second.registry)})
    merged = _parse(page)
    for worker, metrics in (("0", first), ("1", second)):
        for (name, labels), value in _parse(render(metrics.registry)).items():
            if name.startswith("cardswitch_"):
                assert merged.pop((name, tuple(sorted((*labels, ("worker", worker)))))) == value
    assert all(name.startswith("process_") for name, _ in merged)
    # each family is described once, before all of its samples
    described = [line for line in page.decode().splitlines() if line.startswith("# TYPE ")]
    assert len(described) == len(set(described))
    families = [family.name for family in text_string_to_metric_families(page.decode())]
    assert len(families) == len(set(families)) == len(described)


def test_merging_leaves_out_what_is_no_metric() -> None:
    page = b"# HELP a b\n# TYPE a gauge\na 1.0\nHTTP/1.1 500\n\na{x 3\nb\xff 1\n"
    assert merge({"0": page}) == b'# HELP a b\n# TYPE a gauge\na{worker="0"} 1.0\n'
    assert merge({}) == b""
    # a worker of another release may describe a family otherwise: the first description stands
    other = b"# HELP a c\n# TYPE a gauge\na 2.0\n"
    assert merge({"0": page, "1": other}) == (
        b'# HELP a b\n# TYPE a gauge\na{worker="0"} 1.0\na{worker="1"} 2.0\n'
    )
    assert merge({"0": b"a 1.0\n"}) == b""


def _yes() -> tuple[bool, str]:
    return True, "ok"


def _no() -> tuple[bool, str]:
    return False, "postgres is away"


def _fails() -> tuple[bool, str]:
    raise OSError("secret")


def _split(response: bytes) -> tuple[str, dict[str, str], bytes]:
    head, _, body = response.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    assert int(headers["Content-Length"]) == len(body)
    assert headers["Connection"] == "close"
    return status, headers, body


@pytest.mark.parametrize(
    ("path", "health", "ready", "status", "body"),
    [
        ("/healthz", _yes, _no, "HTTP/1.1 200 OK", b"ok\n"),
        ("/readyz", _yes, _no, "HTTP/1.1 503 Service Unavailable", b"postgres is away\n"),
        ("/healthz", _no, _yes, "HTTP/1.1 503 Service Unavailable", b"postgres is away\n"),
        ("/readyz", _no, _yes, "HTTP/1.1 200 OK", b"ok\n"),
        ("/readyz", _yes, _fails, "HTTP/1.1 503 Service Unavailable", b"probe failed: OSError\n"),
        ("/", _yes, _yes, "HTTP/1.1 404 Not Found", b"not found\n"),
        ("", _yes, _yes, "HTTP/1.1 404 Not Found", b"not found\n"),
        ("/metrics/", _yes, _yes, "HTTP/1.1 404 Not Found", b"not found\n"),
    ],
)
def test_responses(
    path: str,
    health: Callable[[], tuple[bool, str]],
    ready: Callable[[], tuple[bool, str]],
    status: str,
    body: bytes,
) -> None:
    got = _split(http_response(path, Metrics(), health, ready))
    assert (got[0], got[2]) == (status, body)


def test_the_metrics_page() -> None:
    metrics = Metrics()
    metrics.keepalives.inc(5)
    status, headers, body = _split(http_response("/metrics", metrics, _fails, _fails))
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert _parse(body)["cardswitch_keepalives_total", ()] == 5


@pytest.mark.parametrize(
    ("request_head", "path"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "/metrics"),
        (b"GET /readyz?full=1 HTTP/1.0\r\n\r\n", "/readyz"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", ""),
        (b"GET /metrics\r\n\r\n", ""),
        (b"GET /metrics HTTP/2\r\n\r\n", ""),
        (b"GET /a b HTTP/1.1\r\n\r\n", ""),
        (b"\x16\x03\x01\x02\x00", ""),
        (b"", ""),
    ],
)
def test_request_lines(request_head: bytes, path: str) -> None:
    assert request_path(request_head) == path


@given(st.binary(max_size=100))
def test_any_bytes_are_a_request_line(data: bytes) -> None:
    assert isinstance(request_path(data), str)
    assert isinstance(request_path(b"GET " + data + b" HTTP/1.1\r\n"), str)
