"""Is the journal what it was? Its digests are made anew and compared, block by block.

Blocks are taken in spans. Postgres makes the fingerprints of a span's links, which is all that has
to cross; only where a block does not hold are its links looked at one by one, to name the first.
Each block is judged by the stored digest before it, so faults stay apart, and spans can be judged
in any order.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from switch.archive.files import Straddling
from switch.projections.images import LINK_IMAGE, POSTING_IMAGES, POSTINGS
from switch.projections.reading import START, Entry, Position, entries_of, position_of
from switch.projections.sealing import FIRST, MARK_LENGTH, Block, Sealer, block_from_row, last_block
from switch.verify.report import Finding

__all__ = [
    "CHECK",
    "FINDINGS_MAX",
    "SPAN_BLOCKS",
    "Foreign",
    "blocks_digest",
    "check_ends",
    "check_span",
    "fault_of",
    "foreign_of",
    "spans",
]

CHECK = "the journal is what its digests say it was"
SPAN_BLOCKS = 32
"""About 32,000 links at a time: a megabyte of fingerprints, and what Postgres sorts in memory."""
FINDINGS_MAX = 20
_FINGERPRINT = 32

_OF_SPAN = "(xid, batch_id, n) > ($1, $2, $3) and (xid, batch_id, n) <= ($4, $5, $6)"
_FINGERPRINTS = f"""
select coalesce(string_agg(sha256({LINK_IMAGE} || {POSTING_IMAGES}), ''::bytea
                           order by xid, batch_id, n, card_id), ''::bytea) as fingerprints,
       coalesce(sum((cardinality(postings) + 5) / 6), 0)::bigint as postings
