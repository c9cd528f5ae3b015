"""Unlock, activation, block, unblock, deactivation, and what each status allows."""

from __future__ import annotations

import pytest

from tests.client.checks import assert_shape, available, purse
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Processing
from tests.client.terminal import Terminal


def test_an_issued_card_is_activated_with_an_amount_and_then_spends_it(
    any_pos: Terminal, issued: Card
) -> None:
    activated = any_pos.activate(issued, 5000)
    assert_shape(activated)
    assert activated.code == "00"
    assert activated.amount_minor == 5000
    assert (purse(activated).ledger_minor, purse(activated).available_minor) == (5000, 5000)
    sale = any_pos.redeem(issued, 5000)
    assert (sale.code, sale.available_minor) == ("00", 0)


def test_unlocking_makes_a_card_ready_for_activation_but_not_spendable(
    pos: Terminal, issued: Card
) -> None:
    unlocked = pos.unlock(issued)
    assert_shape(unlocked)
    assert (unlocked.code, unlocked.available_minor) == ("00", 0)
    assert pos.redeem(issued, 100).code == "78"
    assert pos.load(issued, 100).code == "78"
    activated = pos.activate(issued, 2500)
    assert (activated.code, activated.available_minor) == ("00", 2500)
    assert pos.redeem(issued, 100).code == "00"


def test_an_issued_card_can_neither_be_spent_nor_loaded(pos: Terminal, issued: Card) -> None:
    for refused in (pos.redeem(issued, 100), pos.load(issued, 100), pos.cash_out(issued)):
        assert_shape(refused)
        assert refused.code == "78"


def test_a_pre_valued_card_comes_to_life_with_its_face_value(pos: Terminal, cards: Cards) -> None:
    # The contract does not say whether issued demo cards have a face value. Assumption: only a
    # card with a `face_value` key has one; without one there is nothing to activate with, which
    # an acquirer reads as "not permitted to card" (57) or "invalid amount" (13).
    card = cards.with_face_value()
    if card is not None:
        activated = pos.activate_prevalued(card)
        assert_shape(activated)
        assert activated.code == "00"
        assert activated.amount_minor == activated.available_minor == card.extra["face_value"]
        assert pos.activate_prevalued(card).code == "57"
    else:
        plain = cards.issued()
        activated = pos.activate_prevalued(plain)
        assert_shape(activated)
        assert activated.code in {"13", "57"}
        assert pos.redeem(plain, 100).code == "78"


def test_an_active_card_cannot_be_activated_again(pos: Terminal, card: Card) -> None:
    for refused in (pos.activate(card, 5000), pos.activate_prevalued(card)):
        assert_shape(refused)
        assert refused.code == "57"
    assert available(pos, card) == 10000


def test_an_activation_of_nothing_is_an_invalid_amount(pos: Terminal, issued: Card) -> None:
    assert pos.activate(issued, 0).code == "13"
    assert pos.redeem(issued, 100).code == "78"


@pytest.mark.parametrize(("status", "code"), [("lost", "41"), ("stolen", "43"), ("expired", "54")])
def test_a_card_out_of_use_is_refused_with_its_own_code(
    pos: Terminal, cards: Cards, status: str, code: str
) -> None:
    refused = pos.redeem(cards.special(status), 100)
    assert_shape(refused)
    assert refused.code == code
    assert pos.load(cards.special(status), 100).code == code


def test_a_network_terminal_blocks_and_unblocks_a_card(
    pos: Terminal, network: Terminal, card: Card
) -> None:
    blocked = network.block(card)
    assert_shape(blocked)
    assert blocked.code == "00"
    refused = pos.redeem(card, 100)
    assert_shape(refused)
    assert refused.code == "62"
    unblocked = network.unblock(card)
    assert_shape(unblocked)
    assert unblocked.code == "00"
    sale = pos.redeem(card, 100)
    assert (sale.code, sale.available_minor) == ("00", 9900)


def test_a_network_terminal_deactivates_a_card(
    pos: Terminal, network: Terminal, card: Card
) -> None:
    deactivated = network.deactivate(card)
    assert_shape(deactivated)
    assert deactivated.code == "00"
    # The page does not name the status after 920060: not active any more (78), closed (57), or
    # restricted (62) are all what an acquirer may be told; approved is not.
    assert pos.redeem(card, 100).code in {"57", "62", "78"}


@pytest.mark.parametrize(
    "processing", [Processing.DEACTIVATE, Processing.BLOCK, Processing.UNBLOCK]
)
def test_a_till_may_not_deactivate_block_or_unblock(
    pos: Terminal, card: Card, processing: Processing
) -> None:
    # "920060, 940060, 950060: network only" is said of terminals, so 58 rather than 57.
    refused = pos.exchange(pos.make.redeem(card, 0, de3=str(processing), de4=None))
    assert refused.code == "58"
    assert pos.redeem(card, 100).code == "00"


def test_every_operation_works_over_the_network_packager_too(
    network: Terminal, issued: Card
) -> None:
    steps = [
        network.unlock(issued),
        network.activate(issued, 5000),
        network.load(issued, 1000),
        network.redeem(issued, 2000),
        network.balance(issued),
        network.cash_out(issued),
    ]
    for reply in steps:
        assert_shape(reply)
    assert [reply.code for reply in steps] == ["00"] * len(steps)
    assert [reply.available_minor for reply in steps] == [0, 5000, 6000, 4000, 4000, 0]


def test_a_card_activated_at_one_merchant_is_spent_at_another(
    switch: Demo, pos: Terminal, issued: Card
) -> None:
    assert pos.activate(issued, 3000).code == "00"
    with switch.pos(switch.other_merchant_entry(switch.entry())) as other:
        sale = other.redeem(issued, 1000)
    assert (sale.code, sale.available_minor) == ("00", 2000)
