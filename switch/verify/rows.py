"""Is each card's row what its chain left: columns, state and window, of all cards."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from rules.cards import CardState
from rules.replay import check_state
from rules.window import WINDOW_LENGTH
from switch.verify.report import Finding
from switch.verify.sql import WINDOWS

__all__ = ["CHECK", "check_rows"]

CHECK = "a card's row is the state after its last link"

_PAGE = 2_000
_FINDINGS_MAX = 20
_HEADER = 4
_ENTRY = 20
_BEGINNING = b"\0\0\0\1"
_decode_state = msgspec.msgpack.Decoder(CardState).decode


async def check_rows(raw: Any, through: datetime.date) -> list[Finding]:
    """What does not hold. In the caller's snapshot."""
    findings: list[Finding] = []
    cursor = await raw.cursor(WINDOWS, through, WINDOW_LENGTH)
    while page := await cursor.fetch(_PAGE):
        for row in page:
            what = _row_fault(row)
            if what:
                version = row["version"] or row["last"] or 0
                findings.append(Finding(CHECK, row["card_id"], version, what))
        if len(findings) >= _FINDINGS_MAX:
            break
    return sorted(findings, key=lambda found: found.card_id)


def _row_fault(row: Any) -> str:
    if row["version"] is None:
        return "the card has no row"
    last, batch_id = row["last"], row["last_batch_id"]
    if last is None:
        last, batch_id = row["opening_version"] or 0, row["opening_batch_id"] or 0
    if (row["version"], row["batch_id"]) != (last, batch_id):
        return "its row is not what its last link left"
    try:
        state = _decode_state(row["state"])
        check_state(state)
    except (msgspec.DecodeError, ValueError):
        return "the state in its row cannot be"
    if row["last"] is not None:
        # In the link's body the state stands as it is, as one string of bytes.
        if row["state"] not in row["last_body"]:
            return "the state in its row is not what its last link left"
    elif row["opening_state"] is not None:
        if row["state"] != row["opening_state"]:
            return "the state in its row is not what its last link left"
    elif not _is_untouched(state):
        return "its row holds something, and no link says where from"
    if (row["request_window"] or bytes(_HEADER)) != _window(row):
        return "the window in its row does not hold its last keys"
    if _columns(state) != tuple(row)[1:10]:
        return "its row's columns are not what its state says"
    return ""


def _columns(state: CardState) -> tuple[int, ...]:
    return (
        *(state.version, state.batch_id, int(state.status)),
        *(state.ecash.available_minor, state.ecash.held_minor),
        *(state.voucher.available_minor, state.voucher.held_minor),
        *(state.points.available_minor, state.points.held_minor),
    )


def _is_untouched(state: CardState) -> bool:
    tries = state.pin_tries, state.code_tries
    return not any((state.version, state.batch_id, state.lots_made, state.holds, *tries)) and not (
        state.ecash.lots or state.voucher.lots or state.points.lots
    )


def _window(row: Any) -> bytes:
    """The window that the card's row must have."""
    before, keys = row["opening_window"] or b"", row["keys"] or b""
    dropped = bytes.fromhex(row["dropped"] or "00000000")
    old = before[_HEADER:]
    dropped = max(dropped, before[:_HEADER] or bytes(_HEADER))
    surplus = len(old) + len(keys) - WINDOW_LENGTH * _ENTRY
    for at in range(0, min(max(surplus, 0), len(old)), _ENTRY):
        dropped = max(dropped, old[at : at + 4], _BEGINNING)
    return dropped + old[max(surplus, 0) :] + keys
