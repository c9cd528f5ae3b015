"""The codec against another codec and against 130,000 frames that are broken in some way."""

import random

import iso8583
import pytest
from fastpath_messages import ALL, BOTH, accepted, mutated, outcome, some_message
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.codec import decode, encode
from fastpath.errors import FormatError
from fastpath.packager import Count, Encoding, FieldSpec, Kind, Packager, Pad
from fastpath.specs import ISO87_BINARY

SEEDS = st.integers(0, 2**32 - 1)


def pyiso8583_spec(packager: Packager) -> dict:
    """Our table in the words of pyiso8583; without x+n in BCD, for which it has none."""
    mti_bcd = packager.mti_encoding is Encoding.BCD
    raw = packager.bitmap_encoding is Encoding.BINARY
    bitmap = {"data_enc": "b" if raw else "ascii", "len_enc": "ascii", "len_type": 0}
    bitmap["max_len"] = 8 if raw else 16
    spec = {
        "h": {"data_enc": "ascii", "len_enc": "ascii", "len_type": 0, "max_len": 0},
        "t": {"data_enc": "b" if mti_bcd else "ascii", "len_enc": "ascii", "len_type": 0},
        "p": bitmap,
        "1": bitmap,
    }
    spec["t"]["max_len"] = 2 if mti_bcd else 4
    for number, field in packager.fields.items():
        entry = {"data_enc": "latin-1", "len_enc": "ascii", "max_len": field.length}
        entry["len_type"] = field.prefix_size
        if field.prefix_encoding is Encoding.BCD:
            entry.update(len_enc="bcd", len_type=(field.prefix_size + 1) // 2)
        if field.encoding is Encoding.BCD:
            side = "right_pad" if field.pad is Pad.RIGHT else "left_pad"
            entry.update(data_enc="b", len_count="nibbles")
            entry[side] = "0"
        elif field.encoding is Encoding.BINARY:
            entry["data_enc"] = "b"
        elif field.encoding is Encoding.HEX and field.count is Count.VALUE:
            entry["max_len"] = 2 * field.length
        spec[str(number)] = entry
    return spec


def in_pyiso8583_words(packager: Packager, fields: dict[int, str | bytes]) -> dict[str, str]:
    words = {}
    for number, value in fields.items():
        text = value.hex().upper() if isinstance(value, bytes) else value
        if packager.fields[number].encoding is Encoding.BCD:
            text = text.replace("=", "D")
        words[str(number)] = text
    return words


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(BOTH), SEEDS)
def test_against_pyiso8583(packager, seed):
    mti, fields = some_message(packager, random.Random(seed))
    if packager is ISO87_BINARY:
        fields = {
            number: value
            for number, value in fields.items()
            if packager.fields[number].kind is not Kind.XN
        }
    spec = pyiso8583_spec(packager)
    words = in_pyiso8583_words(packager, fields)
    theirs, _ = iso8583.encode({"t": mti, **words}, spec)
    frame = encode(packager, mti, fields)
    assert frame == bytes(theirs)
    opened, _ = iso8583.decode(frame, spec)
    message = decode(packager, frame)
    assert message.mti == opened.pop("t")
    opened.pop("p")
    opened.pop("1", None)
    assert in_pyiso8583_words(packager, dict(message.items())) == opened


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ALL), SEEDS)
def test_messages_come_back(packager, seed):
    rng = random.Random(seed)
    for _ in range(10):
        mti, fields = some_message(packager, rng)
        frame = encode(packager, mti, fields)
        message = decode(packager, frame)
        assert (message.mti, dict(message.items())) == (mti, fields)
        assert message.fields == tuple(fields)
        assert accepted(packager, frame)
        # the fields lie one behind the other, to the end of the frame
        spans = [message.span(de) for de in message.fields]
        ends = [offset + length for offset, length in spans]
        assert [offset for offset, _ in spans[1:]] == ends[:-1]
        assert not spans or ends[-1] == len(frame)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALL), SEEDS)
def test_mutated_frames(packager, seed):
    """60,000 frames with a few bytes wrong: refused, or taken and reproduced."""
    rng = random.Random(seed)
    taken = 0
    for _ in range(8):
        frame = encode(packager, *some_message(packager, rng))
        taken += sum(accepted(packager, mutated(frame, rng)) for _ in range(50))
    assert 0 <= taken < 400


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALL), SEEDS)
def test_a_frame_cut_anywhere_is_refused(packager, seed):
    """A shorter frame cannot be whole: the bitmap has promised every byte of it."""
    frame = encode(packager, *some_message(packager, random.Random(seed)))
    for size in range(len(frame)):
        assert not accepted(packager, frame[:size])
    for tail in (b"\x00", b"0", b"00000000"):
        with pytest.raises(FormatError, match="bytes left"):
            decode(packager, frame + tail)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ALL), SEEDS)
