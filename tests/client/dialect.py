"""The bytes of the dialect: packagers, private data, MACs, PIN blocks, additional amounts.

Packing is pyiso8583's; what it cannot express (x+n amounts in BCD, the separator of track 2) is
done here before and after. Values are text: digits for n, upper-case hex for b, `=` as the
separator of track 2, one letter and digits for x+n.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import iso8583
import psec
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import cmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = [
    "MAC_BYTES",
    "Amounts",
    "DialectError",
    "MacKind",
    "Packager",
    "additional_amounts",
    "build_private",
    "mac",
    "mac_field",
    "pack",
    "parse_private",
    "pin_block",
    "reply_mti",
    "seal",
    "unpack",
    "unsealed",
]

MAC_BYTES = 8
LAST_PRIMARY_FIELD = 64


class DialectError(ValueError):
    """What arrived is not what the dialect page says."""


class Packager(enum.Enum):
    """The two packagers, by their names in demo.json."""

    ASCII = "iso87-ascii"
    BINARY = "iso87-binary"


class MacKind(enum.Enum):
    """The two MAC algorithms, by their names in demo.json."""

    RETAIL = "retail-mac"
    AES_CMAC = "aes-cmac"


class _Form(enum.Enum):
    """How a data element is written; the length beside it counts digits, characters or bytes."""

    DIGITS = enum.auto()
    LL_DIGITS = enum.auto()
    TRACK = enum.auto()
    SIGNED = enum.auto()
    TEXT = enum.auto()
    LL_TEXT = enum.auto()
    LLL_TEXT = enum.auto()
    BYTES = enum.auto()
    LLL_BYTES = enum.auto()


# ISO 8583:1987, the data elements that the dialect uses (and a few that bad input needs).
_FIELDS: dict[int, tuple[_Form, int]] = {
    2: (_Form.LL_DIGITS, 19),
    3: (_Form.DIGITS, 6),
    4: (_Form.DIGITS, 12),
    7: (_Form.DIGITS, 10),
    11: (_Form.DIGITS, 6),
    12: (_Form.DIGITS, 6),
    13: (_Form.DIGITS, 4),
    14: (_Form.DIGITS, 4),
    15: (_Form.DIGITS, 4),
    18: (_Form.DIGITS, 4),
    22: (_Form.DIGITS, 3),
    24: (_Form.DIGITS, 3),
    25: (_Form.DIGITS, 2),
    28: (_Form.SIGNED, 9),
    32: (_Form.LL_DIGITS, 11),
    33: (_Form.LL_DIGITS, 11),
    35: (_Form.TRACK, 37),
    37: (_Form.TEXT, 12),
    38: (_Form.TEXT, 6),
    39: (_Form.TEXT, 2),
    41: (_Form.TEXT, 8),
    42: (_Form.TEXT, 15),
    43: (_Form.TEXT, 40),
    45: (_Form.LL_TEXT, 76),
    48: (_Form.LLL_TEXT, 999),
    49: (_Form.TEXT, 3),
    50: (_Form.TEXT, 3),
    52: (_Form.BYTES, 8),
    53: (_Form.DIGITS, 16),
    54: (_Form.LLL_TEXT, 120),
    55: (_Form.LLL_BYTES, 255),
    59: (_Form.LLL_TEXT, 999),
    64: (_Form.BYTES, 8),
    66: (_Form.DIGITS, 1),
    70: (_Form.DIGITS, 3),
    **dict.fromkeys(range(74, 82), (_Form.DIGITS, 10)),
    **dict.fromkeys(range(86, 90), (_Form.DIGITS, 16)),
    90: (_Form.DIGITS, 42),
    95: (_Form.TEXT, 42),
    97: (_Form.SIGNED, 17),
    103: (_Form.LL_TEXT, 28),
    128: (_Form.BYTES, 8),
}


def _entry(
    data: str, length_form: str, length_digits: int, most: int, **more: str
) -> dict[str, Any]:
    return {
        "data_enc": data,
        "len_enc": length_form,
        "len_type": length_digits,
        "max_len": most,
        "desc": "",
        **more,
    }


def _ascii_entry(form: _Form, length: int) -> dict[str, Any]:
    match form:
        case _Form.LL_DIGITS | _Form.TRACK | _Form.LL_TEXT:
            return _entry("latin-1", "ascii", 2, length)
        case _Form.LLL_TEXT:
            return _entry("latin-1", "ascii", 3, length)
        case _Form.BYTES:
            return _entry("ascii", "ascii", 0, 2 * length)
        case _Form.LLL_BYTES:
            return _entry("ascii", "ascii", 3, 2 * length)
        case _:
            return _entry("latin-1", "ascii", 0, length)


def _binary_entry(form: _Form, length: int) -> dict[str, Any]:
    match form:
        case _Form.DIGITS:
            return _entry("b", "bcd", 0, length, len_count="nibbles", left_pad="0")
        case _Form.LL_DIGITS | _Form.TRACK:
            return _entry("b", "bcd", 1, length, len_count="nibbles", right_pad="0")
        case _Form.SIGNED:
            return _entry("b", "bcd", 0, (length + 1) // 2)
        case _Form.LL_TEXT:
            return _entry("latin-1", "bcd", 1, length)
        case _Form.LLL_TEXT:
            return _entry("latin-1", "bcd", 2, length)
        case _Form.BYTES:
            return _entry("b", "bcd", 0, length)
        case _Form.LLL_BYTES:
            return _entry("b", "bcd", 2, length)
        case _:
            return _entry("latin-1", "bcd", 0, length)


def _specification(packager: Packager) -> dict[str, dict[str, Any]]:
    binary = packager is Packager.BINARY
    make = _binary_entry if binary else _ascii_entry
    head = "b" if binary else "ascii"
    return {
        "h": _entry("b", "b", 0, 0),
        "t": _entry(head, "ascii", 0, 2 if binary else 4),
        "p": _entry(head, "ascii", 0, 8 if binary else 16),
        "1": _entry(head, "ascii", 0, 8 if binary else 16),
        **{str(number): make(form, length) for number, (form, length) in _FIELDS.items()},
    }


_SPECIFICATIONS = {packager: _specification(packager) for packager in Packager}


def pack(packager: Packager, mti: str, fields: Mapping[int, str]) -> bytes:
    """The message bytes. iso8583.EncodeError when a value does not fit its field."""
    values = {"t": mti, **{str(number): value for number, value in fields.items()}}
    if packager is Packager.BINARY:
        for number, value in fields.items():
            form = _FIELDS[number][0]
            if form is _Form.SIGNED:
                values[str(number)] = value[:1].encode("ascii").hex() + value[1:]
            elif form is _Form.TRACK:
                values[str(number)] = value.replace("=", "D")
    encoded, _ = iso8583.encode(values, _SPECIFICATIONS[packager])
    return bytes(encoded)


def unpack(packager: Packager, frame: bytes) -> tuple[str, dict[int, str]]:
    """MTI and fields. DialectError unless the bytes are exactly what `pack` would have made."""
    try:
        values, _ = iso8583.decode(frame, _SPECIFICATIONS[packager])
    except (iso8583.DecodeError, KeyError) as error:
        raise DialectError(f"reply cannot be unpacked: {type(error).__name__} {error}") from None
    fields = {int(key): value for key, value in values.items() if key.isdigit() and key != "1"}
    if packager is Packager.BINARY:
        for number, value in fields.items():
            form = _FIELDS[number][0]
            if form is _Form.SIGNED:
                fields[number] = bytes.fromhex(value[:2]).decode("latin-1") + value[2:]
            elif form is _Form.TRACK:
                fields[number] = value.replace("D", "=")
    if pack(packager, values["t"], fields) != frame:
        raise DialectError("reply is not in the one form that the packager allows")
    return values["t"], fields


def mac_field(fields: Iterable[int]) -> int:
    """64, or 128 when any field needs the secondary bitmap."""
    return 128 if any(number > LAST_PRIMARY_FIELD for number in fields) else 64


def unsealed(packager: Packager, mti: str, fields: Mapping[int, str]) -> bytes:
    """The message up to its MAC, the MAC's bit set: what the MAC is computed over."""
    placeholder = {mac_field(fields): "00" * MAC_BYTES}
    whole = pack(packager, mti, {**fields, **placeholder})
    return whole[: -MAC_BYTES if packager is Packager.BINARY else -2 * MAC_BYTES]


