"""The archive's files: compressed JSON lines, and a signed manifest over them.

`links-YYYY-MM.jsonl.gz`: one line per link in the order of commits, `[link, [posting, ...]]`, each
an array of values in the order of `switch.projections.reading`'s columns. `refusals-YYYY-MM`: one
array per row. `openings-NNNN`: `[table, values...]`. Bytes are base64 (RFC 4648), instants and days
ISO 8601 in UTC. `manifest-NNNN.json` has counts and SHA-256 of each file, uncompressed.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from switch.projections.images import (
    LINK_SHAPE,
    LINK_TYPES,
    POSTING_SHAPE,
    POSTING_TYPES,
    link_image,
    posting_image,
)
from switch.projections.reading import Entry, Position, position_of
from switch.signing import SigningKey, is_signed

__all__ = [
    "ARCHIVE_DIRECTORY",
    "ArchiveBroken",
    "ArchivedFile",
    "Manifest",
    "Straddling",
    "Writer",
    "all_entries",
    "file_fault",
    "line_of",
    "read_entries",
    "read_lines",
    "read_manifests",
    "sign",
    "write_manifest",
]

ARCHIVE_DIRECTORY = "archive"
"""In the data directory, where no other was named."""
FORMAT = 1
_LEVEL = 4  # of gzip: the bodies hardly get smaller above it
_LINK = tuple[LINK_TYPES]  # type: ignore[valid-type]
_POSTING = tuple[POSTING_TYPES]  # type: ignore[valid-type]
_decode_line = msgspec.json.Decoder(tuple[_LINK, list[_POSTING]]).decode
_encode = msgspec.json.Encoder().encode


class ArchiveBroken(Exception):
    """A file of the archive is missing, or not what was signed; the text names it."""


class ArchivedFile(msgspec.Struct, frozen=True):
    """One file as it was written."""

    name: str
    kind: str
    """`links`, `refusals` or `openings`."""
    month: str
    """YYYY-MM; empty for openings."""
    rows: int
    postings: int
    sha256: str
    """Of what is in it, uncompressed; 64 hex digits."""


class Straddling(msgspec.Struct, frozen=True, array_like=True):
    """A link that was archived out of a block of which other links were not."""

    xid: int
    batch_id: int
    n: int
    card_id: int
    version: int
    hash: str
    """Its keyed hash, 32 hex digits."""

    @property
    def position(self) -> Position:
        """Its place in the journal."""
        return Position(self.xid, self.batch_id, self.n)


class Manifest(msgspec.Struct, frozen=True):
    """What one run of `cardswitch archive` wrote."""

    number: int
    """From 1; each begins where the one before it ended."""
    through: str
    """The last month in it, YYYY-MM-01."""
    previous: str
    """SHA-256 of the manifest before it as it was written; empty for the first."""
    files: tuple[ArchivedFile, ...]
    links: int
    """Of all months up to `through`, those of earlier manifests too."""
    postings: int
    blocks: int
    """All links of the digests' blocks up to this one are archived."""
    blocks_touched: int
    """The last block that an archived link is in."""
    blocks_sha256: str
    """Over the rows of `journal_digest` up to `blocks_touched`."""
    straddling: tuple[Straddling, ...]
    made_at: str
    public_key: str
    format: int = FORMAT
    signature: str = ""

    @property
    def signed_bytes(self) -> bytes:
        """What the signature is over: the manifest as JSON, keys in order, without it."""
        return msgspec.json.encode(msgspec.structs.replace(self, signature=""), order="sorted")

    def is_held_by(self, public_key: str) -> bool:
        """Whether it is signed, and with this key."""
        return self.public_key == public_key and is_signed(
            self.public_key, self.signed_bytes, self.signature
        )

    def file(self, kind: str) -> ArchivedFile:
        """Its only file of a kind."""
        return next(file for file in self.files if file.kind == kind)

    @property
    def name(self) -> str:
        """Of its own file."""
        return f"manifest-{self.number:04}.json"


def sign(manifest: Manifest, key: SigningKey) -> Manifest:
    """The manifest with its signature."""
    return msgspec.structs.replace(manifest, signature=key.sign(manifest.signed_bytes))


