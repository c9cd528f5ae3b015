"""What was told to terminals, remembered outside of Postgres: who lacks it is not believed.

A standby that lagged when it was promoted, or a copy from a backup, answers like any other server,
and lacks what was approved after it. So each lane writes down the last batch whose answers it gave
out, and each new connection is asked for the last batches of all lanes before it is used. A commit
that is there has all commits before it: one batch per lane is enough.

The files are mapped memory: to write costs nothing, and what is written outlives the process, not
the machine. After a loss of power an older batch may stand there: less is noticed, nothing wrongly.
Of a lane that has been idle for so long that its month was archived nothing is asked.
"""

from __future__ import annotations

import datetime
import mmap
import os
import struct
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

__all__ = ["DIRECTORY", "Witness", "missing_batch"]

DIRECTORY = "acknowledged"
"""Below the data directory."""

_BODY = struct.Struct("<Iq")  # the month's first day as an ordinal, the batch
_BYTES = _BODY.size + 4

_MISSING = """
select t.month, t.batch_id from unnest($1::text[], $2::bigint[]) as t (month, batch_id)
where not exists (select from link l where l.month = t.month::date and l.batch_id = t.batch_id)
  and exists (select from pg_inherits i join pg_class c on c.oid = i.inhrelid
              where i.inhparent = 'link'::regclass
                and c.relname = 'link' || to_char(t.month::date, '_YYYY_MM'))
limit 1
"""


class Witness:
    """One lane's page of it, and a look at all pages."""

    def __init__(self, data_dir: Path, name: str) -> None:
        """`name` is the lane's, the same in each of its worker's lives. Raises OSError."""
        self.directory = data_dir / DIRECTORY
        self.directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(self.directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _BYTES)
            self._page = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)

    @classmethod
    def of(cls, data_dir: str, worker: int, lane: int | None = None) -> Witness:
        """A lane's page; without one a worker's own, on which nothing is ever written."""
        return cls(Path(data_dir), f"worker-{worker}" + ("" if lane is None else f".lane-{lane}"))

    def note(self, month: datetime.date, batch_id: int) -> None:
        """The answers of this batch, which is committed, are about to be given out."""
        body = _BODY.pack(month.toordinal(), batch_id)
        self._page[:] = body + zlib.crc32(body).to_bytes(4, "little")


def _told(directory: Path) -> list[tuple[str, int]]:
    """The last batch of each lane. A page that is just being written says nothing."""
    found = []
    for path in sorted(directory.glob("*")):
        page = path.read_bytes()
        body = page[: _BODY.size]
        if len(page) == _BYTES and zlib.crc32(body).to_bytes(4, "little") == page[_BODY.size :]:
            ordinal, batch_id = _BODY.unpack(body)
            found.append((datetime.date.fromordinal(ordinal).isoformat(), batch_id))
    return found


async def missing_batch(
    rows: Callable[..., Awaitable[list[Any]]], directory: Path
) -> tuple[str, int] | None:
    """Month and id of a batch that terminals were told of and this server does not have.

    None when it has all. `rows` runs a query. Raises what that raises.
    """
    told = _told(directory)  # first: what is noted meanwhile is committed by then
    if not told:
        return None
    missing = await rows(_MISSING, [month for month, _ in told], [batch for _, batch in told])
    return (missing[0]["month"][:7], missing[0]["batch_id"]) if missing else None
