"""Food vouchers and points: purses of their own, with all that the e-cash purse can do."""

from __future__ import annotations

import pytest

from tests.client.books import booked_on, postings
from tests.client.checks import assert_outcome, assert_shape, assert_undone, funds, purse
from tests.client.demo import Demo
from tests.client.messages import Card, HoldName, Processing, Reply
from tests.client.terminal import Terminal

PURSES = [("60", "978"), ("80", "978"), ("90", "999")]
OTHERS = PURSES[1:]

each_purse = pytest.mark.parametrize(("account", "currency"), PURSES)
each_other = pytest.mark.parametrize(("account", "currency"), OTHERS)


class PurseTill:
    """A till whose verbs are all about one purse of one card."""

    def __init__(self, till: Terminal, card: Card, account: str, currency: str) -> None:
        self.till = till
        self.card = card
        self.account = account
        self.currency = currency
        self.spending = {"de3": f"00{account}00", "de49": currency}

    def load(self, amount_minor: int) -> Reply:
        into = {"de3": f"2100{self.account}", "de49": self.currency}
        return self.till.load(self.card, amount_minor, **into)

    def redeem(self, amount_minor: int, **changes: str) -> Reply:
        return self.till.redeem(self.card, amount_minor, **{**self.spending, **changes})

    def hold(self, amount_minor: int, **changes: str) -> Reply:
        return self.till.hold(self.card, amount_minor, **{**self.spending, **changes})

    def advise(self, amount_minor: int, **changes: str) -> Reply:
        return self.till.advise(self.card, amount_minor, **{**self.spending, **changes})

    def funds(self) -> tuple[int, int]:
        return funds(self.till, self.card, self.account, self.currency)


@pytest.fixture
def filled(
    pos: Terminal, card: Card, account: str, currency: str, request: pytest.FixtureRequest
) -> PurseTill:
    """A purse with 100.00 (or 10,000 points), beside the demo card's e-cash."""
    till = PurseTill(pos, card, account, currency)
    if account != "60":
        assert till.load(10000).code == "00"
    return till


def others_untouched(till: PurseTill) -> bool:
    """Whether the other purses are as they were: 100.00 of e-cash, nothing, nothing."""
    every = till.till.balance(till.card, Processing.BALANCE_ALL)
    return all(
        (purse(every, account).ledger_minor, purse(every, account).available_minor)
        == ((10000, 10000) if account == "60" else (0, 0))
        for account, _ in PURSES
        if account != till.account
    )


@each_purse
def test_a_purse_is_spent_to_its_last_unit(filled: PurseTill) -> None:
    sale = filled.redeem(4000)
    assert_shape(sale)
    assert set(sale.purses) == {filled.account}
    assert sale.purses[filled.account].currency == filled.currency
    assert filled.redeem(6001).code == "51"
    assert filled.redeem(6000).code == "00"
    assert filled.funds() == (0, 0)
    assert others_untouched(filled)


@each_purse
def test_a_purse_may_be_approved_in_part(filled: PurseTill) -> None:
    partial = filled.redeem(15000, PA="1")
    assert_shape(partial)
    assert (partial.code, partial.amount_minor, int(partial.private["RQ"])) == ("10", 10000, 15000)
    assert purse(partial, filled.account).available_minor == 0
    assert filled.redeem(1, PA="1").code == "51"
    assert others_untouched(filled)


@each_purse
def test_a_partial_approval_is_the_same_when_it_is_repeated(filled: PurseTill) -> None:
    partial = filled.redeem(15000, PA="1")
    assert filled.load(500).code == "00"
    assert filled.till.repeat(partial).same_answer() == partial.same_answer()
    assert filled.till.repeat(partial, de4=partial.fields[4]).code == "94"
    assert filled.funds() == (500, 0)


@each_purse
def test_what_is_enough_is_not_approved_in_part(filled: PurseTill) -> None:
    whole = filled.redeem(10000, PA="1")
    assert (whole.code, "RQ" in whole.private) == ("00", False)


@each_purse
@pytest.mark.parametrize("by", list(HoldName))
def test_a_purse_is_held_and_completed(filled: PurseTill, by: HoldName) -> None:
    hold = filled.hold(3000)
    assert_shape(hold)
    held = purse(hold, filled.account)
    assert (held.ledger_minor, held.available_minor) == (10000, 7000)
    assert filled.redeem(7001).code == "51"
    done = filled.till.complete(hold, 1000, by)
    assert_shape(done)
    assert (done.mti, done.code, done.why) == ("0230", "00", "")
    assert filled.funds() == (9000, 0)
    assert others_untouched(filled)


@each_purse
def test_what_exceeds_a_purses_hold_goes_to_suspense(switch: Demo, filled: PurseTill) -> None:
    hold = filled.hold(3000)
    done = filled.till.complete(hold, 3400)
    merchant = filled.till.identity.merchant
    assert booked_on(switch, done, "suspense") == {f"suspense:{merchant}": 400}
    rows = postings(switch, done)
    assert {(row["purse"], row["currency"]) for row in rows} == {(filled.account, filled.currency)}
    assert filled.funds() == (7000, 0)
    assert others_untouched(filled)


