"""The private PostgreSQL: a cluster of its own, reached through a unix socket with a password."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import signal
import struct
import sys
from pathlib import Path

from switch.embedded.layout import StoreFailed
from switch.embedded.store_process import StoreProcess

__all__ = ["DATABASE", "OWNER", "PostgresStore"]

OWNER = "owner"
DATABASE = "cardswitch"

_PORT = 5432  # only names the socket; nothing listens on TCP
_STATUS_LINE = 7  # of postmaster.pid, from 0
_PROTOCOL_3_0 = 196608

# Linux reports write errors through syncfs since 5.8 (syncfs(2))
_SYNCFS_TELLS_ERRORS = sys.platform == "linux" and tuple(
    int(part) for part in re.findall(r"\d+", os.uname().release)[:2]
) >= (5, 8)

# Written at each start to a file that postgresql.conf includes, so that ALTER SYSTEM still wins.
_SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "max_connections": "100",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "cluster_name": "cardswitch",
}


def _sync_file_system(descriptor: int) -> None:
    """Make everything written to the file system of `descriptor` durable. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"syncfs: {os.strerror(number)}")


class PostgresStore(StoreProcess):
    """PostgreSQL as a supervised child."""

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint
    hasten_signal = signal.SIGQUIT  # "immediate": the next start recovers from the log
    death_signal = signal.SIGINT
    answer_within_s = 900.0  # recovery may have gigabytes of log to read; it tells when it died

    @property
    def directory(self) -> Path:
        """The cluster."""
        return self.layout.cluster(self.binaries.major)

    @property
    def socket_path(self) -> Path:
        """Its unix socket."""
        return self.layout.store_sockets / f".s.PGSQL.{_PORT}"

    @property
    def url(self) -> str:
        """Owner's URL of the database, with the password."""
        password = self.layout.password_file.read_text(encoding="ascii").strip()
        sockets = self.layout.store_sockets  # a plain path: nothing in it needs quoting
        return f"postgresql://{OWNER}:{password}@/{DATABASE}?host={sockets}&port={_PORT}"

    def command(self) -> list[str]:
        """The postmaster in the foreground. What must hold is on its command line."""
        fixed = {
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": str(self.layout.store_sockets),
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
        }
        options = [part for name, value in fixed.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries.program), "-D", str(self.directory), *options]

    def recorded_pid(self) -> int | None:
        """First line of postmaster.pid."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = (self.directory / "postmaster.pid").read_text(encoding="utf-8")
            return int(text.splitlines()[0])
        return None

    def answers(self) -> bool:
        """Whether it takes sessions: asked only when its status file says so.

        Each question costs it a process, and it may have minutes of recovery to do.
        """
        with contextlib.suppress(OSError, IndexError):
            text = (self.directory / "postmaster.pid").read_text(encoding="utf-8")
            if text.splitlines()[_STATUS_LINE].strip() == "ready":
                return super().answers()
        return False

    def greeting(self) -> tuple[bytes, bytes]:
        """A start-up message; the request to authenticate comes only when it takes sessions."""
        body = struct.pack("!I", _PROTOCOL_3_0)
        body += f"user\0{OWNER}\0database\0{DATABASE}\0\0".encode("ascii")
        return struct.pack("!I", len(body) + 4) + body, b"R"

    def before_first_start(self, lock: int) -> None:
        """Make the cluster when there is none, and write its settings."""
        if not (self.directory / "PG_VERSION").is_file():
            self._create_cluster(lock)
        elif not self.layout.password_file.is_file():
            raise StoreFailed(
                f"{self.directory} exists, but its password file "
                f"{self.layout.password_file} is missing"
            )
        self._write_settings(self._wal_compression(lock))

    def remove_stale_files(self) -> None:
        """Remove the marks of a dead server.

        Where nothing reaps orphans a dead server stays a zombie, and PostgreSQL would take its
        number for a living one. The lock says that none of its processes is left; looked at once
        more all the same, for two servers on one cluster would ruin it.
        """
        if self.leftovers():
            raise StoreFailed(f"a process still works in {self.directory}")
        lock_file = self.socket_path.with_name(self.socket_path.name + ".lock")
        for path in (self.directory / "postmaster.pid", self.socket_path, lock_file):
            path.unlink(missing_ok=True)

    def _create_cluster(self, lock: int) -> None:
        """initdb in a directory of its own and rename: a torn first run leaves no half cluster."""
        self.progress(f"creating the database cluster in {self.directory}")
        fresh = self.layout.data_dir / "pg.init"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self.run_as.own(fresh)
        password_copy = self.layout.run / "initdb.password"
        self._write(password_copy, self._password())
        self.run_as.own(password_copy)
        try:
            initdb = [
                str(self.binaries.directory / "initdb"),
                f"--pgdata={fresh}",
                f"--username={OWNER}",
                f"--pwfile={password_copy}",
                "--auth-local=scram-sha-256",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--data-checksums",
                "--no-instructions",
                *(("--no-sync",) if _SYNCFS_TELLS_ERRORS else ()),
            ]
            self._run("initdb", initdb, fresh, lock)
        finally:
            password_copy.unlink(missing_ok=True)
        # without a server: the database belongs to the cluster from its first moment on
        single = [str(self.binaries.program), "--single", "-D", str(fresh)]
        single += ["-c", "exit_on_error=on"]
        single += ["-c", "fsync=off"] if _SYNCFS_TELLS_ERRORS else []
        single += ["postgres"]
        statement = f"CREATE DATABASE {DATABASE} OWNER {OWNER}\n".encode("ascii")
        self._run("CREATE DATABASE", single, fresh, lock, statement)
        with (fresh / "postgresql.conf").open("a", encoding="ascii") as file:
            file.write("\ninclude_if_exists = 'cardswitch.conf'\n")
        descriptor = os.open(self.layout.data_dir, os.O_RDONLY)
        try:
            if _SYNCFS_TELLS_ERRORS:
                # all of it at once before it gets its name: file by file takes seconds on a busy
                # disk, and nobody needs a cluster that is not complete
                _sync_file_system(descriptor)
            fresh.rename(self.directory)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _run(
        self, what: str, command: list[str], directory: Path, lock: int, stdin: bytes = b""
    ) -> None:
        code, _ = self.run_to_end(command, directory, lock, stdin)
        if code != 0:
            raise StoreFailed(f"{what} ended with exit code {code}: {self.log_tail()}")

    def _password(self) -> str:
        """The owner's password, made once. One for all clusters of this data directory."""
        path = self.layout.password_file
        if not path.is_file():
            self._write(path, secrets.token_urlsafe(24))
        return path.read_text(encoding="ascii")

    def _wal_compression(self, lock: int) -> str:
        """lz4 where the server was built with it: its own method costs several times as much."""
        ask = [str(self.binaries.program), "-D", str(self.directory)]
        ask += ["-c", "wal_compression=lz4", "-C", "wal_compression"]
        code, output = self.run_to_end(ask, self.directory, lock, quiet=True)
        return "lz4" if code == 0 and output.strip() == b"lz4" else "on"

    def _write_settings(self, wal_compression: str) -> None:
        settings = _SETTINGS | {"wal_compression": wal_compression}
        if _SYNCFS_TELLS_ERRORS:
            # recovery after a crash begins with a sync of every file, a third of its time in one
            settings["recovery_init_sync_method"] = "syncfs"
        lines = ["# Written at each start. Other values: ALTER SYSTEM."]
        lines += [f"{name} = '{value}'" for name, value in settings.items()]
        path = self.directory / "cardswitch.conf"
        self._write(path, "\n".join(lines))
        self.run_as.own(path)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        """Write a file for its owner alone, whole or not at all."""
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o600), "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
