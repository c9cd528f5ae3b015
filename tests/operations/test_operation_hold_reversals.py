"""Reversals of holds and of their completions, and what comes after."""

from __future__ import annotations

import pytest

from tests.client.books import balance_changes, booked_on
from tests.client.checks import assert_accepted, assert_shape, assert_undone, funds
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, HoldName
from tests.client.terminal import Terminal

# -- the hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mti", ["0400", "0401", "0420", "0421"])
def test_a_reversed_hold_is_given_back(any_pos: Terminal, card: Card, mti: str) -> None:
    hold = any_pos.hold(card, 3000)
    first = any_pos.reverse(hold, mti=mti)
    assert_undone(first, "REVERSED")
    assert funds(any_pos, card) == (10000, 0)
    assert any_pos.repeat(first).same_answer() == first.same_answer()
    assert_undone(any_pos.reverse(hold, mti=mti), "ALREADY")
    assert funds(any_pos, card) == (10000, 0)


def test_a_repeat_of_a_reversed_hold_is_told_so(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000)
    assert_undone(pos.reverse(hold), "REVERSED")
    again = pos.repeat(hold)
    assert (again.code, again.state) == ("05", "REVERSED")
    assert funds(pos, card) == (10000, 0)


def test_a_hold_reversed_before_it_comes_is_barred(pos: Terminal, card: Card) -> None:
    hold = pos.make.hold(card, 3000)
    assert_undone(pos.reverse(hold), "NOTHING")
    assert pos.exchange(hold).code == "05"
    assert funds(pos, card) == (10000, 0)


def test_a_hold_is_not_reversed_under_the_number_of_a_redemption(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000)
    named = "0200" + hold.fields[11] + "0" * 32
    assert_undone(pos.reverse(hold, de90=named), "NOTHING")
    assert funds(pos, card) == (7000, 3000)


def test_a_partial_reversal_lowers_a_hold(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 5000)
    assert_undone(pos.reverse(hold, final_minor=3000), "PARTIAL")
    assert funds(pos, card) == (7000, 3000)
    assert_undone(pos.reverse(hold, final_minor=3000), "ALREADY")
    assert pos.reverse(hold, final_minor=3001).code == "13"
    assert_accepted(pos.complete(hold, 3000))
    assert funds(pos, card) == (7000, 0)


