"""What each operation of a terminal does to a card, one function per operation."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from rules.booking import Moment, approve, card_to_giver, card_to_merchant, refuse
from rules.cards import CardStatus, WorkingCard
from rules.ledger import Answer, Posting
from rules.limits import refusal_by_return_limit, room_for, spend
from rules.lots import Lot, LotMove, Origin, give_back, restorable, take
from rules.money import Purse
from rules.policy import PROMOTIONAL, Policy
from rules.requests import CardRequest, CreditTerms, Operation
from rules.responses import Response, Rule
from rules.restoring import restorable_minor, restoring_moves
from rules.status import refusal_by_status

__all__ = ["OPERATIONS"]

_ACTIVE, _APPROVED = CardStatus.ACTIVE, Response.APPROVED
_LIFE_DAYS_MAX = 36_525
_PAID = CreditTerms(Origin.PAID, cashable=True)
_RETURNED = CreditTerms(Origin.REFUND, cashable=False)
"""A return that names no sale."""
_SALES = frozenset({Operation.REDEEM, Operation.COMPLETION, Operation.ADVICE})


def _credit(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy, amount_minor: int
) -> list[LotMove] | Answer:
    """A new lot of the kind asked for, or the refusal: of the kind, or of that much."""
    terms = request.terms
    if terms is None:
        return _new_lot(request, card, moment, policy, amount_minor, _PAID)
    refusal = _refusal_of_terms(request, terms, card, moment, policy)
    if refusal is not None:
        return refusal
    if terms.cashable is None:
        cashable = _may_be_cashable(terms.origin, policy)
        terms = msgspec.structs.replace(terms, cashable=cashable)
    return _new_lot(request, card, moment, policy, amount_minor, terms)


def _may_be_cashable(origin: Origin, policy: Policy) -> bool:
    return origin is Origin.PAID or (origin is Origin.REFUND and policy.refund_cashable)


def _new_lot(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    policy: Policy,
    amount_minor: int,
    terms: CreditTerms,
) -> list[LotMove] | Answer:
    """A new lot, or the refusal when the purse may not have that much."""
    if not room_for(card, policy, request.purse, amount_minor):
        return refuse(request, card, moment, Response.OVER_AMOUNT_LIMIT, Rule.BALANCE_LIMIT)
    last_day = terms.last_day or policy.last_day(terms.origin, moment.now_s)
    card.state.lots_made += 1
    cashable = bool(terms.cashable) and request.purse is Purse.ECASH
    lot = Lot(
        *(card.state.lots_made, amount_minor, terms.origin, cashable),
        *(last_day, terms.sponsor_id),
    )
    card.state.purse(request.purse).lots.append(lot)
    return [
        LotMove(
            *(lot.lot_id, amount_minor, lot.origin, lot.cashable),
            *(lot.expires_day, lot.sponsor_id),
        )
    ]


def _refusal_of_terms(
    request: CardRequest, terms: CreditTerms, card: WorkingCard, moment: Moment, policy: Policy
) -> Answer | None:
    """What kind of value a credit is, the programme's own terminals say; and what they may say."""
    if not request.terminal.programme:
        return refuse(request, card, moment, Response.NOT_PERMITTED_TO_TERMINAL, Rule.PERMISSION)
    rule = Rule.NONE
    today = policy.day(moment.now_s)
    if terms.sponsor_id not in (policy.sponsors if terms.origin in PROMOTIONAL else {0}):
        rule = Rule.SPONSOR
    elif terms.last_day and not today <= terms.last_day <= today + _LIFE_DAYS_MAX:
        rule = Rule.LAST_DAY
    elif terms.cashable and not _may_be_cashable(terms.origin, policy):
        rule = Rule.CASHABLE
    elif terms.origin is Origin.REFUND and not terms.order_reference:
        rule = Rule.ORDER
    if rule is not Rule.NONE:
        return refuse(request, card, moment, Response.INVALID_TRANSACTION, rule)
    return None


