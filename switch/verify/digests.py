"""Is the journal what it was? Its digests are made anew and compared, block by block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from switch.projections.reading import (
    LINK_COLUMNS,
    Entry,
    Position,
    position_of,
    with_postings,
)
from switch.projections.sealing import (
    FIRST,
    MARK_LENGTH,
    Block,
    Sealer,
    block_from_row,
    last_block,
)
from switch.verify.report import Finding

__all__ = ["CHECK", "check_digests"]

CHECK = "the journal is what its digests say it was"

_PAGE = 2_000
_FINDINGS_MAX = 20
_LINKS = f"""
select {LINK_COLUMNS} from link where (xid, batch_id, n) <= ($1, $2, $3)
order by xid, batch_id, n, card_id
"""  # noqa: S608 -- a constant
_BLOCKS = "select * from journal_digest order by block"
_POSITION = "select xid, batch_id, n from projection_position"

_Seen = tuple[bytes, int, int]


async def check_digests(
    raw: Any, sealer: Sealer, progress: Callable[[int], None]
) -> tuple[int, list[Finding]]:
    """How many links are sealed, and what does not hold. In the caller's snapshot."""
    last = await last_block(raw)
    findings = []
    if position_of(await raw.fetchrow(_POSITION)) != last.end:
        findings.append(
            Finding(CHECK, 0, 0, f"the digests end with block {last.number}, the projections not")
        )
    checker = _Checker(sealer, findings)
    blocks = raw.cursor(_BLOCKS, prefetch=200).__aiter__()
    block = await _next(blocks)
    seen: list[_Seen] = []
    links = 0
    async for page in _pages(raw, last.end):
        for entry in page:
            link = entry.link
            position = position_of(link)
            while block is not None and position > block.end:
                checker.close(block, seen)
                seen = []
                block = await _next(blocks)
            seen.append((sealer.hash(entry), link["card_id"], link["version"]))
        links += len(page)
        progress(links)
        if len(findings) >= _FINDINGS_MAX:
            return links, findings
    while block is not None:
        checker.close(block, seen)
        seen = []
        block = await _next(blocks)
    return links, findings


async def _pages(raw: Any, end: Position) -> AsyncIterator[Sequence[Entry]]:
    cursor = await raw.cursor(_LINKS, *end)
    while links := await cursor.fetch(_PAGE):
        yield await with_postings(raw, links)


async def _next(blocks: AsyncIterator[Any]) -> Block | None:
    async for row in blocks:
        return block_from_row(row)
    return None


class _Checker:
    """Blocks in order; each is judged by the stored digest before it, so that faults stay apart."""

    def __init__(self, sealer: Sealer, findings: list[Finding]) -> None:
        self._sealer = sealer
        self._before = FIRST
        self._findings = findings

    def close(self, block: Block, seen: Sequence[_Seen]) -> None:
        """All links up to the block's end have been seen."""
        before, self._before = self._before, block
        if block.number != before.number + 1:
            self._say(0, 0, f"the digest before block {block.number} is missing")
            return
        if block.key_check != self._sealer.key_check:
            self._say(0, 0, f"block {block.number} was sealed under another key")
            return
        digest = self._sealer.digest(before.digest, block.number, [one[0] for one in seen])
        if digest != block.digest:
            self._say(*_name(block, seen))

    def _say(self, card_id: int, version: int, what: str) -> None:
        self._findings.append(Finding(CHECK, card_id, version, what))


def _name(block: Block, seen: Sequence[_Seen]) -> tuple[int, int, str]:
    """The first link of a broken block that is not as it was."""
    marks = block.marks
    stored = [marks[at : at + MARK_LENGTH] for at in range(0, len(marks), MARK_LENGTH)]
    found = [one[0][:MARK_LENGTH] for one in seen]
    place = next(
        (n for n, (one, other) in enumerate(zip(stored, found, strict=False)) if one != other),
        min(len(stored), len(found)),
    )
    where = f"(block {block.number}, place {place + 1})"
    if place == len(stored) == len(found):
        return 0, 0, f"block {block.number}'s digest is not that of its links"
    if place >= len(found):
        card_id, version = seen[-1][1:] if seen else (0, 0)
        return card_id, version, f"a link behind it is missing {where}"
    _, card_id, version = seen[place]
    if found[place] in stored[place:] and stored[place] not in found:
        return card_id, version, f"a link in front of it is missing {where}"
    if found[place] not in stored and stored[place] in found[place:]:
        return card_id, version, f"it was added later {where}"
    return card_id, version, f"it or its postings were changed {where}"
