"""The journal on a real PostgreSQL: a batch goes in once, whole, or not at all."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
import trio
from conftest import Stores
from store_batches import (
    COLUMNS,
    NOW,
    batch,
    changed,
    column,
    counts,
    new_batch_id,
    new_cards,
    refusal,
    request,
)

from rules.identity import request_key
from rules.ledger import Link
from rules.requests import Operation
from rules.responses import ReversalState
from switch.journal.bridge import Connection
from switch.journal.journal import (
    _APPEND,
    BatchRejected,
    HistoryQuery,
    JournalDown,
    JournalSession,
    Outcome,
)
from switch.journal.rows import CardRow

Sessions = Callable[..., JournalSession]
WAIT_S = 10


@pytest.fixture
async def session(stores: Stores, loop: None) -> AsyncIterator[Sessions]:
    """Makes sessions as lanes have them, under the switch's own role."""
    opened: list[JournalSession] = []

    def make(run: int = 5, **options: Any) -> JournalSession:
        opened.append(JournalSession(stores.app_url, run, **options))
        return opened[-1]

    yield make
    for one in opened:
        await one.close()


@pytest.fixture
async def other(stores: Stores, loop: None) -> AsyncIterator[Connection]:
    """A second session of the owner: the one that holds locks."""
    connection = await Connection.open(stores.owner_url, timeout_s=10)
    yield connection
    connection.discard()


async def backend(journal: JournalSession) -> int:
    return int((await journal.rows("select pg_backend_pid() as pid"))[0]["pid"])


async def until_waiting(owner: Connection, pid: int, event_type: str = "Lock") -> None:
    """Until this backend stands in a wait of this type."""
    with trio.fail_after(WAIT_S):
        while True:
            found = await owner.rows(
                "select 1 from pg_stat_activity where pid = $1"
                " and (wait_event_type = $2 or wait_event = $2)",
                pid,
                event_type,
            )
            if found:
                return
            await trio.sleep(0.005)


async def until_in_doubt(journal: JournalSession) -> None:
    with trio.fail_after(WAIT_S):
        while not journal.outcomes_unknown:
            await trio.sleep(0.005)


async def hold(other: Connection, card_id: int) -> None:
    """Lock a card's row from outside."""
    await other.script("begin")
    await other.rows("select 1 from card_state where card_id = $1 for update", card_id)


async def state_of(owner: Connection, card_id: int) -> tuple[int, int, int]:
    found = await owner.rows(
        "select version, batch_id, ecash_available from card_state where card_id = $1", card_id
    )
    return tuple(found[0])  # type: ignore[return-value]


