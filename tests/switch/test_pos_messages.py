"""What the demo terminal says: every verb's message against the dialect, sections 3 and 7."""

from __future__ import annotations

import datetime
import doctest
from typing import Any

import pytest

from fastpath.codec import decode
from fastpath.mac import MacAlgorithm, MacKey
from fastpath.packager import Packager
from fastpath.pinblock import decode_format0, decode_format4
from fastpath.specs import ISO87_ASCII, ISO87_BINARY
from rules.identity import Pan
from rules.responses import Response
from switch.pos import fields as pos_fields
from switch.pos.demo import PosTerminal, UsageError
from switch.pos.fields import Balance, format_amount, mask_track, parse_amount, read_balances
from switch.pos.messages import (
    EntryMode,
    Order,
    Outgoing,
    build,
    is_hold,
    is_original,
    reply_mti,
    seal_message,
)
from switch.pos.state import Sent, TerminalState
from switch.pos.text import MEANINGS
from switch.pos.verbs import VERBS, Verb
from switch.wire.private import parse_private

PAN = Pan("9500001234567890128")
OTHER_PAN = Pan("9500009876543210123")
PIN_KEY = bytes.fromhex("FEDCBA98765432100123456789ABCDEF")
RETAIL_KEY = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
CMAC_KEY = bytes.fromhex("000102030405060708090A0B0C0D0E0F")
NOW = datetime.datetime(2026, 11, 22, 9, 30, 15, tzinfo=datetime.UTC)
LATER = datetime.datetime(2026, 11, 22, 9, 30, 45, tzinfo=datetime.UTC)


def terminal(
    packager: Packager = ISO87_ASCII,
    algorithm: MacAlgorithm = MacAlgorithm.AES_CMAC,
    key: bytes = CMAC_KEY,
    **changes: Any,
) -> PosTerminal:
    values: dict[str, Any] = {
        "terminal_id": "00000001",
        "merchant_id": "000000000000001",
        "network": False,
        "host": "127.0.0.1",
        "port": 8583,
        "packager": packager,
        "mac_key": MacKey(algorithm, key),
        "pin_key": PIN_KEY,
        "utc_offset_min": 60,
    }
    return PosTerminal(**values | changes)


def order(verb: Verb, **changes: Any) -> Order:
    values: dict[str, Any] = {"verb": verb, "card": PAN}
    return Order(**values | changes)


def message_for(
    verb: Verb, *, original: Sent | None = None, stan: int = 42, **changes: Any
) -> Outgoing:
    return build(
        order(verb, **changes), terminal(), currency="978", stan=stan, now=NOW, original=original
    )


def sent(message: Outgoing, **answer: str) -> Sent:
    state = TerminalState()
    state.record(message.mti, message.fields)
    state.answered(
        int(message.stan),
        **{"response": "00", "tx": "", "approved_amount": ""} | answer,  # type: ignore[arg-type]
    )
    return state.messages[-1]


SECTION_7_REDEEM = {
    "amount_minor": 1250,
    "entry": EntryMode.BARCODE,
    "expiry": "2912",
    "pin": "1234",
    "partial_allowed": True,
}


