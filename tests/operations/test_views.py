"""The two views for outside checks: what the ledger says is what the tills were told."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import asyncpg
import pytest

from tests.client.checks import available
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Reason, Reply
from tests.client.terminal import Terminal

T = TypeVar("T")
Rows = list[dict[str, Any]]

CARD_LINKS = """
    SELECT card_id::text AS card_id, version, tx::text AS tx, response::text AS response,
           amount_minor, available_after, posted_at
      FROM card_link
     WHERE card_id IN (SELECT card_id FROM card_link WHERE tx::text = ANY($1))
     ORDER BY card_id, version
"""
POSTINGS = """
    SELECT tx::text AS tx, debit::text AS debit, credit::text AS credit, amount_minor,
           purse::text AS purse, currency::text AS currency, posted_at
      FROM ledger_posting
     WHERE $1::text[] IS NULL OR tx::text = ANY($1)
"""


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def query(switch: Demo, sql: str, transactions: list[str] | None) -> Rows:
    async def ask() -> Rows:
        connection = await asyncpg.connect(switch.json["postgres"])
        try:
            return [dict(row) for row in await connection.fetch(sql, transactions)]
        finally:
            await connection.close()

    return run(ask())


def links(switch: Demo, replies: list[Reply]) -> dict[str, Rows]:
    """All links of the cards that these replies were about, by card, in order of version."""
    by_card: dict[str, Rows] = defaultdict(list)
    for row in query(switch, CARD_LINKS, [reply.tx for reply in replies]):
        by_card[row["card_id"]].append(row)
    return by_card


def postings(switch: Demo, replies: list[Reply]) -> dict[str, Rows]:
    """The postings of these transactions, by transaction id."""
    by_tx: dict[str, Rows] = {reply.tx: [] for reply in replies}
    for row in query(switch, POSTINGS, list(by_tx)):
        by_tx[row["tx"]].append(row)
    return by_tx


def busy_day(till: Terminal, card: Card) -> list[Reply]:
    """A bit of everything on one active card, in order; every reply is a link of its chain."""
    sale = till.redeem(card, 4000)
    day = [
        sale,
        till.load(card, 2500),
        till.redeem(card, 99999),
        till.reverse(sale, final_minor=2500),
        till.refund(card, 1000, sale),
        till.redeem(card, 3000),
        till.reverse(till.make.redeem(card, 50)),
    ]
    day.append(till.reverse(day[5]))
    day.append(till.redeem(card, 700, pin=f"{(int(card.pin) + 1) % 10000:04d}"))
    day.append(till.redeem(card, 800))
    return day


def test_a_cards_links_tell_the_story_that_the_till_was_told(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    day = busy_day(pos, card)
    assert [reply.code for reply in day] == [
        *("00", "00", "51", "00", "00", "00", "00", "00", "55", "00")
    ]
    by_card = links(switch, day)
    assert len(by_card) == 1
    (rows,) = by_card.values()
    versions = [row["version"] for row in rows]
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert all(row["available_after"] >= 0 for row in rows)
    told = [row for row in rows if row["tx"] in {reply.tx for reply in day}]
    assert [row["tx"] for row in told] == [reply.tx for reply in day]
    assert [row["response"] for row in told] == [reply.code for reply in day]
    for row, reply in zip(told, day, strict=True):
        if 54 in reply.fields:
            assert row["available_after"] == reply.available_minor
    assert rows[-1]["available_after"] == day[-1].available_minor == available(pos, card)


def test_a_link_is_posted_now_and_in_order(switch: Demo, pos: Terminal, card: Card) -> None:
    day = [pos.redeem(card, 100) for _ in range(5)]
    (rows,) = links(switch, day).values()
    told = [row for row in rows if row["tx"] in {reply.tx for reply in day}]
    moments = [row["posted_at"] for row in told]
    assert moments == sorted(moments)
    for moment in moments:
        assert abs(moment.astimezone(UTC) - datetime.now(UTC)) < timedelta(minutes=5)


def test_repeats_and_enquiries_leave_no_link(switch: Demo, pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 100)
    before = links(switch, [sale])
    for _ in range(3):
        assert pos.repeat(sale).tx == sale.tx
        assert pos.balance(card).code == "00"
    assert links(switch, [sale]) == before


def test_every_posting_has_two_different_sides_and_a_positive_amount(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    assert busy_day(pos, card)
    rows = query(switch, POSTINGS, None)
    assert rows
    assert all(row["amount_minor"] > 0 for row in rows)
    assert all(row["debit"] != row["credit"] for row in rows)
    assert all(row["debit"] and row["credit"] and row["purse"] for row in rows)
    # Debits equal credits by construction: the balances of all accounts add up to nothing.
    balances: Counter[tuple[str, str]] = Counter()
    for row in rows:
        balances[row["credit"], row["currency"]] += row["amount_minor"]
        balances[row["debit"], row["currency"]] -= row["amount_minor"]
    by_currency: Counter[str] = Counter()
    for (_, currency), balance in balances.items():
        by_currency[currency] += balance
    assert set(by_currency.values()) == {0}


def test_each_transaction_posts_what_it_moved_and_no_more(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 4000)
    loaded = pos.load(card, 2500)
    declined = pos.redeem(card, 99999)
    lowered = pos.reverse(sale, final_minor=2500)
    returned = pos.refund(card, 1000, sale)
    nothing = pos.reverse(pos.make.redeem(card, 50))
    paid = pos.cash_out(card)
    moved = {
        sale.tx: 4000,
        loaded.tx: 2500,
        declined.tx: 0,
        lowered.tx: 1500,
        returned.tx: 1000,
        nothing.tx: 0,
        paid.tx: 10000 - 4000 + 2500 + 1500 + 1000,
    }
    found = postings(switch, [sale, loaded, declined, lowered, returned, nothing, paid])
    assert {tx: sum(row["amount_minor"] for row in rows) for tx, rows in found.items()} == moved
    assert {row["currency"] for rows in found.values() for row in rows} == {"978"}
    # The card stands on one side of every sale, and on the other side of every load and return.
    sides = {
        tx: ({row["debit"] for row in rows}, {row["credit"] for row in rows})
        for tx, rows in found.items()
        if rows
    }
    sold, into = sides[sale.tx], sides[loaded.tx]
    assert (sold[0] & into[1]) or (sold[1] & into[0])


def test_no_card_goes_below_zero_when_a_spent_load_is_reversed(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    loaded = pos.load(card, 2000)
    assert pos.redeem(card, 11500).available_minor == 500
    undone = pos.reverse(loaded, Reason.TIME_OUT)
    assert undone.state == "PARTIAL"
    (rows,) = links(switch, [undone]).values()
    assert rows[-1]["available_after"] == 0
    assert all(row["available_after"] >= 0 for row in rows)
    booked = postings(switch, [undone])[undone.tx]
    # 5.00 from the card, 15.00 from the merchant that loaded: 20.00 in all.
    assert sum(row["amount_minor"] for row in booked) == 2000
    accounts = {row[side] for row in booked for side in ("debit", "credit")}
    assert any(str(account).startswith("shortfall:") for account in accounts)


def test_requests_that_reached_no_card_are_in_no_chain(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    refused = [pos.redeem(card, 100, de41="ZZ999999"), pos.redeem(card, 100, de2="9" * 19)]
    assert [reply.code for reply in refused] == ["58", "14"]
    assert links(switch, refused) == {}
    assert all(not rows for rows in postings(switch, refused).values())


@pytest.mark.parametrize("number", range(3))
def test_chains_stay_whole_under_a_race(switch: Demo, cards: Cards, number: int) -> None:
    card = cards.active()
    tills = [switch.pos(entry) for entry in switch.pos_entries[number * 4 : number * 4 + 4]]
    try:
        rounds = [[till.make.redeem(card, 700) for _ in range(5)] for till in tills]
        for till, requests in zip(tills, rounds, strict=True):
            till.send(*requests)
        replies = [
            till.receive(request)
            for till, requests in zip(tills, rounds, strict=True)
            for request in requests
        ]
    finally:
        for till in tills:
            till.close()
    (rows,) = links(switch, replies).values()
    versions = [row["version"] for row in rows]
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    by_tx = {row["tx"]: row for row in rows}
    # Every answer, the refusals too, is exactly one link, and it says what the till was told.
    assert len(by_tx) >= len(replies)
    for reply in replies:
        assert by_tx[reply.tx]["response"] == reply.code
        if reply.approved:
            assert by_tx[reply.tx]["available_after"] == reply.available_minor
    assert rows[-1]["available_after"] == 10000 % 700
