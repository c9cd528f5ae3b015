"""Logs: one JSON object a line, nothing secret in it, and storms cut short."""

from __future__ import annotations

import enum
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.identity import Pan
from switch.keys import MasterKey
from switch.logs import (
    UNMASKED_FIELDS,
    JsonFormatter,
    RateLimited,
    configure,
    event,
    mask_digits,
    mask_pan,
)

PAN = "9500001234567890128"


class Colour(enum.StrEnum):
    RED = "red"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError(PAN)


class Lines:
    """A logger whose JSON lines can be read back."""

    def __init__(self, name: str) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(JsonFormatter({"worker": 3}))
        self.logger = logging.getLogger(name)
        self.logger.handlers = [handler]
        self.logger.setLevel(logging.DEBUG)
        self.logger.propagate = False

    def read(self) -> list[dict[str, Any]]:
        text = self.stream.getvalue()
        self.stream.seek(0)
        self.stream.truncate()
        return [json.loads(line) for line in text.splitlines()]

    def one(self, **fields: object) -> dict[str, Any]:
        event(self.logger, logging.INFO, "something", **fields)
        (line,) = self.read()
        return line


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Lines:
    return Lines(f"test.{request.node.name}")


def test_a_line(lines: Lines) -> None:
    event(lines.logger, logging.WARNING, "link_closed", link="network", frames=12, ok=True)
    (line,) = lines.read()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": lines.logger.name,
        "event": "link_closed",
        "worker": 3,
        "link": "network",
        "frames": 12,
        "ok": True,
    }


def test_times_are_utc_with_milliseconds() -> None:
    record = logging.makeLogRecord({"created": 1_795_000_000.0625, "msg": "x", "event_fields": {}})
    assert json.loads(JsonFormatter().format(record))["time"] == "2026-11-18T11:06:40.062Z"


def test_levels_below_the_loggers_are_not_even_built(lines: Lines) -> None:
    lines.logger.setLevel(logging.INFO)
    event(lines.logger, logging.DEBUG, "noise", value=Broken())
    assert lines.read() == []


def test_fields_cannot_pretend_to_be_the_frame_of_the_line(lines: Lines) -> None:
    line = lines.one(level="x", event="y", worker="z", time="t", logger="l")
    assert (line["level"], line["event"], line["worker"]) == ("info", "something", 3)
    assert (line["level_"], line["event_"], line["worker_"]) == ("x", "y", "z")