class TestFramesOfTheDialect:
    """The frames of section 7, which two independent codecs have packed and unpacked."""

    @pytest.mark.parametrize(
        ("at", "redeem", "reversal"),
        [
            (
                terminal(ISO87_BINARY, MacAlgorithm.RETAIL, RETAIL_KEY),
                bytes.fromhex(
                    "0200723c040000c1900119950000123456789012800060000000000012501122093015"
                    "00004210301511222912003130303030303030313030303030303030303030303030310006"
                    "504130303131393738f4d2d7569b197672bd57a8e441be3562"
                ),
                bytes.fromhex(
                    "0400f238040000c080000000004000000001199500001234567890128000600000000000"
                    "12501122093045000043103015112200313030303030303031303030303030303030303030"
                    "30303139373802000000421122093015000000000000000000000"
                    "01a2b39d5f0007e4e"
                ),
            ),
            (
                terminal(),
                b"0200723C040000C19001199500001234567890128006000000000001250112209301500"
                b"0042103015112229120310000000100000000000000"
                b"1006PA0011978F4D2D7569B1976723AA57F1D1C6EF827",
                b"0400F238040000C0800000000040000000011995000012345678901280060000000000012"
                b"5011220930450000431030151122031000000010000000000000019780200000042"
                b"112209301500000000000000000000002E78C508890E9050",
            ),
        ],
        ids=["binary, retail MAC", "ascii, AES-CMAC"],
    )
    def test_byte_for_byte(self, at: PosTerminal, redeem: bytes, reversal: bytes) -> None:
        first = build(order(Verb.REDEEM, **SECTION_7_REDEEM), at, currency="978", stan=42, now=NOW)
        assert seal_message(at, first).hex() == redeem.hex()
        undo = build(
            order(Verb.REVERSE),
            at,
            currency="978",
            stan=43,
            now=LATER,
            original=sent(first),
        )
        assert seal_message(at, undo).hex() == reversal.hex()


CARD_FIELDS = {2, 3, 7, 11, 12, 13, 22, 41, 42, 49}


