"""Requests about links that have been archived, on cards that have been quiet since."""

from __future__ import annotations

import pytest
from builders import (
    POLICY,
    Chain,
    again,
    make_advice,
    make_chain,
    make_moment,
    make_outcome,
    make_request,
    make_reversal,
)
from test_rules_uploads import make_upload

from rules.authorize import decide
from rules.cards import HistoryMissing
from rules.ledger import AccountKind, Answer, Link
from rules.requests import CardRequest, Operation
from rules.responses import OriginalState, Response, ReversalState, Rule


def asked(chain: Chain, request: CardRequest) -> tuple[Answer, list[Link]]:
    """The answer once all links so far have been archived, and the links that it left."""
    card = chain.open()
    with pytest.raises(HistoryMissing):
        decide(request, card, make_moment(batch_id=98), POLICY)
    card.archived_version = card.state.version
    answer = decide(request, card, make_moment(batch_id=99), POLICY)
    assert answer == decide(request, archived(chain), make_moment(batch_id=100), POLICY)
    return answer, card.new


def archived(chain: Chain):  # type: ignore[no-untyped-def]
    card = chain.open()
    card.archived_version = card.state.version
    return card


def test_a_repeated_advice_is_accepted_and_has_no_second_effect() -> None:
    chain = make_chain()
    advice = make_advice(100)
    chain.send(advice)
    answer, links = asked(chain, again(advice))
    assert (answer.response, answer.rule) == (Response.APPROVED, Rule.DONE_BEFORE)
    assert links == []


def test_each_of_its_repeats_hears_the_same() -> None:
    chain = make_chain()
    advice = make_advice(100)
    chain.send(advice)
    first, _ = asked(chain, again(advice))
    second, _ = asked(chain, again(advice))
    assert first == second


def test_a_repeated_upload_is_accepted_and_has_no_second_effect() -> None:
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 100)
    chain.send(sale)
    item = make_upload(sale)
    chain.send(item)
    answer, links = asked(chain, again(item))
    assert (answer.response, answer.rule) == (Response.APPROVED, Rule.DONE_BEFORE)
    assert links == []


def test_an_item_that_was_posted_is_noted() -> None:
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 100)
    chain.send(sale)
    answer, (link,) = asked(chain, make_upload(sale))
    assert answer.response is Response.APPROVED
    assert (link.operation, link.effect_minor, link.postings) == (Operation.UPLOAD, 0, ())


def test_the_advice_of_an_archived_request_is_for_people_to_look_at() -> None:
    """It may have been approved: posted to the card it would be paid twice."""
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 100)
    chain.send(sale)
    answer, (link,) = asked(chain, make_advice(100, request=sale))
    assert (answer.response, answer.rule) == (Response.APPROVED, Rule.CLOCK)
    assert link.effect_minor == 0
    assert {p.debit_kind for p in link.postings} == {AccountKind.SUSPENSE}


def test_a_reversal_is_late() -> None:
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 100)
    chain.send(sale)
    answer, (link,) = asked(chain, make_reversal(sale))
    assert (answer.response, answer.reversal_state) == (Response.REFUSED, ReversalState.LATE)
    assert (link.operation, link.effect_minor, link.postings) == (Operation.REVERSAL, 0, ())


def test_a_repeated_reversal_is_late_and_leaves_no_second_link() -> None:
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 100)
    chain.send(sale)
    reversal = make_reversal(sale)
    chain.send(reversal)
    answer, links = asked(chain, again(reversal))
    assert (answer.response, answer.reversal_state) == (Response.REFUSED, ReversalState.LATE)
    assert links == []


def test_an_archived_original_is_unknown_to_a_question_and_is_not_barred() -> None:
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 100)
    chain.send(sale)
    answer, links = asked(chain, make_outcome(sale, bar_unknown=True))
    assert answer.response is Response.NO_SUCH_ORIGINAL
    assert answer.original_state is OriginalState.NONE
    assert links == []


def test_a_repeated_request_without_an_instant_is_refused() -> None:
    """One with an instant is refused by the clock before it comes here."""
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 100, instant_s=0)
    chain.send(sale)
    answer, links = asked(chain, again(sale))
    assert (answer.response, answer.rule) == (Response.REFUSED, Rule.LATE)
    assert links == []


def test_what_is_not_archived_is_decided_as_ever() -> None:
    chain = make_chain()
    chain.send(make_request(Operation.REDEEM, 100))
    card = archived(chain)
    answer = decide(make_request(Operation.REDEEM, 50), card, make_moment(batch_id=99), POLICY)
    assert answer.response is Response.APPROVED
    assert card.new[0].effect_minor == -50
