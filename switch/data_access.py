"""How a verb that works on the database finds it: `--data DIR`, `--postgres URL`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec

from switch.keys import MASTER_KEY_VARIABLE, MasterKey, MasterKeyError
from switch.prepare import load_master_key, load_saved_settings

__all__ = ["CannotRun", "database_url", "master_key", "say"]


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


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(f"cardswitch: {text}", file=sys.stderr)
