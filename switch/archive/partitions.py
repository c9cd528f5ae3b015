"""Taking archived months out of the journal's tables, partition by partition, never row by row.

`DETACH PARTITION ... CONCURRENTLY`: on the table a lock (SHARE UPDATE EXCLUSIVE) that neither reads
nor writes wait for, an exclusive one on the old partition alone. It waits for transactions that
began before it, holding nobody up. Interrupted between its two halves, it is finished by the next
run.
"""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple

__all__ = ["TABLES", "Partition", "attached", "detach", "detached", "drop"]

TABLES = ("link", "refusal")
_DETACHED = (*TABLES, "posting")
"""Postings had partitions of their own before they stood in their links."""

_ATTACHED = """
select p.relname as parent, c.relname as name, i.inhdetachpending as pending,
       (regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \\('([0-9-]+)'\\)$$))[1]::date
           as month
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
join pg_class p on p.oid = i.inhparent
where i.inhparent = any($1::regclass[])
order by 4, 1
"""


class Partition(NamedTuple):
    """A month of one table."""

    parent: str
    name: str
    month: datetime.date
    pending: bool
    """Its detaching has begun and was interrupted."""


async def attached(raw: Any, through: datetime.date) -> list[Partition]:
    """Partitions of months up to `through` that still belong to their tables, the oldest first."""
    rows = await raw.fetch(_ATTACHED, [f"public.{table}" for table in TABLES])
    found = [Partition(row["parent"], row["name"], row["month"], row["pending"]) for row in rows]
    return [one for one in found if one.month is not None and one.month <= through]


async def detach(raw: Any, one: Partition) -> None:
    """Take a partition out of its table; it stays as a table of its own. In no transaction."""
    how = "finalize" if one.pending else "concurrently"
    await raw.execute(f'alter table public.{one.parent} detach partition public."{one.name}" {how}')


async def detached(raw: Any, months: list[datetime.date]) -> list[str]:
    """Tables that were partitions of these months and are not any more."""
    names = [f"{table}_{month:%Y_%m}" for month in months for table in _DETACHED]
    rows = await raw.fetch(
        "select c.relname from pg_class c join pg_namespace s on s.oid = c.relnamespace"
        " where s.nspname = 'public' and c.relkind = 'r' and not c.relispartition"
        " and c.relname = any($1::text[]) order by 1",
        names,
    )
    return [row["relname"] for row in rows]


async def drop(raw: Any, name: str) -> None:
    """Drop a detached month."""
    await raw.execute(f'drop table public."{name}"')
