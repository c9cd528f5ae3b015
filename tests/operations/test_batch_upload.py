"""Batch upload: the items of a batch whose totals differ, and what becomes of the differences."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.books import booked_on, link_count
from tests.client.checks import assert_shape, assert_undone, available
from tests.client.demo import Demo
from tests.client.messages import Card, Reply
from tests.client.terminal import Terminal
from tests.client.till_totals import TillTotals, told_totals

UNKNOWN_PAN = "8" * 19
_numbers = iter(range(800_001, 900_000))


def new_number() -> str:
    return f"{next(_numbers)}"


@pytest.fixture
def till(switch: Demo) -> Iterator[Terminal]:
    """A terminal with an empty batch, whatever others have done at it."""
    entry = next(e for e in reversed(switch.pos_entries) if e["mac"] == "retail-mac")
    with switch.pos(entry) as terminal:
        first = terminal.reconcile(TillTotals(debits=999_999))
        assert terminal.reconcile(told_totals(first)).code == "00"
        yield terminal


def assert_taken(reply: Reply, why: str = "") -> None:
    assert_shape(reply)
    assert (reply.mti, reply.code, reply.why) == ("0330", "00", why), reply


def items_of(switch: Demo, reply: Reply) -> list[tuple[str, str, int]]:
    """Open items with the reply's TX: kind, rule, amount."""
    return [
        (item["kind"], item["rule"], item["amount_minor"])
        for item in switch.open_items()
        if item["tx"] == reply.tx
    ]


def test_a_posted_item_is_noted_and_has_no_second_effect(
    switch: Demo, till: Terminal, card: Card
) -> None:
    sale = till.redeem(card, 1250)
    taken = till.upload(sale)
    assert_taken(taken)
    assert available(till, card) == 8750
    assert (link_count(switch, taken), items_of(switch, taken)) == (1, [])
    assert till.repeat(taken).same_answer() == taken.same_answer()
    assert_taken(till.upload(sale), "DONEBEFORE")
    assert_undone(till.reverse(sale), "REVERSED")
    assert available(till, card) == 10000


def test_an_unknown_sale_is_suspense_and_counts(switch: Demo, till: Terminal, card: Card) -> None:
    number, totals = new_number(), TillTotals()
    sale = till.redeem(card, 1000)
    never_sent = till.make.redeem(card, 700)
    totals.debit(1000)
    totals.debit(700)
    assert till.reconcile(totals, number).code == "95"
    assert_taken(till.upload(sale))
    kept = till.upload(never_sent)
    assert_taken(kept, "ORIGINAL")
    merchant = till.identity.merchant
    assert booked_on(switch, kept, "suspense") == {f"suspense:{merchant}": 700}
    assert booked_on(switch, kept, "card") == {}
    assert items_of(switch, kept) == [("suspense", "ORIGINAL", 700)]
    assert_taken(till.upload(never_sent), "DONEBEFORE")
    closed = till.reconcile(totals, number)
    assert (closed.code, told_totals(closed)) == ("00", totals)
    # However late it comes, it is not posted again.
    late = till.exchange(never_sent)
    assert (late.code, late.why) == ("05", "BARRED")
    assert available(till, card) == 9000


def test_unknown_loads_and_reversals_count_on_their_own_side(
    switch: Demo, till: Terminal, card: Card
) -> None:
    totals = TillTotals()
    load, sale = till.make.load(card, 400), till.redeem(card, 300)
    totals.debit(300)
    totals.credit(400)
    kept = till.upload(load)
    assert_taken(kept, "ORIGINAL")
    assert items_of(switch, kept) == [("suspense", "ORIGINAL", 400)]
    undo = till.make.reverse(sale)
    assert_taken(till.upload(undo), "ORIGINAL")
    totals.undo_debit(300)
    closed = till.reconcile(totals, new_number())
    assert (closed.code, told_totals(closed)) == ("00", totals)


