"""The outcome query: what became of a transaction whose answer was lost.

It reads and leaves no link of its own. Asked to (`TB`), it bars an original that it does not find:
then the till knows for good that nothing happened and nothing will.
"""

from __future__ import annotations

from rules.booking import Moment, Policy
from rules.cards import WorkingCard
from rules.identity import key_instant
from rules.ledger import Answer, Link
from rules.requests import CardRequest, Operation
from rules.responses import OriginalState, Response, ReversalState, Rule
from rules.restoring import restorable_minor, reversed_minor
from rules.reversal import bar

__all__ = ["tell_outcome"]


def tell_outcome(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    """0600: the original's stored code and its state now; 25 where there is none."""
    original = card.find(request.original_key)
    transaction_id = request.transaction_id
    rrn = request.rrn or transaction_id
    if original is None and request.bar_unknown and _may_bar(request, card, moment, policy):
        bar(request, card, moment)
        original = card.find(request.original_key)
    barred = original is not None and original.operation is Operation.TOMBSTONE
    if original is not None and original.answer.response is Response.NO_SUCH_CARD:
        # It must not be told from one that no card has, which nobody remembers; to bar it is to say
        # that it will never be approved, and its own repeat says no less.
        original, barred = None, request.bar_unknown
    if original is None or barred:
        state = OriginalState.BARRED if barred else OriginalState.NONE
        return Answer(
            Response.NO_SUCH_ORIGINAL, transaction_id, rrn, Rule.ORIGINAL, original_state=state
        )
    told = original.answer
    amount_minor = told.amount_minor
    return Answer(
        Response.APPROVED,
        transaction_id,
        rrn,
        approval_code=told.approval_code,
        amount_minor=original.requested_minor if amount_minor is None else amount_minor,
        balances=told.balances,
        original_response=told.response.value,
        original_state=_state(card, original),
    )


def _state(card: WorkingCard, original: Link) -> OriginalState:
    if not original.approved:
        return OriginalState.DECLINED
    # What a return or a completion took of it is no reversal: their own words count.
    undoers = card.undoers(original.version)
    reversals = [link for link in undoers if link.operation is Operation.REVERSAL]
    states = {link.answer.reversal_state for link in reversals}
    if ReversalState.REVERSED in states:
        return OriginalState.REVERSED
    # A transfer whose receiver had nothing left was undone in no part.
    if any(x.answer.reversal_state is ReversalState.PARTIAL and x.amount_minor for x in reversals):
        return OriginalState.PARTIAL
    # Found undone by returns, which were then undone themselves: the reversal stands.
    if not states or not reversed_minor(card, original):
        return OriginalState.APPROVED
    return OriginalState.PARTIAL if restorable_minor(card, original) else OriginalState.REVERSED


def _may_bar(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> bool:
    """Not an enquiry or a reversal, nor what may have happened where nothing was looked for."""
    if request.reverses_nothing or request.original_key in card.keys_elsewhere:
        return False
    instant_s = key_instant(request.original_key)
    return not instant_s or instant_s >= moment.now_s - policy.horizon_s