def seal(packager: Packager, head: bytes, code: bytes) -> bytes:
    """The message with its MAC in the packager's form."""
    return head + (code if packager is Packager.BINARY else code.hex().upper().encode("ascii"))


def mac(kind: MacKind, key: bytes, data: bytes) -> bytes:
    """8 bytes: SP 800-38B leftmost, or ISO 9797-1 algorithm 3 with padding method 1."""
    if kind is MacKind.AES_CMAC:
        code = cmac.CMAC(algorithms.AES(key))
        code.update(data)
        return code.finalize()[:MAC_BYTES]
    left, right = key[:8], key[8:16]
    padded = psec.mac.pad_iso_1(data, 8)
    # Single DES is three-key TDEA with three times the same key.
    chain = Cipher(TripleDES(left * 3), modes.CBC(bytes(8))).encryptor()
    last = chain.update(padded)[-8:]
    opened = Cipher(TripleDES(right * 3), modes.ECB()).decryptor().update(last)
    return Cipher(TripleDES(left * 3), modes.ECB()).encryptor().update(opened)


def pin_block(pin: str, pan: str, key: bytes) -> str:
    """ISO 9564 format 0 under a double-length 3DES key, as the 16 hex digits of DE 52."""
    clear = psec.pinblock.encode_pinblock_iso_0(pin, pan)
    cipher = Cipher(TripleDES(key[:16] + key[:8]), modes.ECB()).encryptor()
    return cipher.update(clear).hex().upper()


