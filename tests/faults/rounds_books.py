"""Rows F22 and F23: batches that close while their terminals sell, and books that were changed."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from fault_invariants import check, demand
from fault_round import Scene, fault
from fault_switch import BrokenSwitch, eventually, sql

from tests.client.messages import Card, Reply, Request
from tests.client.terminal import Terminal
from tests.client.till_totals import TillTotals, told_totals

_TERMINALS = 3
_LINES = 2
"""Connections on which each of them sells."""
_CLOSES = 4
_ASKED_FOR_S = 30.0
_FIRST_TERMINAL = 8  # not those that the other rows' tills work at


# -- F22 ----------------------------------------------------------------------------------------


class Seller(threading.Thread):
    """One line of a terminal: sales, loads and reversals, and what they come to."""

    def __init__(self, switch: BrokenSwitch, entry: dict[str, Any], first_stan: int) -> None:
        super().__init__(daemon=True)
        self._switch = switch
        self._entry = entry
        self._stans = itertools.count(first_stan)
        self.totals = TillTotals()
        self.messages = 0
        self.stopped = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self._switch.pos(self._entry) as line:
                card = self._switch.cards.active()
                while not self.stopped.is_set():
                    self._sell(line, card)
        except BaseException as error:  # told by whoever joins this thread
            self.failure = error

    def _sell(self, line: Terminal, card: Card) -> None:
        load = line.load(card, 30, de11=self._stan())
        sale = line.redeem(card, 20, de11=self._stan())
        undone = line.reverse(sale, de11=self._stan())
        for reply in (load, sale, undone):
            demand(reply.code == "00", "a till that is served", reply)
        self.messages += 3
        self.totals.credit(30)
        self.totals.debit(20)
        self.totals.undo_debit(20)

    def _stan(self) -> str:
        return f"{next(self._stans) % 1_000_000:06d}"


class Closer(threading.Thread):
    """Closes one terminal's batches, on lines of its own, as often as it takes."""

    def __init__(self, scene: Scene, entry: dict[str, Any], times: int) -> None:
        super().__init__(daemon=True)
        self._times = times
        self.failure: BaseException | None = None
        self._scene = scene
        self._entry = entry
        self._stans = itertools.count(900_000)
        self._numbers = itertools.count(scene.chance.randrange(100_000, 900_000))
        self.closed = TillTotals()

    def run(self) -> None:
        try:
            for _ in range(self._times):
                self.close()
        except BaseException as error:  # told by whoever joins this thread
            self.failure = error

    def close(self) -> None:
        """Ask with what the switch last said until it agrees; then the same once more, and anew."""
        number = f"{next(self._numbers):06d}"
        totals = TillTotals()
        deadline = time.monotonic() + _ASKED_FOR_S
        while True:
            request, reply = self._ask(totals, number)
            demand(reply.code in ("00", "95"), "a close that is answered", reply)
            totals = told_totals(reply)
            if reply.code == "00":
                break
            demand(time.monotonic() < deadline, "a batch that closes", reply)
        self.closed = self.closed.plus(totals)
        self._scene.counts["batches closed"] += 1
        with self._scene.switch.pos(self._entry) as line:
            again = line.exchange(line.make.repeat(request))
            demand(again.same_answer() == reply.same_answer(), "closed twice", again, reply)
            demand(told_totals(again) == totals, "other totals for a repeat", again)
            other = line.reconcile(totals, number, de11=self._stan())
            demand(other.code == "05", "one number for two batches", other)

    def _ask(self, totals: TillTotals, number: str) -> tuple[Request, Reply]:
        """One 0500; now and then its 0510 is lost, and a repeat on another line must settle it."""
        with self._scene.switch.pos(self._entry) as line:
            request = line.make.reconcile(totals, number, de11=self._stan())
            if self._scene.chance.random() < 0.5:
                line.send(request)
                self._scene.counts["answers lost"] += 1
            else:
                return request, line.exchange(request)
        with self._scene.switch.pos(self._entry) as line:
            return request, line.exchange(line.make.repeat(request))

    def _stan(self) -> str:
        return f"{next(self._stans):06d}"


@fault("F22", "batches closed while their terminals sell")
def closed_in_traffic(scene: Scene) -> None:
    """Each message counts in one batch: all that closed is all that was sold."""
    switch = scene.switch
    entries = switch.pos_entries[_FIRST_TERMINAL : _FIRST_TERMINAL + _TERMINALS]
    closers = [Closer(scene, entry, 1 if scene.brief else _CLOSES) for entry in entries]
    for closer in closers:
        closer.close()  # what other rounds have left
        closer.closed = TillTotals()
    first = scene.chance.randrange(1_000_000)
    sellers = {
        closer: [Seller(switch, entry, first + 100_000 * n) for n in range(_LINES)]
        for closer, entry in zip(closers, entries, strict=True)
    }
    everybody = [seller for several in sellers.values() for seller in several]
    for seller in everybody:
        seller.start()
    for closer in closers:
        closer.start()
    scene.pause(0.5, 1.0)
    for seller in everybody:
        # with sales under way the totals hardly ever agree: the last of each round comes in quiet
        seller.stopped.set()
    for one in (*everybody, *closers):
        one.join(60)
        demand(not one.is_alive() and one.failure is None, "a line", one.failure)
    for closer, several in sellers.items():
        closer.close()
        sold = TillTotals()
        for seller in several:
            sold = sold.plus(seller.totals)
            scene.counts["messages"] += seller.messages
        demand(closer.closed == sold, "what was closed is not what was sold", closer.closed, sold)
    scene.met(scene.counts["answers lost"], "no answer was lost")
    check(switch.postgres_url, [])


