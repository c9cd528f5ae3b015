"""Replies from a request's bytes are those that decoding, encoding, signing and framing make."""

import random

import pytest
from batch_world import World
from fastpath_messages import BOTH, some_message
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import mac
from fastpath.codec import Message, decode, encode, encode_unsealed, seal
from fastpath.errors import FormatError
from fastpath.framing import Header, pack, pack_many
from fastpath.mac import MacAlgorithm, MacKey
from fastpath.reader import BatchReader
from fastpath.replies import Replies
from fastpath.specs import DE, ISO87_ASCII, ISO87_BINARY
from switch.wire.replies import ECHOED

SEEDS = st.integers(0, 2**32 - 1)
KEYS = [MacKey(algorithm, bytes(range(n, n + 16))) for n in range(20) for algorithm in MacAlgorithm]


def step_by_step(message, mti, fields, key):
    """The reply as `switch.intake` builds it."""
    echoed = {de: v for de, v in message.items() if de in ECHOED}
    whole = {**echoed, **fields}
    if key is None:
        return encode(message.packager, mti, whole)
    unsealed = encode_unsealed(message.packager, mti, whole)
    return seal(message.packager, unsealed, key.sign(unsealed))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(BOTH), st.sampled_from(list(Header)), SEEDS)
def test_as_step_by_step(packager, header, seed):
    rng = random.Random(seed)
    replies, expected = Replies(ECHOED), [[] for _ in range(4)]
    for _ in range(rng.randint(1, 25)):
        mti, fields = some_message(packager, rng)
        request = encode(packager, mti, fields)
        _, new = some_message(packager, rng)
        new = {de: value for de, value in new.items() if de not in (DE.MAC, DE.MAC2)}
        key, group = rng.choice([None, *KEYS]), rng.randrange(4)
        tpdu = rng.randbytes(5) if header is Header.TPDU else b""
        reply = step_by_step(decode(packager, request), mti, new, key)
        expected[group].append(tpdu + reply)
        if rng.random() < 0.5:
            replies.add(group, decode(packager, request), mti, new, key, header=header, tpdu=tpdu)
        else:
            batch = BatchReader(packager, max_length=65535).feed(pack(Header.BINARY2, request))
            replies.add_to(group, batch, 0, mti, new, key, header=header, tpdu=tpdu)
    assert len(replies) == sum(map(len, expected))
    pieces = replies.finish()
    while not expected[-1]:
        expected.pop()
    assert pieces == [pack_many(header, frames) for frames in expected]
    assert len(replies) == 0 and replies.finish() == []


@pytest.mark.parametrize("des", mac.paths()["des"])
def test_macs_of_a_whole_batch(tmp_path, des):
    mac._use_paths(des=des)
    try:
        world = World(11, tmp_path)
    finally:
        mac._use_paths()
    replies, right = Replies(ECHOED), []
    for _ in range(300):
        message = decode(ISO87_BINARY, encode(ISO87_BINARY, "0200", world.fields()))
        key = world.chance.choice(list(world.keys.values()))[0][1]
        replies.add(0, message, "0210", {DE.RESPONSE_CODE: "00"}, key)
        right.append(step_by_step(message, "0210", {DE.RESPONSE_CODE: "00"}, key))
    assert replies.finish() == [pack_many(Header.BINARY2, right)]


REQUEST = decode(ISO87_ASCII, encode(ISO87_ASCII, "0200", {DE.STAN: "7", DE.PIN_BLOCK: bytes(8)}))


@pytest.mark.parametrize(
    ("mti", "fields", "key"),
    [
        ("0210", {DE.RESPONSE_CODE: "000"}, None),
        ("0210", {DE.RESPONSE_CODE: "\u0130"}, None),
        ("021", {}, None),
        ("1210", {}, KEYS[0]),
        ("0210", {200: "x"}, KEYS[0]),
        ("0210", {DE.MAC: bytes(8)}, KEYS[0]),
        ("0210", {DE.THIRD_BITMAP: b"x"}, None),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(mti, fields, key):
    replies = Replies(ECHOED)
    replies.add(0, REQUEST, "0210", {DE.RESPONSE_CODE: "00"}, KEYS[0])
    with pytest.raises(FormatError) as caught:
        replies.add(0, REQUEST, mti, fields, key)
    with pytest.raises(FormatError) as alone:
        step_by_step(REQUEST, mti, fields, key)
    assert str(caught.value) == str(alone.value)
    right = step_by_step(REQUEST, "0210", {DE.RESPONSE_CODE: "00"}, KEYS[0])
    assert replies.finish() == [pack(Header.BINARY2, right)]


def test_what_is_not_echoed_is_left_out_and_what_is_given_wins():
    replies = Replies([DE.STAN])
    replies.add(0, REQUEST, "0210", {})
    replies.add(2, REQUEST, "0210", {DE.STAN: "8"})
    first, nothing, last = replies.finish()
    assert first == pack(Header.BINARY2, encode(ISO87_ASCII, "0210", {DE.STAN: "7"}))
    assert nothing == b""
    assert last == pack(Header.BINARY2, encode(ISO87_ASCII, "0210", {DE.STAN: "8"}))


def test_long_messages():
    huge = dict.fromkeys((*range(46, 49), *range(56, 64), *range(105, 128)), "x" * 999)
    request = decode(ISO87_BINARY, encode(ISO87_BINARY, "0200", huge))
    replies = Replies(huge)
    for _ in range(5):
        replies.add(0, request, "0210", {})
    with pytest.raises(FormatError, match="too long for its length header"):
        replies.add(0, request, "0210", {}, header=Header.ASCII4)
    assert replies.finish() == [pack_many(Header.BINARY2, [encode(ISO87_BINARY, "0210", huge)] * 5)]


def test_a_malformed_request_has_no_reply():
    batch = BatchReader(ISO87_ASCII).feed(pack(Header.BINARY2, b"0200"))
    with pytest.raises(FormatError):
        Replies().add_to(0, batch, 0, "0210", {})
    with pytest.raises(IndexError):
        Replies().add_to(0, batch, 1, "0210", {})


def test_wrong_arguments():
    for wrong in (0, 1, 64, 65, 128, 200, -1):
        with pytest.raises(ValueError, match="echoed"):
            Replies([wrong])
    replies = Replies()
    for group, more in (
        (-1, {}),
        (0, {"tpdu": b"12345"}),
        (0, {"header": Header.TPDU}),
        (0, {"header": Header.TPDU, "tpdu": b"1234"}),
    ):
        with pytest.raises(ValueError):
            replies.add(group, REQUEST, "0210", {}, **more)
    for arguments in (
        (0, None, "0210", {}),
        (0, REQUEST, 210, {}),
        (0, REQUEST, "0210", None),
        (0, REQUEST, "0210", {DE.STAN: 7}),
        (0, REQUEST, "0210", {}, b"key"),
        (0, Message.__new__(Message), "0210", {}),
    ):
        with pytest.raises(TypeError):
            replies.add(*arguments)
    assert len(replies) == 0
