"""What a card may spend: in one transaction, and on one of its programme's days.

The day's totals are part of the card's state, where a day is limited. A reversal on the same day
gives back what it undoes, and the count with the last of it; so does the completion of a hold with
what it does not use. What was undone by a return, or on a later day, stays counted. Points are not
limited.
"""

from __future__ import annotations

from rules.booking import Moment, refuse
from rules.cards import DayTotals, WorkingCard
from rules.ledger import Answer
from rules.money import AMOUNT_MINOR_MAX, Purse
from rules.policy import Policy
from rules.requests import CardRequest
from rules.responses import Response, Rule

__all__ = [
    "count_spent",
    "refusal_by_limits",
    "refusal_by_return_limit",
    "room_for",
    "spend",
    "uncount_spent",
]


def _totals(card: WorkingCard, moment: Moment, policy: Policy) -> DayTotals | None:
    """The day's totals, a new day's begun; None where no day is limited (any more).

    A clock that goes back finds the later day's totals still there.
    """
    state = card.state
    if not policy.limits and state.spent is None:
        return None
    limits = policy.limits_of(card.facts)
    if not (limits.day_minor or limits.day_count):
        state.spent = None
        return None
    day = policy.day(moment.now_s)
    if state.spent is None or state.spent.day < day:
        state.spent = DayTotals(day, state.version)
    return state.spent


def room_for(card: WorkingCard, policy: Policy, purse: Purse, amount_minor: int) -> bool:
    """Whether a credit may bring a purse, with what is held, to so much more."""
    state = card.state.purse(purse)
    limit_minor = 0
    if policy.limits and purse is not Purse.POINTS:
        limit_minor = policy.limits_of(card.facts).balance_minor
    total_minor = state.available_minor + state.held_minor + amount_minor
    return total_minor <= (limit_minor or AMOUNT_MINOR_MAX)


def refusal_by_limits(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy, amount_minor: int
) -> Answer | None:
    """The refusal (61, 65), booked, of spending this amount; None where no limit is met."""
    if not policy.limits:
        return None
    totals = _totals(card, moment, policy)
    if request.purse is Purse.POINTS:
        return None
    limits = policy.limits_of(card.facts)
    over, often = Response.OVER_AMOUNT_LIMIT, Response.OVER_FREQUENCY_LIMIT
    if 0 < limits.transaction_minor < amount_minor:
        return refuse(request, card, moment, over, Rule.TRANSACTION_LIMIT)
    if totals is None:
        return None
    spent_minor, spent_count = totals.of(request.purse)
    resets_s = policy.day_ends_s(totals.day)
    if 0 < limits.day_minor < spent_minor + amount_minor:
        return refuse(request, card, moment, over, Rule.DAY_LIMIT, resets_s=resets_s)
    if 0 < limits.day_count <= spent_count:
        return refuse(request, card, moment, often, Rule.DAY_COUNT, resets_s=resets_s)
    return None


def spend(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy, amount_minor: int
) -> Answer | None:
    """Count what the next link spends, or say why it may not: as `refusal_by_limits`."""
    if not policy.limits and card.state.spent is None:
        return None
    refusal = refusal_by_limits(request, card, moment, policy, amount_minor)
    if refusal is None:
        count_spent(card, moment, policy, request.purse, amount_minor)
    return refusal


def refusal_by_return_limit(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy
) -> Answer | None:
    """The refusal (61), booked, of a return that names no sale; None where it may be."""
    if not policy.limits or request.purse is Purse.POINTS:
        return None
    limits = policy.limits_of(card.facts)
    if 0 < (limits.return_minor or limits.transaction_minor) < request.amount_minor:
        response = Response.OVER_AMOUNT_LIMIT
        return refuse(request, card, moment, response, Rule.RETURN_LIMIT)
    return None


def count_spent(
    card: WorkingCard,
    moment: Moment,
    policy: Policy,
    purse: Purse,
    amount_minor: int,
    times: int = 1,
) -> None:
    """Count what the next link spends."""
    totals = _totals(card, moment, policy)
    if totals is not None:
        totals.add(purse, amount_minor, times)


def uncount_spent(
    card: WorkingCard,
    moment: Moment,
    policy: Policy,
    purse: Purse,
    version: int,
    amount_minor: int,
    *,
    wholly: bool,
) -> None:
    """Give back what was counted with the link of this version, if that was on this day."""
    totals = _totals(card, moment, policy)
    if totals is not None and version > totals.from_version:
        totals.add(purse, -amount_minor, -int(wholly))