@pytest.mark.parametrize("asked", ["declined", "reversed first", "no such card"])
def test_what_the_switch_did_not_post_is_suspense(
    switch: Demo, till: Terminal, card: Card, asked: str
) -> None:
    if asked == "declined":
        item, why = till.make.redeem(card, 99_999), "DECLINED"
        assert till.exchange(item).code == "51"
    elif asked == "reversed first":
        item, why = till.make.redeem(card, 500), "BARRED"
        assert_undone(till.reverse(item), "NOTHING")
    else:
        item, why = till.make.redeem(card, 500, de2=UNKNOWN_PAN), "CARD"
        assert till.exchange(item).code == "14"
    kept = till.upload(item)
    assert_taken(kept, why)
    amount_minor = int(item.fields[4])
    assert items_of(switch, kept) == [("suspense", why, amount_minor)]
    assert_taken(till.upload(item), "DONEBEFORE")
    totals = TillTotals()
    totals.debit(amount_minor)
    assert till.reconcile(totals, new_number()).code == "00"


def test_a_posted_item_that_is_not_uploaded_becomes_an_open_item(
    switch: Demo, till: Terminal, card: Card
) -> None:
    number, totals = new_number(), TillTotals()
    known, forgotten = till.redeem(card, 1000), till.redeem(card, 333)
    undone = till.redeem(card, 50)
    assert_undone(till.reverse(undone), "REVERSED")
    totals.debit(1000)
    totals.debit(50)
    totals.undo_debit(50)
    assert till.reconcile(totals, number).code == "95"
    assert_taken(till.upload(known))
    assert items_of(switch, forgotten) == []
    closed = till.reconcile(totals, number)
    assert (closed.code, told_totals(closed)) == ("00", totals)
    assert items_of(switch, forgotten) == [("missing", "TOTALS", 333)]
    assert items_of(switch, known) == items_of(switch, undone) == []
    assert available(till, card) == 10000 - 1333  # never reversed by itself


def test_the_switchs_totals_close_it_too_and_name_what_is_missing(
    switch: Demo, till: Terminal, card: Card
) -> None:
    number = new_number()
    known, forgotten = till.redeem(card, 1000), till.redeem(card, 333)
    asked = till.reconcile(TillTotals(), number)
    assert_taken(till.upload(known))
    assert till.reconcile(told_totals(asked), number).code == "00"
    assert items_of(switch, forgotten) == [("missing", "TOTALS", 333)]


def test_another_amount_is_told_and_looked_at(switch: Demo, till: Terminal, card: Card) -> None:
    sale = till.redeem(card, 1000)
    noted = till.upload(sale, de4="000000000900")
    assert_taken(noted, "AMOUNT")
    assert items_of(switch, noted) == [("upload", "AMOUNT", 900)]
    assert available(till, card) == 9000


def test_what_counts_nothing_is_noted_without_effect(till: Terminal, card: Card) -> None:
    assert_taken(till.upload(till.hold(card, 500)))
    assert_taken(till.upload(till.make.hold(card, 500)))
    assert_taken(till.upload(till.make.balance(card)))
    assert till.reconcile(TillTotals(), new_number()).code == "00"


@pytest.mark.parametrize("named", ["0200", "0220"])
@pytest.mark.parametrize("sent", ["0200", "0220"])
def test_a_sale_is_one_item_whether_it_was_asked_or_told(
    till: Terminal, card: Card, named: str, sent: str
) -> None:
    asked = till.make.redeem(card, 400)
    told = till.make.advise_instead(asked)
    messages = {"0200": asked, "0220": told}
    assert till.exchange(messages[sent]).code == "00"
    assert_taken(till.upload(messages[named]))
    assert_taken(till.upload(messages[sent]), "DONEBEFORE")
    totals = TillTotals()
    totals.debit(400)
    assert till.reconcile(totals, new_number()).code == "00"
    assert available(till, card) == 9600


@pytest.mark.parametrize("named", ["0200", "0220"])
def test_what_was_uploaded_is_never_posted_afterwards(
    till: Terminal, card: Card, named: str
) -> None:
    asked = till.make.redeem(card, 400)
    told = till.make.advise_instead(asked)
    assert_taken(till.upload({"0200": asked, "0220": told}[named]), "ORIGINAL")
    for late in (told, asked):
        reply = till.exchange(late)
        assert (reply.code, reply.why) == ("05", "BARRED")
    assert available(till, card) == 10000
    totals = TillTotals()
    totals.debit(400)
    assert till.reconcile(totals, new_number()).code == "00"
