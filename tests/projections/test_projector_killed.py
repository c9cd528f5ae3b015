"""The projector killed at every statement of its steps; projections against sums made otherwise."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from journal_world import APPEND, World, project
from test_projector import agrees, busy

from rules.requests import Operation
from switch.journal.bridge import STORE_ERRORS, Connection
from switch.projections.projector import Overtaken, step
from switch.projections.reading import READER_SETTINGS
from switch.projections.sealing import Sealer
from switch.verify import verify

LIMIT = 7


class Mortal:
    """A session whose backend is ended at its n-th statement, before or after it was done."""

    def __init__(self, raw: Any, killer: Any, at: int, *, done: bool) -> None:
        self._raw = raw
        self._killer = killer
        self._left = at
        self._done = done
        self.killed = False

    def transaction(self) -> Any:
        return self._raw.transaction()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._raw, name)

        async def call(*args: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._done:
                await self._kill()
            result = await method(*args)
            if self._left == 0 and self._done:
                await self._kill()
            return result

        return call

    async def _kill(self) -> None:
        self.killed = True
        await self._killer.fetchval(
            "select pg_terminate_backend($1, 5000)", self._raw.get_server_pid()
        )


async def killed_step(url: str, owner: Connection, sealer: Sealer, at: int, *, done: bool) -> bool:
    """A step that dies at a statement; False when it has not that many."""
    connection = await Connection.open(url, timeout_s=10)
    await connection.script(READER_SETTINGS)

    async def both(killer: Any) -> bool:
        async def run(raw: Any) -> bool:
            mortal = Mortal(raw, killer, at, done=done)
            try:
                await step(mortal, sealer, limit=LIMIT)
            except (*STORE_ERRORS, Overtaken):
                assert mortal.killed
            return mortal.killed

        return await run(connection._raw)

    try:
        return await owner.unit(both)
    finally:
        connection.discard()


async def test_killed_at_every_statement_it_counts_each_link_once(
    world: World, url: str, app_url: str, app: Connection, sealer: Sealer
) -> None:
    cards = await world.add_cards(5)
    await busy(world, cards, 40)
    died = 0
    for done in (False, True):
        at = 1
        while await killed_step(app_url, world.connection, sealer, at, done=done):
            died += 1
            at += 1
    assert died >= 16  # a step has some ten statements
    await project(app, sealer, limit=LIMIT)
    await agrees(world, app)
    links = await app.value("select count(*) from link")
    assert await app.value("select links from projection_position") == links
    assert (await verify(url, sealer=sealer, full=True))[0].findings == []


async def test_many_long_transactions_that_commit_late_and_in_any_order(
    url: str, world: World, app: Connection, sealer: Sealer
) -> None:
    """Batches with lower transaction numbers come after higher ones: none is passed by."""
    cards = await world.add_cards(8)
    slow = [await Connection.open(url, timeout_s=10) for _ in range(4)]
    for number, connection in enumerate(slow):
        arguments, _ = world.decide([(cards[number], world.request(Operation.LOAD, 100))])
        await connection.script("begin")
        assert await connection.value(APPEND, *arguments) == 0
        await world.do((cards[4 + number], world.request(Operation.LOAD, 10)))
        await project(app, sealer)
    assert await app.value("select links from projection_position") == 0
    for number in (2, 3, 0, 1):
        await slow[number].script("commit")
        await project(app, sealer)
    assert await app.value("select links from projection_position") == 8
    await agrees(world, app)
    assert (await verify(url, sealer=sealer, full=True))[0].findings == []
    for connection in slow:
        await connection.close()


async def test_statements_are_what_the_cards_holder_saw(world: World, app: Connection) -> None:
    """Each link goes on from the one before it, a line per posting; their sum is the balance."""
    cards = await world.add_cards(4)
    await busy(world, cards, 40, seed=5)
    await project(app)
    balances: Counter[int] = Counter()
    held: Counter[int] = Counter()
    links: Counter[int] = Counter()
    rows = await app.rows("select * from card_statement order by card_id, version")
    for (card_id, version), group in itertools.groupby(rows, lambda row: tuple(row)[:2]):
        lines = list(group)
        links[card_id] += 1
        assert version == links[card_id]
        balances[card_id] += lines[0]["amount_minor"]
        assert {line["available_after"] for line in lines} == {balances[card_id]}
        if lines[0]["response"] != 0:
            assert [(line["amount_minor"], line["posted_minor"]) for line in lines] == [(0, None)]
        mine = f"card:{card_id}"
        credited = sum(line["posted_minor"] for line in lines if line["credit"] == mine)
        debited = sum(line["posted_minor"] for line in lines if line["debit"] == mine)
        held[card_id] += credited - debited - lines[0]["amount_minor"]
        assert lines[0]["held_after"] == held[card_id]
    rows = await app.rows("select card_id, ecash_there from card_life")
    assert {row["card_id"]: row["ecash_there"] for row in rows} == {
        card_id: balances[card_id] > 0 for card_id in links
    }


async def test_programme_balances_are_what_is_owed_to_all_cards(
    world: World, app: Connection
) -> None:
    cards = await world.add_cards(4)
    await busy(world, cards, 30, seed=9)
    await project(app)
    owed = sum(
        card.state.ecash.available_minor + card.state.ecash.held_minor
        for card in world.cards.values()
    )
    assert owed == await app.value(
        "select sum(credits_minor - debits_minor)::bigint from programme_balance"
        " where account_kind = 1"
    )
    liability = "select sum(available_minor + held_minor)::bigint from liability"
    assert await app.value(liability) == owed
    merchants = "select sum(credits_minor - debits_minor)::bigint from merchant_balance"
    assert await app.value(merchants) == -owed
