"""Reversals of what is unknown, declined, spent meanwhile, or too old."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.client.checks import assert_shape, available
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Reason, Reply
from tests.client.terminal import Terminal

ALARM = "cardswitch_reversals_elsewhere_total"
CHOSEN_BY_PEOPLE = [Reason.CUSTOMER, Reason.MERCHANT]


def assert_undone(reply: Reply, state: str) -> None:
    assert_shape(reply)
    assert (reply.code, reply.state) == ("00", state)


# -- unknown ------------------------------------------------------------------------------


@pytest.mark.parametrize("mti", ["0400", "0420"])
def test_a_reversal_before_its_original_bars_it(pos: Terminal, card: Card, mti: str) -> None:
    sale = pos.make.redeem(card, 5000)
    first = pos.reverse(sale, mti=mti)
    assert_undone(first, "NOTHING")
    late = pos.exchange(sale)
    assert_shape(late)
    assert late.code == "05"
    assert pos.repeat(sale).code == "05"
    assert pos.repeat(first).same_answer() == first.same_answer()
    assert available(pos, card) == 10000
    # Another reversal of it: nothing to undo, or barred before; 00 either way.
    assert pos.reverse(sale).state in {"NOTHING", "ALREADY"}


def test_a_barred_original_bars_no_other_sale(pos: Terminal, card: Card) -> None:
    sale = pos.make.redeem(card, 5000)
    assert_undone(pos.reverse(sale), "NOTHING")
    assert pos.redeem(card, 5000).available_minor == 5000


def test_a_reversal_under_another_card_is_refused_bars_nothing_and_is_an_alarm(
    switch: Demo, pos: Terminal, cards: Cards
) -> None:
    card, other = cards.active(), cards.active()
    sale = pos.redeem(card, 5000)
    before = sum(switch.metrics(ALARM))
    refused = pos.reverse(sale, de2=other.pan)
    assert_shape(refused)
    assert (refused.code, refused.why) == ("94", "OTHERCARD")
    assert sum(switch.metrics(ALARM)) == before + 1
    told = [line for line in switch.log.read_text().splitlines() if "names-another-card" in line]
    assert pos.identity.terminal in told[-1]
    assert not any(one.pan in "".join(told) for one in (card, other))
    assert (available(pos, card), available(pos, other)) == (5000, 10000)
    # Nothing barred: the same numbers on that other card are a sale of its own.
    same = {f"de{number}": sale.fields[number] for number in (11, 12, 13)}
    assert pos.redeem(other, 5000, **same).available_minor == 5000
    assert_undone(pos.reverse(sale), "REVERSED")
    assert (available(pos, card), available(pos, other)) == (10000, 5000)


@pytest.mark.parametrize("original_first", [True, False])
def test_original_and_reversal_in_one_write_end_without_effect(
    pos: Terminal, cards: Cards, original_first: bool
) -> None:
    for _ in range(5):
        card = cards.active()
        sale = pos.make.redeem(card, 5000)
        undo = pos.make.reverse(sale)
        pos.send(*((sale, undo) if original_first else (undo, sale)))
        answers = (pos.receive(sale).code, pos.receive(undo).state)
        # One connection, one card: decided in order of arrival.
        assert answers == (("00", "REVERSED") if original_first else ("05", "NOTHING"))
        assert available(pos, card) == 10000


def test_original_and_reversal_over_two_lines_end_without_effect_in_any_order(
    switch: Demo, cards: Cards
) -> None:
    entry = switch.pos_entries[5]
    with switch.pos(entry) as one, switch.pos(entry) as two:
        for turn in range(10):
            card = cards.active()
            sale = one.make.redeem(card, 5000)
            undo = one.make.reverse(sale)
            if turn % 2:
                two.send(undo)
                one.send(sale)
            else:
                one.send(sale)
                two.send(undo)
            answers = (one.receive(sale).code, two.receive(undo).state)
            assert answers in {("00", "REVERSED"), ("05", "NOTHING")}
            assert available(one, card) == 10000


# -- declined, and enquiries --------------------------------------------------------------


def test_a_declined_original_leaves_nothing_to_reverse_and_stays_declined(
    pos: Terminal, card: Card
) -> None:
    declined = pos.redeem(card, 15000)
    assert declined.code == "51"
    assert_undone(pos.reverse(declined), "NOTHING")
    # Nothing was barred: the repeat is told what it was told before.
    assert pos.repeat(declined).same_answer() == declined.same_answer()
    assert available(pos, card) == 10000


def test_an_enquiry_has_nothing_to_reverse(pos: Terminal, card: Card) -> None:
    assert_undone(pos.reverse(pos.balance(card)), "NOTHING")
    assert available(pos, card) == 10000


# -- spent meanwhile ----------------------------------------------------------------------


@pytest.mark.parametrize("reason", [None, Reason.TIME_OUT])
def test_a_spent_load_reversed_for_time_out_takes_what_is_there_and_freezes_the_card(
    pos: Terminal, card: Card, reason: Reason | None
) -> None:
    loaded = pos.load(card, 2000)
    assert pos.redeem(card, 11500).available_minor == 500
    first = pos.reverse(loaded, reason)
    assert_undone(first, "PARTIAL")
    frozen = pos.redeem(card, 1)
    assert_shape(frozen)
    assert frozen.code == "62"
    assert pos.repeat(first).same_answer() == first.same_answer()


def test_a_spent_activation_reversed_for_time_out_takes_what_is_there_and_freezes_the_card(
    pos: Terminal, issued: Card
) -> None:
    activated = pos.activate(issued, 5000)
    assert pos.redeem(issued, 3000).code == "00"
    assert_undone(pos.reverse(activated), "PARTIAL")
    assert pos.redeem(issued, 1).code == "62"


@pytest.mark.parametrize("reason", CHOSEN_BY_PEOPLE)
def test_a_spent_load_cannot_be_reversed_by_customer_or_merchant(
    pos: Terminal, card: Card, reason: Reason
) -> None:
    loaded = pos.load(card, 2000)
    assert pos.redeem(card, 11500).available_minor == 500
    refused = pos.reverse(loaded, reason)
    assert_shape(refused)
    assert (refused.code, refused.why) == ("05", "SPENT")
    assert available(pos, card) == 500
    assert pos.redeem(card, 500).code == "00"


@pytest.mark.parametrize("reason", CHOSEN_BY_PEOPLE)
def test_a_spent_activation_cannot_be_reversed_by_customer_or_merchant(
    pos: Terminal, issued: Card, reason: Reason
) -> None:
    activated = pos.activate(issued, 5000)
    assert pos.redeem(issued, 3000).code == "00"
    refused = pos.reverse(activated, reason)
    assert (refused.code, refused.why) == ("05", "SPENT")
    assert pos.redeem(issued, 2000).available_minor == 0


def test_a_load_is_not_spent_while_older_value_covers_the_sale(pos: Terminal, card: Card) -> None:
    # The oldest lot is spent first: 90.00 of the first 100.00, none of the load.
    loaded = pos.load(card, 2000)
    assert pos.redeem(card, 9000).code == "00"
    assert_undone(pos.reverse(loaded, Reason.CUSTOMER), "REVERSED")
    assert available(pos, card) == 1000


# -- too late -----------------------------------------------------------------------------


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reversal_older_than_the_horizon_is_refused_as_late(
    pos: Terminal, card: Card, reason: Reason
) -> None:
    long_ago = pos.make.local_time() - timedelta(days=90)
    sale = pos.make.redeem(card, 5000, at=long_ago)
    refused = pos.reverse(sale, reason)
    assert_shape(refused)
    assert refused.code == "05"
    # LATE is the state of the reversal or the rule that spoke: the page names no tag.
    assert "LATE" in {refused.state, refused.why}
    assert available(pos, card) == 10000
