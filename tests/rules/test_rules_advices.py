"""Advices: sales decided at the terminal, and what is kept in suspense for people."""

from __future__ import annotations

import msgspec
import pytest
from builders import (
    CARD_ID,
    FLOOR_LIMIT_MINOR,
    NETWORK,
    NOW_S,
    OTHER_TILL,
    POLICY,
    TILL,
    Chain,
    account_minor,
    again,
    make_advice,
    make_chain,
    make_facts,
    make_request,
    make_reversal,
)

from rules.authorize import lacks_history
from rules.cards import CardState, CardStatus
from rules.identity import suspense_card_id
from rules.ledger import AccountKind, Answer, Posting
from rules.lots import Lot, Origin
from rules.money import Purse
from rules.requests import CardRequest, Operation
from rules.responses import Response, Rule
from rules.restoring import restorable_minor

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


def assert_suspended(chain: Chain, answer: Answer, amount_minor: int, rule: Rule) -> None:
    """Accepted and kept for people; the card has not been touched."""
    assert (answer.response, answer.rule) == (Response.APPROVED, rule)
    assert answer.approval_code != "" and answer.balances == ""
    link = chain.last
    assert (link.operation, link.effect_minor, link.moves) == (Operation.ADVICE, 0, ())
    assert (link.requested_minor, link.amount_minor) == (amount_minor, 0)
    merchant_id = link.merchant_id
    posting = Posting(SUSPENSE, merchant_id, AccountKind.MERCHANT, merchant_id, amount_minor)
    assert link.postings == (posting,)


# Sales decided at the terminal


@pytest.mark.parametrize("purse", Purse)
def test_an_offline_sale_takes_the_value_of_its_purse(purse: Purse) -> None:
    chain = make_chain(available_minor=600, purse=purse)
    request = make_advice(400, purse=purse)
    answer = chain.send(request)
    assert (answer.response, answer.rule, answer.balances) == (Response.APPROVED, Rule.NONE, "")
    assert answer.approval_code == request.transaction_id[-6:]
    link = chain.last
    assert (link.operation, link.amount_minor, link.effect_minor) == (Operation.ADVICE, 400, -400)
    assert link.postings == (
        Posting(AccountKind.CARD, CARD_ID, AccountKind.MERCHANT, MERCHANT_ID, 400),
    )
    assert chain.card_state.purse(purse).available_minor == 200


@pytest.mark.parametrize("found_minor", [0, 1, 399])
def test_what_the_card_lacks_is_the_merchants_shortfall(found_minor: int) -> None:
    chain = make_chain(available_minor=found_minor)
    request = make_advice(400)
    answer = chain.send(request)
    assert (answer.response, answer.rule) == (Response.APPROVED, Rule.SHORTFALL)
    assert (chain.available_minor, chain.status) == (0, CardStatus.FROZEN)
    assert (chain.last.amount_minor, chain.last.effect_minor) == (400, -found_minor)
    assert books(chain) == (400, found_minor - 400, 0)
    assert chain.last.status_before == CardStatus.ACTIVE
    assert chain.send(again(request)) == answer
    assert chain.send(make_advice(1)).rule is Rule.STATUS


def test_what_is_held_does_not_pay_for_an_offline_sale() -> None:
    chain, _ = held(800)
    assert chain.send(make_advice(300)).rule is Rule.SHORTFALL
    assert (chain.available_minor, chain.held_minor) == (0, 800)
    assert books(chain) == (300, -100, 0)


def test_an_advice_of_nothing_does_nothing() -> None:
    chain = make_chain()
    assert chain.send(make_advice(0)).rule is Rule.NONE
    assert (chain.last.postings, chain.available_minor) == ((), 10_000)
    lost = make_chain(CardStatus.LOST)
    assert lost.send(make_advice(0)).rule is Rule.STATUS
    assert lost.last.postings == ()


@pytest.mark.parametrize(
    ("amount_minor", "taken"),
    [(FLOOR_LIMIT_MINOR, True), (FLOOR_LIMIT_MINOR + 1, False)],
)
def test_up_to_the_floor_limit(amount_minor: int, taken: bool) -> None:
    chain = make_chain()
    answer = chain.send(make_advice(amount_minor))
    if taken:
        assert chain.available_minor == 10_000 - amount_minor
    else:
        assert_suspended(chain, answer, amount_minor, Rule.FLOOR_LIMIT)


def test_a_terminal_without_a_floor_limit_decides_nothing() -> None:
    chain = make_chain()
    assert_suspended(chain, chain.send(make_advice(1, terminal=NETWORK)), 1, Rule.FLOOR_LIMIT)


