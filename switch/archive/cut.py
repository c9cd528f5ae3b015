"""Writing a cut: all months up to one, and what they left; checked before anything is taken."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from switch.archive.files import (
    ArchiveBroken,
    ArchivedFile,
    Manifest,
    Straddling,
    Writer,
    file_fault,
    line_of,
    read_entries,
    sign,
    write_manifest,
)
from switch.archive.making import add_entries, prepare
from switch.archive.openings import digest_of, rows_of
from switch.projections.images import LINK_IMAGE, POSTINGS
from switch.projections.reading import entries_of, position_of
from switch.projections.sealing import Block, Sealer, block_from_row
from switch.projections.writing import currencies_of
from switch.signing import SigningKey
from switch.verify.digests import Foreign, blocks_digest, check_span, foreign_of, spans

__all__ = [
    "CannotArchive",
    "blocks_digest",
    "foreign_of",
    "newest_manifest",
    "refusal",
    "write_cut",
]

_PAGE = 5_000
_LINKS = f"""
select {LINK_IMAGE} as image, {POSTINGS} from link where month > $1 and month <= $2
order by xid, batch_id, n, card_id
"""  # noqa: S608 -- constants
_REFUSALS = "select * from refusal where month > $1 and month <= $2 order by month, batch_id, n"
_COUNT = """
select count(*) as links, coalesce(sum((cardinality(postings) + 5) / 6), 0)::bigint as postings
from link where month > $1 and month <= $2
"""
_BLOCKS = "select * from journal_digest where block > $1 order by block"
_NEWEST = "select manifest from archive_cut order by number desc limit 1"

_NOT_SEALED = """
select card_id, version from link l, projection_position p
where l.month > $1 and l.month <= $2 and (l.xid, l.batch_id, l.n) > (p.xid, p.batch_id, p.n) limit 1
"""
_HOLD = """
select h.card_id, h.version from open_hold h
where h.ended_by is null and not exists (
    select from link l where l.card_id = h.card_id and l.version = h.version and l.month > $1)
order by h.card_id limit 1
"""
_ITEM = """
select card_id, version from open_item where cleared_at is null and posted_at < $1
order by posted_at limit 1
"""
_MISSING = """
select m.card_id, m.version from missing_item m where m.cleared_at is null and not exists (
    select from link l where l.card_id = m.card_id and l.version = m.version and l.month > $1)
order by m.card_id limit 1
"""
_OUT_OF_ORDER = """
select a.card_id, a.version from (
    select card_id, max(version) as version from link where month > $1 and month <= $2
    group by card_id) as a
join (select card_id, min(version) as version from link where month > $2 group by card_id) as b
    using (card_id)
