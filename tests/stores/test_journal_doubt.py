"""A batch whose outcome is not known: sent again until it is, and never guessed."""

from __future__ import annotations

import pytest
import trio
from store_batches import (
    batch,
    column,
    counts,
    new_batch_id,
    new_cards,
    refusal,
)
from store_sessions import (
    WAIT_S,
    Answers,
    NoStandby,
    Sessions,
    backend,
    hold,
    let_go,
    state_of,
    until_in_doubt,
    until_waiting,
)

from switch.journal.bridge import Connection
from switch.journal.journal import (
    _APPEND,
    Outcome,
)
from switch.journal.server import ConnectionLost, is_outcome_unknown, server_error

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


async def test_a_doubt_lasts_while_no_server_can_be_reached(
    owner: Connection, other: Connection, session: Sessions
) -> None:
    """The old backend may commit at any time: that nobody else gets in proves nothing."""
    rows = await new_cards(owner, 1)
    arguments = batch(rows)
    journal = session()
    pid = await backend(journal)
    await hold(other, min(rows))
    answers = Answers()
    try:
        with trio.fail_after(2 * WAIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answers.append, journal, arguments)
                await until_waiting(owner, pid)
                await owner.script("alter role cardswitch_app connection limit 0")
                assert journal._connection is not None
                journal._connection.discard()
                await until_in_doubt(journal)
                await trio.sleep(0.3)
                await other.script("rollback")
                while (await state_of(owner, min(rows)))[0] == 0:
                    await trio.sleep(0.005)
                await trio.sleep(0.3)
                assert answers.outcomes == []
                await owner.script("alter role cardswitch_app connection limit -1")
    finally:
        await owner.script("alter role cardswitch_app connection limit -1")
    assert answers.outcomes == [Outcome.MET_ITSELF]
    assert await counts(owner, arguments) == (1, 1, 0)


@pytest.mark.parametrize(
    ("severity", "state", "unknown"),
    [
        ("FATAL", "57P01", True),  # terminated
        ("FATAL", "57P02", True),  # crash of another backend
        ("ERROR", "57P03", True),
        ("FATAL", "25P03", True),
        ("PANIC", "58030", True),
        ("FATAL", "XX000", True),
        ("ERROR", "08006", True),
        ("ERROR", "XX001", False),  # rolled back, as often as it is tried
        ("ERROR", "58030", False),
        ("ERROR", "23514", False),
        ("ERROR", "CS001", False),
    ],
)
def test_what_an_error_of_the_server_says_of_the_commit(
    severity: str, state: str, unknown: bool
) -> None:
    told = {"S": "in its language", "V": severity, "C": state, "M": "words"}
    error = server_error(b"".join(f"{k}{v}\0".encode() for k, v in told.items()) + b"\0")
    assert is_outcome_unknown(error) is unknown


@pytest.mark.parametrize("kind", ["TimeoutError", "closed by the server", "a cut row"])
def test_a_connection_that_is_lost_says_nothing_of_the_commit(kind: str) -> None:
    assert is_outcome_unknown(ConnectionLost(kind))


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


async def test_a_connection_lost_while_idle_is_not_even_in_doubt(
    owner: Connection, session: Sessions
) -> None:
    """The server is long back when something is asked: nobody is turned away."""
    rows = await new_cards(owner, 1)
    downs: list[str] = []
    journal = session(on_down=downs.append)

    async def lose() -> None:
        pid = await backend(journal)
        assert await owner.value("select pg_terminate_backend($1, $2)", pid, 1_000 * WAIT_S)

    await lose()
    arguments = batch(await journal.read_cards(list(rows)))
    await lose()
    assert await journal.append(arguments) is Outcome.COMMITTED
    assert (downs, journal.outcomes_unknown) == ([], 0)


# -- a standby that is not there ----------------------------------------------------------------


@pytest.mark.parametrize("way", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_commit_cut_short_is_no_commit_until_a_barrier_is_durable(
    owner: Connection, session: Sessions, no_standby: NoStandby, way: str
) -> None:
    """The row is there and visible, and on no standby: a failover would lose it."""
    rows = await new_cards(owner, 1)
    (card_id,) = rows
    arguments = batch(rows)
    run = new_batch_id()
    journal = session(run)
    pid = await backend(journal)
    await no_standby(journal)
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
            await let_go(owner)
    expected = Outcome.COMMITTED if way == "pg_cancel_backend" else Outcome.MET_ITSELF
    assert answers.outcomes == [expected]
    assert await counts(owner, arguments) == (1, 1, 0)
    assert len(await owner.rows("select 1 from barrier where run = $1", run)) == 1


async def test_a_barrier_that_is_cut_short_is_written_again(
    owner: Connection, session: Sessions, no_standby: NoStandby
) -> None:
    rows = await new_cards(owner, 1)
    journal = session(new_batch_id())
    pid = await backend(journal)
    await no_standby(journal)
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
            await let_go(owner)
    assert answers.outcomes == [Outcome.COMMITTED]