class TestVerbs:
    @pytest.mark.parametrize(
        ("verb", "changes", "mti", "code", "extra"),
        [
            (Verb.UNLOCK, {}, "0200", "910060", set()),
            (Verb.ACTIVATE, {"amount_minor": 2500}, "0200", "900060", {4}),
            (Verb.ACTIVATE, {}, "0200", "930060", set()),
            (Verb.LOAD, {"amount_minor": 2500}, "0200", "210060", {4}),
            (Verb.LOAD, {"amount_minor": 2500, "purse": "80"}, "0200", "210080", {4}),
            (Verb.REDEEM, {"amount_minor": 2500}, "0200", "006000", {4}),
            (Verb.REDEEM, {"amount_minor": 2500, "purse": "80"}, "0200", "008000", {4}),
            (Verb.RETURN, {"amount_minor": 2500}, "0200", "200060", {4}),
            (Verb.CASH_OUT, {}, "0200", "616000", set()),
            (Verb.CASH_OUT, {"amount_minor": 100}, "0200", "616000", {4}),
            (
                Verb.TRANSFER,
                {"amount_minor": 2500, "to_card": OTHER_PAN},
                "0200",
                "406060",
                {4, 103},
            ),
            (Verb.BALANCE, {}, "0100", "316000", set()),
            (Verb.BALANCE, {"purse": "90"}, "0100", "319000", set()),
            (Verb.BALANCE, {"purse": "all"}, "0100", "310000", set()),
            (Verb.HOLD, {"amount_minor": 2500}, "0100", "006000", {4}),
            (Verb.DEACTIVATE, {}, "0200", "920060", set()),
            (Verb.BLOCK, {}, "0200", "940060", set()),
            (Verb.UNBLOCK, {}, "0200", "950060", set()),
        ],
    )
    def test_about_a_card(
        self, verb: Verb, changes: dict[str, Any], mti: str, code: str, extra: set[int]
    ) -> None:
        message = message_for(verb, **changes)
        assert message.mti == mti
        assert message.fields[3] == code
        assert set(message.fields) == CARD_FIELDS | extra
        assert message.fields[2] == PAN
        if 4 in extra:
            assert message.fields[4] == f"{changes['amount_minor']:012d}"
        assert message.fields[49] == ("999" if changes.get("purse") == "90" else "978")

    @pytest.mark.parametrize(
        ("verb", "network_code"),
        [(Verb.SIGN_ON, "001"), (Verb.SIGN_OFF, "002"), (Verb.ECHO, "301")],
    )
    def test_about_the_network(self, verb: Verb, network_code: str) -> None:
        message = message_for(verb)
        assert message.mti == "0800"
        assert set(message.fields) == {7, 11, 12, 13, 41, 42, 70}
        assert message.fields[70] == network_code
        sealed = decode(ISO87_ASCII, seal_message(terminal(), message))
        assert sealed.fields[-1] == 128
        key = MacKey(MacAlgorithm.AES_CMAC, CMAC_KEY)
        assert sealed.mac is not None
        assert key.verify(sealed.raw[: sealed.mac_covers], sealed.mac)

    def test_every_verb_has_words_and_either_a_code_or_its_own_filler(self) -> None:
        assert set(VERBS) == set(Verb)
        referring = {Verb.REVERSE, Verb.OUTCOME, Verb.REPEAT, Verb.RECONCILE}
        for verb, spec in VERBS.items():
            assert spec.words
            assert (verb in referring) == (not spec.processing_code and not spec.network_code)

    def test_times_are_utc_and_local(self) -> None:
        message = build(
            order(Verb.ECHO),
            terminal(utc_offset_min=-600),
            currency="978",
            stan=1,
            now=NOW,
        )
        assert message.fields[7] == "1122093015"
        assert (message.fields[13], message.fields[12]) == ("1121", "233015")
        assert message.fields[11] == "000001"

    @pytest.mark.parametrize(
        ("entry", "mode"),
        [
            (EntryMode.READ, "021"),
            (EntryMode.BARCODE, "031"),
            (EntryMode.KEYED, "012"),
            (EntryMode.KEYED_WITH_PIN, "011"),
        ],
    )
    def test_entry(self, entry: EntryMode, mode: str) -> None:
        assert message_for(Verb.BALANCE, entry=entry).fields[22] == mode

    def test_code_partial_and_original_are_private_tags(self) -> None:
        message = message_for(Verb.RETURN, amount_minor=1, code="1234", original_tx="0123456789AB")
        assert parse_private(str(message.fields[48])) == {"CV": "1234", "OR": "0123456789AB"}
        message = message_for(Verb.REDEEM, amount_minor=1, partial_allowed=True)
        assert message.fields[48] == "PA0011"

    def test_pin_block_of_the_terminals_format(self) -> None:
        message = message_for(Verb.BALANCE, pin="98765")
        block = message.fields[52]
        assert isinstance(block, bytes)
        assert decode_format0(block, PAN, PIN_KEY) == "98765"
        message = build(
            order(Verb.BALANCE, pin="98765"),
            terminal(pin_format=4, pin_key=CMAC_KEY),
            currency="978",
            stan=1,
            now=NOW,
        )
        assert 52 not in message.fields
        block = bytes.fromhex(parse_private(str(message.fields[48]))["PB"])
        assert decode_format4(block, PAN, CMAC_KEY) == "98765"

    def test_without_a_card(self) -> None:
        with pytest.raises(UsageError, match="redeem needs --card"):
            message_for(Verb.REDEEM, card=None, amount_minor=1)

    @pytest.mark.parametrize(
        ("mti", "reply"),
        [
            ("0100", "0110"),
            ("0101", "0110"),
            ("0200", "0210"),
            ("0201", "0210"),
            ("0220", "0230"),
            ("0221", "0230"),
            ("0400", "0410"),
            ("0401", "0410"),
            ("0420", "0430"),
            ("0600", "0610"),
            ("0800", "0810"),
        ],
    )
    def test_reply_mti(self, mti: str, reply: str) -> None:
        assert reply_mti(mti) == reply


