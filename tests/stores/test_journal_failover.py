"""Servers that change behind a session: promoted ones, ones that lag, ones that are gone."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
from store_batches import batch, column, counts, new_batch_id, new_cards, refusal
from store_sessions import (
    WAIT_S,
    Answers,
    NoStandby,
    Sessions,
    Stores,
    backend,
    let_go,
    state_of,
    until_waiting,
)

from switch.journal.bridge import Connection
from switch.journal.connection import JournalConnection
from switch.journal.journal import JournalDown, Outcome
from switch.journal.witness import DIRECTORY, Witness, missing_batch
from switch.prepare import _refuse_what_lags
from switch.store_socket import StoreSocket
from switch.supervisor import CannotPrepare

# -- what was acknowledged ----------------------------------------------------------------------


async def test_a_server_with_all_that_was_acknowledged_is_used(
    owner: Connection, session: Sessions, tmp_path: Path
) -> None:
    rows = await new_cards(owner, 1)
    journal = session(witness=Witness(tmp_path, "lane-0"))
    arguments = batch(rows)
    assert await journal.append(arguments) is Outcome.COMMITTED
    again = session(witness=Witness(tmp_path, "lane-1"))
    assert await again.append(arguments) is Outcome.MET_ITSELF
    assert await missing_batch(owner.rows, tmp_path / DIRECTORY) is None


async def test_a_server_that_lacks_a_batch_of_any_lane_is_not(
    owner: Connection, session: Sessions, tmp_path: Path
) -> None:
    """Of a lane that nobody has written with since: as after a restart of all workers."""
    rows = await new_cards(owner, 1)
    lost = batch(rows)
    downs: list[str] = []
    witness = Witness(tmp_path, "lane-0")
    witness.note(column(lost, "p_month"), column(lost, "p_batch_id"))
    journal = session(witness=Witness(tmp_path, "lane-1"), on_down=downs.append)
    with pytest.raises(JournalDown, match=rf"JournalBehind: batch {column(lost, 'p_batch_id')} "):
        await journal.append(batch(rows))
    with pytest.raises(JournalDown, match="JournalBehind"):
        await journal.read_cards(list(rows))
    with pytest.raises(JournalDown, match="JournalBehind"):
        await journal.confirm()
    assert downs == ["JournalBehind"] * 3
    assert await missing_batch(owner.rows, tmp_path / DIRECTORY) == (
        f"{column(lost, 'p_month'):%Y-%m}",
        column(lost, "p_batch_id"),
    )
    # the true server is back
    assert await session().append(lost) is Outcome.COMMITTED
    assert set(await journal.read_cards(list(rows))) == set(rows)


async def test_the_switch_does_not_start_on_it_and_says_what_to_do(
    owner: Connection, tmp_path: Path
) -> None:
    await _refuse_what_lags(owner, tmp_path)  # nothing was told so far
    witness = Witness(tmp_path, "worker-0.lane-1")
    month = datetime.datetime.now(datetime.UTC).date().replace(day=1)
    witness.note(month, new_batch_id())
    with pytest.raises(CannotPrepare) as refused:
        await _refuse_what_lags(owner, tmp_path)
    for words in ("lacks batch", f"of {month:%Y-%m}", f"remove {tmp_path / DIRECTORY}"):
        assert words in str(refused.value)


async def test_a_month_that_is_not_there_any_more_proves_nothing(
    owner: Connection, tmp_path: Path
) -> None:
    """A lane that is idle for long: its last batch has gone into the archive."""
    Witness(tmp_path, "lane-0").note(datetime.date(2020, 1, 1), new_batch_id())
    assert await missing_batch(owner.rows, tmp_path / DIRECTORY) is None


async def test_what_a_lane_acknowledges_is_the_batch_it_told_of_last(
    owner: Connection, session: Sessions, tmp_path: Path
) -> None:
    rows = await new_cards(owner, 1)
    journal = session(witness=Witness(tmp_path, "lane"))
    first = batch(rows)
    await journal.append(first)
    await journal.append(batch({}, refusals=[refusal()]))  # no link: nothing to look for
    stale = batch(rows)
    assert await journal.append(stale) is Outcome.STALE
    asked: list[Any] = []

    async def rows_of(_query: str, *arguments: Any) -> list[Any]:
        asked.append(arguments)
        return []

    await missing_batch(rows_of, tmp_path / DIRECTORY)
    assert asked == [([f"{column(first, 'p_month')}"], [column(first, "p_batch_id")])]


async def test_a_page_that_is_half_written_says_nothing(
    owner: Connection, session: Sessions, tmp_path: Path
) -> None:
    witness = Witness(tmp_path, "lane")
    assert await missing_batch(owner.rows, tmp_path / DIRECTORY) is None  # nothing on it yet
    witness.note(datetime.datetime.now(datetime.UTC).date().replace(day=1), 77)
    assert await missing_batch(owner.rows, tmp_path / DIRECTORY) is not None
    page = tmp_path / DIRECTORY / "lane"
    whole = page.read_bytes()
    for torn in (whole[:-1], whole[:4] + b"\x01" + whole[5:], b""):
        page.write_bytes(torn)
        assert await missing_batch(owner.rows, tmp_path / DIRECTORY) is None
    page.write_bytes(whole)
    rows = await new_cards(owner, 1)
    with pytest.raises(JournalDown, match="JournalBehind"):
        await session(witness=Witness(tmp_path, "other")).append(batch(rows))


# -- a standby that commits wait for ------------------------------------------------------------


async def until_another_waits(owner: Connection, pid: int) -> None:
    """Until the session has another backend, and waits in it."""
    while not await owner.rows(
        "select from pg_stat_activity where wait_event = 'SyncRep' and pid <> $1", pid
    ):
        await trio.sleep(0.005)


async def test_a_barrier_on_another_server_proves_nothing(
    owner: Connection, session: Sessions, no_standby: NoStandby
) -> None:
    """The wait is cut, the server lost, and the one that was promoted never had the batch."""
    rows = await new_cards(owner, 1)
    (card_id,) = rows
    arguments = batch(rows)
    journal = session(new_batch_id())
    pid = await backend(journal)
    before = await owner.rows("select * from card_state where card_id = $1", card_id)
    await no_standby(journal)
    answers = Answers()
    with trio.fail_after(2 * WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.append, journal, arguments)
            await until_waiting(owner, pid, "SyncRep")
            await owner.value("select pg_cancel_backend($1)", pid)
            while (await state_of(owner, card_id))[0] == 0:
                await trio.sleep(0.005)
            await until_waiting(owner, pid, "SyncRep")  # now in the barrier's commit
            # the failover: as if the batch had never been
            batch_id = column(arguments, "p_batch_id")
            await owner.rows("delete from link where batch_id = $1", batch_id)
            await owner.rows(
                "update card_state set version = 0, batch_id = 0, ecash_available = 0,"
                " state = $2, request_window = $3 where card_id = $1",
                card_id,
                before[0]["state"],
                before[0]["request_window"],
            )
            assert answers.outcomes == []
            await owner.value("select pg_terminate_backend($1)", pid)
            await until_another_waits(owner, pid)
            await let_go(owner)
    # told of as committed, and there
    assert answers.outcomes == [Outcome.COMMITTED]
    assert await counts(owner, arguments) == (1, 1, 0)


async def test_what_is_only_read_is_told_when_the_standby_has_it(
    owner: Connection, session: Sessions, no_standby: NoStandby
) -> None:
    journal = session(new_batch_id())
    pid = await backend(journal)
    await journal.confirm()
    assert await owner.rows("select from barrier where run = $1", journal._run) == []
    await no_standby(journal)
    done = trio.Event()

    async def confirm() -> None:
        await journal.confirm()
        done.set()

    with trio.fail_after(2 * WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(confirm)
            await until_waiting(owner, pid, "SyncRep")
            await owner.value("select pg_cancel_backend($1)", pid)
            await trio.sleep(0.3)
            assert not done.is_set(), "a wait that was cut is no answer"
            await until_waiting(owner, pid, "SyncRep")
            await let_go(owner)
    assert done.is_set()


async def test_what_is_only_read_is_not_told_when_the_server_is_lost(
    owner: Connection, session: Sessions, no_standby: NoStandby
) -> None:
    journal = session(new_batch_id())
    pid = await backend(journal)
    await no_standby(journal)
    with trio.fail_after(2 * WAIT_S):
        async with trio.open_nursery() as nursery:

            async def cut() -> None:
                await until_waiting(owner, pid, "SyncRep")
                await owner.value("select pg_terminate_backend($1)", pid)

            nursery.start_soon(cut)
            with pytest.raises(JournalDown):
                await journal.confirm()


# -- a machine that is gone ---------------------------------------------------------------------


async def test_a_server_that_is_gone_without_a_word_is_given_up(stores: Stores, loop: None) -> None:
    """The settings of the socket: to lose packets takes rights that a test does not have."""
    parts = urlsplit(stores.owner_url)
    where = parse_qs(parts.query)
    target = Path(where["host"][0]) / f".s.PGSQL.{where['port'][0]}"

    async def relay(near: trio.SocketStream) -> None:
        far = await trio.open_unix_socket(target)

        async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
            async for data in source:
                await sink.send_all(data)
            await sink.send_eof()

        async with far, trio.open_nursery() as both:
            both.start_soon(pump, near, far)
            both.start_soon(pump, far, near)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, relay, [listener])
        port = listener.socket.getsockname()[1]
        user = f"{parts.username}:{parts.password}"
        url = f"postgresql://{user}@127.0.0.1:{port}{parts.path}"
        connection = await JournalConnection.open(url)
        assert isinstance(connection._stream, StoreSocket)
        sock = connection._stream.socket
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, every, times = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + every * times <= 15
        assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 15_000
        await connection.close()
        nursery.cancel_scope.cancel()
