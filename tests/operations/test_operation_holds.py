"""Holds and their completions: value set aside, taken for what was used, the rest given back."""

from __future__ import annotations

import pytest

from tests.client.books import balance_changes, booked_on
from tests.client.checks import assert_shape, assert_undone, available, funds, purse
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Entry, HoldName, Reply
from tests.client.terminal import Terminal

MOST_HOLDS = 16
"""As many at least may be open on one card."""


def assert_accepted(reply: Reply) -> None:
    assert_shape(reply)
    assert reply.mti == "0230"
    assert reply.code == "00", reply


# -- the hold -----------------------------------------------------------------------------


def test_a_hold_sets_its_amount_aside_but_takes_nothing(any_pos: Terminal, card: Card) -> None:
    hold = any_pos.hold(card, 3000)
    assert_shape(hold)
    assert (hold.mti, hold.code, hold.amount_minor) == ("0110", "00", 3000)
    assert (purse(hold).ledger_minor, purse(hold).available_minor) == (10000, 7000)
    assert funds(any_pos, card) == (7000, 3000)


def test_a_hold_posts_nothing_to_the_merchant(switch: Demo, pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000)
    assert booked_on(switch, hold, "merchant") == {}
    assert balance_changes(switch, hold)[-1] == (-3000, 7000)


def test_what_is_held_cannot_be_spent(pos: Terminal, card: Card) -> None:
    assert pos.hold(card, 3000).code == "00"
    assert pos.redeem(card, 7001).code == "51"
    assert pos.hold(card, 7001).code == "51"
    sale = pos.redeem(card, 7000)
    assert (purse(sale).ledger_minor, purse(sale).available_minor) == (3000, 0)
    assert pos.cash_out(card).code == "51"


def test_a_cash_out_leaves_what_is_held(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000)
    assert pos.cash_out(card).amount_minor == 7000
    assert_accepted(pos.complete(hold, 3000))
    assert funds(pos, card) == (0, 0)


def test_a_hold_above_what_is_there_is_declined_and_holds_nothing(
    pos: Terminal, card: Card
) -> None:
    declined = pos.hold(card, 10001)
    assert_shape(declined)
    assert declined.code == "51"
    assert funds(pos, card) == (10000, 0)


def test_a_hold_of_nothing_is_an_invalid_amount(pos: Terminal, card: Card) -> None:
    assert pos.hold(card, 0).code == "13"


def test_a_hold_may_be_approved_in_part(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 15000, PA="1")
    assert_shape(hold)
    assert (hold.code, hold.amount_minor, int(hold.private["RQ"])) == ("10", 10000, 15000)
    assert funds(pos, card) == (0, 10000)
    assert_accepted(pos.complete(hold, 9000))
    assert funds(pos, card) == (1000, 0)


def test_a_hold_keyed_by_hand_needs_the_code(pos: Terminal, card: Card) -> None:
    assert pos.hold(card, 1000, de22=str(Entry.KEYED)).code == "14"
    assert pos.hold(card, 1000, de22=str(Entry.KEYED), CV=card.cv).code == "00"
    assert funds(pos, card) == (9000, 1000)


def test_a_hold_with_a_wrong_pin_is_refused(pos: Terminal, card: Card) -> None:
    wrong = f"{(int(card.pin) + 1) % 10000:04d}"
    assert pos.hold(card, 1000, pin=wrong).code == "55"
    assert pos.hold(card, 1000, pin=card.pin).code == "00"


def test_an_issued_card_cannot_be_held(pos: Terminal, issued: Card) -> None:
    assert pos.hold(issued, 1000).code == "78"


@pytest.mark.parametrize("flagged", [True, False])
def test_a_repeated_hold_gets_the_first_answer_and_holds_once(
    pos: Terminal, card: Card, flagged: bool
) -> None:
    hold = pos.hold(card, 3000)
    again = pos.repeat(hold, flagged=flagged)
    assert again.same_answer() == hold.same_answer()
    assert pos.complete(hold, 1000).code == "00"
    assert pos.repeat(hold, flagged=flagged).same_answer() == hold.same_answer()
    assert funds(pos, card) == (9000, 0)


def test_a_hold_with_the_same_key_but_another_amount_is_refused(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000)
    assert pos.repeat(hold, de4="000000003001").code == "94"
    assert funds(pos, card) == (7000, 3000)


