"""Completions: what a hold was used for, whether it was less than was held or more."""

from __future__ import annotations

import pytest
from builders import (
    FLOOR_LIMIT_MINOR,
    NETWORK,
    NOW_S,
    OTHER_TILL,
    POLICY,
    PUMP,
    TILL,
    Chain,
    account_minor,
    again,
    card_effect_minor,
    make_advice,
    make_chain,
    make_expiry,
    make_facts,
    make_request,
    make_reversal,
)

from rules.cards import CardStatus
from rules.identity import content_fingerprint
from rules.ledger import AccountKind, Answer
from rules.lots import Lot, Origin
from rules.requests import CardRequest, Operation, ReversalReason
from rules.responses import Response, Rule

SHORTFALL, SUSPENSE = AccountKind.SHORTFALL, AccountKind.SUSPENSE
MERCHANT_ID = TILL.merchant_id


def said(answer: Answer) -> tuple[str, str]:
    return answer.response.value, answer.reversal_state.value


def lots_of(chain: Chain) -> dict[int, int]:
    return {lot.lot_id: lot.available_minor for lot in chain.card_state.ecash.lots}


def books(chain: Chain, merchant_id: int = MERCHANT_ID) -> tuple[int, int, int]:
    """Merchant, shortfall, suspense."""
    kinds = (AccountKind.MERCHANT, SHORTFALL, SUSPENSE)
    merchant, shortfall, suspense = (
        account_minor(chain.journal, kind, merchant_id) for kind in kinds
    )
    return merchant, shortfall, suspense


def promo_card(paid_minor: int = 700) -> Chain:
    promo = Lot(1, 300, Origin.PROMO, cashable=False, expires_day=20_900, sponsor_id=8)
    return make_chain(lots=[promo, Lot(2, paid_minor)])


def held(amount_minor: int = 500, **changes: object) -> tuple[Chain, CardRequest]:
    chain = promo_card()
    hold = make_request(Operation.HOLD, amount_minor, **changes)
    assert chain.send(hold).response is Response.APPROVED
    return chain, hold


# Completion: less than the hold, all of it, more


@pytest.mark.parametrize("by", ["tx", "code", "key"])
@pytest.mark.parametrize(
    ("amount_minor", "left"),
    [
        (0, {1: 300, 2: 700}),
        (1, {1: 299, 2: 700}),
        (300, {2: 700}),
        (420, {2: 580}),
        (500, {2: 500}),
    ],
)
def test_a_completion_takes_what_was_used_and_gives_back_the_rest(
    amount_minor: int, left: dict[int, int], by: str
) -> None:
    chain, hold = held(500)
    completion = make_advice(amount_minor, hold=hold, by=by)
    answer = chain.send(completion)
    assert (answer.response, answer.rule, answer.balances) == (Response.APPROVED, Rule.NONE, "")
    assert answer.amount_minor is None
    link = chain.last
    assert (link.operation, link.undoes, link.key) == (Operation.COMPLETION, 1, completion.key)
    assert (link.amount_minor, link.effect_minor) == (amount_minor, 500 - amount_minor)
    assert card_effect_minor(link) == -amount_minor
    assert lots_of(chain) == left
    state = chain.card_state
    assert (state.ecash.available_minor, state.ecash.held_minor) == (1_000 - amount_minor, 0)
    assert (state.holds, state.status) == ([], CardStatus.ACTIVE)
    assert books(chain) == (amount_minor, 0, 0)


def test_a_lot_that_was_held_whole_returns_as_it_was() -> None:
    chain, hold = held(1_000)
    chain.send(make_advice(100, hold=hold))
    promo, paid = sorted(chain.card_state.ecash.lots, key=lambda lot: lot.lot_id)
    assert promo == Lot(1, 200, Origin.PROMO, cashable=False, expires_day=20_900, sponsor_id=8)
    assert paid == Lot(2, 700)


