"""Signed checkpoints: what the digest was, written down where Postgres cannot reach.

Digests prove a journal that is there. That its end was not cut off, or that it was not replaced as
a whole, only shows against a note kept elsewhere.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec

from switch.projections.reading import Position
from switch.projections.sealing import Block
from switch.signing import SigningKey, is_signed

__all__ = [
    "CHECKPOINTS_FILE",
    "SIGNING_KEY_FILE",
    "Checkpoint",
    "append_checkpoint",
    "checkpoint_of",
    "newest_block",
    "read_checkpoints",
]

CHECKPOINTS_FILE = "checkpoints.jsonl"
"""In the data directory: what the projector has written down."""
SIGNING_KEY_FILE = "checkpoint.key"


class Checkpoint(msgspec.Struct, frozen=True):
    """The journal's digest at one place."""

    block: int
    xid: int
    batch_id: int
    n: int
    digest: str
    made_at: str
    public_key: str
    signature: str = ""

    @property
    def end(self) -> Position:
        """The last link it covers."""
        return Position(self.xid, self.batch_id, self.n)

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over: the checkpoint as JSON, keys in order, without it."""
        bare = msgspec.structs.replace(self, signature="")
        return msgspec.json.encode(bare, order="sorted")

    @property
    def holds(self) -> bool:
        """Whether its signature is right."""
        return is_signed(self.public_key, self.signed_bytes, self.signature)


def checkpoint_of(block: Block, key: SigningKey) -> Checkpoint:
    """A signed checkpoint at the end of a block."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    bare = Checkpoint(block.number, *block.end, block.digest.hex(), now, key.public)
    return msgspec.structs.replace(bare, signature=key.sign(bare.signed_bytes))


def append_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Add a line of JSON to a file."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(checkpoint) + b"\n")


def read_checkpoints(path: Path) -> list[Checkpoint]:
    """All lines of a file; a line that is none is one that does not hold."""
    found = []
    for line in path.read_bytes().splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Checkpoint))
        except msgspec.DecodeError:
            found.append(Checkpoint(0, 0, 0, 0, "", "", ""))
    return found


def newest_block(path: Path) -> int:
    """The highest block that a file tells of; 0 when there is no such file."""
    known = read_checkpoints(path) if path.exists() else []
    return max((checkpoint.block for checkpoint in known), default=0)
