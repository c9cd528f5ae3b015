"""The outcome query that names nothing: what the terminal did last."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.books import link_count
from tests.client.checks import assert_outcome, assert_shape, assert_undone
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Entry, Reply, Seal
from tests.client.terminal import Terminal

UNKNOWN_PAN = "7" * 19


@pytest.fixture
def till(switch: Demo) -> Iterator[Terminal]:
    """A terminal that nobody else uses at the same time: what it did last is what they did."""
    entry = [e for e in switch.pos_entries if e["mac"] == "aes-cmac"][-2]
    with switch.pos(entry) as terminal:
        yield terminal


def assert_none(reply: Reply) -> None:
    assert_shape(reply)
    assert (reply.mti, reply.code, reply.why, reply.original_state) == (
        *("0610", "25", "ORIGINAL", ""),
    ), reply
    assert not {4, 38, 54} & set(reply.fields)


def test_the_last_transaction_is_told_with_its_own_answer(
    switch: Demo, till: Terminal, card: Card
) -> None:
    till.redeem(card, 100)
    sale = till.redeem(card, 1250)
    asked = till.last_outcome()
    assert_outcome(asked, sale, "APPROVED")
    assert (asked.amount_minor, asked.available_minor) == (1250, 8650)
    assert asked.fields[37] == sale.fields[37] == sale.tx  # which one it was
    assert asked.tx != sale.tx
    assert link_count(switch, asked) == 0
    assert_outcome(till.last_outcome(), sale, "APPROVED")


def test_whatever_it_was_it_is_told(till: Terminal, card: Card, issued: Card) -> None:
    steps = [till.activate(issued, 5000), till.load(card, 500), till.redeem(card, 2000)]
    steps.append(till.refund(card, 700, steps[-1]))
    for step in steps:
        assert step.code == "00"
    assert_outcome(till.last_outcome(), steps[-1], "APPROVED")
    for verb in (till.hold, till.advise):
        done = verb(card, 300)
        assert_outcome(till.last_outcome(), done, "APPROVED")
    declined = till.redeem(card, 99_999)
    assert_outcome(till.last_outcome(), declined, "DECLINED")


def test_its_state_is_the_one_of_now(till: Terminal, card: Card) -> None:
    sale = till.redeem(card, 1250)
    assert_undone(till.reverse(sale, final_minor=250), "PARTIAL")
    assert_outcome(till.last_outcome(), sale, "PARTIAL")
    assert_undone(till.reverse(sale), "REVERSED")
    assert_outcome(till.last_outcome(), sale, "REVERSED")


def test_enquiries_reversals_and_uploads_are_not_it(till: Terminal, card: Card) -> None:
    sale = till.redeem(card, 1250)
    till.balance(card)
    assert till.balance(card, pin=f"{(int(card.pin) + 1) % 10000:04d}").code == "55"
    till.outcome(sale)
    till.upload(sale)
    assert_undone(till.reverse(till.make.redeem(card, 1)), "NOTHING")
    assert_outcome(till.last_outcome(), sale, "APPROVED")


def test_with_a_card_it_is_the_last_on_that_card(
    till: Terminal, elsewhere: Terminal, card: Card, cards: Cards
) -> None:
    other = cards.active()
    sale = till.redeem(card, 1250)
    elsewhere.redeem(card, 10)
    later = till.redeem(other, 300)
    assert_outcome(till.last_outcome(card), sale, "APPROVED")
    assert_outcome(till.last_outcome(card, de2=None, de35=card.track2), sale, "APPROVED")
    assert_outcome(till.last_outcome(other), later, "APPROVED")
    assert_none(till.last_outcome(cards.active()))
    assert_none(till.last_outcome(card, de2=UNKNOWN_PAN))


def test_nobody_else_is_told(switch: Demo, till: Terminal, card: Card) -> None:
    sale = till.redeem(card, 1250)
    for entry in switch.pos_entries:
        if entry["id"] == till.identity.terminal:
            continue
        with switch.pos(entry) as other:
            assert_none(other.last_outcome(card))
            assert other.last_outcome().fields.get(37) != sale.fields[37]
        break
    foreign = till.last_outcome(de42="0" * 14 + "9")
    assert (foreign.code, foreign.original_code) == ("58", "")
    unsigned = till.last_outcome(seal=Seal.FLIPPED_IN_MAC)
    assert (unsigned.code, unsigned.original_code) == ("63", "")
    assert_outcome(till.last_outcome(), sale, "APPROVED")


def test_a_keyed_guess_tells_nothing_of_a_card(till: Terminal, card: Card) -> None:
    sale = till.redeem(card, 1250)
    for pan in (card.pan, UNKNOWN_PAN):
        guess = till.redeem(card, 100, de2=pan, de22=str(Entry.KEYED))
        assert (guess.code, guess.why) == ("14", "CARD")
        assert_outcome(till.last_outcome(), sale, "APPROVED")
        unknown = till.outcome(guess)
        assert (unknown.code, unknown.original_code, unknown.original_state) == ("25", "", "")
        barred = till.outcome(guess, bar_unknown=True)
        assert (barred.code, barred.original_state) == ("25", "BARRED")
        assert till.repeat(guess).code == "14" or pan == UNKNOWN_PAN


def test_a_repeat_hears_what_is_so_now(till: Terminal, card: Card) -> None:
    first = till.redeem(card, 1250)
    asked = till.last_outcome()
    assert_outcome(asked, first, "APPROVED")
    later = till.redeem(card, 300)
    assert_outcome(till.repeat(asked), later, "APPROVED")


def test_its_own_reference_is_echoed(till: Terminal, card: Card) -> None:
    sale = till.redeem(card, 1250)
    asked = till.last_outcome(de37="MYREFERENCE1")
    assert_outcome(asked, sale, "APPROVED")
    assert asked.fields[37] == "MYREFERENCE1"


@pytest.mark.parametrize("change", [{"de11": None}, {"de42": None}])
def test_what_is_missing_is_a_format_error(till: Terminal, change: dict[str, None]) -> None:
    request = till.make.last_outcome(**change)
    till.send(request)
    assert till.receive_any().code == "30"


def test_networks_ask_too(network: Terminal, card: Card) -> None:
    sale = network.redeem(card, 1250)
    assert_outcome(network.last_outcome(), sale, "APPROVED")


def test_a_transfer_is_told_by_what_was_sent(till: Terminal, card: Card, cards: Cards) -> None:
    moved = till.transfer(card, cards.active(), 700)
    assert moved.code == "00"
    asked = till.last_outcome()
    assert_outcome(asked, moved, "APPROVED")
    assert asked.fields[37] == moved.tx
