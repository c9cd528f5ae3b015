"""Reversals of what was approved, how it is named, and what comes after."""

from __future__ import annotations

import pytest

from tests.client.checks import assert_shape, available
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Entry, Reason, Reply
from tests.client.terminal import Terminal

CHOSEN_BY_PEOPLE = [Reason.CUSTOMER, Reason.MERCHANT]


def assert_undone(reply: Reply, state: str) -> None:
    assert_shape(reply)
    assert (reply.code, reply.state) == ("00", state)


# -- approved, unreversed -----------------------------------------------------------------


@pytest.mark.parametrize("mti", ["0400", "0401", "0420", "0421"])
def test_a_reversed_sale_is_as_if_it_had_not_been(any_pos: Terminal, card: Card, mti: str) -> None:
    sale = any_pos.redeem(card, 5000)
    undone = any_pos.reverse(sale, mti=mti)
    assert undone.mti == ("0410" if mti[2] == "0" else "0430")
    assert_undone(undone, "REVERSED")
    assert available(any_pos, card) == 10000
    assert any_pos.redeem(card, 10000).code == "00"


@pytest.mark.parametrize("reason", list(Reason))
def test_a_sale_can_be_reversed_for_every_reason(pos: Terminal, card: Card, reason: Reason) -> None:
    assert_undone(pos.reverse(pos.redeem(card, 5000), reason), "REVERSED")
    assert available(pos, card) == 10000


@pytest.mark.parametrize("reason", [None, *Reason])
def test_an_unspent_load_can_be_reversed_for_every_reason(
    pos: Terminal, card: Card, reason: Reason | None
) -> None:
    assert_undone(pos.reverse(pos.load(card, 2000), reason), "REVERSED")
    assert available(pos, card) == 10000
    assert pos.redeem(card, 10000).code == "00"


def test_a_reversed_activation_leaves_the_card_not_active(pos: Terminal, issued: Card) -> None:
    activated = pos.activate(issued, 5000)
    assert_undone(pos.reverse(activated), "REVERSED")
    assert pos.redeem(issued, 100).code == "78"
    again = pos.activate(issued, 3000)
    assert (again.code, again.available_minor) == ("00", 3000)


def test_a_reversed_cash_out_gives_the_value_back(pos: Terminal, card: Card) -> None:
    paid = pos.cash_out(card)
    # The request had no DE 4; the reversal names the approved amount.
    assert_undone(pos.reverse(paid, de4=paid.fields[4]), "REVERSED")
    assert available(pos, card) == 10000


