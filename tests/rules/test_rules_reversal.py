"""Reversals: the table of the dialect's section 4, row by row, for every operation there is."""

from __future__ import annotations

import pytest
from builders import (
    NOW_S,
    POLICY,
    SERVICE_DESK,
    TILL,
    Chain,
    account_minor,
    again,
    card_effect_minor,
    make_chain,
    make_facts,
    make_request,
    make_reversal,
)

from rules.authorize import lacks_history
from rules.cards import CardState, CardStatus
from rules.ledger import AccountKind, Answer
from rules.lots import Lot, Origin
from rules.money import Purse
from rules.requests import CardRequest, Operation, ReversalReason
from rules.responses import Response, ReversalState, Rule

TIME_OUT, CUSTOMER = ReversalReason.TIME_OUT, ReversalReason.CUSTOMER
MERCHANT = ReversalReason.MERCHANT
REVERSED, PARTIAL = ReversalState.REVERSED, ReversalState.PARTIAL
ALREADY, NOTHING, LATE = ReversalState.ALREADY, ReversalState.NOTHING, ReversalState.LATE

BEFORE = {
    Operation.UNLOCK: CardStatus.ISSUED,
    Operation.ACTIVATE: CardStatus.UNLOCKED,
    Operation.ACTIVATE_PREVALUED: CardStatus.ISSUED,
    Operation.LOAD: CardStatus.ACTIVE,
    Operation.REDEEM: CardStatus.ACTIVE,
    Operation.RETURN: CardStatus.ACTIVE,
    Operation.CASH_OUT: CardStatus.ACTIVE,
    Operation.DEACTIVATE: CardStatus.ACTIVE,
    Operation.BLOCK: CardStatus.ACTIVE,
    Operation.UNBLOCK: CardStatus.BLOCKED,
    Operation.HOLD: CardStatus.ACTIVE,
    Operation.ADVICE: CardStatus.ACTIVE,
}
CREDITS = (Operation.ACTIVATE, Operation.ACTIVATE_PREVALUED, Operation.LOAD, Operation.RETURN)
VALUE = (*CREDITS, Operation.REDEEM, Operation.CASH_OUT, Operation.HOLD, Operation.ADVICE)
DECLINABLE = tuple(operation for operation in BEFORE if operation is not Operation.ADVICE)
LOTS = (Lot(1, 300, Origin.PROMO, cashable=False, expires_day=20_900, sponsor_id=8), Lot(2, 700))


def prepared(operation: Operation) -> tuple[Chain, CardRequest]:
    """A card with promotional and paid value, and a request of 500 that it would approve."""
    lots = [Lot(*(getattr(lot, name) for name in Lot.__struct_fields__)) for lot in LOTS]
    chain = make_chain(BEFORE[operation], lots=lots, facts=make_facts(face_value_minor=500))
    amount_minor = 500 if operation in VALUE else 0
    return chain, make_request(operation, amount_minor, terminal=SERVICE_DESK)


def state_of(chain: Chain) -> tuple[CardStatus, int, list[Lot]]:
    held = chain.card_state.ecash
    return chain.status, held.available_minor, sorted(held.lots, key=lambda lot: lot.lot_id)


def said(answer: Answer) -> tuple[str, str]:
    return answer.response.value, answer.reversal_state.value


# The original is approved and unreversed


@pytest.mark.parametrize("reason", ReversalReason)
@pytest.mark.parametrize("operation", BEFORE)
def test_an_approved_original_is_undone_to_the_very_lots(
    operation: Operation, reason: ReversalReason
) -> None:
    chain, request = prepared(operation)
    before = state_of(chain)
    assert chain.send(request).response is Response.APPROVED
    assert state_of(chain) != before
    reversal = make_reversal(request, reason=reason)
    answer = chain.send(reversal)
    assert said(answer) == ("00", "REVERSED")
    assert state_of(chain) == before
    assert answer.approval_code == reversal.transaction_id[-6:]
    assert answer.balances == "" and answer.rule is Rule.NONE
    assert chain.last.undoes == len(chain.journal) - 1
    assert sum(map(card_effect_minor, chain.journal)) == 0
    assert account_minor(chain.journal, AccountKind.MERCHANT, 501) == 0
    assert account_minor(chain.journal, AccountKind.SHORTFALL, 501) == 0