@pytest.mark.parametrize(
    ("age_s", "rule"),
    [
        (POLICY.horizon_s, Rule.NONE),
        (POLICY.horizon_s + 1, Rule.CLOCK),
        (-40 * 86_400, Rule.NONE),
        (NOW_S, Rule.NONE),  # keyed by its batch number: it has no instant
    ],
)
def test_an_advice_has_an_age_and_no_future(age_s: int, rule: Rule) -> None:
    chain = make_chain()
    answer = chain.send(make_advice(100, instant_s=NOW_S - age_s))
    if rule is Rule.NONE:
        assert answer.rule is Rule.NONE
        assert chain.available_minor == 9_900
    else:
        assert_suspended(chain, answer, 100, rule)


@pytest.mark.parametrize("status", CardStatus)
def test_only_an_active_card_pays(status: CardStatus) -> None:
    chain = make_chain(status)
    answer = chain.send(make_advice(100))
    if status is CardStatus.ACTIVE:
        assert chain.available_minor == 9_900
    else:
        assert_suspended(chain, answer, 100, Rule.STATUS)
    assert chain.status is status


@pytest.mark.parametrize(("expiry", "taken"), [("2611", True), ("2610", False)])
def test_a_card_pays_until_the_end_of_its_month(expiry: str, taken: bool) -> None:
    chain = make_chain(facts=make_facts(expiry=expiry))
    answer = chain.send(make_advice(100))
    if taken:
        assert chain.available_minor == 9_900
    else:
        assert_suspended(chain, answer, 100, Rule.STATUS)


@pytest.mark.parametrize("rule", [Rule.OPERATION, Rule.CURRENCY])
@pytest.mark.parametrize("by", ["tx", "code", "key"])
def test_foreign_content_neither_takes_value_nor_completes_a_hold(rule: Rule, by: str) -> None:
    chain, hold = held(500)
    foreign = {"foreign_content": rule}
    assert_suspended(chain, chain.send(make_advice(100, **foreign)), 100, rule)
    named = make_advice(100, hold=hold, by=by, **foreign)
    assert_suspended(chain, chain.send(named), 100, rule)
    assert (chain.available_minor, chain.held_minor) == (500, 500)
    chain.send(make_advice(500, hold=hold))
    late = make_advice(100, hold=hold, by=by, **foreign)
    assert_suspended(chain, chain.send(late), 100, rule)
    assert books(chain) == (800, 0, -300)


def test_a_link_says_in_which_currency_its_suspense_stands() -> None:
    chain = promo_card()
    foreign = {"foreign_content": Rule.CURRENCY, "foreign_currency": "840"}
    request = make_advice(100, **foreign)
    assert_suspended(chain, chain.send(request), 100, Rule.CURRENCY)
    assert chain.last.foreign_currency == "840"
    undo = again(make_reversal(request), foreign_currency="840")
    assert said(chain.send(undo)) == ("00", "REVERSED")
    assert (chain.last.foreign_currency, books(chain)) == ("840", (0, 0, 0))


@pytest.mark.parametrize("final_minor", [None, 40])
def test_suspense_is_undone_in_the_currency_that_it_stands_in(final_minor: int | None) -> None:
    """With DE 49, or without; not with another one."""
    chain = promo_card()
    request = make_advice(100, foreign_content=Rule.CURRENCY, foreign_currency="840")
    chain.send(request)
    wrong = again(make_reversal(request), foreign_currency="826")
    assert chain.send(wrong).rule is Rule.CURRENCY
    answer = chain.send(make_reversal(request, final_minor=final_minor))
    assert answer.response is Response.APPROVED
    assert chain.last.foreign_currency == "840"
    assert books(chain) == (final_minor or 0, 0, -(final_minor or 0))


def test_suspense_in_the_purses_currency_is_not_undone_in_another() -> None:
    chain = promo_card()
    request = make_advice(FLOOR_LIMIT_MINOR + 1)
    assert chain.send(request).rule is Rule.FLOOR_LIMIT
    wrong = again(make_reversal(request), foreign_currency="840")
    assert chain.send(wrong).rule is Rule.CURRENCY


@pytest.mark.parametrize("available_minor", [1_000, 0])
def test_what_was_posted_is_not_undone_in_another_currency(available_minor: int) -> None:
    chain = make_chain(available_minor=available_minor)
    request = make_advice(100)
    chain.send(request)
    before = chain.card_state.ecash
    refused = chain.send(again(make_reversal(request), foreign_currency="840"))
    assert (refused.response, refused.rule) == (Response.INVALID_TRANSACTION, Rule.CURRENCY)
    assert (chain.card_state.ecash, chain.last.postings) == (before, ())
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")


# An advice and its own request


