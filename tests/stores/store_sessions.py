"""Sessions to watch and to disturb, for the tests of the journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from switch.embedded.stores import EmbeddedStores
from switch.journal.bridge import Connection
from switch.journal.journal import JournalSession, Outcome

__all__ = [
    "WAIT_S",
    "Answers",
    "NoStandby",
    "Sessions",
    "Stores",
    "backend",
    "hold",
    "let_go",
    "state_of",
    "until_in_doubt",
    "until_waiting",
    "wait_for_nobody",
]

Sessions = Callable[..., JournalSession]
NoStandby = Callable[[JournalSession], Awaitable[None]]
WAIT_S = 10


@dataclass(frozen=True)
class Stores:
    """Where the stores are: as the owner, as the switch's own role, and the cache."""

    owner_url: str
    app_url: str
    redis_url: str
    servers: EmbeddedStores


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


async def wait_for_nobody(owner: Connection, journal: JournalSession, url: str) -> None:
    """Commits wait for a standby that there is not, and the session's own backend knows it.

    That a backend has read the setting is not enough: commits wait only from when the checkpointer
    has noted in shared memory that there is a standby to wait for, and it may be busy. So a commit
    of another session must have been seen to wait.
    """
    await owner.script("set synchronous_commit = local")
    await owner.script("alter system set synchronous_standby_names = 'nosuch'")
    await owner.value("select pg_reload_conf()")
    probe = await Connection.open(url, timeout_s=WAIT_S)
    try:
        with trio.fail_after(WAIT_S):
            await _until_it_waits(owner, probe)
            show = "select current_setting('synchronous_standby_names') as name"
            while (await journal.rows(show))[0]["name"] != "nosuch":
                await trio.sleep(0.01)
    finally:
        probe.discard()


async def _until_it_waits(owner: Connection, probe: Connection) -> None:
    pid = await probe.value("select pg_backend_pid()")
    waits = False

    async def commit() -> None:
        while not waits:
            await probe.value("select pg_logical_emit_message(true, 'probe', '')::text")
            await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit)
        await until_waiting(owner, pid, "SyncRep")
        waits = True
        await owner.value("select pg_cancel_backend($1)", pid)


async def let_go(owner: Connection) -> None:
    """Commits wait for nobody any more; those that wait are let go."""
    await owner.script("alter system reset synchronous_standby_names")
    await owner.value("select pg_reload_conf()")


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
