"""The ledger: links of a card's chain and the balanced postings they carry.

A posting has a debit and a credit account and one amount above zero, so nothing unbalanced can be
written down: the sum over all accounts is zero because there is no other way to say it.
"""

from __future__ import annotations

import enum

import msgspec

from rules.lots import LotMove
from rules.money import Counts, Purse
from rules.requests import Operation
from rules.responses import OriginalState, Response, ReversalState, Rule

__all__ = ["AccountKind", "Answer", "Link", "Posting"]


class AccountKind(enum.IntEnum):
    """What an account number counts. The numbers are stored; the names are in the ledger's view."""

    CARD = 1
    MERCHANT = 2
    FLOAT = 3
    SHORTFALL = 4
    SUSPENSE = 5
    FEE = 6
    PROMO = 7
    BREAKAGE = 8
    TRANSFER = 9
    """A programme's value between two cards: zero after every batch."""


class Posting(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An amount that moves from the debit account to the credit account."""

    debit_kind: AccountKind
    debit_id: int
    credit_kind: AccountKind
    credit_id: int
    amount_minor: int

    def __post_init__(self) -> None:
        if self.amount_minor <= 0:
            raise ValueError("a posting moves an amount above zero")


class Answer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a reply says beyond its request's own fields; kept so that a repeat hears it again."""

    response: Response
    transaction_id: str
    rrn: str
    rule: Rule = Rule.NONE
    approval_code: str = ""
    amount_minor: int | None = None
    """DE 4 where it is not the amount asked for."""
    balances: str = ""
    """DE 54."""
    reversal_state: ReversalState = ReversalState.NONE
    requested_minor: int | None = None
    """`RQ` of a partial approval."""
    original_response: str = ""
    """`OC`: the stored code of the original that was asked for."""
    original_state: OriginalState = OriginalState.NONE
    resets_s: int = 0
    """`RT`: when the counter of the rule that spoke begins anew, in UTC seconds; 0 for none."""


class Link(msgspec.Struct, gc=False):
    """One entry of a card's chain: what was decided, what it moved, the state after it.

    `effect_minor` is the signed change of the purse's available amount; `amount_minor` the amount
    that was approved (of a reversal: undone), without what an advice left in suspense.
    """

    card_id: int
    version: int
    key: bytes
    fingerprint: bytes
    operation: Operation
    answer: Answer
    terminal_id: int
    merchant_id: int
    purse: Purse = Purse.ECASH
    requested_minor: int = 0
    amount_minor: int = 0
    effect_minor: int = 0
    available_after_minor: int = 0
    held_after_minor: int = 0
    foreign_currency: str = ""
    """The currency of its postings where it is not the purse's."""
    undoes: int = 0
    """Version of the link that this one undoes, wholly or partly (an upload: names); 0 for none."""
    batch_number: str = ""
    """`BN` as it was sent."""
    counts: Counts = Counts.NONE
    counted_minor: int = 0
    batch_closed: bool = False
    """Read with it from the journal: the terminal has closed the batch that it stands in."""
    status_before: int = 0
    status_after: int = 0
    moves: tuple[LotMove, ...] = ()
    """How the lots' available amounts changed."""
    consumed: tuple[LotMove, ...] = ()
    """What left the pinned lots of a hold for good, when it was completed."""
    postings: tuple[Posting, ...] = ()
    state_after: bytes = b""
    other_card_id: int = 0
    """The other card of a transfer, or of its reversal, and the version of the link on it."""
    other_version: int = 0
    order_reference: str = ""
    """Of a refund: the order that was not filled."""

    @property
    def taken(self) -> tuple[LotMove, ...]:
        """What an undoing may put back: out of a hold, or out of the lots."""
        return self.consumed or self.moves

    @property
    def approved(self) -> bool:
        """Whether the request was approved, wholly or partly."""
        response = self.answer.response
        return response is Response.APPROVED or response is Response.PARTIAL
