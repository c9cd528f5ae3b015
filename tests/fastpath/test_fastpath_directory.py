"""The table of terminals: who is found, and what is refused."""

import copy
import pickle
import random

import pytest

from fastpath.directory import TerminalKeyTable
from fastpath.mac import MacAlgorithm, MacKey

KEY = MacKey(MacAlgorithm.AES_CMAC, bytes(16))


def test_terminals_are_found_whatever_their_blanks() -> None:
    table = TerminalKeyTable([("T1", [(1, KEY, None)], "owner"), (" 00000001 ", [], None)])
    assert len(table) == table.count == 2
    for code in ("T1", " T1", "T1      ", "00000001"):
        assert code in table
    for code in ("T2", "t1", "T 1", "", " ", "0000001", "T1\0", "\u0130", "T1" * 9):
        assert code not in table


def test_many_terminals_are_told_apart() -> None:
    chance = random.Random(1)
    codes = {f"{chance.randrange(10**8):08}" for _ in range(5000)}
    there = sorted(codes)[::2]
    table = TerminalKeyTable((code, [], code) for code in there)
    assert {code for code in codes if code in table} == set(there)
    assert "00000001" not in TerminalKeyTable([])


@pytest.mark.parametrize(
    ("terminals", "reason"),
    [
        ([("", [], None)], "1 to 16 characters"),
        ([("   ", [], None)], "1 to 16 characters"),
        ([("x" * 17, [], None)], "1 to 16 characters"),
        ([("T1", [], None), (" T1 ", [], None)], "there twice"),
        ([("T1", [(0, KEY, None)], None)], "not between 1 and 99"),
        ([("T1", [(100, KEY, None)], None)], "not between 1 and 99"),
        ([("T1", [(n, KEY, None) for n in range(1, 6)], None)], "at most 4 keys"),
    ],
)
def test_what_cannot_be_is_refused(terminals, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        TerminalKeyTable(terminals)


@pytest.mark.parametrize("wrong", [None, b"0123456789abcdef", "key"])
def test_keys_are_mac_keys(wrong) -> None:
    with pytest.raises(TypeError):
        TerminalKeyTable([("T1", [(1, wrong, None)], None)])


def test_it_gives_nothing_away() -> None:
    table = TerminalKeyTable([("T1", [(1, KEY, None)], "owner")])
    assert repr(table) == "TerminalKeyTable(1 terminals)"
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            take(table)
    assert {name for name in dir(table) if not name.startswith("_")} == {"count"}
