"""Card numbers that do not show themselves, keys, fingerprints and transaction ids."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.identity import (
    KEY_LENGTH,
    Pan,
    content_fingerprint,
    counted_transaction_id,
    derived_transaction_id,
    format_transaction_id,
    key_instant,
    request_key,
)

NUMBER = "9500001234567890128"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def test_a_card_number_is_masked_wherever_it_is_shown() -> None:
    pan = Pan(NUMBER)
    shown = [repr(pan), f"{pan}", f"{pan:>30}", f"{pan!r}", format(pan), repr([pan]), repr((pan,))]
    assert all("500001234567" not in text and NUMBER not in text for text in shown)
    assert pan.masked() == "950000…0128"
    assert repr(pan) == "Pan('950000…0128')"


def test_the_number_itself_is_to_be_had_on_purpose() -> None:
    assert str(Pan(NUMBER)) == NUMBER
    assert Pan(NUMBER) == NUMBER


@pytest.mark.parametrize("number", ["", "9500001234", "95000012345"])
def test_nothing_of_a_short_number_is_shown(number: str) -> None:
    assert Pan(number).masked() == "…"


@given(st.text("0123456789", min_size=12, max_size=19))
def test_a_mask_leaves_six_and_four(number: str) -> None:
    masked = Pan(number).masked()
    assert masked == number[:6] + "…" + number[-4:]


def test_a_traceback_shows_no_number() -> None:
    def fail(pan: Pan) -> None:
        raise ValueError(f"no card {pan}")

    with pytest.raises(ValueError) as caught:
        fail(Pan(NUMBER))
    text = "".join(traceback.format_exception_only(caught.value))
    assert "950000…0128" in text
    assert NUMBER not in text


@given(st.integers(0, 2**32 - 1), st.text(max_size=40))
def test_a_key_begins_with_its_instant(instant_s: int, parts: str) -> None:
    key = request_key(instant_s, parts)
    assert len(key) == KEY_LENGTH
    assert key_instant(key) == instant_s
    assert key == request_key(instant_s, parts)


@given(st.text(max_size=20), st.text(max_size=20))
def test_other_parts_make_another_key_and_fingerprint(one: str, other: str) -> None:
    same = one == other
    assert (request_key(7, one) == request_key(7, other)) is same
    assert (content_fingerprint(one) == content_fingerprint(other)) is same
    assert len(content_fingerprint(one)) == 8


def test_keys_of_one_hour_lie_together() -> None:
    keys = [request_key(1_000 + n, f"{n * 7919}") for n in range(50)]
    assert keys == sorted(keys)


@given(st.integers(0, 2**60 - 1))
def test_a_transaction_id_is_its_number_in_base_32(number: int) -> None:
    text = format_transaction_id(number)
    assert len(text) == 12
    back = 0
    for character in text:
        back = back * 32 + CROCKFORD.index(character)
    assert back == number


@given(st.lists(st.integers(0, 2**60 - 1), min_size=2, max_size=2))
def test_transaction_ids_sort_like_their_numbers(numbers: list[int]) -> None:
    texts = [format_transaction_id(number) for number in numbers]
    assert (texts[0] < texts[1]) is (numbers[0] < numbers[1])


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_a_derived_id_follows_from_its_material_and_is_never_a_counted_one(
    one: bytes, other: bytes
) -> None:
    first, second = derived_transaction_id(one), derived_transaction_id(other)
    assert (first == second) is (one == other)
    assert first >= format_transaction_id(1 << 59)
    assert len(first) == 12


@given(st.integers(1, 2**23 - 1), st.integers(1, 2**23 - 1), st.integers(1, 2**36 - 1))
def test_runs_that_have_counted_equally_far_give_other_approval_codes(
    one: int, other: int, count: int
) -> None:
    """DE 38 is the end of `TX`; a completion may name its hold by it, whoever approved that."""
    first, second = counted_transaction_id(one, count), counted_transaction_id(other, count)
    assert (first[-6:] == second[-6:]) is (one == other)
    assert (first < second) is (one < other)
    assert max(first, second) < format_transaction_id(1 << 59)
    assert counted_transaction_id(one, count + 1 if count < 2**36 - 1 else 1) != first
