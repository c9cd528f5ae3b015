"""Rows as the bytes that digests are made of: read from Postgres, and made where they are not.

`record_send`, the binary form of a row in Postgres: how many columns, then per column the number of
its type, its length, and its value.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastpath.rows import RowShape, SpreadShape

__all__ = [
    "LINK_COLUMNS",
    "LINK_IMAGE",
    "LINK_SHAPE",
    "LINK_TYPES",
    "POSTINGS",
    "POSTING_IMAGES",
    "POSTING_SHAPE",
    "POSTING_TYPES",
    "link_image",
    "posting_image",
    "postings_of",
]

LINK_COLUMNS = """
    month, batch_id, n, card_id, version, prev_batch_id, request_key, operation, response, tx,
    purse, amount_minor, available_after, held_after, undoes, terminal_id, merchant_id,
    batch_number, counts, counted_minor, posted_at, xid, body
"""
"""All that a link says, in the order in which digests are made of it: never to be changed. What is
added to the table later goes into a new format of the digest. Its postings, which stand in the
link's row as numbers, are each an image of their own."""

_POSTING_COLUMNS = """
    month, batch_id, n, leg, card_id, debit_kind, debit_id, credit_kind, credit_id, amount_minor,
    purse, currency
"""

LINK_IMAGE = f"record_send(row({LINK_COLUMNS}))"
"""A row as the bytes that digests are made of: Postgres' binary form, in which every value says its
own type and length and has one form only. `link_image` makes the same bytes."""

POSTING_IMAGES = """
    case cardinality(postings)
        when 0 then ''::bytea
        when 6 then record_send(row(
                month, batch_id, n, 0::smallint, card_id, int2_or_null(postings[1]), postings[2],
                int2_or_null(postings[3]), postings[4], postings[5], purse,
                currency_or_null(postings[6])))
        else (select string_agg(record_send(row(
                month, batch_id, n, p.leg, card_id, p.debit_kind, p.debit_id, p.credit_kind,
                p.credit_id, p.amount_minor, purse, p.currency)), ''::bytea order by p.leg)
              from postings_of(postings) as p)
    end
"""
"""The images of a link's postings, in order of leg, in one piece. Here Postgres makes them itself;
`postings_of` makes the same bytes of the numbers. One posting, as most have, needs no query."""

POSTINGS = "array_send(postings) as postings"
"""The numbers of a link's postings, as `postings_of` takes them."""

_DAY_ZERO = datetime.date(2000, 1, 1)
_ZERO = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


class _Kind(NamedTuple):
    oid: int
    type: type
    length: int
    """In bytes; -1 where each value has its own."""
    pack: Callable[[Any], bytes]


def _date(value: datetime.date) -> bytes:
    return struct.pack("!i", (value - _DAY_ZERO).days)


def _instant(value: datetime.datetime) -> bytes:
    return struct.pack("!q", (value - _ZERO) // _MICROSECOND)


_INT2 = _Kind(21, int, 2, struct.Struct("!h").pack)
_INT4 = _Kind(23, int, 4, struct.Struct("!i").pack)
_INT8 = _Kind(20, int, 8, struct.Struct("!q").pack)
_BYTEA = _Kind(17, bytes, -1, bytes)
_CHAR = _Kind(1042, str, -1, str.encode)
_TEXT = _Kind(25, str, -1, str.encode)
_DATE = _Kind(1082, datetime.date, 4, _date)
_TIMESTAMPTZ = _Kind(1184, datetime.datetime, 8, _instant)
_XID8 = _Kind(5069, int, 8, struct.Struct("!Q").pack)

_KINDS = {
    "month": _DATE,
    "batch_id": _INT8,
    "n": _INT2,
    "card_id": _INT8,
    "version": _INT4,
    "prev_batch_id": _INT8,
    "request_key": _BYTEA,
    "operation": _INT2,
    "response": _INT2,
    "tx": _CHAR,
    "purse": _INT2,
    "amount_minor": _INT8,
    "available_after": _INT8,
    "held_after": _INT8,
    "undoes": _INT4,
    "terminal_id": _INT4,
    "merchant_id": _INT4,
    "batch_number": _TEXT,
    "counts": _INT2,
    "counted_minor": _INT8,
    "posted_at": _TIMESTAMPTZ,
    "xid": _XID8,
    "body": _BYTEA,
    "leg": _INT2,
    "debit_kind": _INT2,
    "debit_id": _INT8,
    "credit_kind": _INT2,
    "credit_id": _INT8,
    "currency": _CHAR,
}


def _names(columns: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in columns.split(","))


_LINK = tuple(_KINDS[name] for name in _names(LINK_COLUMNS))
_POSTING = tuple(_KINDS[name] for name in _names(_POSTING_COLUMNS))

LINK_SHAPE = RowShape(_names(LINK_COLUMNS), [kind.oid for kind in _LINK])
POSTING_SHAPE = RowShape(_names(_POSTING_COLUMNS), [kind.oid for kind in _POSTING])
"""By these a row's image is read."""

_SHARED = ("month", "batch_id", "n", "card_id", "purse")
postings_of = SpreadShape(LINK_SHAPE, POSTING_SHAPE, _SHARED, "leg").rows
"""The images of a link's postings, from its own and its numbers."""

LINK_TYPES = tuple(kind.type for kind in _LINK)
POSTING_TYPES = tuple(kind.type for kind in _POSTING)
"""The Python types of a row's values, in order."""


def _maker(kinds: Sequence[_Kind]) -> Callable[[Sequence[Any]], bytes]:
    head = struct.pack("!i", len(kinds))
    columns = [(struct.pack("!ii", kind.oid, kind.length), kind) for kind in kinds]

    def image(values: Sequence[Any]) -> bytes:
        parts = [head]
        for (prefix, kind), value in zip(columns, values, strict=True):
            packed = kind.pack(value)
            parts.append(prefix if kind.length >= 0 else struct.pack("!ii", kind.oid, len(packed)))
            parts.append(packed)
        return b"".join(parts)

    return image


link_image = _maker(_LINK)
"""The image of a link, from its values in the order of LINK_COLUMNS."""
posting_image = _maker(_POSTING)
"""The image of a posting, from its values in the order of POSTING_SHAPE."""
