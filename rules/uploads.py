"""Batch upload (0320): the items of a batch whose totals differ, one by one.

What was posted is noted and has no second effect. What the switch does not have goes to the
merchant's suspense, and bars its key: however late the item itself arrives, it is not posted again.
"""

from __future__ import annotations

from rules.booking import Moment, approve
from rules.cards import WorkingCard
from rules.ledger import AccountKind, Answer, Link, Posting
from rules.money import Counts
from rules.requests import CardRequest, Operation
from rules.responses import Rule
from rules.reversal import bar

__all__ = ["note", "upload"]

_TO_MERCHANT = frozenset({Counts.DEBIT, Counts.CREDIT_REVERSAL})


def upload(request: CardRequest, card: WorkingCard, moment: Moment) -> Answer:
    """Note an item, or keep it in suspense with the rule that says why; 00 either way."""
    if request.item_counts is Counts.NONE:
        return note(request, card, moment, Rule.NONE)
    item = card.find(request.original_key)
    # A sale may have been asked for and told afterwards: under either key it is the one item.
    twin = card.find(request.own_request_key) if request.own_request_key else None
    if twin is not None and twin.approved and (item is None or not item.counts):
        item = twin
    if item is None:
        bar(request, card, moment)
        item = twin
    if item is None:
        item = card.new[-1]
        if request.own_request_key:
            bar(request, card, moment, request.own_request_key)
        return _suspend(request, card, moment, item, _unknown(request))
    named = card.undoers(item.version) + (card.undoers(twin.version) if twin is not None else [])
    if any(link.operation is Operation.UPLOAD for link in named):
        return note(request, card, moment, Rule.DONE_BEFORE)
    if item.operation is Operation.TOMBSTONE:
        return _suspend(request, card, moment, item, Rule.BARRED)
    if not item.approved:
        return _suspend(request, card, moment, item, Rule.DECLINED)
    if item.counts is Counts.NONE:  # an advice that had no effect, a reversal that found nothing
        return note(request, card, moment, Rule.NONE)
    amounts = (item.requested_minor, item.counted_minor)
    differs = request.amount_given and request.amount_minor not in amounts
    return note(request, card, moment, Rule.AMOUNT if differs else Rule.NONE, item)


def _unknown(request: CardRequest) -> Rule:
    if request.card_unknown:
        return Rule.CARD
    return Rule.CURRENCY if request.foreign_currency else Rule.ORIGINAL


def note(
    request: CardRequest,
    card: WorkingCard,
    moment: Moment,
    rule: Rule,
    item: Link | None = None,
) -> Answer:
    """No effect; the link names the item that the terminal has told of."""
    return approve(
        request,
        card,
        moment,
        status_before=card.state.status,
        undoes=item.version if item is not None else 0,
        rule=rule,
    )


def _suspend(
    request: CardRequest, card: WorkingCard, moment: Moment, item: Link, rule: Rule
) -> Answer:
    """Into the merchant's suspense, on the side on which the terminal has counted it."""
    merchant_id, amount_minor = request.terminal.merchant_id, request.amount_minor
    suspense, merchant = (AccountKind.SUSPENSE, merchant_id), (AccountKind.MERCHANT, merchant_id)
    postings: tuple[Posting, ...] = ()
    counted = (Counts.NONE, 0)
    if amount_minor:
        if request.item_counts in _TO_MERCHANT:
            postings = (Posting(*suspense, *merchant, amount_minor),)
        else:
            postings = (Posting(*merchant, *suspense, amount_minor),)
        counted = (request.item_counts, amount_minor)
    return approve(
        request,
        card,
        moment,
        postings=postings,
        status_before=card.state.status,
        undoes=item.version,
        rule=rule,
        counted=counted,
    )
