"""Entries of a token table before it is a file; more about the file in test_fastpath_tokens.py."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from fastpath.token_entries import TokenEntries
from fastpath.tokens import TokenKey, TokenTable

KEY = TokenKey(bytes(range(16)))
NUMBERS = [f"9500001{n:09d}" for n in range(3000)]
PAIRS = [(KEY.digest(number), card) for card, number in enumerate(NUMBERS, 1)]


def packed(pairs: list[tuple[bytes, int]]) -> bytes:
    return b"".join(digest + card.to_bytes(4) for digest, card in pairs)


def test_packed_or_one_by_one_it_is_the_same_table(tmp_path: Path) -> None:
    one_by_one, in_pages = TokenEntries(), TokenEntries()
    for pair in PAIRS:
        one_by_one.add(*pair)
    for first in range(0, len(PAIRS), 700):
        in_pages.add_packed(packed(PAIRS[first : first + 700]))
    in_pages.add_packed(b"")
    assert len(one_by_one) == len(in_pages) == len(PAIRS)
    one_by_one.write(tmp_path / "one")
    in_pages.write(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert TokenTable.open(tmp_path / "two", KEY).get_many(NUMBERS) == list(range(1, 3001))


def test_entries_may_be_written_again_with_more(tmp_path: Path) -> None:
    entries = TokenEntries()
    entries.add_packed(packed(PAIRS[:10]))
    entries.write(tmp_path / "t")
    entries.add_packed(packed(PAIRS[10:20]))
    entries.write(tmp_path / "t")
    assert len(TokenTable.open(tmp_path / "t", KEY)) == 20


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (packed(PAIRS[:2]) + b"x", "16 bytes"),
        (packed(PAIRS[:2])[:-1], "16 bytes"),
        (packed([*PAIRS[:2], (bytes(12), 0)]), "card id"),
    ],
)
def test_a_page_is_taken_whole_or_not_at_all(wrong: bytes, reason: str) -> None:
    entries = TokenEntries()
    entries.add(*PAIRS[5])
    with pytest.raises(ValueError, match=reason):
        entries.add_packed(wrong)
    assert len(entries) == 1


def test_a_digest_that_comes_twice_is_found(tmp_path: Path) -> None:
    entries = TokenEntries()
    entries.add_packed(packed([PAIRS[0], PAIRS[1], (PAIRS[0][0], 77)]))
    with pytest.raises(ValueError, match="twice"):
        entries.write(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_they_are_not_copied() -> None:
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            take(TokenEntries())
