"""A unit of work on a lane's kind of connection: asyncpg's calls without asyncpg.

What is written for asyncpg's connection (a projector's step, an archive's cut) runs on either. The
projector follows the journal beside the lanes, and its values are cheaper to send and to read here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import trio

from switch.journal.connection import JournalConnection
from switch.journal.server import STORE_ERRORS

__all__ = ["UnitConnection"]


class UnitConnection:
    """The calls; each raises ConnectionLost or ServerError."""

    def __init__(self, connection: JournalConnection) -> None:
        self._connection = connection

    async def fetch(self, query: str, *args: Any) -> list[dict[str, Any]]:
        """All rows, each by column name."""
        return await self._connection.rows(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> dict[str, Any] | None:
        """The first row."""
        rows = await self._connection.rows(query, *args)
        return rows[0] if rows else None

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first column of the first row."""
        return await self._connection.value(query, *args)

    async def execute(self, query: str, *args: Any) -> None:
        """One statement; what it returns is not looked at."""
        await self._connection.rows(query, *args)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All or nothing: committed when the block ends, rolled back when it raises."""
        await self.execute("begin")
        try:
            yield
            await self.execute("commit")
        except BaseException:
            if not self._connection.closed:
                with (
                    trio.CancelScope(shield=True),
                    contextlib.suppress(*STORE_ERRORS),
                ):
                    await self.execute("rollback")
            raise
