"""Value that is past its last day: it leaves the card before anything else is decided.

A decision first expires what is due (one link per lot), so that nothing of it is ever spent, moved,
held or paid out, whether a sweeper has come by or not. What is held stays, pinned to its lot. Value
that a decision brings back into a lot whose day is over is given a new life: a lot of its own.
"""

from __future__ import annotations

from rules.booking import Moment, approve
from rules.cards import WorkingCard
from rules.identity import derived_transaction_id, request_key
from rules.ledger import AccountKind, Answer, Posting
from rules.lots import Lot, LotMove
from rules.money import Purse
from rules.policy import PROMOTIONAL, Policy
from rules.requests import CardRequest, Operation, Terminal
from rules.responses import Response

__all__ = ["SWITCH", "expire_due", "own_key", "renew_returned", "sweep_lots"]

SWITCH = Terminal(0, 0, network=True)
"""The terminal of links that no terminal has asked for."""


def own_key(card: WorkingCard, moment: Moment, what: str) -> bytes:
    """A key for a link of the switch's own. Its parts are no message's: those begin with digits."""
    return request_key(moment.now_s, f"own|{what}|{card.state.version}")


def expire_due(card: WorkingCard, moment: Moment, policy: Policy) -> None:
    """Expire every lot whose last day is over: a link for each."""
    today = policy.day(moment.now_s)
    if today <= card.state.ends_from:
        return
    for purse in Purse:
        lots = card.state.purse(purse).lots
        for lot in [lot for lot in lots if lot.is_over(today)]:
            lots.remove(lot)
            card.state.ends_from = card.state.first_end()
            own, amount_minor = (AccountKind.CARD, card.card_id), lot.available_minor
            heir = AccountKind.BREAKAGE, card.facts.programme_id
            if lot.origin in PROMOTIONAL:
                heir = AccountKind.PROMO, lot.sponsor_id
            approve(
                _request(card, moment, Operation.LOT_EXPIRY, purse, lot),
                card,
                moment,
                amount_minor=amount_minor,
                effect_minor=-amount_minor,
                moves=[_move(lot, -amount_minor)],
                postings=(Posting(*own, *heir, amount_minor),),
                status_before=card.state.status,
            )


def renew_returned(card: WorkingCard, moment: Moment, policy: Policy) -> None:
    """Give what came back after its last day a new one; what was due before has expired already.

    It gets a lot of its own: the facts of a lot never change.
    """
    today = policy.day(moment.now_s)
    if today <= card.state.ends_from:
        return
    for purse in Purse:
        lots = card.state.purse(purse).lots
        for lot in [lot for lot in lots if lot.is_over(today)]:
            lots.remove(lot)
            card.state.lots_made += 1
            heir = Lot(
                *(card.state.lots_made, lot.available_minor, lot.origin, lot.cashable),
                *(today + policy.renewal_days, lot.sponsor_id),
            )
            lots.append(heir)
            card.state.ends_from = card.state.first_end()
            approve(
                _request(card, moment, Operation.LOT_RENEWAL, purse, lot),
                card,
                moment,
                amount_minor=lot.available_minor,
                moves=[_move(lot, -lot.available_minor), _move(heir, lot.available_minor)],
                status_before=card.state.status,
            )


def sweep_lots(request: CardRequest) -> Answer:
    """The sweeper's request: what was due has expired by now, by links of its own."""
    transaction_id = request.transaction_id
    return Answer(Response.APPROVED, transaction_id, transaction_id)


def _move(lot: Lot, amount_minor: int) -> LotMove:
    facts = (lot.origin, lot.cashable, lot.expires_day, lot.sponsor_id)
    return LotMove(lot.lot_id, amount_minor, *facts)


def _request(
    card: WorkingCard, moment: Moment, operation: Operation, purse: Purse, lot: Lot
) -> CardRequest:
    key = own_key(card, moment, f"{operation.name}|{lot.lot_id}")
    return CardRequest(
        operation=operation,
        key=key,
        fingerprint=b"",
        transaction_id=derived_transaction_id(key + card.card_id.to_bytes(8, "big", signed=True)),
        rrn="",
        terminal=SWITCH,
        purse=purse,
        amount_minor=lot.available_minor,
    )
