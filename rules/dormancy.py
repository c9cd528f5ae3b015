"""The fee of a dormant card: an amount per calendar month, never more than there is.

It is asked for by the sweeper, month by month, and judged here. A month in which nobody asked is
not made up for.
"""

from __future__ import annotations

from rules.booking import Moment, approve
from rules.cards import CardStatus, WorkingCard
from rules.ledger import AccountKind, Answer, Posting
from rules.lots import take
from rules.policy import PROMOTIONAL, Policy, month_of
from rules.requests import CardRequest
from rules.responses import Response, Rule

__all__ = ["charge_dormancy"]


def charge_dormancy(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy
) -> Answer:
    """Take this month's fee from the e-cash purse. Where none is due: 25, and no link."""
    month = month_of(policy.day(moment.now_s))
    purse = card.state.ecash
    lots = [
        lot
        for lot in purse.lots
        if lot.origin not in PROMOTIONAL or not policy.dormancy_spares_promo
    ]
    amount_minor = min(policy.dormancy_fee_minor, sum(lot.available_minor for lot in lots))
    if not amount_minor or request.fee_month != month or not _is_due(card, month, policy):
        transaction_id = request.transaction_id
        return Answer(Response.NO_SUCH_ORIGINAL, transaction_id, transaction_id, Rule.ORIGINAL)
    moves = take(lots, amount_minor)
    purse.lots[:] = [lot for lot in purse.lots if lot.available_minor]
    card.state.fee_month = month
    own = AccountKind.CARD, card.card_id
    fees = AccountKind.FEE, card.facts.programme_id
    return approve(
        request,
        card,
        moment,
        amount_minor=amount_minor,
        effect_minor=-amount_minor,
        moves=moves,
        postings=(Posting(*own, *fees, amount_minor),),
        status_before=card.state.status,
    )


def _is_due(card: WorkingCard, month: int, policy: Policy) -> bool:
    """Active, idle for so many whole calendar months, and not charged for this one."""
    state = card.state
    idle_from = month_of(state.last_active_day) + 1
    return (
        policy.dormancy_months > 0
        and state.status is CardStatus.ACTIVE
        and state.last_active_day > 0
        and month - idle_from >= policy.dormancy_months
        and state.fee_month < month
    )
