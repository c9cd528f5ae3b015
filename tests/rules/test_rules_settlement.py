"""What counts as what, and how a terminal's totals compare with the switch's."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from builders import make_advice, make_chain, make_request
from hypothesis import given
from hypothesis import strategies as st

from rules.ledger import AccountKind, Posting
from rules.money import Counts
from rules.requests import Operation, Terminal
from rules.responses import Response, Rule
from rules.settlement import (
    NO_TOTALS,
    Books,
    Reconciliation,
    Totals,
    count,
    cut_over_rule,
    reconcile,
)

TO_MERCHANT = Posting(AccountKind.CARD, 1, AccountKind.MERCHANT, 1, 500)
FROM_MERCHANT = Posting(AccountKind.MERCHANT, 1, AccountKind.CARD, 1, 300)
SHORTFALL = Posting(AccountKind.SHORTFALL, 1, AccountKind.MERCHANT, 1, 40)
NOT_OF_MERCHANTS = Posting(AccountKind.FLOAT, 1, AccountKind.CARD, 1, 500)
TODAY = datetime.date(2026, 11, 25)
TOTALS = st.builds(Totals, *[st.integers(0, 9)] * 8)


@pytest.mark.parametrize(
    ("operation", "postings", "counts", "amount_minor"),
    [
        (Operation.REDEEM, [TO_MERCHANT], Counts.DEBIT, 500),
        (Operation.CASH_OUT, [TO_MERCHANT], Counts.DEBIT, 500),
        (Operation.COMPLETION, [TO_MERCHANT, SHORTFALL], Counts.DEBIT, 540),
        (Operation.ADVICE, [SHORTFALL], Counts.DEBIT, 40),
        (Operation.ACTIVATE, [FROM_MERCHANT], Counts.CREDIT, 300),
        (Operation.ACTIVATE_PREVALUED, [FROM_MERCHANT], Counts.CREDIT, 300),
        (Operation.LOAD, [FROM_MERCHANT], Counts.CREDIT, 300),
        (Operation.RETURN, [FROM_MERCHANT], Counts.CREDIT, 300),
        (Operation.REVERSAL, [FROM_MERCHANT], Counts.DEBIT_REVERSAL, 300),
        (Operation.REVERSAL, [TO_MERCHANT, SHORTFALL], Counts.CREDIT_REVERSAL, 540),
        (Operation.REVERSAL, [], Counts.NONE, 0),
        (Operation.HOLD, [], Counts.NONE, 0),
        (Operation.ISSUE, [NOT_OF_MERCHANTS], Counts.NONE, 0),
        (Operation.HOLD_EXPIRY, [TO_MERCHANT], Counts.NONE, 0),
        (Operation.REDEEM, [NOT_OF_MERCHANTS], Counts.NONE, 0),
    ],
)
def test_a_link_counts_what_it_moved_on_the_merchants_account(
    operation: Operation, postings: list[Posting], counts: Counts, amount_minor: int
) -> None:
    assert count(operation, postings) == (counts, amount_minor)


def test_decisions_carry_what_they_count() -> None:
    chain = make_chain(available_minor=1_000)
    chain.send(msgspec.structs.replace(make_request(Operation.REDEEM, 400), batch_number="7"))
    assert (chain.last.counts, chain.last.counted_minor) == (Counts.DEBIT, 400)
    assert chain.last.batch_number == "7"
    chain.send(make_request(Operation.REDEEM, 9_999))
    assert (chain.last.counts, chain.last.counted_minor) == (Counts.NONE, 0)
    chain.send(make_advice(300, foreign_currency="840", foreign_content=Rule.CURRENCY))
    assert (chain.last.counts, chain.last.counted_minor) == (Counts.NONE, 0)


# -- comparing ------------------------------------------------------------------------------


def claim(totals: Totals, net_minor: int | None = None) -> Reconciliation:
    return Reconciliation(
        key=b"k" * 16,
        fingerprint=b"f" * 8,
        transaction_id="0123456789AB",
        rrn="",
        terminal=Terminal(1, 1, network=False),
        currency="978",
        totals=totals,
        net_minor=net_minor,
    )


@given(claimed=TOTALS, posted=TOTALS)
def test_only_equal_totals_close_a_batch(claimed: Totals, posted: Totals) -> None:
    answer = reconcile(claim(claimed), Books(posted))
    agrees = claimed == posted
    expected = Response.APPROVED if agrees else Response.TOTALS_DIFFER
    assert (answer.response, answer.totals) == (expected, posted)
    assert answer.rule is (Rule.NONE if agrees else Rule.TOTALS)


@given(posted=TOTALS, missing=TOTALS)
def test_after_an_upload_what_was_uploaded_closes_it_too(posted: Totals, missing: Totals) -> None:
    uploaded = posted.less(missing)
    assert reconcile(claim(uploaded), Books(posted, missing)).response is Response.APPROVED
    assert reconcile(claim(posted), Books(posted, missing)).response is Response.APPROVED
    without = reconcile(claim(uploaded), Books(posted))
    assert (without.response is Response.APPROVED) == (missing == NO_TOTALS)


@given(totals=TOTALS, net_minor=st.integers(-20, 20))
def test_a_net_that_is_sent_must_agree(totals: Totals, net_minor: int) -> None:
    answer = reconcile(claim(totals, net_minor), Books(totals))
    assert (answer.response is Response.APPROVED) == (net_minor == totals.net_minor)


def test_the_net_is_by_the_standards_formula() -> None:
    """|86 + 89 - 88 - 87|, C or D."""
    assert Totals(1, 1, 1, 1, 1000, 100, 10, 1).net_minor == 1000 + 1 - 10 - 100


def test_a_closed_number_is_refused_whatever_the_totals() -> None:
    answer = reconcile(claim(NO_TOTALS), Books(NO_TOTALS, None, number_closed=True))
    assert (answer.response, answer.rule, answer.totals) == (Response.REFUSED, Rule.CLOSED, None)


# -- business dates -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "current", "rule"),
    [
        (0, None, Rule.NONE),
        (1, 0, Rule.NONE),
        (7, 0, Rule.NONE),
        (8, 0, Rule.CLOCK),
        (8, 7, Rule.CLOCK),
        (-7, None, Rule.NONE),
        (-8, None, Rule.CLOCK),
        (0, 1, Rule.CLOCK),
        (0, -30, Rule.NONE),
    ],
)
def test_a_business_date_moves_on_near_the_calendar(
    days: int, current: int | None, rule: Rule
) -> None:
    day = datetime.timedelta(days=1)
    now = None if current is None else TODAY + day * current
    assert cut_over_rule(TODAY + day * days, TODAY, now) is rule