from link where {_OF_SPAN} and xid >= $1 and xid <= $4 and month > $7
"""  # noqa: S608 -- constants
_LINKS = f"""
select {LINK_IMAGE} as image, {POSTINGS} from link
where {_OF_SPAN} and xid >= $1 and xid <= $4 and month > $7
order by xid, batch_id, n, card_id
"""  # noqa: S608 -- constants
_BLOCKS = "select * from journal_digest where block between $1 and $2 order by block"
_BLOCK_ROWS = """
select record_send(row(block, xid, batch_id, n, links, postings, marks, digest, key_check, made_at))
from journal_digest where block <= $1 order by block
"""
_POSITION = "select xid, batch_id, n from projection_position"


class Foreign(NamedTuple):
    """The hash of a link that is not in the tables any more."""

    position: Position
    card_id: int
    version: int
    hash: bytes


def spans(first_block: int, last_block_number: int) -> list[tuple[int, int]]:
    """First and last block of each span."""
    return [
        (first, min(first + SPAN_BLOCKS - 1, last_block_number))
        for first in range(first_block, last_block_number + 1, SPAN_BLOCKS)
    ]


async def check_ends(raw: Any) -> tuple[Block, list[Finding]]:
    """The last block, and whether digests and projections end at one place."""
    last = await last_block(raw)
    if position_of(await raw.fetchrow(_POSITION)) != last.end:
        text = f"the digests end with block {last.number}, the projections not"
        return last, [Finding(CHECK, 0, 0, text)]
    if await raw.fetchval("select count(*) from journal_digest where block < 1"):
        return last, [Finding(CHECK, 0, 0, "there are blocks before the first one")]
    return last, []


def foreign_of(straddling: Sequence[Straddling]) -> list[Foreign]:
    """As the check of digests takes them."""
    return [
        Foreign(one.position, one.card_id, one.version, bytes.fromhex(one.hash))
        for one in straddling
    ]


async def blocks_digest(raw: Any, last: int) -> str:
    """SHA-256 over the rows of `journal_digest` up to a block."""
    digest = hashlib.sha256()
    async for row in raw.cursor(_BLOCK_ROWS, last, prefetch=200):
        digest.update(row[0])
    return digest.hexdigest()


async def check_span(
    raw: Any,
    sealer: Sealer,
    first: int,
    last: int,
    through: datetime.date,
    foreign: Sequence[Foreign] = (),
) -> tuple[int, list[Finding]]:
    """How many links these blocks seal, and what does not hold. In the caller's snapshot.

    Links of months up to `through` are not looked for in the tables; `foreign` are the hashes of
    those of them that the span needs, in order.
    """
    rows = [block_from_row(row) for row in await raw.fetch(_BLOCKS, first - 1, last)]
    before = FIRST if first == 1 else None
    if rows and rows[0].number == first - 1:
        before = rows.pop(0)
    if not rows:
        return 0, []
    begin = START if before is None else before.end
    if before is None:  # its row is missing: its links are those of the span before
        begin = Position(rows[0].end.xid, -1, -1)
    links = 0
    if not foreign and before is not None:
        row = await raw.fetchrow(_FINGERPRINTS, *begin, *rows[-1].end, through)
        links, faulty = _judge(sealer, before, rows, row["fingerprints"], row["postings"])
        if not faulty:
            return links, []
    return await _look(raw, sealer, before, rows, through, foreign)


def _judge(
    sealer: Sealer, before: Block, blocks: Sequence[Block], fingerprints: bytes, postings: int
) -> tuple[int, bool]:
    """Whether anything at all is wrong with the span; which link it is, is another question."""
    links = len(fingerprints) // _FINGERPRINT
    if links != sum(block.links for block in blocks):
        return links, True
    if postings != sum(block.postings for block in blocks):
        return links, True
    at = 0
    for block in blocks:
        end = at + block.links * _FINGERPRINT
        hashes = [
            sealer.hash_of(fingerprints[place : place + _FINGERPRINT])
            for place in range(at, end, _FINGERPRINT)
        ]
        at = end
        if block.number != before.number + 1 or block.key_check != sealer.key_check:
            return links, True
        if block.marks != b"".join([one[:MARK_LENGTH] for one in hashes]):
            return links, True
        if sealer.digest(before.digest, block, b"".join(hashes)) != block.digest:
            return links, True
        before = block
    return links, False


async def _look(
    raw: Any,
    sealer: Sealer,
    before: Block | None,
    blocks: Sequence[Block],
    through: datetime.date,
    foreign: Sequence[Foreign],
) -> tuple[int, list[Finding]]:
    """The span block by block, link by link."""
    findings: list[Finding] = []
    links = 0
    waiting = [one for one in foreign if before is None or one.position > before.end]
    for block in blocks:
        begin = START if before is None else before.end
        if before is None or block.number != before.number + 1:
            text = f"the digest before block {block.number} is missing"
            findings.append(Finding(CHECK, 0, 0, text))
            before = block
            waiting = [one for one in waiting if one.position > block.end]
            continue
        entries = entries_of(await raw.fetch(_LINKS, *begin, *block.end, through))
        seen = [_seen(sealer, entry) for entry in entries]
        seen += [one for one in waiting if one.position <= block.end]
        waiting = [one for one in waiting if one.position > block.end]
        seen.sort(key=lambda one: (one.position, one.card_id))
        links += len(seen)
        postings = sum(len(entry.postings) for entry in entries) if not foreign else block.postings
        what = fault_of(sealer, before, block, seen, postings)
        if what is not None:
            findings.append(Finding(CHECK, *what))
        before = block
    return links, findings


def _seen(sealer: Sealer, entry: Entry) -> Foreign:
    link = entry.link
    return Foreign(position_of(link), link["card_id"], link["version"], sealer.hash(entry))


def fault_of(
    sealer: Sealer, before: Block, block: Block, seen: Sequence[Foreign], postings: int
) -> tuple[int, int, str] | None:
    """Card, version and what does not hold of a block whose links were seen; None when it holds."""
    if block.key_check != sealer.key_check:
        return 0, 0, f"block {block.number} was sealed under another key"
    hashes = [one.hash for one in seen]
    marks = b"".join(one[:MARK_LENGTH] for one in hashes)
    true = block._replace(links=len(seen), postings=postings, marks=marks)
    if sealer.digest(before.digest, true, b"".join(hashes)) == block.digest:
        if true == block:
            return None
        return 0, 0, f"block {block.number}'s own row was changed, its links are what they were"
    if marks == block.marks:
        return 0, 0, f"block {block.number}'s digest is not that of its links"
    return _name(block, seen)


def _name(block: Block, seen: Sequence[Foreign]) -> tuple[int, int, str]:
    """The first link of a broken block that is not as it was."""
    marks = block.marks
    stored = [marks[at : at + MARK_LENGTH] for at in range(0, len(marks), MARK_LENGTH)]
    found = [one.hash[:MARK_LENGTH] for one in seen]
    place = next(
        (n for n, (one, other) in enumerate(zip(stored, found, strict=False)) if one != other),
        min(len(stored), len(found)),
    )
    where = f"(block {block.number}, place {place + 1})"
    if place >= len(found):
        card_id, version = (seen[-1].card_id, seen[-1].version) if seen else (0, 0)
        return card_id, version, f"a link behind it is missing {where}"
    card_id, version = seen[place].card_id, seen[place].version
    if found[place] in stored[place:] and stored[place] not in found:
        return card_id, version, f"a link in front of it is missing {where}"
    if found[place] not in stored and (place >= len(stored) or stored[place] in found[place:]):
        return card_id, version, f"it was added later {where}"
    return card_id, version, f"it or its postings were changed {where}"
