"""Purses, currencies and the bounds of amounts. All amounts are integers in minor units."""

from __future__ import annotations

import enum
import functools

__all__ = ["AMOUNT_MINOR_MAX", "POINTS_CURRENCY", "Counts", "Purse", "additional_amounts"]

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


def additional_amounts(purse: Purse, currency: str, ledger_minor: int, available_minor: int) -> str:
    """DE 54 for one purse, 40 characters: the ledger amount, then the available one.

    Each is its account type, amount type ("01", "02"), currency, C or D, and 12 digits. What a
    return or a reversal has lifted above the largest amount is told as that.
    """
    ledger_kind, available_kind = _kinds_of_amount(purse, currency)
    available = _signed(available_minor)
    ledger = available if ledger_minor == available_minor else _signed(ledger_minor)
    return f"{ledger_kind}{ledger}{available_kind}{available}"


@functools.lru_cache(maxsize=256)
def _kinds_of_amount(purse: Purse, currency: str) -> tuple[str, str]:
    return f"{purse:02d}01{currency}", f"{purse:02d}02{currency}"


def _signed(amount_minor: int) -> str:
    sign = "C" if amount_minor >= 0 else "D"
    return f"{sign}{min(abs(amount_minor), AMOUNT_MINOR_MAX)!s:0>12}"
