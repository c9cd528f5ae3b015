"""A batch says of every message what the functions for one message say."""

import random

import pytest
from batch_world import NOW_S, World, one_by_one, pan_of
from fastpath_messages import ALL, BOTH, mutated, some_message
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath import mac
from fastpath.batch import MacVerdict, MessageBatch
from fastpath.codec import encode, encode_unsealed, seal
from fastpath.errors import FormatError
from fastpath.framing import Header, pack_many
from fastpath.reader import BatchReader
from fastpath.specs import DE, ISO87_ASCII, ISO87_BINARY

SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(params=mac.paths()["des"], scope="module")
def path(request):
    mac._use_paths(des=request.param, aes="portable" if request.param == "portable" else None)
    yield request.param
    mac._use_paths()


@pytest.fixture(scope="module")
def world(tmp_path_factory, path):
    return World(7, tmp_path_factory.mktemp("world"))


def read(packager, frames, *more, **named) -> MessageBatch:
    batch = BatchReader(packager, max_length=65535).feed(
        pack_many(Header.BINARY2, frames), *more, **named
    )
    assert len(batch) == len(frames)
    return batch


def assert_same(batch, n, packager, frame):
    """Message `n` is what `decode` makes of the frame, or has the error that it raises."""
    alone = one_by_one(packager, frame)
    assert batch.raw(n) == frame
    if isinstance(alone, FormatError):
        error = batch.error(n)
        assert (error.reason, error.field, error.offset) == (
            alone.reason,
            alone.field,
            alone.offset,
        )
        for ask in (batch.message, batch.mti, lambda n: batch.get(n, DE.STAN)):
            with pytest.raises(FormatError) as caught:
                ask(n)
            assert str(caught.value) == str(alone)
        return
    assert batch.error(n) is None
    message = batch.message(n)
    assert message.raw == alone.raw and message.packager is packager
    assert message.mti == batch.mti(n) == alone.mti
    assert message.fields == alone.fields
    assert message.items() == alone.items()
    assert [message.span(de) for de in alone.fields] == [alone.span(de) for de in alone.fields]
    assert (message.mac, message.mac_covers) == (alone.mac, alone.mac_covers)
    for de in range(-1, 131):
        assert batch.get_bytes(n, de) == alone.get_bytes(de)
    for de, value in alone.items():
        if not isinstance(value, bytes):
            assert batch.get(n, de) == alone.get(de)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ALL), SEEDS)
def test_messages_of_every_kind(packager, seed):
    rng = random.Random(seed)
    frames = []
    for _ in range(rng.randint(1, 30)):
        frame = encode(packager, *some_message(packager, rng))
        frames.append((mutated(frame, rng) if rng.random() < 0.5 else frame) or b"0")
    batch = read(packager, frames)
    assert batch.packager is packager
    for n, frame in enumerate(frames):
        assert_same(batch, n, packager, frame)
        assert batch.verdict(n) is MacVerdict.NOT_ASKED
        assert batch.terminal(n) is batch.mac_key(n) is batch.card_id(n) is None


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BOTH), st.lists(st.binary(min_size=1, max_size=60), max_size=10))
def test_bytes_of_any_kind(packager, frames):
    batch = read(packager, frames)
    for n, frame in enumerate(frames):
        assert_same(batch, n, packager, frame)


def expected_verdict(world, message):
    """By the functions for one message: verdict, version, key."""
    code = message.get(DE.TERMINAL)
    if code is None or code.strip(" ") not in world.keys:
        return MacVerdict.UNKNOWN_TERMINAL, 0, None
    for version, key in world.candidates(message):
        if message.mac and key.verify(message.raw[: message.mac_covers], message.mac):
            return MacVerdict.RIGHT, version, key
    return MacVerdict.WRONG, 0, None


def expected_card(world, message):
    pan = message.get(DE.PAN)
    if pan is None and message.get(DE.TRACK2) is not None:
        pan = message.get(DE.TRACK2).split("=")[0]
    return None if pan is None else world.tokens.get(pan)


@pytest.mark.parametrize("packager", BOTH, ids=lambda p: p.name)
@pytest.mark.parametrize("count", [1, 2, 3, 8, 60, 300])
def test_macs_and_cards_of_all(world, packager, count):
    frames = [world.message(packager) for _ in range(count)]
    batch = read(packager, frames, world.table, world.tokens, now_s=NOW_S)
    seen = set()
    for n, frame in enumerate(frames):
        alone = one_by_one(packager, frame)
        assert_same(batch, n, packager, frame)
        if isinstance(alone, FormatError):
            assert batch.verdict(n) is MacVerdict.NOT_ASKED
            assert batch.card_id(n) is batch.terminal(n) is batch.mac_key(n) is None
            continue
        verdict, version, key = expected_verdict(world, alone)
        seen.add(verdict)
        assert batch.verdict(n) is verdict
        assert (batch.key_version(n), batch.mac_key(n)) == (version, key)
        known = verdict is not MacVerdict.UNKNOWN_TERMINAL
        assert batch.terminal(n) == (alone.get(DE.TERMINAL).strip() if known else None)
        assert batch.card_id(n) == expected_card(world, alone)
    if count == 300:
        assert seen == set(MacVerdict) - {MacVerdict.NOT_ASKED}
        ids = {batch.card_id(n) for n in range(count)}
        assert {None, 0, 1048, 1049} <= ids


