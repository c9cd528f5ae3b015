"""Card to card in what is read from the journal, and in what `verify` finds when a half is gone."""

from __future__ import annotations

import msgspec
import pytest
from journal_world import World, project

from rules.ledger import AccountKind
from rules.requests import CardRequest, Operation
from switch.journal.bridge import Connection
from switch.journal.rows import LinkBody
from switch.projections.sealing import Sealer
from switch.verify import chains, verify

ONE, TWO = 1, 2
WAY = "each batch leaves nothing between two cards"


@pytest.fixture
async def sent(world: World) -> CardRequest:
    """300 of 1000 went from one card to the other, and 100 of it came back."""
    await world.add_cards(2)
    await world.do((ONE, world.request(Operation.LOAD, 1000)))
    request = world.request(Operation.TRANSFER, 300)
    await world.do((ONE, request, TWO), (TWO, world.request(Operation.REDEEM, 10)))
    undone = world.reversal(request, final_amount_minor=200)
    assert len(await world.do((ONE, undone, TWO))) == 2
    return request


async def findings(url: str, sealer: Sealer | None = None) -> list[tuple[str, int, int]]:
    report, _ = await verify(url, sealer=sealer, full=True)
    return [(found.check, found.card_id, found.version) for found in report.findings]


async def test_an_honest_transfer_holds(sent: CardRequest, url: str) -> None:
    assert await findings(url) == []


async def test_the_projections_follow(
    world: World, sent: CardRequest, app: Connection, sealer: Sealer
) -> None:
    assert await project(app, sealer, limit=3) == 6  # a step may end between two halves
    rows = await app.rows(
        "select debits_minor, credits_minor, postings from programme_balance"
        " where account_kind = $1 and programme_id = 1 and currency = '978'",
        AccountKind.TRANSFER,
    )
    assert [tuple(row) for row in rows] == [(400, 400, 4)]
    owed = await app.rows(
        "select sum(available_minor)::bigint, sum(held_minor)::bigint from liability"
    )
    assert tuple(owed[0]) == (990, 0)
    told = await app.rows(
        "select card_id, amount_minor, debit, credit from card_statement"
        " where operation in (30, 31) order by card_id"
    )
    assert [tuple(row) for row in told] == [
        (ONE, -300, "card:1", "transfer:1"),
        (TWO, 300, "transfer:1", "card:2"),
    ]


async def test_half_of_the_postings_is_missed(world: World, sent: CardRequest, url: str) -> None:
    await world.connection.script(
        "update link set postings = '{}' where card_id = 2 and postings[1] = 9"
    )
    assert (WAY, ONE, 0) in await findings(url)


async def test_half_of_the_links_is_missed(world: World, sent: CardRequest, url: str) -> None:
    await world.connection.script("delete from link where card_id = 2 and operation = 31")
    assert (chains.CHECK, ONE, 2) in await findings(url)


@pytest.mark.parametrize(
    "changes",
    [{"other_card_id": 7}, {"other_version": 3}, {"other_card_id": 0, "other_version": 0}],
    ids=str,
)
@pytest.mark.parametrize("card_id", [ONE, TWO])
async def test_a_link_that_names_another_half_is_named(
    world: World, sent: CardRequest, url: str, changes: dict[str, int], card_id: int
) -> None:
    where = "card_id = $1 and operation in (30, 31)"
    rows = await world.connection.rows(f"select version, body from link where {where}", card_id)
    body = msgspec.msgpack.decode(rows[0]["body"], type=LinkBody)
    wrong = msgspec.msgpack.encode(msgspec.structs.replace(body, **changes))
    await world.connection.rows(f"update link set body = $2 where {where}", card_id, wrong)
    assert (chains.CHECK, card_id, rows[0]["version"]) in await findings(url)
