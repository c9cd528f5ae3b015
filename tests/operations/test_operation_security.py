"""MACs, terminals, codes and PINs: who may speak, and what a stranger learns (nothing)."""

from __future__ import annotations

import pytest

from tests.client.checks import assert_refused_alike, assert_shape, available
from tests.client.demo import Cards, Demo
from tests.client.messages import Card, Entry, Identity, Reply, RequestBuilder, Seal
from tests.client.terminal import Terminal

TRIES = 5


def wrong_digits(digits: str, turn: int = 1) -> str:
    """Other digits of the same length; another value for each turn below 10."""
    return f"{(int(digits) + turn) % 10 ** len(digits):0{len(digits)}d}"


def unknown_card(switch: Demo, card: Card) -> Card:
    """A card number that is well formed (its check digit is right) but not in the demo."""
    known = {entry["pan"] for entry in switch.json["cards"]}
    for body in range(10**4):
        stem = card.pan[:6] + f"{body:0{len(card.pan) - 7}d}"
        pan = stem + luhn_digit(stem)
        if pan not in known:
            track = card.track2.replace(card.pan, pan)
            return Card(pan, card.expiry, card.cv, card.pin, track, "active", 0)
    raise AssertionError("no free card number found")


def luhn_digit(stem: str) -> str:
    """Check digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(stem)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value // 10 + value % 10
    return str(-total % 10)


# -- MAC ----------------------------------------------------------------------------------


def test_every_reply_to_a_right_mac_carries_one(any_pos: Terminal, card: Card) -> None:
    replies = [
        any_pos.redeem(card, 1000),
        any_pos.redeem(card, 99999),
        any_pos.balance(card),
        any_pos.reverse(any_pos.redeem(card, 1)),
        any_pos.echo(),
    ]
    assert [reply.code for reply in replies] == ["00", "51", "00", "00", "00"]
    assert all(reply.mac_ok for reply in replies)


@pytest.mark.parametrize("seal", [seal for seal in Seal if seal is not Seal.RIGHT])
def test_a_wrong_or_missing_mac_is_refused_without_one_and_nothing_is_done(
    any_pos: Terminal, card: Card, seal: Seal
) -> None:
    refused = any_pos.redeem(card, 1000, seal=seal)
    assert refused.code == "63"
    assert refused.mac_ok is None
    assert refused.tx
    assert available(any_pos, card) == 10000


@pytest.mark.parametrize("seal", [Seal.ABSENT, Seal.FLIPPED_IN_MAC, Seal.FLIPPED_IN_MESSAGE])
def test_a_reversal_with_a_wrong_or_missing_mac_has_no_effect(
    pos: Terminal, card: Card, seal: Seal
) -> None:
    sale = pos.redeem(card, 1000)
    assert pos.reverse(sale, seal=seal).code == "63"
    assert available(pos, card) == 9000
    assert pos.reverse(sale).state == "REVERSED"


def test_no_flipped_bit_of_a_request_goes_unseen(any_pos: Terminal, card: Card) -> None:
    sale = any_pos.make.redeem(card, 1000)
    mti_bytes = 2
    for place in range(mti_bytes, len(sale.frame)):
        flipped = bytearray(sale.frame)
        flipped[place] ^= 1 << place % 8
        any_pos.connection.send_frames([bytes(flipped)])
        # No longer readable, no longer this terminal, or no longer its MAC: never a decision.
        reply = any_pos.receive_any()
        assert reply.code in {"30", "58", "63"}, f"byte {place}: {reply}"
    assert available(any_pos, card) == 10000
    assert any_pos.exchange(sale).available_minor == 9000


def test_another_terminals_key_does_not_fit(switch: Demo, pos: Terminal, card: Card) -> None:
    mine = switch.entry()
    others = [
        entry
        for entry in switch.pos_entries
        if entry["mac"] == mine["mac"] and entry["id"] != mine["id"]
    ]
    borrowed = switch.identity({**mine, "mac_key": others[0]["mac_key"]})
    refused = pos.exchange(RequestBuilder(borrowed).redeem(card, 1000))
    assert refused.code == "63"
    assert available(pos, card) == 10000


def test_many_wrong_macs_bar_no_terminal(pos: Terminal, card: Card) -> None:
    spoilt = [pos.make.redeem(card, 1, seal=Seal.FLIPPED_IN_MAC) for _ in range(50)]
    assert {reply.code for reply in pos.pipeline(spoilt)} == {"63"}
    assert pos.redeem(card, 1000).available_minor == 9000


def test_the_key_version_is_echoed(pos: Terminal, card: Card) -> None:
    version = f"{pos.identity.key_version:02d}"
    sale = pos.redeem(card, 1000, de53=version + version + "0" * 12, pin=card.pin)
    assert_shape(sale)
    assert sale.code == "00"


def test_a_key_version_that_does_not_exist_is_a_wrong_mac(pos: Terminal, card: Card) -> None:
    assert pos.redeem(card, 1000, de53="9999" + "0" * 12).code == "63"
    assert available(pos, card) == 10000


# -- 58: terminals ------------------------------------------------------------------------


def test_an_unknown_terminal_is_refused_before_any_mac(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    for seal in (Seal.RIGHT, Seal.FLIPPED_IN_MAC, Seal.ABSENT):
        refused = pos.redeem(card, 1000, de41="ZZ999999", seal=seal)
        assert refused.code == "58"
        assert refused.mac_ok is None
    assert available(pos, card) == 10000


def test_a_terminal_that_names_another_merchant_is_refused(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    real = switch.other_merchant_entry(switch.entry())["merchant"]
    for merchant in (real, "999999999999999"):
        refused = pos.redeem(card, 1000, de42=merchant)
        assert refused.code == "58"
        assert refused.mac_ok is None
    assert available(pos, card) == 10000


def test_a_foreign_acquirer_is_refused(pos: Terminal, card: Card) -> None:
    # Whether a MAC comes with it is open: the request's was right.
    assert pos.redeem(card, 1000, de32="98765432109").code == "58"
    assert available(pos, card) == 10000


# -- no oracle ----------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [Entry.KEYED, Entry.ONLINE])
def test_a_keyed_card_is_proved_by_its_code_or_its_pin(
    pos: Terminal, card: Card, entry: Entry
) -> None:
    assert pos.redeem(card, 1000, de22=str(entry), CV=card.cv).available_minor == 9000
    assert pos.redeem(card, 1000, de22=str(entry), pin=card.pin).available_minor == 8000
    assert pos.balance(card, de22=str(entry), CV=card.cv).available_minor == 8000
    assert pos.balance(card, de22=str(entry), pin=card.pin).available_minor == 8000


@pytest.mark.parametrize("entry", [Entry.KEYED, Entry.ONLINE])
@pytest.mark.parametrize("verb", ["redeem", "balance"])
def test_a_keyed_card_that_is_not_proved_looks_like_no_card_at_all(
    switch: Demo, pos: Terminal, cards: Cards, entry: Entry, verb: str
) -> None:
    def ask(card: Card, **changes: str) -> Reply:
        common = {"de22": str(entry), "de37": "123456789012", **changes}
        return pos.balance(card, **common) if verb == "balance" else pos.redeem(card, 1, **common)

    card, locked = cards.active(), cards.active()
    stranger = unknown_card(switch, card)
    for turn in range(TRIES):
        assert ask(locked, CV=wrong_digits(locked.cv, turn + 1)).code == "14"
    lost, issued = cards.special("lost"), cards.issued()
    replies = [
        ask(stranger),
        ask(stranger, CV=stranger.cv),
        ask(stranger, pin=stranger.pin),
        ask(card),
        ask(card, CV=wrong_digits(card.cv)),
        ask(card, CV=card.cv, de14=wrong_expiry(card)),
        ask(card, pin=wrong_digits(card.pin)),
        ask(locked, CV=locked.cv),
        ask(issued, CV=wrong_digits(issued.cv)),
        ask(lost),
    ]
    assert_refused_alike(replies, "14")
    assert all(reply.mac_ok for reply in replies)
    assert ask(card, CV=card.cv).code == "00"


def wrong_expiry(card: Card) -> str:
    return f"{(int(card.expiry[:2]) + 1) % 100:02d}" + card.expiry[2:]


def test_an_unknown_card_that_was_read_is_no_such_card(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    refused = pos.redeem(unknown_card(switch, card), 1000)
    assert_shape(refused)
    assert refused.code == "14"


# -- codes and PINs with a read card ------------------------------------------------------

READ = [Entry.STRIPE, Entry.BARCODE, Entry.CHIP, "071", "091"]


@pytest.mark.parametrize("entry", READ)
def test_a_read_card_needs_neither_code_nor_pin(pos: Terminal, card: Card, entry: str) -> None:
    assert pos.redeem(card, 1000, de22=str(entry)).available_minor == 9000
    assert pos.balance(card, de22=str(entry)).available_minor == 9000


@pytest.mark.parametrize("entry", READ)
def test_a_wrong_code_with_a_read_card_is_said(pos: Terminal, card: Card, entry: str) -> None:
    refused = pos.redeem(card, 1000, de22=str(entry), CV=wrong_digits(card.cv))
    assert_shape(refused)
    assert refused.code == "82"
    assert pos.redeem(card, 1000, de22=str(entry), CV=card.cv).available_minor == 9000


def test_a_wrong_expiry_with_a_read_card_is_said_as_a_wrong_code(pos: Terminal, card: Card) -> None:
    assert pos.redeem(card, 1000, de14=wrong_expiry(card)).code == "82"
    assert pos.redeem(card, 1000, de14=None).code == "00"


def test_a_wrong_pin_with_a_read_card_is_said(any_pos: Terminal, card: Card) -> None:
    refused = any_pos.redeem(card, 1000, pin=wrong_digits(card.pin))
    assert_shape(refused)
    assert refused.code == "55"
    assert any_pos.redeem(card, 1000, pin=card.pin).available_minor == 9000


def test_a_pin_encrypted_under_another_key_is_a_wrong_pin(
    switch: Demo, pos: Terminal, card: Card
) -> None:
    mine = switch.entry()
    other = next(entry for entry in switch.pos_entries if entry["pin_key"] != mine["pin_key"])
    borrowed = switch.identity({**mine, "pin_key": other["pin_key"]})
    refused = pos.exchange(RequestBuilder(borrowed).redeem(card, 1000, pin=card.pin))
    assert refused.code == "55"


def test_five_wrong_pins_lock_the_pin_but_not_the_card(pos: Terminal, card: Card) -> None:
    codes = [
        pos.redeem(card, 1000, pin=wrong_digits(card.pin, turn + 1)).code for turn in range(TRIES)
    ]
    assert codes[:-1] == ["55"] * (TRIES - 1)
    # The try that uses up the last one may already say so.
    assert codes[-1] in {"55", "75"}
    assert pos.redeem(card, 1000, pin=card.pin).code == "75"
    assert pos.redeem(card, 1000).available_minor == 9000
    assert pos.redeem(card, 1000, de22=str(Entry.KEYED), CV=card.cv).available_minor == 8000


def test_a_locked_pin_that_is_keyed_looks_like_no_card_at_all(pos: Terminal, card: Card) -> None:
    keyed = {"de22": str(Entry.KEYED)}
    for turn in range(TRIES):
        assert pos.redeem(card, 1000, pin=wrong_digits(card.pin, turn + 1), **keyed).code == "14"
    assert pos.redeem(card, 1000, pin=card.pin, **keyed).code == "14"
    assert pos.redeem(card, 1000, pin=card.pin).code == "75"


def test_four_wrong_pins_leave_one_try(pos: Terminal, card: Card) -> None:
    for turn in range(TRIES - 1):
        assert pos.redeem(card, 1000, pin=wrong_digits(card.pin, turn + 1)).code == "55"
    assert pos.redeem(card, 1000, pin=card.pin).available_minor == 9000


def test_five_wrong_codes_lock_the_code_but_not_the_card(pos: Terminal, card: Card) -> None:
    for turn in range(TRIES):
        assert pos.redeem(card, 1000, CV=wrong_digits(card.cv, turn + 1)).code == "82"
    # 75 is said of PINs; a locked code is a code that does not fit.
    assert pos.redeem(card, 1000, CV=card.cv).code == "82"
    assert pos.redeem(card, 1000).available_minor == 9000
    assert pos.redeem(card, 1000, pin=card.pin).available_minor == 8000


@pytest.mark.parametrize("secret", ["pin", "CV"])
def test_a_repeat_of_a_wrong_try_never_counts_again(pos: Terminal, card: Card, secret: str) -> None:
    right = card.pin if secret == "pin" else card.cv
    first = pos.redeem(card, 1000, **{secret: wrong_digits(right)})
    assert first.code == {"pin": "55", "CV": "82"}[secret]
    for _ in range(2 * TRIES):
        assert pos.repeat(first).same_answer() == first.same_answer()
    assert pos.redeem(card, 1000, **{secret: right}).available_minor == 9000


@pytest.mark.parametrize("verb", ["redeem", "balance"])
def test_tries_cannot_be_multiplied_by_asking_all_at_once(
    pos: Terminal, card: Card, verb: str
) -> None:
    guesses = []
    for turn in range(3 * TRIES):
        pin = wrong_digits(card.pin, turn + 1)
        if verb == "balance":
            guesses.append(pos.make.balance(card, pin=pin))
        else:
            guesses.append(pos.make.redeem(card, 1, pin=pin))
    codes = [reply.code for reply in pos.pipeline(guesses)]
    assert codes.count("55") <= TRIES
    assert set(codes) <= {"55", "75"}
    assert pos.redeem(card, 1000, pin=card.pin).code == "75"


def test_nobodys_identity_is_printed() -> None:
    identity = Identity.__dataclass_fields__
    assert not identity["mac_key"].repr
    assert not identity["pin_key"].repr
