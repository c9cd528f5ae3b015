"""Outcome queries: the original's stored code, its state now, and what is barred for good."""

from __future__ import annotations

import pytest
from builders import (
    NOW_S,
    POLICY,
    SERVICE_DESK,
    Chain,
    again,
    make_advice,
    make_chain,
    make_expiry,
    make_facts,
    make_outcome,
    make_request,
    make_reversal,
)

from rules.authorize import lacks_history
from rules.cards import CardStatus
from rules.ledger import Answer
from rules.requests import CardRequest, Operation, ReversalReason
from rules.responses import OriginalState, Response, Rule

BARS = pytest.mark.parametrize("bar_unknown", [True, False])
STATUS_BEFORE = {
    Operation.UNLOCK: CardStatus.ISSUED,
    Operation.ACTIVATE: CardStatus.ISSUED,
    Operation.UNBLOCK: CardStatus.BLOCKED,
}
ASKED = (
    *(Operation.UNLOCK, Operation.ACTIVATE, Operation.LOAD, Operation.REDEEM, Operation.RETURN),
    *(Operation.CASH_OUT, Operation.DEACTIVATE, Operation.BLOCK, Operation.UNBLOCK),
    *(Operation.HOLD, Operation.ADVICE, Operation.COMPLETION),
)


def told(answer: Answer) -> tuple[str, str, str]:
    return answer.response.value, answer.original_response, answer.original_state.value


def ask(chain: Chain, original: CardRequest, *, bar_unknown: bool = False) -> Answer:
    return chain.send(make_outcome(original, bar_unknown=bar_unknown))


def prepared(operation: Operation) -> tuple[Chain, CardRequest]:
    chain = make_chain(STATUS_BEFORE.get(operation, CardStatus.ACTIVE), 1_000)
    if operation is Operation.COMPLETION:
        hold = make_request(Operation.HOLD, 600)
        chain.send(hold)
        return chain, make_advice(500, hold=hold)
    return chain, make_request(operation, 500, terminal=SERVICE_DESK)


@BARS
@pytest.mark.parametrize("between", [0, 20])
@pytest.mark.parametrize("operation", ASKED)
def test_approved_then_reversed(operation: Operation, between: int, bar_unknown: bool) -> None:
    chain, request = prepared(operation)
    first = chain.send(request)
    assert first.response is Response.APPROVED
    for _ in range(between):
        chain.send(make_request(Operation.REDEEM, 999_999))
    state, links = chain.state, len(chain.journal)
    query = make_outcome(request, bar_unknown=bar_unknown)
    assert lacks_history(query, chain.open())
    answer = chain.send(query)
    assert told(answer) == ("00", "00", "APPROVED")
    assert (answer.transaction_id, answer.rrn) == (query.transaction_id, query.transaction_id)
    assert (answer.approval_code, answer.balances) == (first.approval_code, first.balances)
    assert answer.amount_minor == 500
    assert answer.rule is Rule.NONE and answer.requested_minor is None
    assert (chain.state, len(chain.journal)) == (state, links)
    chain.send(make_reversal(request))
    later = chain.send(again(query))  # not a repeat that hears its first answer: the state now
    assert told(later) == ("00", "00", "REVERSED")
    assert (later.approval_code, later.amount_minor) == (first.approval_code, 500)
    assert len(chain.journal) == links + 1


@BARS
def test_declined(bar_unknown: bool) -> None:
    chain = make_chain(available_minor=100)
    request = make_request(Operation.REDEEM, 500)
    chain.send(request)
    chain.send(make_request(Operation.LOAD, 900))
    for _ in range(2):
        answer = ask(chain, request, bar_unknown=bar_unknown)
        assert told(answer) == ("00", "51", "DECLINED")
        assert (answer.amount_minor, answer.approval_code, answer.balances) == (500, "", "")
        chain.send(make_reversal(request))


