"""12, 13 and 30: what is refused before or beside the rules of the card."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.client.checks import assert_shape, available
from tests.client.messages import Card, Processing, Reply, Request
from tests.client.terminal import Terminal


def assert_format_error(terminal: Terminal, request: Request, card: Card) -> Reply:
    """30, the link stays up, and nothing has happened to the card."""
    terminal.send(request)
    # A message that cannot be read may be answered without DE 11 and 41.
    reply = terminal.receive_any()
    assert reply.code == "30", reply
    assert reply.mti == request.reply_key[0]
    assert available(terminal, card) == 10000
    return reply


# -- 12: invalid transaction or currency --------------------------------------------------


def test_a_foreign_currency_is_refused(pos: Terminal, card: Card) -> None:
    refused = pos.redeem(card, 1000, de49="840")
    assert_shape(refused)
    assert refused.code == "12"
    assert available(pos, card) == 10000


@pytest.mark.parametrize("processing", ["776000", "999999", "900000"])
def test_an_unknown_processing_code_is_refused(pos: Terminal, card: Card, processing: str) -> None:
    refused = pos.redeem(card, 1000, de3=processing)
    assert refused.code == "12"
    assert available(pos, card) == 10000


def test_an_operation_in_the_wrong_class_is_refused(pos: Terminal, card: Card) -> None:
    # A balance enquiry is 0100, a load 0200: neither exists in the other class.
    assert pos.exchange(pos.make.redeem(card, 1000, de3=str(Processing.BALANCE))).code == "12"
    wrong = pos.make.build("0100", pos.make.load(card, 1000).fields, {}, {}, card)
    assert pos.exchange(wrong).code == "12"
    assert available(pos, card) == 10000


@pytest.mark.parametrize("offset", [timedelta(days=-90), timedelta(hours=30), timedelta(days=60)])
def test_a_request_out_of_time_is_refused_by_the_clock(
    pos: Terminal, card: Card, offset: timedelta
) -> None:
    refused = pos.redeem(card, 1000, at=pos.make.local_time() + offset)
    assert_shape(refused)
    assert (refused.code, refused.why) == ("12", "CLOCK")
    assert available(pos, card) == 10000


@pytest.mark.parametrize("offset", [timedelta(days=-50), timedelta(hours=-30), timedelta(hours=20)])
def test_a_request_within_the_horizon_is_taken(
    pos: Terminal, card: Card, offset: timedelta
) -> None:
    assert pos.redeem(card, 1000, at=pos.make.local_time() + offset).code == "00"


# -- 13: invalid amount -------------------------------------------------------------------


@pytest.mark.parametrize("processing", [Processing.REDEEM, Processing.LOAD])
def test_an_operation_that_needs_an_amount_is_refused_without(
    pos: Terminal, card: Card, processing: Processing
) -> None:
    refused = pos.redeem(card, 1000, de3=str(processing), de4=None)
    # An amount that is missing is an invalid amount, or a format error: both are in use.
    assert refused.code in {"13", "30"}
    assert available(pos, card) == 10000


# -- 30: format errors --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (4, "0000000012A0"),
        (11, "00004B"),
        (12, "1030C5"),
        (13, "11D2"),
        (22, "0E1"),
        (3, "00600F"),
    ],
)
@pytest.mark.parametrize("port", ["pos", "network"])
def test_letters_in_a_numeric_field_are_a_format_error(
    request: pytest.FixtureRequest, card: Card, port: str, number: int, value: str
) -> None:
    terminal: Terminal = request.getfixturevalue(port)
    spoilt = terminal.make.redeem(card, 1000, **{f"de{number}": value})
    assert_format_error(terminal, spoilt, card)


def test_blanks_in_a_numeric_field_are_a_format_error(network: Terminal, card: Card) -> None:
    assert_format_error(network, network.make.redeem(card, 1000, de4="        1000"), card)


def test_two_different_card_numbers_are_a_format_error(pos: Terminal, card: Card) -> None:
    other = "1" + card.pan[1:] if card.pan[0] != "1" else "2" + card.pan[1:]
    track = other + "=" + card.expiry + "101"
    assert_format_error(pos, pos.make.redeem(card, 1000, de35=track), card)


def test_the_card_number_comes_from_either_track_or_from_both_places_alike(
    pos: Terminal, card: Card
) -> None:
    assert pos.redeem(card, 1000, de35=card.track2).available_minor == 9000
    track_only = pos.redeem(card, 1000, de2=None, de35=card.track2)
    assert_shape(track_only)
    assert track_only.available_minor == 8000
    # Track 1 in format B of ISO 7813: the contract lists no track 1 of the demo's cards.
    first_track = f"B{card.pan}^DEMO/CARD^{card.expiry}101"
    assert pos.redeem(card, 1000, de2=None, de45=first_track).available_minor == 7000


@pytest.mark.parametrize(
    "private",
    [
        "CS0011CS0011",
        "CS0011CS0012",
        "CS",
        "CS00",
        "CS0051",
        "CSx011",
        "CS001\x07",
        "CS0011X",
    ],
)
def test_private_data_with_a_fault_is_a_format_error(
    pos: Terminal, card: Card, private: str
) -> None:
    assert_format_error(pos, pos.make.redeem(card, 1000, de48=private), card)


def test_unknown_tags_in_private_data_are_ignored(pos: Terminal, card: Card) -> None:
    assert pos.redeem(card, 1000, ZZ="whatever", QQ="").code == "00"


def test_bytes_after_the_last_field_are_a_format_error(any_pos: Terminal, card: Card) -> None:
    sale = any_pos.make.redeem(card, 1000)
    longer = Request(sale.mti, sale.fields, sale.frame + b"\x00", card)
    # The MAC is not in the last bytes any more: nothing was verified, so the reply has none.
    assert assert_format_error(any_pos, longer, card).mac_ok is None


@pytest.mark.parametrize("length", [10, 11, 20, 40, 60, -1])
def test_a_message_cut_short_is_a_format_error(pos: Terminal, card: Card, length: int) -> None:
    sale = pos.make.redeem(card, 1000)
    cut = Request(sale.mti, sale.fields, sale.frame[:length], card)
    assert assert_format_error(pos, cut, card).mac_ok is None


@pytest.mark.parametrize(
    ("missing", "codes"),
    [
        # What a card transaction cannot be without; where two codes fit, both are taken.
        (2, {"14", "30"}),
        (3, {"12", "30"}),
        (11, {"30"}),
        (41, {"30", "58"}),
        (42, {"30", "58"}),
    ],
)
def test_a_request_without_a_mandatory_field_is_refused(
    pos: Terminal, card: Card, missing: int, codes: set[str]
) -> None:
    pos.send(pos.make.redeem(card, 1000, **{f"de{missing}": None}))
    assert pos.receive_any().code in codes
    assert available(pos, card) == 10000


@pytest.mark.parametrize("with_both", [True, False])
def test_a_pin_block_of_the_wrong_format_is_a_format_error(
    pos: Terminal, card: Card, with_both: bool
) -> None:
    # These terminals have PIN format 0: format 4 in PB is wrong alone, and more so beside DE 52.
    changes = {"PB": "00112233445566778899AABBCCDDEEFF"}
    if with_both:
        changes["pin"] = card.pin
    assert_format_error(pos, pos.make.redeem(card, 1000, **changes), card)
