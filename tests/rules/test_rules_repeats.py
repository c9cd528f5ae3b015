"""Repeats: the first answer again, whatever has happened since, and never a second effect."""

from __future__ import annotations

import pytest
from builders import (
    NOW_S,
    Chain,
    again,
    make_advice,
    make_chain,
    make_expiry,
    make_facts,
    make_request,
    make_reversal,
)

from rules.authorize import lacks_history
from rules.cards import CardStatus, HistoryMissing
from rules.identity import content_fingerprint
from rules.lots import Lot
from rules.requests import CardRequest, Operation, ReversalReason
from rules.responses import Response, ReversalState, Rule

OTHER_CONTENT = content_fingerprint("other content")
STATUS_FOR = {
    Operation.UNLOCK: CardStatus.ISSUED,
    Operation.ACTIVATE: CardStatus.ISSUED,
    Operation.ACTIVATE_PREVALUED: CardStatus.ISSUED,
    Operation.UNBLOCK: CardStatus.BLOCKED,
}
NEVER_KEPT = (Operation.BALANCE, Operation.OUTCOME)
"""Approved, they leave no link; each has its own tests, as uploads have."""
NOT_SENT = (
    *(Operation.ISSUE, Operation.REVERSAL, Operation.TOMBSTONE, Operation.UPLOAD),
    *(Operation.LOT_EXPIRY, Operation.LOT_RENEWAL, Operation.LOT_SWEEP, Operation.DORMANCY_FEE),
)
TWO_CARDS = (Operation.TRANSFER, Operation.RECEIPT)
"""In test_rules_transfers."""
KEPT = tuple(op for op in Operation if op not in (*NEVER_KEPT, *NOT_SENT, *TWO_CARDS))
REVERSIBLE = tuple(op for op in KEPT if op is not Operation.HOLD_EXPIRY)
"""The sweeper's request has a key that no terminal can name."""


def prepared(operation: Operation) -> tuple[Chain, CardRequest]:
    chain = make_chain(
        STATUS_FOR.get(operation, CardStatus.ACTIVE),
        1_000,
        facts=make_facts(face_value_minor=500),
    )
    if operation is Operation.RETURN:
        sale = chain.send(make_request(Operation.REDEEM, 600))
        return chain, make_request(operation, 500, original=sale.transaction_id)
    if operation in (Operation.COMPLETION, Operation.HOLD_EXPIRY):
        hold = make_request(Operation.HOLD, 600)
        chain.send(hold)
        if operation is Operation.COMPLETION:
            return chain, make_advice(500, hold=hold, rrn="000000000011")
        chain.hold_expires()
        return chain, make_expiry(chain.last.version)
    return chain, make_request(operation, 500, rrn="000000000011")


def busy(chain: Chain, count: int, *, instant_s: int = NOW_S) -> None:
    """So many other messages that the window forgets."""
    for _ in range(count):
        chain.send(make_request(Operation.REDEEM, 999_999, instant_s=instant_s))


@pytest.mark.parametrize("operation", KEPT)
@pytest.mark.parametrize("between", [0, 3, 20, 60])
def test_a_repeat_hears_the_first_answer_and_does_nothing(
    operation: Operation, between: int
) -> None:
    chain, request = prepared(operation)
    first = chain.send(request)
    assert first.response is Response.APPROVED
    busy(chain, between)
    state, links = chain.state, len(chain.journal)
    for repeat in (again(request), again(request, rrn="000000000099")):
        assert chain.send(repeat) == first
    assert (chain.state, len(chain.journal)) == (state, links)


@pytest.mark.parametrize("operation", KEPT)
def test_a_repeat_in_the_same_batch(operation: Operation) -> None:
    chain, request = prepared(operation)
    links = len(chain.journal)
    first, *others = chain.batch(request, again(request), again(request))
    assert others == [first, first]
    made = [link.key for link in chain.journal[links:]]
    assert made == [key for key in (request.own_request_key, request.key) if key]


def test_a_repeat_far_back_in_the_same_batch() -> None:
    """The batch's own links must not push the key out of the window before it is over."""
    chain = make_chain(available_minor=1_000)
    request = make_request(Operation.REDEEM, 100)
    others = [make_request(Operation.REDEEM, 1) for _ in range(40)]
    answers = chain.batch(request, *others, again(request))
    assert answers[-1] == answers[0]
    assert chain.available_minor == 860