def test_a_reversed_return_is_taken_back(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    returned = pos.refund(card, 2000, sale)
    assert_undone(pos.reverse(returned), "REVERSED")
    assert available(pos, card) == 5000
    # What was returned and taken back can be returned again: approved - returned - reversed.
    assert pos.refund(card, 5000, sale).available_minor == 10000


def test_a_partial_reversal_brings_the_sale_down_to_its_final_amount(
    pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 5000)
    assert_undone(pos.reverse(sale, final_minor=3000), "PARTIAL")
    assert available(pos, card) == 7000
    assert_undone(pos.reverse(sale, final_minor=1000), "PARTIAL")
    assert available(pos, card) == 9000


def test_a_final_amount_equal_to_the_present_one_changes_nothing(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    assert_undone(pos.reverse(sale, final_minor=5000), "ALREADY")
    assert_undone(pos.reverse(sale, final_minor=3000), "PARTIAL")
    assert_undone(pos.reverse(sale, final_minor=3000), "ALREADY")
    assert available(pos, card) == 7000


def test_a_final_amount_above_the_present_one_is_invalid(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    above = pos.reverse(sale, final_minor=5001)
    assert_shape(above)
    assert above.code == "13"
    assert pos.reverse(sale, final_minor=3000).state == "PARTIAL"
    # A reversal only ever lowers: once at 30.00, 40.00 is above.
    assert pos.reverse(sale, final_minor=4000).code == "13"
    assert available(pos, card) == 7000


def test_a_final_amount_of_zero_undoes_all(pos: Terminal, card: Card) -> None:
    undone = pos.reverse(pos.redeem(card, 5000), final_minor=0)
    # Named as a partial reversal, of the whole: both states say what happened.
    assert (undone.code, undone.state in {"REVERSED", "PARTIAL"}) == ("00", True)
    assert available(pos, card) == 10000


def test_a_full_reversal_after_a_partial_one_undoes_what_is_left(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    assert_undone(pos.reverse(sale, final_minor=3000), "PARTIAL")
    assert_undone(pos.reverse(sale), "REVERSED")
    assert available(pos, card) == 10000


def test_a_reversal_after_a_return_undoes_what_is_left(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    assert pos.refund(card, 2000, sale).code == "00"
    assert_undone(pos.reverse(sale), "REVERSED")
    assert available(pos, card) == 10000
    assert pos.refund(card, 1, sale).code == "13"


def test_a_return_after_a_partial_reversal_is_bounded_by_what_is_left(
    pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 5000)
    assert pos.reverse(sale, final_minor=3000).state == "PARTIAL"
    assert pos.refund(card, 3001, sale).code == "13"
    assert pos.refund(card, 3000, sale).available_minor == 10000


def test_a_sale_returned_in_full_has_nothing_left_to_reverse(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    assert pos.refund(card, 5000, sale).code == "00"
    undone = pos.reverse(sale)
    # Unreversed, but nothing is left: which state that is the page leaves open; money moves not.
    assert undone.code == "00"
    assert undone.state in {"REVERSED", "ALREADY", "NOTHING"}
    assert available(pos, card) == 10000


def test_a_partially_approved_sale_is_reversed_by_either_amount(
    pos: Terminal, cards: Cards
) -> None:
    for named in ("requested", "approved"):
        card = cards.active()
        sale = pos.redeem(card, 15000, PA="1")
        assert sale.code == "10"
        amount = "000000015000" if named == "requested" else sale.fields[4]
        assert_undone(pos.reverse(sale, de4=amount), "REVERSED")
        assert available(pos, card) == 10000


def test_a_full_reversal_of_another_amount_is_invalid_and_without_effect(
    pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 5000)
    for amount in ("000000004999", "000000005001"):
        refused = pos.reverse(sale, de4=amount)
        assert_shape(refused)
        assert refused.code == "13"
    assert available(pos, card) == 5000
    assert_undone(pos.reverse(sale), "REVERSED")


# -- how the original is named ------------------------------------------------------------


def test_a_reversal_without_original_data_names_its_own_stan(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    assert_undone(pos.reverse(sale, de90=None, de11=sale.fields[11]), "REVERSED")
    assert available(pos, card) == 10000


def test_only_mti_and_stan_of_the_original_data_count(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    named = "0200" + sale.fields[11] + "9" * 32
    assert_undone(pos.reverse(sale, de90=named), "REVERSED")


def test_an_original_sent_as_a_repeat_is_the_same_original(pos: Terminal, card: Card) -> None:
    # The key holds class and function of the message, not its origin digit.
    sale = pos.redeem(card, 5000)
    named = "0201" + sale.fields[11] + "0" * 32
    assert_undone(pos.reverse(sale, de90=named), "REVERSED")


def test_a_reversal_may_name_the_card_by_its_track(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    assert_undone(pos.reverse(sale, de2=None, de35=card.track2), "REVERSED")
    assert available(pos, card) == 10000


@pytest.mark.parametrize("entry", [Entry.KEYED, Entry.ONLINE])
def test_a_reversal_needs_neither_code_nor_pin(pos: Terminal, card: Card, entry: Entry) -> None:
    sale = pos.redeem(card, 5000, de22=str(entry), CV=card.cv)
    assert sale.code == "00"
    assert_undone(pos.reverse(sale, de22=str(entry)), "REVERSED")


def test_another_terminals_reversal_finds_no_original(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 5000)
    others = [entry for entry in switch.pos_entries if entry["id"] != pos.identity.terminal]
    with switch.pos(others[0]) as till:
        named = {"de41": till.identity.terminal, "de42": till.identity.merchant}
        assert_undone(till.reverse(sale, **named), "NOTHING")
    assert available(pos, card) == 5000
    assert_undone(pos.reverse(sale), "REVERSED")


# -- reversed before, and repeats ---------------------------------------------------------


def test_a_second_reversal_finds_it_done_already(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 5000)
    assert_undone(pos.reverse(sale), "REVERSED")
    for mti in ("0400", "0401", "0420", "0421"):
        assert_undone(pos.reverse(sale, mti=mti), "ALREADY")
    assert available(pos, card) == 10000


@pytest.mark.parametrize("mti", ["0400", "0420"])
@pytest.mark.parametrize("flagged", [True, False])
def test_a_reversals_own_repeat_gets_its_first_answer(
    pos: Terminal, card: Card, mti: str, flagged: bool
) -> None:
    sale = pos.redeem(card, 5000)
    first = pos.reverse(sale, mti=mti)
    assert_undone(first, "REVERSED")
    for _ in range(2):
        again = pos.repeat(first, flagged=flagged)
        assert again.same_answer() == first.same_answer()
    assert available(pos, card) == 10000


def test_a_partial_reversals_own_repeat_gets_its_first_answer(pos: Terminal, card: Card) -> None:
    first = pos.reverse(pos.redeem(card, 5000), final_minor=3000)
    again = pos.repeat(first)
    assert again.same_answer() == first.same_answer()
    assert again.state == "PARTIAL"
    assert available(pos, card) == 7000


def test_a_reversal_with_the_same_key_but_another_final_amount_is_refused(
    pos: Terminal, card: Card
) -> None:
    first = pos.reverse(pos.redeem(card, 5000), final_minor=3000)
    final = f"{2000:012d}{0:012d}" + "C00000000" * 2
    assert pos.repeat(first, de95=final).code == "94"
    assert available(pos, card) == 7000
