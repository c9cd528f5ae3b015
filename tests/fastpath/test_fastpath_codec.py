"""The codec against published frames, and what exactly it refuses."""

import json
import pickle
import random
from pathlib import Path
from types import MappingProxyType

import pytest
from fastpath_messages import ALL, BOTH, accepted, mutated, outcome

from fastpath.codec import Message, decode, encode, encode_unsealed, seal
from fastpath.errors import FormatError
from fastpath.packager import Encoding, FieldSpec, Kind, Packager
from fastpath.specs import DE, ISO87_ASCII, ISO87_BINARY, packagers

VECTORS = Path(__file__).parents[1] / "vectors"
FRAMES = json.loads((VECTORS / "iso87_frames.json").read_text())["frames"]
JPOS = json.loads((VECTORS / "iso87_jpos.json").read_text())

# ---- frames others have packed -------------------------------------------------------------------


@pytest.mark.parametrize("vector", FRAMES, ids=lambda v: f"{v['what']} {v['packager']}")
def test_published_frames(vector):
    packager = packagers()[vector["packager"]]
    frame = bytes.fromhex(vector["frame"])
    text = {int(de): value for de, value in vector["text"].items()}
    binary = {int(de): bytes.fromhex(value) for de, value in vector["binary"].items()}
    message = decode(packager, frame)
    assert message.mti == vector["mti"]
    assert dict(message.items()) == text | binary
    assert encode(packager, vector["mti"], text | binary) == frame
    mac = binary.pop(64, None) or binary.pop(128)
    assert message.mac == mac
    unsealed = encode_unsealed(packager, vector["mti"], text | binary)
    assert unsealed == frame[: message.mac_covers]
    assert seal(packager, unsealed, mac) == frame


@pytest.mark.parametrize("packager", BOTH, ids=lambda p: p.name)
def test_every_field_as_jpos_packs_it(packager):
    frame = bytes.fromhex(JPOS["frames"][packager.name])
    fields = {
        int(de): bytes.fromhex(value[4:]) if value.startswith("hex:") else value
        for de, value in JPOS["values"].items()
    }
    mti = fields.pop(0)
    assert len(fields) == 126  # 2 .. 128 without 65
    assert encode(packager, mti, fields) == frame
    assert dict(decode(packager, frame).items()) == fields


# ---- what exactly is refused ---------------------------------------------------------------------


