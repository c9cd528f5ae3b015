"""The batch reader on a stream: the same frames as a FrameBuffer, however the stream is cut."""

import random
import threading

import pytest
from batch_world import NOW_S, World
from fastpath_messages import BOTH, mutated, some_message
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.codec import encode
from fastpath.framing import FrameBuffer, Header, pack, pack_many
from fastpath.reader import BatchReader
from fastpath.specs import ISO87_ASCII, ISO87_BINARY

HEADERS = list(Header)
SEEDS = st.integers(0, 2**32 - 1)


def frames_of(batch, header):
    """As a FrameBuffer gives them: a TPDU stays in front of its own."""
    assert all(len(batch.tpdu(n)) == (5 if header is Header.TPDU else 0) for n in range(len(batch)))
    return [batch.tpdu(n) + batch.raw(n) for n in range(len(batch))]


def cut(stream, rng, kind):
    at = 0
    while at < len(stream):
        size = rng.randint(1, 300)
        piece = stream[at : at + size]
        yield kind(piece)
        at += size


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(HEADERS),
    SEEDS,
    st.sampled_from([bytes, bytearray, memoryview]),
    st.booleans(),
)
def test_as_a_frame_buffer(header, seed, kind, damaged):
    rng = random.Random(seed)
    frames = [rng.randbytes(rng.choice((5, 6, 40, 290, 300))) for _ in range(rng.randint(0, 12))]
    for _ in range(rng.randint(0, 3)):
        frames.insert(rng.randint(0, len(frames)), b"")  # a keep-alive
    stream = pack_many(header, frames)
    if damaged:
        stream = mutated(stream, rng)
    buffer, reader = FrameBuffer(header, 300), BatchReader(ISO87_BINARY, header, 300)
    for piece in cut(stream, rng, kind):
        assert frames_of(reader.feed(piece), header) == buffer.feed(piece)
        assert reader.pending == buffer.pending
        assert reader.keepalives == buffer.keepalives
        assert str(reader.error) == str(buffer.error)


@pytest.mark.parametrize("header", HEADERS)
def test_every_cut_of_a_stream(header):
    frames = [b"abcdef", b"", b"ghijklmnop"]
    stream = pack_many(header, frames)
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            reader = BatchReader(ISO87_ASCII, header, 4096)
            found = []
            for piece in (stream[:first], stream[first:second], stream[second:]):
                found += frames_of(reader.feed(piece), header)
            assert found == [b"abcdef", b"ghijklmnop"]
            assert (reader.pending, reader.keepalives, reader.error) == (0, 1, None)


@pytest.mark.parametrize("packager", BOTH, ids=lambda p: p.name)
def test_cuts_change_no_verdict(tmp_path, packager):
    world = World(3, tmp_path)
    stream = pack_many(Header.BINARY2, [world.message(packager) for _ in range(120)])
    whole = BatchReader(packager).feed(stream, world.table, world.tokens, now_s=NOW_S)
    right = [(whole.verdict(n), whole.card_id(n), whole.raw(n)) for n in range(120)]
    rng = random.Random(5)
    for _ in range(20):
        reader = BatchReader(packager)
        found = []
        for piece in cut(stream, rng, bytes):
            batch = reader.feed(piece, world.table, world.tokens, now_s=NOW_S)
            found += [(batch.verdict(n), batch.card_id(n), batch.raw(n)) for n in range(len(batch))]
        assert found == right


def test_a_peer_that_sends_byte_by_byte():
    frame = encode(ISO87_BINARY, *some_message(ISO87_BINARY, random.Random(1)))
    reader = BatchReader(ISO87_BINARY)
    stream = pack(Header.BINARY2, frame)
    for at in range(len(stream) - 1):
        assert len(reader.feed(stream[at : at + 1])) == 0
        assert reader.pending == at + 1
    assert reader.feed(stream[-1:]).raw(0) == frame
    assert reader.pending == 0


def test_nothing_is_kept_after_an_error():
    reader = BatchReader(ISO87_BINARY, max_length=100)
    batch = reader.feed(pack(Header.BINARY2, b"before") + b"\xff\xffafter")
    assert batch.raw(0) == b"before" and len(batch) == 1
    assert "longer than the link allows" in str(reader.error)
    assert reader.pending == 0
    assert len(reader.feed(pack(Header.BINARY2, b"later"))) == 0 and reader.pending == 0


def test_a_batch_outlives_its_reader_and_the_bytes():
    data = bytearray(pack(Header.BINARY2, b"0800"))
    reader = BatchReader(ISO87_ASCII)
    batch = reader.feed(data)
    data[:] = bytes(len(data))
    del reader
    assert batch.raw(0) == b"0800"


def test_wrong_arguments():
    for wrong in (0, -1, 65536):
        with pytest.raises(ValueError, match="max_length"):
            BatchReader(ISO87_ASCII, Header.BINARY2, wrong)
    with pytest.raises(ValueError, match=r"1 \.\. 9999"):
        BatchReader(ISO87_ASCII, Header.ASCII4, 10_000)
    with pytest.raises(TypeError):
        BatchReader("iso87-ascii")
    with pytest.raises(TypeError):
        BatchReader(ISO87_ASCII, "binary2")
    reader = BatchReader(ISO87_ASCII)
    for wrong in (None, "text", 5):
        with pytest.raises(TypeError):
            reader.feed(wrong)
    with pytest.raises(TypeError):
        reader.feed(b"", "keys")


def test_many_threads_with_readers_of_their_own(tmp_path):
    world = World(9, tmp_path)
    stream = pack_many(Header.BINARY2, [world.message(ISO87_BINARY) for _ in range(200)])

    def verdicts():
        batch = BatchReader(ISO87_BINARY).feed(stream, world.table, world.tokens, now_s=NOW_S)
        return [(batch.verdict(n), batch.card_id(n)) for n in range(len(batch))]

    right, same = verdicts(), []
    threads = [
        threading.Thread(target=lambda: same.append(all(verdicts() == right for _ in range(30))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 4