class Answers:
    """What appends in the background returned."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    async def append(self, journal: JournalSession, arguments: tuple[Any, ...]) -> None:
        self.outcomes.append(await journal.append(arguments))


# -- in it goes ---------------------------------------------------------------------------------


def test_the_parameters_are_those_of_the_function() -> None:
    assert len(batch({})) == len(COLUMNS)
    assert _APPEND.count("$") == len(COLUMNS)


async def test_a_batch_goes_in_whole(owner: Connection, session: Sessions) -> None:
    rows = await new_cards(owner, 2)
    first, second = rows
    sale = request(Operation.REDEEM, 30)
    arguments = batch(rows, {first: [request(amount_minor=100), sale], second: [request()]})
    journal = session()
    assert await journal.append(arguments) is Outcome.COMMITTED
    batch_id = column(arguments, "p_batch_id")
    assert await counts(owner, arguments) == (3, 3, 0)
    assert await state_of(owner, first) == (2, batch_id, 70)
    assert await state_of(owner, second) == (1, batch_id, 100)
    links = await owner.rows(
        "select version, prev_batch_id, request_key, amount_minor, available_after, posted_at"
        " from link where card_id = $1 order by version",
        first,
    )
    assert [tuple(link)[:2] for link in links] == [(1, 0), (2, batch_id)]
    assert [link["amount_minor"] for link in links] == [100, -30]
    assert [link["available_after"] for link in links] == [100, 70]
    assert links[1]["request_key"] == sale.key
    assert {link["posted_at"] for link in links} == {NOW}
    posting = await owner.rows(
        "select debit_kind, debit_id, credit_kind, credit_id, amount_minor, currency from posting"
        " where card_id = $1 and n = 2",
        first,
    )
    assert [tuple(one) for one in posting] == [(1, first, 2, 1, 30, "978")]
    after = await journal.read_cards([first, second, -1])
    assert set(after) == {first, second}
    again = batch(after, {first: [request(Operation.REDEEM, 70)], second: []})
    assert column(again, "l_version") == (3,)
    assert await journal.append(again) is Outcome.COMMITTED
    assert (await state_of(owner, first))[2] == 0


async def test_refusals_alone_go_in_and_meet_themselves(
    owner: Connection, session: Sessions
) -> None:
    arguments = batch({}, refusals=[refusal(), refusal()])
    journal = session()
    assert await journal.append(arguments) is Outcome.COMMITTED
    assert await journal.append(arguments) in (Outcome.COMMITTED, Outcome.MET_ITSELF)
    assert await counts(owner, arguments) == (0, 0, 2)


# -- the same batch again -----------------------------------------------------------------------


async def test_a_batch_sent_again_meets_itself(owner: Connection, session: Sessions) -> None:
    rows = await new_cards(owner, 3)
    arguments = batch(rows, refusals=[refusal()])
    assert await session().append(arguments) is Outcome.COMMITTED
    assert await session().append(arguments) is Outcome.MET_ITSELF
    assert await counts(owner, arguments) == (3, 3, 1)


async def test_it_meets_itself_also_when_others_have_gone_on_from_there(
    owner: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 2)
    journal = session()
    arguments = batch(rows)
    await journal.append(arguments)
    later = batch(await journal.read_cards(list(rows)))
    assert await journal.append(later) is Outcome.COMMITTED
    assert await journal.append(arguments) is Outcome.MET_ITSELF
    for card_id in rows:
        assert await state_of(owner, card_id) == (2, column(later, "p_batch_id"), 200)


async def test_a_connection_killed_in_the_middle_costs_nothing(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 2)
    arguments = batch(rows, refusals=[refusal()])
    downs: list[str] = []
    journal = session(on_down=downs.append)
    pid = await backend(journal)
    await hold(other, max(rows))
    answers = Answers()
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.append, journal, arguments)
            await until_waiting(owner, pid)
            assert await owner.value("select pg_terminate_backend($1)", pid)
            await until_in_doubt(journal)
            assert answers.outcomes == []
            await other.script("rollback")
    assert answers.outcomes == [Outcome.COMMITTED]
    assert journal.outcomes_unknown == 1
    assert downs
    assert await counts(owner, arguments) == (2, 2, 1)
    assert await backend(journal) != pid


async def test_the_first_attempt_lives_on_while_the_second_waits_behind_it(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    """The client's end is gone, the server's is not: the old backend still commits."""
    rows = await new_cards(owner, 2)
    arguments = batch(rows)
    journal = session()
    pid = await backend(journal)
    await hold(other, min(rows))
    answers = Answers()
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.append, journal, arguments)
            await until_waiting(owner, pid)
            assert journal._connection is not None
            journal._connection.discard()
            await until_in_doubt(journal)
            second = 0
            while not second:
                found = await owner.rows(
                    "select pid from pg_stat_activity where wait_event_type = 'Lock' and pid <> $1"
                    " and query like 'select append_batch%'",
                    pid,
                )
                second = found[0]["pid"] if found else 0
                await trio.sleep(0.005)
            assert answers.outcomes == []
            await other.script("rollback")
    # one of the two attempts went in, and the one that was listened to knows
    assert answers.outcomes[0] in (Outcome.COMMITTED, Outcome.MET_ITSELF)
    assert await counts(owner, arguments) == (2, 2, 0)
    assert await owner.rows("select 1 from barrier where run = 5")


async def test_two_attempts_at_once_go_in_once(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 2)
    arguments = batch(rows, refusals=[refusal()])
    both = [session(), session()]
    pids = [await backend(one) for one in both]
    await hold(other, min(rows))
    answers = Answers()
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            for journal, pid in zip(both, pids, strict=True):
                nursery.start_soon(answers.append, journal, arguments)
                await until_waiting(owner, pid)
            await other.script("rollback")
    assert sorted(answers.outcomes) == [Outcome.COMMITTED, Outcome.MET_ITSELF]
    assert await counts(owner, arguments) == (2, 2, 1)


async def test_a_doubt_that_ends_at_a_foreign_state_says_so(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    """Both attempts stand behind a batch of somebody else: neither can ever go in."""
    rows = await new_cards(owner, 2)
    card_id = min(rows)
    mine = batch(rows, refusals=[refusal()])
    journal = session()
    pid = await backend(journal)
    foreign = batch({card_id: rows[card_id]})
    answers = Answers()
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            await other.script("begin")
            assert await other.value(_APPEND, *foreign) == Outcome.COMMITTED
            nursery.start_soon(answers.append, journal, mine)
            await until_waiting(owner, pid)
            await owner.value("select pg_terminate_backend($1)", pid)
            await until_in_doubt(journal)
            await other.script("commit")
    assert answers.outcomes == [Outcome.STALE]
    assert await counts(owner, mine) == (0, 0, 0)


# -- stale --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stale_at", [0, 1, 2])
async def test_one_stale_card_refuses_the_whole_batch(
    owner: Connection, session: Sessions, stale_at: int
) -> None:
    rows = await new_cards(owner, 3)
    card_id = list(rows)[stale_at]
    journal = session()
    foreign = batch({card_id: rows[card_id]}, [request(amount_minor=1)])
    assert await journal.append(foreign) is Outcome.COMMITTED
    stale = batch(rows, refusals=[refusal()])
    assert await journal.append(stale) is Outcome.STALE
    assert await counts(owner, stale) == (0, 0, 0)
    for other_id in rows:
        mine = (1, column(foreign, "p_batch_id"), 1) if other_id == card_id else (0, 0, 0)
        assert await state_of(owner, other_id) == mine
    # and again: it never will be in
    assert await journal.append(stale) is Outcome.STALE


async def test_the_right_version_written_by_another_batch_is_stale(
    owner: Connection, session: Sessions
) -> None:
    """A cache that ran ahead of a lost commit: same version, another history."""
    rows = await new_cards(owner, 1)
    (card_id,) = rows
    journal = session()
    lost = batch(rows, [request(amount_minor=5000)])  # never sent
    kept = batch(rows, [request(amount_minor=1)])
    assert await journal.append(kept) is Outcome.COMMITTED
    ahead = CardRow(rows[card_id].facts, column(lost, "c_state")[0], column(lost, "c_window")[0])
    built_on_it = batch({card_id: ahead}, [request(Operation.REDEEM, 5000)])
    assert column(built_on_it, "c_version_from") == (1,)
    assert await journal.append(built_on_it) is Outcome.STALE
    assert await counts(owner, built_on_it) == (0, 0, 0)
    assert (await state_of(owner, card_id))[2] == 1


async def test_a_version_of_the_future_is_stale(owner: Connection, session: Sessions) -> None:
    rows = await new_cards(owner, 1)
    arguments = changed(batch(rows), "c_version_from", 0, 7)
    assert await session().append(arguments) is Outcome.STALE
    assert await counts(owner, arguments) == (0, 0, 0)


async def test_a_card_that_does_not_exist_is_stale(owner: Connection, session: Sessions) -> None:
    rows = await new_cards(owner, 2)
    arguments = changed(batch(rows), "c_card", 1, 999_999_999)
    assert await session().append(arguments) is Outcome.STALE
    assert await counts(owner, arguments) == (0, 0, 0)


# -- all or nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("c_ecash_available", 0, -1),
        ("c_ecash_available", 1, -1),
        ("c_points_held", 2, -5),
        ("l_after", 2, -1),
        ("l_version", 1, 0),
        ("p_amount", 0, 0),
        ("p_amount", 2, -100),
        ("l_card", 0, None),
        ("l_tx", 1, "far too long for a transaction id"),
        ("r_mti", 0, "020000"),
        ("c_version", 0, 2**40),  # does not even leave this side
    ],
)
async def test_one_bad_row_spoils_its_batch_and_leaves_nothing(
    owner: Connection, session: Sessions, name: str, at: int, value: object
) -> None:
    rows = await new_cards(owner, 3)
    good = batch(rows, refusals=[refusal()])
    journal = session()
    with trio.fail_after(WAIT_S), pytest.raises(BatchRejected):
        await journal.append(changed(good, name, at, value))
    assert journal.outcomes_unknown == 0
    assert await counts(owner, good) == (0, 0, 0)
    for card_id in rows:
        assert await state_of(owner, card_id) == (0, 0, 0)
    assert await journal.append(good) is Outcome.COMMITTED  # the session is still good


@pytest.mark.parametrize("state", ["XX001", "58030", "P0001", "22012"])
async def test_a_fault_of_the_server_at_one_row_is_no_doubt(
    owner: Connection, session: Sessions, state: str
) -> None:
    """A damaged page raises XX001 each time it is read: rolled back each time, so no riddle."""
    rows = await new_cards(owner, 2)
    bad = max(rows)
    await owner.script(
        f"create function broken_{bad}() returns trigger language plpgsql as"
        f" $$ begin raise exception 'bad page' using errcode = '{state}'; end $$;"
        f"create trigger broken_{bad} before insert on link for each row"
        f" when (new.card_id = {bad}) execute function broken_{bad}()"
    )
    try:
        arguments = batch(rows)
        journal = session()
        with trio.fail_after(WAIT_S), pytest.raises(BatchRejected):
            await journal.append(arguments)
        assert journal.outcomes_unknown == 0
        assert await counts(owner, arguments) == (0, 0, 0)
    finally:
        await owner.script(f"drop trigger broken_{bad} on link; drop function broken_{bad}()")


async def test_a_batch_that_an_operator_cancels_is_decided_again(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 1)
    arguments = batch(rows)
    journal = session()
    pid = await backend(journal)
    await hold(other, min(rows))
    answers = Answers()
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.append, journal, arguments)
            await until_waiting(owner, pid)
            await owner.value("select pg_cancel_backend($1)", pid)
    assert answers.outcomes == [Outcome.STALE]
    await other.script("rollback")
    assert await counts(owner, arguments) == (0, 0, 0)


async def test_a_cancelled_second_attempt_is_still_a_doubt(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    """The first may yet go in: nothing may be concluded from the end of the second."""
    rows = await new_cards(owner, 1)
    arguments = batch(rows)
    journal = session()
    pid = await backend(journal)
    await hold(other, min(rows))
    answers = Answers()
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.append, journal, arguments)
            await until_waiting(owner, pid)
            assert journal._connection is not None
            journal._connection.discard()
            await until_in_doubt(journal)
            cancelled = False
            while not cancelled:
                cancelled = bool(
                    await owner.rows(
                        "select pg_cancel_backend(pid) from pg_stat_activity where pid <> $1"
                        " and wait_event_type = 'Lock' and query like 'select append_batch%'",
                        pid,
                    )
                )
                await trio.sleep(0.005)
            await trio.sleep(0.05)
            assert answers.outcomes == []
            await other.script("rollback")
    assert answers.outcomes[0] in (Outcome.COMMITTED, Outcome.MET_ITSELF)
    assert await counts(owner, arguments) == (1, 1, 0)


# -- locks --------------------------------------------------------------------------------------


def backwards(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same batch with its cards in falling order."""
    turned = list(arguments)
    for place, name in enumerate(COLUMNS):
        if name.startswith("c_"):
            turned[place] = list(reversed(turned[place]))
    return tuple(turned)