class TestReversal:
    def test_names_its_original_as_it_was_sent(self) -> None:
        first = message_for(Verb.REDEEM, amount_minor=1250, partial_allowed=True, code="1234")
        message = message_for(
            Verb.REVERSE, stan=43, original=sent(first, approved_amount="000000001000")
        )
        assert message.mti == "0400"
        assert message.fields[90] == "0200" + "000042" + "1122093015" + "0" * 22
        for number in (2, 3, 4, 12, 13, 22, 49):
            assert message.fields[number] == first.fields[number]
        assert message.fields[11] == "000043"
        assert 48 not in message.fields

    @pytest.mark.parametrize("reason", ["4000", "4021", "4351"])
    def test_reason(self, reason: str) -> None:
        first = sent(message_for(Verb.LOAD, amount_minor=1250))
        message = message_for(Verb.REVERSE, original=first, reason=reason)
        assert message.fields[48] == f"RE004{reason}"

    def test_partial(self) -> None:
        first = sent(message_for(Verb.REDEEM, amount_minor=1250))
        message = message_for(Verb.REVERSE, original=first, final_amount_minor=500)
        assert message.fields[95] == "000000000500" + "0" * 12 + "C00000000" * 2
        assert message.fields[4] == "000000001250"

    def test_amount_that_only_the_answer_named(self) -> None:
        cash_out = message_for(Verb.CASH_OUT)
        answered = sent(cash_out, approved_amount="000000000777")
        message = message_for(Verb.REVERSE, original=answered)
        assert message.fields[4] == "000000000777"
        message = message_for(Verb.REVERSE, original=sent(cash_out))
        assert 4 not in message.fields

    def test_of_card_to_card_names_both(self) -> None:
        first = sent(message_for(Verb.TRANSFER, amount_minor=5, to_card=OTHER_PAN))
        assert message_for(Verb.REVERSE, original=first).fields[103] == OTHER_PAN

    def test_of_nothing(self) -> None:
        with pytest.raises(UsageError, match="nothing that could be reversed"):
            message_for(Verb.REVERSE)

    def test_what_may_be_reversed(self) -> None:
        assert is_original(sent(message_for(Verb.REDEEM, amount_minor=1)))
        assert is_original(sent(message_for(Verb.HOLD, amount_minor=1)))
        assert not is_original(sent(message_for(Verb.BALANCE)))
        redeem = sent(message_for(Verb.REDEEM, amount_minor=1))
        assert not is_original(sent(message_for(Verb.REVERSE, original=redeem)))


class TestOutcome:
    def test_names_its_original_as_a_reversal_does(self) -> None:
        first = sent(message_for(Verb.REDEEM, amount_minor=1250))
        message = message_for(Verb.OUTCOME, original=first, bar_unknown=True)
        assert message.mti == "0600"
        assert message.fields[90] == "0200" + "000042" + "1122093015" + "0" * 22
        assert message.fields[3] == "006000"
        assert message.fields[48] == "TB0011"

    def test_of_the_last_transaction(self) -> None:
        message = message_for(Verb.OUTCOME, card=None)
        assert set(message.fields) == {7, 11, 12, 13, 41, 42}


class TestCompletion:
    def test_by_the_holds_tx(self) -> None:
        hold = sent(message_for(Verb.HOLD, amount_minor=5000, purse="80"), tx="0123456789AB")
        assert is_hold(hold)
        message = message_for(Verb.COMPLETE, original=hold, card=None, amount_minor=4000, stan=43)
        assert message.mti == "0220"
        assert message.fields[3] == "008000"
        assert message.fields[4] == "000000004000"
        assert message.fields[48] == "OR0120123456789AB"
        assert 90 not in message.fields

    def test_by_its_message_where_the_answer_was_lost(self) -> None:
        hold = sent(message_for(Verb.HOLD, amount_minor=5000))
        message = build(
            order(Verb.COMPLETE, card=None, amount_minor=4000),
            terminal(),
            currency="978",
            stan=43,
            now=LATER,
            original=hold,
        )
        assert message.fields[90] == "0100" + "000042" + "1122093015" + "0" * 22
        assert (message.fields[13], message.fields[12]) == ("1122", "103015")
        assert message.fields[7] == "1122093045"

    def test_by_a_tx_of_another_terminal(self) -> None:
        message = message_for(Verb.COMPLETE, amount_minor=1, original_tx="0123456789AB")
        assert message.fields[48] == "OR0120123456789AB"

    def test_never_becomes_an_offline_sale(self) -> None:
        with pytest.raises(UsageError, match="no such hold"):
            message_for(Verb.COMPLETE, amount_minor=1)
        with pytest.raises(UsageError, match="needs --card"):
            message_for(Verb.COMPLETE, card=None, amount_minor=1)


