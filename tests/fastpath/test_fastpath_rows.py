"""Rows in the form of `record_send`; that Postgres makes them so is in tests/projections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.rows import RowImage, RowShape

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


def numbered(number: int, text: bytes, small: int) -> RowImage:
    parts = ((INT8, number.to_bytes(8, "big")), (TEXT, text), (21, small.to_bytes(2, "big")))
    return SHAPE.open(image(*parts))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"ab", b"b"]), st.integers(0, 2)))
)
def test_columns_of_many_rows_are_those_of_each(made: list[tuple[int, bytes, int]]) -> None:
    rows = [numbered(*one) for one in made]
    assert SHAPE.distinct(rows, "text") == {text.decode() for _, text, _ in made}
    assert SHAPE.numbers(rows, "number", "small") == [(number, small) for number, _, small in made]
    groups = SHAPE.grouped(rows, "number", "small")
    assert list(groups) == list(dict.fromkeys((number, small) for number, _, small in made))
    for (number, small), group in groups.items():
        assert group == [row for row in rows if (row["number"], row["small"]) == (number, small)]


def test_of_many_rows_a_column_without_a_number_is_refused() -> None:
    row = SHAPE.open(image((INT8, bytes(8)), (TEXT, b"a"), (21, None)))
    with pytest.raises(KeyError):
        SHAPE.distinct([row], "other")
    with pytest.raises(ValueError, match="no number"):
        SHAPE.numbers([row], "number", "small")
    with pytest.raises(ValueError, match="no number"):
        SHAPE.grouped([row], "text", "number")
    with pytest.raises(ValueError, match="nothing"):
        SHAPE.distinct([row], "small")
