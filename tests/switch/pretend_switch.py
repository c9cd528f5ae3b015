"""A pretend switch on two ports, and the demo terminal's command run against it."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastpath.codec import Message, decode, encode_unsealed, seal
from fastpath.framing import FrameBuffer, Header, pack
from fastpath.mac import MacAlgorithm, MacKey
from fastpath.packager import Packager
from fastpath.specs import ISO87_ASCII, ISO87_BINARY
from switch.pos import add_parser
from switch.pos.state import StateFile, TerminalState
from switch.wire.private import build_private

__all__ = [
    "BALANCE",
    "OTHER_PAN",
    "PAN",
    "Pos",
    "PretendSwitch",
    "answer_to",
    "sealed",
    "write_demo",
]

PAN = "9500001234567890128"
OTHER_PAN = "9500009876543210123"
CMAC_KEY = bytes.fromhex("000102030405060708090A0B0C0D0E0F")
RETAIL_KEY = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
MAC_KEYS = {
    "00000001": MacKey(MacAlgorithm.AES_CMAC, CMAC_KEY),
    "00000002": MacKey(MacAlgorithm.RETAIL, RETAIL_KEY),
    "10000001": MacKey(MacAlgorithm.AES_CMAC, RETAIL_KEY),
}
BALANCE = "6001978C000000008750" + "6002978C000000008750"

Answer = dict[int, str | bytes]
Answerer = Callable[[Message], bytes | None]


def answer_to(request: Message, code: str = "00", **private: str) -> Answer:
    """What a switch says: echoes, and its own fields."""
    answer: Answer = {
        number: value
        for number in (2, 3, 4, 7, 11, 12, 13, 41, 42, 49, 70)
        if (value := request.get(number)) is not None
    }
    answer |= {37: "632609000042", 39: code}
    if code in {"00", "10"} and request.mti[1] == "2":
        answer |= {38: "A1B2C3", 54: BALANCE}
    answer[48] = build_private({"TX": "0123456789AB", **private})
    return answer


def sealed(request: Message, answer: Answer, mti: str | None = None) -> bytes:
    key = MAC_KEYS[str(request.get(41))]
    mti = mti or f"{request.mti[:2]}{int(request.mti[2]) + 1}0"
    unsealed = encode_unsealed(request.packager, mti, answer)
    return seal(request.packager, unsealed, key.sign(unsealed))


class PretendSwitch:
    """Two ports, each message answered by `answerer`; everything that came is kept."""

    def __init__(self) -> None:
        self.answerer: Answerer = lambda request: sealed(request, answer_to(request))
        self.requests: list[Message] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.ports = [self._listen(ISO87_BINARY), self._listen(ISO87_ASCII)]

    def _listen(self, packager: Packager) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.02)
        thread = threading.Thread(target=self._accept, args=(listener, packager))
        thread.start()
        self._threads.append(thread)
        port: int = listener.getsockname()[1]
        return port

    def _accept(self, listener: socket.socket, packager: Packager) -> None:
        with listener:
            while not self._stop.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                thread = threading.Thread(target=self._serve, args=(connection, packager))
                thread.start()
                self._threads.append(thread)

    def _serve(self, connection: socket.socket, packager: Packager) -> None:
        buffer = FrameBuffer()
        connection.settimeout(0.02)
        with connection:
            while not self._stop.is_set():
                try:
                    data = connection.recv(4096)
                except TimeoutError:
                    continue
                except ConnectionError:
                    return
                if not data:
                    return
                for frame in buffer.feed(data):
                    request = decode(packager, frame)
                    key = MAC_KEYS[str(request.get(41))]
                    assert request.mac is not None
                    assert key.verify(request.raw[: request.mac_covers], request.mac)
                    self.requests.append(request)
                    reply = self.answerer(request)
                    if reply is None:
                        return
                    if reply:
                        connection.sendall(pack(Header.BINARY2, reply))

    def answers(self, code: str, **private: str) -> None:
        self.answerer = lambda request: sealed(request, answer_to(request, code, **private))

    def close(self) -> None:
        self._stop.set()
        while self._threads:
            self._threads.pop().join()


def write_demo(data_dir: Path, port: int, network_port: int) -> None:
    def terminal(number: str, link: str | None, mac: str, key: bytes) -> dict[str, Any]:
        return {
            "id": number,
            "merchant": "000000000000001",
            "link": link,
            "mac": mac,
            "mac_key": key.hex(),
            "pin_key": RETAIL_KEY.hex(),
            "pin_format": 0,
            "kek": CMAC_KEY.hex(),
            "key_version": 1,
            "floor_limit": 5000,
            "utc_offset_min": 0,
        }

    demo = {
        "switch": {
            "host": "127.0.0.1",
            "port": port,
            "packager": "iso87-binary",
            "network_port": network_port,
            "network_packager": "iso87-ascii",
        },
        "currency": "978",
        "terminals": [
            terminal("00000001", None, "aes-cmac", CMAC_KEY),
            terminal("00000002", None, "retail-mac", RETAIL_KEY),
            terminal("10000001", "network", "aes-cmac", RETAIL_KEY),
        ],
        "cards": [],
        "users": [],
    }
    (data_dir / "demo.json").write_text(json.dumps(demo))


class Pos:
    """Runs commands and keeps what they printed."""

    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        parser = argparse.ArgumentParser(prog="cardswitch")
        add_parser(parser.add_subparsers())
        args = parser.parse_args(["pos", "--data", str(self.data_dir), *words])
        status: int = args.run(args)
        self.out, self.err = self.capsys.readouterr()
        return status

    def json(self, *words: str) -> tuple[int, dict[str, Any], Any]:
        status = self(*words, "--json")
        shown = json.loads(self.out)
        return status, shown["request"], shown["reply"]

    def row(self, label: str) -> str:
        """The value in the line of this label."""
        for line in self.out.splitlines():
            if line.startswith(f"  {label:<18} "):
                return line[21:].strip()
        raise AssertionError(f"no line {label!r} in:\n{self.out}")

    def state(self, terminal: str = "00000001") -> TerminalState:
        with StateFile(self.data_dir, terminal).locked() as state:
            return state
