"""Card to card: one transaction, a link on each of two chains.

The sender's link stands under the request's own key, so that repeats, questions and reversals find
it; the receiver's under a key that follows from it. Each names the other, and each is balanced by
itself: the value passes through the programme's transfer account, which is zero again when both are
there. Lots keep their origin, sponsor and expiry on the way.
"""

from __future__ import annotations

import msgspec

from rules.booking import Moment, Policy, approve, refuse
from rules.cards import CardStatus, HistoryMissing, WorkingCard
from rules.identity import counterpart_key, derived_transaction_id
from rules.ledger import AccountKind, Answer, Link, Posting
from rules.limits import count_spent, refusal_by_limits, room_for, uncount_spent
from rules.lots import Lot, LotMove, give_back, net, restorable, take, take_back
from rules.money import Purse
from rules.requests import CardRequest, Operation
from rules.responses import Response, ReversalState, Rule
from rules.restoring import restorable_minor, restoring_moves
from rules.status import refusal_by_status

__all__ = ["receiver_of", "reverse_transfer", "transfer"]


def receiver_of(request: CardRequest, card: WorkingCard) -> int:
    """The card that the transfer went to which this request reverses; 0 where it reverses none.

    HistoryMissing as `WorkingCard.find`.
    """
    if request.operation is not Operation.REVERSAL:
        return 0
    original = card.find(request.original_key)
    if original is None or original.operation is not Operation.TRANSFER:
        return 0
    return original.other_card_id


def transfer(
    request: CardRequest,
    card: WorkingCard,
    other: WorkingCard | None,
    moment: Moment,
    policy: Policy,
) -> Answer:
    """Move value to another card, all that is asked for or none.

    Why the other card cannot receive is nobody's business who only knows its number: whatever the
    reason, the answer is one, and it is said after all that can be wrong with the sender's card.
    """
    refusal = refusal_by_status(request, card, moment, CardStatus.ACTIVE)
    if refusal is not None:
        return refusal
    amount_minor = request.amount_minor
    purse = card.state.purse(request.purse)
    if purse.available_minor < amount_minor:
        return refuse(request, card, moment, Response.INSUFFICIENT, Rule.FUNDS)
    refusal = refusal_by_limits(request, card, moment, policy, amount_minor)
    if refusal is not None:
        return refusal
    if other is None or not _can_receive(request, card, other, moment, policy):
        return refuse(request, card, moment, Response.REFUSED, Rule.TO_CARD)
    count_spent(card, moment, policy, request.purse, amount_minor)
    sent = take(purse.lots, amount_minor)
    received = _receive(other, request.purse, sent)
    answer = approve(
        request,
        card,
        moment,
        amount_minor=amount_minor,
        effect_minor=-amount_minor,
        moves=sent,
        postings=_on_its_way(card, amount_minor),
        status_before=card.state.status,
        other=(other.card_id, other.state.version + 1),
    )
    approve(
        _counterpart(request, Operation.RECEIPT, card, other),
        other,
        moment,
        amount_minor=amount_minor,
        effect_minor=amount_minor,
        moves=received,
        postings=_on_its_way(other, -amount_minor),
        status_before=other.state.status,
        other=(card.card_id, card.state.version),
    )
    return answer


def _can_receive(
    request: CardRequest, card: WorkingCard, other: WorkingCard, moment: Moment, policy: Policy
) -> bool:
    """Another card of the programme, active, not past its expiry, with room for the amount."""
    return (
        other.card_id != card.card_id
        and other.state.status is CardStatus.ACTIVE
        and other.facts.expiry >= moment.year_month
        and other.facts.programme_id == card.facts.programme_id
        and other.facts.currency == card.facts.currency
        and room_for(other, policy, request.purse, request.amount_minor)
    )


def _receive(card: WorkingCard, purse: Purse, sent: list[LotMove]) -> list[LotMove]:
    """New lots on the receiver's card, one for each that gave, alike but for their number."""
    received = []
    for move in sent:
        card.state.lots_made += 1
        kind = (move.origin, move.cashable, move.expires_day, move.sponsor_id)
        lot = Lot(card.state.lots_made, -move.amount_minor, *kind)
        card.state.purse(purse).lots.append(lot)
        received.append(LotMove(lot.lot_id, lot.available_minor, *kind))
    return received


