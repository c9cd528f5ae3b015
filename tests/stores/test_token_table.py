"""The token table, made of the cards that a real Postgres holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastpath.tokens import TokenKey, TokenTable
from switch.journal.bridge import Connection
from switch.prepare import build_token_table

KEY = TokenKey(bytes(range(16)))
NUMBERS = [f"95000000000{n:05d}" for n in range(40)]


@pytest.mark.parametrize("cards_per_read", [1, 7, 40, 50_000])
async def test_every_page_of_cards_is_in_it(
    owner: Connection, tmp_path: Path, cards_per_read: int
) -> None:
    known = {number: 7_000_000 + 3 * n for n, number in enumerate(NUMBERS)}
    await owner.script("begin")
    try:
        await owner.rows("delete from card_state returning 1 as gone")
        await owner.rows("delete from card returning 1 as gone")
        columns = ("card_id", "digest", "programme_id", "expiry")
        rows = [(card, KEY.digest(number), 1, "9912") for number, card in known.items()]
        # a merchant's chain of suspense: no card
        rows.append((-1, bytes(12), 1, "9912"))
        await owner.copy("card", columns, rows)
        path = tmp_path / "tokens.tab"
        await build_token_table(owner, path, cards_per_read=cards_per_read)
    finally:
        await owner.script("rollback")
    table = TokenTable.open(path, KEY)
    assert len(table) == len(known)
    assert table.get_many(list(known)) == list(known.values())


async def test_no_card_yet(owner: Connection, tmp_path: Path) -> None:
    await owner.script("begin")
    try:
        await owner.rows("delete from card_state returning 1 as gone")
        await owner.rows("delete from card returning 1 as gone")
        await build_token_table(owner, tmp_path / "tokens.tab")
    finally:
        await owner.script("rollback")
    assert len(TokenTable.open(tmp_path / "tokens.tab", KEY)) == 0
