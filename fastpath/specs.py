"""The data elements of ISO 8583:1987 and the two packagers that stand on them.

One table, two writings of it. Types and lengths are those of the standard's data element
dictionary as the public packagers `iso87ascii.xml` and `iso87binary.xml` of jPOS have them (all 128
rows compared); the one difference is DE 55 of `iso87-ascii`, hex text here and free text there.
This is the only place with data element numbers: everybody else says `DE.STAN`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fastpath.packager import Count, Encoding, FieldSpec, Kind, Packager, Pad

__all__ = ["DE", "ISO87_ASCII", "ISO87_BINARY", "packagers"]


class DE(enum.IntEnum):
    """Names of the data elements of 1987 that have a meaning of their own."""

    PAN = 2
    PROCESSING_CODE = 3
    AMOUNT = 4
    SETTLEMENT_AMOUNT = 5
    BILLING_AMOUNT = 6
    TRANSMISSION_TIME = 7
    BILLING_FEE = 8
    SETTLEMENT_RATE = 9
    BILLING_RATE = 10
    STAN = 11
    LOCAL_TIME = 12
    LOCAL_DATE = 13
    EXPIRY = 14
    SETTLEMENT_DATE = 15
    CONVERSION_DATE = 16
    CAPTURE_DATE = 17
    MERCHANT_TYPE = 18
    ACQUIRER_COUNTRY = 19
    PAN_COUNTRY = 20
    FORWARDER_COUNTRY = 21
    ENTRY_MODE = 22
    CARD_SEQUENCE = 23
    NII = 24
    CONDITION_CODE = 25
    PIN_CAPTURE_CODE = 26
    APPROVAL_CODE_LENGTH = 27
    FEE = 28
    SETTLEMENT_FEE = 29
    PROCESSING_FEE = 30
    SETTLEMENT_PROCESSING_FEE = 31
    ACQUIRER = 32
    FORWARDER = 33
    PAN_EXTENDED = 34
    TRACK2 = 35
    TRACK3 = 36
    RRN = 37
    APPROVAL_CODE = 38
    RESPONSE_CODE = 39
    SERVICE_CODE = 40
    TERMINAL = 41
    MERCHANT = 42
    MERCHANT_NAME = 43
    ADDITIONAL_RESPONSE = 44
    TRACK1 = 45
    ADDITIONAL_ISO = 46
    ADDITIONAL_NATIONAL = 47
    PRIVATE = 48
    CURRENCY = 49
    SETTLEMENT_CURRENCY = 50
    BILLING_CURRENCY = 51
    PIN_BLOCK = 52
    SECURITY_CONTROL = 53
    ADDITIONAL_AMOUNTS = 54
    ICC = 55
    TRANSPORT = 59
    MAC = 64
    THIRD_BITMAP = 65
    RECONCILIATION_CODE = 66
    EXTENDED_PAYMENT_CODE = 67
    RECEIVER_COUNTRY = 68
    SETTLER_COUNTRY = 69
    NETWORK_CODE = 70
    MESSAGE_NUMBER = 71
    LAST_MESSAGE_NUMBER = 72
    ACTION_DATE = 73
    CREDITS_NUMBER = 74
    CREDITS_REVERSAL_NUMBER = 75
    DEBITS_NUMBER = 76
    DEBITS_REVERSAL_NUMBER = 77
    TRANSFERS_NUMBER = 78
    TRANSFERS_REVERSAL_NUMBER = 79
    ENQUIRIES_NUMBER = 80
    AUTHORIZATIONS_NUMBER = 81
    CREDITS_PROCESSING_FEE = 82
    CREDITS_FEE = 83
    DEBITS_PROCESSING_FEE = 84
    DEBITS_FEE = 85
    CREDITS_AMOUNT = 86
    CREDITS_REVERSAL_AMOUNT = 87
    DEBITS_AMOUNT = 88
    DEBITS_REVERSAL_AMOUNT = 89
    ORIGINAL = 90
    FILE_UPDATE_CODE = 91
    FILE_SECURITY_CODE = 92
    RESPONSE_INDICATOR = 93
    SERVICE_INDICATOR = 94
    REPLACEMENT_AMOUNTS = 95
    MESSAGE_SECURITY_CODE = 96
    NET_SETTLEMENT = 97
    PAYEE = 98
    SETTLER = 99
    RECEIVER = 100
    FILE_NAME = 101
    FROM_ACCOUNT = 102
    TO_ACCOUNT = 103
    DESCRIPTION = 104
    MAC2 = 128


@dataclass(frozen=True, slots=True)
class _Element:
    """One row of the dictionary, before it is known how it is written."""

    kind: Kind
    length: int
    prefix_size: int
    name: str


def _n(length: int, name: str) -> _Element:
    return _Element(Kind.N, length, 0, name)


def _lln(length: int, name: str) -> _Element:
    return _Element(Kind.N, length, 2, name)


def _llz(length: int, name: str) -> _Element:
    return _Element(Kind.Z, length, 2, name)


def _xn(length: int, name: str) -> _Element:
    return _Element(Kind.XN, length, 0, name)


def _ans(length: int, name: str) -> _Element:
    return _Element(Kind.ANS, length, 0, name)


def _llans(length: int, name: str) -> _Element:
    return _Element(Kind.ANS, length, 2, name)


def _lllans(length: int, name: str) -> _Element:
    return _Element(Kind.ANS, length, 3, name)


def _b(length: int, name: str) -> _Element:
    return _Element(Kind.B, length, 0, name)


def _lllb(length: int, name: str) -> _Element:
    return _Element(Kind.B, length, 3, name)


_ELEMENTS: dict[int, _Element] = {
    2: _lln(19, "Primary account number"),
    3: _n(6, "Processing code"),
    4: _n(12, "Amount, transaction"),
    5: _n(12, "Amount, settlement"),
    6: _n(12, "Amount, cardholder billing"),
    7: _n(10, "Transmission date and time"),
    8: _n(8, "Amount, cardholder billing fee"),
    9: _n(8, "Conversion rate, settlement"),
    10: _n(8, "Conversion rate, cardholder billing"),
    11: _n(6, "System trace audit number"),
    12: _n(6, "Time, local transaction"),
    13: _n(4, "Date, local transaction"),
    14: _n(4, "Date, expiration"),
    15: _n(4, "Date, settlement"),
    16: _n(4, "Date, conversion"),
    17: _n(4, "Date, capture"),
    18: _n(4, "Merchant type"),
    19: _n(3, "Acquiring institution country code"),
    20: _n(3, "Primary account number country code"),
    21: _n(3, "Forwarding institution country code"),
    22: _n(3, "Point of service entry mode"),
    23: _n(3, "Card sequence number"),
    24: _n(3, "Network international identifier"),
    25: _n(2, "Point of service condition code"),
    26: _n(2, "Point of service PIN capture code"),
    27: _n(1, "Authorization identification response length"),
    28: _xn(9, "Amount, transaction fee"),
    29: _xn(9, "Amount, settlement fee"),
    30: _xn(9, "Amount, transaction processing fee"),
    31: _xn(9, "Amount, settlement processing fee"),
    32: _lln(11, "Acquiring institution identification code"),
    33: _lln(11, "Forwarding institution identification code"),
    34: _llans(28, "Primary account number, extended"),
    35: _llz(37, "Track 2 data"),
    36: _lllans(104, "Track 3 data"),
    37: _ans(12, "Retrieval reference number"),
    38: _ans(6, "Authorization identification response"),
    39: _ans(2, "Response code"),
    40: _ans(3, "Service restriction code"),
    41: _ans(8, "Card acceptor terminal identification"),
    42: _ans(15, "Card acceptor identification code"),
    43: _ans(40, "Card acceptor name and location"),
    44: _llans(25, "Additional response data"),
    45: _llans(76, "Track 1 data"),
    46: _lllans(999, "Additional data, ISO"),
    47: _lllans(999, "Additional data, national"),
    48: _lllans(999, "Additional data, private"),
    49: _ans(3, "Currency code, transaction"),
    50: _ans(3, "Currency code, settlement"),
    51: _ans(3, "Currency code, cardholder billing"),
    52: _b(8, "Personal identification number data"),
    53: _n(16, "Security related control information"),
    54: _lllans(120, "Additional amounts"),
    55: _lllb(999, "Integrated circuit card data"),
    **dict.fromkeys((56,), _lllans(999, "Reserved, ISO")),
    **dict.fromkeys((57, 58), _lllans(999, "Reserved, national")),
    59: _lllans(999, "Transport data"),
    **dict.fromkeys((60, 61, 62, 63), _lllans(999, "Reserved, private")),
    64: _b(8, "Message authentication code"),
    65: _b(1, "Bitmap, extended"),
    66: _n(1, "Settlement code"),
    67: _n(2, "Extended payment code"),
    68: _n(3, "Receiving institution country code"),
    69: _n(3, "Settlement institution country code"),
    70: _n(3, "Network management information code"),
    71: _n(4, "Message number"),
    72: _n(4, "Message number, last"),
    73: _n(6, "Date, action"),
    74: _n(10, "Credits, number"),
    75: _n(10, "Credits, reversal number"),
    76: _n(10, "Debits, number"),
    77: _n(10, "Debits, reversal number"),
    78: _n(10, "Transfer, number"),
    79: _n(10, "Transfer, reversal number"),
    80: _n(10, "Inquiries, number"),
    81: _n(10, "Authorizations, number"),
    82: _n(12, "Credits, processing fee amount"),
    83: _n(12, "Credits, transaction fee amount"),
    84: _n(12, "Debits, processing fee amount"),
    85: _n(12, "Debits, transaction fee amount"),
    86: _n(16, "Credits, amount"),
    87: _n(16, "Credits, reversal amount"),
    88: _n(16, "Debits, amount"),
    89: _n(16, "Debits, reversal amount"),
    90: _n(42, "Original data elements"),
    91: _ans(1, "File update code"),
    92: _ans(2, "File security code"),
    93: _ans(6, "Response indicator"),
    94: _ans(7, "Service indicator"),
    95: _ans(42, "Replacement amounts"),
    96: _b(16, "Message security code"),
    97: _xn(17, "Amount, net settlement"),
    98: _ans(25, "Payee"),
    99: _lln(11, "Settlement institution identification code"),
    100: _lln(11, "Receiving institution identification code"),
    101: _llans(17, "File name"),
    102: _llans(28, "Account identification 1"),
    103: _llans(28, "Account identification 2"),
    104: _lllans(100, "Transaction description"),
    **dict.fromkeys(range(105, 112), _lllans(999, "Reserved, ISO")),
    **dict.fromkeys(range(112, 120), _lllans(999, "Reserved, national")),
    **dict.fromkeys(range(120, 128), _lllans(999, "Reserved, private")),
    128: _b(8, "Message authentication code 2"),
}


def _ascii(element: _Element) -> FieldSpec:
    """Everything in ASCII; b fields in hex, a variable one counted in characters."""
    binary = element.kind is Kind.B
    return FieldSpec(
        element.kind,
        element.length,
        Encoding.HEX if binary else Encoding.ASCII,
        element.prefix_size,
        Encoding.ASCII if element.prefix_size else None,
        count=Count.WIRE if binary and element.prefix_size else Count.VALUE,
        name=element.name,
    )


def _binary(element: _Element) -> FieldSpec:
    """Digits and lengths in BCD: fixed fields right-justified, variable ones left-justified."""
    if element.kind is Kind.B:
        encoding = Encoding.BINARY
    elif element.kind is Kind.ANS:
        encoding = Encoding.ASCII
    else:
        encoding = Encoding.BCD
    return FieldSpec(
        element.kind,
        element.length,
        encoding,
        element.prefix_size,
        Encoding.BCD if element.prefix_size else None,
        pad=Pad.RIGHT if element.prefix_size else Pad.LEFT,
        name=element.name,
    )


ISO87_ASCII = Packager(
    "iso87-ascii",
    {number: _ascii(element) for number, element in _ELEMENTS.items()},
    mti_encoding=Encoding.ASCII,
    bitmap_encoding=Encoding.HEX,
)

ISO87_BINARY = Packager(
    "iso87-binary",
    {number: _binary(element) for number, element in _ELEMENTS.items()},
    mti_encoding=Encoding.BCD,
    bitmap_encoding=Encoding.BINARY,
)


def packagers() -> dict[str, Packager]:
    """The built-in packagers by name, as configuration names them."""
    return {packager.name: packager for packager in (ISO87_ASCII, ISO87_BINARY)}
