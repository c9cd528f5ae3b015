"""What the two views for outside checks say of transactions: links and postings."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from .checks import assert_accepted
from .demo import Demo
from .messages import Reply
from .terminal import Terminal

__all__ = ["assert_in_suspense", "balance_changes", "booked_on", "link_count", "postings"]

Rows = list[dict[str, Any]]

_POSTINGS = """
    SELECT tx::text AS tx, debit::text AS debit, credit::text AS credit, amount_minor,
           purse::text AS purse, currency::text AS currency
      FROM ledger_posting WHERE tx::text = $1
"""
_LINK_COUNT = "SELECT count(*) AS number FROM card_link WHERE tx::text = $1"
_BALANCE_CHANGES = """
    SELECT amount_minor, available_after FROM card_link
     WHERE card_id = (SELECT card_id FROM card_link WHERE tx::text = $1) ORDER BY version
"""


def _query(switch: Demo, sql: str, transaction: str) -> Rows:
    async def ask() -> Rows:
        connection = await asyncpg.connect(switch.json["postgres"])
        try:
            return [dict(row) for row in await connection.fetch(sql, transaction)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def postings(switch: Demo, reply: Reply) -> Rows:
    """All postings of the reply's transaction."""
    return _query(switch, _POSTINGS, reply.tx)


def link_count(switch: Demo, reply: Reply) -> int:
    """How many links carry the reply's transaction id."""
    return int(_query(switch, _LINK_COUNT, reply.tx)[0]["number"])


def balance_changes(switch: Demo, reply: Reply) -> list[tuple[int, int]]:
    """Change and rest of the available amount, per link of the card the reply was about."""
    rows = _query(switch, _BALANCE_CHANGES, reply.tx)
    return [(row["amount_minor"], row["available_after"]) for row in rows]


def booked_on(switch: Demo, reply: Reply, kind: str) -> dict[str, int]:
    """Per account whose name begins with `kind` and a colon: what the transaction booked on it."""
    booked: dict[str, int] = {}
    for row in postings(switch, reply):
        for account in (row["debit"], row["credit"]):
            if account.startswith(f"{kind}:"):
                booked[account] = booked.get(account, 0) + row["amount_minor"]
    return booked


def assert_in_suspense(switch: Demo, till: Terminal, reply: Reply, amount_minor: int) -> None:
    """Accepted, with the rule that spoke; on the merchant's suspense account, on no card."""
    assert_accepted(reply)
    assert reply.why
    merchant = till.identity.merchant
    assert booked_on(switch, reply, "suspense") == {f"suspense:{merchant}": amount_minor}
    assert booked_on(switch, reply, "card") == {}
    assert booked_on(switch, reply, "shortfall") == {}