class Writer:
    """Writes one file beside its place; `close` puts it there, durable."""

    def __init__(self, directory: Path, name: str, kind: str, month: str) -> None:
        self._path = directory / name
        self._draft = directory / f".{name}.draft"
        self._raw: IO[bytes] = self._draft.open("wb")
        self._file = gzip.GzipFile("", "wb", _LEVEL, self._raw, mtime=0)
        self._digest = hashlib.sha256()
        self._kind, self._month = kind, month
        self.rows = 0
        self.postings = 0

    def add(self, row: object) -> None:
        """One line."""
        line = _encode(row) + b"\n"
        self._digest.update(line)
        self._file.write(line)
        self.rows += 1

    def close(self) -> ArchivedFile:
        """To disk, and to its name."""
        self._file.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        self._draft.replace(self._path)
        sync_directory(self._path.parent)
        return ArchivedFile(
            *(self._path.name, self._kind, self._month, self.rows, self.postings),
            self._digest.hexdigest(),
        )

    def discard(self) -> None:
        """Leave nothing behind."""
        self._raw.close()
        self._draft.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make names in it durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(directory: Path, manifest: Manifest) -> bytes:
    """Write it to its place, durable; what was written."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    draft = directory / f".{manifest.name}.draft"
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(directory / manifest.name)
    sync_directory(directory)
    return data


def read_manifests(directory: Path) -> list[tuple[Manifest, bytes]]:
    """All of a directory, in order, each with its bytes. ArchiveBroken."""
    found = []
    for path in sorted(directory.glob("manifest-*.json")):
        try:
            data = path.read_bytes()
            found.append((msgspec.json.decode(data, type=Manifest), data))
        except (OSError, msgspec.DecodeError, ValueError):
            raise ArchiveBroken(f"{path.name}: cannot be read") from None
    return found


def read_lines(directory: Path, file: ArchivedFile) -> Iterator[bytes]:
    """The lines of a file; at its end it must have been what was signed. ArchiveBroken."""
    digest = hashlib.sha256()
    rows = 0
    try:
        with gzip.open(directory / file.name, "rb") as lines:
            for line in lines:
                digest.update(line)
                rows += 1
                yield line
    except FileNotFoundError:
        raise ArchiveBroken(f"{file.name}: is missing") from None
    except (OSError, EOFError) as error:
        raise ArchiveBroken(f"{file.name}: cannot be read ({error})") from None
    if (rows, digest.hexdigest()) != (file.rows, file.sha256):
        raise ArchiveBroken(f"{file.name}: is not what was written and signed")


def file_fault(directory: Path, file: ArchivedFile) -> str:
    """What is wrong with a file as such, or nothing."""
    try:
        for _ in read_lines(directory, file):
            pass
    except ArchiveBroken as fault:
        return str(fault)
    return ""


def read_entries(directory: Path, file: ArchivedFile) -> Iterator[Entry]:
    """The links of a file, each with its postings. ArchiveBroken, also at its end."""
    for line in read_lines(directory, file):
        try:
            link, postings = _decode_line(line)
        except (msgspec.DecodeError, ValueError):
            raise ArchiveBroken(f"{file.name}: has a line that cannot be read") from None
        yield Entry(
            LINK_SHAPE.open(link_image(link)),
            [POSTING_SHAPE.open(posting_image(posting)) for posting in postings],
        )


def all_entries(directory: Path, manifests: Sequence[Manifest]) -> Iterator[tuple[str, Entry]]:
    """The links of all files in the order of their commits, with the month of their file."""
    files = [file for manifest in manifests for file in manifest.files if file.kind == "links"]
    placed = (_placed(directory, file) for file in files)
    for _, month, entry in heapq.merge(*placed, key=lambda one: one[0]):
        yield month, entry


def _placed(
    directory: Path, file: ArchivedFile
) -> Iterator[tuple[tuple[int, int, int, int], str, Entry]]:
    for entry in read_entries(directory, file):
        link = entry.link
        yield (*position_of(link), link["card_id"]), file.month, entry


def line_of(entry: Entry) -> object:
    """An entry as its line."""
    return tuple(entry.link), [tuple(posting) for posting in entry.postings]
