"""Load, redeem, return, cash out, balance: amounts in, amounts out."""

from __future__ import annotations

import pytest

from tests.client.checks import assert_shape, available, purse
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Processing
from tests.client.terminal import Terminal


def test_a_redemption_takes_its_amount_and_tells_the_rest(any_pos: Terminal, card: Card) -> None:
    sale = any_pos.redeem(card, 1250)
    assert_shape(sale)
    assert sale.code == "00"
    assert sale.amount_minor == 1250
    assert (purse(sale).ledger_minor, purse(sale).available_minor) == (8750, 8750)
    assert available(any_pos, card) == 8750


def test_additional_amounts_are_ledger_and_available_of_the_purse_in_twenty_characters_each(
    pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 1250)
    items = {sale.fields[54][start : start + 20] for start in (0, 20)}
    assert len(sale.fields[54]) == 40
    assert items == {"6001978C000000008750", "6002978C000000008750"}


def test_all_of_a_card_can_be_spent_but_not_one_cent_more(pos: Terminal, card: Card) -> None:
    assert pos.redeem(card, 10001).code == "51"
    assert pos.redeem(card, 10000).available_minor == 0
    refused = pos.redeem(card, 1)
    assert_shape(refused)
    assert refused.code == "51"
    assert refused.amount_minor == 1


def test_a_partial_approval_needs_the_terminals_word(pos: Terminal, cards: Cards) -> None:
    card, other = cards.active(), cards.active()
    assert pos.redeem(card, 15000).code == "51"
    assert pos.redeem(card, 15000, PA="0").code == "51"
    partial = pos.redeem(other, 15000, PA="1")
    assert_shape(partial)
    assert partial.code == "10"
    assert partial.amount_minor == 10000
    assert int(partial.private["RQ"]) == 15000
    assert partial.available_minor == 0
    assert pos.redeem(other, 1, PA="1").code == "51"


def test_a_load_adds_its_amount(any_pos: Terminal, card: Card) -> None:
    loaded = any_pos.load(card, 2000)
    assert_shape(loaded)
    assert loaded.code == "00"
    assert loaded.available_minor == 12000
    assert any_pos.redeem(card, 12000).available_minor == 0


@pytest.mark.parametrize("processing", [Processing.BALANCE, Processing.BALANCE_OTHER])
def test_a_balance_enquiry_reads_the_card_and_changes_nothing(
    any_pos: Terminal, card: Card, processing: Processing
) -> None:
    for _ in range(2):
        reply = any_pos.balance(card, processing)
        assert_shape(reply)
        assert reply.code == "00"
        assert (purse(reply).ledger_minor, purse(reply).available_minor) == (10000, 10000)
    assert any_pos.redeem(card, 10000).code == "00"


def test_a_balance_enquiry_is_not_kept_as_a_repeat(pos: Terminal, card: Card) -> None:
    first = pos.balance(card)
    assert pos.load(card, 500).code == "00"
    again = pos.repeat(first)
    assert again.mti == "0110"
    assert again.available_minor == 10500


def test_an_enquiry_sees_what_was_answered_before_it(switch: Demo, card: Card) -> None:
    with switch.pos(switch.pos_entries[2]) as till, switch.pos(switch.pos_entries[3]) as desk:
        left = 10000
        for amount_minor in (1, 20, 300, 4000):
            left -= amount_minor
            assert till.redeem(card, amount_minor).available_minor == left
            assert available(desk, card) == left


def test_a_return_goes_back_to_the_card_up_to_what_was_sold(any_pos: Terminal, card: Card) -> None:
    sale = any_pos.redeem(card, 5000)
    returned = any_pos.refund(card, 2000, sale)
    assert_shape(returned)
    assert (returned.code, returned.amount_minor, returned.available_minor) == ("00", 2000, 7000)
    too_much = any_pos.refund(card, 3001, sale)
    assert_shape(too_much)
    assert too_much.code == "13"
    assert any_pos.refund(card, 3000, sale).available_minor == 10000
    assert any_pos.refund(card, 1, sale).code == "13"
    assert available(any_pos, card) == 10000


def test_a_return_after_a_partial_approval_is_bounded_by_what_was_approved(
    pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 15000, PA="1")
    assert sale.code == "10"
    assert pos.refund(card, 10001, sale).code == "13"
    assert pos.refund(card, 10000, sale).available_minor == 10000


def test_a_return_without_its_sale_is_not_for_these_terminals(pos: Terminal, card: Card) -> None:
    assert pos.redeem(card, 5000).code == "00"
    refused = pos.refund(card, 1000)
    assert_shape(refused)
    assert refused.code == "58"
    assert available(pos, card) == 5000


def test_a_return_to_an_unknown_sale_finds_no_original(pos: Terminal, card: Card) -> None:
    refused = pos.refund(card, 1000, OR="ZZZZZZZZZZZZ")
    assert_shape(refused)
    assert refused.code == "25"


