"""What can still be restored of an original, and original and reversal in every order."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from builders import (
    SERVICE_DESK,
    Chain,
    account_minor,
    again,
    make_advice,
    make_chain,
    make_outcome,
    make_request,
    make_reversal,
)

from rules.cards import CardStatus
from rules.ledger import AccountKind, Answer
from rules.lots import Lot, Origin
from rules.requests import CardRequest, Operation, ReversalReason
from rules.responses import Response, Rule


def sale_of_500() -> tuple[Chain, CardRequest]:
    """A card with 300 of promotional and 700 of paid value, and a purchase of 500."""
    lots = [Lot(1, 300, Origin.PROMO, cashable=False, expires_day=20_900), Lot(2, 700)]
    return make_chain(lots=lots), make_request(Operation.REDEEM, 500)


def state_of(chain: Chain) -> tuple[CardStatus, int, list[Lot]]:
    held = chain.card_state.ecash
    return chain.status, held.available_minor, sorted(held.lots, key=lambda lot: lot.lot_id)


def said(answer: Answer) -> tuple[str, str]:
    return answer.response.value, answer.reversal_state.value


def returned(chain: Chain, sale: CardRequest, amount_minor: int) -> CardRequest:
    request = make_request(Operation.RETURN, amount_minor, original=sale.transaction_id)
    assert chain.send(request).response is Response.APPROVED
    return request


def test_a_reversal_undoes_what_returns_have_left() -> None:
    chain, sale = sale_of_500()
    before = state_of(chain)
    chain.send(sale)
    returned(chain, sale, 120)
    assert chain.send(make_reversal(sale, final_minor=381)).response == "13"
    assert said(chain.send(make_reversal(sale, final_minor=380))) == ("00", "ALREADY")
    assert said(chain.send(make_reversal(sale))) == ("00", "REVERSED")
    assert chain.last.amount_minor == 380
    assert state_of(chain) == before


def test_a_return_gets_what_a_partial_reversal_has_left() -> None:
    chain, sale = sale_of_500()
    before = state_of(chain)
    chain.send(sale)
    chain.send(make_reversal(sale, final_minor=200))
    over = make_request(Operation.RETURN, 201, original=sale.transaction_id)
    assert chain.send(over).rule is Rule.RESTORABLE
    returned(chain, sale, 200)
    assert state_of(chain) == before
    assert said(chain.send(make_reversal(sale))) == ("00", "ALREADY")


def test_all_returned_nothing_is_left_to_reverse() -> None:
    chain, sale = sale_of_500()
    chain.send(sale)
    returned(chain, sale, 500)
    assert said(chain.send(make_reversal(sale))) == ("00", "ALREADY")
    assert chain.available_minor == 1_000


def test_a_return_that_was_reversed_was_never_given() -> None:
    chain, sale = sale_of_500()
    before = state_of(chain)
    chain.send(sale)
    sold = state_of(chain)
    back = returned(chain, sale, 500)
    assert said(chain.send(make_reversal(back))) == ("00", "REVERSED")
    assert state_of(chain) == sold
    assert said(chain.send(make_reversal(sale))) == ("00", "REVERSED")
    assert state_of(chain) == before


@pytest.mark.parametrize("in_two_steps", [True, False])
def test_an_undone_return_takes_from_each_lot_what_it_put_there(in_two_steps: bool) -> None:
    """Promotional value of its own in one of the lots does not pay for the other."""
    chain, sale = sale_of_500()
    other = make_request(Operation.REDEEM, 100)
    chain.batch(other, sale)
    returned(chain, other, 100)
    before = state_of(chain)
    assert [lot.available_minor for lot in before[2]] == [100, 400]
    back = returned(chain, sale, 500)
    if in_two_steps:
        assert said(chain.send(make_reversal(back, final_minor=350))) == ("00", "PARTIAL")
    assert said(chain.send(make_reversal(back))) == ("00", "REVERSED")
    assert state_of(chain) == before


@pytest.mark.parametrize("by_return", [True, False])
def test_a_reversed_return_that_was_taken_out_of_another_lot_is_owed_to_it(
    by_return: bool,
) -> None:
    """The return's own lot had been spent again when it was undone."""
    chain = make_chain(lots=[Lot(1, 500, expires_day=20_800), Lot(2, 500)])
    sale = make_request(Operation.REDEEM, 500)
    chain.send(sale)
    back = returned(chain, sale, 300)
    chain.send(make_request(Operation.REDEEM, 300))
    assert said(chain.send(make_reversal(back, reason=ReversalReason.CUSTOMER))) == (
        "00",
        "REVERSED",
    )
    assert state_of(chain)[2] == [Lot(2, 200)]
    if by_return:
        returned(chain, sale, 500)
    else:
        assert said(chain.send(make_reversal(sale))) == ("00", "REVERSED")
    assert state_of(chain)[2] == [Lot(1, 200, expires_day=20_800), Lot(2, 500)]


