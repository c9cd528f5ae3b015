"""Holds: value set aside, pinned to its lots, and given back to those very lots."""

from __future__ import annotations

import pytest
from builders import (
    CARD_ID,
    NOW_S,
    OTHER_TILL,
    POLICY,
    TILL,
    Chain,
    account_minor,
    again,
    card_effect_minor,
    make_advice,
    make_chain,
    make_expiry,
    make_request,
    make_reversal,
)

from rules.authorize import lacks_history
from rules.booking import Policy
from rules.cards import CardStatus, Hold
from rules.holds import HOLDS_MAX, find_hold, split_pinned
from rules.ledger import AccountKind, Answer
from rules.lots import Lot, LotMove, Origin
from rules.money import AMOUNT_MINOR_MAX, Purse
from rules.requests import CardRequest, Operation, ReversalReason
from rules.responses import Response, Rule


def said(answer: Answer) -> tuple[str, str]:
    return answer.response.value, answer.reversal_state.value


def lots_of(chain: Chain) -> dict[int, int]:
    return {lot.lot_id: lot.available_minor for lot in chain.card_state.ecash.lots}


def pins_of(chain: Chain) -> list[dict[int, int]]:
    return [{m.lot_id: -m.amount_minor for m in hold.pinned} for hold in chain.card_state.holds]


def promo_card() -> Chain:
    """300 of promotional value, spent first, and 700 paid."""
    promo = Lot(1, 300, Origin.PROMO, cashable=False, expires_day=20_900, sponsor_id=8)
    return make_chain(lots=[promo, Lot(2, 700)])


def held(amount_minor: int = 500, **changes: object) -> tuple[Chain, CardRequest]:
    chain = promo_card()
    hold = make_request(Operation.HOLD, amount_minor, **changes)
    assert chain.send(hold).response in (Response.APPROVED, Response.PARTIAL)
    return chain, hold


# The hold


def test_a_hold_moves_value_from_available_to_held_and_posts_nothing() -> None:
    chain, hold = held(500)
    link = chain.last
    assert (link.operation, link.amount_minor, link.effect_minor) == (Operation.HOLD, 500, -500)
    assert (link.available_after_minor, link.held_after_minor) == (500, 500)
    assert link.postings == () and link.undoes == 0
    assert lots_of(chain) == {2: 500}
    (opened,) = chain.card_state.holds
    assert opened.pinned == link.moves
    assert (opened.version, opened.purse, opened.amount_minor) == (1, Purse.ECASH, 500)
    assert opened.expires_s == NOW_S + POLICY.hold_s
    assert pins_of(chain) == [{1: 300, 2: 200}]
    answer = link.answer
    assert answer.approval_code == hold.transaction_id[-6:]
    assert answer.balances == "6001978C000000001000" + "6002978C000000000500"
    assert (answer.amount_minor, answer.requested_minor, answer.rule) == (None, None, Rule.NONE)


def test_the_programme_says_how_long_a_hold_lasts() -> None:
    chain = make_chain(policy=Policy(hold_s=60))
    chain.send(make_request(Operation.HOLD, 1))
    assert chain.card_state.holds[0].expires_s == NOW_S + 60


@pytest.mark.parametrize("operation", [Operation.REDEEM, Operation.HOLD, Operation.CASH_OUT])
def test_what_is_held_is_not_there_for_others(operation: Operation) -> None:
    chain, _ = held(500)
    assert chain.send(make_request(operation, 501)).response is Response.INSUFFICIENT
    assert chain.send(make_request(operation, 500)).response is Response.APPROVED
    assert chain.held_minor == (1_000 if operation is Operation.HOLD else 500)


@pytest.mark.parametrize("partial", [True, False])
def test_more_than_there_is(partial: bool) -> None:
    chain = promo_card()
    answer = chain.send(make_request(Operation.HOLD, 1_500, partial_allowed=partial))
    if partial:
        assert answer.response is Response.PARTIAL
        assert (answer.amount_minor, answer.requested_minor) == (1_000, 1_500)
        assert answer.balances == "6001978C000000001000" + "6002978C000000000000"
        assert (chain.available_minor, chain.held_minor) == (0, 1_000)
        assert (chain.last.requested_minor, chain.last.amount_minor) == (1_500, 1_000)
    else:
        assert (answer.response, answer.rule) == (Response.INSUFFICIENT, Rule.FUNDS)
        assert (chain.available_minor, chain.held_minor, pins_of(chain)) == (1_000, 0, [])
    empty = make_chain(available_minor=0)
    refused = empty.send(make_request(Operation.HOLD, 1, partial_allowed=partial))
    assert (refused.response, refused.rule) == (Response.INSUFFICIENT, Rule.FUNDS)


