"""What a decision can say: response codes (DE 39), the rule that spoke (`WY`), reversal states."""

from __future__ import annotations

import enum

__all__ = ["APPROVALS", "UNKEPT", "OriginalState", "Response", "ReversalState", "Rule"]


class Response(enum.StrEnum):
    """DE 39 of ISO 8583:1987, as the dialect lists them."""

    APPROVED = "00"
    UNKNOWN_MERCHANT = "03"
    REFUSED = "05"
    PARTIAL = "10"
    INVALID_TRANSACTION = "12"
    INVALID_AMOUNT = "13"
    NO_SUCH_CARD = "14"
    NO_SUCH_ORIGINAL = "25"
    FORMAT_ERROR = "30"
    LOST = "41"
    STOLEN = "43"
    INSUFFICIENT = "51"
    EXPIRED = "54"
    WRONG_PIN = "55"
    NOT_PERMITTED_TO_CARD = "57"
    NOT_PERMITTED_TO_TERMINAL = "58"
    SUSPECTED_FRAUD = "59"
    OVER_AMOUNT_LIMIT = "61"
    RESTRICTED = "62"
    MAC_WRONG = "63"
    OVER_FREQUENCY_LIMIT = "65"
    PIN_TRIES_EXCEEDED = "75"
    NOT_ACTIVATED = "78"
    WRONG_CODE = "82"
    CANNOT_DECIDE = "91"
    DUPLICATE_DIFFERS = "94"
    TOTALS_DIFFER = "95"
    FAULT = "96"


APPROVALS = frozenset({Response.APPROVED, Response.PARTIAL})

UNKEPT = frozenset(
    {Response.FORMAT_ERROR, Response.MAC_WRONG, Response.CANNOT_DECIDE, Response.FAULT}
)
"""Answers that settle nothing: a repeat after them is decided anew."""


class Rule(enum.StrEnum):
    """The named rule behind a refusal, sent as `WY`. One rule may serve several response codes."""

    NONE = ""
    CARD = "CARD"  # the one face of every refusal that must not be an oracle
    FORMAT = "FORMAT"
    MAC = "MAC"
    TERMINAL = "TERMINAL"
    MERCHANT = "MERCHANT"
    ACQUIRER = "ACQUIRER"
    SIGN_ON = "SIGNON"
    PERMISSION = "PERMISSION"
    OPERATION = "OPERATION"
    CURRENCY = "CURRENCY"
    CLOCK = "CLOCK"
    AMOUNT = "AMOUNT"
    FACE_VALUE = "FACEVALUE"
    STATUS = "STATUS"
    EXPIRY = "EXPIRY"
    PIN = "PIN"
    PIN_LOCKED = "PINLOCKED"
    CODE = "CODE"
    CODE_LOCKED = "CODELOCKED"
    FUNDS = "FUNDS"
    TO_CARD = "TOCARD"  # the one face of every card that cannot receive
    CASHABLE = "CASHABLE"
    BALANCE_LIMIT = "BALANCELIMIT"
    TRANSACTION_LIMIT = "TRANSACTIONLIMIT"
    RETURN_LIMIT = "RETURNLIMIT"
    DAY_LIMIT = "DAYLIMIT"
    DAY_COUNT = "DAYCOUNT"
    SPONSOR = "SPONSOR"
    LAST_DAY = "LASTDAY"
    ORDER = "ORDER"
    ORIGINAL = "ORIGINAL"
    OTHER_MERCHANT = "OTHERMERCHANT"
    RESTORABLE = "RESTORABLE"
    DUPLICATE = "DUPLICATE"
    OTHER_CARD = "OTHERCARD"  # a reversal whose original stands under another card: an alarm
    REVERSED = "REVERSED"
    BARRED = "BARRED"
    LATE = "LATE"
    SPENT = "SPENT"
    FLOOR_LIMIT = "FLOORLIMIT"
    TOLERANCE = "TOLERANCE"
    SHORTFALL = "SHORTFALL"
    HOLDS = "HOLDS"
    DONE_BEFORE = "DONEBEFORE"
    DECLINED = "DECLINED"
    TOTALS = "TOTALS"
    CLOSED = "CLOSED"
    STORE = "STORE"
    BUSY = "BUSY"
    DEADLINE = "DEADLINE"
    FAULT = "FAULT"


class OriginalState(enum.StrEnum):
    """`OS`: what an outcome query says of its original."""

    NONE = ""
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"
    REVERSED = "REVERSED"
    PARTIAL = "PARTIAL"
    BARRED = "BARRED"


class ReversalState(enum.StrEnum):
    """`RS`: the one named state in which a reversal ends."""

    NONE = ""
    REVERSED = "REVERSED"
    PARTIAL = "PARTIAL"
    ALREADY = "ALREADY"
    NOTHING = "NOTHING"
    LATE = "LATE"
