"""A PostgreSQL cluster of the tests' own: to be killed, copied, promoted, to run out of disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from fault_switch import eventually, sql

from switch.embedded.process import Identity, RunAs, spawn
from switch.embedded.stores import EmbeddedStores

__all__ = ["Cluster", "first_cluster", "mount_small", "unmount"]

_START_S = 60.0


class Cluster:
    """One cluster, primary or standby. Main thread only."""

    def __init__(self, directory: Path, program: Path, run_as: RunAs, password: str) -> None:
        self.directory = directory
        self.sockets = directory.with_name(f"{directory.name}-run")
        self._program = program
        self._run_as = run_as
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self.sockets.mkdir(exist_ok=True)
        self.sockets.chmod(0o755)
        run_as.own(self.sockets)
        self.log = directory.with_name(f"{directory.name}.log")

    @property
    def socket(self) -> Path:
        return self.sockets / ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        """The owner's URL, not by way of a proxy."""
        return f"postgresql://owner:{self._password}@/cardswitch?host={self.sockets}&port=5432"

    def url_at(self, port: int) -> str:
        """The owner's URL by way of a proxy on that port."""
        return f"postgresql://owner:{self._password}@127.0.0.1:{port}/cardswitch"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def begin(self) -> None:
        """Start the server without waiting for it."""
        for stale in (self.directory / "postmaster.pid", self.socket):
            stale.unlink(missing_ok=True)
        command = [str(self._program), "-D", str(self.directory), "-c", "listen_addresses="]
        command += ["-c", f"unix_socket_directories={self.sockets}", "-c", "logging_collector=off"]
        command += ["-c", "track_commit_timestamp=on"]  # when a batch of the dead went in
        with self.log.open("ab") as log:
            self._process = spawn(
                command,
                run_as=self._run_as,
                directory=self.directory,
                death_signal=signal.SIGQUIT,
                stdout=log,
                stderr=log,
            )

    def start(self) -> None:
        """Start it, again and again if it must be, and return when it answers."""
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if not self.alive:
                self.begin()
            assert time.monotonic() < deadline, f"no answer: {self.log.read_text()[-2000:]}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        async def ask() -> None:
            connection = await asyncpg.connect(self.url, timeout=5)
            await connection.close()

        if self.alive:
            with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
                asyncio.run(ask())
                return True
        return False

    def backends(self) -> list[int]:
        """All processes of the server."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [self.pid, *map(int, children.read_text().split())]

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the server; none of its processes is left when this returns."""
        if not self.alive:
            return
        family = self.backends()
        os.kill(self.pid, how)
        assert self._process is not None
        self._process.wait(60)
        eventually(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in family))

    def settings(self, **values: str | None) -> None:
        """ALTER SYSTEM and reload; None resets."""
        statements = [
            f"alter system reset {name}"
            if value is None
            else f"alter system set {name} = '{value}'"
            for name, value in values.items()
        ]
        sql(self.url, *statements, "select pg_reload_conf()")

    def standby(self, directory: Path) -> Cluster:
        """A streaming standby of this cluster, which calls itself `standby`; running."""
        directory.mkdir(mode=0o700)
        self._run_as.own(directory)
        source = f"host={self.sockets} port=5432 user=owner password={self._password}"
        command = [str(self._program.with_name("pg_basebackup")), "--pgdata", str(directory)]
        command += ["--dbname", f"{source} application_name=standby", "--wal-method", "stream"]
        command += ["--checkpoint", "fast", "--write-recovery-conf", "--no-sync"]
        with self.log.open("ab") as log:
            copying = spawn(command, run_as=self._run_as, stdout=log, stderr=log)
            assert copying.wait(120) == 0, self.log.read_text()[-2000:]
        made = Cluster(directory, self._program, self._run_as, self._password)
        made.start()
        return made

    def promote(self) -> None:
        """Make the standby a primary."""
        (done,) = sql(self.url, "select pg_promote(true, 60)")
        assert done[0]
        self.settings(synchronous_standby_names=None)

    def remove(self) -> None:
        self.end()
        for directory in (self.directory, self.sockets):
            shutil.rmtree(directory, ignore_errors=True)


def first_cluster(directory: Path) -> Cluster:
    """A new cluster, made as the product makes it, then taken over; not running."""
    stores = EmbeddedStores(directory, redis=False)
    stores.start()
    try:
        pid = stores.pids["postgres"]
        program = Path(os.readlink(f"/proc/{pid}/exe"))
        password = urlsplit(stores.postgres_url).password or ""
    finally:
        stores.stop()
    (cluster,) = (path.parent for path in directory.glob("pg*/PG_VERSION"))
    owner = cluster.stat()
    run_as = RunAs.caller()
    if os.geteuid() == 0 and owner.st_uid != 0:
        run_as = RunAs(Identity.DROP, owner.st_uid, owner.st_gid)
    elif os.geteuid() == 0:
        run_as = RunAs.caller(Identity.USERNS)
    return Cluster(cluster, program, run_as, password)


def mount_small(directory: Path, megabytes: int) -> str:
    """Put the contents of a directory on a small file system of its own; why not, if it cannot."""
    aside = directory.with_name(f"{directory.name}.aside")
    options = f"size={megabytes}m,mode=0700,uid={directory.stat().st_uid}"
    directory.rename(aside)
    directory.mkdir(mode=0o700)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "cardswitch-fault", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        status = aside.stat()
        for path in aside.rglob("*"):
            copy = directory / path.relative_to(aside)
            if path.is_dir():
                copy.mkdir(mode=0o700)
            else:
                shutil.copy2(path, copy)
            os.chown(copy, status.st_uid, status.st_gid)
        shutil.rmtree(aside)
        return ""
    directory.rmdir()
    aside.rename(directory)
    return f"mount: {done.stderr.strip()}"


def unmount(below: Path) -> None:
    """Take away every file system that was mounted below a directory."""
    for line in Path("/proc/mounts").read_text().splitlines():
        where = line.split(" ")[1]
        if where.startswith(f"{below}/"):
            subprocess.run(["umount", "-l", where], check=False, capture_output=True)
