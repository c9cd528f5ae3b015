"""What can be said of a link that has been archived: that it was, and no more.

A card's window may name a link of a month that has left the journal since, on a card that has been
quiet. Requests of that age are refused by the clock before they come here; advices are refused by
none, and a key without an instant has no age.
"""

from __future__ import annotations

from rules.advices import suspend
from rules.booking import Moment
from rules.cards import WorkingCard
from rules.identity import derived_transaction_id
from rules.ledger import Answer
from rules.requests import CardRequest, Operation
from rules.responses import Response, ReversalState, Rule
from rules.reversal import late
from rules.uploads import note

__all__ = ["tell_of_archived"]

_ADVICES = frozenset({Operation.ADVICE, Operation.UPLOAD})


def tell_of_archived(request: CardRequest, card: WorkingCard, moment: Moment) -> Answer | None:
    """The answer to a request whose own link, or whose original's, is archived; None for others.

    A repeat has had its effect and leaves no second link; its first answer only the archive knows.
    """
    if card.is_archived(request.key):
        return _repeated(request, card)
    if request.operation is Operation.REVERSAL and card.is_archived(request.original_key):
        return late(request, card, moment)
    if request.operation is Operation.OUTCOME and card.is_archived(request.original_key):
        return _answer(request, card, Response.NO_SUCH_ORIGINAL, Rule.ORIGINAL)
    if request.operation is Operation.ADVICE and card.is_archived(request.own_request_key):
        # Whether its own request was approved, people must look up: posted twice it may not be.
        return suspend(request, card, moment, request.amount_minor, Rule.CLOCK)
    if request.operation is Operation.UPLOAD and (
        card.is_archived(request.original_key) or card.is_archived(request.own_request_key)
    ):
        return note(request, card, moment, Rule.NONE)
    return None


def _repeated(request: CardRequest, card: WorkingCard) -> Answer:
    if request.operation in _ADVICES:
        return _answer(request, card, Response.APPROVED, Rule.DONE_BEFORE)
    state = ReversalState.NONE
    if request.operation is Operation.REVERSAL:
        state = ReversalState.LATE
    return _answer(request, card, Response.REFUSED, Rule.LATE, state)


def _answer(
    request: CardRequest,
    card: WorkingCard,
    response: Response,
    rule: Rule,
    state: ReversalState = ReversalState.NONE,
) -> Answer:
    """Without a link, hence with a `TX` that follows from the request: each repeat has the same."""
    card_id = card.card_id.to_bytes(8, "big", signed=True)
    transaction_id = derived_transaction_id(request.key + card_id)
    rrn = request.rrn or transaction_id
    return Answer(response, transaction_id, rrn, rule, reversal_state=state)
