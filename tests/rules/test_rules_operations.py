"""What each operation does to a card, in every status, and the link it leaves."""

from __future__ import annotations

import msgspec
import pytest
from builders import (
    CARD_ID,
    NETWORK,
    NOW_S,
    OTHER_TILL,
    SERVICE_DESK,
    TILL,
    Chain,
    account_minor,
    card_effect_minor,
    make_card,
    make_chain,
    make_facts,
    make_moment,
    make_request,
)

from rules.booking import approve, card_to_merchant
from rules.cards import CardState, CardStatus, HistoryMissing, WorkingCard
from rules.ledger import AccountKind, Posting
from rules.lots import Lot, Origin, take
from rules.money import AMOUNT_MINOR_MAX, Purse
from rules.requests import CardRequest, Entry, Operation
from rules.responses import Response, Rule

ISSUED, UNLOCKED, ACTIVE = CardStatus.ISSUED, CardStatus.UNLOCKED, CardStatus.ACTIVE
BLOCKED, LOST, STOLEN = CardStatus.BLOCKED, CardStatus.LOST, CardStatus.STOLEN
FROZEN, EXPIRED, CLOSED = CardStatus.FROZEN, CardStatus.EXPIRED, CardStatus.CLOSED

REFUSED_AS = {
    ISSUED: "78",
    UNLOCKED: "78",
    ACTIVE: "57",
    BLOCKED: "62",
    LOST: "41",
    STOLEN: "43",
    FROZEN: "62",
    EXPIRED: "54",
    CLOSED: "57",
}
ALLOWED_IN = {
    Operation.UNLOCK: {ISSUED: UNLOCKED},
    Operation.ACTIVATE: {ISSUED: ACTIVE, UNLOCKED: ACTIVE},
    Operation.ACTIVATE_PREVALUED: {ISSUED: ACTIVE, UNLOCKED: ACTIVE},
    Operation.LOAD: {ACTIVE: ACTIVE},
    Operation.REDEEM: {ACTIVE: ACTIVE},
    Operation.RETURN: {ACTIVE: ACTIVE},
    Operation.CASH_OUT: {ACTIVE: ACTIVE},
    Operation.BALANCE: {ACTIVE: ACTIVE},
    Operation.DEACTIVATE: {ISSUED: CLOSED, UNLOCKED: CLOSED, ACTIVE: CLOSED},
    Operation.BLOCK: {ISSUED: BLOCKED, UNLOCKED: BLOCKED, ACTIVE: BLOCKED},
    Operation.UNBLOCK: {BLOCKED: ACTIVE},
    Operation.HOLD: {ACTIVE: ACTIVE},
}
WITH_AMOUNT = (
    *(Operation.ACTIVATE, Operation.LOAD, Operation.REDEEM, Operation.RETURN),
    Operation.HOLD,
)


def plain(operation: Operation, **changes: object) -> CardRequest:
    amount_minor = 700 if operation in WITH_AMOUNT else 0
    return make_request(operation, amount_minor, terminal=SERVICE_DESK, **changes)


# Status and expiry


@pytest.mark.parametrize("status", CardStatus)
@pytest.mark.parametrize("operation", ALLOWED_IN)
def test_every_operation_in_every_status(operation: Operation, status: CardStatus) -> None:
    chain = make_chain(status, 1_000, facts=make_facts(face_value_minor=700))
    answer = chain.send(plain(operation))
    after = ALLOWED_IN[operation].get(status)
    if after is None:
        assert (answer.response, answer.rule) == (REFUSED_AS[status], Rule.STATUS)
        assert answer.approval_code == "" and answer.balances == ""
        assert chain.status is status
        assert chain.available_minor == 1_000
        assert chain.last.moves == () and chain.last.postings == ()
    else:
        assert answer.response is Response.APPROVED
        assert answer.rule is Rule.NONE
        assert chain.status is after
        assert answer.approval_code == answer.transaction_id[-6:]


