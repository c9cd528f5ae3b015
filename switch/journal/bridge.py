"""The only file that knows asyncpg, and the only way from Trio to it.

asyncpg lives on an asyncio loop; trio-asyncio runs one inside Trio. Each crossing costs some 300 us
and a cancelled crossing in the middle of a transaction leaks it, so a whole unit of work crosses at
once, as one coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg
import trio_asyncio

__all__ = [
    "STORE_ERRORS",
    "Connection",
    "bridge",
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


@contextlib.asynccontextmanager
async def bridge() -> AsyncIterator[None]:
    """The asyncio loop that asyncpg runs on, for the life of a process."""
    async with trio_asyncio.open_loop():
        yield


class Connection:
    """One connection to Postgres, called from Trio."""

    def __init__(self, raw: asyncpg.Connection[Any]) -> None:
        self._raw = raw

    @classmethod
    async def open(cls, url: str, *, timeout_s: float = 2.0) -> Connection:
        """Connect; any of STORE_ERRORS when that fails."""
        raw = await trio_asyncio.aio_as_trio(asyncpg.connect)(
            url, timeout=timeout_s, server_settings=_SETTINGS, command_timeout=None
        )
        return cls(raw)

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
