"""PIN blocks of ISO 9564-1 (formats 0 and 4) and the Visa PIN verification value.

Errors never say what was in a block, a PIN or a PAN, and all blocks that cannot be opened look the
same: a terminal must not learn from the switch why its guess was wrong.
"""

from __future__ import annotations

import secrets

from fastpath.mac import (
    aes_decrypt_block,
    aes_encrypt_block,
    tdes_decrypt_ecb,
    tdes_encrypt_ecb,
)

__all__ = [
    "PinBlockError",
    "decode_format0",
    "decode_format4",
    "encode_format0",
    "encode_format4",
    "visa_pvv",
]

_PIN_DIGITS = range(4, 13)
_PAN_DIGITS = range(12, 20)
_FORMAT4_FILL_BYTES = 8


class PinBlockError(ValueError):
    """A PIN, a PAN or a PIN block that is not one; the text carries no data."""


def encode_format0(pin: str, pan: str, key: bytes) -> bytes:
    """The 8-byte format 0 block of a PIN (4 to 12 digits), enciphered.

    `key` is a double- or triple-length Triple DES key (16 or 24 bytes), else ValueError. ISO
    9564-1, 9.3.2: the PIN field XOR the 12 rightmost digits of the PAN without its check digit.
    """
    _check_pin(pin)
    pin_field = int(("0" + _nibble(len(pin)) + pin).ljust(16, "F"), 16)
    return tdes_encrypt_ecb(key, (pin_field ^ _format0_pan_field(pan)).to_bytes(8, "big"))


def decode_format0(block: bytes, pan: str, key: bytes) -> str:
    """The PIN in an enciphered format 0 block; PinBlockError if it holds none for this PAN."""
    if len(block) != 8:
        raise PinBlockError("a format 0 PIN block has 8 bytes")
    clear = int.from_bytes(tdes_decrypt_ecb(key, block), "big") ^ _format0_pan_field(pan)
    return _pin_of(f"{clear:016X}", "0", "F")


def encode_format4(pin: str, pan: str, key: bytes, *, fill: bytes | None = None) -> bytes:
    """The 16-byte format 4 block of a PIN (4 to 12 digits), enciphered.

    `key` is an AES key (16, 24 or 32 bytes), else ValueError. ISO 9564-1, 9.4.2: the PIN field
    enciphered, XOR the PAN field, enciphered again. `fill`: the 8 random bytes of the PIN field,
    taken from the system where None; given only to reproduce a known block.
    """
    _check_pin(pin)
    if fill is None:
        fill = secrets.token_bytes(_FORMAT4_FILL_BYTES)
    if len(fill) != _FORMAT4_FILL_BYTES:
        raise PinBlockError("the fill of a format 4 PIN block has 8 bytes")
    pan_field = _format4_pan_field(pan)
    pin_field = bytes.fromhex(("4" + _nibble(len(pin)) + pin).ljust(16, "A")) + fill
    return aes_encrypt_block(key, _xor(aes_encrypt_block(key, pin_field), pan_field))


def decode_format4(block: bytes, pan: str, key: bytes) -> str:
    """The PIN in an enciphered format 4 block; PinBlockError if it holds none for this PAN."""
    if len(block) != 16:
        raise PinBlockError("a format 4 PIN block has 16 bytes")
    inner = _xor(aes_decrypt_block(key, block), _format4_pan_field(pan))
    return _pin_of(aes_decrypt_block(key, inner)[:8].hex().upper(), "4", "A")


def visa_pvv(pin: str, pan: str, pvki: int, key: bytes) -> str:
    """The 4-digit PIN verification value of a PIN, under the PVV key pair `key` (16 bytes).

    The 11 rightmost digits of the PAN without its check digit, the key index (0 to 9) and the first
    four digits of the PIN are enciphered; the digits of the result are taken from left to right,
    then, if fewer than four, its letters as A = 0 to F = 5.
    """
    _check_pin(pin)
    _check_pan(pan)
    if not 0 <= pvki <= 9:
        raise PinBlockError("a PIN verification key index is 0 to 9")
    if len(key) != 16:
        raise ValueError("a PVV key pair has 16 bytes")
    text = pan[-12:-1] + str(pvki) + pin[:4]
    cipher = tdes_encrypt_ecb(key, bytes.fromhex(text)).hex()
    digits = [c for c in cipher if c.isdigit()]
    letters = [str(int(c, 16) - 10) for c in cipher if not c.isdigit()]
    return "".join((digits + letters)[:4])


def _format0_pan_field(pan: str) -> int:
    _check_pan(pan)
    return int(pan[-13:-1], 16)


def _format4_pan_field(pan: str) -> bytes:
    """Digits beyond 12, the PAN, zeros (ISO 9564-1, 9.4.2.3)."""
    _check_pan(pan)
    return bytes.fromhex((_nibble(len(pan) - 12) + pan).ljust(32, "0"))


def _pin_of(field: str, control: str, filler: str) -> str:
    """The PIN in the 16 hex digits of a PIN field; nothing outside it may differ from its form."""
    length = int(field[1], 16)
    pin = field[2 : 2 + length]
    if (
        field[0] != control
        or length not in _PIN_DIGITS
        or not pin.isdigit()
        or field[2 + length :].strip(filler)
    ):
        raise PinBlockError("the PIN block cannot be opened")
    return pin


def _check_pin(pin: str) -> None:
    if len(pin) not in _PIN_DIGITS or not (pin.isascii() and pin.isdigit()):
        raise PinBlockError("a PIN has 4 to 12 digits")


def _check_pan(pan: str) -> None:
    if len(pan) not in _PAN_DIGITS or not (pan.isascii() and pan.isdigit()):
        raise PinBlockError("a PAN has 12 to 19 digits")


def _nibble(value: int) -> str:
    return f"{value:X}"


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