class TestRepeat:
    def test_is_the_same_message_sent_again(self) -> None:
        first = message_for(Verb.REDEEM, amount_minor=1250, pin="1234", code="9876")
        again = build(
            order(Verb.REPEAT, card=None),
            terminal(),
            currency="978",
            stan=99,
            now=LATER,
            original=sent(first),
        )
        assert again.mti == "0201"
        assert again.fields == {**first.fields, 7: "1122093045"}

    def test_of_a_reversal(self) -> None:
        redeem = sent(message_for(Verb.REDEEM, amount_minor=1))
        undo = message_for(Verb.REVERSE, original=redeem, stan=43)
        again = message_for(Verb.REPEAT, original=sent(undo))
        assert again.mti == "0401"
        assert again.fields[11] == "000043"

    def test_with_the_secrets_entered_again(self) -> None:
        first = sent(message_for(Verb.REDEEM, amount_minor=1250))
        again = message_for(Verb.REPEAT, original=first, pin="1234", code="9876", card=None)
        block = again.fields[52]
        assert isinstance(block, bytes)
        assert decode_format0(block, PAN, PIN_KEY) == "1234"
        assert again.fields[48] == "CV0049876"

    def test_of_nothing(self) -> None:
        with pytest.raises(UsageError, match="nothing that could be repeated"):
            message_for(Verb.REPEAT)


class TestSecrets:
    def test_no_repr_shows_them(self) -> None:
        wanted = order(Verb.REDEEM, pin="4711", code="0815", to_card=OTHER_PAN)
        message = message_for(Verb.REDEEM, amount_minor=1, pin="4711", code="0815")
        texts = [repr(wanted), repr(message), repr(sent(message)), repr(terminal())]
        for secret in (PAN, OTHER_PAN, "4711", "0815", PIN_KEY.hex(), repr(PIN_KEY)):
            for text in texts:
                assert str(secret) not in text


class TestFields:
    def test_doctests(self) -> None:
        results = doctest.testmod(pos_fields)
        assert results.attempted > 0
        assert results.failed == 0

    @pytest.mark.parametrize(
        ("text", "currency", "amount_minor"),
        [
            ("12.50", "978", 1250),
            ("12.5", "978", 1250),
            ("12", "978", 1200),
            ("0", "978", 0),
            ("0.01", "978", 1),
            ("9999999999.99", "978", 999_999_999_999),
            ("12", "392", 12),
            ("1.234", "414", 1234),
            ("250", "999", 250),
        ],
    )
    def test_amounts(self, text: str, currency: str, amount_minor: int) -> None:
        assert parse_amount(text, currency) == amount_minor

    @pytest.mark.parametrize(
        ("text", "currency"),
        [
            ("", "978"),
            ("-1", "978"),
            ("12,50", "978"),
            ("12.505", "978"),
            ("1.", "978"),
            (".5", "978"),
            ("1e3", "978"),
            ("\u0661", "978"),
            ("12.50", "999"),
            ("10000000000.00", "978"),
        ],
    )
    def test_what_is_no_amount(self, text: str, currency: str) -> None:
        with pytest.raises(ValueError, match="amount"):
            parse_amount(text, currency)

    def test_amounts_as_people_read_them(self) -> None:
        assert format_amount(1250, "978") == "12.50 EUR"
        assert format_amount(5, "978") == "0.05 EUR"
        assert format_amount(1234567, "392") == "1,234,567 JPY"
        assert format_amount(100, "000") == "1.00 000"

    def test_balances(self) -> None:
        text = "6001978C000000010000" + "6002978D000000000001"
        assert read_balances(text) == [
            Balance("60", "01", "978", 10000),
            Balance("60", "02", "978", -1),
        ]
        assert read_balances(text[:-1]) == []
        assert read_balances("") == []

    def test_track_is_masked(self) -> None:
        assert mask_track("9500001234567890128=29122010000") == "950000…0128=…"
        assert mask_track("9500001234567890128D29122010000") == "950000…0128=…"

    def test_every_response_has_its_meaning(self) -> None:
        assert set(MEANINGS) == set(Response)
