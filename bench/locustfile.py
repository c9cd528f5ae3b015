"""Scenario load with Locust: lock-step terminals and host links, real MACs, replies checked.

    locust -f bench/locustfile.py --demo .data/demo.json            # the web page on port 8089
    locust -f bench/locustfile.py --demo .data/demo.json --headless -u 200 -r 50 -t 60s Terminal

Two kinds of users: `Terminal` waits for each answer, as a till does, and thinks a while between
two; `HostLink` keeps many messages in flight on one connection, as an acquirer's host does. What
they ask for is weighted like a day at the till. A decline is an answer, and is listed by its code;
a failure is one that says the switch could not (30, 58, 63, 91, 94, 96), a wrong MAC, or none.

For a rate that does not depend on the answers use `python -m bench.load --rate`. Locust runs on
gevent, which patches the process: nothing of the switch that uses Trio may be imported here.
"""

from __future__ import annotations

import datetime
import itertools
import json
import random
import socket
import struct
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
from gevent.event import AsyncResult
from locust import User, between, constant, events, task
from locust.env import Environment

from bench.messages import Fields, card_fields, reversal_fields
from fastpath.codec import Message, decode, encode_unsealed, seal
from fastpath.framing import FrameBuffer, Header, pack
from fastpath.mac import MacAlgorithm, MacKey
from fastpath.packager import Packager
from fastpath.specs import DE, packagers

_ANSWER_WITHIN_S = 10.0
_FAILURES = frozenset({"30", "58", "63", "91", "94", "96"})
_STANS_PER_PROCESS = 50_000
_WEIGHTS = {"redeem": 70, "activate": 10, "balance": 10, "load": 5, "repeat": 3, "reverse": 2}
_CODES = {
    "redeem": ("0200", "006000"),
    "activate": ("0200", "900060"),
    "balance": ("0100", "316000"),
    "load": ("0200", "210060"),
}


class Wrong(Exception):
    """What makes an answer a failure; the text is the reason that Locust shows."""


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--demo", default=".data/demo.json", help="demo.json of the switch")
    parser.add_argument("--window", type=int, default=64, help="in flight per host link")


class Programme:
    """The demo programme, with what all users of this process share: trace numbers, keys."""

    def __init__(self, path: Path, process_number: int) -> None:
        demo = json.loads(path.read_text())
        self.address = (demo["switch"]["host"], demo["switch"]["port"])
        self.packager: Packager = packagers()[demo["switch"]["packager"]]
        self.currency: str = demo["currency"]
        self.terminals = [terminal for terminal in demo["terminals"] if terminal["link"] is None]
        self.keys = {
            each["id"]: MacKey(MacAlgorithm(each["mac"]), bytes.fromhex(each["mac_key"]))
            for each in self.terminals
        }
        contract = [card for card in demo["cards"] if "programme" not in card]  # without limits
        self.active = [card for card in contract if card["status"] == "active"]
        self.issued = [card for card in demo["cards"] if card["status"] == "issued"]
        first = process_number * _STANS_PER_PROCESS
        self.stans: dict[str, Iterator[int]] = {
            each["id"]: itertools.count(first) for each in self.terminals
        }
        self._turn = itertools.cycle(self.terminals)

    def next_terminal(self) -> dict[str, Any]:
        """Terminals are handed out in turn."""
        return next(self._turn)


@events.test_start.add_listener
def _load_programme(environment: Environment, **_: object) -> None:
    options: Any = environment.parsed_options
    number = getattr(environment.runner, "worker_index", 0)
    environment.programme = Programme(Path(options.demo), max(number, 0))  # type: ignore[attr-defined]


