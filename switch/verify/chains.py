"""Every card's chain, link by link: each state follows from the one before it, down to the row."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rules.cards import CardState
from rules.identity import key_instant
from rules.ledger import Link
from rules.replay import ReplayFault, check_counterpart, check_state, first_state, follow
from rules.window import WINDOW_LENGTH
from switch.journal.rows import link_from_row
from switch.projections.reading import LINK_COLUMNS
from switch.verify.report import Finding

__all__ = ["CHECK", "check_untouched", "replay_cards"]

CHECK = "each link follows from the state before it"

_PAGE = 2_000
_FINDINGS_MAX = 20
_FOREVER = 0xFFFFFFFF
_ALL = f"select {LINK_COLUMNS} from link order by card_id, version"  # noqa: S608 -- a constant
_SOME = f"""
select {LINK_COLUMNS} from link where card_id = any($1::bigint[]) order by card_id, version
"""  # noqa: S608 -- a constant
_OTHERS = f"""
select {", ".join("l." + name.strip() for name in LINK_COLUMNS.split(","))}
from unnest($1::bigint[], $2::int[], $3::bigint[]) as named (card_id, version, batch_id)
join link l using (card_id, version, batch_id)
"""  # noqa: S608 -- a constant
_ROWS = """
select card_id, version, batch_id, status, ecash_available, ecash_held, voucher_available,
       voucher_held, points_available, points_held, state, request_window
from card_state where card_id = any($1::bigint[])
"""

_decode_state = msgspec.msgpack.Decoder(CardState).decode


class _Chain:
    """One card while its links come by."""

    def __init__(self, card_id: int) -> None:
        self.card_id = card_id
        self.state: CardState | None = None
        self.encoded = b""
        self.broken = False
        self._keys: deque[bytes] = deque()
        self._dropped = 0

    def add(self, row: Any) -> Link:
        """The next link. ReplayFault where it does not follow."""
        try:
            link = link_from_row(row)
        except (msgspec.DecodeError, ValueError):
            raise ReplayFault("it cannot be read") from None
        if int(link.answer.response) != row["response"] or link.answer.transaction_id != row["tx"]:
            raise ReplayFault("its answer is not what its columns say")
        before = first_state(link) if self.state is None else self.state
        if link.version != before.version + 1:
            raise ReplayFault("the link before it is missing")
        self.state = follow(before, link, row["batch_id"])
        self.encoded = link.state_after
        self._keys.append(link.key + link.version.to_bytes(4, "big"))
        if len(self._keys) > WINDOW_LENGTH:
            self._dropped = max(self._dropped, key_instant(self._keys.popleft()) or _FOREVER)
        return link

    @property
    def window(self) -> bytes:
        """The window that the card's row must have."""
        return self._dropped.to_bytes(4, "big") + b"".join(self._keys)


async def replay_cards(
    raw: Any, card_ids: Sequence[int] | None, progress: Callable[[int], None]
) -> tuple[int, int, list[Finding]]:
    """Replay these cards, or all: links, cards, faults. In the caller's snapshot."""
    findings: list[Finding] = []
    cursor = await (raw.cursor(_ALL) if card_ids is None else raw.cursor(_SOME, list(card_ids)))
    chain: _Chain | None = None
    links = cards = 0
    while page := await cursor.fetch(_PAGE):
        ended = []
        halves: list[tuple[int, Link]] = []
        for row in page:
            card_id = row["card_id"]
            if chain is None or chain.card_id != card_id:
                if chain is not None:
                    ended.append(chain)
                chain = _Chain(card_id)
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
        links += len(page)
        cards += len(ended)
        await _check_rows(raw, ended, findings)
        await _check_halves(raw, halves, findings)
        progress(links)
        if len(findings) >= _FINDINGS_MAX:
            return links, cards, findings
    if chain is not None:
        await _check_rows(raw, [chain], findings)
        cards += 1
    return links, cards, findings


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


async def _check_rows(raw: Any, chains: Sequence[_Chain], findings: list[Finding]) -> None:
    """The rows of these cards are what their last links left."""
    whole = {chain.card_id: chain for chain in chains if not chain.broken}
    rows = await raw.fetch(_ROWS, list(whole)) if whole else []
    for row in rows:
        chain = whole.pop(row["card_id"])
        what = _row_fault(row, chain)
        if what:
            findings.append(Finding(CHECK, chain.card_id, row["version"], what))
    findings += [Finding(CHECK, card_id, 0, "the card has no row") for card_id in whole]


def _row_fault(row: Any, chain: _Chain) -> str:
    if row["state"] != chain.encoded:
        return "the state in its row is not what its last link left"
    if row["request_window"] != chain.window:
        return "the window in its row does not hold its last keys"
    state = chain.state
    assert state is not None  # a chain has a link
    columns = (
        *(state.version, state.batch_id, state.status),
        *(state.ecash.available_minor, state.ecash.held_minor),
        *(state.voucher.available_minor, state.voucher.held_minor),
        *(state.points.available_minor, state.points.held_minor),
    )
    if tuple(row)[1:10] != columns:
        return "its row's columns are not what its state says"
    return ""


async def check_untouched(raw: Any, findings: list[Finding]) -> None:
    """Rows of cards without links hold nothing."""
    cursor = await raw.cursor("select card_id, state from card_state where version = 0")
    while page := await cursor.fetch(_PAGE):
        for row in page:
            try:
                state = _decode_state(row["state"])
                check_state(state)
                empty = not any((state.version, state.lots_made, state.holds, state.ecash.lots))
            except (msgspec.DecodeError, ReplayFault):
                empty = False
            if not empty:
                what = "its row holds something, and no link says where from"
                findings.append(Finding(CHECK, row["card_id"], 0, what))
                if len(findings) >= _FINDINGS_MAX:
                    return
