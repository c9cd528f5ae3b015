"""What must have one effect, whichever message comes first; and what must tell nothing."""

from __future__ import annotations

import pytest

from tests.client.books import postings
from tests.client.checks import assert_accepted, available, funds
from tests.client.demo import Cards, Demo
from tests.client.messages import Card
from tests.client.terminal import Terminal
from tests.client.vocabulary import Entry

UNKNOWN_PAN = "9" * 19
KEYED = {"de22": str(Entry.KEYED)}


@pytest.mark.parametrize("told_minor", [1_000, 6_000])
def test_a_request_that_comes_after_its_advice_takes_nothing(
    pos: Terminal, card: Card, told_minor: int
) -> None:
    told = pos.advise(card, told_minor)
    assert_accepted(told)
    after = available(pos, card)
    assert after == (9_000 if told_minor == 1_000 else 10_000)
    same = {f"de{number}": told.fields[number] for number in (11, 12, 13)}
    late = pos.redeem(card, told_minor, **same)
    assert (late.code, late.why) == ("05", "BARRED")
    assert pos.repeat(late).same_answer() == late.same_answer()
    assert available(pos, card) == after


def test_sale_and_return_are_undone_in_either_order(pos: Terminal, cards: Cards) -> None:
    for sale_first in (True, False):
        card = cards.active()
        sale = pos.redeem(card, 5_000)
        back = pos.refund(card, 2_000, sale)
        assert back.code == "00"
        for message in (sale, back) if sale_first else (back, sale):
            undone = pos.reverse(message)
            assert (undone.code, undone.state) == ("00", "REVERSED")
        assert available(pos, card) == 10_000
        for message in (sale, back):
            assert pos.reverse(message).state == "ALREADY"
            assert pos.repeat(message).code == "05"
        assert available(pos, card) == 10_000


def test_nobody_completes_the_hold_of_another_merchant_by_its_tx(
    pos: Terminal, elsewhere: Terminal, card: Card
) -> None:
    hold = pos.hold(card, 3_000)
    assert_accepted(elsewhere.advise(card, 1_000, OR=hold.tx))
    assert funds(pos, card) == (6_000, 3_000)
    assert_accepted(pos.complete(hold, 3_000))
    assert funds(pos, card) == (6_000, 0)


def test_a_keyed_advice_tells_nothing_of_the_card(
    pos: Terminal, network: Terminal, cards: Cards
) -> None:
    """Active, blocked, short of value, or no such card: one answer, and a read card has its own."""
    blocked, short = cards.active(), cards.active()
    assert network.block(blocked).code == "00"
    assert pos.redeem(short, 9_900).code == "00"
    answers = [pos.advise(card, 1_000, **KEYED) for card in (cards.active(), blocked, short)]
    answers.append(pos.advise(cards.active(), 1_000, de2=UNKNOWN_PAN, **KEYED))
    assert {(a.code, a.why, tuple(sorted(a.private))) for a in answers} == {("00", "", ("TX",))}
    assert len({tuple(sorted(answer.fields)) for answer in answers}) == 1
    for answer in answers:
        assert pos.repeat(answer).same_answer() == answer.same_answer()
        assert [pos.reverse(answer).state for _ in range(2)] == ["REVERSED", "ALREADY"]
    assert pos.advise(blocked, 1_000, de22=str(Entry.STRIPE)).why == "STATUS"
    assert pos.advise(blocked, 1_000, de2=UNKNOWN_PAN).why == "CARD"


@pytest.mark.parametrize("de49", [None, "840"])
def test_suspense_in_a_foreign_currency_is_undone_in_it(
    switch: Demo, pos: Terminal, card: Card, de49: str | None
) -> None:
    told = pos.advise(card, 1_000, de49="840")
    undone = pos.reverse(told, de49=de49)
    assert (undone.code, undone.state) == ("00", "REVERSED")
    booked = [(row["currency"], row["amount_minor"]) for row in postings(switch, undone)]
    assert booked == [("840", 1_000)]
    assert pos.reverse(pos.advise(card, 1_000, de49="840"), de49="826").code == "12"
