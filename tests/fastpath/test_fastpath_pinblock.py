"""PIN blocks and PVVs against published samples, psec, and everything that must not open."""

import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psec import pin as psec_pin
from psec import pinblock as psec_pinblock

from fastpath import mac
from fastpath.mac import aes_encrypt_block, tdes_encrypt_ecb
from fastpath.pinblock import (
    PinBlockError,
    decode_format0,
    decode_format4,
    encode_format0,
    encode_format4,
    visa_pvv,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "crypto.json").read_text())
KEY16 = bytes.fromhex("FEDCBA98765432100123456789ABCDEF")
PAN = "9500001234567890128"

digits = st.characters(min_codepoint=0x30, max_codepoint=0x39)
pins = st.text(digits, min_size=4, max_size=12)
pans = st.text(digits, min_size=12, max_size=19)
long_pans = st.text(digits, min_size=13, max_size=19)
keys16 = st.binary(min_size=16, max_size=16)
tdes_keys = st.one_of(keys16, st.binary(min_size=24, max_size=24))
aes_keys = st.one_of(*(st.binary(min_size=n, max_size=n) for n in (16, 24, 32)))


class MaskedPan(str):
    """As `rules.identity.Pan`: a str whose formatting is masked on purpose."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "…"


@pytest.fixture(params=["fastest", "portable"], scope="module", autouse=True)
def core(request: pytest.FixtureRequest) -> Iterator[str]:
    portable = "portable" if request.param == "portable" else None
    mac._use_paths(aes=portable, des=portable)
    yield request.param
    mac._use_paths()


def vectors(group: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = VECTORS[group]["vectors"]
    assert found
    return found


def tdes_enciphered(clear_hex: str, key: bytes = KEY16, pan: str = PAN) -> bytes:
    """A format 0 block whose PIN field is the given 16 hex digits."""
    field = int(clear_hex, 16) ^ int(pan[-13:-1], 16)
    return tdes_encrypt_ecb(key, field.to_bytes(8))


def aes_enciphered(clear_hex: str, key: bytes = KEY16, pan: str = PAN) -> bytes:
    """A format 4 block whose PIN field is the given 32 hex digits."""
    pan_field = int((f"{len(pan) - 12}" + pan).ljust(32, "0"), 16)
    inner = aes_encrypt_block(key, bytes.fromhex(clear_hex))
    return aes_encrypt_block(key, (int.from_bytes(inner) ^ pan_field).to_bytes(16))


class TestFormat0:
    @pytest.mark.parametrize("vector", vectors("format0"), ids=lambda v: v["block"])
    def test_published(self, vector: dict[str, str]) -> None:
        key, block = bytes.fromhex(vector["key"]), bytes.fromhex(vector["block"])
        assert encode_format0(vector["pin"], vector["pan"], key) == block
        assert decode_format0(block, vector["pan"], key) == vector["pin"]

    @settings(deadline=None)
    @given(pins, pans, tdes_keys)
    def test_what_goes_in_comes_out(self, pin: str, pan: str, key: bytes) -> None:
        assert decode_format0(encode_format0(pin, pan, key), pan, key) == pin

    @settings(deadline=None)
    @given(pins, long_pans, keys16)
    def test_as_psec(self, pin: str, pan: str, key: bytes) -> None:
        clear = psec_pinblock.encode_pinblock_iso_0(pin, pan)
        assert encode_format0(pin, pan, key) == tdes_encrypt_ecb(key, clear)

    @pytest.mark.parametrize(
        "field",
        [
            "141234FFFFFFFFFF",  # another format
            "031234FFFFFFFFFF",  # too short a PIN
            "001234FFFFFFFFFF",
            "0D123456789012FF",  # too long a PIN
            "0F12345678901234",
            "04123AFFFFFFFFFF",  # not a digit
            "04FFFFFFFFFFFFFF",
            "041234FFFFFFFFF0",  # filler
            "0412340FFFFFFFFF",
            "041234FFFF0FFFFF",
            "0512341AFFFFFFFF",
            "0C1234567890120F",
        ],
    )
    def test_malformed_fields(self, field: str) -> None:
        with pytest.raises(PinBlockError) as caught:
            decode_format0(tdes_enciphered(field), PAN, KEY16)
        assert str(caught.value) == "the PIN block cannot be opened"

    def test_the_helper_of_these_tests_is_right(self) -> None:
        assert decode_format0(tdes_enciphered("041234FFFFFFFFFF"), PAN, KEY16) == "1234"
        assert tdes_enciphered("041234FFFFFFFFFF") == encode_format0("1234", PAN, KEY16)

    def test_another_key_or_pan_does_not_open_it(self) -> None:
        chance = random.Random(1)
        block = encode_format0("1234", PAN, KEY16)
        opened = 0
        for _ in range(300):
            try:
                decode_format0(block, PAN, chance.randbytes(16))
            except PinBlockError:
                continue
            opened += 1
        assert opened <= 1  # a random field looks like a PIN once in about 10**8
        with pytest.raises(PinBlockError):
            decode_format0(block, "9" * 19, KEY16)

    @pytest.mark.parametrize("length", [0, 7, 9, 16])
    def test_blocks_have_8_bytes(self, length: int) -> None:
        with pytest.raises(PinBlockError, match="8 bytes"):
            decode_format0(bytes(length), PAN, KEY16)

    @pytest.mark.parametrize("length", [0, 8, 15, 32])
    def test_keys_are_double_or_triple_length(self, length: int) -> None:
        with pytest.raises(ValueError, match="Triple DES"):
            encode_format0("1234", PAN, bytes(length))
        with pytest.raises(ValueError, match="Triple DES"):
            decode_format0(bytes(8), PAN, bytes(length))


class TestFormat4:
    @pytest.mark.parametrize("vector", vectors("format4"), ids=lambda v: v["block"])
    def test_published(self, vector: dict[str, str]) -> None:
        key, fill, block = (bytes.fromhex(vector[n]) for n in ("key", "fill", "block"))
        assert encode_format4(vector["pin"], vector["pan"], key, fill=fill) == block
        assert decode_format4(block, vector["pan"], key) == vector["pin"]

    @settings(deadline=None)
    @given(pins, pans, aes_keys)
    def test_what_goes_in_comes_out(self, pin: str, pan: str, key: bytes) -> None:
        assert decode_format4(encode_format4(pin, pan, key), pan, key) == pin

    @settings(deadline=None)
    @given(pins, pans, aes_keys)
    def test_as_psec(self, pin: str, pan: str, key: bytes) -> None:
        ours = encode_format4(pin, pan, key)
        assert psec_pinblock.decipher_pinblock_iso_4(key, ours, pan) == pin
        theirs = psec_pinblock.encipher_pinblock_iso_4(key, pin, pan)
        assert decode_format4(theirs, pan, key) == pin

    def test_the_fill_is_fresh(self) -> None:
        blocks = {encode_format4("1234", PAN, KEY16) for _ in range(50)}
        assert len(blocks) == 50
        fixed = {encode_format4("1234", PAN, KEY16, fill=bytes(8)) for _ in range(5)}
        assert len(fixed) == 1

    @pytest.mark.parametrize(
        "field",
        [
            "041234AAAAAAAAAA",  # another format
            "431234AAAAAAAAAA",
            "401234AAAAAAAAAA",
            "4D123456789012AA",
            "44123BAAAAAAAAAA",
            "44AAAAAAAAAAAAAA",
            "441234AAAAAAAAAF",
            "441234FFFFFFFFFF",
            "4412340AAAAAAAAA",
            "4C1234567890120A",
        ],
    )
    def test_malformed_fields(self, field: str) -> None:
        with pytest.raises(PinBlockError) as caught:
            decode_format4(aes_enciphered(field + "0123456789ABCDEF"), PAN, KEY16)
        assert str(caught.value) == "the PIN block cannot be opened"

    def test_the_helper_of_these_tests_is_right(self) -> None:
        block = aes_enciphered("441234AAAAAAAAAA0123456789ABCDEF")
        fill = bytes.fromhex("0123456789ABCDEF")
        assert block == encode_format4("1234", PAN, KEY16, fill=fill)

    def test_every_bit_of_block_and_pan_is_bound(self) -> None:
        block = int.from_bytes(encode_format4("1234", PAN, KEY16, fill=bytes(8)))
        opened = []
        for bit in range(128):
            try:
                opened.append(decode_format4((block ^ 1 << bit).to_bytes(16), PAN, KEY16))
            except PinBlockError:
                continue
        assert opened == []
        for other in ("9500001234567890129", "950000123456789012", "0" * 12):
            with pytest.raises(PinBlockError):
                decode_format4(block.to_bytes(16), other, KEY16)

    @pytest.mark.parametrize("length", [0, 8, 15, 17])
    def test_lengths(self, length: int) -> None:
        with pytest.raises(PinBlockError, match="16 bytes"):
            decode_format4(bytes(length), PAN, KEY16)
        with pytest.raises(ValueError, match="AES key"):
            encode_format4("1234", PAN, bytes(length))
        if length != 8:
            with pytest.raises(PinBlockError, match="8 bytes"):
                encode_format4("1234", PAN, KEY16, fill=bytes(length))


class TestVisaPvv:
    @pytest.mark.parametrize("vector", vectors("visa_pvv"), ids=lambda v: v["value"])
    def test_published(self, vector: dict[str, Any]) -> None:
        key = bytes.fromhex(vector["key"])
        assert visa_pvv(vector["pin"], vector["pan"], vector["pvki"], key) == vector["value"]

    @settings(deadline=None, max_examples=300)
    @given(st.text(digits, min_size=4, max_size=4), long_pans, st.integers(0, 9), keys16)
    def test_as_psec(self, pin: str, pan: str, pvki: int, key: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # psec gives OpenSSL keys of 16 bytes
            expected = psec_pin.generate_visa_pvv(key, str(pvki), pin, pan)
        assert visa_pvv(pin, pan, pvki, key) == expected

    def test_letters_are_taken_when_digits_run_out(self) -> None:
        """Found by search: ciphertexts with fewer than four decimal digits are about 1 in 900."""
        chance = random.Random(3)
        short = 0
        for _ in range(6000):
            key = chance.randbytes(16)
            cipher = tdes_encrypt_ecb(key, bytes.fromhex("00000000000" + "1" + "1234")).hex()
            decimal = [c for c in cipher if c.isdigit()]
            if len(decimal) < 4:
                letters = [str(int(c, 16) - 10) for c in cipher if not c.isdigit()]
                assert visa_pvv("1234", "0" * 13, 1, key) == "".join(decimal + letters)[:4]
                short += 1
        assert short > 0

    def test_only_the_first_four_digits_count(self) -> None:
        assert visa_pvv("123499", PAN, 1, KEY16) == visa_pvv("1234", PAN, 1, KEY16)

    def test_arguments(self) -> None:
        for pvki in (-1, 10):
            with pytest.raises(PinBlockError, match="key index"):
                visa_pvv("1234", PAN, pvki, KEY16)
        for length in (8, 24):
            with pytest.raises(ValueError, match="16 bytes"):
                visa_pvv("1234", PAN, 1, bytes(length))


EVERY_ENCODER: list[Callable[[str, str], object]] = [
    lambda pin, pan: encode_format0(pin, pan, KEY16),
    lambda pin, pan: encode_format4(pin, pan, KEY16),
    lambda pin, pan: visa_pvv(pin, pan, 1, KEY16),
]
EVERY_DECODER: list[Callable[[str], object]] = [
    lambda pan: decode_format0(bytes(8), pan, KEY16),
    lambda pan: decode_format4(bytes(16), pan, KEY16),
]


class TestArguments:
    @pytest.mark.parametrize(
        "pin",
        [
            "",
            "123",
            "1234567890123",
            "12a4",
            "12 4",
            "-123",
            "\uff11\uff12\uff13\uff14",
            "\u0661\u0662\u0663\u0664",
            "123\n",
        ],
    )
    def test_pins(self, pin: str) -> None:
        for encode in EVERY_ENCODER:
            with pytest.raises(PinBlockError) as caught:
                encode(pin, PAN)
            assert str(caught.value) == "a PIN has 4 to 12 digits"

    @pytest.mark.parametrize(
        "pan",
        ["", "12345678901", "1" * 20, "95000012345678901D8", "\uff11" * 16, "950000123456789\n"],
    )
    def test_pans(self, pan: str) -> None:
        for encode in EVERY_ENCODER:
            with pytest.raises(PinBlockError) as caught:
                encode("1234", pan)
            assert str(caught.value) == "a PAN has 12 to 19 digits"
        for decode in EVERY_DECODER:
            with pytest.raises(PinBlockError) as caught:
                decode(pan)
            assert str(caught.value) == "a PAN has 12 to 19 digits"

    def test_errors_are_value_errors_without_data(self) -> None:
        assert issubclass(PinBlockError, ValueError)
        with pytest.raises(PinBlockError) as caught:
            decode_format0(encode_format0("987654", PAN, KEY16), "1" * 16, KEY16)
        shown = repr(caught.value) + str(caught.value.__cause__) + str(caught.value.__context__)
        assert not any(secret in shown for secret in ("987654", PAN, "1" * 16, KEY16.hex()))

    def test_a_masked_pan_is_taken_as_its_digits(self) -> None:
        masked = MaskedPan(PAN)
        assert f"{masked}" == "…"
        assert encode_format0("1234", masked, KEY16) == encode_format0("1234", PAN, KEY16)
        assert decode_format4(encode_format4("1234", masked, KEY16), PAN, KEY16) == "1234"
        assert visa_pvv("1234", masked, 1, KEY16) == visa_pvv("1234", PAN, 1, KEY16)