def test_a_decline_stays_a_decline_after_a_top_up() -> None:
    chain = make_chain(available_minor=100)
    request = make_request(Operation.REDEEM, 500)
    first = chain.send(request)
    assert first.response is Response.INSUFFICIENT
    chain.send(make_request(Operation.LOAD, 5_000))
    assert chain.send(again(request)) == first
    busy(chain, 30)
    assert chain.send(again(request)) == first
    assert chain.available_minor == 5_100


def test_a_decline_by_status_stays_after_the_activation() -> None:
    chain = make_chain(CardStatus.ISSUED, 0)
    request = make_request(Operation.REDEEM, 500)
    first = chain.send(request)
    chain.send(make_request(Operation.ACTIVATE, 5_000))
    assert chain.send(again(request)) == first
    assert first.response is Response.NOT_ACTIVATED


def test_a_partial_approval_is_told_again_as_it_was() -> None:
    chain = make_chain(available_minor=300)
    request = make_request(Operation.REDEEM, 500, partial_allowed=True)
    first = chain.send(request)
    chain.send(make_request(Operation.LOAD, 5_000))
    repeat = chain.send(again(request))
    assert repeat == first
    assert (repeat.amount_minor, repeat.requested_minor) == (300, 500)
    assert repeat.balances.endswith("C000000000000")


@pytest.mark.parametrize("operation", KEPT)
@pytest.mark.parametrize("between", [0, 20])
def test_the_same_key_with_other_content(operation: Operation, between: int) -> None:
    chain, request = prepared(operation)
    first = chain.send(request)
    busy(chain, between)
    state, links = chain.state, len(chain.journal)
    other = again(request, fingerprint=OTHER_CONTENT, amount_minor=1)
    answer = chain.send(other)
    assert (answer.response, answer.rule) == (Response.DUPLICATE_DIFFERS, Rule.DUPLICATE)
    assert answer.transaction_id == other.transaction_id != first.transaction_id
    assert (answer.amount_minor, answer.balances, answer.approval_code) == (None, "", "")
    assert (chain.state, len(chain.journal)) == (state, links)
    assert chain.send(again(request)) == first


def test_a_declined_request_with_other_content_is_not_decided_anew() -> None:
    chain = make_chain(available_minor=100)
    request = make_request(Operation.REDEEM, 500)
    chain.send(request)
    smaller = again(request, fingerprint=OTHER_CONTENT, amount_minor=50)
    assert chain.send(smaller).response is Response.DUPLICATE_DIFFERS
    assert chain.available_minor == 100


@pytest.mark.parametrize("operation", REVERSIBLE)
@pytest.mark.parametrize("between", [0, 20])
def test_reversed_meanwhile(operation: Operation, between: int) -> None:
    chain, request = prepared(operation)
    first = chain.send(request)
    chain.send(make_reversal(request))
    busy(chain, between)
    state = chain.state
    repeat = chain.send(again(request))
    assert repeat.response is Response.REFUSED
    assert repeat.reversal_state is ReversalState.REVERSED
    assert repeat.rule is Rule.REVERSED
    assert (repeat.transaction_id, repeat.rrn) == (first.transaction_id, first.rrn)
    assert (repeat.approval_code, repeat.balances) == ("", "")
    assert chain.send(again(request)) == repeat
    assert chain.state == state


def test_reversed_in_part_only_it_hears_the_first_answer() -> None:
    chain, request = prepared(Operation.REDEEM)
    first = chain.send(request)
    chain.send(make_reversal(request, final_minor=100))
    assert chain.send(again(request)) == first
    chain.send(make_reversal(request))
    assert chain.send(again(request)).reversal_state is ReversalState.REVERSED


def test_all_returned_is_not_reversed() -> None:
    chain, request = prepared(Operation.REDEEM)
    first = chain.send(request)
    chain.send(make_request(Operation.RETURN, 500, original=first.transaction_id))
    assert chain.send(again(request)) == first


def test_a_reversal_that_did_nothing_reverses_nothing() -> None:
    chain = make_chain(available_minor=100)
    request = make_request(Operation.REDEEM, 500)
    first = chain.send(request)
    chain.send(make_reversal(request))
    assert chain.send(again(request)) == first


