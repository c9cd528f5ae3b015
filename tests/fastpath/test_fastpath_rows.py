"""Rows in the form of `record_send`; that Postgres makes them so is in tests/projections."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.rows import RowImage, RowShape, SpreadShape

INT8, TEXT, BYTEA = 20, 25, 17


SHAPE = RowShape(("number", "text", "small"), (INT8, TEXT, 21))


def image(*columns: tuple[int, bytes | None]) -> bytes:
    data = len(columns).to_bytes(4, "big")
    for oid, value in columns:
        data += oid.to_bytes(4, "big")
        data += b"\xff" * 4 if value is None else len(value).to_bytes(4, "big") + value
    return data


def test_a_rows_image_is_read_by_name_place_and_slice() -> None:
    data = image((INT8, (-5).to_bytes(8, "big", signed=True)), (TEXT, b"abc"), (21, None))
    row = SHAPE.open(data)
    assert (row["number"], row["text"], row["small"], row["image"]) == (-5, "abc", None, data)
    assert (row[0], row[1], row[2]) == (-5, "abc", None)
    assert (row[1:], tuple(row), len(row)) == (("abc", None), (-5, "abc", None), 3)
    assert SHAPE.place("text") == 1
    with pytest.raises(KeyError):
        row["other"]
    with pytest.raises(IndexError):
        row[3]


@given(st.data())
def test_a_cut_image_or_one_of_other_types_is_none(data: st.DataObject) -> None:
    whole = image((INT8, bytes(8)), (TEXT, b"abc"), (21, bytes(2)))
    size = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (
        *(whole[:size], whole + b"\0", image((INT8, bytes(8)), (TEXT, b"abc"))),
        image((INT8, bytes(8)), (BYTEA, b"abc"), (21, bytes(2))),
    ):
        with pytest.raises(ValueError, match="row"):
            SHAPE.open(wrong)


def test_a_shape_has_a_type_for_each_of_at_most_31_names() -> None:
    for names, oids in ((("a",), ()), (tuple(map(str, range(32))), (INT8,) * 32)):
        with pytest.raises(ValueError, match="shape"):
            RowShape(names, oids)
    with pytest.raises(TypeError):
        RowImage()


INNER = RowShape(
    ("text", "leg", "kind", "owner", "currency"),
    (TEXT, 21, 21, INT8, 1042),
)
SPREAD = SpreadShape(SHAPE, INNER, ("text",), "leg")


def array(
    numbers: Sequence[int | None], lower: int = 1, sizes: Sequence[int] | None = None
) -> bytes:
    """A bigint[] as `array_send` gives it."""
    sizes = ([len(numbers)] if numbers else []) if sizes is None else sizes
    data = struct.pack("!iii", len(sizes), None in numbers, INT8)
    data += b"".join(struct.pack("!ii", size, lower) for size in sizes)
    for number in numbers:
        data += struct.pack("!i", -1) if number is None else struct.pack("!iq", 8, number)
    return data


def outer(text: bytes | None) -> RowImage:
    return SHAPE.open(image((INT8, bytes(8)), (TEXT, text), (21, bytes(2))))


def as_asked(
    text: str | None, numbers: Sequence[int | None], lower: int, dimensions: int
) -> list[tuple[object, ...]]:
    """What a reader gets who asks for elements 1, 2, 3 as smallint, bigint and three digits."""
    rows: list[tuple[object, ...]] = []
    values = {place + lower: number for place, number in enumerate(numbers)}
    for leg in range(-(-len(numbers) // 3)):
        kind, owner, currency = (
            values.get(3 * leg + n) if dimensions == 1 else None for n in (1, 2, 3)
        )
        rows.append(
            (
                *(text, leg),
                kind if kind is not None and -(2**15) <= kind < 2**15 else None,
                owner,
                f"{currency:03}" if currency is not None and 0 <= currency <= 999 else None,
            )
        )
    return rows


_NUMBERS = st.lists(
    st.none()
    | st.sampled_from([0, 1, 7, 978, 999, 1000, -1, 2**15, -(2**15) - 1, 2**63 - 1, -(2**63)])
    | st.integers(-(2**63), 2**63 - 1),
    max_size=14,
)


@given(st.none() | st.text(max_size=5), _NUMBERS, st.integers(-3, 5), st.booleans())
def test_rows_that_stand_in_a_row_are_what_its_numbers_say(
    text: str | None, numbers: list[int | None], lower: int, flat: bool
) -> None:
    sizes = [len(numbers)] if flat else [1, len(numbers)]
    data = array(numbers, lower, sizes if numbers else [])
    found = SPREAD.rows(outer(None if text is None else text.encode()), data)
    assert [tuple(row) for row in found] == as_asked(text, numbers, lower, len(sizes))
    for row in found:  # and each is an image as any other
        assert tuple(INNER.open(row["image"])) == tuple(row)


def test_what_is_no_array_of_bigint_is_refused() -> None:
    row = outer(b"a")
    whole = array([1, 2, 3])
    for wrong in (b"", whole[:11], whole[:19], whole.replace(b"\x14", b"\x15", 1)):
        with pytest.raises(ValueError, match="array"):
            SPREAD.rows(row, wrong)
    for sizes in ([1] * 7, [2**31 - 1], [2**16] * 4):
        with pytest.raises(ValueError, match="cut array"):
            SPREAD.rows(row, array([1], sizes=sizes))
    for lower in (-(2**31), 2**31 - 1):  # nor does it take longer
        nothing = ("a", 0, None, None, None)
        assert [tuple(one) for one in SPREAD.rows(row, array([1, 2, 3], lower))] == [nothing]
    assert [tuple(one) for one in SPREAD.rows(row, whole[:-1])] == [("a", 0, 1, 2, None)]
    with pytest.raises(ValueError, match="another shape"):
        SPREAD.rows(SPREAD.rows(row, whole)[0], whole)


def test_a_spread_has_a_counter_numbers_and_columns_that_agree() -> None:
    small = RowShape(("n", "leg"), (21, 21))
    with pytest.raises(KeyError):
        SpreadShape(SHAPE, small, (), "place")
    with pytest.raises(KeyError):
        SpreadShape(SHAPE, small, ("n",), "leg")
    with pytest.raises(ValueError, match="counter"):
        SpreadShape(SHAPE, RowShape(("n", "leg"), (21, INT8)), (), "leg")
    with pytest.raises(ValueError, match="two types"):
        SpreadShape(SHAPE, RowShape(("number", "leg"), (21, 21)), ("number",), "leg")
    with pytest.raises(ValueError, match="no number"):
        SpreadShape(SHAPE, RowShape(("n", "leg"), (TEXT, 21)), (), "leg")
    with pytest.raises(ValueError, match="a number"):
        SpreadShape(SHAPE, RowShape(("leg",), (21,)), (), "leg")
