"""Value with an origin and a last day over the wire; limits; sweepers that are killed."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from tests.client.demo import Demo, eventually, running_demo
from tests.client.messages import Card
from tests.client.terminal import Terminal

LOT_EXPIRY, LOT_RENEWAL, DORMANCY_FEE = 17, 18, 19
SPONSOR = "1"
PROMOTIONS = 2
FEE_MINOR = 200
EPOCH = datetime.date(1970, 1, 1)
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """Two workers; the first is killed at once, while it sweeps what the demo's idle cards owe."""
    with running_demo("lots-", "--demo-cards", "20", settings="workers = 2\n") as started:
        kill_workers(started, rounds=3)
        yield started


@pytest.fixture
def desk(demo: Demo) -> Iterator[Terminal]:
    """A terminal of the programme's own."""
    with demo.network(demo.programme_entries[0]) as terminal:
        assert terminal.sign_on().code == "00"
        yield terminal


def query(demo: Demo, text: str, *values: object) -> list[dict[str, Any]]:
    async def run() -> list[Any]:
        connection = await asyncpg.connect(demo.json["postgres"])
        try:
            return list(await connection.fetch(text, *values))
        finally:
            await connection.close()

    return [dict(row) for row in asyncio.run(run())]


def available(demo: Demo, card: Card) -> int:
    with demo.pos() as terminal:
        return terminal.balance(card).purses["60"].available_minor


def card_id(demo: Demo, tx: str) -> int:
    return int(query(demo, "select card_id from link where tx = $1", tx)[0]["card_id"])


def kill_workers(demo: Demo, rounds: int) -> None:
    """Each time as soon as others are there; return when others answer."""
    for _ in range(rounds):
        eventually(lambda: sum(map(killed, worker_pids(demo))), PATIENCE_S)
    ready = demo.json["metrics"].replace("/metrics", "/readyz")
    eventually(lambda: urllib.request.urlopen(ready, timeout=5).status == 200, PATIENCE_S)
    eventually(lambda: demo.pos().close() is None, PATIENCE_S)


def worker_pids(demo: Demo) -> list[int]:
    """As they are now."""
    return list(json.loads((demo.data / "demo.json").read_text())["pids"]["workers"])