@pytest.mark.parametrize("purse", Purse)
def test_value_goes_back_to_the_purse_it_came_from(purse: Purse) -> None:
    chain = make_chain(available_minor=600, purse=purse)
    request = make_request(Operation.REDEEM, 600, purse=purse)
    chain.send(request)
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")
    assert [chain.card_state.purse(p).available_minor for p in Purse] == [
        600 if p is purse else 0 for p in Purse
    ]


@pytest.mark.parametrize("status", CardStatus)
def test_no_status_and_no_expiry_refuses_a_reversal(status: CardStatus) -> None:
    chain = make_chain(available_minor=600)
    request = make_request(Operation.REDEEM, 600)
    chain.send(request)
    state = chain.card_state
    state.status = status
    twin = Chain(state, make_facts(expiry="2001"))
    twin.journal, twin.window = chain.journal, chain.window
    assert said(twin.send(make_reversal(request))) == ("00", "REVERSED")
    assert twin.available_minor == 600
    assert twin.status is status


def test_a_load_gives_back_its_own_lot_before_all_others() -> None:
    lots = [Lot(1, 500, Origin.PROMO, cashable=False, expires_day=20_800)]
    chain = make_chain(lots=lots)
    request = make_request(Operation.LOAD, 300)
    chain.send(request)
    chain.send(make_reversal(request))
    assert chain.card_state.ecash.lots == lots


def test_a_pre_valued_card_that_was_reversed_can_be_activated_again() -> None:
    chain = make_chain(CardStatus.ISSUED, 0, facts=make_facts(face_value_minor=900))
    request = make_request(Operation.ACTIVATE_PREVALUED)
    chain.send(request)
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")
    assert chain.status is CardStatus.ISSUED
    assert chain.send(make_request(Operation.ACTIVATE_PREVALUED)).response == "00"
    assert chain.available_minor == 900


# DE 95: a partial reversal


@pytest.mark.parametrize("operation", VALUE)
def test_down_to_the_final_amount(operation: Operation) -> None:
    chain, request = prepared(operation)
    before_minor = chain.available_minor
    chain.send(request)
    change_minor = chain.available_minor - before_minor
    status = chain.status
    assert said(chain.send(make_reversal(request, final_minor=200))) == ("00", "PARTIAL")
    assert chain.available_minor - before_minor == change_minor * 200 // 500
    assert chain.last.amount_minor == 300
    assert chain.status is status
    assert said(chain.send(make_reversal(request, final_minor=200))) == ("00", "ALREADY")
    assert chain.send(make_reversal(request, final_minor=201)).response == "13"
    assert said(chain.send(make_reversal(request, final_minor=50))) == ("00", "PARTIAL")
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")
    assert chain.available_minor == before_minor
    assert said(chain.send(make_reversal(request))) == ("00", "ALREADY")
    assert chain.available_minor == before_minor


def test_a_final_amount_of_zero_is_a_full_reversal() -> None:
    chain, request = prepared(Operation.ACTIVATE)
    before = state_of(chain)
    chain.send(request)
    assert said(chain.send(make_reversal(request, final_minor=0))) == ("00", "REVERSED")
    assert state_of(chain) == before


@pytest.mark.parametrize(
    ("final_minor", "heard"),
    [(501, ("13", "")), (500, ("00", "ALREADY")), (499, ("00", "PARTIAL"))],
)
def test_a_final_amount_is_at_most_what_is_left(final_minor: int, heard: tuple[str, str]) -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(request)
    answer = chain.send(make_reversal(request, final_minor=final_minor))
    assert said(answer) == heard
    assert chain.available_minor == (501 if heard[1] == "PARTIAL" else 500)


# Reversed before


@pytest.mark.parametrize("operation", BEFORE)
def test_reversed_before(operation: Operation) -> None:
    chain, request = prepared(operation)
    chain.send(request)
    reversal = make_reversal(request)
    first = chain.send(reversal)
    after, links = state_of(chain), len(chain.journal)
    assert chain.send(again(reversal)) == first
    assert len(chain.journal) == links
    for reason in ReversalReason:
        assert said(chain.send(make_reversal(request, reason=reason))) == ("00", "ALREADY")
    assert state_of(chain) == after


# The original is unknown


