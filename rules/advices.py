"""Advices: what has happened already at a terminal. Always accepted, not always posted to the card.

A completion takes its hold. A sale decided at the terminal takes the card's value where the
terminal may, and what the card lacks is the merchant's shortfall. Everything else is kept for
people to look at: a posting on the merchant's suspense account, with the rule that sent it there.
"""

from __future__ import annotations

from rules.booking import Moment, Policy, approve, card_to_merchant
from rules.cards import CardStatus, Hold, WorkingCard
from rules.holds import find_hold, release, split_pinned
from rules.identity import key_instant
from rules.ledger import AccountKind, Answer, Posting
from rules.limits import count_spent, uncount_spent
from rules.lots import LotMove, take
from rules.requests import CardRequest, Operation
from rules.responses import Rule
from rules.reversal import bar

__all__ = ["advise", "suspend"]


def advise(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    """0220: post it, keep it in suspense, or find that it has been posted before.

    Whatever becomes of it, its own request may not come and do the same again.
    """
    own_key = b"" if request.card_unknown else request.own_request_key
    decided = card.find(own_key) if own_key else None
    if decided is not None and decided.approved:
        return _without_effect(request, card, moment, Rule.DONE_BEFORE)
    if own_key and decided is None and not _is_late(own_key, moment, policy):
        bar(request, card, moment, own_key)
    completing = request.foreign_content is Rule.NONE
    hold_link = find_hold(request, card) if completing else None
    if hold_link is not None:
        hold = next((h for h in card.state.holds if h.version == hold_link.version), None)
        if hold is not None:
            return _complete(request, card, moment, policy, hold)
        undoers = card.undoers(hold_link.version)
        if any(link.operation is Operation.COMPLETION for link in undoers):
            return _without_effect(request, card, moment, Rule.DONE_BEFORE)
    if decided is not None and decided.operation is Operation.TOMBSTONE:
        return suspend(request, card, moment, request.amount_minor, Rule.BARRED)
    rule = _objection(request, card, moment, policy)
    if rule is not Rule.NONE:
        return suspend(request, card, moment, request.amount_minor, rule)
    return _post(request, card, moment, policy)


def _objection(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Rule:
    """Why this sale may not touch the card; NONE when it may."""
    if request.card_unknown:
        return Rule.CARD
    if request.foreign_content is not Rule.NONE:
        return request.foreign_content
    if request.amount_minor > request.terminal.floor_limit_minor:
        return Rule.FLOOR_LIMIT
    if _is_late(request.key, moment, policy):
        return Rule.CLOCK
    if card.state.status is not CardStatus.ACTIVE or card.facts.expiry < moment.year_month:
        return Rule.STATUS
    return Rule.NONE


def _is_late(key: bytes, moment: Moment, policy: Policy) -> bool:
    """Whether a request under this key would be refused for its age."""
    instant_s = key_instant(key)
    return bool(instant_s) and instant_s < moment.now_s - policy.horizon_s


def _post(request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy) -> Answer:
    """Take the sale from the card; what it lacks is shortfall, and the card is frozen."""
    purse = card.state.purse(request.purse)
    status_before = card.state.status
    found_minor = min(purse.available_minor, request.amount_minor)
    moves = take(purse.lots, found_minor)
    if found_minor:
        count_spent(card, moment, policy, request.purse, found_minor)
    postings = card_to_merchant(card, request, found_minor)
    missing_minor = request.amount_minor - found_minor
    if missing_minor:
        card.state.freeze()
        postings += _owed(request, AccountKind.SHORTFALL, missing_minor)
    return approve(
        request,
        card,
        moment,
        amount_minor=request.amount_minor,
        effect_minor=-found_minor,
        moves=moves,
        postings=postings,
        status_before=status_before,
        rule=Rule.SHORTFALL if missing_minor else Rule.NONE,
    )


def _complete(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy, hold: Hold
) -> Answer:
    """Post a completion: from its hold first, the merchant's tolerance above it from the card.

    The rest of the hold goes back to its lots. What exceeds the tolerance is suspense, what the
    card lacks within it is shortfall.
    """
    request = request.completing(hold.purse)
    purse = card.state.purse(hold.purse)
    status_before = card.state.status
    amount_minor = request.amount_minor
    from_hold_minor = min(amount_minor, hold.amount_minor)
    used, _ = split_pinned(hold, from_hold_minor)
    moves: list[LotMove] = release(card, hold, hold.amount_minor)
    _take_very_lots(card, hold, used)
    moves += used
    tolerance_minor = hold.amount_minor * request.terminal.completion_tolerance_percent // 100
    above_minor = min(amount_minor - from_hold_minor, tolerance_minor)
    found_minor = min(above_minor, purse.available_minor + hold.amount_minor - from_hold_minor)
    above_moves = take(purse.lots, found_minor)
    moves += above_moves
    posted_minor = from_hold_minor + found_minor
    count_spent(card, moment, policy, hold.purse, found_minor, times=0)
    rest_minor = hold.amount_minor - from_hold_minor
    uncount_spent(card, moment, policy, hold.purse, hold.version, rest_minor, wholly=False)
    postings = card_to_merchant(card, request, posted_minor)
    missing_minor = above_minor - found_minor
    excess_minor = amount_minor - from_hold_minor - above_minor
    rule = Rule.NONE
    if missing_minor:
        card.state.freeze()
        postings += _owed(request, AccountKind.SHORTFALL, missing_minor)
        rule = Rule.SHORTFALL
    if excess_minor:
        postings += _owed(request, AccountKind.SUSPENSE, excess_minor)
        rule = Rule.TOLERANCE
    return approve(
        request,
        card,
        moment,
        amount_minor=amount_minor - excess_minor,
        effect_minor=hold.amount_minor - posted_minor,
        held_minor=-hold.amount_minor,
        moves=moves,
        consumed=tuple(used + above_moves),
        postings=postings,
        status_before=status_before,
        undoes=hold.version,
        rule=rule,
    )


def _take_very_lots(card: WorkingCard, hold: Hold, used: list[LotMove]) -> None:
    """Take what was used out of the lots it had been pinned in."""
    lots = card.state.purse(hold.purse).lots
    for move in used:
        lot = next(lot for lot in lots if lot.lot_id == move.lot_id)
        lot.available_minor += move.amount_minor
    lots[:] = [lot for lot in lots if lot.available_minor]


def suspend(
    request: CardRequest, card: WorkingCard, moment: Moment, amount_minor: int, rule: Rule
) -> Answer:
    """Accepted, not posted to the card: people will look at it."""
    postings = _owed(request, AccountKind.SUSPENSE, amount_minor) if amount_minor else ()
    return approve(
        request, card, moment, postings=postings, status_before=card.state.status, rule=rule
    )


def _owed(request: CardRequest, kind: AccountKind, amount_minor: int) -> tuple[Posting, ...]:
    merchant_id = request.terminal.merchant_id
    return (Posting(kind, merchant_id, AccountKind.MERCHANT, merchant_id, amount_minor),)


def _without_effect(request: CardRequest, card: WorkingCard, moment: Moment, rule: Rule) -> Answer:
    return approve(request, card, moment, status_before=card.state.status, rule=rule)