def test_a_partial_approval_is_told_with_what_was_approved() -> None:
    chain = make_chain(available_minor=300)
    request = make_request(Operation.REDEEM, 500, partial_allowed=True)
    first = chain.send(request)
    answer = ask(chain, request)
    assert told(answer) == ("00", "10", "APPROVED")
    assert (answer.amount_minor, answer.balances) == (300, first.balances)


def test_reversed_in_part() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(request)
    chain.send(make_reversal(request, final_minor=200))
    assert told(ask(chain, request)) == ("00", "00", "PARTIAL")
    chain.send(make_reversal(request, final_minor=100))
    assert told(ask(chain, request)) == ("00", "00", "PARTIAL")
    chain.send(make_reversal(request))
    assert told(ask(chain, request)) == ("00", "00", "REVERSED")


def test_a_return_is_no_reversal() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(request)
    tx = request.transaction_id
    chain.send(make_request(Operation.RETURN, 500, original=tx))
    assert told(ask(chain, request)) == ("00", "00", "APPROVED")


def test_a_reversal_that_was_refused_has_changed_nothing() -> None:
    chain, request = prepared(Operation.LOAD)
    chain.send(request)
    chain.send(make_request(Operation.REDEEM, 1_400))
    chain.send(make_reversal(request, reason=ReversalReason.CUSTOMER))
    assert told(ask(chain, request)) == ("00", "00", "APPROVED")
    chain.send(make_reversal(request))  # 100 of it are there, the rest is shortfall
    assert told(ask(chain, request)) == ("00", "00", "PARTIAL")


@pytest.mark.parametrize("lowered", [True, False])
@pytest.mark.parametrize("end", ["open", "completed", "expired", "reversed"])
def test_a_hold(end: str, lowered: bool) -> None:
    chain, hold = prepared(Operation.HOLD)
    chain.send(hold)
    if lowered:
        chain.send(make_reversal(hold, final_minor=200))
    if end == "completed":
        chain.send(make_advice(200, hold=hold))
    elif end == "expired":
        chain.hold_expires()
        chain.send(make_expiry(1))
    elif end == "reversed":
        chain.send(make_reversal(hold))
    state = "REVERSED" if end == "reversed" else "PARTIAL" if lowered else "APPROVED"
    assert told(ask(chain, hold)) == ("00", "00", state)


def test_an_advice_in_suspense_was_accepted_and_may_be_reversed() -> None:
    chain = make_chain(CardStatus.LOST)
    request = make_advice(500)
    chain.send(request)
    assert told(ask(chain, request)) == ("00", "00", "APPROVED")
    chain.send(make_reversal(request, final_minor=100))
    assert told(ask(chain, request)) == ("00", "00", "PARTIAL")
    chain.send(make_reversal(request))
    assert told(ask(chain, request)) == ("00", "00", "REVERSED")


def test_what_became_of_a_reversal() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(request)
    reversal = make_reversal(request, final_minor=100)
    chain.send(reversal)
    answer = ask(chain, reversal)
    assert told(answer) == ("00", "00", "APPROVED")
    assert answer.balances == ""


# Unknown


def test_an_unknown_original_is_not_barred_unless_that_is_asked_for() -> None:
    chain, request = prepared(Operation.REDEEM)
    state = chain.state
    answer = ask(chain, request)
    assert told(answer) == ("25", "", "")
    assert answer.rule is Rule.ORIGINAL
    assert (answer.approval_code, answer.amount_minor, answer.balances) == ("", None, "")
    assert (chain.journal, chain.state) == ([], state)
    assert chain.send(request).response is Response.APPROVED
    assert told(ask(chain, request)) == ("00", "00", "APPROVED")


