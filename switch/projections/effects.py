"""What a stretch of the journal changes of the projections: pure sums, no I/O."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from rules.cards import Hold
from rules.ledger import AccountKind
from rules.lots import Lot
from rules.money import Purse
from rules.policy import PROMOTIONAL
from rules.requests import Operation
from rules.responses import Rule
from switch.journal.rows import LinkBody
from switch.projections.reading import Entry

__all__ = ["Effects", "HoldRow", "ItemKind", "OpenItem", "ProjectionFault", "fold"]

_decode_body = msgspec.msgpack.Decoder(LinkBody).decode


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
_OF_MERCHANTS = frozenset({AccountKind.MERCHANT, AccountKind.SHORTFALL, AccountKind.SUSPENSE})


class _Sums(msgspec.Struct, array_like=True, gc=False):
    """A purse's sums and lots; what follows in its encoded form is not looked at."""

    available_minor: int
    held_minor: int
    lots: list[Lot] = []


class _Head(msgspec.Struct, array_like=True, gc=False):
    """The beginning of a card's encoded state."""

    version: int
    batch_id: int
    status: int
    ecash: _Sums
    voucher: _Sums
    points: _Sums
    pin_tries: int = 0
    code_tries: int = 0
    lots_made: int = 0
    status_before_block: int = 0
    holds: msgspec.Raw = msgspec.Raw()
    ends_from: int = 0
    spent: msgspec.Raw = msgspec.Raw()
    last_active_day: int = 0
    fee_month: int = 0


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


