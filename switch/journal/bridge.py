"""The only file that knows asyncpg, and the only way from Trio to it.

asyncpg lives on an asyncio loop; trio-asyncio runs one inside Trio. Each crossing costs some 300 us
and a cancelled crossing in the middle of a transaction leaks it, so a whole unit of work crosses at
once, as one coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg
import trio_asyncio

__all__ = [
    "STORE_ERRORS",
    "Connection",
    "bridge",
    "is_outcome_unknown",
    "is_retryable",
    "is_server_unfit",
]

STORE_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    asyncio.TimeoutError,
    asyncio.IncompleteReadError,
)
"""What a broken store can raise here."""

_T = TypeVar("_T")

_SETTINGS = {
    "application_name": "cardswitch",
    "timezone": "UTC",
    # The tables' statistics are those of a quiet night when a plan is cached: never a full scan.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "idle_in_transaction_session_timeout": "10s",
}


_DEAD_PEER_S = 10
"""A server's machine that is gone without a word is given up after so long."""


def _notice_a_dead_peer(raw: asyncpg.Connection[Any]) -> None:
    """An append has no time-out of ours, and the kernel's own is a quarter of an hour or none."""
    # asyncpg has no public door to its socket
    sock = raw._transport.get_extra_info("socket")
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    limits = {
        "TCP_KEEPIDLE": _DEAD_PEER_S // 2,
        "TCP_KEEPINTVL": 1,
        "TCP_KEEPCNT": _DEAD_PEER_S // 2,
        "TCP_USER_TIMEOUT": _DEAD_PEER_S * 1000,
    }
    for name, value in limits.items():
        option = getattr(socket, name, None)  # not every system has all of them
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def is_outcome_unknown(error: BaseException) -> bool:
    """Whether a statement that ended with this error may still have been committed.

    True for everything but an error the server reported about the statement itself: severity
    ERROR rolled it back, even where the server's own data are at fault (XX, 58). FATAL and PANIC,
    class 57P (shutdown, crash) and class 08 (connection) say nothing about the commit.
    """
    if not isinstance(error, asyncpg.PostgresError):
        return True
    state = error.sqlstate or ""
    if error.severity_en is None:  # raised on this side: class 22 before anything was sent
        return not state.startswith("22")
    return error.severity_en != "ERROR" or state.startswith(("57P", "08"))


def is_retryable(error: BaseException) -> bool:
    """Deadlock, serialization failure, lock not available, cancelled by an operator.

    Nothing was done, and the batch is not to blame: decide again.
    """
    return getattr(error, "sqlstate", "") in ("40P01", "40001", "55P03", "57014")


def is_server_unfit(error: BaseException) -> bool:
    """No resources, a read-only server, no rights, no such database or function.

    Nothing was done. It is the server that cannot serve, not the batch that is bad.
    """
    return str(getattr(error, "sqlstate", "") or "").startswith(("53", "25", "28", "3D", "42"))


@contextlib.asynccontextmanager
async def bridge() -> AsyncIterator[None]:
    """The asyncio loop that asyncpg runs on, for the life of a process."""
    async with trio_asyncio.open_loop():
        yield


class Connection:
    """One connection to Postgres, called from Trio."""

    def __init__(self, raw: asyncpg.Connection[Any]) -> None:
        self._raw = raw
        self.warned = False
        """The server warned, as it does when it gives up waiting for its standby: what was
        committed may not be safe. Its words are not looked at, they come in its language."""
        raw.add_log_listener(self._on_notice)

    @classmethod
    async def open(cls, url: str, *, timeout_s: float = 2.0) -> Connection:
        """Connect; any of STORE_ERRORS when that fails."""
        raw = await trio_asyncio.aio_as_trio(asyncpg.connect)(
            url, timeout=timeout_s, server_settings=_SETTINGS, command_timeout=None
        )
        _notice_a_dead_peer(raw)
        return cls(raw)

    def _on_notice(self, _connection: object, message: Any) -> None:
        if message.severity_en == "WARNING":
            self.warned = True

    @property
    def closed(self) -> bool:
        """Whether the connection is known to be gone."""
        return bool(self._raw.is_closed())

    async def value(self, query: str, *args: Any, timeout_s: float | None = None) -> Any:
        """The first column of the first row."""
        return await trio_asyncio.aio_as_trio(self._raw.fetchval)(query, *args, timeout=timeout_s)

    async def rows(self, query: str, *args: Any, timeout_s: float | None = None) -> list[Any]:
        """All rows, each to be read by column name."""
        fetch = trio_asyncio.aio_as_trio(self._raw.fetch)
        return list(await fetch(query, *args, timeout=timeout_s))

    async def unit(self, work: Callable[[Any], Awaitable[_T]]) -> _T:
        """A whole unit of work as one crossing: `work` gets asyncpg's own connection.

        It runs on the asyncio side. When this is cancelled, `work` is; its transaction rolls back.
        """
        crossed: _T = await trio_asyncio.aio_as_trio(work)(self._raw)
        return crossed

    async def script(self, text: str) -> None:
        """Run several statements; one that begins a transaction must end it."""
        await trio_asyncio.aio_as_trio(self._raw.execute)(text)

    async def copy(self, table: str, columns: Sequence[str], records: Sequence[Any]) -> None:
        """COPY many rows into a table."""
        await trio_asyncio.aio_as_trio(self._raw.copy_records_to_table)(
            table, columns=list(columns), records=records
        )

    def discard(self) -> None:
        """Close without waiting for the server."""
        with contextlib.suppress(*STORE_ERRORS):
            self._raw.terminate()

    async def close(self) -> None:
        """Close in good order, within a second."""
        with contextlib.suppress(*STORE_ERRORS):
            await trio_asyncio.aio_as_trio(self._raw.close)(timeout=1)