@pytest.mark.parametrize("operation", ALLOWED_IN)
def test_a_card_is_good_until_the_end_of_its_month(operation: Operation) -> None:
    status = next(iter(ALLOWED_IN[operation]))
    for expiry, response in (("2611", "00"), ("2610", "54"), ("2512", "54"), ("2701", "00")):
        chain = make_chain(status, facts=make_facts(expiry=expiry, face_value_minor=700))
        answer = chain.send(plain(operation))
        assert answer.response == response, expiry
        assert answer.rule == ("" if response == "00" else Rule.EXPIRY)
        assert chain.status is (ALLOWED_IN[operation][status] if response == "00" else status)


def test_the_road_of_a_card() -> None:
    chain = Chain(CardState.new(), make_facts())
    steps = (
        (Operation.UNLOCK, UNLOCKED),
        (Operation.ACTIVATE, ACTIVE),
        (Operation.BLOCK, BLOCKED),
        (Operation.UNBLOCK, ACTIVE),
        (Operation.DEACTIVATE, CLOSED),
    )
    for operation, status in steps:
        assert chain.send(plain(operation)).response is Response.APPROVED
        assert chain.status is status
    assert [link.version for link in chain.journal] == [1, 2, 3, 4, 5]
    befores = [CardStatus(link.status_before) for link in chain.journal]
    assert befores == [ISSUED, UNLOCKED, ACTIVE, BLOCKED, ACTIVE]
    assert [CardStatus(link.status_after) for link in chain.journal] == [s for _, s in steps]


@pytest.mark.parametrize("before", [ISSUED, UNLOCKED, ACTIVE])
def test_unblocked_a_card_is_what_it_was(before: CardStatus) -> None:
    chain = make_chain(before)
    chain.send(plain(Operation.BLOCK))
    chain.send(plain(Operation.UNBLOCK))
    assert chain.status is before


# Activation and load


def test_activation_puts_a_paid_lot_on_the_card() -> None:
    chain = make_chain(UNLOCKED, 0)
    request = make_request(Operation.ACTIVATE, 5_000, rrn="RRN000000001")
    answer = chain.send(request)
    assert answer.rrn == "RRN000000001"
    assert answer.amount_minor is None
    assert answer.balances == "6001978C000000005000" + "6002978C000000005000"
    assert chain.card_state.ecash.lots == [Lot(1, 5_000)]
    link = chain.last
    assert (link.amount_minor, link.effect_minor) == (5_000, 5_000)
    assert link.available_after_minor == 5_000
    assert link.postings == (
        Posting(AccountKind.MERCHANT, TILL.merchant_id, AccountKind.CARD, CARD_ID, 5_000),
    )


def test_without_de_37_the_switch_gives_one() -> None:
    request = make_request(Operation.REDEEM, 1)
    assert make_chain().send(request).rrn == request.transaction_id


@pytest.mark.parametrize("amount_minor", [0, 2_500])
def test_a_pre_valued_card_is_worth_its_face(amount_minor: int) -> None:
    chain = make_chain(ISSUED, 0, facts=make_facts(face_value_minor=2_500))
    answer = chain.send(make_request(Operation.ACTIVATE_PREVALUED, amount_minor))
    assert answer.response is Response.APPROVED
    assert answer.amount_minor == 2_500
    assert chain.available_minor == 2_500
    assert chain.last.amount_minor == 2_500


@pytest.mark.parametrize(("face_minor", "amount_minor"), [(2_500, 2_499), (0, 0), (0, 100)])
def test_a_pre_valued_activation_that_does_not_fit(face_minor: int, amount_minor: int) -> None:
    chain = make_chain(ISSUED, 0, facts=make_facts(face_value_minor=face_minor))
    answer = chain.send(make_request(Operation.ACTIVATE_PREVALUED, amount_minor))
    assert (answer.response, answer.rule) == (Response.INVALID_AMOUNT, Rule.FACE_VALUE)
    assert (chain.status, chain.available_minor) == (ISSUED, 0)