async def test_batches_with_the_same_cards_in_any_order_never_deadlock(
    stores: Stores, owner: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 40)
    before = await deadlocks(owner)
    raised: list[BaseException] = []
    outcomes: list[int] = []

    async def attempt(connection: Connection, arguments: tuple[Any, ...]) -> None:
        try:
            outcomes.append(await connection.value(_APPEND, *arguments))
        except asyncpg.PostgresError as error:
            raised.append(error)

    both = [await Connection.open(stores.app_url) for _ in range(2)]
    reader = session()
    for _ in range(40):
        current = await reader.read_cards(list(rows))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, both[0], batch(current))
            nursery.start_soon(attempt, both[1], backwards(batch(current)))
    for connection in both:
        await connection.close()
    assert raised == []
    assert sorted(set(outcomes)) == [Outcome.COMMITTED, Outcome.STALE]
    assert outcomes.count(Outcome.COMMITTED) == 40
    assert await deadlocks(owner) == before


async def deadlocks(owner: Connection) -> int:
    query = "select deadlocks from pg_stat_database where datname = current_database()"
    return int(await owner.value(query))


async def test_batches_without_a_common_card_do_not_wait_for_each_other(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 2)
    blocked, free = rows
    await hold(other, blocked)
    with trio.fail_after(WAIT_S):
        assert await session().append(batch({free: rows[free]})) is Outcome.COMMITTED
    await other.script("rollback")


