"""Batch upload: each item once, noted or in suspense, and never posted afterwards."""

from __future__ import annotations

import msgspec
import pytest
from builders import Chain, make_advice, make_chain, make_request, make_reversal

from rules.ledger import AccountKind, Posting
from rules.money import Counts
from rules.requests import CardRequest, Operation, ReversalReason
from rules.responses import Response, ReversalState, Rule

MERCHANT, SUSPENSE = AccountKind.MERCHANT, AccountKind.SUSPENSE


def make_upload(
    item: CardRequest, counts: Counts = Counts.DEBIT, twin: bytes = b"", **changes: object
) -> CardRequest:
    upload = make_request(Operation.REDEEM, item.amount_minor)
    fields: dict[str, object] = {
        "operation": Operation.UPLOAD,
        "original_key": item.key,
        "own_request_key": twin,
        "item_counts": counts,
        "amount_given": item.amount_minor != 0,
    }
    return msgspec.structs.replace(upload, **(fields | changes))


def suspended(chain: Chain) -> tuple[Posting, ...]:
    return tuple(p for p in chain.last.postings if SUSPENSE in (p.debit_kind, p.credit_kind))


@pytest.mark.parametrize(
    ("counts", "debit", "credit"),
    [
        (Counts.DEBIT, SUSPENSE, MERCHANT),
        (Counts.CREDIT_REVERSAL, SUSPENSE, MERCHANT),
        (Counts.CREDIT, MERCHANT, SUSPENSE),
        (Counts.DEBIT_REVERSAL, MERCHANT, SUSPENSE),
    ],
)
def test_an_unknown_item_stands_in_suspense_on_its_own_side(
    counts: Counts, debit: AccountKind, credit: AccountKind
) -> None:
    chain = make_chain()
    answer = chain.send(make_upload(make_request(Operation.REDEEM, 400), counts))
    assert (answer.response, answer.rule) == (Response.APPROVED, Rule.ORIGINAL)
    merchant_id = chain.last.merchant_id
    assert chain.last.postings == (Posting(debit, merchant_id, credit, merchant_id, 400),)
    assert (chain.last.counts, chain.last.counted_minor) == (counts, 400)
    assert chain.last.effect_minor == 0


def test_it_bars_both_names_of_the_sale() -> None:
    chain = make_chain()
    asked = make_request(Operation.REDEEM, 400)
    told = make_advice(400, request=asked)
    chain.send(make_upload(asked, twin=told.key))
    for late in (told, asked):
        assert chain.send(late).rule is Rule.BARRED
    assert chain.send(make_upload(asked, twin=told.key)).rule is Rule.DONE_BEFORE
    assert chain.send(make_upload(told, twin=asked.key)).rule is Rule.DONE_BEFORE


def test_a_posted_item_is_noted_once_and_moves_nothing() -> None:
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 400)
    chain.send(sale)
    version = chain.last.version
    assert chain.send(make_upload(sale)).rule is Rule.NONE
    assert (chain.last.undoes, chain.last.counts, chain.last.postings) == (version, Counts.NONE, ())
    assert chain.send(make_upload(sale)).rule is Rule.DONE_BEFORE
    undone = chain.send(make_reversal(sale))
    assert undone.reversal_state is ReversalState.REVERSED
    assert chain.last.effect_minor == 400


def test_another_amount_is_told() -> None:
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 400)
    chain.send(sale)
    other = msgspec.structs.replace(sale, amount_minor=300)
    assert chain.send(make_upload(other)).rule is Rule.AMOUNT
    assert suspended(chain) == ()


def test_a_declined_item_and_a_barred_one_are_suspense() -> None:
    chain = make_chain(available_minor=100)
    declined, barred = make_request(Operation.REDEEM, 400), make_request(Operation.REDEEM, 50)
    chain.send(declined)
    assert chain.send(make_upload(declined)).rule is Rule.DECLINED
    assert len(suspended(chain)) == 1
    told = make_advice(400, request=declined)
    assert chain.send(make_upload(told, twin=declined.key)).rule is Rule.DONE_BEFORE
    chain.send(make_reversal(barred))
    assert chain.send(make_upload(barred)).rule is Rule.BARRED
    assert len(suspended(chain)) == 1


def test_what_is_no_item_has_no_effect() -> None:
    chain = make_chain()
    hold = make_request(Operation.HOLD, 400)
    chain.send(hold)
    assert chain.send(make_upload(hold, Counts.NONE)).rule is Rule.NONE
    assert (chain.last.undoes, chain.last.postings) == (0, ())


@pytest.mark.parametrize("reason", list(ReversalReason))
def test_after_the_close_only_a_time_out_undoes(reason: ReversalReason) -> None:
    chain = make_chain()
    sale = make_request(Operation.REDEEM, 400)
    chain.send(sale)
    chain.last.batch_closed = True
    answer = chain.send(make_reversal(sale, reason=reason))
    late = reason is not ReversalReason.TIME_OUT
    assert answer.reversal_state is (ReversalState.LATE if late else ReversalState.REVERSED)
    assert answer.response is (Response.REFUSED if late else Response.APPROVED)
    assert chain.last.effect_minor == (0 if late else 400)


def test_a_declined_sale_that_is_named_as_an_advice_is_the_declined_one() -> None:
    chain = make_chain(available_minor=100)
    asked = make_request(Operation.REDEEM, 400)
    told = make_advice(400, request=asked)
    chain.send(asked)
    assert chain.send(make_upload(told, twin=asked.key)).rule is Rule.DECLINED
    assert chain.send(told).rule is Rule.BARRED
    assert chain.send(make_upload(asked, twin=told.key)).rule is Rule.DONE_BEFORE