@pytest.mark.parametrize("operation", BEFORE)
def test_an_unknown_original_is_barred(operation: Operation) -> None:
    chain, request = prepared(operation)
    before = state_of(chain)
    reversal = make_reversal(request)
    answer = chain.send(reversal)
    assert said(answer) == ("00", "NOTHING")
    assert [link.key for link in chain.journal] == [request.key, reversal.key]
    late = chain.send(request)
    assert (late.response, late.rule) == (Response.REFUSED, Rule.BARRED)
    assert late.approval_code == "" and late.balances == ""
    assert late.transaction_id not in (answer.transaction_id, request.transaction_id)
    assert state_of(chain) == before
    assert chain.send(again(request)) == late
    assert said(chain.send(make_reversal(request))) == ("00", "NOTHING")
    assert chain.send(again(reversal)) == answer
    assert len(chain.journal) == 3


def test_barred_whatever_the_original_asks_for() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(make_reversal(request))
    other = again(request, amount_minor=1, fingerprint=b"other")
    assert chain.send(other).rule is Rule.BARRED


def test_barred_in_the_same_batch() -> None:
    chain, request = prepared(Operation.REDEEM)
    answers = chain.batch(make_reversal(request), request, again(request))
    assert [answer.response for answer in answers] == ["00", "05", "05"]
    assert chain.available_minor == 1_000


def test_barred_still_when_the_window_has_forgotten() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(make_reversal(request))
    for _ in range(20):
        chain.send(make_request(Operation.LOAD, 1))
    assert chain.open().window.find(request.key) is None
    assert chain.send(request).rule is Rule.BARRED


def test_a_key_under_another_card_bars_nothing() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.keys_elsewhere = frozenset({request.key})
    answer = chain.send(make_reversal(request))
    assert (answer.response, answer.rule) == (Response.DUPLICATE_DIFFERS, Rule.OTHER_CARD)
    assert chain.journal == []
    assert chain.send(request).response is Response.APPROVED


def test_a_key_under_this_card_and_another_is_this_cards() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(request)
    chain.keys_elsewhere = frozenset({request.key})
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")


# Declined originals, enquiries, reversals


@pytest.mark.parametrize("operation", DECLINABLE)
def test_a_declined_original_leaves_nothing_to_do(operation: Operation) -> None:
    chain, request = prepared(operation)
    state = chain.card_state
    state.status = CardStatus.LOST
    chain = Chain(state, make_facts())
    declined = chain.send(request)
    assert declined.response is Response.LOST
    assert said(chain.send(make_reversal(request))) == ("00", "NOTHING")
    assert len(chain.journal) == 2
    assert chain.send(again(request)) == declined


@pytest.mark.parametrize("asked", [True, False])
def test_an_enquiry_leaves_nothing_to_do(asked: bool) -> None:
    chain = make_chain()
    request = make_request(Operation.BALANCE)
    if asked:
        chain.send(request)
    assert said(chain.send(make_reversal(request))) == ("00", "NOTHING")
    assert [link.operation for link in chain.journal] == [Operation.REVERSAL]
    assert chain.send(request).response is Response.APPROVED


@pytest.mark.parametrize("operation", BEFORE)
def test_a_reversal_is_final(operation: Operation) -> None:
    """Undoing it would move the original's value a second time."""
    chain, request = prepared(operation)
    chain.send(request)
    reversal = make_reversal(request)
    chain.send(reversal)
    after = state_of(chain)
    assert said(chain.send(make_reversal(reversal))) == ("00", "NOTHING")
    assert state_of(chain) == after
    assert said(chain.send(make_reversal(request))) == ("00", "ALREADY")
    assert state_of(chain) == after


# A load or an activation, spent meanwhile