def test_all_there_is_may_be_held_and_is_approved_wholly() -> None:
    chain, _ = held(1_000, partial_allowed=True)
    assert chain.last.answer.response is Response.APPROVED
    assert chain.card_state.ecash.lots == []


def test_several_holds_pin_each_their_own() -> None:
    chain = promo_card()
    for amount_minor in (100, 250, 400):
        chain.send(make_request(Operation.HOLD, amount_minor))
    assert pins_of(chain) == [{1: 100}, {1: 200, 2: 50}, {2: 400}]
    assert (chain.available_minor, chain.held_minor) == (250, 750)


def test_a_card_has_so_many_open_holds_and_no_more() -> None:
    chain = make_chain()
    holds = [make_request(Operation.HOLD, 10) for _ in range(HOLDS_MAX + 1)]
    answers = [chain.send(hold) for hold in holds]
    assert {answer.response for answer in answers[:-1]} == {Response.APPROVED}
    assert (answers[-1].response, answers[-1].rule) == ("65", Rule.HOLDS)
    assert len(chain.card_state.holds) == HOLDS_MAX
    chain.send(make_reversal(holds[3]))
    assert chain.send(make_request(Operation.HOLD, 10)).response is Response.APPROVED


def test_held_value_counts_toward_what_a_purse_may_hold() -> None:
    chain = make_chain(available_minor=AMOUNT_MINOR_MAX - 500)
    chain.send(make_request(Operation.HOLD, 10_000))
    assert chain.send(make_request(Operation.LOAD, 501)).rule is Rule.BALANCE_LIMIT
    assert chain.send(make_request(Operation.LOAD, 500)).response is Response.APPROVED


@pytest.mark.parametrize("purse", Purse)
def test_a_hold_is_of_its_purse(purse: Purse) -> None:
    chain = make_chain(available_minor=600, purse=purse)
    hold = make_request(Operation.HOLD, 400, purse=purse)
    assert chain.send(hold).balances.startswith(f"{purse:02d}01")
    state = chain.card_state
    assert [state.purse(p).held_minor for p in Purse] == [400 if p is purse else 0 for p in Purse]
    other = Purse.VOUCHER if purse is Purse.ECASH else Purse.ECASH
    chain.send(make_advice(100, hold=hold, purse=other))
    assert len(chain.card_state.holds) == 1  # it named the hold of a purse it is not about
    chain.send(make_advice(100, hold=hold))
    state = chain.card_state
    assert state.holds == []
    assert (state.purse(purse).available_minor, state.purse(purse).held_minor) == (500, 0)


# Its repeat


def test_a_repeat_of_a_hold_hears_the_first_answer_whatever_became_of_it() -> None:
    for end in ("open", "lowered", "completed", "lowered and completed", "expired"):
        chain, hold = held(500)
        first = chain.last.answer
        if "lowered" in end:
            chain.send(make_reversal(hold, final_minor=200))
        if "completed" in end:
            chain.send(make_advice(200, hold=hold))
        if end == "expired":
            chain.hold_expires()
            chain.send(make_expiry(1))
        state, links = chain.state, len(chain.journal)
        assert chain.send(again(hold)) == first, end
        assert (chain.state, len(chain.journal)) == (state, links)


# Reversal of a hold


@pytest.mark.parametrize("reason", ReversalReason)
def test_a_reversed_hold_goes_back_to_the_very_lots(reason: ReversalReason) -> None:
    chain, hold = held(500)
    chain.send(make_request(Operation.LOAD, 40))
    answer = chain.send(make_reversal(hold, reason=reason))
    assert said(answer) == ("00", "REVERSED")
    assert answer.balances == ""
    assert lots_of(chain) == {1: 300, 2: 700, 3: 40}
    promo = next(lot for lot in chain.card_state.ecash.lots if lot.lot_id == 1)
    assert promo == Lot(1, 300, Origin.PROMO, cashable=False, expires_day=20_900, sponsor_id=8)
    assert (chain.held_minor, pins_of(chain)) == (0, [])
    link = chain.last
    assert (link.amount_minor, link.effect_minor, link.undoes) == (500, 500, 1)
    assert link.postings == ()
    assert chain.send(again(hold)).rule is Rule.REVERSED


