"""Every card's chain, link by link: each state follows from the one before it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rules.cards import CardState
from rules.ledger import Link
from rules.replay import ReplayFault, check_counterpart, first_state, follow
from switch.journal.rows import link_from_row
from switch.projections.images import LINK_COLUMNS
from switch.verify.report import Finding

__all__ = ["CHECK", "CardRange", "Chain", "replay_cards"]

CHECK = "each link follows from the state before it"

CardRange = tuple[int, int]
"""First and last card id."""

_PAGE = 2_000
_FINDINGS_MAX = 20
_RANGE = f"""
select {LINK_COLUMNS} from link where card_id between $1 and $2 and month > $3
order by card_id, version
"""  # noqa: S608 -- a constant
_SOME = f"""
select {LINK_COLUMNS} from link where card_id = any($1::bigint[]) and month > $2
order by card_id, version
"""  # noqa: S608 -- a constant
_OTHERS = f"""
select {", ".join("l." + name.strip() for name in LINK_COLUMNS.split(","))}
from unnest($1::bigint[], $2::int[], $3::bigint[]) as named (card_id, version, batch_id)
join link l using (card_id, version, batch_id)
"""  # noqa: S608 -- a constant
_OPENINGS = "select card_id, state from opening.chain where card_id = any($1::bigint[])"

_decode_state = msgspec.msgpack.Decoder(CardState).decode


class Chain:
    """One card while its links come by; `opening` is the state they begin with."""

    def __init__(self, card_id: int, opening: bytes | None = None) -> None:
        self.card_id = card_id
        self.state: CardState | None = None
        self._opening_fault = False
        if opening is not None:
            try:
                self.state = _decode_state(opening)
            except msgspec.DecodeError:
                self._opening_fault = True
        self.broken = False
        self.last = b""
        """The encoded state after the last link, for those who keep it here."""

    def add(self, row: Any) -> Link:
        """The next link. ReplayFault where it does not follow."""
        if self._opening_fault:
            raise ReplayFault("its opening cannot be read")
        try:
            link = link_from_row(row)
        except (msgspec.DecodeError, ValueError):
            raise ReplayFault("it cannot be read") from None
        if int(link.answer.response) != row["response"] or link.answer.transaction_id != row["tx"]:
            raise ReplayFault("its answer is not what its columns say")
        before = first_state(link) if self.state is None else self.state
        if link.version != before.version + 1:
            raise ReplayFault("the link before it is missing")
        if row["prev_batch_id"] != before.batch_id:
            raise ReplayFault("its predecessor was written by another batch")
        posted_s = int(row["posted_at"].timestamp())
        self.state = follow(before, link, row["batch_id"], posted_s)
        return link


async def replay_cards(
    raw: Any,
    cards: CardRange | Sequence[int],
    through: datetime.date,
    progress: Callable[[int], None],
) -> tuple[int, int, list[Finding]]:
    """Replay a range of cards, or these: links, cards, faults. In the caller's snapshot."""
    findings: list[Finding] = []
    archived = through > datetime.date.min
    if isinstance(cards, tuple):
        cursor = await raw.cursor(_RANGE, *cards, through)
    else:
        cursor = await raw.cursor(_SOME, list(cards), through)
    chain: Chain | None = None
    links = count = 0
    while page := await cursor.fetch(_PAGE):
        openings: dict[int, bytes] = {}
        if archived:
            wanted = list({row["card_id"] for row in page})
            for row in await raw.fetch(_OPENINGS, wanted):
                openings[row["card_id"]] = row["state"]
        halves: list[tuple[int, Link]] = []
        for row in page:
            card_id = row["card_id"]
            if chain is None or chain.card_id != card_id:
                chain = Chain(card_id, openings.get(card_id))
                count += 1
            if chain.broken:
                continue
            try:
                link = chain.add(row)
                if link.other_card_id:
                    halves.append((row["batch_id"], link))
                else:
                    check_counterpart(link, None)
            except ReplayFault as fault:
                chain.broken = True
                findings.append(Finding(CHECK, card_id, row["version"], str(fault)))
        await _check_halves(raw, halves, findings)
        links += len(page)
        progress(links)
        if len(findings) >= _FINDINGS_MAX:
            break
    return links, count, findings


async def _check_halves(
    raw: Any, halves: Sequence[tuple[int, Link]], findings: list[Finding]
) -> None:
    """What these links did to other cards stands there, in the same batch."""
    named = [(link.other_card_id, link.other_version, batch_id) for batch_id, link in halves]
    rows = await raw.fetch(_OTHERS, *map(list, zip(*named, strict=True))) if named else []
    others = {(row["card_id"], row["version"]): row for row in rows}
    for _, link in halves:
        try:
            row = others.get((link.other_card_id, link.other_version))
            check_counterpart(link, link_from_row(row) if row is not None else None)
        except ReplayFault as fault:
            findings.append(Finding(CHECK, link.card_id, link.version, str(fault)))
        except (msgspec.DecodeError, ValueError):
            what = "its other half cannot be read"
            findings.append(Finding(CHECK, link.card_id, link.version, what))
