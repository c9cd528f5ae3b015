"""Messages of the PostgreSQL protocol, byte by byte; the server's own word is in tests/stores."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.pgwire import (
    MESSAGE_BYTES_MAX,
    Messages,
    bind_execute,
    decode_row,
    message,
    parse_describe,
)

INT2, INT4, INT8, TEXT, BYTEA, DATE, TIMESTAMPTZ, BOOL = 21, 23, 20, 25, 17, 1082, 1184, 16
INT8_ARRAY, BYTEA_ARRAY, INT2_ARRAY = 1016, 1001, 1005


def bound(*parameters: bytes) -> bytes:
    """Bind, Execute and Sync of statement `s0`, by the book."""
    body = b"\0s0\0" + b"\0\1\0\1" + len(parameters).to_bytes(2, "big")
    for parameter in parameters:
        body += len(parameter).to_bytes(4, "big") + parameter
    body += b"\0\1\0\1"
    return message(b"B", body) + message(b"E", b"\0\0\0\0\0") + message(b"S", b"")


def row(*values: bytes | None) -> bytes:
    body = len(values).to_bytes(2, "big")
    for value in values:
        body += b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value
    return body


@pytest.mark.parametrize(
    ("oid", "value", "expected"),
    [
        (INT8, -2, b"\xff" * 7 + b"\xfe"),
        (INT4, 0x7FFFFFFF, b"\x7f\xff\xff\xff"),
        (INT2, -0x8000, b"\x80\0"),
        (TEXT, "Zürich", "Zürich".encode()),
        (BYTEA, b"\0\1", b"\0\1"),
        (BOOL, True, b"\1"),
        (DATE, datetime.date(1999, 12, 31), b"\xff\xff\xff\xff"),
        (DATE, datetime.date(2000, 3, 1), (60).to_bytes(4, "big")),
        (
            TIMESTAMPTZ,
            datetime.datetime(2000, 1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
            bytes(8),
        ),
        (
            TIMESTAMPTZ,
            datetime.datetime(2000, 1, 1, 0, 0, 1, 5, tzinfo=datetime.UTC),
            (1_000_005).to_bytes(8, "big"),
        ),
        (
            INT8_ARRAY,
            (1, 2),
            bytes.fromhex("00000001 00000000 00000014 00000002 00000001")
            + b"\0\0\0\x08"
            + (1).to_bytes(8, "big")
            + b"\0\0\0\x08"
            + (2).to_bytes(8, "big"),
        ),
        (INT2_ARRAY, (), bytes.fromhex("00000000 00000000 00000015")),
        (
            BYTEA_ARRAY,
            [b"", b"a"],
            bytes.fromhex("00000001 00000000 00000011 00000002 00000001 00000000 00000001 61"),
        ),
    ],
)
def test_a_parameter_is_bound_in_its_binary_form(oid: int, value: Any, expected: bytes) -> None:
    assert bind_execute(b"s0", (oid,), (value,)) == bound(expected)


def test_a_null_is_bound_without_bytes() -> None:
    data = bind_execute(b"s0", (INT8, TEXT), (None, "x"))
    assert data[:23] == b"B" + data[1:5] + b"\0s0\0" + b"\0\1\0\1\0\2" + b"\xff" * 4 + b"\0\0\0\1"


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        (INT2, 0x8000),
        (INT4, 1 << 31),
        (INT8, 1 << 63),
        (INT2, "1"),
        (TEXT, b"x"),
        (TEXT, "\ud800"),
        (BYTEA, "x"),
        (INT8_ARRAY, (1, None)),
        (INT8_ARRAY, (1, 1 << 63)),
        (600, "a point"),
    ],
)
def test_what_is_not_of_its_type_is_refused(oid: int, value: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        bind_execute(b"s0", (oid,), (value,))
    with pytest.raises(TypeError):
        bind_execute(b"s0", (INT8, INT8), (1,))


def test_a_statement_is_prepared_in_one_piece() -> None:
    assert parse_describe(b"s7", "select 1") == (
        b"P\0\0\0\x12s7\0select 1\0\0\0" + b"D\0\0\0\x08Ss7\0" + b"S\0\0\0\x04"
    )


@given(
    st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=40)), max_size=8),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_any_cut_of_the_stream_gives_the_same_messages(
    sent: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(message(bytes([kind]), body) for kind, body in sent)
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    messages = Messages()
    received = []
    for start, end in itertools.pairwise(edges):
        messages.feed(stream[start:end])
        while (found := messages.next()) is not None:
            received.append(found)
    assert received == sent
    assert messages.next() is None


@given(
    st.lists(st.one_of(st.binary(max_size=5), st.none()), max_size=8),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_rows_are_read_as_far_as_they_are_whole(sent: list[bytes | None], cuts: list[int]) -> None:
    """None stands for a message that is no row: behind it nothing is taken for one."""
    bodies = [message(b"C", b"x") if text is None else message(b"D", row(text)) for text in sent]
    stream = b"".join(bodies)
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    messages = Messages()
    received: list[bytes | None] = []
    for start, end in itertools.pairwise(edges):
        messages.feed(stream[start:end])
        while rows := messages.rows((BYTEA,)):
            received += [value for (value,) in rows]
            if (found := messages.next()) is not None:
                assert found == (ord("C"), b"x")
                received.append(None)
    while (found := messages.next()) is not None:
        received.append(None if found[0] == ord("C") else found[1][6:])
    assert received == sent


def test_a_row_of_another_width_ends_what_is_read() -> None:
    messages = Messages()
    messages.feed(message(b"D", row(b"a", b"b")))
    with pytest.raises(ValueError, match="width"):
        messages.rows((BYTEA,))


@pytest.mark.parametrize("length", [0, 3, MESSAGE_BYTES_MAX + 1, 0xFFFFFFFF])
def test_a_length_that_cannot_be_is_no_message(length: int) -> None:
    messages = Messages()
    messages.feed(b"D" + length.to_bytes(4, "big"))
    with pytest.raises(ValueError, match="not a message"):
        messages.next()
    with pytest.raises(ValueError, match="not a message"):
        messages.rows(())


def test_a_row_is_read_by_the_types_of_its_columns() -> None:
    values = row(
        (-5).to_bytes(8, "big", signed=True),
        (7).to_bytes(4, "big"),
        (-1).to_bytes(2, "big", signed=True),
        b"abc",
        b"\0\xff",
        None,
        b"\1",
        (60).to_bytes(4, "big"),
        (1_000_005).to_bytes(8, "big"),
        bytes.fromhex("00000001 00000001 00000015 00000002 00000001 00000002 0007 ffffffff"),
        bytes.fromhex("00000000 00000000 00000015"),
        bytes.fromhex("3ff8000000000000"),
    )
    oids = (INT8, INT4, INT2, TEXT, BYTEA, TEXT, BOOL, DATE, TIMESTAMPTZ, INT2_ARRAY, INT2_ARRAY)
    assert decode_row(values, (*oids, 701)) == [
        *(-5, 7, -1, "abc", b"\0\xff", None, True, datetime.date(2000, 3, 1)),
        datetime.datetime(2000, 1, 1, 0, 0, 1, 5, tzinfo=datetime.UTC),
        *([7, None], [], 1.5),
    ]


@given(st.data())
def test_a_cut_row_is_no_row(data: st.DataObject) -> None:
    array = bytes.fromhex("00000001 00000000 00000014 00000001 00000001 00000008") + bytes(8)
    whole = row(bytes(8), b"text", array)
    oids = (INT8, TEXT, INT8_ARRAY)
    assert decode_row(whole, oids) == [0, b"text".decode(), [0]]
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match=r"cut|width"):
        decode_row(whole[:cut], oids)
    inner = data.draw(st.integers(1, len(array) - 1))
    with pytest.raises(ValueError, match=r"cut|dimension"):
        decode_row(row(array[:inner]), (INT8_ARRAY,))


@pytest.mark.parametrize(("oid", "value"), [(INT8, bytes(4)), (INT4, bytes(8)), (600, bytes(16))])
def test_a_value_of_another_size_or_type_is_refused(oid: int, value: bytes) -> None:
    with pytest.raises(ValueError, match="binary form"):
        decode_row(row(value), (oid,))
