"""What a link counts as in a reconciliation, and whether a terminal's totals are the switch's.

Both sides count by one table (dialect, section 13): debits are redemptions, completions, offline
sales and cash-outs; credits are activations, loads and returns; a reversal that had effect counts
on its own, and what it undid stays counted. Business dates are judged here, too.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import msgspec

from rules.ledger import AccountKind, Answer, Posting
from rules.money import Counts
from rules.requests import Operation, Terminal
from rules.responses import Response, Rule

__all__ = [
    "NO_TOTALS",
    "Books",
    "CutOver",
    "LastTransaction",
    "Reconciled",
    "Reconciliation",
    "Totals",
    "count",
    "cut_over_rule",
    "reconcile",
]

_DEBITS = frozenset({Operation.REDEEM, Operation.CASH_OUT, Operation.COMPLETION, Operation.ADVICE})
_CREDITS = frozenset(
    {Operation.ACTIVATE, Operation.ACTIVATE_PREVALUED, Operation.LOAD, Operation.RETURN}
)
_COUNTED = dict.fromkeys(_DEBITS, Counts.DEBIT) | dict.fromkeys(_CREDITS, Counts.CREDIT)
_MERCHANT, _NONE, _REVERSAL = AccountKind.MERCHANT, Counts.NONE, Operation.REVERSAL
_DAYS_MAX = 7
"""How far from the calendar a business date may be."""


def count(operation: Operation, postings: Iterable[Posting]) -> tuple[Counts, int]:
    """What an approved link counts as, and its amount: what it moved on merchants' accounts.

    With its shortfall and suspense parts, since the terminal has counted those, too.
    """
    to_merchant_minor = 0
    for posting in postings:
        if posting.credit_kind is _MERCHANT:
            to_merchant_minor += posting.amount_minor
        if posting.debit_kind is _MERCHANT:
            to_merchant_minor -= posting.amount_minor
    if to_merchant_minor == 0:
        return _NONE, 0
    counts = _COUNTED.get(operation, _NONE)
    if operation is _REVERSAL:
        counts = Counts.CREDIT_REVERSAL if to_merchant_minor > 0 else Counts.DEBIT_REVERSAL
    return counts, abs(to_merchant_minor) if counts else 0


class Totals(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Numbers and amounts (minor units) in the order of DE 74 to 77 and 86 to 89."""

    credits_number: int = 0
    credit_reversals_number: int = 0
    debits_number: int = 0
    debit_reversals_number: int = 0
    credits_minor: int = 0
    credit_reversals_minor: int = 0
    debits_minor: int = 0
    debit_reversals_minor: int = 0

    @property
    def net_minor(self) -> int:
        """DE 97, above 0 for C: 86 + 89 - 88 - 87."""
        return (
            self.credits_minor
            + self.debit_reversals_minor
            - self.debits_minor
            - self.credit_reversals_minor
        )

    def less(self, other: Totals) -> Totals:
        """These without those."""
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Totals(*(a - b for a, b in zip(mine, theirs, strict=True)))


NO_TOTALS = Totals()


class Reconciliation(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A 0500 or 0520: what the terminal says its batch amounts to."""

    key: bytes
    fingerprint: bytes
    transaction_id: str
    rrn: str
    terminal: Terminal
    currency: str
    batch_number: str = ""
    settlement_date: str = ""
    """DE 15 as sent, MMDD."""
    totals: Totals = NO_TOTALS
    net_minor: int | None = None
    """DE 97 as sent, below 0 for D; None where it was not."""


class CutOver(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A 0800 with DE 70 = 201: the link's business date moves on."""

    key: bytes
    transaction_id: str
    rrn: str
    terminal_id: int
    link: str
    business_date: datetime.date


class LastTransaction(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A 0600 that names no original: the terminal asks what it did last (on this card)."""

    key: bytes
    transaction_id: str
    rrn: str
    terminal: Terminal
    card_id: int | None


class Books(msgspec.Struct, frozen=True, gc=False):
    """What the switch has of a terminal's batch, all of it as one snapshot sees it."""

    posted: Totals
    missing: Totals | None = None
    """What an upload left out, and the reversals of that; None where nothing was uploaded."""
    number_closed: bool = False
    """A batch with this number has been closed."""


class Reconciled(Answer, frozen=True, array_like=True, gc=False):
    """The answer to a 0500: `totals` are the switch's. None where none are told."""

    totals: Totals | None = None


def reconcile(request: Reconciliation, books: Books) -> Reconciled:
    """00 closes the batch, 95 says what the switch has, 05 that the number is closed.

    The terminal's totals must be those of all that was posted. After an upload those of what was
    uploaded will do: what is missing from it is kept for people, either way.
    """
    if books.number_closed:
        return _answer(request, Response.REFUSED, Rule.CLOSED, None)
    accepted = [books.posted]
    if books.missing is not None:
        accepted.append(books.posted.less(books.missing))
    for totals in accepted:
        if _agree(request, totals):
            return _answer(request, Response.APPROVED, Rule.NONE, totals)
    return _answer(request, Response.TOTALS_DIFFER, Rule.TOTALS, books.posted)


def _agree(request: Reconciliation, totals: Totals) -> bool:
    net_agrees = request.net_minor is None or request.net_minor == totals.net_minor
    return net_agrees and request.totals == totals


def _answer(
    request: Reconciliation, response: Response, rule: Rule, totals: Totals | None
) -> Reconciled:
    transaction_id = request.transaction_id
    rrn = request.rrn or transaction_id
    return Reconciled(response, transaction_id, rrn, rule, totals=totals)


def cut_over_rule(
    wanted: datetime.date, today: datetime.date, current: datetime.date | None
) -> Rule:
    """CLOCK where a link's business date may not move to this one: backwards, or a jump.

    `today` is UTC's; `current` is the link's business date, None before its first cut-over.
    """
    if abs((wanted - today).days) > _DAYS_MAX:
        return Rule.CLOCK
    return Rule.CLOCK if current is not None and wanted < current else Rule.NONE
