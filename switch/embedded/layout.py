"""Where things lie in a data directory, and the lock that gives it to one supervisor.

    DIR/lock                 held by the supervisor, with its process number in it
    DIR/pgNN                 the database cluster of PostgreSQL NN
    DIR/postgres.password    the owner's password (0600)
    DIR/redis                working directory of the cache, which keeps nothing
    DIR/run                  locks of the stores, settings and sockets of the workers
    DIR/run/store            sockets of the stores
    DIR/log                  what the stores say

A socket's path may have no more than 108 bytes (104 on macOS), and clients split a host at commas.
Where DIR is too long or too odd for that, the sockets move to a directory of their own under /tmp.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from switch.embedded.process import RunAs, try_lock

__all__ = ["DataDirBusy", "EmbeddedStoreError", "Layout", "StoreFailed", "lock_data_dir"]

_LONGEST_SOCKET_PATH = 80
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._@+~-]+")
_LONGEST_SOCKET_NAME = "store/.s.PGSQL.5432.lock"


class EmbeddedStoreError(RuntimeError):
    """A private store cannot be had; the text is for people."""


class DataDirBusy(EmbeddedStoreError):
    """Another supervisor works on this data directory."""


class StoreFailed(EmbeddedStoreError):
    """A store did not start; the text ends with what it said last."""


@dataclass(frozen=True)
class Layout:
    """Paths of one data directory. All are absolute."""

    data_dir: Path
    sockets: Path

    @staticmethod
    def create(data_dir: Path) -> Layout:
        """Make the directories that are missing, each for its owner alone."""
        data_dir = Path(os.path.abspath(data_dir))
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        run = data_dir / "run"
        for directory in (run, data_dir / "log"):
            directory.mkdir(mode=0o700, exist_ok=True)
        sockets = run
        longest = str(run / _LONGEST_SOCKET_NAME)
        if len(longest) > _LONGEST_SOCKET_PATH or not _PLAIN_PATH.fullmatch(longest):
            sockets = _short_directory(data_dir)
        return Layout(data_dir, sockets)

    @property
    def run(self) -> Path:
        """Locks and settings of what runs now."""
        return self.data_dir / "run"

    @property
    def log(self) -> Path:
        """What the stores say."""
        return self.data_dir / "log"

    @property
    def store_sockets(self) -> Path:
        """Sockets of the stores; belongs to the account they run as."""
        return self.sockets / "store"

    @property
    def redis(self) -> Path:
        """Working directory of the cache."""
        return self.data_dir / "redis"

    @property
    def password_file(self) -> Path:
        """The database owner's password."""
        return self.data_dir / "postgres.password"

    def clusters(self) -> dict[int, Path]:
        """Complete database clusters, by PostgreSQL's major version."""
        found = {}
        for path in self.data_dir.glob("pg*"):
            if path.name[2:].isdigit() and (path / "PG_VERSION").is_file():
                found[int(path.name[2:])] = path
        return found

    def cluster(self, major: int) -> Path:
        """Where the cluster of that major version is or will be."""
        return self.data_dir / f"pg{major}"

    def hand_over(self, run_as: RunAs) -> None:
        """Make what the stores work in; let their account through to it, where it is another."""
        for directory in (self.store_sockets, self.redis):
            directory.mkdir(mode=0o700, exist_ok=True)
            run_as.own(directory)
        if run_as.user != os.geteuid():
            for directory in (self.data_dir, self.run, self.sockets):
                mode = stat.S_IMODE(directory.stat().st_mode)
                directory.chmod(mode | stat.S_IXOTH)

    def remove_short_directory(self) -> None:
        """Remove the sockets' directory where it lies outside of DIR."""
        if self.sockets != self.run:
            shutil.rmtree(self.sockets, ignore_errors=True)


def lock_data_dir(data_dir: Path) -> int:
    """Take DIR for this process: the descriptor that holds it. Raises DataDirBusy, OSError."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / "lock"
    descriptor = try_lock(path)
    if descriptor is None:
        holder = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
        raise DataDirBusy(
            f"the data directory {data_dir} is in use by another cardswitch (process {holder})"
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _short_directory(data_dir: Path) -> Path:
    """A directory under /tmp that is ours alone, the same for the same data directory."""
    digest = hashlib.blake2s(os.fsencode(data_dir), digest_size=6).hexdigest()
    path = Path("/tmp") / f"cardswitch-{os.geteuid()}-{digest}"  # noqa: S108 - checked below
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.lstat()
        theirs = status.st_uid != os.geteuid() or status.st_mode & 0o066
        if theirs or not stat.S_ISDIR(status.st_mode):
            return Path(tempfile.mkdtemp(prefix="cardswitch-", dir="/tmp"))
    return path
