"""The client itself, against the four frames of the dialect page, psec and NIST. No switch."""

from __future__ import annotations

from typing import Any

import psec
import pytest

from tests.client import dialect
from tests.client.dialect import DialectError, MacKind, Packager
from tests.client.messages import Card, Identity, Reason, RequestBuilder, Seal

# Dialect page, section 7. Keys, PIN and card as stated there.
RETAIL_KEY = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")
CMAC_KEY = bytes.fromhex("000102030405060708090A0B0C0D0E0F")
PIN_KEY = bytes.fromhex("FEDCBA98765432100123456789ABCDEF")
PAN = "9500001234567890128"
REDEEM_BINARY = bytes.fromhex(
    "0200723c040000c190011995000012345678901280006000000000001250112209301500004210301511222912003130"
    "303030303030313030303030303030303030303030310006504130303131393738f4d2d7569b197672bd57a8e441be35"
    "62"
)
REVERSAL_BINARY = bytes.fromhex(
    "0400f238040000c08000000000400000000119950000123456789012800060000000000012501122093045000043"
    "1030151122003130303030303030"
    "313030303030303030303030303030313937380200000042112209301500000000000000000000001a2b39d5f0007e4e"
)
REDEEM_ASCII = (
    b"0200723C040000C1900119950000123456789012800600000000000125011220930150000421030151122291203100"
    b"000001000000000000001006PA0011978F4D2D7569B1976723AA57F1D1C6EF827"
)
REVERSAL_ASCII = (
    b"0400F238040000C0800000000040000000011995000012345678901280060000000000012501122093045000043103"
    b"0151122031000000010000000000000019780200000042112209301500000000000000000000002E78C508890E9050"
)
# PA stands as "PA" + length 001 + "1" in the private data.
REDEEM_FIELDS = {
    2: PAN,
    3: "006000",
    4: "000000001250",
    7: "1122093015",
    11: "000042",
    12: "103015",
    13: "1122",
    14: "2912",
    22: "031",
    41: "00000001",
    42: "000000000000001",
    48: "PA0011",
    49: "978",
    52: "F4D2D7569B197672",
}
REVERSAL_FIELDS = {
    **{number: REDEEM_FIELDS[number] for number in (2, 3, 4, 12, 13, 22, 41, 42, 49)},
    7: "1122093045",
    11: "000043",
    90: "0200" + "000042" + "1122093015" + "0" * 22,
}
FRAMES = [
    (Packager.BINARY, MacKind.RETAIL, RETAIL_KEY, "0200", REDEEM_FIELDS, REDEEM_BINARY),
    (Packager.BINARY, MacKind.RETAIL, RETAIL_KEY, "0400", REVERSAL_FIELDS, REVERSAL_BINARY),
    (Packager.ASCII, MacKind.AES_CMAC, CMAC_KEY, "0200", REDEEM_FIELDS, REDEEM_ASCII),
    (Packager.ASCII, MacKind.AES_CMAC, CMAC_KEY, "0400", REVERSAL_FIELDS, REVERSAL_ASCII),
]
NAMES = ["binary-redeem", "binary-reversal", "ascii-redeem", "ascii-reversal"]


@pytest.mark.parametrize(("packager", "kind", "key", "mti", "fields", "frame"), FRAMES, ids=NAMES)
def test_the_client_makes_the_frames_of_the_dialect_page_byte_for_byte(
    packager: Packager, kind: MacKind, key: bytes, mti: str, fields: dict[int, str], frame: bytes
) -> None:
    head = dialect.unsealed(packager, mti, fields)
    assert dialect.seal(packager, head, dialect.mac(kind, key, head)) == frame


@pytest.mark.parametrize(("packager", "kind", "key", "mti", "fields", "frame"), FRAMES, ids=NAMES)
def test_the_client_reads_the_frames_of_the_dialect_page(
    packager: Packager, kind: MacKind, key: bytes, mti: str, fields: dict[int, str], frame: bytes
) -> None:
    read_mti, read = dialect.unpack(packager, frame)
    last = max(read)
    code = bytes.fromhex(read.pop(last))
    covered = frame[: -8 if packager is Packager.BINARY else -16]
    assert (read_mti, read) == (mti, fields)
    assert last == dialect.mac_field(fields)
    assert code == dialect.mac(kind, key, covered)


