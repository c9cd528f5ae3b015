"""The verb `verify`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from switch.archive.files import ARCHIVE_DIRECTORY
from switch.data_access import CannotRun, database_url, master_key, on_database, say
from switch.journal.bridge import STORE_ERRORS
from switch.keys import MasterKeyError
from switch.projections.checkpoints import (
    CHECKPOINTS_FILE,
    SIGNING_KEY_FILE,
    Checkpoint,
    append_checkpoint,
    checkpoint_of,
    read_checkpoints,
)
from switch.projections.sealing import Sealer
from switch.signing import SigningKey, SigningKeyError
from switch.verify.report import Report
from switch.verify.verification import PartFailed, verify

__all__ = ["run_verify"]


def run_verify(arguments: argparse.Namespace) -> int:
    """Check, print, and add a checkpoint where one is wanted; the exit code."""
    try:
        url = database_url(arguments)
        key = master_key(arguments.data)
        sealer = None if key is None else Sealer(key)
        checkpoints = _known_checkpoints(arguments)
        signing = SigningKey.open(arguments.data / SIGNING_KEY_FILE) if arguments.export else None
        if signing is not None and sealer is None:
            raise CannotRun("no checkpoint without the master key")  # noqa: TRY301

        report, last = on_database(
            lambda: verify(
                url,
                sealer=sealer,
                checkpoints=checkpoints,
                full=arguments.full,
                archive=_archive_directory(arguments),
                trusted=_trusted(arguments, checkpoints),
            )
        )
        _print(report)
        if report.findings:
            return 1
        if signing is not None:
            append_checkpoint(arguments.export, checkpoint_of(last, signing))
    except STORE_ERRORS as error:
        say(f"{type(error).__name__}: {error}")
        return 2
    except (CannotRun, MasterKeyError, PartFailed, SigningKeyError) as error:
        say(str(error))
        return 2
    return 0


def _known_checkpoints(arguments: argparse.Namespace) -> list[Checkpoint]:
    own = arguments.data / CHECKPOINTS_FILE
    files = [*([own] if own.exists() else []), *arguments.against]
    return [checkpoint for file in files for checkpoint in read_checkpoints(file)]


def _archive_directory(arguments: argparse.Namespace) -> Path | None:
    own: Path = arguments.data / ARCHIVE_DIRECTORY
    given: Path | None = arguments.archive
    if given is not None and not given.is_dir():
        raise CannotRun(f"{given}: no such directory")
    return given or (own if own.is_dir() else None)


def _trusted(arguments: argparse.Namespace, checkpoints: Sequence[Checkpoint]) -> set[str]:
    """Public keys that what was archived may be signed with."""
    keys = {checkpoint.public_key for checkpoint in checkpoints if checkpoint.holds}
    path = arguments.data / SIGNING_KEY_FILE
    return keys | ({SigningKey.open(path).public} if path.exists() else set())


def _print(report: Report) -> None:
    print(
        f"{report.links} links, {report.postings} postings, {report.cards} cards; "
        f"{report.sealed_links} links sealed, {report.replayed_links} links "
        f"of {report.replayed_cards} cards replayed"
        + (f"; {report.archived_links} links read from the archive" * bool(report.archived_links))
    )
    for check in report.checks:
        broken = [finding for finding in report.findings if finding.check == check]
        print(f"{'broken' if broken else 'holds ':6}  {check}")
        for finding in broken:
            where = f"card {finding.card_id}, link {finding.version}: " if finding.card_id else ""
            print(f"        {where}{finding.what}")
    for check in report.skipped:
        print(f"skipped {check}")
