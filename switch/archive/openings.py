"""Openings: what the archived links left, per card and per projection, in the schema `opening`."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from switch.projections.writing import TABLES

__all__ = ["CHAIN", "digest_of", "rows_of"]

CHAIN = ("card_id", "version", "batch_id", "state", "request_window")
_HEAD = (
    *("card_id", "version", "status", "ecash_available", "ecash_held", "voucher_available"),
    *("voucher_held", "points_available", "points_held", "last_posted_at"),
)
_COLUMNS = {**TABLES, "chain": CHAIN, "card_head": _HEAD}
_ORDER = (
    *("chain", "merchant_balance", "programme_balance", "liability", "card_head", "card_life"),
    *("open_hold", "open_item"),
)
"""Signed digests of openings are over their tables in this order."""
_PAGE = 5_000
_encode = msgspec.json.Encoder().encode


async def rows_of(raw: Any) -> AsyncIterator[list[object]]:
    """All openings in one order: `[table, values...]`. In a transaction."""
    for table in _ORDER:
        if not await raw.fetchval("select to_regclass($1)", f"opening.{table}"):
            continue
        names = ", ".join(_COLUMNS[table])
        # Every column of the key stands among the first: the order is the same each time.
        query = f"select {names} from opening.{table} order by {names}"  # noqa: S608 -- our own
        async for row in raw.cursor(query, prefetch=_PAGE):
            yield [table, *row]


async def digest_of(raw: Any) -> str:
    """The SHA-256 of the openings as their file would be; 64 hex digits."""
    digest = hashlib.sha256()
    async for row in rows_of(raw):
        digest.update(_encode(row) + b"\n")
    return digest.hexdigest()