class Wire:
    """One connection of one terminal."""

    def __init__(self, programme: Programme) -> None:
        self.programme = programme
        self.terminal = programme.next_terminal()
        self.key = programme.keys[self.terminal["id"]]
        self.socket = socket.create_connection(programme.address, timeout=_ANSWER_WITHIN_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = FrameBuffer()
        self._last_redeemed: Fields | None = None

    def message(self) -> tuple[str, str, Fields]:
        """The next thing to ask for: its name, type and fields."""
        name = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        last = self._last_redeemed
        if name in ("repeat", "reverse") and last is None:
            name = "redeem"
        if name == "repeat":
            assert last is not None
            return name, "0201", last
        stan = f"{next(self.programme.stans[self.terminal['id']]) % 1_000_000:06d}"
        if name == "reverse":
            assert last is not None
            self._last_redeemed = None
            return name, "0400", reversal_fields(last, stan)
        mti, code = _CODES[name]
        card = random.choice(self.programme.issued if name == "activate" else self.programme.active)
        now = datetime.datetime.now(datetime.UTC)
        amount_minor = {"balance": 0, "activate": 2500}.get(name, random.randint(1, 50))
        currency = self.programme.currency
        return name, mti, card_fields(self.terminal, card, code, stan, now, currency, amount_minor)

    def send(self, mti: str, fields: Fields) -> None:
        """Seal and send."""
        packager = self.programme.packager
        body = encode_unsealed(packager, mti, fields)
        self.socket.sendall(pack(Header.BINARY2, seal(packager, body, self.key.sign(body))))

    def receive(self) -> list[Message]:
        """Replies, at least one; their MACs are checked."""
        while True:
            data = self.socket.recv(65_536)
            if not data:
                raise Wrong("the switch closed the connection")
            replies = [decode(self.programme.packager, raw) for raw in self._buffer.feed(data)]
            for reply in replies:
                if not self.key.verify(reply.raw[: reply.mac_covers], reply.mac or b""):
                    raise Wrong("a reply with a wrong MAC")
            if replies:
                return replies

    def answered(self, name: str, fields: Fields, reply: Message) -> None:
        """What a till keeps in mind of an answer."""
        if name == "redeem" and reply.get(int(DE.RESPONSE_CODE)) == "00":
            self._last_redeemed = fields

    def close(self) -> None:
        """Hang up at once."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class _SwitchUser(User):
    """What both kinds have: a connection, and a word to Locust for each answer."""

    abstract = True
    wire: Wire

    def on_start(self) -> None:
        """Connect."""
        self.wire = Wire(self.environment.programme)

    def on_stop(self) -> None:
        """Hang up."""
        self.wire.close()

    def tell(self, name: str, begun: float, reply: Message | None, wrong: str = "") -> None:
        """One answer, or that there was none."""
        code = (reply.get(int(DE.RESPONSE_CODE)) or "") if reply is not None else ""
        wrong = wrong or (f"answered {code}" if code in _FAILURES else "")
        self.environment.events.request.fire(
            request_type=name,
            name=code or "none",
            response_time=(time.perf_counter() - begun) * 1000,
            response_length=len(reply.raw) if reply is not None else 0,
            exception=Wrong(wrong) if wrong else None,
            context={},
        )


class Terminal(_SwitchUser):
    """A till: one message, its answer, a while of nothing."""

    wait_time = between(0.05, 0.5)

    @task
    def trade(self) -> None:
        """One message of the day's mix."""
        name, mti, fields = self.wire.message()
        begun = time.perf_counter()
        try:
            self.wire.send(mti, fields)
            (reply,) = self.wire.receive()
        except (OSError, Wrong) as error:
            self.tell(name, begun, None, str(error) or type(error).__name__)
            self.wire.close()
            self.on_start()
            return
        self.wire.answered(name, fields, reply)
        self.tell(name, begun, reply)


class HostLink(_SwitchUser):
    """An acquirer's host: many messages in flight, answers in any order."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect, and read on the side."""
        super().on_start()
        self._window: int = self.environment.parsed_options.window
        self._asked: dict[str, tuple[str, float, Fields]] = {}
        self._room: AsyncResult[None] | None = None
        self._reader = gevent.spawn(self._read)

    def on_stop(self) -> None:
        """Let what is in flight arrive, then hang up."""
        with gevent.Timeout(_ANSWER_WITHIN_S, False):
            while self._asked:
                gevent.sleep(0.01)
        self._reader.kill()
        for name, begun, _ in self._asked.values():
            self.tell(name, begun, None, "no answer")
        super().on_stop()

    def _read(self) -> None:
        while True:
            for reply in self.wire.receive():
                name, begun, fields = self._asked.pop(reply.get(int(DE.STAN)) or "")
                self.wire.answered(name, fields, reply)
                self.tell(name, begun, reply)
            if self._room is not None and len(self._asked) < self._window:
                self._room.set(None)
                self._room = None

    @task
    def trade(self) -> None:
        """The next message, as soon as the window has room."""
        name, mti, fields = self.wire.message()
        stan = str(fields[DE.STAN])
        if stan in self._asked:  # a repeat of what is still in flight: its reply could be either's
            return
        if len(self._asked) >= self._window:
            self._room = AsyncResult()
            self._room.get(timeout=_ANSWER_WITHIN_S)
        self._asked[stan] = (name, time.perf_counter(), fields)
        self.wire.send(mti, fields)