def test_a_completion_of_one_hold_leaves_the_others() -> None:
    chain = promo_card()
    holds = [make_request(Operation.HOLD, 250) for _ in range(3)]
    chain.batch(*holds)
    chain.batch(make_advice(240, hold=holds[1]), make_advice(250, hold=holds[0]))
    assert lots_of(chain) == {2: 260}
    assert [hold.version for hold in chain.card_state.holds] == [3]
    assert chain.held_minor == 250


def test_hold_and_completion_in_one_batch() -> None:
    chain = promo_card()
    hold = make_request(Operation.HOLD, 500)
    answers = chain.batch(hold, make_advice(420, hold=hold, by="key"), again(hold))
    assert answers[2] == answers[0]
    assert (chain.available_minor, chain.held_minor) == (580, 0)


@pytest.mark.parametrize(
    ("amount_minor", "taken_minor", "suspended_minor", "rule"),
    [
        (500, 500, 0, Rule.NONE),
        (550, 550, 0, Rule.NONE),
        (551, 550, 1, Rule.TOLERANCE),
        (900, 550, 350, Rule.TOLERANCE),
    ],
)
def test_more_than_the_hold(
    amount_minor: int, taken_minor: int, suspended_minor: int, rule: Rule
) -> None:
    """The pump's merchant may take ten in a hundred more than was held."""
    chain, hold = held(500, terminal=PUMP)
    answer = chain.send(make_advice(amount_minor, hold=hold))
    assert (answer.response, answer.rule) == (Response.APPROVED, rule)
    assert chain.available_minor == 1_000 - taken_minor
    assert lots_of(chain) == {2: 1_000 - taken_minor}
    assert (chain.last.requested_minor, chain.last.amount_minor) == (amount_minor, taken_minor)
    assert books(chain) == (amount_minor, 0, -suspended_minor)
    assert (chain.held_minor, chain.status) == (0, CardStatus.ACTIVE)


def test_without_tolerance_all_above_the_hold_is_suspense() -> None:
    chain, hold = held(500)
    assert chain.send(make_advice(501, hold=hold)).rule is Rule.TOLERANCE
    assert chain.available_minor == 500
    assert books(chain) == (501, 0, -1)


def test_a_tolerance_is_rounded_down_and_is_of_what_is_still_held() -> None:
    chain, hold = held(500, terminal=PUMP)
    chain.send(make_reversal(hold, final_minor=199))
    chain.send(make_advice(250, hold=hold))
    assert chain.available_minor == 1_000 - 199 - 19
    assert books(chain) == (250, 0, -32)


@pytest.mark.parametrize(
    ("amount_minor", "shortfall_minor", "suspended_minor", "rule"),
    [
        (1_010, 0, 0, Rule.NONE),
        (1_011, 1, 0, Rule.SHORTFALL),
        (1_100, 90, 0, Rule.SHORTFALL),
        (1_105, 90, 5, Rule.TOLERANCE),
    ],
)
def test_what_the_card_lacks_within_the_tolerance_is_shortfall(
    amount_minor: int, shortfall_minor: int, suspended_minor: int, rule: Rule
) -> None:
    chain = promo_card(paid_minor=710)
    hold = make_request(Operation.HOLD, 1_000, terminal=PUMP)
    chain.send(hold)
    completion = make_advice(amount_minor, hold=hold)
    answer = chain.send(completion)
    assert (answer.response, answer.rule) == (Response.APPROVED, rule)
    assert (chain.available_minor, chain.card_state.ecash.lots) == (0, [])
    assert chain.status is (CardStatus.FROZEN if shortfall_minor else CardStatus.ACTIVE)
    assert books(chain) == (amount_minor, -shortfall_minor, -suspended_minor)
    # What the card never paid goes first when it is undone: suspense, then the shortfall.
    assert said(chain.send(make_reversal(completion, final_minor=1_050))) == (
        ("00", "PARTIAL") if amount_minor > 1_050 else ("13", "")
    )
    if amount_minor > 1_050:
        assert books(chain) == (1_050, -40, 0)
        assert chain.available_minor == 0
    assert said(chain.send(make_reversal(completion))) == ("00", "REVERSED")
    assert books(chain) == (0, 0, 0)
    assert lots_of(chain) == {1: 300, 2: 710}
    assert chain.status is (CardStatus.FROZEN if shortfall_minor else CardStatus.ACTIVE)


