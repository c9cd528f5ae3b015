"""Advices that no card can take, or not wholly: suspense, shortfall, and their reversals."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.client.books import assert_in_suspense, balance_changes, booked_on, link_count, postings
from tests.client.checks import assert_accepted, assert_shape, assert_undone, available, funds
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, HoldName
from tests.client.terminal import Terminal

UNKNOWN_PAN = "9" * 19

# -- into suspense ------------------------------------------------------------------------


def test_an_advice_in_suspense_is_booked_once_under_its_own_key(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    over = pos.advise(card, 6000)
    assert_in_suspense(switch, pos, over, 6000)
    again = pos.repeat(over)
    assert again.same_answer() == over.same_answer()
    assert link_count(switch, over) == 1
    assert len(postings(switch, over)) == 1
    assert pos.advise(card, 6000).tx != over.tx
    assert available(pos, card) == 10000


def test_an_advice_on_a_blocked_card_goes_to_suspense(
    switch: Demo, pos: Terminal, network: Terminal, card: Card
) -> None:
    assert network.block(card).code == "00"
    told = pos.advise(card, 1000)
    assert_in_suspense(switch, pos, told, 1000)
    assert network.unblock(card).code == "00"
    assert pos.repeat(told).same_answer() == told.same_answer()
    assert available(pos, card) == 10000


def test_an_advice_on_a_card_not_active_goes_to_suspense(
    switch: Demo, pos: Terminal, issued: Card
) -> None:
    assert_in_suspense(switch, pos, pos.advise(issued, 1000), 1000)
    assert pos.activate(issued, 2000).available_minor == 2000


@pytest.mark.parametrize("status", ["lost", "stolen", "expired"])
def test_an_advice_on_a_card_out_of_use_goes_to_suspense(
    switch: Demo, pos: Terminal, cards: Cards, status: str
) -> None:
    assert_in_suspense(switch, pos, pos.advise(cards.special(status), 1000), 1000)


def test_an_advice_on_an_unknown_card_goes_to_its_merchants_suspense(
    switch: Demo, pos: Terminal, elsewhere: Terminal, card: Card
) -> None:
    for till in (pos, elsewhere):
        told = till.advise(card, 1000, de2=UNKNOWN_PAN)
        assert_in_suspense(switch, till, told, 1000)
        assert till.repeat(told).same_answer() == told.same_answer()
        assert link_count(switch, told) == 1
    assert available(pos, card) == 10000


def test_advices_on_two_unknown_cards_of_the_same_numbers_are_two(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    # The card is part of a transaction's key.
    first = pos.advise(card, 1000, de2=UNKNOWN_PAN)
    same = {f"de{number}": first.fields[number] for number in (11, 12, 13)}
    second = pos.advise(card, 1000, de2="8" * 19, **same)
    assert_in_suspense(switch, pos, second, 1000)
    assert second.tx != first.tx


@pytest.mark.parametrize(
    "processing", ["210060", "200060", "616000", "900060", "406060", "316000", "920060", "006100"]
)
def test_an_advice_of_anything_but_a_redemption_goes_to_suspense(
    switch: Demo, pos: Terminal, card: Card, processing: str
) -> None:
    told = pos.advise(card, 1000, de3=processing)
    assert_in_suspense(switch, pos, told, 1000)
    assert funds(pos, card) == (10000, 0)


def test_an_advice_in_a_foreign_currency_goes_to_suspense(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    told = pos.advise(card, 1000, de49="840")
    assert_in_suspense(switch, pos, told, 1000)
    assert available(pos, card) == 10000


def test_what_is_in_suspense_stands_there_in_its_own_currency(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    told = pos.advise(card, 1000, de49="840")
    assert {row["currency"] for row in postings(switch, told)} == {"840"}


@pytest.mark.parametrize("change", [{"de3": "210060"}, {"de49": "840"}])
def test_a_completion_of_another_kind_or_currency_takes_no_hold(
    switch: Demo, pos: Terminal, card: Card, change: dict[str, str]
) -> None:
    hold = pos.hold(card, 3000)
    assert_in_suspense(switch, pos, pos.complete(hold, 1000, **change), 1000)
    assert funds(pos, card) == (7000, 3000)
    assert_accepted(pos.complete(hold, 3000))
    assert funds(pos, card) == (7000, 0)


def test_an_advice_older_than_the_horizon_is_accepted_into_suspense(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    told = pos.advise(card, 1000, at=pos.make.local_time() - timedelta(days=90))
    assert_in_suspense(switch, pos, told, 1000)
    assert available(pos, card) == 10000


@pytest.mark.parametrize("ahead", [timedelta(hours=40), timedelta(days=100)])
def test_no_clock_refuses_an_advice(pos: Terminal, card: Card, ahead: timedelta) -> None:
    told = pos.advise(card, 1000, at=pos.make.local_time() + ahead)
    # Posted or in suspense: the page gives advices an age, but no future.
    assert_accepted(told)
    assert available(pos, card) == (10000 if told.why else 9000)


# -- lack of value ------------------------------------------------------------------------


def test_what_the_card_lacks_is_the_merchants_shortfall_and_freezes_the_card(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    assert pos.redeem(card, 9000).code == "00"
    told = pos.advise(card, 4000)
    assert_accepted(told)
    merchant = pos.identity.merchant
    assert booked_on(switch, told, "shortfall") == {f"shortfall:{merchant}": 3000}
    assert sum(booked_on(switch, told, "card").values()) == 1000
    assert booked_on(switch, told, "suspense") == {}
    assert balance_changes(switch, told)[-1] == (-1000, 0)
    frozen = pos.redeem(card, 1)
    assert_shape(frozen)
    assert frozen.code == "62"
    assert pos.load(card, 5000).code == "62"
    assert pos.repeat(told).same_answer() == told.same_answer()
    assert all(rest >= 0 for _, rest in balance_changes(switch, told))


def test_an_advice_on_a_card_without_value_is_all_shortfall(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    assert pos.cash_out(card).code == "00"
    told = pos.advise(card, 4000)
    assert_accepted(told)
    assert booked_on(switch, told, "shortfall") == {f"shortfall:{pos.identity.merchant}": 4000}
    assert booked_on(switch, told, "card") == {}
    assert pos.redeem(card, 1).code == "62"


def test_an_advice_on_a_frozen_card_goes_to_suspense(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    assert pos.redeem(card, 9000).code == "00"
    assert_accepted(pos.advise(card, 4000))
    assert_in_suspense(switch, pos, pos.advise(card, 700), 700)


def test_tills_offline_at_the_same_time_take_no_card_below_zero(switch: Demo, card: Card) -> None:
    tills = [switch.pos(entry) for entry in switch.pos_entries[:8]]
    try:
        sales = [till.make.advise(card, 3000) for till in tills]
        for till, sale in zip(tills, sales, strict=True):
            till.send(sale)
        replies = [till.receive(sale) for till, sale in zip(tills, sales, strict=True)]
    finally:
        for till in tills:
            till.close()
    booked: dict[str, int] = {"card": 0, "shortfall": 0, "suspense": 0}
    for reply in replies:
        assert_accepted(reply)
        for kind in booked:
            booked[kind] += sum(booked_on(switch, reply, kind).values())
    # Three are paid, the fourth finds 10.00 and freezes the card, the others wait for people.
    assert booked == {"card": 10000, "shortfall": 2000, "suspense": 4 * 3000}
    assert all(rest >= 0 for _, rest in balance_changes(switch, replies[0]))


# -- reversed -----------------------------------------------------------------------------


@pytest.mark.parametrize("mti", ["0400", "0420", "0421"])
def test_a_reversed_advice_is_as_if_it_had_not_been(
    any_pos: Terminal, card: Card, mti: str
) -> None:
    told = any_pos.advise(card, 1250)
    undone = any_pos.reverse(told, mti=mti)
    assert_undone(undone, "REVERSED")
    assert available(any_pos, card) == 10000
    assert any_pos.repeat(undone).same_answer() == undone.same_answer()
    assert_undone(any_pos.reverse(told, mti=mti), "ALREADY")
    assert available(any_pos, card) == 10000


def test_an_advice_is_reversed_in_part(pos: Terminal, card: Card) -> None:
    told = pos.advise(card, 5000)
    assert_undone(pos.reverse(told, final_minor=3000), "PARTIAL")
    assert available(pos, card) == 7000
    assert_undone(pos.reverse(told, final_minor=3000), "ALREADY")
    assert_undone(pos.reverse(told), "REVERSED")
    assert available(pos, card) == 10000


def test_a_reversal_of_the_request_leaves_the_advice(pos: Terminal, card: Card) -> None:
    # DE 90 tells 0200 and 0220 of one STAN apart.
    told = pos.advise(card, 1250)
    named = "0200" + told.fields[11] + "0" * 32
    assert_undone(pos.reverse(told, de90=named), "NOTHING")
    assert available(pos, card) == 8750
    assert_undone(pos.reverse(told), "REVERSED")
    assert available(pos, card) == 10000


def test_an_advice_reversed_before_it_comes_is_not_taken(pos: Terminal, card: Card) -> None:
    sale = pos.make.advise(card, 1250)
    assert_undone(pos.reverse(sale), "NOTHING")
    late = pos.exchange(sale)
    # Barred: "an original that comes later: 05", and "advices are always accepted ... barred ...
    # to suspense". The page says both; either way the card pays nothing.
    assert_shape(late)
    assert late.code == "05" or (late.code == "00" and late.why)
    assert available(pos, card) == 10000


@pytest.mark.parametrize("advice_first", [True, False])
def test_advice_and_reversal_in_one_write_end_without_effect(
    pos: Terminal, cards: Cards, advice_first: bool
) -> None:
    for _ in range(5):
        card = cards.active()
        sale = pos.make.advise(card, 2000)
        undo = pos.make.reverse(sale, mti="0420")
        pos.send(*((sale, undo) if advice_first else (undo, sale)))
        state = (pos.receive(sale), pos.receive(undo))[1].state
        assert state == ("REVERSED" if advice_first else "NOTHING")
        assert available(pos, card) == 10000


def test_an_advice_in_suspense_is_reversed_there(switch: Demo, pos: Terminal, card: Card) -> None:
    over = pos.advise(card, 6000)
    undone = pos.reverse(over)
    assert_undone(undone, "REVERSED")
    merchant = pos.identity.merchant
    assert booked_on(switch, undone, "suspense") == {f"suspense:{merchant}": 6000}
    (sent,), (back,) = postings(switch, over), postings(switch, undone)
    assert (sent["debit"], sent["credit"]) == (back["credit"], back["debit"])
    assert_undone(pos.reverse(over), "ALREADY")
    assert available(pos, card) == 10000


def test_an_advice_in_suspense_is_reversed_in_part(switch: Demo, pos: Terminal, card: Card) -> None:
    over = pos.advise(card, 6000)
    lowered = pos.reverse(over, final_minor=4000)
    assert_undone(lowered, "PARTIAL")
    assert booked_on(switch, lowered, "suspense") == {f"suspense:{pos.identity.merchant}": 2000}
    assert pos.reverse(over, final_minor=4001).code == "13"
    undone = pos.reverse(over)
    assert_undone(undone, "REVERSED")
    assert booked_on(switch, undone, "suspense") == {f"suspense:{pos.identity.merchant}": 4000}
    assert available(pos, card) == 10000


def test_an_unknown_cards_advice_is_reversed_on_its_merchants_suspense(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    told = pos.advise(card, 1000, de2=UNKNOWN_PAN)
    undone = pos.reverse(told)
    assert_undone(undone, "REVERSED")
    assert booked_on(switch, undone, "suspense") == {f"suspense:{pos.identity.merchant}": 1000}


def test_a_reversed_shortfall_is_taken_back_from_the_merchant_first(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    assert pos.redeem(card, 9000).code == "00"
    told = pos.advise(card, 4000)
    merchant = pos.identity.merchant
    # 40.00 down to 25.00: the card's 10.00 are still needed, the shortfall shrinks.
    lowered = pos.reverse(told, final_minor=2500)
    assert_undone(lowered, "PARTIAL")
    assert booked_on(switch, lowered, "shortfall") == {f"shortfall:{merchant}": 1500}
    assert booked_on(switch, lowered, "card") == {}
    undone = pos.reverse(told)
    assert_undone(undone, "REVERSED")
    assert booked_on(switch, undone, "shortfall") == {f"shortfall:{merchant}": 1500}
    assert balance_changes(switch, undone)[-1] == (1000, 1000)
    # Programme staff thaw a card, nothing else does.
    assert pos.redeem(card, 1).code == "62"


def test_a_reversed_completion_takes_its_excess_out_of_suspense(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    done = pos.complete(pos.hold(card, 3000), 3400, HoldName.ORIGINAL_DATA)
    undone = pos.reverse(done)
    assert_undone(undone, "REVERSED")
    assert booked_on(switch, undone, "suspense") == {f"suspense:{pos.identity.merchant}": 400}
    assert balance_changes(switch, undone)[-1] == (3000, 10000)


def test_an_offline_sale_can_be_returned_to_the_card(pos: Terminal, card: Card) -> None:
    told = pos.advise(card, 4000)
    assert pos.refund(card, 1500, told).available_minor == 7500
    assert pos.refund(card, 2501, told).code == "13"
    assert_undone(pos.reverse(told), "REVERSED")
    assert available(pos, card) == 10000


def test_a_return_gives_no_more_than_the_card_has_paid(pos: Terminal, card: Card) -> None:
    suspended = pos.advise(card, 6000)
    assert pos.refund(card, 1, suspended).code in {"13", "25"}
    excess = pos.complete(pos.hold(card, 3000), 3400)
    assert pos.refund(card, 3400, excess).code == "13"
    assert pos.refund(card, 3000, excess).code == "00"
    assert available(pos, card) == 10000
