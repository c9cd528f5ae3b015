"""A stretch of the journal, written into the projections' rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastpath.sums import cards_of
from switch.projections.effects import Effects, fold
from switch.projections.images import LINK_SHAPE, POSTING_SHAPE
from switch.projections.reading import Entry

__all__ = ["TABLES", "currencies_of", "project_entries"]

TABLES: dict[str, tuple[str, ...]] = {
    "merchant_balance": (
        *("merchant_id", "account_kind", "purse", "currency"),
        *("debits_minor", "credits_minor", "postings"),
    ),
    "programme_balance": (
        *("programme_id", "account_kind", "purse", "currency"),
        *("debits_minor", "credits_minor", "postings"),
    ),
    "liability": (
        *("programme_id", "purse", "currency", "origin", "cashable", "expires_day", "sponsor_id"),
        *("available_minor", "held_minor"),
    ),
    "card_life": (
        *("card_id", "programme_id", "status", "due_day", "last_active_day", "fee_month"),
        *("ecash_there", "ecash_paid"),
    ),
    "open_hold": (
        *("card_id", "version", "purse", "amount_minor", "expires_at", "merchant_id", "ended_by"),
    ),
    "open_item": (
        *("card_id", "version", "kind", "rule", "tx", "operation", "merchant_id", "terminal_id"),
        *("purse", "currency", "amount_minor", "posted_at"),
    ),
}
"""The projections and what of each follows from the journal."""

_BALANCES = """
insert into {table} as b ({owner}, account_kind, purse, currency, debits_minor, credits_minor,
                          postings)
select * from unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::text[], $5::bigint[],
                     $6::bigint[], $7::bigint[])
on conflict ({owner}, account_kind, purse, currency) do update set
    debits_minor = b.debits_minor + excluded.debits_minor,
    credits_minor = b.credits_minor + excluded.credits_minor,
    postings = b.postings + excluded.postings
"""
_MERCHANTS = _BALANCES.format(table="merchant_balance", owner="merchant_id")
_PROGRAMMES = _BALANCES.format(table="programme_balance", owner="programme_id")

_LIABILITY = """
insert into liability as b (programme_id, purse, currency, origin, cashable, expires_day,
                            sponsor_id, available_minor, held_minor)
select * from unnest($1::bigint[], $2::smallint[], $3::text[], $4::smallint[], $5::boolean[],
                     $6::int[], $7::bigint[], $8::bigint[], $9::bigint[])
on conflict (programme_id, purse, currency, origin, cashable, expires_day, sponsor_id)
do update set available_minor = b.available_minor + excluded.available_minor,
              held_minor = b.held_minor + excluded.held_minor
"""


def _by_place(*types: str) -> str:
    """The values of a row out of arrays of these types, the i-th of each.

    Where a row is written per card: `unnest` of many arrays keeps each in a store of its own first.
    """
    return ", ".join(f"(${n}::{name}[])[i]" for n, name in enumerate(types, 1))


_PLACES = "generate_series(1, cardinality($1::bigint[])) as i"
_LIFE = _by_place("bigint", "int", "smallint", "int", "int", "int", "boolean", "boolean")
_LIVES = f"""
insert into card_life
select {_LIFE} from {_PLACES}
on conflict (card_id) do update set
    programme_id = excluded.programme_id, status = excluded.status, due_day = excluded.due_day,
    last_active_day = excluded.last_active_day, fee_month = excluded.fee_month,
    ecash_there = excluded.ecash_there, ecash_paid = excluded.ecash_paid
"""  # noqa: S608 -- the types are named above
_COLUMNS = ", ".join(f"array_agg({column}) as {column}" for column in TABLES["card_life"])
_LIVES_BEFORE = f"select {_COLUMNS} from card_life where card_id = any($1::bigint[])"  # noqa: S608
_OF_PROGRAMME = """
select array_agg(card_id) as cards, array_agg(programme_id) as programmes
from card where card_id = any($1::bigint[])
"""

_NEW_HOLDS = """
insert into open_hold (card_id, version, purse, amount_minor, expires_at, merchant_id, ended_by)
select card_id, version, purse, amount_minor, expires_at, merchant_id, nullif(ended_by, 0)
from unnest($1::bigint[], $2::int[], $3::smallint[], $4::bigint[], $5::timestamptz[],
            $6::bigint[], $7::int[])
    as h (card_id, version, purse, amount_minor, expires_at, merchant_id, ended_by)