# -- F23 ----------------------------------------------------------------------------------------

# Done with the owner's rights, and undone afterwards: both as statements on one link.
_DEEDS = {
    "changed": (
        "update link set amount_minor = amount_minor + 1 where {link}",
        "update link set amount_minor = amount_minor - 1 where {link}",
    ),
    "changed where nothing adds up": (
        "update link set tx = reverse(tx) where {link}",
        "update link set tx = reverse(tx) where {link}",
    ),
    "given to another terminal": (
        "update link set terminal_id = terminal_id + 1 where {link}",
        "update link set terminal_id = terminal_id - 1 where {link}",
    ),
    "deleted": (
        "create table kept_link as select * from link where {link}; delete from link where {link}",
        "insert into link select * from kept_link; drop table kept_link",
    ),
    "doubled": (
        "insert into link select (jsonb_populate_record(l, jsonb_build_object('version',"
        " 1 + (select max(version) from link where card_id = l.card_id), 'n', 30000))).*"
        " from link l where {link}",
        "delete from link where n = 30000",
    ),
    "exchanged with the one before it": (
        "update link a set body = b.body from link b where a.card_id = b.card_id and"
        " a.version in (b.version + 1, b.version - 1) and a.version in ({pair})"
        " and b.version in ({pair}) and a.card_id = {card}",
        "update link a set body = b.body from link b where a.card_id = b.card_id and"
        " a.version in (b.version + 1, b.version - 1) and a.version in ({pair})"
        " and b.version in ({pair}) and a.card_id = {card}",
    ),
    "a posting changed": (
        "update link set postings[5] = postings[5] + 1 where {link}",
        "update link set postings[5] = postings[5] - 1 where {link}",
    ),
    "sealed anew without the key": (
        # not the newest one: of that a checkpoint may be signed meanwhile
        "create table kept_digest as select * from journal_digest where block = 1;"
        " update journal_digest set digest = sha256(digest), marks = substr(sha256(marks), 1, 4)"
        " where block = 1",
        "update journal_digest j set digest = k.digest, marks = k.marks from kept_digest k"
        " where j.block = k.block; drop table kept_digest",
    ),
}


@fault("F23", "one row of the journal changed, deleted, added, exchanged")
def tampered(scene: Scene) -> None:
    """Whoever has the owner's rights can change the books, and cannot hide it."""
    switch = scene.switch
    url = switch.postgres_url
    with switch.pos() as line:
        card = switch.cards.active()
        demand(line.redeem(card, 10).code == "00", "a sale")
        sale = line.redeem(card, 10)
        # More behind it: what is added at the end of a journal is taken for what comes next.
        for _ in range(4):
            demand(line.redeem(card, 10).code == "00", "a sale")
    (made,) = sql(url, f"select * from link where tx = '{sale.tx}'")
    eventually(lambda: _is_sealed(url), 60)
    _verify(switch, 0)
    link = f"card_id = {made['card_id']} and version = {made['version']}"
    pair = f"{made['version']}, {made['version'] - 1}"
    names = list(_DEEDS)
    for name in scene.chance.sample(names, 2 if scene.brief else len(names)):
        words = {"link": link, "pair": pair, "card": made["card_id"]}
        done, undone = (deed.format(**words) for deed in _DEEDS[name])
        with _deed(url, done, undone):
            _verify(switch, 1, name)
        scene.counts["deeds"] += 1
    _verify(switch, 0, "again")


@contextlib.contextmanager
def _deed(url: str, done: str, undone: str) -> Iterator[None]:
    for statement in done.split("; "):
        sql(url, statement)
    try:
        yield
    finally:
        for statement in undone.split("; "):
            sql(url, statement)


def _is_sealed(url: str) -> bool:
    (lag,) = sql(url, "select links from projection_lag()")
    return bool(lag["links"] == 0)


def _verify(switch: BrokenSwitch, expected: int, *facts: object) -> None:
    """A whole verification must end so: 0, or 1 where something is broken."""
    program = [sys.executable, "-m", "switch", "verify", "--full", "--data", str(switch.data_dir)]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=300)
    ended = (done.returncode, done.stdout[-800:], done.stderr[-300:])
    demand(done.returncode == expected, "a verification", *facts, *ended)