def hexed(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


ONLY_2, ONLY_4, ONLY_22, ONLY_28 = (f"{1 << (64 - de):016X}" for de in (2, 4, 22, 28))
ONLY_35, ONLY_39, ONLY_52, ONLY_55 = (f"{1 << (64 - de):016X}" for de in (35, 39, 52, 55))
WITH_66 = "8000000000000000 4000000000000000"


@pytest.mark.parametrize(
    ("frame", "reason", "field", "offset"),
    [
        ("", "frame ends inside the field", 0, 0),
        ("02", "frame ends inside the field", 0, 0),
        ("020A" + ONLY_22 + "0031", "not digits", 0, 0),
        ("1200" + ONLY_22 + "0031", "wrong version of the standard", 0, 0),
        ("0200 00000000000000", "frame ends inside the field", 1, 2),
        ("0200 8000000000000000", "frame ends inside the field", 1, 10),
        ("0200 80000000000000000000000000000000", "secondary bitmap announced but empty", 1, 10),
        ("0200 8000000000000000 8000000000000000 00", "a third bitmap is not supported", 65, 10),
        ("0200" + ONLY_22 + "1031", "idle half-byte does not hold its padding", 22, 10),
        ("0200" + ONLY_22 + "003A", "not digits", 22, 10),
        ("0200" + ONLY_22 + "00", "frame ends inside the field", 22, 10),
        ("0200" + ONLY_22 + "003100", "bytes left after the last field", None, 12),
        ("0200" + ONLY_4 + "00000000125F", "not digits", 4, 10),
        ("0200" + ONLY_2 + "0A 1234567890", "length is not a number", 2, 10),
        ("0200" + ONLY_2 + "20 12345678901234567890", "longer than the field allows", 2, 10),
        ("0200" + ONLY_2 + "03 1231", "idle half-byte does not hold its padding", 2, 10),
        ("0200" + ONLY_2 + "03 12", "frame ends inside the field", 2, 10),
        ("0200" + ONLY_2, "frame ends inside the field", 2, 10),
        ("0200" + ONLY_28 + "43000000", "frame ends inside the field", 28, 10),
        ("0200" + ONLY_28 + "5800000012", "sign is neither C nor D", 28, 10),
        ("0200" + ONLY_28 + "430000123A", "not digits", 28, 10),
        ("0200" + ONLY_35 + "05 123D5F", "idle half-byte does not hold its padding", 35, 10),
        ("0200" + ONLY_35 + "05 12ED50", "not track 2 characters", 35, 10),
        ("0200" + ONLY_39 + "3000", "control character in text", 39, 10),
        ("0200" + ONLY_39 + "307F", "control character in text", 39, 10),
        ("0200" + ONLY_39 + "1F30", "control character in text", 39, 10),
        ("0200" + ONLY_55 + "1000" + "00" * 1000, "longer than the field allows", 55, 10),
        ("0200" + ONLY_55 + "00A0", "length is not a number", 55, 10),
        ("0500" + WITH_66 + "11", "idle half-byte does not hold its padding", 66, 18),
    ],
)
def test_refusals_in_binary(frame, reason, field, offset):
    with pytest.raises(FormatError) as caught:
        decode(ISO87_BINARY, hexed(frame))
    assert (caught.value.reason, caught.value.field, caught.value.offset) == (reason, field, offset)


@pytest.mark.parametrize(
    ("frame", "reason", "field", "offset"),
    [
        ("020x" + ONLY_22 + "031", "not digits", 0, 0),
        ("0200" + ONLY_39.lower().replace("0", "a", 1) + "00", "not upper-case hex", 1, 4),
        ("0200" + "000000000000000", "frame ends inside the field", 1, 4),
        ("0200" + ONLY_22 + " 31", "not digits", 22, 20),
        ("0200" + ONLY_2 + "1x", "length is not a number", 2, 20),
        ("0200" + ONLY_2 + "20" + "1" * 20, "longer than the field allows", 2, 20),
        ("0200" + ONLY_28 + "c00000001", "sign is neither C nor D", 28, 20),
        ("0200" + ONLY_35 + "05123d5", "not track 2 characters", 35, 20),
        ("0200" + ONLY_52 + "00112233445566aa", "not upper-case hex", 52, 20),
        ("0200" + ONLY_55 + "0039F1", "odd number of hex characters", 55, 20),
        ("0200" + ONLY_55 + "0049f1A", "not upper-case hex", 55, 20),
        ("0200" + ONLY_55 + "004 9F1", "not upper-case hex", 55, 20),
        ("0200" + ONLY_55 + "0049F1", "frame ends inside the field", 55, 20),
    ],
)
def test_refusals_in_ascii(frame, reason, field, offset):
    with pytest.raises(FormatError) as caught:
        decode(ISO87_ASCII, frame.encode())
    assert (caught.value.reason, caught.value.field, caught.value.offset) == (reason, field, offset)


def test_a_field_the_packager_lacks_is_refused_both_ways():
    small = Packager("small", {2: ISO87_ASCII.fields[2]}, Encoding.ASCII, Encoding.HEX)
    with pytest.raises(FormatError, match="field 22: field is not in the packager"):
        decode(small, ("0200" + ONLY_22 + "031").encode())
    for value in ("031", b"031"):
        with pytest.raises(FormatError, match="field 22: field is not in the packager"):
            encode(small, "0200", {22: value})
    with pytest.raises(FormatError, match="field 64: the packager has no MAC there"):
        encode_unsealed(small, "0200", {})


def test_a_frame_over_64_kib_is_refused():
    with pytest.raises(FormatError, match="frame is too long"):
        decode(ISO87_ASCII, b"0" * 65536)
    huge = dict.fromkeys((*range(46, 49), *range(56, 64), *range(105, 128)), "x" * 999)
    assert len(encode(ISO87_ASCII, "0200", huge)) == 36 + 34 * 1002
    wide = FieldSpec(Kind.ANS, 65535, Encoding.ASCII, 2, Encoding.BINARY)
    packager = Packager("wide", {2: wide, 3: wide}, Encoding.ASCII, Encoding.BINARY)
    exact = encode(packager, "0200", {2: "x" * (65535 - 12 - 2)})
    assert len(exact) == 65535 and accepted(packager, exact)
    with pytest.raises(FormatError, match="field 2: frame is too long"):
        encode(packager, "0200", {2: "x" * (65535 - 12 - 1)})
    with pytest.raises(FormatError, match="field 3: frame is too long"):
        encode(packager, "0200", {2: "x" * 40_000, 3: "x" * 40_000})


@pytest.mark.parametrize(
    ("mti", "fields", "reason", "field"),
    [
        ("020", {}, "value has the wrong length", 0),
        ("02000", {}, "value has the wrong length", 0),
        ("02\N{ARABIC-INDIC DIGIT ONE}0", {}, "value has the wrong length", 0),
        ("02a0", {}, "not digits", 0),
        ("02\xb20", {}, "not digits", 0),
        ("1200", {}, "wrong version of the standard", 0),
        ("0200", {1: "x"}, "no such field", None),
        ("0200", {0: "x"}, "no such field", None),
        ("0200", {129: "x"}, "no such field", None),
        ("0200", {-2: "x"}, "no such field", None),
        ("0200", {10**30: "x"}, "no such field", None),
        ("0200", {65: b"\x00"}, "a third bitmap is not supported", 65),
        ("0200", {4: "1234567890123"}, "value has the wrong length", 4),
        ("0200", {4: "12.50"}, "not digits", 4),
        ("0200", {4: ""}, "number without digits", 4),
        ("0200", {4: "\N{ARABIC-INDIC DIGIT ONE}"}, "text is not Latin-1", 4),
        ("0200", {2: "1" * 20}, "value has the wrong length", 2),
        ("0200", {2: "12=3"}, "not digits", 2),
        ("0200", {28: "C"}, "number without digits", 28),
        ("0200", {28: "12"}, "sign is neither C nor D", 28),
        ("0200", {28: "C123456789"}, "value has the wrong length", 28),
        ("0200", {28: "C12C"}, "not digits", 28),
        ("0200", {35: "12=d"}, "not track 2 characters", 35),
        ("0200", {35: "1" * 38}, "value has the wrong length", 35),
        ("0200", {39: "000"}, "value has the wrong length", 39),
        ("0200", {39: "0\n"}, "control character in text", 39),
        ("0200", {39: b"0\x00"}, "control character in text", 39),
        ("0200", {48: "x" * 1000}, "value has the wrong length", 48),
        ("0200", {52: b"1234567"}, "value has the wrong length", 52),
        ("0200", {52: b"123456789"}, "value has the wrong length", 52),
        ("0200", {55: bytes(1000)}, "value has the wrong length", 55),
    ],
)
@pytest.mark.parametrize("packager", BOTH, ids=lambda p: p.name)
def test_values_that_do_not_fit(packager, mti, fields, reason, field):
    with pytest.raises(FormatError) as caught:
        encode(packager, mti, fields)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_hex_text_is_bounded_in_characters():
    assert decode(ISO87_ASCII, encode(ISO87_ASCII, "0200", {55: bytes(499)})).get_bytes(55) == (
        bytes(499)
    )
    with pytest.raises(FormatError, match="field 55: value has the wrong length"):
        encode(ISO87_ASCII, "0200", {55: bytes(500)})


def test_wrong_types_are_the_caller_s_fault():
    for call in (
        lambda: encode(ISO87_ASCII, "0200", {52: "0011223344556677"}),
        lambda: encode(ISO87_ASCII, "0200", {4: 1250}),
        lambda: encode(ISO87_ASCII, "0200", {4: None}),
        lambda: encode(ISO87_ASCII, "0200", {"4": "1250"}),
        lambda: encode(ISO87_ASCII, "0200", [(4, "1250")]),
        lambda: encode(ISO87_ASCII, b"0200", {}),
        lambda: encode("iso87-ascii", "0200", {}),
        lambda: decode(None, b"0200"),
        lambda: decode(ISO87_ASCII, bytearray(b"0200")),
        lambda: decode(ISO87_ASCII, None),
        Message,
    ):
        with pytest.raises(TypeError):
            call()


# ---- what a message says -------------------------------------------------------------------------

SALE = {
    DE.PAN: "9500001234567890128",
    DE.AMOUNT: "1250",
    DE.ENTRY_MODE: "21",
    DE.FEE: "C5",
    DE.TRACK2: "9500001234567890128=2912",
    DE.TERMINAL: "T1",
    DE.MERCHANT: b"M\xe9",
    DE.PIN_BLOCK: bytes(range(8)),
    DE.ICC: b"\x9f\x02",
}


@pytest.mark.parametrize("packager", BOTH, ids=lambda p: p.name)
def test_a_message_answers(packager):
    frame = encode(packager, "0200", SALE)
    message = decode(packager, frame)
    assert message.raw is frame and message.packager is packager and message.mti == "0200"
    assert message.fields == (2, 4, 22, 28, 35, 41, 42, 52, 55)
    assert message.get(DE.AMOUNT) == "000000001250" and message.amount(DE.AMOUNT) == 1250
    assert message.get(DE.ENTRY_MODE) == "021" and message.amount(DE.ENTRY_MODE) == 21
    assert message.get(DE.FEE) == "C00000005"
    assert message.get(DE.TRACK2) == "9500001234567890128=2912"
    assert message.get(DE.TERMINAL) == "T1      "
    assert message.get(DE.MERCHANT) == "M\xe9" + " " * 13
    assert message.get_bytes(DE.MERCHANT) == b"M\xe9" + b" " * 13
    assert message.get_bytes(DE.AMOUNT) == b"000000001250"
    assert message.get_bytes(DE.PIN_BLOCK) == bytes(range(8))
    assert message.get_bytes(DE.ICC) == b"\x9f\x02"
    assert DE.PAN in message and 3 not in message
    for number in (3, 1, 0, -1, 64, 65, 129, 10**6):
        assert number not in message
        assert message.get(number) is None and message.get_bytes(number) is None
        assert message.amount(number) is None
        with pytest.raises(KeyError):
            message.span(number)
    for wrong in (lambda: message.get(DE.ICC), lambda: message.amount(DE.FEE)):
        with pytest.raises(TypeError):
            wrong()
    assert message.mac is None and message.mac_covers == 0


def test_spans_on_the_wire():
    binary = decode(ISO87_BINARY, encode(ISO87_BINARY, "0200", SALE))
    ascii_ = decode(ISO87_ASCII, encode(ISO87_ASCII, "0200", SALE))
    assert binary.span(DE.PAN) == (10, 11) and ascii_.span(DE.PAN) == (20, 21)
    assert binary.span(DE.FEE) == (10 + 11 + 6 + 2, 5)
    assert ascii_.span(DE.ICC) == (len(ascii_.raw) - 7, 7)
    assert binary.span(DE.ICC) == (len(binary.raw) - 4, 4)
    assert binary.raw[-4:] == bytes.fromhex("00029F02") and ascii_.raw[-7:] == b"0049F02"


def test_the_separator_of_track_2():
    """'=' for everybody who asks; `items` of an ASCII frame keeps the one it came with."""
    for sent in ("12=34", "12D34"):
        assert encode(ISO87_BINARY, "0200", {35: sent}) == hexed("0200" + ONLY_35 + "0512D340")
        frame = encode(ISO87_ASCII, "0200", {35: sent})
        assert frame.endswith(b"05" + sent.encode())
        message = decode(ISO87_ASCII, frame)
        assert message.get(35) == "12=34" and message.get_bytes(35) == b"12=34"
        assert message.items() == [(35, sent)]
    assert decode(ISO87_BINARY, hexed("0200" + ONLY_35 + "0512D340")).items() == [(35, "12=34")]


def test_an_empty_variable_field_is_there_and_empty():
    for packager in BOTH:
        message = decode(packager, encode(packager, "0200", {2: "", 48: "", 55: b""}))
        assert message.fields == (2, 48, 55)
        assert message.get(2) == "" and message.get_bytes(55) == b"" and message.amount(2) is None


def test_any_mapping_will_do_and_order_does_not_matter():
    fields = {39: "00", 4: "1250"}
    frame = encode(ISO87_BINARY, "0210", fields)
    assert encode(ISO87_BINARY, "0210", MappingProxyType(fields)) == frame
    assert encode(ISO87_BINARY, "0210", dict(reversed(fields.items()))) == frame


def test_amounts_of_any_length():
    message = decode(ISO87_BINARY, encode(ISO87_BINARY, "0400", {90: "9" * 42, 2: "9" * 19}))
    assert message.amount(90) == 10**42 - 1 and message.amount(2) == 10**19 - 1


# ---- the MAC field -------------------------------------------------------------------------------


@pytest.mark.parametrize("packager", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize(("fields", "mac_field"), [({}, 64), ({70: "301"}, 128), ({2: "1"}, 64)])
def test_seal_completes_what_was_left_open(packager, fields, mac_field):
    mac = bytes.fromhex("00A1B2C3D4E5F6FF")
    mti = f"{packager.version}800"
    unsealed = encode_unsealed(packager, mti, fields)
    frame = seal(packager, unsealed, mac)
    assert frame == encode(packager, mti, {**fields, mac_field: mac})
    message = decode(packager, frame)
    assert message.mac == mac and message.mac_covers == len(unsealed)
    assert frame[: message.mac_covers] == unsealed
    assert message.fields[-1] == mac_field


def test_a_mac_that_is_not_last_is_none():
    frame = encode(ISO87_BINARY, "0800", {64: bytes(8), 70: "301"})
    message = decode(ISO87_BINARY, frame)
    assert 64 in message and message.mac is None and message.mac_covers == 0
    both = decode(ISO87_BINARY, encode(ISO87_BINARY, "0800", {64: bytes(8), 128: b"12345678"}))
    assert both.mac == b"12345678" and both.mac_covers == len(both.raw) - 8


@pytest.mark.parametrize("packager", BOTH, ids=lambda p: p.name)
def test_seal_refuses_what_it_cannot_finish(packager):
    unsealed = encode_unsealed(packager, "0800", {70: "301"})
    for wrong in (bytes(7), bytes(9), b""):
        with pytest.raises(FormatError, match="field 128: value has the wrong length"):
            seal(packager, unsealed, wrong)
    for wrong in (encode(packager, "0800", {70: "301"}), encode(packager, "0800", {}), b"", b"08"):
        with pytest.raises(FormatError, match="not an unsealed message"):
            seal(packager, wrong, bytes(8))
    for number in (64, 128):
        with pytest.raises(FormatError, match="set when the message is sealed") as caught:
            encode_unsealed(packager, "0800", {number: bytes(8)})
        assert caught.value.field == number


# ---- secrets -------------------------------------------------------------------------------------


def test_neither_repr_nor_errors_show_a_value():
    frame = encode(ISO87_BINARY, "0200", SALE)
    assert repr(decode(ISO87_BINARY, frame)) == (
        "<Message 0200 fields=(2, 4, 22, 28, 35, 41, 42, 52, 55)>"
    )
    rng = random.Random(8583)
    told = set()
    for packager in BOTH:
        frame = encode(packager, "0200", SALE)
        for _ in range(3000):
            error = outcome(packager, mutated(frame, rng))
            if isinstance(error, FormatError):
                told.add(error.reason)
                assert error.args == (str(error),)
                assert "95000" not in str(error) and "34567" not in str(error)
                assert error.__cause__ is None and error.__context__ is None
    assert len(told) > 8


def test_a_format_error_survives_pickling():
    error = FormatError("not digits", field=4, offset=22)
    again = pickle.loads(pickle.dumps(error))
    assert (again.reason, again.field, again.offset) == ("not digits", 4, 22)
    assert str(again) == str(error) == "field 4: not digits (offset 22)"
    assert str(FormatError("frame is too long")) == "frame is too long (offset 0)"
    assert isinstance(error, ValueError)
