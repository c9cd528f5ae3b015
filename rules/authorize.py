"""`decide`: what a request does to a card.

A decision is taken on a working copy of the card (`WorkingCard`). It returns the answer, and where
the card's chain grows it has appended the link: approvals and refusals alike, since a refusal that
left no trace would turn into an approval when its repeat arrives after a top-up. Only an approved
balance enquiry and the repeat of something known leave no link.
"""

from __future__ import annotations

import msgspec

from rules.advices import advise
from rules.archived import tell_of_archived
from rules.booking import Moment, Policy
from rules.cards import WorkingCard
from rules.dormancy import charge_dormancy
from rules.expiry import expire_due, renew_returned, sweep_lots
from rules.holds import expire_hold, open_hold
from rules.ledger import Answer, Link
from rules.operations import OPERATIONS
from rules.outcome import tell_outcome
from rules.requests import CardRequest, Operation
from rules.responses import Response, ReversalState, Rule
from rules.restoring import is_reversed
from rules.reversal import reverse
from rules.transfers import transfer
from rules.uploads import upload
from rules.verification import check_secrets

__all__ = ["decide", "lacks_history"]

_TRANSFER = Operation.TRANSFER
_ASKED = {**OPERATIONS, Operation.HOLD: open_hold}
_NAMES_EARLIER = frozenset({Operation.REVERSAL, Operation.OUTCOME, Operation.UPLOAD})
_WITHOUT_SECRETS = _NAMES_EARLIER | {
    *(Operation.ADVICE, Operation.HOLD_EXPIRY, Operation.LOT_SWEEP, Operation.DORMANCY_FEE)
}
"""What has happened, or follows from time: neither PIN nor code is asked for."""
_MOVES_NOTHING = frozenset({Operation.BALANCE, Operation.OUTCOME, Operation.UPLOAD})
"""They only show, or note: what is due on the card stays there until something moves."""


def decide(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    policy: Policy,
    other: WorkingCard | None = None,
) -> Answer:
    """Decide one request on a card's working copy; requests of one card in order of arrival.

    `other` is the card that a transfer goes to, or that the reversal of one takes back from
    (`receiver_of`); None where there is no such card.
    """
    if card.archived_version:
        told = tell_of_archived(request, card, moment)
        if told is not None:
            return told
    prior = card.find(request.key)
    if prior is not None:
        return _repeated(request, card, prior)
    if request.operation in _MOVES_NOTHING:
        return _decide(request, card, moment, policy, other)
    if card.state.ends_from:
        expire_due(card, moment, policy)
    if other is None:
        answer = _decide(request, card, moment, policy, None)
    else:
        answer = _decide_both(request, card, moment, policy, other)
    if card.state.ends_from:
        renew_returned(card, moment, policy)
    return answer


def _decide_both(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy, other: WorkingCard
) -> Answer:
    """The same for a transfer or its reversal: the other card's value is past its day, too."""
    ends = other.facts.programme_id == card.facts.programme_id  # else it is not touched
    if ends and other.state.ends_from:
        expire_due(other, moment, policy)
    answer = _decide(request, card, moment, policy, other)
    if ends and other.state.ends_from:
        renew_returned(other, moment, policy)
    return answer


def _decide(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    policy: Policy,
    other: WorkingCard | None,
) -> Answer:
    """What is no repeat, with nothing on the card that is past its last day."""
    if request.operation in _WITHOUT_SECRETS:
        return _decide_told(request, card, moment, policy, other)
    refusal = check_secrets(request, card, moment, policy)
    if refusal is not None:
        return refusal
    if request.operation is _TRANSFER:
        return transfer(request, card, other, moment, policy)
    return _ASKED[request.operation](request, card, moment, policy)


def _decide_told(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    policy: Policy,
    other: WorkingCard | None,
) -> Answer:
    if request.operation is Operation.REVERSAL:
        if request.original_key in card.keys_elsewhere and card.find(request.original_key) is None:
            return _differs(request, Rule.OTHER_CARD)
        return reverse(request, card, moment, policy, other)
    if request.operation is Operation.OUTCOME:
        return tell_outcome(request, card, moment, policy)
    if request.operation is Operation.ADVICE:
        return advise(request, card, moment, policy)
    if request.operation is Operation.UPLOAD:
        return upload(request, card, moment)
    if request.operation is Operation.HOLD_EXPIRY:
        return expire_hold(request, card, moment)
    if request.operation is Operation.LOT_SWEEP:
        return sweep_lots(request)
    return charge_dormancy(request, card, moment, policy)


def lacks_history(request: CardRequest, card: WorkingCard) -> bool:
    """Whether links of the journal must be read before this request can be decided.

    They must where the window points to a link, where it may have forgotten one, and for all that
    names an earlier transaction.
    """
    version = card.window.find(request.key)
    if version is not None:
        return version not in card.known
    if not card.window.surely_knows(request.key):
        return True
    if request.own_request_key and not _surely_unseen(request.own_request_key, card):
        return True
    return (
        request.operation in _NAMES_EARLIER
        or request.names_original
        or bool(request.original_transaction_id or request.approval_code)
    )


def _surely_unseen(key: bytes, card: WorkingCard) -> bool:
    return card.window.find(key) is None and card.window.surely_knows(key)


def _repeated(request: CardRequest, card: WorkingCard, prior: Link) -> Answer:
    """The first answer again, unless the content differs or it has been undone since."""
    if prior.operation is Operation.TOMBSTONE:
        return prior.answer
    if prior.answer.response is Response.NO_SUCH_CARD:
        # An unknown card has no memory of other content, nor of a first DE 37: nor may this one.
        answer = prior.answer
        return msgspec.structs.replace(answer, rrn=request.rrn or answer.transaction_id)
    if prior.fingerprint != request.fingerprint:
        return _differs(request)
    if is_reversed(card, prior):
        return msgspec.structs.replace(
            prior.answer,
            response=Response.REFUSED,
            rule=Rule.REVERSED,
            approval_code="",
            amount_minor=None,
            balances="",
            reversal_state=ReversalState.REVERSED,
            requested_minor=None,
        )
    return prior.answer


def _differs(request: CardRequest, rule: Rule = Rule.DUPLICATE) -> Answer:
    """Same key, other content or another card: nothing is said of the first answer."""
    transaction_id = request.transaction_id
    return Answer(Response.DUPLICATE_DIFFERS, transaction_id, request.rrn or transaction_id, rule)
