"""What time does to a card: lots that end, value that comes back late, fees, limits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import (
    NETWORK,
    NOW_S,
    SERVICE_DESK,
    TILL,
    Chain,
    account_minor,
    again,
    make_advice,
    make_chain,
    make_expiry,
    make_facts,
    make_request,
    make_reversal,
    make_state,
)
from transfer_world import World, make_transfer

from rules.cards import CardState, CardStatus
from rules.expiry import SWITCH
from rules.identity import request_key
from rules.ledger import AccountKind, Link
from rules.lots import Lot, LotMove, Origin
from rules.money import Purse
from rules.policy import DAY_S, Limits, Policies, Policy, first_day_of, month_of
from rules.replay import ReplayFault, follow
from rules.requests import CardRequest, CreditTerms, Operation, ReversalReason, Terminal
from rules.responses import Response, ReversalState, Rule

TODAY = NOW_S // DAY_S
SPONSOR = 7
PROGRAMME = Terminal(9, 900, network=True, programme=True)
POLICY = Policy(sponsors=frozenset({SPONSOR}))
PROMO = {"origin": Origin.PROMO, "sponsor_id": SPONSOR}
REFUND = {"origin": Origin.REFUND, "order_reference": "A-17"}


def lots(*days: int, origin: Origin = Origin.PAID, sponsor_id: int = 0) -> list[Lot]:
    """Lots of 100 each with these last days."""
    return [
        Lot(n, 100, origin, origin is Origin.PAID, day, sponsor_id) for n, day in enumerate(days, 1)
    ]


def chain_of(*days: int, policy: Policy = POLICY, **kind: Any) -> Chain:
    return make_chain(lots=lots(*days, **kind), policy=policy)


def load(amount_minor: int, terminal: Terminal = PROGRAMME, **terms: Any) -> CardRequest:
    request = make_request(Operation.LOAD, amount_minor, terminal=terminal)
    if not terms:
        return request
    return msgspec.structs.replace(request, terms=CreditTerms(**terms))


def sweep() -> CardRequest:
    key = request_key(NOW_S, "sweeper|lot|1")
    return CardRequest(
        operation=Operation.LOT_SWEEP,
        key=key,
        fingerprint=b"",
        transaction_id="0" * 12,
        rrn="",
        terminal=SWITCH,
    )


def fee(month: int) -> CardRequest:
    request = msgspec.structs.replace(sweep(), operation=Operation.DORMANCY_FEE, fee_month=month)
    key = request_key(first_day_of(month) * DAY_S, f"sweeper|dormancy|{month}")
    return msgspec.structs.replace(request, key=key)


def operations(chain: Chain) -> list[str]:
    return [link.operation.name for link in chain.journal]


def replayed(chain: Chain, first: CardState, posted_s: int = 0) -> None:
    """Every link follows from the one before it."""
    state = first
    for link in chain.journal:
        left = msgspec.msgpack.decode(link.state_after, type=CardState)
        state = follow(state, link, left.batch_id, posted_s)


# Expiry


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: make_request(Operation.REDEEM, 150),
        lambda: make_request(Operation.HOLD, 150),
        lambda: make_request(Operation.CASH_OUT, 150),
    ],
)
def test_what_is_past_its_last_day_is_not_spent(request_of: Any) -> None:
    chain = chain_of(TODAY - 1, TODAY)
    answer = chain.send(request_of())
    assert answer.response is Response.INSUFFICIENT
    assert operations(chain)[0] == "LOT_EXPIRY"
    assert chain.available_minor == 100
    assert account_minor(chain.journal, AccountKind.BREAKAGE, 1) == 100


def test_the_last_day_itself_is_a_day_to_spend() -> None:
    chain = chain_of(TODAY)
    assert chain.send(make_request(Operation.REDEEM, 100)).response is Response.APPROVED


@pytest.mark.parametrize(("offset_min", "spent"), [(0, True), (-12 * 60, True), (14 * 60, False)])
def test_a_day_ends_where_the_programme_is(offset_min: int, spent: bool) -> None:
    chain = chain_of(TODAY, policy=Policy(utc_offset_min=offset_min))
    chain.now_s = TODAY * DAY_S + 23 * 3600
    approved = chain.send(make_request(Operation.REDEEM, 100)).response is Response.APPROVED
    assert approved is spent


def test_an_enquiry_shows_less_and_changes_nothing() -> None:
    chain = chain_of(TODAY - 1, TODAY)
    answer = chain.send(make_request(Operation.BALANCE))
    assert answer.balances.count("C000000000100") == 2
    assert chain.journal == [] and chain.available_minor == 200


def test_what_a_sponsor_gave_goes_back_there() -> None:
    chain = chain_of(TODAY - 1, TODAY - 2, origin=Origin.PROMO, sponsor_id=SPONSOR)
    chain.send(sweep())
    assert operations(chain) == ["LOT_EXPIRY"] * 2
    assert account_minor(chain.journal, AccountKind.PROMO, SPONSOR) == 200
    assert account_minor(chain.journal, AccountKind.BREAKAGE, 1) == 0


def test_a_sweep_leaves_no_link_of_its_own_and_expires_once() -> None:
    chain = chain_of(TODAY - 1, 0)
    for _ in range(3):
        assert chain.send(sweep()).response is Response.APPROVED
    assert operations(chain) == ["LOT_EXPIRY"]
    assert chain.batch(sweep(), sweep())[1].response is Response.APPROVED
    assert len(chain.journal) == 1


def test_a_repeat_expires_nothing() -> None:
    chain = chain_of(TODAY, 0)
    sale = make_request(Operation.REDEEM, 50)
    first = chain.send(sale)
    chain.now_s += DAY_S
    assert chain.send(again(sale)) == first
    assert operations(chain) == ["REDEEM"]


def test_what_is_held_does_not_expire_and_is_completed_from_its_pins() -> None:
    chain = chain_of(TODAY, 0)
    hold = make_request(Operation.HOLD, 150)
    chain.send(hold)
    chain.now_s += 2 * DAY_S
    chain.send(sweep())
    assert (chain.held_minor, chain.available_minor) == (150, 50)
    assert chain.send(make_advice(120, hold=hold)).response is Response.APPROVED
    assert operations(chain) == ["HOLD", "TOMBSTONE", "COMPLETION"]
    assert (chain.held_minor, chain.available_minor) == (0, 80)


@pytest.mark.parametrize("ends", ["reversal", "expiry", "completion"])
def test_what_a_hold_gives_back_late_gets_a_new_life(ends: str) -> None:
    chain = chain_of(TODAY, policy=Policy(hold_s=DAY_S, renewal_days=3))
    first = chain.card_state
    hold = make_request(Operation.HOLD, 80)
    chain.send(hold)
    chain.now_s += 2 * DAY_S
    version = 1
    done = {
        "reversal": lambda: make_reversal(hold),
        "expiry": lambda: make_expiry(version),
        "completion": lambda: make_advice(30, hold=hold),
    }
    chain.send(done[ends]())
    # The 20 that were not held have ended before, and stay so.
    assert operations(chain)[1] == "LOT_EXPIRY"
    assert operations(chain)[-1] == "LOT_RENEWAL"
    (lot,) = chain.card_state.ecash.lots
    left_minor = 50 if ends == "completion" else 80
    assert (lot.lot_id, lot.available_minor) == (2, left_minor)
    assert lot.expires_day == TODAY + 2 + 3
    assert (lot.origin, lot.cashable, lot.sponsor_id) == (Origin.PAID, True, 0)
    assert chain.available_minor == left_minor
    replayed(chain, first)
    chain.now_s += 4 * DAY_S
    chain.send(sweep())
    assert chain.available_minor == 0


def test_a_sale_that_is_undone_late_gets_a_new_life_for_each_lot() -> None:
    chain = chain_of(TODAY, TODAY + 1, 0)
    sale = make_request(Operation.REDEEM, 250)
    chain.send(sale)
    chain.now_s += 5 * DAY_S
    answer = chain.send(make_reversal(sale))
    assert answer.reversal_state is ReversalState.REVERSED
    assert operations(chain) == ["REDEEM", "REVERSAL", "LOT_RENEWAL", "LOT_RENEWAL"]
    assert chain.available_minor == 300
    days = sorted(lot.expires_day for lot in chain.card_state.ecash.lots)
    assert days == [0, TODAY + 5 + 7, TODAY + 5 + 7]


def test_a_load_that_has_expired_counts_as_spent() -> None:
    chain = make_chain(available_minor=0, policy=Policy(lot_days={Origin.PAID: 1}))
    request = load(500, TILL)
    chain.send(request)
    chain.now_s += 3 * DAY_S
    reason = ReversalReason.CUSTOMER
    refused = chain.send(make_reversal(request, reason=reason))
    assert (refused.response, refused.rule) == (Response.REFUSED, Rule.SPENT)
    answer = chain.send(make_reversal(request))
    assert answer.reversal_state is ReversalState.PARTIAL
    assert account_minor(chain.journal, AccountKind.SHORTFALL, TILL.merchant_id) == -500


@pytest.mark.parametrize("how", ["load", "reversal"])
def test_a_lot_that_comes_to_a_card_without_ends_is_looked_for(how: str) -> None:
    chain = make_chain(policy=POLICY)
    assert chain.card_state.ends_from == 0
    request = load(400, last_day=TODAY)
    chain.send(request)
    if how == "reversal":
        sale = make_request(Operation.REDEEM, 400)
        chain.send(sale)
        chain.send(make_reversal(sale))
    chain.now_s += DAY_S
    assert chain.send(make_request(Operation.REDEEM, 10_001)).response is Response.INSUFFICIENT
    assert (chain.available_minor, chain.card_state.ends_from) == (10_000, 0)


def test_a_card_without_ends_is_the_same_after_a_sweep() -> None:
    chain = make_chain(policy=POLICY)
    before = chain.state
    chain.send(sweep())
    assert chain.state == before and chain.journal == []


def test_both_cards_of_a_transfer_lose_what_is_over() -> None:
    """Also the receiver: what is taken back from it later is not its expired value."""
    world = World()
    world.card(71, make_state(lots=lots(TODAY - 1, 0)))
    world.card(72, make_state(lots=lots(TODAY - 1, 0)))
    world.send(make_transfer(100), 71, 72)
    for card_id, left in ((71, []), (72, [2, 3])):
        state = world.chains[card_id].card_state
        assert [lot.lot_id for lot in state.ecash.lots] == left


def test_a_transfer_that_is_undone_late_gives_no_expired_value_back() -> None:
    world = World()
    world.card(71, make_state(available_minor=100))
    world.card(72, make_state(lots=lots(TODAY - 1)))
    request = make_transfer(100)
    world.send(request, 71, 72)
    world.send(make_request(Operation.REDEEM, 100), 72)
    answer = world.send(make_reversal(request), 71)
    assert (answer.reversal_state, answer.rule) == (ReversalState.PARTIAL, Rule.SPENT)
    assert world.chains[71].available_minor == 0


# Origins


@pytest.mark.parametrize("origin", [Origin.PROMO, Origin.REWARD, Origin.GOODWILL])
def test_the_programme_gives_what_a_sponsor_pays(origin: Origin) -> None:
    chain = make_chain(policy=POLICY)
    last_day = TODAY + 10
    request = load(400, origin=origin, sponsor_id=SPONSOR, last_day=last_day)
    assert chain.send(request).response is Response.APPROVED
    lot = chain.card_state.ecash.lots[-1]
    kind = (lot.origin, lot.cashable, lot.expires_day, lot.sponsor_id)
    assert kind == (origin, False, last_day, SPONSOR)
    assert account_minor(chain.journal, AccountKind.PROMO, SPONSOR) == -400
    assert account_minor(chain.journal, AccountKind.MERCHANT, PROGRAMME.merchant_id) == 0
    assert chain.last.counted_minor == 0


@pytest.mark.parametrize("cashable", [False, True])
def test_a_refund_comes_from_the_merchant(cashable: bool) -> None:
    chain = make_chain(available_minor=0, policy=Policy(refund_cashable=cashable))
    assert chain.send(load(400, **REFUND)).response is Response.APPROVED
    assert chain.card_state.ecash.lots[0].cashable is cashable
    assert account_minor(chain.journal, AccountKind.MERCHANT, PROGRAMME.merchant_id) == -400


def test_a_refund_keeps_its_order_and_is_given_once() -> None:
    chain = make_chain(available_minor=0, policy=POLICY)
    request = load(400, **REFUND)
    first = chain.send(request)
    assert chain.send(again(request)).transaction_id == first.transaction_id
    assert chain.available_minor == 400
    assert [link.order_reference for link in chain.journal] == ["A-17"]


@pytest.mark.parametrize(
    ("terms", "said", "is_cashable"),
    [
        ({}, None, True),
        ({}, False, False),
        (REFUND, None, True),
        (REFUND, False, False),
        (PROMO, None, False),
        (PROMO, False, False),
    ],
)
def test_a_credit_may_be_less_cashable_than_its_origin(
    terms: dict[str, Any], said: bool | None, is_cashable: bool
) -> None:
    policy = Policy(sponsors=frozenset({SPONSOR}), refund_cashable=True)
    chain = make_chain(available_minor=0, policy=policy)
    chain.send(load(400, **terms, cashable=said))
    assert chain.card_state.ecash.lots[0].cashable is is_cashable


@pytest.mark.parametrize(
    ("terminal", "terms", "response", "rule"),
    [
        (TILL, PROMO, Response.NOT_PERMITTED_TO_TERMINAL, Rule.PERMISSION),
        (NETWORK, PROMO, Response.NOT_PERMITTED_TO_TERMINAL, Rule.PERMISSION),
        (TILL, {"last_day": TODAY + 1}, Response.NOT_PERMITTED_TO_TERMINAL, Rule.PERMISSION),
        (PROGRAMME, {"origin": Origin.PROMO}, Response.INVALID_TRANSACTION, Rule.SPONSOR),
        (PROGRAMME, PROMO | {"sponsor_id": 8}, Response.INVALID_TRANSACTION, Rule.SPONSOR),
        (TILL, {"cashable": True}, Response.NOT_PERMITTED_TO_TERMINAL, Rule.PERMISSION),
        (PROGRAMME, PROMO | {"cashable": True}, Response.INVALID_TRANSACTION, Rule.CASHABLE),
        (PROGRAMME, REFUND | {"cashable": True}, Response.INVALID_TRANSACTION, Rule.CASHABLE),
        (PROGRAMME, {"origin": Origin.REFUND}, Response.INVALID_TRANSACTION, Rule.ORDER),
        (PROGRAMME, {"sponsor_id": SPONSOR}, Response.INVALID_TRANSACTION, Rule.SPONSOR),
        (PROGRAMME, PROMO | {"last_day": TODAY - 1}, Response.INVALID_TRANSACTION, Rule.LAST_DAY),
        (
            *(PROGRAMME, {"last_day": TODAY + 40_000}),
            *(Response.INVALID_TRANSACTION, Rule.LAST_DAY),
        ),
    ],
)
def test_who_may_say_what_kind_of_value_it_is(
    terminal: Terminal, terms: dict[str, Any], response: Response, rule: Rule
) -> None:
    chain = make_chain(policy=POLICY)
    answer = chain.send(load(400, terminal, **terms))
    assert (answer.response, answer.rule) == (response, rule)
    assert chain.available_minor == 10_000 and chain.card_state.lots_made == 1


def test_a_programme_says_how_long_a_credit_lasts() -> None:
    policy = Policy(lot_days={Origin.PAID: 365, Origin.PROMO: 30}, sponsors=frozenset({SPONSOR}))
    chain = make_chain(available_minor=0, policy=policy)
    chain.send(load(100, TILL))
    chain.send(load(100, **PROMO))
    days = [lot.expires_day for lot in chain.card_state.ecash.lots]
    assert days == [TODAY + 365, TODAY + 30]


def test_a_promotional_load_is_taken_back_as_far_as_it_is_there() -> None:
    chain = make_chain(available_minor=0, policy=POLICY)
    request = load(400, **PROMO)
    chain.send(request)
    chain.send(make_request(Operation.REDEEM, 150))
    reason = ReversalReason.CUSTOMER
    assert chain.send(make_reversal(request, reason=reason)).rule is Rule.SPENT
    answer = chain.send(make_reversal(request))
    assert (answer.reversal_state, answer.rule) == (ReversalState.PARTIAL, Rule.SPENT)
    assert chain.status is CardStatus.ACTIVE and chain.available_minor == 0
    assert account_minor(chain.journal, AccountKind.PROMO, SPONSOR) == -150
    assert account_minor(chain.journal, AccountKind.SHORTFALL, PROGRAMME.merchant_id) == 0


@pytest.mark.parametrize("spent_minor", [150, 400])
def test_what_was_not_there_of_a_promotion_is_not_asked_for_again(spent_minor: int) -> None:
    chain = make_chain(available_minor=0, policy=POLICY)
    request = load(400, **PROMO)
    chain.send(request)
    chain.send(make_request(Operation.REDEEM, spent_minor))
    assert chain.send(make_reversal(request)).reversal_state is ReversalState.PARTIAL
    chain.send(load(1_000, TILL))
    assert chain.send(make_reversal(request)).reversal_state is ReversalState.ALREADY
    assert chain.available_minor == 1_000


def test_spending_takes_the_soonest_then_promotional_then_the_oldest() -> None:
    given = [
        Lot(1, 100, Origin.PAID),
        Lot(2, 100, Origin.PROMO, False, 0, SPONSOR),
        Lot(3, 100, Origin.PAID, True, TODAY + 9),
        Lot(4, 100, Origin.PROMO, False, TODAY + 9, SPONSOR),
        Lot(5, 100, Origin.PAID, True, TODAY + 2),
    ]
    chain = make_chain(lots=given, policy=POLICY)
    chain.send(make_request(Operation.REDEEM, 500))
    assert [move.lot_id for move in chain.last.moves] == [5, 4, 3, 2, 1]


# Dormancy


def dormant(months: int, **policy: Any) -> Chain:
    policy = {"dormancy_months": 12, "dormancy_fee_minor": 200} | policy
    state = make_state(available_minor=500)
    state.last_active_day = first_day_of(month_of(TODAY) - months) + 3
    return Chain(state, policy=Policy(**policy))


@pytest.mark.parametrize(("months", "taken"), [(12, 0), (13, 200), (30, 200)])
def test_a_fee_is_due_after_so_many_whole_months(months: int, taken: int) -> None:
    chain = dormant(months)
    chain.send(fee(month_of(TODAY)))
    assert chain.available_minor == 500 - taken
    assert account_minor(chain.journal, AccountKind.FEE, 1) == taken


def test_a_fee_is_taken_once_a_month_and_never_below_zero() -> None:
    chain = dormant(14)
    month = month_of(TODAY)
    for _ in range(3):
        chain.send(fee(month))
    other = msgspec.structs.replace(fee(month), key=request_key(NOW_S, "another key"))
    assert chain.send(other).response is Response.NO_SUCH_ORIGINAL
    assert chain.send(fee(month + 1)).response is Response.NO_SUCH_ORIGINAL
    taken = []
    for n in range(1, 4):
        chain.now_s = first_day_of(month + n) * DAY_S
        chain.send(fee(month + n))
        taken.append(chain.available_minor)
    assert taken == [100, 0, 0]
    assert operations(chain) == ["DORMANCY_FEE"] * 3


@pytest.mark.parametrize(("spares", "left"), [(True, 400), (False, 300)])
def test_a_fee_spares_what_a_sponsor_gave(spares: bool, left: int) -> None:
    chain = dormant(14, dormancy_spares_promo=spares)
    state = chain.card_state
    state.ecash.lots = [Lot(1, 400, Origin.PROMO, False, 0, SPONSOR), Lot(2, 100)]
    chain.state = msgspec.msgpack.encode(state)
    chain.send(fee(month_of(TODAY)))
    assert chain.available_minor == left


def test_whoever_uses_a_card_wakes_it() -> None:
    chain = dormant(14)
    chain.send(make_request(Operation.REDEEM, 10))
    assert chain.send(fee(month_of(TODAY))).response is Response.NO_SUCH_ORIGINAL
    assert chain.available_minor == 490


def test_a_card_that_is_not_active_pays_nothing() -> None:
    chain = dormant(14)
    state = chain.card_state
    state.status = CardStatus.BLOCKED
    chain.state = msgspec.msgpack.encode(state)
    chain.send(fee(month_of(TODAY)))
    assert chain.journal == []


# Limits


def counted(chain: Chain) -> tuple[int, int]:
    totals = chain.card_state.spent
    assert totals is not None
    return totals.of(Purse.ECASH)


def limited(**limits: int) -> Chain:
    return make_chain(policy=Policy(limits={0: Limits(**limits)}))


@pytest.mark.parametrize("operation", [Operation.REDEEM, Operation.HOLD, Operation.CASH_OUT])
def test_one_transaction_is_limited(operation: Operation) -> None:
    chain = limited(transaction_minor=500)
    answer = chain.send(make_request(operation, 501))
    assert (answer.response, answer.rule) == (Response.OVER_AMOUNT_LIMIT, Rule.TRANSACTION_LIMIT)
    assert answer.resets_s == 0
    assert chain.send(make_request(operation, 500)).response is Response.APPROVED


def test_a_day_is_limited_in_amount_until_the_next() -> None:
    chain = limited(day_minor=500)
    chain.send(make_request(Operation.REDEEM, 300))
    chain.send(make_request(Operation.HOLD, 150))
    answer = chain.send(make_request(Operation.REDEEM, 51))
    assert (answer.response, answer.rule) == (Response.OVER_AMOUNT_LIMIT, Rule.DAY_LIMIT)
    assert answer.resets_s == (TODAY + 1) * DAY_S
    assert chain.send(make_request(Operation.REDEEM, 50)).response is Response.APPROVED
    chain.now_s = answer.resets_s
    assert chain.send(make_request(Operation.REDEEM, 500)).response is Response.APPROVED


def test_a_day_is_limited_in_number() -> None:
    chain = limited(day_count=2)
    for _ in range(2):
        chain.send(make_request(Operation.REDEEM, 1))
    answer = chain.send(make_request(Operation.REDEEM, 1))
    assert (answer.response, answer.rule) == (Response.OVER_FREQUENCY_LIMIT, Rule.DAY_COUNT)


def test_a_clock_that_goes_back_gives_no_second_day() -> None:
    chain = limited(day_minor=500)
    chain.send(make_request(Operation.REDEEM, 400))
    chain.now_s -= DAY_S
    answer = chain.send(make_request(Operation.REDEEM, 400))
    assert answer.rule is Rule.DAY_LIMIT


def test_a_reversal_of_the_same_day_gives_back() -> None:
    chain = limited(day_minor=500, day_count=1)
    sale = make_request(Operation.REDEEM, 400)
    chain.send(sale)
    chain.send(make_reversal(sale, final_minor=100))
    assert counted(chain) == (100, 1)
    chain.send(make_reversal(sale))
    assert counted(chain) == (0, 0)


def test_a_reversal_of_yesterdays_sale_gives_nothing_back() -> None:
    chain = limited(day_minor=500)
    sale = make_request(Operation.REDEEM, 400)
    chain.send(sale)
    chain.now_s += DAY_S
    chain.send(make_request(Operation.REDEEM, 450))
    chain.send(make_reversal(sale))
    assert counted(chain) == (450, 1)


def test_a_completion_gives_back_what_its_hold_did_not_need() -> None:
    chain = limited(day_minor=1_000)
    hold = make_request(Operation.HOLD, 900)
    chain.send(hold)
    chain.send(make_advice(200, hold=hold))
    assert counted(chain) == (200, 1)


def test_an_offline_sale_counts_and_is_not_refused() -> None:
    chain = limited(transaction_minor=10, day_minor=100)
    assert chain.send(make_advice(400)).response is Response.APPROVED
    assert chain.available_minor == 9_600
    assert chain.send(make_request(Operation.REDEEM, 1)).rule is Rule.DAY_LIMIT


def test_a_return_gives_nothing_back() -> None:
    chain = limited(day_minor=500)
    sale = chain.send(make_request(Operation.REDEEM, 400))
    chain.send(make_request(Operation.RETURN, 400, original=sale.transaction_id))
    assert chain.send(make_request(Operation.REDEEM, 101)).rule is Rule.DAY_LIMIT


def test_a_card_may_have_limits_of_its_own() -> None:
    policy = Policy(limits={0: Limits(transaction_minor=500), 2: Limits(transaction_minor=900)})
    for limit_class, most_minor in ((0, 500), (1, 500), (2, 900)):
        facts = msgspec.structs.replace(make_facts(), limit_class=limit_class)
        chain = Chain(make_state(), facts, policy=policy)
        answer = chain.send(make_request(Operation.REDEEM, most_minor + 1))
        assert answer.rule is Rule.TRANSACTION_LIMIT
        assert chain.send(make_request(Operation.REDEEM, most_minor)).response is Response.APPROVED


def test_nothing_is_counted_where_no_day_is_limited() -> None:
    chain = limited(day_minor=500)
    sale = make_request(Operation.REDEEM, 400)
    chain.send(sale)
    first = chain.card_state
    assert counted(chain) == (400, 1)
    chain.policy = Policy(limits={0: Limits(transaction_minor=1_000)})
    chain.send(make_request(Operation.REDEEM, 400))
    assert chain.card_state.spent is None
    chain.policy = Policy(limits={0: Limits(day_minor=500)})
    chain.send(make_reversal(sale))  # it was counted before the count began anew
    assert counted(chain) == (0, 0)
    chain.send(make_request(Operation.REDEEM, 500))
    assert chain.send(make_request(Operation.REDEEM, 1)).rule is Rule.DAY_LIMIT
    assert first.spent is not None


@pytest.mark.parametrize(
    ("limits", "most_minor"),
    [({"return_minor": 300, "transaction_minor": 900}, 300), ({"transaction_minor": 900}, 900)],
)
def test_a_return_that_names_no_sale_is_limited(limits: dict[str, int], most_minor: int) -> None:
    chain = limited(**limits)
    request = make_request(Operation.RETURN, most_minor + 1, terminal=SERVICE_DESK)
    answer = chain.send(request)
    assert (answer.response, answer.rule) == (Response.OVER_AMOUNT_LIMIT, Rule.RETURN_LIMIT)
    request = make_request(Operation.RETURN, most_minor, terminal=SERVICE_DESK)
    assert chain.send(request).response is Response.APPROVED
    assert not chain.card_state.ecash.lots[-1].cashable


def test_a_return_brings_a_card_to_no_more_than_it_may_have_a_reversal_does() -> None:
    chain = limited(balance_minor=10_000)
    sale = make_request(Operation.REDEEM, 400)
    answer = chain.send(sale)
    chain.send(load(100, TILL))
    back = make_request(Operation.RETURN, 301, original=answer.transaction_id)
    refused = chain.send(back)
    assert (refused.response, refused.rule) == (Response.OVER_AMOUNT_LIMIT, Rule.BALANCE_LIMIT)
    assert chain.send(make_reversal(sale)).reversal_state is ReversalState.REVERSED
    assert chain.available_minor == 10_100


def test_the_balance_is_limited_and_points_are_not() -> None:
    chain = limited(balance_minor=10_500, transaction_minor=10)
    answer = chain.send(load(501, TILL))
    assert (answer.response, answer.rule) == (Response.OVER_AMOUNT_LIMIT, Rule.BALANCE_LIMIT)
    assert chain.send(load(500, TILL)).response is Response.APPROVED
    points = make_request(Operation.LOAD, 50_000, purse=Purse.POINTS)
    assert chain.send(points).response is Response.APPROVED
    spent = make_request(Operation.REDEEM, 40_000, purse=Purse.POINTS)
    assert chain.send(spent).response is Response.APPROVED


def test_a_partial_approval_is_judged_by_what_it_approves() -> None:
    chain = make_chain(
        available_minor=300, policy=Policy(limits={0: Limits(transaction_minor=300)})
    )
    answer = chain.send(make_request(Operation.REDEEM, 900, partial_allowed=True))
    assert (answer.response, answer.amount_minor) == (Response.PARTIAL, 300)


# Policies, replay


def test_each_programme_has_its_own() -> None:
    two = Policy(renewal_days=9)
    policies = Policies(POLICY, {2: two})
    assert policies.of(2) is two and policies.of(1) is POLICY


@pytest.mark.parametrize("day", [0, 58, 59, 365, TODAY])
def test_months_begin_on_their_first_day(day: int) -> None:
    month = month_of(day)
    assert first_day_of(month) <= day < first_day_of(month + 1)
    assert month_of(first_day_of(month)) == month


def changed(link: Link, **changes: Any) -> Link:
    state = changes.pop("state", None)
    if state is not None:
        changes["state_after"] = msgspec.msgpack.encode(state)
    return msgspec.structs.replace(link, **changes)


def test_replay_follows_what_time_does() -> None:
    chain = chain_of(TODAY - 1, TODAY, 0)
    first = chain.card_state
    sale = make_request(Operation.REDEEM, 150)
    chain.send(sale)
    chain.send(make_reversal(sale, final_minor=50))
    replayed(chain, first, NOW_S)


def test_replay_finds_a_lot_that_ended_too_early() -> None:
    chain = chain_of(TODAY - 1)
    first = chain.card_state
    chain.send(sweep())
    with pytest.raises(ReplayFault, match="before its last day"):
        replayed(chain, first, (TODAY - 2) * DAY_S)


def test_replay_finds_value_that_was_spent_too_late() -> None:
    chain = chain_of(TODAY)
    first = chain.card_state
    chain.send(make_request(Operation.REDEEM, 60))
    replayed(chain, first, NOW_S)
    with pytest.raises(ReplayFault, match="past its last day"):
        replayed(chain, first, NOW_S + 3 * DAY_S)


@pytest.mark.parametrize("ends_from", [0, TODAY + 4])
def test_replay_finds_a_lot_that_nobody_looks_for(ends_from: int) -> None:
    chain = chain_of(TODAY + 3)
    first = chain.card_state
    chain.send(make_request(Operation.REDEEM, 60))
    replayed(chain, first, NOW_S)
    state = chain.card_state
    state.ends_from = ends_from
    chain.journal[0] = changed(chain.journal[0], state=state)
    with pytest.raises(ReplayFault, match="before any is looked for"):
        replayed(chain, first, NOW_S)


def test_replay_finds_an_heir_of_another_kind() -> None:
    chain = chain_of(TODAY)
    first = chain.card_state
    sale = make_request(Operation.REDEEM, 100)
    chain.send(sale)
    chain.now_s += 3 * DAY_S
    chain.send(make_reversal(sale))
    renewal = chain.journal[-1]
    move = renewal.moves[1]
    other = LotMove(2, 100, Origin.PROMO, False, move.expires_day, SPONSOR)
    state = chain.card_state
    state.ecash.lots = [Lot(2, 100, Origin.PROMO, False, move.expires_day, SPONSOR)]
    chain.journal[-1] = changed(renewal, moves=(renewal.moves[0], other), state=state)
    with pytest.raises(ReplayFault, match="kind of an heir"):
        replayed(chain, first)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("ecash_minor", 59), ("ecash_count", 2), ("ecash_minor", 0), ("voucher_minor", 1)),
        ("from_version", 1),
    ],
)
def test_replay_finds_a_day_that_was_counted_wrongly(field: str, value: int) -> None:
    chain = limited(day_minor=500)
    first = chain.card_state
    chain.send(make_request(Operation.REDEEM, 60))
    state = chain.card_state
    replayed(chain, first)
    setattr(state.spent, field, value)
    chain.journal[0] = changed(chain.journal[0], state=state)
    with pytest.raises(ReplayFault, match=r"spent today|day begins"):
        replayed(chain, first)


@pytest.mark.parametrize("field", ["fee_month", "last_active_day"])
def test_replay_finds_what_a_refusal_moved_on(field: str) -> None:
    chain = chain_of(0)
    first = chain.card_state
    chain.send(make_request(Operation.UNLOCK))
    state = chain.card_state
    setattr(state, field, getattr(state, field) + 1)
    chain.journal[0] = changed(chain.journal[0], state=state)
    with pytest.raises(ReplayFault):
        replayed(chain, first)


@pytest.mark.parametrize(("amount_minor", "left"), [(600, 150), (6_000, 250)])
def test_a_reversal_gives_back_no_more_than_the_card_had_paid(amount_minor: int, left: int) -> None:
    """What stands in suspense or shortfall was never counted."""
    chain = make_chain(available_minor=350, policy=Policy(limits={0: Limits(day_minor=1_000)}))
    first = chain.card_state
    chain.send(make_request(Operation.REDEEM, 150))
    if amount_minor > 1_000:
        chain.send(make_request(Operation.REDEEM, 100))
    advice = make_advice(amount_minor)
    chain.send(advice)
    chain.send(make_reversal(advice))
    assert counted(chain) == (left, left // 100)
    replayed(chain, first)


def test_an_activation_with_promotional_value_is_undone_wholly() -> None:
    chain = make_chain(CardStatus.ISSUED, 0, policy=POLICY)
    activation = make_request(Operation.ACTIVATE, 100, terminal=PROGRAMME)
    activation = msgspec.structs.replace(activation, terms=CreditTerms(**PROMO))
    chain.send(activation)
    assert chain.status is CardStatus.ACTIVE
    chain.send(make_reversal(activation))
    assert (chain.status, chain.available_minor) == (CardStatus.ISSUED, 0)
