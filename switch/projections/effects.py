"""What a stretch of the journal changes of the projections: pure sums, no I/O.

What every link adds is summed up by `fastpath.sums`; here is what few links do: holds, and items
that need a person.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from fastpath.sums import LinkSums
from rules.cards import Hold
from rules.ledger import AccountKind, Answer
from rules.money import Purse
from rules.policy import PROMOTIONAL
from rules.requests import Operation
from rules.responses import Rule
from switch.projections.images import LINK_SHAPE, POSTING_SHAPE
from switch.projections.reading import Entry

__all__ = ["Effects", "HoldRow", "ItemKind", "OpenItem", "ProjectionFault", "fold"]


class ProjectionFault(Exception):
    """A link says what cannot be; the text names it. Nothing behind it is projected."""


class ItemKind(enum.IntEnum):
    """Why a person has to look at a link. The numbers are stored."""

    LATE = 1
    SUSPENSE = 2
    SHORTFALL = 3
    UPLOAD = 4
    """An item of an upload has another amount than what was posted."""
    MISSING = 5
    """Posted, and not in its batch's upload; found at the close, not in the journal."""


_OWED = {AccountKind.SUSPENSE: ItemKind.SUSPENSE, AccountKind.SHORTFALL: ItemKind.SHORTFALL}
_KINDS = {
    (Operation.REVERSAL, Rule.LATE): ItemKind.LATE,
    (Operation.UPLOAD, Rule.AMOUNT): ItemKind.UPLOAD,
}
_LOOKED_INTO = frozenset(operation for operation, _ in _KINDS)
_OF_MERCHANTS = frozenset({AccountKind.MERCHANT, AccountKind.SHORTFALL, AccountKind.SUSPENSE})


class _WithHolds(msgspec.Struct, array_like=True, gc=False):
    version: int
    batch_id: int
    status: int
    ecash: msgspec.Raw
    voucher: msgspec.Raw
    points: msgspec.Raw
    pin_tries: int
    code_tries: int
    lots_made: int
    status_before_block: int
    holds: list[Hold] = []


class _Body(msgspec.Struct, array_like=True, gc=False):
    """What is looked at of a link's body (`switch.journal.rows.LinkBody`)."""

    fingerprint: msgspec.Raw
    answer: msgspec.Raw
    requested_minor: int
    amount_minor: int
    status_before: int
    status_after: int
    moves: msgspec.Raw
    state_after: bytes

    @property
    def rule(self) -> Rule:
        """Why it was refused; few links are asked."""
        return _decode_answer(self.answer).rule


_decode_body = msgspec.msgpack.Decoder(_Body).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_decode_holds = msgspec.msgpack.Decoder(_WithHolds).decode


@dataclasses.dataclass(slots=True)
class HoldRow:
    """A hold as it is after the stretch; `merchant_id` is None when it was open before."""

    purse: int = 0
    amount_minor: int = 0
    expires_at: datetime.datetime | None = None
    merchant_id: int | None = None
    ended_by: int = 0
    """Version of the link that ended it; 0 while it is open."""


@dataclasses.dataclass(frozen=True, slots=True)
class OpenItem:
    """A link that needs a person."""

    card_id: int
    version: int
    kind: ItemKind
    rule: str
    tx: str
    operation: int
    merchant_id: int
    terminal_id: int
    purse: int
    currency: str
    amount_minor: int
    posted_at: datetime.datetime


