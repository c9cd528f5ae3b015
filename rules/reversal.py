"""Reversals: each ends in one named state, in whatever order it and its original arrive.

The tombstone of an unknown original is a link under the original's own key: original and reversal
race for one version of one card, and the one that comes second finds the other.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rules.booking import Moment, Policy, approve, card_to_giver, card_to_merchant, refuse
from rules.cards import CardStatus, WorkingCard
from rules.holds import reverse_hold
from rules.identity import derived_transaction_id, key_instant
from rules.ledger import AccountKind, Answer, Link, Posting
from rules.limits import uncount_spent
from rules.lots import give_back, net, restorable, take_back
from rules.policy import PROMOTIONAL
from rules.requests import CardRequest, Operation, ReversalReason
from rules.responses import Response, ReversalState, Rule
from rules.restoring import (
    approved_minor,
    course_of,
    restorable_minor,
    restoring_moves,
    settled_minor,
)
from rules.transfers import reverse_transfer

__all__ = ["bar", "late", "reverse"]

_VALUE_TO_MERCHANT = frozenset(
    {Operation.REDEEM, Operation.CASH_OUT, Operation.COMPLETION, Operation.ADVICE}
)
_ACTIVATIONS = frozenset({Operation.ACTIVATE, Operation.ACTIVATE_PREVALUED})
_STATUS_ONLY = frozenset(
    {Operation.UNLOCK, Operation.DEACTIVATE, Operation.BLOCK, Operation.UNBLOCK}
)


def reverse(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    policy: Policy,
    other: WorkingCard | None = None,
) -> Answer:
    """The table of the dialect, row by row. The request has been found to be no repeat."""
    instant_s = key_instant(request.original_key)
    if instant_s and instant_s < moment.now_s - policy.horizon_s:
        return late(request, card, moment)
    if request.reverses_nothing:
        return _without_effect(request, card, moment, ReversalState.NOTHING)
    original = card.find(request.original_key)
    if original is None:
        bar(request, card, moment)
        return _without_effect(request, card, moment, ReversalState.NOTHING)
    # A reversal is final: undoing one would move the original's value a second time.
    if not original.approved or original.operation is Operation.REVERSAL:
        return _without_effect(request, card, moment, ReversalState.NOTHING)
    if request.foreign_currency not in ("", original.foreign_currency):
        return refuse(request, card, moment, Response.INVALID_TRANSACTION, Rule.CURRENCY)
    if original.foreign_currency:  # suspense leaves in the currency that it stands in
        request = msgspec.structs.replace(request, foreign_currency=original.foreign_currency)
    if request.amount_given and request.amount_minor not in (
        original.requested_minor,
        original.amount_minor,
    ):
        return refuse(request, card, moment, Response.INVALID_AMOUNT, Rule.AMOUNT)
    if original.operation is Operation.HOLD:
        return reverse_hold(request, card, moment, policy, original)
    if original.operation is Operation.TRANSFER:
        return reverse_transfer(request, card, other, moment, policy, original)
    if original.operation in _STATUS_ONLY:
        return _reverse_status(request, card, moment, original)
    return _reverse_value(request, card, moment, policy, original)


def _reverse_value(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy, original: Link
) -> Answer:
    if original.answer.rule is Rule.DONE_BEFORE:
        return _without_effect(request, card, moment, ReversalState.NOTHING)
    left_minor = restorable_minor(card, original)
    final_minor = request.final_amount_minor or 0
    if left_minor in (0, final_minor):
        # It counts, all the same: a return undone later does not lift the original above it.
        return _without_effect(
            request, card, moment, ReversalState.ALREADY, undoes=original.version
        )
    if original.batch_closed and request.reason is not ReversalReason.TIME_OUT:
        return late(request, card, moment)
    if final_minor > left_minor:
        return refuse(request, card, moment, Response.INVALID_AMOUNT, Rule.AMOUNT)
    undone_minor = left_minor - final_minor
    state = ReversalState.PARTIAL if final_minor else ReversalState.REVERSED
    if original.operation in _VALUE_TO_MERCHANT:
        return _give_back(request, card, moment, policy, original, left_minor, undone_minor, state)
    return _take_back(request, card, moment, original, undone_minor, state)


def _give_back(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    policy: Policy,
    original: Link,
    left_minor: int,
    undone_minor: int,
    state: ReversalState,
) -> Answer:
    """Undo a sale, into the very lots. What the card has not paid of it goes first."""
    sources = restorable(original.taken, restoring_moves(card, original))
    unpaid_minor = min(undone_minor, left_minor - sum(source.amount_minor for source in sources))
    restored_minor = undone_minor - unpaid_minor
    # The moves go to the original's purse: DE 3 is part of its key, so both name the same one.
    moves = give_back(card.state.purse(original.purse).lots, sources, restored_minor)
    if original.operation is Operation.COMPLETION or original.effect_minor < 0:
        counted = original.undoes or original.version  # what has been counted is the hold
        wholly = undone_minor == left_minor
        purse = original.purse
        uncount_spent(card, moment, policy, purse, counted, restored_minor, wholly=wholly)
    postings = card_to_merchant(card, request, -restored_minor)
    postings += _relieved(card, original, unpaid_minor)
    return approve(
        request,
        card,
        moment,
        amount_minor=undone_minor,
        effect_minor=restored_minor,
        moves=moves,
        postings=postings,
        status_before=card.state.status,
        undoes=original.version,
        reversal_state=state,
    )


def _relieved(card: WorkingCard, original: Link, unpaid_minor: int) -> tuple[Posting, ...]:
    """What the card has not paid of a sale stands in suspense, then shortfall: so it leaves."""
    suspended_minor = approved_minor(original) - original.amount_minor
    suspended_minor -= course_of(card, original).relieved_minor
    suspended_minor = min(unpaid_minor, max(suspended_minor, 0))
    return (
        *_cleared(original, AccountKind.SUSPENSE, suspended_minor),
        *_cleared(original, AccountKind.SHORTFALL, unpaid_minor - suspended_minor),
    )


def _cleared(original: Link, kind: AccountKind, amount_minor: int) -> tuple[Posting, ...]:
    merchant_id = original.merchant_id
    if not amount_minor:
        return ()
    return (Posting(AccountKind.MERCHANT, merchant_id, kind, merchant_id, amount_minor),)


def _take_back(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    original: Link,
    undone_minor: int,
    state: ReversalState,
) -> Answer:
    """Undo a credit. What was spent meanwhile is the loading merchant's shortfall."""
    purse = card.state.purse(original.purse)
    if original.operation is not Operation.RETURN and original.moves[0].origin in PROMOTIONAL:
        return _take_back_given(request, card, moment, original, undone_minor, state)
    settled = settled_minor(card, original, undone_minor)
    due_minor = undone_minor - settled
    found_minor = min(purse.available_minor, due_minor)
    missing_minor = due_minor - found_minor
    if missing_minor and request.reason is not ReversalReason.TIME_OUT:
        return refuse(request, card, moment, Response.REFUSED, Rule.SPENT)
    given = net([*original.moves, *restoring_moves(card, original)])
    pays_minor = min(settled, purse.available_minor - found_minor, _unpaid(card, original))
    moves = take_back(purse.lots, given, found_minor + pays_minor)
    postings = card_to_merchant(card, request, found_minor + pays_minor)
    if pays_minor:
        postings += _relieved(card, card.known[original.undoes], pays_minor)
    status_before = card.state.status
    if missing_minor:
        state = ReversalState.PARTIAL
        card.state.freeze()
        postings += (
            Posting(
                AccountKind.SHORTFALL,
                original.merchant_id,
                AccountKind.MERCHANT,
                original.merchant_id,
                missing_minor,
            ),
        )
    elif state is ReversalState.REVERSED:
        _undo_activation(card, original)
    return approve(
        request,
        card,
        moment,
        amount_minor=undone_minor,
        effect_minor=-found_minor - pays_minor,
        moves=moves,
        postings=postings,
        status_before=status_before,
        undoes=original.version,
        reversal_state=state,
    )