def test_a_hold_is_lowered_by_a_final_amount_and_keeps_what_is_spent_first() -> None:
    chain, hold = held(500)
    assert said(chain.send(make_reversal(hold, final_minor=350))) == ("00", "PARTIAL")
    assert pins_of(chain) == [{1: 300, 2: 50}]
    assert said(chain.send(make_reversal(hold, final_minor=350))) == ("00", "ALREADY")
    refused = chain.send(make_reversal(hold, final_minor=351))
    assert (refused.response, refused.rule) == (Response.INVALID_AMOUNT, Rule.AMOUNT)
    assert said(chain.send(make_reversal(hold, final_minor=120))) == ("00", "PARTIAL")
    assert pins_of(chain) == [{1: 120}]
    assert (chain.available_minor, chain.held_minor) == (880, 120)
    opened = chain.card_state.holds[0]
    assert (opened.version, opened.expires_s) == (1, NOW_S + POLICY.hold_s)
    assert said(chain.send(make_reversal(hold))) == ("00", "REVERSED")
    assert chain.last.amount_minor == 120
    assert lots_of(chain) == {1: 300, 2: 700}


def test_reversed_twice() -> None:
    chain, hold = held(500)
    reversal = make_reversal(hold)
    first = chain.send(reversal)
    assert chain.send(again(reversal)) == first
    for final_minor in (None, 0, 100):
        answer = chain.send(make_reversal(hold, final_minor=final_minor))
        assert said(answer) == ("00", "ALREADY")
    assert (chain.available_minor, chain.held_minor) == (1_000, 0)


@pytest.mark.parametrize("undone", [True, False])
@pytest.mark.parametrize("amount_minor", [0, 300, 500, 900])
def test_reversed_after_its_completion(amount_minor: int, undone: bool) -> None:
    chain, hold = held(500)
    completion = make_advice(amount_minor, hold=hold)
    chain.send(completion)
    if undone:
        chain.send(make_reversal(completion))
    before = chain.card_state.ecash
    for final_minor in (None, 100):
        answer = chain.send(make_reversal(hold, final_minor=final_minor))
        assert said(answer) == ("00", "NOTHING")
    assert chain.card_state.ecash == before


def test_reversed_after_its_expiry_it_has_been_given_back_already() -> None:
    chain, hold = held(500)
    chain.hold_expires()
    chain.send(make_expiry(1))
    assert said(chain.send(make_reversal(hold))) == ("00", "ALREADY")
    assert lots_of(chain) == {1: 300, 2: 700}


def test_one_of_several_is_given_back() -> None:
    chain = promo_card()
    holds = [make_request(Operation.HOLD, 250) for _ in range(3)]
    chain.batch(*holds)
    chain.send(make_reversal(holds[1]))
    assert pins_of(chain) == [{1: 250}, {2: 250}]
    assert lots_of(chain) == {1: 50, 2: 450}
    chain.batch(make_reversal(holds[0]), make_reversal(holds[2]))
    assert lots_of(chain) == {1: 300, 2: 700}


@pytest.mark.parametrize("amount_minor", [1_500, 1_000, 0])
def test_a_partly_approved_hold_is_reversed_under_either_amount(amount_minor: int) -> None:
    chain, hold = held(1_500, partial_allowed=True)
    assert chain.send(make_reversal(hold, amount_minor=999)).response == "13"
    answer = chain.send(make_reversal(hold, amount_minor=amount_minor))
    assert said(answer) == ("00", "REVERSED")
    assert chain.available_minor == 1_000


@pytest.mark.parametrize("status", CardStatus)
def test_no_status_keeps_a_hold_from_being_given_back(status: CardStatus) -> None:
    chain, hold = held(500)
    state = chain.card_state
    state.status = status
    twin = Chain(state)
    twin.journal, twin.window = chain.journal, chain.window
    assert said(twin.send(make_reversal(hold))) == ("00", "REVERSED")
    assert (twin.available_minor, twin.held_minor, twin.status) == (1_000, 0, status)


