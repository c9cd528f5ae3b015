"""The journal's rows: a batch as the arrays `append_batch` takes, and rows read back as links."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from rules.cards import WorkingCard
from rules.ledger import Answer, Link
from rules.lots import LotMove
from rules.money import Purse
from rules.requests import Operation

__all__ = [
    "CARD_COLUMNS",
    "LINK_COLUMNS",
    "CardRow",
    "LinkBody",
    "Refusal",
    "batch_arguments",
    "link_body",
    "link_from_row",
    "link_row",
    "posting_numbers",
    "state_row",
]


class LinkBody(msgspec.Struct, array_like=True, gc=False):
    """What of a link no query looks for."""

    fingerprint: bytes
    answer: Answer
    requested_minor: int
    amount_minor: int
    status_before: int
    status_after: int
    moves: tuple[LotMove, ...]
    state_after: bytes
    consumed: tuple[LotMove, ...] = ()
    foreign_currency: str = ""
    other_card_id: int = 0
    other_version: int = 0
    order_reference: str = ""


class CardRow(msgspec.Struct, gc=False):
    """A card as it is read from its rows or from the cache: encoded facts, state and window."""

    facts: bytes
    state: bytes
    window: bytes


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A refused message that reached no card."""

    link: str
    mti: str
    response: str
    rule: str
    terminal: str
    stan: str
    card_digest: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_decode_body = msgspec.msgpack.Decoder(LinkBody).decode


def batch_arguments(
    batch_id: int,
    posted_at: datetime.datetime,
    cards: Iterable[WorkingCard],
    refusals: Sequence[Refusal] = (),
) -> tuple[Any, ...]:
    """The arguments of `append_batch` for what is new on these cards, in order of card.

    The tuple is the batch: sent again unchanged, it meets itself.
    """
    changed = sorted((card for card in cards if card.new), key=lambda card: card.card_id)
    card_rows = [_card_row(card) for card in changed]
    links: list[tuple[Any, ...]] = []
    numbers: list[int] = []
    first = [1]
    for card in changed:
        previous = card.base_batch_id
        currency = card.facts.currency
        for link in card.new:
            links.append(link_row(link, previous))
            if link.postings:
                numbers += posting_numbers(link, currency)
            first.append(len(numbers) + 1)
            previous = batch_id
    refused = [
        (r.link, r.mti, int(r.response), r.rule, r.terminal, r.stan, r.card_digest)
        for r in refusals
    ]
    return (
        posted_at.date().replace(day=1),
        batch_id,
        posted_at,
        *_columns(card_rows, 13),
        *_columns(links, 18),
        numbers,
        first,
        *_columns(refused, 7),
    )


def _columns(rows: list[tuple[Any, ...]], width: int) -> list[Any]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


CARD_COLUMNS = (
    *("card_id", "version", "batch_id", "status", "ecash_available", "ecash_held"),
    *("voucher_available", "voucher_held", "points_available", "points_held"),
    *("state", "request_window"),
)
LINK_COLUMNS = (
    *("card_id", "version", "prev_batch_id", "request_key", "operation", "response", "tx"),
    *("purse", "amount_minor", "available_after", "held_after", "undoes", "terminal_id"),
    *("merchant_id", "batch_number", "counts", "counted_minor", "body"),
)


def _card_row(card: WorkingCard) -> tuple[Any, ...]:
    state = card.state
    return (
        card.card_id,
        card.base_version,
        card.base_batch_id,
        state.version,
        *state_row(card),
    )


def state_row(card: WorkingCard) -> tuple[Any, ...]:
    """The columns of a card's row from `status` on."""
    state = card.state
    return (
        state.status,
        state.ecash.available_minor,
        state.ecash.held_minor,
        state.voucher.available_minor,
        state.voucher.held_minor,
        state.points.available_minor,
        state.points.held_minor,
        card.new[-1].state_after if card.new else card.encoded_state,
        card.window.encode(),
    )


def link_row(link: Link, previous_batch_id: int) -> tuple[Any, ...]:
    """A link in the order of LINK_COLUMNS."""
    answer = link.answer
    return (
        link.card_id,
        link.version,
        previous_batch_id,
        link.key,
        link.operation,
        int(answer.response),
        answer.transaction_id,
        link.purse,
        link.effect_minor,
        link.available_after_minor,
        link.held_after_minor,
        link.undoes,
        link.terminal_id,
        link.merchant_id,
        link.batch_number,
        link.counts,
        link.counted_minor,
        link_body(link),
    )


def link_body(link: Link) -> bytes:
    """The `body` column of a link: a LinkBody, encoded without being made."""
    return _encode(
        (
            link.fingerprint,
            link.answer,
            link.requested_minor,
            link.amount_minor,
            link.status_before,
            link.status_after,
            link.moves,
            link.state_after,
            link.consumed,
            link.foreign_currency,
            link.other_card_id,
            link.other_version,
            link.order_reference,
        )
    )


def posting_numbers(link: Link, card_currency: str) -> list[int]:
    """The `postings` column of a link: of each posting its two accounts, amount and currency."""
    currency = int(link.foreign_currency or link.purse.currency(card_currency))
    numbers: list[int] = []
    for posting in link.postings:
        numbers += (
            *(posting.debit_kind, posting.debit_id, posting.credit_kind, posting.credit_id),
            *(posting.amount_minor, currency),
        )
    return numbers


def link_from_row(row: Mapping[str, Any]) -> Link:
    """A link as it was decided, from its row (its postings are not read with it)."""
    body = _decode_body(row["body"])
    return Link(
        card_id=row["card_id"],
        version=row["version"],
        key=row["request_key"],
        fingerprint=body.fingerprint,
        operation=Operation(row["operation"]),
        answer=body.answer,
        terminal_id=row["terminal_id"],
        merchant_id=row["merchant_id"],
        purse=Purse(row["purse"]),
        requested_minor=body.requested_minor,
        amount_minor=body.amount_minor,
        effect_minor=row["amount_minor"],
        available_after_minor=row["available_after"],
        held_after_minor=row["held_after"],
        undoes=row["undoes"],
        status_before=body.status_before,
        status_after=body.status_after,
        moves=body.moves,
        state_after=body.state_after,
        consumed=body.consumed,
        foreign_currency=body.foreign_currency,
        other_card_id=body.other_card_id,
        other_version=body.other_version,
        order_reference=body.order_reference,
    )
