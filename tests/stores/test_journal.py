"""The journal on a real PostgreSQL: a batch goes in once, whole, or not at all."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
import trio
from store_batches import (
    COLUMNS,
    NOW,
    batch,
    changed,
    column,
    counts,
    new_cards,
    refusal,
    request,
)
from store_sessions import (
    WAIT_S,
    Answers,
    Sessions,
    Stores,
    backend,
    hold,
    state_of,
    until_in_doubt,
    until_waiting,
)

from rules.requests import Operation
from switch.journal.bridge import Connection
from switch.journal.journal import (
    _APPEND,
    BatchRejected,
    JournalDown,
    JournalSession,
    Outcome,
)
from switch.journal.rows import CardRow

PURSES = ("ecash", "voucher", "points")

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


BAD_VALUES: list[tuple[str, object]] = [
    # each constraint
    *((f"c_{purse}_{part}", -1) for purse in PURSES for part in ("available", "held")),
    ("c_version", -1),
    ("l_version", 0),
    ("l_after", -1),
    ("l_held", -1),
    # each kind of value that a column does not take
    ("c_state", None),
    ("l_card", None),
    ("l_body", None),
    ("l_tx", "far too long for a transaction id"),
    ("r_mti", "020000"),
    ("r_rule", None),
    ("c_version", 2**40),  # does not even leave this side
]


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
async def test_one_bad_row_spoils_its_batch_and_leaves_nothing(
    owner: Connection, session: Sessions, name: str, at: int, value: object
) -> None:
    rows = await new_cards(owner, 3)
    good = batch(rows, refusals=[refusal() for _ in range(3)])
    journal = session()
    with trio.fail_after(WAIT_S), pytest.raises(BatchRejected):
        await journal.append(changed(good, name, at, value))
    assert journal.outcomes_unknown == 0
    assert await counts(owner, good) == (0, 0, 0)
    for card_id in rows:
        assert await state_of(owner, card_id) == (0, 0, 0)
    assert await journal.append(good) is Outcome.COMMITTED  # the session is still good


@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("amount_minor", [0, -100, None])
async def test_a_posting_without_an_amount_spoils_its_batch(
    owner: Connection, session: Sessions, at: int, amount_minor: int | None
) -> None:
    good = batch(await new_cards(owner, 3))
    with trio.fail_after(WAIT_S), pytest.raises(BatchRejected):
        await session().append(changed(good, "p_numbers", 6 * at + 4, amount_minor))
    assert await counts(owner, good) == (0, 0, 0)


@pytest.mark.parametrize("numbers", [5, 7, 11])
async def test_half_a_posting_spoils_its_batch(
    owner: Connection, session: Sessions, numbers: int
) -> None:
    rows = await new_cards(owner, 2)
    good = batch(rows)
    place = COLUMNS.index("l_first")
    bad = (*good[:place], [1, 1 + numbers, 1 + numbers], *good[place + 1 :])
    with trio.fail_after(WAIT_S), pytest.raises(BatchRejected):
        await session().append(bad)
    assert await counts(owner, good) == (0, 0, 0)


async def test_each_link_gets_its_own_postings(owner: Connection, session: Sessions) -> None:
    """None, one, or several: each stands where it belongs."""
    rows = await new_cards(owner, 1)
    (card_id,) = rows
    asked = {card_id: [request(), request(Operation.REDEEM, 10**6), request(Operation.REDEEM, 30)]}
    good = batch(rows, asked)
    one, sale = column(good, "p_numbers")[:6], column(good, "p_numbers")[6:]
    more = [*one, *sale, 3, 1, 1, card_id, 7, 978]
    place = COLUMNS.index("p_numbers")
    numbers, first = [*more, *sale], [1, 19, 19, 25]
    assert await session().append((*good[:place], numbers, first, *good[place + 2 :])) is (
        Outcome.COMMITTED
    )
    found = await owner.rows(
        "select version, postings from link where card_id = $1 order by version", card_id
    )
    assert [row["postings"] for row in found] == [more, [], sale]
    shown = await owner.rows(
        "select n, leg, debit_kind, debit_id, credit_kind, credit_id, amount_minor, purse, currency"
        " from posting where card_id = $1 order by n, leg",
        card_id,
    )
    assert [tuple(row) for row in shown] == [
        (1, 0, 2, 1, 1, card_id, 100, 60, "978"),
        (1, 1, 1, card_id, 2, 1, 30, 60, "978"),
        (1, 2, 3, 1, 1, card_id, 7, 60, "978"),
        (3, 0, 1, card_id, 2, 1, 30, 60, "978"),
    ]


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


async def test_rows_are_locked_in_order_of_card_in_whatever_order_they_come(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    rows = await new_cards(owner, 2)
    first, second = sorted(rows)
    journal = session()
    pid = await backend(journal)
    await hold(other, second)
    answers = Answers()
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.append, journal, backwards(batch(rows)))
            await until_waiting(owner, pid)
            with pytest.raises(asyncpg.LockNotAvailableError):
                await owner.rows(
                    "select 1 from card_state where card_id = $1 for update nowait", first
                )
            await other.script("rollback")
    assert answers.outcomes == [Outcome.COMMITTED]


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


UNFIT = {
    "only reads": (
        "alter role cardswitch_app set default_transaction_read_only = on",
        "alter role cardswitch_app reset default_transaction_read_only",
    ),
    "lets nobody in": (
        "alter role cardswitch_app connection limit 0",
        "alter role cardswitch_app connection limit -1",
    ),
    "has taken our rights": (
        "revoke insert on refusal from cardswitch_app",
        "grant insert on refusal to cardswitch_app",
    ),
}


@pytest.mark.parametrize("how", UNFIT)
async def test_a_server_that_cannot_serve_does_nothing_and_says_so(
    owner: Connection, session: Sessions, how: str
) -> None:
    """It is no fault of the batch: 91, and the terminal asks again."""
    rows = await new_cards(owner, 2)
    arguments = batch(rows, refusals=[refusal()])
    spoil, repair = UNFIT[how]
    await owner.script(spoil)
    try:
        journal = session()
        with trio.fail_after(WAIT_S), pytest.raises(JournalDown):
            await journal.append(arguments)
        assert journal.outcomes_unknown == 0
        assert await counts(owner, arguments) == (0, 0, 0)
    finally:
        await owner.script(repair)
    assert await session().append(arguments) is Outcome.COMMITTED


async def test_a_session_that_two_tasks_use_serves_one_after_the_other(
    owner: Connection, session: Sessions
) -> None:
    downs: list[str] = []
    journal = session(on_down=downs.append)
    rows = await new_cards(owner, 20)
    pids: set[int] = set()

    async def ask() -> None:
        found = await journal.rows("select pg_backend_pid() as pid, pg_sleep(0.02)")
        pids.add(found[0]["pid"])

    async def write(card_id: int) -> None:
        assert await journal.append(batch({card_id: rows[card_id]})) is Outcome.COMMITTED

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            for card_id in rows:
                nursery.start_soon(ask)
                nursery.start_soon(write, card_id)
    assert len(pids) == 1
    assert downs == []
    assert journal.outcomes_unknown == 0