# -- rights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "delete from link",
        "delete from posting",
        "delete from refusal",
        "delete from card_state",
        "delete from barrier",
        "truncate link",
        "truncate posting",
        "truncate card_state",
        "update link set amount_minor = 0",
        "update link set available_after = 1",
        "update posting set amount_minor = 1",
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
            " where i.inhparent in ('link'::regclass, 'posting'::regclass)"
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
    parts = await owner.rows(
        "select distinct tableoid::regclass::text as part from posting where card_id = $1", card_id
    )
    assert {part["part"] for part in parts} == {f"posting_{month:%Y_%m}" for month in months}


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
    from rules.authorize import decide
    from rules.booking import Moment, Policy
    from rules.cards import WorkingCard
    from switch.journal.rows import batch_arguments

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


# -- a server that does not serve ---------------------------------------------------------------


async def test_no_server_is_told_at_once(loop: None) -> None:
    downs: list[str] = []
    url = "postgresql://nobody@/nothing?host=/nonexistent&port=1"
    journal = JournalSession(url, 1, on_down=downs.append)
    with trio.fail_after(WAIT_S):
        with pytest.raises(JournalDown):
            await journal.append(batch({}, refusals=[refusal()]))
        with pytest.raises(JournalDown):
            await journal.read_cards([1])
    assert len(downs) == 2