def _on_its_way(card: WorkingCard, amount_minor: int) -> tuple[Posting, ...]:
    """The posting of value that leaves a card for another (above 0), or comes in from one."""
    if not amount_minor:
        return ()
    way = AccountKind.TRANSFER, card.facts.programme_id
    own = AccountKind.CARD, card.card_id
    debit, credit = (own, way) if amount_minor > 0 else (way, own)
    return (Posting(*debit, *credit, abs(amount_minor)),)


def _counterpart(
    request: CardRequest, operation: Operation, card: WorkingCard, other: WorkingCard
) -> CardRequest:
    """A request as it is kept on the other card: with a key and a `TX` of its own."""
    key = counterpart_key(request.key, card.card_id)
    return msgspec.structs.replace(
        request,
        operation=operation,
        key=key,
        transaction_id=derived_transaction_id(key + other.card_id.to_bytes(8, "big", signed=True)),
        rrn=request.rrn or request.transaction_id,
    )


def reverse_transfer(
    request: CardRequest,
    card: WorkingCard,
    other: WorkingCard | None,
    moment: Moment,
    policy: Policy,
    original: Link,
) -> Answer:
    """Undo a transfer as far as the receiver still has its value, whatever has become of the cards.

    What the receiver has spent by then stays spent: nobody owes it, and no later reversal asks for
    it. Where it has nothing left that is a link of its chain, too: a state of it that was old may
    not decide. HistoryMissing without the receiver's card or its link.
    """
    receipt = other.known.get(original.other_version) if other is not None else None
    if other is None or receipt is None or other.card_id != original.other_card_id:
        raise HistoryMissing(original.other_card_id, original.other_version)
    status = card.state.status
    left_minor = restorable_minor(card, original)
    final_minor = request.final_amount_minor or 0
    at_its_end = any(x.answer.rule is Rule.SPENT for x in card.undoers(original.version))
    if at_its_end or left_minor in (0, final_minor):
        already = ReversalState.ALREADY
        return approve(request, card, moment, status_before=status, reversal_state=already)
    if final_minor > left_minor:
        return refuse(request, card, moment, Response.INVALID_AMOUNT, Rule.AMOUNT)
    purse = other.state.purse(original.purse)
    found_minor = min(purse.available_minor, left_minor - final_minor)
    rule = Rule.NONE if found_minor == left_minor - final_minor else Rule.SPENT
    state = ReversalState.PARTIAL if final_minor or rule else ReversalState.REVERSED
    given = net([*receipt.moves, *restoring_moves(other, receipt)])
    taken = take_back(purse.lots, given, found_minor)
    sources = _sources(card, original, receipt, taken)
    counted = (original.purse, original.version, found_minor)
    if found_minor:
        uncount_spent(card, moment, policy, *counted, wholly=found_minor == left_minor)
    answer = approve(
        request,
        card,
        moment,
        amount_minor=found_minor,
        effect_minor=found_minor,
        moves=net(give_back(card.state.purse(original.purse).lots, sources, found_minor)),
        postings=_on_its_way(card, -found_minor),
        status_before=status,
        undoes=original.version,
        rule=rule,
        reversal_state=state,
        other=(other.card_id, other.state.version + 1),
    )
    approve(
        _counterpart(request, Operation.REVERSAL, card, other),
        other,
        moment,
        amount_minor=found_minor,
        effect_minor=-found_minor,
        moves=taken,
        postings=_on_its_way(other, found_minor),
        status_before=other.state.status,
        undoes=receipt.version,
        rule=rule,
        reversal_state=state,
        other=(card.card_id, card.state.version),
    )
    return answer


def _sources(
    card: WorkingCard, original: Link, receipt: Link, taken: list[LotMove]
) -> list[LotMove]:
    """The sender's lots that are owed: first those whose own value the receiver gives back."""
    twins = zip(original.moves, receipt.moves, strict=True)
    sender_lot = {received.lot_id: sent.lot_id for sent, received in twins}
    returned = {
        sender_lot[move.lot_id]: -move.amount_minor for move in taken if move.lot_id in sender_lot
    }
    own, others = [], []
    for source in restorable(original.moves, restoring_moves(card, original)):
        part = min(source.amount_minor, returned.get(source.lot_id, 0))
        own.append(source.with_amount(part))
        others.append(source.with_amount(source.amount_minor - part))
    return [source for source in (*own, *others) if source.amount_minor]
