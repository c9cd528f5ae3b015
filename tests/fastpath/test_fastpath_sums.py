"""Sums over links and postings, against the same sums made of decoded rows."""

from __future__ import annotations

import datetime
from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.sums import LinkSums, cards_of
from rules.cards import CardState, CardStatus, PurseState
from rules.ledger import Answer
from rules.lots import Lot, LotMove, Origin
from rules.responses import Response
from switch.journal.rows import LinkBody
from switch.projections.images import (
    LINK_SHAPE,
    POSTING_SHAPE,
    link_image,
    posting_image,
)

NOW = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
GIVEN = {Origin.PROMO, Origin.REWARD, Origin.GOODWILL}
ODD_KINDS, ODD_OPERATIONS = {4, 5}, {20, 23}

amounts = st.integers(-(10**13), 10**13)
small = st.integers(1, 3)
days = st.sampled_from([0, 1, 127, 128, 20_000, 36_525])
moves = st.builds(
    LotMove, st.integers(1, 300), amounts, st.sampled_from(Origin), st.booleans(), days, small
)
lots = st.builds(
    Lot, st.integers(1, 300), st.integers(0, 10**13), st.sampled_from(Origin), st.booleans(), days
)
purses = st.builds(
    PurseState, st.integers(0, 10**13), st.integers(0, 10**13), st.lists(lots, max_size=20)
)
states = st.builds(
    CardState,
    *(st.integers(1, 10**6), st.integers(0, 2**62), st.sampled_from(CardStatus)),
    *(purses, purses, purses),
    last_active_day=days,
    fee_month=st.integers(0, 30_000),
)
postings = st.tuples(
    st.integers(1, 9),
    small,
    st.integers(1, 9),
    small,
    st.integers(1, 10**13),
    st.just(60),
    st.sampled_from(["978", "840"]),
)


@st.composite
def links(draw: st.DrawFn) -> dict[str, Any]:
    """A link's values that are summed up, and its postings."""
    return {
        "card_id": draw(small),
        "version": draw(st.integers(1, 10**6)),
        "operation": draw(st.sampled_from([5, 6, 13, 20, 23, 31])),
        "purse": draw(st.sampled_from([60, 80, 90])),
        "amount": draw(amounts),
        "moves": tuple(draw(st.lists(moves, max_size=18))),
        "state": draw(states),
        "postings": draw(st.lists(postings, max_size=3)),
    }


def body_of(link: dict[str, Any]) -> bytes:
    answer = Answer(Response.APPROVED, "ABCDEFGHJKLM", "R")
    state = msgspec.msgpack.encode(link["state"])
    body = LinkBody(b"f" * 16, answer, 1, 1, 3, 3, link["moves"], state)
    return msgspec.msgpack.encode(body)


def image_of(link: dict[str, Any], body: bytes) -> bytes:
    return link_image(
        (
            *(NOW.date(), 1, 1, link["card_id"], link["version"], 0, b"key"),
            *(link["operation"], 0, "ABCDEFGHJKLM", link["purse"], link["amount"], 0, 0, 0),
            *(1, 1, "", 1, 0, NOW, 7, body),
        )
    )


def summed(all_links: list[dict[str, Any]]) -> LinkSums:
    programme_of = {1: 11, 2: 12, 3: 11}.__getitem__
    sums = LinkSums(LINK_SHAPE, POSTING_SHAPE, programme_of, GIVEN, ODD_KINDS, ODD_OPERATIONS)
    for link in all_links:
        rows = [
            POSTING_SHAPE.open(posting_image((NOW.date(), 1, 1, leg, link["card_id"], *posting)))
            for leg, posting in enumerate(link["postings"])
        ]
        sums.add(LINK_SHAPE.open(image_of(link, body_of(link))), rows)
    sums.finish()
    return sums


def programme(card_id: int) -> int:
    return 12 if card_id == 2 else 11


def owner(kind: int, account_id: int) -> int:
    return programme(account_id) if kind == 1 else account_id


@given(st.lists(links(), max_size=8))
def test_it_adds_up_what_moved_between_accounts(made: list[dict[str, Any]]) -> None:
    expected: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for link in made:
        for d_kind, d_id, c_kind, c_id, amount, purse, currency in link["postings"]:
            key = (d_kind, owner(d_kind, d_id), c_kind, owner(c_kind, c_id), purse, currency)
            expected[key][0] += amount
            expected[key][1] += 1
    sums = summed(made)
    assert sums.moved == expected


def held_minor(link: dict[str, Any]) -> int:
    to_card = 0
    for d_kind, d_id, c_kind, c_id, amount, _, _ in link["postings"]:
        to_card -= amount if (d_kind, d_id) == (1, link["card_id"]) else 0
        to_card += amount if (c_kind, c_id) == (1, link["card_id"]) else 0
    return to_card - int(link["amount"])


