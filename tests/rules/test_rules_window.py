"""The window of a card's last request keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.identity import KEY_LENGTH, request_key
from rules.window import WINDOW_LENGTH, Window

ENTRY = KEY_LENGTH + 4


def key(instant_s: int, name: object = "") -> bytes:
    return request_key(instant_s, str(name))


def filled(keys: list[bytes]) -> Window:
    window = Window()
    for version, one in enumerate(keys, 1):
        window.add(one, version)
    return window


def test_a_new_card_knows_that_nothing_has_come() -> None:
    window = Window()
    assert window.find(key(5)) is None
    assert window.surely_knows(key(5))
    assert window.surely_knows(key(0))


def test_the_newest_version_of_a_key_is_found() -> None:
    window = filled([key(5, "a"), key(5, "b"), key(5, "a")])
    assert window.find(key(5, "a")) == 3
    assert window.find(key(5, "b")) == 2
    assert window.find(key(5, "c")) is None


def test_during_a_batch_nothing_is_forgotten() -> None:
    keys = [key(100, n) for n in range(3 * WINDOW_LENGTH)]
    window = filled(keys)
    assert [window.find(one) for one in keys] == list(range(1, len(keys) + 1))


def test_the_stored_window_is_cut_to_its_newest_entries() -> None:
    keys = [key(100 + n, n) for n in range(WINDOW_LENGTH + 3)]
    stored = filled(keys).encode()
    assert len(stored) == 4 + WINDOW_LENGTH * ENTRY
    window = Window(stored)
    assert [window.find(one) for one in keys[:3]] == [None] * 3
    assert [window.find(one) for one in keys[3:]] == list(range(4, WINDOW_LENGTH + 4))
    assert window.encode() == stored


def test_a_full_window_has_forgotten_nothing() -> None:
    window = Window(filled([key(100, n) for n in range(WINDOW_LENGTH)]).encode())
    assert window.surely_knows(key(1, "older than all"))


def test_only_what_is_later_than_all_that_was_dropped_is_surely_new() -> None:
    window = Window(filled([key(100, "dropped"), *(key(50, n) for n in range(16))]).encode())
    assert window.surely_knows(key(101))
    assert not window.surely_knows(key(100))
    assert not window.surely_knows(key(99))
    assert not window.surely_knows(key(0))


def test_the_latest_instant_dropped_stays_known() -> None:
    """A key dropped earlier with a later instant still counts after the next cut."""
    window = Window(filled([key(900, "late clock"), *(key(50, n) for n in range(16))]).encode())
    for version in range(18, 30):
        window.add(key(60, version), version)
        window = Window(window.encode())
    assert not window.surely_knows(key(900, "late clock"))
    assert window.surely_knows(key(901))


def test_after_a_key_without_an_instant_no_other_such_key_is_surely_new() -> None:
    window = Window(filled([key(0, "batch number"), *(key(50, n) for n in range(16))]).encode())
    assert not window.surely_knows(key(0, "batch number"))
    assert not window.surely_knows(key(0, "another"))
    # One with an instant cannot be the one that was dropped.
    assert window.surely_knows(key(50, "new"))


@pytest.mark.parametrize("shift", range(1, ENTRY))
def test_bytes_that_lie_across_two_entries_are_no_key(shift: int) -> None:
    window = filled([bytes(range(1, 17)), bytes(range(101, 117))])
    across = (bytes(range(1, 17)) + bytes((0, 0, 0, 1)) + bytes(range(101, 117)))[
        shift : shift + KEY_LENGTH
    ]
    assert window.find(across) is None
    window.add(across, 3)
    assert window.find(across) == 3


def test_an_entry_is_found_behind_a_match_across_entries() -> None:
    """All bytes alike: matches at every place, only those on a boundary count."""
    window = Window()
    window.add(bytes(KEY_LENGTH), 0)
    window.add(bytes(KEY_LENGTH - 1) + b"\1", 0)
    assert window.find(bytes(KEY_LENGTH)) == 0
    assert window.find(bytes(KEY_LENGTH - 1) + b"\1") == 0


KEYS = st.builds(key, st.integers(0, 6), st.integers(0, 12))
ALIKE = st.lists(st.sampled_from((0, 1)), min_size=KEY_LENGTH, max_size=KEY_LENGTH).map(bytes)


@given(st.lists(st.tuples(KEYS | ALIKE, st.booleans()), max_size=60), KEYS | ALIKE)
def test_it_finds_the_last_16_and_is_never_sure_of_one_it_dropped(
    added: list[tuple[bytes, bool]], asked: bytes
) -> None:
    """Against a plain list, stored and opened again at random places."""
    window, recent, seen = Window(), [], set()
    for version, (one, store) in enumerate(added, 1):
        window.add(one, version)
        recent.append((one, version))
        seen.add(one)
        if store:
            window = Window(window.encode())
            del recent[:-WINDOW_LENGTH]
    for one in {asked, *seen}:
        found = [version for other, version in recent if other == one]
        assert window.find(one) == (found[-1] if found else None)
        if one in seen and not found:
            assert not window.surely_knows(one)