def killed(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def counted(demo: Demo, kind: str, outcome: str) -> float:
    """Requests of the sweeper, over all workers since these began."""
    with urllib.request.urlopen(demo.json["metrics"], timeout=5) as page:
        text = page.read().decode()
    pattern = rf'^cardswitch_swept_total{{[^}}]*kind="{kind}",outcome="{outcome}"[^}}]*}} (\S+)$'
    return sum(map(float, re.findall(pattern, text, re.MULTILINE)))


def links(demo: Demo, operation: int, ids: list[int]) -> list[dict[str, Any]]:
    text = "select * from link where operation = $1 and card_id = any($2) order by card_id"
    return query(demo, text, operation, ids)


def whole(demo: Demo) -> None:
    """`verify --full` and `rebuild` find nothing."""
    lag = "select links from projection_lag()"
    eventually(lambda: query(demo, lag)[0]["links"] == 0, PATIENCE_S)
    for verb in (["verify", "--full"], ["rebuild"]):
        said = subprocess.run(
            [sys.executable, "-m", "switch", *verb, "--data", str(demo.data)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert said.returncode == 0, said.stdout + said.stderr


# Origins


def test_the_programme_gives_value_that_a_till_may_not(demo: Demo, desk: Terminal) -> None:
    card = demo.cards.others[0]
    terms = {"OG": "PROMO", "SP": SPONSOR}
    given = desk.load(card, 700, **terms)
    assert given.code == "00"
    posted = query(demo, "select * from ledger_posting where tx = $1", given.tx)
    assert [(p["debit"], p["amount_minor"]) for p in posted] == [("promo:1", 700)]
    for refuser in (demo.pos(), demo.network()):
        with refuser as terminal:
            if terminal.identity.packager.value == "iso87-ascii":
                assert terminal.sign_on().code == "00"
            for said in (terms, {"XD": "20991231"}, {"CA": "1"}, {"OG": "PAID"}):
                refused = terminal.load(card, 700, **said)
                assert (refused.code, refused.why) == ("58", "PERMISSION")
            before = available(demo, card)
    # Promotional value is not paid out: 90.00 of 107.00 is all that is cashable.
    with demo.pos() as till:
        assert before == 10_700
        assert till.cash_out(card, de4="000000009001").why == "CASHABLE"


@pytest.mark.parametrize(
    ("terms", "answer"),
    [
        ({"OG": "GIFT"}, ("30", "FORMAT")),
        ({"XD": "20261301"}, ("30", "FORMAT")),
        ({"XD": "2026"}, ("30", "FORMAT")),
        ({"OG": "PROMO", "SP": "x"}, ("30", "FORMAT")),
        ({"CA": "Y"}, ("30", "FORMAT")),
        ({"OG": "REFUND", "IN": "A" * 41}, ("30", "FORMAT")),
        ({"OG": "PROMO", "SP": "99"}, ("12", "SPONSOR")),
        ({"OG": "REWARD"}, ("12", "SPONSOR")),
        ({"XD": "20200101"}, ("12", "LASTDAY")),
        ({"OG": "PROMO", "SP": SPONSOR, "CA": "1"}, ("12", "CASHABLE")),
        ({"OG": "REFUND"}, ("12", "ORDER")),
    ],
)
def test_terms_that_make_no_sense(
    demo: Demo, desk: Terminal, terms: dict[str, str], answer: tuple[str, str]
) -> None:
    refused = desk.load(demo.cards.others[1], 100, **terms)
    assert (refused.code, refused.why) == answer


def test_an_order_that_was_not_filled_is_refunded_once(demo: Demo, desk: Terminal) -> None:
    card = demo.cards.others[1]
    terms = {"OG": "REFUND", "IN": "ORDER 4711/26"}
    given = desk.load(card, 300, **terms)
    assert given.code == "00"
    assert desk.repeat(given).tx == given.tx
    assert desk.repeat(given, IN="ORDER 4712/26").code == "94"
    assert desk.repeat(given, OG="PAID").code == "94"
    assert available(demo, card) == 10_300
    posted = query(demo, "select * from ledger_posting where tx = $1", given.tx)
    assert [p["debit"].split(":")[0] for p in posted] == ["merchant"]
    # It is value of its own kind, and a reversal takes it back.
    assert desk.reverse(given).state == "REVERSED"
    assert available(demo, card) == 10_000


# Limits


def test_limits_say_which_and_until_when(demo: Demo) -> None:
    card = demo.cards.others[2]
    with demo.pos() as till:
        refused = till.redeem(card, 5_001)
        assert (refused.code, refused.why) == ("61", "TRANSACTIONLIMIT")
        assert "RT" not in refused.private
        sale = till.redeem(card, 5_000)
        assert sale.code == "00"
        refused = till.redeem(card, 3_001)
        assert (refused.code, refused.why) == ("61", "DAYLIMIT")
        midnight = datetime.datetime.strptime(refused.private["RT"], "%Y%m%d%H%M%S")
        assert midnight.time() == datetime.time()
        assert till.repeat(refused).private["RT"] == refused.private["RT"]
        assert till.reverse(sale).state == "REVERSED"
        assert [till.redeem(card, 1).code for _ in range(5)] == ["00"] * 5
        refused = till.redeem(card, 1)
        assert (refused.code, refused.why) == ("65", "DAYCOUNT")
        refused = till.load(card, 20_000)
        assert (refused.code, refused.why) == ("61", "BALANCELIMIT")
        # What was decided at the till is not refused by a limit.
        assert (advice := till.advise(card, 4_000)).code == "00" and not advice.why


def test_a_card_may_have_limits_of_its_own(demo: Demo) -> None:
    card = next(card for card in demo.cards.others if card.extra["limit_class"] == 1)
    with demo.pos() as till:
        refused = till.redeem(card, 1_001)
        assert (refused.code, refused.why) == ("61", "TRANSACTIONLIMIT")
        assert till.redeem(card, 1_000).code == "00"
        assert till.redeem(card, 501).why == "DAYLIMIT"


def test_a_limit_that_is_changed_holds_in_seconds(demo: Demo) -> None:
    card = demo.cards.others[3]
    change = "update card_limit set transaction_max_minor = $1 where limit_class = 0"
    query(demo, change, 60)
    try:
        with demo.pos() as till:
            eventually(lambda: till.redeem(card, 61).why == "TRANSACTIONLIMIT", PATIENCE_S)
    finally:
        query(demo, change, 5_000)
    with demo.pos() as till:
        eventually(lambda: till.redeem(card, 61).why != "TRANSACTIONLIMIT", PATIENCE_S)


def test_the_first_programme_has_no_limits(demo: Demo) -> None:
    card = demo.cards.active()
    with demo.pos() as till:
        assert till.load(card, 900_000).code == "00"
        assert till.redeem(card, 905_000).code == "00"


# What time does


def test_a_day_that_ends_takes_every_lot_once_whoever_dies(demo: Demo) -> None:
    """The programme's day is moved on by its offset; workers die while they sweep."""
    now = datetime.datetime.now(datetime.UTC)
    # Its day is hours from its end before, so that it does not end by itself meanwhile.
    before_min, after_min = (-840, 0) if now.hour < 12 else (-720, 840)
    today = (now + datetime.timedelta(minutes=before_min)).date()
    move_day(demo, before_min)
    cards = demo.cards.others[4:12]
    # A worker that has not read it yet takes today for over: 12, and the next try is taken.
    terms = {"OG": "PROMO", "SP": SPONSOR, "XD": today.strftime("%Y%m%d")}
    with demo.network(demo.programme_entries[0]) as desk:
        assert desk.sign_on().code == "00"
        eventually(lambda: desk.load(cards[0], 1, **terms).code == "00", PATIENCE_S)
        given = [desk.load(card, 1_000 + n, **terms) for n, card in enumerate(cards)]
        # Nor has every worker read that the limit which the test above lowered is back.
        kept = eventually(
            lambda: (held := desk.hold(cards[0], 1_001)).approved and held, PATIENCE_S
        )
    assert {reply.code for reply in (*given, kept)} == {"00"}
    ids = [card_id(demo, reply.tx) for reply in given]
    move_day(demo, after_min)
    kill_workers(demo, rounds=3)
    eventually(lambda: len(links(demo, LOT_EXPIRY, ids)) >= len(cards) - 1, PATIENCE_S)
    ended = links(demo, LOT_EXPIRY, ids)
    assert [row["card_id"] for row in ended] == ids[1:]
    assert [-row["amount_minor"] for row in ended] == [1_000 + n for n in range(1, len(ids))]
    booked = query(
        demo,
        "select credit, sum(amount_minor)::bigint as minor from ledger_posting"
        " where tx = any($1) group by credit",
        [row["tx"] for row in ended],
    )
    gone_minor = sum(1_000 + n for n in range(1, len(ids)))
    assert [(row["credit"], row["minor"]) for row in booked] == [("promo:1", gone_minor)]
    # What is held is still owed, and completed after its last day.
    liable = (
        "select sum(available_minor)::bigint as there, sum(held_minor)::bigint as held"
        " from liability where expires_day = $1"
    )
    day = (today - EPOCH).days
    eventually(
        lambda: tuple(query(demo, liable, day)[0].values()) == (0, 1_001),
        PATIENCE_S,
    )
    again_due(demo, "due_day = 1", ids[1:])
    with demo.pos() as till, demo.network(demo.programme_entries[0]) as desk:
        assert desk.sign_on().code == "00"
        done = desk.complete(kept, 600)
        assert (done.code, done.why) == ("00", "")
        # What it did not use has a new life: a lot of its own.
        renewed = links(demo, LOT_RENEWAL, ids[:1])
        assert [row["amount_minor"] for row in renewed] == [0]
        assert till.balance(cards[0]).purses["60"].available_minor == 10_000 + 401
        assert till.balance(cards[1]).purses["60"].available_minor == 10_000
    assert len(links(demo, LOT_EXPIRY, ids)) == len(ids) - 1
    whole(demo)


def test_an_idle_card_pays_once_a_month_whoever_dies(demo: Demo) -> None:
    """Workers were killed when the demo began; later the projection says again that it is due."""
    idle = "select card_id from card_life where programme_id = $1 and last_active_day < $2"
    long_ago = (datetime.datetime.now(datetime.UTC).date() - EPOCH).days - 400
    ids = [row["card_id"] for row in query(demo, idle, PROMOTIONS, long_ago)]
    cards = [card for card in demo.cards.others if card.extra["idle_days"]]
    assert len(ids) == len(cards) == 4
    eventually(lambda: len(links(demo, DORMANCY_FEE, ids)) >= len(ids), PATIENCE_S)
    again_due(demo, "fee_month = 0", ids)
    charged = links(demo, DORMANCY_FEE, ids)
    assert [(row["card_id"], row["amount_minor"]) for row in charged] == [
        (each, -FEE_MINOR) for each in sorted(ids)
    ]
    assert [available(demo, card) for card in cards] == [10_000 - FEE_MINOR] * len(cards)
    booked = query(
        demo,
        "select credit, amount_minor from ledger_posting where tx = any($1)",
        [row["tx"] for row in charged],
    )
    assert [(row["credit"], row["amount_minor"]) for row in booked] == [
        (f"fee:{PROMOTIONS}", FEE_MINOR)
    ] * len(ids)
    whole(demo)


def move_day(demo: Demo, minutes: int) -> None:
    """Where the programme's days begin; workers read it within seconds, and those that begin."""
    change = "update programme set utc_offset_min = $1 where programme_id = $2"
    query(demo, change, minutes, PROMOTIONS)


def again_due(demo: Demo, what: str, ids: list[int]) -> None:
    """The sweeper finds these cards once more, and hears each time that nothing is due."""
    kind = "dormancy" if "fee" in what else "lot"
    eventually(lambda: query(demo, "select links from projection_lag()")[0]["links"] == 0, 60)
    kept = query(demo, "select * from card_life where card_id = any($1)", ids)
    answered = counted(demo, kind, "done") + counted(demo, kind, "not_done")
    query(demo, f"update card_life set {what} where card_id = any($1)", ids)
    eventually(
        lambda: (
            counted(demo, kind, "done") + counted(demo, kind, "not_done") >= answered + len(ids)
        ),
        PATIENCE_S,
    )
    column = what.split(" ", maxsplit=1)[0]
    for row in kept:
        query(
            demo,
            f"update card_life set {column} = $1 where card_id = $2",
            *(row[column], row["card_id"]),
        )


def test_staff_thaws_a_card_that_a_shortfall_froze(demo: Demo, desk: Terminal) -> None:
    card = demo.cards.active()
    with demo.pos() as till, demo.network() as network:
        assert network.sign_on().code == "00"
        load = till.load(card, 500)
        assert till.redeem(card, 10_500).code == "00"
        assert till.reverse(load).state == "PARTIAL"
        frozen = till.load(card, 700)
        assert (frozen.code, frozen.why) == ("62", "STATUS")
        assert network.unblock(card).code == "62", "a network may not"
        thaw = desk.unblock(card)
        assert thaw.code == "00"
        assert till.load(card, 700).code == "00"
        assert till.redeem(card, 300).available_minor == 400, "the shortfall is nobody's to repay"
        assert desk.reverse(thaw).state == "REVERSED"
        assert till.redeem(card, 1).code == "62"
    assert demo.verify().returncode == 0
