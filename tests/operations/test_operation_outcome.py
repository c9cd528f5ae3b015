"""Outcome queries: what became of a transaction whose answer was lost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.client.books import link_count
from tests.client.checks import assert_outcome, assert_shape, assert_undone, available, funds
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Entry, HoldName, Reason, Reply, Request, Seal
from tests.client.terminal import Terminal

UNKNOWN_PAN = "9" * 19


def assert_unknown(reply: Reply, state: str = "") -> None:
    assert_shape(reply)
    assert (reply.mti, reply.code, reply.original_state) == ("0610", "25", state), reply
    assert not reply.original_code
    assert not {38, 54} & set(reply.fields)


# -- approved, declined -------------------------------------------------------------------


def test_an_approved_sale_is_told_with_its_own_answer(any_pos: Terminal, card: Card) -> None:
    sale = any_pos.redeem(card, 1250)
    asked = any_pos.outcome(sale)
    assert asked.mti == "0610"
    assert_outcome(asked, sale, "APPROVED")
    assert (asked.amount_minor, asked.available_minor) == (1250, 8750)
    assert available(any_pos, card) == 8750


def test_a_query_is_a_transaction_of_its_own_but_leaves_no_link(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 1250)
    asked = pos.outcome(sale)
    assert asked.tx != sale.tx
    assert link_count(switch, asked) == 0
    assert link_count(switch, sale) == 1


def test_the_answer_is_the_originals_though_the_card_has_moved_on(
    pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 1250)
    later = pos.pipeline([pos.make.redeem(card, 1) for _ in range(40)])
    assert {reply.code for reply in later} == {"00"}
    assert_outcome(pos.outcome(sale), sale, "APPROVED")
    assert_outcome(pos.outcome(later[0]), later[0], "APPROVED")


def test_every_operation_can_be_asked_for(
    pos: Terminal, network: Terminal, card: Card, issued: Card
) -> None:
    sale = pos.redeem(card, 2000)
    hold = pos.hold(card, 3000)
    done = pos.complete(hold, 1000)
    steps = [
        pos.activate(issued, 5000),
        pos.load(card, 500),
        sale,
        pos.refund(card, 700, sale),
        hold,
        done,
        pos.advise(card, 300),
        pos.cash_out(card),
    ]
    for step in steps:
        assert step.code == "00"
        assert_outcome(pos.outcome(step), step, "APPROVED")
    blocked = network.block(card)
    assert (blocked.code, network.outcome(blocked).original_state) == ("00", "APPROVED")


def test_a_partial_approval_is_told_with_what_was_approved(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 15000, PA="1")
    asked = pos.outcome(sale)
    assert_outcome(asked, sale, "APPROVED")
    assert (asked.original_code, asked.amount_minor) == ("10", 10000)


@pytest.mark.parametrize("verb", ["redeem", "hold"])
def test_a_declined_request_is_told_with_its_code(pos: Terminal, card: Card, verb: str) -> None:
    declined = getattr(pos, verb)(card, 15000)
    assert declined.code == "51"
    for bar_unknown in (False, True):
        assert_outcome(pos.outcome(declined, bar_unknown=bar_unknown), declined, "DECLINED")
    # Asked for, and even with TB, it is as it was: declined, not barred.
    assert pos.repeat(declined).same_answer() == declined.same_answer()


def test_a_request_refused_for_its_pin_is_told_so(pos: Terminal, card: Card) -> None:
    declined = pos.redeem(card, 100, pin=f"{(int(card.pin) + 1) % 10000:04d}")
    assert declined.code == "55"
    assert_outcome(pos.outcome(declined), declined, "DECLINED")


# -- reversed -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["redeem", "load", "hold", "advise"])
def test_what_was_reversed_is_told_so(pos: Terminal, card: Card, verb: str) -> None:
    original = getattr(pos, verb)(card, 3000)
    assert_undone(pos.reverse(original), "REVERSED")
    assert_outcome(pos.outcome(original), original, "REVERSED")


@pytest.mark.parametrize("verb", ["redeem", "load", "hold", "advise"])
def test_what_was_reversed_in_part_is_told_so(pos: Terminal, card: Card, verb: str) -> None:
    original = getattr(pos, verb)(card, 3000)
    assert_undone(pos.reverse(original, final_minor=1000), "PARTIAL")
    assert_outcome(pos.outcome(original), original, "PARTIAL")
    assert_undone(pos.reverse(original), "REVERSED")
    assert_outcome(pos.outcome(original), original, "REVERSED")


def test_a_reversed_completion_is_told_so(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000)
    done = pos.complete(hold, 2000)
    assert_undone(pos.reverse(done, final_minor=1500), "PARTIAL")
    assert_outcome(pos.outcome(done), done, "PARTIAL")
    assert_undone(pos.reverse(done), "REVERSED")
    assert_outcome(pos.outcome(done), done, "REVERSED")
    # The hold itself was completed, not reversed.
    assert_outcome(pos.outcome(hold), hold, "APPROVED")


def test_a_lowered_hold_stays_partly_reversed_when_it_is_completed(
    pos: Terminal, card: Card
) -> None:
    hold = pos.hold(card, 5000)
    assert_undone(pos.reverse(hold, final_minor=3000), "PARTIAL")
    assert pos.complete(hold, 3000).code == "00"
    assert_outcome(pos.outcome(hold), hold, "PARTIAL")


def test_a_return_is_no_reversal(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 3000)
    assert pos.refund(card, 3000, sale).code == "00"
    assert_outcome(pos.outcome(sale), sale, "APPROVED")


def test_a_spent_load_is_told_as_its_reversal_was(pos: Terminal, card: Card) -> None:
    loaded = pos.load(card, 2000)
    assert pos.redeem(card, 11500).code == "00"
    assert_undone(pos.reverse(loaded, Reason.TIME_OUT), "PARTIAL")
    assert_outcome(pos.outcome(loaded), loaded, "PARTIAL")


def test_a_reversal_without_effect_changes_no_outcome(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000)
    done = pos.complete(hold, 3000)
    assert_undone(pos.reverse(hold), "NOTHING")
    assert_outcome(pos.outcome(hold), hold, "APPROVED")
    assert_outcome(pos.outcome(done), done, "APPROVED")


def test_a_suspended_advice_was_accepted_and_can_be_reversed(pos: Terminal, card: Card) -> None:
    over = pos.advise(card, 6000)
    assert_outcome(pos.outcome(over), over, "APPROVED")
    assert_undone(pos.reverse(over), "REVERSED")
    assert_outcome(pos.outcome(over), over, "REVERSED")


# -- unknown ------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [None, "0"])
def test_an_unknown_original_is_not_barred_by_asking(
    pos: Terminal, card: Card, flag: str | None
) -> None:
    sale = pos.make.redeem(card, 1250)
    for _ in range(2):
        assert_unknown(pos.outcome(sale, TB=flag))
    late = pos.exchange(sale)
    assert (late.code, late.available_minor) == ("00", 8750)
    assert_outcome(pos.outcome(sale), late, "APPROVED")


@pytest.mark.parametrize("verb", ["redeem", "load", "hold"])
def test_an_unknown_original_is_barred_where_asked_to(
    any_pos: Terminal, card: Card, verb: str
) -> None:
    original: Request = getattr(any_pos.make, verb)(card, 1250)
    assert_unknown(any_pos.outcome(original, bar_unknown=True), "BARRED")
    late = any_pos.exchange(original)
    assert_shape(late)
    assert late.code == "05"
    assert any_pos.repeat(original).code == "05"
    # From now on that is its outcome, also for who does not ask to bar it.
    assert_unknown(any_pos.outcome(original), "BARRED")
    assert_unknown(any_pos.outcome(original, bar_unknown=True), "BARRED")
    assert funds(any_pos, card) == (10000, 0)


def test_a_barred_original_bars_no_other_sale(pos: Terminal, card: Card) -> None:
    sale = pos.make.redeem(card, 1250)
    assert_unknown(pos.outcome(sale, bar_unknown=True), "BARRED")
    assert pos.redeem(card, 1250).available_minor == 8750


def test_a_barred_original_leaves_nothing_to_reverse(pos: Terminal, card: Card) -> None:
    sale = pos.make.redeem(card, 1250)
    assert_unknown(pos.outcome(sale, bar_unknown=True), "BARRED")
    undone = pos.reverse(sale)
    assert (undone.code, undone.state in {"NOTHING", "ALREADY"}) == ("00", True)
    assert pos.exchange(sale).code == "05"
    assert available(pos, card) == 10000


def test_what_a_reversal_barred_is_told_as_barred(pos: Terminal, card: Card) -> None:
    sale = pos.make.redeem(card, 1250)
    assert_undone(pos.reverse(sale), "NOTHING")
    assert_unknown(pos.outcome(sale), "BARRED")


def test_a_barred_completion_leaves_its_hold(pos: Terminal, card: Card) -> None:
    hold = pos.hold(card, 3000)
    done = pos.make.complete(hold, 2000, HoldName.TRANSACTION)
    assert_unknown(pos.outcome(done, bar_unknown=True), "BARRED")
    assert funds(pos, card) == (7000, 3000)
    assert pos.complete(hold, 2000).code == "00"
    assert funds(pos, card) == (8000, 0)


def test_query_and_original_race_and_agree(switch: Demo, cards: Cards) -> None:
    entry = switch.pos_entries[8]
    with switch.pos(entry) as one, switch.pos(entry) as two:
        for turn in range(10):
            card = cards.active()
            sale = one.make.redeem(card, 5000)
            asked = two.make.outcome(sale, bar_unknown=True)
            lines = [(one, sale), (two, asked)]
            for till, request in lines if turn % 2 else reversed(lines):
                till.send(request)
            answers = (one.receive(sale).code, two.receive(asked).original_state)
            assert answers in {("00", "APPROVED"), ("05", "BARRED")}
            assert available(one, card) == (5000 if answers[0] == "00" else 10000)


def test_an_enquiry_is_no_transaction_to_be_found(pos: Terminal, card: Card) -> None:
    assert_unknown(pos.outcome(pos.balance(card)))


def test_the_original_of_another_card_is_not_found(pos: Terminal, cards: Cards) -> None:
    card, other = cards.active(), cards.active()
    sale = pos.redeem(card, 1250)
    assert_unknown(pos.outcome(sale, de2=other.pan))
    assert_outcome(pos.outcome(sale), sale, "APPROVED")


def test_the_original_of_another_terminal_is_not_found(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    sale = pos.redeem(card, 1250)
    others = [entry for entry in switch.pos_entries if entry["id"] != pos.identity.terminal]
    with switch.pos(others[0]) as till:
        named = {"de41": till.identity.terminal, "de42": till.identity.merchant}
        assert_unknown(till.outcome(sale, **named))


@pytest.mark.parametrize("change", [{"de3": "210060"}, {"de90": "0220"}, {"de90": "0100"}])
def test_only_the_very_transaction_is_found(
    pos: Terminal, card: Card, change: dict[str, str]
) -> None:
    sale = pos.redeem(card, 1250)
    if "de90" in change:
        change = {"de90": change["de90"] + sale.fields[11] + "0" * 32}
    assert_unknown(pos.outcome(sale, **change))


def test_a_query_about_a_card_that_nobody_has_finds_no_original(pos: Terminal, card: Card) -> None:
    # 00, 25, 63 and 91 are all that a query is answered: no way to find out which cards exist.
    sale = pos.make.redeem(card, 1250, de2=UNKNOWN_PAN)
    assert pos.exchange(sale).code == "14"
    assert_unknown(pos.outcome(sale))
    assert_unknown(pos.outcome(sale, bar_unknown=True), "BARRED")


def test_the_advice_on_a_card_that_nobody_has_is_found(pos: Terminal, card: Card) -> None:
    told = pos.advise(card, 1000, de2=UNKNOWN_PAN)
    assert told.code == "00"
    assert_outcome(pos.outcome(told), told, "APPROVED")
    assert_unknown(pos.outcome(told, de2="8" * 19))


def test_a_sale_of_long_ago_is_unknown(pos: Terminal, card: Card) -> None:
    then = pos.make.local_time() - timedelta(days=90)
    assert_unknown(pos.outcome(pos.make.redeem(card, 100, at=then)))


# -- how the original is named ------------------------------------------------------------


def test_the_amount_is_not_compared_and_may_be_absent(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 1250)
    for amount in (None, "000000009999"):
        assert_outcome(pos.outcome(sale, de4=amount), sale, "APPROVED")


def test_only_mti_and_stan_of_the_original_data_count(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 1250)
    for mti in ("0200", "0201"):
        named = mti + sale.fields[11] + "9" * 32
        assert_outcome(pos.outcome(sale, de90=named), sale, "APPROVED")


def test_without_original_data_the_last_transaction_is_meant(pos: Terminal, card: Card) -> None:
    # With the STAN of that last one, too: so that both readings of the page agree.
    sale = pos.redeem(card, 1250)
    asked = pos.outcome(sale, de90=None, de11=sale.fields[11])
    assert_outcome(asked, sale, "APPROVED")


def test_a_query_may_name_the_card_by_its_track(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 1250)
    asked = pos.outcome(sale, de2=None, de35=card.track2)
    assert_outcome(asked, sale, "APPROVED")


@pytest.mark.parametrize("entry", [Entry.KEYED, Entry.ONLINE])
def test_a_query_needs_neither_code_nor_pin(pos: Terminal, card: Card, entry: Entry) -> None:
    sale = pos.redeem(card, 1250, de22=str(entry), CV=card.cv)
    assert sale.code == "00"
    assert_outcome(pos.outcome(sale, de22=str(entry)), sale, "APPROVED")
    assert_unknown(pos.outcome(pos.make.redeem(card, 1250, de22=str(entry))))


def test_a_repeated_query_is_answered_with_what_is_so_now(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 1250)
    asked = pos.outcome(sale)
    assert_undone(pos.reverse(sale), "REVERSED")
    again = pos.repeat(asked)
    assert again.mti == "0610"
    assert_outcome(again, sale, "REVERSED")


def test_a_query_with_a_wrong_mac_is_told_nothing(pos: Terminal, card: Card) -> None:
    sale = pos.make.redeem(card, 1250)
    asked = pos.outcome(sale, bar_unknown=True, seal=Seal.FLIPPED_IN_MAC)
    assert (asked.code, asked.original_state, asked.original_code) == ("63", "", "")
    assert pos.exchange(sale).code == "00"


def test_the_reserved_0620_is_no_query(pos: Terminal, card: Card) -> None:
    sale = pos.redeem(card, 1250)
    asked = pos.make.outcome(sale)
    reserved = pos.make.build("0620", asked.fields, {}, {}, card)
    reply = pos.exchange(reserved)
    assert (reply.mti, reply.code, reply.original_code) == ("0630", "12", "")


def test_queries_are_served_over_the_network_packager_too(network: Terminal, card: Card) -> None:
    sale = network.redeem(card, 1250)
    assert_outcome(network.outcome(sale), sale, "APPROVED")
    hold = network.hold(card, 1000)
    assert_outcome(network.outcome(hold), hold, "APPROVED")
    done = network.complete(hold, 400, HoldName.APPROVAL_CODE)
    assert_outcome(network.outcome(done), done, "APPROVED")
    assert funds(network, card) == (8350, 0)