@each_purse
def test_a_purses_hold_is_reversed(filled: PurseTill) -> None:
    hold = filled.hold(3000)
    assert_undone(filled.till.reverse(hold, final_minor=2000), "PARTIAL")
    assert filled.funds() == (8000, 2000)
    assert_undone(filled.till.reverse(hold), "REVERSED")
    assert filled.funds() == (10000, 0)
    assert_outcome(filled.till.outcome(hold), hold, "REVERSED")
    assert others_untouched(filled)


@each_purse
def test_a_purses_completion_is_reversed(filled: PurseTill) -> None:
    done = filled.till.complete(filled.hold(3000), 2000)
    assert_undone(filled.till.reverse(done), "REVERSED")
    assert filled.funds() == (10000, 0)
    assert others_untouched(filled)


@each_purse
def test_a_purse_is_spent_offline(switch: Demo, filled: PurseTill) -> None:
    told = filled.advise(1250)
    assert_shape(told)
    assert (told.code, told.why) == ("00", "")
    assert filled.funds() == (8750, 0)
    rows = postings(switch, told)
    assert {(row["purse"], row["currency"]) for row in rows} == {(filled.account, filled.currency)}
    assert_undone(filled.till.reverse(told), "REVERSED")
    assert filled.funds() == (10000, 0)
    assert others_untouched(filled)


@each_other
def test_no_purse_pays_for_another(
    switch: Demo, pos: Terminal, card: Card, account: str, currency: str
) -> None:
    # 100.00 of e-cash, but nothing in the purse that the sale is about.
    till = PurseTill(pos, card, account, currency)
    assert till.redeem(1).code == "51"
    assert till.redeem(1, PA="1").code == "51"
    assert till.hold(1).code == "51"
    told = till.advise(700)
    assert told.code == "00"
    assert booked_on(switch, told, "shortfall") == {f"shortfall:{pos.identity.merchant}": 700}
    # The card is frozen, and with it all its purses; nothing was taken from them.
    assert pos.redeem(card, 1).code == "62"


@each_other
def test_a_return_goes_back_into_the_purse_it_came_from(filled: PurseTill) -> None:
    sale = filled.redeem(3000)
    back = {"de3": f"2000{filled.account}", "de49": filled.currency}
    returned = filled.till.refund(filled.card, 1000, sale, **back)
    assert_shape(returned)
    assert (returned.code, purse(returned, filled.account).available_minor) == ("00", 8000)
    assert not filled.till.refund(filled.card, 1000, sale).approved
    assert filled.funds() == (8000, 0)
    assert others_untouched(filled)


@each_other
def test_a_completion_about_another_purse_takes_no_hold(filled: PurseTill) -> None:
    hold = filled.hold(3000)
    done = filled.till.complete(hold, 1000, de3="006000", de49="978")
    assert done.code == "00"
    assert filled.funds() == (7000, 3000)
    assert filled.till.complete(hold, 3000).code == "00"
    assert filled.funds() == (7000, 0)


@pytest.mark.parametrize(("account", "currency"), [("60", "999"), ("80", "999"), ("90", "978")])
def test_a_purse_in_anothers_currency_is_an_invalid_transaction(
    switch: Demo, pos: Terminal, card: Card, account: str, currency: str
) -> None:
    till = PurseTill(pos, card, account, currency)
    assert till.redeem(100).code == "12"
    assert till.hold(100).code == "12"
    # An advice is accepted all the same, but posted to no card.
    told = till.advise(100)
    assert (told.code, bool(told.why)) == ("00", True)
    assert booked_on(switch, told, "suspense") == {f"suspense:{pos.identity.merchant}": 100}


def test_holds_of_all_purses_stand_side_by_side(pos: Terminal, card: Card) -> None:
    tills = [PurseTill(pos, card, account, currency) for account, currency in PURSES]
    for till in tills[1:]:
        assert till.load(10000).code == "00"
    holds = [till.hold(1000 * number) for number, till in enumerate(tills, 1)]
    every = pos.balance(card, Processing.BALANCE_ALL)
    assert_shape(every)
    assert [
        (every.purses[till.account].ledger_minor, every.purses[till.account].available_minor)
        for till in tills
    ] == [(10000, 9000), (10000, 8000), (10000, 7000)]
    for hold in holds:
        assert pos.complete(hold, 500).code == "00"
    assert [till.funds() for till in tills] == [(9500, 0)] * 3


def test_points_are_never_paid_out(pos: Terminal, card: Card) -> None:
    till = PurseTill(pos, card, "90", "999")
    assert till.load(5000).code == "00"
    assert not pos.exchange(pos.make.cash_out(card, de3="619000", de49="999")).approved
    assert pos.cash_out(card).amount_minor == 10000
    assert till.funds() == (5000, 0)
