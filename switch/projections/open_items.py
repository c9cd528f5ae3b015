"""`cardswitch open-items`: what a person has to look at, the oldest first; and what was settled.

To clear an item moves nothing: what settles it (a reversal, a payment) has been done before.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from typing import Any

import msgspec

from rules.requests import Operation
from switch.data_access import CannotRun, database_url, on_database, say
from switch.journal.bridge import STORE_ERRORS, Connection
from switch.projections.effects import ItemKind

__all__ = ["clear_item", "open_items", "run_open_items"]

_NOTE_MAX = 500

_ITEMS = """
select i.kind, i.rule, i.tx, i.operation, i.card_id, i.version, i.merchant_id,
       trim(m.code) as merchant, i.terminal_id, trim(t.code) as terminal, i.purse, i.currency,
       i.amount_minor, i.posted_at, now() as now
from (
    select card_id, version, kind, rule, tx, operation, merchant_id, terminal_id, purse, currency,
           amount_minor, posted_at
    from open_item where cleared_at is null
    union all
    select m.card_id, m.version, 5, 'TOTALS', l.tx, l.operation, l.merchant_id, l.terminal_id,
           l.purse, m.currency, m.counted_minor, m.closed_at
    from missing_item m join link l on l.card_id = m.card_id and l.version = m.version
    where m.cleared_at is null) i
left join merchant m on m.merchant_id = i.merchant_id
left join terminal t on t.terminal_id = i.terminal_id
order by i.posted_at, i.card_id, i.version, i.kind
"""


_CLEAR = """
update open_item set cleared_at = now(), cleared_note = $3
where tx = $1 and kind = $2 and cleared_at is null returning card_id
"""
_CLEAR_MISSING = """
update missing_item m set cleared_at = now(), cleared_note = $3
from link l
where l.tx = $1 and $2 = 5 and m.card_id = l.card_id and m.version = l.version
  and m.cleared_at is null
returning m.card_id
"""


async def clear_item(url: str, tx: str, kind: ItemKind, note: str) -> int:
    """Take a transaction's item of this kind off the list; how many that were (0: none is open).

    With the owner's rights. `note` says who settled it, and how. STORE_ERRORS when Postgres cannot
    be reached.
    """
    statement = _CLEAR_MISSING if kind is ItemKind.MISSING else _CLEAR
    connection = await Connection.open(url, timeout_s=10)
    try:
        return len(await connection.rows(statement, tx, int(kind), note))
    finally:
        await connection.close()


async def open_items(url: str) -> list[dict[str, Any]]:
    """The open items with their age in seconds. STORE_ERRORS when Postgres cannot be reached."""
    connection = await Connection.open(url, timeout_s=10)
    try:
        return [_item(row) for row in await connection.rows(_ITEMS)]
    finally:
        await connection.close()


def _item(row: Any) -> dict[str, Any]:
    posted_at: datetime.datetime = row["posted_at"]
    try:
        operation = Operation(row["operation"]).name.lower()
    except ValueError:
        operation = str(row["operation"])
    return {
        "kind": ItemKind(row["kind"]).name.lower(),
        "rule": row["rule"],
        "tx": row["tx"],
        "operation": operation,
        "merchant": row["merchant"] or str(row["merchant_id"]),
        "terminal": row["terminal"] or str(row["terminal_id"]),
        "amount_minor": row["amount_minor"],
        "currency": row["currency"],
        "purse": row["purse"],
        "card_id": row["card_id"],
        "version": row["version"],
        "posted_at": posted_at.isoformat(timespec="seconds"),
        "age_s": max(int((row["now"] - posted_at).total_seconds()), 0),
    }


def run_open_items(arguments: argparse.Namespace) -> int:
    """Print the list, or clear an item of it; the exit code."""
    try:
        url = database_url(arguments)
        if arguments.clear is not None:
            return _run_clear(url, arguments)
        items = on_database(lambda: open_items(url))
    except CannotRun as fault:
        say(str(fault))
        return 2
    except STORE_ERRORS as error:
        say(f"{type(error).__name__}: {error}")
        return 2
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(items).decode() + "\n")
        return 0
    row = "{:>8}  {:<9}  {:<15}  {:>14}  {:<12}  {:<12}  {}"
    print(row.format("age", "kind", "merchant", "amount", "rule", "tx", "card, link"))
    for item in items:
        amount = f"{item['amount_minor']} {item['currency']}"
        where = f"{item['card_id']}, {item['version']}"
        columns = (item["kind"], item["merchant"], amount, item["rule"], item["tx"], where)
        print(row.format(_age(item["age_s"]), *columns))
    print(f"{len(items)} open item(s)")
    return 0


def _run_clear(url: str, arguments: argparse.Namespace) -> int:
    note: str = (arguments.note or "").strip()
    if arguments.kind is None or not note or len(note) > _NOTE_MAX or not note.isprintable():
        say(f"--clear needs --kind, and a --note of at most {_NOTE_MAX} characters: who, and how")
        return 2
    kind = ItemKind[arguments.kind.upper()]
    cleared = on_database(lambda: clear_item(url, arguments.clear, kind, note))
    if not cleared:
        say(f"no open item {arguments.kind} of {arguments.clear}")
        return 1
    print(f"{cleared} item(s) cleared")
    return 0


def _age(age_s: int) -> str:
    """The two largest units."""
    days, rest = divmod(age_s, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, seconds = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} m"
    return f"{minutes} m {seconds} s"