@dataclasses.dataclass(slots=True)
class Effects:
    """Changes by the keys of the projections' rows."""

    merchants: dict[tuple[int, int, int, str], list[int]] = dataclasses.field(default_factory=dict)
    """[debits, credits, postings] by merchant, account kind, purse, currency."""
    programmes: dict[tuple[int, int, int, str], list[int]] = dataclasses.field(default_factory=dict)
    """The same by programme."""
    liability: dict[tuple[Any, ...], list[int]] = dataclasses.field(default_factory=dict)
    """[available, held] by programme, purse, currency, origin, cashable, expiry day, sponsor."""
    lives: dict[int, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """What time will do to a card after its last link here: the row of `card_life`."""
    holds: dict[tuple[int, int], HoldRow] = dataclasses.field(default_factory=dict)
    """By card and version of the link that made the hold."""
    items: list[OpenItem] = dataclasses.field(default_factory=list)


def fold(
    entries: Iterable[Entry], programme_of: Callable[[int], int], currencies: Mapping[int, str]
) -> Effects:
    """The sum of these links. ProjectionFault for a link whose bytes cannot be read."""
    sums = LinkSums(LINK_SHAPE, POSTING_SHAPE, programme_of, PROMOTIONAL, _OWED, _LOOKED_INTO)
    effects = Effects(lives=sums.lives)
    for link, postings in entries:
        try:
            sums.add(link, postings)
        except (LookupError, ValueError) as error:
            raise _fault(link, error) from None
    try:
        sums.finish()
    except ValueError as error:
        raise _fault(sums.unread, error) from None
    for key, (amount_minor, number) in sums.moved.items():
        _split(effects, key, amount_minor, number)
    for (programme_id, purse, *rest), owed in sums.liability.items():
        try:
            currency = Purse(purse).currency(currencies[programme_id])
        except (LookupError, ValueError):
            raise ProjectionFault(f"programme {programme_id}: no purse {purse}") from None
        effects.liability[(programme_id, purse, currency, *rest)] = owed
    for link in sums.held:
        _follow_hold(effects, link)
    for link, postings in sums.odd:
        body = _read_body(link)
        if postings:
            _note_owed(effects, link, body, postings)
        kind = _KINDS.get((link["operation"], body.rule))
        if kind is not None:
            currency = Purse(link["purse"]).currency(currencies[programme_of(link["card_id"])])
            amount_minor = body.requested_minor
            effects.items.append(
                _item(kind, link, body, link["merchant_id"], currency, amount_minor)
            )
    return effects


def _fault(link: Any, error: Exception) -> ProjectionFault:
    words = f"card {link['card_id']}, link {link['version']}: {type(error).__name__}"
    return ProjectionFault(words)


def _read_body(link: Any) -> _Body:
    try:
        return _decode_body(link["body"])
    except msgspec.DecodeError as error:
        raise _fault(link, error) from None


def _split(
    effects: Effects, key: tuple[int, int, int, int, int, str], amount_minor: int, number: int
) -> None:
    """From what moved between two accounts to the debits and credits of each."""
    debit_kind, debit_id, credit_kind, credit_id, purse, currency = key
    for column, kind, owner in ((0, debit_kind, debit_id), (1, credit_kind, credit_id)):
        table = effects.merchants if kind in _OF_MERCHANTS else effects.programmes
        added = table.setdefault((owner, kind, purse, currency), [0, 0, 0])
        added[column] += amount_minor
        added[2] += number


def _note_owed(effects: Effects, link: Any, body: _Body, postings: Iterable[Any]) -> None:
    """What a merchant fell short of, and what is in suspense, needs a person."""
    if link["operation"] == Operation.UPLOAD:
        _add_uploaded(effects, link, body, postings)
        return
    owed: dict[tuple[ItemKind, int, str], int] = {}
    for posting in postings:
        debit_kind, debit_id = posting[5:7]
        item_kind = _OWED.get(debit_kind)
        if item_kind is not None:
            amount, _, currency = posting[9:12]
            key = (item_kind, debit_id, currency)
            owed[key] = owed.get(key, 0) + amount
    for (item_kind, merchant_id, currency), amount in owed.items():
        effects.items.append(_item(item_kind, link, body, merchant_id, currency, amount))


def _add_uploaded(effects: Effects, link: Any, body: _Body, postings: Iterable[Any]) -> None:
    """An item that was not posted stands in suspense, on either side of it."""
    for posting in postings:
        kind = ItemKind.SUSPENSE
        item = _item(kind, link, body, link["merchant_id"], posting[11], posting[9])
        effects.items.append(item)


def _follow_hold(effects: Effects, link: Any) -> None:
    """The hold that this link made, changed or ended."""
    card_id, version = link["card_id"], link["version"]
    made_by = link["undoes"] or version
    row = effects.holds.get((card_id, made_by))
    if row is None:
        row = effects.holds[card_id, made_by] = HoldRow()
    try:
        holds = _decode_holds(_read_body(link).state_after).holds
    except msgspec.DecodeError as error:
        raise _fault(link, error) from None
    for hold in holds:
        if hold.version == made_by:
            row.purse, row.amount_minor = int(hold.purse), hold.amount_minor
            row.expires_at = datetime.datetime.fromtimestamp(hold.expires_s, datetime.UTC)
            if made_by == version:
                row.merchant_id = link["merchant_id"]
            return
    row.ended_by = version


def _item(
    kind: ItemKind, link: Any, body: _Body, merchant_id: int, currency: str, amount_minor: int
) -> OpenItem:
    return OpenItem(
        *(link["card_id"], link["version"], kind, body.rule.value, link["tx"]),
        *(link["operation"], merchant_id, link["terminal_id"], link["purse"], currency),
        *(amount_minor, link["posted_at"]),
    )
