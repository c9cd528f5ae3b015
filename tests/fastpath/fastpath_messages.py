"""Messages to test the codec with: random ones, broken ones, and a packager unlike our own."""

import random
import string

from fastpath.codec import Message, decode, encode
from fastpath.errors import FormatError
from fastpath.packager import Count, Encoding, FieldSpec, Kind, Packager, Pad
from fastpath.specs import ISO87_ASCII, ISO87_BINARY

BOTH = [ISO87_ASCII, ISO87_BINARY]

# what the two of our own do not have: other length prefixes, paddings and hex counted in bytes
ODD = Packager(
    "odd",
    {
        2: FieldSpec(Kind.N, 19, Encoding.BCD, 1, Encoding.BINARY, Pad.LEFT),
        3: FieldSpec(Kind.N, 5, Encoding.BCD, pad=Pad.RIGHT),
        4: FieldSpec(Kind.N, 7, Encoding.BCD, pad=Pad.RIGHT_F),
        5: FieldSpec(Kind.XN, 8, Encoding.BCD, pad=Pad.RIGHT),
        6: FieldSpec(Kind.XN, 8, Encoding.BCD, pad=Pad.RIGHT_F),
        7: FieldSpec(Kind.XN, 6, Encoding.ASCII),
        32: FieldSpec(Kind.N, 11, Encoding.BCD, 2, Encoding.BCD, Pad.RIGHT_F),
        35: FieldSpec(Kind.Z, 37, Encoding.BCD, 2, Encoding.BCD, Pad.RIGHT_F),
        36: FieldSpec(Kind.Z, 9, Encoding.BCD, pad=Pad.LEFT),
        37: FieldSpec(Kind.Z, 9, Encoding.ASCII),
        44: FieldSpec(Kind.ANS, 9, Encoding.ASCII, 1, Encoding.ASCII),
        48: FieldSpec(Kind.ANS, 300, Encoding.ASCII, 2, Encoding.BINARY),
        49: FieldSpec(Kind.ANS, 2000, Encoding.ASCII, 4, Encoding.ASCII),
        50: FieldSpec(Kind.B, 2000, Encoding.BINARY, 4, Encoding.BCD),
        51: FieldSpec(Kind.B, 9, Encoding.HEX, 2, Encoding.ASCII),
        52: FieldSpec(Kind.B, 99, Encoding.HEX, 2, Encoding.BCD, count=Count.WIRE),
        64: FieldSpec(Kind.B, 8, Encoding.BINARY),
        65: FieldSpec(Kind.B, 1, Encoding.BINARY),
        70: FieldSpec(Kind.N, 3, Encoding.ASCII, 3, Encoding.BCD),
        128: FieldSpec(Kind.B, 8, Encoding.HEX),
    },
    mti_encoding=Encoding.ASCII,
    bitmap_encoding=Encoding.BINARY,
    version="1",
)
ALL = [*BOTH, ODD]


def some_value(spec: FieldSpec, rng: random.Random) -> str | bytes:
    """A value as it would come out again: fixed fields at their full length."""
    length = spec.length if not spec.prefix_size else rng.randint(0, min(spec.length, 40))
    if spec.kind is Kind.N:
        return "".join(rng.choices(string.digits, k=length))
    if spec.kind is Kind.Z:
        separators = "=" if spec.encoding is Encoding.BCD else "=D"
        return "".join(rng.choices(string.digits + separators, k=length))
    if spec.kind is Kind.XN:
        return rng.choice("CD") + "".join(rng.choices(string.digits, k=length - 1))
    if spec.kind is Kind.ANS:
        return "".join(chr(rng.choice((32, 48, 65, 126, 128, 233, 255))) for _ in range(length))
    return rng.randbytes(length // 2 if spec.count is Count.WIRE else length)


def some_message(packager: Packager, rng: random.Random) -> tuple[str, dict[int, str | bytes]]:
    share = rng.choice((0.05, 0.15, 0.5))
    fields = {
        number: some_value(spec, rng)
        for number, spec in packager.fields.items()
        if number != 65 and rng.random() < share
    }
    return f"{packager.version}{rng.randint(0, 999):03}", fields


def outcome(packager: Packager, frame: bytes) -> Message | FormatError:
    try:
        return decode(packager, frame)
    except FormatError as error:
        return error


def accepted(packager: Packager, frame: bytes) -> bool:
    """Decodes; what is taken must come back byte for byte, what is not must say where."""
    result = outcome(packager, frame)
    if isinstance(result, FormatError):
        assert 0 <= result.offset <= len(frame)
        assert result.field is None or 0 <= result.field <= 128
        return False
    assert encode(packager, result.mti, dict(result.items())) == frame
    return True


def mutated(frame: bytes, rng: random.Random) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place = rng.randrange(len(data) + 1)
        action = rng.randrange(5)
        if action == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif action == 1 and place < len(data):
            data[place] = rng.randrange(256)
        elif action == 2:
            data[place:place] = rng.randbytes(rng.randint(1, 3))
        elif action == 3:
            del data[place : place + rng.randint(1, 3)]
        elif place < len(data):
            data[place] = rng.choice(b"0129AFadf=D\x00\x99\xff")
    return bytes(data)
