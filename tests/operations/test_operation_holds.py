"""Holds and their completions: value set aside, taken for what was used, the rest given back."""

from __future__ import annotations

import pytest

from tests.client.books import balance_changes, booked_on
from tests.client.checks import (
    assert_accepted,
    assert_shape,
    available,
    funds,
    purse,
)
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Entry, HoldName
from tests.client.terminal import Terminal

MOST_HOLDS = 16
"""As many at least may be open on one card."""


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
