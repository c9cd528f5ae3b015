"""Card to card over the wire: both cards or none, and what becomes of it afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from tests.client.books import booked_on, link_count, postings
from tests.client.checks import (
    assert_outcome,
    assert_refused_alike,
    assert_shape,
    assert_undone,
    available,
    funds,
)
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Reply
from tests.client.terminal import Terminal
from tests.client.vocabulary import Entry

FULL = 10_000


@pytest.fixture
def to_card(cards: Cards) -> Card:
    """Another fresh active card with 100.00."""
    return cards.active()


def balances(pos: Terminal, *cards: Card) -> list[int]:
    return [available(pos, card) for card in cards]


def refused(reply: Reply, code: str, why: str) -> None:
    assert_shape(reply)
    assert (reply.code, reply.why) == (code, why), reply


# -- approved -----------------------------------------------------------------------------------


def test_value_moves_and_the_reply_tells_the_senders_purse(
    any_pos: Terminal, card: Card, to_card: Card
) -> None:
    sent = any_pos.transfer(card, to_card, 2500)
    assert_shape(sent)
    assert (sent.code, sent.available_minor, sent.amount_minor) == ("00", 7500, 2500)
    assert sent.fields[103] == to_card.pan
    assert balances(any_pos, card, to_card) == [7500, 12500]


def test_the_books_balance_for_each_card_alone(
    switch: Demo, pos: Terminal, card: Card, to_card: Card
) -> None:
    sent = pos.transfer(card, to_card, 2500)
    assert link_count(switch, sent) == 1
    (posting,) = postings(switch, sent)
    assert posting["debit"].startswith("card:")
    assert (posting["credit"], posting["amount_minor"]) == ("transfer:1", 2500)
    assert booked_on(switch, sent, "merchant") == {}


def test_a_network_terminal_may_do_it_too(
    network: Terminal, pos: Terminal, card: Card, to_card: Card
) -> None:
    assert network.transfer(card, to_card, FULL).available_minor == 0
    assert balances(pos, card, to_card) == [0, 2 * FULL]


@pytest.mark.parametrize(("account", "currency"), [("80", "978"), ("90", "999")])
def test_each_purse_for_itself(
    pos: Terminal, card: Card, to_card: Card, account: str, currency: str
) -> None:
    load = pos.make.load(card, 700, de3=f"2100{account}", de49=currency)
    assert pos.exchange(load).code == "00"
    sent = pos.transfer(card, to_card, 300, de3=f"40{account}{account}", de49=currency)
    assert_shape(sent)
    assert (sent.code, sent.purses[account].available_minor) == ("00", 400)
    assert funds(pos, to_card, account, currency) == (300, 0)
    assert balances(pos, card, to_card) == [FULL, FULL]
    assert_undone(pos.reverse(sent), "REVERSED")
    assert funds(pos, card, account, currency) == (700, 0)


def test_what_came_from_a_card_that_could_be_cashed_can_be_cashed(
    pos: Terminal, card: Card, to_card: Card
) -> None:
    pos.transfer(card, to_card, 2500)
    assert pos.cash_out(to_card).amount_minor == 12500


def test_secrets_are_the_senders(pos: Terminal, card: Card, to_card: Card) -> None:
    keyed = {"de22": str(Entry.KEYED)}
    refused(pos.transfer(card, to_card, 100, **keyed), "14", "CARD")
    refused(pos.transfer(card, to_card, 100, **keyed, CV="0000"), "14", "CARD")
    assert pos.transfer(card, to_card, 100, **keyed, CV=card.cv).code == "00"
    refused(pos.transfer(card, to_card, 100, pin="0000"), "55", "PIN")
    assert pos.transfer(card, to_card, 100, pin=card.pin).code == "00"
    assert balances(pos, card, to_card) == [FULL - 200, FULL + 200]


# -- refused before a card is looked at ---------------------------------------------------------


@pytest.mark.parametrize(
    "number", [None, "12345678901", "1" * 20, "95000012345678X0128", "9500 0012 3456 7890"]
)
def test_no_number_of_a_receiver_is_a_format_error(
    pos: Terminal, card: Card, to_card: Card, number: str | None
) -> None:
    reply = pos.transfer(card, to_card, 100, de103=number)
    assert (reply.code, reply.why) == ("30", "FORMAT")
    assert available(pos, card) == FULL


def test_a_card_cannot_send_to_itself(pos: Terminal, card: Card) -> None:
    refused(pos.transfer(card, card, 100), "12", "TOCARD")
    refused(pos.transfer(card, card, 100, de2=None, de35=card.track2), "12", "TOCARD")


def test_amount_and_currency(pos: Terminal, card: Card, to_card: Card) -> None:
    refused(pos.transfer(card, to_card, 0), "13", "AMOUNT")
    assert pos.transfer(card, to_card, 100, de4=None).code == "13"
    refused(pos.transfer(card, to_card, 100, de49="840"), "12", "CURRENCY")
    refused(pos.transfer(card, to_card, 100, de3="406080"), "12", "OPERATION")


# -- refused by a card --------------------------------------------------------------------------


def test_less_than_asked_for_is_on_the_card(pos: Terminal, card: Card, to_card: Card) -> None:
    refused(pos.transfer(card, to_card, FULL + 1, PA="1"), "51", "FUNDS")
    assert balances(pos, card, to_card) == [FULL, FULL]


def test_an_unknown_sender(pos: Terminal, card: Card, to_card: Card) -> None:
    refused(pos.transfer(card, to_card, 100, de2="9500009999999999995"), "14", "CARD")


def test_whatever_is_wrong_with_the_receiver_is_one_answer(
    pos: Terminal, network: Terminal, cards: Cards, card: Card, to_card: Card
) -> None:
    blocked, closed, frozen = cards.active(), cards.active(), cards.active()
    assert network.block(blocked).code == "00"
    assert network.deactivate(closed).code == "00"
    pos.redeem(frozen, FULL)
    assert pos.advise(frozen, 100).why == "SHORTFALL"
    unfit = [blocked, closed, frozen, cards.issued()]
    unfit += [cards.special(status) for status in ("lost", "stolen", "expired")]
    replies = [pos.transfer(card, each, 100) for each in unfit]
    replies.append(pos.transfer(card, to_card, 100, de103="9500009999999999995"))
    for reply in replies:
        assert_shape(reply)
    assert_refused_alike(replies, "05")
    assert replies[0].why == "TOCARD"
    assert available(pos, card) == FULL


def test_a_refusal_is_kept(pos: Terminal, cards: Cards, card: Card) -> None:
    issued = cards.issued()
    first = pos.transfer(card, issued, 100)
    refused(first, "05", "TOCARD")
    assert pos.activate(issued, 1000).code == "00"
    assert pos.repeat(first).same_answer() == first.same_answer()
    assert balances(pos, card, issued) == [FULL, 1000]


# -- repeats and questions ----------------------------------------------------------------------


@pytest.mark.parametrize("flagged", [True, False])
def test_a_repeat_hears_the_first_answer(
    pos: Terminal, card: Card, to_card: Card, flagged: bool
) -> None:
    first = pos.transfer(card, to_card, 2500)
    pos.redeem(card, 100)
    pos.redeem(to_card, 100)
    for _ in range(2):
        again = pos.repeat(first, flagged=flagged)
        assert_shape(again)
        assert again.same_answer() == first.same_answer()
    assert balances(pos, card, to_card) == [7400, 12400]


def test_another_receiver_is_another_content(
    pos: Terminal, cards: Cards, card: Card, to_card: Card
) -> None:
    first = pos.transfer(card, to_card, 2500)
    assert pos.repeat(first, de103=cards.active().pan).code == "94"


def test_an_outcome_query_finds_it(pos: Terminal, card: Card, to_card: Card) -> None:
    first = pos.transfer(card, to_card, 2500)
    assert_outcome(pos.outcome(first), first, "APPROVED")
    assert_undone(pos.reverse(first, final_minor=1000), "PARTIAL")
    assert_outcome(pos.outcome(first), first, "PARTIAL")
    assert_undone(pos.reverse(first), "REVERSED")
    assert_outcome(pos.outcome(first), first, "REVERSED")


# -- reversals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False], ids=["receiver named", "receiver not named"])
def test_a_reversal_undoes_it_once(pos: Terminal, card: Card, to_card: Card, named: bool) -> None:
    first = pos.transfer(card, to_card, 2500)
    more = {"de103": to_card.pan} if named else {}
    undone = pos.reverse(first, **more)
    assert_undone(undone, "REVERSED")
    assert pos.repeat(undone).same_answer() == undone.same_answer()
    assert_undone(pos.reverse(first, **more), "ALREADY")
    again = pos.repeat(first)
    assert (again.code, again.state, again.tx) == ("05", "REVERSED", first.tx)
    assert balances(pos, card, to_card) == [FULL, FULL]


def test_another_receiver_in_the_reversal_changes_nothing(
    pos: Terminal, cards: Cards, card: Card, to_card: Card
) -> None:
    first, other = pos.transfer(card, to_card, 2500), cards.active()
    assert_undone(pos.reverse(first, de103=other.pan), "REVERSED")
    second = pos.transfer(card, to_card, 2500)
    assert_undone(pos.reverse(second, de103="no number"), "REVERSED")
    assert balances(pos, card, to_card, other) == [FULL, FULL, FULL]


def test_a_reversal_before_its_original(pos: Terminal, card: Card, to_card: Card) -> None:
    request = pos.make.transfer(card, to_card, 2500)
    assert_undone(pos.exchange(pos.make.reverse(request)), "NOTHING")
    refused(pos.exchange(request), "05", "BARRED")
    assert balances(pos, card, to_card) == [FULL, FULL]


def test_a_reversal_that_names_the_receiver_as_its_card(
    pos: Terminal, card: Card, to_card: Card
) -> None:
    first = pos.transfer(card, to_card, 2500)
    assert pos.reverse(first, de2=to_card.pan).code == "94"
    assert balances(pos, card, to_card) == [7500, 12500]


def test_what_the_receiver_has_spent_stays_spent(pos: Terminal, card: Card, to_card: Card) -> None:
    first = pos.transfer(card, to_card, 2500)
    assert pos.redeem(to_card, 11500).code == "00"
    undone = pos.reverse(first)
    assert_undone(undone, "PARTIAL")
    assert undone.why == "SPENT"
    assert balances(pos, card, to_card) == [8500, 0]
    assert pos.load(to_card, 100).code == "00"  # nobody froze it
    assert pos.repeat(undone).same_answer() == undone.same_answer()
    assert balances(pos, card, to_card) == [8500, 100]


@pytest.mark.parametrize("fate", ["blocked", "closed", "frozen"])
def test_a_reversal_takes_from_a_card_whatever_has_become_of_it(
    pos: Terminal, network: Terminal, card: Card, to_card: Card, fate: str
) -> None:
    first = pos.transfer(card, to_card, 2500)
    if fate == "frozen":
        load = pos.load(to_card, 1000)
        pos.redeem(to_card, 13500)
        assert pos.reverse(load).state == "PARTIAL"  # spent: the card is frozen, with nothing on it
    else:
        assert (network.block if fate == "blocked" else network.deactivate)(to_card).code == "00"
    undone = pos.reverse(first)
    assert_undone(undone, "PARTIAL" if fate == "frozen" else "REVERSED")
    assert available(pos, card) == (7500 if fate == "frozen" else FULL)


def test_partial_reversals_go_down_to_the_final_amount(
    pos: Terminal, card: Card, to_card: Card
) -> None:
    first = pos.transfer(card, to_card, 2500)
    assert_undone(pos.reverse(first, final_minor=1000), "PARTIAL")
    assert_undone(pos.reverse(first, final_minor=1000), "ALREADY")
    refused(pos.reverse(first, final_minor=1001), "13", "AMOUNT")
    refused(pos.reverse(first, de4="000000002499"), "13", "AMOUNT")
    assert balances(pos, card, to_card) == [9000, 11000]


# -- many at once -------------------------------------------------------------------------------


def test_transfers_both_ways_at_once_end(
    switch: Demo, pos: Terminal, card: Card, to_card: Card
) -> None:
    """Four tills over two workers send to and fro between two cards; all are answered."""
    replies: list[Reply] = []
    entries = switch.pos_entries[4:8]

    def send(entry: dict[str, object], there: bool) -> None:
        one, two = (card, to_card) if there else (to_card, card)
        with switch.pos(entry) as till:
            for _ in range(25):
                replies.append(till.transfer(one, two, 100))

    threads = [
        threading.Thread(target=send, args=(entry, number % 2 == 0))
        for number, entry in enumerate(entries)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [reply.code for reply in replies] == ["00"] * 100
    assert balances(pos, card, to_card) == [FULL, FULL]


def test_the_terminal_at_the_command_line(switch: Demo, card: Card, to_card: Card) -> None:
    command = [sys.executable, "-m", "switch", "pos", "transfer", "--data", str(switch.data)]
    command += ["--card", card.pan, "--to", to_card.pan, "--amount", "5.00", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["request"]["3"], said["reply"]["39"]) == ("406060", "00")
    assert card.pan not in done.stdout and to_card.pan not in done.stdout