@pytest.mark.parametrize("status", CardStatus)
def test_a_completion_takes_its_hold_in_any_status_and_past_its_expiry(status: CardStatus) -> None:
    chain, hold = held(500)
    state = chain.card_state
    state.status = status
    twin = Chain(state, make_facts(expiry="2001"))
    twin.journal, twin.window = chain.journal, chain.window
    assert twin.send(make_advice(420, hold=hold)).rule is Rule.NONE
    assert (twin.available_minor, twin.held_minor, twin.status) == (580, 0, status)


def test_a_completion_is_bound_neither_by_floor_limit_nor_by_age() -> None:
    chain = make_chain(available_minor=90_000)
    hold = make_request(Operation.HOLD, 80_000, terminal=NETWORK)
    chain.send(hold)
    old = NOW_S - POLICY.horizon_s - 1
    assert chain.send(make_advice(80_000, hold=hold, instant_s=old)).rule is Rule.NONE
    assert chain.available_minor == 10_000


# A completion sent again, or too late


def test_a_completions_repeat_hears_the_first_answer() -> None:
    chain, hold = held(500)
    completion = make_advice(420, hold=hold)
    first = chain.send(completion)
    for _ in range(20):
        chain.send(make_request(Operation.LOAD, 1))
    state = chain.state
    assert chain.send(again(completion)) == first
    other = again(completion, amount_minor=1, fingerprint=content_fingerprint("other"))
    assert chain.send(other).response is Response.DUPLICATE_DIFFERS
    assert chain.state == state


@pytest.mark.parametrize("by", ["tx", "code", "key"])
@pytest.mark.parametrize("amount_minor", [420, 100, 500, 9_000])
def test_a_hold_that_was_completed_before(amount_minor: int, by: str) -> None:
    chain, hold = held(500)
    chain.send(make_advice(420, hold=hold))
    before = chain.card_state.ecash
    second = make_advice(amount_minor, hold=hold, by=by)
    answer = chain.send(second)
    assert (answer.response, answer.rule) == (Response.APPROVED, Rule.DONE_BEFORE)
    assert (chain.last.amount_minor, chain.last.postings, chain.last.moves) == (0, (), ())
    assert chain.card_state.ecash == before
    assert chain.send(again(second)) == answer
    assert said(chain.send(make_reversal(second))) == ("00", "NOTHING")
    assert chain.card_state.ecash == before


@pytest.mark.parametrize("end", ["expired", "reversed"])
@pytest.mark.parametrize("amount_minor", [400, 1_200, FLOOR_LIMIT_MINOR + 1])
def test_completed_after_its_hold_has_gone_it_is_an_advice(amount_minor: int, end: str) -> None:
    chain, hold = held(500)
    if end == "expired":
        chain.hold_expires()
        chain.send(make_expiry(1))
    else:
        chain.send(make_reversal(hold))
    answer = chain.send(make_advice(amount_minor, hold=hold))
    if amount_minor > FLOOR_LIMIT_MINOR:
        assert answer.rule is Rule.FLOOR_LIMIT
        assert books(chain) == (amount_minor, 0, -amount_minor)
        return
    assert (chain.last.operation, chain.last.undoes) == (Operation.ADVICE, 0)
    lacking_minor = max(0, amount_minor - 1_000)
    assert answer.rule is (Rule.SHORTFALL if lacking_minor else Rule.NONE)
    assert chain.available_minor == max(0, 1_000 - amount_minor)
    assert books(chain) == (amount_minor, -lacking_minor, 0)