def test_a_load_is_not_taken_back_out_of_a_hold() -> None:
    chain = make_chain(available_minor=0)
    load = make_request(Operation.LOAD, 500)
    hold = make_request(Operation.HOLD, 400)
    chain.batch(load, hold)
    assert chain.send(make_reversal(load, reason=ReversalReason.CUSTOMER)).rule is Rule.SPENT
    assert said(chain.send(make_reversal(load))) == ("00", "PARTIAL")
    assert (chain.available_minor, chain.held_minor) == (0, 400)
    assert chain.status is CardStatus.FROZEN
    assert account_minor(chain.journal, AccountKind.SHORTFALL, 501) == -400
    assert chain.send(make_advice(400, hold=hold)).rule is Rule.NONE
    assert card_effect_minor(chain.last) == -400


# Expiry


def test_a_hold_whose_time_is_over_is_given_back_to_its_lots() -> None:
    chain, _ = held(500)
    chain.hold_expires()
    sweep = make_expiry(1)
    first = chain.send(sweep)
    assert first.response is Response.APPROVED
    link = chain.last
    assert (link.operation, link.amount_minor, link.effect_minor, link.undoes) == (
        *(Operation.HOLD_EXPIRY, 500, 500),
        1,
    )
    assert link.postings == ()
    assert lots_of(chain) == {1: 300, 2: 700}
    assert (chain.held_minor, pins_of(chain)) == (0, [])
    assert chain.send(again(sweep)) == first
    late = chain.send(make_expiry(1, round_number=2))
    assert (late.response, late.rule) == (Response.NO_SUCH_ORIGINAL, Rule.ORIGINAL)
    assert chain.available_minor == 1_000


def test_a_hold_whose_time_is_not_over_stays() -> None:
    chain, _ = held(500)
    chain.hold_expires(-1)
    answer = chain.send(make_expiry(1))
    assert (answer.response, answer.rule) == (Response.NO_SUCH_ORIGINAL, Rule.ORIGINAL)
    assert chain.last.effect_minor == 0
    assert pins_of(chain) == [{1: 300, 2: 200}]
    chain.now_s += 1
    assert chain.send(make_expiry(1, round_number=2)).response is Response.APPROVED


def test_of_a_lowered_hold_expires_what_is_left() -> None:
    chain, hold = held(500)
    chain.send(make_reversal(hold, final_minor=120))
    chain.hold_expires()
    chain.send(make_expiry(1))
    assert chain.last.amount_minor == 120
    assert lots_of(chain) == {1: 300, 2: 700}


@pytest.mark.parametrize("purse", Purse)
def test_the_sweeper_names_no_purse(purse: Purse) -> None:
    chain = make_chain(available_minor=600, purse=purse)
    chain.send(make_request(Operation.HOLD, 400, purse=purse))
    chain.hold_expires()
    assert chain.send(make_expiry(1)).response is Response.APPROVED
    state = chain.card_state
    assert [state.purse(p).available_minor for p in Purse] == [
        600 if p is purse else 0 for p in Purse
    ]
    assert (state.purse(purse).held_minor, chain.last.purse) == (0, purse)


@pytest.mark.parametrize("end", ["completed", "reversed"])
def test_the_sweeper_finds_nothing_where_the_hold_has_ended(end: str) -> None:
    chain, hold = held(500)
    chain.send(make_advice(200, hold=hold) if end == "completed" else make_reversal(hold))
    before = chain.card_state.ecash
    chain.hold_expires()
    assert chain.send(make_expiry(1)).response is Response.NO_SUCH_ORIGINAL
    assert chain.card_state.ecash == before


@pytest.mark.parametrize("status", CardStatus)
def test_a_hold_expires_on_a_card_in_any_status(status: CardStatus) -> None:
    chain, _ = held(500)
    state = chain.card_state
    state.status = status
    twin = Chain(state)
    twin.hold_expires()
    assert twin.send(make_expiry(1)).response is Response.APPROVED
    assert (twin.available_minor, twin.held_minor, twin.status) == (1_000, 0, status)


# The names of a hold


