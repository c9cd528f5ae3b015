"""Advices: what a terminal decided by itself. Always accepted, not always posted to the card."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest

from tests.client.books import assert_in_suspense, balance_changes, booked_on, postings
from tests.client.checks import assert_accepted, assert_undone, available, funds
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Entry
from tests.client.terminal import Terminal

FLOOR_LIMIT_MINOR = 5000


# -- posted to the card -------------------------------------------------------------------


def test_an_offline_sale_is_taken_from_the_card(
    switch: Demo, any_pos: Terminal, card: Card
) -> None:
    told = any_pos.advise(card, 1250)
    assert_accepted(told)
    assert told.amount_minor == 1250
    assert not told.why
    assert funds(any_pos, card) == (8750, 0)
    merchant = f"merchant:{any_pos.identity.merchant}"
    assert booked_on(switch, told, "merchant") == {merchant: 1250}
    assert sum(booked_on(switch, told, "card").values()) == 1250
    assert booked_on(switch, told, "suspense") == {}


def test_the_floor_limit_is_the_most_an_offline_sale_may_be(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    assert switch.entry()["floor_limit"] == FLOOR_LIMIT_MINOR
    told = pos.advise(card, FLOOR_LIMIT_MINOR)
    assert_accepted(told)
    assert available(pos, card) == 10000 - FLOOR_LIMIT_MINOR
    over = pos.advise(card, FLOOR_LIMIT_MINOR + 1)
    assert_in_suspense(switch, pos, over, FLOOR_LIMIT_MINOR + 1)
    assert available(pos, card) == 10000 - FLOOR_LIMIT_MINOR


@pytest.mark.parametrize("entry", list(Entry))
def test_an_advice_needs_neither_code_nor_pin(pos: Terminal, card: Card, entry: Entry) -> None:
    assert_accepted(pos.advise(card, 1000, de22=str(entry)))
    assert available(pos, card) == 9000


def test_an_advice_may_name_the_card_by_its_track(pos: Terminal, card: Card) -> None:
    assert_accepted(pos.advise(card, 1000, de2=None, de35=card.track2))
    assert available(pos, card) == 9000


def test_an_advice_that_names_no_hold_is_a_sale(pos: Terminal, card: Card) -> None:
    assert_accepted(pos.advise(card, 1000, OR="ZZZZZZZZZZZZ"))
    assert_accepted(pos.advise(card, 1000, de38="ZZZZZZ"))
    assert_accepted(pos.advise(card, 1000, de90="0100" + "999999" + "0" * 32))
    assert available(pos, card) == 7000


def test_a_sale_of_last_weekend_is_still_posted(pos: Terminal, card: Card) -> None:
    then = pos.make.local_time() - timedelta(days=3)
    told = pos.advise(card, 1000, at=then)
    assert_accepted(told)
    assert available(pos, card) == 9000
    assert pos.repeat(told).same_answer() == told.same_answer()
    assert available(pos, card) == 9000


def test_an_advice_leaves_what_is_held(switch: Demo, pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 7000)
    told = pos.advise(card, 4000)
    assert_accepted(told)
    assert booked_on(switch, told, "shortfall") == {f"shortfall:{pos.identity.merchant}": 1000}
    assert_accepted(pos.complete(hold, 7000))
    assert balance_changes(switch, told)[-1][1] == 0


# -- order and number ---------------------------------------------------------------------


@pytest.mark.parametrize("order", [("0220", "0221"), ("0221", "0220"), ("0221", "0221")])
def test_an_advice_and_its_repeats_take_once_in_any_order(
    any_pos: Terminal, card: Card, order: tuple[str, str]
) -> None:
    sale = any_pos.make.advise(card, 1250)
    told = any_pos.make.repeat(sale)
    first, second = (any_pos.exchange(sale if mti == "0220" else told) for mti in order)
    assert_accepted(first)
    assert second.same_answer() == first.same_answer()
    assert available(any_pos, card) == 8750


def test_copies_in_one_write_are_accepted_alike_and_taken_once(pos: Terminal, card: Card) -> None:
    sale = pos.make.advise(card, 1000)
    first, *copies = pos.pipeline([sale] * 6)
    assert_accepted(first)
    assert {copy.tx for copy in copies} == {first.tx}
    assert available(pos, card) == 9000


def test_copies_over_several_lines_are_taken_once(switch: Demo, card: Card) -> None:
    entry = switch.pos_entries[2]
    tills = [switch.pos(entry) for _ in range(6)]
    try:
        sale = tills[0].make.advise(card, 1000)
        for till in tills:
            till.send(sale)
        first, *copies = [till.receive(sale) for till in tills]
        assert_accepted(first)
        assert all(copy.same_answer() == first.same_answer() for copy in copies)
        assert available(tills[0], card) == 9000
    finally:
        for till in tills:
            till.close()


def test_stored_advices_are_each_taken_once_in_any_order(pos: Terminal, cards: Cards) -> None:
    for number, order in enumerate(itertools.permutations(range(3))):
        card = cards.active()
        sales = [pos.make.advise(card, amount_minor) for amount_minor in (100, 200, 300)]
        sent = [sales[place] for place in order]
        # As a till sends its store: each until it is answered, some of them twice.
        replies = pos.pipeline(sent) + pos.pipeline([pos.make.repeat(sent[number % 3])])
        assert {reply.code for reply in replies} == {"00"}
        assert available(pos, card) == 10000 - 600


def test_an_advice_with_the_same_key_but_another_amount_is_refused(
    pos: Terminal, card: Card
) -> None:
    told = pos.advise(card, 1000)
    assert pos.repeat(told, de4="000000001001").code == "94"
    assert available(pos, card) == 9000


def test_an_advice_is_found_behind_many_later_transactions(pos: Terminal, card: Card) -> None:
    told = pos.advise(card, 1000)
    later = pos.pipeline([pos.make.redeem(card, 1) for _ in range(40)])
    assert {reply.code for reply in later} == {"00"}
    assert pos.repeat(told).same_answer() == told.same_answer()
    assert available(pos, card) == 8960


# -- after its own request ----------------------------------------------------------------


@pytest.mark.parametrize("later", [0, 30])
def test_an_advice_after_its_approved_request_has_no_second_effect(
    switch: Demo, pos: Terminal, card: Card, later: int
) -> None:
    sale = pos.redeem(card, 1250)
    assert sale.code == "00"
    assert all(reply.approved for reply in pos.pipeline([pos.make.redeem(card, 1)] * later))
    left = available(pos, card)
    told = pos.advise_instead(sale)
    assert_accepted(told)
    assert postings(switch, told) == []
    assert pos.repeat(told).same_answer() == told.same_answer()
    assert available(pos, card) == left


def test_an_advice_after_its_partly_approved_request_has_no_second_effect(
    pos: Terminal, card: Card
) -> None:
    assert pos.redeem(card, 7000).code == "00"
    sale = pos.redeem(card, 4000, PA="1")
    assert sale.code == "10"
    assert pos.load(card, 1000).code == "00"
    assert_accepted(pos.advise_instead(sale, de4=sale.fields[4]))
    assert available(pos, card) == 1000


def test_an_advice_after_its_declined_request_is_decided_anew(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    assert pos.redeem(card, 9000).code == "00"
    declined = pos.redeem(card, 4000)
    assert declined.code == "51"
    assert pos.load(card, 5000).code == "00"
    told = pos.advise_instead(declined)
    assert_accepted(told)
    assert not told.why
    assert available(pos, card) == 2000
    assert booked_on(switch, told, "merchant") == {f"merchant:{pos.identity.merchant}": 4000}
    # The request itself stays declined.
    assert pos.repeat(declined).same_answer() == declined.same_answer()
    assert available(pos, card) == 2000


def test_an_advice_after_its_request_at_another_time_is_a_sale_of_its_own(
    pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 1250)
    second = f"{(int(sale.fields[12][4:]) + 1) % 60:02d}"
    assert_accepted(pos.advise_instead(sale, de12=sale.fields[12][:4] + second))
    assert available(pos, card) == 7500


def test_an_advice_whose_request_was_barred_goes_to_suspense(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    sale = pos.make.redeem(card, 1250)
    assert_undone(pos.reverse(sale), "NOTHING")
    told = pos.advise_instead(sale)
    assert_in_suspense(switch, pos, told, 1250)
    assert available(pos, card) == 10000
