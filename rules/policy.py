"""A programme's numbers: tries, times, limits, and what becomes of value that nobody spends."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import msgspec

from rules.cards import CardFacts
from rules.lots import Origin

__all__ = ["DAY_S", "PROMOTIONAL", "Limits", "Policies", "Policy", "first_day_of", "month_of"]

DAY_S = 86_400
PROMOTIONAL = frozenset({Origin.PROMO, Origin.REWARD, Origin.GOODWILL})
"""Value that a sponsor has given: it comes from `promo:<sponsor>`, and goes back there unspent."""
_EPOCH = datetime.date(1970, 1, 1).toordinal()


def month_of(day: int) -> int:
    """The calendar month of a day (since 1970-01-01), counted from year 0: one more per month."""
    date = datetime.date.fromordinal(_EPOCH + day)
    return date.year * 12 + date.month - 1


def first_day_of(month: int) -> int:
    """The day with which such a month begins."""
    year, place = divmod(month, 12)
    return datetime.date(year, place + 1, 1).toordinal() - _EPOCH


class Limits(msgspec.Struct, frozen=True):
    """What one card may do; 0 for no limit. Each purse of money is counted on its own."""

    return_minor: int = 0
    """One return that names no sale; 0: as `transaction_minor`."""

    transaction_minor: int = 0
    """One purchase, hold, payment in cash or transfer."""
    day_minor: int = 0
    day_count: int = 0
    """All of them on one of the programme's days."""
    balance_minor: int = 0
    """What a credit may bring the purse to, with what is held."""


_NO_LIMITS = Limits()
_ALL_CARDS = 0


class Policy(msgspec.Struct, frozen=True):
    """One programme's."""

    pin_tries_max: int = 5
    code_tries_max: int = 5
    horizon_s: int = 60 * DAY_S
    """How old an original may be for a reversal to find it."""
    hold_s: int = 7 * DAY_S
    """How long a hold lasts."""
    utc_offset_min: int = 0
    """Where the programme's days begin: minutes east of UTC."""
    lot_days: Mapping[Origin, int] = {}
    """For how many days after its own a credit of this origin can be spent; 0: for ever."""
    renewal_days: int = 7
    """The same for value that comes back to the card after its last day; at least 1."""
    refund_cashable: bool = False
    """Credit for orders that were not filled may be paid out."""
    sponsors: frozenset[int] = frozenset()
    """Who gives promotional value."""
    dormancy_months: int = 0
    """After how many whole months without activity a card is dormant; 0: never."""
    dormancy_fee_minor: int = 0
    """What a dormant card pays each month."""
    dormancy_spares_promo: bool = True
    limits: Mapping[int, Limits] = {}
    """By the cards' `limit_class`; 0 for those of all others. Empty where nothing is limited."""

    def limits_of(self, facts: CardFacts) -> Limits:
        """A card's."""
        return self.limits.get(facts.limit_class) or self.limits.get(_ALL_CARDS, _NO_LIMITS)

    def day(self, now_s: int) -> int:
        """The programme's day (since 1970-01-01) of an instant in UTC seconds."""
        return (now_s + self.utc_offset_min * 60) // DAY_S

    def day_ends_s(self, day: int) -> int:
        """When a day is over, in UTC seconds."""
        return (day + 1) * DAY_S - self.utc_offset_min * 60

    def last_day(self, origin: Origin, now_s: int) -> int:
        """The last day of a credit made now; 0 for never."""
        days = self.lot_days.get(origin, 0)
        return self.day(now_s) + days if days else 0


class Policies:
    """Every programme's."""

    def __init__(self, default: Policy, programmes: Mapping[int, Policy] | None = None) -> None:
        """`default` is that of programmes which are not named."""
        self.default = default
        self.programmes = dict(programmes or {})

    def of(self, programme_id: int) -> Policy:
        """One programme's."""
        return self.programmes.get(programme_id, self.default)