def test_each_load_is_a_lot_of_its_own() -> None:
    chain = make_chain(available_minor=100)
    chain.send(make_request(Operation.LOAD, 200))
    chain.send(make_request(Operation.LOAD, 300))
    assert chain.card_state.ecash.lots == [Lot(1, 100), Lot(2, 200), Lot(3, 300)]
    assert chain.available_minor == 600


def test_a_lots_number_is_never_given_twice() -> None:
    chain = make_chain(available_minor=100)
    chain.send(make_request(Operation.REDEEM, 100))
    chain.send(make_request(Operation.LOAD, 200))
    assert [lot.lot_id for lot in chain.card_state.ecash.lots] == [2]


@pytest.mark.parametrize("operation", [Operation.LOAD, Operation.RETURN])
def test_a_purse_holds_no_more_than_de_54_can_say(operation: Operation) -> None:
    chain = make_chain(available_minor=AMOUNT_MINOR_MAX - 500)
    refused = chain.send(make_request(operation, 501, terminal=SERVICE_DESK))
    assert (refused.response, refused.rule) == ("61", Rule.BALANCE_LIMIT)
    assert chain.card_state.lots_made == 1
    approved = chain.send(make_request(operation, 500, terminal=SERVICE_DESK))
    assert approved.response is Response.APPROVED
    assert chain.available_minor == AMOUNT_MINOR_MAX


def test_activation_too_is_held_to_that_limit() -> None:
    chain = make_chain(ISSUED, 0)
    answer = chain.send(make_request(Operation.ACTIVATE, AMOUNT_MINOR_MAX + 1))
    assert answer.rule is Rule.BALANCE_LIMIT
    assert (chain.status, chain.available_minor) == (ISSUED, 0)


# Redemption


def test_redemption_takes_value_to_the_merchant() -> None:
    chain = make_chain(available_minor=1_000)
    answer = chain.send(make_request(Operation.REDEEM, 400))
    assert answer.response is Response.APPROVED
    assert answer.amount_minor is None and answer.requested_minor is None
    assert answer.balances == "6001978C000000000600" + "6002978C000000000600"
    link = chain.last
    assert (link.requested_minor, link.amount_minor, link.effect_minor) == (400, 400, -400)
    assert link.available_after_minor == 600
    assert link.postings == (
        Posting(AccountKind.CARD, CARD_ID, AccountKind.MERCHANT, TILL.merchant_id, 400),
    )


def test_the_last_cent_may_be_spent_and_no_more() -> None:
    chain = make_chain(available_minor=1_000)
    refused = chain.send(make_request(Operation.REDEEM, 1_001))
    assert (refused.response, refused.rule) == (Response.INSUFFICIENT, Rule.FUNDS)
    assert refused.balances == ""
    assert chain.send(make_request(Operation.REDEEM, 1_000)).response is Response.APPROVED
    assert chain.available_minor == 0
    assert chain.card_state.ecash.lots == []
    assert chain.send(make_request(Operation.REDEEM, 1)).response is Response.INSUFFICIENT


def test_partial_approval_only_where_it_was_asked_for() -> None:
    chain = make_chain(available_minor=300)
    assert chain.send(make_request(Operation.REDEEM, 500)).response is Response.INSUFFICIENT
    answer = chain.send(make_request(Operation.REDEEM, 500, partial_allowed=True))
    assert answer.response is Response.PARTIAL
    assert (answer.amount_minor, answer.requested_minor) == (300, 500)
    assert answer.balances == "6001978C000000000000" + "6002978C000000000000"
    assert (chain.last.requested_minor, chain.last.amount_minor) == (500, 300)
    empty = chain.send(make_request(Operation.REDEEM, 500, partial_allowed=True))
    assert empty.response is Response.INSUFFICIENT


def test_what_is_there_is_approved_wholly_though_part_would_do() -> None:
    chain = make_chain(available_minor=300)
    answer = chain.send(make_request(Operation.REDEEM, 300, partial_allowed=True))
    assert answer.response is Response.APPROVED
    assert answer.requested_minor is None