@pytest.mark.parametrize("by", ["tx", "code", "key"])
def test_a_completion_asks_the_journal_for_its_hold(by: str) -> None:
    chain, hold = held(500)
    assert lacks_history(make_advice(100, hold=hold, by=by), chain.open())
    for _ in range(20):
        chain.send(make_request(Operation.LOAD, 1))
    chain.send(make_advice(100, hold=hold, by=by))
    assert (chain.last.operation, chain.last.undoes) == (Operation.COMPLETION, 1)


def opened_card() -> tuple[Chain, list[CardRequest]]:
    chain = promo_card()
    holds = [
        make_request(Operation.HOLD, 100),
        make_request(Operation.HOLD, 100, terminal=OTHER_TILL),
        make_request(Operation.HOLD, 100),
    ]
    chain.batch(*holds)
    return chain, holds


def test_or_goes_before_de_38_and_de_38_before_de_90() -> None:
    chain, holds = opened_card()
    card = chain.open()
    for link in chain.journal:
        card.known[link.version] = link
    codes = [hold.transaction_id[-6:] for hold in holds]
    by_all = make_advice(
        1, hold=holds[0], by="tx", approval_code=codes[2], original_key=holds[2].key
    )
    by_code = make_advice(1, hold=holds[0], by="code", names_original=True)
    unknown = "0" * 12
    found = [
        find_hold(by_all, card),
        find_hold(again(by_code, original_key=holds[2].key), card),
        find_hold(again(by_code, approval_code="??????", original_key=holds[2].key), card),
        find_hold(again(by_all, original_transaction_id=unknown), card),
        find_hold(make_advice(1), card),
        find_hold(make_advice(1, original_key=holds[0].key), card),
    ]
    assert [link and link.version for link in found] == [1, 1, 3, None, None, None]


def test_an_approval_code_names_a_hold_of_its_own_merchant_alone() -> None:
    chain, holds = opened_card()
    chain.send(make_advice(60, hold=holds[1], by="code", terminal=TILL))
    assert (chain.last.operation, chain.last.undoes) == (Operation.ADVICE, 0)
    assert len(chain.card_state.holds) == 3
    chain.send(make_advice(60, hold=holds[1], by="code"))
    assert (chain.last.operation, chain.last.undoes) == (Operation.COMPLETION, 2)
    assert account_minor(chain.journal, AccountKind.MERCHANT, OTHER_TILL.merchant_id) == 60


@pytest.mark.parametrize("operation", [Operation.REDEEM, Operation.LOAD])
def test_what_is_no_hold_is_not_completed(operation: Operation) -> None:
    chain = make_chain(available_minor=1_000)
    other = make_request(operation, 500)
    chain.send(other)
    chain.send(make_advice(100, hold=other))
    assert chain.last.operation is Operation.ADVICE
    declined = make_request(Operation.HOLD, 9_999)
    chain.send(declined)
    chain.send(make_advice(100, hold=declined))
    assert chain.last.operation is Operation.ADVICE


def test_pins_are_used_in_the_order_of_spending() -> None:
    pins = tuple(LotMove(i, -minor, Origin.PAID, True, 0, 0) for i, minor in ((7, 30), (2, 50)))
    hold = Hold(1, Purse.ECASH, 80, 0, pins)
    for used_minor, used, rest in (
        (0, {}, {7: 30, 2: 50}),
        (30, {7: -30}, {2: 50}),
        (31, {7: -30, 2: -1}, {2: 49}),
        (80, {7: -30, 2: -50}, {}),
    ):
        parts = split_pinned(hold, used_minor)
        assert [{m.lot_id: m.amount_minor for m in part} for part in parts] == [used, rest]


def test_value_given_back_before_its_hold_was_made_stays_apart() -> None:
    """A hold's pins are its own: a return into the same lot does not grow them."""
    chain = promo_card()
    sale = make_request(Operation.REDEEM, 300)
    hold = make_request(Operation.HOLD, 200)
    chain.batch(sale, hold)
    chain.send(make_request(Operation.RETURN, 300, original=sale.transaction_id))
    assert (lots_of(chain), pins_of(chain)) == ({1: 300, 2: 500}, [{2: 200}])
    chain.send(make_advice(200, hold=hold))
    assert lots_of(chain) == {1: 300, 2: 500}
    assert account_minor(chain.journal, AccountKind.CARD, CARD_ID) == -200
