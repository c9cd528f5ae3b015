"""What a message asks for, freed of its bytes."""

from __future__ import annotations

import enum

import msgspec

from rules.lots import Origin
from rules.money import Counts, Purse
from rules.responses import Rule

__all__ = [
    "AMOUNT_OPTIONAL",
    "CardRequest",
    "CreditTerms",
    "Entry",
    "Operation",
    "ReversalReason",
    "Terminal",
]


class Operation(enum.IntEnum):
    """What is done to a card. The numbers are stored; they never change their meaning."""

    ISSUE = 1
    UNLOCK = 2
    ACTIVATE = 3
    ACTIVATE_PREVALUED = 4
    LOAD = 5
    REDEEM = 6
    RETURN = 7
    CASH_OUT = 8
    BALANCE = 9
    DEACTIVATE = 10
    BLOCK = 11
    UNBLOCK = 12
    HOLD = 13
    COMPLETION = 14
    ADVICE = 15
    HOLD_EXPIRY = 16
    LOT_EXPIRY = 17
    """A lot's last day is over; no message asks for it."""
    LOT_RENEWAL = 18
    """Value that came back after its last day gets a new one; no message asks for it."""
    DORMANCY_FEE = 19
    REVERSAL = 20
    TOMBSTONE = 21
    OUTCOME = 22
    UPLOAD = 23
    LOT_SWEEP = 24
    """What is due on a card is to expire now; it leaves no link of its own."""
    TRANSFER = 30
    RECEIPT = 31
    """What a transfer brings to the card that receives it; no message asks for it."""


AMOUNT_OPTIONAL = frozenset(
    {
        Operation.UNLOCK,
        Operation.ACTIVATE_PREVALUED,
        Operation.CASH_OUT,
        Operation.BALANCE,
        Operation.DEACTIVATE,
        Operation.BLOCK,
        Operation.UNBLOCK,
    }
)
"""Operations whose DE 4 may be absent or 0."""


class Entry(enum.IntEnum):
    """How the card number reached the terminal (DE 22, digits 1-2)."""

    READ = 1
    KEYED = 2


class ReversalReason(enum.IntEnum):
    """`RE`: why a reversal is sent (ISO 8583:2003 message reason codes, 4000 range)."""

    CUSTOMER = 4000
    TIME_OUT = 4021
    MERCHANT = 4351


class Terminal(msgspec.Struct, frozen=True, gc=False):
    """What the rules must know of the terminal that asks. Ids are the switch's own numbers."""

    terminal_id: int
    merchant_id: int
    network: bool
    """The terminal stands behind a network or programme link, not at a till."""
    may_return_unlinked: bool = False
    floor_limit_minor: int = 0
    """Up to here a sale may be decided at the terminal and told afterwards."""
    completion_tolerance_percent: int = 0
    """How much more than its hold a completion may take from the card."""
    programme: bool = False
    """It speaks for the programme: gives promotional value and refunds, thaws cards."""


class CreditTerms(msgspec.Struct, frozen=True, gc=False):
    """What kind of value a credit is: for the programme's own terminals to say."""

    origin: Origin = Origin.PAID
    sponsor_id: int = 0
    """Who gives promotional value; 0 for nobody."""
    last_day: int = 0
    """The last day, since 1970-01-01, on which it can be spent; 0: as the programme has it."""
    cashable: bool | None = None
    """Whether it may be paid out; None: as the programme has it."""
    order_reference: str = ""
    """The order that a refund is for."""


class CardRequest(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A request that concerns one card, complete but for the card's state.

    A PIN never gets here: `pvv` is the PIN verification value of the PIN that was entered, and
    `code_digest` the keyed digest of the code; both are compared with what the card has. An empty
    `pvv` says that a PIN block came which could not be opened, None that none came.
    """

    operation: Operation
    key: bytes
    fingerprint: bytes
    transaction_id: str
    rrn: str
    """DE 37 as sent; empty where the switch gives one."""
    terminal: Terminal
    card_digest: bytes = b""
    """The card number's keyed digest, known also where no such card is."""
    purse: Purse = Purse.ECASH
    all_purses: bool = False
    amount_minor: int = 0
    entry: Entry = Entry.READ
    expiry: str | None = None
    pvv: bytes | None = None
    code_digest: bytes | None = None
    partial_allowed: bool = False
    original_transaction_id: str = ""
    approval_code: str = ""
    """DE 38, by which a completion may name its hold."""
    names_original: bool = False
    """DE 90 or `OR` was in the message."""
    card_unknown: bool = False
    """An advice for a number that no card has: it is kept on its merchant's suspense chain."""
    # reversals, outcome queries, completions; an advice's own request
    original_key: bytes = b""
    own_request_key: bytes = b""
    """An advice's: the key its transaction would have as a request. An uploaded item's: the key it
    would have as the other of the two."""
    foreign_currency: str = ""
    """DE 49 where it is not the purse's: only an advice is accepted with it, into suspense."""
    foreign_content: Rule = Rule.NONE
    """Why an advice can never be posted to a card: what it asks for, or in which currency."""
    hold_version: int = 0
    """The hold that the sweeper finds expired."""
    fee_month: int = 0
    """The month (`month_of`) for which the sweeper asks for the fee of a dormant card."""
    terms: CreditTerms | None = None
    """Of a credit whose message says what kind of value it is."""
    bar_unknown: bool = False
    """`TB`: an outcome query that bars an original it does not find."""
    reverses_nothing: bool = False
    """The original is an enquiry or a reversal: neither is ever undone."""
    reason: ReversalReason = ReversalReason.TIME_OUT
    final_amount_minor: int | None = None
    """DE 95: what the original shall amount to after a partial reversal."""
    amount_given: bool = True
    """DE 4 was in the message."""
    batch_number: str = ""
    """`BN` as sent."""
    item_counts: Counts = Counts.NONE
    """What an uploaded item counts as, by its DE 3 and DE 90."""

    def completing(self, purse: Purse) -> CardRequest:
        """An advice that has found its hold."""
        return msgspec.structs.replace(self, operation=Operation.COMPLETION, purse=purse)