@pytest.mark.parametrize("later", [0, 30])
@pytest.mark.parametrize("asked_minor", [400, 1_500])
def test_after_its_approved_request_it_has_no_second_effect(asked_minor: int, later: int) -> None:
    chain = promo_card()
    request = make_request(Operation.REDEEM, asked_minor, partial_allowed=True)
    chain.send(request)
    for _ in range(later):
        chain.send(make_request(Operation.LOAD, 1))
    before = chain.card_state.ecash
    advice = make_advice(asked_minor, request=request)
    assert lacks_history(advice, chain.open())
    answer = chain.send(advice)
    assert (answer.response, answer.rule) == (Response.APPROVED, Rule.DONE_BEFORE)
    assert (chain.card_state.ecash, chain.last.postings) == (before, ())
    assert restorable_minor(chain.open(), chain.last) == 0
    assert chain.send(again(advice)) == answer
    assert said(chain.send(make_reversal(advice))) == ("00", "NOTHING")
    assert chain.card_state.ecash == before


@pytest.mark.parametrize("amount_minor", [400, 1_200, 6_000, 0])
@pytest.mark.parametrize("together", [True, False])
def test_a_request_that_comes_after_its_advice_is_barred(amount_minor: int, together: bool) -> None:
    """Posted, posted in part or in suspense: it has been told of, and is not done again."""
    chain = promo_card()
    request = make_request(Operation.REDEEM, amount_minor or 400)
    advice = make_advice(amount_minor, request=request)
    if together:
        told, late, again_late = chain.batch(advice, request, again(request))
    else:
        told, late, again_late = map(chain.send, (advice, request, again(request)))
    assert told.response is Response.APPROVED
    assert (late.response, late.rule) == (Response.REFUSED, Rule.BARRED)
    assert late == again_late
    assert chain.available_minor == (
        0 if amount_minor == 1_200 else 600 if amount_minor == 400 else 1_000
    )
    assert [link.operation for link in chain.journal] == [Operation.TOMBSTONE, Operation.ADVICE]
    assert said(chain.send(make_reversal(request, amount_minor=0))) == ("00", "NOTHING")
    assert said(chain.send(make_reversal(advice)))[0] == "00"
    assert (chain.available_minor, books(chain)) == (1_000, (0, 0, 0))
    assert chain.send(again(request)).rule is Rule.BARRED


def test_a_completion_bars_its_own_request_and_is_none_after_it() -> None:
    for request_first in (True, False):
        chain = promo_card()
        hold = make_request(Operation.HOLD, 500)
        chain.send(hold)
        request = make_request(Operation.REDEEM, 400)
        completion = again(make_advice(400, hold=hold), own_request_key=request.key)
        pair = (request, completion) if request_first else (completion, request)
        first, second = map(chain.send, pair)
        assert first.response is Response.APPROVED
        assert second.rule is (Rule.DONE_BEFORE if request_first else Rule.BARRED)
        assert chain.available_minor + chain.held_minor == 600
        assert chain.held_minor == (500 if request_first else 0)


def test_a_request_too_old_to_be_taken_needs_no_bar() -> None:
    chain = promo_card()
    advice = make_advice(400, instant_s=NOW_S - POLICY.horizon_s - 1)
    assert_suspended(chain, chain.send(advice), 400, Rule.CLOCK)
    assert [link.operation for link in chain.journal] == [Operation.ADVICE]


def test_request_and_advice_in_one_batch() -> None:
    chain = promo_card()
    request = make_request(Operation.REDEEM, 400)
    chain.batch(request, make_advice(400, request=request), again(request))
    assert chain.available_minor == 600


def test_after_its_declined_request_it_is_decided_anew() -> None:
    chain = promo_card()
    request = make_request(Operation.REDEEM, 1_200)
    declined = chain.send(request)
    assert chain.send(make_advice(1_200, request=request)).rule is Rule.SHORTFALL
    assert books(chain) == (1_200, -200, 0)
    assert chain.send(again(request)) == declined


def test_a_sale_whose_request_was_barred_is_kept_in_suspense() -> None:
    chain = promo_card()
    request = make_request(Operation.REDEEM, 400)
    assert said(chain.send(make_reversal(request))) == ("00", "NOTHING")
    advice = make_advice(400, request=request)
    assert_suspended(chain, chain.send(advice), 400, Rule.BARRED)
    assert chain.send(request).rule is Rule.BARRED
    assert chain.available_minor == 1_000


def test_an_advice_that_was_barred_itself_hears_so() -> None:
    chain = promo_card()
    advice = make_advice(400)
    chain.send(make_reversal(advice))
    answer = chain.send(advice)
    assert (answer.response, answer.rule) == (Response.REFUSED, Rule.BARRED)
    assert (chain.available_minor, books(chain)) == (1_000, (0, 0, 0))