def test_the_verbs_redeem_and_reverse_send_exactly_those_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    builder = RequestBuilder(
        Identity(
            "00000001", "000000000000001", Packager.BINARY, MacKind.RETAIL, RETAIL_KEY, PIN_KEY
        )
    )
    stans = iter(("000042", "000043"))
    times = iter(("1122093015", "1122093045"))
    monkeypatch.setattr(builder, "next_stan", lambda: next(stans))
    monkeypatch.setattr(builder, "_transmission_time", lambda: next(times))
    card = Card(PAN, "2912", "1234", "1234", "", "active", 10000)
    sale = builder.redeem(card, 1250, pin="1234", PA="1", de12="103015", de13="1122")
    assert sale.frame == REDEEM_BINARY
    assert builder.reverse(sale).frame == REVERSAL_BINARY


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 89, 200])
@pytest.mark.filterwarnings("ignore:.*TripleDES.*")
def test_the_retail_mac_is_the_one_of_psec(length: int) -> None:
    data = bytes(range(length % 256))[:length]
    expected = psec.mac.generate_retail_mac(RETAIL_KEY[:8], RETAIL_KEY[8:], data, 1)
    assert dialect.mac(MacKind.RETAIL, RETAIL_KEY, data) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        # NIST SP 800-38B, appendix D.1 (AES-128), examples 1 to 3, leftmost 8 bytes.
        ("", "bb1d6929e9593728"),
        ("6bc1bee22e409f96e93d7e117393172a", "070a16b46b4d4144"),
        (
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411",
            "dfa66747de9ae630",
        ),
    ],
)
def test_the_aes_cmac_is_the_one_of_nist(message: str, expected: str) -> None:
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    assert dialect.mac(MacKind.AES_CMAC, key, bytes.fromhex(message)).hex() == expected


@pytest.mark.filterwarnings("ignore:.*TripleDES.*")
@pytest.mark.parametrize("pin", ["1234", "00000", "123456789012"])
def test_the_pin_block_opens_with_psec(pin: str) -> None:
    block = bytes.fromhex(dialect.pin_block(pin, PAN, PIN_KEY))
    clear = psec.des.decrypt_tdes_ecb(PIN_KEY, block)
    assert psec.pinblock.decode_pinblock_iso_0(clear, PAN) == pin


@pytest.mark.parametrize("packager", list(Packager))
def test_every_form_of_field_survives_a_round_trip(packager: Packager) -> None:
    fields = {
        2: "950000123456789012",
        22: "031",
        28: "D00000012",
        32: "12345678901",
        35: "9500001234567890128=29121010000012345",
        45: "B9500001234567890128^DEMO/CARD^2912101",
        49: "978",
        53: "0101000000000000",
        55: "9F2608AABBCCDDEEFF0011",
        66: "1",
        74: "0000000012",
        90: "0200" + "1" * 38,
        95: f"{3000:012d}{0:012d}C00000000C00000000",
        97: "C0000000000012345",
        103: "9500001234567890136",
        128: "0011223344556677",
    }
    assert dialect.unpack(packager, dialect.pack(packager, "0200", fields)) == ("0200", fields)


def test_odd_numbers_are_padded_as_the_page_says() -> None:
    packed = dialect.pack(
        Packager.BINARY, "0200", {2: "123", 22: "031", 35: "12=", 97: "D" + "9" * 16}
    )
    assert packed.hex() == "0200" + "c000040020000000" + "0000000080000000" + (
        "03" + "1230" + "0031" + "03" + "12d0" + "44" + "99" * 8
    )


@pytest.mark.parametrize(
    "spoilt",
    [
        REDEEM_BINARY + b"\x00",
        REDEEM_BINARY[:-1],
        # the trailing half-byte of DE 2 and the leading one of DE 22
        REDEEM_BINARY.replace(bytes.fromhex("901280"), bytes.fromhex("901281")),
        REDEEM_BINARY.replace(bytes.fromhex("29120031"), bytes.fromhex("29121031")),
    ],
)
def test_a_reply_in_any_other_form_is_refused(spoilt: bytes) -> None:
    with pytest.raises(DialectError):
        dialect.unpack(Packager.BINARY, spoilt)


def test_private_data_is_built_and_read() -> None:
    text = dialect.build_private([("PA", "1"), ("TX", "0123456789AB")])
    assert text == "PA0011TX0120123456789AB"
    assert dialect.parse_private(text) == {"PA": "1", "TX": "0123456789AB"}
    assert dialect.parse_private("") == {}