def test_purses_do_not_touch() -> None:
    chain = make_chain(available_minor=300)
    chain.send(make_request(Operation.LOAD, 50, purse=Purse.VOUCHER))
    chain.send(make_request(Operation.LOAD, 70, purse=Purse.POINTS))
    answer = chain.send(make_request(Operation.REDEEM, 60, purse=Purse.VOUCHER))
    assert answer.response is Response.INSUFFICIENT
    answer = chain.send(make_request(Operation.REDEEM, 60, purse=Purse.POINTS))
    assert answer.balances == "9001999C000000000010" + "9002999C000000000010"
    state = chain.card_state
    left = [state.purse(purse).available_minor for purse in Purse]
    assert left == [300, 50, 10]


# Cash out


def test_cash_out_pays_all_that_may_be_paid_and_says_how_much() -> None:
    lots = [Lot(1, 200), Lot(2, 300, Origin.PROMO, cashable=False), Lot(3, 500)]
    chain = make_chain(lots=lots)
    answer = chain.send(make_request(Operation.CASH_OUT))
    assert (answer.response, answer.amount_minor) == (Response.APPROVED, 700)
    assert chain.available_minor == 300
    assert chain.status is ACTIVE
    assert account_minor(chain.journal, AccountKind.MERCHANT, TILL.merchant_id) == 700


def test_cash_out_of_an_amount() -> None:
    chain = make_chain(lots=[Lot(1, 200), Lot(2, 300, Origin.REWARD, cashable=False)])
    refused = chain.send(make_request(Operation.CASH_OUT, 201))
    assert (refused.response, refused.rule) == (Response.INSUFFICIENT, Rule.CASHABLE)
    answer = chain.send(make_request(Operation.CASH_OUT, 150))
    assert (answer.response, answer.amount_minor) == (Response.APPROVED, 150)
    assert chain.available_minor == 350


@pytest.mark.parametrize("purse", Purse)
def test_nothing_cashable_is_not_paid(purse: Purse) -> None:
    chain = make_chain(lots=[Lot(1, 300, Origin.PROMO, cashable=False)], purse=purse)
    answer = chain.send(make_request(Operation.CASH_OUT, purse=purse))
    assert (answer.response, answer.rule) == (Response.INSUFFICIENT, Rule.CASHABLE)


@pytest.mark.parametrize("purse", [Purse.VOUCHER, Purse.POINTS])
def test_vouchers_and_points_are_never_cashable(purse: Purse) -> None:
    chain = make_chain()
    chain.send(make_request(Operation.LOAD, 300, purse=purse))
    assert chain.send(make_request(Operation.CASH_OUT, purse=purse)).rule is Rule.CASHABLE


# Return to card


def sold(amount_minor: int = 400, **changes: object) -> tuple[Chain, str]:
    chain = make_chain(available_minor=1_000)
    answer = chain.send(make_request(Operation.REDEEM, amount_minor, **changes))
    return chain, answer.transaction_id


def test_a_return_puts_value_back_into_the_lots_of_its_sale() -> None:
    lots = [Lot(1, 300, Origin.PROMO, cashable=False, expires_day=20_800, sponsor_id=4)]
    chain = make_chain(lots=[*lots, Lot(2, 500)])
    sale = chain.send(make_request(Operation.REDEEM, 350)).transaction_id
    answer = chain.send(make_request(Operation.RETURN, 350, original=sale))
    assert answer.response is Response.APPROVED
    by_id = sorted(chain.card_state.ecash.lots, key=lambda lot: lot.lot_id)
    assert by_id == [*lots, Lot(2, 500)]
    assert chain.last.undoes == 1
    assert card_effect_minor(chain.last) == 350


def test_returns_together_never_exceed_the_sale() -> None:
    chain, sale = sold(400)
    for amount_minor, response in ((150, "00"), (251, "13"), (250, "00"), (1, "13")):
        answer = chain.send(make_request(Operation.RETURN, amount_minor, original=sale))
        assert answer.response == response
        assert answer.rule == ("" if response == "00" else Rule.RESTORABLE)
    assert chain.available_minor == 1_000