def test_one_event_is_one_line(lines: Lines) -> None:
    event(lines.logger, logging.INFO, "a", text='x"\n{"event": "forged"}\r\x00\u2028\ud800')
    text = lines.stream.getvalue()
    assert text.count("\n") == 1
    assert text.isascii()
    assert json.loads(text)["event"] == "a"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Pan(PAN), "950000…0128"),
        (PAN, "950000…0128"),
        (f"card {PAN}=2512", "card 950000…0128=2512"),
        ("9500 0012 3456 7890 128", "950000…0128"),
        ("9500-0012-3456-7890-128", "950000…0128"),
        (f"{PAN}{PAN}", "950000…0128"),
        ("123456789012", "123456…9012"),
        ("12345678901", "12345678901"),
        (b"\x01" * 16, "<16 bytes>"),
        (bytearray(3), "<3 bytes>"),
        (memoryview(b"12"), "<2 bytes>"),
        (ValueError(f"bad {PAN}"), "ValueError: bad 950000…0128"),
        ([PAN, {"pan": Pan(PAN)}], ["950000…0128", {"pan": "950000…0128"}]),
        ({"x": {PAN: PAN}}, {"x": {"950000…0128": "950000…0128"}}),
        ((1, None), [1, None]),
        (Colour.RED, "red"),
        (logging.Handler, "<class 'logging.Handler'>"),
        (MasterKey(bytes(32)), "MasterKey(***)"),
        (Path(f"/x/{PAN}"), "PosixPath('/x/950000…0128')"),
        (float("nan"), "nan"),
        (1.5, 1.5),
        (Broken(), "<Broken, repr failed: RuntimeError>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values(lines: Lines, value: object, shown: object) -> None:
    assert lines.one(value=value)["value"] == shown


def test_identifiers_keep_their_digits(lines: Lines) -> None:
    for field in ("tx", "rrn", "stan", "merchant", "batch_id"):
        assert field in UNMASKED_FIELDS
        assert lines.one(**{field: "000000000000001"})[field] == "000000000000001"
    # a masked type stays masked, also where plain text is allowed
    assert lines.one(tx=Pan(PAN))["tx"] == "950000…0128"
    assert lines.one(more={"rrn": "123456789012", "x": "123456789012"})["more"] == {
        "rrn": "123456789012",
        "x": "123456…9012",
    }


def test_long_and_deep_values_are_cut(lines: Lines) -> None:
    assert len(lines.one(text="x" * 100_000)["text"]) == 2_001
    assert len(lines.one(rrn="1" * 100_000)["rrn"]) == 2_000
    assert len(lines.one(items=list(range(1_000)))["items"]) == 50
    deep: list[object] = []
    for _ in range(100):
        deep = [deep, PAN]
    assert PAN not in json.dumps(lines.one(deep=deep))


def test_exceptions(lines: Lines) -> None:
    try:
        raise LookupError(f"no card {PAN}")
    except LookupError as error:
        line = lines.one(exception=error, tx="1")
    assert line["exception"] == "LookupError"
    assert "test_logs.py" in line["trace"]
    assert "no card 950000…0128" in line["trace"]
    assert line["tx"] == "1"
    # of a long trace the end is kept, for there the reason is
    try:
        raise LookupError("x" * 10_000 + "the end")
    except LookupError as error:
        line = lines.one(exception=error)
    assert line["trace"].endswith("the end")
    assert len(line["trace"]) == 2_001
    # what is no exception is a field like any other
    assert lines.one(exception="text")["exception"] == "text"


def test_lines_of_libraries(lines: Lines) -> None:
    lines.logger.info("connected to %s as %d", PAN, 7)
    (line,) = lines.read()
    assert (line["event"], line["text"]) == ("log", "connected to 950000…0128 as 7")
    broken = logging.makeLogRecord({"msg": "broken %d", "args": (PAN,)})
    text = json.loads(JsonFormatter().format(broken))["text"]
    assert text == "broken %d (not formatted: TypeError)"


@given(st.text(), st.text("0123456789", min_size=12, max_size=19), st.text())
def test_no_card_number_survives(before: str, pan: str, after: str) -> None:
    line = json.loads(
        JsonFormatter().format(
            logging.makeLogRecord(
                {"msg": "x", "event_fields": {"a": before + pan + after, "b": [pan], pan: 1}}
            )
        )
    )
    assert pan not in json.dumps(line, ensure_ascii=False)


@given(st.text("0123456789 -ab", max_size=60))
def test_masking_leaves_short_runs_and_is_stable(text: str) -> None:
    masked = mask_digits(text)
    assert mask_digits(masked) == masked
    if sum(character.isdigit() for character in text) < 12:
        assert masked == text


def test_mask_pan() -> None:
    assert mask_pan(PAN) == "950000…0128"
    assert mask_pan("12345678901") == "…"
    assert mask_pan("") == "…"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.captureWarnings(capture=False)


def test_configure_replaces_itself(root: logging.Logger) -> None:
    before = len(root.handlers)
    first, second = io.StringIO(), io.StringIO()
    configure(logging.WARNING, stream=first)
    configure(logging.INFO, stream=second, fixed={"worker": 1})
    assert len(root.handlers) == before + 1
    event(logging.getLogger("switch.x"), logging.INFO, "ready", port=8583)
    event(logging.getLogger("switch.x"), logging.DEBUG, "noise")
    assert first.getvalue() == ""
    line = json.loads(second.getvalue())
    assert (line["event"], line["port"], line["worker"]) == ("ready", 8583, 1)


def test_warnings_are_lines(root: logging.Logger) -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        configure(stream=stream)
        warnings.simplefilter("always")
        warnings.warn(f"card {PAN}", stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "card 950000…0128" in json.loads(stream.getvalue())["text"]


def test_a_broken_stream_neither_stops_nor_tells(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    configure(stream=stream)
    stream.close()
    event(logging.getLogger("switch.x"), logging.ERROR, "card", pan=PAN)
    assert capsys.readouterr() == ("", "")
    assert [getattr(handler, "failed", 0) for handler in root.handlers][-1] == 1


def test_a_storm_is_cut_and_counted(lines: Lines) -> None:
    now = [100.0]
    limited = RateLimited(lines.logger, 3, clock=lambda: now[0])
    logged = [limited.event(logging.INFO, "bad_frame", reason=number) for number in range(1000)]
    assert sum(logged) == 3
    assert limited.event(logging.INFO, "other_event")
    assert [line.get("reason") for line in lines.read()] == [0, 1, 2, None]
    now[0] = 101.0
    assert limited.event(logging.INFO, "bad_frame", reason=-1)
    assert limited.event(logging.INFO, "bad_frame", reason=-2)
    first, second = lines.read()
    assert (first["reason"], first["suppressed"]) == (-1, 997)
    assert "suppressed" not in second


def test_what_no_line_followed_is_told_by_flush(lines: Lines) -> None:
    limited = RateLimited(lines.logger, 1, clock=lambda: 5.0)
    for level in (logging.INFO, logging.ERROR, logging.INFO):
        limited.event(level, "bad_frame")
    lines.read()
    limited.flush()
    (line,) = lines.read()
    assert (line["event"], line["suppressed"], line["level"]) == ("bad_frame", 2, "error")
    limited.flush()
    assert lines.read() == []


def test_levels_that_are_off_are_not_counted(lines: Lines) -> None:
    lines.logger.setLevel(logging.INFO)
    limited = RateLimited(lines.logger, 1, clock=lambda: 5.0)
    for _ in range(5):
        assert not limited.event(logging.DEBUG, "noise")
    limited.flush()
    assert lines.read() == []


def test_names_made_of_messages_do_not_fill_the_memory(lines: Lines) -> None:
    limited = RateLimited(lines.logger, 1, clock=lambda: 5.0)
    logged = sum(limited.event(logging.INFO, f"name{number}") for number in range(5_000))
    assert logged == 1_001  # a thousand names and, once, all others
    lines.read()
    assert limited.event(logging.INFO, "name7") is False  # known names keep their own count
    limited.flush()
    suppressed = {line["event"]: line["suppressed"] for line in lines.read()}
    assert suppressed == {"name7": 1, "other": 3_999}
    with pytest.raises(ValueError, match="at least one"):
        RateLimited(lines.logger, 0)
