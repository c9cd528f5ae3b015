"""Card to card: what moves, what does not, and what comes back of it."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from builders import (
    NOW_S,
    PVV,
    TILL,
    again,
    card_effect_minor,
    make_advice,
    make_facts,
    make_outcome,
    make_request,
    make_reversal,
    make_state,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer_world import World, make_transfer

from rules.cards import CardFacts, CardState, CardStatus, HistoryMissing
from rules.identity import counterpart_key
from rules.ledger import AccountKind, Answer, Link
from rules.lots import Lot, Origin
from rules.money import AMOUNT_MINOR_MAX, Purse
from rules.replay import ReplayFault, check_counterpart
from rules.requests import CardRequest, Operation, ReversalReason
from rules.responses import OriginalState, Response, ReversalState, Rule

A, B, C = 71, 72, 73
PROMO = Lot(1, 300, Origin.PROMO, cashable=False, expires_day=20_900, sponsor_id=8)
PAID = Lot(2, 700)


def two_cards(
    receiver: CardState | None = None, facts: CardFacts | None = None, purse: Purse = Purse.ECASH
) -> World:
    """A with promotional and paid value, B with 50 of its own unless it is given."""
    world = World()
    lots = [msgspec.structs.replace(lot) for lot in (PROMO, PAID)]
    world.card(A, make_state(lots=lots, purse=purse))
    world.card(B, receiver or make_state(available_minor=50), facts)
    return world


def said(answer: Answer) -> tuple[str, str, str]:
    return answer.response.value, answer.rule.value, answer.reversal_state.value


def lots_of(world: World, card_id: int, purse: Purse = Purse.ECASH) -> list[Lot]:
    return world.chains[card_id].card_state.purse(purse).lots


def without_number(lot: Lot) -> Lot:
    return msgspec.structs.replace(lot, lot_id=0)


# -- what moves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("purse", Purse)
def test_lots_move_with_origin_sponsor_and_expiry(purse: Purse) -> None:
    world = two_cards(purse=purse)
    before = lots_of(world, B, purse)
    answer = world.send(make_transfer(500, purse=purse), A, B)
    assert said(answer) == ("00", "", "")
    assert lots_of(world, A, purse) == [Lot(2, 500)]
    assert lots_of(world, B, purse)[: len(before)] == before
    came = lots_of(world, B, purse)[len(before) :]
    assert [without_number(lot) for lot in came] == [
        without_number(PROMO),
        without_number(Lot(0, 200)),
    ]
    assert len({lot.lot_id for lot in lots_of(world, B, purse)}) == len(lots_of(world, B, purse))
    assert answer.balances[:2] == f"{purse:02d}" and answer.balances.endswith("C000000000500")


def test_both_links_name_each_other_and_each_is_balanced() -> None:
    world = two_cards()
    request = make_transfer(500, rrn="000000000077")
    answer = world.send(request, A, B)
    sent, received = world.links
    assert (sent.card_id, sent.key, sent.operation) == (A, request.key, Operation.TRANSFER)
    assert (sent.other_card_id, sent.other_version) == (B, received.version)
    assert (received.other_card_id, received.other_version) == (A, sent.version)
    assert received.operation is Operation.RECEIPT
    assert received.key == counterpart_key(request.key, A) != request.key
    assert received.key[:4] == request.key[:4]
    assert sent.answer == answer
    assert received.answer.transaction_id != answer.transaction_id
    assert received.answer.rrn == "000000000077"
    assert received.answer.balances == ""
    assert [card_effect_minor(link) for link in world.links] == [-500, 500]
    (out,), (in_,) = sent.postings, received.postings
    assert (out.debit_kind, out.credit_kind) == (AccountKind.CARD, AccountKind.TRANSFER)
    assert (in_.debit_kind, in_.credit_kind) == (AccountKind.TRANSFER, AccountKind.CARD)
    assert out.credit_id == in_.debit_id == 1  # the programme


def test_senders_that_share_a_key_have_receipts_of_their_own() -> None:
    """A key is the terminal's, not the card's: one receiver may hear of it twice."""
    world = two_cards()
    world.card(C)
    request = make_transfer(100)
    assert said(world.send(request, A, B))[0] == "00"
    assert said(world.send(again(request), C, B))[0] == "00"
    keys = [link.key for link in world.links if link.card_id == B]
    assert len(set(keys)) == 2
    assert len({link.answer.transaction_id for link in world.links}) == 4
    assert world.available(B) == 250


def test_secrets_are_the_senders() -> None:
    world = two_cards()
    wrong = make_transfer(100, pvv=b"0000")
    assert said(world.send(wrong, A, B)) == ("55", "PIN", "")
    assert world.chains[A].card_state.pin_tries == 1
    assert said(world.send(make_transfer(100, pvv=PVV), A, B))[0] == "00"
    assert world.chains[A].card_state.pin_tries == 0
    assert world.chains[B].card_state.pin_tries == 0


def test_less_than_is_asked_for_will_not_do() -> None:
    world = two_cards()
    request = make_transfer(1001, partial_allowed=True)
    assert said(world.send(request, A, B)) == ("51", "FUNDS", "")
    assert (world.available(A), world.available(B)) == (1000, 50)
    assert [link.card_id for link in world.links] == [A]


@pytest.mark.parametrize("status", [status for status in CardStatus if status != CardStatus.ACTIVE])
def test_a_sender_that_is_not_active_is_told_so(status: CardStatus) -> None:
    world = two_cards()
    world.card(A, make_state(status))
    assert world.send(make_transfer(100), A, B).rule is Rule.STATUS
    assert world.available(B) == 50


# -- a card that cannot receive -----------------------------------------------------------------


def _full() -> CardState:
    state = make_state(available_minor=AMOUNT_MINOR_MAX - 600)
    state.ecash.held_minor = 501
    return state


UNFIT: dict[str, tuple[CardState | None, CardFacts | None]] = {
    **{s.name.lower(): (make_state(s), None) for s in CardStatus if s is not CardStatus.ACTIVE},
    "past its expiry": (None, make_facts(expiry="2610")),
    "no room for it": (_full(), None),
    "another programme": (None, CardFacts(2, "978", "3012")),
    "another currency": (None, CardFacts(1, "840", "3012")),
}


@pytest.mark.parametrize("why", [*UNFIT, "unknown", "the sender itself"])
def test_whatever_keeps_a_card_from_receiving_looks_alike(why: str) -> None:
    world = two_cards(*UNFIT.get(why, (None, None)))
    to_id = {"unknown": -5, "the sender itself": A}.get(why, B)
    before = world.chains[B].state
    answer = world.send(make_transfer(100), A, to_id)
    assert (said(answer), answer.balances, answer.approval_code) == (("05", "TOCARD", ""), "", "")
    assert [(link.card_id, link.other_card_id) for link in world.links] == [(A, 0)]
    assert world.chains[B].state == before and world.available(A) == 1000


def test_room_is_what_the_purse_can_count() -> None:
    world = two_cards(make_state(available_minor=AMOUNT_MINOR_MAX - 100))
    assert said(world.send(make_transfer(101), A, B)) == ("05", "TOCARD", "")
    assert said(world.send(make_transfer(100), A, B))[0] == "00"


def test_nothing_is_learned_of_the_receiver_by_who_has_no_value() -> None:
    world = two_cards()
    assert said(world.send(make_transfer(5000), A, -5)) == ("51", "FUNDS", "")
    assert said(world.send(make_transfer(5000), A, B)) == ("51", "FUNDS", "")


def test_a_refusal_is_kept_and_repeated_when_the_card_could_receive() -> None:
    world = two_cards(make_state(CardStatus.ISSUED, 0))
    request = make_transfer(100)
    first = world.send(request, A, B)
    world.chains[B].send(make_request(Operation.ACTIVATE, 10))
    assert world.send(again(request), A, B) == first
    assert (world.available(A), world.available(B)) == (1000, 10)


# -- repeats, questions, reversals --------------------------------------------------------------


def spend(world: World, card_id: int, amount_minor: int) -> None:
    sale = world.chains[card_id].send(make_request(Operation.REDEEM, amount_minor))
    assert sale.response is Response.APPROVED


def test_a_repeat_hears_the_first_answer_and_moves_nothing() -> None:
    world = two_cards()
    request = make_transfer(500)
    first = world.send(request, A, B)
    for _ in range(20):
        world.chains[A].send(make_request(Operation.REDEEM, 99_999))
        world.chains[B].send(make_request(Operation.REDEEM, 99_999))
    assert world.send(again(request), A, B) == first
    other = msgspec.structs.replace(again(request), fingerprint=b"another!")
    assert world.send(other, A, B).response is Response.DUPLICATE_DIFFERS
    assert len(world.links) == 2


@pytest.mark.parametrize("reason", ReversalReason)
def test_a_reversal_puts_everything_back_where_it_was(reason: ReversalReason) -> None:
    world = two_cards()
    before = {card: sorted(lots_of(world, card), key=lambda x: x.lot_id) for card in (A, B)}
    request = make_transfer(500)
    world.send(request, A, B)
    reversal = make_reversal(request, reason=reason)
    answer = world.send(reversal, A)
    assert said(answer) == ("00", "", "REVERSED")
    assert answer.balances == ""
    after = {card: sorted(lots_of(world, card), key=lambda x: x.lot_id) for card in (A, B)}
    assert after == before
    back, taken = world.links[2:]
    assert (back.card_id, back.undoes, taken.card_id, taken.undoes) == (A, 1, B, 1)
    assert taken.key == counterpart_key(reversal.key, A)
    assert world.send(again(reversal), A) == answer
    assert said(world.send(make_reversal(request), A)) == ("00", "", "ALREADY")
    assert said(world.send(again(request), A, B)) == ("05", "REVERSED", "REVERSED")


def test_a_reversal_before_its_original_bars_it() -> None:
    world = two_cards()
    request = make_transfer(500)
    assert said(world.send(make_reversal(request), A)) == ("00", "", "NOTHING")
    assert said(world.send(request, A, B)) == ("05", "BARRED", "")
    assert (world.available(A), world.available(B)) == (1000, 50)


def test_a_declined_transfer_is_reversed_to_nothing() -> None:
    world = two_cards()
    request = make_transfer(5000)
    world.send(request, A, B)
    assert said(world.send(make_reversal(request), A)) == ("00", "", "NOTHING")


def test_partial_reversals_go_down_to_the_final_amount() -> None:
    world = two_cards()
    request = make_transfer(500)
    world.send(request, A, B)
    assert said(world.send(make_reversal(request, final_minor=501), A))[0] == "13"
    assert said(world.send(make_reversal(request, final_minor=500), A))[2] == "ALREADY"
    assert said(world.send(make_reversal(request, final_minor=400), A)) == ("00", "", "PARTIAL")
    assert (world.available(A), world.available(B)) == (600, 450)
    assert said(world.send(make_reversal(request, final_minor=401), A))[0] == "13"
    assert said(world.send(make_reversal(request, amount_minor=499), A))[0] == "13"
    assert said(world.send(make_reversal(request), A)) == ("00", "", "REVERSED")
    assert lots_of(world, B) == [Lot(1, 50)]


@pytest.mark.parametrize("reason", ReversalReason)
def test_what_the_receiver_has_spent_stays_spent_and_is_owed_by_nobody(
    reason: ReversalReason,
) -> None:
    world = two_cards(make_state(available_minor=0))
    request = make_transfer(500)
    world.send(request, A, B)
    spend(world, B, 320)  # all of the promotional lot, 20 of the paid one
    first = make_reversal(request, reason=reason)
    assert said(world.send(first, A)) == ("00", "SPENT", "PARTIAL")
    assert (world.available(A), world.available(B)) == (680, 0)
    assert lots_of(world, A) == [Lot(2, 680)], "what comes back is paid value: so is what returns"
    assert world.chains[B].status is CardStatus.ACTIVE
    kinds = {
        kind for x in world.links for p in x.postings for kind in (p.debit_kind, p.credit_kind)
    }
    assert AccountKind.SHORTFALL not in kinds
    # the repeat of a transfer that stands in part hears its first answer
    assert said(world.send(again(request), A, B)) == ("00", "", "")
    # and what the receiver gets later is its own, whoever asks, and how often
    world.chains[B].send(make_request(Operation.LOAD, 1000))
    for final_minor in (None, 100, 320, 400):
        later = make_reversal(request, final_minor=final_minor, reason=reason)
        assert said(world.send(later, A)) == ("00", "", "ALREADY")
    assert said(world.send(again(first), A)) == ("00", "SPENT", "PARTIAL")
    assert (world.available(A), world.available(B)) == (680, 1000)


def test_nothing_left_at_all_is_partial_of_nothing() -> None:
    world = two_cards(make_state(available_minor=0))
    request = make_transfer(500)
    world.send(request, A, B)
    spend(world, B, 500)
    answer = world.send(make_reversal(request), A)
    assert said(answer) == ("00", "SPENT", "PARTIAL")
    assert (world.available(A), world.available(B)) == (500, 0)
    back, taken = world.links[-2:]
    assert (back.card_id, back.amount_minor, back.other_card_id) == (A, 0, B)
    assert (taken.card_id, taken.amount_minor, taken.undoes) == (B, 0, 1), "that it was so stands"
    asked = world.send(make_outcome(request), A)
    assert asked.original_state is OriginalState.APPROVED
    world.chains[B].send(make_request(Operation.LOAD, 1000))
    assert said(world.send(make_reversal(request), A)) == ("00", "", "ALREADY")
    assert world.available(B) == 1000


def test_the_receivers_own_value_stands_in_for_what_it_has_spent() -> None:
    world = two_cards(make_state(available_minor=400))
    request = make_transfer(300)  # the promotional lot
    world.send(request, A, B)
    spend(world, B, 300)  # which goes first there, too
    assert said(world.send(make_reversal(request), A)) == ("00", "", "REVERSED")
    assert sorted(lots_of(world, A), key=lambda x: x.lot_id) == [PROMO, PAID]
    assert world.available(B) == 100


def test_what_the_receiver_holds_is_not_taken() -> None:
    world = two_cards(make_state(available_minor=0))
    request = make_transfer(500)
    world.send(request, A, B)
    world.chains[B].send(make_request(Operation.HOLD, 450))
    assert said(world.send(make_reversal(request), A)) == ("00", "SPENT", "PARTIAL")
    assert world.available(A) == 550
    assert world.chains[B].held_minor == 450


@pytest.mark.parametrize("status", CardStatus)
@pytest.mark.parametrize("card_id", [A, B])
def test_no_status_and_no_expiry_refuses_a_reversal(status: CardStatus, card_id: int) -> None:
    world = two_cards()
    request = make_transfer(500)
    world.send(request, A, B)
    chain = world.chains[card_id]
    state = chain.card_state
    state.status = status
    chain.state = msgspec.msgpack.encode(state)
    chain.facts = msgspec.msgpack.encode(make_facts(expiry="2001"))
    assert said(world.send(make_reversal(request), A)) == ("00", "", "REVERSED")
    assert (world.available(A), world.available(B)) == (1000, 50)
    assert chain.status is status


def test_an_outcome_query_tells_of_the_senders_side() -> None:
    world = two_cards()
    request = make_transfer(500)
    first = world.send(request, A, B)
    told = world.send(make_outcome(request), A)
    assert (told.original_response, told.original_state) == ("00", OriginalState.APPROVED)
    assert told.balances == first.balances and told.amount_minor == 500
    world.send(make_reversal(request, final_minor=100), A)
    assert world.send(make_outcome(request), A).original_state is OriginalState.PARTIAL
    world.send(make_reversal(request), A)
    assert world.send(make_outcome(request), A).original_state is OriginalState.REVERSED


def test_a_late_reversal_moves_nothing() -> None:
    world = two_cards()
    old = make_transfer(500, instant_s=NOW_S - 61 * 86_400)
    world.send(old, A, B)
    assert said(world.send(make_reversal(old), A)) == ("05", "LATE", "LATE")
    assert world.available(B) == 550


def test_a_return_names_no_transfer() -> None:
    world = two_cards()
    sent = world.send(make_transfer(500), A, B)
    back = make_request(Operation.RETURN, 500, original=sent.transaction_id)
    assert world.chains[A].send(back).response is Response.NO_SUCH_ORIGINAL


def test_a_reversal_without_the_receivers_card_is_no_decision() -> None:
    world = two_cards()
    request = make_transfer(500)
    world.send(request, A, B)
    with pytest.raises(HistoryMissing):
        world.send(make_reversal(request), A, -5)
    world.card(C)
    with pytest.raises(HistoryMissing):
        world.send(make_reversal(request), A, C)
    assert world.available(A) == 500


# -- both halves say the same -------------------------------------------------------------------


def changed(link: Link, **changes: object) -> Link:
    return msgspec.structs.replace(link, **changes)


def test_halves_that_do_not_fit_are_seen() -> None:
    world = two_cards()
    request = make_transfer(500)
    world.send(request, A, B)
    world.send(make_reversal(request, final_minor=100), A)
    for sent, received in (world.links[:2], world.links[2:]):
        check_counterpart(sent, received)
        check_counterpart(received, sent)
        wrong = [
            None,
            changed(received, card_id=C),
            changed(received, version=9),
            changed(received, other_card_id=C),
            changed(received, other_version=9),
            changed(received, effect_minor=received.effect_minor + 1),
            changed(received, purse=Purse.VOUCHER),
            changed(received, operation=Operation.LOAD),
        ]
        for other in wrong:
            with pytest.raises(ReplayFault):
                check_counterpart(sent, other)
    sent, received = world.links[:2]
    first, *rest = received.moves
    dearer = msgspec.structs.replace(first, cashable=True)
    with pytest.raises(ReplayFault, match="kinds of value"):
        check_counterpart(sent, changed(received, moves=(dearer, *rest)))
    with pytest.raises(ReplayFault, match="names no other half"):
        check_counterpart(changed(sent, other_card_id=0), None)


# -- against a little model ---------------------------------------------------------------------


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["transfer", "transfer", "reverse", "spend", "load", "repeat"]),
        st.sampled_from([(A, B), (B, A), (A, C), (C, A), (B, C), (C, B)]),
        st.sampled_from([1, 50, 250, 400, 1300, 2000]),
        st.integers(0, 9),
        st.none() | st.sampled_from([0, 30, 200]),
    ),
    max_size=25,
)


def _start() -> World:
    world = World()
    for card_id in (A, B, C):
        lots = [Lot(1, 1000), Lot(2, 300, Origin.PROMO, cashable=False)]
        world.card(card_id, make_state(lots=lots))
    return world


def _kinds(world: World) -> Counter[Origin]:
    kinds: Counter[Origin] = Counter()
    for card_id in (A, B, C):
        for lot in lots_of(world, card_id):
            assert lot.cashable is (lot.origin is Origin.PAID), "value of another kind"
            kinds[lot.origin] += lot.available_minor
    return kinds


@settings(max_examples=250, deadline=None)
@given(STEPS)
def test_three_cards_against_a_model(
    steps: list[tuple[str, tuple[int, int], int, int, int]],
) -> None:
    """Sums, answers and what is left of each transfer; value of no kind appears or is lost."""
    world = _start()
    balance = dict.fromkeys((A, B, C), 1300)
    sent: list[tuple[CardRequest, int, int, Answer]] = []
    left: dict[bytes, int] = {}
    at_their_end: set[bytes] = set()
    total = 3900
    for what, pair, amount, which, final in steps:
        one, two = pair
        if what == "transfer":
            request = make_transfer(amount)
            answer = world.send(request, one, two)
            fits = amount <= balance[one]
            assert answer.response is (Response.APPROVED if fits else Response.INSUFFICIENT)
            sent.append((request, one, two, answer))
            left[request.key] = amount if fits else 0
            if fits:
                balance[one] -= amount
                balance[two] += amount
        elif what == "spend":
            answer = world.chains[one].send(make_request(Operation.REDEEM, amount))
            if amount <= balance[one]:
                balance[one] -= amount
                total -= amount
            else:
                assert answer.response is Response.INSUFFICIENT
        elif what == "load":
            world.chains[one].send(make_request(Operation.LOAD, amount))
            balance[one] += amount
            total += amount
        elif sent and what == "repeat":
            request, one, two, first = sent[which % len(sent)]
            heard = world.send(again(request), one, two)
            undone = first.response is Response.APPROVED and not left[request.key]
            assert heard.rule is Rule.REVERSED if undone else heard == first
        elif sent:
            request, one, two, first = sent[which % len(sent)]
            answer = world.send(make_reversal(request, final_minor=final), one)
            rest = left[request.key]
            if first.response is not Response.APPROVED:
                assert answer.reversal_state is ReversalState.NOTHING
            elif rest in (0, final or 0) or request.key in at_their_end:
                assert answer.reversal_state is ReversalState.ALREADY
            elif (final or 0) > rest:
                assert answer.response is Response.INVALID_AMOUNT
            else:
                wanted = rest - (final or 0)
                found = min(wanted, balance[two])
                whole = found == wanted and not final
                assert answer.reversal_state is (
                    ReversalState.REVERSED if whole else ReversalState.PARTIAL
                )
                left[request.key] -= found
                at_their_end |= {request.key} if found < wanted else set()
                balance[one] += found
                balance[two] -= found
        assert {card: world.available(card) for card in balance} == balance
    assert sum(_kinds(world).values()) == total == sum(balance.values())
    assert sum(card_effect_minor(link) for link in world.links) == 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([(A, B), (B, A), (A, C), (C, B)]),
            st.sampled_from([1, 50, 250, 400, 1300]),
        ),
        max_size=12,
    )
)
def test_each_kind_of_value_stays_what_it_was_and_comes_back_to_its_very_lots(
    steps: list[tuple[tuple[int, int], int]],
) -> None:
    world = _start()
    before = _kinds(world), {card: lots_of(world, card) for card in (A, B, C)}
    sent: list[tuple[CardRequest, int]] = []
    for (one, two), amount in steps:
        request = make_transfer(amount)
        if world.send(request, one, two).response is Response.APPROVED:
            sent.append((request, one))
        assert _kinds(world) == before[0]
    for request, one in reversed(sent):
        assert said(world.send(make_reversal(request), one)) == ("00", "", "REVERSED")
    lots = {card: sorted(lots_of(world, card), key=lambda x: x.lot_id) for card in (A, B, C)}
    assert lots == before[1]


def test_an_advice_of_a_transfer_is_suspense() -> None:
    world = two_cards()
    advice = make_advice(500, foreign_content=Rule.OPERATION)
    answer = world.chains[A].send(advice)
    assert said(answer) == ("00", "OPERATION", "")
    assert world.chains[A].last.postings[0].debit_kind is AccountKind.SUSPENSE
    assert world.chains[A].last.postings[0].debit_id == TILL.merchant_id
    assert world.available(A) == 1000
