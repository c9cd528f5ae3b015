"""The load generators measure what they say: messages, proportions, latencies, failures."""

from __future__ import annotations

import collections
import csv
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.load import Load, LoadLink
from bench.messages import Framed, Scenario, build_frames, terminals_for
from fastpath.codec import decode
from fastpath.framing import FrameBuffer, Header, pack
from fastpath.mac import MacAlgorithm, MacKey
from fastpath.specs import DE, ISO87_BINARY
from tests.client.demo import Demo

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789ABCDEFFEDCBA9876543210"


def card(number: int, status: str) -> dict[str, Any]:
    return {"pan": f"95{number:014d}", "expiry": "3012", "status": status, "balance": 10_000}


DEMO: dict[str, Any] = {
    "currency": "978",
    "terminals": [
        {
            "id": f"{number:08d}",
            "merchant": f"{1 + number % 2:015d}",
            "link": None if number < 4 else "network",
            "mac": "retail-mac",
            "mac_key": KEY,
        }
        for number in range(1, 6)
    ],
    "cards": [
        *(card(number, "active") for number in range(300)),
        *(card(number, "issued") for number in range(300, 320)),
    ],
}


def built(scenario: Scenario, count: int = 2000, **more: int) -> list[Framed]:
    terminal = DEMO["terminals"][0]
    numbers = {"count": count, "first_stan": 5, "seed": 1} | more
    return list(build_frames(DEMO, ISO87_BINARY, terminal, scenario, **numbers))


def messages(frames: list[Framed]) -> list[Any]:
    buffer = FrameBuffer()
    return [decode(ISO87_BINARY, raw) for _, frame in frames for raw in buffer.feed(frame)]


def test_each_message_is_signed_and_has_its_number() -> None:
    key = MacKey(MacAlgorithm.RETAIL, bytes.fromhex(KEY))
    frames = built(Scenario.REDEEM)
    for number, (framed, message) in enumerate(zip(frames, messages(frames), strict=True), 5):
        assert key.verify(message.raw[: message.mac_covers], message.mac)
        assert message.get(DE.STAN) == framed.stan == f"{number:06d}"
        assert 1 <= message.amount(DE.AMOUNT) <= 50


def test_mixed_traffic_is_mixed_as_it_says() -> None:
    found = messages(built(Scenario.MIXED, 20_000))
    kinds = collections.Counter((m.mti, m.get(DE.PROCESSING_CODE)) for m in found)
    share = {kind: count / len(found) for kind, count in kinds.items()}
    assert share.pop(("0200", "900060")) == pytest.approx(0.10, abs=0.01)
    assert share.pop(("0100", "316000")) == pytest.approx(0.10, abs=0.01)
    assert share.pop(("0200", "210060")) == pytest.approx(0.05, abs=0.01)
    # what a repeat or a reversal was to be about is not always a redemption
    assert share.pop(("0201", "006000")) == pytest.approx(0.021, abs=0.006)
    assert share.pop(("0400", "006000")) == pytest.approx(0.014, abs=0.006)
    assert list(share) == [("0200", "006000")]


def test_each_card_is_activated_once_as_long_as_there_are_fresh_ones() -> None:
    issued = [card["pan"] for card in DEMO["cards"] if card["status"] == "issued"]
    found = messages(built(Scenario.MIXED, 2_000, fresh=slice(1, None, 3)))
    activated = [m.get(DE.PAN) for m in found if m.get(DE.PROCESSING_CODE) == "900060"]
    own = issued[1::3]
    assert activated[: len(own)] == own
    assert set(activated) == set(own)


def test_repeats_and_reversals_are_about_what_was_sent() -> None:
    sent: dict[str, Any] = {}
    about = 0
    for message in messages(built(Scenario.MIXED, 20_000)):
        if message.mti == "0201":
            original = sent[message.get(DE.STAN)]
        elif message.mti == "0400":
            original = sent[message.get(DE.ORIGINAL)[4:10]]
        else:
            sent[message.get(DE.STAN)] = message
            continue
        about += 1
        for field in (DE.PAN, DE.AMOUNT, DE.LOCAL_TIME, DE.LOCAL_DATE, DE.PROCESSING_CODE):
            assert message.get(field) == original.get(field)
    assert about > 300