def test_a_return_reversed_into_a_shortfall_is_paid_by_its_sales_reversal() -> None:
    """The customer has had the 300 back and has spent them."""
    chain = make_chain(available_minor=500)
    sale = make_request(Operation.REDEEM, 500)
    chain.send(sale)
    back = returned(chain, sale, 300)
    chain.send(make_request(Operation.REDEEM, 300))
    assert said(chain.send(make_reversal(back))) == ("00", "PARTIAL")
    assert account_minor(chain.journal, AccountKind.SHORTFALL, 501) == -300
    assert said(chain.send(make_reversal(sale))) == ("00", "REVERSED")
    assert chain.last.amount_minor == 500
    assert account_minor(chain.journal, AccountKind.SHORTFALL, 501) == 0
    assert chain.card_state.ecash.lots == [Lot(1, 200)]
    assert chain.status is CardStatus.FROZEN


STATUS_BEFORE = {
    Operation.ACTIVATE: CardStatus.ISSUED,
    Operation.LOAD: CardStatus.ACTIVE,
    Operation.REDEEM: CardStatus.ACTIVE,
    Operation.CASH_OUT: CardStatus.ACTIVE,
    Operation.RETURN: CardStatus.ACTIVE,
    Operation.BLOCK: CardStatus.ACTIVE,
    Operation.HOLD: CardStatus.ACTIVE,
    Operation.ADVICE: CardStatus.ACTIVE,
}


@pytest.mark.parametrize("operation", STATUS_BEFORE)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_in_every_order_original_and_reversals_end_alike(operation: Operation, size: int) -> None:
    """All orders of the original, its repeat, its reversal, that one's repeat, and another."""
    for order in itertools.permutations(range(5)):
        chain, _ = sale_of_500()
        chain = make_chain(STATUS_BEFORE[operation], lots=chain.card_state.ecash.lots)
        request = make_request(operation, 500, terminal=SERVICE_DESK)
        before = state_of(chain)
        reversal = make_reversal(request)
        messages = [request, again(request), reversal, again(reversal), make_reversal(request)]
        queue = [messages[n] for n in order]
        answers = {}
        for at in range(0, 5, size):
            for n, answer in zip(
                order[at : at + size], chain.batch(*queue[at : at + size]), strict=True
            ):
                answers[n] = answer
        assert state_of(chain) == before, order
        assert len({link.key for link in chain.journal}) == len(chain.journal)
        assert sum(link.effect_minor != 0 for link in chain.journal) in (0, 2)
        assert answers[2] == answers[3]
        assert {answers[n].response for n in (2, 3, 4)} == {Response.APPROVED}


# A sale, its returns, and the reversals of all: in whatever order


PAID_BY = {
    "redeem": Operation.REDEEM,
    "offline sale with shortfall": Operation.ADVICE,
    "completion above its hold": Operation.COMPLETION,
}


def sold(how: str) -> tuple[Chain, CardRequest]:
    """A sale of 500: all of it paid by the card, or 300 with the rest owed by the merchant."""
    lots = [Lot(1, 200, Origin.PROMO, cashable=False, expires_day=20_900), Lot(2, 300)]
    if how == "redeem":
        chain, sale = make_chain(lots=lots), make_request(Operation.REDEEM, 500)
    elif how == "offline sale with shortfall":
        chain, sale = make_chain(lots=[lots[0], Lot(2, 100)]), make_advice(500)
    else:
        chain = make_chain(lots=lots)
        hold = make_request(Operation.HOLD, 300)
        chain.send(hold)
        sale = make_advice(500, hold=hold)
    assert chain.send(sale).response is Response.APPROVED
    state = chain.card_state
    state.status = CardStatus.ACTIVE  # people have looked at the shortfall
    chain.state = msgspec.msgpack.encode(state)
    return chain, sale