def _undo_activation(card: WorkingCard, original: Link) -> None:
    """A card whose activation is wholly undone is what it was before."""
    if original.operation not in _ACTIVATIONS:
        return
    state, before = card.state, CardStatus(original.status_before)
    if state.status is CardStatus.ACTIVE:
        state.status = before
    elif state.status is CardStatus.BLOCKED and state.status_before_block is CardStatus.ACTIVE:
        state.status_before_block = before


def _take_back_given(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    original: Link,
    undone_minor: int,
    state: ReversalState,
) -> Answer:
    """Undo a credit of promotional value: its sponsor gets what is there, nobody owes the rest.

    What is not there by then is not asked for again.
    """
    if any(link.answer.rule is Rule.SPENT for link in card.undoers(original.version)):
        return _without_effect(
            request, card, moment, ReversalState.ALREADY, undoes=original.version
        )
    purse = card.state.purse(original.purse)
    found_minor = min(purse.available_minor, undone_minor)
    status, rule = card.state.status, Rule.NONE
    if found_minor < undone_minor:
        if request.reason is not ReversalReason.TIME_OUT:
            return refuse(request, card, moment, Response.REFUSED, Rule.SPENT)
        state, rule = ReversalState.PARTIAL, Rule.SPENT
    end: dict[str, Any] = {"undoes": original.version, "rule": rule, "reversal_state": state}
    if not found_minor:
        return approve(request, card, moment, status_before=status, **end)
    given = net([*original.moves, *restoring_moves(card, original)])
    lot = original.moves[0]
    if state is ReversalState.REVERSED:
        _undo_activation(card, original)
    return approve(
        request,
        card,
        moment,
        amount_minor=found_minor,
        effect_minor=-found_minor,
        moves=take_back(purse.lots, given, found_minor),
        postings=card_to_giver(card, request, found_minor, lot.origin, lot.sponsor_id),
        status_before=status,
        **end,
    )


