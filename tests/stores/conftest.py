"""One private PostgreSQL and one private Redis for all tests of the stores."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from store_sessions import NoStandby, Sessions, Stores, let_go, wait_for_nobody  # noqa: E402

from switch.embedded.stores import EmbeddedStores  # noqa: E402
from switch.journal.bridge import Connection, bridge  # noqa: E402
from switch.journal.journal import JournalSession  # noqa: E402
from switch.journal.migrate import migrate  # noqa: E402

_MEMORY = Path("/dev/shm")
_APP_PASSWORD = "not-a-secret"
_PROGRAMME = """
insert into programme values (1, 'Test', '978');
insert into merchant values (1, '000000000000001', 'Shop');
"""


@pytest.fixture(scope="session")
def stores() -> Iterator[Stores]:
    """Both stores with the schema in place; one programme, one merchant, no cards yet."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="stores-", dir=base))
    directory.chmod(0o755)
    servers = EmbeddedStores(directory)
    try:
        servers.start()
        owner_url = servers.postgres_url
        asyncio.run(_prepare(owner_url))
        scheme, rest = owner_url.split("://", 1)
        where = rest.split("@", 1)[1]
        app_url = f"{scheme}://cardswitch_app:{_APP_PASSWORD}@{where}"
        yield Stores(owner_url, app_url, servers.redis_url, servers)
    finally:
        servers.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def _prepare(url: str) -> None:
    """The migrations as they are, run without the bridge: here nobody runs Trio."""
    raw = await asyncpg.connect(url)
    try:
        await migrate(_Plain(raw))  # type: ignore[arg-type]
        await raw.execute(_PROGRAMME)
        await raw.execute(f"alter role cardswitch_app password '{_APP_PASSWORD}'")
    finally:
        await raw.close()


class _Plain:
    """What `migrate` needs of a connection, on asyncio."""

    def __init__(self, raw: asyncpg.Connection) -> None:
        self._raw = raw
        self.value = raw.fetchval
        self.rows = raw.fetch
        self.script = raw.execute


@pytest.fixture
async def loop() -> AsyncIterator[None]:
    """The asyncio loop that the bridge needs."""
    async with bridge():
        yield


@pytest.fixture
async def owner(stores: Stores, loop: None) -> AsyncIterator[Connection]:
    """A session of the database's owner, who may do everything."""
    connection = await Connection.open(stores.owner_url, timeout_s=10)
    yield connection
    await connection.close()


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


@pytest.fixture
async def no_standby(owner: Connection, stores: Stores) -> AsyncIterator[NoStandby]:
    """Makes commits wait for a standby that nobody has, until `let_go` or the test's end."""

    async def wait(journal: JournalSession) -> None:
        await wait_for_nobody(owner, journal, stores.owner_url)

    yield wait
    await let_go(owner)