def end_of(chain: Chain, *asked: CardRequest) -> tuple[Any, ...]:
    """All that can be seen of a card and of what was done to it."""
    owed = [
        account_minor(chain.journal, kind, 501)
        for kind in (AccountKind.MERCHANT, AccountKind.SHORTFALL, AccountKind.SUSPENSE)
    ]
    told = [chain.send(make_outcome(request)).original_state for request in asked]
    heard = [chain.send(again(request)).response for request in asked]
    lots = sorted(chain.card_state.ecash.lots, key=lambda lot: lot.lot_id)
    return chain.available_minor, lots, owed, heard, told, chain.status


@pytest.mark.parametrize("spent_minor", [0, 70, 200, 10_000])
@pytest.mark.parametrize("kept_of_return_minor", [0, 50])
@pytest.mark.parametrize("final_minor", [0, 20, 100, 250, 300])
@pytest.mark.parametrize("how", PAID_BY)
def test_sale_and_return_reversed_in_either_order(
    how: str, final_minor: int, kept_of_return_minor: int, spent_minor: int
) -> None:
    """Reversed wholly or partly, with the returned value still there or spent meanwhile.

    Where it was spent, the return's reversal that comes first finds too little: that it said so,
    and that it froze the card, stays for people to look at; and of what the merchant owes in both
    orders more may be shortfall and less suspense.
    """
    start, sale = sold(how)
    back = returned(start, sale, 200)
    spend = make_request(Operation.REDEEM, spent_minor or 1, partial_allowed=True)
    if spent_minor:
        start.send(spend)
    ends = []
    for sale_first in (True, False):
        chain = start.clone()
        undo_sale = make_reversal(sale, final_minor=final_minor or None)
        undo_back = make_reversal(back, final_minor=kept_of_return_minor or None)
        pair = [undo_sale, undo_back] if sale_first else [undo_back, undo_sale]
        assert [chain.send(message).response for message in pair] == ["00", "00"]
        ends.append(end_of(chain, sale, back))
        again_said = [said(chain.send(make_reversal(sale, final_minor=final_minor or None)))]
        again_said.append(
            said(chain.send(make_reversal(back, final_minor=kept_of_return_minor or None)))
        )
        assert again_said == [("00", "ALREADY")] * 2
        assert end_of(chain)[:3] == ends[-1][:3]
    short = CardStatus.FROZEN in (ends[0][-1], ends[1][-1])
    assert short is (start.available_minor < 200 - kept_of_return_minor)
    assert short or ends[0] == ends[1]
    for end in ends if short else ():
        end[2][1:] = [sum(end[2][1:])]
    assert ends[0][:4] == ends[1][:4]


@pytest.mark.parametrize("how", PAID_BY)
def test_two_returns_and_the_sale_reversed_in_every_order(how: str) -> None:
    start, sale = sold(how)
    backs = [returned(start, sale, amount_minor) for amount_minor in (120, 90)]
    ends = []
    for order in itertools.permutations([sale, *backs]):
        chain = start.clone()
        for message in order:
            assert said(chain.send(make_reversal(message))) == ("00", "REVERSED")
        ends.append(end_of(chain, sale, *backs))
    assert all(end == ends[0] for end in ends)
    assert ends[0][2] == [0, 0, 0]


def test_a_return_between_the_reversals_counts_against_what_is_left() -> None:
    """500 sold, 200 returned, lowered to 250, 100 returned, then the 200 undone."""
    chain, sale = sold("redeem")
    first = returned(chain, sale, 200)
    assert said(chain.send(make_reversal(sale, final_minor=250))) == ("00", "PARTIAL")
    assert chain.available_minor == 250
    returned(chain, sale, 100)
    assert said(chain.send(make_reversal(first))) == ("00", "REVERSED")
    assert (chain.last.amount_minor, chain.last.effect_minor) == (200, -100)
    assert chain.available_minor == 250
    over = make_request(Operation.RETURN, 251, original=sale.transaction_id)
    assert chain.send(over).rule is Rule.RESTORABLE
    returned(chain, sale, 250)
    assert chain.available_minor == 500