@pytest.mark.parametrize("operation", ASKED)
def test_an_unknown_original_is_barred_for_good(operation: Operation) -> None:
    chain, request = prepared(operation)
    links = len(chain.journal)
    query = make_outcome(request, bar_unknown=True)
    first = chain.send(query)
    assert told(first) == ("25", "", "BARRED")
    assert [link.operation for link in chain.journal[links:]] == [Operation.TOMBSTONE]
    assert chain.last.key == request.key
    before = chain.card_state.ecash
    late = chain.send(request)
    assert (late.response, late.rule) == (Response.REFUSED, Rule.BARRED)
    assert chain.card_state.ecash == before
    for sent in (again(query), make_outcome(request), make_outcome(request, bar_unknown=True)):
        assert told(chain.send(sent)) == ("25", "", "BARRED")
    assert len(chain.journal) == links + 1
    assert chain.send(make_reversal(request)).reversal_state == "NOTHING"
    assert told(ask(chain, request)) == ("25", "", "BARRED")


def test_barred_and_asked_for_in_one_batch() -> None:
    chain, request = prepared(Operation.REDEEM)
    query = make_outcome(request, bar_unknown=True)
    answers = chain.batch(query, request, again(query), make_outcome(request))
    assert [told(answers[n]) for n in (0, 2, 3)] == [("25", "", "BARRED")] * 3
    assert answers[1].rule is Rule.BARRED
    assert len(chain.journal) == 1


def test_barred_by_its_reversal() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(make_reversal(request))
    assert told(ask(chain, request)) == ("25", "", "BARRED")


def test_barred_still_when_the_window_has_forgotten() -> None:
    chain, request = prepared(Operation.REDEEM)
    ask(chain, request, bar_unknown=True)
    for _ in range(20):
        chain.send(make_request(Operation.LOAD, 1))
    assert told(ask(chain, request)) == ("25", "", "BARRED")
    assert chain.send(request).rule is Rule.BARRED


@pytest.mark.parametrize("known", [True, False])
def test_a_key_under_another_card_is_not_barred(known: bool) -> None:
    """It may well have happened there: "never" would be a lie."""
    chain, request = prepared(Operation.REDEEM)
    if known:
        chain.send(request)
    links = len(chain.journal)
    chain.keys_elsewhere = frozenset({request.key})
    heard = ("00", "00", "APPROVED") if known else ("25", "", "")
    assert told(ask(chain, request, bar_unknown=True)) == heard
    assert len(chain.journal) == links


@pytest.mark.parametrize("operation", [Operation.BALANCE, Operation.REVERSAL])
def test_enquiries_and_reversals_are_never_barred(operation: Operation) -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(request)
    asked = make_reversal(request)
    if operation is Operation.BALANCE:
        asked = make_request(Operation.BALANCE)
    assert told(ask(chain, asked, bar_unknown=True)) == ("25", "", "")
    assert len(chain.journal) == 1
    assert chain.send(asked).response is Response.APPROVED
    assert chain.available_minor == (500 if operation is Operation.BALANCE else 1_000)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("too_old_s", "state"), [(0, "BARRED"), (1, "")])
def test_beyond_the_horizon_nothing_is_barred(too_old_s: int, state: str, known: bool) -> None:
    """No one has looked there, and no request of that age is taken any more."""
    chain, request = prepared(Operation.REDEEM)
    if known:
        chain.send(request)
    chain.now_s = NOW_S + POLICY.horizon_s + too_old_s
    heard = ("00", "00", "APPROVED") if known else ("25", "", state)
    assert told(ask(chain, request, bar_unknown=True)) == heard
    assert len(chain.journal) == (1 if known or state else 0)


def test_without_an_instant_nothing_is_too_old_to_be_barred() -> None:
    chain = make_chain()
    request = make_request(Operation.REDEEM, 1, instant_s=0)
    answer = ask(chain, request, bar_unknown=True)
    assert answer.original_state is OriginalState.BARRED


@pytest.mark.parametrize("status", CardStatus)
def test_no_status_and_no_expiry_keeps_the_answer_back(status: CardStatus) -> None:
    chain = make_chain(status, facts=make_facts(expiry="2001"))
    request = make_request(Operation.REDEEM, 1)
    chain.send(request)
    assert ask(chain, request).original_state is OriginalState.DECLINED
    assert chain.status is status