def test_a_hold_and_a_redemption_of_the_same_numbers_are_two_transactions(
    pos: Terminal, card: Card
) -> None:
    hold = pos.hold(card, 3000)
    same = {f"de{number}": hold.fields[number] for number in (11, 12, 13)}
    assert pos.redeem(card, 1000, **same).code == "00"
    assert funds(pos, card) == (6000, 3000)


def test_sixteen_tills_race_for_one_hold_and_one_wins(switch: Demo, card: Card) -> None:
    tills = [switch.pos(entry) for entry in switch.pos_entries]
    try:
        requests = [till.make.hold(card, 10000) for till in tills]
        for till, request in zip(tills, requests, strict=True):
            till.send(request)
        replies = [till.receive(request) for till, request in zip(tills, requests, strict=True)]
        assert sorted(reply.code for reply in replies) == ["00"] + ["51"] * (len(tills) - 1)
        assert funds(tills[0], card) == (0, 10000)
    finally:
        for till in tills:
            till.close()


# -- the completion -----------------------------------------------------------------------


@pytest.mark.parametrize("by", list(HoldName))
@pytest.mark.parametrize("amount_minor", [3000, 1250, 1])
def test_a_completion_takes_what_was_used_and_releases_the_rest(
    switch: Demo, pos: Terminal, card: Card, by: HoldName, amount_minor: int
) -> None:
    hold = pos.hold(card, 3000)
    done = pos.complete(hold, amount_minor, by)
    assert_accepted(done)
    assert not done.why
    assert done.amount_minor == amount_minor
    assert funds(pos, card) == (10000 - amount_minor, 0)
    merchant = f"merchant:{pos.identity.merchant}"
    assert booked_on(switch, done, "merchant") == {merchant: amount_minor}
    assert booked_on(switch, done, "suspense") == {}


@pytest.mark.parametrize("by", list(HoldName))
def test_what_exceeds_the_hold_goes_to_suspense_and_the_card_pays_the_hold(
    switch: Demo, pos: Terminal, card: Card, by: HoldName
) -> None:
    hold = pos.hold(card, 3000)
    done = pos.complete(hold, 3400, by)
    assert_accepted(done)
    assert done.why
    assert funds(pos, card) == (7000, 0)
    assert booked_on(switch, done, "suspense") == {f"suspense:{pos.identity.merchant}": 400}
    assert sum(booked_on(switch, done, "card").values()) == 3000
    assert booked_on(switch, done, "shortfall") == {}
    assert pos.redeem(card, 7000).code == "00"


def test_a_completion_is_not_bound_by_the_floor_limit(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 9000)
    done = pos.complete(hold, 8000)
    assert_accepted(done)
    assert not done.why
    assert funds(pos, card) == (2000, 0)


def test_a_completion_of_all_there_is_freezes_no_card(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 10000)
    assert_accepted(pos.complete(hold, 10000))
    assert pos.load(card, 500).available_minor == 500
    assert pos.redeem(card, 500).code == "00"


def test_several_holds_of_one_card_are_completed_each_by_its_name(
    pos: Terminal, card: Card
) -> None:
    holds = [pos.hold(card, amount_minor) for amount_minor in (1000, 2000, 3000)]
    assert funds(pos, card) == (4000, 6000)
    assert_accepted(pos.complete(holds[1], 500, HoldName.APPROVAL_CODE))
    assert funds(pos, card) == (5500, 4000)
    assert_accepted(pos.complete(holds[2], 3000, HoldName.ORIGINAL_DATA))
    assert funds(pos, card) == (5500, 1000)
    assert_accepted(pos.complete(holds[0], 1000, HoldName.TRANSACTION))
    assert funds(pos, card) == (5500, 0)


def test_many_holds_stand_side_by_side(pos: Terminal, card: Card) -> None:
    holds = [pos.hold(card, 100) for _ in range(MOST_HOLDS)]
    assert {hold.code for hold in holds} == {"00"}
    assert funds(pos, card) == (10000 - 100 * MOST_HOLDS, 100 * MOST_HOLDS)
    for hold in reversed(holds):
        assert_accepted(pos.complete(hold, 50))
    assert funds(pos, card) == (10000 - 50 * MOST_HOLDS, 0)


def test_a_completion_is_found_behind_many_later_transactions(pos: Terminal, card: Card) -> None:
    for by in HoldName:
        hold = pos.hold(card, 1000)
        # More than the window of keys that travels with a card.
        later = pos.pipeline([pos.make.redeem(card, 1) for _ in range(30)])
        assert {reply.code for reply in later} == {"00"}
        assert_accepted(pos.complete(hold, 1000, by))
        assert funds(pos, card)[1] == 0
    assert available(pos, card) == 10000 - 3 * 1030


