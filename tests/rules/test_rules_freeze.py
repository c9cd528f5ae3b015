"""A freeze bars a card until people have looked at it; whatever bars it more stays."""

from __future__ import annotations

import msgspec
import pytest
from builders import NETWORK, Chain, again, make_chain, make_facts, make_request, make_reversal

from rules.cards import CardStatus
from rules.ledger import Answer
from rules.requests import CardRequest, Operation
from rules.responses import Response, Rule


def said(answer: Answer) -> tuple[str, str]:
    return answer.response.value, answer.reversal_state.value


def short_load(chain: Chain) -> tuple[CardRequest, CardRequest]:
    """A load of 500 that the purchase of all there is has spent; both may be undone."""
    load = make_request(Operation.LOAD, 500)
    chain.send(load)
    sale = make_request(Operation.REDEEM, chain.available_minor)
    assert chain.send(sale).response is Response.APPROVED
    return load, sale


@pytest.mark.parametrize("status", CardStatus)
def test_a_freeze_never_weakens_what_bars_a_card(status: CardStatus) -> None:
    chain = make_chain(available_minor=100)
    load, _ = short_load(chain)
    state = chain.card_state
    state.status = status
    twin = Chain(state, make_facts())
    twin.journal, twin.window = chain.journal, chain.window
    assert said(twin.send(make_reversal(load))) == ("00", "PARTIAL")
    frozen = status in (CardStatus.ISSUED, CardStatus.UNLOCKED, CardStatus.ACTIVE)
    assert twin.status is (CardStatus.FROZEN if frozen else status)
    blocked = status is CardStatus.BLOCKED
    before = CardStatus.FROZEN if blocked else CardStatus.ACTIVE
    assert twin.card_state.status_before_block is before


@pytest.mark.parametrize("lifted_by_reversal", [True, False])
def test_a_card_frozen_while_it_was_blocked_is_frozen_after_it(lifted_by_reversal: bool) -> None:
    chain = make_chain(available_minor=100)
    load, _ = short_load(chain)
    block = make_request(Operation.BLOCK, terminal=NETWORK)
    chain.send(block)
    chain.send(make_reversal(load))
    lifting = make_request(Operation.UNBLOCK, terminal=NETWORK)
    answer = chain.send(make_reversal(block) if lifted_by_reversal else lifting)
    assert answer.response is Response.APPROVED
    assert chain.status is CardStatus.FROZEN


def test_an_activation_undone_under_a_block_lifts_no_freeze() -> None:
    chain = make_chain(CardStatus.ISSUED, 0)
    activation = make_request(Operation.ACTIVATE, 300)
    chain.send(activation)
    load, sale = short_load(chain)
    chain.send(make_request(Operation.BLOCK, terminal=NETWORK))
    assert said(chain.send(make_reversal(load))) == ("00", "PARTIAL")
    assert said(chain.send(make_reversal(sale))) == ("00", "REVERSED")
    assert said(chain.send(make_reversal(activation))) == ("00", "REVERSED")
    chain.send(make_request(Operation.UNBLOCK, terminal=NETWORK))
    assert chain.status is CardStatus.FROZEN


# -- thawed by the programme's staff --------------------------------------------------------------

STAFF = msgspec.structs.replace(NETWORK, programme=True)


@pytest.mark.parametrize("status", [CardStatus.ISSUED, CardStatus.UNLOCKED, CardStatus.ACTIVE])
@pytest.mark.parametrize("blocked", [False, True])
def test_staff_thaws_a_card_to_what_it_was(status: CardStatus, blocked: bool) -> None:
    chain = make_chain(available_minor=100)
    load, _ = short_load(chain)
    state = chain.card_state
    state.status = CardStatus.BLOCKED if blocked else status
    state.status_before_block = status
    twin = Chain(state, make_facts())
    twin.journal, twin.window = chain.journal, chain.window
    twin.send(make_reversal(load))
    if blocked:  # a first one lifts the block
        assert twin.send(make_request(Operation.UNBLOCK, terminal=STAFF)).response.value == "00"
    assert twin.status is CardStatus.FROZEN
    assert twin.send(make_request(Operation.UNBLOCK, terminal=STAFF)).response.value == "00"
    assert twin.status is status


def test_nobody_else_thaws_a_card() -> None:
    chain = make_chain(available_minor=100)
    load, _ = short_load(chain)
    chain.send(make_reversal(load))
    answer = chain.send(make_request(Operation.UNBLOCK, terminal=NETWORK))
    assert (answer.response, answer.rule) == (Response.RESTRICTED, Rule.STATUS)
    assert chain.status is CardStatus.FROZEN


def test_a_thaw_is_undone_and_repeated_as_any_change_of_status() -> None:
    chain = make_chain(available_minor=100)
    load, _ = short_load(chain)
    chain.send(make_reversal(load))
    thaw = make_request(Operation.UNBLOCK, terminal=STAFF)
    first = chain.send(thaw)
    assert chain.send(again(thaw)) == first
    assert said(chain.send(make_reversal(thaw))) == ("00", "REVERSED")
    assert chain.status is CardStatus.FROZEN
    chain.send(make_request(Operation.UNBLOCK, terminal=STAFF))
    assert chain.status is CardStatus.ACTIVE


def test_a_thaw_pays_no_shortfall_and_the_next_one_freezes_again() -> None:
    chain = make_chain(available_minor=100)
    load, _ = short_load(chain)
    chain.send(make_reversal(load))
    chain.send(make_request(Operation.UNBLOCK, terminal=STAFF))
    assert chain.last.postings == ()
    load, _ = short_load(chain)
    assert said(chain.send(make_reversal(load))) == ("00", "PARTIAL")
    assert chain.status is CardStatus.FROZEN