@given(st.lists(links(), max_size=8))
def test_it_adds_up_what_is_owed_and_tells_what_is_held(made: list[dict[str, Any]]) -> None:
    owed: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for link in made:
        held = held_minor(link)
        released, pinned = max(-held, 0), max(held, 0)
        for move in link["moves"]:
            key = (programme(link["card_id"]), link["purse"], *move_key(move))
            owed[key][0] += move.amount_minor
            if move.amount_minor > 0:
                part = min(move.amount_minor, released)
                released -= part
                owed[key][1] -= part
            else:
                part = min(-move.amount_minor, pinned)
                pinned -= part
                owed[key][1] += part
    sums = summed(made)
    assert sums.liability == owed
    assert [link["version"] for link in sums.held] == [
        link["version"] for link in made if held_minor(link)
    ]


def move_key(move: LotMove) -> tuple[Any, ...]:
    return int(move.origin), move.cashable, move.expires_day, move.sponsor_id


@given(st.lists(links(), max_size=8))
def test_a_cards_life_is_that_after_its_last_link(made: list[dict[str, Any]]) -> None:
    last = {link["card_id"]: link for link in made}
    sums = summed(made)
    assert sums.lives == {card_id: life_of(card_id, link) for card_id, link in last.items()}
    assert sums.unread is None


def life_of(card_id: int, link: dict[str, Any]) -> tuple[Any, ...]:
    state = link["state"]
    all_lots = [*state.ecash.lots, *state.voucher.lots, *state.points.lots]
    due_day = min((lot.expires_day for lot in all_lots if lot.expires_day), default=0)
    given_minor = sum(lot.available_minor for lot in state.ecash.lots if lot.origin in GIVEN)
    available_minor = state.ecash.available_minor
    return (
        *(card_id, programme(card_id), state.status, due_day),
        *(state.last_active_day, state.fee_month),
        *(available_minor > 0, available_minor > given_minor),
    )


@given(st.lists(links(), max_size=8))
def test_it_hands_back_what_was_asked_for(made: list[dict[str, Any]]) -> None:
    expected = [
        link["version"]
        for link in made
        if link["operation"] in ODD_OPERATIONS or any(p[0] in ODD_KINDS for p in link["postings"])
    ]
    odd = summed(made).odd
    assert [link["version"] for link, _ in odd] == expected


@given(links(), st.data())
def test_a_cut_body_is_told_and_nothing_is_read_behind_it(
    link: dict[str, Any], data: st.DataObject
) -> None:
    body = body_of(link)
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    sums = LinkSums(LINK_SHAPE, POSTING_SHAPE, programme, GIVEN, ODD_KINDS, ODD_OPERATIONS)
    try:
        sums.add(LINK_SHAPE.open(image_of(link, cut)), [])
    except ValueError:
        return
    # only what follows the state was cut off: it is not looked at
    assert len(cut) > len(body) - 24
    sums.finish()
    assert sums.lives == {link["card_id"]: life_of(link["card_id"], link)}


@given(links(), st.binary(max_size=60))
def test_a_state_that_is_none_is_told_with_its_link(link: dict[str, Any], state: bytes) -> None:
    sums = LinkSums(LINK_SHAPE, POSTING_SHAPE, programme, GIVEN, ODD_KINDS, ODD_OPERATIONS)
    answer = Answer(Response.APPROVED, "ABCDEFGHJKLM", "R")
    body = msgspec.msgpack.encode(LinkBody(b"", answer, 1, 1, 3, 3, (), state))
    sums.add(LINK_SHAPE.open(image_of(link, body)), [])
    try:
        sums.finish()
    except ValueError:
        assert sums.unread is not None
        assert sums.unread["version"] == link["version"]
    else:
        msgspec.msgpack.decode(state)  # whatever was read was whole


@pytest.mark.parametrize(
    "body", [b"", b"\xc1" * 40, b"\x98" + b"\xc0" * 8, b"\xdd\xff\xff\xff\xff"]
)
def test_bytes_that_are_no_body_are_told(body: bytes) -> None:
    sums = LinkSums(LINK_SHAPE, POSTING_SHAPE, programme, GIVEN, ODD_KINDS, ODD_OPERATIONS)
    made = {"card_id": 1, "version": 1, "operation": 6, "purse": 60, "amount": 0}
    with pytest.raises(ValueError, match="body"):
        sums.add(LINK_SHAPE.open(image_of(made, body)), [])


@given(st.lists(links(), max_size=8))
def test_the_cards_are_those_of_links_and_of_either_side_of_their_postings(
    made: list[dict[str, Any]],
) -> None:
    entries, expected = [], set()
    for link in made:
        rows = [
            POSTING_SHAPE.open(posting_image((NOW.date(), 1, 1, leg, link["card_id"], *posting)))
            for leg, posting in enumerate(link["postings"])
        ]
        entries.append((LINK_SHAPE.open(image_of(link, body_of(link))), rows))
        expected.add(link["card_id"])
        for debit_kind, debit_id, credit_kind, credit_id, *_ in link["postings"]:
            expected |= {debit_id} if debit_kind == 1 else set()
            expected |= {credit_id} if credit_kind == 1 else set()
    assert cards_of(LINK_SHAPE, POSTING_SHAPE, entries) == expected