@pytest.mark.parametrize("by", ["tx", "code", "key"])
def test_nobody_completes_the_hold_of_another_merchant(by: str) -> None:
    """However it is named: what another tells of is an offline sale of its own."""
    chain, hold = held(500)
    other = make_advice(400, hold=hold, by=by, terminal=OTHER_TILL)
    assert chain.send(other).rule is Rule.NONE
    assert (chain.last.operation, chain.last.undoes) == (Operation.ADVICE, 0)
    assert (chain.available_minor, chain.held_minor) == (100, 500)
    chain.send(make_advice(500, hold=hold))
    assert (chain.available_minor, chain.held_minor) == (100, 0)
    assert chain.send(again(other)).rule is Rule.NONE


# A completion undone


def test_a_reversed_completion_goes_to_the_very_lots_and_opens_no_hold() -> None:
    chain, hold = held(500)
    completion = make_advice(420, hold=hold)
    chain.send(completion)
    assert said(chain.send(make_reversal(completion, final_minor=100))) == ("00", "PARTIAL")
    assert lots_of(chain) == {1: 200, 2: 700}
    assert chain.send(make_reversal(completion, final_minor=101)).response == "13"
    assert said(chain.send(make_reversal(completion))) == ("00", "REVERSED")
    assert lots_of(chain) == {1: 300, 2: 700}
    assert (chain.held_minor, chain.card_state.holds, books(chain)) == (0, [], (0, 0, 0))
    assert said(chain.send(make_reversal(completion))) == ("00", "ALREADY")
    assert chain.send(again(completion)).rule is Rule.REVERSED
    assert chain.send(make_advice(1, hold=hold)).rule is Rule.DONE_BEFORE


@pytest.mark.parametrize("reason", ReversalReason)
@pytest.mark.parametrize("amount_minor", [900, 550, 0])
def test_a_completion_above_its_hold_is_undone_for_what_the_card_paid(
    amount_minor: int, reason: ReversalReason
) -> None:
    """DE 4 is what was asked for, or what was approved without the part in suspense."""
    chain, hold = held(500, terminal=PUMP)
    completion = make_advice(900, hold=hold)
    chain.send(completion)
    assert chain.send(make_reversal(completion, amount_minor=899)).response == "13"
    undo = make_reversal(completion, amount_minor=amount_minor, reason=reason)
    assert said(chain.send(undo)) == ("00", "REVERSED")
    assert chain.last.effect_minor == 550
    assert (lots_of(chain), books(chain)) == ({1: 300, 2: 700}, (0, 0, 0))


def test_lowered_step_by_step_the_suspense_goes_before_the_card() -> None:
    chain, hold = held(500, terminal=PUMP)
    completion = make_advice(900, hold=hold)
    chain.send(completion)
    for final_minor, suspended_minor, available_minor in (
        (700, -150, 450),
        (550, 0, 450),
        (549, 0, 451),
        (0, 0, 1_000),
    ):
        chain.send(make_reversal(completion, final_minor=final_minor))
        assert books(chain) == (final_minor, 0, suspended_minor)
        assert chain.available_minor == available_minor


def test_a_completion_is_returned_for_what_the_card_paid_of_it() -> None:
    chain, hold = held(500)
    completion = make_advice(620, hold=hold)
    chain.send(completion)
    tx = completion.transaction_id
    for amount_minor, response in ((501, "13"), (200, "00"), (301, "13"), (300, "00"), (1, "13")):
        answer = chain.send(make_request(Operation.RETURN, amount_minor, original=tx))
        assert answer.response == response
    assert lots_of(chain) == {1: 300, 2: 700}
    assert said(chain.send(make_reversal(completion))) == ("00", "REVERSED")  # the suspense
    assert (chain.last.effect_minor, books(chain)) == (0, (0, 0, 0))


def test_a_hold_is_no_sale_that_could_be_returned() -> None:
    chain, hold = held(500)
    request = make_request(Operation.RETURN, 100, original=hold.transaction_id)
    assert chain.send(request).rule is Rule.ORIGINAL
