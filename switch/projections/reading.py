"""The journal in the order of its commits.

A link carries the number of its transaction. Links of transactions below the snapshot's xmin are
all there: whatever began earlier has ended. So the reader takes what is below it, in the order
(xid, batch_id, n), and can neither miss a link of a late commit nor see one twice.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastpath.rows import RowImage
from switch.projections.images import LINK_IMAGE, LINK_SHAPE, POSTINGS, postings_of

__all__ = [
    "END",
    "READER_SETTINGS",
    "START",
    "Entry",
    "Position",
    "entries_of",
    "position_of",
    "read_entries",
]

READER_SETTINGS = "set enable_sort = off; set enable_bitmapscan = off; set enable_seqscan = off"
"""For the reader's session: the index by xid gives the order. A plan that sorts would sort all
that is left of the journal for each step of a long way."""

_LINKS = f"""
select {LINK_IMAGE} as image, {POSTINGS} from link
where (xid, batch_id, n) > ($1, $2, $3) and xid < pg_snapshot_xmin(pg_current_snapshot())
  and (xid, batch_id, n) <= ($4, $5, $6) and month > $8
order by xid, batch_id, n, card_id
limit $7
"""  # noqa: S608 -- constants of this file


class Position(NamedTuple):
    """A place in the journal: that of the last link which was read."""

    xid: int
    batch_id: int
    n: int


START = Position(0, 0, 0)
END = Position((1 << 63) - 1, (1 << 63) - 1, (1 << 15) - 1)


class Entry(NamedTuple):
    """A link's row, and its postings as rows of their own, in order of leg."""

    link: RowImage
    postings: list[RowImage]


def position_of(row: Any) -> Position:
    """The place that a row with these three columns names."""
    return Position(row["xid"], row["batch_id"], row["n"])


async def read_entries(
    raw: Any,
    after: Position,
    limit: int,
    *,
    until: Position = END,
    through: datetime.date = datetime.date.min,
) -> list[Entry]:
    """The next links after a position, at most `limit`, none behind `until`. On the asyncio side.

    Those of months up to `through` are left out. They are committed, and nothing that stands
    between them can come any more.
    """
    return entries_of(await raw.fetch(_LINKS, *after, *until, limit, through))


def entries_of(rows: Sequence[Any]) -> list[Entry]:
    """The links of these rows (`image`, and `postings` as images.POSTINGS), with their postings."""
    entries = []
    for row in rows:
        link = LINK_SHAPE.open(row["image"])
        entries.append(Entry(link, postings_of(link, row["postings"])))
    return entries