def test_a_drop_is_about_one_card_that_nothing_else_touches() -> None:
    wanted = {m.get(DE.PAN) for m in messages(built(Scenario.DROP, 50, drop=3))}
    assert len(wanted) == 1
    assert wanted.isdisjoint(m.get(DE.PAN) for m in messages(built(Scenario.MIXED, 20_000)))
    others = {m.get(DE.PAN) for m in messages(built(Scenario.DROP, 1, drop=4))}
    assert wanted.isdisjoint(others)


def test_a_hot_merchant_is_one() -> None:
    assert len({each["merchant"] for each in terminals_for(DEMO, Scenario.HOT_MERCHANT)}) == 1
    assert len(terminals_for(DEMO, Scenario.REDEEM)) == 3


class Sleeper:
    """A switch that answers each message 00, and stands still for a while in the middle."""

    def __init__(self, pause_s: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._pause_s = pause_s
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        buffer, paused, begun = FrameBuffer(), False, time.perf_counter()
        with connection:
            while data := connection.recv(65_536):
                if not paused and time.perf_counter() > begun + 0.1:
                    time.sleep(self._pause_s)
                    paused = True
                for raw in buffer.feed(data):
                    message = decode(ISO87_BINARY, raw)
                    fields = bytes.fromhex("0210" + "0020000002000000")
                    stan = bytes.fromhex(message.get(DE.STAN) or "")
                    connection.sendall(pack(Header.BINARY2, fields + stan + b"00"))

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    standing = Sleeper(0.3)
    yield standing
    standing.close()


def test_an_open_loop_counts_from_the_intended_instant(sleeper: Sleeper) -> None:
    """While the switch stands still messages go on being due, and their wait is counted."""
    link = LoadLink(sleeper.address, ISO87_BINARY)
    link.frames.extend(built(Scenario.REDEEM, 600))
    load = Load([link])
    load.open(rate=1000, seconds=0.6)
    result = load.result()
    link.socket.close()
    assert (result["answered"], result["unanswered"], result["codes"]) == (600, 0, {"00": 600})
    waited = sorted(load.latencies)
    assert waited[-1] > 0.25
    # some 300 were due during the pause: a closed loop would have seen one
    assert sum(1 for latency in waited if latency > 0.05) > 150


def test_a_closed_loop_keeps_its_share_in_flight(sleeper: Sleeper) -> None:
    link = LoadLink(sleeper.address, ISO87_BINARY)
    link.frames.extend(built(Scenario.REDEEM, 600))
    load = Load([link])
    load.closed(in_flight=4, seconds=0.6)
    link.socket.close()
    result = load.result()
    assert result["unanswered"] == 0
    assert 8 < result["answered"] <= 600
    assert sum(1 for latency in load.latencies if latency > 0.25) <= 4


def test_locust_users_trade_without_a_failure(tmp_path: Path) -> None:
    """Both kinds of users, headless, against a switch of their own."""
    switch = Demo(tmp_path)
    switch.start()
    try:
        command = [sys.executable, "-m", "locust", "-f", "bench/locustfile.py", "--headless"]
        command += ["--demo", str(switch.data / "demo.json"), "-u", "6", "-r", "6", "-t", "4s"]
        command += ["--csv", str(tmp_path / "load"), "--only-summary"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        switch.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "load_stats.csv").open() as file:
        rows = {(row["Type"], row["Name"]): row for row in csv.DictReader(file)}
    assert rows["", "Aggregated"]["Failure Count"] == "0"
    assert int(rows["redeem", "00"]["Request Count"]) > 50
    assert {"balance", "load", "activate", "repeat"} <= {kind for kind, _ in rows}
