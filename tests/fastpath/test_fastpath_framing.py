"""Framing: the same bytes give the same frames in whatever cuts, and nobody makes us store more."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.errors import FormatError
from fastpath.framing import FrameBuffer, Header, pack, pack_many, swap_tpdu

HEADER_SIZE = {Header.BINARY2: 2, Header.ASCII4: 4, Header.TPDU: 2}
TPDU = bytes.fromhex("6000038001")


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def feed_all(buffer: FrameBuffer, pieces: list[bytes]) -> list[bytes]:
    return [frame for piece in pieces for frame in buffer.feed(piece)]


def reason_of(buffer: FrameBuffer) -> str | None:
    return None if buffer.error is None else buffer.error.reason


@pytest.mark.parametrize(
    ("header", "message", "frame"),
    [
        (Header.BINARY2, b"0800", b"\x00\x040800"),
        (Header.BINARY2, b"x" * 258, b"\x01\x02" + b"x" * 258),
        (Header.BINARY2, b"", b"\x00\x00"),
        (Header.ASCII4, b"0800", b"00040800"),
        (Header.ASCII4, b"x" * 1234, b"1234" + b"x" * 1234),
        (Header.ASCII4, b"", b"0000"),
        (Header.TPDU, TPDU + b"0800", b"\x00\x09" + TPDU + b"0800"),
        (Header.TPDU, b"", b"\x00\x00"),
    ],
)
def test_pack_puts_the_length_in_front(header, message, frame):
    assert pack(header, message) == frame
    buffer = FrameBuffer(header)
    assert buffer.feed(frame) == ([message] if message else [])
    assert buffer.keepalives == (0 if message else 1)
    assert buffer.pending == 0 and buffer.error is None


@pytest.mark.parametrize(
    ("header", "size"), [(Header.BINARY2, 65536), (Header.ASCII4, 10000), (Header.TPDU, 4)]
)
def test_pack_refuses_what_its_header_cannot_say(header, size):
    with pytest.raises(FormatError):
        pack(header, bytes(size))
    with pytest.raises(FormatError):
        pack_many(header, [b"fine" * 3, bytes(size)])


def test_the_longest_frames_go_through():
    for header, size in ((Header.BINARY2, 65535), (Header.ASCII4, 9999), (Header.TPDU, 65535)):
        message = bytes(size)
        assert FrameBuffer(header, size).feed(pack(header, message)) == [message]


@pytest.mark.parametrize(
    ("header", "max_length"),
    [(Header.BINARY2, 0), (Header.BINARY2, -1), (Header.BINARY2, 65536), (Header.ASCII4, 10000)],
)
def test_a_limit_outside_the_header_is_refused(header, max_length):
    with pytest.raises(ValueError, match="max_length"):
        FrameBuffer(header, max_length)


def test_only_the_types_promised_are_taken():
    buffer = FrameBuffer()
    frame = pack(Header.BINARY2, b"0800")
    assert buffer.feed(bytearray(frame)) == [b"0800"]
    assert buffer.feed(memoryview(b"xx" + frame)[2:]) == [b"0800"]
    for wrong in ("0800", None, 5, [1]):
        with pytest.raises(TypeError):
            buffer.feed(wrong)
    for call in (
        lambda: FrameBuffer("binary2"),
        lambda: pack("binary2", b""),
        lambda: pack(Header.BINARY2, bytearray(b"0800")),
        lambda: pack_many(Header.BINARY2, [bytearray(b"0800")]),
        lambda: pack_many(Header.BINARY2, (b"0800",)),
    ):
        with pytest.raises(TypeError):
            call()
    assert FrameBuffer.__new__(FrameBuffer).feed(b"") == []


messages = st.lists(st.binary(min_size=0, max_size=40).filter(lambda m: not 0 < len(m) < 5))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(Header), messages, st.lists(st.integers(0, 10_000), max_size=40))
def test_cuts_do_not_matter(header, sent, places):
    stream = b"".join(pack(header, message) for message in sent)
    assert pack_many(header, sent) == stream
    buffer = FrameBuffer(header, max_length=40)
    assert feed_all(buffer, cut(stream, places)) == [message for message in sent if message]
    assert buffer.keepalives == sent.count(b"")
    assert buffer.pending == 0 and buffer.error is None


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(Header),
    st.one_of(
        st.binary(max_size=120),
        st.text("0123456789", max_size=120).map(str.encode),
        st.lists(st.sampled_from([b"\x00", b"\x05", b"\x08", b"0", b"7", b"ab"])).map(b"".join),
    ),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_any_bytes_in_any_cuts_end_alike(header, stream, places):
    """Also what is wrong is wrong at the same byte, and memory stays bounded on the way."""
    limit = 16
    whole, pieces = FrameBuffer(header, limit), FrameBuffer(header, limit)
    expected = whole.feed(stream)
    got = []
    for piece in cut(stream, places):
        got += pieces.feed(piece)
        assert pieces.pending < limit + HEADER_SIZE[header]
    assert got == expected
    assert pieces.keepalives == whole.keepalives
    assert pieces.pending == whole.pending
    assert reason_of(pieces) == reason_of(whole)
    assert all(len(frame) <= limit for frame in got)


def test_a_claim_over_the_limit_closes_after_the_frames_before_it():
    good = pack(Header.BINARY2, b"0800")
    buffer = FrameBuffer(max_length=4096)
    assert buffer.feed(good + good + b"\xff\xff" + b"x" * 70_000) == [b"0800", b"0800"]
    assert isinstance(buffer.error, FormatError)
    assert buffer.error.reason == "frame is longer than the link allows"
    assert buffer.pending == 0
    assert buffer.feed(good) == []
    assert buffer.pending == 0 and buffer.keepalives == 0


@pytest.mark.parametrize("length", [4096, 4097])
def test_the_limit_itself_is_allowed(length):
    buffer = FrameBuffer(max_length=4096)
    frames = buffer.feed(pack(Header.BINARY2, bytes(length)))
    assert [len(frame) for frame in frames] == ([4096] if length == 4096 else [])
    assert (buffer.error is None) == (length == 4096)


@pytest.mark.parametrize(
    ("header", "stream", "reason"),
    [
        (Header.BINARY2, b"\x10\x01", "frame is longer than the link allows"),
        (Header.ASCII4, b"4097", "frame is longer than the link allows"),
        (Header.ASCII4, b"00x1", "length header is not digits"),
        (Header.ASCII4, b"\x00\x04\x30\x38", "length header is not digits"),
        (Header.ASCII4, b" 123", "length header is not digits"),
        (Header.TPDU, b"\x00\x04", "frame is shorter than a TPDU"),
        (Header.TPDU, b"\x00\x01", "frame is shorter than a TPDU"),
    ],
)
def test_a_header_that_cannot_be_followed_is_known_at_its_last_byte(header, stream, reason):
    buffer = FrameBuffer(header)
    for byte in stream[:-1]:
        assert buffer.feed(bytes([byte])) == []
        assert buffer.error is None
    assert buffer.feed(stream[-1:]) == []
    assert buffer.error is not None and buffer.error.reason == reason
    assert buffer.feed(pack(header, b"0800 and more")) == []


def test_pending_counts_what_waits_and_never_more_than_one_frame():
    frame = pack(Header.BINARY2, b"x" * 100)
    buffer = FrameBuffer(max_length=100)
    for sent, byte in enumerate(frame[:-1], start=1):
        assert buffer.feed(bytes([byte])) == []
        assert buffer.pending == sent
    assert buffer.feed(frame[-1:] + frame[:50]) == [b"x" * 100]
    assert buffer.pending == 50


def test_keepalives_between_and_inside_reads():
    buffer = FrameBuffer()
    assert buffer.feed(b"\x00") == []
    assert buffer.feed(b"\x00\x00\x00\x00\x04") == []
    assert buffer.keepalives == 2
    assert buffer.feed(b"0800\x00\x00") == [b"0800"]
    assert buffer.keepalives == 3


def test_tpdu_stays_in_front_and_turns_round_for_the_answer():
    buffer = FrameBuffer(Header.TPDU)
    (frame,) = buffer.feed(b"\x00\x09" + TPDU + b"0800")
    assert frame == TPDU + b"0800"
    assert swap_tpdu(frame[:5]) == bytes.fromhex("6080010003")
    assert swap_tpdu(swap_tpdu(TPDU)) == TPDU
    assert buffer.feed(b"\x00\x05" + TPDU) == [TPDU]


@pytest.mark.parametrize("wrong", [b"", b"1234", b"123456"])
def test_swap_needs_five_bytes(wrong):
    with pytest.raises(ValueError, match="5 bytes"):
        swap_tpdu(wrong)