def test_a_new_key_asks_nothing_of_the_journal() -> None:
    chain = promo_card()
    assert not lacks_history(make_advice(1), chain.open())
    for second in range(30):
        chain.send(make_request(Operation.REDEEM, 1, instant_s=NOW_S + second))
    assert not lacks_history(make_advice(1, instant_s=NOW_S + 40), chain.open())
    assert lacks_history(make_advice(1, instant_s=NOW_S), chain.open())


# A number that no card has


def suspense_chain(merchant_id: int) -> Chain:
    return Chain(CardState.new(), make_facts(), card_id=suspense_card_id(merchant_id))


def test_an_unknown_card_is_kept_on_the_merchants_own_chain() -> None:
    chain = suspense_chain(MERCHANT_ID)
    request = make_advice(400, card_unknown=True)
    answer = chain.send(request)
    assert_suspended(chain, answer, 400, Rule.CARD)
    assert chain.last.card_id == suspense_card_id(MERCHANT_ID) < -(1 << 59)
    assert chain.send(again(request)) == answer
    assert (len(chain.journal), chain.status) == (1, CardStatus.ISSUED)
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")
    assert books(chain) == (0, 0, 0)


def test_each_merchant_has_its_chain() -> None:
    ids = {suspense_card_id(terminal.merchant_id) for terminal in (TILL, OTHER_TILL, NETWORK)}
    assert len(ids) == 3
    chain = suspense_chain(OTHER_TILL.merchant_id)
    chain.send(make_advice(70, card_unknown=True, terminal=OTHER_TILL))
    assert books(chain, OTHER_TILL.merchant_id) == (70, 0, -70)


# An offline sale undone


def test_an_offline_sale_goes_back_to_the_very_lots() -> None:
    chain = promo_card()
    request = make_advice(420)
    chain.send(request)
    assert said(chain.send(make_reversal(request, final_minor=100))) == ("00", "PARTIAL")
    assert lots_of(chain) == {1: 200, 2: 700}
    back = make_request(Operation.RETURN, 60, original=request.transaction_id)
    chain.send(back)
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")
    assert chain.last.amount_minor == 40
    assert (lots_of(chain), books(chain)) == ({1: 300, 2: 700}, (0, 0, 0))
    assert said(chain.send(make_reversal(request))) == ("00", "ALREADY")
    assert chain.send(again(request)).rule is Rule.REVERSED


def test_the_shortfall_of_an_offline_sale_is_undone_before_the_cards_part() -> None:
    chain = make_chain(available_minor=100)
    request = make_advice(400)
    chain.send(request)
    for final_minor, shortfall_minor, available_minor in ((250, -150, 0), (100, 0, 0), (0, 0, 100)):
        answer = chain.send(make_reversal(request, final_minor=final_minor))
        assert said(answer) == ("00", "PARTIAL" if final_minor else "REVERSED")
        assert books(chain) == (final_minor, shortfall_minor, 0)
        assert chain.available_minor == available_minor
    assert chain.status is CardStatus.FROZEN


def test_a_return_gives_no_more_than_the_card_has_paid() -> None:
    chain = make_chain(available_minor=100)
    request = make_advice(400)
    chain.send(request)
    state = chain.card_state
    state.status = CardStatus.ACTIVE  # as staff would thaw it
    chain.state = msgspec.msgpack.encode(state)
    tx = request.transaction_id
    refused = chain.send(make_request(Operation.RETURN, 101, original=tx))
    assert (refused.response, refused.rule) == ("13", Rule.RESTORABLE)
    assert chain.send(make_request(Operation.RETURN, 100, original=tx)).response == "00"
    assert (chain.available_minor, books(chain)) == (100, (300, -300, 0))


def test_what_is_in_suspense_is_undone_there() -> None:
    chain = promo_card()
    request = make_advice(6_000)
    chain.send(request)
    tx = request.transaction_id
    assert chain.send(make_request(Operation.RETURN, 1, original=tx)).rule is Rule.RESTORABLE
    assert said(chain.send(make_reversal(request, final_minor=4_000))) == ("00", "PARTIAL")
    assert books(chain) == (4_000, 0, -4_000)
    assert said(chain.send(make_reversal(request, final_minor=4_000))) == ("00", "ALREADY")
    assert chain.send(make_reversal(request, final_minor=4_001)).response == "13"
    assert chain.send(again(request)).rule is Rule.FLOOR_LIMIT
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")
    assert (books(chain), chain.available_minor) == ((0, 0, 0), 1_000)
    assert said(chain.send(make_reversal(request))) == ("00", "ALREADY")
    assert chain.send(again(request)).rule is Rule.REVERSED