def _unpaid(card: WorkingCard, back: Link) -> int:
    """What the card has not paid of a return's sale; the return, undone, pays it first."""
    sale = card.known.get(back.undoes)
    if sale is None:  # before the horizon
        return 0
    sources = restorable(sale.taken, restoring_moves(card, sale))
    return restorable_minor(card, sale) - sum(source.amount_minor for source in sources)


def _reverse_status(
    request: CardRequest, card: WorkingCard, moment: Moment, original: Link
) -> Answer:
    """Undo a change of status, unless the card has gone on to another one since."""
    if card.undoers(original.version):
        return _without_effect(request, card, moment, ReversalState.ALREADY)
    status_before = card.state.status
    if status_before != original.status_after:
        return _without_effect(request, card, moment, ReversalState.NOTHING)
    card.state.status = CardStatus(original.status_before)
    if original.operation is Operation.BLOCK:  # what became of it while it was blocked counts
        card.state.status = card.state.status_before_block
    return approve(
        request,
        card,
        moment,
        status_before=status_before,
        undoes=original.version,
        reversal_state=ReversalState.REVERSED,
    )


def late(request: CardRequest, card: WorkingCard, moment: Moment) -> Answer:
    """Older than the horizon, or its batch is closed: for people to look at."""
    return refuse(
        request, card, moment, Response.REFUSED, Rule.LATE, reversal_state=ReversalState.LATE
    )


def _without_effect(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    state: ReversalState,
    undoes: int = 0,
) -> Answer:
    status = card.state.status
    return approve(request, card, moment, status_before=status, reversal_state=state, undoes=undoes)


def bar(request: CardRequest, card: WorkingCard, moment: Moment, key: bytes = b"") -> None:
    """The tombstone: from now on this key, or the original's, has an answer, and that is no."""
    card_id = card.card_id.to_bytes(8, "big", signed=True)
    key = key or request.original_key
    transaction_id = derived_transaction_id(key + card_id)
    answer = Answer(Response.REFUSED, transaction_id, transaction_id, Rule.BARRED)
    card.append(
        Link(
            card_id=card.card_id,
            version=card.state.version + 1,
            key=key,
            fingerprint=b"",
            operation=Operation.TOMBSTONE,
            answer=answer,
            terminal_id=request.terminal.terminal_id,
            merchant_id=request.terminal.merchant_id,
            purse=request.purse,
            requested_minor=request.amount_minor,
            status_before=card.state.status,
        ),
        moment.batch_id,
    )