def test_a_return_cannot_name_what_was_no_sale(pos: Terminal, card: Card) -> None:
    loaded = pos.load(card, 1000)
    # 25 (no such sale) and 13 (nothing restorable) are both fair; money is not.
    assert pos.refund(card, 1000, loaded).code in {"13", "25"}
    assert available(pos, card) == 11000


def test_a_return_cannot_move_a_sale_to_another_card(pos: Terminal, cards: Cards) -> None:
    card, other = cards.active(), cards.active()
    sale = pos.redeem(card, 1000)
    # "Back to its very lots": the lots are on the first card, so on this one there is no original.
    assert not pos.refund(other, 1000, sale).approved
    assert (available(pos, card), available(pos, other)) == (9000, 10000)


@pytest.mark.parametrize("amount", [None, "000000000000"])
def test_a_cash_out_pays_all_and_the_card_stays_active(
    any_pos: Terminal, card: Card, amount: str | None
) -> None:
    assert any_pos.redeem(card, 1234).code == "00"
    paid = any_pos.cash_out(card, de4=amount)
    assert_shape(paid)
    assert paid.code == "00"
    assert paid.amount_minor == 8766
    assert paid.available_minor == 0
    assert any_pos.redeem(card, 1).code == "51"
    assert any_pos.load(card, 700).available_minor == 700
    assert any_pos.redeem(card, 700).available_minor == 0


def test_value_loaded_is_cashable(pos: Terminal, issued: Card) -> None:
    assert pos.activate(issued, 1000).code == "00"
    assert pos.load(issued, 500).code == "00"
    assert pos.cash_out(issued).amount_minor == 1500


@pytest.mark.parametrize(("account", "currency"), [("80", "978"), ("90", "999")])
def test_food_vouchers_and_points_are_purses_of_their_own(
    pos: Terminal, card: Card, account: str, currency: str
) -> None:
    loaded = pos.load(card, 3000, de3=f"2100{account}", de49=currency)
    assert_shape(loaded)
    assert loaded.code == "00"
    assert set(loaded.purses) == {account}
    assert purse(loaded, account).available_minor == 3000
    spent = pos.redeem(card, 1000, de3=f"00{account}00", de49=currency)
    assert_shape(spent)
    assert purse(spent, account).available_minor == 2000
    assert pos.redeem(card, 2001, de3=f"00{account}00", de49=currency).code == "51"
    one = pos.exchange(pos.make.balance(card, de3=f"31{account}00", de49=currency))
    assert purse(one, account).available_minor == 2000
    every = pos.balance(card, Processing.BALANCE_ALL)
    assert every.code == "00"
    assert purse(every, account).available_minor == 2000
    assert purse(every, "60").available_minor == 10000


def test_amounts_of_zero_are_invalid(pos: Terminal, card: Card) -> None:
    for refused in (pos.redeem(card, 0), pos.load(card, 0)):
        assert_shape(refused)
        assert refused.code == "13"
    assert available(pos, card) == 10000


def test_the_largest_amount_a_field_can_hold_is_just_too_much(pos: Terminal, card: Card) -> None:
    assert pos.redeem(card, 999_999_999_999).code == "51"
    assert available(pos, card) == 10000


def test_sixteen_tills_race_for_one_purchase_and_one_wins(switch: Demo, card: Card) -> None:
    tills = [switch.pos(entry) for entry in switch.pos_entries]
    try:
        requests = [till.make.redeem(card, 10000) for till in tills]
        for till, request in zip(tills, requests, strict=True):
            till.send(request)
        replies = [till.receive(request) for till, request in zip(tills, requests, strict=True)]
        assert sorted(reply.code for reply in replies) == ["00"] + ["51"] * (len(tills) - 1)
        assert available(tills[0], card) == 0
    finally:
        for till in tills:
            till.close()


def test_a_hot_card_is_spent_to_the_last_cent_and_no_further(switch: Demo, card: Card) -> None:
    tills = [switch.pos(entry) for entry in switch.pos_entries]
    try:
        rounds = [[till.make.redeem(card, 300) for _ in range(4)] for till in tills]
        for till, requests in zip(tills, rounds, strict=True):
            till.send(*requests)
        replies = [
            till.receive(request)
            for till, requests in zip(tills, rounds, strict=True)
            for request in requests
        ]
        approved = [reply for reply in replies if reply.code == "00"]
        assert len(approved) == 10000 // 300
        assert {reply.code for reply in replies} == {"00", "51"}
        # Each approval saw another state of the card: none was decided twice.
        assert sorted(reply.available_minor for reply in approved) == list(range(100, 10000, 300))
        assert available(tills[0], card) == 100
    finally:
        for till in tills:
            till.close()
