"""What the tests of stores and supervisor share: places for clusters, looks at processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from switch.embedded import locate

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 2 * 1024**3


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory with a short path that every account reaches, removed at the end.

    In memory where there is enough: a cluster is a thousand files, which takes seconds to make
    and to remove on a disk that others keep busy. None of these tests pulls the plug.
    """
    base = None
    with contextlib.suppress(OSError):
        space = os.statvfs(_MEMORY)
        if space.f_bavail * space.f_frsize > _ENOUGH_BYTES and os.access(_MEMORY, os.W_OK):
            base = _MEMORY
    path = Path(tempfile.mkdtemp(prefix="cardswitch-test-", dir=base))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def postgres_kinds() -> dict[str, Path]:
    """Directories of programs by name and version: every PostgreSQL this machine has."""
    kinds: dict[str, Path] = {}
    for directory, source, wheel in locate._postgres_places():
        found = locate._probe_postgres(directory, source, wheel)
        if found is not None:
            kinds.setdefault(f"postgres-{found.version}", found.directory)
    return kinds


def query(url: str, work: Callable[[Any], Any]) -> Any:
    """The result of a coroutine function, called with a connection to the database."""

    async def run() -> Any:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def value(url: str, sql: str) -> Any:
    """The first column of the first row."""
    return query(url, lambda connection: connection.fetchval(sql))


def gone(pid: int) -> bool:
    """Whether a process has ended. Where nothing reaps orphans it stays as a zombie."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually(what: Callable[[], bool], within_s: float) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + within_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
