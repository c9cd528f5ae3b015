"""Sealed states and the command that carries them, against the same made in Python."""

from __future__ import annotations

import hiredis
import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st

from fastpath.cache import function_call, open_states, seal_states
from fastpath.mac import MacAlgorithm, MacKey

SECRET = bytes(range(32))
KEY = MacKey(MacAlgorithm.AES_CMAC, SECRET)
OTHER = MacKey(MacAlgorithm.AES_CMAC, bytes(32))

ids = st.integers(-(2**63), 2**63 - 1)
texts = st.one_of(
    st.binary(max_size=40), st.integers(250, 260).map(bytes), st.just(bytes(range(256)) * 255)
)
parts = st.tuples(texts, texts, texts)
cards = st.lists(st.tuples(ids, parts), max_size=6)


def sealed_in_python(card_id: int, three: tuple[bytes, bytes, bytes]) -> bytes:
    body = msgspec.msgpack.encode(three)
    cmac = CMAC(AES(SECRET))
    cmac.update(card_id.to_bytes(8, "big", signed=True) + body)
    return cmac.finalize()[:8] + body


@given(cards)
def test_a_state_is_sealed_for_its_card(made: list[tuple[int, tuple[bytes, bytes, bytes]]]) -> None:
    card_ids = [card_id for card_id, _ in made]
    sealed = seal_states(KEY, card_ids, [three for _, three in made])
    assert sealed == [sealed_in_python(*one) for one in made]
    assert open_states(KEY, card_ids, sealed) == [three for _, three in made]
    nothing = [None] * len(made)
    assert open_states(OTHER, card_ids, sealed) == nothing
    assert open_states(KEY, [card_id ^ 1 for card_id in card_ids], sealed) == nothing


@given(ids, parts, st.data())
def test_a_state_that_was_changed_or_cut_is_none(
    card_id: int, three: tuple[bytes, bytes, bytes], data: st.DataObject
) -> None:
    (sealed,) = seal_states(KEY, [card_id], [three])
    at = data.draw(st.integers(0, len(sealed) - 1))
    changed = sealed[:at] + bytes([sealed[at] ^ data.draw(st.integers(1, 255))]) + sealed[at + 1 :]
    wrong = [changed, sealed[:at], sealed + b"\0"]
    assert open_states(KEY, [card_id] * 3, wrong) == [None, None, None]
    assert open_states(KEY, [1, card_id, 2], [b"", sealed, bytes(8)]) == [None, three, None]


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"\x92\xc4\0\xc4\0",
            b"\x93\xc4\0\xc4\0",
            b"\x93\xc4\0\xc4\0\xc4",
            b"\x93\xc4\0\xc4\0\xc5",
        ),
        *(
            b"\x93\xc4\0\xc4\0\xc4\x01",
            b"\x93\xc4\0\xc4\0\xc5\xff\xff",
            b"\x93\xc4\0\xc4\0\xc4\0\0",
        ),
        *(b"\x93\xc4\0\xc4\0\xa0", b"\x93\xc4\0\xc4\0\xc6\0\0\0\0"),
    ],
)
def test_a_right_seal_on_another_form_opens_to_nothing(body: bytes) -> None:
    cmac = CMAC(AES(SECRET))
    cmac.update((7).to_bytes(8, "big") + body)
    assert open_states(KEY, [7], [cmac.finalize()[:8] + body]) == [None]


def test_what_does_not_go_together_is_refused() -> None:
    three = (b"", b"", b"")
    with pytest.raises(ValueError, match="number"):
        seal_states(KEY, [1, 2], [three])
    with pytest.raises(ValueError, match="number"):
        open_states(KEY, [1], [])
    with pytest.raises(ValueError, match="too long"):
        seal_states(KEY, [1], [(b"", bytes(65_536), b"")])
    for wrong in ([("text", b"", b"")], [(b"", None, b"")]):
        with pytest.raises(TypeError):
            seal_states(KEY, [1], wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        open_states(KEY, [1], [None])  # type: ignore[list-item]
    with pytest.raises(OverflowError):
        seal_states(KEY, [2**63], [three])
    with pytest.raises(TypeError):
        function_call(b"f", b"t", [None], [], [])  # type: ignore[list-item]
    with pytest.raises(OverflowError):
        function_call(b"f", b"t", [], [-(2**63) - 1], [])


@given(
    st.binary(max_size=12),
    st.binary(max_size=12),
    st.lists(st.binary(max_size=12), max_size=3),
    st.lists(st.one_of(ids, st.sampled_from([0, 9, 10, -1, -(2**63)])), max_size=12),
    st.lists(texts, max_size=4),
)
def test_a_call_is_what_the_library_makes_of_it(
    function: bytes, tag: bytes, keys: list[bytes], card_ids: list[int], arguments: list[bytes]
) -> None:
    command = function_call(function, tag, keys, card_ids, arguments)
    names = [*keys, *(b"%d" % card_id for card_id in card_ids)]
    whole = ("FCALL", function, len(names), *(tag + name for name in names), *arguments)
    assert command == hiredis.pack_command(whole)  # type: ignore[arg-type]