@pytest.mark.parametrize("operation", CREDITS)
def test_spent_meanwhile_after_a_time_out(operation: Operation) -> None:
    chain = make_chain(BEFORE[operation], 0, facts=make_facts(face_value_minor=500))
    request = make_request(operation, 500, terminal=SERVICE_DESK)
    chain.send(request)
    chain.send(make_request(Operation.REDEEM, 380))
    reversal = make_reversal(request)
    answer = chain.send(reversal)
    assert said(answer) == ("00", "PARTIAL")
    assert chain.available_minor == 0
    assert chain.card_state.ecash.lots == []
    assert chain.status is CardStatus.FROZEN
    link = chain.last
    assert (link.amount_minor, link.effect_minor) == (500, -120)
    assert card_effect_minor(link) == -120
    assert account_minor(chain.journal, AccountKind.SHORTFALL, 501) == -380
    assert account_minor(chain.journal, AccountKind.MERCHANT, 501) == 380
    assert chain.send(again(reversal)) == answer
    assert said(chain.send(make_reversal(request))) == ("00", "ALREADY")
    assert account_minor(chain.journal, AccountKind.SHORTFALL, 501) == -380
    assert chain.send(make_request(Operation.LOAD, 1_000)).response == "62"


def test_all_of_it_spent() -> None:
    chain = make_chain(available_minor=0)
    request = make_request(Operation.LOAD, 500)
    chain.send(request)
    chain.send(make_request(Operation.REDEEM, 500))
    assert said(chain.send(make_reversal(request))) == ("00", "PARTIAL")
    assert chain.last.moves == ()
    assert chain.last.effect_minor == 0
    assert account_minor([chain.last], AccountKind.SHORTFALL, 501) == -500


def test_the_shortfall_is_of_the_merchant_that_loaded() -> None:
    chain = make_chain(available_minor=0)
    request = make_request(Operation.LOAD, 500, terminal=SERVICE_DESK)
    chain.send(request)
    chain.send(make_request(Operation.REDEEM, 500, terminal=TILL))
    chain.send(make_reversal(request))
    posting = chain.last.postings[0]
    assert (posting.debit_kind, posting.debit_id) == (AccountKind.SHORTFALL, 501)
    assert (posting.credit_kind, posting.credit_id) == (AccountKind.MERCHANT, 501)


@pytest.mark.parametrize("reason", [CUSTOMER, MERCHANT])
@pytest.mark.parametrize("operation", CREDITS)
def test_spent_meanwhile_for_any_other_reason(operation: Operation, reason: ReversalReason) -> None:
    chain = make_chain(BEFORE[operation], 0, facts=make_facts(face_value_minor=500))
    request = make_request(operation, 500, terminal=SERVICE_DESK)
    chain.send(request)
    chain.send(make_request(Operation.REDEEM, 1))
    before = state_of(chain)
    answer = chain.send(make_reversal(request, reason=reason))
    assert (said(answer), answer.rule) == (("05", ""), Rule.SPENT)
    assert state_of(chain) == before
    assert chain.last.postings == () and chain.last.moves == ()
    # The customer brings it back: now there is enough, and the reversal may come again.
    chain.send(make_request(Operation.LOAD, 1))
    assert said(chain.send(make_reversal(request, reason=reason))) == ("00", "REVERSED")


@pytest.mark.parametrize("reason", ReversalReason)
def test_a_load_whose_lot_was_spent_is_taken_from_the_others(reason: ReversalReason) -> None:
    chain = make_chain(available_minor=400)
    request = make_request(Operation.LOAD, 500)
    chain.send(request)
    chain.send(make_request(Operation.REDEEM, 400))
    assert said(chain.send(make_reversal(request, reason=reason))) == ("00", "REVERSED")
    assert chain.available_minor == 0
    assert chain.status is CardStatus.ACTIVE


def test_a_partial_reversal_takes_part_and_no_more() -> None:
    chain = make_chain(available_minor=0)
    request = make_request(Operation.LOAD, 500)
    chain.send(request)
    chain.send(make_request(Operation.REDEEM, 400))
    spent = chain.send(make_reversal(request, reason=CUSTOMER, final_minor=399))
    assert spent.rule is Rule.SPENT
    answer = chain.send(make_reversal(request, reason=CUSTOMER, final_minor=400))
    assert said(answer) == ("00", "PARTIAL")
    assert (chain.available_minor, chain.status) == (0, CardStatus.ACTIVE)


def test_an_activation_taken_back_in_part_leaves_the_card_active() -> None:
    chain, request = prepared(Operation.ACTIVATE)
    chain.send(request)
    chain.send(make_reversal(request, final_minor=1))
    assert chain.status is CardStatus.ACTIVE


