"""What a card may spend: in one transaction, and on one of its programme's days.

The day's totals are part of the card's state. A reversal on the same day gives back what it undoes,
and the count with the last of it; so does the completion of a hold with what it does not use. What
was undone by a return, or on a later day, stays counted. Points are not limited.
"""

from __future__ import annotations

from rules.booking import Moment, refuse
from rules.cards import CardState, WorkingCard
from rules.ledger import Answer
from rules.money import AMOUNT_MINOR_MAX, Purse
from rules.policy import Policy
from rules.requests import CardRequest
from rules.responses import Response, Rule

__all__ = ["balance_max", "count_spent", "refusal_by_limits", "uncount_spent"]


def _begin_day(state: CardState, day: int) -> None:
    """Begin a new day. A clock that goes back finds the later day's totals still there."""
    if day > state.day:
        state.day, state.day_from_version = day, state.version
        for purse in Purse:
            counted = state.purse(purse)
            counted.day_minor = counted.day_count = 0


def balance_max(policy: Policy, purse: Purse) -> int:
    """What a credit may bring a purse to, with what is held."""
    limit_minor = 0 if purse is Purse.POINTS else policy.limits.balance_minor
    return limit_minor or AMOUNT_MINOR_MAX


def refusal_by_limits(
    request: CardRequest, card: WorkingCard, moment: Moment, policy: Policy, amount_minor: int
) -> Answer | None:
    """The refusal (61, 65), booked, of spending this amount; None where no limit is met."""
    state, limits = card.state, policy.limits
    _begin_day(state, policy.day(moment.now_s))
    if request.purse is Purse.POINTS:
        return None
    purse = state.purse(request.purse)
    resets_s = policy.day_ends_s(state.day)
    over, often = Response.OVER_AMOUNT_LIMIT, Response.OVER_FREQUENCY_LIMIT
    if 0 < limits.transaction_minor < amount_minor:
        return refuse(request, card, moment, over, Rule.TRANSACTION_LIMIT)
    if 0 < limits.day_minor < purse.day_minor + amount_minor:
        return refuse(request, card, moment, over, Rule.DAY_LIMIT, resets_s=resets_s)
    if 0 < limits.day_count <= purse.day_count:
        return refuse(request, card, moment, often, Rule.DAY_COUNT, resets_s=resets_s)
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
    _begin_day(card.state, policy.day(moment.now_s))
    counted = card.state.purse(purse)
    counted.day_minor += amount_minor
    counted.day_count += times


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
    _begin_day(card.state, policy.day(moment.now_s))
    if version > card.state.day_from_version:
        counted = card.state.purse(purse)
        counted.day_minor -= min(amount_minor, counted.day_minor)
        counted.day_count -= min(int(wholly), counted.day_count)