def signed(packager, keys, which, code, **more):
    fields = {DE.STAN: "1", DE.TERMINAL: code} | {DE[name]: value for name, value in more.items()}
    unsealed = encode_unsealed(packager, "0200", fields)
    return seal(packager, unsealed, keys[which][1].sign(unsealed))


@pytest.mark.parametrize("packager", BOTH, ids=lambda p: p.name)
def test_which_version_is_taken(world, packager):
    code, keys = next((c, k) for c, k in world.keys.items() if len(k) == 3 and k[1][2] > NOW_S)
    assert [version for version, _, _ in keys] == [2, 1, 3]

    def of(frame, now_s=NOW_S):
        batch = read(packager, [frame], world.table, now_s=now_s)
        return batch.key_version(0)

    for which, version in enumerate((2, 1, 3)):
        assert of(signed(packager, keys, which, code)) == version
        named = f"{version:02}00000000000000"
        assert of(signed(packager, keys, which, code, SECURITY_CONTROL=named)) == version
        assert of(signed(packager, keys, which, code, SECURITY_CONTROL="0" * 16)) == version
        other = f"{version % 3 + 1:02}00000000000000"
        assert of(signed(packager, keys, which, code, SECURITY_CONTROL=other)) == 0
    former = signed(packager, keys, 1, code)
    assert of(former, keys[1][2] - 1) == 1
    assert of(former, keys[1][2]) == 0
    assert of(signed(packager, keys, 1, code, SECURITY_CONTROL="01" + "0" * 14), keys[1][2]) == 0


@pytest.mark.parametrize("packager", BOTH, ids=lambda p: p.name)
def test_every_flipped_bit_of_a_mac_is_wrong(world, packager):
    code, keys = next(iter(world.keys.items()))
    right = signed(packager, keys, 0, code)
    size = 8 if packager is ISO87_BINARY else 16
    frames = [right]
    for bit in range(64):
        flipped = (int.from_bytes(one_by_one(packager, right).mac) ^ 1 << bit).to_bytes(8)
        text = flipped if packager is ISO87_BINARY else flipped.hex().upper().encode()
        frames.append(right[:-size] + text)
    batch = read(packager, frames, world.table, now_s=NOW_S)
    verdicts = [batch.verdict(n) for n in range(65)]
    assert verdicts == [MacVerdict.RIGHT] + [MacVerdict.WRONG] * 64


def test_numbers_that_are_no_card_numbers(world):
    for pan, card in ((pan_of(1), 1001), (pan_of(1)[:11], 0), ("", 0), (pan_of(2) + "0", 0)):
        frame = encode(ISO87_ASCII, "0200", {DE.PAN: pan})
        assert read(ISO87_ASCII, [frame], None, world.tokens).card_id(0) == card
    for track, card in (("=1", 0), ("", 0), (pan_of(3), 1003), (pan_of(3) + "D2912", 1003)):
        for packager in BOTH:
            frame = encode(packager, "0200", {DE.TRACK2: track})
            assert read(packager, [frame], None, world.tokens).card_id(0) == card


def test_beyond_the_last_message():
    batch = read(ISO87_ASCII, [encode(ISO87_ASCII, "0800", {DE.STAN: "1"})])
    assert repr(batch) == "<MessageBatch of 1>"
    for n in (-1, 1, 10**9):
        for ask in (batch.error, batch.raw, batch.message, batch.verdict, batch.card_id):
            with pytest.raises(IndexError):
                ask(n)
    with pytest.raises(TypeError, match="made by"):
        MessageBatch()


def test_an_empty_batch_has_nothing():
    raw = MessageBatch.__new__(MessageBatch)
    assert len(raw) == 0
    with pytest.raises(IndexError):
        raw.message(0)


def test_kinds_of_field_are_kept_apart():
    batch = read(ISO87_ASCII, [encode(ISO87_ASCII, "0200", {DE.ICC: b"x", DE.AMOUNT: "5"})])
    assert batch.amount(0, DE.AMOUNT) == 5 and batch.amount(0, DE.FEE) is None
    for wrong in (lambda: batch.get(0, DE.ICC), lambda: batch.amount(0, DE.ICC)):
        with pytest.raises(TypeError):
            wrong()