async def test_a_read_that_takes_too_long_is_a_server_that_is_down(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 1)
    journal = session(read_timeout_s=0.2)
    await journal.connect()
    await other.script("begin; lock table card_state in access exclusive mode")
    with trio.fail_after(WAIT_S), pytest.raises(JournalDown):
        await journal.read_cards(list(rows))
    await other.script("rollback")
    assert set(await journal.read_cards(list(rows))) == set(rows)


async def test_a_server_that_only_reads_does_nothing_and_says_so(
    owner: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 1)
    arguments = batch(rows)
    await owner.script("alter role cardswitch_app set default_transaction_read_only = on")
    try:
        journal = session()
        with trio.fail_after(WAIT_S), pytest.raises(JournalDown):
            await journal.append(arguments)
        assert journal.outcomes_unknown == 0
    finally:
        await owner.script("alter role cardswitch_app reset default_transaction_read_only")
    assert await session().append(arguments) is Outcome.COMMITTED


# -- a standby that is not there ----------------------------------------------------------------


@pytest.fixture
async def no_standby(owner: Connection) -> AsyncIterator[Callable[[], Any]]:
    """Commits wait for a standby that nobody has; the function brings it back."""

    async def let_go() -> None:
        await owner.script("alter system reset synchronous_standby_names")
        await owner.value("select pg_reload_conf()")

    await owner.script("set synchronous_commit = local")
    await owner.script("alter system set synchronous_standby_names = 'nosuch'")
    await owner.value("select pg_reload_conf()")
    yield let_go
    await let_go()


async def until_synchronous(journal: JournalSession) -> None:
    """Until this session's backend has read the setting."""
    with trio.fail_after(WAIT_S):
        while True:
            found = await journal.rows("show synchronous_standby_names")
            if found[0][0] == "nosuch":
                return
            await trio.sleep(0.01)


@pytest.mark.parametrize("way", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_commit_cut_short_is_no_commit_until_a_barrier_is_durable(
    owner: Connection, session: Sessions, no_standby: Callable[[], Any], way: str
) -> None:
    """The row is there and visible, and on no standby: a failover would lose it."""
    rows = await new_cards(owner, 1)
    (card_id,) = rows
    arguments = batch(rows)
    run = new_batch_id()
    journal = session(run)
    pid = await backend(journal)
    await until_synchronous(journal)
    answers = Answers()
    with trio.fail_after(2 * WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.append, journal, arguments)
            await until_waiting(owner, pid, "SyncRep")
            await owner.value(f"select {way}($1)", pid)
            while (await state_of(owner, card_id))[0] == 0:
                await trio.sleep(0.005)
            await trio.sleep(1)
            assert answers.outcomes == [], "told of a commit that a failover would lose"
            await no_standby()
    expected = Outcome.COMMITTED if way == "pg_cancel_backend" else Outcome.MET_ITSELF
    assert answers.outcomes == [expected]
    assert await counts(owner, arguments) == (1, 1, 0)
    assert len(await owner.rows("select 1 from barrier where run = $1", run)) == 1


async def test_a_barrier_that_is_cut_short_is_written_again(
    owner: Connection, session: Sessions, no_standby: Callable[[], Any]
) -> None:
    rows = await new_cards(owner, 1)
    journal = session(new_batch_id())
    pid = await backend(journal)
    await until_synchronous(journal)
    answers = Answers()
    with trio.fail_after(2 * WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.append, journal, batch(rows))
            for _ in range(3):
                await until_waiting(owner, pid, "SyncRep")
                await owner.value("select pg_cancel_backend($1)", pid)
                await trio.sleep(0.1)
            await until_waiting(owner, pid, "SyncRep")
            assert answers.outcomes == []
            await no_standby()
    assert answers.outcomes == [Outcome.COMMITTED]
