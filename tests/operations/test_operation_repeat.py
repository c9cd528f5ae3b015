"""Repeats: the same key and content gets the first answer again, once and for all."""

from __future__ import annotations

import pytest

from tests.client.checks import assert_shape, available
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Reply, Seal
from tests.client.terminal import Terminal


def assert_first_answer(again: Reply, first: Reply) -> None:
    assert_shape(again)
    assert again.same_answer() == first.same_answer()


@pytest.mark.parametrize("flagged", [True, False])
def test_a_repeated_redemption_gets_the_first_answer_and_takes_nothing(
    any_pos: Terminal, card: Card, flagged: bool
) -> None:
    first = any_pos.redeem(card, 1250)
    assert first.code == "00"
    for _ in range(3):
        assert_first_answer(any_pos.repeat(first, flagged=flagged), first)
    assert available(any_pos, card) == 8750


@pytest.mark.parametrize("verb", ["activate", "load", "cash_out", "refund", "unlock"])
def test_every_operation_is_done_once_however_often_it_is_sent(
    pos: Terminal, cards: Cards, verb: str
) -> None:
    card = cards.issued() if verb in {"activate", "unlock"} else cards.active()
    if verb == "activate":
        first = pos.activate(card, 5000)
    elif verb == "unlock":
        first = pos.unlock(card)
    elif verb == "load":
        first = pos.load(card, 2000)
    elif verb == "cash_out":
        first = pos.cash_out(card)
    else:
        first = pos.refund(card, 1000, pos.redeem(card, 1000))
    assert first.code == "00"
    assert_first_answer(pos.repeat(first), first)
    assert_first_answer(pos.repeat(first, flagged=False), first)
    if verb != "unlock":
        assert available(pos, card) == first.available_minor


def test_the_very_same_bytes_again_are_a_repeat(pos: Terminal, card: Card) -> None:
    first = pos.redeem(card, 1250)
    assert first.request is not None
    assert_first_answer(pos.exchange(first.request), first)
    assert available(pos, card) == 8750


def test_a_partial_approval_is_repeated_with_its_approved_amount(pos: Terminal, card: Card) -> None:
    first = pos.redeem(card, 15000, PA="1")
    assert first.code == "10"
    assert pos.load(card, 10000).code == "00"
    assert_first_answer(pos.repeat(first), first)
    assert available(pos, card) == 10000


def test_the_first_answer_keeps_its_balance_though_the_card_has_moved_on(
    pos: Terminal, card: Card
) -> None:
    first = pos.redeem(card, 1000)
    assert pos.redeem(card, 2000).code == "00"
    assert_first_answer(pos.repeat(first), first)
    assert available(pos, card) == 7000


@pytest.mark.parametrize("flagged", [True, False])
def test_a_declined_request_stays_declined_after_a_top_up(
    pos: Terminal, card: Card, flagged: bool
) -> None:
    first = pos.redeem(card, 15000)
    assert first.code == "51"
    assert pos.load(card, 10000).code == "00"
    assert_first_answer(pos.repeat(first, flagged=flagged), first)
    assert pos.redeem(card, 15000).code == "00"


def test_a_repeat_that_comes_first_is_decided_like_a_request(pos: Terminal, card: Card) -> None:
    sale = pos.make.redeem(card, 1250)
    first = pos.repeat(sale)
    assert (first.code, first.available_minor) == ("00", 8750)
    assert_first_answer(pos.exchange(sale), first)


def test_a_repeat_of_a_reversed_sale_is_told_so(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 1250)
    assert pos.reverse(sale).state == "REVERSED"
    for flagged in (True, False):
        again = pos.repeat(sale, flagged=flagged)
        assert (again.code, again.state) == ("05", "REVERSED")
    assert available(pos, card) == 10000


def test_the_same_key_with_another_amount_is_refused(pos: Terminal, card: Card) -> None:
    first = pos.redeem(card, 1250)
    other = pos.repeat(first, flagged=False, de4="000000001251")
    assert other.code == "94"
    assert pos.repeat(first, de4="000000001249").code == "94"
    assert_first_answer(pos.repeat(first), first)
    assert available(pos, card) == 8750


