"""How a verb that works on the database finds it: `--data DIR`, `--postgres URL`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar, cast

import msgspec
import trio

from switch.journal.bridge import bridge
from switch.keys import MASTER_KEY_VARIABLE, MasterKey, MasterKeyError
from switch.prepare import load_master_key, load_saved_settings

__all__ = ["CannotRun", "database_url", "master_key", "on_database", "say"]

_T = TypeVar("_T")


class CannotRun(Exception):
    """Why a verb cannot do its work; exit code 2."""


def database_url(arguments: argparse.Namespace) -> str:
    """The owner's URL. CannotRun when nothing runs on the directory and no URL was given."""
    if arguments.postgres:
        return str(arguments.postgres)
    try:
        document = (arguments.data / "run" / "worker-0.json").read_bytes()
        settings = msgspec.json.decode(document, type=dict[str, object])
        return str(settings["postgres_url"])
    except (OSError, msgspec.DecodeError, KeyError):
        raise CannotRun(f"nothing runs on {arguments.data} and no --postgres was given") from None


def master_key(data_dir: Path) -> MasterKey | None:
    """The installation's master key, as `up` finds it; None when there is none.

    MasterKeyError when there is one that cannot be used.
    """
    try:
        settings = load_saved_settings(data_dir)
    except OSError:
        try:
            return MasterKey.load(data_dir / "master.key")
        except MasterKeyError:
            if (data_dir / "master.key").exists():
                raise
        return MasterKey.load(None) if MASTER_KEY_VARIABLE in os.environ else None
    return load_master_key(settings, data_dir)


def on_database(work: Callable[[], Awaitable[_T]]) -> _T:
    """Run to its end what talks to Postgres; its exceptions come as they were raised."""

    async def cross() -> tuple[_T | None, Exception | None]:
        # Beyond the bridge an exception would come in a group.
        async with bridge():
            try:
                return await work(), None
            except Exception as error:
                return None, error

    result, error = trio.run(cross)
    if error is not None:
        raise error
    return cast(_T, result)


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(f"cardswitch: {text}", file=sys.stderr)
