"""What can be asked for at the command line, and which message says it (dialect, section 3)."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

__all__ = ["VERBS", "Option", "Verb", "VerbSpec"]


class Verb(enum.StrEnum):
    """What can be asked for at the command line."""

    SIGN_ON = "signon"
    SIGN_OFF = "signoff"
    ECHO = "echo"
    KEY_CHANGE = "keychange"
    UNLOCK = "unlock"
    ACTIVATE = "activate"
    LOAD = "load"
    REDEEM = "redeem"
    RETURN = "return"
    CASH_OUT = "cashout"
    TRANSFER = "transfer"
    BALANCE = "balance"
    HOLD = "hold"
    COMPLETE = "complete"
    DEACTIVATE = "deactivate"
    BLOCK = "block"
    UNBLOCK = "unblock"
    REVERSE = "reverse"
    OUTCOME = "outcome"
    REPEAT = "repeat"
    RECONCILE = "reconcile"
    CUT_OVER = "cutover"


class Option(enum.Enum):
    """Options that only some verbs take; the value is the option's name in `argparse`."""

    CARD = "card"
    AMOUNT = "amount"
    PURSE = "purse"
    ENTRY = "entry"
    EXPIRY = "expiry"
    PIN = "pin"
    CODE = "cv"
    ORIGINAL_TX = "original_tx"
    TO_CARD = "to_card"
    PARTIAL = "partial"
    REASON = "reason"
    FINAL_AMOUNT = "final_amount"
    BAR = "bar"
    KEY = "key"
    BATCH = "batch"
    DEBITS = "debits"
    DEBIT_REVERSALS = "debit_reversals"
    CREDITS = "credits"
    CREDIT_REVERSALS = "credit_reversals"
    DATE = "date"


class VerbSpec(NamedTuple):
    """How a verb becomes a message.

    `processing_code` is DE 3 with `{}` where the purse stands; `network_code` is DE 70.
    """

    words: str
    mti: str
    processing_code: str = ""
    network_code: str = ""
    takes: frozenset[Option] = frozenset()
    needs: frozenset[Option] = frozenset()
    network_only: bool = False


_CARD = frozenset({Option.CARD})
_MONEY = frozenset({Option.CARD, Option.AMOUNT})
_ENTRY = frozenset({Option.CARD, Option.ENTRY, Option.EXPIRY, Option.PIN, Option.CODE})
_PURSE = _ENTRY | {Option.PURSE}
_VALUE = _PURSE | {Option.AMOUNT}

VERBS: Final[dict[Verb, VerbSpec]] = {
    Verb.SIGN_ON: VerbSpec("Sign on", "0800", network_code="001"),
    Verb.SIGN_OFF: VerbSpec("Sign off", "0800", network_code="002"),
    Verb.ECHO: VerbSpec("Echo", "0800", network_code="301"),
    Verb.KEY_CHANGE: VerbSpec(
        "Key change", "0800", network_code="101", takes=frozenset({Option.KEY})
    ),
    Verb.UNLOCK: VerbSpec("Unlock", "0200", "910060", takes=_ENTRY, needs=_CARD),
    # without an amount: 930060, a card of fixed value
    Verb.ACTIVATE: VerbSpec(
        "Activate", "0200", "900060", takes=_ENTRY | {Option.AMOUNT}, needs=_CARD
    ),
    Verb.LOAD: VerbSpec("Load", "0200", "2100{}", takes=_VALUE, needs=_MONEY),
    Verb.REDEEM: VerbSpec(
        "Redeem", "0200", "00{}00", takes=_VALUE | {Option.PARTIAL}, needs=_MONEY
    ),
    Verb.RETURN: VerbSpec(
        "Return to card", "0200", "2000{}", takes=_VALUE | {Option.ORIGINAL_TX}, needs=_MONEY
    ),
    Verb.CASH_OUT: VerbSpec("Cash out", "0200", "61{}00", takes=_VALUE, needs=_CARD),
    Verb.TRANSFER: VerbSpec(
        "Card to card",
        "0200",
        "40{0}{0}",
        takes=_VALUE | {Option.TO_CARD},
        needs=_MONEY | {Option.TO_CARD},
    ),
    Verb.BALANCE: VerbSpec("Balance", "0100", "31{}00", takes=_PURSE, needs=_CARD),
    Verb.HOLD: VerbSpec("Hold", "0100", "00{}00", takes=_VALUE | {Option.PARTIAL}, needs=_MONEY),
    Verb.COMPLETE: VerbSpec(
        "Complete a hold",
        "0220",
        "00{}00",
        takes=_MONEY | {Option.ENTRY, Option.PURSE, Option.ORIGINAL_TX},
        needs=frozenset({Option.AMOUNT}),
    ),
    Verb.DEACTIVATE: VerbSpec(
        "Deactivate", "0200", "920060", takes=_ENTRY, needs=_CARD, network_only=True
    ),
    Verb.BLOCK: VerbSpec("Block", "0200", "940060", takes=_ENTRY, needs=_CARD, network_only=True),
    Verb.UNBLOCK: VerbSpec(
        "Unblock", "0200", "950060", takes=_ENTRY, needs=_CARD, network_only=True
    ),
    Verb.REVERSE: VerbSpec("Reverse", "0400", takes=_CARD | {Option.REASON, Option.FINAL_AMOUNT}),
    Verb.OUTCOME: VerbSpec("Outcome query", "0600", takes=_CARD | {Option.BAR}),
    Verb.RECONCILE: VerbSpec(
        "Reconciliation",
        "0500",
        takes=frozenset(
            {
                *(Option.BATCH, Option.DEBITS, Option.DEBIT_REVERSALS, Option.CREDITS),
                Option.CREDIT_REVERSALS,
            }
        ),
    ),
    Verb.CUT_OVER: VerbSpec("Cut-over", "0800", network_code="201", takes=frozenset({Option.DATE})),
    Verb.REPEAT: VerbSpec("Repeat", "", takes=frozenset({Option.PIN, Option.CODE})),
}
