"""Who may touch the journal, its months, and what is read back from it."""

from __future__ import annotations

import datetime
from typing import Any

import asyncpg
import pytest
import trio
from store_batches import (
    NOW,
    batch,
    counts,
    new_batch_id,
    new_cards,
    refusal,
    request,
)
from store_sessions import (
    WAIT_S,
    Sessions,
    Stores,
    state_of,
)

from rules.authorize import decide
from rules.booking import Moment, Policy
from rules.cards import WorkingCard
from rules.identity import request_key
from rules.ledger import Link
from rules.requests import Operation
from rules.responses import ReversalState
from switch.journal.bridge import Connection
from switch.journal.journal import (
    _APPEND,
    BatchRejected,
    HistoryQuery,
    Outcome,
)
from switch.journal.rows import CardRow, batch_arguments

# -- rights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "delete from link",
        "delete from refusal",
        "delete from card_state",
        "delete from barrier",
        "truncate link",
        "truncate card_state",
        "update link set amount_minor = 0",
        "update link set available_after = 1",
        "update link set postings = '{}'",
        "update refusal set rule = ''",
        "update card set face_value_minor = 1000000",
        "update terminal set enabled = true",
        "update installation set epoch = gen_random_uuid()",
        "insert into card_state select 1, 0, 0, 3, 5, 0, 0, 0, 0, 0, '', ''",
        "insert into card select 1, 'x', 1, '9912'",
        "drop table link",
        "alter table card_state drop constraint card_state_ecash_available_check",
        "alter table link disable trigger all",
        "create table mine (a int)",
        "set session_replication_role = replica",
        "set role owner",
    ],
)
async def test_the_switchs_role_cannot_change_the_past(
    session: Sessions, stores: Stores, loop: None, statement: str
) -> None:
    connection = await Connection.open(stores.app_url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.script(statement)
    finally:
        await connection.close()


async def test_it_cannot_reach_a_month_by_itself_either(stores: Stores, loop: None) -> None:
    connection = await Connection.open(stores.app_url)
    try:
        months = await connection.rows(
            "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
            " where i.inhparent in ('link'::regclass, 'refusal'::regclass)"
        )
        assert len(months) > 40
        for month in months[:3]:
            for statement in ("delete from {}", "truncate {}", "update {} set batch_id = 1"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.script(statement.format(month["relname"]))
    finally:
        await connection.close()


# -- months -------------------------------------------------------------------------------------


def last_moment_of_month(after: datetime.datetime) -> datetime.datetime:
    following = (after.replace(day=1) + datetime.timedelta(days=32)).replace(day=1)
    return following.replace(hour=0, minute=0, second=0) - datetime.timedelta(milliseconds=1)


async def test_a_chain_goes_on_over_the_end_of_a_month(
    owner: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 1)
    (card_id,) = rows
    journal = session()
    last = last_moment_of_month(NOW)
    first = last + datetime.timedelta(milliseconds=2)
    old = batch(rows, posted_at=last)
    assert await journal.append(old) is Outcome.COMMITTED
    new = batch(await journal.read_cards([card_id]), posted_at=first)
    assert await journal.append(new) is Outcome.COMMITTED
    # the old one sent again now belongs to the month it was made in, and meets itself there
    assert await journal.append(old) is Outcome.MET_ITSELF
    links = await owner.rows(
        "select month, tableoid::regclass::text as part from link where card_id = $1"
        " order by version",
        card_id,
    )
    months = [last.date().replace(day=1), first.date()]
    assert [link["month"] for link in links] == months
    assert [link["part"] for link in links] == [f"link_{month:%Y_%m}" for month in months]


async def test_a_month_that_was_not_made_refuses_and_writes_nothing(
    owner: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 1)
    far = NOW + datetime.timedelta(days=366 * 3)
    arguments = batch(rows, posted_at=far, refusals=[refusal()])
    with pytest.raises(BatchRejected):
        await session().append(arguments)
    assert await state_of(owner, min(rows)) == (0, 0, 0)
    assert await counts(owner, arguments) == (0, 0, 0)


async def test_months_are_made_ahead_and_counted(owner: Connection, session: Sessions) -> None:
    assert (await session().rows("select months_ahead() as ahead"))[0]["ahead"] == 24
    await owner.value("select ensure_months(26)")
    await owner.value("select ensure_months(26)")
    assert (await session().rows("select months_ahead() as ahead"))[0]["ahead"] == 26


# -- reading ------------------------------------------------------------------------------------

ALWAYS = NOW.date().replace(day=1) - datetime.timedelta(days=1)


async def test_links_are_read_back_as_they_were_decided(
    owner: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 1)
    (card_id,) = rows
    asked = request(amount_minor=1250)
    journal = session()
    await journal.append(batch(rows, [asked]))
    (link,) = await journal.read_history(HistoryQuery({asked.key}, {card_id}), ALWAYS)
    assert isinstance(link, Link)
    assert (link.card_id, link.version, link.key) == (card_id, 1, asked.key)
    assert link.fingerprint == asked.fingerprint
    assert link.operation is Operation.LOAD
    assert (link.requested_minor, link.amount_minor, link.effect_minor) == (1250, 1250, 1250)
    assert link.available_after_minor == 1250
    assert link.answer.transaction_id == asked.transaction_id
    assert link.answer.approval_code == asked.transaction_id[-6:]
    assert link.answer.balances.endswith("C000000001250")
    assert (link.terminal_id, link.merchant_id) == (1, 1)
    assert sum(move.amount_minor for move in link.moves) == 1250


async def test_history_is_found_by_key_by_tx_by_what_it_undid_and_under_other_cards(
    owner: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 3)
    first, second, third = rows
    journal = session()
    sale = request(Operation.REDEEM, 40)
    load, other_load = request(amount_minor=100), request(amount_minor=5)
    same_key = request(amount_minor=7, key=load.key)
    assert (
        await journal.append(
            batch(rows, {first: [load, sale, other_load], second: [same_key], third: [request()]})
        )
        is Outcome.COMMITTED
    )
    undo = request(Operation.REVERSAL, 40, original_key=sale.key)
    reader = session()
    current = await reader.read_cards([first])
    known = await reader.read_history(HistoryQuery({undo.key, sale.key}, {first}), ALWAYS)
    assert [link.version for link in known] == [2]
    undone = batch_with_history(first, current[first], known, undo)
    assert await journal.append(undone) is Outcome.COMMITTED

    async def found(query: HistoryQuery) -> list[tuple[int, int]]:
        links = await reader.read_history(query, ALWAYS)
        return sorted((link.card_id, link.version) for link in links)

    assert await found(HistoryQuery({sale.key})) == [(first, 2)]
    assert await found(HistoryQuery({load.key})) == [(first, 1), (second, 1)]
    assert await found(HistoryQuery(set(), {first})) == [(first, 4)]
    by_tx = HistoryQuery(set(), {first}, {other_load.transaction_id})
    assert await found(by_tx) == [(first, 3), (first, 4)]
    # a transaction id names a link of these cards only
    assert await found(HistoryQuery(set(), {second}, {other_load.transaction_id})) == []
    assert await found(HistoryQuery({request().key}, {third})) == []
    (reversal,) = [
        link
        for link in await reader.read_history(HistoryQuery(set(), {first}), ALWAYS)
        if link.version == 4
    ]
    assert reversal.undoes == 2
    assert reversal.answer.reversal_state is ReversalState.REVERSED


def batch_with_history(
    card_id: int, row: CardRow, known: list[Link], asked: Any
) -> tuple[Any, ...]:
    """One decision for which links of the journal must be at hand."""

    batch_id = new_batch_id()
    card = WorkingCard(card_id, row.facts, row.state, row.window)
    card.known = {link.version: link for link in known}
    decide(asked, card, Moment(int(NOW.timestamp()), f"{NOW:%y%m}", batch_id), Policy())
    return batch_arguments(batch_id, NOW, [card])


async def test_history_ends_at_the_oldest_month_asked_for(
    owner: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 1)
    (card_id,) = rows
    journal = session()
    asked = request(key=request_key(0, f"batch number {card_id}"))
    await journal.append(batch(rows, [asked]))
    this_month = NOW.date().replace(day=1)
    next_month = (this_month + datetime.timedelta(days=32)).replace(day=1)
    query = HistoryQuery({asked.key}, {card_id})
    assert len(await journal.read_history(query, this_month)) == 1
    assert await journal.read_history(query, next_month) == []


async def test_rows_are_read_as_committed_and_not_as_somebody_is_changing_them(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 1)
    (card_id,) = rows
    await other.script("begin")
    await other.value(_APPEND, *batch(rows))
    with trio.fail_after(WAIT_S):
        seen = await session().read_cards([card_id])
    assert seen[card_id].state == rows[card_id].state
    await other.script("commit")
    assert (await session().read_cards([card_id]))[card_id].state != rows[card_id].state