where a.version > b.version order by a.card_id limit 1
"""
_MONTHS = "select count(*) from link where month > $1 and month <= $2"


class CannotArchive(Exception):
    """Why these months are not archived now; nothing was changed."""


def after(month: datetime.date) -> datetime.date:
    """The first day of the next month."""
    return (month + datetime.timedelta(days=31)).replace(day=1)


async def newest_manifest(raw: Any) -> tuple[Manifest | None, bytes]:
    """Of the newest cut, with its bytes."""
    data = await raw.fetchval(_NEWEST)
    if data is None:
        return None, b""
    return msgspec.json.decode(data, type=Manifest), data


async def refusal(
    raw: Any, since: datetime.date, through: datetime.date, oldest: datetime.date
) -> str:
    """Why the months after `since` up to `through` must stay, or nothing.

    `oldest` is the first month that the horizon still needs.
    """
    end = after(through)
    if through >= oldest:
        return f"{through:%Y-%m} is within the horizon, which needs all from {oldest:%Y-%m} on"
    if not await raw.fetchval(_MONTHS, since, through):
        return f"there is no link up to {through:%Y-%m} in the tables"
    instant = datetime.datetime(end.year, end.month, 1, tzinfo=datetime.UTC)
    for query, arguments, text in (
        (_NOT_SEALED, (since, through), "is not projected yet; wait for the projector"),
        (_HOLD, (through,), "is a hold that is still open; complete, reverse or expire it"),
        (_ITEM, (instant,), "is an open item; settle it (cardswitch open-items)"),
        (_MISSING, (through,), "is missing in an upload; settle it (cardswitch open-items)"),
        (
            _OUT_OF_ORDER,
            (since, through),
            "stands behind a link of a later month (a clock went back): archive that month with it",
        ),
    ):
        row = await raw.fetchrow(query, *arguments)
        if row is not None:
            return f"card {row['card_id']}, link {row['version']} {text}"
    return ""


class _Blocks:
    """Which blocks are archived whole, and the hashes of links that left others behind."""

    def __init__(self, before: Manifest | None) -> None:
        self.whole = 0 if before is None else before.blocks
        self.touched = self.whole if before is None else before.blocks_touched
        self._links: list[Foreign] = foreign_of(() if before is None else before.straddling)
        self._split: list[Foreign] = []
        self._all_whole = True

    def add(self, one: Foreign) -> None:
        """The next archived link."""
        self._links.append(one)

    def close(self, block: Block) -> None:
        """All archived links up to the block's end have been added."""
        mine = [one for one in self._links if one.position <= block.end]
        self._links = [one for one in self._links if one.position > block.end]
        if mine:
            self.touched = max(self.touched, block.number)
        if self._all_whole and len(mine) == block.links:
            self.whole = block.number
        else:
            self._all_whole = False
            self._split += mine

    @property
    def pending(self) -> bool:
        """Whether links have been added whose block has not been closed."""
        return bool(self._links)

    @property
    def straddling(self) -> tuple[Straddling, ...]:
        """Of the blocks behind the last whole one."""
        return tuple(
            Straddling(*one.position, one.card_id, one.version, one.hash.hex())
            for one in sorted(self._split, key=lambda one: (one.position, one.card_id))
        )


async def write_cut(
    raw: Any,
    directory: Path,
    through: datetime.date,
    sealer: Sealer,
    key: SigningKey,
    progress: Callable[[int, int], None],
) -> Manifest:
    """Write and check a cut, inside the caller's transaction (REPEATABLE READ), which makes it so.

    CannotArchive, ArchiveBroken, OpeningFault, ProjectionFault: nothing was changed but files.
    """
    before, before_bytes = await newest_manifest(raw)
    since = datetime.date.min if before is None else datetime.date.fromisoformat(before.through)
    blocks = _Blocks(before)
    await prepare(raw)
    files, links, postings = await _write_links(
        raw, directory, (since, through), sealer, blocks, progress
    )
    files += await _write_refusals(raw, directory, (since, through))
    number = 1 if before is None else before.number + 1
    openings = Writer(directory, f"openings-{number:04}.jsonl.gz", "openings", "")
    async for row in rows_of(raw):
        openings.add(row)
    files.append(openings.close())
    if files[-1].sha256 != await digest_of(raw):
        raise ArchiveBroken(f"{files[-1].name}: is not what stands in the tables")
    await _check_blocks(raw, sealer, before, blocks, through)
    manifest = Manifest(
        number=number,
        through=through.isoformat(),
        previous=hashlib.sha256(before_bytes).hexdigest() if before is not None else "",
        files=tuple(files),
        links=links + (0 if before is None else before.links),
        postings=postings + (0 if before is None else before.postings),
        blocks=blocks.whole,
        blocks_touched=blocks.touched,
        blocks_sha256=await blocks_digest(raw, blocks.touched),
        straddling=blocks.straddling,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        public_key=key.public,
    )
    manifest = sign(manifest, key)
    data = write_manifest(directory, manifest)
    await raw.execute(
        "insert into public.archive_cut (number, through, manifest) values ($1, $2, $3)",
        *(number, through, data),
    )
    return manifest