def test_bitmaps_that_lie(packager, seed):
    """20,000 frames whose bitmap has a bit more, a bit less, or is noise."""
    rng = random.Random(seed)
    start = 2 if packager.mti_encoding is Encoding.BCD else 4
    raw = packager.bitmap_encoding is Encoding.BINARY
    for _ in range(10):
        frame = encode(packager, *some_message(packager, rng))
        width = 8 if raw else 16
        bitmap = frame[start : start + width]
        bits = int.from_bytes(bitmap) if raw else int(bitmap, 16)
        for _ in range(20):
            lie = bits ^ (1 << rng.randrange(64)) if rng.random() < 0.8 else rng.getrandbits(64)
            claimed = lie.to_bytes(8) if raw else f"{lie:016X}".encode()
            lying = frame[:start] + claimed + frame[start + width :]
            truth = lie == bits
            assert accepted(packager, lying) or not truth


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ALL), SEEDS)
def test_random_bytes(packager, seed):
    """50,000 pieces of noise, half of them behind a valid start."""
    rng = random.Random(seed)
    head = encode(packager, f"{packager.version}200", {})
    mti = head[: 2 if packager.mti_encoding is Encoding.BCD else 4]
    for _ in range(250):
        accepted(packager, rng.randbytes(rng.randrange(120)))
        accepted(packager, mti + rng.randbytes(rng.randrange(120)))


@given(st.sampled_from(ALL), st.binary(max_size=300))
def test_any_bytes(packager, data):
    accepted(packager, data)  # asserts that it was refused in order, or comes back


# ---- every byte in every place -------------------------------------------------------------------

DIGIT, TRACK, TEXT, HEXES = (
    frozenset(b"0123456789"),
    frozenset(b"0123456789=D"),
    frozenset(range(256)) - frozenset(range(32)) - {127},
    frozenset(b"0123456789ABCDEF"),
)
BCD = frozenset(high * 16 + low for high in range(10) for low in range(10))
TRACK_BCD = frozenset(high * 16 + low for high in (*range(10), 13) for low in (*range(10), 13))
# kind, encoding, units a byte, and the bytes such a field may hold
CONTENTS = [
    (Kind.N, Encoding.ASCII, 1, DIGIT),
    (Kind.Z, Encoding.ASCII, 1, TRACK),
    (Kind.ANS, Encoding.ASCII, 1, TEXT),
    (Kind.N, Encoding.BCD, 2, BCD),
    (Kind.Z, Encoding.BCD, 2, TRACK_BCD),
    (Kind.B, Encoding.HEX, 1, HEXES),
]


def frame_of(content: bytes, units: int) -> bytes:
    return b"0200" + (1 << 62).to_bytes(8) + bytes([len(content) * units]) + content


@pytest.mark.parametrize(
    ("kind", "encoding", "units", "allowed"), CONTENTS, ids=lambda v: getattr(v, "value", "")
)
def test_exactly_the_bytes_of_a_kind_are_taken(kind, encoding, units, allowed):
    """Each byte in each place of each length, then several wrong bytes at once."""
    count = Count.WIRE if kind is Kind.B else Count.VALUE
    field = FieldSpec(kind, 255, encoding, 1, Encoding.BINARY, Pad.LEFT, count)
    packager = Packager("one", {2: field}, Encoding.ASCII, Encoding.BINARY)
    rng = random.Random(kind.value)
    good = sorted(allowed)
    step = 2 if kind is Kind.B else 1  # an odd number of hex characters is another error
    for size in range(step, 20, step):
        content = bytearray(rng.choices(good, k=size))
        for place in range(size):
            kept = content[place]
            for byte in range(256):
                content[place] = byte
                taken = not isinstance(outcome(packager, frame_of(content, units)), FormatError)
                assert taken == (byte in allowed), (size, place, byte)
            content[place] = kept
    edges = good + [byte for byte in range(256) if byte not in allowed and rng.random() < 0.2]
    for _ in range(5000):
        content = bytes(rng.choices(edges, k=step * rng.randint(1, 12)))
        taken = not isinstance(outcome(packager, frame_of(content, units)), FormatError)
        assert taken == allowed.issuperset(content), content