def test_of_a_partial_approval_only_what_was_approved_comes_back() -> None:
    chain, sale = sold(1_500, partial_allowed=True)
    assert chain.send(make_request(Operation.RETURN, 1_001, original=sale)).response == "13"
    assert chain.send(make_request(Operation.RETURN, 1_000, original=sale)).response == "00"


def test_a_return_names_an_approved_sale_of_its_own_merchant_and_purse() -> None:
    chain, sale = sold(400)
    declined = chain.send(make_request(Operation.REDEEM, 5_000)).transaction_id
    load = chain.send(make_request(Operation.LOAD, 300)).transaction_id
    returned = chain.send(make_request(Operation.RETURN, 10, original=sale)).transaction_id
    for named in ("000000000000", declined, load, returned):
        answer = chain.send(make_request(Operation.RETURN, 5, original=named))
        assert (answer.response, answer.rule) == (Response.NO_SUCH_ORIGINAL, Rule.ORIGINAL)
    elsewhere = chain.send(make_request(Operation.RETURN, 5, original=sale, terminal=OTHER_TILL))
    assert (elsewhere.response, elsewhere.rule) == ("58", Rule.OTHER_MERCHANT)
    other_purse = chain.send(make_request(Operation.RETURN, 5, original=sale, purse=Purse.VOUCHER))
    assert (other_purse.response, other_purse.rule) == ("13", Rule.RESTORABLE)
    assert chain.available_minor == 910


def test_a_return_without_a_sale_is_off_unless_the_terminal_may() -> None:
    chain = make_chain(available_minor=1_000)
    refused = chain.send(make_request(Operation.RETURN, 300))
    assert (refused.response, refused.rule) == ("58", Rule.PERMISSION)
    answer = chain.send(make_request(Operation.RETURN, 300, terminal=SERVICE_DESK))
    assert answer.response is Response.APPROVED
    assert chain.card_state.ecash.lots[-1] == Lot(2, 300, Origin.REFUND, cashable=False)
    assert chain.last.moves[0].cashable is False
    assert chain.last.moves[0].origin is Origin.REFUND
    assert chain.last.undoes == 0
    paid = chain.send(make_request(Operation.CASH_OUT))
    assert paid.amount_minor == 1_000


def test_a_sale_after_an_unlinked_return_and_back_stays_not_cashable() -> None:
    chain = make_chain(available_minor=0)
    chain.send(make_request(Operation.RETURN, 300, terminal=SERVICE_DESK))
    sale = chain.send(make_request(Operation.REDEEM, 300)).transaction_id
    chain.send(make_request(Operation.RETURN, 300, original=sale))
    assert chain.card_state.ecash.lots == [Lot(1, 300, Origin.REFUND, cashable=False)]
    assert chain.send(make_request(Operation.CASH_OUT)).rule is Rule.CASHABLE


# Balance


def test_a_balance_enquiry_leaves_no_link() -> None:
    chain = make_chain(available_minor=1_234)
    request = make_request(Operation.BALANCE)
    answer = chain.send(request)
    assert answer.response is Response.APPROVED
    assert answer.balances == "6001978C000000001234" + "6002978C000000001234"
    assert answer.approval_code == request.transaction_id[-6:]
    assert chain.journal == [] and chain.window == b"\0\0\0\0"


def test_held_value_is_in_the_ledger_amount_only() -> None:
    chain = make_chain(available_minor=1_000)
    state = chain.card_state
    state.ecash.held_minor = 250
    chain.state = msgspec.msgpack.encode(state)
    answer = chain.send(make_request(Operation.BALANCE))
    assert answer.balances == "6001978C000000001250" + "6002978C000000001000"
    chain.send(make_request(Operation.REDEEM, 100))
    assert (chain.last.available_after_minor, chain.last.held_after_minor) == (900, 250)


