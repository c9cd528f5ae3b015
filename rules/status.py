"""What a card's state and its expiry allow."""

from __future__ import annotations

from rules.booking import Moment, refuse
from rules.cards import CardStatus, WorkingCard
from rules.ledger import Answer
from rules.requests import CardRequest
from rules.responses import Response, Rule

__all__ = ["refusal_by_status"]

_STATUS_REFUSALS = {
    CardStatus.LOST: Response.LOST,
    CardStatus.STOLEN: Response.STOLEN,
    CardStatus.EXPIRED: Response.EXPIRED,
    CardStatus.BLOCKED: Response.RESTRICTED,
    CardStatus.FROZEN: Response.RESTRICTED,
    CardStatus.CLOSED: Response.NOT_PERMITTED_TO_CARD,
    CardStatus.ISSUED: Response.NOT_ACTIVATED,
    CardStatus.UNLOCKED: Response.NOT_ACTIVATED,
    CardStatus.ACTIVE: Response.NOT_PERMITTED_TO_CARD,
}


def refusal_by_status(
    request: CardRequest, card: WorkingCard, moment: Moment, *allowed: CardStatus
) -> Answer | None:
    """None when the card is in one of the states allowed and not past its expiry."""
    status = card.state.status
    if status not in allowed:
        return refuse(request, card, moment, _STATUS_REFUSALS[status], Rule.STATUS)
    if card.facts.expiry < moment.year_month:
        return refuse(request, card, moment, Response.EXPIRED, Rule.EXPIRY)
    return None