def test_spent_meanwhile_the_load_still_stands() -> None:
    chain = make_chain(available_minor=0)
    request = make_request(Operation.LOAD, 500)
    first = chain.send(request)
    chain.send(make_request(Operation.REDEEM, 500))
    chain.send(make_request(Operation.LOAD, 1))
    refused = make_reversal(request, reason=ReversalReason.CUSTOMER)
    assert chain.send(refused).rule is Rule.SPENT
    assert chain.send(again(request)) == first


def test_a_reversals_repeat_hears_its_first_answer_and_other_content_differs() -> None:
    chain, request = prepared(Operation.REDEEM)
    chain.send(request)
    reversal = make_reversal(request, final_minor=100)
    first = chain.send(reversal)
    chain.send(make_reversal(request))
    assert chain.send(again(reversal)) == first
    assert first.reversal_state is ReversalState.PARTIAL
    other = again(reversal, fingerprint=OTHER_CONTENT, final_amount_minor=None)
    answer = chain.send(other)
    assert (answer.response, answer.reversal_state) == ("94", ReversalState.NONE)
    assert chain.available_minor == 1_000


def test_an_approved_enquiry_is_not_kept_and_a_refused_one_is() -> None:
    chain = make_chain(available_minor=100)
    enquiry = make_request(Operation.BALANCE)
    before = chain.send(enquiry)
    chain.send(make_request(Operation.LOAD, 11))
    after = chain.send(again(enquiry))
    assert after.balances != before.balances
    wrong = make_request(Operation.BALANCE, pvv=b"wrong")
    first = chain.send(wrong)
    assert chain.send(again(wrong)) == first
    assert chain.card_state.pin_tries == 1


# When the journal must be asked


def test_a_young_card_answers_from_its_window_alone() -> None:
    chain = make_chain()
    for _ in range(16):
        chain.send(make_request(Operation.REDEEM, 1))
    assert chain.history_reads == 0


def test_messages_in_the_order_of_their_clocks_ask_for_nothing() -> None:
    chain = make_chain()
    for second in range(60):
        chain.send(make_request(Operation.REDEEM, 1, instant_s=NOW_S + second))
    assert chain.history_reads == 0


def test_an_old_message_asks_and_is_found() -> None:
    chain = make_chain(available_minor=1_000)
    request = make_request(Operation.REDEEM, 100, instant_s=NOW_S)
    first = chain.send(request)
    for second in range(1, 40):
        chain.send(make_request(Operation.REDEEM, 1, instant_s=NOW_S + second))
    assert lacks_history(again(request), chain.open())
    assert chain.send(again(request)) == first
    assert chain.available_minor == 861


def test_what_is_in_the_window_needs_its_answer_from_the_journal() -> None:
    chain = make_chain()
    request = make_request(Operation.REDEEM, 100)
    chain.send(request)
    card = chain.open()
    assert lacks_history(again(request), card)
    with pytest.raises(HistoryMissing):
        card.find(request.key)
    card.known[1] = chain.journal[0]
    assert not lacks_history(again(request), card)


def test_a_return_asks_for_the_sale_it_names() -> None:
    chain = make_chain()
    sale = chain.send(make_request(Operation.REDEEM, 100)).transaction_id
    assert lacks_history(make_request(Operation.RETURN, 50, original=sale), chain.open())
    assert not lacks_history(make_request(Operation.RETURN, 50), chain.open())


def test_a_clock_that_ran_ahead_costs_look_ups_but_no_second_purchase() -> None:
    """A terminal's clock is a day ahead: its dropped key makes all others uncertain for a day."""
    chain = make_chain(available_minor=1_000)
    ahead = make_request(Operation.REDEEM, 10, instant_s=NOW_S + 86_400)
    first = chain.send(ahead)
    for second in range(20):
        chain.send(make_request(Operation.REDEEM, 1, instant_s=NOW_S + second))
    assert chain.send(again(ahead)) == first
    assert lacks_history(make_request(Operation.REDEEM, 1, instant_s=NOW_S + 100), chain.open())
    assert chain.available_minor == 970


def test_messages_keyed_by_their_batch_number_are_found_too() -> None:
    chain = make_chain(available_minor=1_000)
    request = make_request(Operation.REDEEM, 10, instant_s=0)
    first = chain.send(request)
    busy(chain, 20)
    assert chain.send(again(request)) == first
    assert chain.available_minor == 990
    assert chain.card_state.ecash.lots == [Lot(1, 990)]
