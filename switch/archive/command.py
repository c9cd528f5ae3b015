"""The verb `archive`."""

from __future__ import annotations

import argparse
import datetime
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from rules.booking import Policy
from switch.archive.cut import CannotArchive, newest_manifest, refusal, write_cut
from switch.archive.files import (
    ARCHIVE_DIRECTORY,
    ArchiveBroken,
    Manifest,
    file_fault,
    read_manifests,
)
from switch.archive.making import OpeningFault
from switch.archive.partitions import attached, detach, detached, drop
from switch.data_access import CannotRun, database_url, master_key, on_database, say
from switch.journal.bridge import STORE_ERRORS, Connection
from switch.keys import MasterKeyError
from switch.prepare import load_saved_settings
from switch.progress import Progress
from switch.projections.checkpoints import SIGNING_KEY_FILE
from switch.projections.effects import ProjectionFault
from switch.projections.sealing import Sealer
from switch.signing import SigningKey, SigningKeyError

__all__ = ["archive", "run_archive"]

_LOCK = 0x61726368  # any number that is ours: one archive at a time
_CLOCK_AHEAD = datetime.timedelta(hours=26)
_SETTINGS = "set idle_in_transaction_session_timeout = 0; set work_mem = '64MB'"
_LOOK = """
set local enable_seqscan = on; set local enable_hashjoin = on; set local enable_nestloop = on;
set local plan_cache_mode = force_custom_plan
"""
_IN_ORDER = "set local enable_seqscan = off; set local enable_sort = off"

_T = TypeVar("_T")


async def archive(
    url: str,
    directory: Path,
    through: datetime.date,
    *,
    sealer: Sealer,
    key: SigningKey,
    horizon: datetime.timedelta,
    drop_tables: bool = False,
    progress: Progress | None = None,
) -> tuple[Manifest, list[str]]:
    """Archive all months up to `through`, and take them out of the tables; what was done, in words.

    Can be run again at any time: it goes on where it was interrupted. Needs the owner's rights.
    CannotArchive, ArchiveBroken, OpeningFault, ProjectionFault, STORE_ERRORS.
    """
    told = progress or Progress()
    now = datetime.datetime.now(datetime.UTC)
    oldest = (now - horizon - _CLOCK_AHEAD).date().replace(day=1)
    connection = await Connection.open(url, timeout_s=10)
    try:
        if not await connection.value("select pg_try_advisory_lock($1)", _LOCK):
            raise CannotArchive("another archive is running")
        await connection.script(_SETTINGS)
        known, _ = await connection.unit(newest_manifest)
        if known is None or datetime.date.fromisoformat(known.through) < through:
            since = datetime.date.min if known is None else _month(known)
            if known is not None:
                check_files(directory, known)

            async def write(raw: Any) -> Manifest:
                await raw.execute(_LOOK)
                why = await refusal(raw, since, through, oldest)
                if why:
                    raise CannotArchive(why)
                await raw.execute(_IN_ORDER)
                return await write_cut(
                    *(raw, directory, through, sealer, key),
                    lambda done, total: told.tell("links archived", done, total),
                )

            known = await _in_transaction(connection, write)
        said = [f"archived through {known.through[:7]}: {known.links} links, {directory}"]
        told.tell("taking months out of the tables")
        said += await _take_out(connection, directory, known, drop_tables)
        return known, said
    finally:
        told.clear()
        await connection.close()


def _month(manifest: Manifest) -> datetime.date:
    return datetime.date.fromisoformat(manifest.through)


async def _in_transaction(connection: Connection, work: Callable[[Any], Awaitable[_T]]) -> _T:
    async def run(raw: Any) -> _T:
        async with raw.transaction(isolation="repeatable_read"):
            return await work(raw)

    return await connection.unit(run)


async def _take_out(
    connection: Connection, directory: Path, newest: Manifest, drop_tables: bool
) -> list[str]:
    """Detach what the archive has, and drop it when asked; not before its files are seen."""
    manifests = [manifest for manifest, _ in read_manifests(directory)]
    if newest.number not in {manifest.number for manifest in manifests}:
        raise ArchiveBroken(f"{newest.name}: is not in {directory}")
    for manifest in manifests:
        check_files(directory, manifest)
    said = []
    for partition in await connection.unit(lambda raw: attached(raw, _month(newest))):
        await connection.unit(functools.partial(detach, one=partition))
        said.append(f"detached {partition.name}")
    if drop_tables:
        months = sorted(
            {
                datetime.date.fromisoformat(f"{file.month}-01")
                for manifest in manifests
                for file in manifest.files
                if file.month
            }
        )
        for name in await connection.unit(lambda raw: detached(raw, months)):
            await connection.unit(functools.partial(drop, name=name))
            said.append(f"dropped {name}")
    return said


def check_files(directory: Path, manifest: Manifest) -> None:
    """Each file of a manifest is what was written. ArchiveBroken names the first that is not."""
    for file in manifest.files:
        fault = file_fault(directory, file)
        if fault:
            raise ArchiveBroken(fault)


def run_archive(arguments: argparse.Namespace) -> int:
    """Archive, print; the exit code."""
    data: Path = arguments.data
    try:
        through = datetime.datetime.strptime(arguments.month, "%Y-%m").date()
    except ValueError:
        say(f"--month {arguments.month}: expected YYYY-MM")
        return 2
    try:
        url = database_url(arguments)
        master = master_key(data)
        if master is None:
            raise CannotRun("no archive without the master key")  # noqa: TRY301
        directory: Path = arguments.to or data / ARCHIVE_DIRECTORY
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _, said = on_database(
            lambda: archive(
                url,
                directory,
                through,
                sealer=Sealer(master),
                key=SigningKey.open(data / SIGNING_KEY_FILE),
                horizon=_horizon(data),
                drop_tables=arguments.drop,
            )
        )
    except STORE_ERRORS as error:
        say(f"{type(error).__name__}: {error}")
        return 2
    except (CannotArchive, ArchiveBroken, OpeningFault, ProjectionFault) as fault:
        say(str(fault))
        return 1
    except (CannotRun, MasterKeyError, SigningKeyError) as fault:
        say(str(fault))
        return 2
    print("\n".join(said))
    return 0


def _horizon(data: Path) -> datetime.timedelta:
    """As the switch on that directory has it."""
    try:
        return datetime.timedelta(days=load_saved_settings(data).horizon_days)
    except OSError:
        return datetime.timedelta(seconds=Policy().horizon_s)