def build_private(tags: Iterable[tuple[str, str]]) -> str:
    """DE 48: tag (2 letters), length (3 digits), value, in the order given."""
    return "".join(f"{tag}{len(value):03d}{value}" for tag, value in tags)


def parse_private(text: str) -> dict[str, str]:
    """The tags of DE 48. DialectError for a tag twice, a bad length, a value out of 0x20-0x7E."""
    tags: dict[str, str] = {}
    rest = text
    while rest:
        tag, length = rest[:2], rest[2:5]
        if len(tag) != 2 or not (tag.isascii() and tag.isalpha() and tag.isupper()):
            raise DialectError("DE 48: a tag is two letters")
        if len(length) != 3 or not (length.isascii() and length.isdigit()):
            raise DialectError(f"DE 48: the length of {tag} is not three digits")
        value, rest = rest[5 : 5 + int(length)], rest[5 + int(length) :]
        if len(value) != int(length) or tag in tags:
            raise DialectError(f"DE 48: {tag} is cut or there twice")
        if any(not 0x20 <= ord(character) <= 0x7E for character in value):
            raise DialectError(f"DE 48: {tag} holds a character out of 0x20-0x7E")
        tags[tag] = value
    return tags


@dataclass(frozen=True)
class Amounts:
    """What DE 54 says of one purse, in minor units; negative where the sign is D."""

    account: str
    currency: str
    ledger_minor: int
    available_minor: int


_AMOUNT_LENGTH = 20
_LEDGER, _AVAILABLE = "01", "02"


def additional_amounts(text: str) -> dict[str, Amounts]:
    """DE 54 by account type: 20 characters each, ledger (01) and available (02) of every purse."""
    if not text or len(text) % _AMOUNT_LENGTH:
        raise DialectError(f"DE 54: {len(text)} characters, not a multiple of {_AMOUNT_LENGTH}")
    found: dict[tuple[str, str], dict[str, int]] = {}
    for start in range(0, len(text), _AMOUNT_LENGTH):
        item = text[start : start + _AMOUNT_LENGTH]
        account, kind, currency, sign, digits = item[:2], item[2:4], item[4:7], item[7], item[8:]
        if not (account + kind + currency + digits).isdigit() or sign not in "CD":
            raise DialectError(
                f"DE 54: an item is not account, kind, currency, sign, amount: {item}"
            )
        amounts = found.setdefault((account, currency), {})
        if kind not in {_LEDGER, _AVAILABLE} or kind in amounts:
            raise DialectError(f"DE 54: amount type {kind} of account {account} unknown or twice")
        amounts[kind] = int(digits) if sign == "C" else -int(digits)
    purses: dict[str, Amounts] = {}
    for (account, currency), amounts in found.items():
        if set(amounts) != {_LEDGER, _AVAILABLE} or account in purses:
            raise DialectError(f"DE 54: account {account} is not one ledger and one available")
        purses[account] = Amounts(account, currency, amounts[_LEDGER], amounts[_AVAILABLE])
    return purses


def reply_mti(mti: str) -> str:
    """Function 0 answers as 1, 2 as 3; origin 1 (a repeat) answers as origin 0."""
    return mti[:2] + {"0": "1", "2": "3"}[mti[2]] + "0"