async def _write_links(
    raw: Any,
    directory: Path,
    months: tuple[datetime.date, datetime.date],
    sealer: Sealer,
    blocks: _Blocks,
    progress: Callable[[int, int], None],
) -> tuple[list[ArchivedFile], int, int]:
    counted = await raw.fetchrow(_COUNT, *months)
    currencies = await currencies_of(raw)
    writers: dict[str, Writer] = {}
    hashes: dict[str, Any] = {}
    stored = raw.cursor(_BLOCKS, blocks.whole, prefetch=50).__aiter__()
    block = await _next(stored)
    done = 0
    try:
        cursor = await raw.cursor(_LINKS, *months)
        while page := await cursor.fetch(_PAGE):
            entries = entries_of(page)
            await add_entries(raw, entries, currencies)
            for entry in entries:
                link = entry.link
                position = position_of(link)
                while block is not None and position > block.end:
                    blocks.close(block)
                    block = await _next(stored)
                one = Foreign(position, link["card_id"], link["version"], sealer.hash(entry))
                blocks.add(one)
                month = f"{link['month']:%Y-%m}"
                if month not in writers:
                    name = f"links-{month}.jsonl.gz"
                    writers[month] = Writer(directory, name, "links", month)
                    hashes[month] = hashlib.sha256()
                writers[month].add(line_of(entry))
                writers[month].postings += len(entry.postings)
                hashes[month].update(one.hash)
            done += len(page)
            progress(done, counted["links"])
        while block is not None and blocks.pending:
            blocks.close(block)
            block = await _next(stored)
        files = [writers[month].close() for month in sorted(writers)]
    except BaseException:
        for writer in writers.values():
            writer.discard()
        raise
    postings = sum(file.postings for file in files)
    if (done, postings) != (counted["links"], counted["postings"]):
        raise ArchiveBroken("what was written is not all that was counted in the tables")
    for file in files:
        _read_back(directory, file, sealer, hashes[file.month].digest())
    return files, done, postings


async def _next(blocks: Any) -> Block | None:
    async for row in blocks:
        return block_from_row(row)
    return None


def _read_back(directory: Path, file: ArchivedFile, sealer: Sealer, written: bytes) -> None:
    """What is in the file gives the very hashes that the tables gave."""
    digest = hashlib.sha256()
    for entry in read_entries(directory, file):
        digest.update(sealer.hash(entry))
    if digest.digest() != written:
        raise ArchiveBroken(f"{file.name}: what was read back is not what was written")


async def _write_refusals(
    raw: Any, directory: Path, months: tuple[datetime.date, datetime.date]
) -> list[ArchivedFile]:
    writers: dict[str, Writer] = {}
    async for row in raw.cursor(_REFUSALS, *months, prefetch=_PAGE):
        month = f"{row['month']:%Y-%m}"
        if month not in writers:
            name = f"refusals-{month}.jsonl.gz"
            writers[month] = Writer(directory, name, "refusals", month)
        writers[month].add(tuple(row))
    files = [writers[month].close() for month in sorted(writers)]
    for file in files:
        fault = file_fault(directory, file)
        if fault:
            raise ArchiveBroken(fault)
    return files


async def _check_blocks(
    raw: Any, sealer: Sealer, before: Manifest | None, blocks: _Blocks, through: datetime.date
) -> None:
    """Every block that a link is archived out of holds before its links go, and after."""
    archived = () if before is None else before.straddling
    since = datetime.date.min if before is None else datetime.date.fromisoformat(before.through)
    first = 1 if before is None else before.blocks + 1
    for begin, end, month, gone in (
        (first, blocks.whole, since, archived),
        (blocks.whole + 1, blocks.touched, through, blocks.straddling),
    ):
        foreign = foreign_of(gone)
        for span in spans(begin, end):
            _, found = await check_span(raw, sealer, *span, month, foreign)
            if found:
                raise CannotArchive(f"{found[0].what}: run verify")