@pytest.mark.parametrize(
    "text", ["PA0011PA0011", "PA01", "PA0021", "pA0011", "PAx011", "PA001\x1f"]
)
def test_private_data_with_a_fault_is_refused(text: str) -> None:
    with pytest.raises(DialectError):
        dialect.parse_private(text)


def test_additional_amounts_are_read_by_purse() -> None:
    text = "6001978C0000000100006002978C000000008750" + "9001999C0000000000109002999D000000000010"
    purses = dialect.additional_amounts(text)
    assert (purses["60"].ledger_minor, purses["60"].available_minor) == (10000, 8750)
    assert (purses["90"].currency, purses["90"].available_minor) == ("999", -10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "6001978C00000001000",
        "6001978C000000010000",
        "6001978C0000000100006001978C000000010000",
        "6001978X0000000100006002978C000000010000",
        "6001978C0000000100006040978C000000010000",
    ],
)
def test_additional_amounts_in_another_layout_are_refused(text: str) -> None:
    with pytest.raises(DialectError):
        dialect.additional_amounts(text)


@pytest.mark.parametrize(
    ("request_mti", "reply"),
    [
        *(("0200", "0210"), ("0201", "0210"), ("0220", "0230"), ("0221", "0230")),
        *(("0400", "0410"), ("0401", "0410"), ("0420", "0430"), ("0421", "0430")),
        *(("0100", "0110"), ("0500", "0510"), ("0521", "0530"), ("0800", "0810")),
    ],
)
def test_reply_mtis_follow_the_page(request_mti: str, reply: str) -> None:
    assert dialect.reply_mti(request_mti) == reply


def _builder(packager: Packager, **more: Any) -> RequestBuilder:
    identity = Identity(
        "00000007", "000000000000001", packager, MacKind.AES_CMAC, CMAC_KEY, PIN_KEY, **more
    )
    return RequestBuilder(identity)


@pytest.mark.parametrize("packager", list(Packager))
def test_only_the_right_seal_has_a_right_mac(packager: Packager) -> None:
    builder = _builder(packager)
    card = Card(PAN, "2912", "1234", "1234", "", "active", 10000)
    digits = 8 if packager is Packager.BINARY else 16
    for seal in Seal:
        request = builder.redeem(card, 100, seal=seal)
        _, fields = dialect.unpack(packager, request.frame)
        right = dialect.mac(MacKind.AES_CMAC, CMAC_KEY, request.frame[:-digits]).hex().upper()
        assert (fields.get(64) == right) is (seal is Seal.RIGHT), seal
        assert (64 in fields) is (seal is not Seal.ABSENT)


def test_a_repeat_keeps_everything_but_the_transmission_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    builder = _builder(Packager.ASCII)
    card = Card(PAN, "2912", "1234", "1234", "", "active", 10000)
    first = builder.redeem(card, 100, CV="1234", CS="7")
    monkeypatch.setattr(builder, "_transmission_time", lambda: "0101000000")
    again = builder.repeat(first)
    assert again.mti == "0201"
    assert {**again.fields, 7: first.fields[7]} == first.fields
    assert builder.repeat(first, flagged=False).mti == "0200"
    assert builder.repeat(builder.reverse(first, mti="0420")).mti == "0421"


def test_a_partial_reversal_names_its_original_and_the_new_final_amount() -> None:
    builder = _builder(Packager.ASCII)
    card = Card(PAN, "2912", "1234", "1234", "", "active", 10000)
    sale = builder.redeem(card, 5000)
    undo = builder.reverse(sale, Reason.CUSTOMER, final_minor=3000)
    assert undo.fields[90] == "0200" + sale.fields[11] + sale.fields[7] + "0" * 22
    assert undo.fields[95] == "000000003000" + "000000000000" + "C00000000" + "C00000000"
    assert undo.fields[48] == "RE0044000"
    assert undo.fields[11] != sale.fields[11]
    assert (undo.fields[12], undo.fields[13]) == (sale.fields[12], sale.fields[13])


def test_local_time_is_the_terminals() -> None:
    west, east = (
        _builder(Packager.ASCII, utc_offset_min=-300),
        _builder(Packager.ASCII, utc_offset_min=330),
    )
    ahead = east.local_time() - west.local_time()
    assert 629 <= ahead.total_seconds() / 60 <= 631
