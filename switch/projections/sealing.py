"""Digests over the journal, under a key that Postgres does not have.

Links are taken in the order of their commits, in blocks of at most 1,000. Each link with its
postings gets a keyed hash, over the SHA-256 of their rows' bytes: that, Postgres can make for a
verification, and anybody from an archive. A block's digest is over the digest before it, all else
that the block's row says, and the hashes of its
links. Whoever changes, removes, adds or moves a row cannot make the digests anew. Four bytes of
each hash are kept, so that a block that does not hold tells which of its links it was.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from switch.keys import MasterKey
from switch.projections.reading import Entry, Position, position_of

__all__ = [
    "BLOCK_LINKS_MAX",
    "FIRST",
    "MARK_LENGTH",
    "Block",
    "Sealer",
    "block_from_row",
    "last_block",
    "write_blocks",
]

BLOCK_LINKS_MAX = 1_000
MARK_LENGTH = 4
_HASH_LENGTH = 16
_FORMAT = 1

_encode = msgspec.msgpack.Encoder().encode

_LAST = "select * from journal_digest order by block desc limit 1"
_INSERT = """
insert into journal_digest (block, xid, batch_id, n, links, postings, marks, digest, key_check,
                            made_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


class Block(NamedTuple):
    """A sealed stretch of the journal."""

    number: int
    """From 1."""
    end: Position
    links: int
    postings: int
    marks: bytes
    digest: bytes
    key_check: bytes
    made_at: datetime.datetime


_EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)
FIRST = Block(0, Position(0, 0, 0), 0, 0, b"", bytes(32), b"", _EPOCH)
"""What stands before the first block."""


class Sealer:
    """Makes digests; the key follows from the master key."""

    __slots__ = ("_key", "key_check")

    def __init__(self, master_key: MasterKey) -> None:
        self._key = master_key.derive("journal digest")
        self.key_check = hashlib.blake2b(b"", digest_size=4, key=self._key).digest()
        """Tells a digest under another key from a wrong one."""

    def __repr__(self) -> str:
        return "Sealer(***)"

    def hash(self, entry: Entry) -> bytes:
        """The keyed hash of a link and its postings, 16 bytes."""
        link, postings = entry
        image = hashlib.sha256(link["image"])
        for posting in postings:
            image.update(posting["image"])
        return self.hash_of(image.digest())

    def hash_of(self, fingerprint: bytes) -> bytes:
        """The same from the SHA-256 of the images of the link and its postings, in order of leg."""
        return hashlib.blake2b(
            fingerprint, digest_size=_HASH_LENGTH, key=self._key, person=b"link"
        ).digest()

    def digest(self, before: bytes, block: Block, hashes: bytes) -> bytes:
        """The digest of a block over the one before, all else it says, and its links' hashes."""
        said = (*block[:3], block.postings, _microseconds(block.made_at))
        head = _encode((_FORMAT, before, said, block.marks, len(hashes)))
        return hashlib.blake2b(
            head + hashes, digest_size=32, key=self._key, person=b"block"
        ).digest()

    def seal(self, entries: Sequence[Entry], last: Block) -> list[Block]:
        """The blocks of further links."""
        blocks = []
        made_at = datetime.datetime.now(datetime.UTC)
        for begin in range(0, len(entries), BLOCK_LINKS_MAX):
            part = entries[begin : begin + BLOCK_LINKS_MAX]
            hashes = [self.hash(entry) for entry in part]
            block = Block(
                last.number + 1,
                position_of(part[-1].link),
                len(part),
                sum(len(entry.postings) for entry in part),
                b"".join(one[:MARK_LENGTH] for one in hashes),
                b"",
                self.key_check,
                made_at,
            )
            last = block._replace(digest=self.digest(last.digest, block, b"".join(hashes)))
            blocks.append(last)
        return blocks


def _microseconds(instant: datetime.datetime) -> int:
    return (instant - _EPOCH) // datetime.timedelta(microseconds=1)


def block_from_row(row: Any) -> Block:
    """A row of `journal_digest`."""
    return Block(
        *(row["block"], position_of(row), row["links"], row["postings"]),
        *(row["marks"], row["digest"], row["key_check"], row["made_at"]),
    )


async def last_block(raw: Any) -> Block:
    """The newest block. On the asyncio side."""
    row = await raw.fetchrow(_LAST)
    return FIRST if row is None else block_from_row(row)


async def write_blocks(raw: Any, blocks: Sequence[Block]) -> None:
    """Append blocks, in the transaction that moves the position on."""
    for block in blocks:
        await raw.execute(
            _INSERT,
            *(block.number, *block.end, block.links, block.postings),
            *(block.marks, block.digest, block.key_check, block.made_at),
        )