def test_the_same_key_with_another_named_sale_is_refused(pos: Terminal, card: Card) -> None:
    sales = [pos.redeem(card, 1000), pos.redeem(card, 1000)]
    first = pos.refund(card, 500, sales[0])
    assert first.code == "00"
    assert pos.repeat(first, OR=sales[1].tx).code == "94"
    assert available(pos, card) == 8500


def test_what_is_not_content_may_differ_in_a_repeat(pos: Terminal, card: Card) -> None:
    first = pos.redeem(card, 1250, CS="7")
    assert_first_answer(pos.repeat(first, CS="8", TD="X1", de22="021"), first)
    assert available(pos, card) == 8750


def test_another_card_stan_time_or_operation_is_another_transaction(
    pos: Terminal, cards: Cards
) -> None:
    card, other = cards.active(), cards.active()
    first = pos.redeem(card, 1000)
    assert first.request is not None
    same = {f"de{number}": first.fields[number] for number in (11, 12, 13)}
    assert pos.redeem(other, 1000, **same).available_minor == 9000
    assert pos.load(card, 1000, **same).available_minor == 10000
    second = f"{(int(first.fields[12][4:]) + 1) % 60:02d}"
    later = {**same, "de12": first.fields[12][:4] + second}
    assert pos.redeem(card, 1000, **later).available_minor == 9000
    assert pos.redeem(card, 1000, de12=same["de12"], de13=same["de13"]).available_minor == 8000


def test_another_terminal_with_the_same_numbers_is_another_transaction(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    first = pos.redeem(card, 1000)
    same = {f"de{number}": first.fields[number] for number in (11, 12, 13)}
    others = [entry for entry in switch.pos_entries if entry["id"] != pos.identity.terminal]
    with switch.pos(others[0]) as till:
        assert till.redeem(card, 1000, **same).available_minor == 8000


def test_copies_in_one_write_are_answered_alike_and_done_once(pos: Terminal, card: Card) -> None:
    sale = pos.make.redeem(card, 1000)
    first, *copies = pos.pipeline([sale] * 6)
    assert first.code == "00"
    for copy in copies:
        assert_first_answer(copy, first)
    assert available(pos, card) == 9000


def test_copies_over_several_connections_are_answered_alike_and_done_once(
    switch: Demo, card: Card
) -> None:
    entry = switch.pos_entries[1]
    tills = [switch.pos(entry) for _ in range(6)]
    try:
        sale = tills[0].make.redeem(card, 1000)
        for till in tills:
            till.send(sale)
        first, *copies = [till.receive(sale) for till in tills]
        assert first.code == "00"
        for copy in copies:
            assert_first_answer(copy, first)
        assert available(tills[0], card) == 9000
    finally:
        for till in tills:
            till.close()


def test_a_till_that_lost_its_line_gets_its_answer_on_the_next(switch: Demo, card: Card) -> None:
    entry = switch.pos_entries[4]
    with switch.pos(entry) as till:
        sale = till.make.redeem(card, 1000)
        till.send(sale)
    # The line is gone before the answer: whether the request arrived is not known.
    with switch.pos(entry) as till:
        first = till.repeat(sale)
        assert (first.code, first.available_minor) == ("00", 9000)
        assert_first_answer(till.repeat(sale), first)


def test_a_repeat_is_found_behind_many_later_transactions(pos: Terminal, card: Card) -> None:
    first = pos.redeem(card, 1000)
    # More than the window of keys that travels with a card.
    later = pos.pipeline([pos.make.redeem(card, 1) for _ in range(40)])
    assert {reply.code for reply in later} == {"00"}
    assert_first_answer(pos.repeat(first), first)
    assert_first_answer(pos.repeat(later[0]), later[0])
    assert available(pos, card) == 8960


def test_a_request_refused_for_its_mac_is_decided_anew(pos: Terminal, card: Card) -> None:
    spoilt = pos.make.redeem(card, 1000, seal=Seal.FLIPPED_IN_MAC)
    assert pos.exchange(spoilt).code == "63"
    again = pos.repeat(spoilt)
    assert (again.code, again.available_minor) == ("00", 9000)
