"""Lots: the order of spending, and the way back into the very lots."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.lots import Lot, LotMove, Origin, give_back, net, restorable, take, take_all, take_back
from rules.money import AMOUNT_MINOR_MAX, Purse, additional_amounts


def amounts(lots: list[Lot]) -> dict[int, int]:
    return {lot.lot_id: lot.available_minor for lot in lots}


def moved(moves: list[LotMove]) -> list[tuple[int, int]]:
    return [(move.lot_id, move.amount_minor) for move in moves]


def copy(lots: list[Lot]) -> list[Lot]:
    return [msgspec.structs.replace(lot) for lot in lots]


def test_the_soonest_to_expire_is_spent_first_and_never_comes_last() -> None:
    lots = [Lot(1, 100), Lot(2, 100, expires_day=300), Lot(3, 100, expires_day=200)]
    assert moved(take(lots, 250)) == [(3, -100), (2, -100), (1, -50)]
    assert amounts(lots) == {1: 50}


def test_expiry_goes_before_origin() -> None:
    lots = [
        Lot(1, 100, Origin.PROMO, cashable=False),
        Lot(2, 100, Origin.PAID, expires_day=200),
    ]
    assert moved(take(lots, 100)) == [(2, -100)]


@pytest.mark.parametrize("origin", [o for o in Origin if o is not Origin.PAID])
def test_promotional_value_is_spent_before_paid_value_of_the_same_expiry(origin: Origin) -> None:
    lots = [Lot(1, 100, expires_day=200), Lot(2, 100, origin, expires_day=200)]
    assert moved(take(lots, 150)) == [(2, -100), (1, -50)]


def test_of_equal_lots_the_oldest_is_spent_first() -> None:
    lots = [Lot(7, 100), Lot(3, 100), Lot(5, 100)]
    assert moved(take(lots, 201)) == [(3, -100), (5, -100), (7, -1)]


def into(*amounts_by_lot: tuple[int, int]) -> list[LotMove]:
    return [LotMove(lot, minor, Origin.PAID, True, 0, 0) for lot, minor in amounts_by_lot]


def test_what_was_given_is_taken_back_out_of_the_lots_it_went_to() -> None:
    lots = [Lot(1, 100, expires_day=10), Lot(2, 100), Lot(3, 100)]
    assert moved(take_back(lots, into((3, 60), (2, 50)), 110)) == [(2, -50), (3, -60)]
    assert amounts(lots) == {1: 100, 2: 50, 3: 40}


def test_a_part_is_taken_back_out_of_the_lot_that_was_filled_last() -> None:
    lots = [Lot(1, 100), Lot(2, 100)]
    assert moved(take_back(lots, into((2, 60), (1, 50)), 70)) == [(1, -50), (2, -20)]


def test_what_a_lot_no_longer_holds_is_taken_out_of_the_others() -> None:
    lots = [Lot(1, 100), Lot(2, 10), Lot(4, 100, expires_day=10)]
    assert moved(take_back(lots, into((2, 60), (3, 50)), 130)) == [(2, -10), (4, -100), (1, -20)]
    assert amounts(lots) == {1: 80}
    with pytest.raises(ValueError):
        take_back(lots, into((1, 200)), 81)


def test_a_lot_that_gives_twice_is_one_move() -> None:
    lots = [Lot(1, 100)]
    assert moved(take_back(lots, into((1, 60)), 80)) == [(1, -80)]


def test_only_cashable_lots_are_paid_out() -> None:
    lots = [Lot(1, 100, Origin.PROMO, cashable=False), Lot(2, 100), Lot(3, 50)]
    assert moved(take(lots, 120, cashable_only=True)) == [(2, -100), (3, -20)]
    assert amounts(lots) == {1: 100, 3: 30}
    with pytest.raises(ValueError):
        take(lots, 31, cashable_only=True)


def test_a_single_lot_that_may_not_be_paid_out_is_not() -> None:
    with pytest.raises(ValueError):
        take([Lot(1, 100, Origin.PROMO, cashable=False)], 1, cashable_only=True)


@given(st.integers(2, 10**12), st.data())
def test_a_single_lot_gives_as_any_does(available_minor: int, data: st.DataObject) -> None:
    """The short way of a card with one lot, against the long one."""
    amount_minor = data.draw(st.integers(1, available_minor))
    short, long = [Lot(1, available_minor, expires_day=7)], [Lot(1, available_minor, expires_day=7)]
    moves = take(short, amount_minor)
    assert moves == take(long, amount_minor, cashable_only=True)
    assert (short, moved(moves)) == (long, [(1, -amount_minor)])


def test_all_and_all_cashable() -> None:
    lots = [Lot(1, 100, Origin.PROMO, cashable=False), Lot(2, 70)]
    assert moved(take_all(copy(lots), cashable_only=True)) == [(2, -70)]
    assert moved(take_all(lots)) == [(1, -100), (2, -70)]
    assert lots == []
    assert take_all(lots) == []


def test_more_than_there_is_cannot_be_taken() -> None:
    for lots in ([], [Lot(1, 100)], [Lot(1, 50), Lot(2, 50)]):
        with pytest.raises(ValueError):
            take(lots, 101)


def test_nothing_taken_is_no_move() -> None:
    lots = [Lot(1, 100), Lot(2, 100)]
    assert take(lots, 0) == []
    assert amounts(lots) == {1: 100, 2: 100}


def test_a_lot_that_was_used_up_returns_as_it_was() -> None:
    promo = Lot(4, 100, Origin.PROMO, cashable=False, expires_day=321, sponsor_id=9)
    lots = [msgspec.structs.replace(promo)]
    sources = restorable(take(lots, 100), [])
    assert lots == []
    give_back(lots, sources, 60)
    assert lots == [msgspec.structs.replace(promo, available_minor=60)]


def test_a_part_given_back_fills_what_would_have_been_spent_last() -> None:
    lots = [Lot(1, 100), Lot(2, 100), Lot(3, 100)]
    taken = take(lots, 250)
    assert moved(give_back(lots, restorable(taken, []), 80)) == [(3, 50), (2, 30)]


def test_no_more_is_given_back_than_was_taken() -> None:
    lots = [Lot(1, 100)]
    taken = take(lots, 60)
    with pytest.raises(ValueError):
        give_back(lots, restorable(taken, []), 61)


def test_what_was_put_back_is_not_restorable_again() -> None:
    lots = [Lot(1, 100), Lot(2, 100)]
    taken = take(lots, 150)
    first = give_back(lots, restorable(taken, []), 70)
    assert moved(restorable(taken, first)) == [(1, 80)]
    second = give_back(lots, restorable(taken, first), 80)
    assert restorable(taken, [*first, *second]) == []


def test_what_an_undone_return_took_elsewhere_is_owed_to_that_lot() -> None:
    """50 went into lot 1, were spent, and taken back out of lot 2."""
    taken = [LotMove(1, -100, Origin.PAID, True, 0, 0)]
    undoing = [LotMove(1, 50, Origin.PAID, True, 0, 0), LotMove(2, -50, Origin.PROMO, False, 0, 0)]
    assert moved(restorable(taken, undoing)) == [(2, 50), (1, 50)]
    assert restorable(taken, undoing)[0].cashable is False


def test_the_sum_of_moves_per_lot() -> None:
    def one(lot_id: int, amount_minor: int) -> LotMove:
        return LotMove(lot_id, amount_minor, Origin.PAID, True, 0, 0)

    moves = [one(2, 5), one(1, -3), one(2, -5), one(3, 1), one(1, -4)]
    assert moved(net(moves)) == [(1, -7), (3, 1)]


LOTS = st.lists(
    st.builds(
        Lot,
        st.just(0),
        st.integers(1, 300),
        st.sampled_from(Origin),
        st.booleans(),
        st.sampled_from((0, 200, 300)),
        st.integers(0, 2),
    ),
    max_size=6,
).map(lambda lots: [msgspec.structs.replace(lot, lot_id=n) for n, lot in enumerate(lots, 1)])


@given(LOTS, st.data())
def test_taking_moves_what_it_says(lots: list[Lot], data: st.DataObject) -> None:
    before = amounts(lots)
    amount_minor = data.draw(st.integers(0, sum(before.values())))
    moves = take(lots, amount_minor)
    after = amounts(lots)
    assert sum(move.amount_minor for move in moves) == -amount_minor
    assert all(left > 0 for left in after.values())
    for move in moves:
        assert move.amount_minor < 0
        assert after.get(move.lot_id, 0) == before[move.lot_id] + move.amount_minor
    untouched = before.keys() - {move.lot_id for move in moves}
    assert all(after[lot_id] == before[lot_id] for lot_id in untouched)


@given(LOTS, st.data(), st.integers(0, 2**32))
def test_given_back_in_any_parts_every_lot_is_as_it_was(
    lots: list[Lot], data: st.DataObject, seed: int
) -> None:
    before = sorted(copy(lots), key=lambda lot: lot.lot_id)
    amount_minor = data.draw(st.integers(0, sum(lot.available_minor for lot in lots)))
    taken = take(lots, amount_minor)
    back: list[LotMove] = []
    draw = random.Random(seed)
    while amount_minor:
        part = draw.randint(1, amount_minor)
        back += give_back(lots, restorable(taken, back), part)
        amount_minor -= part
    assert sorted(lots, key=lambda lot: lot.lot_id) == before
    assert restorable(taken, back) == []


@given(LOTS, st.data())
def test_taken_back_after_it_was_given_every_lot_is_as_it_was(
    lots: list[Lot], data: st.DataObject
) -> None:
    total_minor = sum(lot.available_minor for lot in lots)
    amount_minor = data.draw(st.integers(0, total_minor))
    taken = take(lots, amount_minor)
    before = sorted(copy(lots), key=lambda lot: lot.lot_id)
    part_minor = data.draw(st.integers(0, amount_minor))
    back = give_back(lots, restorable(taken, []), part_minor)
    first_minor = data.draw(st.integers(0, part_minor))
    undone = take_back(lots, back, first_minor)
    take_back(lots, net([*back, *undone]), part_minor - first_minor)
    assert sorted(lots, key=lambda lot: lot.lot_id) == before


def test_the_amounts_of_de_54() -> None:
    assert additional_amounts(Purse.ECASH, "978", 1300, 1250) == (
        "6001978C0000000013006002978C000000001250"
    )
    assert additional_amounts(Purse.POINTS, "999", 0, 0) == (
        "9001999C0000000000009002999C000000000000"
    )
    assert additional_amounts(Purse.VOUCHER, "978", 1, -5) == (
        "8001978C0000000000018002978D000000000005"
    )


@pytest.mark.parametrize("amount_minor", [AMOUNT_MINOR_MAX, AMOUNT_MINOR_MAX + 1, -(10**13)])
def test_an_amount_of_de_54_always_has_20_characters(amount_minor: int) -> None:
    said = additional_amounts(Purse.ECASH, "978", amount_minor, amount_minor)
    assert len(said) == 40
    assert said[8:20] == said[28:] == "999999999999"


def test_the_loyalty_purse_counts_in_no_currency() -> None:
    assert [purse.currency("978") for purse in Purse] == ["978", "978", "999"]