"""
# A hold that ended keeps the amount it had.
_CHANGED_HOLDS = """
update open_hold as h set amount_minor = case when c.ended_by = 0 then c.amount_minor
                                              else h.amount_minor end,
                          ended_by = nullif(c.ended_by, 0)
from unnest($1::bigint[], $2::int[], $3::bigint[], $4::int[])
    as c (card_id, version, amount_minor, ended_by)
where h.card_id = c.card_id and h.version = c.version
"""

_ITEMS = """
insert into open_item (card_id, version, kind, rule, tx, operation, merchant_id, terminal_id, purse,
                       currency, amount_minor, posted_at)
select * from unnest($1::bigint[], $2::int[], $3::smallint[], $4::text[], $5::text[],
                     $6::smallint[], $7::bigint[], $8::int[], $9::smallint[], $10::text[],
                     $11::bigint[], $12::timestamptz[])
"""


async def currencies_of(raw: Any) -> dict[int, str]:
    """The currency of each programme."""
    rows = await raw.fetch("select programme_id, currency from programme")
    return {row["programme_id"]: row["currency"] for row in rows}


async def project_entries(
    raw: Any, entries: Sequence[Entry], currencies: Mapping[int, str]
) -> None:
    """Write what these links change; the caller's transaction makes it one with the position.

    `raw` is asyncpg's connection, or a UnitConnection. ProjectionFault for a link that says what
    cannot be.
    """
    cards = list(cards_of(LINK_SHAPE, POSTING_SHAPE, entries))
    lives = await _lives_before(raw, cards)
    programmes = {card_id: life[1] for card_id, life in lives.items()}
    new = [card_id for card_id in cards if card_id not in lives]
    if new:
        row = await raw.fetchrow(_OF_PROGRAMME, new)
        programmes.update(zip(row["cards"] or (), row["programmes"] or (), strict=True))
    await _write_effects(raw, fold(entries, programmes.__getitem__, currencies), lives)


async def _lives_before(raw: Any, card_ids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
    """The rows of `card_life` there are for these cards."""
    row = await raw.fetchrow(_LIVES_BEFORE, card_ids)
    columns = [row[column] or () for column in TABLES["card_life"]]
    return {life[0]: life for life in zip(*columns, strict=True)}


async def _write_effects(raw: Any, effects: Effects, lives: Mapping[int, tuple[Any, ...]]) -> None:
    await _write(raw, _MERCHANTS, _rows(effects.merchants))
    await _write(raw, _PROGRAMMES, _rows(effects.programmes))
    await _write(raw, _LIABILITY, _rows(effects.liability))
    # Most links change nothing of a life, and what is not written costs neither a row nor log.
    changed_lives = [life for life in effects.lives.values() if lives.get(life[0]) != life]
    await _write(raw, _LIVES, changed_lives)
    new, changed = [], []
    for (card_id, version), hold in effects.holds.items():
        if hold.merchant_id is None:
            changed.append((card_id, version, hold.amount_minor, hold.ended_by))
        else:
            new.append(
                (
                    *(card_id, version, hold.purse, hold.amount_minor, hold.expires_at),
                    *(hold.merchant_id, hold.ended_by),
                )
            )
    await _write(raw, _NEW_HOLDS, new)
    await _write(raw, _CHANGED_HOLDS, changed)
    columns = TABLES["open_item"]
    items = [tuple(getattr(item, column) for column in columns) for item in effects.items]
    await _write(raw, _ITEMS, items)


def _rows(sums: dict[Any, list[int]]) -> list[tuple[Any, ...]]:
    return [(*key, *values) for key, values in sums.items()]


async def _write(raw: Any, statement: str, rows: Sequence[Iterable[Any]]) -> None:
    """One statement with a column of values per parameter; none without rows."""
    if rows:
        await raw.execute(statement, *map(list, zip(*rows, strict=True)))