@pytest.mark.parametrize("lifted_by_reversal", [True, False])
def test_a_blocked_card_stays_blocked_when_its_activation_is_undone(
    lifted_by_reversal: bool,
) -> None:
    """And when the block is lifted, by an unblocking or by its own reversal, it is not active."""
    chain, request = prepared(Operation.ACTIVATE)
    chain.send(request)
    block = make_request(Operation.BLOCK)
    chain.send(block)
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")
    assert chain.status is CardStatus.BLOCKED
    chain.send(make_reversal(block) if lifted_by_reversal else make_request(Operation.UNBLOCK))
    assert chain.status is BEFORE[Operation.ACTIVATE]


@pytest.mark.parametrize("operation", [Operation.UNLOCK, Operation.BLOCK, Operation.UNBLOCK])
def test_a_status_that_has_moved_on_stays(operation: Operation) -> None:
    chain, request = prepared(operation)
    chain.send(request)
    state = chain.card_state
    state.status = CardStatus.CLOSED
    twin = Chain(state, make_facts())
    twin.journal, twin.window = chain.journal, chain.window
    assert said(twin.send(make_reversal(request))) == ("00", "NOTHING")
    assert twin.status is CardStatus.CLOSED


# Too late


@pytest.mark.parametrize("reason", ReversalReason)
@pytest.mark.parametrize("known", [True, False])
def test_older_than_the_horizon(known: bool, reason: ReversalReason) -> None:
    chain, request = prepared(Operation.REDEEM)
    if known:
        chain.send(request)
    chain.now_s = NOW_S + POLICY.horizon_s
    on_time, one_too_late = make_reversal(request, final_minor=499), make_reversal(request)
    if known:
        assert said(chain.send(on_time)) == ("00", "PARTIAL")
    before, links = state_of(chain), len(chain.journal)
    chain.now_s += 1
    answer = chain.send(again(one_too_late, reason=reason))
    assert (said(answer), answer.rule) == (("05", "LATE"), Rule.LATE)
    assert state_of(chain) == before
    assert len(chain.journal) == links + 1  # nothing is barred
    assert chain.send(again(one_too_late, reason=reason)) == answer


def test_without_an_instant_nothing_is_too_late() -> None:
    chain = make_chain(available_minor=600)
    request = make_request(Operation.REDEEM, 600, instant_s=0)
    chain.send(request)
    assert said(chain.send(make_reversal(request))) == ("00", "REVERSED")


# DE 4 of a reversal


@pytest.mark.parametrize(
    ("amount_minor", "heard"),
    [
        (900, ("00", "REVERSED")),
        (600, ("00", "REVERSED")),
        (0, ("00", "REVERSED")),
        (599, ("13", "")),
        (901, ("13", "")),
    ],
)
def test_de_4_is_the_requested_or_the_approved_amount(
    amount_minor: int, heard: tuple[str, str]
) -> None:
    chain = make_chain(available_minor=600)
    request = make_request(Operation.REDEEM, 900, partial_allowed=True)
    assert chain.send(request).response is Response.PARTIAL
    answer = chain.send(make_reversal(request, amount_minor=amount_minor))
    assert said(answer) == heard
    assert chain.available_minor == (0 if heard[0] == "13" else 600)


def test_de_4_of_a_cash_out_that_named_none() -> None:
    chain = make_chain(available_minor=600)
    request = make_request(Operation.CASH_OUT)
    chain.send(request)
    assert chain.send(make_reversal(request, amount_minor=599)).response == "13"
    assert said(chain.send(make_reversal(request, amount_minor=600))) == ("00", "REVERSED")


def test_a_declined_original_has_no_amount_to_fit() -> None:
    chain = make_chain(available_minor=600)
    request = make_request(Operation.REDEEM, 900)
    chain.send(request)
    assert said(chain.send(make_reversal(request, amount_minor=1))) == ("00", "NOTHING")


def test_a_reversal_always_asks_the_journal() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(request)
    assert lacks_history(make_reversal(request), chain.open())


def test_a_new_card_without_a_link_takes_a_reversal() -> None:
    chain = Chain(CardState.new(), make_facts())
    request = make_request(Operation.ACTIVATE, 500)
    assert said(chain.send(make_reversal(request))) == ("00", "NOTHING")
    assert chain.send(request).rule is Rule.BARRED
    assert chain.status is CardStatus.ISSUED
