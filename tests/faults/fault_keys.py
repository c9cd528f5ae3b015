"""A terminal whose key changes again and again while it sells on several connections."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import psec

from tests.client.demo import Demo
from tests.client.messages import Card, Request
from tests.client.terminal import NoReplyError, Terminal

__all__ = ["KeyTill"]

KEY_CHANGE: Any = "101"
LANES, QUEUED = 3, 4
PATIENCE_S = 30.0
CONNECTION_LOST = (OSError, NoReplyError)


class KeyTill:
    """A terminal with several connections, which go over to a new key each at its own time."""

    def __init__(
        self, demo: Demo, entry: dict[str, Any], seed: int | str, keys: list[bytes] | None = None
    ) -> None:
        """`keys`: all that the terminal has had since the first one, where that is not demo.json's.
        Those that come are added.
        """
        self.demo = demo
        self.entry = entry
        self.kek = bytes.fromhex(entry["kek"])
        self.keys = [bytes.fromhex(entry["mac_key"])] if keys is None else keys
        self.changes = 0
        self.held = [len(self.keys) - 1] * LANES
        self.cards: list[Card] = [demo.cards.active() for _ in range(LANES)]
        self.codes: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.problems: list[BaseException] = []
        self.over = threading.Event()
        self._chance = random.Random(seed)
        jobs = [(self._change, ())] + [(self._trade, (number,)) for number in range(LANES)]
        self._threads = [threading.Thread(target=self._safely, args=job) for job in jobs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when all is answered that was asked."""
        self.over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE_S)

    def _safely(self, job: Any, args: tuple[Any, ...]) -> None:
        try:
            job(*args)
        except BaseException as error:
            self.problems.append(error)

    def _connect(self) -> Terminal:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.demo.pos(self.entry)
            except OSError:
                assert time.monotonic() < deadline, "no worker takes connections"
                time.sleep(0.02)

    def _with(self, terminal: Terminal, version: int) -> Terminal:
        identity = dataclasses.replace(terminal.identity, mac_key=self.keys[version])
        return Terminal(identity, terminal.connection)

    def _trade(self, number: int) -> None:
        """Sales in small heaps under one key; what was lost is asked again under that same key."""
        chance, card = random.Random(f"{self.entry['id']} {number}"), self.cards[number]
        terminal = self._connect()
        while not self.over.is_set():
            if chance.random() < 0.2:
                self.held[number] = len(self.keys) - 1
            version = self.held[number]
            sale = self._with(terminal, version).make
            named = {"de53": f"{version + 1:02d}{0:014d}"} if chance.random() < 0.5 else {}
            open_requests = [sale.redeem(card, 1, **named) for _ in range(QUEUED)]
            while open_requests:
                open_requests, terminal = self._heap(open_requests, terminal, version)
        terminal.close()

    def _heap(
        self, requests: list[Request], terminal: Terminal, version: int
    ) -> tuple[list[Request], Terminal]:
        """Sends all, hears what can be heard; what is left over, and a connection for it."""
        till, left = self._with(terminal, version), list(requests)
        try:
            till.send(*requests)
            for request in requests:
                self.codes[till.receive(request).code] += 1
                left.remove(request)
        except CONNECTION_LOST:
            self.lost["sales"] += len(left)
            terminal.close()
            terminal = self._connect()
        return [till.make.repeat(request) for request in left], terminal

    def _change(self) -> None:
        while not self.over.is_set():
            self.keys.append(self._ask(len(self.keys) - 1))
            self.changes += 1
            newest = len(self.keys) - 1
            deadline = time.monotonic() + PATIENCE_S
            # the next change only when every connection has gone over: one old key is taken
            while set(self.held) != {newest} and not self.over.is_set() and not self.problems:
                assert time.monotonic() < deadline, "a connection does not go over"
                time.sleep(0.01)

    def _ask(self, version: int) -> bytes:
        """Asks until an answer comes; some are thrown away, then it asks anew or repeats."""
        deadline = time.monotonic() + PATIENCE_S
        request: Request | None = None
        throw_away = self._chance.random() < 0.5
        while True:
            assert time.monotonic() < deadline, "no new key"
            terminal = self._with(self._connect(), version)
            try:
                if request is None or self._chance.random() < 0.5:
                    request = terminal.make.network(KEY_CHANGE)
                else:
                    request = terminal.make.repeat(request)
                terminal.send(request)
                if throw_away:
                    throw_away = False
                    self.lost["keys"] += 1
                    continue
                reply = terminal.receive(request)
                assert reply.code == "00", reply
                header, key = psec.tr31.unwrap(self.kek, reply.private["KB"])
                assert int(header.version_num) == version + 2
                return key
            except CONNECTION_LOST:
                self.lost["keys"] += 1
            finally:
                terminal.close()

    def spent(self) -> int:
        """What the cards have lost. The last worker that was killed may still be met once."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(*CONNECTION_LOST), self._connect() as connection:
                terminal = self._with(connection, len(self.keys) - 1)
                return sum(10_000 - terminal.balance(card).available_minor for card in self.cards)
            assert time.monotonic() < deadline, "no balance"
