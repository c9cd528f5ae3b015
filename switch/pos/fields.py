"""Fields as people read and write them: private TLV (DE 48), amounts, masked numbers."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from fastpath.errors import FormatError
from rules.identity import Pan
from rules.money import AMOUNT_MINOR_MAX, POINTS_CURRENCY
from switch.wire.private import parse_private

__all__ = [
    "Balance",
    "Currency",
    "currency_of",
    "format_amount",
    "mask_track",
    "parse_amount",
    "read_balances",
    "read_private",
]


def read_private(text: str) -> dict[str, str]:
    """The tags of a DE 48 for showing; none of one that is not well formed.

    >>> read_private("CV0041234PA0011"), read_private("CV0")
    ({'CV': '1234', 'PA': '1'}, {})
    """
    try:
        return parse_private(text)
    except FormatError:
        return {}


class Currency(NamedTuple):
    """How amounts of a currency are written. `decimals` is the exponent of ISO 4217."""

    name: str
    decimals: int


_CURRENCIES: Final = {
    POINTS_CURRENCY: Currency("points", 0),
    "036": Currency("AUD", 2),
    "124": Currency("CAD", 2),
    "156": Currency("CNY", 2),
    "203": Currency("CZK", 2),
    "208": Currency("DKK", 2),
    "348": Currency("HUF", 2),
    "356": Currency("INR", 2),
    "392": Currency("JPY", 0),
    "410": Currency("KRW", 0),
    "414": Currency("KWD", 3),
    "578": Currency("NOK", 2),
    "752": Currency("SEK", 2),
    "756": Currency("CHF", 2),
    "784": Currency("AED", 2),
    "826": Currency("GBP", 2),
    "840": Currency("USD", 2),
    "946": Currency("RON", 2),
    "978": Currency("EUR", 2),
    "985": Currency("PLN", 2),
}


def currency_of(code: str) -> Currency:
    """A currency by its numeric code; one that is not in the table shows its code, 2 decimals."""
    return _CURRENCIES.get(code, Currency(code, 2))


def parse_amount(text: str, currency_code: str) -> int:
    """Minor units of an amount as people write it ("12.50"). ValueError says what is wrong."""
    currency = currency_of(currency_code)
    match = _AMOUNT.fullmatch(text)
    if match is None or len(match[2] or "") > currency.decimals:
        form = "12.50"[: 3 + currency.decimals] if currency.decimals else "12"
        raise ValueError(f"{text!r} is not an amount in {currency.name}, such as {form}")
    amount_minor = int(match[1] + (match[2] or "").ljust(currency.decimals, "0"))
    if amount_minor > AMOUNT_MINOR_MAX:
        raise ValueError(f"{text!r} is more than an amount of 12 digits can say")
    return amount_minor


_AMOUNT: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?", re.ASCII)


def format_amount(amount_minor: int, currency_code: str) -> str:
    """An amount as people read it.

    >>> format_amount(-123450, "978"), format_amount(7, "999")
    ('-1,234.50 EUR', '7 points')
    """
    name, decimals = currency_of(currency_code)
    whole, part = divmod(abs(amount_minor), 10**decimals)
    sign = "-" if amount_minor < 0 else ""
    fraction = f".{part:0{decimals}d}" if decimals else ""
    return f"{sign}{whole:,}{fraction} {name}"


class Balance(NamedTuple):
    """One amount of DE 54. `purse` is the account type, `kind` 01 (ledger) or 02 (available)."""

    purse: str
    kind: str
    currency: str
    amount_minor: int


def read_balances(text: str) -> list[Balance]:
    """The amounts of a DE 54, 20 characters each; none when it does not have that form.

    >>> read_balances("6002978C000000008750")
    [Balance(purse='60', kind='02', currency='978', amount_minor=8750)]
    """
    parts = [_BALANCE.fullmatch(text[start : start + 20]) for start in range(0, len(text), 20)]
    matches = [match for match in parts if match is not None]
    if len(matches) != len(parts):
        return []
    return [
        Balance(match[1], match[2], match[3], int(match[5]) * (-1 if match[4] == "D" else 1))
        for match in matches
    ]


_BALANCE: Final = re.compile(r"([0-9]{2})([0-9]{2})([0-9]{3})([CD])([0-9]{12})", re.ASCII)


def mask_track(track: str) -> str:
    """Track 2 (DE 35) with its card number masked and nothing of the rest."""
    return f"{Pan(re.split('[=D]', track)[0]).masked()}=…"