def _unlock(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    refusal = refusal_by_status(request, card, moment, CardStatus.ISSUED)
    return refusal or _set_status(request, card, moment, CardStatus.UNLOCKED)


def _activate(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    amount_minor = request.amount_minor
    answered_minor = None
    status = card.state.status
    if status is CardStatus.ACTIVE:
        return refuse(request, card, moment, Response.NOT_PERMITTED_TO_CARD, Rule.STATUS)
    refusal = refusal_by_status(request, card, moment, CardStatus.ISSUED, CardStatus.UNLOCKED)
    if refusal is not None:
        return refusal
    if request.operation is Operation.ACTIVATE_PREVALUED:
        face_value_minor = card.facts.face_value_minor
        if face_value_minor == 0 or amount_minor not in (0, face_value_minor):
            return refuse(request, card, moment, Response.INVALID_AMOUNT, Rule.FACE_VALUE)
        amount_minor = answered_minor = face_value_minor
    moves = _credit(request, card, moment, policy, amount_minor)
    if isinstance(moves, Answer):
        return moves
    card.state.status = CardStatus.ACTIVE
    return approve(
        request,
        card,
        moment,
        amount_minor=amount_minor,
        effect_minor=amount_minor,
        moves=moves,
        postings=_from_giver(card, request, amount_minor),
        status_before=status,
        answered_minor=answered_minor,
    )


def _load(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    refusal = refusal_by_status(request, card, moment, CardStatus.ACTIVE)
    if refusal is not None:
        return refusal
    moves = _credit(request, card, moment, policy, request.amount_minor)
    if isinstance(moves, Answer):
        return moves
    return approve(
        request,
        card,
        moment,
        amount_minor=request.amount_minor,
        effect_minor=request.amount_minor,
        moves=moves,
        postings=_from_giver(card, request, request.amount_minor),
        status_before=card.state.status,
    )


def _from_giver(card: WorkingCard, request: CardRequest, amount_minor: int) -> tuple[Posting, ...]:
    terms = request.terms or _PAID
    return card_to_giver(card, request, -amount_minor, terms.origin, terms.sponsor_id)


def _redeem(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    refusal = refusal_by_status(request, card, moment, _ACTIVE)
    if refusal is not None:
        return refusal
    purse = card.state.purse(request.purse)
    amount_minor = request.amount_minor
    response = _APPROVED
    if purse.available_minor < amount_minor:
        if not request.partial_allowed or purse.available_minor == 0:
            return refuse(request, card, moment, Response.INSUFFICIENT, Rule.FUNDS)
        amount_minor = purse.available_minor
        response = Response.PARTIAL
    refusal = spend(request, card, moment, policy, amount_minor)
    if refusal is not None:
        return refusal
    moves = take(purse.lots, amount_minor)
    return approve(
        request,
        card,
        moment,
        amount_minor=amount_minor,
        effect_minor=-amount_minor,
        moves=moves,
        postings=card_to_merchant(card, request, amount_minor),
        status_before=card.state.status,
        response=response,
        answered_minor=amount_minor if response is not _APPROVED else None,
    )


def _return(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    refusal = refusal_by_status(request, card, moment, CardStatus.ACTIVE)
    if refusal is not None:
        return refusal
    if not request.original_transaction_id:
        return _return_unlinked(request, card, moment, policy)
    sale = card.find_transaction(request.original_transaction_id)
    if sale is None or sale.operation not in _SALES or not sale.approved:
        return refuse(request, card, moment, Response.NO_SUCH_ORIGINAL, Rule.ORIGINAL)
    if sale.merchant_id != request.terminal.merchant_id:
        return refuse(
            request, card, moment, Response.NOT_PERMITTED_TO_TERMINAL, Rule.OTHER_MERCHANT
        )
    amount_minor = request.amount_minor
    sources = restorable(sale.taken, restoring_moves(card, sale))
    # What an offline sale lacked, or a completion exceeded, never was the card's.
    paid_minor = min(sum(move.amount_minor for move in sources), restorable_minor(card, sale))
    if sale.purse is not request.purse or amount_minor > paid_minor:
        return refuse(request, card, moment, Response.INVALID_AMOUNT, Rule.RESTORABLE)
    if not room_for(card, policy, request.purse, amount_minor):
        return refuse(request, card, moment, Response.OVER_AMOUNT_LIMIT, Rule.BALANCE_LIMIT)
    moves = give_back(card.state.purse(request.purse).lots, sources, amount_minor)
    return approve(
        request,
        card,
        moment,
        amount_minor=amount_minor,
        effect_minor=amount_minor,
        moves=moves,
        postings=card_to_merchant(card, request, -amount_minor),
        status_before=card.state.status,
        undoes=sale.version,
    )


def _return_unlinked(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy
) -> Answer:
    """A return that names no sale: a new lot that is never paid out."""
    if not request.terminal.may_return_unlinked:
        return refuse(request, card, moment, Response.NOT_PERMITTED_TO_TERMINAL, Rule.PERMISSION)
    refusal = refusal_by_return_limit(request, card, moment, policy)
    if refusal is not None:
        return refusal
    moves = _new_lot(request, card, moment, policy, request.amount_minor, _RETURNED)
    if isinstance(moves, Answer):
        return moves
    return approve(
        request,
        card,
        moment,
        amount_minor=request.amount_minor,
        effect_minor=request.amount_minor,
        moves=moves,
        postings=card_to_merchant(card, request, -request.amount_minor),
        status_before=card.state.status,
    )


def _cash_out(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    refusal = refusal_by_status(request, card, moment, CardStatus.ACTIVE)
    if refusal is not None:
        return refusal
    lots = card.state.purse(request.purse).lots
    cashable_minor = sum(lot.available_minor for lot in lots if lot.cashable)
    amount_minor = request.amount_minor or cashable_minor
    if amount_minor == 0 or amount_minor > cashable_minor:
        return refuse(request, card, moment, Response.INSUFFICIENT, Rule.CASHABLE)
    refusal = spend(request, card, moment, policy, amount_minor)
    if refusal is not None:
        return refusal
    return approve(
        request,
        card,
        moment,
        amount_minor=amount_minor,
        effect_minor=-amount_minor,
        moves=take(lots, amount_minor, cashable_only=True),
        postings=card_to_merchant(card, request, amount_minor),
        status_before=card.state.status,
        answered_minor=amount_minor,
    )


def _balance(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    refusal = refusal_by_status(request, card, moment, CardStatus.ACTIVE)
    if refusal is not None:
        return refusal
    purses = tuple(Purse) if request.all_purses else (request.purse,)
    today = policy.day(moment.now_s) if card.state.ends_from else 0
    transaction_id = request.transaction_id
    return Answer(
        Response.APPROVED,
        transaction_id,
        request.rrn or transaction_id,
        approval_code=transaction_id[-6:],
        balances="".join(card.balances(purse, today) for purse in purses),
    )


def _deactivate(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    refusal = refusal_by_status(
        request, card, moment, CardStatus.ACTIVE, CardStatus.ISSUED, CardStatus.UNLOCKED
    )
    return refusal or _set_status(request, card, moment, CardStatus.CLOSED)


def _block(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    refusal = refusal_by_status(
        request, card, moment, CardStatus.ACTIVE, CardStatus.ISSUED, CardStatus.UNLOCKED
    )
    if refusal is not None:
        return refusal
    card.state.status_before_block = card.state.status
    return _set_status(request, card, moment, CardStatus.BLOCKED)


def _unblock(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    """The programme's own terminals thaw a frozen card, too."""
    if card.state.status is CardStatus.FROZEN and request.terminal.programme:
        return _set_status(request, card, moment, card.state.status_before_freeze)
    refusal = refusal_by_status(request, card, moment, CardStatus.BLOCKED)
    return refusal or _set_status(request, card, moment, card.state.status_before_block)


def _set_status(
    request: CardRequest, card: WorkingCard, moment: Moment, status: CardStatus
) -> Answer:
    before = card.state.status
    card.state.status = status
    return approve(request, card, moment, status_before=before)


OPERATIONS: dict[Operation, Callable[[CardRequest, WorkingCard, Moment, Policy], Answer]] = {
    Operation.UNLOCK: _unlock,
    Operation.ACTIVATE: _activate,
    Operation.ACTIVATE_PREVALUED: _activate,
    Operation.LOAD: _load,
    Operation.REDEEM: _redeem,
    Operation.RETURN: _return,
    Operation.CASH_OUT: _cash_out,
    Operation.BALANCE: _balance,
    Operation.DEACTIVATE: _deactivate,
    Operation.BLOCK: _block,
    Operation.UNBLOCK: _unblock,
}
