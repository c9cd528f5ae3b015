"""Holds: value set aside for one merchant, completed for what was really used, or given back.

A hold moves value from available to held and pins it to its lots: the completion takes it from
there, and what it does not use goes back into the very lots. Several may be open on one card.
"""

from __future__ import annotations

import msgspec

from rules.booking import Moment, Policy, approve, refuse
from rules.cards import CardStatus, Hold, WorkingCard
from rules.ledger import Answer, Link
from rules.limits import spend, uncount_spent
from rules.lots import LotMove, give_back, take
from rules.requests import CardRequest, Operation
from rules.responses import Response, ReversalState, Rule
from rules.status import refusal_by_status

__all__ = [
    "HOLDS_MAX",
    "expire_hold",
    "find_hold",
    "open_hold",
    "release",
    "reverse_hold",
    "split_pinned",
]

HOLDS_MAX = 16
"""Open holds of one card; they travel with its state."""


def open_hold(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    """0100: set an amount aside (or what there is, where the terminal takes less)."""
    refusal = refusal_by_status(request, card, moment, CardStatus.ACTIVE)
    if refusal is not None:
        return refusal
    purse = card.state.purse(request.purse)
    if len(card.state.holds) >= HOLDS_MAX:
        return refuse(request, card, moment, Response.OVER_FREQUENCY_LIMIT, Rule.HOLDS)
    amount_minor = request.amount_minor
    response = Response.APPROVED
    if purse.available_minor < amount_minor:
        if not request.partial_allowed or purse.available_minor == 0:
            return refuse(request, card, moment, Response.INSUFFICIENT, Rule.FUNDS)
        amount_minor, response = purse.available_minor, Response.PARTIAL
    refusal = spend(request, card, moment, policy, amount_minor)
    if refusal is not None:
        return refusal
    pinned = take(purse.lots, amount_minor)
    expires_s = moment.now_s + policy.hold_s
    version = card.state.version + 1
    card.state.holds.append(Hold(version, request.purse, amount_minor, expires_s, tuple(pinned)))
    return approve(
        request,
        card,
        moment,
        amount_minor=amount_minor,
        effect_minor=-amount_minor,
        held_minor=amount_minor,
        moves=pinned,
        status_before=card.state.status,
        response=response,
        answered_minor=amount_minor if response is Response.PARTIAL else None,
    )


def find_hold(request: CardRequest, card: WorkingCard) -> Link | None:
    """The approved hold a completion names: by `OR`, else by DE 38, else by DE 90.

    It is a hold of this merchant and of the purse that the completion is about: any other would be
    taken in its stead.
    """
    merchant_id = request.terminal.merchant_id
    by_code = by_key = None
    for link in card.known.values():
        if link.operation is not Operation.HOLD or not link.approved:
            continue
        if link.purse is not request.purse or link.merchant_id != merchant_id:
            continue
        if request.original_transaction_id:
            if link.answer.transaction_id == request.original_transaction_id:
                return link
            continue
        if link.answer.approval_code == request.approval_code:
            by_code = link
        if request.names_original and link.key == request.original_key:
            by_key = link
    return by_code or by_key


def split_pinned(hold: Hold, used_minor: int) -> tuple[list[LotMove], list[LotMove]]:
    """A hold's lots as what is used of them (below 0) and what goes back (above 0).

    Value is used in the order it was pinned, which is the order of spending.
    """
    used: list[LotMove] = []
    rest: list[LotMove] = []
    for move in hold.pinned:
        pinned_minor = -move.amount_minor
        part = min(pinned_minor, used_minor)
        used_minor -= part
        if part:
            used.append(move.with_amount(-part))
        if pinned_minor > part:
            rest.append(move.with_amount(pinned_minor - part))
    return used, rest


def release(card: WorkingCard, hold: Hold, released_minor: int) -> list[LotMove]:
    """Give a part of a hold, or all of it, back to its lots; the hold shrinks or ends."""
    kept_minor = hold.amount_minor - released_minor
    kept, rest = split_pinned(hold, kept_minor)
    holds = [other for other in card.state.holds if other.version != hold.version]
    if kept_minor:
        holds.append(Hold(hold.version, hold.purse, kept_minor, hold.expires_s, tuple(kept)))
    card.state.holds = holds
    return give_back(card.state.purse(hold.purse).lots, rest, released_minor)


def expire_hold(request: CardRequest, card: WorkingCard, moment: Moment) -> Answer:
    """The sweeper's request: a hold whose time is over is given back. Without effect before."""
    hold = next((hold for hold in card.state.holds if hold.version == request.hold_version), None)
    if hold is None or hold.expires_s > moment.now_s:
        return refuse(request, card, moment, Response.NO_SUCH_ORIGINAL, Rule.ORIGINAL)
    request = msgspec.structs.replace(request, purse=hold.purse)
    moves = release(card, hold, hold.amount_minor)
    return approve(
        request,
        card,
        moment,
        amount_minor=hold.amount_minor,
        effect_minor=hold.amount_minor,
        held_minor=-hold.amount_minor,
        moves=moves,
        status_before=card.state.status,
        undoes=hold.version,
    )


def reverse_hold(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy, original: Link
) -> Answer:
    """A reversal of a hold gives it back, or a part of it (DE 95 names what is to stay held)."""
    hold = next((hold for hold in card.state.holds if hold.version == original.version), None)
    status = card.state.status
    if hold is None:
        completed = any(
            link.operation is Operation.COMPLETION for link in card.undoers(original.version)
        )
        state = ReversalState.NOTHING if completed else ReversalState.ALREADY
        return approve(request, card, moment, status_before=status, reversal_state=state)
    final_minor = request.final_amount_minor or 0
    if final_minor > hold.amount_minor:
        return refuse(request, card, moment, Response.INVALID_AMOUNT, Rule.AMOUNT)
    released_minor = hold.amount_minor - final_minor
    if released_minor == 0:
        return approve(
            request, card, moment, status_before=status, reversal_state=ReversalState.ALREADY
        )
    moves = release(card, hold, released_minor)
    wholly = not final_minor
    counted = (hold.purse, hold.version, released_minor)
    uncount_spent(card, moment, policy, *counted, wholly=wholly)
    return approve(
        request,
        card,
        moment,
        amount_minor=released_minor,
        effect_minor=released_minor,
        held_minor=-released_minor,
        moves=moves,
        status_before=status,
        undoes=original.version,
        reversal_state=ReversalState.PARTIAL if final_minor else ReversalState.REVERSED,
    )
