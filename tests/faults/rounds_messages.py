"""Rows F12 to F15, F17, F18: what comes over the line, on the real socket of a real switch."""

from __future__ import annotations

import contextlib
import datetime
import random
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from fault_frames import mutated, through_link, wrong_macs
from fault_invariants import check, demand, is_echo_of_reversed
from fault_load import Asked, Kind
from fault_round import Scene, fault
from fault_switch import sql

from tests.client.messages import Card, Reply, Request, Seal
from tests.client.terminal import NoReplyError, Terminal

_FRAMES_IN_PROCESS = 50_000
_FRAMES_ON_THE_SOCKET = 400
_MACS_IN_PROCESS = 5_000
_ANSWER_S = 10.0


def links_of(scene: Scene, card: Card, terminal: Terminal) -> int:
    """How many links a card has: the version of its row, found by a sale's TX."""
    reply = terminal.redeem(card, 1)
    (row,) = sql(
        scene.switch.postgres_url,
        f"select version from link where tx = '{reply.tx}'",
    )
    return int(row["version"])


def count_links(scene: Scene) -> int:
    return int(sql(scene.switch.postgres_url, "select count(*) from link")[0][0])


# -- F12 ----------------------------------------------------------------------------------------


@fault("F12", "frames that are wrong in some way")
def fuzzed(scene: Scene) -> None:
    switch, chance = scene.switch, scene.chance
    seeds = []
    for entry in switch.pos_entries[:4]:
        with switch.pos(entry) as terminal:
            make, card = terminal.make, switch.cards.active()
            sale = make.redeem(card, 100, PA="1", CS="12", pin=card.pin)
            seeds += [sale, make.load(card, 5), make.balance(card), make.reverse(sale)]
            seeds += [make.hold(card, 7), make.advise(card, 7), make.outcome(sale)]
    frames = [seed.frame for seed in seeds]
    scene.counts["frames"] += through_link(frames, chance, _FRAMES_IN_PROCESS)
    # on the socket none of them may do anything: their MAC is of another key
    foreign = [
        terminal_frame(switch, entry, chance) for entry in switch.pos_entries[:4] for _ in range(10)
    ]
    links = count_links(scene)
    honest = switch.cards.active()
    with switch.pos() as witness:
        for turn in range(_FRAMES_ON_THE_SOCKET // 20):
            with contextlib.suppress(OSError, NoReplyError), switch.connection() as connection:
                for _ in range(20):
                    frame = mutated(chance.choice(foreign), chance)
                    connection.send_raw(on_the_wire(frame, chance))
                    scene.counts["frames"] += 1
                    scene.counts["frames on the socket"] += 1
                connection.receive_frame(0.02)
            if turn % 5 == 0:
                demand(witness.balance(honest).code == "00", "an honest till is not served")
    demand(count_links(scene) == links, "a frame with a wrong MAC has left a link")
    check(switch.postgres_url, [])
    died = switch.events("worker_died")
    demand(not died or died[-1]["exit"] in (0, -9), "a worker fell over a frame", died)


def terminal_frame(switch: Any, entry: dict[str, Any], chance: random.Random) -> bytes:
    with switch.pos(entry) as terminal:
        card = switch.cards.special("lost")
        make = chance.choice([terminal.make.redeem, terminal.make.load, terminal.make.hold])
        return bytes(make(card, chance.randint(1, 999), seal=Seal.OTHER_KEY).frame)


def on_the_wire(frame: bytes, chance: random.Random) -> bytes:
    """With its length, which lies now and then."""
    length = len(frame)
    if chance.random() < 0.05:
        length = chance.choice([0, 1, length - 1, length + 1, 4096, 4097, 65_535])
    return struct.pack(">H", max(0, min(length, 65_535))) + frame


# -- F13 ----------------------------------------------------------------------------------------


@fault("F13", "one bit of a message or of its MAC is another")
def flipped(scene: Scene) -> None:
    switch, chance = scene.switch, scene.chance
    scene.counts["MACs"] += wrong_macs(chance, _MACS_IN_PROCESS)
    kinds = ("aes-cmac", "retail-mac")
    for mac in kinds:
        card = switch.cards.active()
        with switch.pos(switch.entry(mac=mac)) as terminal:
            links = links_of(scene, card, terminal)
            sale = terminal.make.redeem(card, 100)
            spots = [(len(sale.frame) - 8) * 8 + bit for bit in range(64)]
            spots += [chance.randrange((len(sale.frame) - 8) * 8) for _ in range(64)]
            for spot in spots:
                frame = bytearray(sale.frame)
                frame[spot // 8] ^= 0x80 >> (spot % 8)
                refused(switch, bytes(frame), mac, spot)
                scene.counts["MACs"] += 1
                scene.counts["MACs on the socket"] += 1
            for seal in (Seal.ABSENT, Seal.OTHER_KEY, Seal.FLIPPED_IN_MESSAGE):
                reply = terminal.redeem(card, 100, seal=seal)
                demand(reply.code == "63", "another answer than 63", seal, reply)
                scene.counts["MACs"] += 1
            demand(links_of(scene, card, terminal) == links + 1, "a wrong MAC has left a link")
            demand(terminal.exchange(sale).code == "00", "the right MAC is refused")
    check(switch.postgres_url, [])


def refused(switch: Any, frame: bytes, mac: str, spot: int) -> None:
    """A flipped frame on a line of its own: 63, 58 or 30, or no answer at all."""
    from tests.client import dialect  # noqa: PLC0415

    packager = switch.identity(switch.entry(mac=mac)).packager
    with switch.connection() as connection, contextlib.suppress(NoReplyError):
        connection.send_frames([frame])
        # what cannot be read is not answered: an echo behind it says that it has been looked at
        with switch.pos() as other:
            other.echo()
        _, fields = dialect.unpack(packager, connection.receive_frame(0.1))
        demand(fields.get(39) in {"63", "58", "30"}, "a flipped bit was taken", mac, spot, fields)


# -- F14 ----------------------------------------------------------------------------------------


@fault("F14", "a captured day again, shuffled")
def replayed(scene: Scene) -> None:
    """Every frame of a load once more, over other lines: nothing is done a second time."""
    switch, chance = scene.switch, scene.chance
    with scene.load() as load:
        time.sleep(1.2)
    scene.judge()
    record = [asked for asked in load.record if asked.settling and asked.kind is not Kind.BALANCE]
    links = count_links(scene)
    if chance.random() < 0.5:
        with switch.redis() as cache:
            cache.flushall()
    chance.shuffle(record)
    by_terminal: dict[str, list[Asked]] = {}
    for asked in record:
        by_terminal.setdefault(asked.request.fields[41], []).append(asked)
    entries = {entry["id"]: entry for entry in switch.pos_entries}
    for name, several in by_terminal.items():
        with switch.pos(entries[name]) as terminal:
            for at in range(0, len(several), 50):
                part = several[at : at + 50]
                replies = terminal.pipeline([asked.request for asked in part])
                for asked, reply in zip(part, replies, strict=True):
                    same(asked, reply)
                    scene.counts["replayed frames"] += 1
    demand(count_links(scene) == links, "a replayed frame has left a link")
    check(switch.postgres_url, load.record)


def same(asked: Asked, reply: Reply) -> None:
    first = asked.settling[0]
    if is_echo_of_reversed(reply):
        demand(reply.tx == first.tx, "another TX for what was reversed", first, reply)
        return
    plain = [one for one in asked.settling if not is_echo_of_reversed(one)]
    demand(bool(plain), "approved again after it was reversed", asked, reply)
    demand(plain[0].same_answer() == reply.same_answer(), "a replay is answered anew", asked, reply)


# -- F15 ----------------------------------------------------------------------------------------


@fault("F15", "shared STANs, and three wraps of a terminal's")
def shared_stans(scene: Scene) -> None:
    switch, chance = scene.switch, scene.chance
    card = switch.cards.active()
    spent = 0
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    with contextlib.ExitStack() as stack:
        tills = [stack.enter_context(switch.pos(entry)) for entry in switch.pos_entries[:6]]
        # the same STAN, second, card, amount at several terminals: each is a sale of its own
        requests = [(till, till.make.redeem(card, 10, de11="000777", at=now)) for till in tills]
        replies = [till.exchange(request) for till, request in requests]
        demand(all(reply.code == "00" for reply in replies), "a shared STAN is refused", replies)
        demand(len({reply.tx for reply in replies}) == len(tills), "two sales in one", replies)
        spent += 10 * len(tills)
        for (till, request), reply in zip(requests, replies, strict=True):
            again = till.exchange(request)
            demand(again.same_answer() == reply.same_answer(), "a repeat is answered anew", again)
        # one terminal counts over the end of its STANs, three times within its horizon
        till, seen = tills[0], {replies[0].tx}
        for wrap in range(3):
            at = now - datetime.timedelta(days=15 * wrap, seconds=chance.randrange(3600))
            for stan in ("999998", "999999", "000001", "000002", "000777"):
                at += datetime.timedelta(seconds=1)
                request = till.make.redeem(card, 7, de11=stan, at=at)
                reply = till.exchange(request)
                spent += 7
                demand(reply.code == "00", "a wrapped STAN is refused", wrap, stan, reply)
                demand(reply.tx not in seen, "a wrapped STAN is taken for a repeat", wrap, stan)
                seen.add(reply.tx)
                again = till.exchange(till.make.repeat(request))
                demand(again.same_answer() == reply.same_answer(), "a repeat is answered anew")
                other = till.exchange(till.make.repeat(request, flagged=False, de4=f"{8:012d}"))
                demand(other.code == "94", "another amount under the same key", other)
                scene.counts["STANs"] += 1
        demand(tills[0].balance(card).available_minor == 10_000 - spent, "the balance")
    check(switch.postgres_url, [])


# -- F17 ----------------------------------------------------------------------------------------

_TOGETHER = 8


@fault("F17", "one row of a batch is refused by the database, at each place")
def poisoned(scene: Scene) -> None:
    """A constraint that only one card's rows break: 96 for it, and only for it."""
    switch = scene.switch
    url = switch.postgres_url
    cards = [switch.cards.active() for _ in range(_TOGETHER)]
    with switch.pos() as terminal:
        first = terminal.pipeline([terminal.make.load(card, 5) for card in cards])
        ids = [
            int(sql(url, f"select card_id from link where tx = '{reply.tx}'")[0][0])
            for reply in first
        ]
        table, rule = scene.chance.choice(
            [
                ("link", "card_id <> {}"),
                ("link", "coalesce(postings[2], 0) <> {}"),
                ("card_state", "card_id <> {} or version < 2"),
                ("link", "card_id <> {} or 1 / (card_id - {}) > 0"),
            ]
        )
        for place in scene.chance.sample(range(_TOGETHER), _TOGETHER):
            condition = rule.replace("{}", str(ids[place]))
            if table == "card_state":
                condition = condition.replace("< 2", f"< {place_version(url, ids[place]) + 1}")
            sql(url, f"alter table {table} add constraint poison check ({condition}) not valid")
            try:
                replies = terminal.pipeline([terminal.make.redeem(card, 1) for card in cards])
            finally:
                sql(url, f"alter table {table} drop constraint poison")
            codes = [reply.code for reply in replies]
            expected = ["96" if n == place else "00" for n in range(_TOGETHER)]
            demand(codes == expected, "a row spoils its neighbours", table, place, codes)
            scene.counts["poison rows"] += 1
        after = terminal.pipeline([terminal.make.balance(card) for card in cards])
        left = 10_005 - (_TOGETHER - 1)
        demand(all(one.available_minor == left for one in after), "amounts", after)
    check(url, [])


def place_version(url: str, card_id: int) -> int:
    return int(sql(url, f"select version from card_state where card_id = {card_id}")[0][0])


# -- F18 ----------------------------------------------------------------------------------------


def crowd(
    terminals: int, cards: int, amount: Callable[[random.Random], int]
) -> Callable[[Scene], None]:
    def play(scene: Scene) -> None:
        """All at once on the same cards, each on a line of its own."""
        switch = scene.switch
        wanted = [switch.cards.active() for _ in range(cards)]
        entries = switch.pos_entries
        lines = [switch.pos(entries[n % len(entries)]) for n in range(terminals)]
        requests = [
            [line.make.redeem(card, amount(scene.chance)) for card in wanted] for line in lines
        ]
        start = threading.Barrier(terminals)
        heard: list[tuple[Request, Reply, float]] = []

        def buy(line: Terminal, mine: list[Request]) -> None:
            start.wait()
            begun = time.monotonic()
            line.send(*mine)
            for request in mine:
                heard.append((request, line.receive(request), time.monotonic() - begun))

        threads = [
            threading.Thread(target=buy, args=one) for one in zip(lines, requests, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        demand(len(heard) == terminals * cards, "somebody was not answered", len(heard))
        for card in wanted:
            mine = [(r, a) for r, a, _ in heard if r.card is card]
            settle_up(card, mine, lines[0])
        for line in lines:
            line.close()
        codes = Counter(reply.code for _, reply, _ in heard)
        scene.counts["requests"] += len(heard)
        scene.counts["messages"] += len(heard)
        scene.counts["approvals"] += codes["00"]
        scene.counts["crowds"] += 1
        scene.measure("the last answer of a crowd", max(took for *_, took in heard))
        check(switch.postgres_url, [])

    return play


def settle_up(card: Card, heard: list[tuple[Request, Reply]], line: Terminal) -> None:
    """What was approved fits into the card, and nothing that would have fitted was refused."""
    spent = 0
    for _, reply in heard:
        demand(reply.code in {"00", "51"}, "an answer nobody expects", reply)
        spent += reply.amount_minor if reply.code == "00" else 0
    left = line.balance(card).available_minor
    demand(left == 10_000 - spent, "the balance is not what was approved", left, spent)
    refused = [int(request.fields[4]) for request, reply in heard if reply.code == "51"]
    demand(all(amount > left for amount in refused), "refused though there was enough", left)


fault("F18", "100 tills, one card worth one purchase")(crowd(100, 1, lambda _: 10_000))
fault("F18", "100 tills, one card, any amounts")(crowd(100, 1, lambda c: c.randint(1, 3_000)))
fault("F18", "100 tills, ten cards")(crowd(100, 10, lambda c: c.randint(1, 3_000)))
