"""Reconciliation: a till's totals against the switch's, and which batch a message stands in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.checks import assert_accepted, assert_shape, assert_undone, available
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Reason, Reply
from tests.client.terminal import Terminal
from tests.client.till_totals import TillTotals, told_totals

_numbers = itertools.count(1)
UNKNOWN_PAN = "9" * 19


def new_number() -> str:
    return f"{next(_numbers):06d}"


def assert_closed(reply: Reply, totals: TillTotals) -> None:
    assert_shape(reply)
    assert (reply.code, reply.fields[66], reply.why) == ("00", "1", ""), told(reply)
    assert told_totals(reply) == totals


def assert_differs(reply: Reply, totals: TillTotals) -> None:
    assert_shape(reply)
    assert (reply.code, reply.fields[66], reply.why) == ("95", "2", "TOTALS"), told(reply)
    assert told_totals(reply) == totals


def told(reply: Reply) -> dict[int, str]:
    return {number: reply.fields.get(number, "") for number in (39, *range(74, 78), *range(86, 90))}


def close(till: Terminal, number: str | None = None, **changes: Any) -> TillTotals:
    """Close the open batch with whatever the switch has: the way a person ends a difference."""
    first = till.reconcile(TillTotals(debits=999_999), number, **changes)
    assert first.code == "95", first
    totals = told_totals(first)
    assert_closed(till.reconcile(totals, number, **changes), totals)
    return totals


@pytest.fixture
def till(switch: Demo) -> Iterator[Terminal]:
    """A terminal with an empty batch, whatever others have done at it."""
    entry = next(e for e in reversed(switch.pos_entries) if e["mac"] == "aes-cmac")
    with switch.pos(entry) as terminal:
        close(terminal)
        yield terminal


# -- what counts ----------------------------------------------------------------------------


def test_an_empty_batch_closes(till: Terminal) -> None:
    assert_closed(till.reconcile(TillTotals(), new_number()), TillTotals())


def test_sales_payouts_loads_and_returns_count(till: Terminal, card: Card, issued: Card) -> None:
    totals = TillTotals()
    sale = till.redeem(card, 2000)
    totals.debit(2000)
    totals.credit(till.refund(card, 700, sale).amount_minor)
    totals.credit(till.load(card, 500).amount_minor)
    totals.credit(till.activate(issued, 5000).amount_minor)
    totals.debit(till.cash_out(card).amount_minor)
    assert totals.debits_minor == 2000 + 9200
    assert_closed(till.reconcile(totals, new_number()), totals)


def test_a_face_value_and_a_partial_approval_count_as_approved(
    till: Terminal, card: Card, issued: Card
) -> None:
    totals = TillTotals()
    totals.credit(till.activate_prevalued(issued).amount_minor)
    sale = till.redeem(card, 15000, PA="1")
    assert sale.code == "10"
    totals.debit(10000)
    assert_closed(till.reconcile(totals, new_number()), totals)


def test_reversals_count_on_their_own_and_the_original_stays(till: Terminal, card: Card) -> None:
    totals = TillTotals()
    assert_undone(till.reverse(till.redeem(card, 1000)), "REVERSED")
    assert_undone(till.reverse(till.redeem(card, 800), final_minor=300), "PARTIAL")
    assert_undone(till.reverse(till.load(card, 400), Reason.CUSTOMER), "REVERSED")
    for amount_minor, undone_minor in ((1000, 1000), (800, 500)):
        totals.debit(amount_minor)
        totals.undo_debit(undone_minor)
    totals.credit(400)
    totals.undo_credit(400)
    assert_closed(till.reconcile(totals, new_number()), totals)


def test_a_reversed_return_is_an_undone_credit(till: Terminal, card: Card) -> None:
    totals = TillTotals()
    sale = till.redeem(card, 2000)
    back = till.refund(card, 700, sale)
    assert_undone(till.reverse(back), "REVERSED")
    totals.debit(2000)
    totals.credit(700)
    totals.undo_credit(700)
    assert_closed(till.reconcile(totals, new_number()), totals)


def test_a_load_that_was_spent_is_undone_with_its_shortfall(till: Terminal, issued: Card) -> None:
    totals = TillTotals()
    activated = till.activate(issued, 1000)
    till.redeem(issued, 600)
    assert_undone(till.reverse(activated), "PARTIAL")
    totals.credit(1000)
    totals.debit(600)
    totals.undo_credit(1000)
    assert_closed(till.reconcile(totals, new_number()), totals)


def test_what_moved_nothing_counts_nothing(till: Terminal, card: Card) -> None:
    totals = TillTotals()
    hold = till.hold(card, 3000)
    assert hold.code == "00"
    assert_undone(till.reverse(hold), "REVERSED")
    assert till.balance(card).code == "00"
    assert till.redeem(card, 99_999).code == "51"
    assert_undone(till.reverse(till.make.redeem(card, 100)), "NOTHING")
    sale = till.redeem(card, 1000)
    assert till.repeat(sale).same_answer() == sale.same_answer()
    first = till.reverse(sale)
    assert_undone(till.reverse(sale), "ALREADY")
    assert till.repeat(first).same_answer() == first.same_answer()
    totals.debit(1000)
    totals.undo_debit(1000)
    assert till.outcome(sale).code == "00"
    assert_closed(till.reconcile(totals, new_number()), totals)


def test_advices_count_as_the_till_counted_them(
    till: Terminal, card: Card, cards: Cards, issued: Card
) -> None:
    totals = TillTotals()
    done = till.complete(till.hold(card, 3000), 1000)
    assert_accepted(done)
    totals.debit(1000)
    over = till.complete(till.hold(card, 1000), 1500)  # 500 of it in suspense
    assert over.why == "TOLERANCE"
    totals.debit(1500)
    assert till.advise(card, 400).why == ""
    totals.debit(400)
    assert till.advise(issued, 700).why == "STATUS"
    totals.debit(700)
    poor = cards.active()
    assert till.redeem(poor, 9900).code == "00"
    totals.debit(9900)
    assert till.advise(poor, 300).why == "SHORTFALL"
    totals.debit(300)
    assert till.advise(card, 600, de2=UNKNOWN_PAN).why == "CARD"
    totals.debit(600)
    sale = till.redeem(card, 250)
    assert till.advise_instead(sale).why == "DONEBEFORE"  # one sale, told twice
    totals.debit(250)
    assert_closed(till.reconcile(totals, new_number()), totals)


def test_a_foreign_currency_is_in_no_totals(till: Terminal, card: Card) -> None:
    assert till.advise(card, 600, de49="840").why == "CURRENCY"
    assert_closed(till.reconcile(TillTotals(), new_number()), TillTotals())


def test_points_are_a_batch_of_their_own(till: Terminal, card: Card) -> None:
    close(till, de50="999")
    money, points = TillTotals(), TillTotals()
    assert till.load(card, 50, de3="210090", de49="999").code == "00"
    points.credit(50)
    assert till.load(card, 300, de3="210080").code == "00"
    money.credit(300)
    money.debit(till.redeem(card, 100).amount_minor)
    number = new_number()
    assert_closed(till.reconcile(money, number), money)
    assert_closed(till.reconcile(points, number, de50="999"), points)


# -- which batch ----------------------------------------------------------------------------


def test_a_message_belongs_to_the_number_that_it_carries(till: Terminal, card: Card) -> None:
    one, two, open_one = new_number(), new_number(), TillTotals()
    till.redeem(card, 100, BN=one)
    till.redeem(card, 20, BN=two)
    till.redeem(card, 3)
    for amount_minor in (100, 3):
        open_one.debit(amount_minor)
    assert_closed(till.reconcile(open_one, one), open_one)
    late = TillTotals()
    till.redeem(card, 4, BN=one)  # its batch is closed: the next one
    till.redeem(card, 5, BN=two)
    for amount_minor in (20, 4, 5):
        late.debit(amount_minor)
    assert_closed(till.reconcile(late, two), late)


def test_without_numbers_each_reconciliation_closes_the_open_batch(
    till: Terminal, card: Card
) -> None:
    for amount_minor in (100, 200):
        totals = TillTotals()
        totals.debit(till.redeem(card, amount_minor).amount_minor)
        assert_closed(till.reconcile(totals), totals)


def test_a_reversal_of_the_last_batch_falls_into_the_next(till: Terminal, card: Card) -> None:
    sale = till.redeem(card, 100)
    totals = TillTotals()
    totals.debit(100)
    assert_closed(till.reconcile(totals, new_number()), totals)
    assert_undone(till.reverse(sale), "REVERSED")
    after = TillTotals()
    after.undo_debit(100)
    assert_closed(till.reconcile(after, new_number()), after)


def test_other_terminals_have_other_batches(switch: Demo, till: Terminal, card: Card) -> None:
    with switch.pos() as other:
        assert other.redeem(card, 500).code == "00"
        assert_closed(till.reconcile(TillTotals(), new_number()), TillTotals())


@pytest.mark.parametrize("reason", [Reason.CUSTOMER, Reason.MERCHANT])
def test_a_cancellation_after_the_close_is_late(
    switch: Demo, till: Terminal, card: Card, reason: Reason
) -> None:
    sale = till.redeem(card, 100)
    assert_undone(till.reverse(till.redeem(card, 10), reason), "REVERSED")
    close(till, new_number())
    late = till.reverse(sale, reason)
    assert_shape(late)
    assert (late.code, late.why, late.state) == ("05", "LATE", "LATE")
    assert available(till, card) == 9900
    assert any(item["tx"] == late.tx and item["kind"] == "late" for item in switch.open_items())
    assert till.repeat(late).same_answer() == late.same_answer()
    assert_undone(till.reverse(sale), "REVERSED")  # a time-out has no such date
    assert_undone(till.reverse(sale, reason), "ALREADY")


def test_a_hold_outlives_the_batch(till: Terminal, card: Card) -> None:
    hold = till.hold(card, 1000)
    close(till, new_number())
    assert_undone(till.reverse(hold, Reason.CUSTOMER), "REVERSED")


# -- repeats ------------------------------------------------------------------------------


@pytest.mark.parametrize("flagged", [True, False])
def test_a_repeat_hears_the_stored_answer(till: Terminal, card: Card, *, flagged: bool) -> None:
    totals, number = TillTotals(), new_number()
    totals.debit(till.redeem(card, 100).amount_minor)
    wrong = till.reconcile(TillTotals(), number)
    assert_differs(wrong, totals)
    right = till.reconcile(totals, number)
    assert_closed(right, totals)
    till.redeem(card, 50)
    for first in (wrong, right):
        again = till.repeat(first, flagged=flagged)
        assert again.fields[7] and again.mti == "0510"
        assert again.same_answer() == first.same_answer()
        assert told(again) == told(first)


def test_a_lost_answer_is_heard_on_another_connection(
    switch: Demo, till: Terminal, card: Card
) -> None:
    totals, number = TillTotals(), new_number()
    totals.debit(till.redeem(card, 100).amount_minor)
    request = till.make.reconcile(totals, number)
    entry = next(e for e in switch.pos_entries if e["id"] == till.identity.terminal)
    with switch.pos(entry) as lost:
        lost.send(request)
    assert_closed(till.repeat(request), totals)
    assert_closed(till.exchange(request), totals)
    assert_closed(till.reconcile(TillTotals(), new_number()), TillTotals())


def test_the_same_key_with_other_content_is_refused(till: Terminal, card: Card) -> None:
    totals, number = TillTotals(), new_number()
    totals.debit(till.redeem(card, 100).amount_minor)
    first = till.reconcile(totals, number)
    for change in ({"de88": "0" * 16}, {"BN": new_number()}, {"de50": "999"}):
        other = till.repeat(first, **change)
        assert_shape(other)
        assert (other.code, other.why) == ("94", "DUPLICATE")
        assert 66 not in other.fields


def test_a_closed_number_stays_closed(till: Terminal, card: Card) -> None:
    number = new_number()
    assert_closed(till.reconcile(TillTotals(), number), TillTotals())
    till.redeem(card, 100)
    again = till.reconcile(TillTotals(), number)
    assert_shape(again)
    assert (again.code, again.why) == ("05", "CLOSED")
    totals = TillTotals()
    totals.debit(100)
    assert_closed(till.reconcile(totals, new_number()), totals)


def test_two_closes_at_once_are_one(switch: Demo, till: Terminal, card: Card) -> None:
    totals, number = TillTotals(), new_number()
    totals.debit(till.redeem(card, 100).amount_minor)
    both = till.pipeline([till.make.reconcile(totals, number) for _ in range(2)])
    assert sorted(reply.code for reply in both) == ["00", "05"]


# -- form -----------------------------------------------------------------------------------


def test_an_advice_of_the_close_is_answered_alike(till: Terminal, card: Card) -> None:
    totals, number = TillTotals(), new_number()
    totals.debit(till.redeem(card, 100).amount_minor)
    wrong = till.reconcile(TillTotals(), number, mti="0520")
    assert wrong.mti == "0530"
    assert_differs(wrong, totals)
    assert_closed(till.reconcile(totals, number, mti="0520"), totals)


def test_absent_totals_are_zero_and_a_wrong_net_differs(till: Terminal, card: Card) -> None:
    totals, number = TillTotals(), new_number()
    totals.debit(till.redeem(card, 100).amount_minor)
    assert_differs(till.reconcile(totals, number, de97="C" + "0" * 13 + "100"), totals)
    zeros = {f"de{de}": None for de in (74, 75, 77, 86, 87, 89, 15, 50, 97)}
    assert_closed(till.reconcile(totals, number, **zeros), totals)


@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        ({"de50": "840"}, "12", "CURRENCY"),
        ({"de15": "1332"}, "30", "FORMAT"),
        ({"de12": None, "BN": None}, "30", "FORMAT"),
        ({"BN": "1" * 21}, "30", "FORMAT"),
        ({"de32": "99999999999"}, "58", "ACQUIRER"),
    ],
)
def test_what_cannot_be_reconciled_is_named(
    till: Terminal, change: dict[str, Any], code: str, why: str
) -> None:
    reply = till.reconcile(TillTotals(), "77", **change)
    assert (reply.code, reply.why) == (code, why)


def test_networks_reconcile_in_ascii(network: Terminal, card: Card) -> None:
    close(network)
    totals = TillTotals()
    totals.debit(network.redeem(card, 100).amount_minor)
    totals.credit(network.load(card, 4000).amount_minor)
    reply = network.reconcile(totals, new_number())
    assert_closed(reply, totals)
    assert reply.fields[97] == "C0000000000003900"
