"""Purses, currencies and the bounds of amounts. All amounts are integers in minor units."""

from __future__ import annotations

import enum
import functools

__all__ = ["AMOUNT_MINOR_MAX", "POINTS_CURRENCY", "Counts", "Purse", "additional_amount"]

AMOUNT_MINOR_MAX = 999_999_999_999
"""The largest amount DE 4 and DE 54 can carry (n12)."""

POINTS_CURRENCY = "999"
"""ISO 4217 numeric code for "no currency": the loyalty purse counts points."""


_POINTS = 90  # of DE 3; a member would be looked up anew in each message


class Counts(enum.IntEnum):
    """What a link counts as in a reconciliation. The numbers are stored."""

    NONE = 0
    DEBIT = 1
    DEBIT_REVERSAL = 2
    CREDIT = 3
    CREDIT_REVERSAL = 4


class Purse(enum.IntEnum):
    """The account types of DE 3 that name a purse of a card (ISO 8583 A.4, private range)."""

    ECASH = 60
    VOUCHER = 80
    POINTS = _POINTS

    def currency(self, programme_currency: str) -> str:
        """The ISO 4217 numeric code in which this purse counts."""
        return programme_currency if self != _POINTS else POINTS_CURRENCY


def additional_amount(purse: int, amount_type: str, currency: str, amount_minor: int) -> str:
    """One amount of DE 54: account type, amount type, currency, C or D, 12 digits (20 characters).

    `amount_type` is "01" for the ledger balance and "02" for the available one. What a return or a
    reversal has lifted above the largest amount is told as that.
    """
    sign = "C" if amount_minor >= 0 else "D"
    digits = str(min(abs(amount_minor), AMOUNT_MINOR_MAX)).zfill(12)
    return f"{_kind_of_amount(purse, amount_type, currency)}{sign}{digits}"


@functools.lru_cache(maxsize=256)
def _kind_of_amount(purse: int, amount_type: str, currency: str) -> str:
    return f"{purse:02d}{amount_type}{currency}"