@pytest.mark.parametrize("by", [HoldName.TRANSACTION, HoldName.APPROVAL_CODE])
def test_another_till_of_the_merchant_may_complete(
    switch: Demo, pos: Terminal, card: Card, by: HoldName
) -> None:
    hold = pos.hold(card, 3000)
    others = [
        entry
        for entry in switch.pos_entries
        if entry["merchant"] == pos.identity.merchant and entry["id"] != pos.identity.terminal
    ]
    with switch.pos(others[0]) as till:
        assert_accepted(till.complete(hold, 1000, by))
    assert funds(pos, card) == (9000, 0)


def test_an_approval_code_names_no_hold_of_another_merchant(
    switch: Demo, pos: Terminal, elsewhere: Terminal, card: Card
) -> None:
    hold = pos.hold(card, 3000)
    done = elsewhere.complete(hold, 1000, HoldName.APPROVAL_CODE)
    # No hold of its own: a sale decided at the terminal. The other merchant's hold stays.
    assert_accepted(done)
    assert funds(pos, card) == (6000, 3000)
    assert booked_on(switch, done, "merchant") == {f"merchant:{elsewhere.identity.merchant}": 1000}
    assert_accepted(pos.complete(hold, 3000))
    assert funds(pos, card) == (6000, 0)


def test_a_completion_needs_neither_code_nor_pin(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000, de22=str(Entry.KEYED), CV=card.cv)
    assert_accepted(pos.complete(hold, 3000, de22=str(Entry.KEYED)))
    assert funds(pos, card) == (7000, 0)


def test_a_completion_of_a_hold_on_a_card_blocked_since_takes_its_hold(
    pos: Terminal, network: Terminal, card: Card
) -> None:
    hold = pos.hold(card, 3000)
    assert network.block(card).code == "00"
    assert_accepted(pos.complete(hold, 2000))
    assert network.unblock(card).code == "00"
    assert funds(pos, card) == (8000, 0)


def test_hold_and_completion_in_one_write_are_done_in_their_order(
    pos: Terminal, card: Card
) -> None:
    hold = pos.make.hold(card, 3000)
    done = pos.make.complete(hold, 1200, HoldName.ORIGINAL_DATA)
    held, completed = pos.pipeline([hold, done])
    assert (held.code, completed.code) == ("00", "00")
    assert funds(pos, card) == (8800, 0)


# -- completed twice ----------------------------------------------------------------------


@pytest.mark.parametrize("flagged", [True, False])
def test_a_repeated_completion_gets_the_first_answer_and_takes_once(
    any_pos: Terminal, card: Card, flagged: bool
) -> None:
    hold = any_pos.hold(card, 3000)
    done = any_pos.complete(hold, 2000)
    for _ in range(2):
        again = any_pos.repeat(done, flagged=flagged)
        assert_accepted(again)
        assert again.same_answer() == done.same_answer()
    assert funds(any_pos, card) == (8000, 0)


@pytest.mark.parametrize("by", list(HoldName))
@pytest.mark.parametrize("amount_minor", [2000, 1000, 3000, 4000])
def test_a_hold_completed_before_is_not_completed_again(
    switch: Demo, pos: Terminal, card: Card, by: HoldName, amount_minor: int
) -> None:
    hold = pos.hold(card, 3000)
    assert_accepted(pos.complete(hold, 2000))
    second = pos.complete(hold, amount_minor, by)
    assert_accepted(second)
    assert funds(pos, card) == (8000, 0)
    assert booked_on(switch, second, "merchant") == {}


def test_completions_of_one_hold_over_several_lines_take_once(switch: Demo, cards: Cards) -> None:
    entry = switch.pos_entries[6]
    tills = [switch.pos(entry) for _ in range(4)]
    try:
        for _ in range(5):
            card = cards.active()
            hold = tills[0].hold(card, 3000)
            requests = [till.make.complete(hold, 2000) for till in tills]
            for till, request in zip(tills, requests, strict=True):
                till.send(request)
            for till, request in zip(tills, requests, strict=True):
                assert_accepted(till.receive(request))
            assert funds(tills[0], card) == (8000, 0)
    finally:
        for till in tills:
            till.close()


# -- reversed -----------------------------------------------------------------------------


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
