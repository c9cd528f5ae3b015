"""One private PostgreSQL for all tests of the projections; a database of its own for each."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from journal_world import World  # noqa: E402

from switch.embedded.stores import EmbeddedStores  # noqa: E402
from switch.journal.bridge import Connection, bridge  # noqa: E402
from switch.journal.migrate import migrate  # noqa: E402
from switch.keys import MasterKey  # noqa: E402
from switch.projections.reading import READER_SETTINGS  # noqa: E402
from switch.projections.sealing import Sealer  # noqa: E402

_MEMORY = Path("/dev/shm")
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The owner's URL of a database with the schema in place, never to be written to."""
    base = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="project-", dir=base))
    directory.chmod(0o755)
    servers = EmbeddedStores(directory, redis=False)
    try:
        servers.start()
        trio.run(_migrate, servers.postgres_url)
        yield servers.postgres_url
    finally:
        servers.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def _migrate(url: str) -> None:
    async with bridge():
        connection = await Connection.open(url, timeout_s=10)
        await migrate(connection)
        await connection.script("alter role cardswitch_app password 'not-a-secret'")
        await connection.close()


@pytest.fixture
async def loop() -> AsyncIterator[None]:
    """The asyncio loop that the bridge needs."""
    async with bridge():
        yield


@pytest.fixture
async def url(cluster: str, loop: None) -> AsyncIterator[str]:
    """The owner's URL of a new database."""
    name = f"test_{next(_numbers)}"
    head, tail = cluster.split("/cardswitch", 1)
    admin = await Connection.open(f"{head}/postgres{tail}", timeout_s=10)
    await admin.script(f"create database {name} template cardswitch")
    yield f"{head}/{name}{tail}"
    await admin.script(f"drop database {name} with (force)")
    await admin.close()


@pytest.fixture
def app_url(url: str) -> str:
    """The URL of the switch's own role."""
    scheme, rest = url.split("://", 1)
    return f"{scheme}://cardswitch_app:not-a-secret@{rest.split('@', 1)[1]}"


@pytest.fixture
async def owner(url: str) -> AsyncIterator[Connection]:
    """A session of the owner."""
    connection = await Connection.open(url, timeout_s=10)
    yield connection
    await connection.close()


@pytest.fixture
async def app(app_url: str) -> AsyncIterator[Connection]:
    """A session of the switch's own role, set up as the projector sets it up."""
    connection = await Connection.open(app_url, timeout_s=10)
    await connection.script(READER_SETTINGS)
    yield connection
    await connection.close()


@pytest.fixture
async def world(owner: Connection) -> World:
    """A programme, two merchants, no cards."""
    made = World(owner)
    await made.prepare()
    return made


@pytest.fixture
def sealer() -> Sealer:
    """With a master key of the tests."""
    return Sealer(MasterKey(bytes(range(32))))
