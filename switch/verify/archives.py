"""What was archived: signed, complete, and what the openings and the digests go on from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rules.replay import ReplayFault
from switch.archive.files import (
    ArchiveBroken,
    Manifest,
    all_entries,
    file_fault,
    read_manifests,
)
from switch.archive.openings import digest_of
from switch.projections.reading import Entry, position_of
from switch.projections.sealing import FIRST, Block, Sealer, block_from_row
from switch.verify.chains import Chain
from switch.verify.digests import FINDINGS_MAX, Foreign, blocks_digest, fault_of
from switch.verify.report import Finding

__all__ = ["CHECK", "check_files", "check_openings", "known_manifests"]

CHECK = "what was archived is what was signed"

_CARDS_AT_ONCE = 200_000
_PAGE = 2_000
_CUTS = "select number, through, manifest from archive_cut order by number"
_BLOCKS = "select * from journal_digest where block <= $1 order by block"
_STATES = "select card_id, state from opening.chain"


def _finding(text: str) -> Finding:
    return Finding(CHECK, 0, 0, text)


async def known_manifests(
    raw: Any, directory: Path | None, trusted: Collection[str]
) -> tuple[list[Manifest], list[Finding]]:
    """The manifests that the database tells of, and what is wrong with them."""
    findings: list[Finding] = []
    found: list[Manifest] = []
    before = b""
    rows = await raw.fetch(_CUTS)
    for number, row in enumerate(rows, 1):
        data = row["manifest"]
        try:
            manifest = msgspec.json.decode(data, type=Manifest)
        except (msgspec.DecodeError, ValueError):
            findings.append(_finding(f"manifest {row['number']} in the database cannot be read"))
            break
        keys = trusted or (manifest.public_key,)
        if not any(manifest.is_held_by(key) for key in keys):
            findings.append(_finding(f"{manifest.name}: its signature is wrong, or another's"))
        previous = hashlib.sha256(before).hexdigest() if before else ""
        if (manifest.number, row["number"], manifest.previous) != (number, number, previous):
            findings.append(_finding(f"{manifest.name}: a manifest before it is missing"))
        if row["through"].isoformat() != manifest.through:
            findings.append(_finding(f"{manifest.name}: the database names another month"))
        found.append(manifest)
        before = data
    if directory is not None:
        findings += _compare(directory, [bytes(row["manifest"]) for row in rows])
    return found, findings


def _compare(directory: Path, known: Sequence[bytes]) -> list[Finding]:
    """The manifests of a directory are those of the database."""
    try:
        there = {manifest.number: data for manifest, data in read_manifests(directory)}
    except ArchiveBroken as fault:
        return [_finding(str(fault))]
    findings = []
    for number, data in there.items():
        if number > len(known):
            text = f"manifest-{number:04}.json: the database is older than it"
            findings.append(_finding(text))
        elif known[number - 1] != data:
            findings.append(_finding(f"manifest-{number:04}.json: is not that of the database"))
    missing = [number for number in range(1, len(known) + 1) if number not in there]
    findings += [_finding(f"manifest-{number:04}.json: is missing") for number in missing]
    return findings


async def check_openings(raw: Any, newest: Manifest) -> list[Finding]:
    """Openings and digests in the database are what was signed."""
    findings = []
    if await digest_of(raw) != newest.file("openings").sha256:
        findings.append(_finding(f"the openings are not those that {newest.name} was signed over"))
    if await blocks_digest(raw, newest.blocks_touched) != newest.blocks_sha256:
        text = f"the digests up to block {newest.blocks_touched} are not what {newest.name} says"
        findings.append(_finding(text))
    return findings


async def check_files(
    raw: Any,
    directory: Path,
    manifests: Sequence[Manifest],
    sealer: Sealer | None,
    *,
    replay: bool,
    progress: Callable[[int], None],
) -> tuple[int, list[Finding]]:
    """Every file, every link in them; how many, and what does not hold."""
    newest = manifests[-1]
    # A file that is not what was signed is named as a file; its lines are not looked at.
    broken = [file_fault(directory, file) for manifest in manifests for file in manifest.files]
    if any(broken):
        return 0, [_finding(text) for text in broken if text]
    rows = await raw.fetch(_BLOCKS, newest.blocks)
    walk = _Walk(sealer, newest, [block_from_row(row) for row in rows])
    cards = await raw.fetchval("select count(*) from opening.chain") if replay else 0
    passes = -(-cards // _CARDS_AT_ONCE) if replay else 0
    links = 0
    try:
        for number in range(max(passes, 1)):
            chains: dict[int, Chain] = {}
            for links, (month, entry) in enumerate(all_entries(directory, manifests), 1):
                if number == 0:
                    walk.add(month, entry)
                if replay and entry.link["card_id"] % passes == number:
                    walk.follow(chains, entry)
                if links % _PAGE == 0:
                    progress(links)
                if len(walk.findings) >= FINDINGS_MAX:
                    return links, walk.findings
            if number == 0:
                walk.end()
            if replay:
                walk.findings += await _against_openings(raw, chains, number, passes)
    except ArchiveBroken as fault:
        walk.findings.append(_finding(str(fault)))
    return links, walk.findings


class _Walk:
    """Archived links in order, against the digests' blocks and against what they say themselves."""

    def __init__(self, sealer: Sealer | None, newest: Manifest, blocks: list[Block]) -> None:
        self.findings: list[Finding] = []
        self._sealer = sealer
        self._newest = newest
        self._blocks = blocks[::-1]
        self._before = FIRST
        self._seen: list[Foreign] = []
        self._postings = 0

    def add(self, month: str, entry: Entry) -> None:
        """The next link."""
        link = entry.link
        position = position_of(link)
        if f"{link['month']:%Y-%m}" != month:
            text = f"links-{month}.jsonl.gz: has a link of another month"
            self.findings.append(Finding(CHECK, link["card_id"], link["version"], text))
        if self._sealer is None:
            return
        while self._blocks and position > self._blocks[-1].end:
            self._close()
        one = Foreign(position, link["card_id"], link["version"], self._sealer.hash(entry))
        self._seen.append(one)
        self._postings += len(entry.postings)

    def _close(self) -> None:
        assert self._sealer is not None
        block = self._blocks.pop()
        what = fault_of(self._sealer, self._before, block, self._seen, self._postings)
        if what is not None:
            self.findings.append(Finding(CHECK, *what))
        self._before, self._seen, self._postings = block, [], 0

    def end(self) -> None:
        """What is left belongs to blocks that were archived in part."""
        if self._sealer is None:
            return
        while self._blocks:
            self._close()
        kept = {(*one.position, one.card_id): one.hash for one in self._newest.straddling}
        found = {(*one.position, one.card_id): one.hash.hex() for one in self._seen}
        for one in self._seen:
            if kept.get((*one.position, one.card_id)) != one.hash.hex():
                text = f"it or its postings are not what {self._newest.name} was signed over"
                self.findings.append(Finding(CHECK, one.card_id, one.version, text))
        for lost in self._newest.straddling:
            if (*lost.position, lost.card_id) not in found:
                self.findings.append(
                    Finding(CHECK, lost.card_id, lost.version, "it is not in the archive")
                )

    def follow(self, chains: dict[int, Chain], entry: Entry) -> None:
        """Replay the next link of a card."""
        link = entry.link
        card_id = link["card_id"]
        chain = chains.get(card_id)
        if chain is None:
            chain = chains[card_id] = Chain(card_id)
        if chain.broken:
            return
        try:
            chain.last = chain.add(link).state_after
        except ReplayFault as fault:
            chain.broken = True
            self.findings.append(Finding(CHECK, card_id, link["version"], str(fault)))


async def _against_openings(
    raw: Any, chains: dict[int, Chain], number: int, passes: int
) -> list[Finding]:
    """What the archived links left is what their cards' openings say."""
    findings = []
    async for row in raw.cursor(_STATES, prefetch=_PAGE):
        if row["card_id"] % passes != number:
            continue
        chain = chains.pop(row["card_id"], None)
        if chain is None or (not chain.broken and chain.last != row["state"]):
            text = "its opening is not what its archived links left"
            findings.append(Finding(CHECK, row["card_id"], 0, text))
    findings += [
        Finding(CHECK, card_id, 0, "its archived links have no opening") for card_id in chains
    ]
    return findings[:FINDINGS_MAX]