def test_a_lowered_hold_pays_no_more_than_what_is_still_held(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    hold = pos.hold(card, 5000)
    assert_undone(pos.reverse(hold, final_minor=3000), "PARTIAL")
    done = pos.complete(hold, 5000)
    assert_accepted(done)
    assert funds(pos, card) == (7000, 0)
    assert booked_on(switch, done, "suspense") == {f"suspense:{pos.identity.merchant}": 2000}


def test_a_lowered_hold_is_reversed_for_what_is_left(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 5000)
    assert_undone(pos.reverse(hold, final_minor=3000), "PARTIAL")
    assert_undone(pos.reverse(hold), "REVERSED")
    assert funds(pos, card) == (10000, 0)


def test_a_repeat_of_a_lowered_hold_gets_the_first_answer(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 5000)
    assert_undone(pos.reverse(hold, final_minor=3000), "PARTIAL")
    assert pos.repeat(hold).same_answer() == hold.same_answer()
    # Reversed in part, completed for the rest: still no hold that was reversed.
    assert_accepted(pos.complete(hold, 3000))
    assert pos.repeat(hold).same_answer() == hold.same_answer()
    assert funds(pos, card) == (7000, 0)


@pytest.mark.parametrize("amount_minor", [3000, 1000, 4000])
def test_a_hold_reversed_after_its_completion_leaves_nothing_to_undo(
    pos: Terminal, card: Card, amount_minor: int
) -> None:
    hold = pos.hold(card, 3000)
    assert_accepted(pos.complete(hold, amount_minor))
    left = funds(pos, card)
    for mti in ("0400", "0420"):
        assert_undone(pos.reverse(hold, mti=mti), "NOTHING")
        assert_undone(pos.reverse(hold, mti=mti, final_minor=500), "NOTHING")
    assert funds(pos, card) == left


@pytest.mark.parametrize("by", list(HoldName))
def test_a_completion_of_a_reversed_hold_is_posted_as_an_advice(
    switch: Demo, pos: Terminal, card: Card, by: HoldName
) -> None:
    hold = pos.hold(card, 3000)
    assert_undone(pos.reverse(hold), "REVERSED")
    done = pos.complete(hold, 2500, by)
    assert_accepted(done)
    assert funds(pos, card) == (7500, 0)
    assert booked_on(switch, done, "merchant") == {f"merchant:{pos.identity.merchant}": 2500}
    assert pos.repeat(done).same_answer() == done.same_answer()
    assert funds(pos, card) == (7500, 0)


def test_a_completion_of_a_reversed_hold_is_bound_by_the_floor_limit(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    hold = pos.hold(card, 8000)
    assert_undone(pos.reverse(hold), "REVERSED")
    done = pos.complete(hold, 5001)
    assert_accepted(done)
    assert done.why
    assert funds(pos, card) == (10000, 0)
    assert booked_on(switch, done, "suspense") == {f"suspense:{pos.identity.merchant}": 5001}


def test_hold_completion_and_reversal_race_and_one_of_both_wins(switch: Demo, cards: Cards) -> None:
    entry = switch.pos_entries[7]
    with switch.pos(entry) as one, switch.pos(entry) as two:
        for turn in range(10):
            card = cards.active()
            hold = one.hold(card, 3000)
            done, undo = one.make.complete(hold, 2000), two.make.reverse(hold)
            lines = [(one, done), (two, undo)]
            for till, request in lines if turn % 2 else reversed(lines):
                till.send(request)
            assert_accepted(one.receive(done))
            assert two.receive(undo).state in {"REVERSED", "NOTHING"}
            # Completed, or reversed and then posted as an advice: the sale is paid once.
            assert funds(one, card) == (8000, 0)


# -- reversals of completions -------------------------------------------------------------


@pytest.mark.parametrize("amount_minor", [3000, 1000])
@pytest.mark.parametrize("mti", ["0400", "0420"])
def test_a_reversed_completion_gives_the_value_back(
    pos: Terminal, card: Card, amount_minor: int, mti: str
) -> None:
    hold = pos.hold(card, 3000)
    done = pos.complete(hold, amount_minor)
    assert_accepted(done)
    undone = pos.reverse(done, mti=mti)
    assert_undone(undone, "REVERSED")
    assert funds(pos, card) == (10000, 0)
    assert pos.repeat(undone).same_answer() == undone.same_answer()
    assert_undone(pos.reverse(done, mti=mti), "ALREADY")
    assert pos.redeem(card, 10000).code == "00"


def test_a_completion_is_reversed_in_part(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 5000)
    done = pos.complete(hold, 4000)
    assert_undone(pos.reverse(done, final_minor=1500), "PARTIAL")
    assert funds(pos, card) == (8500, 0)
    assert pos.reverse(done, final_minor=1501).code == "13"
    assert_undone(pos.reverse(done), "REVERSED")
    assert funds(pos, card) == (10000, 0)


def test_a_reversed_completion_above_its_hold_gives_back_what_the_card_paid(
    pos: Terminal, card: Card
) -> None:
    hold = pos.hold(card, 3000)
    done = pos.complete(hold, 3400)
    assert_undone(pos.reverse(done), "REVERSED")
    # The 4.00 in suspense never were the card's.
    assert funds(pos, card) == (10000, 0)


def test_after_both_were_undone_nothing_is_left_of_the_hold(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000)
    done = pos.complete(hold, 3000)
    assert_undone(pos.reverse(done), "REVERSED")
    undone = pos.reverse(hold)
    assert (undone.code, undone.state in {"NOTHING", "ALREADY"}) == ("00", True)
    assert funds(pos, card) == (10000, 0)


def test_a_completed_hold_can_be_returned_to_the_card(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 5000)
    done = pos.complete(hold, 4000)
    returned = pos.refund(card, 1500, done)
    assert_shape(returned)
    assert (returned.code, returned.available_minor) == ("00", 7500)
    assert pos.refund(card, 2501, done).code == "13"
    assert pos.refund(card, 2500, done).available_minor == 10000


def test_a_hold_is_no_sale_to_be_returned(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 5000)
    assert pos.refund(card, 1000, hold).code in {"13", "25"}
    assert funds(pos, card) == (5000, 5000)


def test_a_spent_load_reversed_while_value_is_held_leaves_the_hold(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    loaded = pos.load(card, 2000)
    hold = pos.hold(card, 11500)
    undone = pos.reverse(loaded)
    # 5.00 are there; what is held belongs to its merchant, so 15.00 are the loading one's.
    assert_undone(undone, "PARTIAL")
    assert booked_on(switch, undone, "shortfall") == {f"shortfall:{pos.identity.merchant}": 1500}
    assert pos.redeem(card, 1).code == "62"
    done = pos.complete(hold, 11500)
    assert_accepted(done)
    assert booked_on(switch, done, "merchant") == {f"merchant:{pos.identity.merchant}": 11500}
    assert balance_changes(switch, done)[-1][1] == 0