_decode_head = msgspec.msgpack.Decoder(_Head).decode
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

    links: int = 0
    postings: int = 0
    merchants: dict[tuple[int, int, int, str], list[int]] = dataclasses.field(default_factory=dict)
    """[debits, credits, postings] by merchant, account kind, purse, currency."""
    programmes: dict[tuple[int, int, int, str], list[int]] = dataclasses.field(default_factory=dict)
    """The same by programme."""
    liability: dict[tuple[int, int, str, int, bool, int, int], list[int]] = dataclasses.field(
        default_factory=dict
    )
    """[available, held] by programme, purse, currency, origin, cashable, expiry day, sponsor."""
    heads: dict[int, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """A card's row after its last link here."""
    lives: dict[int, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """What time will do to it: the row of `card_life`."""
    holds: dict[tuple[int, int], HoldRow] = dataclasses.field(default_factory=dict)
    """By card and version of the link that made the hold."""
    items: list[OpenItem] = dataclasses.field(default_factory=list)


def fold(
    entries: Iterable[Entry], programme_of: Callable[[int], int], currencies: Mapping[int, str]
) -> Effects:
    """The sum of these links. ProjectionFault for a link whose bytes cannot be read."""
    effects = Effects()
    last: dict[int, tuple[Any, LinkBody]] = {}
    for link, postings in entries:
        card_id = link["card_id"]
        try:
            body = _decode_body(link["body"])
            effects.links += 1
            effects.postings += len(postings)
            to_card_minor = _add_postings(effects, link, body, postings, programme_of)
            held_minor = to_card_minor - link["amount_minor"]
            if body.moves:
                programme_id = programme_of(card_id)
                currency = Purse(link["purse"]).currency(currencies[programme_id])
                _add_moves(effects, programme_id, currency, link, body, held_minor)
            if held_minor:
                _follow_hold(effects, link, body)
        except (msgspec.DecodeError, LookupError, ValueError) as error:
            raise ProjectionFault(
                f"card {card_id}, link {link['version']}: {type(error).__name__}"
            ) from None
        kind = _KINDS.get((link["operation"], body.answer.rule))
        if kind is not None:
            programme_id = programme_of(card_id)
            currency = Purse(link["purse"]).currency(currencies[programme_id])
            amount_minor = body.requested_minor
            effects.items.append(
                _item(kind, link, body, link["merchant_id"], currency, amount_minor)
            )
        last[card_id] = (link, body)
    for card_id, (link, body) in last.items():
        head = _read_head(card_id, link, body)
        effects.heads[card_id] = _head(card_id, link, head)
        effects.lives[card_id] = _life(card_id, programme_of(card_id), head)
    return effects


def _add_postings(
    effects: Effects,
    link: Any,
    body: LinkBody,
    postings: Iterable[Any],
    programme_of: Callable[[int], int],
) -> int:
    """Count the postings on their accounts; what they moved to the link's own card."""
    card_id = link["card_id"]
    to_card_minor = 0
    owed: dict[tuple[ItemKind, int, str], int] = {}
    for posting in postings:
        debit_kind, debit_id, credit_kind, credit_id, amount, purse, currency = posting[5:12]
        for column, kind, account_id in ((0, debit_kind, debit_id), (1, credit_kind, credit_id)):
            if kind == AccountKind.CARD:
                table, owner = effects.programmes, programme_of(account_id)
                if account_id == card_id:
                    to_card_minor += amount if column else -amount
            elif kind in _OF_MERCHANTS:
                table, owner = effects.merchants, account_id
            else:
                table, owner = effects.programmes, account_id
            sums = table.get((owner, kind, purse, currency))
            if sums is None:
                sums = table[owner, kind, purse, currency] = [0, 0, 0]
            sums[column] += amount
            sums[2] += 1
        item_kind = _OWED.get(debit_kind)
        if item_kind is not None:
            key = (item_kind, debit_id, currency)
            owed[key] = owed.get(key, 0) + amount
    if link["operation"] == Operation.UPLOAD:
        _add_uploaded(effects, link, body, postings)
        return to_card_minor
    for (item_kind, merchant_id, currency), amount in owed.items():
        effects.items.append(_item(item_kind, link, body, merchant_id, currency, amount))
    return to_card_minor


def _add_uploaded(effects: Effects, link: Any, body: LinkBody, postings: Iterable[Any]) -> None:
    """An item that was not posted stands in suspense, on either side of it."""
    for posting in postings:
        kind = ItemKind.SUSPENSE
        item = _item(kind, link, body, link["merchant_id"], posting[11], posting[9])
        effects.items.append(item)


def _add_moves(
    effects: Effects,
    programme_id: int,
    currency: str,
    link: Any,
    body: LinkBody,
    held_minor: int,
) -> None:
    """What is owed to the holder, by kind of lot.

    Value that is held has left its lots and is owed all the same. The link does not name the pins,
    but they follow: what a hold takes is held in the lots it was taken from, and what it gives back
    comes first into the very lots it had been pinned in.
    """
    purse = link["purse"]
    released_minor = max(-held_minor, 0)
    pinned_minor = max(held_minor, 0)
    for move in body.moves:
        key = (
            *(programme_id, purse, currency, int(move.origin), move.cashable),
            *(move.expires_day, move.sponsor_id),
        )
        amount = move.amount_minor
        sums = effects.liability.get(key)
        if sums is None:
            sums = effects.liability[key] = [0, 0]
        sums[0] += amount
        if amount > 0 and released_minor:
            part = min(amount, released_minor)
            released_minor -= part
            sums[1] -= part
        elif amount < 0 and pinned_minor:
            part = min(-amount, pinned_minor)
            pinned_minor -= part
            sums[1] += part


def _follow_hold(effects: Effects, link: Any, body: LinkBody) -> None:
    """The hold that this link made, changed or ended."""
    card_id, version = link["card_id"], link["version"]
    made_by = link["undoes"] or version
    row = effects.holds.get((card_id, made_by))
    if row is None:
        row = effects.holds[card_id, made_by] = HoldRow()
    for hold in _decode_holds(body.state_after).holds:
        if hold.version == made_by:
            row.purse, row.amount_minor = int(hold.purse), hold.amount_minor
            row.expires_at = datetime.datetime.fromtimestamp(hold.expires_s, datetime.UTC)
            if made_by == version:
                row.merchant_id = link["merchant_id"]
            return
    row.ended_by = version


def _item(
    kind: ItemKind, link: Any, body: LinkBody, merchant_id: int, currency: str, amount_minor: int
) -> OpenItem:
    return OpenItem(
        *(link["card_id"], link["version"], kind, body.answer.rule.value, link["tx"]),
        *(link["operation"], merchant_id, link["terminal_id"], link["purse"], currency),
        *(amount_minor, link["posted_at"]),
    )


def _read_head(card_id: int, link: Any, body: LinkBody) -> _Head:
    try:
        return _decode_head(body.state_after)
    except msgspec.DecodeError as error:
        raise ProjectionFault(
            f"card {card_id}, link {link['version']}: {type(error).__name__}"
        ) from None


def _life(card_id: int, programme_id: int, head: _Head) -> tuple[Any, ...]:
    lots = [lot for purse in (head.ecash, head.voucher, head.points) for lot in purse.lots]
    ends = [lot.expires_day for lot in lots if lot.expires_day]
    given_minor = sum(lot.available_minor for lot in head.ecash.lots if lot.origin in PROMOTIONAL)
    return (
        *(card_id, programme_id, head.status, min(ends, default=0)),
        *(head.last_active_day, head.fee_month),
        *(head.ecash.available_minor > 0, head.ecash.available_minor > given_minor),
    )


def _head(card_id: int, link: Any, head: _Head) -> tuple[Any, ...]:
    return (
        *(card_id, link["version"], head.status),
        *(head.ecash.available_minor, head.ecash.held_minor),
        *(head.voucher.available_minor, head.voucher.held_minor),
        *(head.points.available_minor, head.points.held_minor),
        link["posted_at"],
    )