def test_all_purses_at_once() -> None:
    chain = make_chain(available_minor=5)
    chain.send(make_request(Operation.LOAD, 7, purse=Purse.POINTS))
    answer = chain.send(make_request(Operation.BALANCE, all_purses=True))
    said = [answer.balances[at : at + 20] for at in range(0, 120, 20)]
    assert said == [
        "6001978C000000000005",
        "6002978C000000000005",
        "8001978C000000000000",
        "8002978C000000000000",
        "9001999C000000000007",
        "9002999C000000000007",
    ]


def test_a_refused_enquiry_is_a_link() -> None:
    chain = make_chain(LOST)
    assert chain.send(make_request(Operation.BALANCE)).response is Response.LOST
    assert len(chain.journal) == 1


# Links


def test_each_link_carries_the_state_after_it() -> None:
    chain = make_chain(available_minor=1_000)
    chain.batch(make_request(Operation.REDEEM, 100), make_request(Operation.LOAD, 50))
    chain.batch(make_request(Operation.REDEEM, 5_000, terminal=NETWORK))
    versions = []
    for link in chain.journal:
        state = msgspec.msgpack.decode(link.state_after, type=CardState)
        versions.append((link.version, state.version, state.batch_id))
        assert state.ecash.available_minor == link.available_after_minor
        assert state.status == link.status_after
    assert versions == [(1, 1, 1), (2, 2, 1), (3, 3, 2)]
    refused = chain.last
    assert (refused.terminal_id, refused.merchant_id) == (4, 900)
    assert refused.requested_minor == 5_000
    assert (refused.amount_minor, refused.effect_minor) == (0, 0)


def test_effects_that_the_lots_do_not_show_are_not_booked() -> None:
    card = make_card(available_minor=500)
    request = make_request(Operation.REDEEM, 100)
    moves = take(card.state.ecash.lots, 100)
    with pytest.raises(ValueError):
        approve(request, card, make_moment(), effect_minor=-99, moves=moves, status_before=ACTIVE)
    assert card.new == []


def test_no_link_takes_a_purse_below_zero() -> None:
    card = make_card(available_minor=500)
    request = make_request(Operation.REDEEM, 600)
    card.state.ecash.lots[0].available_minor = 600
    moves = take(card.state.ecash.lots, 600)
    with pytest.raises(ValueError):
        approve(request, card, make_moment(), effect_minor=-600, moves=moves, status_before=ACTIVE)
    assert card.new == []


def test_a_posting_moves_an_amount_above_zero() -> None:
    for amount_minor in (0, -1):
        with pytest.raises(ValueError):
            Posting(AccountKind.CARD, 1, AccountKind.MERCHANT, 2, amount_minor)
    request = make_request(Operation.REDEEM, 1)
    assert card_to_merchant(make_card(), request, 0) == ()


def test_a_damaged_state_opens_no_card() -> None:
    chain = make_chain()
    with pytest.raises(msgspec.DecodeError):
        WorkingCard(1, chain.facts, chain.state[:-1], b"")
    with pytest.raises(msgspec.DecodeError):
        WorkingCard(1, b"\xc1", chain.state, b"")


def test_two_cards_share_nothing() -> None:
    """Purses and lots of one new card are not those of another."""
    one, other = CardState.new(), CardState.new()
    one.ecash.lots.append(Lot(1, 5))
    assert other.ecash.lots == []
    assert one.voucher.lots == []


def test_a_window_that_names_an_unread_link_stops_the_decision() -> None:
    chain = make_chain()
    request = make_request(Operation.REDEEM, 100)
    chain.send(request)
    with pytest.raises(HistoryMissing):
        chain.open().find(request.key)


def test_a_keyed_request_is_decided_like_a_read_one_once_its_code_is_right() -> None:
    chain = make_chain(BLOCKED)
    request = make_request(
        Operation.REDEEM, 100, entry=Entry.KEYED, code_digest=b"right-code-digest"
    )
    assert chain.send(request).response is Response.RESTRICTED
    assert chain.journal[0].key[:4] == NOW_S.to_bytes(4, "big")
